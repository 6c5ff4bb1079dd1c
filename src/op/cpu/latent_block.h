// Rows of an FP8 latent cache (E4M3_TILE, op/ops.h) on their way to what multiplies F32 or BF16. Attention multiplies a
// block of 64 keys out into a buffer that stays in the second cache level, and the kernels that read BF16 caches take
// it from there; the expanded form gathers rows.
//
// Scales of a cache are powers of two, so that value = code * scale is exact in BF16 and widening is bytes looked up in
// tables whose exponents are moved: nine instructions of AVX-512 for 64 values. Every other scale (an infinite latent,
// tiles of op_quantize_rows) takes the slow way, code * scale rounded to F32 and to the format.
#ifndef MINKE_OP_CPU_LATENT_BLOCK_H
#define MINKE_OP_CPU_LATENT_BLOCK_H

#include <stdint.h>

#include "op/cpu/row_kernels.h"
#include "tensor/tensor.h"

struct latent_kernels {
    // y[i] = the BF16 of e4m3_widen(codes[i]) * 2^exponent, i < n, exponent in -60..60: of which no code makes a
    // subnormal, an infinity or a carry out of the exponent's bits (an E4M3 value is 0 or between 2^-9 and 448). NULL:
    // the slow way serves.
    void (*widen_tile)(uint16_t *y, const uint8_t *codes, int exponent, int64_t n);
};

// Elements from row to row of the buffer for rows of `width` elements.
int64_t latent_block_stride(int64_t width);
// Row i of `out` (stride elements apart) = row first + i of cache, i = 0..rows-1.
void latent_block_widen(const struct latent_kernels *kernels, struct row out, int64_t stride,
                        const struct tensor *cache, int64_t first, int64_t rows);
// Part `part` of `parts` of `rows` rows into the cache (memory_touch).
void latent_block_touch(const struct tensor *cache, int64_t first, int64_t rows, int64_t part, int64_t parts);

#endif
