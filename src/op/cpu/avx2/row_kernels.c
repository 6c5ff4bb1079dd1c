// AVX2 versions of the row kernels.
#include "op/cpu/avx2/lanes.h"
#include "op/cpu/lanes_kernels.h"

void kernels_avx2_row(struct cpu_kernels *kernels) {
    kernels->row = lanes_kernels;
}
