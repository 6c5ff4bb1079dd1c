// 16 lanes in one AVX-512 register: the operations that op/cpu/lanes_kernels.h and attention.c are written with. exp
// repeats the steps of base/math_constants.h, so it has the bits of base/math.h.
#ifndef MINKE_OP_CPU_AVX512_LANES_H
#define MINKE_OP_CPU_AVX512_LANES_H

#include <immintrin.h>

#include "base/math_constants.h"
#include "op/cpu/row_kernels.h"
#include "op/cpu/unroll.h"

struct lanes {
    __m512 v;
};

static inline __m512 vector_exp(__m512 x) {
    __m512 shifter = _mm512_set1_ps(EXP_SHIFTER), one = _mm512_set1_ps(1.0f);
    __m512 shifted = _mm512_fmadd_ps(x, _mm512_set1_ps(EXP_LOG2E), shifter);
    __m512 n = _mm512_sub_ps(shifted, shifter);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-EXP_LN2_HIGH), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-EXP_LN2_LOW), r);
    __m512 q = _mm512_fmadd_ps(_mm512_set1_ps(EXP_Q4), r, _mm512_set1_ps(EXP_Q3));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(EXP_Q2));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(EXP_Q1));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(EXP_Q0));
    __m512 p = _mm512_fmadd_ps(_mm512_fmadd_ps(q, r, one), r, one);
    __m512i bits = _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(shifted), 23));
    __mmask16 overflow = _mm512_cmp_ps_mask(x, _mm512_set1_ps(EXP_OVERFLOW), _CMP_GE_OQ);
    __mmask16 underflow = _mm512_cmp_ps_mask(x, _mm512_set1_ps(EXP_UNDERFLOW), _CMP_LE_OQ);
    bits = _mm512_mask_mov_epi32(bits, overflow, _mm512_set1_epi32(0x7f800000));
    bits = _mm512_mask_mov_epi32(bits, underflow, _mm512_setzero_si512());
    bits = _mm512_mask_mov_epi32(bits, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_set1_epi32(EXP_LOG_NAN_BITS));
    return _mm512_castsi512_ps(bits);
}

// 16 x 16 words: v[i] lane j -> v[j] lane i. Interleaves pairs, then quadruples, then quarters of registers. (Always
// inlined and unrolled: the array stays in registers.)
static inline __attribute__((always_inline)) void transpose(__m512i v[SUM_LANES]) {
    __m512i t[SUM_LANES];
    UNROLL
    for (int i = 0; i < SUM_LANES; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    UNROLL
    for (int i = 0; i < SUM_LANES; i += 4) {
        v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    UNROLL
    for (int i = 0; i < 4; i++) {   // lane group L of v[4j + i]: rows 4j .. 4j+3 of column 4L + i
        __m512i even0 = _mm512_shuffle_i32x4(v[i], v[4 + i], 0x88), odd0 = _mm512_shuffle_i32x4(v[i], v[4 + i], 0xdd);
        __m512i even1 = _mm512_shuffle_i32x4(v[8 + i], v[12 + i], 0x88);
        __m512i odd1 = _mm512_shuffle_i32x4(v[8 + i], v[12 + i], 0xdd);
        v[i] = _mm512_shuffle_i32x4(even0, even1, 0x88);
        v[8 + i] = _mm512_shuffle_i32x4(even0, even1, 0xdd);
        v[4 + i] = _mm512_shuffle_i32x4(odd0, odd1, 0x88);
        v[12 + i] = _mm512_shuffle_i32x4(odd0, odd1, 0xdd);
    }
}

// The first min(16, n) lanes.
static inline __mmask16 lanes_mask(int64_t n) {
    return (__mmask16)(n >= SUM_LANES ? 0xffffu : (1u << (unsigned)n) - 1u);
}

static inline __m512 bf16_widen_vector(__m256i bits) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

// Rounds to nearest even. For results of arithmetic: a subnormal, which flushing never leaves, would become zero.
static inline __m256i bf16_narrow_result(__m512 value) {
    return (__m256i)_mm512_cvtneps_pbh(value);
}

// The same for any value, as bf16_narrow does it.
static inline __m256i bf16_narrow_any(__m512 value) {
    __m512i word = _mm512_castps_si512(value), high = _mm512_srli_epi32(word, 16);
    __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(word, _mm512_set1_epi32(0x7fff)), odd);
    rounded = _mm512_srli_epi32(rounded, 16);
    __mmask16 nan = _mm512_cmp_epi32_mask(_mm512_and_si512(word, _mm512_set1_epi32(0x7fffffff)),
                                          _mm512_set1_epi32(0x7f800000), _MM_CMPINT_NLE);
    rounded = _mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40));
    return _mm512_cvtepi32_epi16(rounded);
}

static inline struct lanes lanes_make(__m512 v) {
    return (struct lanes){v};
}
static inline struct lanes lanes_set(float value) {
    return lanes_make(_mm512_set1_ps(value));
}
static inline struct lanes lanes_add(struct lanes a, struct lanes b) {
    return lanes_make(_mm512_add_ps(a.v, b.v));
}
static inline struct lanes lanes_subtract(struct lanes a, struct lanes b) {
    return lanes_make(_mm512_sub_ps(a.v, b.v));
}
static inline struct lanes lanes_multiply(struct lanes a, struct lanes b) {
    return lanes_make(_mm512_mul_ps(a.v, b.v));
}
static inline struct lanes lanes_divide(struct lanes a, struct lanes b) {
    return lanes_make(_mm512_div_ps(a.v, b.v));
}
static inline struct lanes lanes_square_root(struct lanes a) {
    return lanes_make(_mm512_sqrt_ps(a.v));
}
// a * b + c, one rounding.
static inline struct lanes lanes_multiply_add(struct lanes a, struct lanes b, struct lanes c) {
    return lanes_make(_mm512_fmadd_ps(a.v, b.v, c.v));
}
// a * b - c in even lanes, a * b + c in odd ones, one rounding.
static inline struct lanes lanes_multiply_subtract_add(struct lanes a, struct lanes b, struct lanes c) {
    return lanes_make(_mm512_fmaddsub_ps(a.v, b.v, c.v));
}
// a > b ? a : b, so b where a is NaN.
static inline struct lanes lanes_larger(struct lanes a, struct lanes b) {
    return lanes_make(_mm512_max_ps(a.v, b.v));
}
static inline struct lanes lanes_exp(struct lanes a) {
    return lanes_make(vector_exp(a.v));
}
// 1 / (1 + exp(-x)); the sign is flipped, because 0 - x would lose that of a zero.
static inline struct lanes lanes_sigmoid(struct lanes x) {
    __m512 one = _mm512_set1_ps(1.0f);
    __m512 negative = _mm512_xor_ps(x.v, _mm512_set1_ps(-0.0f));
    return lanes_make(_mm512_div_ps(one, _mm512_add_ps(one, vector_exp(negative))));
}
// Each pair of lanes: its even (odd) one twice; the two exchanged.
static inline struct lanes lanes_copy_even(struct lanes a) {
    return lanes_make(_mm512_moveldup_ps(a.v));
}
static inline struct lanes lanes_copy_odd(struct lanes a) {
    return lanes_make(_mm512_movehdup_ps(a.v));
}
static inline struct lanes lanes_swap_pairs(struct lanes a) {
    return lanes_make(_mm512_permute_ps(a.v, 0xb1));
}
// `value` from lane `count` on.
static inline struct lanes lanes_fill(struct lanes a, int64_t count, float value) {
    return lanes_make(_mm512_mask_mov_ps(_mm512_set1_ps(value), lanes_mask(count), a.v));
}
static inline bool lanes_finite(struct lanes a) {
    __m512i exponent = _mm512_set1_epi32(0x7f800000);
    return _mm512_cmpeq_epi32_mask(_mm512_and_si512(_mm512_castps_si512(a.v), exponent), exponent) == 0;
}

// lane_tree in registers: lane l + lane l+8, then +4, +2, +1.
static inline float lanes_sum(struct lanes a) {
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
// No lane may be NaN.
static inline float lanes_largest(struct lanes a) {
    return _mm512_reduce_max_ps(a.v);
}

// Elements i.. of a row of which `left` are left, zeros behind its end.
static inline struct lanes lanes_load_floats(const float *x, int64_t i, int64_t left) {
    return lanes_make(left >= SUM_LANES ? _mm512_loadu_ps(x + i) : _mm512_maskz_loadu_ps(lanes_mask(left), x + i));
}
static inline void lanes_store_floats(float *y, int64_t i, int64_t left, struct lanes a) {
    if (left >= SUM_LANES) {
        _mm512_storeu_ps(y + i, a.v);
    } else {
        _mm512_mask_storeu_ps(y + i, lanes_mask(left), a.v);
    }
}
static inline struct lanes lanes_load(struct row row, int64_t i, int64_t left) {
    if (row.format == FORMAT_BF16) {
        return lanes_make(
            bf16_widen_vector(_mm256_maskz_loadu_epi16(lanes_mask(left), (const uint16_t *)row.data + i)));
    }
    return lanes_load_floats(row.data, i, left);
}
// A result of arithmetic.
static inline void lanes_store(struct row row, int64_t i, int64_t left, struct lanes a) {
    if (row.format != FORMAT_BF16) {
        lanes_store_floats(row.data, i, left, a);
    } else if (left >= SUM_LANES) {
        _mm256_storeu_si256((__m256i *)(void *)((uint16_t *)row.data + i), bf16_narrow_result(a.v));
    } else {
        _mm256_mask_storeu_epi16((uint16_t *)row.data + i, lanes_mask(left), bf16_narrow_result(a.v));
    }
}
// What was loaded, perhaps a subnormal.
static inline void lanes_store_any(struct row row, int64_t i, int64_t left, struct lanes a) {
    if (row.format == FORMAT_BF16) {
        _mm256_mask_storeu_epi16((uint16_t *)row.data + i, lanes_mask(left), bf16_narrow_any(a.v));
    } else {
        lanes_store_floats(row.data, i, left, a);
    }
}

#endif
