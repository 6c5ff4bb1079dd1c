// config.json of the DeepSeek family -> struct model_config, checked (spec 1.1, 11.7), and what follows from it: router
// rule and parameter counts. The same file in the styles of the published models, transformers 4 (rope_scaling,
// torch_dtype) and 5 (rope_parameters, dtype) is read. Writing is in config_write.c, rotary tables are in rope.c.
//
// Sizes must be in the file. Everything else has the default of the configuration class that was published with the
// model type; a null counts as absent except where it has a meaning of its own (q_lora_rank, n_routed_experts, n_group,
// token ids).
#include "model/config.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"

#define CONFIG_BYTES_LIMIT (16 << 20)
#define WIDTH_LIMIT (1 << 24)   // of any matrix side and count: products of two stay far below 2^63
#define TOTAL_LIMIT 0x1p53      // parameters

struct size_field {
    const char *key;
    size_t offset;
    int64_t low, high;
};

#define SIZE(key, low, high) \
    { #key, offsetof(struct model_config, key), low, high }
static const struct size_field required_sizes[] = {
    SIZE(vocab_size, 1, WIDTH_LIMIT),        SIZE(hidden_size, 1, WIDTH_LIMIT),   SIZE(num_hidden_layers, 1, 65536),
    SIZE(intermediate_size, 1, WIDTH_LIMIT), SIZE(num_attention_heads, 1, 65536), SIZE(kv_lora_rank, 1, WIDTH_LIMIT),
    SIZE(qk_nope_head_dim, 1, 65536),        SIZE(qk_rope_head_dim, 2, 65536),    SIZE(v_head_dim, 1, 65536),
};
static const struct size_field expert_sizes[] = {
    SIZE(moe_intermediate_size, 1, WIDTH_LIMIT),
    SIZE(num_experts_per_tok, 1, 65536),
};
#undef SIZE

static int range_error(struct error *error, const char *name, const char *key, int64_t low, int64_t high,
                       int64_t found) {
    return error_set(error, ERROR_FORMAT, "%s: key \"%s\": expected an integer from %lld to %lld, found %lld", name,
                     key, (long long)low, (long long)high, (long long)found);
}

static int read_sizes(struct model_config *config, const struct size_field *fields, size_t count, const json_t *root,
                      const char *name, struct error *error) {
    for (size_t i = 0; i < count; i++) {
        const struct size_field *field = &fields[i];
        int64_t value;
        int code = json_get_integer(&value, root, field->key, name, error);
        if (code != 0) {
            return code;
        }
        if (value < field->low || value > field->high) {
            return range_error(error, name, field->key, field->low, field->high, value);
        }
        memcpy((char *)config + field->offset, &value, sizeof value);
    }
    return 0;
}

static int read_ranged(int64_t *value, int64_t fallback, int64_t low, int64_t high, const json_t *root, const char *key,
                       const char *name, struct error *error) {
    int code = json_get_integer_or(value, fallback, root, key, name, error);
    return code != 0 ? code : *value < low || *value > high ? range_error(error, name, key, low, high, *value) : 0;
}

// A key that must be absent, null or the given boolean: what the other value asks for is not part of the architecture.
static int require_boolean(bool expected, const json_t *root, const char *key, const char *name, struct error *error) {
    bool value;
    int code = json_get_boolean_or(&value, expected, root, key, name, error);
    if (code == 0 && value != expected) {
        code = error_set(error, ERROR_FORMAT, "%s: key \"%s\": expected %s, found %s", name, key,
                         expected ? "true" : "false", value ? "true" : "false");
    }
    return code;
}

static int read_model_type(struct model_config *config, const json_t *root, const char *name, struct error *error) {
    static const char *const types[] = {"deepseek_v3", "deepseek_v2", "kimi_k2"};
    const char *text;
    int code = json_get_string(&text, root, "model_type", name, error);
    if (code != 0) {
        return code;
    }
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(text, types[i]) == 0) {
            snprintf(config->model_type, sizeof config->model_type, "%s", text);
            return 0;
        }
    }
    return error_set(error, ERROR_FORMAT,
                     "%s: key \"model_type\": expected deepseek_v3, deepseek_v2 or kimi_k2, found \"%s\"", name, text);
}

// null and 0 both mean that q is not compressed, but the key has to be there: the class default (1536) is no good
// guess.
static int read_q_lora_rank(struct model_config *config, const json_t *root, const char *name, struct error *error) {
    if (json_object_get(root, "q_lora_rank") == NULL) {
        return error_set(error, ERROR_FORMAT,
                         "%s: key \"q_lora_rank\": expected an integer, or null for no compression, found nothing",
                         name);
    }
    return read_ranged(&config->q_lora_rank, 0, 0, WIDTH_LIMIT, root, "q_lora_rank", name, error);
}

// An integer, null, or a list of which the first counts (several end tokens).
static int read_token(int64_t *value, int64_t fallback, int64_t vocab_size, const json_t *root, const char *key,
                      const char *name, struct error *error) {
    const json_t *found = json_object_get(root, key);
    if (json_is_array(found)) {
        found = json_array_get(found, 0);
    }
    if (found != NULL && !json_is_null(found) && !json_is_integer(found)) {
        return error_set(error, ERROR_FORMAT, "%s: key \"%s\": expected an integer, found %s", name, key,
                         json_type_text(found));
    }
    *value = found == NULL ? fallback : json_is_null(found) ? -1 : json_integer_value(found);
    if (found == NULL && fallback >= vocab_size) {
        *value = -1;   // a small vocabulary without the family's default token
    }
    return *value < -1 || *value >= vocab_size ? range_error(error, name, key, -1, vocab_size - 1, *value) : 0;
}

// ---- Experts -------------------------------------------------------------------------------------------------------

static int read_router(struct model_config *config, bool v2, const json_t *root, const char *name,
                       struct error *error) {
    const char *score, *method;
    int code;
    if ((code = json_get_string_or(&score, v2 ? "softmax" : "sigmoid", root, "scoring_func", name, error)) != 0 ||
        (code = json_get_string_or(&method, v2 ? "greedy" : "noaux_tc", root, "topk_method", name, error)) != 0 ||
        (code = json_get_boolean_or(&config->norm_topk_prob, !v2, root, "norm_topk_prob", name, error)) != 0 ||
        (code = json_get_number_or(&config->routed_scaling_factor, v2 ? 1.0 : 2.5, root, "routed_scaling_factor", name,
                                   error)) != 0) {
        return code;
    }
    if (strcmp(score, "sigmoid") != 0 && strcmp(score, "softmax") != 0) {
        return error_set(error, ERROR_FORMAT,
                         "%s: key \"scoring_func\": expected \"sigmoid\" or \"softmax\", found \"%s\"", name, score);
    }
    config->scoring_func = strcmp(score, "sigmoid") == 0 ? ROUTER_SIGMOID : ROUTER_SOFTMAX;
    if (strcmp(method, "noaux_tc") == 0) {
        config->topk_method = ROUTER_GROUP_TOP2;
    } else if (strcmp(method, "group_limited_greedy") == 0) {
        config->topk_method = ROUTER_GROUP_MAX;
    } else if (strcmp(method, "greedy") == 0 ||
               strcmp(method, "gready") == 0) {   // the published V2 class spells it so
        config->topk_method = ROUTER_GREEDY;
    } else {
        return error_set(
            error, ERROR_FORMAT,
            "%s: key \"topk_method\": expected \"noaux_tc\", \"group_limited_greedy\" or \"greedy\", found \"%s\"",
            name, method);
    }
    if (v2 && config->norm_topk_prob) {
        return error_set(error, ERROR_FORMAT,
                         "%s: key \"norm_topk_prob\": expected false for deepseek_v2 (no implementation of it "
                         "normalises and scales), found true",
                         name);
    }
    return 0;
}

static int check_groups(const struct model_config *config, const char *name, struct error *error) {
    int64_t experts = config->n_routed_experts, groups = config->n_group, kept = config->topk_group,
            top = config->num_experts_per_tok;
    if (top > experts) {
        return error_set(error, ERROR_FORMAT,
                         "%s: key \"num_experts_per_tok\": expected at most n_routed_experts = %lld, found %lld", name,
                         (long long)experts, (long long)top);
    }
    if (config->topk_method == ROUTER_GREEDY) {
        return 0;
    }
    if (experts % groups != 0) {
        return error_set(error, ERROR_FORMAT,
                         "%s: key \"n_group\": expected a divisor of n_routed_experts = %lld, found %lld", name,
                         (long long)experts, (long long)groups);
    }
    if (kept > groups) {
        return error_set(error, ERROR_FORMAT, "%s: key \"topk_group\": expected at most n_group = %lld, found %lld",
                         name, (long long)groups, (long long)kept);
    }
    if (config->topk_method == ROUTER_GROUP_TOP2 && groups > 1 && experts / groups < 2) {
        return error_set(
            error, ERROR_FORMAT,
            "%s: key \"n_group\": expected groups of at least 2 experts for noaux_tc, found %lld groups of 1", name,
            (long long)groups);
    }
    if (top > experts / groups * kept) {
        return error_set(
            error, ERROR_FORMAT,
            "%s: key \"num_experts_per_tok\": expected at most the %lld experts of %lld groups, found %lld", name,
            (long long)(experts / groups * kept), (long long)kept, (long long)top);
    }
    return 0;
}

static int read_experts(struct model_config *config, bool v2, const json_t *root, const char *name,
                        struct error *error) {
    const char *key = "n_routed_experts";
    int code;
    if (json_object_get(root, key) == NULL && json_object_get(root, "num_local_experts") != NULL) {
        key = "num_local_experts";
    }
    if (json_object_get(root, key) == NULL) {
        return error_set(error, ERROR_FORMAT,
                         "%s: key \"%s\": expected an integer, or null for dense layers alone, found nothing", name,
                         key);
    }
    if ((code = read_ranged(&config->n_routed_experts, 0, 0, 65536, root, key, name, error)) != 0) {
        return code;
    }
    // null is "none" here, also where the class default is another number.
    bool no_shared = json_is_null(json_object_get(root, "n_shared_experts")),
         no_group = json_is_null(json_object_get(root, "n_group"));
    bool no_top = json_is_null(json_object_get(root, "topk_group"));
    if ((code = read_ranged(&config->n_shared_experts, v2 || no_shared ? 0 : 1, 0, 4096, root, "n_shared_experts", name,
                            error)) != 0 ||
        (code = read_ranged(&config->n_group, v2 || no_group ? 1 : 8, 1, 65536, root, "n_group", name, error)) != 0 ||
        (code = read_ranged(&config->topk_group,
                            v2       ? 1
                            : no_top ? config->n_group
                                     : 4,
                            1, 65536, root, "topk_group", name, error)) != 0 ||
        (code = read_ranged(&config->first_k_dense_replace, v2 ? 0 : 3, 0, 65536, root, "first_k_dense_replace", name,
                            error)) != 0 ||
        (code = read_ranged(&config->moe_layer_freq, 1, 1, 65536, root, "moe_layer_freq", name, error)) != 0 ||
        (code = read_router(config, v2, root, name, error)) != 0) {
        return code;
    }
    if (config->n_routed_experts == 0) {
        config->n_shared_experts = config->num_experts_per_tok = config->moe_intermediate_size = 0;
        config->n_group = config->topk_group = 1;
        return 0;
    }
    code = read_sizes(config, expert_sizes, sizeof expert_sizes / sizeof expert_sizes[0], root, name, error);
    return code != 0 ? code : check_groups(config, name, error);
}

// ---- Rotary embedding ----------------------------------------------------------------------------------------------

static int read_yarn(struct rope_scaling *rope, const json_t *object, const char *name, struct error *error) {
    int code;
    if ((code = json_get_number(&rope->factor, object, "factor", name, error)) != 0 ||
        (code = json_get_integer(&rope->original_max_position_embeddings, object, "original_max_position_embeddings",
                                 name, error)) != 0 ||
        (code = json_get_number_or(&rope->mscale, 1.0, object, "mscale", name, error)) != 0 ||
        (code = json_get_number_or(&rope->mscale_all_dim, 0.0, object, "mscale_all_dim", name, error)) != 0 ||
        (code = json_get_number_or(&rope->beta_fast, 32.0, object, "beta_fast", name, error)) != 0 ||
        (code = json_get_number_or(&rope->beta_slow, 1.0, object, "beta_slow", name, error)) != 0 ||
        (code = require_boolean(true, object, "truncate", name, error)) != 0) {
        return code;
    }
    if (!(rope->factor >= 1.0 && rope->factor <= 1e6)) {
        return error_set(error, ERROR_FORMAT, "%s: key \"factor\": expected a number from 1 to 1e6, found %g", name,
                         rope->factor);
    }
    if (rope->original_max_position_embeddings < 1 || rope->original_max_position_embeddings > (1 << 30)) {
        return range_error(error, name, "original_max_position_embeddings", 1, 1 << 30,
                           rope->original_max_position_embeddings);
    }
    if (!(rope->beta_fast > 0.0 && rope->beta_slow > 0.0)) {
        return error_set(error, ERROR_FORMAT,
                         "%s: keys \"beta_fast\" and \"beta_slow\": expected positive numbers, found %g and %g", name,
                         rope->beta_fast, rope->beta_slow);
    }
    const json_t *attention_factor = json_object_get(object, "attention_factor");
    if (attention_factor != NULL && !json_is_null(attention_factor)) {
        return error_set(error, ERROR_FORMAT,
                         "%s: key \"attention_factor\": expected none (it follows from mscale and mscale_all_dim), "
                         "found %s",
                         name, json_type_text(attention_factor));
    }
    return 0;
}

static int read_rope(struct model_config *config, const json_t *root, const char *name, struct error *error) {
    const char *key = json_is_object(json_object_get(root, "rope_scaling")) ||
                              json_object_get(root, "rope_parameters") == NULL
                          ? "rope_scaling"
                          : "rope_parameters";
    const json_t *object = json_object_get(root, key);
    const char *type;
    char *inner = NULL;
    int code = json_get_number_or(&config->rope_theta, 10000.0, root, "rope_theta", name, error);
    if (code != 0) {
        return code;
    }
    if (object != NULL && !json_is_null(object)) {
        if (!json_is_object(object)) {
            return error_set(error, ERROR_FORMAT, "%s: key \"%s\": expected an object, found %s", name, key,
                             json_type_text(object));
        }
        inner = memory_format(error, "%s: %s", name, key);
        if (inner == NULL) {
            return ERROR_MEMORY;
        }
        if ((code = json_get_number_or(&config->rope_theta, config->rope_theta, object, "rope_theta", inner, error)) !=
                0 ||
            (code = json_get_string_or(&type, "default", object, "type", inner, error)) != 0 ||
            (code = json_get_string_or(&type, type, object, "rope_type", inner, error)) != 0) {
            goto out;
        }
        if (strcmp(type, "yarn") == 0) {
            code = read_yarn(&config->rope_scaling, object, inner, error);
        } else if (strcmp(type, "default") != 0) {
            code = error_set(error, ERROR_FORMAT,
                             "%s: key \"rope_type\": expected \"yarn\" or \"default\", found \"%s\"", inner, type);
        }
    }
    if (code == 0 && !(config->rope_theta > 1.0 && config->rope_theta <= 1e12)) {
        code = error_set(error, ERROR_FORMAT,
                         "%s: key \"rope_theta\": expected a number above 1 and at most 1e12, found %g", name,
                         config->rope_theta);
    }
out:
    memory_free(inner);
    return code;
}

// ---- Weights -------------------------------------------------------------------------------------------------------

static int read_quantization(struct model_config *config, const json_t *root, const char *name, struct error *error) {
    const json_t *object = json_object_get(root, "quantization_config");
    const char *method, *fmt, *scale_fmt;
    int code = json_get_string_or(&scale_fmt, "", root, "scale_fmt", name, error);
    if (code != 0 || object == NULL || json_is_null(object)) {
        return code;
    }
    if (!json_is_object(object)) {
        return error_set(error, ERROR_FORMAT, "%s: key \"quantization_config\": expected an object, found %s", name,
                         json_type_text(object));
    }
    if ((code = json_get_string(&method, object, "quant_method", name, error)) != 0 ||
        (code = json_get_string_or(&fmt, "e4m3", object, "fmt", name, error)) != 0 ||
        (code = json_get_string_or(&scale_fmt, scale_fmt, object, "scale_fmt", name, error)) != 0) {
        return code;
    }
    const json_t *block = json_object_get(object, "weight_block_size");
    bool square = json_array_size(block) == 2 && json_integer_value(json_array_get(block, 0)) == BLOCK_SIZE &&
                  json_integer_value(json_array_get(block, 1)) == BLOCK_SIZE;
    if (strcmp(method, "fp8") != 0 || strcmp(fmt, "e4m3") != 0 || !square) {
        return error_set(error, ERROR_FORMAT,
                         "%s: key \"quantization_config\": expected quant_method \"fp8\", fmt \"e4m3\" and "
                         "weight_block_size [128, 128], found quant_method \"%s\", fmt \"%s\"%s",
                         name, method, fmt, square ? "" : " and another block size");
    }
    config->fp8 = true;
    config->fp8_power_of_two = strcmp(scale_fmt, "ue8m0") == 0;
    return 0;
}

static int read_rest(struct model_config *config, bool v2, const json_t *root, const char *name, struct error *error) {
    const char *activation, *dtype, *mtp_key = "num_nextn_predict_layers";
    int64_t heads;
    int code;
    if (json_object_get(root, mtp_key) == NULL && json_object_get(root, "num_mtp_layers") != NULL) {
        mtp_key = "num_mtp_layers";
    }
    if ((code = read_ranged(&config->num_nextn_predict_layers, v2 ? 0 : 1, 0, 64, root, mtp_key, name, error)) != 0 ||
        (code = read_ranged(&config->max_position_embeddings, v2 ? 2048 : 4096, 1, 1 << 30, root,
                            "max_position_embeddings", name, error)) != 0 ||
        (code = read_ranged(&heads, config->num_attention_heads, 1, 65536, root, "num_key_value_heads", name, error)) !=
            0 ||
        (code = json_get_number_or(&config->rms_norm_eps, 1e-6, root, "rms_norm_eps", name, error)) != 0 ||
        (code = json_get_number_or(&config->initializer_range, 0.02, root, "initializer_range", name, error)) != 0 ||
        (code = json_get_string_or(&activation, "silu", root, "hidden_act", name, error)) != 0 ||
        (code = require_boolean(false, root, "attention_bias", name, error)) != 0 ||
        (code = require_boolean(false, root, "mlp_bias", name, error)) != 0 ||
        (code = require_boolean(true, root, "rope_interleave", name, error)) != 0 ||
        (code = json_get_boolean_or(&config->tie_word_embeddings, false, root, "tie_word_embeddings", name, error)) !=
            0 ||
        (code = json_get_string_or(&dtype, "bfloat16", root, "dtype", name, error)) != 0 ||
        (code = json_get_string_or(&dtype, dtype, root, "torch_dtype", name, error)) != 0 ||
        (code = read_token(&config->bos_token_id, v2 ? 100000 : 0, config->vocab_size, root, "bos_token_id", name,
                           error)) != 0 ||
        (code = read_token(&config->eos_token_id, v2 ? 100001 : 1, config->vocab_size, root, "eos_token_id", name,
                           error)) != 0) {
        return code;
    }
    if (heads != config->num_attention_heads) {
        return error_set(error, ERROR_FORMAT,
                         "%s: key \"num_key_value_heads\": expected num_attention_heads = %lld, found %lld", name,
                         (long long)config->num_attention_heads, (long long)heads);
    }
    if (strcmp(activation, "silu") != 0) {
        return error_set(error, ERROR_FORMAT, "%s: key \"hidden_act\": expected \"silu\", found \"%s\"", name,
                         activation);
    }
    if (!(config->rms_norm_eps > 0.0 && config->rms_norm_eps < 1.0)) {
        return error_set(error, ERROR_FORMAT, "%s: key \"rms_norm_eps\": expected a number between 0 and 1, found %g",
                         name, config->rms_norm_eps);
    }
    if (!(config->initializer_range >= 0.0 && config->initializer_range <= 100.0)) {
        return error_set(error, ERROR_FORMAT,
                         "%s: key \"initializer_range\": expected a number from 0 to 100, found %g", name,
                         config->initializer_range);
    }
    if (strlen(dtype) >= sizeof config->torch_dtype) {
        return error_set(error, ERROR_FORMAT,
                         "%s: key \"torch_dtype\": expected a dtype such as \"bfloat16\", found \"%s\"", name, dtype);
    }
    snprintf(config->torch_dtype, sizeof config->torch_dtype, "%s", dtype);
    return 0;
}

// ---- Counts --------------------------------------------------------------------------------------------------------

// In double: exact below 2^53, and a nonsensical configuration overflows into a large number instead of wrapping round.
struct count {
    double attention, mlp, expert, shared, router, block_norms;   // of one layer
};

static struct count count_pieces(const struct model_config *config) {
    double d = (double)config->hidden_size, heads = (double)config->num_attention_heads,
           qk = (double)model_qk_head_dim(config);
    double q_lora = (double)config->q_lora_rank, kv_lora = (double)config->kv_lora_rank,
           rope = (double)config->qk_rope_head_dim;
    double nope = (double)config->qk_nope_head_dim, v = (double)config->v_head_dim;
    struct count count = {.mlp = 3.0 * d * (double)config->intermediate_size, .block_norms = 2.0 * d};
    double q = q_lora > 0.0 ? q_lora * d + q_lora + heads * qk * q_lora : heads * qk * d;
    count.attention = q + (kv_lora + rope) * d + kv_lora + heads * (nope + v) * kv_lora + d * heads * v;
    count.expert = 3.0 * d * (double)config->moe_intermediate_size;
    count.shared = count.expert * (double)config->n_shared_experts;
    count.router = (double)config->n_routed_experts * (d + (config->topk_method == ROUTER_GROUP_TOP2 ? 1.0 : 0.0));
    return count;
}

// One block with `experts` routed experts counted.
static double count_block(const struct count *count, bool is_moe, double experts) {
    return count->attention + count->block_norms +
           (is_moe ? experts * count->expert + count->shared + count->router : count->mlp);
}

static double count_main(const struct model_config *config, double experts) {
    struct count count = count_pieces(config);
    double table = (double)config->vocab_size * (double)config->hidden_size;
    double total = (config->tie_word_embeddings ? 1.0 : 2.0) * table + (double)config->hidden_size;
    for (int64_t layer = 0; layer < config->num_hidden_layers; layer++) {
        total += count_block(&count, model_layer_is_moe(config, layer), experts);
    }
    return total;
}

static double count_mtp(const struct model_config *config) {
    struct count count = count_pieces(config);
    double d = (double)config->hidden_size;
    bool is_moe = model_layer_is_moe(config, config->num_hidden_layers);
    return (double)config->num_nextn_predict_layers *
           (count_block(&count, is_moe, (double)config->n_routed_experts) + 2.0 * d * d + 3.0 * d);
}

struct model_count model_count_parameters(const struct model_config *config) {
    int64_t table = config->vocab_size * config->hidden_size;
    struct model_count count = {.total = (int64_t)count_main(config, (double)config->n_routed_experts),
                                .active = (int64_t)count_main(config, (double)config->num_experts_per_tok),
                                .mtp_unique = (int64_t)count_mtp(config)};
    count.active_without_embedding = count.active - (config->tie_word_embeddings ? 0 : table);
    count.mtp = count.mtp_unique + 2 * config->num_nextn_predict_layers * table;
    return count;
}

static int check_total(const struct model_config *config, const char *name, struct error *error) {
    double tables = 2.0 * (double)config->num_nextn_predict_layers * (double)config->vocab_size *
                    (double)config->hidden_size;
    double total = count_main(config, (double)config->n_routed_experts) + count_mtp(config) + tables;
    return total < TOTAL_LIMIT
               ? 0
               : error_set(error, ERROR_LIMIT, "%s: expected fewer than 2^53 parameters, found %.3g", name, total);
}

// ---- What follows from it ------------------------------------------------------------------------------------------

bool model_layer_is_moe(const struct model_config *config, int64_t layer) {
    if (config->n_routed_experts == 0) {
        return false;
    }
    return layer >= config->num_hidden_layers ||
           (layer >= config->first_k_dense_replace && layer % config->moe_layer_freq == 0);
}

int64_t model_qk_head_dim(const struct model_config *config) {
    return config->qk_nope_head_dim + config->qk_rope_head_dim;
}

struct router_rule model_router_rule(const struct model_config *config) {
    bool grouped = config->topk_method != ROUTER_GREEDY;
    return (struct router_rule){.experts = config->n_routed_experts,
                                .top_k = config->num_experts_per_tok,
                                .groups = grouped ? config->n_group : 1,
                                .top_groups = grouped ? config->topk_group : 1,
                                .score = config->scoring_func,
                                .method = config->topk_method,
                                .normalize = config->norm_topk_prob,
                                .scaling = (float)config->routed_scaling_factor};
}

// ---- The file ------------------------------------------------------------------------------------------------------

int model_config_from_json(struct model_config *config, const json_t *root, const char *name, struct error *error) {
    *config = (struct model_config){0};
    int code;
    if (!json_is_object(root)) {
        return error_set(error, ERROR_FORMAT, "%s: expected an object, found %s", name, json_type_text(root));
    }
    if ((code = read_model_type(config, root, name, error)) != 0) {
        return code;
    }
    bool v2 = strcmp(config->model_type, "deepseek_v2") == 0;
    if ((code = read_sizes(config, required_sizes, sizeof required_sizes / sizeof required_sizes[0], root, name,
                           error)) != 0 ||
        (code = read_q_lora_rank(config, root, name, error)) != 0 ||
        (code = read_experts(config, v2, root, name, error)) != 0 ||
        (code = read_rest(config, v2, root, name, error)) != 0 || (code = read_rope(config, root, name, error)) != 0 ||
        (code = read_quantization(config, root, name, error)) != 0) {
        return code;
    }
    if (config->qk_rope_head_dim % 2 != 0) {
        return error_set(error, ERROR_FORMAT, "%s: key \"qk_rope_head_dim\": expected an even number, found %lld", name,
                         (long long)config->qk_rope_head_dim);
    }
    return check_total(config, name, error);
}

int model_config_read(struct model_config *config, const char *path, struct error *error) {
    json_t *root = NULL;
    char *joined = NULL;
    int code = 0;
    if (file_is_directory(path)) {
        joined = file_join(path, "config.json", error);
        if (joined == NULL) {
            return ERROR_MEMORY;
        }
        path = joined;
    }
    code = json_read(&root, path, CONFIG_BYTES_LIMIT, error);
    if (code == 0) {
        code = model_config_from_json(config, root, path, error);
    }
    json_decref(root);
    memory_free(joined);
    return code;
}
