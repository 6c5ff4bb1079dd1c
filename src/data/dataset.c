// Reading a dataset: dataset.json and mapped shards in -> documents of token ids out (layout in dataset.h).
//
// Nothing is believed before it is checked. Opening walks over all offsets and all ids once (a vectorised maximum at
// memory speed), so that afterwards a document can be read without any check. Checksums are compared by dataset_verify
// alone: they cost a pass over the bytes of every file.
#include "data/dataset.h"

#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "data/dataset_format.h"

#define DESCRIPTION_LIMIT ((int64_t)256 << 20)   // bytes of dataset.json

struct shard {
    struct safetensors file;
    const uint8_t *documents, *bytes, *tokens;   // into the mapping; no alignment assumed
    int64_t document_count, token_count, byte_count;
    int64_t first_document;   // number of documents in the shards before
};

struct dataset {
    struct shard *shards;
    int64_t shard_count;
    int64_t documents, tokens, bytes, vocab_size;
    int32_t bos, eos;
    int width;   // bytes of an id
    uint64_t fingerprint;
};

static int64_t load_i64(const uint8_t *data, int64_t index) {
    int64_t value;
    memcpy(&value, data + 8 * index, sizeof value);
    return value;
}

// ---- dataset.json ---------------------------------------------------------------------------------------------------

struct description {
    json_t *root;
    char *path;   // of dataset.json, for messages
    int64_t vocab_size, bos, eos;
};

static void description_free(struct description *description) {
    json_decref(description->root);
    memory_free(description->path);
    *description = (struct description){0};
}

static int description_check(struct description *description, struct error *error) {
    const json_t *root = description->root;
    const char *path = description->path, *format;
    int64_t version;
    int code;
    if (!json_is_object(root)) {
        return error_set(error, ERROR_FORMAT, "%s: expected an object, found %s", path, json_type_text(root));
    }
    if ((code = json_get_string(&format, root, "format", path, error)) != 0 ||
        (code = json_get_integer(&version, root, "version", path, error)) != 0 ||
        (code = json_get_integer(&description->vocab_size, root, "vocab_size", path, error)) != 0 ||
        (code = json_get_integer_or(&description->bos, -1, root, "bos", path, error)) != 0 ||
        (code = json_get_integer_or(&description->eos, -1, root, "eos", path, error)) != 0) {
        return code;
    }
    if (strcmp(format, DATASET_FORMAT) != 0) {
        return error_set(error, ERROR_FORMAT, "%s: key \"format\": expected \"%s\", found \"%.40s\"", path,
                         DATASET_FORMAT, format);
    }
    if (version != DATASET_VERSION) {
        return error_set(error, ERROR_FORMAT, "%s: key \"version\": expected %d, found %lld", path, DATASET_VERSION,
                         (long long)version);
    }
    if (description->vocab_size < 1 || description->vocab_size > INT32_MAX) {
        return error_set(error, ERROR_FORMAT, "%s: key \"vocab_size\": expected 1 to %d, found %lld", path, INT32_MAX,
                         (long long)description->vocab_size);
    }
    const struct {
        const char *key;
        int64_t id;
    } ends[] = {{"bos", description->bos}, {"eos", description->eos}};
    for (int i = 0; i < 2; i++) {
        if (ends[i].id < -1 || ends[i].id >= description->vocab_size) {
            return error_set(error, ERROR_FORMAT, "%s: key \"%s\": expected -1 or an id below %lld, found %lld", path,
                             ends[i].key, (long long)description->vocab_size, (long long)ends[i].id);
        }
    }
    return 0;
}

static int description_read(struct description *description, const char *directory, struct error *error) {
    *description = (struct description){.path = file_join(directory, DATASET_FILE, error)};
    int code = description->path == NULL ? ERROR_MEMORY
                                         : json_read(&description->root, description->path, DESCRIPTION_LIMIT, error);
    if (code == 0) {
        code = description_check(description, error);
    }
    if (code != 0) {
        description_free(description);
    }
    return code;
}

// The object of one split and its "shards" array, both borrowed.
static int description_split(json_t **split, json_t **shards, const struct description *description, const char *name,
                             struct error *error) {
    *split = json_object_get(description->root, name);
    if (!json_is_object(*split)) {
        return error_set(error, ERROR_FORMAT, "%s: key \"%s\": expected an object, found %s", description->path, name,
                         json_type_text(*split));
    }
    *shards = json_object_get(*split, "shards");
    if (!json_is_array(*shards)) {
        return error_set(error, ERROR_FORMAT, "%s: key \"%s.shards\": expected an array, found %s", description->path,
                         name, json_type_text(*shards));
    }
    return 0;
}

// 16 hexadecimal digits.
static int parse_checksum(uint64_t *checksum, const char *text, const char *key, const char *path,
                          struct error *error) {
    *checksum = 0;
    size_t length = strspn(text, "0123456789abcdef");
    if (length != 16 || text[length] != '\0') {
        return error_set(error, ERROR_FORMAT, "%s: key \"%s\": expected 16 hexadecimal digits, found \"%.40s\"", path,
                         key, text);
    }
    *checksum = strtoull(text, NULL, 16);
    return 0;
}

static int shard_description(const char **name, uint64_t *checksum, const json_t *shard, const char *path,
                             struct error *error) {
    const char *text;
    int code;
    if (!json_is_object(shard)) {
        return error_set(error, ERROR_FORMAT, "%s: key \"shards\": expected objects, found %s", path,
                         json_type_text(shard));
    }
    if ((code = json_get_string(name, shard, "file", path, error)) != 0 ||
        (code = json_get_string(&text, shard, "checksum", path, error)) != 0 ||
        (code = parse_checksum(checksum, text, "checksum", path, error)) != 0) {
        return code;
    }
    if ((*name)[0] == '\0' || (*name)[0] == '.' || strchr(*name, '/') != NULL) {
        return error_set(error, ERROR_FORMAT, "%s: key \"file\": expected a plain file name, found \"%.200s\"", path,
                         *name);
    }
    return 0;
}

// A count that must equal what the shards add up to.
static int check_count(int64_t found, const json_t *object, const char *key, const char *path, struct error *error) {
    int64_t expected;
    int code = json_get_integer(&expected, object, key, path, error);
    if (code == 0 && expected != found) {
        code = error_set(error, ERROR_FORMAT, "%s: key \"%s\": says %lld, the shard files have %lld", path, key,
                         (long long)expected, (long long)found);
    }
    return code;
}

// ---- shards ---------------------------------------------------------------------------------------------------------

static int shard_tensor(const uint8_t **data, int64_t *length, const struct shard *shard, const char *name,
                        const char *dtype, struct error *error) {
    for (int64_t i = 0; i < shard->file.count; i++) {
        const struct safetensors_entry *entry = &shard->file.entries[i];
        if (strcmp(entry->name, name) != 0) {
            continue;
        }
        if (strcmp(entry->dtype, dtype) != 0 || entry->tensor.rank != 1) {
            return error_set(error, ERROR_FORMAT,
                             "%s: tensor \"%s\": expected a vector of %s, found %d dimensions of %s",
                             shard->file.file.path, name, dtype, entry->tensor.rank, entry->dtype);
        }
        *data = entry->tensor.data;
        *length = entry->tensor.shape[0];
        return 0;
    }
    return error_set(error, ERROR_FORMAT, "%s: tensor \"%s\" is missing", shard->file.file.path, name);
}

static int shard_check_documents(struct shard *shard, int64_t offsets, int64_t byte_entries, struct error *error) {
    const char *path = shard->file.file.path;
    if (byte_entries == 0) {
        return error_set(error, ERROR_FORMAT, "%s: tensor \"bytes\": expected at least one document, found none", path);
    }
    if (offsets != byte_entries + 1) {
        return error_set(error, ERROR_FORMAT,
                         "%s: tensor \"documents\": expected %lld entries (one more than \"bytes\"), found %lld", path,
                         (long long)byte_entries + 1, (long long)offsets);
    }
    shard->document_count = byte_entries;
    for (int64_t i = 0; i < offsets; i++) {
        int64_t offset = load_i64(shard->documents, i);
        int64_t low = i == 0 ? 0 : load_i64(shard->documents, i - 1);
        int64_t high = i == 0 ? 0 : shard->token_count;
        low = i == offsets - 1 ? shard->token_count : low;   // the last entry is the end
        if (offset < low || offset > high) {
            return error_set(error, ERROR_FORMAT,
                             "%s: tensor \"documents\": entry %lld: expected %lld to %lld, found %lld", path,
                             (long long)i, (long long)low, (long long)high, (long long)offset);
        }
    }
    for (int64_t i = 0; i < byte_entries; i++) {
        int64_t bytes = load_i64(shard->bytes, i);
        if (bytes < 0 || __builtin_add_overflow(shard->byte_count, bytes, &shard->byte_count)) {
            return error_set(error, ERROR_FORMAT,
                             "%s: tensor \"bytes\": entry %lld: found %lld, expected a size of text", path,
                             (long long)i, (long long)bytes);
        }
    }
    return 0;
}

// A maximum over blocks (the compiler vectorises it), then the first offender by name. Negative ids are large as
// unsigned.
static int shard_check_ids(const struct shard *shard, int width, int64_t vocab_size, struct error *error) {
    enum { BLOCK = 4096 };
    struct dataset_view view = {.data = shard->tokens, .width = width, .length = shard->token_count};
    for (int64_t begin = 0; begin < shard->token_count; begin += BLOCK) {
        int64_t end = begin + BLOCK < shard->token_count ? begin + BLOCK : shard->token_count;
        uint32_t largest = 0;
        if (width == 2) {
            uint16_t narrow = 0;
            for (int64_t i = begin; i < end; i++) {
                uint16_t id;
                memcpy(&id, view.data + 2 * i, sizeof id);
                narrow = id > narrow ? id : narrow;
            }
            largest = narrow;
        } else {
            for (int64_t i = begin; i < end; i++) {
                uint32_t id;
                memcpy(&id, view.data + 4 * i, sizeof id);
                largest = id > largest ? id : largest;
            }
        }
        for (int64_t i = begin; largest >= (uint64_t)vocab_size && i < end; i++) {
            int32_t id = dataset_view_id(&view, i);
            if (id < 0 || id >= vocab_size) {
                return error_set(error, ERROR_FORMAT,
                                 "%s: tensor \"tokens\": entry %lld: id %d is out of range, expected 0 to %lld",
                                 shard->file.file.path, (long long)i, id, (long long)vocab_size - 1);
            }
        }
    }
    return 0;
}

static int shard_open(struct shard *shard, const json_t *description, const char *directory,
                      const struct description *parent, uint64_t *checksum, struct error *error) {
    const char *name;
    int code = shard_description(&name, checksum, description, parent->path, error);
    if (code != 0) {
        return code;
    }
    char *path = file_join(directory, name, error);
    code = path == NULL ? ERROR_MEMORY : safetensors_open(&shard->file, path, error);
    memory_free(path);
    if (code != 0) {
        return code;
    }
    bool narrow = parent->vocab_size <= DATASET_NARROW_VOCABULARY;
    int64_t offsets = 0, byte_entries = 0;
    if ((code = shard_tensor(&shard->documents, &offsets, shard, "documents", "I64", error)) != 0 ||
        (code = shard_tensor(&shard->bytes, &byte_entries, shard, "bytes", "I64", error)) != 0 ||
        (code = shard_tensor(&shard->tokens, &shard->token_count, shard, "tokens", narrow ? "U16" : "I32", error)) !=
            0 ||
        (code = shard_check_documents(shard, offsets, byte_entries, error)) != 0 ||
        (code = shard_check_ids(shard, narrow ? 2 : 4, parent->vocab_size, error)) != 0 ||
        (code = check_count(shard->document_count, description, "documents", parent->path, error)) != 0 ||
        (code = check_count(shard->token_count, description, "tokens", parent->path, error)) != 0 ||
        (code = check_count(shard->byte_count, description, "bytes", parent->path, error)) != 0) {
        return error_prefix(error, "%s", name);
    }
    return 0;
}

// ---- the interface --------------------------------------------------------------------------------------------------

static int dataset_open_shards(struct dataset *dataset, const json_t *shards, const char *directory,
                               const struct description *description, struct error *error) {
    size_t count = json_array_size(shards);
    dataset->shards = memory_allocate(count, sizeof *dataset->shards, "dataset shards", error);
    uint64_t *checksums = memory_allocate(count + 1, sizeof *checksums, "dataset checksums", error);
    int code = (dataset->shards == NULL && count > 0) || checksums == NULL ? ERROR_MEMORY : 0;
    for (size_t i = 0; i < count && code == 0; i++) {
        struct shard *shard = &dataset->shards[i];
        dataset->shard_count++;
        shard->first_document = dataset->documents;
        code = shard_open(shard, json_array_get(shards, i), directory, description, &checksums[i], error);
        dataset->documents += shard->document_count;
        dataset->tokens += shard->token_count;
        if (__builtin_add_overflow(dataset->bytes, shard->byte_count, &dataset->bytes)) {
            code = error_set(error, ERROR_FORMAT, "%s: key \"bytes\": more than any corpus has", description->path);
        }
    }
    if (code == 0) {
        dataset->fingerprint = XXH3_64bits(checksums, count * sizeof *checksums);
    }
    memory_free(checksums);
    return code;
}

int dataset_open(struct dataset **out, const char *directory, enum data_split split, struct error *error) {
    *out = NULL;
    const char *name = dataset_split_names[split];
    struct description description;
    int code = description_read(&description, directory, error);
    if (code != 0) {
        return code;
    }
    json_t *split_object, *shards;
    struct dataset *dataset = memory_allocate(1, sizeof *dataset, "dataset", error);
    if (dataset == NULL) {
        code = ERROR_MEMORY;
        goto out;
    }
    dataset->vocab_size = description.vocab_size;
    dataset->bos = (int32_t)description.bos;
    dataset->eos = (int32_t)description.eos;
    dataset->width = description.vocab_size <= DATASET_NARROW_VOCABULARY ? 2 : 4;
    if ((code = description_split(&split_object, &shards, &description, name, error)) != 0 ||
        (code = dataset_open_shards(dataset, shards, directory, &description, error)) != 0 ||
        (code = check_count(dataset->documents, split_object, "documents", description.path, error)) != 0 ||
        (code = check_count(dataset->tokens, split_object, "tokens", description.path, error)) != 0) {
        goto out;
    }
    code = check_count(dataset->bytes, split_object, "bytes", description.path, error);

out:
    description_free(&description);
    if (code != 0) {
        dataset_close(dataset);
    } else {
        *out = dataset;
    }
    return code;
}

void dataset_close(struct dataset *dataset) {
    if (dataset == NULL) {
        return;
    }
    for (int64_t i = 0; i < dataset->shard_count; i++) {
        safetensors_close(&dataset->shards[i].file);
    }
    memory_free(dataset->shards);
    memory_free(dataset);
}

int64_t dataset_tokens(const struct dataset *dataset) {
    return dataset->tokens;
}

int64_t dataset_documents(const struct dataset *dataset) {
    return dataset->documents;
}

int64_t dataset_bytes(const struct dataset *dataset) {
    return dataset->bytes;
}

int64_t dataset_vocab_size(const struct dataset *dataset) {
    return dataset->vocab_size;
}

int32_t dataset_bos(const struct dataset *dataset) {
    return dataset->bos;
}

int32_t dataset_eos(const struct dataset *dataset) {
    return dataset->eos;
}

uint64_t dataset_fingerprint(const struct dataset *dataset) {
    return dataset->fingerprint;
}

// The shard of a document: the last one whose first document is not behind it.
static const struct shard *dataset_find(int64_t *local, const struct dataset *dataset, int64_t document) {
    CHECK(document >= 0 && document < dataset->documents, "document %lld of %lld", (long long)document,
          (long long)dataset->documents);
    int64_t low = 0, high = dataset->shard_count;
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (dataset->shards[middle].first_document <= document) {
            low = middle;
        } else {
            high = middle;
        }
    }
    *local = document - dataset->shards[low].first_document;
    return &dataset->shards[low];
}

struct dataset_view dataset_document_view(const struct dataset *dataset, int64_t document) {
    int64_t local;
    const struct shard *shard = dataset_find(&local, dataset, document);
    int64_t begin = load_i64(shard->documents, local), end = load_i64(shard->documents, local + 1);
    return (struct dataset_view){
        .data = shard->tokens + begin * dataset->width, .width = dataset->width, .length = end - begin};
}

int64_t dataset_document_length(const struct dataset *dataset, int64_t document) {
    return dataset_document_view(dataset, document).length;
}

int64_t dataset_document_bytes(const struct dataset *dataset, int64_t document) {
    int64_t local;
    const struct shard *shard = dataset_find(&local, dataset, document);
    return load_i64(shard->bytes, local);
}

void dataset_document_read(int32_t *ids, const struct dataset *dataset, int64_t document) {
    struct dataset_view view = dataset_document_view(dataset, document);
    for (int64_t i = 0; i < view.length; i++) {
        ids[i] = dataset_view_id(&view, i);
    }
}

static int verify_file(const char *directory, const char *name, uint64_t expected, struct error *error) {
    uint64_t found = 0;
    char *path = file_join(directory, name, error);
    int code = path == NULL ? ERROR_MEMORY : file_checksum(path, &found, error);
    if (code == 0 && found != expected) {
        code = error_set(error, ERROR_FORMAT,
                         "%s: checksum: expected %016llx, found %016llx (the file is damaged or was changed)", path,
                         (unsigned long long)expected, (unsigned long long)found);
    }
    memory_free(path);
    return code;
}

static int verify_tokenizer(const struct description *description, const char *directory, struct error *error) {
    const json_t *tokenizer = json_object_get(description->root, "tokenizer");
    const char *text;
    uint64_t checksum;
    if (!json_is_object(tokenizer)) {
        return error_set(error, ERROR_FORMAT, "%s: key \"tokenizer\": expected an object, found %s", description->path,
                         json_type_text(tokenizer));
    }
    int code = json_get_string(&text, tokenizer, "checksum", description->path, error);
    if (code == 0) {
        code = parse_checksum(&checksum, text, "tokenizer.checksum", description->path, error);
    }
    return code == 0 ? verify_file(directory, DATASET_TOKENIZER, checksum, error) : code;
}

int dataset_verify(const char *directory, struct error *error) {
    struct description description;
    int code = description_read(&description, directory, error);
    if (code != 0) {
        return code;
    }
    for (int split = DATA_TRAIN; split <= DATA_VALIDATION && code == 0; split++) {
        json_t *object, *shards;
        code = description_split(&object, &shards, &description, dataset_split_names[split], error);
        for (size_t i = 0; code == 0 && i < json_array_size(shards); i++) {
            const char *name;
            uint64_t checksum;
            code = shard_description(&name, &checksum, json_array_get(shards, i), description.path, error);
            if (code == 0) {
                code = verify_file(directory, name, checksum, error);
            }
        }
    }
    if (code == 0) {
        code = verify_tokenizer(&description, directory, error);
    }
    description_free(&description);
    return code;
}
