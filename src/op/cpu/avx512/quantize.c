// AVX-512 versions of the quantiser's kernels.
#include <immintrin.h>

#define WIDTH 16
#define LARGER(a, b) ((words)_mm512_max_epi32((__m512i)(a), (__m512i)(b)))
#include "op/cpu/quantize_kernels.h"

void kernels_avx512_quantize(struct cpu_kernels *kernels) {
    kernels->quantize = vector_quantize_kernels;
}
