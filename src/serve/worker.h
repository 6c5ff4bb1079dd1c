// The inference thread: steps the engine while there is work, sleeps otherwise, and keeps a copy of the engine's
// statistics that other threads may read at any time.
#ifndef MINKE_SERVE_WORKER_H
#define MINKE_SERVE_WORKER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "minke.h"

#define WORKER_SAMPLES 32

struct worker_view {
    struct minke_engine_stats stats;                      // expert_load points at a copy
    double tokens_per_second, prompt_tokens_per_second;   // of the last seconds
};

struct worker {
    struct minke_engine *engine;
    pthread_t thread;
    bool runs;

    pthread_mutex_t lock;   // of everything below
    pthread_cond_t work;
    bool woken, stopping, failed;
    char failure[512];
    struct minke_engine_stats stats;
    int64_t *expert_load;
    int64_t expert_count;
    struct {
        double time;
        int64_t prompt_tokens, answer_tokens;
    } samples[WORKER_SAMPLES];   // a ring: counters at times a tenth of a second apart or more
    int64_t sample_count;
};

int worker_start(struct worker *worker, struct minke_engine *engine, struct error *error);
// There is something to do: a request was submitted or cancelled.
void worker_wake(struct worker *worker);
bool worker_has_failed(struct worker *worker, char text[512]);
void worker_stop(struct worker *worker);   // after the current step
// Copies the state; expert_load (capacity numbers, NULL = not wanted) receives the load.
void worker_look(struct worker_view *view, struct worker *worker, int64_t *expert_load, int64_t capacity);

#endif
