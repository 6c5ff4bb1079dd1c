// Writing a dataset (layout in dataset.h): documents in -> shards and dataset.json out.
//
// The bytes are a function of the documents, their order, shard_bytes and the properties alone. A shard is held in
// memory until it is full, so the writer needs about shard_bytes per split. Nothing is renamed into place here but
// single files: the caller writes into a folder of its own and renames the folder.
#ifndef MINKE_DATA_DATASET_WRITER_H
#define MINKE_DATA_DATASET_WRITER_H

#include <jansson.h>
#include <stdint.h>

#include "base/error.h"
#include "data/dataset.h"

struct dataset_writer;

struct dataset_writer_options {
    const char *directory;   // exists; borrowed during the calls
    int64_t vocab_size;
    int32_t bos, eos;      // put round each document; -1 = none
    int64_t shard_bytes;   // a shard ends with the document that reaches so many bytes of tokens
};

int dataset_writer_create(struct dataset_writer **writer, const struct dataset_writer_options *options,
                          struct error *error);
// ids[count] without BOS and EOS; text_bytes is the size of the text they encode. Ids must be in [0, vocab_size).
int dataset_writer_append(struct dataset_writer *writer, enum data_split split, const int32_t *ids, int64_t count,
                          int64_t text_bytes, struct error *error);
// Writes the last shards and dataset.json. `properties` (borrowed) is an object whose keys go into dataset.json after
// the writer's own.
int dataset_writer_finish(struct dataset_writer *writer, json_t *properties, struct error *error);
void dataset_writer_free(struct dataset_writer *writer);   // after finish or instead of it; NULL is fine

struct dataset_counts {
    int64_t documents, tokens, bytes, shards;
};
struct dataset_counts dataset_writer_counts(const struct dataset_writer *writer, enum data_split split);

#endif
