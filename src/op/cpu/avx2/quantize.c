// AVX2 versions of the quantiser's kernels.
#include <immintrin.h>

#define WIDTH 8
#define LARGER(a, b) ((words)_mm256_max_epi32((__m256i)(a), (__m256i)(b)))
#define SMALLER(a, b) ((words)_mm256_min_epi32((__m256i)(a), (__m256i)(b)))
#define LARGER_HALVES(a, b) ((wide_halves)_mm256_max_epi16((__m256i)(a), (__m256i)(b)))
#define MULTIPLY_ADD(a, b, c) ((floats)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define LARGEST_LANE(a) largest_lane((__m256i)(a))
#define LARGEST_HALF(a) largest_half((__m256i)(a))

static inline int largest_lane(__m256i a) {
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

// Of lanes that are not negative.
static inline int largest_half(__m256i a) {
    __m128i half = _mm_max_epi16(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    __m128i least = _mm_minpos_epu16(_mm_xor_si128(half, _mm_set1_epi16(-1)));
    return ~_mm_cvtsi128_si32(least) & 0xffff;
}

#include "op/cpu/quantize_kernels.h"

void kernels_avx2_quantize(struct cpu_kernels *kernels) {
    kernels->quantize = vector_quantize_kernels;
}
