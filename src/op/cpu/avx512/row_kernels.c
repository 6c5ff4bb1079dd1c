// AVX-512 versions of the row kernels.
#include "op/cpu/avx512/lanes.h"
#include "op/cpu/lanes_kernels.h"

void kernels_avx512_row(struct cpu_kernels *kernels) {
    kernels->row = lanes_kernels;
}
