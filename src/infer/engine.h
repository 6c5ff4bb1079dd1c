// Many requests over one model: see the section "Engine" of minke.h, whose requests and events these are, and
// docs/inference.md. This is the engine over a bare struct model, so that a trainer can let its live weights speak;
// minke_engine wraps it.
#ifndef MINKE_INFER_ENGINE_H
#define MINKE_INFER_ENGINE_H

#include "infer/session.h"
#include "minke.h"
#include "model/model.h"

enum engine_drafts { DRAFTS_ADAPTIVE, DRAFTS_NEVER, DRAFTS_ALWAYS };

struct engine_options {
    int64_t context;        // tokens of the longest request, at most the positions of the model's rope table
    int64_t cache_tokens;   // of all requests, at least the context
    int64_t batch, chunk;   // see minke.h; >= 1
    enum session_form form;
    enum cache_kind cache;
    bool prefix_cache;
    enum engine_drafts drafts;
    const int32_t *end_tokens;   // copied
    int64_t end_token_count;
    const char *cache_directory;     // NULL = the prefix cache lives in memory only
    const char *weights_name;        // of the weights in the cache directory: a name no other weights have
    int64_t cache_directory_bytes;   // 0 = no bound
};

struct engine;
int engine_create(struct engine **engine, struct model *model, struct op_context *op,
                  const struct engine_options *options, struct error *error);
void engine_destroy(struct engine *engine);   // NULL is fine

// From any thread.
int engine_submit(int64_t *number, struct engine *engine, const struct minke_request *request, struct error *error);
void engine_cancel(struct engine *engine, int64_t number);
void engine_weights_changed(struct engine *engine);
void engine_statistics(struct minke_engine_stats *stats, struct engine *engine);

// From one thread at a time, which must be the one that uses `op`.
int64_t engine_step(struct engine *engine, struct error *error);

#endif
