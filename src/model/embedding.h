// Token embedding: h [T, d] (f32, the start of the residual stream) = embed_tokens[ids]. No scale, no norm (spec 1.2).
#ifndef MINKE_MODEL_EMBEDDING_H
#define MINKE_MODEL_EMBEDDING_H

#include "op/ops.h"

void embedding_forward(struct op_context *op, struct tensor *h, const int32_t *ids, const struct tensor *table);

// One use of the table in a micro-batch: the main model's input or an MTP module's.
struct embedding_use {
    const int32_t *ids;   // [T]
    struct tensor dh;     // f32 [T, d]
};
// dtable (f32) += rows first..first+length-1, one sequence, of all uses in turn. Sequence by sequence, so that a batch
// split into micro-batches adds in the same order.
void embedding_backward(struct op_context *op, struct tensor *dtable, const struct embedding_use *uses,
                        int64_t use_count, int64_t first, int64_t length);

#endif
