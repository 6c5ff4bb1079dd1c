// AVX2 versions of the quantiser's kernels.
#define WIDTH 8
#include "op/cpu/quantize_kernels.h"

void kernels_avx2_quantize(struct cpu_kernels *kernels) {
    kernels->quantize = vector_quantize_kernels;
}
