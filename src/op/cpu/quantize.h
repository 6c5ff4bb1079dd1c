// Quantisation to E4M3 on the CPU: the loops that differ between instruction sets. The scalar versions (quantize.c) use
// the conversions of tensor/formats.h one element at a time and are the specification.
#ifndef MINKE_OP_CPU_QUANTIZE_H
#define MINKE_OP_CPU_QUANTIZE_H

#include <stdbool.h>
#include <stdint.h>

#include "op/cpu/row_kernels.h"

#define QUANTIZE_COLUMNS 32   // columns that quantize_columns takes at a time, and the stride of its input

struct quantize_kernels {
    float (*largest)(struct row x, int64_t n);   // largest magnitude, NaN left out; 0 without any
    void (*narrow)(uint8_t *codes, struct row x, float scale, int64_t n);        // e4m3_narrow(x / scale)
    void (*widen)(struct row y, const uint8_t *codes, float scale, int64_t n);   // e4m3_widen(code) * scale
    // A 128 x 1 tile of each of `columns` (at most QUANTIZE_COLUMNS) columns of x f32[rows][QUANTIZE_COLUMNS]:
    // scale[column], and codes code_stride apart from row to row. Columns of x beyond `columns` hold anything that is
    // not read as a signalling value: zeros.
    void (*columns)(uint8_t *codes, int64_t code_stride, float *scale, const float *x, int64_t rows, int64_t columns,
                    bool power_of_two);
};

#endif
