// A directory with the inventory of the 671B model (91,991 tensors in 163 files, headers real, data sparse): `minke
// info` must check it in less than 2 seconds and 300 MB of memory. The figures are printed.
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "model/load.h"
#include "support/test.h"
#include "weights/json_stream.h"

#define SHARDS 163
#define TENSORS 91991
#define ELEMENTS 684531386000
#define DATA_BYTES 688574839360

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static char *root;

struct inventory {
    struct json_text header, index;   // of the current shard; of the directory
    int64_t shard, begin;             // bytes of data in the current shard
    int64_t tensors, elements, bytes;
};

static struct model_config official_config(void) {
    struct model_config config = {
        .model_type = "deepseek_v3", .vocab_size = 129280, .hidden_size = 7168, .num_hidden_layers = 61};
    config.first_k_dense_replace = 3, config.moe_layer_freq = 1, config.intermediate_size = 18432;
    config.moe_intermediate_size = 2048, config.num_attention_heads = 128, config.q_lora_rank = 1536,
    config.kv_lora_rank = 512;
    config.qk_nope_head_dim = 128, config.qk_rope_head_dim = 64, config.v_head_dim = 128, config.n_routed_experts = 256;
    config.n_shared_experts = 1, config.num_experts_per_tok = 8, config.n_group = 8, config.topk_group = 4;
    config.scoring_func = ROUTER_SIGMOID, config.topk_method = ROUTER_GROUP_TOP2, config.norm_topk_prob = true;
    config.routed_scaling_factor = 2.5, config.num_nextn_predict_layers = 1, config.max_position_embeddings = 163840;
    config.rms_norm_eps = 1e-6, config.rope_theta = 10000.0, config.initializer_range = 0.02, config.fp8 = true;
    config.rope_scaling = (struct rope_scaling){.factor = 40.0,
                                                .mscale = 1.0,
                                                .mscale_all_dim = 1.0,
                                                .beta_fast = 32.0,
                                                .beta_slow = 1.0,
                                                .original_max_position_embeddings = 4096};
    config.eos_token_id = 1;
    strcpy(config.torch_dtype, "bfloat16");
    return config;
}

static void shard_path(char path[700], int64_t shard) {
    snprintf(path, 700, "%s/model-%05" PRId64 "-of-%06d.safetensors", root, shard + 1, SHARDS);
}

// Header and a hole as long as the data.
static void shard_finish(struct inventory *inventory) {
    char path[700];
    json_text_append(&inventory->header, "}");
    json_text_append(&inventory->header, "%*s", (int)((8 - inventory->header.size % 8) % 8), "");
    shard_path(path, inventory->shard);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    uint64_t length = (uint64_t)inventory->header.size;
    assert_int_equal(fwrite(&length, sizeof length, 1, file), 1);
    assert_int_equal(fwrite(inventory->header.text, 1, (size_t)length, file), length);
    assert_int_equal(fclose(file), 0);
    if (truncate(path, 8 + (off_t)length + inventory->begin) != 0) {
        fail_msg("%s: cannot make a sparse file: %s", path, strerror(errno));
    }
    json_text_free(&inventory->header);
    inventory->shard++;
    inventory->begin = 0;
}

static void add_tensor(struct inventory *inventory, const char *name, const char *dtype, int64_t size, int rank,
                       const int64_t *shape) {
    int64_t elements = shape[0] * (rank > 1 ? shape[1] : 1);
    // Cut so that 163 files come out: each gets its share of the bytes.
    if (inventory->begin > 0 && inventory->bytes >= (inventory->shard + 1) * (DATA_BYTES / SHARDS) &&
        inventory->shard + 1 < SHARDS) {
        shard_finish(inventory);
    }
    json_text_append(&inventory->header, inventory->begin == 0 ? "{" : ",");
    json_text_string(&inventory->header, name);
    json_text_append(&inventory->header, ":{\"dtype\":\"%s\",\"shape\":[%" PRId64, dtype, shape[0]);
    if (rank > 1) {
        json_text_append(&inventory->header, ",%" PRId64, shape[1]);
    }
    json_text_append(&inventory->header, "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}", inventory->begin,
                     inventory->begin + elements * size);
    json_text_append(&inventory->index, "%s    ", inventory->tensors > 0 ? ",\n" : "");
    json_text_string(&inventory->index, name);
    json_text_append(&inventory->index, ": \"model-%05" PRId64 "-of-%06d.safetensors\"", inventory->shard + 1, SHARDS);
    inventory->begin += elements * size;
    inventory->tensors++;
    inventory->elements += elements;
    inventory->bytes += elements * size;
}

static int add_param(void *argument, const struct param *param, struct error *error) {
    struct inventory *inventory = argument;
    (void)error;
    if (param->kind == PARAM_LINEAR) {
        char name[160];
        snprintf(name, sizeof name, "%s_scale_inv", param->name);
        add_tensor(inventory, param->name, "F8_E4M3", 1, 2, param->shape);
        add_tensor(inventory, name, "F32", 4, 2,
                   (int64_t[]){(param->shape[0] + 127) / 128, (param->shape[1] + 127) / 128});
    } else if (param->kind == PARAM_ROUTER_BIAS) {
        add_tensor(inventory, param->name, "F32", 4, 1, param->shape);
    } else {
        add_tensor(inventory, param->name, "BF16", 2, param->rank, param->shape);
    }
    return 0;
}

static int setup(void **state) {
    (void)state;
    struct model_config config = official_config();
    struct model_params params;
    struct inventory inventory = {0};
    struct arena arena;
    root = test_directory();
    arena_init(&arena, "inventory");
    params_create(&params, &config, &arena);
    json_text_append(&inventory.index, "{\n  \"metadata\": {},\n  \"weight_map\": {\n");
    params_visit(&params, &config, add_param, &inventory, NULL);
    add_tensor(&inventory, "model.layers.61.embed_tokens.weight", "BF16", 2, 2, (int64_t[]){129280, 7168});
    add_tensor(&inventory, "model.layers.61.shared_head.head.weight", "BF16", 2, 2, (int64_t[]){129280, 7168});
    shard_finish(&inventory);
    json_text_append(&inventory.index, "\n  }\n}\n");
    test_write_file(test_path(root, "model.safetensors.index.json"), inventory.index.text,
                    (size_t)inventory.index.size);
    json_text_free(&inventory.index);
    arena_destroy(&arena);
    assert_int_equal(model_config_write(&config, test_path(root, "config.json"), NULL), 0);
    assert_int_equal(inventory.shard, SHARDS);
    assert_int_equal(inventory.tensors, TENSORS);
    assert_int_equal(inventory.elements, ELEMENTS);
    assert_int_equal(inventory.bytes, DATA_BYTES);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    test_directory_remove(root);
    return 0;
}

struct figures {
    double wall, busy;   // seconds; what is tested is the time that the process itself took: the machine may be shared
    int64_t resident;
};

// Runs `function` in a child and returns its exit status.
static int measure(int (*function)(void), struct figures *figures) {
    double started = clock_seconds();
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        _exit(function());
    }
    int status;
    struct rusage usage;
    assert_int_equal(wait4(child, &status, 0, &usage), child);
    figures->wall = clock_seconds() - started;
    figures->resident = usage.ru_maxrss * 1024;
    figures->busy = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                    (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int map_all(void) {
    struct model_config config;
    struct model_params params;
    struct checkpoint *checkpoint;
    struct arena arena;
    struct error error = {0};
    arena_init(&arena, "map");
    if (model_config_read(&config, root, &error) != 0 || checkpoint_open(&checkpoint, root, &error) != 0 ||
        model_map(&params, &config, checkpoint, &arena, &error) != 0) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    return params.mtp[0].block.moe.down_proj[255].scale == NULL;
}

static int run_info(void) {
    const char *program = getenv("MINKE");
    char output[700];
    snprintf(output, sizeof output, "%s/info.txt", root);
    if (freopen(output, "w", stdout) == NULL) {
        return 99;
    }
    program = program != NULL ? program : "build/minke";
    execl(program, program, "info", root, (char *)NULL);
    return 98;
}

static void check_figures(const char *what, const struct figures *figures) {
    print_message("%s: %.2f s (%.2f s of processor), %.1f MB\n", what, figures->wall, figures->busy,
                  (double)figures->resident / 1e6);
    if (!SANITIZED) {
        assert_true(figures->busy < 2.0);
        assert_true(figures->resident < 300000000);
    }
}

static void test_map(void **state) {
    (void)state;
    struct figures figures;
    assert_int_equal(measure(map_all, &figures), 0);
    check_figures("map all tensors", &figures);
}

static void test_info(void **state) {
    (void)state;
    static const char *const expected[] = {"671,026,419,200",
                                           "37,552,297,472",
                                           "36,625,618,432",
                                           "11,610,068,224",
                                           "13,463,426,304",
                                           "163 files, 91,991 tensors",
                                           "680,571,043,840  elements",
                                           "3,918,786,560  elements",
                                           "41,555,600  elements",
                                           "complete: all "};
    struct figures figures;
    int status = measure(run_info, &figures);
    if (status == 98) {
        print_message("no program to run: set MINKE\n");
        skip();
    }
    assert_int_equal(status, 0);
    check_figures("minke info", &figures);
    size_t size;
    char *text = test_read_file(test_path(root, "info.txt"), &size);
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        if (strstr(text, expected[i]) == NULL) {
            fail_msg("\"%s\" is not in:\n%s", expected[i], text);
        }
    }
    free(text);
}

// One file less: info says so.
static void test_incomplete(void **state) {
    (void)state;
    char path[700];
    struct figures figures;
    shard_path(path, 100);
    assert_int_equal(unlink(path), 0);
    int status = measure(run_info, &figures);
    if (status == 98) {
        skip();
    }
    assert_int_equal(status, 1);
    size_t size;
    char *text = test_read_file(test_path(root, "info.txt"), &size);
    assert_non_null(strstr(text, "files          INCOMPLETE: "));
    assert_non_null(strstr(text, " parameters are missing or unusable, 1 of 163 files unreadable"));
    assert_non_null(strstr(text, "model-00101-of-000163.safetensors: cannot open: No such file or directory"));
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_map),
        cmocka_unit_test(test_info),
        cmocka_unit_test(test_incomplete),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
