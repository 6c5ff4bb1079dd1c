// See kv_cache.h. One allocation for all layers: [layer][token][row of the layout].
#include "infer/kv_cache.h"

#include "base/memory.h"
#include "tensor/formats.h"

static int64_t round_up(int64_t value, int64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

// ---- Layout ---------------------------------------------------------------------------------------------------------

static int64_t main_width(const struct model_config *config, enum attention_form stored) {
    if (stored == ATTENTION_ABSORBED) {
        return config->kv_lora_rank;
    }
    return config->num_attention_heads * (config->qk_nope_head_dim + config->v_head_dim);
}

int cache_layout_make(struct cache_layout *layout, const struct model_config *config, enum format compute,
                      enum attention_form stored, enum cache_kind kind, struct error *error) {
    const int64_t scale = (int64_t)sizeof(float);
    if (kind == CACHE_FP8 && stored != ATTENTION_ABSORBED) {
        return error_set(error, ERROR_ARGUMENT,
                         "attention cache fp8: it holds latents, expected attention auto or absorbed, found expanded");
    }
    *layout = (struct cache_layout){.main = kind == CACHE_FP8 ? FORMAT_E4M3_TILE : compute,
                                    .rope = compute,
                                    .stored = stored,
                                    .width = main_width(config, stored),
                                    .rope_width = config->qk_rope_head_dim};
    int64_t main_bytes = layout->width * format_info(layout->main)->bytes;
    layout->scale_offset = layout->rope_offset = main_bytes;
    if (kind == CACHE_FP8) {
        layout->scale_offset = round_up(main_bytes, scale);
        layout->rope_offset = layout->scale_offset + (layout->width + BLOCK_SIZE - 1) / BLOCK_SIZE * scale;
    }
    layout->token_bytes = layout->rope_offset + layout->rope_width * format_info(compute)->bytes;
    layout->token_bytes = kind == CACHE_FP8 ? round_up(layout->token_bytes, scale) : layout->token_bytes;
    return 0;
}

static struct tensor strided(enum format format, char *data, int64_t rows, int64_t width, int64_t row_bytes) {
    struct tensor tensor = tensor_2d(format, data, rows, width);
    tensor.stride[0] = row_bytes / format_info(format)->bytes;
    return tensor;
}

struct layer_cache cache_layout_view(const struct cache_layout *layout, char *memory, int64_t rows) {
    struct tensor main = strided(layout->main, memory, rows, layout->width, layout->token_bytes);
    if (layout->main == FORMAT_E4M3_TILE) {
        main.scale = (float *)(void *)(memory + layout->scale_offset);
        main.scale_stride = layout->token_bytes / (int64_t)sizeof(float);
    }
    struct layer_cache cache = {
        .rope_key = strided(layout->rope, memory + layout->rope_offset, rows, layout->rope_width, layout->token_bytes)};
    *(layout->stored == ATTENTION_ABSORBED ? &cache.latent : &cache.keys_values) = main;
    return cache;
}

// ---- Cache ----------------------------------------------------------------------------------------------------------

static int64_t layer_total(const struct model_config *config) {
    return config->num_hidden_layers + config->num_nextn_predict_layers;
}

int64_t kv_cache_token_bytes(const struct model_config *config, const struct cache_layout *layout) {
    return layout->token_bytes * layer_total(config);
}

int kv_cache_create(struct kv_cache *cache, const struct model_config *config, const struct cache_layout *layout,
                    int64_t capacity, struct error *error) {
    *cache = (struct kv_cache){.layer_count = layer_total(config), .capacity = round_up(capacity, ATTENTION_BLOCK)};
    int64_t layer_bytes = round_up(cache->capacity * layout->token_bytes, MEMORY_ALIGNMENT);
    cache->bytes = layer_bytes * cache->layer_count;
    cache->layers = memory_allocate((size_t)cache->layer_count, sizeof *cache->layers, "attention cache table", error);
    cache->memory = memory_allocate((size_t)cache->bytes, 1, "attention cache", error);
    if (cache->layers == NULL || cache->memory == NULL) {
        kv_cache_destroy(cache);
        return ERROR_MEMORY;
    }
    for (int64_t layer = 0; layer < cache->layer_count; layer++) {
        cache->layers[layer] = cache_layout_view(layout, (char *)cache->memory + layer * layer_bytes, cache->capacity);
    }
    return 0;
}

void kv_cache_destroy(struct kv_cache *cache) {
    memory_free(cache->layers);
    memory_free(cache->memory);
    *cache = (struct kv_cache){0};
}
