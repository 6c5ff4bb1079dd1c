// Token shards: what `minke prepare` writes and the trainer maps.
//
//   DIR/dataset.json       vocab_size, bos, eos, tokenizer checksum, how it was made, and for each split its counts and
//                          its shard files with checksums (XXH3-64 of the file, 16 hexadecimal digits)
//   DIR/train-00001.safetensors, ...; DIR/validation-00001.safetensors, ...
//       "documents"        I64 [documents + 1]: start of each document, and the end as last entry
//       "bytes"            I64 [documents]: text bytes of each document
//       "tokens"           U16 if vocab_size <= 65536, else I32
//   DIR/tokenizer.json, tokenizer_config.json   copied, so that a trained model is complete
//
// Documents are stored plain: [BOS] tokens [EOS]. Packing, FIM and token splitting happen in the loader, so that one
// prepared folder serves any sequence length and any epoch. A document is one line of jsonl ("text" key) or one text
// file, or a piece of a text file at a chosen separator.
#ifndef MINKE_DATA_DATASET_H
#define MINKE_DATA_DATASET_H

#include <stdint.h>
#include <string.h>

#include "base/error.h"
#include "weights/safetensors.h"

enum data_split { DATA_TRAIN, DATA_VALIDATION };

struct dataset;   // mapped shards of one split; it may have no documents at all

// Checks everything but the file checksums: counts, offsets, and that every id is in [0, vocab_size). ERROR_FORMAT
// names the shard, the index and the id found.
int dataset_open(struct dataset **dataset, const char *directory, enum data_split split, struct error *error);
void dataset_close(struct dataset *dataset);
int64_t dataset_tokens(const struct dataset *dataset);   // all documents, with their BOS and EOS
int64_t dataset_documents(const struct dataset *dataset);
int64_t dataset_bytes(const struct dataset *dataset);   // text bytes, for bits per byte
int64_t dataset_vocab_size(const struct dataset *dataset);
int64_t dataset_document_length(const struct dataset *dataset, int64_t document);
int64_t dataset_document_bytes(const struct dataset *dataset, int64_t document);
// Copies ids of one document (its whole length) to `ids`.
void dataset_document_read(int32_t *ids, const struct dataset *dataset, int64_t document);

// Ids that frame each document, -1 = none.
int32_t dataset_bos(const struct dataset *dataset);
int32_t dataset_eos(const struct dataset *dataset);
// XXH3-64 over the shards' checksums: the same documents in the same shards. A checkpoint keeps it beside the loader's
// cursor, which means nothing in another dataset.
uint64_t dataset_fingerprint(const struct dataset *dataset);

// The ids of one document where they are mapped; valid as long as the dataset.
struct dataset_view {
    const uint8_t *data;   // `width` bytes per id, no alignment assumed
    int width;             // 2 or 4
    int64_t length;
};
struct dataset_view dataset_document_view(const struct dataset *dataset, int64_t document);

static inline int32_t dataset_view_id(const struct dataset_view *view, int64_t index) {
    if (view->width == 2) {
        uint16_t id;
        memcpy(&id, view->data + 2 * index, sizeof id);
        return id;
    }
    int32_t id;
    memcpy(&id, view->data + 4 * index, sizeof id);
    return id;
}

// Reads every file of a dataset (both splits, the tokenizer) and compares it with its checksum.
int dataset_verify(const char *directory, struct error *error);

#endif
