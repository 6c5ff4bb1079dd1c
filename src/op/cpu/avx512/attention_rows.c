// AVX-512 kernel of products of few rows with BF16 rows whose columns are contiguous, read where they lie: values of
// attention while decoding, and W_UK of the absorbed form (accumulate_rows in op/cpu/attention.h).
#include <immintrin.h>

#include "op/cpu/attention.h"
#include "op/cpu/kernels.h"
#include "op/cpu/unroll.h"

#define VECTOR 16
#define PAIR (2 * VECTOR)   // columns of one load
#define INLINE static inline __attribute__((always_inline))
struct interleave {
    __m512i low, high;   // of two rows k, k + 1: the words of columns 0 to 15, 16 to 31, those of k in the upper halves
};

INLINE struct interleave interleave_make(void) {
    uint16_t words[PAIR];
    for (int i = 0; i < PAIR; i++) {
        words[i] = (uint16_t)(i / 2 + (i % 2 == 0 ? 0 : PAIR));
    }
    __m512i low = _mm512_loadu_si512(words);
    return (struct interleave){low, _mm512_add_epi16(low, _mm512_set1_epi16(VECTOR))};
}

struct accumulation {
    float *sum;
    int64_t sum_stride;
    const uint32_t *factor;
    int64_t factor_stride, terms;
    const char *from;
    int64_t row_bytes;
};

// Two terms, or a last one alone (`second` NULL). The products are pinned to their place, or GCC would put off whole
// chains and keep what they wait for on the stack.
INLINE void add_unit(__m512 sum[8][16], const struct accumulation *a, int64_t unit, const char *first,
                     const char *second, const int rows, const int pairs, const struct interleave *index) {
    UNROLL
    for (int p = 0; p < pairs; p++) {
        __m512i k0 = _mm512_loadu_si512(first + p * PAIR * 2);
        __m512i k1 = second != NULL ? _mm512_loadu_si512(second + p * PAIR * 2) : _mm512_setzero_si512();
        __m512i low = _mm512_permutex2var_epi16(k1, index->low, k0);
        __m512i high = _mm512_permutex2var_epi16(k1, index->high, k0);
        UNROLL
        for (int i = 0; i < rows; i++) {
            __m512bh x = (__m512bh)_mm512_set1_epi32((int)a->factor[i * a->factor_stride + unit]);
            sum[i][2 * p] = _mm512_dpbf16_ps(sum[i][2 * p], x, (__m512bh)low);
            sum[i][2 * p + 1] = _mm512_dpbf16_ps(sum[i][2 * p + 1], x, (__m512bh)high);
            __asm__("" : "+v"(sum[i][2 * p]), "+v"(sum[i][2 * p + 1]));
        }
    }
}

// `rows` rows, `pairs` times 32 columns: the sums stay in registers.
INLINE void accumulate_columns(const struct accumulation *a, int64_t column, const int rows, const int pairs,
                               const struct interleave *index) {
    __m512 sum[8][16];
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int v = 0; v < 2 * pairs; v++) {
            sum[i][v] = _mm512_loadu_ps(a->sum + i * a->sum_stride + column + v * VECTOR);
        }
    }
    const char *from = a->from + 2 * column;
    int64_t unit = 0;
    for (; 2 * unit + 1 < a->terms; unit++, from += 2 * a->row_bytes) {
        add_unit(sum, a, unit, from, from + a->row_bytes, rows, pairs, index);
    }
    if (2 * unit < a->terms) {
        add_unit(sum, a, unit, from, NULL, rows, pairs, index);
    }
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int v = 0; v < 2 * pairs; v++) {
            _mm512_storeu_ps(a->sum + i * a->sum_stride + column + v * VECTOR, sum[i][v]);
        }
    }
}

INLINE void accumulate_all(const struct accumulation *a, int64_t columns, const int rows, const int pairs) {
    const struct interleave index = interleave_make();
    int64_t column = 0;
    for (; column + pairs * PAIR <= columns; column += pairs * PAIR) {
        accumulate_columns(a, column, rows, pairs, &index);
    }
    for (; column < columns; column += PAIR) {
        accumulate_columns(a, column, rows, 1, &index);
    }
}

#define ROWS(rows, pairs)                                                          \
    static void accumulate_##rows(const struct accumulation *a, int64_t columns) { \
        accumulate_all(a, columns, rows, pairs);                                   \
    }
ROWS(1, 8)
ROWS(2, 4)
ROWS(3, 2)
ROWS(4, 2)
ROWS(5, 1)
ROWS(6, 1)
ROWS(7, 1)
ROWS(8, 1)

static void accumulate_rows(float *sum, int64_t sum_stride, const uint32_t *factor, int64_t factor_stride,
                            struct row first, int64_t stride, int64_t columns, int64_t rows, int64_t terms) {
    static void (*const table[])(const struct accumulation *a, int64_t columns) = {
        NULL,         accumulate_1, accumulate_2, accumulate_3, accumulate_4,
        accumulate_5, accumulate_6, accumulate_7, accumulate_8};
    const struct accumulation a = {.sum = sum,
                                   .sum_stride = sum_stride,
                                   .factor = factor,
                                   .factor_stride = factor_stride,
                                   .terms = terms,
                                   .from = first.data,
                                   .row_bytes = 2 * stride};
    table[rows](&a, columns);
}

void kernels_avx512_attention_rows(struct cpu_kernels *kernels) {
    kernels->attention_bf16.accumulate_rows = accumulate_rows;
}
