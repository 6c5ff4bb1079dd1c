// struct model_config -> config.json that transformers 4 and 5, vLLM and SGLang read: the key names and rope_scaling
// style of the published files, which transformers 5 still understands.
#include <string.h>

#include "base/memory.h"
#include "model/config.h"

// json_object_set_new fails when the value could not be allocated: remembered, reported once.
struct builder {
    json_t *object;
    bool failed;
};

static void build(struct builder *builder, const char *key, json_t *value) {
    builder->failed = json_object_set_new(builder->object, key, value) != 0 || builder->failed;
}

static void build_integer(struct builder *builder, const char *key, int64_t value) {
    build(builder, key, json_integer(value));
}

static json_t *token_value(int64_t token) {
    return token < 0 ? json_null() : json_integer(token);
}

static json_t *rope_scaling_value(const struct rope_scaling *rope) {
    if (rope->factor == 0.0) {
        return json_null();
    }
    struct builder builder = {.object = json_object()};
    build(&builder, "beta_fast", json_real(rope->beta_fast));
    build(&builder, "beta_slow", json_real(rope->beta_slow));
    build(&builder, "factor", json_real(rope->factor));
    build(&builder, "mscale", json_real(rope->mscale));
    build(&builder, "mscale_all_dim", json_real(rope->mscale_all_dim));
    build_integer(&builder, "original_max_position_embeddings", rope->original_max_position_embeddings);
    build(&builder, "type", json_string("yarn"));
    if (builder.failed) {
        json_decref(builder.object);
        return NULL;
    }
    return builder.object;
}

static json_t *quantization_value(bool power_of_two) {
    json_t *value = json_pack("{s:s, s:s, s:s, s:[i,i]}", "activation_scheme", "dynamic", "fmt", "e4m3", "quant_method",
                              "fp8", "weight_block_size", BLOCK_SIZE, BLOCK_SIZE);
    if (value != NULL && power_of_two && json_object_set_new(value, "scale_fmt", json_string("ue8m0")) != 0) {
        json_decref(value);
        return NULL;
    }
    return value;
}

static void build_router(struct builder *builder, const struct model_config *config) {
    static const char *const methods[] = {
        [ROUTER_GREEDY] = "greedy", [ROUTER_GROUP_MAX] = "group_limited_greedy", [ROUTER_GROUP_TOP2] = "noaux_tc"};
    bool experts = config->n_routed_experts > 0;
    build_integer(builder, "first_k_dense_replace",
                  experts ? config->first_k_dense_replace : config->num_hidden_layers);
    build(builder, "n_routed_experts", experts ? json_integer(config->n_routed_experts) : json_null());
    if (!experts) {
        return;
    }
    build_integer(builder, "moe_intermediate_size", config->moe_intermediate_size);
    build_integer(builder, "moe_layer_freq", config->moe_layer_freq);
    build_integer(builder, "n_group", config->n_group);
    build_integer(builder, "n_shared_experts", config->n_shared_experts);
    build(builder, "norm_topk_prob", json_boolean(config->norm_topk_prob));
    build_integer(builder, "num_experts_per_tok", config->num_experts_per_tok);
    build(builder, "routed_scaling_factor", json_real(config->routed_scaling_factor));
    build(builder, "scoring_func", json_string(config->scoring_func == ROUTER_SIGMOID ? "sigmoid" : "softmax"));
    build_integer(builder, "topk_group", config->topk_group);
    build(builder, "topk_method", json_string(methods[config->topk_method]));
}

int model_config_write(const struct model_config *config, const char *path, struct error *error) {
    bool v2 = strcmp(config->model_type, "deepseek_v2") == 0;
    struct builder builder = {.object = json_object()};
    build(&builder, "architectures", json_pack("[s]", v2 ? "DeepseekV2ForCausalLM" : "DeepseekV3ForCausalLM"));
    build(&builder, "attention_bias", json_false());
    build(&builder, "attention_dropout", json_real(0.0));
    build(&builder, "bos_token_id", token_value(config->bos_token_id));
    build(&builder, "eos_token_id", token_value(config->eos_token_id));
    build(&builder, "hidden_act", json_string("silu"));
    build_integer(&builder, "hidden_size", config->hidden_size);
    build(&builder, "initializer_range", json_real(config->initializer_range));
    build_integer(&builder, "intermediate_size", config->intermediate_size);
    build_integer(&builder, "kv_lora_rank", config->kv_lora_rank);
    build_integer(&builder, "max_position_embeddings", config->max_position_embeddings);
    build(&builder, "model_type", json_string(config->model_type));
    build_router(&builder, config);
    build_integer(&builder, "num_attention_heads", config->num_attention_heads);
    build_integer(&builder, "num_hidden_layers", config->num_hidden_layers);
    build_integer(&builder, "num_key_value_heads", config->num_attention_heads);
    build_integer(&builder, "num_nextn_predict_layers", config->num_nextn_predict_layers);
    build(&builder, "q_lora_rank", config->q_lora_rank > 0 ? json_integer(config->q_lora_rank) : json_null());
    build_integer(&builder, "qk_nope_head_dim", config->qk_nope_head_dim);
    build_integer(&builder, "qk_rope_head_dim", config->qk_rope_head_dim);
    if (config->fp8) {
        build(&builder, "quantization_config", quantization_value(config->fp8_power_of_two));
    }
    build(&builder, "rms_norm_eps", json_real(config->rms_norm_eps));
    build(&builder, "rope_scaling", rope_scaling_value(&config->rope_scaling));
    build(&builder, "rope_theta", json_real(config->rope_theta));
    build(&builder, "tie_word_embeddings", json_boolean(config->tie_word_embeddings));
    build(&builder, "torch_dtype", json_string(config->torch_dtype));
    build(&builder, "use_cache", json_true());
    build_integer(&builder, "v_head_dim", config->v_head_dim);
    build_integer(&builder, "vocab_size", config->vocab_size);
    int code = builder.failed ? error_set(error, ERROR_MEMORY, "%s: out of memory", path)
                              : json_write(builder.object, path, error);
    json_decref(builder.object);
    return code;
}
