// See worker.h.
#include "serve/worker.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"

#define SAMPLE_SECONDS 0.1
#define RATE_SECONDS 2.0

// Between steps: copies the engine's counters. The last counters before a pause are always taken.
static void look(struct worker *worker, double now, bool pause) {
    pthread_mutex_lock(&worker->lock);
    int64_t last = worker->sample_count - 1;
    if (pause || worker->sample_count == 0 || now - worker->samples[last % WORKER_SAMPLES].time >= SAMPLE_SECONDS) {
        minke_engine_statistics(&worker->stats, worker->engine);
        int64_t count = worker->stats.moe_layers * worker->stats.experts;
        if (worker->expert_load == NULL && count > 0) {
            worker->expert_load = memory_allocate((size_t)count, sizeof *worker->expert_load, "expert load", NULL);
            worker->expert_count = worker->expert_load != NULL ? count : 0;
        }
        if (worker->expert_count > 0 && worker->stats.expert_load != NULL) {
            memcpy(worker->expert_load, worker->stats.expert_load,
                   (size_t)worker->expert_count * sizeof *worker->expert_load);
        }
        int64_t at = worker->sample_count++ % WORKER_SAMPLES;
        worker->samples[at].time = now;
        worker->samples[at].prompt_tokens = worker->stats.prompt_tokens;
        worker->samples[at].answer_tokens = worker->stats.answer_tokens;
    }
    pthread_mutex_unlock(&worker->lock);
}

// Sleeps until there is work; false = the end.
static bool wait_for_work(struct worker *worker, bool busy) {
    pthread_mutex_lock(&worker->lock);
    while (!busy && !worker->woken && !worker->stopping) {
        pthread_cond_wait(&worker->work, &worker->lock);
    }
    worker->woken = false;
    bool go_on = !worker->stopping;
    pthread_mutex_unlock(&worker->lock);
    return go_on;
}

static void *worker_main(void *argument) {
    struct worker *worker = argument;
    bool busy = false;
    while (wait_for_work(worker, busy)) {
        struct minke_error error = {0};
        int64_t left = minke_engine_step(worker->engine, &error);
        if (left < 0) {
            log_error("engine: %s", error.text);
            pthread_mutex_lock(&worker->lock);
            worker->failed = true;
            snprintf(worker->failure, sizeof worker->failure, "%s", error.text);
            pthread_mutex_unlock(&worker->lock);
            break;
        }
        busy = left > 0;
        look(worker, clock_seconds(), !busy);
    }
    return NULL;
}

int worker_start(struct worker *worker, struct minke_engine *engine, struct error *error) {
    *worker = (struct worker){.engine = engine};
    pthread_mutex_init(&worker->lock, NULL);
    pthread_cond_init(&worker->work, NULL);
    look(worker, clock_seconds(), true);
    if (pthread_create(&worker->thread, NULL, worker_main, worker) != 0) {
        return error_set(error, ERROR_IO, "server: cannot start the inference thread");
    }
    worker->runs = true;
    return 0;
}

void worker_wake(struct worker *worker) {
    pthread_mutex_lock(&worker->lock);
    worker->woken = true;
    pthread_cond_signal(&worker->work);
    pthread_mutex_unlock(&worker->lock);
}

bool worker_has_failed(struct worker *worker, char text[512]) {
    pthread_mutex_lock(&worker->lock);
    bool failed = worker->failed;
    if (failed && text != NULL) {
        snprintf(text, sizeof worker->failure, "%s", worker->failure);
    }
    pthread_mutex_unlock(&worker->lock);
    return failed;
}

void worker_stop(struct worker *worker) {
    if (worker->engine == NULL) {
        return;
    }
    if (worker->runs) {
        pthread_mutex_lock(&worker->lock);
        worker->stopping = true;
        pthread_cond_signal(&worker->work);
        pthread_mutex_unlock(&worker->lock);
        pthread_join(worker->thread, NULL);
    }
    memory_free(worker->expert_load);
    pthread_cond_destroy(&worker->work);
    pthread_mutex_destroy(&worker->lock);
    *worker = (struct worker){0};
}

void worker_look(struct worker_view *view, struct worker *worker, int64_t *expert_load, int64_t capacity) {
    pthread_mutex_lock(&worker->lock);
    *view = (struct worker_view){.stats = worker->stats};
    int64_t count = worker->expert_count < capacity ? worker->expert_count : capacity;
    if (expert_load != NULL && count > 0) {
        memcpy(expert_load, worker->expert_load, (size_t)count * sizeof *expert_load);
    }
    view->stats.expert_load = expert_load != NULL && count > 0 ? expert_load : NULL;
    // From the oldest sample of the last seconds until now, so that a rate falls to 0 when nothing is done.
    double now = clock_seconds();
    int64_t newest = worker->sample_count - 1, oldest = newest;
    while (oldest > 0 && newest - oldest < WORKER_SAMPLES - 1 &&
           now - worker->samples[(oldest - 1) % WORKER_SAMPLES].time <= RATE_SECONDS) {
        oldest--;
    }
    double seconds = now - worker->samples[oldest % WORKER_SAMPLES].time;
    if (oldest < newest && seconds > 0 && seconds <= RATE_SECONDS) {
        int64_t first = oldest % WORKER_SAMPLES, last = newest % WORKER_SAMPLES;
        view->tokens_per_second = (double)(worker->samples[last].answer_tokens - worker->samples[first].answer_tokens) /
                                  seconds;
        view->prompt_tokens_per_second = (double)(worker->samples[last].prompt_tokens -
                                                  worker->samples[first].prompt_tokens) /
                                         seconds;
    }
    pthread_mutex_unlock(&worker->lock);
}
