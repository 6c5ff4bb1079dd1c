// 16 lanes in two AVX2 registers: the operations that op/cpu/lanes_kernels.h and attention.c are written with. exp
// repeats the steps of base/math_constants.h, so it has the bits of base/math.h.
#ifndef MINKE_OP_CPU_AVX2_LANES_H
#define MINKE_OP_CPU_AVX2_LANES_H

#include <immintrin.h>
#include <math.h>

#include "base/math_constants.h"
#include "op/cpu/row_kernels.h"

struct lanes {
    __m256 low, high;   // lanes 0..7, 8..15
};

static inline __m256 vector_exp(__m256 x) {
    __m256 shifter = _mm256_set1_ps(EXP_SHIFTER), one = _mm256_set1_ps(1.0f);
    __m256 shifted = _mm256_fmadd_ps(x, _mm256_set1_ps(EXP_LOG2E), shifter);
    __m256 n = _mm256_sub_ps(shifted, shifter);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-EXP_LN2_HIGH), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-EXP_LN2_LOW), r);
    __m256 q = _mm256_fmadd_ps(_mm256_set1_ps(EXP_Q4), r, _mm256_set1_ps(EXP_Q3));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(EXP_Q2));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(EXP_Q1));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(EXP_Q0));
    __m256 p = _mm256_fmadd_ps(_mm256_fmadd_ps(q, r, one), r, one);
    __m256i bits = _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(shifted), 23));
    __m256 result = _mm256_castsi256_ps(bits);
    result = _mm256_blendv_ps(result, _mm256_set1_ps(INFINITY),
                              _mm256_cmp_ps(x, _mm256_set1_ps(EXP_OVERFLOW), _CMP_GE_OQ));
    result = _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(EXP_UNDERFLOW), _CMP_LE_OQ), result);
    __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(EXP_LOG_NAN_BITS));
    return _mm256_blendv_ps(result, nan, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}

static inline __m256 bf16_widen_vector(__m128i bits) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

// Rounds to nearest even, as bf16_narrow does it.
static inline __m128i bf16_narrow_vector(__m256 value) {
    __m256i word = _mm256_castps_si256(value), high = _mm256_srli_epi32(word, 16);
    __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(word, _mm256_set1_epi32(0x7fff)), odd);
    rounded = _mm256_srli_epi32(rounded, 16);
    __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, quiet, nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
}

static inline struct lanes lanes_make(__m256 low, __m256 high) {
    return (struct lanes){low, high};
}
static inline struct lanes lanes_set(float value) {
    return lanes_make(_mm256_set1_ps(value), _mm256_set1_ps(value));
}
static inline struct lanes lanes_add(struct lanes a, struct lanes b) {
    return lanes_make(_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high));
}
static inline struct lanes lanes_subtract(struct lanes a, struct lanes b) {
    return lanes_make(_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high));
}
static inline struct lanes lanes_multiply(struct lanes a, struct lanes b) {
    return lanes_make(_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high));
}
static inline struct lanes lanes_divide(struct lanes a, struct lanes b) {
    return lanes_make(_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high));
}
static inline struct lanes lanes_square_root(struct lanes a) {
    return lanes_make(_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high));
}
// a * b + c, one rounding.
static inline struct lanes lanes_multiply_add(struct lanes a, struct lanes b, struct lanes c) {
    return lanes_make(_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high));
}
// a * b - c in even lanes, a * b + c in odd ones, one rounding.
static inline struct lanes lanes_multiply_subtract_add(struct lanes a, struct lanes b, struct lanes c) {
    return lanes_make(_mm256_fmaddsub_ps(a.low, b.low, c.low), _mm256_fmaddsub_ps(a.high, b.high, c.high));
}
// a > b ? a : b, so b where a is NaN.
static inline struct lanes lanes_larger(struct lanes a, struct lanes b) {
    return lanes_make(_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high));
}
static inline struct lanes lanes_exp(struct lanes a) {
    return lanes_make(vector_exp(a.low), vector_exp(a.high));
}
// 1 / (1 + exp(-x)); the sign is flipped, because 0 - x would lose that of a zero.
static inline struct lanes lanes_sigmoid(struct lanes x) {
    __m256 one = _mm256_set1_ps(1.0f), sign = _mm256_set1_ps(-0.0f);
    __m256 low = _mm256_add_ps(one, vector_exp(_mm256_xor_ps(x.low, sign)));
    __m256 high = _mm256_add_ps(one, vector_exp(_mm256_xor_ps(x.high, sign)));
    return lanes_make(_mm256_div_ps(one, low), _mm256_div_ps(one, high));
}
// Each pair of lanes: its even (odd) one twice; the two exchanged.
static inline struct lanes lanes_copy_even(struct lanes a) {
    return lanes_make(_mm256_moveldup_ps(a.low), _mm256_moveldup_ps(a.high));
}
static inline struct lanes lanes_copy_odd(struct lanes a) {
    return lanes_make(_mm256_movehdup_ps(a.low), _mm256_movehdup_ps(a.high));
}
static inline struct lanes lanes_swap_pairs(struct lanes a) {
    return lanes_make(_mm256_permute_ps(a.low, 0xb1), _mm256_permute_ps(a.high, 0xb1));
}
// All ones in lanes 0..count-1 of the register that starts at lane `first`.
static inline __m256i lanes_mask(int64_t count, int first) {
    __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    int64_t left = count - first;
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(left < 0 ? 0 : left > 8 ? 8 : (int)left), index);
}
// `value` from lane `count` on.
static inline struct lanes lanes_fill(struct lanes a, int64_t count, float value) {
    __m256 fill = _mm256_set1_ps(value);
    return lanes_make(_mm256_blendv_ps(fill, a.low, _mm256_castsi256_ps(lanes_mask(count, 0))),
                      _mm256_blendv_ps(fill, a.high, _mm256_castsi256_ps(lanes_mask(count, 8))));
}
static inline bool lanes_finite(struct lanes a) {
    __m256i exponent = _mm256_set1_epi32(0x7f800000);
    __m256i low = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_castps_si256(a.low), exponent), exponent);
    __m256i high = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_castps_si256(a.high), exponent), exponent);
    return _mm256_testz_si256(_mm256_or_si256(low, high), _mm256_or_si256(low, high)) != 0;
}

// lane_tree in registers: lane l + lane l+8, then +4, +2, +1.
static inline float lanes_sum(struct lanes a) {
    __m256 eight = _mm256_add_ps(a.low, a.high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
// No lane may be NaN.
static inline float lanes_largest(struct lanes a) {
    __m256 eight = _mm256_max_ps(a.low, a.high);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// Elements i.. of a row of which `left` are left, zeros behind its end.
static inline struct lanes lanes_load_floats(const float *x, int64_t i, int64_t left) {
    if (left >= SUM_LANES) {
        return lanes_make(_mm256_loadu_ps(x + i), _mm256_loadu_ps(x + i + 8));
    }
    return lanes_make(_mm256_maskload_ps(x + i, lanes_mask(left, 0)),
                      left > 8 ? _mm256_maskload_ps(x + i + 8, lanes_mask(left, 8)) : _mm256_setzero_ps());
}
static inline void lanes_store_floats(float *y, int64_t i, int64_t left, struct lanes a) {
    if (left >= SUM_LANES) {
        _mm256_storeu_ps(y + i, a.low);
        _mm256_storeu_ps(y + i + 8, a.high);
        return;
    }
    _mm256_maskstore_ps(y + i, lanes_mask(left, 0), a.low);
    if (left > 8) {
        _mm256_maskstore_ps(y + i + 8, lanes_mask(left, 8), a.high);
    }
}
static inline struct lanes lanes_load(struct row row, int64_t i, int64_t left) {
    if (row.format != FORMAT_BF16) {
        return lanes_load_floats(row.data, i, left);
    }
    uint16_t end[SUM_LANES] = {0};
    const uint16_t *from = (const uint16_t *)row.data + i;
    if (left < SUM_LANES) {
        for (int64_t l = 0; l < left; l++) {
            end[l] = from[l];
        }
        from = end;
    }
    return lanes_make(bf16_widen_vector(_mm_loadu_si128((const __m128i *)(const void *)from)),
                      bf16_widen_vector(_mm_loadu_si128((const __m128i *)(const void *)(from + 8))));
}
static inline void lanes_store(struct row row, int64_t i, int64_t left, struct lanes a) {
    if (row.format != FORMAT_BF16) {
        lanes_store_floats(row.data, i, left, a);
        return;
    }
    __m128i low = bf16_narrow_vector(a.low), high = bf16_narrow_vector(a.high);
    uint16_t *to = (uint16_t *)row.data + i;
    if (left >= SUM_LANES) {
        _mm_storeu_si128((__m128i *)(void *)to, low);
        _mm_storeu_si128((__m128i *)(void *)(to + 8), high);
        return;
    }
    uint16_t end[SUM_LANES] = {0};
    _mm_storeu_si128((__m128i *)(void *)end, low);
    _mm_storeu_si128((__m128i *)(void *)(end + 8), high);
    for (int64_t l = 0; l < left; l++) {
        to[l] = end[l];
    }
}
static inline void lanes_store_any(struct row row, int64_t i, int64_t left, struct lanes a) {
    lanes_store(row, i, left, a);
}

#endif
