// AVX2 version of the widening of latents (op/cpu/latent_block.h).
#include <immintrin.h>

#include "op/cpu/kernels.h"
#include "op/cpu/latent_block.h"

#define VECTOR 16

// 16 codes -> BF16, the exponent moved by `move` (in place in a BF16).
static inline __attribute__((always_inline)) __m256i widen_codes(__m128i codes, __m256i move) {
    // Upper and lower bytes of the BF16 of the subnormal codes 0..7: m * 2^-9.
    const __m256i small_high = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 0x3b, 0x3b, 0x3b, 0x3c, 0x3c, 0x3c, 0x3c, 0, 0, 0, 0, 0, 0, 0, 0));
    const __m256i small_low = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 0, (char)0x80, (char)0xc0, 0, 0x20, 0x40, 0x60, 0, 0, 0, 0, 0, 0, 0, 0));
    const __m256i nan = _mm256_set1_epi16(0x7f);
    __m256i code = _mm256_cvtepu8_epi16(codes), magnitude = _mm256_and_si256(code, nan);
    __m256i sign = _mm256_slli_epi16(_mm256_xor_si256(code, magnitude), 8);
    __m256i normal = _mm256_add_epi16(_mm256_slli_epi16(magnitude, 4), _mm256_set1_epi16(120 << 7));
    __m256i small = _mm256_or_si256(_mm256_shuffle_epi8(small_low, magnitude),
                                    _mm256_slli_epi16(_mm256_shuffle_epi8(small_high, magnitude), 8));
    __m256i word = _mm256_blendv_epi8(normal, small, _mm256_cmpgt_epi16(_mm256_set1_epi16(8), magnitude));
    __m256i is_zero = _mm256_cmpeq_epi16(magnitude, _mm256_setzero_si256());
    word = _mm256_add_epi16(word, _mm256_andnot_si256(is_zero, move));
    word = _mm256_blendv_epi8(word, _mm256_set1_epi16(0x7fc0), _mm256_cmpeq_epi16(magnitude, nan));
    return _mm256_or_si256(word, sign);
}

static void widen_tile(uint16_t *y, const uint8_t *codes, int exponent, int64_t n) {
    const __m256i move = _mm256_set1_epi16((short)(exponent * 128));
    int64_t i = 0;
    for (; i + VECTOR <= n; i += VECTOR) {
        __m256i words = widen_codes(_mm_loadu_si128((const __m128i *)(const void *)(codes + i)), move);
        _mm256_storeu_si256((__m256i *)(void *)(y + i), words);
    }
    if (i < n) {
        uint8_t end[VECTOR] = {0};
        uint16_t words[VECTOR];
        memcpy(end, codes + i, (size_t)(n - i));
        _mm256_storeu_si256((__m256i *)(void *)words,
                            widen_codes(_mm_loadu_si128((const __m128i *)(const void *)end), move));
        memcpy(y + i, words, (size_t)(n - i) * sizeof *y);
    }
}

static void widen_row(struct row y, const uint8_t *codes, const float *scale, int64_t n) {
    for (int64_t column = 0; column < n; column += BLOCK_SIZE, scale++) {
        int64_t count = n - column < BLOCK_SIZE ? n - column : BLOCK_SIZE;
        int exponent;
        if (y.format == FORMAT_BF16 && latent_exponent(&exponent, *scale)) {
            widen_tile((uint16_t *)y.data + column, codes + column, exponent, count);
        } else {
            latent_widen_scalar(row_advance(y, column), codes + column, scale, count);
        }
    }
}

void kernels_avx2_latent(struct cpu_kernels *kernels) {
    kernels->latent = (struct latent_kernels){widen_row};
}
