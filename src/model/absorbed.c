// See absorbed.h.
#include "model/absorbed.h"

#include "model/pass.h"
#include "tensor/formats.h"
#include "tensor/panels.h"

// In the format of activations: with BF16 like the official code, which dequantises kv_b_proj for its absorbed form.
static struct tensor dequantized(const struct tensor *weight, enum format format, struct arena *arena) {
    struct tensor dense = matrix_allocate(arena, format, weight->shape[0], weight->shape[1]);
    float row[BLOCK_SIZE];
    for (int64_t r = 0; r < weight->shape[0]; r++) {
        for (int64_t c = 0; c < weight->shape[1]; c += BLOCK_SIZE) {
            int64_t count = weight->shape[1] - c < BLOCK_SIZE ? weight->shape[1] - c : BLOCK_SIZE;
            format_info(FORMAT_E4M3_BLOCK)->widen(row, weight, r, c, count);
            format_info(format)->narrow(&dense, row, r, c, count);
        }
    }
    return dense;
}

// ---- Panels ---------------------------------------------------------------------------------------------------------

struct separation {
    struct tensor *key, *value;   // BF16 [H*kv_lora, dn], [H*dv, kv_lora]
    const struct tensor *kv_b;
    int64_t heads;
};

// One head of kv_b_proj: its rows of W_UK become columns, its rows of W_UV stay rows.
static void separate_head(void *argument, int64_t head, int worker) {
    const struct separation *job = argument;
    const int64_t nope = job->key->shape[1], latent = job->value->shape[1], value = job->value->shape[0] / job->heads;
    const struct format_info *format = format_info((enum format)job->kv_b->format);
    uint16_t *key = (uint16_t *)job->key->data + head * latent * nope;
    float piece[BLOCK_SIZE];
    (void)worker;
    for (int64_t column = 0; column < latent; column += BLOCK_SIZE) {
        int64_t count = latent - column < BLOCK_SIZE ? latent - column : BLOCK_SIZE;
        for (int64_t row = 0; row < nope + value; row++) {
            format->widen(piece, job->kv_b, head * (nope + value) + row, column, count);
            if (row >= nope) {
                format_info(FORMAT_BF16)->narrow(job->value, piece, head * value + row - nope, column, count);
                continue;
            }
            for (int64_t i = 0; i < count; i++) {
                key[(column + i) * nope + row] = bf16_narrow(piece[i]);
            }
        }
    }
}

static struct tensor interleaved(struct op_context *op, const struct tensor *rows, struct arena *arena) {
    struct tensor panels = tensor_2d(FORMAT_BF16_PANELS, NULL, rows->shape[0], rows->shape[1]);
    panels.data = arena_allocate(arena, (size_t)panels_bytes(&panels), 1);
    op_interleave(op, &panels, rows);
    return panels;
}

static bool fits_panels(const struct model_config *config) {
    return config->kv_lora_rank % PANEL_ROWS == 0 && config->v_head_dim % PANEL_ROWS == 0;
}

void absorbed_prepare(struct op_context *op, struct mla_params *params, const struct model_config *config,
                      enum format compute, bool interleave, struct arena *arena) {
    const struct tensor *kv_b = &params->kv_b_proj;
    if (!interleave || kv_b->format == FORMAT_F32 || !fits_panels(config)) {
        if (kv_b->format == FORMAT_E4M3_BLOCK) {
            params->kv_b_dense = dequantized(kv_b, compute, arena);
        }
        return;
    }
    const int64_t heads = config->num_attention_heads, latent = config->kv_lora_rank;
    struct arena_mark mark = arena_mark(op->scratch);
    struct tensor key = matrix_allocate(op->scratch, FORMAT_BF16, heads * latent, config->qk_nope_head_dim);
    struct tensor value = matrix_allocate(op->scratch, FORMAT_BF16, heads * config->v_head_dim, latent);
    struct separation job = {&key, &value, kv_b, heads};
    pool_run(op->pool, heads, separate_head, &job);
    params->absorbed_key = interleaved(op, &key, arena);
    params->absorbed_value = interleaved(op, &value, arena);
    arena_release(op->scratch, mark);
}

int64_t absorbed_bytes(const struct model_config *config) {
    struct tensor key = tensor_2d(FORMAT_BF16_PANELS, NULL, config->num_attention_heads * config->kv_lora_rank,
                                  config->qk_nope_head_dim);
    struct tensor value = tensor_2d(FORMAT_BF16_PANELS, NULL, config->num_attention_heads * config->v_head_dim,
                                    config->kv_lora_rank);
    int64_t layers = config->num_hidden_layers + config->num_nextn_predict_layers;
    return fits_panels(config) ? layers * (panels_bytes(&key) + panels_bytes(&value)) : 0;
}
