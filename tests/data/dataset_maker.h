// Small datasets for tests: documents of ids in, a folder that dataset_open reads out.
#ifndef MINKE_TESTS_DATA_DATASET_MAKER_H
#define MINKE_TESTS_DATA_DATASET_MAKER_H

#include "data/dataset_writer.h"

// Writes `count` training documents and one validation document with the ids of document_id to an existing folder. Text
// bytes of document d are 3 * its length + 1. Returns the writer's code.
static inline int32_t maker_id(int64_t document, int64_t index, int64_t vocab_size) {
    return (int32_t)(2 + (uint64_t)(document * 7919 + index * 31 + document * index) % (uint64_t)(vocab_size - 2));
}

static inline int64_t maker_length(int64_t document) {
    return (document * 37 + 11) % 101;
}

static inline int maker_write(const char *directory, int64_t vocab_size, int64_t count, int64_t shard_bytes,
                              struct error *error) {
    struct dataset_writer_options options = {
        .directory = directory, .vocab_size = vocab_size, .bos = 0, .eos = 1, .shard_bytes = shard_bytes};
    struct dataset_writer *writer = NULL;
    json_t *properties = json_pack("{s:{s:s, s:s}}", "tokenizer", "file", "tokenizer.json", "checksum",
                                   "0123456789abcdef");
    int code = properties == NULL ? error_set(error, ERROR_MEMORY, "properties") : 0;
    code = code == 0 ? dataset_writer_create(&writer, &options, error) : code;
    for (int64_t document = 0; document <= count && code == 0; document++) {
        int32_t ids[128];
        int64_t length = maker_length(document);
        for (int64_t i = 0; i < length; i++) {
            ids[i] = maker_id(document, i, vocab_size);
        }
        code = dataset_writer_append(writer, document < count ? DATA_TRAIN : DATA_VALIDATION, ids, length,
                                     3 * length + 1, error);
    }
    code = code == 0 ? dataset_writer_finish(writer, properties, error) : code;
    dataset_writer_free(writer);
    json_decref(properties);
    return code;
}

#endif
