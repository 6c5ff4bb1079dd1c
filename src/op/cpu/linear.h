// Matrix products on the CPU: c[row, column] = sum over k of a[row, k] * b[column, k], for arrays of groups at once.
// Forward, input gradient, weight gradient and the per-head form differ only in what is called row, column and k
// (ops_linear.c), so one driver (linear.c) serves all. It packs operands into "units" of four bytes and calls the
// kernels below.
//
// Unit: UNIT_F32 is one k as F32. UNIT_PAIR is two BF16, k (even) in the HIGH half and k+1 in the low half: vdpbf16ps
// adds the product of the high halves first, so a chain over units is the chain over k ascending. A lone last k gets
// the partner product -0 (a: -0, b: +0): adding -0 changes no accumulator, not even -0 (adding +0 would). UNIT_WIDE is
// no unit of its own but a way to multiply: b lies there in pairs, a in F32, and a tile widens the halves of b and does
// two multiply-adds, k ascending. The bits are those of the pairs. It serves CPUs that do vdpbf16ps at less than half
// the rate of a multiply-add.
#ifndef MINKE_OP_CPU_LINEAR_H
#define MINKE_OP_CPU_LINEAR_H

#include <stdbool.h>
#include <stdint.h>

#include "op/ops.h"
#include "tensor/tensor.h"

enum linear_unit { UNIT_F32, UNIT_PAIR, UNIT_WIDE };

#define LINEAR_CHUNK 16         // units of one row that lie together in a packed a
#define LINEAR_MAX_ROWS 32      // most rows of a tile on any instruction set
#define LINEAR_MAX_COLUMNS 32   // most columns of a tile
#define LINEAR_MAX_MAPPED 8     // most rows of a tile that reads b where it lies, unless the table says more
#define LINEAR_WIDE 128         // columns of a tile that reads panels or integers: four panels, eight tiles of integers
#define LINEAR_MOST_MAPPED 32   // most rows of a product that does, in several tiles
#define LINEAR_BLOCK 32         // k of a block of a product in blocks (linear_blocks.c)

// One side of a product. Element (row, k) stands at data + (row * row_stride + k * k_stride) elements; no alignment is
// assumed.
struct linear_operand {
    const char *data;
    int64_t row_stride, k_stride;   // in elements
    const float *scale;             // E4M3: of (row / scale_rows, k / 128); may be unaligned. NULL: 1 everywhere
    int64_t scale_rows;             // rows that share a scale: 128 (blocks) or 1 (tiles along k)
    int64_t scale_row_stride, scale_k_stride;   // in scales
    const struct tensor *integers;   // int8 and int4 (side b only): the weight, whose layout is int_groups.h's; no
                                     // field above but k_stride (1) has a meaning then
    bool panels;   // a weight in panels (side b only, units are pairs): `data` is the first, in the order of
                   // tensor/panels.h; `format` is that of its elements, k_stride 1, row_stride has no meaning
    enum format format;
};

struct linear_group {
    struct linear_operand a, b;
    char *c;                                 // F32 or BF16
    int64_t c_row_stride, c_column_stride;   // in elements
    int64_t rows, columns, depth;
};

// Packing of one panel: `rows` rows (at most the table's tile_rows, or tile_columns) of an operand from `row` on, k
// from k_begin (a multiple of 64) to k_end.
//   as rows (side a):     out[chunk][panel row][16 units], chunks `chunk_stride` units apart, rows 16 units apart
//   as columns (side b):  out[unit][panel column], units `unit_stride` apart; columns beyond `rows` may be written too
struct linear_strip {
    uint32_t *out;
    int64_t chunk_stride, unit_stride;
    const struct linear_operand *source;
    int64_t row, k_begin, k_end;
    int rows;
    enum linear_unit unit;
};

// One tile: c[rows][columns] in F32, the accumulators. Columns are computed in halves of the table's tile_columns: c
// has room for whole halves.
//   without scales:             c = chain over units, starting from c when `add`, else from +0
//   with scales (E4M3 a or b, integer b):  for each block of `scale_depth` k, c = fma(chain over its units from +0,
//                               row_scale[block][row] * column_scale[block][column], c), where c is +0 before the first
//                               block unless `add`
// A tile_mapped has one column scale for all columns of a block and row scales of 1.
struct linear_tile {
    float *c;
    int64_t c_stride;
    const uint32_t *a;       // packed rows, chunks rows * 16 units apart
    const uint32_t *ahead;   // packed: `ahead_lines` cache lines to be asked for meanwhile
    int64_t ahead_lines;
    const uint32_t *b;                     // packed columns, units tile_columns apart
    const struct linear_operand *mapped;   // tile_mapped: read b here instead, column `column`, k from 0 to depth
    int64_t column, depth;
    const char *next;   // tile_mapped: rows that will be read after these, to be asked for; or NULL
    int64_t units;
    const float *scale;          // tile_mapped: NULL, or one per block of 128 k
    int64_t scale_depth;         // 128, or 32 for int4
    const float *row_scale;      // tile: NULL, or [blocks][LINEAR_MAX_ROWS]
    const float *column_scale;   // [blocks][LINEAR_MAX_COLUMNS], one for every column of whole halves
    int rows, columns;
    enum linear_unit unit;
    bool add;
};

// Products of BF16 or E4M3 pairs in an order of sums of their own, that of matrix units (linear_blocks.c). A table that
// has it computes all such products so, whatever their size and layout: a row's bits must not depend on its company.
struct linear_blocks {
    int tile_rows;     // most rows of a tile; its columns are those of the table
    int most_panels;   // of columns of a task of the driver
    void (*pack_rows)(const struct linear_strip *strip);
    void (*tile)(const struct linear_tile *tile);   // NULL: no such products
    // At most LINEAR_MOST_MAPPED rows, k of b contiguous: pack_rows and tile_mapped of such products.
    void (*pack_few)(const struct linear_strip *strip);
    void (*tile_few)(const struct linear_tile *tile);
    void (*tile_panel)(const struct linear_tile *tile);   // as below, of at most LINEAR_MOST_MAPPED rows
    void (*release)(void);                                // called by each thread after its tiles of a task
};

struct linear_kernels {
    bool pairs;   // UNIT_PAIR is served (AVX512_BF16)
    bool wide;    // tiles of packed pairs are UNIT_WIDE
    int tile_rows, tile_columns;
    int mapped_columns;   // columns of a tile_mapped; its rows are at most LINEAR_MAX_MAPPED,
    int mapped_pairs;     // or this many if units are pairs and k of b is contiguous (0: no more than otherwise)
    void (*pack_rows)(const struct linear_strip *strip);
    void (*pack_columns)(const struct linear_strip *strip);
    void (*tile)(const struct linear_tile *tile);
    // The same product with b, one of whose strides is 1, read where it lies, for few rows: matrix-vector at memory
    // speed. May read a, and write c, as if there were LINEAR_MAX_MAPPED rows.
    void (*tile_mapped)(const struct linear_tile *tile);
    void (*narrow)(uint16_t *out, const float *in, int64_t count);   // bf16_narrow of each
    // Integer weights (linear_int.c): packing of columns, codes without scales; and the product of few rows with whole
    // tiles of 16 columns, which reads codes and scales from tile->mapped (`next`: codes that follow).
    void (*pack_columns_int)(const struct linear_strip *strip);
    void (*tile_int)(const struct linear_tile *tile);
    // Weights in panels (tensor/panels.h; tables with tile_columns = PANEL_ROWS and pairs, else NULL): the product of
    // at most panel_rows rows with up to four panels, each read front to back (as tile_mapped; `next` is the panel that
    // follows); codes of a panel as packed columns of pairs or of F32; filling one.
    int panel_rows;
    void (*tile_panel)(const struct linear_tile *tile);
    void (*widen_panel)(uint32_t *out, const uint8_t *codes, int64_t units, enum linear_unit unit);
    void (*fill_panel)(struct tensor *out, const struct tensor *source, int64_t panel);
    struct linear_blocks blocks;
};

// The order of sums of products in blocks: sum, continued by a[i] b[i] for i from 0, the beginning of a block.
float linear_block_chain(float sum, const float *a, int64_t a_stride, const float *b, int64_t b_stride, int64_t depth);

// Portable packing, any strides and formats.
void linear_pack_rows_scalar(const struct linear_strip *strip);
void linear_pack_columns_scalar(const struct linear_strip *strip);
float linear_scale(const struct linear_operand *operand, int64_t row, int64_t k);   // of the block that holds (row, k)
// Scales of an integer weight for rows [row, row + rows) and the groups of k in [k_begin, k_end), `stride` apart from
// group to group.
void linear_int_scales(float *scale, int64_t stride, const struct tensor *weight, int64_t row, int64_t rows,
                       int64_t k_begin, int64_t k_end);

// Computes all groups; `add` continues an F32 c. Each c element is computed by one task.
void linear_run(struct op_context *op, const struct linear_group *groups, int64_t count, enum format c_format,
                enum op_mode mode);

#endif
