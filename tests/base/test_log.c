// base/log.c: levels, one line per message, units, and a progress report on a pipe and on a terminal.
#include "base/log.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "support/test.h"

static void speak(void *argument) {
    log_set_level(*(enum log_level *)argument);
    log_error("one %d", 1);
    log_warning("two");
    log_info("three");
    log_debug("four");
}

static void test_levels(void **state) {
    (void)state;
    char text[512];
    enum log_level level = LOG_DEBUG;
    test_child_signal(speak, &level, text, sizeof text);
    assert_string_equal(text, "minke: error: one 1\nminke: warning: two\nminke: three\nminke: four\n");
    level = LOG_WARNING;
    test_child_signal(speak, &level, text, sizeof text);
    assert_string_equal(text, "minke: error: one 1\nminke: warning: two\n");
    level = LOG_ERROR;
    test_child_signal(speak, &level, text, sizeof text);
    assert_string_equal(text, "minke: error: one 1\n");
}

static void speak_long(void *argument) {
    char text[5000];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    log_info("%s", text);
    (void)argument;
}

static void test_long_line(void **state) {
    (void)state;
    char text[8000];
    test_child_signal(speak_long, NULL, text, sizeof text);
    size_t length = strlen(text);
    assert_true(length > 1000 && length < 4000);
    assert_int_equal(text[length - 1], '\n');
}

static void speak_of_controls(void *argument) {
    log_info("%s", "there is no /x\nminke: forged\x1b[2J\tcaf\xc3\xa9\x7f");
    (void)argument;
}

static void test_one_line(void **state) {
    (void)state;
    char text[200];
    test_child_signal(speak_of_controls, NULL, text, sizeof text);
    assert_string_equal(text, "minke: there is no /x minke: forged [2J caf\xc3\xa9 \n");
}

static void report_progress(void *argument) {
    struct progress progress;
    progress_begin(&progress, "train", "tokens", *(int64_t *)argument);
    for (int i = 0; i <= 1000; i++) {
        progress_note(&progress, "loss %.2f", 3.0 - i * 0.001);
        progress_update(&progress, i * 7);
    }
    progress_end(&progress);
}

static void test_progress_on_pipe(void **state) {
    (void)state;
    char text[4096];
    int64_t total = 7000;
    test_child_signal(report_progress, &total, text, sizeof text);
    int lines = 0;
    for (const char *at = text; (at = strchr(at, '\n')) != NULL; at++) {
        lines++;
    }
    assert_int_equal(lines, 10);   // 10%, 20%, ... 90%, and the end
    assert_non_null(strstr(text, "minke: train: 10%, 700 tokens, "));
    assert_non_null(strstr(text, "minke: train: 100%, 7.0 k tokens, "));
    assert_non_null(strstr(text, "loss 2.00\n"));
    assert_null(strchr(text, '\r'));
    total = 0;   // unknown: only the end, in so short a time
    test_child_signal(report_progress, &total, text, sizeof text);
    assert_non_null(strstr(text, "minke: train: 7.0 k tokens, "));
    assert_null(strchr(text, '%'));
}

static void report_on_terminal(void *argument) {
    dup2(*(int *)argument, STDERR_FILENO);
    struct progress progress;
    progress_begin(&progress, "read", "bytes", 4096);
    struct timespec pause = {.tv_nsec = 120000000};
    nanosleep(&pause, NULL);
    progress_update(&progress, 1024);
    log_info("message");
    for (int i = 0; i < 100000; i++) {   // drawn ten times a second at most
        progress_update(&progress, 2048);
    }
    progress_update(&progress, 4096);
    progress_end(&progress);
}

static void test_progress_on_terminal(void **state) {
    (void)state;
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0) {
        skip();   // no pseudo terminals here
    }
    int terminal = open(ptsname(master), O_RDWR | O_NOCTTY);
    assert_true(terminal >= 0);
    struct winsize size = {.ws_col = 100, .ws_row = 25};
    ioctl(terminal, TIOCSWINSZ, &size);
    char ignored[64], text[16384];
    double started = clock_seconds();
    test_child_signal(report_on_terminal, &terminal, ignored, sizeof ignored);
    double seconds = clock_seconds() - started;
    size_t used = 0;
    text[0] = '\0';
    while (strstr(text, "100%") == NULL || strchr(strstr(text, "100%"), '\n') == NULL) {
        ssize_t count = read(master, text + used, sizeof text - 1 - used);
        assert_true(count > 0);
        used += (size_t)count;
        text[used] = '\0';
    }
    assert_non_null(strstr(text, "\rread [######------------------]  25%  1.0 KiB, "));
    assert_non_null(strstr(text, "\r\033[Kminke: message"));   // the bar is wiped first
    assert_non_null(strstr(text, "read [########################] 100%  4.0 KiB, "));
    int drawn = 0;
    for (const char *at = text; (at = strstr(at, "\rread [")) != NULL; at++) {
        drawn++;
    }
    assert_true(drawn <= 2 + (int)(seconds / 0.1));
    close(terminal);
    close(master);
}

static void test_units(void **state) {
    (void)state;
    char buffer[32];
    assert_string_equal(text_bytes(buffer, 0), "0 B");
    assert_string_equal(text_bytes(buffer, 1023), "1023 B");
    assert_string_equal(text_bytes(buffer, 1024), "1.0 KiB");
    assert_string_equal(text_bytes(buffer, 1536LL << 20), "1.5 GiB");
    assert_string_equal(text_bytes(buffer, 1048575), "1.0 MiB");
    assert_string_equal(text_bytes(buffer, INT64_MAX), "8.0 EiB");
    assert_string_equal(text_count(buffer, 0), "0");
    assert_string_equal(text_count(buffer, 12.34), "12.3");
    assert_string_equal(text_count(buffer, 999), "999");
    assert_string_equal(text_count(buffer, 3.2e6), "3.2 M");
    assert_string_equal(text_count(buffer, 671.03e9), "671.0 B");
    assert_string_equal(text_count(buffer, 14.8e12), "14.8 T");
    assert_string_equal(text_duration(buffer, 1.25), "1.2s");
    assert_string_equal(text_duration(buffer, 59.9), "1m 00s");
    assert_string_equal(text_duration(buffer, 3723), "1h 02m 03s");
    assert_string_equal(text_duration(buffer, -1), "unknown");
    assert_string_equal(text_duration(buffer, __builtin_nan("")), "unknown");
}

static void test_clock(void **state) {
    (void)state;
    double before = clock_seconds();
    struct timespec pause = {.tv_nsec = 5000000};
    nanosleep(&pause, NULL);
    double elapsed = clock_seconds() - before;
    assert_true(elapsed >= 0.005 && elapsed < 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_long_line),
        cmocka_unit_test(test_one_line),
        cmocka_unit_test(test_progress_on_pipe),
        cmocka_unit_test(test_progress_on_terminal),
        cmocka_unit_test(test_units),
        cmocka_unit_test(test_clock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
