// base/read_queue and the reads under it: contents at any offset, urgent jobs first, cancelling, failing and short
// files, stopping with jobs in the queue.
#include "support/test.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/read_queue.h"

#define BLOCKS 4000
#define FILE_BYTES ((int64_t)BLOCKS * FILE_BLOCK - 1000)
#define JOBS 40

struct setting {
    char *directory;
    struct random_file file;
    uint8_t *memory;   // BLOCKS * FILE_BLOCK bytes, aligned
};

static uint8_t value_at(int64_t offset) {
    return (uint8_t)(offset * 7 + offset / FILE_BLOCK);
}

static int open_setting(void **state) {
    static struct setting setting;
    struct error error = {0};
    setting.directory = test_directory();
    uint8_t *content = memory_allocate((size_t)FILE_BYTES, 1, "content", NULL);
    for (int64_t i = 0; i < FILE_BYTES; i++) {
        content[i] = value_at(i);
    }
    test_write_file(test_path(setting.directory, "data"), content, (size_t)FILE_BYTES);
    memory_free(content);
    assert_int_equal(random_file_open(&setting.file, test_path(setting.directory, "data"), &error), 0);
    setting.memory = memory_reserve((size_t)BLOCKS * FILE_BLOCK, "memory", &error);
    assert_non_null(setting.memory);
    *state = &setting;
    return 0;
}

static int close_setting(void **state) {
    struct setting *setting = *state;
    random_file_close(&setting->file);
    memory_unreserve(setting->memory, (size_t)BLOCKS * FILE_BLOCK);
    test_directory_remove(setting->directory);
    return 0;
}

static void check(const struct setting *setting, int64_t offset, int64_t size) {
    for (int64_t i = offset; i < offset + size; i++) {
        if (setting->memory[i] != value_at(i)) {
            fail_msg("byte %lld", (long long)i);
        }
    }
}

static void test_places(void **state) {
    struct setting *setting = *state;
    struct error error = {0};
    const int64_t small[][2] = {{0, 1}, {1, 5000}, {FILE_BLOCK - 1, 2}, {FILE_BYTES - 3, 3}};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(
            file_read_bytes(&setting->file, setting->memory + small[i][0], small[i][1], small[i][0], &error), 0);
        check(setting, small[i][0], small[i][1]);
    }
    memory_discard(setting->memory, (size_t)BLOCKS * FILE_BLOCK);
    assert_int_equal(setting->memory[0], 0);
    int64_t last = (BLOCKS - 2) * (int64_t)FILE_BLOCK;
    assert_int_equal(
        file_read_blocks(&setting->file, setting->memory + last, 2 * FILE_BLOCK, last, FILE_BYTES - last, &error), 0);
    check(setting, last, FILE_BYTES - last);
    int code = file_read_blocks(&setting->file, setting->memory + last, 2 * FILE_BLOCK, last, FILE_BYTES - last + 1,
                                &error);
    test_assert_error(code, &error, ERROR_IO, "truncated");
    error_clear(&error);
    code = file_read_bytes(&setting->file, setting->memory, 10, FILE_BYTES - 9, &error);
    test_assert_error(code, &error, ERROR_IO, "expected 10 bytes");
    struct random_file none;
    error_clear(&error);
    test_assert_error(random_file_open(&none, "/nowhere/data", &error), &error, ERROR_IO, "/nowhere/data: cannot open");
}

// Three parts that together cover `blocks` blocks from block `first` on.
static void make_job(struct read_job *job, const struct setting *setting, int64_t first, int64_t blocks) {
    *job = (struct read_job){.part_count = READ_PARTS};
    for (int64_t p = 0, begin = first; p < READ_PARTS; p++) {
        int64_t count = p + 1 < READ_PARTS ? blocks / READ_PARTS : first + blocks - begin;
        int64_t offset = begin * FILE_BLOCK, size = count * FILE_BLOCK;
        int64_t needed = offset + size > FILE_BYTES ? FILE_BYTES - offset : size;
        job->parts[p] = (struct read_part){&setting->file, offset, size, needed, setting->memory + offset};
        begin += count;
    }
}

static void finish_all(struct read_queue *queue, struct read_job *jobs, int64_t count) {
    uint64_t seen = 0;
    for (int64_t left = count; left > 0;) {
        seen = read_queue_finished(queue);
        int64_t taken = 0;
        for (int64_t j = 0; j < count; j++) {
            taken += read_queue_take(queue, &jobs[j]);
        }
        left -= taken;
        if (taken == 0) {
            read_queue_wait(queue, &seen);
        }
    }
}

static void test_jobs(void **state) {
    struct setting *setting = *state;
    static struct read_job jobs[JOBS];
    struct error error = {0};
    for (int threads = 1; threads <= 4; threads += 3) {
        struct read_queue *queue;
        memory_discard(setting->memory, (size_t)BLOCKS * FILE_BLOCK);
        assert_int_equal(read_queue_create(&queue, threads, &error), 0);
        for (int j = 0; j < JOBS; j++) {
            make_job(&jobs[j], setting, j * (BLOCKS / JOBS), BLOCKS / JOBS);
            read_queue_submit(queue, &jobs[j], j % 3 == 0);
            if (j % 5 == 0) {
                read_queue_hurry(queue, &jobs[j]);
            }
        }
        finish_all(queue, jobs, JOBS);
        for (int j = 0; j < JOBS; j++) {
            assert_int_equal(jobs[j].error.code, 0);
        }
        check(setting, 0, FILE_BYTES);
        // The whole file at once: larger than a piece.
        memory_discard(setting->memory, (size_t)BLOCKS * FILE_BLOCK);
        make_job(&jobs[0], setting, 0, BLOCKS);
        read_queue_submit(queue, &jobs[0], true);
        finish_all(queue, jobs, 1);
        check(setting, 0, FILE_BYTES);
        read_queue_destroy(queue);
    }
}

// What is cancelled is not read; what cannot be cancelled is.
static void test_cancel(void **state) {
    struct setting *setting = *state;
    static struct read_job jobs[JOBS];
    struct error error = {0};
    struct read_queue *queue;
    int cancelled = 0;
    memory_discard(setting->memory, (size_t)BLOCKS * FILE_BLOCK);
    assert_int_equal(read_queue_create(&queue, 1, &error), 0);
    make_job(&jobs[0], setting, 0, BLOCKS / 2);
    read_queue_submit(queue, &jobs[0], true);
    int64_t half = BLOCKS / 2, each = half / (JOBS - 1);
    for (int j = 1; j < JOBS; j++) {
        make_job(&jobs[j], setting, half + (j - 1) * each, each);
        read_queue_submit(queue, &jobs[j], false);
    }
    for (int j = JOBS - 1; j > 0; j--) {
        if (read_queue_cancel(queue, &jobs[j])) {
            cancelled++;
            jobs[j].part_count = 0;
        }
    }
    assert_true(cancelled > 0);
    for (int j = 0; j < JOBS; j++) {
        if (jobs[j].part_count > 0) {
            finish_all(queue, &jobs[j], 1);
            check(setting, jobs[j].parts[0].offset, jobs[j].parts[0].size);
        } else {
            assert_int_equal(setting->memory[jobs[j].parts[0].offset + 1], 0);
        }
    }
    read_queue_destroy(queue);
}

static void test_failures(void **state) {
    struct setting *setting = *state;
    static struct read_job jobs[JOBS];
    struct error error = {0};
    struct read_queue *queue;
    assert_int_equal(read_queue_create(&queue, 2, &error), 0);
    file_fail_at(3, EIO);
    for (int j = 0; j < JOBS; j++) {
        make_job(&jobs[j], setting, j * (BLOCKS / JOBS), BLOCKS / JOBS);
        read_queue_submit(queue, &jobs[j], false);
    }
    finish_all(queue, jobs, JOBS);
    file_fail_at(0, 0);
    int failed = 0;
    for (int j = 0; j < JOBS; j++) {
        failed += jobs[j].error.code != 0;
        assert_true(jobs[j].error.code == 0 || strstr(jobs[j].error.text, "cannot read") != NULL);
    }
    assert_true(failed >= JOBS - 2);
    make_job(&jobs[0], setting, 0, BLOCKS);
    jobs[0].parts[READ_PARTS - 1].needed += 500;
    read_queue_submit(queue, &jobs[0], true);
    finish_all(queue, jobs, 1);
    test_assert_error(jobs[0].error.code, &jobs[0].error, ERROR_IO, "truncated");
    read_queue_submit(queue, &jobs[0], true);   // the queue stops with work in it
    for (int j = 1; j < JOBS; j++) {
        read_queue_submit(queue, &jobs[j], false);
    }
    read_queue_destroy(queue);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_jobs),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_failures),
    };
    return cmocka_run_group_tests(tests, open_setting, close_setting);
}
