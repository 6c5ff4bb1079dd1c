// base/pool.c: every task exactly once, results visible to the caller, many short jobs, sleeping and waking, FTZ/DAZ.
#include "base/pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "support/test.h"

enum { TASKS = 1000 };

struct counts {
    int64_t plain[TASKS];   // written without atomics: a thread sanitizer sees a missing ordering
    _Atomic int64_t worker_tasks[64];
    int64_t scale;
    int threads;
    atomic_bool worker_out_of_range;
};

static void count_task(void *argument, int64_t task, int worker) {
    struct counts *counts = argument;
    counts->plain[task] += counts->scale;
    if (worker < 0 || worker >= counts->threads) {
        atomic_store(&counts->worker_out_of_range, true);
    } else {
        atomic_fetch_add(&counts->worker_tasks[worker], 1);
    }
}

static void run_jobs(struct pool *pool, int jobs, int64_t tasks) {
    static struct counts counts;
    memset(&counts, 0, sizeof counts);
    counts.threads = pool_threads(pool);
    int64_t expected = 0;
    for (int job = 1; job <= jobs; job++) {
        counts.scale = job;
        expected += job;
        pool_run(pool, tasks, count_task, &counts);
        assert_int_equal(counts.plain[0], tasks > 0 ? expected : 0);   // read by the caller between jobs
    }
    for (int64_t i = 0; i < TASKS; i++) {
        assert_int_equal(counts.plain[i], i < tasks ? expected : 0);
    }
    int64_t total = 0;
    for (int i = 0; i < counts.threads; i++) {
        total += counts.worker_tasks[i];
    }
    assert_int_equal(total, tasks * jobs);
    assert_false(counts.worker_out_of_range);
}

static void test_all_tasks(void **state) {
    (void)state;
    static const int threads[] = {1, 2, 3, 7};
    for (size_t i = 0; i < sizeof threads / sizeof threads[0]; i++) {
        struct pool *pool;
        struct error error = {0};
        assert_int_equal(pool_create(&pool, threads[i], &error), 0);
        assert_int_equal(pool_threads(pool), threads[i]);
        run_jobs(pool, 3, TASKS);
        run_jobs(pool, 300, 5);
        run_jobs(pool, 3, 1);
        run_jobs(pool, 3, 0);
        pool_destroy(pool);
    }
    run_jobs(NULL, 3, TASKS);
    assert_int_equal(pool_threads(NULL), 1);
    pool_destroy(NULL);
}

static void test_sleeping_workers(void **state) {
    (void)state;
    struct pool *pool;
    assert_int_equal(pool_create(&pool, 3, NULL), 0);
    for (int i = 0; i < 30; i++) {
        struct timespec pause = {.tv_nsec = (i % 6) * 20000};   // around the spinning time, so that some are asleep
        nanosleep(&pause, NULL);
        run_jobs(pool, 2, 17);
    }
    pool_destroy(pool);
}

static void busy_task(void *argument, int64_t task, int worker) {
    (void)worker;
    _Atomic int64_t *sum = argument;
    if (task == 1) {   // the caller has to sleep for this one
        struct timespec pause = {.tv_nsec = 3000000};
        nanosleep(&pause, NULL);
    }
    atomic_fetch_add(sum, task);
}

static void test_waiting_caller(void **state) {
    (void)state;
    struct pool *pool;
    assert_int_equal(pool_create(&pool, 2, NULL), 0);
    for (int i = 0; i < 20; i++) {
        _Atomic int64_t sum = 0;
        pool_run(pool, 4, busy_task, &sum);
        assert_int_equal(sum, 6);
    }
    pool_destroy(pool);
}

// The smallest subnormal times two is zero when flushing; 1 means the flags are missing.
static void subnormal_task(void *argument, int64_t task, int worker) {
    (void)worker;
    volatile float tiny = 1e-40f;
    volatile float result = tiny * 2.0f;
    volatile float small = 2e-38f;
    volatile float flushed = small * 0.25f;
    ((int *)argument)[task] = result != 0 || flushed != 0;
}

static void test_flush_to_zero(void **state) {
    (void)state;
    struct pool *pool;
    assert_int_equal(pool_create(&pool, 4, NULL), 0);
    int kept[64];
    memset(kept, 1, sizeof kept);
    pool_run(pool, 64, subnormal_task, kept);
    for (int i = 0; i < 64; i++) {
        assert_int_equal(kept[i], 0);
    }
    pool_destroy(pool);
}

static void *run_from_new_thread(void *argument) {
    static int kept[8];
    memset(kept, 1, sizeof kept);
    pool_run(argument, 8, subnormal_task, kept);
    for (int i = 0; i < 8; i++) {
        if (kept[i]) {
            return "a subnormal survived";
        }
    }
    return NULL;
}

static void test_any_caller(void **state) {
    (void)state;
    struct pool *pool;
    assert_int_equal(pool_create(&pool, 2, NULL), 0);
    struct pool *pools[] = {pool, NULL};
    for (int i = 0; i < 2; i++) {
        pthread_t thread;
        void *complaint;
        assert_int_equal(pthread_create(&thread, NULL, run_from_new_thread, pools[i]), 0);
        pthread_join(thread, &complaint);
        assert_null(complaint);
    }
    pool_destroy(pool);
}

static void nested_task(void *argument, int64_t task, int worker) {
    (void)task, (void)worker;
    int64_t sum = 0;
    pool_run(argument, 4, busy_task, &sum);
}

static void run_nested(void *argument) {
    (void)argument;
    struct pool *pool;
    if (pool_create(&pool, 2, NULL) == 0) {
        pool_run(pool, 4, nested_task, pool);
    }
}

static void test_nested(void **state) {
    (void)state;
    char text[512];
    assert_int_equal(test_child_signal(run_nested, NULL, text, sizeof text), SIGABRT);
    assert_non_null(strstr(text, "pool_run inside a task"));
}

static int create_and_destroy(void *argument, struct error *error) {
    (void)argument;
    struct pool *pool;
    int code = pool_create(&pool, 3, error);
    pool_destroy(pool);
    return code;
}

static void test_create(void **state) {
    (void)state;
    struct pool *pool;
    struct error error = {0};
    test_assert_error(pool_create(&pool, -1, &error), &error, ERROR_ARGUMENT, "found -1");
    assert_null(pool);
    error_clear(&error);
    test_assert_error(pool_create(&pool, 100000, &error), &error, ERROR_ARGUMENT, "found 100000");
    assert_int_equal(pool_create(&pool, 0, NULL), 0);
    assert_true(pool_threads(pool) >= 1);
    pool_destroy(pool);
    assert_int_equal(test_failing_memory(create_and_destroy, NULL), 1);
}

static void test_no_allocation(void **state) {
    (void)state;
    struct pool *pool;
    assert_int_equal(pool_create(&pool, 3, NULL), 0);
    memory_guard(true);
    run_jobs(pool, 10, TASKS);
    memory_guard(false);
    pool_destroy(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_tasks),      cmocka_unit_test(test_sleeping_workers),
        cmocka_unit_test(test_waiting_caller), cmocka_unit_test(test_flush_to_zero),
        cmocka_unit_test(test_any_caller),     cmocka_unit_test(test_nested),
        cmocka_unit_test(test_create),         cmocka_unit_test(test_no_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
