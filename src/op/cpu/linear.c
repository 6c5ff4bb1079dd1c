// Driver of the matrix products: cuts groups into pieces, plans tasks, packs rows, hands the rest out (linear_run.h).
#include "op/cpu/linear.h"

#include <string.h>

#include "base/error.h"
#include "op/cpu/kernels.h"
#include "op/cpu/linear_run.h"
#include "tensor/formats.h"
#include "tensor/int_groups.h"
#include "tensor/panels.h"

#define MIN_PIECE_ROWS 128   // when there are more threads than tasks
#define AREA_ROWS 512        // when outputs pass through the F32 area of a worker
#define MAX_PIECE_ROWS 4096
#define INT4_ROWS 512          // of a piece with int4: its packed rows are read once for each 16 columns
#define PASS_UNITS (1 << 24)   // packed units of side a at a time (64 MiB)
#define PACK_UNITS (1 << 13)   // least work of a packing task
#define STRIDED_ROWS 64        // least rows of a packing task where rows, not k, are contiguous
#define PACK_ALONE (1 << 15)   // units that one thread packs in the time that it takes to call the others
#define TASKS_PER_THREAD 4     // for balance
#define PANEL_TILES 2          // of few rows before the packed way pays for a weight in panels,
#define CODE_TILES 4           // for one whose codes become F32
#define FLOAT_ROWS 1024        // that share packed columns from which on F32 pays for BF16

static void pack_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct linear_run *run = argument;
    const struct linear_piece *piece = find_piece(run, task, true);
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
    const struct linear_run *run = argument;
    for (task = 0; task < run->pack_tasks; task++) {
        pack_task(argument, task, worker);
    }
}

static void multiply_task(void *argument, int64_t task, int worker) {
    const struct linear_run *run = argument;
    const struct linear_piece *piece = find_piece(run, task, false);
    int64_t begin = (task - piece->task) * piece->column_step;
    int64_t columns = minimum(piece->column_step, piece->group->columns - begin);
    (piece->mapped ? linear_multiply_mapped : linear_multiply_packed)(run, piece, begin, columns, worker);
    release(run);
}

// ---- Plan -----------------------------------------------------------------------------------------------------------

// c of products without terms: zero, or what it was. A task is a group.
static void clear_task(void *argument, int64_t task, int worker) {
    static const float zero[LINEAR_MAX_COLUMNS];
    const struct linear_run *run = argument;
    const struct linear_group *group = &run->groups[task];
    (void)worker;
    if (group->depth > 0) {
        return;
    }
    for (int64_t row = 0; row < group->rows; row++) {
        for (int64_t column = 0; column < group->columns; column += LINEAR_MAX_COLUMNS) {
            linear_store_c(run, group, row, column, zero, 0, 1, minimum(LINEAR_MAX_COLUMNS, group->columns - column));
        }
    }
}

static int64_t pieces_of(const struct linear_group *group, int64_t limit) {
    return group->rows == 0 || group->columns == 0 || group->depth == 0 ? 0 : divide_up(group->rows, limit);
}

// Of rows that a packing task takes. Where rows are contiguous, a cache line holds rows of several panels: one task
// should use all of it.
static int64_t packing_panels(const struct linear_run *run, const struct linear_piece *piece) {
    int64_t least = piece->group->a.k_stride == 1 ? 1 : divide_up(STRIDED_ROWS, run->tile_rows);
    int64_t panels = divide_up(PACK_UNITS, padded_units(run, piece) * run->tile_rows);
    return panels < least ? least : panels;
}

// Column steps and task numbers of pieces [0, count), and their packing tasks. Returns the number of tasks.
static int64_t plan_tasks(const struct linear_run *run, struct linear_piece *pieces, int64_t count, int threads,
                          int64_t *pack_tasks) {
    int64_t panels = 0, tasks = 0;
    *pack_tasks = 0;
    for (int64_t i = 0; i < count; i++) {
        panels += divide_up(pieces[i].group->columns, run->kernels->tile_columns);
    }
    int64_t step = threads > 1 ? panels / (threads * TASKS_PER_THREAD) : run->most_panels;
    step = (step < 1 ? 1 : minimum(step, run->most_panels)) * run->kernels->tile_columns;
    for (int64_t i = 0; i < count; i++) {
        struct linear_piece *piece = &pieces[i];
        piece->task = tasks;
        piece->pack_task = *pack_tasks;
        piece->column_step = piece->mapped ? round_up(step, mapped_width(run, piece->group)) : step;
        piece->panels_per_task = packing_panels(run, piece);
        tasks += divide_up(piece->group->columns, piece->column_step);
        *pack_tasks += divide_up(piece->panels, piece->panels_per_task);
    }
    return tasks;
}

static void run_pieces(struct op_context *op, struct linear_run *run, struct linear_piece *pieces, int64_t count) {
    const int threads = op->pool != NULL ? pool_threads(op->pool) : 1;
    int64_t units = 0, tasks = plan_tasks(run, pieces, count, threads, &run->pack_tasks);
    run->pieces = pieces;
    run->piece_count = count;
    for (int64_t i = 0; i < count; i++) {
        units += pieces[i].units;
    }
    bool alone = units <= PACK_ALONE;
    pool_run(op->pool, alone ? 1 : run->pack_tasks, alone ? pack_alone : pack_task, run);
    if (linear_share_out(run, pieces, count)) {
        pool_run(op->pool, run->share_count, linear_multiply_shares, run);
    } else {
        pool_run(op->pool, tasks, multiply_task, run);
    }
}

// Most rows of a piece. Long pieces pack side b less often; but a BF16 output whose depth needs several blocks passes
// through the worker's F32 area, which should stay in the second cache level, packed rows are limited in all, and
// there should be tasks for all threads.
static int64_t piece_rows(const struct linear_run *run, const struct linear_group *groups, int64_t count,
                          int64_t most_depth, int threads) {
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
static bool is_readable(const struct linear_run *run, const struct linear_group *group) {
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
static int64_t mapped_rows(const struct linear_run *run, const struct linear_group *group) {
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

static int64_t most_mapped_rows(const struct linear_run *run, const struct linear_group *group) {
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
static int64_t plan_pieces(const struct linear_run *run, struct linear_piece *pieces, const struct linear_group *groups,
                           int64_t count, int64_t limit, int64_t *total) {
    int64_t most = 0;
    *total = 0;
    for (int64_t g = 0; g < count; g++) {
        const struct linear_group *group = &groups[g];
        bool readable = is_readable(run, group);
        int64_t cuts = pieces_of(group, limit);
        for (int64_t cut = 0; cut < cuts; cut++) {
            int64_t row = group->rows * cut / cuts, rows = group->rows * (cut + 1) / cuts - row;
            struct linear_piece *piece = pieces++;
            *piece = (struct linear_piece){.group = group, .row = row, .rows = rows};
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
static void plan_workers(struct linear_run *run, int64_t most_depth, int64_t limit) {
    int64_t columns = run->most_panels * run->kernels->tile_columns;
    int64_t block_units = units_of(run->column_unit, minimum(run->depth_block, most_depth));
    // What column_panels allows at most, which, unlike its panels times units, never falls as depth grows: a step has
    // reserved memory for its largest products.
    int64_t panel_units = run->blocks != NULL
                              ? block_units * run->most_panels
                              : minimum(LINEAR_MAX_PANELS * LINEAR_DEPTH_UNITS, LINEAR_MAX_SHORT_PANELS * block_units);
    run->columns_bytes = round_up(panel_units * run->kernels->tile_columns * 4, 64);
    int64_t area = most_depth > run->depth_block ? limit * columns : LINEAR_MAX_ROWS * LINEAR_MAX_COLUMNS;
    int64_t mapped = LINEAR_MAX_ROWS * LINEAR_WIDE + divide_up(most_depth, BLOCK_SIZE);
    run->worker_bytes = run->columns_bytes + round_up((area > mapped ? area : mapped) * 4, 64);
}

// Runs the pieces in passes, each with as many as the packed rows have room for.
static void run_passes(struct op_context *op, struct linear_run *run, struct linear_piece *pieces, int64_t count,
                       int64_t room) {
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
static int64_t column_panels(const struct linear_run *run, int64_t most_depth) {
    int64_t units = units_of(run->column_unit, minimum(run->depth_block, most_depth));
    return units == 0 ? LINEAR_MAX_PANELS
                      : minimum(LINEAR_MAX_SHORT_PANELS, LINEAR_MAX_PANELS * LINEAR_DEPTH_UNITS / units);
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
    struct linear_run run = {
        .kernels = kernels,
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
    run.depth_block = run.column_unit == UNIT_PAIR ? 2 * LINEAR_DEPTH_UNITS : LINEAR_DEPTH_UNITS;
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
    struct linear_piece *pieces = arena_allocate(op->scratch, (size_t)piece_count, sizeof *pieces);
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
