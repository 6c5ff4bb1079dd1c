// Random numbers, many at a time: the same bits as base/rng.h, element by element.
#ifndef MINKE_OP_CPU_RANDOM_H
#define MINKE_OP_CPU_RANDOM_H

#include <stdint.h>

struct random_kernels {
    // out[i] = rng_normal(seed, stream, first + i)
    void (*normal)(float *out, uint64_t seed, uint64_t stream, uint64_t first, int64_t count);
};

#endif
