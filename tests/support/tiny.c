// See tiny.h.
#include "support/tiny.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/test.h"

struct model_config tiny_config(void) {
    struct model_config config = {
        .model_type = "deepseek_v3", .vocab_size = 50, .hidden_size = 136, .num_hidden_layers = 2};
    config.first_k_dense_replace = config.moe_layer_freq = 1;
    config.intermediate_size = 144;
    config.moe_intermediate_size = 24;
    config.num_attention_heads = 2;
    config.q_lora_rank = 20;
    config.kv_lora_rank = 16;
    config.qk_nope_head_dim = 12;
    config.qk_rope_head_dim = 8;
    config.v_head_dim = 10;
    config.n_routed_experts = 6;
    config.n_shared_experts = 2;
    config.num_experts_per_tok = 2;
    config.n_group = 3;
    config.topk_group = 2;
    config.scoring_func = ROUTER_SIGMOID;
    config.topk_method = ROUTER_GROUP_TOP2;
    config.norm_topk_prob = true;
    config.routed_scaling_factor = 2.5;
    config.num_nextn_predict_layers = 2;
    config.max_position_embeddings = 256;
    config.rms_norm_eps = 1e-6;
    config.rope_theta = 10000.0;
    config.initializer_range = 0.02;
    config.rope_scaling = (struct rope_scaling){.factor = 4.0,
                                                .mscale = 1.0,
                                                .mscale_all_dim = 1.0,
                                                .beta_fast = 32.0,
                                                .beta_slow = 1.0,
                                                .original_max_position_embeddings = 64};
    config.bos_token_id = 0;
    config.eos_token_id = 1;
    strcpy(config.torch_dtype, "bfloat16");
    return config;
}

static void require(int code, const struct error *error) {
    if (code != 0) {
        fail_msg("%s", error->text);
    }
}

void tiny_open(struct tiny *tiny, const struct model_config *config, enum format format, int threads) {
    struct error error = {0};
    *tiny = (struct tiny){.config = *config};
    arena_init(&tiny->arena, "tiny model");
    arena_init(&tiny->scratch, "tiny scratch");
    if (threads > 0) {
        require(pool_create(&tiny->pool, threads, &error), &error);
    }
    require(op_context_init(&tiny->op, ISA_BEST, tiny->pool, &tiny->scratch, &error), &error);
    params_create(&tiny->params, config, &tiny->arena);
    require(params_allocate(&tiny->params, config, format, true, false, &tiny->arena, &error), &error);
    require(params_initialize(&tiny->params, config, 7, 0.02, &tiny->op, &error), &error);
}

void tiny_close(struct tiny *tiny) {
    arena_destroy(&tiny->arena);
    arena_destroy(&tiny->scratch);
    pool_destroy(tiny->pool);
}

void tiny_save(struct tiny *tiny, const char *directory, enum format format, bool power_of_two, int64_t shard_bytes) {
    struct model_save_options options = {.format = format, .power_of_two = power_of_two, .shard_bytes = shard_bytes};
    struct error error = {0};
    require(file_make_directory(directory, &error), &error);
    require(model_save(directory, &tiny->params, &tiny->config, &options, &tiny->op, &error), &error);
}

char *tiny_directory(void) {
    if (access("/dev/shm", W_OK) == 0) {
        setenv("TMPDIR", "/dev/shm", 0);
    }
    return test_directory();
}
