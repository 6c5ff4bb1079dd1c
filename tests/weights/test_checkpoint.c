// weights/checkpoint.c and checkpoint_write.c: directories with and without an index, scales joined across files,
// atomic and reproducible writing.
#include "weights/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "support/test.h"
#include "support/tiny.h"
#include "tensor/formats.h"

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

// ---- A small model: the values count up, so every byte is known
// ------------------------------------------------------

#define ENTRIES 4
static const struct checkpoint_plan_entry entries[ENTRIES] = {
    {.name = "model.z.weight", .format = FORMAT_BF16, .rank = 2, .shape = {3, 5}},
    {.name = "model.layers.0.mlp.up_proj.weight", .format = FORMAT_E4M3_BLOCK, .rank = 2, .shape = {130, 257}},
    {.name = "model.a.bias", .format = FORMAT_F32, .rank = 1, .shape = {7}},
    {.name = "model.empty.weight", .format = FORMAT_F32, .rank = 2, .shape = {0, 4}},
};

struct source {
    uint8_t data[130 * 257];
    float scale[6];
    int64_t fail_at;   // entry whose fetch fails; -1 = none
    int64_t done;
};

static int fetch(void *argument, struct tensor *tensor, int64_t index, struct error *error) {
    struct source *source = argument;
    if (index == source->fail_at) {
        return error_set(error, ERROR_FORMAT, "fetch of %lld", (long long)index);
    }
    for (size_t i = 0; i < sizeof source->data; i++) {
        source->data[i] = (uint8_t)((i * 7 + (size_t)index) % 120);
    }
    for (int i = 0; i < 6; i++) {
        source->scale[i] = (float)(i + 1);
    }
    *tensor = tensor_make(entries[index].format, source->data, entries[index].rank, entries[index].shape);
    tensor->scale = entries[index].format == FORMAT_E4M3_BLOCK ? source->scale : NULL;
    return 0;
}

static void progress(void *argument, int64_t bytes_done) {
    struct source *source = argument;
    assert_true(bytes_done >= source->done);
    source->done = bytes_done;
}

static int write_model(const char *directory, int64_t shard_bytes, struct error *error) {
    struct source *source = calloc(1, sizeof *source);
    source->fail_at = -1;
    int code = checkpoint_write(directory, entries, ENTRIES, shard_bytes, fetch, source, progress, error);
    if (code == 0) {
        assert_int_equal(source->done, 30 + 130 * 257 + 24 + 28);
    }
    free(source);
    return code;
}

static char *new_directory(const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", root, name);
    assert_int_equal(file_make_directory(path, NULL), 0);
    return path;
}

static int64_t count_files(const char *directory) {
    char **names;
    int64_t count;
    assert_int_equal(file_list(&names, &count, directory, NULL), 0);
    file_list_free(names, count);
    return count;
}

static void check_model(const char *directory) {
    struct checkpoint *checkpoint;
    struct tensor tensor;
    struct error error = {0};
    if (checkpoint_open(&checkpoint, directory, &error) != 0) {
        fail_msg("%s", error.text);
    }
    assert_int_equal(checkpoint_count(checkpoint), ENTRIES + 1);
    for (int64_t i = 1; i < ENTRIES + 1; i++) {
        assert_true(strcmp(checkpoint_name(checkpoint, i - 1), checkpoint_name(checkpoint, i)) < 0);
    }
    struct source *source = calloc(1, sizeof *source);
    source->fail_at = -1;
    for (int64_t i = 0; i < ENTRIES; i++) {
        struct tensor expected;
        assert_int_equal(fetch(source, &expected, i, NULL), 0);
        if (checkpoint_expect(checkpoint, &tensor, entries[i].name, entries[i].rank, entries[i].shape, &error) != 0) {
            fail_msg("%s", error.text);
        }
        assert_int_equal(tensor.format, entries[i].format);
        size_t bytes = (size_t)(tensor_elements(&tensor) * format_info(tensor.format)->bytes);
        assert_memory_equal(tensor.data, expected.data, bytes);
        if (tensor.format == FORMAT_E4M3_BLOCK) {
            assert_memory_equal(tensor.scale, expected.scale, 6 * sizeof(float));
            assert_int_equal(tensor.scale_stride, 3);
        }
    }
    free(source);
    assert_true(checkpoint_has(checkpoint, "model.layers.0.mlp.up_proj.weight_scale_inv"));
    checkpoint_close(checkpoint);
}

static void test_single_file(void **state) {
    (void)state;
    const char *directory = new_directory("single");
    assert_int_equal(write_model(directory, 1 << 20, NULL), 0);
    assert_int_equal(count_files(directory), 1);
    assert_true(file_exists(test_path(directory, "model.safetensors")));
    check_model(directory);
}

static void test_shards(void **state) {
    (void)state;
    const char *directory = new_directory("shards");
    assert_int_equal(write_model(directory, 100, NULL), 0);
    assert_int_equal(count_files(directory), 4);
    size_t size;
    char *index = test_read_file(test_path(directory, "model.safetensors.index.json"), &size);
    assert_string_equal(index,
                        "{\n"
                        "  \"metadata\": {\n"
                        "    \"total_size\": 33492\n"
                        "  },\n"
                        "  \"weight_map\": {\n"
                        "    \"model.a.bias\": \"model-00003-of-000003.safetensors\",\n"
                        "    \"model.empty.weight\": \"model-00003-of-000003.safetensors\",\n"
                        "    \"model.layers.0.mlp.up_proj.weight\": \"model-00002-of-000003.safetensors\",\n"
                        "    \"model.layers.0.mlp.up_proj.weight_scale_inv\": \"model-00002-of-000003.safetensors\",\n"
                        "    \"model.z.weight\": \"model-00001-of-000003.safetensors\"\n"
                        "  }\n"
                        "}\n");
    free(index);
    check_model(directory);
    // Once more elsewhere: the same bytes.
    char *other = strdup(test_path(root, "shards2"));
    assert_int_equal(file_make_directory(other, NULL), 0);
    assert_int_equal(write_model(other, 100, NULL), 0);
    uint64_t first, second;
    assert_int_equal(file_checksum(test_path(directory, "model-00002-of-000003.safetensors"), &first, NULL), 0);
    assert_int_equal(file_checksum(test_path(other, "model-00002-of-000003.safetensors"), &second, NULL), 0);
    assert_true(first == second);
    free(other);
}

static void test_refuses_weights(void **state) {
    (void)state;
    struct error error = {0};
    const char *directory = new_directory("twice");
    assert_int_equal(write_model(directory, 1 << 20, NULL), 0);
    test_assert_error(write_model(directory, 100, &error), &error, ERROR_ARGUMENT,
                      "holds weights already (model.safetensors)");
    assert_int_equal(count_files(directory), 1);
    check_model(directory);
}

// ---- Directories that somebody else spoilt --------------------------------------------------------------------------

struct raw_tensor {
    const char *name, *dtype;
    int64_t rows, columns;
    int64_t bytes;
};

static void write_raw(const char *path, const struct raw_tensor *tensors, int count) {
    static const uint8_t zeros[1 << 16];
    struct safetensors_writer *writer;
    assert_int_equal(safetensors_writer_create(&writer, NULL), 0);
    for (int i = 0; i < count; i++) {
        int64_t shape[2] = {tensors[i].rows, tensors[i].columns};
        assert_int_equal(safetensors_writer_declare(writer, tensors[i].name, tensors[i].dtype, 2, shape, NULL), 0);
    }
    assert_int_equal(safetensors_writer_begin(writer, path, NULL), 0);
    for (int i = 0; i < count; i++) {
        assert_int_equal(safetensors_writer_append(writer, zeros, tensors[i].bytes, NULL), 0);
    }
    assert_int_equal(safetensors_writer_commit(writer, NULL, NULL), 0);
}

static void assert_find_fails(const char *directory, const char *name, int expected, const char *fragment) {
    struct checkpoint *checkpoint;
    struct tensor tensor;
    struct error error = {0};
    if (checkpoint_open(&checkpoint, directory, &error) != 0) {
        fail_msg("%s", error.text);
    }
    test_assert_error(checkpoint_find(checkpoint, &tensor, name, &error), &error, expected, fragment);
    checkpoint_close(checkpoint);
}

static void test_scales(void **state) {
    (void)state;
    const char *directory = new_directory("scales");
    const char *path = test_path(directory, "model.safetensors");
    const struct raw_tensor good[] = {{"w", "F8_E4M3", 130, 100, 13000}, {"w_scale_inv", "F32", 2, 1, 8}};
    const struct raw_tensor narrow[] = {{"w", "F8_E4M3", 130, 100, 13000}, {"w_scale_inv", "F32", 1, 1, 4}};
    const struct raw_tensor other[] = {{"w", "F8_E4M3", 130, 100, 13000}, {"w_scale_inv", "BF16", 2, 1, 4}};
    const struct raw_tensor half[] = {{"w", "F16", 2, 2, 8}};
    struct checkpoint *checkpoint;
    struct tensor tensor;
    struct error error = {0};
    write_raw(path, good, 1);
    assert_find_fails(directory, "w", ERROR_FORMAT, "FP8 tensor \"w\": its scale \"w_scale_inv\" is missing");
    assert_find_fails(directory, "v", ERROR_FORMAT, "tensor \"v\" is missing");
    write_raw(path, narrow, 2);
    assert_find_fails(directory, "w", ERROR_FORMAT,
                      "tensor \"w_scale_inv\": expected F32 shape [2, 1], found F32 shape [1, 1]");
    write_raw(path, other, 2);
    assert_find_fails(directory, "w", ERROR_FORMAT, "expected F32 shape [2, 1], found BF16 shape [2, 1]");
    write_raw(path, half, 1);
    assert_find_fails(directory, "w", ERROR_FORMAT,
                      "expected dtype F32, BF16 or a matrix of F8_E4M3, found F16 [2, 2]");
    write_raw(path, good, 2);
    assert_int_equal(checkpoint_open(&checkpoint, directory, &error), 0);
    test_assert_error(checkpoint_expect(checkpoint, &tensor, "w", 2, (int64_t[]){100, 130}, &error), &error,
                      ERROR_FORMAT, "model.safetensors: tensor \"w\": expected shape [100, 130], found [130, 100]");
    checkpoint_close(checkpoint);
}

static void test_scale_in_another_file(void **state) {
    (void)state;
    const char *directory = new_directory("apart");
    const struct raw_tensor weight[] = {{"w", "F8_E4M3", 130, 100, 13000}}, scale[] = {{"w_scale_inv", "F32", 2, 1, 8}};
    const char index[] = "{\"metadata\":{\"x\":[1.5e3,null,{\"y\":\"z\"}]},\"weight_map\":"
                         "{\"w\":\"b.safetensors\",\"w_scale_inv\":\"a.safetensors\"}}";
    write_raw(test_path(directory, "b.safetensors"), weight, 1);
    write_raw(test_path(directory, "a.safetensors"), scale, 1);
    test_write_file(test_path(directory, "model.safetensors.index.json"), index, sizeof index - 1);
    struct checkpoint *checkpoint;
    struct tensor tensor;
    assert_int_equal(checkpoint_open(&checkpoint, directory, NULL), 0);
    assert_int_equal(checkpoint_shards(checkpoint), 2);
    assert_string_equal(checkpoint_shard_name(checkpoint, 0), "a.safetensors");
    assert_int_equal(checkpoint_find(checkpoint, &tensor, "w", NULL), 0);
    assert_non_null(tensor.scale);
    assert_true(checkpoint_holds(checkpoint, 1, "w"));
    assert_false(checkpoint_holds(checkpoint, 0, "w"));
    checkpoint_close(checkpoint);
    remove(test_path(directory, "a.safetensors"));
    assert_find_fails(directory, "w", ERROR_IO, "a.safetensors: cannot open");
    write_raw(test_path(directory, "a.safetensors"), weight, 1);
    assert_find_fails(directory, "w_scale_inv", ERROR_FORMAT,
                      "tensor \"w_scale_inv\" is not in a.safetensors, where the index puts it");
}

static void assert_index_rejected(const char *directory, const char *index, const char *fragment) {
    struct checkpoint *checkpoint;
    struct error error = {0};
    test_write_file(test_path(directory, "model.safetensors.index.json"), index, strlen(index));
    int64_t blocks = memory_statistics_get().live_blocks;
    test_assert_error(checkpoint_open(&checkpoint, directory, &error), &error, ERROR_FORMAT, fragment);
    assert_non_null(strstr(error.text, "model.safetensors.index.json"));
    assert_null(checkpoint);
    assert_int_equal(memory_statistics_get().live_blocks, blocks);
}

static void test_rejects_index(void **state) {
    (void)state;
    const char *directory = new_directory("index");
    struct checkpoint *checkpoint;
    struct error error = {0};
    test_assert_error(checkpoint_open(&checkpoint, directory, &error), &error, ERROR_IO,
                      "found neither model.safetensors nor");
    error_clear(&error);
    test_assert_error(checkpoint_open(&checkpoint, test_path(root, "nowhere"), &error), &error, ERROR_IO,
                      "nowhere: expected a model directory, found nothing");
    assert_index_rejected(directory, "", "JSON byte 0: expected '{', found the end");
    assert_index_rejected(directory, "{}", "missing key \"weight_map\"");
    assert_index_rejected(directory, "{\"weight_map\":[]}", "expected '{', found '['");
    assert_index_rejected(directory, "{\"weight_map\":{},\"weight_map\":{}}", "duplicate key \"weight_map\"");
    assert_index_rejected(directory, "{\"weight_map\":{\"a\":1}}", "expected a string, found '1'");
    assert_index_rejected(directory, "{\"weight_map\":{\"a\":\"x.bin\"}}",
                          "expected the name of a .safetensors file beside it, found \"x.bin\"");
    assert_index_rejected(directory, "{\"weight_map\":{\"a\":\"../x.safetensors\"}}", "found \"../x.safetensors\"");
    assert_index_rejected(directory, "{\"weight_map\":{\"a\":\"/etc/x.safetensors\"}}", "found \"/etc/x.safetensors\"");
    assert_index_rejected(directory, "{\"weight_map\":{\"a\":\".safetensors\"}}", "found \".safetensors\"");
    assert_index_rejected(directory, "{\"weight_map\":{\"a\":\"x.safetensors\",\"a\":\"x.safetensors\"}}",
                          "duplicate tensor \"a\"");
    assert_index_rejected(directory, "{\"weight_map\":{\"a\":\"x.safetensors\"}", "expected '}', found the end");
    assert_index_rejected(directory, "{\"metadata\":{\"a\":tru},\"weight_map\":{}}", "expected a value, found 't'");
    assert_index_rejected(directory, "{\"metadata\":-,\"weight_map\":{}}", "expected a value, found ','");
    char deep[400] = "{\"metadata\":";
    memset(deep + 12, '[', 300);
    assert_index_rejected(directory, deep, "at most 64 levels of nesting");
}

// ---- Failure --------------------------------------------------------------------------------------------------------

static void test_failing_fetch(void **state) {
    (void)state;
    const char *directory = new_directory("fetch");
    for (int64_t i = 0; i < ENTRIES; i++) {
        struct source *source = calloc(1, sizeof *source);
        struct error error = {0};
        source->fail_at = i;
        test_assert_error(checkpoint_write(directory, entries, ENTRIES, 100, fetch, source, NULL, &error), &error,
                          ERROR_FORMAT, "fetch of");
        free(source);
        assert_int_equal(count_files(directory), 0);
    }
}

static void test_announced_twice(void **state) {
    (void)state;
    const char *directory = new_directory("announced");
    struct checkpoint_plan_entry twice[2] = {entries[0], entries[1]};
    struct source *source = calloc(1, sizeof *source);
    struct error error = {0};
    source->fail_at = -1;
    twice[1].name = entries[0].name;
    test_assert_error(checkpoint_write(directory, twice, 2, 1, fetch, source, NULL, &error), &error, ERROR_ARGUMENT,
                      "announced twice");
    free(source);
    assert_int_equal(count_files(directory), 0);
}

static int write_and_open(void *argument, struct error *error) {
    const char *directory = argument;
    struct checkpoint *checkpoint;
    struct tensor tensor;
    int code = write_model(directory, 100, error);
    if (code != 0) {
        assert_int_equal(rmdir(directory), 0);   // fails if anything was left behind
        assert_int_equal(mkdir(directory, 0777), 0);
        return code;
    }
    code = checkpoint_open(&checkpoint, directory, error);
    if (code == 0) {
        code = checkpoint_find(checkpoint, &tensor, "model.layers.0.mlp.up_proj.weight", error);
        checkpoint_close(checkpoint);
    }
    DIR *stream = opendir(directory);
    for (struct dirent *entry; (entry = readdir(stream)) != NULL;) {
        unlink(test_path(directory, entry->d_name));
    }
    closedir(stream);
    return code;
}

static void test_failing_memory_calls(void **state) {
    (void)state;
    assert_true(test_failing_memory(write_and_open, new_directory("memory")) > 30);
}

static void test_failing_file_calls(void **state) {
    (void)state;
    char *directory = strdup(new_directory("calls"));
    int failures = 0;
    for (int64_t n = 1;; n++) {
        struct error error = {0};
        file_fail_at(n, ENOSPC);
        int code = write_model(directory, 100, &error);
        file_fail_at(0, 0);
        if (code == 0) {
            break;
        }
        failures++;
        assert_int_equal(code, ERROR_IO);
        assert_non_null(strstr(error.text, "No space left"));
        assert_int_equal(count_files(directory), 0);
    }
    assert_true(failures > 20);
    check_model(directory);
    free(directory);
}

// A real full disk, where we may mount one (root).
static void test_full_disk(void **state) {
    (void)state;
    const char *directory = new_directory("disk");
    if (mount("minke-test", directory, "tmpfs", 0, "size=16k") != 0) {
        skip();
    }
    struct error error = {0};
    int code = write_model(directory, 100, &error);
    int64_t files = count_files(directory);
    assert_int_equal(umount(directory), 0);
    test_assert_error(code, &error, ERROR_IO, "No space left");
    assert_int_equal(files, 0);
}

static void test_names(void **state) {
    (void)state;
    static const char *const fp8[] = {
        "model.layers.0.self_attn.q_a_proj.weight",
        "model.layers.0.self_attn.kv_a_proj_with_mqa.weight",
        "model.layers.61.self_attn.o_proj.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.3.mlp.experts.255.down_proj.weight",
        "model.layers.3.mlp.shared_experts.up_proj.weight",
        "model.layers.0.mlp.gate_proj.weight",
    };
    static const char *const plain[] = {
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.layers.61.eh_proj.weight",
        "model.layers.3.mlp.gate.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.61.shared_head.head.weight",
        "model.layers.3.mlp.gate.e_score_correction_bias",
        "model.layers.0.self_attn.kv_a_layernorm.weight",
        "model.layers.0.self_attn.q_a_proj.weight_scale_inv",
        "vision.q_proj.weight",
    };
    for (size_t i = 0; i < sizeof fp8 / sizeof fp8[0]; i++) {
        assert_true(checkpoint_name_is_fp8(fp8[i]));
    }
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++) {
        assert_false(checkpoint_name_is_fp8(plain[i]));
    }
    assert_true(checkpoint_name_is_scale("a_scale_inv"));
    assert_false(checkpoint_name_is_scale("_scale_inv"));
    assert_false(checkpoint_name_is_scale("a_scale"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_single_file),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_refuses_weights),
        cmocka_unit_test(test_scales),
        cmocka_unit_test(test_scale_in_another_file),
        cmocka_unit_test(test_rejects_index),
        cmocka_unit_test(test_failing_fetch),
        cmocka_unit_test(test_announced_twice),
        cmocka_unit_test(test_failing_memory_calls),
        cmocka_unit_test(test_failing_file_calls),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
