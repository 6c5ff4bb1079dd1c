// AVX-512 kernel of products of few rows with BF16 rows whose columns are contiguous, read where they lie: values of
// attention while decoding, and W_UK of the absorbed form (accumulate_rows in op/cpu/attention.h).
#include <immintrin.h>
#include <string.h>

#include "op/cpu/avx512/attention_ask.h"
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
    struct key_lines *next;
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

// ---- By multiply-adds -----------------------------------------------------------------------------------------------

// Where vdpbf16ps is slow (kernels_avx512_pairs). Factors are widened beforehand; of a vector of a row, a shift makes
// the even columns and a mask the odd ones. Sums lie in that order meanwhile, so that nothing is turned for each term.
#define WIDE_TERMS 64   // of a chain at a time

struct wide_factors {
    float term[ROWS_AT_ONCE][WIDE_TERMS];
};

static void widen_factors(struct wide_factors *factors, const struct accumulation *a, int64_t first, int64_t rows,
                          int64_t terms) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(VECTOR / 2));
    for (int64_t i = 0; i < rows; i++) {
        const uint32_t *words = a->factor + i * a->factor_stride + first / 2;
        for (int64_t unit = 0; 2 * unit < terms; unit += VECTOR) {
            const int64_t left = (terms + 1) / 2 - unit;
            __m512i pair = _mm512_maskz_loadu_epi32((__mmask16)(left < VECTOR ? (1u << left) - 1 : 0xffff),
                                                    words + unit);
            __m512i odd = _mm512_slli_epi32(pair, 16);
            pair = _mm512_and_si512(pair, _mm512_set1_epi32((int)0xffff0000u));
            _mm512_storeu_si512(&factors->term[i][2 * unit], _mm512_permutex2var_epi32(pair, low, odd));
            _mm512_storeu_si512(&factors->term[i][2 * unit + VECTOR], _mm512_permutex2var_epi32(pair, high, odd));
        }
    }
}

INLINE void wide_columns(const struct accumulation *a, const struct wide_factors *factors, int64_t first, int64_t terms,
                         int64_t column, const int rows, const int pairs) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(VECTOR / 2));
    __m512 sum[8][16];
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int p = 0; p < pairs; p++) {
            const float *from = a->sum + i * a->sum_stride + column + p * PAIR;
            __m512 begin = _mm512_loadu_ps(from), end = _mm512_loadu_ps(from + VECTOR);
            sum[i][2 * p] = _mm512_permutex2var_ps(begin, even, end);
            sum[i][2 * p + 1] = _mm512_permutex2var_ps(begin, odd, end);
        }
    }
    const char *from = a->from + first * a->row_bytes + 2 * column;
    for (int64_t t = 0; t < terms; t++, from += a->row_bytes) {
        ask_ahead(a->next, rows, t);
        UNROLL
        for (int p = 0; p < pairs; p++) {
            __m512i words = _mm512_loadu_si512(from + p * PAIR * 2);
            __m512 value[2] = {_mm512_castsi512_ps(_mm512_slli_epi32(words, 16)),
                               _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32((int)0xffff0000u)))};
            UNROLL
            for (int i = 0; i < rows; i++) {
                __m512 x = _mm512_set1_ps(factors->term[i][t]);
                UNROLL
                for (int v = 0; v < 2; v++) {
                    __m512 *to = &sum[i][2 * p + v];
                    __asm__("vfmadd231ps %2, %1, %0" : "+v"(*to) : "v"(x), "v"(value[v]));
                }
            }
        }
    }
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int p = 0; p < pairs; p++) {
            float *to = a->sum + i * a->sum_stride + column + p * PAIR;
            _mm512_storeu_ps(to, _mm512_permutex2var_ps(sum[i][2 * p], low, sum[i][2 * p + 1]));
            _mm512_storeu_ps(to + VECTOR, _mm512_permutex2var_ps(sum[i][2 * p], high, sum[i][2 * p + 1]));
        }
    }
}

INLINE void wide_all(const struct accumulation *a, int64_t columns, const int rows, const int pairs) {
    struct wide_factors factors;
    for (int64_t first = 0; first < a->terms; first += WIDE_TERMS) {
        int64_t terms = a->terms - first < WIDE_TERMS ? a->terms - first : WIDE_TERMS, column = 0;
        widen_factors(&factors, a, first, rows, terms);
        for (; column + pairs * PAIR <= columns; column += pairs * PAIR) {
            wide_columns(a, &factors, first, terms, column, rows, pairs);
        }
        for (; column < columns; column += PAIR) {
            wide_columns(a, &factors, first, terms, column, rows, 1);
        }
    }
}

#define ROWS(rows, pairs)                                                          \
    static void accumulate_##rows(const struct accumulation *a, int64_t columns) { \
        accumulate_all(a, columns, rows, pairs);                                   \
    }                                                                              \
    static void wide_##rows(const struct accumulation *a, int64_t columns) {       \
        wide_all(a, columns, rows, pairs);                                         \
    }
ROWS(1, 8)
ROWS(2, 4)
ROWS(3, 2)
ROWS(4, 2)
ROWS(5, 1)
ROWS(6, 1)
ROWS(7, 1)
ROWS(8, 1)

#define ENTRY(name) \
    { NULL, name##_1, name##_2, name##_3, name##_4, name##_5, name##_6, name##_7, name##_8 }
static void (*const table[2][ROWS_AT_ONCE + 1])(const struct accumulation *a, int64_t columns) = {ENTRY(accumulate),
                                                                                                  ENTRY(wide)};

#define SERVE(name, way)                                                                                              \
    static void name(float *sum, int64_t sum_stride, const uint32_t *factor, int64_t factor_stride, struct row first, \
                     int64_t stride, int64_t columns, int64_t rows, int64_t terms, struct key_lines *next) {          \
        const struct accumulation a = {sum, sum_stride, factor, factor_stride, terms, first.data, 2 * stride, next};  \
        table[way][rows](&a, columns);                                                                                \
    }
SERVE(accumulate_rows_pairs, 0)
SERVE(accumulate_rows_wide, 1)

void kernels_avx512_attention_rows_pairs(struct cpu_kernels *kernels, bool wide) {
    kernels->attention_bf16.accumulate_rows = wide ? accumulate_rows_wide : accumulate_rows_pairs;
}

void kernels_avx512_attention_rows(struct cpu_kernels *kernels) {
    kernels_avx512_attention_rows_pairs(kernels, false);
}
