// From token shards to training sequences: an endless, deterministic, shuffled stream (spec 8.1).
//
// Epoch e visits the documents in the order rng_permute(seed, e, i). Each document may first have some combined
// punctuation+newline tokens split (rate split_rate per such token) and, with probability fim_rate, be rearranged to
// FIM_BEGIN prefix FIM_HOLE suffix FIM_END middle EOS (PSM, document level, before packing). Documents are then laid
// end to end and cut into sequences of `length` tokens plus `extra` look-ahead tokens (1 + MTP depth), consecutive
// sequences overlapping by `extra` so that every token is a target once: no cross-document mask, as in the report.
// Every random choice depends on (seed, epoch, document) alone. A BOS that starts the document stays in front of
// FIM_BEGIN; the cuts fall on two different token boundaries, uniformly (shards hold tokens: a cut never changes the
// tokens around it), before combined tokens are split. The cursor is all there is to save; the stream of sequences does
// not depend on batch sizes or threads.
#ifndef MINKE_DATA_LOADER_H
#define MINKE_DATA_LOADER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "data/dataset.h"

struct loader_options {
    uint64_t seed;
    int64_t length, extra;
    double fim_rate, split_rate;
    int32_t fim_begin, fim_hole, fim_end;   // -1 = none (fim_rate must be 0)
    // Pieces of splittable tokens: split_offsets[vocab_size + 1] into split_pieces; an empty range = never split. NULL
    // = no splitting.
    const int32_t *split_offsets, *split_pieces;
    bool shuffle;   // false: document order, one pass (validation)
};

struct loader_cursor {           // 64-bit integers only: goes into the checkpoint as it is
    int64_t epoch, document;     // next document of the epoch's order
    int64_t offset;              // first token of that (rearranged) document not yet consumed
    int64_t sequences, tokens;   // delivered so far
};

struct loader;
// The dataset and the split tables are borrowed. A dataset without tokens is an error.
int loader_create(struct loader **loader, const struct dataset *dataset, const struct loader_options *options,
                  struct error *error);
void loader_destroy(struct loader *loader);
// ids[length + extra] of the next sequence; never allocates. Returns 1 when a non-shuffled pass is over (then ids is
// partly filled: *count valid tokens, zeros behind them; the tokens beyond the first `extra` were not delivered
// before), 0 otherwise.
int loader_next(int32_t *ids, int64_t *count, struct loader *loader);
struct loader_cursor loader_cursor(const struct loader *loader);
// Continues where a cursor of the same dataset and options was taken. A cursor that cannot be one is ERROR_ARGUMENT.
int loader_seek(struct loader *loader, const struct loader_cursor *cursor, struct error *error);

#endif
