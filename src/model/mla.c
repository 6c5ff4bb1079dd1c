// Multi-head latent attention; see mla.h.
#include "model/mla.h"

#include "model/pass.h"
#include "tensor/formats.h"

// The two latent norms have their own epsilon, the default of the official class, whatever rms_norm_eps says of the
// block norms (docs/numerics.md).
#define LATENT_EPSILON 1e-6f

struct mla_sizes {
    int64_t tokens, hidden, heads, nope, rope, value, latent, q_lora;
    int64_t query_width, kv_width;     // H * (dn + dr), H * (dn + dv)
    enum format format;                // of activations between Linears
    enum linear_precision precision;   // of all Linears but o_proj
    float scale;
};

static struct mla_sizes mla_sizes(const struct tensor *x, const struct model_config *config) {
    struct mla_sizes n = {
        .tokens = x->shape[0],
        .hidden = x->shape[1],
        .heads = config->num_attention_heads,
        .nope = config->qk_nope_head_dim,
        .rope = config->qk_rope_head_dim,
        .value = config->v_head_dim,
        .latent = config->kv_lora_rank,
        .q_lora = config->q_lora_rank,
        .scale = model_softmax_scale(config),
        .format = x->format == FORMAT_E4M3_TILE ? FORMAT_BF16 : (enum format)x->format,
        .precision = x->format == FORMAT_E4M3_TILE ? LINEAR_FP8 : LINEAR_PLAIN,
    };
    n.query_width = n.heads * (n.nope + n.rope);
    n.kv_width = n.heads * (n.nope + n.value);
    return n;
}

// The input of o_proj, which attention's backward needs too, has scales that are powers of two (spec 6.4).
static enum linear_precision output_precision(const struct mla_sizes *n) {
    return n->precision == LINEAR_PLAIN ? LINEAR_PLAIN : LINEAR_FP8_POWER;
}

// ---- Pieces that forward computes and backward may compute again --------------------------------

// RMSNorm of a latent, as the up-projection takes it.
static struct tensor norm_rows(struct op_context *op, float *rstd, const struct tensor *latent,
                               const struct tensor *weight, const struct mla_sizes *n, struct arena *arena) {
    if (n->precision == LINEAR_PLAIN) {
        struct tensor normed = matrix_allocate(arena, n->format, latent->shape[0], latent->shape[1]);
        op_rms_norm(op, &normed, rstd, latent, weight, LATENT_EPSILON);
        return normed;
    }
    struct tensor tiles = linear_tiles(arena, latent->shape[0], latent->shape[1]);
    struct arena_mark mark = arena_mark(op->scratch);
    struct tensor normed = matrix_allocate(op->scratch, n->format, latent->shape[0], latent->shape[1]);
    op_rms_norm(op, &normed, rstd, latent, weight, LATENT_EPSILON);
    op_quantize_rows(op, &tiles, &normed, false);
    arena_release(op->scratch, mark);
    return tiles;
}

static void norm_queries(struct op_context *op, struct mla_saved *saved, float *rstd, const struct mla_params *params,
                         const struct mla_sizes *n, struct arena *arena) {
    saved->q_normed = norm_rows(op, rstd, &saved->q_latent, &params->q_a_layernorm, n, arena);
}

static void norm_latent(struct op_context *op, struct mla_saved *saved, float *rstd, const struct mla_params *params,
                        const struct mla_sizes *n, struct arena *arena) {
    struct tensor latent = columns(&saved->kv_latent, 0, n->latent);
    saved->c = norm_rows(op, rstd, &latent, &params->kv_a_layernorm, n, arena);
}

static void project_queries(struct op_context *op, struct mla_saved *saved, const struct mla_params *params,
                            const struct mla_sizes *n, const int32_t *positions, const struct tensor *rope_table,
                            struct arena *arena) {
    saved->q = matrix_allocate(arena, n->format, n->tokens, n->query_width);
    if (n->q_lora) {
        op_linear(op, &saved->q, &saved->q_normed, &params->q_b_proj, OP_SET);
    } else {
        op_linear(op, &saved->q, &saved->x, &params->q_proj, OP_SET);
    }
    struct tensor heads = tensor_split_columns(&saved->q, n->heads), rotated = columns(&heads, n->nope, n->rope);
    op_rope(op, &rotated, positions, rope_table, false);
}

static struct tensor expand_latent(struct op_context *op, const struct tensor *c, const struct mla_params *params,
                                   const struct mla_sizes *n, struct arena *arena) {
    struct tensor kv = matrix_allocate(arena, n->format, c->shape[0], n->kv_width);
    op_linear(op, &kv, c, &params->kv_b_proj, OP_SET);
    return kv;
}

// q_latent, kv_latent, rope_key and the two norms: all that stands before the up-projections.
static void project_down(struct op_context *op, struct mla_saved *saved, const struct tensor *x,
                         const struct mla_params *params, const struct mla_sizes *n, const int32_t *positions,
                         const struct tensor *rope_table, struct arena *keep, struct arena *norms) {
    if (n->q_lora) {
        saved->q_latent = matrix_allocate(keep, n->format, n->tokens, n->q_lora);
        saved->q_rstd = floats_allocate(keep, n->tokens);
    }
    saved->kv_latent = matrix_allocate(keep, n->format, n->tokens, n->latent + n->rope);
    saved->kv_rstd = floats_allocate(keep, n->tokens);
    if (n->q_lora) {
        op_linear_pair(op, &saved->q_latent, &saved->kv_latent, x, &params->q_a_proj, &params->kv_a_proj_with_mqa);
        norm_queries(op, saved, saved->q_rstd, params, n, norms);
    } else {
        op_linear(op, &saved->kv_latent, x, &params->kv_a_proj_with_mqa, OP_SET);
    }
    norm_latent(op, saved, saved->kv_rstd, params, n, norms);

    saved->rope_key = matrix_allocate(keep, n->format, n->tokens, n->rope);
    struct tensor unrotated = columns(&saved->kv_latent, n->latent, n->rope);
    op_copy(op, &saved->rope_key, &unrotated);
    struct tensor heads = tensor_split_columns(&saved->rope_key, 1);
    op_rope(op, &heads, positions, rope_table, false);
}

// ---- The three ways to attend -------------------------------------------------------------------

// Keys and values per head: kv [S, H*(dn+dv)], rope_key [S, dr].
static void attend_expanded(struct op_context *op, struct tensor *o, float *lse, const struct tensor *q,
                            const struct tensor *kv, const struct tensor *rope_key, const struct mla_sizes *n,
                            const struct attention_span *spans, int64_t span_count) {
    struct tensor out = tensor_split_columns(o, n->heads), queries = tensor_split_columns(q, n->heads);
    struct tensor kv_heads = tensor_split_columns(kv, n->heads), rope_heads = tensor_split_columns(rope_key, 1);
    struct tensor keys = columns(&kv_heads, 0, n->nope), values = columns(&kv_heads, n->nope, n->value);
    op_attention(op, &out, lse, &queries, &keys, &rope_heads, &values, spans, span_count, n->scale);
}

// Expanded attention over a latent cache. The latents of the spans' positions are gathered and expanded into scratch:
// short spans together, so that kv_b is read once for many prompts; a long one head by head, so that scratch stays
// small however long the context. A row of kv_b c has the same bits wherever it is computed, so this equals a cache of
// expanded keys.
#define EXPANDED_ROWS 2048                   // of spans that are expanded together
#define EXPANDED_BYTES ((int64_t)48 << 20)   // of keys and values in scratch at a time

static int64_t span_length(const struct attention_span *span) {
    return span->position + span->count;
}

// How many heads to expand at a time. A slice of a block format must start where a block does.
static int64_t heads_at_a_time(const struct mla_sizes *n, const struct tensor *kv_b, int64_t rows) {
    int64_t width = n->nope + n->value, step = 1;
    int64_t edge = kv_b->format == FORMAT_E4M3_BLOCK ? tensor_scale_edge(FORMAT_E4M3_BLOCK, 0) : 1;
    while (step * width % edge != 0) {
        step++;
    }
    int64_t fit = EXPANDED_BYTES / (rows * width * format_info(n->format)->bytes) / step * step;
    fit = fit > step ? fit : step;
    return fit < n->heads ? fit : n->heads;
}

// Rows of the cache that hold the spans' positions, one span after the other; the copies of the spans point to their
// place among them.
static void gather_spans(int32_t *rows, struct attention_span *gathered, const struct attention_span *spans,
                         int64_t span_count) {
    int64_t total = 0;
    for (int64_t i = 0; i < span_count; i++) {
        const struct attention_span *span = &spans[i];
        for (int64_t p = 0; p < span_length(span); p++) {
            int64_t page = span->pages ? span->pages[p / ATTENTION_BLOCK] : 0;
            rows[total + p] = (int32_t)(span->pages ? page * ATTENTION_BLOCK + p % ATTENTION_BLOCK : span->key_row + p);
        }
        gathered[i] = *span;
        gathered[i].pages = NULL;
        gathered[i].key_row = total;
        total += span_length(span);
    }
}

static void attend_gathered(struct op_context *op, struct tensor *o, const struct tensor *q,
                            const struct layer_cache *cache, const struct mla_params *params, const struct mla_sizes *n,
                            const struct attention_span *spans, int64_t span_count, int64_t total) {
    struct arena_mark mark = arena_mark(op->scratch);
    int32_t *rows = arena_allocate(op->scratch, (size_t)total, sizeof *rows);
    struct attention_span *gathered = arena_allocate(op->scratch, (size_t)span_count, sizeof *gathered);
    gather_spans(rows, gathered, spans, span_count);
    struct tensor c = matrix_allocate(op->scratch, n->format, total, n->latent);
    struct tensor rope_key = matrix_allocate(op->scratch, (enum format)cache->rope_key.format, total, n->rope);
    op_gather_rows(op, &c, &cache->latent, rows);
    op_gather_rows(op, &rope_key, &cache->rope_key, rows);
    struct tensor out = tensor_split_columns(o, n->heads), queries = tensor_split_columns(q, n->heads);
    struct tensor rope_heads = tensor_split_columns(&rope_key, 1);
    int64_t width = n->nope + n->value, step = heads_at_a_time(n, &params->kv_b_proj, total);
    for (int64_t head = 0; head < n->heads; head += step) {
        int64_t some = n->heads - head < step ? n->heads - head : step;
        struct arena_mark inner = arena_mark(op->scratch);
        struct tensor up = tensor_slice(&params->kv_b_proj, 0, head * width, some * width);
        struct tensor kv = matrix_allocate(op->scratch, n->format, total, some * width);
        op_linear(op, &kv, &c, &up, OP_SET);
        struct tensor kv_heads = tensor_split_columns(&kv, some);
        struct tensor keys = columns(&kv_heads, 0, n->nope), values = columns(&kv_heads, n->nope, n->value);
        struct tensor some_queries = tensor_slice(&queries, 1, head, some),
                      some_out = tensor_slice(&out, 1, head, some);
        op_attention(op, &some_out, NULL, &some_queries, &keys, &rope_heads, &values, gathered, span_count, n->scale);
        arena_release(op->scratch, inner);
    }
    arena_release(op->scratch, mark);
}

static void attend_latent_expanded(struct op_context *op, struct tensor *o, const struct tensor *q,
                                   const struct layer_cache *cache, const struct mla_params *params,
                                   const struct mla_sizes *n, const struct attention_span *spans, int64_t span_count) {
    for (int64_t begin = 0; begin < span_count;) {
        int64_t end = begin + 1, total = span_length(&spans[begin]);
        while (end < span_count && total + span_length(&spans[end]) <= EXPANDED_ROWS) {
            total += span_length(&spans[end++]);
        }
        attend_gathered(op, o, q, cache, params, n, spans + begin, end - begin, total);
        begin = end;
    }
}

// [S, width] as [S, H, width] with every head the same row.
static struct tensor shared_by_heads(const struct tensor *rows, int64_t heads) {
    struct tensor view = *rows;
    view.rank = 3;
    view.shape[2] = rows->shape[1];
    view.stride[2] = rows->stride[1];
    view.shape[1] = heads;
    view.stride[1] = 0;
    return view;
}

// W_UK^T and W_UV: [H, kv_lora, dn] and [H, dv, kv_lora], or the same in panels of [H*kv_lora, dn] and [H*dv, kv_lora].
static void absorbed_weights(struct tensor *up_key_transposed, struct tensor *up_value, const struct mla_params *params,
                             const struct mla_sizes *n) {
    if (tensor_present(&params->absorbed_key)) {
        *up_key_transposed = params->absorbed_key;
        *up_value = params->absorbed_value;
        return;
    }
    const struct tensor *kv_b = tensor_present(&params->kv_b_dense) ? &params->kv_b_dense : &params->kv_b_proj;
    CHECK(kv_b->format != FORMAT_E4M3_BLOCK, "absorbed attention before model_prepare");
    struct tensor per_head = tensor_reshape(kv_b, 3, (int64_t[]){n->heads, n->nope + n->value, n->latent});
    struct tensor up_key = tensor_slice(&per_head, 1, 0, n->nope);
    *up_key_transposed = tensor_transpose(&up_key, 1, 2);
    *up_value = tensor_slice(&per_head, 1, n->nope, n->value);
}

// Queries meet the latent itself (spec 2.4): qa = W_UK^T q, context in latent space, o = W_UV context.
static void attend_absorbed(struct op_context *op, struct tensor *o, const struct tensor *q, const struct tensor *c,
                            const struct tensor *rope_key, const struct mla_params *params, const struct mla_sizes *n,
                            const struct attention_span *spans, int64_t span_count) {
    struct arena_mark mark = arena_mark(op->scratch);
    int64_t tokens = q->shape[0];
    struct tensor up_key_transposed, up_value;
    absorbed_weights(&up_key_transposed, &up_value, params, n);
    struct tensor query_rows = matrix_allocate(op->scratch, (enum format)q->format, tokens,
                                               n->heads * (n->latent + n->rope));
    struct tensor absorbed = tensor_split_columns(&query_rows, n->heads), queries = tensor_split_columns(q, n->heads);
    struct tensor absorbed_nope = columns(&absorbed, 0, n->latent),
                  absorbed_rope = columns(&absorbed, n->latent, n->rope);
    struct tensor nope = columns(&queries, 0, n->nope), rope = columns(&queries, n->nope, n->rope);
    op_linear_heads(op, &absorbed_nope, &nope, &up_key_transposed);
    op_copy(op, &absorbed_rope, &rope);

    struct tensor context_rows = matrix_allocate(op->scratch, (enum format)q->format, tokens, n->heads * n->latent);
    struct tensor context = tensor_split_columns(&context_rows, n->heads), out = tensor_split_columns(o, n->heads);
    struct tensor latent = shared_by_heads(c, n->heads), rope_heads = tensor_split_columns(rope_key, 1);
    op_attention(op, &context, NULL, &absorbed, &latent, &rope_heads, &latent, spans, span_count, n->scale);
    op_linear_heads(op, &out, &context, &up_value);
    arena_release(op->scratch, mark);
}

// Writes this batch's keys to the cache and attends over it.
static void attend_cached(struct op_context *op, struct mla_saved *saved, const struct mla_params *params,
                          const struct mla_sizes *n, const struct token_batch *batch, struct layer_cache *cache) {
    op_scatter_rows(op, &cache->rope_key, &saved->rope_key, batch->cache_row);
    if (tensor_present(&cache->keys_values)) {
        CHECK(batch->form == ATTENTION_EXPANDED, "this cache holds expanded keys and values");
        struct tensor kv = expand_latent(op, &saved->c, params, n, op->scratch);
        op_scatter_rows(op, &cache->keys_values, &kv, batch->cache_row);
        attend_expanded(op, &saved->o, NULL, &saved->q, &cache->keys_values, &cache->rope_key, n, batch->spans,
                        batch->span_count);
        return;
    }
    op_scatter_rows(op, &cache->latent, &saved->c, batch->cache_row);
    int64_t absorbed = batch->form == ATTENTION_ABSORBED ? batch->span_count : batch->absorbed_spans;
    if (absorbed > 0) {
        const struct attention_span *last = &batch->spans[absorbed - 1];
        struct tensor o = tensor_slice(&saved->o, 0, 0, last->query_row + last->count);
        struct tensor q = tensor_slice(&saved->q, 0, 0, last->query_row + last->count);
        attend_absorbed(op, &o, &q, &cache->latent, &cache->rope_key, params, n, batch->spans, absorbed);
    }
    attend_latent_expanded(op, &saved->o, &saved->q, cache, params, n, batch->spans + absorbed,
                           batch->span_count - absorbed);
}

// ---- Forward ------------------------------------------------------------------------------------

void mla_forward(struct op_context *op, struct tensor *out, const struct tensor *x, const struct mla_params *params,
                 const struct model_config *config, const struct token_batch *batch, const struct tensor *rope_table,
                 struct layer_cache *cache, struct mla_saved *saved, const struct recompute *recompute,
                 struct arena *slot) {
    struct mla_sizes n = mla_sizes(x, config);
    struct arena_mark mark = arena_mark(op->scratch);
    struct mla_saved temporary;
    bool training = saved != NULL;
    if (!training) {
        saved = &temporary;
    }
    struct arena *keep = training ? slot : op->scratch;
    bool fp8 = training && n.precision != LINEAR_PLAIN;
    struct arena *norms = training && !fp8 && !recompute->rms_norm ? slot : op->scratch;
    struct arena *ups = training && !recompute->mla_up ? slot : op->scratch;
    *saved = (struct mla_saved){.x = *x};
    project_down(op, saved, x, params, &n, batch->positions, rope_table, keep, norms);
    project_queries(op, saved, params, &n, batch->positions, rope_table, ups);
    saved->o = matrix_allocate(fp8 ? op->scratch : keep, n.format, n.tokens, n.heads * n.value);
    if (cache) {
        attend_cached(op, saved, params, &n, batch, cache);
    } else if (batch->form == ATTENTION_ABSORBED) {
        attend_absorbed(op, &saved->o, &saved->q, &saved->c, &saved->rope_key, params, &n, batch->spans,
                        batch->span_count);
    } else {
        saved->kv = expand_latent(op, &saved->c, params, &n, ups);
        saved->lse = training ? floats_allocate(keep, n.tokens * n.heads) : NULL;
        attend_expanded(op, &saved->o, saved->lse, &saved->q, &saved->kv, &saved->rope_key, &n, batch->spans,
                        batch->span_count);
    }
    struct tensor o = linear_input(op, &saved->o, output_precision(&n), op->scratch);
    op_linear(op, out, &o, &params->o_proj, OP_SET);
    if (fp8) {
        struct tensor tiles = linear_tiles_e5m6(keep, n.tokens, n.heads * n.value);
        op_quantize_rows(op, &tiles, &saved->o, true);
        saved->o = tiles;
    }
    if (norms == op->scratch) {
        saved->q_normed = saved->c = tensor_absent();
    }
    if (ups == op->scratch) {
        saved->q = saved->kv = tensor_absent();
    }
    arena_release(op->scratch, mark);
}

// ---- Backward -----------------------------------------------------------------------------------

// What recompute left out: norms go to the slot (W needs them), up-projections to scratch.
static void restore(struct op_context *op, struct mla_saved *saved, const struct mla_params *params,
                    const struct mla_sizes *n, const struct token_batch *batch, const struct tensor *rope_table,
                    struct arena *slot) {
    if (!tensor_present(&saved->c)) {
        if (n->q_lora) {
            norm_queries(op, saved, NULL, params, n, slot);
        }
        norm_latent(op, saved, NULL, params, n, slot);
    }
    if (!tensor_present(&saved->q)) {
        project_queries(op, saved, params, n, batch->positions, rope_table, op->scratch);
        saved->kv = expand_latent(op, &saved->c, params, n, op->scratch);
    }
}

// dq [T, H*(dn+dr)], dkv [T, H*(dn+dv)], drope [T, dr], all before rotation, from the gradient of the attention output.
static void attention_backward(struct op_context *op, struct tensor *dq, struct tensor *dkv, struct tensor *drope,
                               const struct tensor *do_rows, const struct mla_saved *saved, const struct mla_sizes *n,
                               const struct token_batch *batch, const struct tensor *rope_table) {
    struct tensor dq_heads = tensor_split_columns(dq, n->heads), q_heads = tensor_split_columns(&saved->q, n->heads);
    struct tensor dkv_heads = tensor_split_columns(dkv, n->heads),
                  kv_heads = tensor_split_columns(&saved->kv, n->heads);
    struct tensor dkeys = columns(&dkv_heads, 0, n->nope), dvalues = columns(&dkv_heads, n->nope, n->value);
    struct tensor keys = columns(&kv_heads, 0, n->nope), values = columns(&kv_heads, n->nope, n->value);
    struct tensor drope_heads = tensor_split_columns(drope, 1), rope_heads = tensor_split_columns(&saved->rope_key, 1);
    struct tensor o = linear_activation(op, &saved->o, op->scratch);
    struct tensor dout = tensor_split_columns(do_rows, n->heads), out = tensor_split_columns(&o, n->heads);
    op_attention_backward(op, &dq_heads, &dkeys, &drope_heads, &dvalues, &dout, &out, saved->lse, &q_heads, &keys,
                          &rope_heads, &values, batch->spans, batch->span_count, n->scale);
    struct tensor dq_rotated = columns(&dq_heads, n->nope, n->rope);
    op_rope(op, &dq_rotated, batch->positions, rope_table, true);
    op_rope(op, &drope_heads, batch->positions, rope_table, true);
}

// From dq to dx (set), through q_b, its norm and q_a, or through q_proj alone.
static void queries_backward(struct op_context *op, struct tensor *dx, struct mla_kept *kept,
                             struct mla_params *dparams, const struct tensor *dq, const struct mla_params *params,
                             const struct mla_saved *saved, const struct mla_sizes *n, struct arena *slot) {
    if (n->q_lora == 0) {
        kept->q = (struct linear_kept){saved->x, *dq, n->precision};
        linear_backward_input(op, dx, &kept->q, &params->q_proj, OP_SET);
        return;
    }
    kept->q_b = (struct linear_kept){saved->q_normed, *dq, n->precision};
    struct tensor dlatent = matrix_allocate(slot, dq->format, n->tokens, n->q_lora);
    struct arena_mark mark = arena_mark(op->scratch);
    struct tensor dnormed = matrix_allocate(op->scratch, FORMAT_F32, n->tokens, n->q_lora);
    linear_backward_input(op, &dnormed, &kept->q_b, &params->q_b_proj, OP_SET);
    op_rms_norm_backward(op, &dlatent, OP_SET, &dparams->q_a_layernorm, &dnormed, &saved->q_latent,
                         &params->q_a_layernorm, saved->q_rstd);
    arena_release(op->scratch, mark);
    kept->q_a = (struct linear_kept){saved->x, dlatent, n->precision};
    linear_backward_input(op, dx, &kept->q_a, &params->q_a_proj, OP_SET);
}

// From dkv and drope to dx (added), through kv_b, the latent norm and kv_a.
static void latent_backward(struct op_context *op, struct tensor *dx, struct mla_kept *kept, struct mla_params *dparams,
                            const struct tensor *dkv, const struct tensor *drope, const struct mla_params *params,
                            const struct mla_saved *saved, const struct mla_sizes *n, struct arena *slot) {
    kept->kv_b = (struct linear_kept){saved->c, *dkv, n->precision};
    struct tensor dlatent = matrix_allocate(slot, dkv->format, n->tokens, n->latent + n->rope);
    struct tensor dlatent_part = columns(&dlatent, 0, n->latent), drope_part = columns(&dlatent, n->latent, n->rope);
    struct tensor latent = columns(&saved->kv_latent, 0, n->latent);
    struct arena_mark mark = arena_mark(op->scratch);
    struct tensor dc = matrix_allocate(op->scratch, FORMAT_F32, n->tokens, n->latent);
    linear_backward_input(op, &dc, &kept->kv_b, &params->kv_b_proj, OP_SET);
    op_rms_norm_backward(op, &dlatent_part, OP_SET, &dparams->kv_a_layernorm, &dc, &latent, &params->kv_a_layernorm,
                         saved->kv_rstd);
    arena_release(op->scratch, mark);
    op_copy(op, &drope_part, drope);
    kept->kv_a = (struct linear_kept){saved->x, dlatent, n->precision};
    linear_backward_input(op, dx, &kept->kv_a, &params->kv_a_proj_with_mqa, OP_ADD);
}

void mla_backward_input(struct op_context *op, struct tensor *dx, struct mla_kept *kept, struct mla_params *dparams,
                        const struct tensor *dout, const struct mla_params *params, const struct model_config *config,
                        const struct token_batch *batch, const struct tensor *rope_table, struct mla_saved *saved,
                        struct arena *slot) {
    struct mla_sizes n = mla_sizes(&saved->x, config);
    struct arena_mark mark = arena_mark(op->scratch);
    enum format format = dout->format;
    *kept = (struct mla_kept){.o = {saved->o, *dout, output_precision(&n)}};
    restore(op, saved, params, &n, batch, rope_table, slot);

    struct tensor dq = matrix_allocate(slot, format, n.tokens, n.query_width);
    struct tensor dkv = matrix_allocate(slot, format, n.tokens, n.kv_width);
    struct tensor drope = matrix_allocate(op->scratch, format, n.tokens, n.rope);
    struct tensor do_rows = matrix_allocate(op->scratch, format, n.tokens, n.heads * n.value);
    linear_backward_input(op, &do_rows, &kept->o, &params->o_proj, OP_SET);
    attention_backward(op, &dq, &dkv, &drope, &do_rows, saved, &n, batch, rope_table);
    queries_backward(op, dx, kept, dparams, &dq, params, saved, &n, slot);
    latent_backward(op, dx, kept, dparams, &dkv, &drope, params, saved, &n, slot);
    arena_release(op->scratch, mark);
}

static void weight_backward(struct op_context *op, struct tensor *dw, const struct linear_kept *kept,
                            enum op_mode mode) {
    if (tensor_present(&kept->dy)) {
        linear_backward_weight(op, dw, kept, mode);
    }
}

void mla_backward_weight(struct op_context *op, struct mla_params *dparams, const struct mla_kept *kept,
                         enum op_mode mode) {
    if (tensor_present(&kept->q_a.dy)) {
        linear_backward_weight_pair(op, &dparams->q_a_proj, &dparams->kv_a_proj_with_mqa, &kept->q_a, &kept->kv_a,
                                    mode);
    } else {
        linear_backward_weight_pair(op, &dparams->q_proj, &dparams->kv_a_proj_with_mqa, &kept->q, &kept->kv_a, mode);
    }
    weight_backward(op, &dparams->q_b_proj, &kept->q_b, mode);
    weight_backward(op, &dparams->kv_b_proj, &kept->kv_b, mode);
    weight_backward(op, &dparams->o_proj, &kept->o, mode);
}
