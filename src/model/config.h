// The architecture of a model: the fields of a Hugging Face config.json, under their own names. Nothing is guessed from
// sizes. Family: model_type deepseek_v3, deepseek_v2, kimi_k2 (spec 1.1, 11.7; DESIGN section 3).
#ifndef MINKE_MODEL_CONFIG_H
#define MINKE_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"
#include "op/ops.h"

struct rope_scaling {   // YaRN (spec 3); factor 0 = no scaling
    double factor, mscale, mscale_all_dim, beta_fast, beta_slow;
    int64_t original_max_position_embeddings;
};

struct model_config {
    char model_type[32];
    int64_t vocab_size, hidden_size, num_hidden_layers, first_k_dense_replace, moe_layer_freq;
    int64_t intermediate_size, moe_intermediate_size;
    int64_t num_attention_heads, q_lora_rank /* 0 = q not compressed */, kv_lora_rank;
    int64_t qk_nope_head_dim, qk_rope_head_dim, v_head_dim;
    int64_t n_routed_experts /* 0 = every layer dense */, n_shared_experts, num_experts_per_tok, n_group, topk_group;
    enum router_score scoring_func;
    enum router_method topk_method;
    bool norm_topk_prob;
    double routed_scaling_factor;
    int64_t num_nextn_predict_layers;
    int64_t max_position_embeddings;
    double rms_norm_eps, rope_theta, initializer_range;
    struct rope_scaling rope_scaling;
    int64_t bos_token_id, eos_token_id;   // -1 = none
    bool tie_word_embeddings;
    bool fp8;                // quantization_config of 128x128 e4m3 blocks present
    bool fp8_power_of_two;   // scale_fmt "ue8m0"
    char torch_dtype[16];
};

// Reads and validates config.json of a directory or a file path. Every field that the architecture needs must be there
// or have the default of the official configuration class; contradictions (K > E, groups not dividing E, odd rope size,
// unknown scoring_func/topk_method/rope type, an activation other than silu, attention_bias true) are errors naming
// file, key, found and expected.
int model_config_read(struct model_config *config, const char *path, struct error *error);
int model_config_from_json(struct model_config *config, const json_t *root, const char *name, struct error *error);
// Writes a config.json that transformers opens (architectures, model_type, ... and quantization_config when fp8).
int model_config_write(const struct model_config *config, const char *path, struct error *error);

bool model_layer_is_moe(const struct model_config *config,
                        int64_t layer);   // layers >= num_hidden_layers are MTP layers (MoE if any expert)
int64_t model_qk_head_dim(const struct model_config *config);   // nope + rope
float model_softmax_scale(const struct model_config *config);   // with YaRN's m^2 (spec 2.3)
// V2 routers of transformers apply routed_scaling_factor always and V3 after normalisation: both are "weight * scaling"
// here.
struct router_rule model_router_rule(const struct model_config *config);

struct model_count {
    int64_t total, active, active_without_embedding, mtp, mtp_unique;
};
struct model_count model_count_parameters(const struct model_config *config);   // spec 1.3 checks these

// cos and sin of every (position, pair): f32[positions, qk_rope_head_dim / 2, 2], YaRN frequencies and amplitude
// (spec 3.1, 3.2), computed in double, rounded once. `table` must hold positions * pairs * 2 floats.
void model_rope_table(float *table, int64_t positions, const struct model_config *config);

#endif
