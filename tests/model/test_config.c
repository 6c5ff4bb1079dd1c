// model/config.c, config_write.c, rope.c: the configurations of the family, their counts, rotary tables, and what is
// refused.
#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "support/test.h"

static char *root;

static int setup(void **state) {
    (void)state;
    root = test_directory();
    return 0;
}

static int teardown(void **state) {
    (void)state;
    test_directory_remove(root);
    return 0;
}

// ---- The family -----------------------------------------------------------------------------------------------------

#define YARN(factor, mscale, fast)                                                                      \
    "\"rope_scaling\":{\"beta_fast\":" fast ",\"beta_slow\":1,\"factor\":" factor ",\"mscale\":" mscale \
    ",\"mscale_all_dim\":" mscale ",\"original_max_position_embeddings\":4096,\"type\":\"yarn\"}"
#define HEADS "\"kv_lora_rank\":512,\"qk_nope_head_dim\":128,\"qk_rope_head_dim\":64,\"v_head_dim\":128,"

static const char v3[] =
    "{\"architectures\":[\"DeepseekV3ForCausalLM\"],\"attention_bias\":false,\"attention_dropout\":0.0,"
    "\"auto_map\":{\"AutoConfig\":\"configuration_deepseek.DeepseekV3Config\"},\"aux_loss_alpha\":0.001,"
    "\"bos_token_id\":0,"
    "\"eos_token_id\":1,\"ep_size\":1,\"first_k_dense_replace\":3,\"hidden_act\":\"silu\",\"hidden_size\":7168,"
    "\"initializer_range\":0.02,\"intermediate_size\":18432," HEADS "\"max_position_embeddings\":163840,"
    "\"model_type\":\"deepseek_v3\",\"moe_intermediate_size\":2048,\"moe_layer_freq\":1,\"n_group\":8,"
    "\"n_routed_experts\":256,"
    "\"n_shared_experts\":1,\"norm_topk_prob\":true,\"num_attention_heads\":128,\"num_experts_per_tok\":8,"
    "\"num_hidden_layers\":61,\"num_key_value_heads\":128,\"num_nextn_predict_layers\":1,\"pretraining_tp\":1,"
    "\"q_lora_rank\":1536,\"quantization_config\":{\"activation_scheme\":\"dynamic\",\"fmt\":\"e4m3\","
    "\"quant_method\":\"fp8\","
    "\"weight_block_size\":[128,128]},\"rms_norm_eps\":1e-06," YARN(
        "40", "1.0", "32") ",\"rope_theta\":10000,"
                           "\"routed_scaling_factor\":2.5,\"scoring_func\":\"sigmoid\",\"seq_aux\":true,"
                           "\"tie_word_embeddings\":false,"
                           "\"topk_group\":4,\"topk_method\":\"noaux_tc\",\"torch_dtype\":\"bfloat16\","
                           "\"use_cache\":true,\"vocab_size\":129280}";

static const char kimi_k2[] =
    "{\"model_type\":\"kimi_k2\",\"hidden_size\":7168,\"intermediate_size\":18432,\"first_k_dense_replace\":1," HEADS
    "\"max_position_embeddings\":131072,\"moe_intermediate_size\":2048,\"n_group\":1,\"n_routed_experts\":384,"
    "\"n_shared_experts\":1,\"norm_topk_prob\":true,\"num_attention_heads\":64,\"num_key_value_heads\":64,"
    "\"num_experts_per_tok\":8,\"num_hidden_layers\":61,\"num_nextn_predict_layers\":0,\"q_lora_rank\":1536,"
    "\"bos_token_id\":163584,\"eos_token_id\":163585,\"rope_theta\":50000.0," YARN(
        "32.0", "1.0", "1.0") ","
                              "\"routed_scaling_factor\":2.827,\"scoring_func\":\"sigmoid\",\"topk_group\":1,"
                              "\"topk_method\":\"noaux_tc\","
                              "\"vocab_size\":163840}";

static const char moonlight[] =
    "{\"model_type\":\"deepseek_v3\",\"hidden_size\":2048,\"intermediate_size\":11264,"
    "\"first_k_dense_replace\":1," HEADS
    "\"max_position_embeddings\":8192,\"moe_intermediate_size\":1408,\"n_group\":1,\"n_routed_experts\":64,"
    "\"n_shared_experts\":2,\"norm_topk_prob\":true,\"num_attention_heads\":16,\"num_key_value_heads\":16,"
    "\"num_experts_per_tok\":6,\"num_hidden_layers\":27,\"num_nextn_predict_layers\":0,\"q_lora_rank\":null,"
    "\"bos_token_id\":163584,\"eos_token_id\":163585,\"rms_norm_eps\":1e-05,\"rope_theta\":50000.0,"
    "\"rope_scaling\":null,"
    "\"routed_scaling_factor\":2.446,\"scoring_func\":\"sigmoid\",\"topk_group\":1,\"topk_method\":\"noaux_tc\","
    "\"vocab_size\":163840}";

static const char v2_lite[] =
    "{\"model_type\":\"deepseek_v2\",\"hidden_size\":2048,\"intermediate_size\":10944,"
    "\"first_k_dense_replace\":1," HEADS
    "\"max_position_embeddings\":163840,\"moe_intermediate_size\":1408,\"n_group\":1,\"n_routed_experts\":64,"
    "\"n_shared_experts\":2,\"norm_topk_prob\":false,\"num_attention_heads\":16,\"num_key_value_heads\":16,"
    "\"num_experts_per_tok\":6,\"num_hidden_layers\":27,\"q_lora_rank\":null," YARN(
        "40", "0.707",
        "32") ","
              "\"rope_theta\":10000,\"routed_scaling_factor\":1.0,\"scoring_func\":\"softmax\",\"topk_group\":1,"
              "\"topk_method\":\"greedy\",\"vocab_size\":102400}";

static const char v2[] =
    "{\"model_type\":\"deepseek_v2\",\"hidden_size\":5120,\"intermediate_size\":12288,"
    "\"first_k_dense_replace\":1," HEADS
    "\"max_position_embeddings\":163840,\"moe_intermediate_size\":1536,\"n_group\":8,\"n_routed_experts\":160,"
    "\"n_shared_experts\":2,\"norm_topk_prob\":false,\"num_attention_heads\":128,\"num_key_value_heads\":128,"
    "\"num_experts_per_tok\":6,\"num_hidden_layers\":60,\"q_lora_rank\":1536," YARN(
        "40", "0.707",
        "32") ","
              "\"rope_theta\":10000,\"routed_scaling_factor\":16.0,\"scoring_func\":\"softmax\",\"topk_group\":3,"
              "\"topk_method\":\"group_limited_greedy\",\"vocab_size\":102400}";

static int parse(struct model_config *config, const char *text, struct error *error) {
    json_t *json;
    int code = json_parse(&json, text, strlen(text), "test.json", error);
    if (code == 0) {
        code = model_config_from_json(config, json, "test.json", error);
    }
    json_decref(json);
    return code;
}

static struct model_config parse_good(const char *text) {
    struct model_config config;
    struct error error = {0};
    if (parse(&config, text, &error) != 0) {
        fail_msg("%s", error.text);
    }
    return config;
}

static void test_v3(void **state) {
    (void)state;
    struct model_config config = parse_good(v3);
    struct model_count count = model_count_parameters(&config);
    assert_int_equal(count.total, 671026419200);
    assert_int_equal(count.active, 37552297472);
    assert_int_equal(count.active_without_embedding, 36625618432);
    assert_int_equal(count.mtp_unique, 11610068224);
    assert_int_equal(count.mtp, 13463426304);
    assert_true(config.fp8 && !config.fp8_power_of_two);
    assert_int_equal(config.q_lora_rank, 1536);
    assert_true(config.rope_scaling.factor == 40.0 && config.rope_scaling.beta_fast == 32.0);
    assert_false(model_layer_is_moe(&config, 2));
    assert_true(model_layer_is_moe(&config, 3));
    assert_true(model_layer_is_moe(&config, 61));
    assert_true(fabs((double)model_softmax_scale(&config) - 0.1352337788608801) < 1e-8);
    struct router_rule rule = model_router_rule(&config);
    assert_int_equal(rule.experts, 256);
    assert_int_equal(rule.top_k, 8);
    assert_int_equal(rule.groups, 8);
    assert_int_equal(rule.top_groups, 4);
    assert_int_equal(rule.method, ROUTER_GROUP_TOP2);
    assert_int_equal(rule.score, ROUTER_SIGMOID);
    assert_true(rule.normalize && rule.scaling == 2.5f);
}

static void test_other_members(void **state) {
    (void)state;
    struct model_config config = parse_good(kimi_k2);
    struct model_count count = model_count_parameters(&config);
    assert_int_equal(count.total / 1000000000, 1026);
    assert_int_equal(count.active / 100000000, 328);
    assert_int_equal(count.mtp, 0);
    config = parse_good(moonlight);
    count = model_count_parameters(&config);
    assert_int_equal(count.total / 10000000, 1596);
    assert_int_equal(config.q_lora_rank, 0);
    assert_true(config.rope_scaling.factor == 0.0);
    assert_true(fabs((double)model_softmax_scale(&config) - 0.07216878364870322) < 1e-8);
    config = parse_good(v2_lite);
    count = model_count_parameters(&config);
    assert_int_equal(count.total, 15706484224);
    assert_int_equal(config.num_nextn_predict_layers, 0);
    assert_int_equal(model_router_rule(&config).method, ROUTER_GREEDY);
    assert_int_equal(config.bos_token_id, 100000);
    // 192^-0.5 times m^2 with mscale 0.707.
    assert_true(fabs((double)model_softmax_scale(&config) - 0.07216878364870322 * 1.5896261652) < 1e-8);
    config = parse_good(v2);
    count = model_count_parameters(&config);
    assert_int_equal(count.total, 235741434880);
    assert_int_equal(model_router_rule(&config).groups, 8);
    assert_int_equal(model_router_rule(&config).method, ROUTER_GROUP_MAX);
    assert_true(model_router_rule(&config).scaling == 16.0f);
}

// What transformers 5 writes: rope_parameters, dtype, and no keys that its V3 class does not have.
static void test_transformers_5(void **state) {
    (void)state;
    struct model_config config = parse_good(
        "{\"model_type\":\"deepseek_v3\",\"hidden_size\":64,\"intermediate_size\":128,"
        "\"kv_lora_rank\":16,\"qk_nope_head_dim\":8,"
        "\"qk_rope_head_dim\":8,\"v_head_dim\":8,\"vocab_size\":100,\"num_hidden_layers\":2,"
        "\"num_attention_heads\":2,"
        "\"q_lora_rank\":null,\"n_routed_experts\":8,\"n_shared_experts\":1,"
        "\"moe_intermediate_size\":32,\"n_group\":null,"
        "\"topk_group\":null,\"num_experts_per_tok\":2,\"first_k_dense_replace\":1,"
        "\"dtype\":\"float32\",\"num_mtp_layers\":2,"
        "\"eos_token_id\":[7,8],\"bos_token_id\":null,\"head_dim\":8,\"qk_head_dim\":16,\"rope_interleave\":true,"
        "\"rope_parameters\":{\"rope_theta\":5000.0,\"rope_type\":\"yarn\",\"type\":\"yarn\",\"factor\":4,"
        "\"original_max_position_embeddings\":64,\"attention_factor\":null,\"truncate\":true}}");
    assert_true(config.rope_theta == 5000.0);
    assert_true(config.rope_scaling.factor == 4.0 && config.rope_scaling.mscale == 1.0 &&
                config.rope_scaling.mscale_all_dim == 0.0);
    assert_string_equal(config.torch_dtype, "float32");
    assert_int_equal(config.n_group, 1);
    assert_int_equal(config.topk_group, 1);
    assert_int_equal(config.num_nextn_predict_layers, 2);
    assert_int_equal(config.eos_token_id, 7);
    assert_int_equal(config.bos_token_id, -1);
    assert_int_equal(config.topk_method, ROUTER_GROUP_TOP2);
    assert_true(config.norm_topk_prob && config.routed_scaling_factor == 2.5);
    // mscale_all_dim absent: no m^2 in the softmax scale, but an amplitude of cos and sin.
    float table[2 * 8];
    model_rope_table(table, 1, &config);
    assert_true(model_softmax_scale(&config) == 0.25f);
    assert_true(fabs((double)table[0] - (0.1 * log(4.0) + 1.0)) < 1e-6);
}

static void test_round_trip(void **state) {
    (void)state;
    static const char *const members[] = {v3, kimi_k2, moonlight, v2_lite, v2};
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
        struct model_config config = parse_good(members[i]), again;
        struct error error = {0};
        const char *path = test_path(root, "config.json");
        config.fp8 = config.fp8_power_of_two = i == 1;
        assert_int_equal(model_config_write(&config, path, &error), 0);
        if (model_config_read(&again, root, &error) != 0) {
            fail_msg("%s", error.text);
        }
        assert_memory_equal(&config, &again, sizeof config);
        assert_int_equal(model_config_read(&again, path, &error), 0);
    }
}

static void test_dense(void **state) {
    (void)state;
    struct model_config config = parse_good(
        "{\"model_type\":\"deepseek_v3\",\"hidden_size\":64,\"intermediate_size\":128,"
        "\"kv_lora_rank\":16,\"qk_nope_head_dim\":8,"
        "\"qk_rope_head_dim\":8,\"v_head_dim\":8,\"vocab_size\":100,\"num_hidden_layers\":2,"
        "\"num_attention_heads\":2,"
        "\"q_lora_rank\":0,\"n_routed_experts\":null,\"num_nextn_predict_layers\":0,\"tie_word_embeddings\":true}");
    struct model_config again;
    assert_false(model_layer_is_moe(&config, 1));
    // Tied: one table; two layers of attention, FFN and norms; the final norm.
    int64_t attention = 32 * 64 + 24 * 64 + 16 + 32 * 16 + 64 * 16;
    assert_int_equal(model_count_parameters(&config).total, 6400 + 2 * (attention + 3 * 64 * 128 + 128) + 64);
    assert_int_equal(model_count_parameters(&config).active, model_count_parameters(&config).total);
    assert_int_equal(model_config_write(&config, test_path(root, "config.json"), NULL), 0);
    assert_int_equal(model_config_read(&again, root, NULL), 0);
    assert_int_equal(again.n_routed_experts, 0);
    assert_true(again.tie_word_embeddings);
}

// ---- Rotary tables --------------------------------------------------------------------------------------------------

static void test_rope(void **state) {
    (void)state;
    static const struct {
        int pair;
        double frequency;
    } known[] = {{0, 1.0},
                 {10, 0.0562341325},
                 {11, 0.0390069266},
                 {15, 0.00833450895},
                 {16, 0.0055},
                 {20, 0.000790569415},
                 {22, 0.000177827941},
                 {23, 3.33380358e-05},
                 {31, 3.33380358e-06}};
    struct model_config config = parse_good(v3);
    float *table = calloc(64 * 1001, sizeof *table);
    model_rope_table(table, 1001, &config);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        const float *first = table + 2 * (1 * 32 + known[i].pair), *far = table + 2 * (1000 * 32 + known[i].pair);
        assert_true(fabs(atan2((double)first[1], (double)first[0]) / known[i].frequency - 1.0) < 1e-6);
        assert_true(fabs((double)far[0] - cos(1000.0 * known[i].frequency)) < 2e-6);
        assert_true(fabs((double)far[1] - sin(1000.0 * known[i].frequency)) < 2e-6);
    }
    assert_true(table[0] == 1.0f && table[1] == 0.0f && table[63] == 0.0f);
    // Without YaRN the last pair turns 40 times as fast; a longer table begins with a shorter one.
    config.rope_scaling.factor = 0.0;
    model_rope_table(table, 2, &config);
    assert_true(fabs((double)table[64 + 63] / (40.0 * 3.33380358e-06) - 1.0) < 1e-6);
    // Kimi-K2: beta_fast = beta_slow, the ramp is one pair wide.
    config = parse_good(kimi_k2);
    model_rope_table(table, 2, &config);
    for (int i = 0; i < 64; i++) {
        assert_true(isfinite(table[64 + i]));
    }
    free(table);
}

// mscale and mscale_all_dim differ: amplitude m(mscale) / m(mscale_all_dim), softmax scale with m(mscale_all_dim)^2.
static void test_rope_amplitude(void **state) {
    (void)state;
    struct model_config config = parse_good(v3);
    float table[64];
    config.rope_scaling.mscale = 0.5;
    config.rope_scaling.mscale_all_dim = 0.25;
    model_rope_table(table, 1, &config);
    double numerator = 0.1 * 0.5 * log(40.0) + 1.0, denominator = 0.1 * 0.25 * log(40.0) + 1.0;
    assert_true(fabs((double)table[0] - numerator / denominator) < 1e-6);
    assert_true(fabs((double)model_softmax_scale(&config) - denominator * denominator / sqrt(192.0)) < 1e-7);
}

// ---- Refusals -------------------------------------------------------------------------------------------------------

// `from` in the V3 file is replaced by `to`.
static void assert_refused(const char *from, const char *to, int expected, const char *fragment) {
    char text[4096];
    struct model_config config;
    struct error error = {0};
    const char *at = strstr(v3, from);
    assert_non_null(at);
    snprintf(text, sizeof text, "%.*s%s%s", (int)(at - v3), v3, to, at + strlen(from));
    int64_t blocks = memory_statistics_get().live_blocks;
    test_assert_error(parse(&config, text, &error), &error, expected, fragment);
    assert_non_null(strstr(error.text, "test.json"));
    assert_null(strchr(error.text, '\n'));
    assert_int_equal(memory_statistics_get().live_blocks, blocks);
}

static void test_refuses_sizes(void **state) {
    (void)state;
    assert_refused("\"hidden_size\":7168,", "", ERROR_FORMAT,
                   "key \"hidden_size\": expected an integer, found nothing");
    assert_refused("\"hidden_size\":7168", "\"hidden_size\":\"big\"", ERROR_FORMAT,
                   "expected an integer, found a string");
    assert_refused("\"hidden_size\":7168", "\"hidden_size\":0", ERROR_FORMAT,
                   "expected an integer from 1 to 16777216, found 0");
    assert_refused("\"hidden_size\":7168", "\"hidden_size\":-5", ERROR_FORMAT, "found -5");
    assert_refused("\"num_hidden_layers\":61", "\"num_hidden_layers\":99999999", ERROR_FORMAT, "found 99999999");
    assert_refused("\"num_attention_heads\":128", "\"num_attention_heads\":1e3", ERROR_FORMAT,
                   "\"num_attention_heads\": expected an integer");
    assert_refused("\"qk_rope_head_dim\":64", "\"qk_rope_head_dim\":63", ERROR_FORMAT,
                   "expected an even number, found 63");
    assert_refused("\"q_lora_rank\":1536,", "", ERROR_FORMAT,
                   "expected an integer, or null for no compression, found nothing");
    assert_refused("\"n_routed_experts\":256,", "", ERROR_FORMAT, "key \"n_routed_experts\"");
    assert_refused("\"vocab_size\":129280", "\"vocab_size\":1", ERROR_FORMAT,
                   "key \"eos_token_id\": expected an integer from -1 to 0, found 1");
    assert_refused("\"num_key_value_heads\":128", "\"num_key_value_heads\":8", ERROR_FORMAT,
                   "expected num_attention_heads = 128, found 8");
    assert_refused(
        "\"first_k_dense_replace\":3,\"hidden_act\":\"silu\",\"hidden_size\":7168,\"initializer_range\":0.02,"
        "\"intermediate_size\":18432",
        "\"first_k_dense_replace\":61,\"hidden_size\":16777216,\"intermediate_size\":16777216", ERROR_LIMIT,
        "fewer than 2^53 parameters");
}

static void test_refuses_experts(void **state) {
    (void)state;
    assert_refused("\"num_experts_per_tok\":8", "\"num_experts_per_tok\":257", ERROR_FORMAT,
                   "at most n_routed_experts = 256, found 257");
    assert_refused("\"num_experts_per_tok\":8,", "", ERROR_FORMAT,
                   "key \"num_experts_per_tok\": expected an integer, found nothing");
    assert_refused("\"num_experts_per_tok\":8", "\"num_experts_per_tok\":129", ERROR_FORMAT,
                   "at most the 128 experts of 4 groups, found 129");
    assert_refused("\"n_group\":8", "\"n_group\":7", ERROR_FORMAT, "a divisor of n_routed_experts = 256, found 7");
    assert_refused("\"n_group\":8", "\"n_group\":256", ERROR_FORMAT, "groups of at least 2 experts");
    assert_refused("\"topk_group\":4", "\"topk_group\":9", ERROR_FORMAT,
                   "key \"topk_group\": expected at most n_group = 8, found 9");
    assert_refused("\"scoring_func\":\"sigmoid\"", "\"scoring_func\":\"relu\"", ERROR_FORMAT,
                   "expected \"sigmoid\" or \"softmax\", found \"relu\"");
    assert_refused("\"topk_method\":\"noaux_tc\"", "\"topk_method\":\"random\"", ERROR_FORMAT, "found \"random\"");
    assert_refused("\"norm_topk_prob\":true", "\"norm_topk_prob\":1", ERROR_FORMAT, "key \"norm_topk_prob\"");
    assert_refused("\"model_type\":\"deepseek_v3\"", "\"model_type\":\"deepseek_v2\"", ERROR_FORMAT,
                   "expected false for deepseek_v2");
}

static void test_refuses_the_rest(void **state) {
    (void)state;
    assert_refused("\"model_type\":\"deepseek_v3\"", "\"model_type\":\"llama\"", ERROR_FORMAT,
                   "expected deepseek_v3, deepseek_v2 or kimi_k2, found \"llama\"");
    assert_refused("\"attention_bias\":false", "\"attention_bias\":true", ERROR_FORMAT,
                   "key \"attention_bias\": expected false, found true");
    assert_refused("\"hidden_act\":\"silu\"", "\"hidden_act\":\"gelu\"", ERROR_FORMAT,
                   "expected \"silu\", found \"gelu\"");
    assert_refused("\"rms_norm_eps\":1e-06", "\"rms_norm_eps\":0", ERROR_FORMAT, "key \"rms_norm_eps\"");
    assert_refused("\"rope_theta\":10000", "\"rope_theta\":1", ERROR_FORMAT, "key \"rope_theta\"");
    assert_refused("\"type\":\"yarn\"", "\"type\":\"linear\"", ERROR_FORMAT,
                   "test.json: rope_scaling: key \"rope_type\": expected \"yarn\" or \"default\", found \"linear\"");
    assert_refused("\"factor\":40", "\"factor\":0.5", ERROR_FORMAT, "key \"factor\"");
    assert_refused("\"factor\":40,", "", ERROR_FORMAT, "key \"factor\": expected a number, found nothing");
    assert_refused("\"factor\":40", "\"factor\":40,\"attention_factor\":1.5", ERROR_FORMAT,
                   "key "
                   "\"attention_factor\"");
    assert_refused("\"factor\":40", "\"factor\":40,\"truncate\":false", ERROR_FORMAT,
                   "key \"truncate\": expected true, found false");
    assert_refused("\"quant_method\":\"fp8\"", "\"quant_method\":\"awq\"", ERROR_FORMAT,
                   "found "
                   "quant_method \"awq\"");
    assert_refused("[128,128]", "[64,128]", ERROR_FORMAT, "and another block size");
    assert_refused("\"use_cache\":true", "\"rope_interleave\":false", ERROR_FORMAT,
                   "key \"rope_interleave\": expected true, found false");
    assert_refused("\"hidden_size\":7168", "\"hidden_size\":7168,\"hidden_size\":7168", ERROR_FORMAT, "duplicate");
    assert_refused("{\"architectures\"", "[\"architectures\"", ERROR_FORMAT, "line 1");
    struct model_config config;
    struct error error = {0};
    test_assert_error(parse(&config, "[]", &error), &error, ERROR_FORMAT, "expected an object");
    error_clear(&error);
    test_assert_error(model_config_read(&config, test_path(root, "absent"), &error), &error, ERROR_IO, "absent");
}

static int write_and_read(void *argument, struct error *error) {
    struct model_config config, again;
    const char *path = argument;
    int code = parse(&config, v3, error);
    if (code != 0 || (code = model_config_write(&config, path, error)) != 0) {
        return code;
    }
    return model_config_read(&again, path, error);
}

static void test_failing_memory_calls(void **state) {
    (void)state;
    char path[512];
    snprintf(path, sizeof path, "%s/memory.json", root);
    assert_true(test_failing_memory(write_and_read, path) > 50);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_v3),
        cmocka_unit_test(test_other_members),
        cmocka_unit_test(test_transformers_5),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_dense),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_rope_amplitude),
        cmocka_unit_test(test_refuses_sizes),
        cmocka_unit_test(test_refuses_experts),
        cmocka_unit_test(test_refuses_the_rest),
        cmocka_unit_test(test_failing_memory_calls),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
