// AVX-512 versions of the quantiser's kernels.
#define WIDTH 16
#include "op/cpu/quantize_kernels.h"

void kernels_avx512_quantize(struct cpu_kernels *kernels) {
    kernels->quantize = vector_quantize_kernels;
}
