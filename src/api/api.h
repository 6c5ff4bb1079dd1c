// What is behind the opaque objects of include/minke.h. The API layer wires text, weights, model and infer together and
// adds nothing else.
#ifndef MINKE_API_API_H
#define MINKE_API_API_H

#include "infer/session.h"
#include "minke.h"
#include "model/experts.h"
#include "model/load.h"
#include "model/model.h"

#define API_END_TOKENS 16

struct minke_model {
    char *directory, *weights;   // as opened: where the files are, how they were to be stored in memory
    struct pool *pool;
    struct arena arena;     // params tables, rope table
    struct arena scratch;   // of op
    struct op_context op;
    struct checkpoint *checkpoint;   // the mapped files that params point into
    struct model model;
    struct expert_store *experts;   // under a memory limit; else NULL
    struct minke_sampling sampling;
    int32_t end_tokens[API_END_TOKENS];
    int64_t end_token_count;
};

struct minke_session {
    struct session *session;
    struct minke_model *model;
};

// The rope table covers the longest session or engine made so far; the model's arena keeps the outgrown ones (others
// may still read them).
void api_cover_positions(struct minke_model *model, int64_t positions);

// Copies an internal error to the caller's (which may be NULL); returns its code.
int api_error(struct minke_error *to, const struct error *from);

#endif
