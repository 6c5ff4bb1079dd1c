// A Hugging Face model directory, read (spec 11.2, 11.4). Writing is in checkpoint_write.c.
//
//   model.safetensors                  everything in one file, or
//   model.safetensors.index.json       {"metadata": {...}, "weight_map": {"<tensor>": "<file>", ...}} and the files it
//   names
//
// The index alone is read at the start: `items`, sorted by name, say which shard holds what. A shard is mapped and its
// header checked when its first tensor is asked for.
#include "weights/checkpoint.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "weights/grow.h"
#include "weights/json_stream.h"

#define SINGLE_NAME "model.safetensors"
#define INDEX_NAME "model.safetensors.index.json"
#define SCALE_SUFFIX "_scale_inv"

struct item {
    const char *name;   // in checkpoint->names, or in the single file
    int64_t shard;
    int64_t entry;   // in the shard's entries; -1 until the shard is open
};

struct shard {
    const char *name;
    int64_t expected;   // tensors that the index puts here
    bool open;
    struct safetensors file;
};

struct checkpoint {
    char *directory, *index_path;
    char *names;            // storage of tensor and shard names; NULL for a single file
    struct shard *shards;   // sorted by name
    int64_t shard_count, shard_capacity;
    struct item *items;   // sorted by name
    int64_t count, capacity;
};

static int item_compare(const void *left, const void *right) {
    return strcmp(((const struct item *)left)->name, ((const struct item *)right)->name);
}

static struct item *item_find(const struct checkpoint *checkpoint, const char *name) {
    struct item key = {.name = name};
    return checkpoint->count == 0
               ? NULL
               : bsearch(&key, checkpoint->items, (size_t)checkpoint->count, sizeof *checkpoint->items, item_compare);
}

// ---- The index file ------------------------------------------------------------------------------------------------

// Only plain names: an index file must not reach outside its directory.
static bool shard_name_is_plain(const char *name) {
    size_t length = strlen(name), suffix = strlen(".safetensors");
    return length > suffix && strchr(name, '/') == NULL && name[0] != '.' &&
           strcmp(name + length - suffix, ".safetensors") == 0;
}

// Position of `name` in the sorted shards; *found tells whether it is there already.
static int64_t shard_position(const struct checkpoint *checkpoint, const char *name, bool *found) {
    int64_t low = 0, high = checkpoint->shard_count;
    *found = false;
    while (low < high && !*found) {
        int64_t middle = low + (high - low) / 2;
        int order = strcmp(checkpoint->shards[middle].name, name);
        *found = order == 0;
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return *found ? high : low;
}

struct index_scan {
    struct checkpoint *checkpoint;
    struct json_reader json;
    int64_t name_bytes;   // used of checkpoint->names
};

// While the index is read, item.shard is the offset of the shard's name in checkpoint->names: sorted positions still
// move.
static int index_parse_pair(struct index_scan *scan, struct error *error) {
    struct checkpoint *checkpoint = scan->checkpoint;
    const char *path = scan->json.name;
    char *name = checkpoint->names + scan->name_bytes;
    int64_t length;
    bool found;
    int code;
    if ((code = json_reader_string(&scan->json, name, &length, error)) != 0 ||
        (code = json_reader_expect(&scan->json, ':', error)) != 0) {
        return code;
    }
    scan->name_bytes += length + 1;
    char *file = checkpoint->names + scan->name_bytes;
    if ((code = json_reader_string(&scan->json, file, &length, error)) != 0) {
        return code;
    }
    if (!shard_name_is_plain(file)) {
        return error_set(error, ERROR_FORMAT,
                         "%s: tensor \"%s\": expected the name of a .safetensors file beside it, found \"%s\"", path,
                         name, file);
    }
    int64_t position = shard_position(checkpoint, file, &found);
    if (!found) {
        code = array_grow((void **)&checkpoint->shards, &checkpoint->shard_capacity, checkpoint->shard_count + 1,
                          sizeof *checkpoint->shards, path, error);
        if (code != 0) {
            return code;
        }
        memmove(checkpoint->shards + position + 1, checkpoint->shards + position,
                (size_t)(checkpoint->shard_count - position) * sizeof *checkpoint->shards);
        checkpoint->shards[position] = (struct shard){.name = file};
        checkpoint->shard_count++;
        scan->name_bytes += length + 1;
    }
    code = array_grow((void **)&checkpoint->items, &checkpoint->capacity, checkpoint->count + 1,
                      sizeof *checkpoint->items, path, error);
    if (code == 0) {
        checkpoint->items[checkpoint->count++] = (struct item){
            .name = name, .shard = checkpoint->shards[position].name - checkpoint->names, .entry = -1};
    }
    return code;
}

static int index_parse_map(struct index_scan *scan, struct error *error) {
    int code = json_reader_expect(&scan->json, '{', error);
    if (code != 0 || json_reader_accept(&scan->json, '}')) {
        return code;
    }
    do {
        code = index_parse_pair(scan, error);
        if (code != 0) {
            return code;
        }
    } while (json_reader_accept(&scan->json, ','));
    return json_reader_expect(&scan->json, '}', error);
}

static int index_parse(struct index_scan *scan, struct error *error) {
    bool mapped = false;
    int code = json_reader_expect(&scan->json, '{', error);
    if (code != 0) {
        return code;
    }
    if (!json_reader_accept(&scan->json, '}')) {
        do {
            char *key = scan->checkpoint->names + scan->name_bytes;
            if ((code = json_reader_string(&scan->json, key, NULL, error)) != 0 ||
                (code = json_reader_expect(&scan->json, ':', error)) != 0) {
                return code;
            }
            if (strcmp(key, "weight_map") != 0) {
                code = json_reader_skip(&scan->json, error);
            } else if (mapped) {
                code = error_set(error, ERROR_FORMAT, "%s: duplicate key \"weight_map\"", scan->json.name);
            } else {
                mapped = true;
                code = index_parse_map(scan, error);
            }
            if (code != 0) {
                return code;
            }
        } while (json_reader_accept(&scan->json, ','));
        if ((code = json_reader_expect(&scan->json, '}', error)) != 0) {
            return code;
        }
    }
    if (!mapped) {
        return error_set(error, ERROR_FORMAT, "%s: missing key \"weight_map\"", scan->json.name);
    }
    return json_reader_end(&scan->json, error);
}

static int index_read(struct checkpoint *checkpoint, struct error *error) {
    struct mapped_file file;
    const char *path = checkpoint->index_path;
    int code = file_map(&file, path, error);
    if (code != 0) {
        return code;
    }
    struct index_scan scan = {.checkpoint = checkpoint, .json = {(const char *)file.data, file.size, 0, path}};
    checkpoint->names = memory_allocate((size_t)file.size + 1, 1, path, error);
    code = checkpoint->names != NULL ? index_parse(&scan, error) : ERROR_MEMORY;
    file_unmap(&file);
    if (code != 0) {
        return code;
    }
    for (int64_t i = 0; i < checkpoint->count; i++) {
        bool found;
        checkpoint->items[i].shard = shard_position(checkpoint, checkpoint->names + checkpoint->items[i].shard, &found);
        CHECK(found, "a shard of the index was lost");
        checkpoint->shards[checkpoint->items[i].shard].expected++;
    }
    if (checkpoint->count > 0) {
        qsort(checkpoint->items, (size_t)checkpoint->count, sizeof *checkpoint->items, item_compare);
    }
    for (int64_t i = 1; i < checkpoint->count; i++) {
        if (strcmp(checkpoint->items[i - 1].name, checkpoint->items[i].name) == 0) {
            return error_set(error, ERROR_FORMAT, "%s: duplicate tensor \"%s\"", path, checkpoint->items[i].name);
        }
    }
    return 0;
}

// ---- Opening -------------------------------------------------------------------------------------------------------

static int single_open(struct checkpoint *checkpoint, const char *path, struct error *error) {
    int code = array_grow((void **)&checkpoint->shards, &checkpoint->shard_capacity, 1, sizeof *checkpoint->shards,
                          path, error);
    if (code != 0) {
        return code;
    }
    struct shard *shard = &checkpoint->shards[0];
    *shard = (struct shard){.name = SINGLE_NAME};
    checkpoint->shard_count = 1;
    code = safetensors_open(&shard->file, path, error);
    if (code != 0) {
        return code;
    }
    shard->open = true;
    checkpoint->count = shard->file.count;
    checkpoint->items = memory_allocate((size_t)checkpoint->count + 1, sizeof *checkpoint->items, path, error);
    if (checkpoint->items == NULL) {
        return ERROR_MEMORY;
    }
    for (int64_t i = 0; i < checkpoint->count; i++) {
        checkpoint->items[i] = (struct item){.name = shard->file.entries[i].name, .entry = i};
    }
    qsort(checkpoint->items, (size_t)checkpoint->count, sizeof *checkpoint->items, item_compare);
    return 0;
}

int checkpoint_open(struct checkpoint **result, const char *directory, struct error *error) {
    *result = NULL;
    char *single_path = NULL;
    int code = ERROR_MEMORY;
    struct checkpoint *checkpoint = memory_allocate(1, sizeof *checkpoint, "checkpoint", error);
    if (checkpoint == NULL) {
        return ERROR_MEMORY;
    }
    checkpoint->directory = memory_copy_string(directory, error);
    checkpoint->index_path = file_join(directory, INDEX_NAME, error);
    single_path = file_join(directory, SINGLE_NAME, error);
    if (checkpoint->directory == NULL || checkpoint->index_path == NULL || single_path == NULL) {
        goto out;
    }
    if (!file_is_directory(directory)) {
        code = error_set(error, ERROR_IO, "%s: expected a model directory, found %s", directory,
                         file_exists(directory) ? "a file" : "nothing");
    } else if (file_exists(single_path)) {
        code = single_open(checkpoint, single_path, error);
    } else if (file_exists(checkpoint->index_path)) {
        code = index_read(checkpoint, error);
    } else {
        code = error_set(error, ERROR_IO, "%s: found neither " SINGLE_NAME " nor " INDEX_NAME, directory);
    }
out:
    memory_free(single_path);
    if (code != 0) {
        checkpoint_close(checkpoint);
    } else {
        *result = checkpoint;
    }
    return code;
}

void checkpoint_close(struct checkpoint *checkpoint) {
    if (checkpoint == NULL) {
        return;
    }
    for (int64_t i = 0; i < checkpoint->shard_count; i++) {
        if (checkpoint->shards[i].open) {
            safetensors_close(&checkpoint->shards[i].file);
        }
    }
    memory_free(checkpoint->shards);
    memory_free(checkpoint->items);
    memory_free(checkpoint->names);
    memory_free(checkpoint->directory);
    memory_free(checkpoint->index_path);
    memory_free(checkpoint);
}

// ---- Asking --------------------------------------------------------------------------------------------------------

const char *checkpoint_directory(const struct checkpoint *checkpoint) {
    return checkpoint->directory;
}

int64_t checkpoint_count(const struct checkpoint *checkpoint) {
    return checkpoint->count;
}

int64_t checkpoint_shards(const struct checkpoint *checkpoint) {
    return checkpoint->shard_count;
}

static const struct item *item_at(const struct checkpoint *checkpoint, int64_t index) {
    CHECK(index >= 0 && index < checkpoint->count, "tensor %lld of %lld", (long long)index,
          (long long)checkpoint->count);
    return &checkpoint->items[index];
}

const char *checkpoint_name(const struct checkpoint *checkpoint, int64_t index) {
    return item_at(checkpoint, index)->name;
}

const char *checkpoint_shard_name(const struct checkpoint *checkpoint, int64_t shard) {
    CHECK(shard >= 0 && shard < checkpoint->shard_count, "shard %lld", (long long)shard);
    return checkpoint->shards[shard].name;
}

bool checkpoint_has(const struct checkpoint *checkpoint, const char *name) {
    return item_find(checkpoint, name) != NULL;
}

bool checkpoint_holds(const struct checkpoint *checkpoint, int64_t shard, const char *name) {
    const struct item *item = item_find(checkpoint, name);
    return item != NULL && item->shard == shard;
}

// Names the first tensor that the index announces and the file lacks, and closes the file again.
static int shard_report_missing(struct checkpoint *checkpoint, int64_t index, struct error *error) {
    struct shard *shard = &checkpoint->shards[index];
    for (int64_t i = 0; i < checkpoint->count; i++) {
        struct item *item = &checkpoint->items[i];
        if (item->shard == index && item->entry < 0) {
            error_set(error, ERROR_FORMAT, "%s: tensor \"%s\" is not in %s, where the index puts it",
                      checkpoint->index_path, item->name, shard->name);
        }
        item->entry = item->shard == index ? -1 : item->entry;
    }
    safetensors_close(&shard->file);
    return ERROR_FORMAT;
}

int checkpoint_shard_open(struct checkpoint *checkpoint, const struct safetensors **file, int64_t index,
                          struct error *error) {
    CHECK(index >= 0 && index < checkpoint->shard_count, "shard %lld", (long long)index);
    struct shard *shard = &checkpoint->shards[index];
    *file = &shard->file;
    if (shard->open) {
        return 0;
    }
    char *path = file_join(checkpoint->directory, shard->name, error);
    int code = path != NULL ? safetensors_open(&shard->file, path, error) : ERROR_MEMORY;
    memory_free(path);
    if (code != 0) {
        return code;
    }
    int64_t matched = 0;
    for (int64_t i = 0; i < shard->file.count; i++) {
        struct item *item = item_find(checkpoint, shard->file.entries[i].name);
        if (item != NULL && item->shard == index) {
            item->entry = i;
            matched++;
        }
    }
    if (matched != shard->expected) {
        return shard_report_missing(checkpoint, index, error);
    }
    shard->open = true;
    return 0;
}

// The entry of a name and the path of its file; opens the shard.
static int entry_find(struct checkpoint *checkpoint, const struct safetensors_entry **entry, const char **path,
                      const char *name, struct error *error) {
    const struct item *item = item_find(checkpoint, name);
    const struct safetensors *file;
    if (item == NULL) {
        return error_set(error, ERROR_FORMAT, "%s: tensor \"%s\" is missing", checkpoint->directory, name);
    }
    int code = checkpoint_shard_open(checkpoint, &file, item->shard, error);
    if (code == 0) {
        *entry = &file->entries[item->entry];
        *path = file->file.path;
    }
    return code;
}

int checkpoint_locate(struct checkpoint *checkpoint, struct checkpoint_range *range, const char *name,
                      struct error *error) {
    const struct safetensors_entry *entry;
    const char *path;
    int code = entry_find(checkpoint, &entry, &path, name, error);
    if (code == 0) {
        const struct item *item = item_find(checkpoint, name);
        const struct mapped_file *file = &checkpoint->shards[item->shard].file.file;
        *range = (struct checkpoint_range){.path = path,
                                           .shard = item->shard,
                                           .offset = (const uint8_t *)entry->tensor.data - file->data,
                                           .bytes = entry->end - entry->begin};
    }
    return code;
}

static int scale_join(struct checkpoint *checkpoint, struct tensor *tensor, const char *path, const char *name,
                      struct error *error) {
    const struct safetensors_entry *entry;
    const char *scale_path;
    char *scale_name = memory_format(error, "%s" SCALE_SUFFIX, name);
    if (scale_name == NULL) {
        return ERROR_MEMORY;
    }
    int code = 0;
    if (!checkpoint_has(checkpoint, scale_name)) {
        code = error_set(error, ERROR_FORMAT, "%s: FP8 tensor \"%s\": its scale \"%s\" is missing", path, name,
                         scale_name);
        goto out;
    }
    code = entry_find(checkpoint, &entry, &scale_path, scale_name, error);
    if (code != 0) {
        goto out;
    }
    int64_t rows = (tensor->shape[0] + BLOCK_SIZE - 1) / BLOCK_SIZE,
            columns = (tensor->shape[1] + BLOCK_SIZE - 1) / BLOCK_SIZE;
    const struct tensor *scale = &entry->tensor;
    char found[96];
    if (scale->format != FORMAT_F32 || scale->rank != 2 || scale->shape[0] != rows || scale->shape[1] != columns) {
        code = error_set(error, ERROR_FORMAT, "%s: tensor \"%s\": expected F32 shape [%lld, %lld], found %s shape %s",
                         scale_path, scale_name, (long long)rows, (long long)columns, entry->dtype,
                         tensor_shape_text(found, scale));
        goto out;
    }
    tensor->scale = scale->data;
    tensor->scale_stride = columns;
out:
    memory_free(scale_name);
    return code;
}

int checkpoint_find(struct checkpoint *checkpoint, struct tensor *tensor, const char *name, struct error *error) {
    const struct safetensors_entry *entry;
    const char *path;
    int code = entry_find(checkpoint, &entry, &path, name, error);
    if (code != 0) {
        return code;
    }
    *tensor = entry->tensor;
    if (tensor->format != FORMAT_F32 && tensor->format != FORMAT_BF16 && tensor->format != FORMAT_E4M3_BLOCK) {
        char shape[96];
        return error_set(error, ERROR_FORMAT,
                         "%s: tensor \"%s\": expected dtype F32, BF16 or a matrix of F8_E4M3, found %s %s", path, name,
                         entry->dtype, tensor_shape_text(shape, tensor));
    }
    return tensor->format == FORMAT_E4M3_BLOCK ? scale_join(checkpoint, tensor, path, name, error) : 0;
}

int checkpoint_expect(struct checkpoint *checkpoint, struct tensor *tensor, const char *name, int rank,
                      const int64_t *shape, struct error *error) {
    int code = checkpoint_find(checkpoint, tensor, name, error);
    if (code != 0) {
        return code;
    }
    struct tensor wanted = tensor_make(FORMAT_F32, NULL, rank, shape);
    if (!tensor_same_shape(tensor, &wanted)) {
        char expected[96], found[96];
        const struct safetensors_entry *entry;
        const char *path = checkpoint->directory;
        (void)entry_find(checkpoint, &entry, &path, name, NULL);
        return error_set(error, ERROR_FORMAT, "%s: tensor \"%s\": expected shape %s, found %s", path, name,
                         tensor_shape_text(expected, &wanted), tensor_shape_text(found, tensor));
    }
    return 0;
}

bool checkpoint_name_is_scale(const char *name) {
    size_t length = strlen(name), suffix = strlen(SCALE_SUFFIX);
    return length > suffix && strcmp(name + length - suffix, SCALE_SUFFIX) == 0;
}

bool checkpoint_name_is_fp8(const char *name) {
    static const char *const suffixes[] = {"_proj.weight", "kv_a_proj_with_mqa.weight"};
    size_t length = strlen(name), unscaled = strlen("eh_proj.weight");
    if (strstr(name, "layers.") == NULL ||
        (length >= unscaled && strcmp(name + length - unscaled, "eh_proj.weight") == 0)) {
        return false;
    }
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        size_t suffix = strlen(suffixes[i]);
        if (length > suffix && strcmp(name + length - suffix, suffixes[i]) == 0) {
            return true;
        }
    }
    return false;
}
