// A Hugging Face model directory, written: shards of a chosen size, then the index (spec 11.2). The bytes are a
// function of the plan and the tensors alone. Order of the files: each shard complete and synced, the index last; on
// failure all are removed.
//
// The index is laid out as json.dumps(..., indent=2, sort_keys=True) does, so that diffs against other tools stay
// small.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "tensor/formats.h"
#include "weights/checkpoint.h"
#include "weights/json_stream.h"

#define SINGLE_NAME "model.safetensors"
#define INDEX_NAME "model.safetensors.index.json"

struct writing {
    const char *directory;
    const struct checkpoint_plan_entry *entries;
    int64_t count;
    int64_t *shard_of;         // [count]
    int64_t shards, written;   // shards in all; complete so far
    int64_t bytes_done, total_bytes;
    checkpoint_fetch fetch;
    void *argument;
    void (*progress)(void *argument, int64_t bytes_done);
};

// Bytes of data and scales, -1 on overflow.
static int64_t entry_bytes(const struct checkpoint_plan_entry *entry) {
    int64_t bytes = format_info(entry->format)->bytes;
    for (int axis = 0; axis < entry->rank; axis++) {
        if (__builtin_mul_overflow(bytes, entry->shape[axis], &bytes)) {
            return -1;
        }
    }
    struct tensor tensor = tensor_make(entry->format, NULL, entry->rank, entry->shape);
    return tensor_bytes(&tensor);
}

static const char *shard_name(char buffer[64], const struct writing *writing, int64_t shard) {
    if (writing->shards == 1) {
        return SINGLE_NAME;
    }
    snprintf(buffer, 64, "model-%05lld-of-%06lld.safetensors", (long long)(shard + 1), (long long)writing->shards);
    return buffer;
}

// Greedy: a tensor (with its scales) starts a new shard when the current one would exceed the limit.
static int plan_shards(struct writing *writing, int64_t shard_bytes, struct error *error) {
    int64_t used = 0;
    for (int64_t i = 0; i < writing->count; i++) {
        const struct checkpoint_plan_entry *entry = &writing->entries[i];
        CHECK(entry->format == FORMAT_F32 || entry->format == FORMAT_BF16 ||
                  (entry->format == FORMAT_E4M3_BLOCK && entry->rank == 2),
              "%s: format %d rank %d", entry->name, entry->format, entry->rank);
        int64_t bytes = entry_bytes(entry);
        if (bytes < 0 || __builtin_add_overflow(writing->total_bytes, bytes, &writing->total_bytes)) {
            return error_set(error, ERROR_ARGUMENT, "%s: tensor \"%s\": shape is too large for any file",
                             writing->directory, entry->name);
        }
        if (i > 0 && used > 0 && bytes > shard_bytes - used) {
            writing->shards++;
            used = 0;
        }
        used += bytes;
        writing->shard_of[i] = writing->shards;
    }
    writing->shards++;
    return 0;
}

int checkpoint_check_absent(const char *directory, struct error *error) {
    char **names;
    int64_t count;
    int code = file_list(&names, &count, directory, error);
    if (code != 0) {
        return code;
    }
    for (int64_t i = 0; i < count && code == 0; i++) {
        size_t length = strlen(names[i]), suffix = strlen(".safetensors");
        if (strcmp(names[i], INDEX_NAME) == 0 ||
            (length > suffix && strcmp(names[i] + length - suffix, ".safetensors") == 0)) {
            code = error_set(error, ERROR_ARGUMENT, "%s: holds weights already (%s), expected none", directory,
                             names[i]);
        }
    }
    file_list_free(names, count);
    return code;
}

static int declare_shard(struct safetensors_writer *writer, const struct writing *writing, int64_t shard,
                         struct error *error) {
    int code = safetensors_writer_metadata(writer, "format", "pt", error);   // transformers refuses files without it
    for (int64_t i = 0; i < writing->count && code == 0; i++) {
        const struct checkpoint_plan_entry *entry = &writing->entries[i];
        if (writing->shard_of[i] != shard) {
            continue;
        }
        code = safetensors_writer_declare(writer, entry->name, format_info(entry->format)->safetensors_name,
                                          entry->rank, entry->shape, error);
        if (code == 0 && entry->format == FORMAT_E4M3_BLOCK) {
            int64_t shape[2] = {(entry->shape[0] + BLOCK_SIZE - 1) / BLOCK_SIZE,
                                (entry->shape[1] + BLOCK_SIZE - 1) / BLOCK_SIZE};
            char *name = memory_format(error, "%s_scale_inv", entry->name);
            code = name != NULL ? safetensors_writer_declare(writer, name, "F32", 2, shape, error) : ERROR_MEMORY;
            memory_free(name);
        }
    }
    return code;
}

static int append_tensor(struct safetensors_writer *writer, struct writing *writing, int64_t index,
                         struct error *error) {
    const struct checkpoint_plan_entry *entry = &writing->entries[index];
    struct tensor tensor = {0}, announced = tensor_make(entry->format, NULL, entry->rank, entry->shape);
    int code = writing->fetch(writing->argument, &tensor, index, error);
    if (code != 0) {
        return code;
    }
    CHECK(tensor.format == entry->format && tensor_same_shape(&tensor, &announced) && tensor_packed(&tensor),
          "%s: fetched another format or shape than announced", entry->name);
    int64_t data_bytes = tensor_elements(&tensor) * format_info(entry->format)->bytes;
    code = safetensors_writer_append(writer, tensor.data, data_bytes, error);
    if (code == 0 && entry->format == FORMAT_E4M3_BLOCK) {
        code = safetensors_writer_append(writer, tensor.scale, tensor_bytes(&tensor) - data_bytes, error);
    }
    writing->bytes_done += tensor_bytes(&tensor);
    if (code == 0 && writing->progress != NULL) {
        writing->progress(writing->argument, writing->bytes_done);
    }
    return code;
}

static int write_shard(struct writing *writing, int64_t shard, struct error *error) {
    struct safetensors_writer *writer = NULL;
    char name[64];
    char *path = file_join(writing->directory, shard_name(name, writing, shard), error);
    int code = path != NULL ? safetensors_writer_create(&writer, error) : ERROR_MEMORY;
    if (code != 0 || (code = declare_shard(writer, writing, shard, error)) != 0 ||
        (code = safetensors_writer_begin(writer, path, error)) != 0) {
        goto out;
    }
    for (int64_t i = 0; i < writing->count; i++) {
        if (writing->shard_of[i] == shard && (code = append_tensor(writer, writing, i, error)) != 0) {
            goto out;
        }
    }
    writing->written = shard + 1;   // from here on the file may exist, whatever commit returns
    code = safetensors_writer_commit(writer, NULL, error);
    writer = NULL;
out:
    safetensors_writer_abort(writer);
    memory_free(path);
    return code;
}

struct index_line {
    char *name;   // owned when `scale`
    int64_t shard;
    bool scale;
};

static int index_line_compare(const void *left, const void *right) {
    return strcmp(((const struct index_line *)left)->name, ((const struct index_line *)right)->name);
}

static int index_collect(const struct writing *writing, struct index_line *lines, int64_t *count, struct error *error) {
    for (int64_t i = 0; i < writing->count; i++) {
        const struct checkpoint_plan_entry *entry = &writing->entries[i];
        lines[(*count)++] = (struct index_line){(char *)(uintptr_t)entry->name, writing->shard_of[i], false};
        if (entry->format == FORMAT_E4M3_BLOCK) {
            char *name = memory_format(error, "%s_scale_inv", entry->name);
            if (name == NULL) {
                return ERROR_MEMORY;
            }
            lines[(*count)++] = (struct index_line){name, writing->shard_of[i], true};
        }
    }
    qsort(lines, (size_t)*count, sizeof *lines, index_line_compare);
    for (int64_t i = 1; i < *count; i++) {
        if (strcmp(lines[i - 1].name, lines[i].name) == 0) {
            return error_set(error, ERROR_ARGUMENT, "%s: tensor \"%s\" was announced twice", writing->directory,
                             lines[i].name);
        }
    }
    return 0;
}

static int write_index(const struct writing *writing, struct error *error) {
    struct json_text text = {0};
    int64_t count = 0;
    char name[64];
    char *path = file_join(writing->directory, INDEX_NAME, error);
    struct index_line *lines = memory_allocate((size_t)writing->count * 2, sizeof *lines, "index", error);
    int code = path != NULL && lines != NULL ? index_collect(writing, lines, &count, error) : ERROR_MEMORY;
    if (code != 0) {
        goto out;
    }
    json_text_append(&text, "{\n  \"metadata\": {\n    \"total_size\": %lld\n  },\n  \"weight_map\": {",
                     (long long)writing->total_bytes);
    for (int64_t i = 0; i < count; i++) {
        json_text_append(&text, "%s\n    ", i > 0 ? "," : "");
        json_text_string(&text, lines[i].name);
        json_text_append(&text, ": \"%s\"", shard_name(name, writing, lines[i].shard));
    }
    json_text_append(&text, "\n  }\n}\n");
    code = json_text_finish(&text, path, error);
    if (code == 0) {
        code = file_write_text(path, text.text, error);
        if (code != 0) {
            unlink(path);
        }
    }
out:
    for (int64_t i = 0; i < count; i++) {
        if (lines[i].scale) {
            memory_free(lines[i].name);
        }
    }
    memory_free(lines);
    memory_free(path);
    json_text_free(&text);
    return code;
}

// Without the heap: the failure may be that memory has run out.
static void remove_written(const struct writing *writing) {
    char path[4096], name[64];
    for (int64_t shard = 0; shard < writing->written; shard++) {
        int length = snprintf(path, sizeof path, "%s/%s", writing->directory, shard_name(name, writing, shard));
        if (length > 0 && length < (int)sizeof path) {
            unlink(path);
        }
    }
}

int checkpoint_write(const char *directory, const struct checkpoint_plan_entry *entries, int64_t count,
                     int64_t shard_bytes, checkpoint_fetch fetch, void *argument,
                     void (*progress)(void *argument, int64_t bytes_done), struct error *error) {
    struct writing writing = {.directory = directory,
                              .entries = entries,
                              .count = count,
                              .fetch = fetch,
                              .argument = argument,
                              .progress = progress};
    CHECK(shard_bytes > 0, "shards of %lld bytes", (long long)shard_bytes);
    int code = checkpoint_check_absent(directory, error);
    if (code != 0) {
        return code;
    }
    writing.shard_of = memory_allocate((size_t)count + 1, sizeof *writing.shard_of, "plan", error);
    code = writing.shard_of != NULL ? plan_shards(&writing, shard_bytes, error) : ERROR_MEMORY;
    for (int64_t shard = 0; shard < writing.shards && code == 0; shard++) {
        code = write_shard(&writing, shard, error);
    }
    if (code == 0 && writing.shards > 1) {
        code = write_index(&writing, error);
    }
    if (code != 0) {
        remove_written(&writing);
    }
    memory_free(writing.shard_of);
    return code;
}
