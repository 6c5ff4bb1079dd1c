// AVX-512 kernels of the matrix products.
#include "op/cpu/kernels.h"

void kernels_avx512_linear(struct cpu_kernels *kernels) {
    (void)kernels;
}
