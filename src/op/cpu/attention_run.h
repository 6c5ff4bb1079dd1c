// What the files of attention share: attention.c cuts the work into tasks and adds up stretches, attention_walk.c walks
// the keys of a stretch, attention_few.c reads blocks where they lie for a piece of few rows.
//
// Heads that share keys and values (head stride 0: the absorbed form) are further query rows of the same piece, so that
// a block of the latent is packed once for all of them: row r of such a span is (token r / heads, head r % heads). A
// row meets the same key blocks and the same order whatever piece it is in; keys beyond its own position never enter a
// product.
#ifndef MINKE_OP_CPU_ATTENTION_RUN_H
#define MINKE_OP_CPU_ATTENTION_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "op/cpu/attention.h"
#include "op/cpu/cpu_ops.h"
#include "op/cpu/kernels.h"
#include "op/cpu/latent_block.h"

// A block of 64 keys costs more to pack than so few rows gain from it.
#define DIRECT_ROWS LINEAR_MAX_MAPPED

// The running softmax of some rows: maximum and denominator, weighted sum of the values.
struct attention_sums {
    float *sum;   // [rows][columns]
    float *maximum, *denominator;
};

// Per worker. q_words and columns are the packed widths of a query and a value row.
struct attention_area {
    uint32_t *queries;   // [QUERY_ROWS][q_words]
    uint32_t *lanes;     // [q_words][KEY_ROWS]
    uint32_t *values;    // [KEY_ROWS / step][columns]
    uint32_t *factor;    // [QUERY_ROWS][KEY_ROWS / step]
    uint32_t *direct;    // of few rows: queries, then factor, as side a of a matrix product (op/cpu/linear.h)
    float *terms;        // of few rows: queries as scores_rows takes them
    char *latent;        // of an FP8 cache: a block of keys, which are the values too, in the format of q
    float *score;        // [QUERY_ROWS][KEY_ROWS]
    struct attention_sums walk, total;   // of the stretch that is walked, of those before it
};

struct attention_job {
    const struct attention_kernels *kernels;
    const struct linear_kernels *linear;
    const struct latent_kernels *latent;
    enum linear_unit unit;
    struct attention_area *area;
    const struct tensor *out, *q, *k_nope, *k_rope, *v;
    float *lse;
    const struct attention_span *spans;
    int64_t *first_task;   // [span_count + 1]
    int64_t span_count;
    int64_t *first_piece;          // [span_count + 1]
    bool split;                    // a task is one stretch of a piece, not a whole one
    int64_t part_rows;             // then: rows of the longest piece,
    struct attention_sums parts;   // and sums of all tasks, so many rows each
    int64_t group_heads, groups;   // heads that share keys; heads / group_heads
    int64_t rows_per_task;
    int64_t nope, rope, nope_words, q_words, columns;
    int64_t latent_stride;   // of area.latent in elements; 0: keys and values are read where they lie
    float scale;
};

// The query rows of one task.
struct attention_piece {
    const struct attention_span *span;
    int64_t head, first,
        rows;       // rows first .. first + rows - 1 of the span, counted over tokens and the heads of the group
    int64_t seen;   // keys that the last row sees
};

static inline int64_t piece_token(const struct attention_job *job, const struct attention_piece *piece, int64_t row) {
    return (piece->first + row) / job->group_heads;
}

static inline int64_t piece_head(const struct attention_job *job, const struct attention_piece *piece, int64_t row) {
    return piece->head + (piece->first + row) % job->group_heads;
}

static inline struct row piece_row(const struct attention_job *job, const struct attention_piece *piece,
                                   const struct tensor *tensor, int64_t row) {
    return tensor_head_row(tensor, piece->span->query_row + piece_token(job, piece, row), piece_head(job, piece, row));
}

// Rows of a piece before the first that sees key number `key`.
static inline int64_t unseeing_rows(const struct attention_job *job, const struct attention_piece *piece, int64_t key) {
    int64_t rows = (key - piece->span->position) * job->group_heads - piece->first;
    return rows < 0 ? 0 : rows < piece->rows ? rows : piece->rows;
}

// The row of keys and values that block number `block` begins with.
static inline int64_t first_key(const struct attention_span *span, int64_t block) {
    return span->pages != NULL ? (int64_t)span->pages[block] * KEY_ROWS : span->key_row + block * KEY_ROWS;
}

// A block of keys and values: first rows and, in elements, how far apart they are.
struct key_block {
    struct row nope, rope, values;
    int64_t nope_stride, rope_stride, value_stride;
};

// Sums of the keys of one stretch -> area.walk. The queries of the piece are in the area (attention_put_queries).
void attention_walk(const struct attention_job *job, struct attention_area *area, const struct attention_piece *piece,
                    int64_t stretch);
void attention_put_queries(const struct attention_job *job, struct attention_area *area,
                           const struct attention_piece *piece);
// Where a block can be read, `keys` rows of it; those of an FP8 cache are multiplied out first.
struct key_block attention_open_block(const struct attention_job *job, struct attention_area *area,
                                      const struct attention_piece *piece, int64_t block, int64_t keys);

// ---- attention_few.c: pieces of at most DIRECT_ROWS rows ----

int64_t attention_few_words(const struct attention_job *job);   // of area.direct
void attention_few_put_queries(const struct attention_job *job, struct attention_area *area, int64_t rows);
// How many keys of a block the few rows of a piece see, if all see equally many and the block can be read where it
// lies; otherwise 0. Scores are computed for whole vectors of keys: rows behind the last key must be there, whatever
// they hold.
int64_t attention_few_keys(const struct attention_job *job, const struct attention_piece *piece, int64_t block);
// The first block that is walked, front to back into the cache: sooner than in the order in which it is multiplied.
void attention_few_touch_first(const struct attention_job *job, const struct attention_piece *piece, int64_t block);
// A block of which all rows see the first `keys`; all rows see `next` keys of the block behind it (0: there is none, or
// it is packed), which is asked for during the scores or read between the products.
void attention_few_attend(const struct attention_job *job, struct attention_area *area,
                          const struct attention_piece *piece, int64_t block, int64_t keys, int64_t next);

#endif
