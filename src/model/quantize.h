// Weights quantised when a model is opened: int8 or int4 groups (tensor/int_groups.h) in memory of their own instead of
// the mapped BF16, F32 or FP8.
//
//   int8   every Linear, eh_proj and the head
//   int4   every Linear; eh_proj and the head stay more exact in int8
//   as stored in both: embedding, norms, router, and kv_b_proj, which absorbed attention reads through transposed views
#ifndef MINKE_MODEL_QUANTIZE_H
#define MINKE_MODEL_QUANTIZE_H

#include "base/pool.h"
#include "model/params.h"

// The format that a parameter takes when `format` (FORMAT_INT8 or FORMAT_INT4) is asked for; FORMAT_NONE = it stays.
enum format model_quantized_format(const struct param *param, enum format format);

// Replaces the tensors of `params` by integers in `arena`. `mapped`: the old ones lie in mapped files, whose pages are
// let go one tensor after the other, so that little more than the integers is ever in memory. By all threads of the
// pool, with a progress bar on a terminal. The result does not depend on the number of threads or instruction set.
int model_quantize(struct model_params *params, const struct model_config *config, enum format format, bool mapped,
                   struct pool *pool, struct arena *arena, struct error *error);

#endif
