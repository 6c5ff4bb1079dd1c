// Thread pool. One job at a time: the caller stores it, sets `remaining` to the number of tasks, and everybody claims
// tasks by counting `remaining` down. The caller waits for the tasks, not for the workers: a worker that the kernel has
// not scheduled yet delays nobody, and when it wakes it finds nothing left to claim.
//
//     caller: function, argument, tasks, unfinished -> remaining (release) -> job + 1 -> wake sleepers
//     worker: claim (acquire) -> function(argument, task, worker) -> unfinished - 1; the last one wakes the caller
//
// A claim that succeeds has read `remaining` of the present job, and that job cannot end before the claimed task does,
// so the plain fields are stable while a task runs. Idle threads spin for SPIN_SECONDS, then sleep on a futex.
#include "base/pool.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"

#define SPIN_SECONDS 100e-6   // longer than a thread waits for the others, or for one, in a decode step
#define THREADS_MAXIMUM 1024

struct worker {
    struct pool *pool;
    pthread_t thread;
    int index;
};

struct pool {
    int threads;
    bool idle;   // has no threads and runs nothing
    bool spin;   // false when there are more threads than CPUs: spinning would only steal time from a working thread
    // The job.
    void (*function)(void *argument, int64_t task, int worker);
    void *argument;
    int64_t tasks;
    _Alignas(64) _Atomic int64_t remaining;    // tasks not claimed yet
    _Alignas(64) _Atomic int64_t unfinished;   // tasks not done yet
    _Alignas(64) _Atomic uint32_t job;         // futex: counts jobs; idle workers wait for a change
    _Atomic int32_t sleepers;
    atomic_bool stop;
    atomic_bool running;                  // catches a pool_run inside a task
    _Alignas(64) _Atomic uint32_t done;   // futex: counts finished jobs; the caller waits for a change
    atomic_bool caller_sleeps;
    struct worker workers[];   // threads - 1, indices 1..threads-1
};

static void futex_wait(_Atomic uint32_t *word, uint32_t expected) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int count) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

void pool_set_flush_to_zero(void) {
    enum { FLUSH_TO_ZERO = 1 << 15, DENORMALS_ARE_ZERO = 1 << 6 };
    __builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() | FLUSH_TO_ZERO | DENORMALS_ARE_ZERO);
}

// Runs tasks until none is left to claim.
static void work(struct pool *pool, int worker) {
    int64_t finished = 0;
    int64_t remaining = atomic_load_explicit(&pool->remaining, memory_order_relaxed);
    while (remaining > 0) {
        if (atomic_compare_exchange_weak_explicit(&pool->remaining, &remaining, remaining - 1, memory_order_acquire,
                                                  memory_order_relaxed)) {
            pool->function(pool->argument, pool->tasks - remaining, worker);
            finished++;
            remaining = atomic_load_explicit(&pool->remaining, memory_order_relaxed);
        }
    }
    if (finished > 0 && atomic_fetch_sub(&pool->unfinished, finished) == finished) {
        atomic_fetch_add(&pool->done, 1);
        if (atomic_load(&pool->caller_sleeps)) {
            futex_wake(&pool->done, 1);
        }
    }
}

static bool job_changed(const struct pool *pool, uint32_t seen) {
    return atomic_load_explicit(&pool->job, memory_order_acquire) != seen;
}

static bool job_done(const struct pool *pool) {
    return atomic_load_explicit(&pool->unfinished, memory_order_acquire) == 0;
}

// Spins for a few microseconds; true as soon as there is a new job.
static bool spin_for_job(const struct pool *pool, uint32_t seen) {
    double end = pool->spin ? clock_seconds() + SPIN_SECONDS : 0;
    do {
        for (int i = 0; i < 16; i++) {
            if (job_changed(pool, seen)) {
                return true;
            }
            __builtin_ia32_pause();
        }
    } while (pool->spin && clock_seconds() < end);
    return false;
}

static bool spin_for_end(const struct pool *pool) {
    double end = pool->spin ? clock_seconds() + SPIN_SECONDS : 0;
    do {
        for (int i = 0; i < 16; i++) {
            if (job_done(pool)) {
                return true;
            }
            __builtin_ia32_pause();
        }
    } while (pool->spin && clock_seconds() < end);
    return false;
}

static void *worker_main(void *argument) {
    struct worker *worker = argument;
    struct pool *pool = worker->pool;
    pool_set_flush_to_zero();
    uint32_t seen = 0;
    for (;;) {
        if (!spin_for_job(pool, seen)) {
            atomic_fetch_add(&pool->sleepers, 1);
            while (!job_changed(pool, seen)) {
                futex_wait(&pool->job, seen);
            }
            atomic_fetch_sub(&pool->sleepers, 1);
        }
        seen = atomic_load(&pool->job);
        if (atomic_load(&pool->stop)) {
            return NULL;
        }
        work(pool, worker->index);
    }
}

// CPUs that this process may use: its affinity mask, and the quota of its control group (containers).
static int cpu_count(void) {
    cpu_set_t set;
    int count = 1;
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        count = CPU_COUNT(&set);
    } else {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        count = online > 0 && online <= THREADS_MAXIMUM ? (int)online : 1;
    }
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (file != NULL) {
        long long quota, period;
        if (fscanf(file, "%lld %lld", &quota, &period) == 2 && quota > 0 && period > 0) {
            long long whole = (quota + period - 1) / period;
            count = whole < count ? (int)whole : count;
        }
        fclose(file);
    }
    return count < 1 ? 1 : count > THREADS_MAXIMUM ? THREADS_MAXIMUM : count;
}

int pool_create(struct pool **pool, int threads, struct error *error) {
    *pool = NULL;
    if (threads < 0 || threads > THREADS_MAXIMUM) {
        return error_set(error, ERROR_ARGUMENT, "threads: found %d, expected 0 (one per CPU) to %d", threads,
                         THREADS_MAXIMUM);
    }
    int cpus = cpu_count();
    threads = threads == 0 ? cpus : threads;
    struct pool *fresh = memory_allocate(1, sizeof *fresh + (size_t)(threads - 1) * sizeof fresh->workers[0],
                                         "thread pool", error);
    if (fresh == NULL) {
        return ERROR_MEMORY;
    }
    fresh->threads = 1;
    fresh->spin = threads <= cpus;
    // Signals belong to the program's own threads; a worker never takes one.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failure = 0;
    for (int i = 1; i < threads && failure == 0; i++) {
        struct worker *worker = &fresh->workers[i - 1];
        *worker = (struct worker){.pool = fresh, .index = i};
        failure = pthread_create(&worker->thread, NULL, worker_main, worker);
        fresh->threads += failure == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failure != 0) {
        int started = fresh->threads;
        pool_destroy(fresh);
        return error_set(error, ERROR_LIMIT, "cannot start thread %d of %d: %s", started + 1, threads,
                         strerror(failure));
    }
    pool_set_flush_to_zero();
    *pool = fresh;
    return 0;
}

int pool_create_idle(struct pool **pool, int threads, struct error *error) {
    *pool = memory_allocate(1, sizeof **pool, "thread pool", error);
    if (*pool == NULL) {
        return ERROR_MEMORY;
    }
    (*pool)->idle = true;
    (*pool)->threads = threads == 0 ? cpu_count() : threads;
    return 0;
}

static void wake_workers(struct pool *pool, int64_t wanted) {
    atomic_fetch_add(&pool->job, 1);
    // Either this load sees a worker that is about to sleep, or that worker's futex call sees the new job.
    if (atomic_load(&pool->sleepers) > 0) {
        futex_wake(&pool->job, wanted < INT_MAX ? (int)wanted : INT_MAX);
    }
}

void pool_destroy(struct pool *pool) {
    if (pool == NULL) {
        return;
    }
    atomic_store(&pool->stop, true);
    wake_workers(pool, INT_MAX);
    for (int i = 1; i < pool->threads && !pool->idle; i++) {
        pthread_join(pool->workers[i - 1].thread, NULL);
    }
    memory_free(pool);
}

int pool_threads(const struct pool *pool) {
    return pool == NULL ? 1 : pool->threads;
}

void pool_run(struct pool *pool, int64_t tasks, void (*function)(void *argument, int64_t task, int worker),
              void *argument) {
    if (pool != NULL && pool->idle) {
        return;
    }
    pool_set_flush_to_zero();
    if (pool == NULL || pool->threads == 1 || tasks <= 1) {
        for (int64_t task = 0; task < tasks; task++) {
            function(argument, task, 0);
        }
        return;
    }
    CHECK(!atomic_exchange(&pool->running, true), "pool_run inside a task, or from two threads");
    pool->function = function;
    pool->argument = argument;
    pool->tasks = tasks;
    atomic_store_explicit(&pool->unfinished, tasks, memory_order_relaxed);
    atomic_store_explicit(&pool->remaining, tasks, memory_order_release);
    wake_workers(pool, tasks - 1);
    work(pool, 0);
    while (!spin_for_end(pool)) {
        atomic_store(&pool->caller_sleeps, true);
        uint32_t done = atomic_load(&pool->done);
        if (!job_done(pool)) {
            futex_wait(&pool->done, done);
        }
        atomic_store(&pool->caller_sleeps, false);
    }
    atomic_store(&pool->running, false);
}
