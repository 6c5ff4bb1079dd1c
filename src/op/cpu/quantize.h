// Quantisation on the CPU: the loops that differ between instruction sets. The scalar versions (quantize.c) use the
// conversions of tensor/formats.h one element at a time and are the specification.
#ifndef MINKE_OP_CPU_QUANTIZE_H
#define MINKE_OP_CPU_QUANTIZE_H

#include <stdbool.h>
#include <stdint.h>

#include "op/cpu/row_kernels.h"

#define QUANTIZE_COLUMNS 256   // most columns of a tile of 128 rows that a task takes at a time

struct quantize_columns_source {
    struct row x;
    int64_t x_stride;
    const float *tile_scale;
    int64_t tile_scale_stride;
};

struct quantize_kernels {
    float (*largest)(struct row x, int64_t n);   // largest magnitude, NaN left out; 0 without any
    void (*narrow)(uint8_t *codes, struct row x, float scale, int64_t n);        // e4m3_narrow(x / scale)
    void (*widen)(struct row y, const uint8_t *codes, float scale, int64_t n);   // e4m3_widen(code) * scale
    // Tiles of 128 of n elements, the last may be shorter: e4m3_scale and narrow of each.
    void (*tiles)(uint8_t *codes, float *scale, struct row x, int64_t n, bool power_of_two);
    // A 128 x 1 tile of each of `columns` (at most QUANTIZE_COLUMNS) columns of x, whose rows are x_stride elements
    // apart: scale[column], and codes code_stride apart from row to row. x F32, BF16, or E4M3_TILE: codes from
    // the beginning of a tile on, whose scales of row i are tile_scale[i * tile_scale_stride + column / 128].
    void (*columns)(uint8_t *codes, int64_t code_stride, float *scale, const struct quantize_columns_source *source,
                    int64_t rows, int64_t columns, bool power_of_two);
    // The same as narrow and widen for E5M6, from and to its two planes; the first element is an even one of its row.
    void (*narrow_e5m6)(uint8_t *low, uint8_t *high, struct row x, float scale, int64_t n);
    void (*widen_e5m6)(struct row y, const uint8_t *low, const uint8_t *high, float scale, int64_t n);
};

// Columns column .. column + count - 1 of a row of tiles, from or to x: op_quantize_rows and op_dequantize_rows. What
// is quantised begins with a tile and ends with one, or with the row.
void quantize_row(const struct quantize_kernels *kernels, const struct tensor *out, int64_t row, int64_t column,
                  struct row x, int64_t count, bool power_of_two);
void dequantize_row(const struct quantize_kernels *kernels, struct row y, const struct tensor *x, int64_t row,
                    int64_t column, int64_t count);

// The tiles of 128 rows of groups of rows (op_quantize_columns).
struct quantize_tile {
    int64_t row, rows;
};
struct quantize_tile *quantize_tiles(struct op_context *op, const int32_t *offsets, int64_t groups, int64_t *count);
// Columns column .. column + count - 1 (at most QUANTIZE_COLUMNS) of tile number `index` of out from x, which lies
// `stride` elements apart from row to row.
void quantize_column_tile(const struct quantize_kernels *kernels, const struct tensor *out, int64_t index,
                          const struct quantize_tile *tile, int64_t column, struct row x, int64_t stride, int64_t count,
                          bool power_of_two);

// Block number `block` (row of blocks after row of blocks) of op_quantize_blocks.
void quantize_block(const struct quantize_kernels *kernels, const struct tensor *out, const struct tensor *x,
                    bool power_of_two, int64_t block);

#endif
