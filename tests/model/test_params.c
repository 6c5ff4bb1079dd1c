// model/params.c: the one list of parameters, its order and counts, memory of each format, initial values.
#include "model/params.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "support/test.h"
#include "support/tiny.h"
#include "tensor/formats.h"
#include "weights/checkpoint.h"

struct sums {
    int64_t total, mtp, count, stop_at;
    char last[128];
};

static int add_up(void *argument, const struct param *param, struct error *error) {
    struct sums *sums = argument;
    int64_t elements = param->shape[0] * param->shape[1];
    if (sums->count++ == sums->stop_at) {
        return error_set(error, ERROR_STATE, "stopped");
    }
    *(param->layer >= 61 ? &sums->mtp : &sums->total) += elements;
    strcpy(sums->last, param->name);
    return 0;
}

static struct model_config official(void) {
    struct model_config config = tiny_config();
    config.vocab_size = 129280, config.hidden_size = 7168, config.num_hidden_layers = 61,
    config.first_k_dense_replace = 3;
    config.intermediate_size = 18432, config.moe_intermediate_size = 2048, config.num_attention_heads = 128;
    config.q_lora_rank = 1536, config.kv_lora_rank = 512, config.qk_nope_head_dim = 128, config.qk_rope_head_dim = 64;
    config.v_head_dim = 128, config.n_routed_experts = 256, config.n_shared_experts = 1, config.num_experts_per_tok = 8;
    config.n_group = 8, config.topk_group = 4, config.num_nextn_predict_layers = 1;
    return config;
}

// The walk and the formulas of config.c agree with the published counts of the 671B model.
static void test_official_counts(void **state) {
    (void)state;
    struct model_config config = official();
    struct model_params params;
    struct sums sums = {.stop_at = -1};
    struct arena arena;
    arena_init(&arena, "test");
    int64_t calls = memory_statistics_get().calls;
    assert_int_equal(arena_reserve(&arena, params_table_bytes(&config), NULL), 0);
    params_create(&params, &config, &arena);
    assert_int_equal(memory_statistics_get().calls, calls + 1);   // the reserve was enough
    assert_int_equal(params_visit(&params, &config, add_up, &sums, NULL), 0);
    assert_int_equal(sums.total, 671026419200);
    assert_int_equal(sums.mtp, 11610068224);
    assert_string_equal(sums.last, "model.layers.61.shared_head.norm.weight");
    arena_destroy(&arena);
}

static void test_counts_of_variants(void **state) {
    (void)state;
    for (int variant = 0; variant < 16; variant++) {
        struct model_config config = tiny_config();
        struct model_params params;
        struct sums sums = {.stop_at = -1};
        struct arena arena;
        config.q_lora_rank = variant & 1 ? 0 : 20;
        config.topk_method = variant & 2 ? ROUTER_GREEDY : ROUTER_GROUP_TOP2;
        config.n_shared_experts = variant & 4 ? 0 : 2;
        config.tie_word_embeddings = (variant & 8) != 0;
        arena_init(&arena, "test");
        params_create(&params, &config, &arena);
        assert_int_equal(params_visit(&params, &config, add_up, &sums, NULL), 0);
        struct model_count count = model_count_parameters(&config);
        assert_int_equal(sums.total, count.total + count.mtp_unique);
        arena_destroy(&arena);
    }
}

static void test_order(void **state) {
    (void)state;
    static const char *const begin[] = {"model.embed_tokens.weight",
                                        "model.layers.0.input_layernorm.weight",
                                        "model.layers.0.self_attn.q_a_proj.weight",
                                        "model.layers.0.self_attn.q_a_layernorm.weight",
                                        "model.layers.0.self_attn.q_b_proj.weight",
                                        "model.layers.0.self_attn.kv_a_proj_with_mqa.weight",
                                        "model.layers.0.self_attn.kv_a_layernorm.weight",
                                        "model.layers.0.self_attn.kv_b_proj.weight",
                                        "model.layers.0.self_attn.o_proj.weight",
                                        "model.layers.0.post_attention_layernorm.weight",
                                        "model.layers.0.mlp.gate_proj.weight"};
    struct model_config config = tiny_config();
    struct tiny tiny;
    struct param_list list;
    tiny_open(&tiny, &config, FORMAT_F32, 0);
    assert_int_equal(params_list(&list, &tiny.params, &config, &tiny.arena, NULL), 0);
    for (size_t i = 0; i < sizeof begin / sizeof begin[0]; i++) {
        assert_string_equal(list.items[i].name, begin[i]);
    }
    int64_t experts = 0, router_bias = 0;
    for (int64_t i = 0; i < list.count; i++) {
        const struct param *param = &list.items[i];
        assert_true(tensor_present(param->tensor));
        assert_int_equal(param->tensor->rank, param->rank);
        assert_int_equal(param->decay, param->rank == 2);
        assert_int_equal(param->trained, param->kind != PARAM_ROUTER_BIAS);
        experts += param->expert >= 0;
        router_bias += param->kind == PARAM_ROUTER_BIAS;
        // What FP8 may store is what the file side calls so.
        assert_int_equal(param->kind == PARAM_LINEAR, checkpoint_name_is_fp8(param->name));
    }
    assert_int_equal(experts, 3 * 3 * 6);   // one MoE layer and two MTP modules, three matrices, six experts
    assert_int_equal(router_bias, 3);
    struct sums sums = {.stop_at = 3};
    struct error error = {0};
    test_assert_error(params_visit(&tiny.params, &config, add_up, &sums, &error), &error, ERROR_STATE, "stopped");
    assert_int_equal(sums.count, 4);
    tiny_close(&tiny);
}

static void test_formats(void **state) {
    (void)state;
    struct model_config config = tiny_config();
    config.tie_word_embeddings = true;
    for (int format = FORMAT_F32; format <= FORMAT_E4M3_BLOCK; format++) {
        for (int small = 0; small < 2; small++) {
            struct model_params params;
            struct arena arena;
            arena_init(&arena, "test");
            params_create(&params, &config, &arena);
            assert_int_equal(params_allocate(&params, &config, (enum format)format, small, small, &arena, NULL), 0);
            enum format plain = format == FORMAT_E4M3_BLOCK ? FORMAT_BF16 : (enum format)format;
            assert_int_equal(params.embed_tokens.format, plain);
            assert_ptr_equal(params.lm_head.data, params.embed_tokens.data);
            assert_int_equal(params.norm.format, small ? FORMAT_F32 : plain);
            assert_int_equal(params.layers[1].moe.gate.format, small ? FORMAT_F32 : plain);
            assert_int_equal(params.layers[1].moe.gate_proj[5].format, format);
            assert_int_equal(params.layers[1].moe.gate_proj[5].scale != NULL, format == FORMAT_E4M3_BLOCK);
            assert_int_equal(params.mtp[1].eh_proj.format, plain);
            assert_int_equal(params.layers[1].moe.e_score_correction_bias.format, small ? FORMAT_NONE : FORMAT_F32);
            arena_destroy(&arena);
        }
    }
}

static float value_at(const struct tensor *tensor, int64_t row, int64_t column) {
    float value;
    format_info(tensor->format)->widen(&value, tensor, row, column, 1);
    return value;
}

static void test_initial_values(void **state) {
    (void)state;
    struct model_config config = tiny_config();
    struct tiny one, three, bf16, fp8;
    tiny_open(&one, &config, FORMAT_F32, 0);
    tiny_open(&three, &config, FORMAT_F32, 3);
    tiny_open(&bf16, &config, FORMAT_BF16, 2);
    tiny_open(&fp8, &config, FORMAT_E4M3_BLOCK, 3);
    struct param_list a, b, c, d;
    assert_int_equal(params_list(&a, &one.params, &config, &one.arena, NULL), 0);
    assert_int_equal(params_list(&b, &three.params, &config, &three.arena, NULL), 0);
    assert_int_equal(params_list(&c, &bf16.params, &config, &bf16.arena, NULL), 0);
    assert_int_equal(params_list(&d, &fp8.params, &config, &fp8.arena, NULL), 0);
    for (int64_t i = 0; i < a.count; i++) {
        const struct param *param = &a.items[i];
        assert_memory_equal(param->tensor->data, b.items[i].tensor->data, (size_t)tensor_bytes(param->tensor));
        int64_t columns = param->rank == 2 ? param->shape[1] : param->shape[0];
        int64_t rows = param->rank == 2 ? param->shape[0] : 1;
        double squares = 0.0;
        for (int64_t row = 0; row < rows; row++) {
            for (int64_t column = 0; column < columns; column++) {
                float value = value_at(param->tensor, row, column);
                squares += (double)value * (double)value;
                float narrow = c.items[i].tensor->format == FORMAT_BF16 ? bf16_widen(bf16_narrow(value)) : value;
                assert_true(value_at(c.items[i].tensor, row, column) == narrow);
                // E4M3 keeps three bits below the leading one: half a step is 1/16, and 2^-10 of the block's scale near
                // zero.
                float error = fabsf(value_at(d.items[i].tensor, row, column) - value);
                assert_true(error <= fabsf(value) / 16.0f + 1e-6f);
            }
        }
        if (param->kind == PARAM_NORM || param->kind == PARAM_ROUTER_BIAS) {
            assert_true(value_at(param->tensor, 0, columns - 1) == (param->kind == PARAM_NORM ? 1.0f : 0.0f));
        } else {
            double deviation = sqrt(squares / (double)(rows * columns));
            assert_true(deviation > 0.015 && deviation < 0.025);
            uint64_t stream = rng_hash_string(param->name);
            assert_true(value_at(param->tensor, 1, 3) == 0.02f * rng_normal(7, stream, (uint64_t)(columns + 3)));
        }
    }
    tiny_close(&one);
    tiny_close(&three);
    tiny_close(&bf16);
    tiny_close(&fp8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_official_counts), cmocka_unit_test(test_counts_of_variants), cmocka_unit_test(test_order),
        cmocka_unit_test(test_formats),         cmocka_unit_test(test_initial_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
