// AVX-512 version of the widening of latents (op/cpu/latent_block.h).
#include <immintrin.h>

#include "op/cpu/kernels.h"
#include "op/cpu/latent_block.h"

#define VECTOR 64

// Upper and lower byte of the BF16 of each E4M3 magnitude, and of twice that (odd exponents: the upper byte holds the
// exponent without its last bit, so that an even power of two is an addition to it).
static uint8_t high_bytes[2][128], low_bytes[2][128];

// Entries whose exponent moves: all but 0 and NaN.
#define MOVES_FIRST 0xfffffffffffffffeull
#define MOVES_SECOND 0x7fffffffffffffffull

struct tables {
    __m512i high[2], low[2];
};

static inline __attribute__((always_inline)) struct tables tables_for(int exponent) {
    const int odd = exponent & 1;
    const __m512i move = _mm512_set1_epi8((char)((exponent - odd) / 2));
    struct tables t;
    t.high[0] = _mm512_loadu_si512(high_bytes[odd]);
    t.high[1] = _mm512_loadu_si512(high_bytes[odd] + VECTOR);
    t.high[0] = _mm512_mask_add_epi8(t.high[0], MOVES_FIRST, t.high[0], move);
    t.high[1] = _mm512_mask_add_epi8(t.high[1], MOVES_SECOND, t.high[1], move);
    t.low[0] = _mm512_loadu_si512(low_bytes[odd]);
    t.low[1] = _mm512_loadu_si512(low_bytes[odd] + VECTOR);
    return t;
}

// 64 codes -> the BF16 of the first and the last 32. Unpacking takes eight bytes of each 16, so those of the first half
// are put there before.
static inline __attribute__((always_inline)) void widen_codes(__m512i words[2], __m512i codes,
                                                              const struct tables *tables) {
    codes = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), codes);
    __m512i high = _mm512_permutex2var_epi8(tables->high[0], codes, tables->high[1]);
    __m512i low = _mm512_permutex2var_epi8(tables->low[0], codes, tables->low[1]);
    high = _mm512_ternarylogic_epi32(high, codes, _mm512_set1_epi8((char)0x80), 0xf8);   // high | (codes & sign)
    words[0] = _mm512_unpacklo_epi8(low, high);
    words[1] = _mm512_unpackhi_epi8(low, high);
}

static void widen_tile(uint16_t *y, const uint8_t *codes, int exponent, int64_t n) {
    const struct tables tables = tables_for(exponent);
    __m512i words[2];
    int64_t i = 0;
    for (; i + VECTOR <= n; i += VECTOR) {
        widen_codes(words, _mm512_loadu_si512(codes + i), &tables);
        _mm512_storeu_si512(y + i, words[0]);
        _mm512_storeu_si512(y + i + VECTOR / 2, words[1]);
    }
    if (i < n) {
        const __mmask64 left = (1ull << (n - i)) - 1;
        widen_codes(words, _mm512_maskz_loadu_epi8(left, codes + i), &tables);
        _mm512_mask_storeu_epi16(y + i, (__mmask32)left, words[0]);
        _mm512_mask_storeu_epi16(y + i + VECTOR / 2, (__mmask32)(left >> 32), words[1]);
    }
}

void kernels_avx512_latent(struct cpu_kernels *kernels) {
    for (int code = 0; code < 128; code++) {
        for (int odd = 0; odd < 2; odd++) {
            uint16_t word = bf16_narrow(e4m3_widen((uint8_t)code) * (float)(1 + odd));
            high_bytes[odd][code] = (uint8_t)(word >> 8);
            low_bytes[odd][code] = (uint8_t)word;
        }
    }
    kernels->latent = (struct latent_kernels){widen_tile};
}
