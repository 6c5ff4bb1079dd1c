// The parts of an engine. One step: engine.c collects what came in, scheduler.c admits requests and plans the rows of
// one forward pass, engine.c runs it, answer.c turns logits into events, speculate.c makes the next drafts.
#ifndef MINKE_INFER_ENGINE_PRIVATE_H
#define MINKE_INFER_ENGINE_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "infer/engine.h"
#include "infer/page_files.h"

#define ENGINE_MAX_TOP 20      // log_probabilities of a request
#define ENGINE_LARGE_CHUNK 4   // times the chunk: prompt tokens of a step at most
#define ENGINE_LOGIT_ROWS 64   // rows of logits computed at a time

_Static_assert(MINKE_MAX_DRAFTS == MODEL_MAX_DEPTH, "a draft per MTP module");

struct engine_request {
    struct engine_request *next_live, *previous_live;   // all requests, under the engine's lock
    struct engine_request *next;                        // in the inbox or among the waiting
    int64_t number;
    atomic_bool cancelled;

    struct minke_request wanted;   // ids, logit_bias and filter point to the copies below
    struct minke_token_filter filter;
    struct minke_logit_bias *logit_bias;
    int32_t *ids;                         // [limit + MINKE_MAX_DRAFTS] prompt, answer; behind them the drafts
    int64_t prompt_count, count, limit;   // tokens: of the prompt, known now, at most
    int64_t computed;                     // tokens whose keys are in the cache
    int64_t scored;                       // prompt tokens that PROMPT events told of
    int64_t drafts;                       // of the next tokens, in ids[count ..]
    // MTP modules: rows draft_start .. draft_next - 1 are in their caches (draft_start at the beginning of a page)
    int64_t draft_start, draft_next;

    int32_t *pages, *page_rows;   // numbers, and the same as spans take them
    int64_t page_count;
    struct page_chain chain;   // of the first `chained` pages
    int64_t chained;

    bool admitted_before, finished;
    enum minke_finish finish;
    const char *trouble;   // FINISH_ERROR: a literal, or engine->failure.text until the end of the step
    int64_t cached_tokens, drafted_tokens, accepted_tokens;
    struct engine_work *work;   // of this step, or NULL
};

// Rows of one request in a step: positions begin .. begin + count - 1. From `split` on they are absorbed.
struct engine_work {
    struct engine_request *request;
    int64_t begin, count, split;
    int64_t expanded_row, absorbed_row;   // of the first position of either kind
    int64_t verified;                     // drafts
    int64_t draft_row;                    // of the last position in the pass of an MTP module, or -1
};
static inline int64_t work_end(const struct engine_work *work) {
    return work->begin + work->count;
}
// Row of a position in the pass.
static inline int64_t work_row(const struct engine_work *work, int64_t position) {
    int64_t first = work->split > work->begin ? work->split : work->begin;
    return position < work->split ? work->expanded_row + position - work->begin : work->absorbed_row + position - first;
}

struct token_outcome {
    int32_t id;   // -1: nothing was allowed
    bool finite;
    float log_probability;
    int64_t top_count;
    struct minke_token_probability top[ENGINE_MAX_TOP];
};

// The tables of one forward pass.
struct engine_pass {
    struct token_batch batch;
    int32_t *ids, *positions, *cache_rows;   // [max_rows]
    struct attention_span *spans;            // [2 * batch]
    int32_t *rows;                           // [max_rows] of hidden states that go on to the head or to an MTP module
};

// What drafting costs and brings, for steps with about the same number of requests. Only steps that decode and read no
// prompt are looked at.
#define DRAFT_SAMPLES 9
struct draft_times {
    double seconds[DRAFT_SAMPLES];   // the latest
    int64_t count;
};
struct draft_balance {
    struct draft_times plain;     // steps without drafts, modules not counted
    struct draft_times drafted;   // steps that verify drafts, modules counted
    double tokens;                // a drafted request's, in a step: a moving average
    int64_t steps;                // with drafting on
    int64_t pause;                // steps that drafting stays off
    int64_t next_pause;
};
#define DRAFT_BALANCES 16   // by log2 of the number of requests

struct engine {
    struct model *model;
    struct op_context *op;
    struct engine_options options;
    int32_t *end_tokens;
    int64_t depths;   // MTP modules in use
    struct draft_balance balances[DRAFT_BALANCES];
    bool drafting;   // in this step
    struct page_pool pages;
    struct page_files *files;   // NULL: no cache directory
    struct sampler *samplers;   // one per worker
    int64_t sampler_count;

    pthread_mutex_t lock;   // over the next five
    struct engine_request *inbox, *inbox_last;
    struct engine_request *live;
    int64_t next_number, live_count;
    struct minke_engine_stats published;

    atomic_bool weights_changed;
    struct minke_engine_stats stats;
    int64_t *expert_load;

    struct engine_request *waiting;    // by number
    struct engine_request **running;   // by number
    int64_t running_count, waiting_count;

    struct engine_work *works;   // [batch]
    int64_t work_count;
    struct error failure;   // of the last pass that failed
    int64_t max_rows;
    struct engine_pass pass;
    struct tensor hidden, chosen, draft_hidden;   // [max_rows, d] activations
    float *logits;                                // [ENGINE_LOGIT_ROWS, V]
    struct token_outcome *outcomes;               // [ENGINE_LOGIT_ROWS]
};

// scheduler.c
void scheduler_admit(struct engine *engine);
void scheduler_plan(struct engine *engine);   // fills works
void scheduler_requeue(struct engine *engine,
                       struct engine_request *request);   // from running to waiting, without pages
void scheduler_register(struct engine *engine, struct engine_request *request);   // full pages become known
void scheduler_drop(struct engine *engine, struct engine_request *request);   // from running, its pages are released
void scheduler_wait(struct engine *engine, struct engine_request *request);   // into the waiting list
// The first position of a request that is absorbed.
int64_t scheduler_split(const struct engine *engine, const struct engine_request *request);

// engine.c
bool engine_is_end(const struct engine *engine, int32_t id);
// Adds rows begin .. begin + count - 1 of a work to the pass, with the ids `shift` tokens on, in the order in which
// absorbed spans come first: call for all works with absorbed = true, then with false.
void engine_pass_begin(struct engine *engine);
void engine_pass_add(struct engine *engine, const struct engine_work *work, int64_t begin, int64_t end, int64_t shift,
                     int64_t window, bool absorbed);
void engine_finish(struct engine_request *request, enum minke_finish finish, const char *trouble);

// answer.c
void answer_prompts(struct engine *engine);                                    // PROMPT events
void answer_tokens(struct engine *engine);                                     // samples, verifies drafts, TOKEN events
void answer_finished(struct engine *engine, struct engine_request *request);   // the FINISHED event

// speculate.c
void speculate_choose(struct engine *engine);   // before a step is planned: whether drafts are worth it
void speculate(struct engine *engine);          // runs the MTP modules over this step's rows and drafts the next tokens
// After a step: what it took without the modules, and in them, and how many drafts were accepted.
void speculate_learn(struct engine *engine, double seconds, double module_seconds, int64_t accepted);

#endif
