// Token shards: what `minke prepare` writes and the trainer maps.
//
//   DIR/dataset.json                       vocab_size, counts, tokenizer checksum, split, options, list of shard files with checksums
//   DIR/train-00001.safetensors ...        tensors "tokens" (U16 if vocab_size <= 65536, else I32) and "documents" (I64: start of each
//   DIR/validation-00001.safetensors       document, and the end as last entry) and "bytes" (I64: text bytes of each document)
//   DIR/tokenizer.json, tokenizer_config.json   copied, so that a trained model is complete
//
// Documents are stored plain: [BOS] tokens [EOS]. Packing, FIM and token splitting happen in the loader, so that one
// prepared folder serves any sequence length and any epoch. A document is one line of jsonl ("text" key) or one text file, or a piece of a
// text file at a chosen separator.
#ifndef MINKE_DATA_DATASET_H
#define MINKE_DATA_DATASET_H

#include <stdint.h>

#include "base/error.h"
#include "weights/safetensors.h"

enum data_split { DATA_TRAIN, DATA_VALIDATION };

struct dataset;   // mapped shards of one split

int dataset_open(struct dataset **dataset, const char *directory, enum data_split split, struct error *error);
void dataset_close(struct dataset *dataset);
int64_t dataset_tokens(const struct dataset *dataset);      // all documents, with their BOS and EOS
int64_t dataset_documents(const struct dataset *dataset);
int64_t dataset_bytes(const struct dataset *dataset);       // text bytes, for bits per byte
int64_t dataset_vocab_size(const struct dataset *dataset);
int64_t dataset_document_length(const struct dataset *dataset, int64_t document);
int64_t dataset_document_bytes(const struct dataset *dataset, int64_t document);
// Copies ids of one document (its whole length) to `ids`.
void dataset_document_read(int32_t *ids, const struct dataset *dataset, int64_t document);

#endif
