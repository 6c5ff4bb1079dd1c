// The Linears of a layer in training, in one of three precisions: what they keep, and their backwards.
//
//   LINEAR_PLAIN       operands as they are (F32, BF16)
//   LINEAR_FP8         all three products multiply E4M3 (report 3.3): the weight is E4M3_BLOCK; the input is quantised
//                      to 1 x 128 tiles before the forward product and kept so; the output gradient is quantised to
//                      1 x 128 tiles for the input gradient and to 128 x 1 tiles for the weight gradient, the kept
//                      input from its tiles to 128 x 1 tiles
//   LINEAR_FP8_POWER   the same with scales that are powers of two, so that quantising again loses nothing but the
//                      smallest numbers: the Linear after attention and the experts' (spec 6.4)
//
// The forward product is op_linear: the formats of its operands say the precision.
#ifndef MINKE_MODEL_LINEAR_H
#define MINKE_MODEL_LINEAR_H

#include "op/ops.h"

enum linear_precision { LINEAR_PLAIN, LINEAR_FP8, LINEAR_FP8_POWER };

struct linear_kept {       // what W needs after B: input and output gradient of one Linear (views or slot memory)
    struct tensor x, dy;   // FP8: E4M3_COLUMN already, or x is E4M3_TILE, E5M6_TILE or BF16, dy BF16
    enum linear_precision precision;
};

// E4M3_TILE [rows, columns] and its scales in `arena`, not filled.
struct tensor linear_tiles(struct arena *arena, int64_t rows, int64_t columns);
struct tensor linear_tiles_e5m6(struct arena *arena, int64_t rows, int64_t columns);
// E4M3_COLUMN [rows, columns] with tiles that begin anew with every group, not filled.
struct tensor linear_column_tiles(struct arena *arena, int64_t rows, int64_t columns, int64_t groups);
// x as a Linear of this precision takes it: x itself, or its tiles in `arena` (which may be op->scratch).
struct tensor linear_input(struct op_context *op, const struct tensor *x, enum linear_precision precision,
                           struct arena *arena);
// An activation that may have been kept as tiles: as it is, or multiplied out to BF16 in `arena`.
struct tensor linear_activation(struct op_context *op, const struct tensor *kept, struct arena *arena);

// dx = (or +=) dy W.
void linear_backward_input(struct op_context *op, struct tensor *dx, const struct linear_kept *kept,
                           const struct tensor *w, enum op_mode mode);
// dw = (or +=) dy^T x.
void linear_backward_weight(struct op_context *op, struct tensor *dw, const struct linear_kept *kept,
                            enum op_mode mode);
// The same of two Linears with one input, which is quantised once.
void linear_backward_weight_pair(struct op_context *op, struct tensor *dw_first, struct tensor *dw_second,
                                 const struct linear_kept *first, const struct linear_kept *second, enum op_mode mode);
// The same for experts: arrays of `groups` weights, rows of group g from offsets[g].
void linear_grouped_backward_weight(struct op_context *op, struct tensor *dw, const struct linear_kept *kept,
                                    const int32_t *offsets, int64_t groups, enum op_mode mode);
void linear_grouped_backward_weight_pair(struct op_context *op, struct tensor *dw_first, struct tensor *dw_second,
                                         const struct linear_kept *first, const struct linear_kept *second,
                                         const int32_t *offsets, int64_t groups, enum op_mode mode);

#endif
