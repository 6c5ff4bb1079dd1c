// AVX2 peak loops (op/cpu/peak.h).
#include <immintrin.h>

#include "op/cpu/kernels.h"

#define CHAINS 12

static double multiply_add(int64_t rounds) {
    const __m256 half = _mm256_set1_ps(0.5f);
    __m256 sum[CHAINS];
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++) {
        sum[i] = half;
    }
    for (int64_t round = 0; round < rounds; round++) {
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; i++) {
            sum[i] = _mm256_fmadd_ps(sum[i], half, half);
            __asm__ volatile("" : "+x"(sum[i]));   // keeps the loop as written
        }
    }
    return 16.0 * CHAINS * (double)rounds;
}

static uint64_t read_bytes(const void *data, int64_t bytes) {
    const char *from = data;
    __m256i sum[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int64_t i = 0; i < bytes; i += 128) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            sum[j] = _mm256_xor_si256(sum[j], _mm256_loadu_si256((const __m256i *)(const void *)(from + i + 32 * j)));
        }
    }
    sum[0] = _mm256_xor_si256(_mm256_xor_si256(sum[0], sum[1]), _mm256_xor_si256(sum[2], sum[3]));
    __m128i half = _mm_xor_si128(_mm256_castsi256_si128(sum[0]), _mm256_extracti128_si256(sum[0], 1));
    return (uint64_t)_mm_cvtsi128_si64(half) ^ (uint64_t)_mm_extract_epi64(half, 1);
}

void kernels_avx2_peak(struct cpu_kernels *kernels) {
    kernels->peak.multiply_add = multiply_add;
    kernels->peak.read = read_bytes;
}
