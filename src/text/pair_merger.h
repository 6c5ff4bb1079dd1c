// The loop of BPE training: pieces with counts in -> merges out.
//
// Symbols are numbered 0-255 for the bytes (in the order of bpe_byte_in_order) and 256 + n for the n-th merge. Every
// pair of neighbouring symbols has a count and a list of the pieces where it may stand; a merge visits only the pieces
// on its list. The best pair comes from a heap whose entries are corrected when they surface.
#ifndef MINKE_TEXT_PAIR_MERGER_H
#define MINKE_TEXT_PAIR_MERGER_H

#include <stdint.h>

#include "base/error.h"
#include "base/log.h"
#include "text/piece_counter.h"

struct merge_list {
    int32_t (*pairs)[2];   // [count] symbols left, right
    int64_t count;
    struct byte_buffer bytes;   // of all symbols
    int64_t *offsets;           // [256 + count + 1] where each symbol's bytes begin
};

// At most `wanted` merges; fewer when no pair occurs twice any more. A pair whose text is already a symbol (reached by
// another way) is never merged, so that every symbol has a text of its own. `progress` may be NULL.
int pair_merger_run(struct merge_list *merges, const struct piece_counter *pieces, int64_t wanted,
                    struct progress *progress, struct error *error);
void merge_list_destroy(struct merge_list *merges);

#endif
