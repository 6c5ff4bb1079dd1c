// The tokens of one forward pass, training or inference.
#ifndef MINKE_MODEL_BATCH_H
#define MINKE_MODEL_BATCH_H

#include "op/ops.h"

// Form of attention (DESIGN section 4). EXPANDED: keys and values per head (training; caches K and V). ABSORBED:
// queries meet the latent itself.
enum attention_form { ATTENTION_EXPANDED, ATTENTION_ABSORBED };

struct token_batch {
    int64_t tokens;
    const int32_t *ids;         // [tokens]
    const int32_t *positions;   // [tokens], position of each token in its sequence
    const struct attention_span
        *spans;   // cover all rows in order; in training: one per sequence, position 0, key_row = query_row
    int64_t span_count;
    int64_t sequence_length;   // training: every sequence has this many rows; inference: 0
    // Inference: where row t's keys go (row of the cache tensors), or NULL in training.
    const int32_t *cache_row;
    enum attention_form form;
    // With form EXPANDED over a latent cache: the first spans are absorbed all the same (an AUTO session decodes some
    // sequences while it reads the prompts of others).
    int64_t absorbed_spans;
    int64_t *expert_load;   // inference: [MoE layers, E] tokens routed, added to; NULL = not wanted
};

// Cache of one layer; rows are addressed by cache_row when written and by spans (pages or key_row) when read. Owned by
// infer/kv_cache.
struct layer_cache {
    struct tensor latent;        // ABSORBED and AUTO sessions: [rows, kv_lora], normalised latent; FP8: E4M3_TILE
    struct tensor rope_key;      // [rows, dr], rotated
    struct tensor keys_values;   // EXPANDED sessions: [rows, H * (dn + dv)], output of kv_b_proj; then latent is absent
};

#endif
