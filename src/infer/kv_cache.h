// What attention remembers of one session: per layer (main layers, then MTP modules) the rotated rope key and either
// the normalised latent (kv_lora_rank values per token: absorbed and auto sessions) or keys and values of all heads
// (expanded sessions). Rows are positions; the cache is one contiguous run of pages of ATTENTION_BLOCK rows.
//
// Values are kept in the format of the activations. CACHE_FP8 keeps latents as E4M3 with a scale for each 128 of a
// token, a power of two; the rope key stays as it is: 656 bytes a token and layer in V3 instead of 1152. A token's
// latent is always read back from the cache, also by its own step, so that chunks change nothing.
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

enum cache_kind { CACHE_PLAIN, CACHE_FP8 };

// A row of one token in one layer: latent (or keys and values), FP8: its scales, rope key.
struct cache_layout {
    enum format main, rope;                           // formats; main E4M3_TILE: FP8
    enum attention_form stored;                       // ABSORBED: latents
    int64_t width, rope_width;                        // values
    int64_t scale_offset, rope_offset, token_bytes;   // bytes
};
// Of activations `compute`. ERROR_ARGUMENT: FP8 for anything but latents.
int cache_layout_make(struct cache_layout *layout, const struct model_config *config, enum format compute,
                      enum attention_form stored, enum cache_kind kind, struct error *error);
// The tensors of one layer whose row 0 begins at `memory`.
struct layer_cache cache_layout_view(const struct cache_layout *layout, char *memory, int64_t rows);

// Bytes one token takes over all layers.
int64_t kv_cache_token_bytes(const struct model_config *config, const struct cache_layout *layout);
int kv_cache_create(struct kv_cache *cache, const struct model_config *config, const struct cache_layout *layout,
                    int64_t capacity, struct error *error);
void kv_cache_destroy(struct kv_cache *cache);

#endif
