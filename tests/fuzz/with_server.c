// See with_server.h.
#include "fuzz/with_server.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "fuzz/fuzz.h"
#include "model/load.h"

#define GOLDEN "tests/golden/text/small/"

static void require(int code, const struct error *error) {
    CHECK(code == 0, "%s", error->text);
}

static struct model_config small_config(void) {
    struct model_config config = {
        .model_type = "deepseek_v3", .vocab_size = 704, .hidden_size = 16, .num_hidden_layers = 2};
    config.first_k_dense_replace = config.moe_layer_freq = 1;
    config.intermediate_size = 16;
    config.moe_intermediate_size = 8;
    config.num_attention_heads = 1;
    config.kv_lora_rank = 8;
    config.qk_nope_head_dim = config.qk_rope_head_dim = config.v_head_dim = 8;
    config.n_routed_experts = 2;
    config.n_shared_experts = config.num_experts_per_tok = config.n_group = config.topk_group = 1;
    config.scoring_func = ROUTER_SIGMOID;
    config.topk_method = ROUTER_GROUP_TOP2;
    config.norm_topk_prob = true;
    config.routed_scaling_factor = 1;
    config.max_position_embeddings = SERVER_CONTEXT;
    config.rms_norm_eps = 1e-6;
    config.rope_theta = 10000.0;
    config.initializer_range = 0.02;
    config.bos_token_id = 0;
    config.eos_token_id = 1;
    strcpy(config.torch_dtype, "bfloat16");
    return config;
}

const char *server_model(void) {
    static char directory[128];
    struct error error = {0};
    if (directory[0] != '\0') {
        return directory;
    }
    snprintf(directory, sizeof directory, "%s/model", fuzz_directory());
    struct model_config config = small_config();
    struct arena arena, scratch;
    struct op_context op;
    struct model_params params;
    const struct model_save_options options = {.format = FORMAT_BF16, .shard_bytes = 1 << 20};
    arena_init(&arena, "model");
    arena_init(&scratch, "scratch");
    require(op_context_init(&op, ISA_BEST, NULL, &scratch, &error), &error);
    params_create(&params, &config, &arena);
    require(params_allocate(&params, &config, FORMAT_BF16, true, false, &arena, &error), &error);
    require(params_initialize(&params, &config, 7, 1.0, &op, &error), &error);
    require(file_make_directory(directory, &error), &error);
    require(model_save(directory, &params, &config, &options, &op, &error), &error);
    arena_destroy(&arena);
    arena_destroy(&scratch);
    return directory;
}

// The golden tokenizer with a template that has the marks of the style (text/chat_template.c).
struct minke_tokenizer *server_tokenizer(enum minke_chat_style style) {
    static const char *const marks[SERVER_STYLES] = {
        [MINKE_CHAT_V3] = "",
        [MINKE_CHAT_V3_0324] = "+ '<｜Assistant｜>'",
        [MINKE_CHAT_R1] = "'</think>' in",
        [MINKE_CHAT_R1_THINK] = "'</think>' in <｜Assistant｜><think>",
        [MINKE_CHAT_R1_0528] = "'</think>' in + '<｜Assistant｜>'",
        [MINKE_CHAT_V3_1] = "set thinking",
    };
    struct error error = {0};
    struct minke_error failure = {0};
    struct minke_tokenizer *tokenizer;
    char *text, template[256];
    int64_t size;
    json_t *config;
    require(file_read(&text, &size, GOLDEN "tokenizer.json", 1 << 20, &error), &error);
    (void)fuzz_file("tokenizer.json", text, (size_t)size);
    memory_free(text);
    require(json_read(&config, GOLDEN "tokenizer_config.json", 1 << 20, &error), &error);
    snprintf(template, sizeof template, "<｜User｜> <｜Assistant｜> <｜tool▁calls▁begin｜> %s", marks[style]);
    json_object_set_new(config, "chat_template", json_string(template));
    text = json_dumps(config, 0);
    (void)fuzz_file("tokenizer_config.json", text, strlen(text));
    memory_free(text);
    json_decref(config);
    CHECK(minke_tokenizer_open(&tokenizer, fuzz_directory(), &failure) == 0, "%s", failure.text);
    CHECK(minke_tokenizer_chat_style(tokenizer) == (int)style, "style %d", minke_tokenizer_chat_style(tokenizer));
    return tokenizer;
}

struct server *server_make(struct minke_model *model, enum minke_chat_style style) {
    struct server *server = calloc(1, sizeof *server);
    struct error error = {0};
    struct minke_error failure = {0};
    CHECK(server != NULL, "memory");
    server_defaults(&server->options);
    server->options.name = "fuzz";
    server->options.n = 4;
    server->options.max_tokens = 8;
    server->options.reuse_ids = true;
    server->options.engine = (struct minke_engine_options){.context = SERVER_CONTEXT, .cache_tokens = 4096, .batch = 8};
    server->model = model;
    server->tokenizer = server_tokenizer(style);
    server->sampling = minke_model_sampling(model);
    server->vocab_size = minke_model_vocab_size(model);
    server->context = SERVER_CONTEXT;
    server->chat_style = (int)style;
    server->tokenizer_config = json_object();
    server->add_bos = true;
    pthread_mutex_init(&server->lock, NULL);
    pthread_cond_init(&server->changed, NULL);
    pthread_mutex_init(&server->worker.lock, NULL);
    pthread_cond_init(&server->worker.work, NULL);
    server_metrics_init(&server->metrics);
    reuse_init(&server->reuse);
    require(token_vocabulary_create(&server->vocabulary, server->tokenizer, NULL, 0, &error), &error);
    CHECK(minke_engine_create(&server->engine, model, &server->options.engine, &failure) == 0, "%s", failure.text);
    server->worker.engine = server->engine;
    server->worker.sample_count = 1;   // as worker_start leaves it
    return server;
}
