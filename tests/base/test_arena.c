// base/arena.c: alignment, marks, growth by chunks, merging on reset, and no heap call once warm.
#include "base/arena.h"

#include <signal.h>
#include <string.h>

#include "base/memory.h"
#include "support/test.h"

static void test_allocate(void **state) {
    (void)state;
    struct arena arena;
    arena_init(&arena, "test");
    unsigned char *blocks[200];
    for (size_t i = 0; i < 200; i++) {
        blocks[i] = arena_allocate(&arena, i * 37, 11);
        assert_int_equal((uintptr_t)blocks[i] % 64, 0);
        memset(blocks[i], (int)i, i * 37 * 11);
    }
    for (size_t i = 0; i < 200; i++) {   // nobody wrote over a neighbour
        for (size_t j = 0; j < i * 37 * 11; j += 97) {
            assert_int_equal(blocks[i][j], (unsigned char)i);
        }
    }
    assert_int_equal(arena.used, arena.peak);
    unsigned char *zero = arena_allocate_zero(&arena, 1000, 3);
    for (size_t i = 0; i < 3000; i++) {
        assert_int_equal(zero[i], 0);
    }
    arena_destroy(&arena);
    assert_int_equal(arena.used, 0);
}

static void test_mark(void **state) {
    (void)state;
    struct arena arena;
    arena_init(&arena, "test");
    struct arena_mark empty = arena_mark(&arena);
    char *kept = arena_allocate(&arena, 100, 1);
    memset(kept, 'k', 100);
    struct arena_mark mark = arena_mark(&arena);
    char *first = arena_allocate(&arena, 50, 1);
    for (int i = 0; i < 10; i++) {
        arena_allocate(&arena, 1 << 20, 1);   // several chunks
    }
    arena_release(&arena, mark);
    assert_int_equal(arena.used, 128);
    assert_ptr_equal(arena_allocate(&arena, 50, 1), first);
    assert_int_equal(kept[99], 'k');
    // The chunks are still there: the same growth again calls no heap.
    memory_guard(true);
    for (int i = 0; i < 10; i++) {
        arena_allocate(&arena, 1 << 20, 1);
    }
    arena_release(&arena, mark);
    memory_guard(false);
    arena_release(&arena, empty);
    assert_int_equal(arena.used, 0);
    arena_destroy(&arena);
}

static void round_of_work(struct arena *arena) {
    for (size_t i = 1; i < 60; i++) {
        struct arena_mark mark = arena_mark(arena);
        arena_allocate(arena, i * 10007, 1);
        arena_allocate(arena, i * 999, 2);
        if (i % 3 == 0) {
            arena_release(arena, mark);
        }
    }
}

static void test_warm_rounds(void **state) {
    (void)state;
    struct arena arena;
    arena_init(&arena, "test");
    round_of_work(&arena);
    arena_reset(&arena);
    round_of_work(&arena);
    arena_reset(&arena);
    int64_t calls = memory_statistics_get().calls;
    memory_guard(true);
    for (int i = 0; i < 5; i++) {
        round_of_work(&arena);
        arena_reset(&arena);
    }
    memory_guard(false);
    assert_int_equal(memory_statistics_get().calls, calls);
    arena_destroy(&arena);
}

static void test_reserve(void **state) {
    (void)state;
    struct arena arena;
    arena_init(&arena, "plan");
    struct error error = {0};
    assert_int_equal(arena_reserve(&arena, 10 << 20, &error), 0);
    memory_guard(true);
    arena_allocate(&arena, 10 << 20, 1);
    memory_guard(false);
    memory_fail_at(1);
    test_assert_error(arena_reserve(&arena, 50 << 20, &error), &error, ERROR_MEMORY, "plan: out of memory");
    arena_reset(&arena);   // merging may fail too, without harm
    memory_fail_at(0);
    error_clear(&error);
    test_assert_error(arena_reserve(&arena, SIZE_MAX - 5, &error), &error, ERROR_MEMORY, "plan: out of memory");
    arena_allocate(&arena, 10, 1);
    arena_destroy(&arena);
}

static void test_failed_merge(void **state) {
    (void)state;
    struct arena arena;
    arena_init(&arena, "test");
    round_of_work(&arena);
    memory_fail_at(1);
    arena_reset(&arena);
    round_of_work(&arena);   // the old chunks serve again
    memory_fail_at(0);
    arena_destroy(&arena);
}

static void test_numa_node(void **state) {
    (void)state;
    struct arena arena;
    arena_init(&arena, "test");
    arena.numa_node = 0;
    memset(arena_allocate(&arena, 1 << 20, 1), 1, 1 << 20);
    arena_destroy(&arena);
}

static void overflow_product(void *argument) {
    arena_allocate(argument, SIZE_MAX / 2, 3);
}

static void run_out(void *argument) {
    memory_fail_at(1);
    arena_allocate(argument, 1 << 30, 1);
}

static void test_fatal(void **state) {
    (void)state;
    struct arena arena;
    arena_init(&arena, "step");
    char text[512];
    assert_int_equal(test_child_signal(overflow_product, &arena, text, sizeof text), SIGABRT);
    assert_int_equal(test_child_signal(run_out, &arena, text, sizeof text), SIGABRT);
    assert_non_null(strstr(text, "step: out of memory"));
    arena_destroy(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_allocate), cmocka_unit_test(test_mark),         cmocka_unit_test(test_warm_rounds),
        cmocka_unit_test(test_reserve),  cmocka_unit_test(test_failed_merge), cmocka_unit_test(test_numa_node),
        cmocka_unit_test(test_fatal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
