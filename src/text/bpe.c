// Byte-pair encoding of one piece (see bpe.h): a scan over short pieces, a heap for long ones.
#include "text/bpe.h"

#include "base/memory.h"

#define SHORT_PIECE 64   // bytes up to which the quadratic scan is the faster way

// ---- alphabet ----

static int is_printable(int byte) {
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

uint32_t bpe_byte_character(uint8_t byte) {
    if (is_printable(byte)) {
        return byte;
    }
    // The 68 others in ascending order: 0x00-0x20, 0x7F-0xA0, 0xAD.
    return byte <= 0x20 ? 0x100u + byte : byte <= 0xA0 ? 0x100u + 33 + (byte - 0x7Fu) : 0x100u + 67;
}

int bpe_character_byte(uint32_t character) {
    if (character < 0x100) {
        return is_printable((int)character) ? (int)character : -1;
    }
    uint32_t index = character - 0x100;
    return index <= 0x20 ? (int)index : index < 67 ? (int)(0x7F + index - 33) : index == 67 ? 0xAD : -1;
}

uint8_t bpe_byte_in_order(int index) {
    if (index < 94) {
        return (uint8_t)(0x21 + index);
    }
    if (index < 106) {
        return (uint8_t)(0xA1 + index - 94);
    }
    return index < 188 ? (uint8_t)(0xAE + index - 106) : (uint8_t)bpe_character_byte((uint32_t)(0x100 + index - 188));
}

// ---- table of merges ----

int bpe_create(struct bpe *bpe, int64_t merges, struct error *error) {
    int bits = 4;
    while (((int64_t)1 << bits) < merges * 2) {
        bits++;
    }
    bpe->shift = 64 - bits;
    bpe->count = 0;
    bpe->table = memory_allocate((size_t)1 << bits, sizeof(*bpe->table), "table of merges", error);
    if (bpe->table == NULL) {
        return ERROR_MEMORY;
    }
    for (size_t i = 0; i < (size_t)1 << bits; i++) {
        bpe->table[i].pair = BPE_NO_PAIR;
        bpe->table[i].rank = BPE_NO_RANK;
    }
    return 0;
}

void bpe_destroy(struct bpe *bpe) {
    memory_free(bpe->table);
    *bpe = (struct bpe){0};
}

// The slot of the pair, or the free one where it would stand (rank BPE_NO_RANK).
static inline struct bpe_merge *bpe_slot(const struct bpe *bpe, int32_t left, int32_t right) {
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t mask = ((size_t)1 << (64 - bpe->shift)) - 1;
    size_t at = (size_t)(pair * 0x9E3779B97F4A7C15u >> bpe->shift);
    while (bpe->table[at].pair != pair && bpe->table[at].pair != BPE_NO_PAIR) {
        at = (at + 1) & mask;
    }
    return &bpe->table[at];
}

void bpe_add(struct bpe *bpe, int32_t left, int32_t right, int32_t rank, int32_t id) {
    struct bpe_merge *slot = bpe_slot(bpe, left, right);
    bpe->count += slot->pair == BPE_NO_PAIR;
    *slot = (struct bpe_merge){(uint64_t)(uint32_t)left << 32 | (uint32_t)right, rank, id};
}

// ---- short pieces ----

static int encode_short(struct token_buffer *out, const struct bpe *bpe, const uint8_t *piece, int count,
                        struct error *error) {
    int32_t ids[SHORT_PIECE], ranks[SHORT_PIECE], merged[SHORT_PIECE];
    for (int i = 0; i < count; i++) {
        ids[i] = bpe->byte_ids[piece[i]];
    }
    for (int i = 0; i + 1 < count; i++) {
        const struct bpe_merge *slot = bpe_slot(bpe, ids[i], ids[i + 1]);
        ranks[i] = slot->rank;
        merged[i] = slot->id;
    }
    while (count > 1) {
        int best = 0;
        for (int i = 1; i + 1 < count; i++) {
            if (ranks[i] < ranks[best]) {
                best = i;
            }
        }
        if (ranks[best] == BPE_NO_RANK) {
            break;
        }
        ids[best] = merged[best];
        count--;
        for (int i = best + 1; i < count; i++) {
            ids[i] = ids[i + 1];
            ranks[i - 1] = ranks[i];
            merged[i - 1] = merged[i];
        }
        if (best > 0) {
            const struct bpe_merge *slot = bpe_slot(bpe, ids[best - 1], ids[best]);
            ranks[best - 1] = slot->rank;
            merged[best - 1] = slot->id;
        }
        if (best + 1 < count) {
            const struct bpe_merge *slot = bpe_slot(bpe, ids[best], ids[best + 1]);
            ranks[best] = slot->rank;
            merged[best] = slot->id;
        }
    }
    if (token_buffer_reserve(out, count, error) != 0) {
        return ERROR_MEMORY;
    }
    memcpy(out->ids + out->count, ids, (size_t)count * sizeof(*ids));
    out->count += count;
    return 0;
}

// ---- long pieces ----

static int scratch_reserve(struct bpe_scratch *scratch, int64_t size, struct error *error) {
    if (scratch->capacity < size) {
        int32_t *symbols = memory_resize(scratch->symbols, (size_t)size * 5, sizeof(*symbols), "long piece of text",
                                         error);
        if (symbols == NULL) {
            return ERROR_MEMORY;
        }
        scratch->symbols = symbols;
        scratch->capacity = size;
    }
    // Every merge pushes at most two pairs.
    if (scratch->heap_capacity < size * 3) {
        uint64_t *heap = memory_resize(scratch->heap, (size_t)size * 3, sizeof(*heap), "long piece of text", error);
        if (heap == NULL) {
            return ERROR_MEMORY;
        }
        scratch->heap = heap;
        scratch->heap_capacity = size * 3;
    }
    scratch->heap_count = 0;
    return 0;
}

static void heap_push(struct bpe_scratch *scratch, uint64_t key) {
    uint64_t *heap = scratch->heap;
    int64_t at = scratch->heap_count++;
    while (at > 0 && heap[(at - 1) / 2] > key) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = key;
}

static uint64_t heap_pop(struct bpe_scratch *scratch) {
    uint64_t *heap = scratch->heap, top = heap[0];
    int64_t count = --scratch->heap_count, at = 0;
    uint64_t last = heap[count];
    for (int64_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && heap[child + 1] < heap[child]) {
            child++;
        }
        if (heap[child] >= last) {
            break;
        }
        heap[at] = heap[child];
    }
    heap[at] = last;
    return top;
}

struct chain {
    int32_t *ids, *ranks, *merged, *previous, *next;   // -1 = no neighbour; rank: of the pair (this, next)
};

static void chain_rank(struct bpe_scratch *scratch, const struct bpe *bpe, struct chain chain, int32_t at) {
    int32_t next = chain.next[at];
    chain.ranks[at] = BPE_NO_RANK;
    if (next >= 0) {
        const struct bpe_merge *slot = bpe_slot(bpe, chain.ids[at], chain.ids[next]);
        chain.ranks[at] = slot->rank;
        chain.merged[at] = slot->id;
        if (slot->rank != BPE_NO_RANK) {
            heap_push(scratch, (uint64_t)slot->rank << 32 | (uint32_t)at);
        }
    }
}

static int encode_long(struct token_buffer *out, const struct bpe *bpe, struct bpe_scratch *scratch,
                       const uint8_t *piece, int64_t size, struct error *error) {
    if (scratch_reserve(scratch, size, error) != 0) {
        return ERROR_MEMORY;
    }
    int32_t *base = scratch->symbols;
    int64_t stride = scratch->capacity, count = size;
    struct chain chain = {base, base + stride, base + 2 * stride, base + 3 * stride, base + 4 * stride};
    for (int32_t i = 0; i < size; i++) {
        chain.ids[i] = bpe->byte_ids[piece[i]];
        chain.previous[i] = i - 1;
        chain.next[i] = i + 1 < size ? i + 1 : -1;
    }
    for (int32_t i = 0; i < size; i++) {
        chain_rank(scratch, bpe, chain, i);
    }
    while (scratch->heap_count > 0) {
        uint64_t key = heap_pop(scratch);
        int32_t at = (int32_t)(key & UINT32_MAX);
        if (chain.ranks[at] != (int32_t)(key >> 32)) {
            continue;   // a neighbour was merged since
        }
        int32_t gone = chain.next[at], behind = chain.next[gone];
        chain.ids[at] = chain.merged[at];
        chain.ranks[gone] = BPE_NO_RANK;
        chain.next[at] = behind;
        if (behind >= 0) {
            chain.previous[behind] = at;
        }
        count--;
        chain_rank(scratch, bpe, chain, at);
        if (chain.previous[at] >= 0) {
            chain_rank(scratch, bpe, chain, chain.previous[at]);
        }
    }
    if (token_buffer_reserve(out, count, error) != 0) {
        return ERROR_MEMORY;
    }
    for (int32_t at = 0; at >= 0; at = chain.next[at]) {
        out->ids[out->count++] = chain.ids[at];
    }
    return 0;
}

int bpe_encode(struct token_buffer *out, const struct bpe *bpe, struct bpe_scratch *scratch, const uint8_t *piece,
               int64_t size, struct error *error) {
    if (size == 0) {
        return 0;
    }
    if (size <= SHORT_PIECE) {
        return encode_short(out, bpe, piece, (int)size, error);
    }
    if (size >= INT32_MAX) {
        return error_set(error, ERROR_LIMIT, "a piece of text has %lld bytes without a boundary, the limit is %d",
                         (long long)size, INT32_MAX - 1);
    }
    return encode_long(out, bpe, scratch, piece, size, error);
}

void bpe_scratch_destroy(struct bpe_scratch *scratch) {
    memory_free(scratch->symbols);
    memory_free(scratch->heap);
    *scratch = (struct bpe_scratch){0};
}
