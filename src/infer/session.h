// One timeline of tokens with its attention cache: append, read logits, truncate.
//
// A token's logits do not depend on how the prompt was chunked or on what else was computed. In an AUTO session prompt
// tokens go through the expanded form and sampled ones through the absorbed form over one latent cache (DESIGN section
// 4).
#ifndef MINKE_INFER_SESSION_H
#define MINKE_INFER_SESSION_H

#include "infer/kv_cache.h"
#include "infer/sampler.h"
#include "model/model.h"

enum session_form { SESSION_AUTO, SESSION_EXPANDED, SESSION_ABSORBED };
enum session_kind { SESSION_PROMPT, SESSION_SAMPLED };

struct session_options {
    int64_t capacity;   // tokens, 1..positions of the model's rope table
    int64_t chunk;      // prompt tokens per forward pass, >= 1
    enum session_form form;
    enum cache_kind cache;
};

struct session {
    struct model *model;     // borrowed
    struct op_context *op;   // borrowed
    struct session_options options;
    struct kv_cache cache;
    struct sampler sampler;
    int64_t length;                    // tokens in the cache
    int64_t prompt_length;             // up to the last that was not sampled
    int32_t *ids;                      // [capacity] the tokens, for penalties
    int32_t *positions, *cache_rows;   // [chunk]
    float *hidden, *next_hidden;       // [chunk, d]: final-norm output; an MTP module's input and output
    float *logits;                     // [V] of the last appended token; [LOGIT_ROWS, V] while evaluating
    bool has_logits;
};

int session_create(struct session **session, struct model *model, struct op_context *op,
                   const struct session_options *options, struct error *error);
void session_destroy(struct session *session);   // NULL is fine
int session_append(struct session *session, const int32_t *ids, int64_t count, enum session_kind kind,
                   struct error *error);
int session_truncate(struct session *session, int64_t length, struct error *error);
int32_t session_sample(struct session *session, const struct minke_sampling *sampling);

// See minke_session_evaluate in minke.h.
typedef int (*session_logits_callback)(void *argument, int64_t row, const float *logits);
int session_evaluate(struct session *session, const int32_t *ids, int64_t count, int64_t mtp_depth,
                     session_logits_callback callback, void *argument, struct error *error);

// log p(ids[i + 1] | ids[0..i]) into log_probability[i], i = 0..count-2 (the trainer's loss with the sign changed). The
// session must be empty.
int session_score(struct session *session, float *log_probability, const int32_t *ids, int64_t count,
                  struct error *error);

#endif
