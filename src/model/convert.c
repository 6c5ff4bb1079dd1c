// Conversion of a model directory (spec 11.4, 11.5). See convert.h for what becomes of each tensor.
#include "model/convert.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "model/config.h"
#include "model/load.h"
#include "weights/cast.h"
#include "weights/checkpoint.h"

#define SHARD_BYTES_DEFAULT 5000000000
#define CONFIG_BYTES_LIMIT (16 << 20)

struct conversion {
    const struct convert_options *options;
    struct checkpoint *checkpoint;
    struct checkpoint_plan_entry *entries;   // in the order of the source files
    int64_t count, bytes;
    struct cast_buffer buffer;
};

static bool ends_with(const char *text, const char *suffix) {
    size_t length = strlen(text), end = strlen(suffix);
    return length >= end && strcmp(text + length - end, suffix) == 0;
}

// ---- Plan ----------------------------------------------------------------------------------------------------------

static enum format target_format(const struct convert_options *options, const char *name, const struct tensor *source) {
    if (ends_with(name, "e_score_correction_bias")) {
        return FORMAT_F32;
    }
    if (options->format != FORMAT_E4M3_BLOCK) {
        return options->format;
    }
    bool fp8 = source->format == FORMAT_E4M3_BLOCK || (source->rank == 2 && checkpoint_name_is_fp8(name));
    return fp8 ? FORMAT_E4M3_BLOCK : FORMAT_BF16;
}

// Whether `name` is the scale of an FP8 tensor of the same directory: it travels with that tensor.
static int is_joined_scale(bool *joined, struct checkpoint *checkpoint, const char *name, struct error *error) {
    *joined = false;
    if (!checkpoint_name_is_scale(name)) {
        return 0;
    }
    char *base = memory_copy_string(name, error);
    if (base == NULL) {
        return ERROR_MEMORY;
    }
    base[strlen(base) - strlen("_scale_inv")] = 0;
    struct tensor tensor = {0};
    int code = checkpoint_has(checkpoint, base) ? checkpoint_find(checkpoint, &tensor, base, error) : 0;
    *joined = tensor.format == FORMAT_E4M3_BLOCK;
    if (code == 0 && !*joined) {
        code = error_set(error, ERROR_FORMAT, "%s: tensor \"%s\": expected an FP8 tensor \"%s\" beside it, found %s",
                         checkpoint_directory(checkpoint), name, base,
                         tensor_present(&tensor) ? "another format" : "none");
    }
    memory_free(base);
    return code;
}

static int plan_tensor(struct conversion *conversion, const char *name, struct error *error) {
    struct tensor tensor;
    bool scale;
    int code;
    if ((code = is_joined_scale(&scale, conversion->checkpoint, name, error)) != 0 || scale ||
        (code = checkpoint_find(conversion->checkpoint, &tensor, name, error)) != 0) {
        return code;
    }
    struct checkpoint_plan_entry *entry = &conversion->entries[conversion->count++];
    *entry = (struct checkpoint_plan_entry){.name = name, .rank = tensor.rank};
    entry->format = target_format(conversion->options, name, &tensor);
    memcpy(entry->shape, tensor.shape, sizeof entry->shape);
    struct tensor target = tensor_make(entry->format, NULL, entry->rank, entry->shape);
    conversion->bytes += tensor_bytes(&target);
    return 0;
}

// The order of the source files, so that a directory of ours is written again byte by byte.
static int plan_all(struct conversion *conversion, struct error *error) {
    struct checkpoint *checkpoint = conversion->checkpoint;
    int code = 0;
    for (int64_t shard = 0; shard < checkpoint_shards(checkpoint) && code == 0; shard++) {
        const struct safetensors *file;
        code = checkpoint_shard_open(checkpoint, &file, shard, error);
        for (int64_t i = 0; code == 0 && i < file->count; i++) {
            // A tensor that the index does not put here does not count.
            if (checkpoint_holds(checkpoint, shard, file->entries[i].name)) {
                code = plan_tensor(conversion, file->entries[i].name, error);
            }
        }
    }
    return code;
}

static int convert_fetch(void *argument, struct tensor *tensor, int64_t index, struct error *error) {
    struct conversion *conversion = argument;
    const struct checkpoint_plan_entry *entry = &conversion->entries[index];
    struct tensor source;
    if (conversion->options->stop != NULL && *conversion->options->stop != 0) {
        return error_set(error, ERROR_STATE, "%s: conversion interrupted",
                         checkpoint_directory(conversion->checkpoint));
    }
    int code = checkpoint_find(conversion->checkpoint, &source, entry->name, error);
    if (code != 0) {
        return code;
    }
    return tensor_cast_buffered(tensor, &conversion->buffer, entry->format, &source, conversion->options->power_of_two,
                                conversion->options->pool, error);
}

static void convert_progress(void *argument, int64_t bytes_done) {
    const struct conversion *conversion = argument;
    conversion->options->progress(conversion->options->argument, bytes_done, conversion->bytes);
}

// ---- Files ---------------------------------------------------------------------------------------------------------

static int set_dtype(json_t *root, enum format format) {
    const char *key = json_object_get(root, "torch_dtype") == NULL && json_object_get(root, "dtype") != NULL
                          ? "dtype"
                          : "torch_dtype";
    return json_object_set_new(root, key, json_string(format == FORMAT_F32 ? "float32" : "bfloat16"));
}

static int set_quantization(json_t *root, const struct convert_options *options) {
    json_object_del(root, "scale_fmt");
    if (options->format != FORMAT_E4M3_BLOCK) {
        json_object_del(root, "quantization_config");
        return 0;
    }
    json_t *value = json_pack("{s:s, s:s, s:s, s:[i,i]}", "activation_scheme", "dynamic", "fmt", "e4m3", "quant_method",
                              "fp8", "weight_block_size", BLOCK_SIZE, BLOCK_SIZE);
    int failed = options->power_of_two ? json_object_set_new(value, "scale_fmt", json_string("ue8m0")) : 0;
    return json_object_set_new(root, "quantization_config", value) != 0 || failed != 0;
}

static int write_config(const char *to, json_t *root, const struct convert_options *options, struct error *error) {
    char *path = file_join(to, "config.json", error);
    int code = path != NULL ? 0 : ERROR_MEMORY;
    if (code == 0 && (set_dtype(root, options->format) != 0 || set_quantization(root, options) != 0)) {
        code = error_set(error, ERROR_MEMORY, "%s: out of memory", path);
    }
    if (code == 0) {
        code = json_write(root, path, error);
    }
    memory_free(path);
    return code;
}

static int write_weights(struct conversion *conversion, const char *to, struct error *error) {
    struct arena arena;
    arena_init(&arena, "conversion plan");
    size_t count = (size_t)checkpoint_count(conversion->checkpoint);
    int code = arena_reserve(&arena, count * sizeof *conversion->entries, error);
    if (code == 0) {
        conversion->entries = arena_allocate_zero(&arena, count, sizeof *conversion->entries);
        code = plan_all(conversion, error);
    }
    if (code == 0) {
        int64_t shard_bytes = conversion->options->shard_bytes > 0 ? conversion->options->shard_bytes
                                                                   : SHARD_BYTES_DEFAULT;
        code = checkpoint_write(to, conversion->entries, conversion->count, shard_bytes, convert_fetch, conversion,
                                conversion->options->progress != NULL ? convert_progress : NULL, error);
    }
    cast_buffer_free(&conversion->buffer);
    arena_destroy(&arena);
    return code;
}

// Config and companions first, weights last: without them the directory is visibly incomplete, whatever stops us.
static int convert_into(struct conversion *conversion, const char *to, const char *from, struct error *error) {
    const struct convert_options *options = conversion->options;
    json_t *root = NULL;
    struct model_config config;
    char *path = file_join(from, "config.json", error);
    int code = path != NULL ? json_read(&root, path, CONFIG_BYTES_LIMIT, error) : ERROR_MEMORY;
    if (code != 0 || (code = model_config_from_json(&config, root, path, error)) != 0) {
        goto out;
    }
    bool keep = config.fp8 && options->format == FORMAT_E4M3_BLOCK;   // nothing changes: config.json is a companion too
    if (keep && options->scale_format_given && config.fp8_power_of_two != options->power_of_two) {
        code = error_set(error, ERROR_ARGUMENT,
                         "%s: holds FP8 weights with %s scales already; convert to bf16 first for others", from,
                         config.fp8_power_of_two ? "ue8m0" : "float");
        goto out;
    }
    if ((code = checkpoint_open(&conversion->checkpoint, from, error)) != 0 ||
        (!keep && (code = write_config(to, root, options, error)) != 0) ||
        (code = model_copy_companions(to, from, error)) != 0) {
        goto out;
    }
    code = write_weights(conversion, to, error);
out:
    json_decref(root);
    memory_free(path);
    return code;
}

static int check_target(const char *to, const char *from, struct error *error) {
    char real_from[PATH_MAX], real_to[PATH_MAX];
    if (realpath(from, real_from) == NULL || !file_is_directory(from)) {
        return error_set(error, ERROR_IO, "%s: expected a model directory, found %s", from,
                         file_exists(from) ? "a file" : "nothing");
    }
    if (realpath(to, real_to) == NULL) {
        return 0;   // does not exist yet
    }
    if (strcmp(real_from, real_to) == 0) {
        return error_set(error, ERROR_ARGUMENT, "%s: source and destination are the same directory", from);
    }
    char **names;
    int64_t count;
    int code = file_list(&names, &count, to, error);
    if (code == 0) {
        if (count > 0) {
            code = error_set(error, ERROR_ARGUMENT,
                             "%s: expected an empty or new directory, found %lld files (the first is %s)", to,
                             (long long)count, names[0]);
        }
        file_list_free(names, count);
    }
    return code;
}

// Removes the files of a directory that was empty when we came. Without the heap: memory may have run out.
static void remove_files(const char *directory) {
    int descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = descriptor >= 0 ? fdopendir(descriptor) : NULL;
    if (stream == NULL) {
        return;
    }
    for (struct dirent *entry; (entry = readdir(stream)) != NULL;) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            unlinkat(dirfd(stream), entry->d_name, 0);
        }
    }
    closedir(stream);
}

int model_convert(struct convert_result *result, const char *to, const char *from,
                  const struct convert_options *options, struct error *error) {
    struct conversion conversion = {.options = options};
    int code = check_target(to, from, error);
    if (code != 0) {
        return code;
    }
    bool existed = file_is_directory(to);
    code = file_make_directory(to, error);
    if (code == 0) {
        code = convert_into(&conversion, to, from, error);
    }
    checkpoint_close(conversion.checkpoint);
    if (code != 0) {
        remove_files(to);
        if (!existed) {
            rmdir(to);
        }
    }
    *result = (struct convert_result){.tensors = conversion.count, .bytes = conversion.bytes};
    return code;
}
