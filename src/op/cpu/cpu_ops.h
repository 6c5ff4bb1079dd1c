// The operations on the CPU, called by ops.c after its shape checks; one file each. They split rows (or columns, where
// rows are summed) over the pool so that every output element is computed by exactly one task in the order that ops.h
// writes down.
#ifndef MINKE_OP_CPU_CPU_OPS_H
#define MINKE_OP_CPU_CPU_OPS_H

#include "op/cpu/row_kernels.h"
#include "op/ops.h"

// op_linear_heads of few rows with a weight whose columns, not k, are contiguous; whether it serves these tensors.
bool cpu_linear_heads_served(const struct op_context *op, const struct tensor *y, const struct tensor *x,
                             const struct tensor *w);
void cpu_linear_heads(struct op_context *op, struct tensor *y, const struct tensor *x, const struct tensor *w);
void cpu_embedding(struct op_context *op, struct tensor *y, const int32_t *ids, const struct tensor *table);
void cpu_embedding_backward(struct op_context *op, struct tensor *dtable, const struct tensor *dy, const int32_t *ids);
void cpu_rms_norm(struct op_context *op, struct tensor *y, float *rstd, const struct tensor *x, const struct tensor *w,
                  float epsilon);
void cpu_rms_norm_backward(struct op_context *op, struct tensor *dx, enum op_mode mode, struct tensor *dw,
                           const struct tensor *dy, const struct tensor *x, const struct tensor *w, const float *rstd);
void cpu_rope(struct op_context *op, struct tensor *x, const int32_t *positions, const struct tensor *table,
              bool inverse);
void cpu_attention(struct op_context *op, struct tensor *out, float *lse, const struct tensor *q,
                   const struct tensor *k_nope, const struct tensor *k_rope, const struct tensor *v,
                   const struct attention_span *spans, int64_t span_count, float scale);
void cpu_attention_backward(struct op_context *op, struct tensor *dq, struct tensor *dk_nope, struct tensor *dk_rope,
                            struct tensor *dv, const struct tensor *dout, const struct tensor *out, const float *lse,
                            const struct tensor *q, const struct tensor *k_nope, const struct tensor *k_rope,
                            const struct tensor *v, const struct attention_span *spans, int64_t span_count,
                            float scale);
void cpu_swiglu(struct op_context *op, struct tensor *y, const struct tensor *gate, const struct tensor *up,
                const float *weight);
void cpu_swiglu_backward(struct op_context *op, struct tensor *dgate, struct tensor *dup, float *dweight,
                         const struct tensor *dy, const struct tensor *gate, const struct tensor *up,
                         const float *weight);
void cpu_router(struct op_context *op, float *score, int32_t *expert, float *weight, const struct tensor *logits,
                const float *bias, const struct router_rule *rule);
void cpu_router_backward(struct op_context *op, struct tensor *dlogits, const float *dweight, const float *score,
                         const int32_t *expert, const struct router_rule *rule, const float *dshare,
                         int64_t sequence_length);
void cpu_balance_loss(struct op_context *op, float *loss, float *f, const float *score, int64_t sequences,
                      int64_t sequence_length, const struct router_rule *rule);
void cpu_gather_rows(struct op_context *op, struct tensor *y, const struct tensor *x, const int32_t *rows);
void cpu_scatter_rows(struct op_context *op, struct tensor *y, const struct tensor *x, const int32_t *rows);
void cpu_combine_rows(struct op_context *op, struct tensor *y, const struct tensor *x, const int32_t *slot,
                      const float *weight, int64_t top_k, enum op_mode mode);
void cpu_copy(struct op_context *op, struct tensor *y, const struct tensor *x);
void cpu_add(struct op_context *op, struct tensor *y, const struct tensor *x);
void cpu_sum(struct op_context *op, struct tensor *y, const struct tensor *a, const struct tensor *b);
void cpu_zero(struct op_context *op, struct tensor *y);
void cpu_cross_entropy(struct op_context *op, float *loss, struct tensor *dlogits, const struct tensor *logits,
                       const int32_t *targets, float scale);
float cpu_row_maximum(const struct op_context *op, const float *x, int64_t n);
float cpu_softmax_row(const struct op_context *op, float *y, float *maximum, const float *x, int64_t n);
void cpu_adamw(struct op_context *op, struct tensor *master, struct tensor *m, struct tensor *v, struct tensor *weight,
               const struct tensor *gradient, const struct adamw_step *step);
void cpu_ema(struct op_context *op, struct tensor *average, const struct tensor *master, float decay);
double cpu_sum_squares(struct op_context *op, const struct tensor *x);
bool cpu_all_finite(struct op_context *op, const struct tensor *x);

void cpu_interleave(struct op_context *op, struct tensor *out, const struct tensor *x);
void cpu_quantize_rows(struct op_context *op, struct tensor *out, const struct tensor *x, bool power_of_two);
void cpu_dequantize_rows(struct op_context *op, struct tensor *y, const struct tensor *x);
void cpu_quantize_columns(struct op_context *op, struct tensor *out, const struct tensor *x, const int32_t *offsets,
                          int64_t groups, bool power_of_two);
void cpu_quantize_both(struct op_context *op, struct tensor *tiles, struct tensor *out, const struct tensor *x,
                       const int32_t *rows, const int32_t *offsets, int64_t groups, bool power_of_two);
void cpu_swiglu_tiles(struct op_context *op, struct tensor *hidden, struct tensor *tiles, const struct tensor *gate_up,
                      bool power_of_two);
void cpu_swiglu_backward_tiles(struct op_context *op, struct swiglu_tiles *out, float *dweight, const struct tensor *dy,
                               const struct tensor *gate_up, const float *weight, const int32_t *offsets,
                               int64_t groups, bool power_of_two);
void cpu_quantize_blocks(struct op_context *op, struct tensor *out, const struct tensor *x, bool power_of_two);
void cpu_gather_tiles(struct op_context *op, struct tensor *y, const struct tensor *x, const int32_t *rows);
void cpu_gather_widened(struct op_context *op, struct tensor *y, const struct tensor *x, const int32_t *rows);
void cpu_scatter_tiles(struct op_context *op, struct tensor *y, const struct tensor *x, const int32_t *rows);

// Reads memory front to back, a byte of each line. The hardware runs ahead of such reads, which it does not of lines
// that are asked for by instructions; those it drops when many are on their way.
#define MEMORY_LINE 64
static inline void memory_touch(const void *from, int64_t bytes) {
    for (int64_t byte = 0; byte < bytes; byte += MEMORY_LINE) {
        (void)*((const volatile char *)from + byte);
    }
}

// Rows 0..rows-1 cut into tasks of `chunk` rows.
struct row_split {
    int64_t rows, chunk, tasks;
};
// Chunks of about 16 K elements: long enough to hide the cost of a task, short enough to balance.
static inline struct row_split row_split_make(int64_t rows, int64_t elements_per_row) {
    struct row_split split = {.rows = rows, .chunk = 16384 / (elements_per_row > 0 ? elements_per_row : 1)};
    if (split.chunk < 1) {
        split.chunk = 1;
    }
    split.tasks = (rows + split.chunk - 1) / split.chunk;
    return split;
}
static inline int64_t row_split_begin(const struct row_split *split, int64_t task) {
    return task * split->chunk;
}
static inline int64_t row_split_end(const struct row_split *split, int64_t task) {
    int64_t end = (task + 1) * split->chunk;
    return end < split->rows ? end : split->rows;
}
// Row `index` of a rank-2 F32 or BF16 tensor.
static inline struct row tensor_row(const struct tensor *tensor, int64_t index) {
    struct row row = {.data = tensor->data, .format = (enum format)tensor->format};
    return row_advance(row, index * tensor->stride[0]);
}
// Elements [row, head, :] of a rank-3 one.
static inline struct row tensor_head_row(const struct tensor *tensor, int64_t row, int64_t head) {
    return row_advance(tensor_row(tensor, row), head * tensor->stride[1]);
}
static inline float *float_row(const struct tensor *tensor, int64_t index) {
    return (float *)tensor->data + index * tensor->stride[0];
}
static inline struct row row_of_floats(float *data) {
    return (struct row){.data = data, .format = FORMAT_F32};
}

#endif
