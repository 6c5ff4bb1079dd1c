// AVX2 version of the widening of latents (op/cpu/latent_block.h).
#include <immintrin.h>

#include "op/cpu/kernels.h"
#include "op/cpu/latent_block.h"

#define VECTOR 32

// What the codes of a tile are looked up with. The exponent of a BF16 is split between its bytes, so 120 + exponent is
// cut into twice `upper` and `odd`.
struct tables {
    __m256i upper;                   // of all lanes
    __m256i odd;                     // 0, or 8: one more in the exponent of a code
    __m256i small_high, small_low;   // upper and lower bytes of the BF16 of the subnormal codes 0..7
};

static inline __attribute__((always_inline)) struct tables tables_for(int exponent) {
    const __m128i small = _mm_setr_epi16(0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60);   // m * 2^-9
    const __m128i moves = _mm_setr_epi16(0, -1, -1, -1, -1, -1, -1, -1);
    const __m128i moved = _mm_add_epi16(small, _mm_and_si128(moves, _mm_set1_epi16((short)(exponent * 128))));
    const int biased = 120 + exponent;   // above 0
    return (struct tables){
        .upper = _mm256_set1_epi8((char)(biased >> 1)),
        .odd = _mm256_set1_epi8((char)((biased & 1) << 3)),
        .small_high = _mm256_broadcastsi128_si256(
            _mm_shuffle_epi8(moved, _mm_setr_epi8(1, 3, 5, 7, 9, 11, 13, 15, -1, -1, -1, -1, -1, -1, -1, -1))),
        .small_low = _mm256_broadcastsi128_si256(
            _mm_shuffle_epi8(moved, _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, -1, -1, -1, -1, -1, -1, -1, -1))),
    };
}

// 32 codes -> the BF16 of the first and the last 16. Unpacking takes eight bytes of each 16, so those of the first half
// are put there before.
static inline __attribute__((always_inline)) void widen_codes(__m256i words[2], __m256i codes,
                                                              const struct tables *tables) {
    codes = _mm256_permute4x64_epi64(codes, 0xd8);
    __m256i magnitude = _mm256_and_si256(codes, _mm256_set1_epi8(0x7f));
    __m256i moved = _mm256_add_epi8(magnitude, tables->odd);
    __m256i high = _mm256_and_si256(_mm256_srli_epi16(moved, 4), _mm256_set1_epi8(0x0f));
    __m256i low = _mm256_and_si256(_mm256_slli_epi16(moved, 4), _mm256_set1_epi8((char)0xf0));
    __m256i is_small = _mm256_cmpgt_epi8(_mm256_set1_epi8(8), magnitude);
    high = _mm256_add_epi8(high, tables->upper);
    high = _mm256_blendv_epi8(high, _mm256_shuffle_epi8(tables->small_high, magnitude), is_small);
    low = _mm256_blendv_epi8(low, _mm256_shuffle_epi8(tables->small_low, magnitude), is_small);
    __m256i is_nan = _mm256_cmpeq_epi8(magnitude, _mm256_set1_epi8(0x7f));
    high = _mm256_or_si256(high, _mm256_and_si256(is_nan, magnitude));
    low = _mm256_or_si256(low, is_nan);
    high = _mm256_or_si256(high, _mm256_xor_si256(codes, magnitude));
    words[0] = _mm256_unpacklo_epi8(low, high);
    words[1] = _mm256_unpackhi_epi8(low, high);
}

static void widen_tile(uint16_t *y, const uint8_t *codes, int exponent, int64_t n) {
    const struct tables tables = tables_for(exponent);
    __m256i words[2];
    int64_t i = 0;
    for (; i + VECTOR <= n; i += VECTOR) {
        widen_codes(words, _mm256_loadu_si256((const __m256i *)(const void *)(codes + i)), &tables);
        _mm256_storeu_si256((__m256i *)(void *)(y + i), words[0]);
        _mm256_storeu_si256((__m256i *)(void *)(y + i + VECTOR / 2), words[1]);
    }
    if (i < n) {
        uint8_t end[VECTOR] = {0};
        memcpy(end, codes + i, (size_t)(n - i));
        widen_codes(words, _mm256_loadu_si256((const __m256i *)(const void *)end), &tables);
        memcpy(y + i, words, (size_t)(n - i) * sizeof *y);
    }
}

void kernels_avx2_latent(struct cpu_kernels *kernels) {
    kernels->latent = (struct latent_kernels){widen_tile};
}
