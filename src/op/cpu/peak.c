// Scalar peak loops (op/cpu/peak.h).
#include "op/cpu/peak.h"

#include <math.h>
#include <string.h>

#include "op/cpu/kernels.h"

#define CHAINS 10   // enough to fill two pipelines of five cycles

static double multiply_add(int64_t rounds) {
    float sum[CHAINS] = {0};
    for (int64_t round = 0; round < rounds; round++) {
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; i++) {
            sum[i] = fmaf(sum[i], 0.5f, 1.0f);
            __asm__ volatile("" : "+x"(sum[i]));   // keeps the loop as written
        }
    }
    return 2.0 * CHAINS * (double)rounds;
}

static uint64_t read_bytes(const void *data, int64_t bytes) {
    uint64_t sum[4] = {0};
    for (int64_t i = 0; i < bytes; i += 32) {
        uint64_t words[4];
        memcpy(words, (const char *)data + i, sizeof words);
        for (int j = 0; j < 4; j++) {
            sum[j] += words[j];
        }
    }
    return sum[0] + sum[1] + sum[2] + sum[3];
}

void kernels_scalar_peak(struct cpu_kernels *kernels) {
    kernels->peak = (struct peak_kernels){.multiply_add = multiply_add, .read = read_bytes};
}
