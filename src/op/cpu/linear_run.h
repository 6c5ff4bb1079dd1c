// What the files of the product driver share: linear.c cuts and plans, linear_packed.c multiplies packed blocks,
// linear_shares.c few rows by a side b that is read where it lies.
//
//   piece   a range of rows of one group. Its rows (side a) are packed once, by the first parallel run, in panels
//           of at most tile_rows rows that differ by at most one, so that no ragged panel is left over.
//   task    a piece times `column_step` columns, in the second parallel run. For each block of k it packs its columns
//           (side b) into the worker's area, then walks the tiles. The chain of an output continues from block to
//           block through F32 memory: c itself, or the worker's area when c is BF16, strided, or ends inside a half
//           panel.
//   mapped  a piece of few rows reads b where it lies instead: packing would cost more than it saves. If all pieces do,
//           each thread has a share of their column tiles, however many pieces it crosses: who reads long stretches of
//           memory can ask for what it will need. Who has done its share takes half of what another has left.
//
// Cutting never changes bits: an output's chain is k ascending in all cases.
#ifndef MINKE_OP_CPU_LINEAR_RUN_H
#define MINKE_OP_CPU_LINEAR_RUN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "op/cpu/linear.h"
#include "tensor/int_groups.h"

#define LINEAR_DEPTH_UNITS 1024      // units of a block of k: 4 panels of 32 columns take half of an L2 cache of 1 MiB
#define LINEAR_MAX_PANELS 4          // most column panels of a task where k fills a block,
#define LINEAR_MAX_SHORT_PANELS 32   // and where it is short
#define LINEAR_STRIDED_DEPTH 64      // k packed at a time from an operand whose rows, not k, are contiguous

struct linear_piece {
    const struct linear_group *group;
    int64_t row, rows, panels;
    int64_t packed, units;     // of its rows in run.packed: the first, how many
    int64_t pack_task, task;   // first task in each of the two runs
    int64_t panels_per_task;   // of the packing run
    int64_t column_step;
    bool mapped;
};

// Column tiles of mapped pieces that a worker has still to do: [first, end), first in the upper half.
struct linear_share {
    _Alignas(64) _Atomic uint64_t tiles;
};

// What one linear_run knows; the same for all workers.
struct linear_run {
    const struct linear_kernels *kernels;
    enum linear_unit unit, column_unit;   // of mapped pieces and packed rows; of packed columns
    enum format c_format;
    bool wide, add, scaled;
    // What multiplies: the table's kernels, or those of its products in blocks.
    const struct linear_blocks *blocks;   // NULL: the former
    int64_t tile_rows, most_panels;
    void (*tile)(const struct linear_tile *tile);
    int64_t depth_block;   // k per block
    int64_t scale_depth;   // k per scale
    const struct linear_group *groups;
    const struct linear_piece *pieces;
    int64_t piece_count;
    int64_t pack_tasks;
    struct linear_share *shares;   // one a worker, where all pieces are mapped
    int64_t share_count;
    uint32_t *packed;
    char *workspace;
    int64_t worker_bytes, columns_bytes;   // a worker's share, and the first part of it, for packed columns
};

static inline int64_t minimum(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static inline int64_t divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

static inline int64_t round_up(int64_t a, int64_t b) {
    return divide_up(a, b) * b;
}

static inline int64_t units_of(enum linear_unit unit, int64_t depth) {
    return unit == UNIT_PAIR ? (depth + 1) / 2 : depth;
}

static inline int64_t panel_row(const struct linear_piece *piece, int64_t panel) {
    return piece->rows * panel / piece->panels;
}

// Units of the packed rows. Those of columns are run.column_unit; where they differ, a product is UNIT_WIDE.
static inline enum linear_unit row_unit(const struct linear_run *run, const struct linear_piece *piece) {
    return run->wide && !piece->mapped ? UNIT_F32 : run->unit;
}

static inline int64_t padded_units(const struct linear_run *run, const struct linear_piece *piece) {
    return round_up(units_of(row_unit(run, piece), piece->group->depth), LINEAR_CHUNK);
}

static inline uint32_t *packed_panel(const struct linear_run *run, const struct linear_piece *piece, int64_t panel) {
    return run->packed + piece->packed + panel_row(piece, panel) * padded_units(run, piece);
}

// The piece that task number `task` belongs to, in the packing run or in the other.
static inline const struct linear_piece *find_piece(const struct linear_run *run, int64_t task, bool packing) {
    int64_t low = 0, high = run->piece_count - 1;
    while (low < high) {
        int64_t middle = (low + high + 1) / 2;
        int64_t first = packing ? run->pieces[middle].pack_task : run->pieces[middle].task;
        if (first <= task) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return &run->pieces[low];
}

// How much of k to pack before the next panel has its turn. Where k is strided, a cache line holds rows of several
// panels; it must still be there when the next panel comes (lines a large power of two apart evict each other early).
static inline int64_t packing_depth(const struct linear_operand *source, int64_t depth) {
    return source->k_stride == 1 ? depth : LINEAR_STRIDED_DEPTH;
}

static inline bool is_wide(const struct linear_group *group) {
    return group->b.integers != NULL || group->b.panels;
}

// Most columns of a mapped tile.
static inline int64_t mapped_width(const struct linear_run *run, const struct linear_group *group) {
    return is_wide(group) ? LINEAR_WIDE : run->kernels->mapped_columns;
}

static inline float *worker_area(const struct linear_run *run, int worker) {
    return (float *)(void *)(run->workspace + worker * run->worker_bytes + run->columns_bytes);
}

static inline void release(const struct linear_run *run) {
    if (run->blocks != NULL) {
        run->blocks->release();
    }
}

// F32 area [rows][stride] -> c at (row, column), and the way back, for adding: c is F32.
void linear_store_c(const struct linear_run *run, const struct linear_group *group, int64_t row, int64_t column,
                    const float *area, int64_t stride, int64_t rows, int64_t columns);
void linear_load_c(const struct linear_run *run, const struct linear_group *group, int64_t row, int64_t column,
                   float *area, int64_t stride, int64_t rows, int64_t columns);
// Scales of the blocks of k in [k_begin, k_end) for rows [row, row + rows) of an operand, `stride` apart from block to
// block. A panel never crosses a block of 128 rows.
void linear_load_scales(const struct linear_run *run, float *scale, int64_t stride,
                        const struct linear_operand *operand, int64_t row, int64_t rows, int64_t k_begin,
                        int64_t k_end);

// Columns [begin, begin + columns) of a packed piece, of a mapped one.
void linear_multiply_packed(const struct linear_run *run, const struct linear_piece *piece, int64_t begin,
                            int64_t columns, int worker);
void linear_multiply_mapped(const struct linear_run *run, const struct linear_piece *piece, int64_t begin,
                            int64_t columns, int worker);

// Whether all pieces are mapped; if so their column tiles are numbered (piece->task) and shared out. Then the task of a
// worker, whatever its number: all that it can get.
bool linear_share_out(struct linear_run *run, struct linear_piece *pieces, int64_t count);
void linear_multiply_shares(void *run, int64_t task, int worker);

#endif
