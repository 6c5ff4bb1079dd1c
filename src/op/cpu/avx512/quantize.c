// AVX-512 versions of the quantiser's kernels.
#include <immintrin.h>
#include <stdint.h>

#define WIDTH 16
#define LARGER(a, b) ((words)_mm512_max_epi32((__m512i)(a), (__m512i)(b)))
#define SMALLER(a, b) ((words)_mm512_min_epi32((__m512i)(a), (__m512i)(b)))
#define LARGER_HALVES(a, b) ((wide_halves)_mm512_max_epi16((__m512i)(a), (__m512i)(b)))
#define MULTIPLY_ADD(a, b, c) ((floats)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define LARGEST_LANE(a) _mm512_reduce_max_epi32((__m512i)(a))
#define LARGEST_HALF(a) largest_half((__m512i)(a))
#define WIDEN_CODES(codes) widen_codes((__m128i)(codes))

// Of lanes that are not negative.
static inline int largest_half(__m512i a) {
    __m256i half = _mm256_max_epi16(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    __m128i quarter = _mm_max_epi16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    __m128i least = _mm_minpos_epu16(_mm_xor_si128(quarter, _mm_set1_epi16(-1)));
    return ~_mm_cvtsi128_si32(least) & 0xffff;
}

// A code is an FP16 whose exponent lacks a bit; converting FP16 never flushes subnormals.
static inline __m512 widen_codes(__m128i codes) {
    __m256i half = _mm256_slli_epi16(_mm256_cvtepi8_epi16(codes), 7);
    half = _mm256_and_si256(half, _mm256_set1_epi16((short)0xbfff));
    __m512 value = _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(0x1p8f));
    __m128i largest = _mm_set1_epi8(0x7f);
    __mmask16 nan = _mm_cmpeq_epi8_mask(_mm_and_si128(codes, largest), largest);
    __m512i sign = _mm512_set1_epi32(INT32_MIN), quiet = _mm512_set1_epi32(0x7fc00000);
    return _mm512_castsi512_ps(
        _mm512_mask_ternarylogic_epi32(_mm512_castps_si512(value), nan, sign, quiet, 0xea));   // value & sign | quiet
}

#include "op/cpu/quantize_kernels.h"

void kernels_avx512_quantize(struct cpu_kernels *kernels) {
    kernels->quantize = vector_quantize_kernels;
}
