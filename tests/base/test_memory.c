// base/memory.c: alignment, zeroing, resizing, counts, overflow, and the test hooks themselves.
#include "base/memory.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "support/test.h"

static void test_allocate(void **state) {
    (void)state;
    struct memory_statistics before = memory_statistics_get();
    static const size_t sizes[] = {0, 1, 63, 64, 65, 4096, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        unsigned char *block = memory_allocate(sizes[i], 1, "test", NULL);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % MEMORY_ALIGNMENT, 0);
        for (size_t j = 0; j < sizes[i]; j++) {
            assert_int_equal(block[j], 0);
        }
        memset(block, 0xff, sizes[i]);
        struct memory_statistics now = memory_statistics_get();
        assert_int_equal(now.live_bytes - before.live_bytes, sizes[i]);
        assert_int_equal(now.live_blocks - before.live_blocks, 1);
        assert_true(now.peak_bytes >= now.live_bytes);
        memory_free(block);
    }
    memory_free(NULL);
    struct memory_statistics after = memory_statistics_get();
    assert_int_equal(after.live_bytes, before.live_bytes);
    assert_int_equal(after.live_blocks, before.live_blocks);
    assert_int_equal(after.calls - before.calls, sizeof sizes / sizeof sizes[0]);
}

static void test_resize(void **state) {
    (void)state;
    static const size_t sizes[] = {10, 100, 3, 70000, 2 << 20, 9 << 20, 3 << 20, 50, 1 << 20};
    int64_t live = memory_statistics_get().live_bytes;
    unsigned char *block = memory_resize(NULL, 5, 1, "test", NULL);
    size_t size = 5;
    memset(block, 0xab, size);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        block = memory_resize(block, sizes[i], 1, "test", NULL);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % MEMORY_ALIGNMENT, 0);
        size_t kept = size < sizes[i] ? size : sizes[i];
        for (size_t j = 0; j < kept; j++) {
            assert_int_equal(block[j], 0xab);
        }
        size = sizes[i];
        memset(block, 0xab, size);
        assert_int_equal(memory_statistics_get().live_bytes - live, size);
    }
    memory_free(block);
    assert_int_equal(memory_statistics_get().live_bytes, live);
}

static void test_overflow(void **state) {
    (void)state;
    struct error error = {0};
    assert_null(memory_allocate(SIZE_MAX / 2, 3, "matrix", &error));
    assert_int_equal(error.code, ERROR_MEMORY);
    assert_non_null(strstr(error.text, "matrix: out of memory"));
    error_clear(&error);
    assert_null(memory_allocate(SIZE_MAX - 10, 1, "huge", &error));
    assert_int_equal(error.code, ERROR_MEMORY);
    char *block = memory_allocate(4, 1, "small", NULL);
    memcpy(block, "abc", 4);
    error_clear(&error);
    assert_null(memory_resize(block, SIZE_MAX / 2, 4, "grown", &error));
    assert_non_null(strstr(error.text, "grown: out of memory"));
    error_clear(&error);
    assert_null(memory_resize(block, SIZE_MAX - 10, 1, "grown", &error));
    assert_int_equal(error.code, ERROR_MEMORY);
    assert_string_equal(block, "abc");   // a failed resize leaves the block as it was
    memory_free(block);
}

static void test_strings(void **state) {
    (void)state;
    char *copy = memory_copy_string("minke", NULL);
    assert_string_equal(copy, "minke");
    char *text = memory_format(NULL, "%s-%05d.%s", "model", 12, "safetensors");
    assert_string_equal(text, "model-00012.safetensors");
    memory_free(copy);
    memory_free(text);
}

static void test_fail_at(void **state) {
    (void)state;
    memory_fail_at(2);
    void *first = memory_allocate(1, 8, "first", NULL);
    assert_non_null(first);
    struct error error = {0};
    assert_null(memory_allocate(1, 8, "second", &error));
    assert_string_equal(error.text, "second: out of memory (8 bytes)");
    assert_null(memory_resize(first, 2, 8, "third", NULL));
    memory_fail_at(0);
    void *last = memory_allocate(1, 8, "last", NULL);
    assert_non_null(last);
    memory_free(first);
    memory_free(last);
}

static void allocate_under_guard(void *argument) {
    memory_guard(true);
    memory_free(memory_allocate(1, 8, argument, NULL));
}

static void free_damaged(void *argument) {
    char *block = memory_allocate(1, 64, argument, NULL);
    memset(block - MEMORY_ALIGNMENT + 16, 0, 8);   // what an underflow does to the header's state
    memory_free(block);
}

static void test_guard(void **state) {
    (void)state;
    char text[512];
    assert_int_equal(test_child_signal(allocate_under_guard, "scratch", text, sizeof text), SIGABRT);
    assert_non_null(strstr(text, "heap call for scratch where none is allowed"));
    assert_int_equal(test_child_signal(free_damaged, "block", text, sizeof text), SIGABRT);
    assert_non_null(strstr(text, "not a live block"));
}

static void *churn(void *argument) {
    (void)argument;
    for (size_t i = 0; i < 2000; i++) {
        char *block = memory_allocate(i + 1, 3, "churn", NULL);
        block = memory_resize(block, 2 * i + 1, 1, "churn", NULL);
        memory_free(block);
    }
    return NULL;
}

static void test_threads(void **state) {
    (void)state;
    struct memory_statistics before = memory_statistics_get();
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, churn, NULL), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    struct memory_statistics after = memory_statistics_get();
    assert_int_equal(after.live_bytes, before.live_bytes);
    assert_int_equal(after.live_blocks, before.live_blocks);
    assert_int_equal(after.calls - before.calls, 4 * 2 * 2000);
}

static void test_resident(void **state) {
    (void)state;
    int64_t now = memory_resident();
    assert_true(now > 100 << 10);
    int64_t peak = memory_resident_peak();
    assert_true(peak >= now);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_allocate), cmocka_unit_test(test_resize),   cmocka_unit_test(test_overflow),
        cmocka_unit_test(test_strings),  cmocka_unit_test(test_fail_at),  cmocka_unit_test(test_guard),
        cmocka_unit_test(test_threads),  cmocka_unit_test(test_resident),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
