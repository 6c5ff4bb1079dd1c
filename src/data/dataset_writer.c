// Writing a dataset: documents of token ids in -> safetensors shards and dataset.json out (layout in dataset.h).
#include "data/dataset_writer.h"

#include <stdio.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "data/dataset_format.h"

#define SPLITS 2

// The shard being filled, and what is known of those already written.
struct split_output {
    uint8_t *tokens;           // `width` bytes an id
    int64_t *starts, *bytes;   // per document; starts has the end as last entry when the shard is written
    int64_t token_count, token_capacity, document_count, document_capacity;
    int64_t text_bytes;
    struct dataset_counts counts;   // of the whole split
    json_t *shards;                 // array of {"file", "checksum", "documents", "tokens", "bytes"}
};

struct dataset_writer {
    struct dataset_writer_options options;
    int width;
    struct split_output splits[SPLITS];
};

int dataset_writer_create(struct dataset_writer **out, const struct dataset_writer_options *options,
                          struct error *error) {
    CHECK(options->vocab_size > 0 && options->vocab_size <= INT32_MAX && options->shard_bytes > 0, "writer options");
    CHECK(options->bos < options->vocab_size && options->eos < options->vocab_size, "bos and eos");
    *out = NULL;
    struct dataset_writer *writer = memory_allocate(1, sizeof *writer, "dataset writer", error);
    if (writer == NULL) {
        return ERROR_MEMORY;
    }
    writer->options = *options;
    writer->width = options->vocab_size <= DATASET_NARROW_VOCABULARY ? 2 : 4;
    for (int split = 0; split < SPLITS; split++) {
        writer->splits[split].shards = json_array();
        if (writer->splits[split].shards == NULL) {
            dataset_writer_free(writer);
            return error_set(error, ERROR_MEMORY, "dataset writer: out of memory");
        }
    }
    *out = writer;
    return 0;
}

void dataset_writer_free(struct dataset_writer *writer) {
    if (writer == NULL) {
        return;
    }
    for (int split = 0; split < SPLITS; split++) {
        struct split_output *output = &writer->splits[split];
        memory_free(output->tokens);
        memory_free(output->starts);
        memory_free(output->bytes);
        json_decref(output->shards);
    }
    memory_free(writer);
}

struct dataset_counts dataset_writer_counts(const struct dataset_writer *writer, enum data_split split) {
    return writer->splits[split].counts;
}

// Adds {"file": name, ...} to the split's list.
static int describe_shard(struct split_output *output, const char *name, uint64_t checksum, struct error *error) {
    char text[24];
    snprintf(text, sizeof text, "%016llx", (unsigned long long)checksum);
    json_t *shard = json_pack("{s:s, s:s, s:I, s:I, s:I}", "file", name, "checksum", text, "documents",
                              (json_int_t)output->document_count, "tokens", (json_int_t)output->token_count, "bytes",
                              (json_int_t)output->text_bytes);
    if (shard == NULL || json_array_append_new(output->shards, shard) != 0) {
        return error_set(error, ERROR_MEMORY, "%s: out of memory", name);
    }
    return 0;
}

static int write_shard_file(struct dataset_writer *writer, struct split_output *output, const char *path,
                            uint64_t *checksum, struct error *error) {
    struct safetensors_writer *file;
    int code = safetensors_writer_create(&file, error);
    if (code != 0) {
        return code;
    }
    const char *dtype = writer->width == 2 ? "U16" : "I32";
    int64_t starts = output->document_count + 1, documents = output->document_count, tokens = output->token_count;
    output->starts[documents] = tokens;
    if ((code = safetensors_writer_declare(file, "documents", "I64", 1, &starts, error)) != 0 ||
        (code = safetensors_writer_declare(file, "bytes", "I64", 1, &documents, error)) != 0 ||
        (code = safetensors_writer_declare(file, "tokens", dtype, 1, &tokens, error)) != 0 ||
        (code = safetensors_writer_begin(file, path, error)) != 0 ||
        (code = safetensors_writer_append(file, output->starts, 8 * starts, error)) != 0 ||
        (code = safetensors_writer_append(file, output->bytes, 8 * documents, error)) != 0 ||
        (code = safetensors_writer_append(file, output->tokens, writer->width * tokens, error)) != 0) {
        safetensors_writer_abort(file);
        return code;
    }
    return safetensors_writer_commit(file, checksum, error);
}

static int flush_shard(struct dataset_writer *writer, enum data_split split, struct error *error) {
    struct split_output *output = &writer->splits[split];
    if (output->document_count == 0) {
        return 0;
    }
    char name[64];
    snprintf(name, sizeof name, "%s-%05lld.safetensors", dataset_split_names[split],
             (long long)output->counts.shards + 1);
    char *path = file_join(writer->options.directory, name, error);
    uint64_t checksum = 0;
    int code = path == NULL ? ERROR_MEMORY : write_shard_file(writer, output, path, &checksum, error);
    if (code == 0) {
        code = describe_shard(output, name, checksum, error);
    }
    output->counts.shards++;
    output->token_count = output->document_count = output->text_bytes = 0;
    memory_free(path);
    return code;
}

static int reserve(struct dataset_writer *writer, struct split_output *output, int64_t tokens, struct error *error) {
    if (output->token_count + tokens > output->token_capacity) {
        int64_t capacity = 2 * output->token_capacity + tokens + 1024;
        uint8_t *grown = memory_resize(output->tokens, (size_t)capacity, (size_t)writer->width, "dataset shard", error);
        if (grown == NULL) {
            return ERROR_MEMORY;
        }
        output->tokens = grown;
        output->token_capacity = capacity;
    }
    if (output->document_count + 2 > output->document_capacity) {   // one for the document, one for the end
        int64_t capacity = 2 * output->document_capacity + 64;
        int64_t *starts = memory_resize(output->starts, (size_t)capacity, sizeof *starts, "dataset documents", error);
        if (starts == NULL) {
            return ERROR_MEMORY;
        }
        output->starts = starts;
        int64_t *bytes = memory_resize(output->bytes, (size_t)capacity, sizeof *bytes, "dataset documents", error);
        if (bytes == NULL) {
            return ERROR_MEMORY;
        }
        output->bytes = bytes;
        output->document_capacity = capacity;
    }
    return 0;
}

static void put_id(struct dataset_writer *writer, struct split_output *output, int32_t id) {
    CHECK(id >= 0 && id < writer->options.vocab_size, "id %d of %lld", id, (long long)writer->options.vocab_size);
    uint8_t *place = output->tokens + output->token_count * writer->width;
    if (writer->width == 2) {
        uint16_t narrow = (uint16_t)id;
        memcpy(place, &narrow, sizeof narrow);
    } else {
        memcpy(place, &id, sizeof id);
    }
    output->token_count++;
}

int dataset_writer_append(struct dataset_writer *writer, enum data_split split, const int32_t *ids, int64_t count,
                          int64_t text_bytes, struct error *error) {
    struct split_output *output = &writer->splits[split];
    int code = reserve(writer, output, count + 2, error);
    if (code != 0) {
        return code;
    }
    int64_t before = output->token_count;
    output->starts[output->document_count] = before;
    output->bytes[output->document_count] = text_bytes;
    output->document_count++;
    if (writer->options.bos >= 0) {
        put_id(writer, output, writer->options.bos);
    }
    for (int64_t i = 0; i < count; i++) {
        put_id(writer, output, ids[i]);
    }
    if (writer->options.eos >= 0) {
        put_id(writer, output, writer->options.eos);
    }
    output->text_bytes += text_bytes;
    output->counts.documents++;
    output->counts.tokens += output->token_count - before;
    output->counts.bytes += text_bytes;
    return output->token_count * writer->width >= writer->options.shard_bytes ? flush_shard(writer, split, error) : 0;
}

static int describe_split(json_t *root, struct dataset_writer *writer, enum data_split split) {
    struct split_output *output = &writer->splits[split];
    json_t *object = json_pack("{s:I, s:I, s:I, s:O}", "documents", (json_int_t)output->counts.documents, "tokens",
                               (json_int_t)output->counts.tokens, "bytes", (json_int_t)output->counts.bytes, "shards",
                               output->shards);
    return json_object_set_new(root, dataset_split_names[split], object);
}

int dataset_writer_finish(struct dataset_writer *writer, json_t *properties, struct error *error) {
    int code = flush_shard(writer, DATA_TRAIN, error);
    if (code == 0) {
        code = flush_shard(writer, DATA_VALIDATION, error);
    }
    if (code != 0) {
        return code;
    }
    json_t *root = json_pack("{s:s, s:i, s:I, s:i, s:i}", "format", DATASET_FORMAT, "version", DATASET_VERSION,
                             "vocab_size", (json_int_t)writer->options.vocab_size, "bos", writer->options.bos, "eos",
                             writer->options.eos);
    char *path = file_join(writer->options.directory, DATASET_FILE, error);
    if (root == NULL || path == NULL || json_object_update(root, properties) != 0 ||
        describe_split(root, writer, DATA_TRAIN) != 0 || describe_split(root, writer, DATA_VALIDATION) != 0) {
        code = error_set(error, ERROR_MEMORY, "%s: out of memory", DATASET_FILE);
        goto out;
    }
    code = json_write(root, path, error);

out:
    json_decref(root);
    memory_free(path);
    return code;
}
