// Byte-level byte-pair encoding: bytes of one piece -> token ids.
//
// Start with one token per byte; as long as neighbours form a known pair, merge the pair of lowest rank (the order of
// "merges"), the leftmost of equals. A pair of ids gives a rank and the id of the merged token.
#ifndef MINKE_TEXT_BPE_H
#define MINKE_TEXT_BPE_H

#include <stdint.h>

#include "base/error.h"
#include "text/buffer.h"

#define BPE_NO_RANK INT32_MAX

struct bpe_merge {
    uint64_t pair;      // left id << 32 | right id, or BPE_NO_PAIR
    int32_t rank, id;   // id of the merged token
};
#define BPE_NO_PAIR UINT64_MAX

struct bpe {
    struct bpe_merge *table;   // open addressing, linear probing, at most half full
    int shift;                 // 64 - log2(slots)
    int64_t count;             // merges in the table
    int32_t byte_ids[256];     // token of each single byte
};

// Working memory of one thread for long pieces; starts as all zero.
struct bpe_scratch {
    int32_t *symbols;   // five arrays of `capacity`: id, rank, merged id, previous, next
    uint64_t *heap;     // rank << 32 | position
    int64_t capacity, heap_count, heap_capacity;
};

// The alphabet of ByteLevel: every byte has a printable character, itself where it is one in Latin-1, otherwise U+0100
// and up. Order of the 256 tokens in GPT-2, and in DeepSeek's and our vocabularies: printable ones first.
uint32_t bpe_byte_character(uint8_t byte);
int bpe_character_byte(uint32_t character);   // -1 = not in the alphabet
uint8_t bpe_byte_in_order(int index);         // index 0..255

// An empty table with room for `merges`; byte_ids is left as it is.
int bpe_create(struct bpe *bpe, int64_t merges, struct error *error);
void bpe_destroy(struct bpe *bpe);
// A pair given twice keeps the later rank, as in Hugging Face tokenizers. At most `merges` calls.
void bpe_add(struct bpe *bpe, int32_t left, int32_t right, int32_t rank, int32_t id);

// Appends the tokens of one piece; size < 2^31.
int bpe_encode(struct token_buffer *out, const struct bpe *bpe, struct bpe_scratch *scratch, const uint8_t *piece,
               int64_t size, struct error *error);
void bpe_scratch_destroy(struct bpe_scratch *scratch);

#endif
