// AVX2 versions of the quantiser's kernels.
#include <immintrin.h>

#define WIDTH 8
#define LARGER(a, b) ((words)_mm256_max_epi32((__m256i)(a), (__m256i)(b)))
#include "op/cpu/quantize_kernels.h"

void kernels_avx2_quantize(struct cpu_kernels *kernels) {
    kernels->quantize = vector_quantize_kernels;
}
