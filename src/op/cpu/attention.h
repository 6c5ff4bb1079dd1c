// Kernels of attention and its gradient, and the layout of what they read. attention.c and attention_backward.c cut the
// work into pieces (a block of query rows against a block of 64 keys), pack the operands, and call these; a table per
// instruction set and input format (struct cpu_kernels: attention_f32, attention_bf16).
//
// Every product is a chain (op/ops.h), kept exact by giving each SIMD lane its own output:
//   scores      lanes are keys: score[row][key] walks over the elements d of a query row and of 64 transposed key rows
//   accumulate  lanes are columns: sum[row][column] walks over terms (keys or queries), a factor of a row times a
//   packed row
// Packed operands are arrays of 32-bit words. A word holds `step` consecutive terms of the chain: one F32, or two BF16
// with the earlier term in the high half, which is the order in which the BF16 dot-product instruction adds. A missing
// last term is zero. Zeros so added can only turn a sum of -0 into +0; scores do not depend on that, and `finish` adds
// +0 to every result.
#ifndef MINKE_OP_CPU_ATTENTION_H
#define MINKE_OP_CPU_ATTENTION_H

#include <stdint.h>

#include "op/cpu/row_kernels.h"

#define KEY_ROWS ATTENTION_BLOCK   // keys per block, columns of a packed key block
#define QUERY_ROWS 64              // query rows per block
#define ROWS_AT_ONCE 8             // of accumulate_rows
#define ROWS_COLUMNS 32
#define SCORE_TERMS 32   // of scores_rows

// Cache lines of the next block of keys, to be asked for; what has been is taken off.
struct key_lines {
    const char *from;
    int64_t count;
};

struct attention_kernels {
    int step;   // terms per word, 1 or 2

    // `count` rows of `width` elements, `stride` elements apart, are packed ("words" of a width: ceil(width / step)):
    // lanes[words][KEY_ROWS]: column j holds row j; columns from count on are zero.
    void (*pack_lanes)(uint32_t *lanes, struct row first, int64_t stride, int64_t width, int64_t count);
    // packed[ceil(count / step)][packed_stride]: word [i][c] holds column c of rows step*i.. ; only `width` columns are
    // written.
    void (*pack_rows)(uint32_t *packed, int64_t packed_stride, struct row first, int64_t stride, int64_t width,
                      int64_t count);
    // queries[count][query_stride]: the elements of a row, ceil(width / step) words each.
    void (*pack_queries)(uint32_t *queries, int64_t query_stride, struct row first, int64_t stride, int64_t width,
                         int64_t count);

    // score[rows][KEY_ROWS] = chain over `words` of queries[row][words] and lanes; at least the first `keys` columns
    // are written.
    void (*scores)(float *score, const uint32_t *queries, const uint32_t *lanes, int64_t rows, int64_t words,
                   int64_t keys);
    // sum[row][0..width) continues its chain with `terms` terms: the word factor[row * row_stride + i * word_stride]
    // times packed[i][..]. width is a multiple of 16, and the stride of sum and packed. A last half word is not read
    // from packed.
    void (*accumulate)(float *sum, const uint32_t *factor, int64_t row_stride, int64_t word_stride,
                       const uint32_t *packed, int64_t width, int64_t rows, int64_t terms);
    // The same for at most ROWS_AT_ONCE rows, with the `terms` rows of b read where they lie, `stride` elements apart.
    // `columns` is a multiple of ROWS_COLUMNS; words of a factor follow one another. Some of `next` may be asked for.
    // NULL: not served.
    void (*accumulate_rows)(float *sum, int64_t sum_stride, const uint32_t *factor, int64_t factor_stride,
                            struct row first, int64_t stride, int64_t columns, int64_t rows, int64_t terms,
                            struct key_lines *next);

    // Scores of at most ROWS_AT_ONCE rows, with keys read where they lie: continues, or with `add` false begins, the
    // chains score[rows][KEY_ROWS] of the first `keys` (a multiple of 16) by `width` terms (a multiple of SCORE_TERMS).
    // terms: what widen_queries makes of `words` words (a multiple of 16) of each query: [words /
    // 16][rows][SCORE_TERMS]. Some of `next` are asked for. NULL: not served.
    void (*widen_queries)(float *terms, const uint32_t *queries, int64_t stride, int64_t words, int64_t rows);
    void (*scores_rows)(float *score, const float *terms, struct row first, int64_t stride, int64_t width, int64_t rows,
                        int64_t keys, bool add, struct key_lines *next);

    // One row of the running softmax: s_j = score_j * scale for j < visible; maximum and sum become m' and l'; factor
    // (KEY_ROWS / step words) receives p, zero from `visible` on. Returns exp(m - m').
    float (*softmax)(uint32_t *factor, float *maximum, float *sum, const float *score, int64_t visible, float scale);
    // p = exp(s - lse), ds = (p * (dp - delta)) * scale for `rows` query rows; row i sees all keys, or the first i + 1
    // if diagonal, the rest are zero. p_columns, ds_columns: [ceil(rows / step)][KEY_ROWS], words of queries. ds_rows:
    // [rows][KEY_ROWS / step], words of keys; the same array as ds_columns when step is 1.
    void (*gradient)(uint32_t *p_columns, uint32_t *ds_columns, uint32_t *ds_rows, const float *score, const float *dp,
                     const float *lse, const float *delta, int64_t rows, bool diagonal, float scale);
    void (*scale)(float *y, float factor, int64_t n);                             // y = y * factor
    void (*fold)(float *y, float kept, const float *x, float added, int64_t n);   // y = y * kept + (x * added), one FMA
    void (*finish)(struct row y, const float *x, float divisor, int64_t n);       // y = x / divisor + 0
};

#endif
