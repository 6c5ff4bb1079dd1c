// What absorbed attention (mla.c) multiplies with, made from kv_b_proj when it first runs.
#ifndef MINKE_MODEL_ABSORBED_H
#define MINKE_MODEL_ABSORBED_H

#include "model/params.h"
#include "op/ops.h"

// Fills absorbed_key and absorbed_value, in panels, where `interleave` asks for them and heads end where panels do; or
// kv_b_dense, if kv_b_proj is E4M3; or neither, if kv_b_proj serves as it is.
void absorbed_prepare(struct op_context *op, struct mla_params *params, const struct model_config *config,
                      enum format compute, bool interleave, struct arena *arena);

// Of what `interleave` makes in all layers.
int64_t absorbed_bytes(const struct model_config *config);

#endif
