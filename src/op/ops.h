// The operations that a DeepSeek-V3 model is made of: what each computes, in which order it sums, which formats it
// takes. Layers (src/model) call these and nothing else touches tensor memory. ops.c checks shapes and calls the
// device's table; op/cpu/<op>.c splits the work over the pool; the innermost loops are kernels (op/cpu/kernels.h: a
// scalar reference that is the specification, overridden by AVX2 and AVX-512 versions with the same bits).
//
// Bits (DESIGN section 4; docs/numerics.md). "chain" = one FP32 fused multiply-add per term, in the written order,
// starting from zero (or from the loaded output when adding), FTZ/DAZ on. BF16 and E4M3 operands are exact in FP32.
// Results do not depend on the number of threads, on how rows are batched, or on the instruction set. A BF16 output is
// the FP32 result rounded once to nearest even.
//
// Formats: "activation" tensors are F32 or BF16 and may have any strides whose innermost is 1 unless said otherwise;
// weights may be F32, BF16 or E4M3_BLOCK, in op_linear and op_linear_grouped also INT8 or INT4. Empty row counts are
// legal and do nothing.
#ifndef MINKE_OP_OPS_H
#define MINKE_OP_OPS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/error.h"
#include "base/pool.h"
#include "tensor/tensor.h"

enum isa { ISA_SCALAR, ISA_AVX2, ISA_AVX512, ISA_AMX, ISA_BEST };

struct cpu_kernels;

// Seconds spent in the two kinds of operation that a step should consist of, for `minke bench`. A product's packing of
// its operands is part of it, quantising them is not.
enum op_kind { OP_PRODUCTS, OP_ATTENTION, OP_KINDS };
struct op_times {
    double seconds[OP_KINDS];
};

// What an op runs with. One per thread of control (a trainer, an engine); scratch is marked and released inside each
// op.
struct op_context {
    const struct cpu_kernels *kernels;   // of the chosen instruction set
    struct pool *pool;
    struct arena *scratch;    // packing buffers and partial sums; reaches its size in the first step
    enum isa isa;             // what `kernels` really is (never ISA_BEST)
    struct op_times *times;   // added to by each op; NULL: not wanted
    struct error error;   // sticky: what went wrong inside a pass that cannot return it (an expert that could not be
                          // read); then what the pass computes is void. Whoever ran the pass looks, and clears it.
};
// Picks the best kernels the CPU has, at most `isa`. ERROR_ARGUMENT if the CPU lacks what was asked for.
int op_context_init(struct op_context *op, enum isa isa, struct pool *pool, struct arena *scratch, struct error *error);
// Hands the sticky error over and clears it: 0, or its code with *error filled.
int op_context_error(struct op_context *op, struct error *error);
const char *isa_name(enum isa isa);

enum op_mode { OP_SET, OP_ADD };   // out = value, or out = out + value

// ---- Linear: weights [N, K] as in the checkpoint, y = x W^T. -------------------------------------------------------
// y[M,N] f32|bf16, x[M,K] f32|bf16|e4m3 tiles, w[N,K] f32|bf16|e4m3 blocks (any strides for f32|bf16: transposed views
// are fine). y[m,n] = chain over k ascending of x[m,k] * w[n,k]. OP_ADD (f32 y only) continues the chain from y. E4M3
// on either side: one chain of codes per 128 of K, then total = fma(chain, scale of x * scale of w, total), K blocks
// ascending (spec 6.3), total from 0 (or y); the product of the scales is rounded to F32, and the scale of a side that
// is not E4M3 is 1. INT8 and INT4 weights (x f32|bf16): the same with one chain of codes per group (128 or 32 of K) and
// the group's scale. BF16 and E4M3 panels (x bf16, where op_interleaves says so): the bits of the same weights in rows.
void op_linear(struct op_context *op, struct tensor *y, const struct tensor *x, const struct tensor *w,
               enum op_mode mode);
// Both products of one input: the bits of two op_linear. Few rows take one parallel run instead of two.
void op_linear_pair(struct op_context *op, struct tensor *y_first, struct tensor *y_second, const struct tensor *x,
                    const struct tensor *w_first, const struct tensor *w_second);
// dx[M,K] = dy[M,N] W: chain over n ascending (E4M3 tiles and blocks: per 128 of N as above). OP_ADD continues an f32
// dx.
void op_linear_backward_input(struct op_context *op, struct tensor *dx, const struct tensor *dy, const struct tensor *w,
                              enum op_mode mode);
// dw[N,K] (f32) = chain over m ascending of dy[m,n] * x[m,k]; OP_ADD continues the chain from dw: processing rows in
// two calls gives the bits of one. dy, x E4M3_COLUMN: per 128 of m as above, total from 0 (or dw); two calls give the
// bits of one when the first ends with a whole tile.
void op_linear_backward_weight(struct op_context *op, struct tensor *dw, const struct tensor *dy,
                               const struct tensor *x, enum op_mode mode);

// The same for experts: rows offsets[g]..offsets[g+1]-1 of x, y belong to group g and use weight w[g] (arrays of
// `groups` tensors of one shape and format). No padding, no dropping; an empty group costs nothing, but that OP_SET
// clears its dw. Every row has the bits of the ungrouped op. E4M3_COLUMN operands of a weight gradient are those of
// op_quantize_columns with the same offsets.
void op_linear_grouped(struct op_context *op, struct tensor *y, const struct tensor *x, const struct tensor *w,
                       const int32_t *offsets, int64_t groups);
void op_linear_grouped_pair(struct op_context *op, struct tensor *y_first, struct tensor *y_second,
                            const struct tensor *x, const struct tensor *w_first, const struct tensor *w_second,
                            const int32_t *offsets, int64_t groups);
void op_linear_grouped_backward_input(struct op_context *op, struct tensor *dx, const struct tensor *dy,
                                      const struct tensor *w, const int32_t *offsets, int64_t groups);
void op_linear_grouped_backward_weight(struct op_context *op, struct tensor *dw, const struct tensor *dy,
                                       const struct tensor *x, const int32_t *offsets, int64_t groups,
                                       enum op_mode mode);

// ---- FP8 (spec 6.2): scale = e4m3_scale(amax of the tile), code = e4m3_narrow(x / scale), tensor/formats.h
// ------------ out E4M3_TILE from x f32|bf16, all [T, d]: tiles of 128 columns of one row, the last may be shorter.
// out E5M6_TILE (packed): the same with e5m6_scale and e5m6_narrow; power_of_two is true.
void op_quantize_rows(struct op_context *op, struct tensor *out, const struct tensor *x, bool power_of_two);
// y f32|bf16 = code * scale of E4M3_TILE or E5M6_TILE, rounded to F32 and then to the format.
void op_dequantize_rows(struct op_context *op, struct tensor *y, const struct tensor *x);
// out E4M3_COLUMN from x f32|bf16|E4M3_TILE|E5M6_TILE (multiplied out to F32 first), all [T, d]: tiles of 128 rows of
// one column. With `offsets` (rows offsets[g]..offsets[g+1]-1 are group g) tiles begin anew with every group, so that
// the scales of tile i, counted over the groups in order, stand in row i of out->scale, which has op_column_tiles rows.
// NULL: one group of all rows.
void op_quantize_columns(struct op_context *op, struct tensor *out, const struct tensor *x, const int32_t *offsets,
                         int64_t groups, bool power_of_two);
int64_t op_column_tiles(const int32_t *offsets, int64_t groups);
// The most that `rows` rows in groups can have: memory of this size does not depend on how they are shared out.
int64_t op_column_tiles_most(int64_t rows, int64_t groups);
// Both of x f32|bf16 in one pass: tiles [R, d] as op_quantize_rows, out [R, d] as op_quantize_columns (with offsets) of
// the rows x[rows[r],:]; rows NULL: of x itself.
void op_quantize_both(struct op_context *op, struct tensor *tiles, struct tensor *out, const struct tensor *x,
                      const int32_t *rows, const int32_t *offsets, int64_t groups, bool power_of_two);
// SwiGLU with the quantisers round it, in one pass. gate_up BF16 [T, 2I] = [gate, up] -> tiles E4M3_TILE [T, 2I] of it
// and hidden E4M3_TILE [T, I]: the bits of op_quantize_rows of gate_up and of the BF16 result of op_swiglu.
void op_swiglu_tiles(struct op_context *op, struct tensor *hidden, struct tensor *tiles, const struct tensor *gate_up,
                     bool power_of_two);
// Backward from gate_up E4M3_TILE [T, 2I] and dy BF16 [T, I]: the bits of op_dequantize_rows to BF16, op_swiglu (with
// weight) and op_swiglu_backward with BF16 results, and the quantisers of what the products after them take. dweight
// NULL: not wanted.
struct swiglu_tiles {                                           // all [T, I]
    struct tensor dgate, dup;                                   // E4M3_TILE
    struct tensor dgate_columns, dup_columns, hidden_columns;   // E4M3_COLUMN, with the offsets; hidden is weighted
};
void op_swiglu_backward_tiles(struct op_context *op, struct swiglu_tiles *out, float *dweight, const struct tensor *dy,
                              const struct tensor *gate_up, const float *weight, const int32_t *offsets, int64_t groups,
                              bool power_of_two);
// out E4M3_BLOCK from x f32|bf16: the bits of quantize_e4m3_blocks.
void op_quantize_blocks(struct op_context *op, struct tensor *out, const struct tensor *x, bool power_of_two);

// Per head: y[t,h,n] = chain over k of x[t,h,k] * w[h,n,k]; rank 3 each, any strides (w may be a transposed view), or w
// BF16 panels of [H*N, K] with N a multiple of PANEL_ROWS. Used by absorbed attention: q W_UK and context W_UV (spec
// 2.4).
void op_linear_heads(struct op_context *op, struct tensor *y, const struct tensor *x, const struct tensor *w);

// Whether products take weights in panels (tensor/panels.h), and with them are faster.
bool op_interleaves(const struct op_context *op);
// out BF16_PANELS or E4M3_PANELS, with memory for its data, from x of the same elements, rows contiguous. Scales are
// not copied: out->scale is the caller's.
void op_interleave(struct op_context *op, struct tensor *out, const struct tensor *x);

// ---- Embedding -----------------------------------------------------------------------------------------------------
// y[t,:] (f32) = table[ids[t],:].
void op_embedding(struct op_context *op, struct tensor *y, const int32_t *ids, const struct tensor *table);
// dtable[ids[t],:] (f32) += dy[t,:] (f32), t ascending for each id.
void op_embedding_backward(struct op_context *op, struct tensor *dtable, const struct tensor *dy, const int32_t *ids);

// ---- RMSNorm (spec 1.2): y = w * (x * rstd), rstd = 1 / sqrt(mean(x^2) + epsilon), FP32 statistics -----------------
// x[T,d] f32|bf16, y[T,d] f32|bf16, w[d] f32|bf16. rstd f32[T] may be NULL. Sum of squares: 16 lanes (element i to lane
// i mod 16, chain ascending), then the lane tree (lane l + lane l+8, +4, +2, +1).
void op_rms_norm(struct op_context *op, struct tensor *y, float *rstd, const struct tensor *x, const struct tensor *w,
                 float epsilon);
// dx[T,d] f32|bf16 (OP_ADD only for f32): rstd * (w*dy - x * rstd^2 * mean(w*dy*x)). dw[d] f32 continues its chain over
// rows ascending with dy * (x * rstd); NULL skips it.
void op_rms_norm_backward(struct op_context *op, struct tensor *dx, enum op_mode mode, struct tensor *dw,
                          const struct tensor *dy, const struct tensor *x, const struct tensor *w, const float *rstd);

// ---- RoPE, interleaved pairs (spec 3.3) ----------------------------------------------------------------------------
// In place on x[T, heads, 2*pairs] f32|bf16 (computed in FP32). table f32[positions, pairs, 2] = cos, sin. inverse =
// rotate by minus the angle (the backward pass).
void op_rope(struct op_context *op, struct tensor *x, const int32_t *positions, const struct tensor *table,
             bool inverse);

// ---- Attention, causal, never T x T --------------------------------------------------------------------------------
// One op for both forms of MLA, by strides: expanded: k_nope, v = per-head views [S, H, d]; absorbed: both are the
// latent with head stride 0. A span is a piece of one sequence: `count` consecutive query rows whose first has position
// `position`; it sees key positions 0..its own. Key position p stands in row (pages ? pages[p / ATTENTION_BLOCK] *
// ATTENTION_BLOCK + p % ATTENTION_BLOCK : key_row + p) of k_nope, k_rope, v.
#define ATTENTION_BLOCK \
    64   // keys walked at a time, from position 0: part of the definition of the bits, and the cache's page size
#define ATTENTION_STRETCH 512   // keys summed by themselves, so that several threads can; part of the bits too
struct attention_span {
    int64_t query_row, count, position;
    int64_t key_row;        // row of key position 0 when pages == NULL
    const int32_t *pages;   // page numbers of this sequence, or NULL
};
// q[T, H, dn+dr] ([nope ; rope]), k_nope[S, H, dn], k_rope[S, 1, dr] (shared by heads; NULL when dr is 0), v[S, H, dv];
// out[T, H, dv]; lse f32[T, H] may be NULL. All of q, k, v, out have one format; or k_nope and v are one E4M3_TILE
// tensor with head stride 0 (an FP8 latent cache), whose elements count as code * scale rounded to that format: the
// result is that over op_dequantize_rows of it. In a stretch of ATTENTION_STRETCH keys, from m = -inf, l = 0 and o = 0,
// for key block b ascending (64 keys): score_j = (chain over dn then dr of q*k) * scale for the keys j that the row
// sees; m' = max(m, max_j score); p_j = exp(score_j - m'); l = l * exp(m - m') + lanes(p) (one fused multiply-add; key
// j of the block in lane j mod 16, then the lane tree); o = o * exp(m - m'), then chain over j of p_j * v_j (p rounded
// to BF16 when v is BF16). Stretches ascending, the first as it is, another (m2, l2, o2) of which the row sees a key
// added: m' = max(m, m2); with a = exp(m - m') and b = exp(m2 - m'), l = l * a + (l2 * b) and o = o * a + (o2 * b) (one
// fused multiply-add each). out = o / l + 0; lse = m + ln(l). A key that a row does not see never enters its sums,
// whatever it holds.
void op_attention(struct op_context *op, struct tensor *out, float *lse, const struct tensor *q,
                  const struct tensor *k_nope, const struct tensor *k_rope, const struct tensor *v,
                  const struct attention_span *spans, int64_t span_count, float scale);
// Gradients of the above (spans with pages == NULL and position == 0). OP_SET for all rows of the spans, F32 or BF16
// each; dk_rope sums over heads ascending. D = rowsum(dout * out) by lanes; p = exp(score - lse) with the forward's
// score; dp = chain over dv of dout * v; ds = (p * (dp - D)) * scale. dv sums p * dout and dk sums ds * q over queries
// ascending, dq sums ds * k over keys ascending, each one F32 chain (p and ds rounded to BF16 when q is BF16), + 0
// before it is stored.
void op_attention_backward(struct op_context *op, struct tensor *dq, struct tensor *dk_nope, struct tensor *dk_rope,
                           struct tensor *dv, const struct tensor *dout, const struct tensor *out, const float *lse,
                           const struct tensor *q, const struct tensor *k_nope, const struct tensor *k_rope,
                           const struct tensor *v, const struct attention_span *spans, int64_t span_count, float scale);

// ---- SwiGLU --------------------------------------------------------------------------------------------------------
// y = [weight[row] *] silu(gate) * up, rows f32|bf16, computed in FP32. weight f32[rows] or NULL (the expert's gate
// value in wgrad of down_proj).
void op_swiglu(struct op_context *op, struct tensor *y, const struct tensor *gate, const struct tensor *up,
               const float *weight);
// With dy the gradient of the row before weighting: dgate, dup of weight * dy; dweight[row] = lane-tree sum of dy *
// silu(gate) * up (NULL skips). dgate/dup may alias gate/up.
void op_swiglu_backward(struct op_context *op, struct tensor *dgate, struct tensor *dup, float *dweight,
                        const struct tensor *dy, const struct tensor *gate, const struct tensor *up,
                        const float *weight);

// ---- Router (spec 4.2) ---------------------------------------------------------------------------------------------
enum router_score { ROUTER_SIGMOID, ROUTER_SOFTMAX };
enum router_method {
    ROUTER_GREEDY,
    ROUTER_GROUP_MAX,
    ROUTER_GROUP_TOP2
};   // greedy, group_limited_greedy (V2), noaux_tc (V3)
struct router_rule {
    int64_t experts, top_k, groups, top_groups;
    enum router_score score;
    enum router_method method;
    bool normalize;   // norm_topk_prob: divide by (sum + 1e-20)
    float scaling;    // routed_scaling_factor
};
// logits f32[T, E], bias f32[E] or NULL -> score f32[T, E] (sigmoid or softmax), expert[T, K] (ascending ids),
// weight[T, K]. Selection uses score + bias, groups not kept are -inf, ties go to the lowest index; weights use the
// score alone, sums over k in ascending expert id.
void op_router(struct op_context *op, float *score, int32_t *expert, float *weight, const struct tensor *logits,
               const float *bias, const struct router_rule *rule);
// dlogits f32[T, E] from dweight[T, K] and, when dshare != NULL, from the gradient of the normalised scores s' = s /
// sum(s) of spec eq. 19: dshare[sequence_of_token(t), e] = dL/ds'_{e,t}, the same for all tokens of a sequence of
// `sequence_length` rows.
void op_router_backward(struct op_context *op, struct tensor *dlogits, const float *dweight, const float *score,
                        const int32_t *expert, const struct router_rule *rule, const float *dshare,
                        int64_t sequence_length);
// Sequence-wise balance loss (spec 4.4, eq. 17-20) of `sequences` equal sequences: loss[sequence] = sum_i f_i P_i
// (without alpha), and f[sequence, E] (for dshare = alpha * f / T * loss scale). f counts the plain top-K of score,
// without bias or groups, as printed in eq. 18. Softmax scores are used as they are in P (V2), sigmoid scores divided
// by their sum.
void op_balance_loss(struct op_context *op, float *loss, float *f, const float *score, int64_t sequences,
                     int64_t sequence_length, const struct router_rule *rule);

// ---- Moving rows ---------------------------------------------------------------------------------------------------
// y[i,:] = x[rows[i],:], formats may differ. E4M3_TILE into E4M3_TILE moves codes and scales as they are, into F32 or
// BF16 it is multiplied out as by op_dequantize_rows.
void op_gather_rows(struct op_context *op, struct tensor *y, const struct tensor *x, const int32_t *rows);
// y[rows[i],:] = x[i,:] (rows distinct): writes a cache. y E4M3_TILE: as op_quantize_rows, scales powers of two.
void op_scatter_rows(struct op_context *op, struct tensor *y, const struct tensor *x, const int32_t *rows);
// y[t,:] (f32) (+)= chain over k of weight[t,k] * x[slot[t,k],:]; weight NULL = plain sum. slot < 0 is skipped.
void op_combine_rows(struct op_context *op, struct tensor *y, const struct tensor *x, const int32_t *slot,
                     const float *weight, int64_t top_k, enum op_mode mode);
void op_copy(struct op_context *op, struct tensor *y, const struct tensor *x);   // rank 1..3, casts
void op_add(struct op_context *op, struct tensor *y, const struct tensor *x);    // y (f32) += x (f32|bf16)
void op_sum(struct op_context *op, struct tensor *y, const struct tensor *a,
            const struct tensor *b);   // y (f32|bf16; may be a) = a (f32) + b (f32|bf16), rounded
void op_zero(struct op_context *op, struct tensor *y);

// ---- Loss ----------------------------------------------------------------------------------------------------------
// logits f32[T, V]; targets[t] in [0, V) or -1 (ignored: loss 0, gradient 0). loss[t] = logsumexp(logits[t]) -
// logits[t, target], with the vocabulary walked in fixed blocks. dlogits[T, V] f32|bf16 (may alias an f32 logits; NULL
// = loss only) = scale * (softmax - onehot).
void op_cross_entropy(struct op_context *op, float *loss, struct tensor *dlogits, const struct tensor *logits,
                      const int32_t *targets, float scale);

// One row x[n] of logits, on the calling thread (for the tasks of a sampler): *maximum = the largest (NaN skipped, -inf
// if nothing is larger); returns the sum of exp(x - maximum), summed as op_cross_entropy does, so that
// -(math_log(sum) + (maximum - x[i])) has the bits of its loss with the sign changed. y (NULL, or y = x) keeps
// exp(x - maximum).
float op_row_maximum(const struct op_context *op, const float *x, int64_t n);
float op_softmax_row(const struct op_context *op, float *y, float *maximum, const float *x, int64_t n);

// ---- Random numbers ------------------------------------------------------------------------------------------------

// out[i] = rng_normal(seed, stream, first + i) of base/rng.h, the same bits everywhere. By the calling thread alone:
// may be called inside a task.
void op_random_normal(const struct op_context *op, float *out, uint64_t seed, uint64_t stream, uint64_t first,
                      int64_t count);

// ---- Optimizer -----------------------------------------------------------------------------------------------------
struct adamw_step {
    float learning_rate, beta1, beta2, epsilon, weight_decay;   // weight_decay 0 for parameters that do not decay
    float correction1, correction2;                             // 1 - beta^t
    float gradient_scale;                                       // clipping factor, applied to the gradient first
    bool power_of_two;                                          // scales of a weight in E4M3_BLOCK
};
// master f32, m and v bf16|f32, gradient f32, all packed with the same element count; weight (NULL, or bf16|f32)
// receives the rounded master. weight E4M3_BLOCK, of the shape of master: what op_quantize_blocks makes of master.
void op_adamw(struct op_context *op, struct tensor *master, struct tensor *m, struct tensor *v, struct tensor *weight,
              const struct tensor *gradient, const struct adamw_step *step);
void op_ema(struct op_context *op, struct tensor *average, const struct tensor *master,
            float decay);   // a = decay*a + (1-decay)*w
// Sum of squares of a packed f32 tensor: blocks of 4096 elements by 16 lanes and the lane tree, blocks added in double,
// ascending.
double op_sum_squares(struct op_context *op, const struct tensor *x);
bool op_all_finite(struct op_context *op, const struct tensor *x);

#endif
