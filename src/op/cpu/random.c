// Scalar random numbers (op/cpu/random.h).
#include "op/cpu/random.h"

#include "base/rng.h"
#include "op/cpu/kernels.h"

static void normal(float *out, uint64_t seed, uint64_t stream, uint64_t first, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        out[i] = rng_normal(seed, stream, first + (uint64_t)i);
    }
}

void kernels_scalar_random(struct cpu_kernels *kernels) {
    kernels->random.normal = normal;
}

void op_random_normal(const struct op_context *op, float *out, uint64_t seed, uint64_t stream, uint64_t first,
                      int64_t count) {
    op->kernels->random.normal(out, seed, stream, first, count);
}
