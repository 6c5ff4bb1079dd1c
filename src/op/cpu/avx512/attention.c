// AVX-512 versions of the attention kernels (op/cpu/attention.h): F32 words by fused multiply-add, BF16 pairs by
// vdpbf16ps, which adds the product of the high halves and then that of the low halves, each with one rounding: the
// chain of the reference.
//
// One body serves both formats: `pairs` is a constant in each of the functions that the tables name, so the branches
// fold.
#include <math.h>

#include "op/cpu/attention.h"
#include "op/cpu/avx512/lanes.h"
#include "op/cpu/kernels.h"

#define FOLD static inline __attribute__((always_inline))
#define VECTORS (KEY_ROWS / SUM_LANES)   // registers across a key block

// chain + a * b per lane, one or two terms.
FOLD __m512 multiply_add(__m512 chain, __m512i a, __m512i b, bool pairs) {
    if (pairs) {
        return _mm512_dpbf16_ps(chain, (__m512bh)a, (__m512bh)b);
    }
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), chain);
}

// 16 words of a row, zeros from its last element on (`left` elements from here); the earlier BF16 of a pair in the high
// half.
FOLD __m512i load_words(const char *row, int64_t left, bool pairs) {
    if (pairs) {
        __mmask32 mask = left >= 2 * SUM_LANES ? 0xffffffffu : (1u << (unsigned)left) - 1;
        return _mm512_rol_epi32(_mm512_maskz_loadu_epi16(mask, row), 16);
    }
    return _mm512_maskz_loadu_epi32(lanes_mask(left), row);
}

FOLD void pack_lanes(uint32_t *lanes, struct row first, int64_t stride, int64_t width, int64_t count, bool pairs) {
    int64_t step = pairs ? 2 : 1, bytes = 4 / step, words = (width + step - 1) / step;
    for (int64_t j = 0; j < KEY_ROWS; j += SUM_LANES) {
        for (int64_t w = 0; w < words; w += SUM_LANES) {
            const char *from = (const char *)first.data + j * stride * bytes + w * 4;
            __m512i v[SUM_LANES];
            UNROLL
            for (int r = 0; r < SUM_LANES; r++) {
                v[r] = j + r < count ? load_words(from + r * stride * bytes, width - w * step, pairs)
                                     : _mm512_setzero_si512();
            }
            transpose(v);
            UNROLL
            for (int r = 0; r < SUM_LANES; r++) {
                if (w + r < words) {
                    _mm512_storeu_si512(lanes + (w + r) * KEY_ROWS + j, v[r]);
                }
            }
        }
    }
}

static void pack_rows_f32(uint32_t *packed, int64_t packed_stride, struct row first, int64_t stride, int64_t width,
                          int64_t count) {
    for (int64_t j = 0; j < count; j++) {
        const float *row = (const float *)first.data + j * stride;
        for (int64_t c = 0; c < width; c += SUM_LANES) {
            __mmask16 mask = lanes_mask(width - c);
            _mm512_mask_storeu_ps(packed + j * packed_stride + c, mask, _mm512_maskz_loadu_ps(mask, row + c));
        }
    }
}

static void pack_rows_pairs(uint32_t *packed, int64_t packed_stride, struct row first, int64_t stride, int64_t width,
                            int64_t count) {
    for (int64_t j = 0; j < count; j += 2) {
        const uint16_t *row = (const uint16_t *)first.data + j * stride;
        for (int64_t c = 0; c < width; c += SUM_LANES) {
            __mmask16 mask = lanes_mask(width - c);
            __m512i word = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, row + c)), 16);
            if (j + 1 < count) {
                word = _mm512_or_si512(word, _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, row + stride + c)));
            }
            _mm512_mask_storeu_epi32(packed + j / 2 * packed_stride + c, mask, word);
        }
    }
}

static void pack_queries_pairs(uint32_t *queries, int64_t query_stride, struct row first, int64_t stride, int64_t width,
                               int64_t count) {
    int64_t words = (width + 1) / 2;
    for (int64_t j = 0; j < count; j++) {
        const char *row = (const char *)first.data + j * stride * 2;
        for (int64_t w = 0; w < words; w += SUM_LANES) {
            _mm512_mask_storeu_epi32(queries + j * query_stride + w, lanes_mask(words - w),
                                     load_words(row + 4 * w, width - 2 * w, true));
        }
    }
}

// `rows` query rows against `vectors` registers of keys.
FOLD void scores_tile(float *score, const uint32_t *queries, const uint32_t *lanes, int64_t words, int rows,
                      int vectors, bool pairs) {
    __m512 chain[6][VECTORS];
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < vectors; v++) {
            chain[r][v] = _mm512_setzero_ps();
        }
    }
    for (int64_t w = 0; w < words; w++) {
        __m512i key[VECTORS];
        UNROLL
        for (int v = 0; v < vectors; v++) {
            key[v] = _mm512_loadu_si512(lanes + w * KEY_ROWS + v * SUM_LANES);
        }
        UNROLL
        for (int r = 0; r < rows; r++) {
            __m512i query = _mm512_set1_epi32((int)queries[r * words + w]);
            UNROLL
            for (int v = 0; v < vectors; v++) {
                chain[r][v] = multiply_add(chain[r][v], query, key[v], pairs);
            }
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < vectors; v++) {
            _mm512_storeu_ps(score + r * KEY_ROWS + v * SUM_LANES, chain[r][v]);
        }
    }
}

FOLD void scores(float *score, const uint32_t *queries, const uint32_t *lanes, int64_t rows, int64_t words,
                 int64_t keys, bool pairs) {
    int64_t r = 0;
    for (; keys > SUM_LANES && r + 6 <= rows; r += 6) {
        scores_tile(score + r * KEY_ROWS, queries + r * words, lanes, words, 6, VECTORS, pairs);
    }
    for (; keys > SUM_LANES && r + 2 <= rows; r += 2) {
        scores_tile(score + r * KEY_ROWS, queries + r * words, lanes, words, 2, VECTORS, pairs);
    }
    for (; keys > SUM_LANES && r < rows; r++) {
        scores_tile(score + r * KEY_ROWS, queries + r * words, lanes, words, 1, VECTORS, pairs);
    }
    for (; r + 4 <= rows; r += 4) {
        scores_tile(score + r * KEY_ROWS, queries + r * words, lanes, words, 4, 1, pairs);
    }
    for (; r < rows; r++) {
        scores_tile(score + r * KEY_ROWS, queries + r * words, lanes, words, 1, 1, pairs);
    }
}

// The factors of `rows` rows against `vectors` registers of columns.
FOLD void accumulate_tile(float *sum, const uint32_t *factor, int64_t row_stride, int64_t word_stride,
                          const uint32_t *packed, int64_t width, int64_t terms, int rows, int vectors, bool pairs) {
    int64_t words = pairs ? terms / 2 : terms;
    __m512 chain[6][8];
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < vectors; v++) {
            chain[r][v] = _mm512_loadu_ps(sum + r * width + v * SUM_LANES);
        }
    }
    for (int64_t w = 0; w < words; w++) {
        __m512i value[8];
        UNROLL
        for (int v = 0; v < vectors; v++) {
            value[v] = _mm512_loadu_si512(packed + w * width + v * SUM_LANES);
        }
        UNROLL
        for (int r = 0; r < rows; r++) {
            __m512i a = _mm512_set1_epi32((int)factor[r * row_stride + w * word_stride]);
            UNROLL
            for (int v = 0; v < vectors; v++) {
                chain[r][v] = multiply_add(chain[r][v], a, value[v], pairs);
            }
        }
    }
    if (pairs && terms % 2 != 0) {   // the last term stands alone in the high half
        __m512i high = _mm512_set1_epi32((int)0xffff0000u);
        UNROLL
        for (int r = 0; r < rows; r++) {
            __m512i a = _mm512_and_si512(high, _mm512_set1_epi32((int)factor[r * row_stride + words * word_stride]));
            UNROLL
            for (int v = 0; v < vectors; v++) {
                __m512i value = _mm512_and_si512(high, _mm512_loadu_si512(packed + words * width + v * SUM_LANES));
                chain[r][v] = multiply_add(chain[r][v], a, value, pairs);
            }
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < vectors; v++) {
            _mm512_storeu_ps(sum + r * width + v * SUM_LANES, chain[r][v]);
        }
    }
}

// All rows against a strip of `vectors` registers of columns.
FOLD void accumulate_strip(float *sum, const uint32_t *factor, int64_t row_stride, int64_t word_stride,
                           const uint32_t *packed, int64_t width, int64_t rows, int64_t terms, int vectors,
                           bool pairs) {
    int64_t r = 0;
    for (; r + 6 <= rows; r += 6) {
        accumulate_tile(sum + r * width, factor + r * row_stride, row_stride, word_stride, packed, width, terms, 6,
                        vectors, pairs);
    }
    for (; r + 2 <= rows; r += 2) {
        accumulate_tile(sum + r * width, factor + r * row_stride, row_stride, word_stride, packed, width, terms, 2,
                        vectors, pairs);
    }
    for (; r < rows; r++) {
        accumulate_tile(sum + r * width, factor + r * row_stride, row_stride, word_stride, packed, width, terms, 1,
                        vectors, pairs);
    }
}

FOLD void accumulate(float *sum, const uint32_t *factor, int64_t row_stride, int64_t word_stride,
                     const uint32_t *packed, int64_t width, int64_t rows, int64_t terms, bool pairs) {
    int64_t c = 0;
    for (; rows == 1 && c + 8 * SUM_LANES <= width; c += 8 * SUM_LANES) {
        accumulate_tile(sum + c, factor, row_stride, word_stride, packed + c, width, terms, 1, 8, pairs);
    }
    for (; c + 4 * SUM_LANES <= width; c += 4 * SUM_LANES) {
        accumulate_strip(sum + c, factor, row_stride, word_stride, packed + c, width, rows, terms, 4, pairs);
    }
    for (; c + 2 * SUM_LANES <= width; c += 2 * SUM_LANES) {
        accumulate_strip(sum + c, factor, row_stride, word_stride, packed + c, width, rows, terms, 2, pairs);
    }
    if (c < width) {
        accumulate_strip(sum + c, factor, row_stride, word_stride, packed + c, width, rows, terms, 1, pairs);
    }
}

// 16 results as BF16 pairs (8 words), the earlier in the high half.
FOLD void store_pairs(uint32_t *words, __m512 value) {
    _mm256_storeu_si256((__m256i *)(void *)words, _mm256_rol_epi32(bf16_narrow_result(value), 16));
}

FOLD float softmax(uint32_t *factor, float *maximum, float *sum, const float *score, int64_t visible, float scale,
                   bool pairs) {
    __m512 value[VECTORS], lowest = _mm512_set1_ps(-INFINITY), lanes = lowest;
    UNROLL
    for (int v = 0; v < VECTORS; v++) {
        __mmask16 mask = visible > v * SUM_LANES ? lanes_mask(visible - v * SUM_LANES) : 0;
        value[v] = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, score + v * SUM_LANES), _mm512_set1_ps(scale));
        lanes = _mm512_mask_max_ps(lanes, mask, value[v], lanes);   // of a NaN: the second operand
    }
    float before = *maximum, largest = lanes_largest(lanes_make(lanes));
    largest = largest > before ? largest : before;
    lanes = _mm512_setzero_ps();
    UNROLL
    for (int v = 0; v < VECTORS; v++) {
        __mmask16 mask = visible > v * SUM_LANES ? lanes_mask(visible - v * SUM_LANES) : 0;
        __m512 p = _mm512_maskz_mov_ps(mask, vector_exp(_mm512_sub_ps(value[v], _mm512_set1_ps(largest))));
        lanes = _mm512_add_ps(lanes, p);
        if (pairs) {
            store_pairs(factor + v * SUM_LANES / 2, p);
        } else {
            _mm512_storeu_ps(factor + v * SUM_LANES, p);
        }
    }
    float correction = _mm512_cvtss_f32(vector_exp(_mm512_set1_ps(before - largest)));
    *maximum = largest;
    *sum = fmaf(*sum, correction, lanes_sum(lanes_make(lanes)));
    return correction;
}

// p and ds of one row and 16 keys.
FOLD void gradient_lanes(__m512 *p, __m512 *ds, const float *score, const float *dp, float lse, float delta,
                         float scale, __mmask16 visible) {
    __m512 factor = _mm512_set1_ps(scale);
    __m512 s = _mm512_mul_ps(_mm512_maskz_loadu_ps(visible, score), factor);
    __m512 value = vector_exp(_mm512_sub_ps(s, _mm512_set1_ps(lse)));
    __m512 slope = _mm512_mul_ps(value, _mm512_sub_ps(_mm512_maskz_loadu_ps(visible, dp), _mm512_set1_ps(delta)));
    *p = _mm512_maskz_mov_ps(visible, value);
    *ds = _mm512_maskz_mul_ps(visible, slope, factor);
}

FOLD __mmask16 visible_mask(int64_t row, int64_t key, bool diagonal) {
    return !diagonal ? (__mmask16)0xffff : row >= key ? lanes_mask(row + 1 - key) : (__mmask16)0;
}

static void gradient_f32(uint32_t *p_columns, uint32_t *ds_columns, uint32_t *ds_rows, const float *score,
                         const float *dp, const float *lse, const float *delta, int64_t rows, bool diagonal,
                         float scale) {
    (void)ds_rows;   // the same array as ds_columns
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < KEY_ROWS; j += SUM_LANES) {
            __m512 p, ds;
            int64_t at = i * KEY_ROWS + j;
            gradient_lanes(&p, &ds, score + at, dp + at, lse[i], delta[i], scale, visible_mask(i, j, diagonal));
            _mm512_storeu_ps(p_columns + at, p);
            _mm512_storeu_ps(ds_columns + at, ds);
        }
    }
}

// A word of two query rows: the earlier in the high half.
FOLD void store_column_pairs(uint32_t *words, __m512 earlier, __m512 later) {
    __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16_narrow_result(earlier)), 16);
    _mm512_storeu_si512(words, _mm512_or_si512(high, _mm512_cvtepu16_epi32(bf16_narrow_result(later))));
}

static void gradient_pairs(uint32_t *p_columns, uint32_t *ds_columns, uint32_t *ds_rows, const float *score,
                           const float *dp, const float *lse, const float *delta, int64_t rows, bool diagonal,
                           float scale) {
    for (int64_t i = 0; i < rows; i += 2) {
        for (int64_t j = 0; j < KEY_ROWS; j += SUM_LANES) {
            __m512 p[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()},
                   ds[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
            UNROLL
            for (int r = 0; r < 2; r++) {
                if (i + r >= rows) {
                    continue;
                }
                int64_t at = (i + r) * KEY_ROWS + j;
                gradient_lanes(&p[r], &ds[r], score + at, dp + at, lse[i + r], delta[i + r], scale,
                               visible_mask(i + r, j, diagonal));
                store_pairs(ds_rows + at / 2, ds[r]);
            }
            store_column_pairs(p_columns + i / 2 * KEY_ROWS + j, p[0], p[1]);
            store_column_pairs(ds_columns + i / 2 * KEY_ROWS + j, ds[0], ds[1]);
        }
    }
}

static void scale_row(float *y, float factor, int64_t n) {
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        lanes_store_floats(y, i, n - i, lanes_multiply(lanes_load_floats(y, i, n - i), lanes_set(factor)));
    }
}

static void fold(float *y, float kept, const float *x, float added, int64_t n) {
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        struct lanes value = lanes_multiply(lanes_load_floats(x, i, n - i), lanes_set(added));
        lanes_store_floats(y, i, n - i, lanes_multiply_add(lanes_load_floats(y, i, n - i), lanes_set(kept), value));
    }
}

static void finish(struct row y, const float *x, float divisor, int64_t n) {
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        struct lanes value = lanes_divide(lanes_load_floats(x, i, n - i), lanes_set(divisor));
        lanes_store(y, i, n - i, lanes_add(value, lanes_set(0.0f)));
    }
}

static void pack_lanes_f32(uint32_t *lanes, struct row first, int64_t stride, int64_t width, int64_t count) {
    pack_lanes(lanes, first, stride, width, count, false);
}

static void pack_lanes_pairs(uint32_t *lanes, struct row first, int64_t stride, int64_t width, int64_t count) {
    pack_lanes(lanes, first, stride, width, count, true);
}

static void scores_f32(float *score, const uint32_t *queries, const uint32_t *lanes, int64_t rows, int64_t words,
                       int64_t keys) {
    scores(score, queries, lanes, rows, words, keys, false);
}

static void scores_pairs(float *score, const uint32_t *queries, const uint32_t *lanes, int64_t rows, int64_t words,
                         int64_t keys) {
    scores(score, queries, lanes, rows, words, keys, true);
}

static void accumulate_f32(float *sum, const uint32_t *factor, int64_t row_stride, int64_t word_stride,
                           const uint32_t *packed, int64_t width, int64_t rows, int64_t terms) {
    accumulate(sum, factor, row_stride, word_stride, packed, width, rows, terms, false);
}

static void accumulate_pairs(float *sum, const uint32_t *factor, int64_t row_stride, int64_t word_stride,
                             const uint32_t *packed, int64_t width, int64_t rows, int64_t terms) {
    accumulate(sum, factor, row_stride, word_stride, packed, width, rows, terms, true);
}

static float softmax_f32(uint32_t *factor, float *maximum, float *sum, const float *score, int64_t visible,
                         float scale) {
    return softmax(factor, maximum, sum, score, visible, scale, false);
}

static float softmax_pairs(uint32_t *factor, float *maximum, float *sum, const float *score, int64_t visible,
                           float scale) {
    return softmax(factor, maximum, sum, score, visible, scale, true);
}

// ---- Pairs by multiply-adds -----------------------------------------------------------------------------------------

// Where vdpbf16ps is slow (kernels_avx512_pairs): the same chains, with factors widened to F32 beforehand and the
// packed pairs on their way from memory.
#define WIDE_TERMS 128   // of a chain at a time

#define FEW_ROWS 6   // fewer: too few chains to wait for the widening, and vdpbf16ps it is

// F32 factors of some rows: term t of row r at data[r * row_stride + t * term_stride].
struct wide_factors {
    const float *data;
    int64_t row_stride, term_stride;
};

// sum += a * b in the form that overwrites its sum: the compiler would move sums about otherwise.
FOLD void wide_add(__m512 *sum, __m512 a, __m512 b) {
    __asm__("vfmadd231ps %2, %1, %0" : "+v"(*sum) : "v"(a), "v"(b));
}

FOLD void wide_term(__m512 chain[6][VECTORS], const float *factor, int64_t row_stride, const uint32_t *packed,
                    bool second, int rows, int vectors) {
    __m512i value[VECTORS];
    UNROLL
    for (int v = 0; v < vectors; v++) {
        const uint32_t *from = packed + v * SUM_LANES;
        value[v] = second ? _mm512_slli_epi32(_mm512_loadu_si512(from), 16)
                          : _mm512_maskz_loadu_epi16(0xaaaaaaaau, from);
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        __m512 a = _mm512_set1_ps(factor[r * row_stride]);
        UNROLL
        for (int v = 0; v < vectors; v++) {
            wide_add(&chain[r][v], a, _mm512_castsi512_ps(value[v]));
        }
    }
}

// `terms` terms of the chains of `rows` rows, from +0 or from what sum holds.
FOLD void wide_tile(float *sum, int64_t sum_stride, const struct wide_factors *factors, int64_t row,
                    const uint32_t *packed, int64_t packed_stride, int64_t terms, bool go_on, int rows, int vectors) {
    const float *factor = factors->data + row * factors->row_stride;
    __m512 chain[6][VECTORS];
    sum += row * sum_stride;
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < vectors; v++) {
            chain[r][v] = go_on ? _mm512_loadu_ps(sum + r * sum_stride + v * SUM_LANES) : _mm512_setzero_ps();
        }
    }
    for (int64_t t = 0; t + 1 < terms; t += 2) {
        wide_term(chain, factor, factors->row_stride, packed, false, rows, vectors);
        wide_term(chain, factor + factors->term_stride, factors->row_stride, packed, true, rows, vectors);
        factor += 2 * factors->term_stride;
        packed += packed_stride;
    }
    if (terms % 2 != 0) {
        wide_term(chain, factor, factors->row_stride, packed, false, rows, vectors);
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < vectors; v++) {
            _mm512_storeu_ps(sum + r * sum_stride + v * SUM_LANES, chain[r][v]);
        }
    }
}

FOLD void wide_strip(float *sum, int64_t sum_stride, const struct wide_factors *factors, int64_t rows,
                     const uint32_t *packed, int64_t packed_stride, int64_t terms, bool go_on, int vectors) {
    int64_t r = 0;
    for (; r + 6 <= rows; r += 6) {
        wide_tile(sum, sum_stride, factors, r, packed, packed_stride, terms, go_on, 6, vectors);
    }
    for (; r + 2 <= rows; r += 2) {
        wide_tile(sum, sum_stride, factors, r, packed, packed_stride, terms, go_on, 2, vectors);
    }
    for (; r < rows; r++) {
        wide_tile(sum, sum_stride, factors, r, packed, packed_stride, terms, go_on, 1, vectors);
    }
}

// Words of one row that follow one another -> their terms.
FOLD void widen_row(float *terms, const uint32_t *words, int64_t count) {
    int32_t index[2 * SUM_LANES];
    for (int i = 0; i < SUM_LANES; i++) {
        index[2 * i] = i;
        index[2 * i + 1] = i + SUM_LANES;
    }
    const __m512i first = _mm512_loadu_si512(index), last = _mm512_loadu_si512(index + SUM_LANES);
    for (int64_t w = 0; w < count; w += SUM_LANES) {
        __m512i pair = _mm512_maskz_loadu_epi32(lanes_mask(count - w), words + w);
        __m512i high = _mm512_and_si512(pair, _mm512_set1_epi32((int)0xffff0000u)), low = _mm512_slli_epi32(pair, 16);
        _mm512_storeu_si512(terms + 2 * w, _mm512_permutex2var_epi32(high, first, low));
        _mm512_storeu_si512(terms + 2 * w + SUM_LANES, _mm512_permutex2var_epi32(high, last, low));
    }
}

// A word of each of `rows` rows that lie side by side -> their two terms, QUERY_ROWS apart.
FOLD void widen_column(float *terms, const uint32_t *words, int64_t rows) {
    for (int64_t r = 0; r < rows; r += SUM_LANES) {
        __m512i pair = _mm512_maskz_loadu_epi32(lanes_mask(rows - r), words + r);
        _mm512_storeu_si512(terms + r, _mm512_and_si512(pair, _mm512_set1_epi32((int)0xffff0000u)));
        _mm512_storeu_si512(terms + QUERY_ROWS + r, _mm512_slli_epi32(pair, 16));
    }
}

static void scores_wide(float *score, const uint32_t *queries, const uint32_t *lanes, int64_t rows, int64_t words,
                        int64_t keys) {
    if (rows < FEW_ROWS) {
        scores_pairs(score, queries, lanes, rows, words, keys);
        return;
    }
    float terms[6][WIDE_TERMS + 2 * SUM_LANES];
    const struct wide_factors factors = {.data = terms[0], .row_stride = WIDE_TERMS + 2 * SUM_LANES, .term_stride = 1};
    for (int64_t r = 0; r < rows; r += 6) {
        int64_t count = rows - r < 6 ? rows - r : 6;
        for (int64_t w = 0; w < words; w += WIDE_TERMS / 2) {
            int64_t part = words - w < WIDE_TERMS / 2 ? words - w : WIDE_TERMS / 2;
            for (int64_t i = 0; i < count; i++) {
                widen_row(terms[i], queries + (r + i) * words + w, part);
            }
            if (keys > SUM_LANES) {
                wide_strip(score + r * KEY_ROWS, KEY_ROWS, &factors, count, lanes + w * KEY_ROWS, KEY_ROWS, 2 * part,
                           w > 0, VECTORS);
            } else {
                wide_strip(score + r * KEY_ROWS, KEY_ROWS, &factors, count, lanes + w * KEY_ROWS, KEY_ROWS, 2 * part,
                           w > 0, 1);
            }
        }
    }
}

// At most QUERY_ROWS rows and terms.
static void accumulate_wide_block(float *sum, const uint32_t *factor, int64_t row_stride, int64_t word_stride,
                                  const uint32_t *packed, int64_t width, int64_t rows, int64_t terms) {
    float data[QUERY_ROWS * (QUERY_ROWS + 2)];
    struct wide_factors factors = {.data = data, .row_stride = 1, .term_stride = QUERY_ROWS};
    int64_t words = (terms + 1) / 2;
    if (word_stride == 1) {
        factors.row_stride = QUERY_ROWS;
        factors.term_stride = 1;
        for (int64_t r = 0; r < rows; r++) {
            widen_row(data + r * QUERY_ROWS, factor + r * row_stride, words);
        }
    } else {
        for (int64_t w = 0; w < words; w++) {
            widen_column(data + 2 * w * QUERY_ROWS, factor + w * word_stride, rows);
        }
    }
    int64_t c = 0;
    for (; c + 4 * SUM_LANES <= width; c += 4 * SUM_LANES) {
        wide_strip(sum + c, width, &factors, rows, packed + c, width, terms, true, 4);
    }
    for (; c + 2 * SUM_LANES <= width; c += 2 * SUM_LANES) {
        wide_strip(sum + c, width, &factors, rows, packed + c, width, terms, true, 2);
    }
    if (c < width) {
        wide_strip(sum + c, width, &factors, rows, packed + c, width, terms, true, 1);
    }
}

// Factors lie side by side along words or along rows.
static void accumulate_wide(float *sum, const uint32_t *factor, int64_t row_stride, int64_t word_stride,
                            const uint32_t *packed, int64_t width, int64_t rows, int64_t terms) {
    if (rows < FEW_ROWS) {
        accumulate_pairs(sum, factor, row_stride, word_stride, packed, width, rows, terms);
        return;
    }
    for (int64_t r = 0; r < rows; r += QUERY_ROWS) {
        int64_t count = rows - r < QUERY_ROWS ? rows - r : QUERY_ROWS;
        for (int64_t t = 0; t < terms; t += QUERY_ROWS) {
            int64_t part = terms - t < QUERY_ROWS ? terms - t : QUERY_ROWS;
            accumulate_wide_block(sum + r * width, factor + r * row_stride + t / 2 * word_stride, row_stride,
                                  word_stride, packed + t / 2 * width, width, count, part);
        }
    }
}

void kernels_avx512_attention(struct cpu_kernels *kernels) {
    kernels->attention_f32 = (struct attention_kernels){
        .step = 1,
        .pack_lanes = pack_lanes_f32,
        .pack_rows = pack_rows_f32,
        .pack_queries = pack_rows_f32,
        .scores = scores_f32,
        .accumulate = accumulate_f32,
        .softmax = softmax_f32,
        .gradient = gradient_f32,
        .scale = scale_row,
        .fold = fold,
        .finish = finish,
    };
    kernels->attention_bf16 = (struct attention_kernels){
        .step = 2,
        .pack_lanes = pack_lanes_pairs,
        .pack_rows = pack_rows_pairs,
        .pack_queries = pack_queries_pairs,
        .scores = scores_pairs,
        .accumulate = accumulate_pairs,
        .softmax = softmax_pairs,
        .gradient = gradient_pairs,
        .scale = scale_row,
        .fold = fold,
        .finish = finish,
    };
}

void kernels_avx512_attention_pairs(struct cpu_kernels *kernels, bool wide) {
    kernels->attention_bf16.scores = wide ? scores_wide : scores_pairs;
    kernels->attention_bf16.accumulate = wide ? accumulate_wide : accumulate_pairs;
}
