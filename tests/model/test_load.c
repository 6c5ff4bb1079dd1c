// model/load.c: what is saved is mapped back with the same values, the files are what others expect, and failures leave
// nothing.
#include "model/load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "support/test.h"
#include "support/tiny.h"
#include "tensor/formats.h"
#include "weights/cast.h"

static char *root;

static int setup(void **state) {
    (void)state;
    root = tiny_directory();
    return 0;
}

static int teardown(void **state) {
    (void)state;
    test_directory_remove(root);
    return 0;
}

static const char *path_of(const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", root, name);
    return path;
}

struct opened {
    struct checkpoint *checkpoint;
    struct model_config config;
    struct model_params params;
    struct arena arena;
};

static int open_directory(struct opened *opened, const char *directory, struct error *error) {
    int code;
    *opened = (struct opened){0};
    arena_init(&opened->arena, "opened");
    if ((code = model_config_read(&opened->config, directory, error)) == 0 &&
        (code = checkpoint_open(&opened->checkpoint, directory, error)) == 0) {
        code = model_map(&opened->params, &opened->config, opened->checkpoint, &opened->arena, error);
    }
    return code;
}

static void close_directory(struct opened *opened) {
    checkpoint_close(opened->checkpoint);
    arena_destroy(&opened->arena);
}

static enum format expected_format(const struct param *param, enum format format) {
    return param->kind == PARAM_ROUTER_BIAS                             ? FORMAT_F32
           : format == FORMAT_E4M3_BLOCK && param->kind != PARAM_LINEAR ? FORMAT_BF16
                                                                        : format;
}

// Every mapped tensor is the cast of the parameter it came from.
static void check_values(struct tiny *tiny, struct opened *opened, enum format format, bool power_of_two) {
    struct param_list saved, mapped;
    assert_int_equal(params_list(&saved, &tiny->params, &tiny->config, &tiny->arena, NULL), 0);
    assert_int_equal(params_list(&mapped, &opened->params, &opened->config, &opened->arena, NULL), 0);
    assert_int_equal(saved.count, mapped.count);
    struct cast_buffer buffer = {0};
    for (int64_t i = 0; i < saved.count; i++) {
        struct tensor expected, *found = mapped.items[i].tensor;
        assert_int_equal(found->format, expected_format(&saved.items[i], format));
        assert_int_equal(
            tensor_cast_buffered(&expected, &buffer, found->format, saved.items[i].tensor, power_of_two, NULL, NULL),
            0);
        size_t data_bytes = (size_t)(tensor_elements(found) * format_info(found->format)->bytes);
        assert_memory_equal(found->data, expected.data, data_bytes);
        if (found->format == FORMAT_E4M3_BLOCK) {
            assert_memory_equal(found->scale, expected.scale, (size_t)tensor_bytes(found) - data_bytes);
        }
    }
    cast_buffer_free(&buffer);
}

static void test_save_and_map(void **state) {
    (void)state;
    struct model_config config = tiny_config();
    struct tiny tiny;
    tiny_open(&tiny, &config, FORMAT_F32, 2);
    ((float *)tiny.params.layers[1].moe.e_score_correction_bias.data)[2] = 0.625f;
    for (int format = FORMAT_F32; format <= FORMAT_E4M3_BLOCK; format++) {
        for (int shards = 0; shards < 2; shards++) {
            char name[32];
            struct opened opened;
            struct error error = {0};
            snprintf(name, sizeof name, "save-%d-%d", format, shards);
            const char *directory = path_of(name);
            tiny_save(&tiny, directory, (enum format)format, shards == 1, shards == 1 ? 20000 : 0);
            assert_int_equal(file_exists(test_path(directory, "model.safetensors")), shards == 0);
            assert_true(file_exists(test_path(directory, "generation_config.json")));
            if (open_directory(&opened, directory, &error) != 0) {
                fail_msg("%s", error.text);
            }
            assert_int_equal(opened.config.fp8, format == FORMAT_E4M3_BLOCK);
            assert_int_equal(opened.config.fp8_power_of_two, format == FORMAT_E4M3_BLOCK && shards == 1);
            assert_string_equal(opened.config.torch_dtype, format == FORMAT_F32 ? "float32" : "bfloat16");
            check_values(&tiny, &opened, (enum format)format, shards == 1);
            assert_true(((const float *)opened.params.layers[1].moe.e_score_correction_bias.data)[2] == 0.625f);
            // The copies that each MTP layer carries for other programs.
            struct tensor copy;
            assert_int_equal(checkpoint_expect(opened.checkpoint, &copy, "model.layers.3.embed_tokens.weight", 2,
                                               (int64_t[]){50, 136}, NULL),
                             0);
            assert_memory_equal(copy.data, opened.params.embed_tokens.data, (size_t)tensor_bytes(&copy));
            assert_int_equal(checkpoint_expect(opened.checkpoint, &copy, "model.layers.2.shared_head.head.weight", 2,
                                               (int64_t[]){50, 136}, NULL),
                             0);
            assert_memory_equal(copy.data, opened.params.lm_head.data, (size_t)tensor_bytes(&copy));
            close_directory(&opened);
        }
    }
    tiny_close(&tiny);
}

static void assert_same_files(const char *left, const char *right) {
    char **names;
    int64_t count;
    assert_int_equal(file_list(&names, &count, left, NULL), 0);
    assert_true(count > 2);
    for (int64_t i = 0; i < count; i++) {
        uint64_t a, b;
        assert_int_equal(file_checksum(test_path(left, names[i]), &a, NULL), 0);
        assert_int_equal(file_checksum(test_path(right, names[i]), &b, NULL), 0);
        assert_true(a == b);
    }
    file_list_free(names, count);
}

// FP8 loaded and saved again is the same directory, byte by byte; so are F32 and BF16. The number of threads does not
// matter.
static void test_save_again(void **state) {
    (void)state;
    struct model_config config = tiny_config();
    for (int format = FORMAT_F32; format <= FORMAT_E4M3_BLOCK; format++) {
        struct tiny tiny, other;
        struct opened opened;
        char first[600], second[600], third[600];
        snprintf(first, sizeof first, "%s/first-%d", root, format);
        snprintf(second, sizeof second, "%s/second-%d", root, format);
        snprintf(third, sizeof third, "%s/third-%d", root, format);
        tiny_open(&tiny, &config, FORMAT_F32, 3);
        tiny_save(&tiny, first, (enum format)format, false, 30000);
        assert_int_equal(open_directory(&opened, first, NULL), 0);
        tiny.params = opened.params;
        tiny_save(&tiny, second, (enum format)format, false, 30000);
        assert_same_files(first, second);
        tiny_open(&other, &config, FORMAT_F32, 0);
        tiny_save(&other, third, (enum format)format, false, 30000);
        assert_same_files(first, third);
        tiny_close(&other);
        close_directory(&opened);
        tiny_close(&tiny);
    }
}

static void test_tied_and_old_styles(void **state) {
    (void)state;
    struct model_config config = tiny_config();
    struct tiny tiny;
    struct opened opened;
    config.tie_word_embeddings = true;
    config.q_lora_rank = 0;
    config.topk_method = ROUTER_GREEDY;
    config.scoring_func = ROUTER_SOFTMAX;
    config.norm_topk_prob = false;
    config.num_nextn_predict_layers = 0;
    strcpy(config.model_type, "deepseek_v2");
    tiny_open(&tiny, &config, FORMAT_BF16, 0);
    const char *directory = path_of("tied");
    tiny_save(&tiny, directory, FORMAT_BF16, false, 0);
    assert_int_equal(open_directory(&opened, directory, NULL), 0);
    assert_ptr_equal(opened.params.lm_head.data, opened.params.embed_tokens.data);
    assert_false(checkpoint_has(opened.checkpoint, "lm_head.weight"));
    assert_false(tensor_present(&opened.params.layers[1].moe.e_score_correction_bias));
    close_directory(&opened);
    tiny_close(&tiny);
}

struct bf16_save {
    struct param_list list;
    struct checkpoint_plan_entry *entries;
    struct cast_buffer buffer;
};

static int fetch_bf16(void *argument, struct tensor *tensor, int64_t index, struct error *error) {
    struct bf16_save *save = argument;
    return tensor_cast_buffered(tensor, &save->buffer, FORMAT_BF16, save->list.items[index].tensor, false, NULL, error);
}

// Somebody stored the router bias as BF16: it is widened.
static void test_bf16_bias(void **state) {
    (void)state;
    struct model_config config = tiny_config();
    struct tiny tiny;
    struct opened opened;
    struct bf16_save save = {0};
    struct error error = {0};
    config.num_nextn_predict_layers = 0;
    tiny_open(&tiny, &config, FORMAT_F32, 0);
    ((float *)tiny.params.layers[1].moe.e_score_correction_bias.data)[4] = -1.5f;
    assert_int_equal(params_list(&save.list, &tiny.params, &config, &tiny.arena, NULL), 0);
    save.entries = calloc((size_t)save.list.count, sizeof *save.entries);
    for (int64_t i = 0; i < save.list.count; i++) {
        const struct param *param = &save.list.items[i];
        save.entries[i] = (struct checkpoint_plan_entry){
            .name = param->name, .format = FORMAT_BF16, .rank = param->rank};
        memcpy(save.entries[i].shape, param->shape, sizeof param->shape);
    }
    const char *directory = path_of("bias");
    assert_int_equal(file_make_directory(directory, NULL), 0);
    assert_int_equal(model_config_write(&config, test_path(directory, "config.json"), NULL), 0);
    assert_int_equal(
        checkpoint_write(directory, save.entries, save.list.count, 1 << 20, fetch_bf16, &save, NULL, &error), 0);
    assert_int_equal(open_directory(&opened, directory, &error), 0);
    assert_int_equal(opened.params.layers[1].moe.e_score_correction_bias.format, FORMAT_F32);
    assert_true(((const float *)opened.params.layers[1].moe.e_score_correction_bias.data)[4] == -1.5f);
    close_directory(&opened);
    cast_buffer_free(&save.buffer);
    free(save.entries);
    tiny_close(&tiny);
}

// The configuration announces MTP layers that the files do not have: the model is used without.
static void test_missing_mtp(void **state) {
    (void)state;
    struct model_config config = tiny_config();
    struct tiny tiny;
    struct opened opened;
    config.num_nextn_predict_layers = 0;
    tiny_open(&tiny, &config, FORMAT_BF16, 0);
    const char *directory = path_of("no-mtp");
    tiny_save(&tiny, directory, FORMAT_BF16, false, 0);
    config.num_nextn_predict_layers = 1;
    assert_int_equal(model_config_write(&config, test_path(directory, "config.json"), NULL), 0);
    assert_int_equal(open_directory(&opened, directory, NULL), 0);
    assert_int_equal(opened.config.num_nextn_predict_layers, 0);
    close_directory(&opened);
    tiny_close(&tiny);
}

static void test_wrong_shape_and_missing(void **state) {
    (void)state;
    struct model_config config = tiny_config();
    struct tiny tiny;
    struct opened opened;
    struct error error = {0};
    tiny_open(&tiny, &config, FORMAT_BF16, 0);
    const char *directory = path_of("wrong");
    tiny_save(&tiny, directory, FORMAT_BF16, false, 0);
    config.kv_lora_rank = 17;
    assert_int_equal(model_config_write(&config, test_path(directory, "config.json"), NULL), 0);
    test_assert_error(open_directory(&opened, directory, &error), &error, ERROR_FORMAT,
                      "model.safetensors: tensor \"model.layers.0.self_attn.kv_a_proj_with_mqa.weight\": expected "
                      "shape [25, 136], found [24, 136]");
    close_directory(&opened);
    error_clear(&error);
    config.kv_lora_rank = 16;
    config.first_k_dense_replace = 0;
    assert_int_equal(model_config_write(&config, test_path(directory, "config.json"), NULL), 0);
    test_assert_error(open_directory(&opened, directory, &error), &error, ERROR_FORMAT,
                      "tensor \"model.layers.0.mlp.gate.weight\" is missing");
    close_directory(&opened);
    tiny_close(&tiny);
}

static void test_lost_prefix(void **state) {
    (void)state;
    struct model_config config = tiny_config();
    struct opened opened;
    struct error error = {0};
    const char *directory = path_of("inner");
    static const uint8_t zeros[50 * 136 * 2];
    struct safetensors_writer *writer;
    assert_int_equal(file_make_directory(directory, NULL), 0);
    assert_int_equal(safetensors_writer_create(&writer, NULL), 0);
    assert_int_equal(safetensors_writer_declare(writer, "embed_tokens.weight", "BF16", 2, (int64_t[]){50, 136}, NULL),
                     0);
    assert_int_equal(safetensors_writer_begin(writer, test_path(directory, "model.safetensors"), NULL), 0);
    assert_int_equal(safetensors_writer_append(writer, zeros, sizeof zeros, NULL), 0);
    assert_int_equal(safetensors_writer_commit(writer, NULL, NULL), 0);
    assert_int_equal(model_config_write(&config, test_path(directory, "config.json"), NULL), 0);
    test_assert_error(open_directory(&opened, directory, &error), &error, ERROR_FORMAT,
                      "the names lack the prefix \"model.\"");
    close_directory(&opened);
}

static void test_companions(void **state) {
    (void)state;
    char from[600], to[600];
    snprintf(from, sizeof from, "%s/from", root);
    snprintf(to, sizeof to, "%s/to", root);
    assert_int_equal(file_make_directory(test_path(from, "trainer"), NULL), 0);
    assert_int_equal(file_make_directory(to, NULL), 0);
    static const char *const names[] = {
        "tokenizer.json",    "config.json",    "README.md", "model.safetensors", "model.safetensors.index.json",
        "pytorch_model.bin", ".gitattributes", "x.tmp-123", "merges.txt"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        test_write_file(test_path(from, names[i]), names[i], strlen(names[i]));
    }
    test_write_file(test_path(from, "empty.txt"), "", 0);
    test_write_file(test_path(to, "config.json"), "mine", 4);
    assert_int_equal(model_copy_companions(to, from, NULL), 0);
    static const char *const expected[] = {"README.md", "config.json", "empty.txt", "merges.txt", "tokenizer.json"};
    char **found;
    int64_t count;
    assert_int_equal(file_list(&found, &count, to, NULL), 0);
    assert_int_equal(count, 5);
    for (int64_t i = 0; i < count; i++) {
        assert_string_equal(found[i], expected[i]);
    }
    file_list_free(found, count);
    size_t size;
    char *text = test_read_file(test_path(to, "config.json"), &size);
    assert_string_equal(text, "mine");
    free(text);
    text = test_read_file(test_path(to, "tokenizer.json"), &size);
    assert_string_equal(text, "tokenizer.json");
    free(text);
}

// ---- Failure --------------------------------------------------------------------------------------------------------

struct attempt {
    struct tiny tiny;
    char directory[600];
};

static int save_and_open(void *argument, struct error *error) {
    struct attempt *attempt = argument;
    struct model_save_options options = {.format = FORMAT_E4M3_BLOCK, .shard_bytes = 40000};
    struct opened opened;
    int code = model_save(attempt->directory, &attempt->tiny.params, &attempt->tiny.config, &options, &attempt->tiny.op,
                          error);
    if (code != 0) {
        assert_int_equal(rmdir(attempt->directory), 0);   // fails if anything was left behind
        assert_int_equal(mkdir(attempt->directory, 0777), 0);
        return code;
    }
    code = open_directory(&opened, attempt->directory, error);
    close_directory(&opened);
    char command[700];
    snprintf(command, sizeof command, "rm -f %s/*", attempt->directory);
    assert_int_equal(system(command), 0);
    return code;
}

static void attempt_begin(struct attempt *attempt, const char *name) {
    struct model_config config = tiny_config();
    config.n_routed_experts = 2;   // fewer calls to let fail
    config.n_group = config.topk_group = 1;
    config.num_nextn_predict_layers = 1;
    snprintf(attempt->directory, sizeof attempt->directory, "%s/%s", root, name);
    assert_int_equal(mkdir(attempt->directory, 0777), 0);
    tiny_open(&attempt->tiny, &config, FORMAT_F32, 0);
}

static void test_failing_memory_calls(void **state) {
    (void)state;
    struct attempt attempt;
    attempt_begin(&attempt, "memory");
    assert_true(test_failing_memory(save_and_open, &attempt) > 100);
    tiny_close(&attempt.tiny);
}

static void test_failing_file_calls(void **state) {
    (void)state;
    struct attempt attempt;
    int failures = 0;
    attempt_begin(&attempt, "files");
    for (int64_t n = 1;; n++) {
        struct error error = {0};
        file_fail_at(n, EIO);
        int code = save_and_open(&attempt, &error);
        file_fail_at(0, 0);
        if (code == 0) {
            break;
        }
        failures++;
        assert_int_equal(code, ERROR_IO);
        // What failed while reading leaves the files; the next attempt needs an empty directory.
        char command[700];
        snprintf(command, sizeof command, "rm -f %s/*", attempt.directory);
        assert_int_equal(system(command), 0);
    }
    assert_true(failures > 30);
    tiny_close(&attempt.tiny);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_save_and_map),         cmocka_unit_test(test_save_again),
        cmocka_unit_test(test_tied_and_old_styles),  cmocka_unit_test(test_bf16_bias),
        cmocka_unit_test(test_missing_mtp),          cmocka_unit_test(test_wrong_shape_and_missing),
        cmocka_unit_test(test_lost_prefix),          cmocka_unit_test(test_companions),
        cmocka_unit_test(test_failing_memory_calls), cmocka_unit_test(test_failing_file_calls),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
