// Every operation but the matrix products (ops_linear.c): shapes and formats are checked here, then the device's
// function runs. A wrong shape is a bug of ours, so it stops the process (CHECK) before any memory is touched.
#include "op/ops.h"

#include <stddef.h>

#include "base/error.h"
#include "op/cpu/cpu_ops.h"
#include "op/op_times.h"

static bool is_activation(const struct tensor *tensor) {
    return tensor->format == FORMAT_F32 || tensor->format == FORMAT_BF16;
}

// F32 or BF16, of the given rank, innermost stride 1.
static void check_activation(const struct tensor *tensor, int rank, const char *name) {
    CHECK(tensor->device == DEVICE_CPU, "%s", name);
    CHECK(is_activation(tensor), "%s: format %d", name, tensor->format);
    CHECK(tensor->rank == rank, "%s: rank %d, expected %d", name, tensor->rank, rank);
    CHECK(tensor->stride[rank - 1] == 1 || tensor->shape[rank - 1] <= 1, "%s: innermost stride", name);
    CHECK(tensor->data != NULL || tensor_elements(tensor) == 0, "%s: no data", name);
}

static void check_float(const struct tensor *tensor, int rank, const char *name) {
    check_activation(tensor, rank, name);
    CHECK(tensor->format == FORMAT_F32, "%s: format %d, expected f32", name, tensor->format);
}

static void check_shape(const struct tensor *tensor, const struct tensor *like, const char *name) {
    char found[96], expected[96];
    CHECK(tensor_same_shape(tensor, like), "%s: %s, expected %s", name, tensor_shape_text(found, tensor),
          tensor_shape_text(expected, like));
}

static void check_packed_float(const struct tensor *tensor, const char *name) {
    CHECK(tensor->format == FORMAT_F32 && tensor_packed(tensor) && tensor->device == DEVICE_CPU,
          "%s: packed f32 expected", name);
}

void op_embedding(struct op_context *op, struct tensor *y, const int32_t *ids, const struct tensor *table) {
    check_float(y, 2, "y");
    CHECK(table->rank == 2 && table->shape[1] == y->shape[1], "embedding: widths of y and table differ");
    if (table->format != FORMAT_E4M3_BLOCK) {
        check_activation(table, 2, "table");
    }
    cpu_embedding(op, y, ids, table);
}

void op_embedding_backward(struct op_context *op, struct tensor *dtable, const struct tensor *dy, const int32_t *ids) {
    check_float(dtable, 2, "dtable");
    check_float(dy, 2, "dy");
    CHECK(dtable->shape[1] == dy->shape[1], "embedding: widths of dy and dtable differ");
    cpu_embedding_backward(op, dtable, dy, ids);
}

void op_rms_norm(struct op_context *op, struct tensor *y, float *rstd, const struct tensor *x, const struct tensor *w,
                 float epsilon) {
    check_activation(x, 2, "x");
    check_activation(y, 2, "y");
    check_activation(w, 1, "w");
    check_shape(y, x, "y");
    CHECK(w->shape[0] == x->shape[1], "rms_norm: widths of x and w differ");
    cpu_rms_norm(op, y, rstd, x, w, epsilon);
}

void op_rms_norm_backward(struct op_context *op, struct tensor *dx, enum op_mode mode, struct tensor *dw,
                          const struct tensor *dy, const struct tensor *x, const struct tensor *w, const float *rstd) {
    check_activation(dx, 2, "dx");
    check_activation(dy, 2, "dy");
    check_activation(x, 2, "x");
    check_activation(w, 1, "w");
    check_shape(dx, x, "dx");
    check_shape(dy, x, "dy");
    CHECK(w->shape[0] == x->shape[1], "rms_norm: widths of x and w differ");
    CHECK(rstd != NULL, "rms_norm: rstd of the forward pass is missing");
    CHECK(mode == OP_SET || dx->format == FORMAT_F32, "rms_norm: only an f32 dx can be added to");
    if (dw != NULL) {
        check_float(dw, 1, "dw");
        check_shape(dw, w, "dw");
    }
    cpu_rms_norm_backward(op, dx, mode, dw, dy, x, w, rstd);
}

void op_rope(struct op_context *op, struct tensor *x, const int32_t *positions, const struct tensor *table,
             bool inverse) {
    check_activation(x, 3, "x");
    check_float(table, 3, "table");
    CHECK(table->shape[2] == 2 && (table->stride[1] == 2 || table->shape[1] <= 1), "rope: table rows are not pairs");
    CHECK(x->shape[2] == 2 * table->shape[1], "rope: %lld elements, table of %lld pairs", (long long)x->shape[2],
          (long long)table->shape[1]);
    cpu_rope(op, x, positions, table, inverse);
}

// Shapes that attention and its gradient share; S is the number of key rows.
static void check_attention(const struct tensor *q, const struct tensor *k_nope, const struct tensor *k_rope,
                            const struct tensor *v) {
    check_activation(q, 3, "q");
    check_activation(k_nope, 3, "k_nope");
    check_activation(v, 3, "v");
    int64_t heads = q->shape[1], rope = q->shape[2] - k_nope->shape[2];
    CHECK(k_nope->shape[1] == heads && v->shape[1] == heads, "attention: heads of q, k and v differ");
    CHECK(v->shape[0] == k_nope->shape[0], "attention: rows of k and v differ");
    CHECK(rope >= 0 && q->shape[2] > 0 && v->shape[2] > 0, "attention: widths of q, k and v");
    CHECK(k_nope->format == q->format && v->format == q->format, "formats of q, k and v differ");
    if (rope > 0) {
        check_activation(k_rope, 3, "k_rope");
        CHECK(k_rope->format == q->format && k_rope->shape[0] == k_nope->shape[0] && k_rope->shape[1] == 1 &&
                  k_rope->shape[2] == rope,
              "attention: k_rope does not fit q and k_nope");
    }
}

// Keys and values in one tensor of tiles.
static void check_latent(const struct tensor *k_nope, const struct tensor *v) {
    CHECK(v->format == FORMAT_E4M3_TILE && v->data == k_nope->data && v->scale == k_nope->scale &&
              v->stride[0] == k_nope->stride[0] && v->scale_stride == k_nope->scale_stride && v->rank == k_nope->rank &&
              tensor_same_shape(v, k_nope),
          "attention: keys and values in E4M3 are not one tensor");
    CHECK(k_nope->stride[1] == 0 && v->stride[1] == 0 && k_nope->scale != NULL,
          "attention: E4M3 keys that heads do not share");
}

void op_attention(struct op_context *op, struct tensor *out, float *lse, const struct tensor *q,
                  const struct tensor *k_nope, const struct tensor *k_rope, const struct tensor *v,
                  const struct attention_span *spans, int64_t span_count, float scale) {
    if (k_nope->format == FORMAT_E4M3_TILE) {
        check_latent(k_nope, v);
        struct tensor plain = *k_nope;
        plain.format = q->format;
        check_attention(q, &plain, k_rope, &plain);
    } else {
        check_attention(q, k_nope, k_rope, v);
    }
    check_activation(out, 3, "out");
    CHECK(out->format == q->format && out->shape[0] == q->shape[0] && out->shape[1] == q->shape[1] &&
              out->shape[2] == v->shape[2],
          "attention: out does not fit q and v");
    for (int64_t i = 0; i < span_count; i++) {
        const struct attention_span *span = &spans[i];
        int64_t keys = span->position + span->count;
        CHECK(span->count >= 0 && span->position >= 0 && span->query_row >= 0 &&
                  span->query_row + span->count <= q->shape[0],
              "span %lld: queries beyond the tensor", (long long)i);
        if (span->pages == NULL) {
            CHECK(span->key_row >= 0 && span->key_row + keys <= k_nope->shape[0], "span %lld: keys beyond the tensor",
                  (long long)i);
            continue;
        }
        for (int64_t page = 0; span->count > 0 && page * ATTENTION_BLOCK < keys; page++) {
            int64_t first = (int64_t)span->pages[page] * ATTENTION_BLOCK, left = keys - page * ATTENTION_BLOCK;
            CHECK(first >= 0 && first + (left < ATTENTION_BLOCK ? left : ATTENTION_BLOCK) <= k_nope->shape[0],
                  "span %lld: page %d is beyond the tensor", (long long)i, span->pages[page]);
        }
    }
    double began = op_times_begin(op);
    cpu_attention(op, out, lse, q, k_nope, k_rope, v, spans, span_count, scale);
    op_times_end(op, OP_ATTENTION, began);
}

void op_attention_backward(struct op_context *op, struct tensor *dq, struct tensor *dk_nope, struct tensor *dk_rope,
                           struct tensor *dv, const struct tensor *dout, const struct tensor *out, const float *lse,
                           const struct tensor *q, const struct tensor *k_nope, const struct tensor *k_rope,
                           const struct tensor *v, const struct attention_span *spans, int64_t span_count,
                           float scale) {
    check_attention(q, k_nope, k_rope, v);
    check_activation(dq, 3, "dq");
    check_activation(dk_nope, 3, "dk_nope");
    check_activation(dv, 3, "dv");
    check_activation(dout, 3, "dout");
    check_activation(out, 3, "out");
    check_shape(dq, q, "dq");
    check_shape(dk_nope, k_nope, "dk_nope");
    check_shape(dv, v, "dv");
    check_shape(dout, out, "dout");
    CHECK(out->shape[0] == q->shape[0] && out->shape[1] == q->shape[1] && out->shape[2] == v->shape[2],
          "attention: out does not fit q and v");
    CHECK(dout->format == q->format && out->format == q->format, "formats of q, out and dout differ");
    CHECK(lse != NULL, "attention: lse of the forward pass is missing");
    CHECK(q->shape[1] == 1 || (dk_nope->stride[1] > 0 && dv->stride[1] > 0), "heads share a gradient");
    if (q->shape[2] > k_nope->shape[2]) {
        check_activation(dk_rope, 3, "dk_rope");
        check_shape(dk_rope, k_rope, "dk_rope");
    }
    for (int64_t i = 0; i < span_count; i++) {
        CHECK(spans[i].pages == NULL && spans[i].position == 0 && spans[i].count >= 0,
              "span %lld: not a whole sequence", (long long)i);
        CHECK(spans[i].query_row >= 0 && spans[i].query_row + spans[i].count <= q->shape[0],
              "span %lld: queries beyond the tensor", (long long)i);
        CHECK(spans[i].key_row >= 0 && spans[i].key_row + spans[i].count <= k_nope->shape[0],
              "span %lld: keys beyond the tensor", (long long)i);
    }
    double began = op_times_begin(op);
    cpu_attention_backward(op, dq, dk_nope, dk_rope, dv, dout, out, lse, q, k_nope, k_rope, v, spans, span_count,
                           scale);
    op_times_end(op, OP_ATTENTION, began);
}

void op_swiglu(struct op_context *op, struct tensor *y, const struct tensor *gate, const struct tensor *up,
               const float *weight) {
    check_activation(y, 2, "y");
    check_activation(gate, 2, "gate");
    check_activation(up, 2, "up");
    check_shape(gate, y, "gate");
    check_shape(up, y, "up");
    cpu_swiglu(op, y, gate, up, weight);
}

void op_swiglu_backward(struct op_context *op, struct tensor *dgate, struct tensor *dup, float *dweight,
                        const struct tensor *dy, const struct tensor *gate, const struct tensor *up,
                        const float *weight) {
    check_activation(dgate, 2, "dgate");
    check_activation(dup, 2, "dup");
    check_activation(dy, 2, "dy");
    check_activation(gate, 2, "gate");
    check_activation(up, 2, "up");
    check_shape(dgate, dy, "dgate");
    check_shape(dup, dy, "dup");
    check_shape(gate, dy, "gate");
    check_shape(up, dy, "up");
    cpu_swiglu_backward(op, dgate, dup, dweight, dy, gate, up, weight);
}

static void check_rule(const struct router_rule *rule) {
    CHECK(rule->experts > 0 && rule->top_k > 0 && rule->top_k <= rule->experts, "router: %lld of %lld experts",
          (long long)rule->top_k, (long long)rule->experts);
    if (rule->method != ROUTER_GREEDY) {
        CHECK(rule->groups > 0 && rule->experts % rule->groups == 0, "router: %lld experts in %lld groups",
              (long long)rule->experts, (long long)rule->groups);
        CHECK(rule->top_groups > 0 && rule->top_groups <= rule->groups, "router: %lld of %lld groups",
              (long long)rule->top_groups, (long long)rule->groups);
        CHECK(rule->top_k <= rule->experts / rule->groups * rule->top_groups,
              "fewer experts in the kept groups than top_k");
    }
}

void op_router(struct op_context *op, float *score, int32_t *expert, float *weight, const struct tensor *logits,
               const float *bias, const struct router_rule *rule) {
    check_float(logits, 2, "logits");
    check_rule(rule);
    CHECK(logits->shape[1] == rule->experts, "router: %lld logits, %lld experts", (long long)logits->shape[1],
          (long long)rule->experts);
    cpu_router(op, score, expert, weight, logits, bias, rule);
}

void op_router_backward(struct op_context *op, struct tensor *dlogits, const float *dweight, const float *score,
                        const int32_t *expert, const struct router_rule *rule, const float *dshare,
                        int64_t sequence_length) {
    check_float(dlogits, 2, "dlogits");
    check_rule(rule);
    CHECK(dlogits->shape[1] == rule->experts, "router: %lld logits, %lld experts", (long long)dlogits->shape[1],
          (long long)rule->experts);
    CHECK(dshare == NULL || sequence_length > 0, "router: sequence length %lld", (long long)sequence_length);
    cpu_router_backward(op, dlogits, dweight, score, expert, rule, dshare, sequence_length);
}

void op_balance_loss(struct op_context *op, float *loss, float *f, const float *score, int64_t sequences,
                     int64_t sequence_length, const struct router_rule *rule) {
    check_rule(rule);
    CHECK(sequences >= 0 && sequence_length > 0, "%lld sequences of %lld", (long long)sequences,
          (long long)sequence_length);
    cpu_balance_loss(op, loss, f, score, sequences, sequence_length, rule);
}

static void check_tiles(const struct tensor *tensor, const char *name) {
    CHECK(tensor->format == FORMAT_E4M3_TILE && tensor->rank == 2 && tensor->device == DEVICE_CPU, "%s: format %d",
          name, tensor->format);
    CHECK(tensor->stride[1] == 1 && (tensor->scale != NULL || tensor_elements(tensor) == 0), "%s: layout of tiles",
          name);
}

void op_gather_rows(struct op_context *op, struct tensor *y, const struct tensor *x, const int32_t *rows) {
    if (x->format == FORMAT_E4M3_TILE) {
        check_tiles(x, "x");
        CHECK(y->shape[1] == x->shape[1], "gather_rows: widths of y and x differ");
        if (y->format == FORMAT_E4M3_TILE) {
            check_tiles(y, "y");
            cpu_gather_tiles(op, y, x, rows);
        } else {
            check_activation(y, 2, "y");
            cpu_gather_widened(op, y, x, rows);
        }
        return;
    }
    check_activation(y, 2, "y");
    check_activation(x, 2, "x");
    CHECK(y->shape[1] == x->shape[1], "gather_rows: widths of y and x differ");
    cpu_gather_rows(op, y, x, rows);
}

void op_scatter_rows(struct op_context *op, struct tensor *y, const struct tensor *x, const int32_t *rows) {
    check_activation(x, 2, "x");
    CHECK(y->shape[1] == x->shape[1], "scatter_rows: widths of y and x differ");
    if (y->format == FORMAT_E4M3_TILE) {
        check_tiles(y, "y");
        cpu_scatter_tiles(op, y, x, rows);
        return;
    }
    check_activation(y, 2, "y");
    cpu_scatter_rows(op, y, x, rows);
}

void op_combine_rows(struct op_context *op, struct tensor *y, const struct tensor *x, const int32_t *slot,
                     const float *weight, int64_t top_k, enum op_mode mode) {
    check_float(y, 2, "y");
    check_activation(x, 2, "x");
    CHECK(y->shape[1] == x->shape[1] && top_k >= 0, "combine_rows: widths of y and x differ");
    cpu_combine_rows(op, y, x, slot, weight, top_k, mode);
}

void op_copy(struct op_context *op, struct tensor *y, const struct tensor *x) {
    CHECK(y->rank >= 1 && y->rank <= 3, "copy: rank %d", y->rank);
    CHECK(y->device == DEVICE_CPU && x->device == DEVICE_CPU, "copy: not on the CPU");
    check_shape(y, x, "y");
    CHECK(y->stride[y->rank - 1] == 1 || y->shape[y->rank - 1] <= 1, "copy: innermost stride of y");
    CHECK(x->stride[x->rank - 1] == 1 || x->shape[x->rank - 1] <= 1, "copy: innermost stride of x");
    bool casts = is_activation(y) && is_activation(x);
    bool same = y->format == x->format && x->format != FORMAT_E4M3_BLOCK;
    bool widens = y->format == FORMAT_F32 && x->format == FORMAT_E4M3_BLOCK && x->rank == 2;
    CHECK(casts || same || widens, "no copy from format %d to %d", x->format, y->format);
    cpu_copy(op, y, x);
}

void op_add(struct op_context *op, struct tensor *y, const struct tensor *x) {
    CHECK(y->rank >= 1 && y->rank <= 3, "add: rank %d", y->rank);
    check_float(y, y->rank, "y");
    check_activation(x, y->rank, "x");
    check_shape(x, y, "x");
    cpu_add(op, y, x);
}

void op_sum(struct op_context *op, struct tensor *y, const struct tensor *a, const struct tensor *b) {
    check_activation(y, 2, "y");
    check_float(a, 2, "a");
    check_activation(b, 2, "b");
    check_shape(a, y, "a");
    check_shape(b, y, "b");
    cpu_sum(op, y, a, b);
}

void op_zero(struct op_context *op, struct tensor *y) {
    CHECK(y->rank >= 1 && y->rank <= 3 && y->device == DEVICE_CPU && y->format != FORMAT_E4M3_BLOCK,
          "zero: rank %d, format %d", y->rank, y->format);
    CHECK(y->stride[y->rank - 1] == 1 || y->shape[y->rank - 1] <= 1, "zero: innermost stride");
    cpu_zero(op, y);
}

void op_cross_entropy(struct op_context *op, float *loss, struct tensor *dlogits, const struct tensor *logits,
                      const int32_t *targets, float scale) {
    check_float(logits, 2, "logits");
    CHECK(logits->shape[1] > 0, "cross_entropy: no vocabulary");
    if (dlogits != NULL) {
        check_activation(dlogits, 2, "dlogits");
        check_shape(dlogits, logits, "dlogits");
    }
    cpu_cross_entropy(op, loss, dlogits, logits, targets, scale);
}

float op_row_maximum(const struct op_context *op, const float *x, int64_t n) {
    return cpu_row_maximum(op, x, n);
}

float op_softmax_row(const struct op_context *op, float *y, float *maximum, const float *x, int64_t n) {
    CHECK(n > 0, "softmax of %lld elements", (long long)n);
    return cpu_softmax_row(op, y, maximum, x, n);
}

void op_adamw(struct op_context *op, struct tensor *master, struct tensor *m, struct tensor *v, struct tensor *weight,
              const struct tensor *gradient, const struct adamw_step *step) {
    check_packed_float(master, "master");
    check_packed_float(gradient, "gradient");
    int64_t elements = tensor_elements(master);
    CHECK(is_activation(m) && is_activation(v) && tensor_packed(m) && tensor_packed(v),
          "adamw: moments not packed f32 or bf16");
    CHECK(tensor_elements(m) == elements && tensor_elements(v) == elements && tensor_elements(gradient) == elements,
          "adamw: sizes differ");
    bool blocks = weight != NULL && weight->format == FORMAT_E4M3_BLOCK;
    CHECK(!blocks || (tensor_same_shape(weight, master) && master->rank == 2 && weight->scale != NULL),
          "adamw: weight in blocks does not fit master");
    CHECK(weight == NULL || blocks ||
              (is_activation(weight) && tensor_packed(weight) && tensor_elements(weight) == elements),
          "adamw: weight does not fit master");
    cpu_adamw(op, master, m, v, weight, gradient, step);
}

void op_ema(struct op_context *op, struct tensor *average, const struct tensor *master, float decay) {
    check_packed_float(average, "average");
    check_packed_float(master, "master");
    CHECK(tensor_elements(average) == tensor_elements(master), "ema: sizes differ");
    cpu_ema(op, average, master, decay);
}

double op_sum_squares(struct op_context *op, const struct tensor *x) {
    check_packed_float(x, "x");
    return cpu_sum_squares(op, x);
}

bool op_all_finite(struct op_context *op, const struct tensor *x) {
    check_packed_float(x, "x");
    return cpu_all_finite(op, x);
}
