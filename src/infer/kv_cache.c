// See kv_cache.h. One allocation for all layers: [layer][tensor][row].
#include "infer/kv_cache.h"

#include "base/memory.h"
#include "tensor/formats.h"

static int64_t round_up(int64_t value, int64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

int64_t kv_cache_width(const struct model_config *config, enum attention_form stored) {
    if (stored == ATTENTION_ABSORBED) {
        return config->kv_lora_rank;
    }
    return config->num_attention_heads * (config->qk_nope_head_dim + config->v_head_dim);
}

static int64_t layer_total(const struct model_config *config) {
    return config->num_hidden_layers + config->num_nextn_predict_layers;
}

int64_t kv_cache_token_bytes(const struct model_config *config, enum format format, enum attention_form stored) {
    int64_t values = kv_cache_width(config, stored) + config->qk_rope_head_dim;
    return values * format_info(format)->bytes * layer_total(config);
}

int kv_cache_create(struct kv_cache *cache, const struct model_config *config, enum format format,
                    enum attention_form stored, int64_t capacity, struct error *error) {
    *cache = (struct kv_cache){.layer_count = layer_total(config), .capacity = round_up(capacity, ATTENTION_BLOCK)};
    int64_t element = format_info(format)->bytes;
    int64_t width = kv_cache_width(config, stored);
    int64_t main_bytes = round_up(cache->capacity * width * element, MEMORY_ALIGNMENT);
    int64_t rope_bytes = round_up(cache->capacity * config->qk_rope_head_dim * element, MEMORY_ALIGNMENT);
    cache->bytes = (main_bytes + rope_bytes) * cache->layer_count;
    cache->layers = memory_allocate((size_t)cache->layer_count, sizeof *cache->layers, "attention cache table", error);
    cache->memory = memory_allocate((size_t)cache->bytes, 1, "attention cache", error);
    if (cache->layers == NULL || cache->memory == NULL) {
        kv_cache_destroy(cache);
        return ERROR_MEMORY;
    }
    char *next = cache->memory;
    for (int64_t layer = 0; layer < cache->layer_count; layer++) {
        struct tensor rows = tensor_2d(format, next, cache->capacity, width);
        if (stored == ATTENTION_ABSORBED) {
            cache->layers[layer].latent = rows;
        } else {
            cache->layers[layer].keys_values = rows;
        }
        cache->layers[layer].rope_key = tensor_2d(format, next + main_bytes, cache->capacity, config->qk_rope_head_dim);
        next += main_bytes + rope_bytes;
    }
    return 0;
}

void kv_cache_destroy(struct kv_cache *cache) {
    memory_free(cache->layers);
    memory_free(cache->memory);
    *cache = (struct kv_cache){0};
}
