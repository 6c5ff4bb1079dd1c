// Weights made anew when a model is opened. Interleaved: model_interleave, below. Quantised: int8 or int4 groups
// (tensor/int_groups.h) in memory of their own instead of the mapped BF16, F32 or FP8.
//
//   int8   every Linear, eh_proj and the head
//   int4   every Linear; eh_proj and the head stay more exact in int8
//   as stored in both: embedding, norms, router, and kv_b_proj (absorbed attention has its own copy: absorbed.h)
#ifndef MINKE_MODEL_QUANTIZE_H
#define MINKE_MODEL_QUANTIZE_H

#include "base/pool.h"
#include "model/model.h"
#include "op/ops.h"

// The format that a parameter takes when `format` (FORMAT_INT8 or FORMAT_INT4) is asked for; FORMAT_NONE = it stays.
enum format model_quantized_format(const struct param *param, enum format format);

// Replaces the tensors of `params` by integers in `arena`. `mapped`: the old ones lie in mapped files, whose pages are
// let go one tensor after the other, so that little more than the integers is ever in memory. By all threads of the
// pool, with a progress bar on a terminal. The result does not depend on the number of threads or instruction set.
int model_quantize(struct model_params *params, const struct model_config *config, enum format format, bool mapped,
                   struct pool *pool, struct arena *arena, struct error *error);

// The same weights, as stored, in the order in which products read them (tensor/panels.h): every BF16 or E4M3 Linear
// but kv_b_proj, eh_proj and the head; F32 stays. Where op_interleaves says so. Not a bit of any result changes. Scales
// stay where they are.
int model_interleave(struct model_params *params, const struct model_config *config, bool mapped, struct op_context *op,
                     struct arena *arena, struct error *error);
int64_t model_interleaved_bytes(struct model_params *params, const struct model_config *config);   // memory for that

// The same for weights that are mapped from files, where products gain from it (op_interleaves, activations in BF16)
// and the copy takes at most three quarters of the memory that is left: the files themselves take none that others
// could not have. Else nothing is done. What absorbed attention needs of kv_b_proj is then made in panels, too, when it
// first runs (absorbed.h), and counted here; of a model of `integers` that alone.
int model_interleave_mapped(struct model *model, bool integers, struct op_context *op, struct arena *arena,
                            struct error *error);

#endif
