// Any bytes as a safetensors file. What is accepted must keep its promises (entries in order, without overlap or gap,
// data inside the file) and comes back the same when it is written and read again.
#include <string.h>

#include "fuzz/fuzz.h"
#include "weights/safetensors.h"

#define REWRITE_LIMIT 65536   // bytes of a file that is written again

const bool fuzz_leaves_memory = false;

void fuzz_open(void) {
    (void)fuzz_directory();
}

static void check_entries(const struct safetensors *file, const uint8_t *data, size_t size) {
    int64_t end = 0;
    for (int64_t i = 0; i < file->count; i++) {
        const struct safetensors_entry *entry = &file->entries[i];
        const uint8_t *first = entry->tensor.data;
        CHECK(entry->begin == end && entry->end >= entry->begin, "order of %s", entry->name);
        CHECK(first >= data && first + (entry->end - entry->begin) <= data + size, "data of %s", entry->name);
        CHECK(entry->tensor.format == FORMAT_NONE || entry->tensor.format == FORMAT_E4M3_BLOCK ||
                  tensor_bytes(&entry->tensor) == entry->end - entry->begin,
              "bytes of %s", entry->name);
        end = entry->end;
    }
}

static void check_same(const struct safetensors *a, const struct safetensors *b) {
    CHECK(a->count == b->count, "%lld of %lld tensors", (long long)b->count, (long long)a->count);
    for (int64_t i = 0; i < a->count; i++) {
        const struct safetensors_entry *left = &a->entries[i], *right = &b->entries[i];
        CHECK(strcmp(left->name, right->name) == 0 && strcmp(left->dtype, right->dtype) == 0, "%s is now %s",
              left->name, right->name);
        CHECK(left->begin == right->begin && left->end == right->end && left->tensor.rank == right->tensor.rank &&
                  memcmp(left->tensor.shape, right->tensor.shape, sizeof left->tensor.shape) == 0,
              "place or shape of %s", left->name);
        CHECK(memcmp(left->tensor.data, right->tensor.data, (size_t)(left->end - left->begin)) == 0, "data of %s",
              left->name);
    }
}

static void check_rewritten(const struct safetensors *file) {
    const char *path = fuzz_file("again.safetensors", NULL, 0);
    struct error error = {0};
    struct safetensors_writer *writer;
    struct safetensors again;
    CHECK(safetensors_writer_create(&writer, &error) == 0, "%s", error.text);
    for (int64_t i = 0; i < file->count; i++) {
        const struct safetensors_entry *entry = &file->entries[i];
        CHECK(safetensors_writer_declare(writer, entry->name, entry->dtype, entry->tensor.rank, entry->tensor.shape,
                                         &error) == 0,
              "%s", error.text);
    }
    if (file->metadata != NULL) {
        CHECK(safetensors_writer_metadata(writer, "before", file->metadata, &error) == 0, "%s", error.text);
    }
    CHECK(safetensors_writer_begin(writer, path, &error) == 0, "%s", error.text);
    for (int64_t i = 0; i < file->count; i++) {
        const struct safetensors_entry *entry = &file->entries[i];
        CHECK(safetensors_writer_append(writer, entry->tensor.data, entry->end - entry->begin, &error) == 0, "%s",
              error.text);
    }
    CHECK(safetensors_writer_commit(writer, NULL, &error) == 0, "%s", error.text);
    CHECK(safetensors_open(&again, path, &error) == 0, "%s", error.text);
    check_same(file, &again);
    CHECK((file->metadata != NULL) == (again.metadata != NULL), "metadata");
    safetensors_close(&again);
}

void fuzz_one(const uint8_t *data, size_t size) {
    static char path[] = "fuzz";
    struct safetensors file = {.file = {.data = data, .size = (int64_t)size, .path = path}};
    struct error error = {0};
    int code = safetensors_parse(&file, &error);
    CHECK(code == error.code && (code == 0 || error.text[0] != 0), "code %d", code);
    if (code != 0) {
        CHECK(file.entries == NULL && file.names == NULL && file.metadata == NULL, "left behind");
        return;
    }
    check_entries(&file, data, size);
    if (size < REWRITE_LIMIT) {
        check_rewritten(&file);
    }
    file.file = (struct mapped_file){0};   // the bytes belong to the fuzzer
    safetensors_close(&file);
}
