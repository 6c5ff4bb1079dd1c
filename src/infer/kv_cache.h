// What attention remembers of one session: per layer (main layers, then MTP modules) the rotated rope key and either
// the normalised latent (kv_lora_rank values per token: absorbed and auto sessions) or keys and values of all heads
// (expanded sessions). Rows are positions; the cache is one contiguous run of pages of ATTENTION_BLOCK rows.
#ifndef MINKE_INFER_KV_CACHE_H
#define MINKE_INFER_KV_CACHE_H

#include "model/batch.h"
#include "model/config.h"

struct kv_cache {
    struct layer_cache *layers;      // [layer_count]
    int64_t layer_count, capacity;   // capacity in tokens
    void *memory;
    int64_t bytes;
};

// Values a token and layer takes besides the rope key.
int64_t kv_cache_width(const struct model_config *config, enum attention_form stored);
// Bytes one token takes over all layers.
int64_t kv_cache_token_bytes(const struct model_config *config, enum format format, enum attention_form stored);
int kv_cache_create(struct kv_cache *cache, const struct model_config *config, enum format format,
                    enum attention_form stored, int64_t capacity, struct error *error);
void kv_cache_destroy(struct kv_cache *cache);

#endif
