// One small thread pool. The calling thread is worker 0 and works too. Workers spin for a few microseconds between
// jobs, then sleep, so that a busy neighbour slows us in proportion instead of collapsing us.
//
// Tasks are handed out by an atomic counter in ascending order. Results must not depend on which worker runs a task:
// every op in this project writes each output element from exactly one task in one written order of sums.
#ifndef MINKE_BASE_POOL_H
#define MINKE_BASE_POOL_H

#include <stdint.h>

#include "base/error.h"

struct pool;

// threads >= 1; 0 = one per CPU this process may run on. Sets FTZ/DAZ on every worker and on the calling thread.
int pool_create(struct pool **pool, int threads, struct error *error);
// A pool that says it has `threads` threads and runs nothing: for a rehearsal that only counts the memory of a step.
int pool_create_idle(struct pool **pool, int threads, struct error *error);
void pool_destroy(struct pool *pool);   // NULL is fine
int pool_threads(const struct pool *pool);

// Runs function(argument, task, worker) for task = 0..tasks-1 and returns when all are done. worker is in
// [0, pool_threads). Not re-entrant: a task must not call pool_run. A NULL pool runs everything on the caller.
void pool_run(struct pool *pool, int64_t tasks, void (*function)(void *argument, int64_t task, int worker),
              void *argument);

// Flush-to-zero and denormals-are-zero on the calling thread: part of the definition of every product
// (docs/numerics.md).
void pool_set_flush_to_zero(void);

#endif
