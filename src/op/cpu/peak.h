// What a core can do at most: loops that do nothing but multiply-add, or read. `minke bench` measures other kernels
// against them.
#ifndef MINKE_OP_CPU_PEAK_H
#define MINKE_OP_CPU_PEAK_H

#include <stdint.h>

struct peak_kernels {
    // `rounds` rounds of independent multiply-adds in registers; returns the floating-point operations done.
    double (*multiply_add)(int64_t rounds);
    double (*multiply_add_pairs)(int64_t rounds);   // of BF16 pairs; NULL where there is no such instruction
    // Reads all bytes (a multiple of 1024) once; returns something that depends on each of them.
    uint64_t (*read)(const void *data, int64_t bytes);
};

#endif
