// Loss on held-out text, and its code length (docs/training.md says what exactly is counted).
//
// The validation split is read in order, without FIM or splitting, in windows of sequence_length tokens that do not
// overlap: every token but the very first is a target once, each window starts without context. So the sum of the
// losses is the length of a code that really could be written, and bits per byte (that sum, EOS and BOS of every
// document included, plus log2 of the vocabulary for the first token, over the text bytes of all documents) may be
// compared with a compressor on the same text. A longer context would only make it smaller.
#ifndef MINKE_TRAIN_VALIDATION_H
#define MINKE_TRAIN_VALIDATION_H

#include "data/dataset.h"
#include "data/loader.h"
#include "train/metrics.h"

struct validation {
    struct dataset *dataset;
    struct loader *loader;
    int32_t *ids;   // [micro_batch, length + 1 + depths]
    int64_t length, depths, micro_batch;
};
// length, depths and micro_batch as in training.
int validation_create(struct validation *validation, const char *data_path, int64_t length, int64_t depths,
                      int64_t micro_batch, struct error *error);
void validation_destroy(struct validation *validation);
// Bits per byte of a part of the split (sequences > 0) is an estimate: mean loss per token of the part times the tokens
// per byte of the whole. result->average_loss is left alone. Uses the training slot.
int validation_run(struct validation *validation, struct validation_result *result, struct op_context *op,
                   struct model *model, struct model_slot *slot, int64_t sequences, struct error *error);

#endif
