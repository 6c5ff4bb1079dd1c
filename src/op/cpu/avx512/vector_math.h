// exp and the logistic function on 16 lanes: the steps of base/math_constants.h, so the bits of base/math.h. Also the
// loads, stores and lane sums that the kernels of this folder share.
#ifndef MINKE_OP_CPU_AVX512_VECTOR_MATH_H
#define MINKE_OP_CPU_AVX512_VECTOR_MATH_H

#include <immintrin.h>

#include "base/math_constants.h"
#include "op/cpu/row_kernels.h"

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

static inline __m512 vector_sigmoid(__m512 x) {
    __m512 one = _mm512_set1_ps(1.0f);
    // -x as a change of sign, like the scalar negation (0 - x would lose the sign of zero)
    __m512 negative =
        _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(x), _mm512_set1_epi32((int)0x80000000u)));
    return _mm512_div_ps(one, _mm512_add_ps(one, vector_exp(negative)));
}

// The first min(16, n) lanes.
static inline __mmask16 lanes_mask(int64_t n) {
    return n >= LANES ? (__mmask16)0xffff : (__mmask16)((1u << (unsigned)n) - 1);
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

// Elements i.. of a row where the mask is set, zero elsewhere.
static inline __m512 row_load_vector(struct row row, int64_t i, __mmask16 mask) {
    if (row.format == FORMAT_BF16) {
        return bf16_widen_vector(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)row.data + i));
    }
    return _mm512_maskz_loadu_ps(mask, (const float *)row.data + i);
}

static inline void row_store_vector(struct row row, int64_t i, __m512 value, __mmask16 mask) {
    if (row.format == FORMAT_BF16) {
        _mm256_mask_storeu_epi16((uint16_t *)row.data + i, mask, bf16_narrow_result(value));
    } else {
        _mm512_mask_storeu_ps((float *)row.data + i, mask, value);
    }
}

// lane_tree in registers: lane l + lane l+8, then +4, +2, +1.
static inline float lanes_sum(__m512 lanes) {
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// The largest lane; no lane may be NaN.
static inline float lanes_maximum(__m512 lanes) {
    return _mm512_reduce_max_ps(lanes);
}

#endif
