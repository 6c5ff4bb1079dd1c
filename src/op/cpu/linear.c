// Driver of the matrix products: cuts groups into pieces, packs, hands tiles to the kernels, stores what comes back.
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
#include "op/cpu/linear.h"

#include <stdatomic.h>
#include <string.h>

#include "base/error.h"
#include "op/cpu/kernels.h"
#include "tensor/formats.h"
#include "tensor/int_groups.h"
#include "tensor/panels.h"

#define MIN_PIECE_ROWS 128   // when there are more threads than tasks
#define AREA_ROWS 512        // when outputs pass through the F32 area of a worker
#define MAX_PIECE_ROWS 4096
#define INT4_ROWS 512          // of a piece with int4: its packed rows are read once for each 16 columns
#define PASS_UNITS (1 << 24)   // packed units of side a at a time (64 MiB)
#define PACK_UNITS (1 << 13)   // least work of a packing task
#define DEPTH_UNITS 1024       // units of a block of k: 4 panels of 32 columns take half of an L2 cache of 1 MiB
#define MAX_PANELS 4           // most column panels of a task where k fills a block,
#define MAX_SHORT_PANELS 32    // and where it is short
#define STRIDED_DEPTH 64       // k packed at a time from an operand whose rows, not k, are contiguous,
#define STRIDED_ROWS 64        // and the least rows of a packing task
#define PACK_ALONE (1 << 15)   // units that one thread packs in the time that it takes to call the others
#define TASKS_PER_THREAD 4     // for balance
#define PAIRED_TILES 2         // least tiles of a share of which two are taken at once
#define SCALES_LINE 16         // scales of a cache line
#define PANEL_TILES 2          // of few rows before the packed way pays for a weight in panels,
#define CODE_TILES 4           // for one whose codes become F32
#define FLOAT_ROWS 1024        // that share packed columns from which on F32 pays for BF16
#define MAX_SCALES (2 * DEPTH_UNITS / INT4_GROUP)

struct piece {
    const struct linear_group *group;
    int64_t row, rows, panels;
    int64_t packed, units;     // of its rows in run.packed: the first, how many
    int64_t pack_task, task;   // first task in each of the two runs
    int64_t panels_per_task;   // of the packing run
    int64_t column_step;
    bool mapped;
};

// Column tiles of mapped pieces that a worker has still to do: [first, end), first in the upper half.
struct share {
    _Alignas(64) _Atomic uint64_t tiles;
};

// What one linear_run knows; the same for all workers.
struct run {
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
    const struct piece *pieces;
    int64_t piece_count;
    int64_t pack_tasks;
    struct share *shares;   // one a worker, where all pieces are mapped
    int64_t share_count;
    uint32_t *packed;
    char *workspace;
    int64_t worker_bytes, columns_bytes;   // a worker's share, and the first part of it, for packed columns
};

static int64_t minimum(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

static int64_t round_up(int64_t a, int64_t b) {
    return divide_up(a, b) * b;
}

static int64_t units_of(enum linear_unit unit, int64_t depth) {
    return unit == UNIT_PAIR ? (depth + 1) / 2 : depth;
}

static int64_t panel_row(const struct piece *piece, int64_t panel) {
    return piece->rows * panel / piece->panels;
}

// Units of the packed rows. Those of columns are run.column_unit; where they differ, a product is UNIT_WIDE.
static enum linear_unit row_unit(const struct run *run, const struct piece *piece) {
    return run->wide && !piece->mapped ? UNIT_F32 : run->unit;
}

static int64_t padded_units(const struct run *run, const struct piece *piece) {
    return round_up(units_of(row_unit(run, piece), piece->group->depth), LINEAR_CHUNK);
}

static uint32_t *packed_panel(const struct run *run, const struct piece *piece, int64_t panel) {
    return run->packed + piece->packed + panel_row(piece, panel) * padded_units(run, piece);
}

// The piece that task number `task` belongs to, in the packing run or in the other.
static const struct piece *find_piece(const struct run *run, int64_t task, bool packing) {
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
static int64_t packing_depth(const struct linear_operand *source, int64_t depth) {
    return source->k_stride == 1 ? depth : STRIDED_DEPTH;
}

static void pack_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct run *run = argument;
    const struct piece *piece = find_piece(run, task, true);
    const struct linear_operand *a = &piece->group->a;
    int64_t first = (task - piece->pack_task) * piece->panels_per_task, depth = piece->group->depth;
    int64_t last = minimum(first + piece->panels_per_task, piece->panels), step = packing_depth(a, depth);
    const enum linear_unit unit = row_unit(run, piece);
    for (int64_t k = 0; k < depth; k += step) {
        for (int64_t panel = first; panel < last; panel++) {
            int64_t row = panel_row(piece, panel), rows = panel_row(piece, panel + 1) - row;
            struct linear_strip strip = {.out = packed_panel(run, piece, panel) + units_of(unit, k) * rows,
                                         .chunk_stride = rows * LINEAR_CHUNK,
                                         .source = a,
                                         .row = piece->row + row,
                                         .k_begin = k,
                                         .k_end = minimum(k + step, depth),
                                         .rows = (int)rows,
                                         .unit = unit};
            const struct linear_blocks *blocks = run->blocks;
            (blocks == NULL                             ? run->kernels->pack_rows
             : piece->mapped && !piece->group->b.panels ? blocks->pack_few
                                                        : blocks->pack_rows)(&strip);
        }
    }
    for (int64_t panel = first; unit != run->unit && depth % 2 != 0 && panel < last; panel++) {
        int64_t row = panel_row(piece, panel), rows = panel_row(piece, panel + 1) - row;
        uint32_t *partner = packed_panel(run, piece, panel) + depth / LINEAR_CHUNK * rows * LINEAR_CHUNK;
        for (int64_t i = 0; i < rows; i++) {
            partner[i * LINEAR_CHUNK + depth % LINEAR_CHUNK] = 0x80000000u;   // -0, as the pairs have it
        }
    }
}

// All packing tasks by one thread: of so little that calling the others would take longer.
static void pack_alone(void *argument, int64_t task, int worker) {
    const struct run *run = argument;
    for (task = 0; task < run->pack_tasks; task++) {
        pack_task(argument, task, worker);
    }
}

// ---- Output ---------------------------------------------------------------------------------------------------------

static char *c_address(const struct run *run, const struct linear_group *group, int64_t row, int64_t column) {
    int64_t offset = row * group->c_row_stride + column * group->c_column_stride;
    return group->c + offset * format_info(run->c_format)->bytes;
}

// F32 area [rows][stride] -> c at (row, column).
static void store_c(const struct run *run, const struct linear_group *group, int64_t row, int64_t column,
                    const float *area, int64_t stride, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < rows; i++) {
        char *c = c_address(run, group, row + i, column);
        const float *from = area + i * stride;
        if (run->c_format == FORMAT_BF16 && group->c_column_stride == 1) {
            run->kernels->narrow((uint16_t *)(void *)c, from, columns);
        } else if (run->c_format == FORMAT_BF16) {
            for (int64_t j = 0; j < columns; j++) {
                ((uint16_t *)(void *)c)[j * group->c_column_stride] = bf16_narrow(from[j]);
            }
        } else {
            for (int64_t j = 0; j < columns; j++) {
                ((float *)(void *)c)[j * group->c_column_stride] = from[j];
            }
        }
    }
}

// The way back, for adding: c is F32.
static void load_c(const struct run *run, const struct linear_group *group, int64_t row, int64_t column, float *area,
                   int64_t stride, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < rows; i++) {
        const float *c = (const float *)(void *)c_address(run, group, row + i, column);
        for (int64_t j = 0; j < columns; j++) {
            area[i * stride + j] = c[j * group->c_column_stride];
        }
    }
}

// ---- Products -------------------------------------------------------------------------------------------------------

// Scales of the blocks of k in [k_begin, k_end) for rows [row, row + rows) of an operand, `stride` apart from block to
// block. A panel never crosses a block of 128 rows.
static void load_scales(const struct run *run, float *scale, int64_t stride, const struct linear_operand *operand,
                        int64_t row, int64_t rows, int64_t k_begin, int64_t k_end) {
    if (operand->integers != NULL) {
        linear_int_scales(scale, stride, operand->integers, row, rows, k_begin, k_end);
        return;
    }
    const bool alone = operand->scale != NULL && operand->scale_rows == 1;
    for (int64_t k = k_begin; k < k_end; k += run->scale_depth, scale += stride) {
        float first = linear_scale(operand, row, k);
        for (int64_t i = 0; i < rows; i++) {
            scale[i] = alone && i > 0 ? linear_scale(operand, row + i, k) : first;
        }
        for (int64_t i = rows; i < stride; i++) {
            scale[i] = 0.0f;
        }
    }
}

// One tile through c or, where c cannot be written directly, through the F32 area.
struct place {
    float *area;   // of this tile
    int64_t area_stride;
    bool first, last;   // block of k
};

// Asks for the lines of an F32 c that the next tile will start from, or write: its rows are far apart, and a tile
// cannot begin, or make room for another, without them.
static void prefetch_c(const struct run *run, const struct linear_group *group, int64_t row, int64_t rows,
                       int64_t column, int64_t columns) {
    if (run->c_format != FORMAT_F32 || group->c_column_stride != 1) {
        return;
    }
    for (int64_t i = 0; i < rows; i++) {
        const char *c = c_address(run, group, row + i, column);
        for (int64_t byte = 0; byte < columns * 4; byte += 64) {
            __builtin_prefetch(c + byte, 1);
        }
    }
}

static void run_tile(const struct run *run, const struct linear_group *group, int64_t row, int64_t column,
                     struct linear_tile *tile, const struct place *place) {
    int64_t half = run->kernels->tile_columns / 2;
    bool direct = run->c_format == FORMAT_F32 && group->c_column_stride == 1 && tile->columns % half == 0 &&
                  (run->blocks == NULL || (place->first && place->last));
    tile->add = run->add || !place->first;
    if (direct) {
        tile->c = (float *)(void *)c_address(run, group, row, column);
        tile->c_stride = group->c_row_stride;
        run->tile(tile);
        return;
    }
    tile->c = place->area;
    tile->c_stride = place->area_stride;
    if (place->first && run->add) {
        load_c(run, group, row, column, tile->c, tile->c_stride, tile->rows, tile->columns);
    }
    run->tile(tile);
    if (place->last) {
        store_c(run, group, row, column, tile->c, tile->c_stride, tile->rows, tile->columns);
    }
}

// Columns [column, column + columns) of b, k in [k_begin, k_end), as panels of `units` units.
static void pack_block(const struct run *run, const struct linear_operand *b, int64_t column, int64_t columns,
                       int64_t k_begin, int64_t k_end, uint32_t *packed) {
    const int64_t width = run->kernels->tile_columns, units = units_of(run->column_unit, k_end - k_begin);
    int64_t step = packing_depth(b, k_end - k_begin);
    for (int64_t k = k_begin; k < k_end; k += step) {
        for (int64_t offset = 0; offset < columns; offset += width) {
            struct linear_strip strip = {.out = packed + offset * units +
                                                units_of(run->column_unit, k - k_begin) * width,
                                         .unit_stride = width,
                                         .source = b,
                                         .row = column + offset,
                                         .k_begin = k,
                                         .k_end = minimum(k + step, k_end),
                                         .rows = (int)minimum(width, columns - offset),
                                         .unit = run->column_unit};
            (b->integers != NULL ? run->kernels->pack_columns_int : run->kernels->pack_columns)(&strip);
        }
    }
}

// The panels of a block of b, `stride` units apart: packed, or straight from a weight in panels of BF16.
static const uint32_t *block_panels(const struct run *run, const struct linear_group *group, int64_t column,
                                    int64_t columns, int64_t k_begin, int64_t k_end, uint32_t *packed,
                                    int64_t *stride) {
    const struct linear_operand *b = &group->b;
    const int64_t units = units_of(run->column_unit, k_end - k_begin);
    *stride = PANEL_ROWS * units;
    if (!b->panels) {
        *stride = run->kernels->tile_columns * units;
        pack_block(run, b, column, columns, k_begin, k_end, packed);
        return packed;
    }
    const int64_t bytes = panel_bytes(b->format, group->depth);
    const char *from = b->data + column / PANEL_ROWS * bytes + panel_marks_bytes(b->format, group->depth) +
                       k_begin / 2 * panel_unit_bytes(b->format);
    if (b->format == FORMAT_BF16) {
        *stride = bytes / (int64_t)sizeof *packed;
        return (const uint32_t *)(const void *)from;
    }
    for (int64_t offset = 0; offset < columns; offset += PANEL_ROWS, from += bytes) {
        run->kernels->widen_panel(packed + offset * units, (const uint8_t *)from, units, run->column_unit);
    }
    return packed;
}

// Part `part` of `parts` of the next panel's rows: to be asked for, into the second cache level, by the tile before.
static void ask_ahead(const struct run *run, const struct piece *piece, int64_t panel, int64_t k_begin, int64_t k_end,
                      int64_t part, int64_t parts, struct linear_tile *tile) {
    if (panel == piece->panels) {
        return;
    }
    const enum linear_unit unit = row_unit(run, piece);
    int64_t rows = panel_row(piece, panel + 1) - panel_row(piece, panel);
    int64_t lines = rows * divide_up(units_of(unit, k_end - k_begin), LINEAR_CHUNK), first = lines * part / parts;
    tile->ahead = packed_panel(run, piece, panel) + units_of(unit, k_begin) * rows + first * LINEAR_CHUNK;
    tile->ahead_lines = lines * (part + 1) / parts - first;
}

static void multiply_block(const struct run *run, const struct piece *piece, int64_t column_begin, int64_t columns,
                           int64_t k_begin, uint32_t *packed_b, float *area) {
    const struct linear_group *group = piece->group;
    const int64_t width = run->kernels->tile_columns;
    int64_t k_end = minimum(k_begin + run->depth_block, group->depth);
    int64_t units = units_of(run->column_unit, k_end - k_begin);
    const enum linear_unit unit = row_unit(run, piece);
    bool single = k_begin == 0 && k_end == group->depth;   // the area is needed for one tile at a time
    float column_scales[(MAX_PANELS * MAX_SCALES + MAX_SHORT_PANELS) * LINEAR_MAX_COLUMNS],
        row_scales[MAX_SCALES * LINEAR_MAX_ROWS];
    const int64_t panel_scales = divide_up(k_end - k_begin, run->scale_depth) * LINEAR_MAX_COLUMNS;
    int64_t panel_stride;
    const uint32_t *b = block_panels(run, group, column_begin, columns, k_begin, k_end, packed_b, &panel_stride);
    for (int64_t panel = 0; run->scaled && panel * width < columns; panel++) {
        load_scales(run, column_scales + panel * panel_scales, LINEAR_MAX_COLUMNS, &group->b,
                    column_begin + panel * width, minimum(width, columns - panel * width), k_begin, k_end);
    }
    for (int64_t m = 0; m < piece->panels; m++) {
        int64_t row = panel_row(piece, m), rows = panel_row(piece, m + 1) - row;
        const uint32_t *a = packed_panel(run, piece, m) + units_of(unit, k_begin) * rows;
        if (run->scaled) {
            load_scales(run, row_scales, LINEAR_MAX_ROWS, &group->a, piece->row + row, rows, k_begin, k_end);
        }
        for (int64_t panel = 0; panel * width < columns; panel++) {
            int64_t stride = single ? width : round_up(columns, width);
            struct linear_tile tile = {.a = a,
                                       .b = b + panel * panel_stride,
                                       .units = units,
                                       .scale_depth = run->scale_depth,
                                       .row_scale = run->scaled ? row_scales : NULL,
                                       .column_scale = run->scaled ? column_scales + panel * panel_scales : NULL,
                                       .rows = (int)rows,
                                       .columns = (int)minimum(width, columns - panel * width),
                                       .unit = unit == run->column_unit ? unit : UNIT_WIDE};
            ask_ahead(run, piece, m + 1, k_begin, k_end, panel, divide_up(columns, width), &tile);
            struct place place = {.area = single ? area : area + row * stride + panel * width,
                                  .area_stride = stride,
                                  .first = k_begin == 0,
                                  .last = k_end == group->depth};
            bool right = (panel + 1) * width < columns;
            int64_t next = right ? panel + 1 : 0, next_row = right ? row : row + rows;
            prefetch_c(run, group, piece->row + next_row, minimum(rows, piece->rows - next_row),
                       column_begin + next * width, minimum(width, columns - next * width));
            run_tile(run, group, piece->row + row, column_begin + panel * width, &tile, &place);
        }
    }
}

static bool is_wide(const struct linear_group *group) {
    return group->b.integers != NULL || group->b.panels;
}

// Most columns of a mapped tile.
static int64_t mapped_width(const struct run *run, const struct linear_group *group) {
    return is_wide(group) ? LINEAR_WIDE : run->kernels->mapped_columns;
}

// Columns of the tiles that shares are made of, of which a mapped tile may be two.
static int64_t shared_width(const struct run *run, const struct linear_group *group) {
    return is_wide(group) ? LINEAR_WIDE / 2 : run->kernels->mapped_columns;
}

// Columns [column, column + columns) of a mapped piece: one tile's width, or less at the end. `next`: rows of b that
// this worker reads after them, or NULL.
static void multiply_mapped(const struct run *run, const struct piece *piece, int64_t column, int64_t columns,
                            const char *next, float *area) {
    const struct linear_group *group = piece->group;
    const bool integers = group->b.integers != NULL;
    float *scales = area + LINEAR_MAX_ROWS * LINEAR_WIDE;
    if (run->scaled && !integers) {
        load_scales(run, scales, 1, &group->b, column, 1, 0, group->depth);
    }
    for (int64_t panel = 0; panel < piece->panels; panel++) {
        int64_t row = panel_row(piece, panel), rows = panel_row(piece, panel + 1) - row;
        struct linear_tile tile = {.c = area,
                                   .c_stride = LINEAR_WIDE,
                                   .a = packed_panel(run, piece, panel),
                                   .mapped = &group->b,
                                   .column = column,
                                   .depth = group->depth,
                                   .next = next,
                                   .units = units_of(run->unit, group->depth),
                                   .scale = run->scaled ? scales : NULL,
                                   .scale_depth = run->scale_depth,
                                   .rows = (int)rows,
                                   .columns = (int)columns,
                                   .unit = run->unit,
                                   .add = run->add};
        if (run->add) {
            load_c(run, group, piece->row + row, column, area, LINEAR_WIDE, rows, columns);
        }
        (integers              ? run->kernels->tile_int
         : group->b.panels     ? (run->blocks != NULL ? run->blocks->tile_panel : run->kernels->tile_panel)
         : run->blocks != NULL ? run->blocks->tile_few
                               : run->kernels->tile_mapped)(&tile);
        store_c(run, group, piece->row + row, column, area, LINEAR_WIDE, rows, columns);
    }
}

// Where the rows of b begin that are the columns from `column` on; NULL where k is not contiguous.
static const char *mapped_rows_of(const struct linear_group *group, int64_t column) {
    const struct linear_operand *b = &group->b;
    if (b->panels) {
        return b->data + column / PANEL_ROWS * panel_bytes(b->format, group->depth);
    }
    if (b->integers != NULL) {
        return (const char *)int_scales(b->integers, column / INT_TILE_ROWS, 0);
    }
    bool contiguous = b->k_stride == 1;
    return contiguous ? b->data + column * b->row_stride * format_info(b->format)->bytes : NULL;
}

static float *worker_area(const struct run *run, int worker) {
    return (float *)(void *)(run->workspace + worker * run->worker_bytes + run->columns_bytes);
}

static void release(const struct run *run) {
    if (run->blocks != NULL) {
        run->blocks->release();
    }
}

// Asks for the scales of a tile that will be next: they lie far from its weights.
static void ask_scales(const struct run *run, const struct linear_group *group, int64_t column) {
    const struct linear_operand *b = &group->b;
    if (run->scaled && b->integers == NULL) {
        const float *scale = b->scale + column / b->scale_rows * b->scale_row_stride;
        for (int64_t k = 0; k < group->depth; k += SCALES_LINE * BLOCK_SIZE) {
            __builtin_prefetch(scale + k / BLOCK_SIZE);
        }
    }
}

static int64_t shared_tiles(const struct run *run, const struct linear_group *group) {
    return divide_up(group->columns, shared_width(run, group));
}

// Takes the first tile of a share, or the first two if they make one mapped tile and enough are left for all to finish
// together. Returns how many, and of which piece; `left`: more in this share.
static int64_t take_tiles(const struct run *run, struct share *share, const struct piece **piece, int64_t *tile,
                          bool *left) {
    uint64_t tiles = atomic_load(&share->tiles);
    for (;;) {
        const int64_t first = (int64_t)(tiles >> 32), end = (int64_t)(uint32_t)tiles;
        if (first >= end) {
            return 0;
        }
        *piece = find_piece(run, first, false);
        const int64_t within = first - (*piece)->task;
        const bool both = is_wide((*piece)->group) && within % 2 == 0 && end - first >= PAIRED_TILES &&
                          within + 1 < shared_tiles(run, (*piece)->group);
        const int64_t count = both ? 2 : 1;
        if (atomic_compare_exchange_weak(&share->tiles, &tiles, tiles + ((uint64_t)count << 32))) {
            *tile = first;
            *left = end - first > count;
            return count;
        }
    }
}

// Takes the second half of what is left in the fullest share. False: nothing is left anywhere.
static bool take_half(const struct run *run, struct share *mine) {
    for (;;) {
        struct share *fullest = NULL;
        uint64_t tiles = 0;
        int64_t most = 0;
        for (int64_t i = 0; i < run->share_count; i++) {
            uint64_t found = atomic_load(&run->shares[i].tiles);
            int64_t left = (int64_t)(uint32_t)found - (int64_t)(found >> 32);
            if (left > most) {
                fullest = &run->shares[i];
                tiles = found;
                most = left;
            }
        }
        if (fullest == NULL) {
            return false;
        }
        const uint64_t end = (uint32_t)tiles, taken = (uint64_t)(most + 1) / 2;
        if (atomic_compare_exchange_strong(&fullest->tiles, &tiles, tiles - taken)) {
            atomic_store(&mine->tiles, (end - taken) << 32 | end);
            return true;
        }
    }
}

// All that a worker can get of the mapped pieces.
static void multiply_shares(void *argument, int64_t task, int worker) {
    const struct run *run = argument;
    struct share *mine = &run->shares[worker];
    (void)task;
    do {
        const struct piece *piece;
        int64_t tile, count;
        bool left;
        while ((count = take_tiles(run, mine, &piece, &tile, &left)) > 0) {
            const struct linear_group *group = piece->group;
            const int64_t width = shared_width(run, group), column = (tile - piece->task) * width;
            const int64_t after = column + count * width;
            const char *next = NULL;
            if (left) {
                const struct linear_group *following = after < group->columns ? group : piece[1].group;
                const int64_t first = after < group->columns ? after : 0;
                next = mapped_rows_of(following, first);
                ask_scales(run, following, first);
            }
            multiply_mapped(run, piece, column, minimum(count * width, group->columns - column), next,
                            worker_area(run, worker));
        }
    } while (take_half(run, mine));
    release(run);
}

static void multiply_task(void *argument, int64_t task, int worker) {
    const struct run *run = argument;
    const struct piece *piece = find_piece(run, task, false);
    int64_t begin = (task - piece->task) * piece->column_step;
    int64_t columns = minimum(piece->column_step, piece->group->columns - begin);
    float *area = worker_area(run, worker);
    if (piece->mapped) {
        int64_t width = mapped_width(run, piece->group);
        for (int64_t offset = 0; offset < columns; offset += width) {
            int64_t after = offset + width;
            multiply_mapped(run, piece, begin + offset, minimum(width, columns - offset),
                            after < columns ? mapped_rows_of(piece->group, begin + after) : NULL, area);
        }
        release(run);
        return;
    }
    char *share = run->workspace + worker * run->worker_bytes;
    for (int64_t k = 0; k < piece->group->depth; k += run->depth_block) {
        multiply_block(run, piece, begin, columns, k, (uint32_t *)(void *)share, area);
    }
    release(run);
}

// ---- Plan -----------------------------------------------------------------------------------------------------------

// c of products without terms: zero, or what it was. A task is a group.
static void clear_task(void *argument, int64_t task, int worker) {
    static const float zero[LINEAR_MAX_COLUMNS];
    const struct run *run = argument;
    const struct linear_group *group = &run->groups[task];
    (void)worker;
    if (group->depth > 0) {
        return;
    }
    for (int64_t row = 0; row < group->rows; row++) {
        for (int64_t column = 0; column < group->columns; column += LINEAR_MAX_COLUMNS) {
            store_c(run, group, row, column, zero, 0, 1, minimum(LINEAR_MAX_COLUMNS, group->columns - column));
        }
    }
}

static int64_t pieces_of(const struct linear_group *group, int64_t limit) {
    return group->rows == 0 || group->columns == 0 || group->depth == 0 ? 0 : divide_up(group->rows, limit);
}

// Of rows that a packing task takes. Where rows are contiguous, a cache line holds rows of several panels: one task
// should use all of it.
static int64_t packing_panels(const struct run *run, const struct piece *piece) {
    int64_t least = piece->group->a.k_stride == 1 ? 1 : divide_up(STRIDED_ROWS, run->tile_rows);
    int64_t panels = divide_up(PACK_UNITS, padded_units(run, piece) * run->tile_rows);
    return panels < least ? least : panels;
}

// Column steps and task numbers of pieces [0, count), and their packing tasks. Returns the number of tasks.
static int64_t plan_tasks(const struct run *run, struct piece *pieces, int64_t count, int threads,
                          int64_t *pack_tasks) {
    int64_t panels = 0, tasks = 0;
    *pack_tasks = 0;
    for (int64_t i = 0; i < count; i++) {
        panels += divide_up(pieces[i].group->columns, run->kernels->tile_columns);
    }
    int64_t step = threads > 1 ? panels / (threads * TASKS_PER_THREAD) : run->most_panels;
    step = (step < 1 ? 1 : minimum(step, run->most_panels)) * run->kernels->tile_columns;
    for (int64_t i = 0; i < count; i++) {
        struct piece *piece = &pieces[i];
        piece->task = tasks;
        piece->pack_task = *pack_tasks;
        piece->column_step = piece->mapped ? round_up(step, mapped_width(run, piece->group)) : step;
        piece->panels_per_task = packing_panels(run, piece);
        tasks += divide_up(piece->group->columns, piece->column_step);
        *pack_tasks += divide_up(piece->panels, piece->panels_per_task);
    }
    return tasks;
}

// Whether all pieces are mapped; then their column tiles are counted, numbered in piece->task, and shared out.
static bool plan_shares(struct run *run, struct piece *pieces, int64_t count) {
    int64_t tiles = 0;
    for (int64_t i = 0; i < count; i++) {
        if (!pieces[i].mapped) {
            return false;
        }
    }
    for (int64_t i = 0; i < count; i++) {
        pieces[i].task = tiles;
        tiles += shared_tiles(run, pieces[i].group);
    }
    for (int64_t i = 0; i < run->share_count; i++) {
        const uint64_t first = (uint64_t)(tiles * i / run->share_count);
        const uint64_t end = (uint64_t)(tiles * (i + 1) / run->share_count);
        atomic_store(&run->shares[i].tiles, first << 32 | end);
    }
    return true;
}

static void run_pieces(struct op_context *op, struct run *run, struct piece *pieces, int64_t count) {
    const int threads = op->pool != NULL ? pool_threads(op->pool) : 1;
    int64_t units = 0, tasks = plan_tasks(run, pieces, count, threads, &run->pack_tasks);
    run->pieces = pieces;
    run->piece_count = count;
    for (int64_t i = 0; i < count; i++) {
        units += pieces[i].units;
    }
    bool alone = units <= PACK_ALONE;
    pool_run(op->pool, alone ? 1 : run->pack_tasks, alone ? pack_alone : pack_task, run);
    if (plan_shares(run, pieces, count)) {
        pool_run(op->pool, run->share_count, multiply_shares, run);
    } else {
        pool_run(op->pool, tasks, multiply_task, run);
    }
}

// Most rows of a piece. Long pieces pack side b less often; but a BF16 output whose depth needs several blocks passes
// through the worker's F32 area, which should stay in the second cache level, packed rows are limited in all, and
// there should be tasks for all threads.
static int64_t piece_rows(const struct run *run, const struct linear_group *groups, int64_t count, int64_t most_depth,
                          int threads) {
    bool through_area = (run->c_format != FORMAT_F32 || run->blocks != NULL) && most_depth > run->depth_block;
    int64_t units = units_of(run->wide ? UNIT_F32 : run->unit, most_depth);
    int64_t limit = through_area ? AREA_ROWS : PASS_UNITS / units;
    limit = limit > MAX_PIECE_ROWS ? MAX_PIECE_ROWS : limit < AREA_ROWS ? AREA_ROWS : limit;
    for (; threads > 1 && limit > MIN_PIECE_ROWS; limit /= 2) {
        int64_t panels = 0;
        for (int64_t g = 0; g < count; g++) {
            panels += pieces_of(&groups[g], limit) * divide_up(groups[g].columns, run->kernels->tile_columns);
        }
        if (panels >= (int64_t)threads * TASKS_PER_THREAD) {
            break;
        }
    }
    return limit;
}

static bool is_scaled(enum format format) {
    return format != FORMAT_F32 && format != FORMAT_BF16;
}

// Whether few rows may read side b where it lies: it has a stride of 1, and a mapped tile has all the scales (one for
// each block of b).
static bool is_readable(const struct run *run, const struct linear_group *group) {
    bool blocks = !is_scaled(group->b.format) || group->b.format == FORMAT_E4M3_BLOCK || group->b.integers != NULL;
    bool strides = group->b.k_stride == 1 || (group->b.row_stride == 1 && run->blocks == NULL);
    return !is_scaled(group->a.format) && blocks && strides;
}

// Whether int4 is read where it lies by products of any size: its groups are short, so that tiles of packed operands
// spend much of their time on scales.
static bool is_unpacked_int4(enum linear_unit unit, const struct linear_group *group) {
    return unit == UNIT_PAIR && group->b.format == FORMAT_INT4;
}

// Most rows of a tile that reads side b of a group where it lies, and of a product that does so tile by tile: b is
// turned anew for each tile, which still costs less than packing it, unless packed operands multiply faster
// (UNIT_WIDE); integers are widened anew, which costs less than packing where they become F32 at once.
static int64_t mapped_rows(const struct run *run, const struct linear_group *group) {
    if (run->blocks != NULL) {
        return LINEAR_MOST_MAPPED;
    }
    if (group->b.panels) {
        return run->kernels->panel_rows;
    }
    bool pairs = run->unit == UNIT_PAIR && group->b.integers == NULL && group->b.k_stride == 1 &&
                 run->kernels->mapped_pairs > 0;
    return pairs ? run->kernels->mapped_pairs : LINEAR_MAX_MAPPED;
}

static int64_t most_mapped_rows(const struct run *run, const struct linear_group *group) {
    int64_t rows = mapped_rows(run, group);
    if (group->b.panels) {
        return (run->column_unit == UNIT_F32 ? CODE_TILES : PANEL_TILES) * rows;
    }
    if (is_unpacked_int4(run->unit, group)) {
        return INT4_ROWS;
    }
    bool several = group->b.integers != NULL ? run->wide : rows > LINEAR_MAX_MAPPED && !run->wide;
    return several ? LINEAR_MOST_MAPPED : rows;
}

// Cuts the groups; `pieces` has room for all. Returns the units of the largest piece's packed rows and adds up all.
static int64_t plan_pieces(const struct run *run, struct piece *pieces, const struct linear_group *groups,
                           int64_t count, int64_t limit, int64_t *total) {
    int64_t most = 0;
    *total = 0;
    for (int64_t g = 0; g < count; g++) {
        const struct linear_group *group = &groups[g];
        bool readable = is_readable(run, group);
        int64_t cuts = pieces_of(group, limit);
        for (int64_t cut = 0; cut < cuts; cut++) {
            int64_t row = group->rows * cut / cuts, rows = group->rows * (cut + 1) / cuts - row;
            struct piece *piece = pieces++;
            *piece = (struct piece){.group = group, .row = row, .rows = rows};
            piece->mapped = readable && rows <= most_mapped_rows(run, group);
            piece->panels = divide_up(rows, piece->mapped ? mapped_rows(run, group) : run->tile_rows);
            piece->units = rows * padded_units(run, piece);
            *total += piece->units;
            most = piece->units > most ? piece->units : most;
        }
    }
    return most;
}

// Bytes that a worker needs: packed columns of one block, then the F32 area (a task's outputs, or the scales of a
// mapped piece).
static void plan_workers(struct run *run, int64_t most_depth, int64_t limit) {
    int64_t columns = run->most_panels * run->kernels->tile_columns;
    int64_t block_units = units_of(run->column_unit, minimum(run->depth_block, most_depth));
    // What column_panels allows at most, which, unlike its panels times units, never falls as depth grows: a step has
    // reserved memory for its largest products.
    int64_t panel_units = run->blocks != NULL ? block_units * run->most_panels
                                              : minimum(MAX_PANELS * DEPTH_UNITS, MAX_SHORT_PANELS * block_units);
    run->columns_bytes = round_up(panel_units * run->kernels->tile_columns * 4, 64);
    int64_t area = most_depth > run->depth_block ? limit * columns : LINEAR_MAX_ROWS * LINEAR_MAX_COLUMNS;
    int64_t mapped = LINEAR_MAX_ROWS * LINEAR_WIDE + divide_up(most_depth, BLOCK_SIZE);
    run->worker_bytes = run->columns_bytes + round_up((area > mapped ? area : mapped) * 4, 64);
}

// Runs the pieces in passes, each with as many as the packed rows have room for.
static void run_passes(struct op_context *op, struct run *run, struct piece *pieces, int64_t count, int64_t room) {
    for (int64_t begin = 0, end; begin < count; begin = end) {
        int64_t used = 0;
        for (end = begin; end < count && used + pieces[end].units <= room; end++) {
            pieces[end].packed = used;
            used += pieces[end].units;
        }
        run_pieces(op, run, pieces + begin, end - begin);
    }
}

// Most column panels of a task: as many as packed take a certain part of the second cache level. Products of short
// depth, which mostly wait for c, so have long pieces of its rows.
static int64_t column_panels(const struct run *run, int64_t most_depth) {
    int64_t units = units_of(run->column_unit, minimum(run->depth_block, most_depth));
    return units == 0 ? MAX_PANELS : minimum(MAX_SHORT_PANELS, MAX_PANELS * DEPTH_UNITS / units);
}

// Units of packed columns. Where pairs are multiplied by halves, codes, which have to be widened anyway, become F32 at
// once: a tile then need not widen them again for each of its rows' panels. So does BF16 that many rows share.
static enum linear_unit units_of_columns(const struct linear_group *groups, int64_t count, bool pairs, bool wide) {
    const struct linear_operand *b = &groups[0].b;
    bool codes = b->integers != NULL || (b->panels && b->format != FORMAT_BF16);
    bool shared = count == 1 && b->format == FORMAT_BF16 && !b->panels && groups[0].rows >= FLOAT_ROWS;
    return !pairs || (wide && (codes || shared)) ? UNIT_F32 : UNIT_PAIR;
}

void linear_run(struct op_context *op, const struct linear_group *groups, int64_t count, enum format c_format,
                enum op_mode mode) {
    if (count == 0) {
        return;
    }
    const struct linear_kernels *kernels = &op->kernels->linear;
    const int threads = op->pool != NULL ? pool_threads(op->pool) : 1;
    enum format a = groups[0].a.format, b = groups[0].b.format;
    bool pairs = kernels->pairs && a != FORMAT_F32 && b != FORMAT_F32;
    const struct linear_blocks *blocks = pairs && !format_is_int(b) && kernels->blocks.tile != NULL ? &kernels->blocks
                                                                                                    : NULL;
    CHECK(!groups[0].b.panels || (pairs && kernels->tile_panel != NULL), "a weight in panels beside format %d", (int)a);
    struct run run = {.kernels = kernels,
                      .unit = pairs ? UNIT_PAIR : UNIT_F32,
                      .groups = groups,
                      .c_format = c_format,
                      .wide = pairs && kernels->wide && blocks == NULL,
                      .add = mode == OP_ADD,
                      .scaled = is_scaled(a) || is_scaled(b),
                      .column_unit = units_of_columns(groups, count, pairs, pairs && kernels->wide && blocks == NULL),
                      .blocks = blocks,
                      .tile_rows = blocks != NULL ? blocks->tile_rows : kernels->tile_rows,
                      .tile = blocks != NULL ? blocks->tile : kernels->tile,
                      .scale_depth = format_is_int(b) ? int_group(b) : BLOCK_SIZE};
    run.depth_block = run.column_unit == UNIT_PAIR ? 2 * DEPTH_UNITS : DEPTH_UNITS;
    int64_t piece_count = 0, most_depth = 0;
    bool any_empty = false;
    for (int64_t g = 0; g < count; g++) {
        most_depth = groups[g].depth > most_depth ? groups[g].depth : most_depth;
        any_empty = any_empty || groups[g].depth == 0;
    }
    if (any_empty && mode == OP_SET) {
        pool_run(op->pool, count, clear_task, &run);
    }
    run.most_panels = blocks != NULL ? blocks->most_panels : column_panels(&run, most_depth);
    int64_t limit = most_depth > 0 ? piece_rows(&run, groups, count, most_depth, threads) : 1;
    limit = is_unpacked_int4(run.unit, &groups[0]) ? minimum(limit, INT4_ROWS) : limit;
    for (int64_t g = 0; g < count; g++) {
        piece_count += pieces_of(&groups[g], limit);
    }
    if (piece_count == 0) {
        return;
    }
    struct arena_mark mark = arena_mark(op->scratch);
    struct piece *pieces = arena_allocate(op->scratch, (size_t)piece_count, sizeof *pieces);
    int64_t total, most = plan_pieces(&run, pieces, groups, count, limit, &total);
    plan_workers(&run, most_depth, limit);
    run.workspace = arena_allocate(op->scratch, (size_t)threads, (size_t)run.worker_bytes);
    run.shares = arena_allocate(op->scratch, (size_t)threads, sizeof *run.shares);
    run.share_count = threads;
    int64_t room = total < PASS_UNITS ? total : most > PASS_UNITS ? most : PASS_UNITS;
    // Behind the last panel there is room for the rows that a mapped tile may read beyond its own.
    run.packed = arena_allocate(op->scratch, (size_t)(room + LINEAR_MAX_MAPPED * LINEAR_CHUNK), sizeof *run.packed);
    run_passes(op, &run, pieces, piece_count, room);
    arena_release(op->scratch, mark);
}
