// AVX-512 peak loops (op/cpu/peak.h).
#include <immintrin.h>

#include "op/cpu/kernels.h"

#define CHAINS 16

static double multiply_add(int64_t rounds) {
    const __m512 half = _mm512_set1_ps(0.5f);
    __m512 sum[CHAINS];
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++) {
        sum[i] = half;
    }
    for (int64_t round = 0; round < rounds; round++) {
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; i++) {
            sum[i] = _mm512_fmadd_ps(sum[i], half, half);
            __asm__ volatile("" : "+v"(sum[i]));   // keeps the loop as written
        }
    }
    return 32.0 * CHAINS * (double)rounds;
}

static double multiply_add_pairs(int64_t rounds) {
    const __m512bh half = (__m512bh)_mm512_set1_epi16(0x3f00);
    __m512 sum[CHAINS];
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++) {
        sum[i] = _mm512_setzero_ps();
    }
    for (int64_t round = 0; round < rounds; round++) {
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; i++) {
            sum[i] = _mm512_dpbf16_ps(sum[i], half, half);
            __asm__ volatile("" : "+v"(sum[i]));   // keeps the loop as written
        }
    }
    return 64.0 * CHAINS * (double)rounds;
}

static uint64_t read_bytes(const void *data, int64_t bytes) {
    const char *from = data;
    __m512i sum[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
    for (int64_t i = 0; i < bytes; i += 256) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            sum[j] = _mm512_xor_si512(sum[j], _mm512_loadu_si512(from + i + 64 * j));
        }
    }
    sum[0] = _mm512_xor_si512(_mm512_xor_si512(sum[0], sum[1]), _mm512_xor_si512(sum[2], sum[3]));
    return (uint64_t)_mm512_reduce_or_epi64(sum[0]);
}

void kernels_avx512_peak(struct cpu_kernels *kernels) {
    kernels->peak.multiply_add = multiply_add;
    kernels->peak.multiply_add_pairs = multiply_add_pairs;
    kernels->peak.read = read_bytes;
}
