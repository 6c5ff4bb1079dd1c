// Products of few rows whose side b is read where it lies, tile by tile: tasks of a piece, or shares of all pieces. See
// linear_run.h.
#include "op/cpu/kernels.h"
#include "op/cpu/linear_run.h"
#include "tensor/formats.h"
#include "tensor/panels.h"

#define SCALES_LINE 16   // scales of a cache line

// Columns of the tiles that shares are made of, of which a mapped tile may be two.
static int64_t shared_width(const struct linear_run *run, const struct linear_group *group) {
    return is_wide(group) ? LINEAR_WIDE / 2 : run->kernels->mapped_columns;
}

// Columns [column, column + columns) of a mapped piece: one tile's width, or less at the end. `next`: rows of b that
// this worker reads after them, or NULL.
static void multiply_tile(const struct linear_run *run, const struct linear_piece *piece, int64_t column,
                          int64_t columns, const char *next, float *area) {
    const struct linear_group *group = piece->group;
    const bool integers = group->b.integers != NULL;
    float *scales = area + LINEAR_MAX_ROWS * LINEAR_WIDE;
    if (run->scaled && !integers) {
        linear_load_scales(run, scales, 1, &group->b, column, 1, 0, group->depth);
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
            linear_load_c(run, group, piece->row + row, column, area, LINEAR_WIDE, rows, columns);
        }
        (integers              ? run->kernels->tile_int
         : group->b.panels     ? (run->blocks != NULL ? run->blocks->tile_panel : run->kernels->tile_panel)
         : run->blocks != NULL ? run->blocks->tile_few
                               : run->kernels->tile_mapped)(&tile);
        linear_store_c(run, group, piece->row + row, column, area, LINEAR_WIDE, rows, columns);
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

void linear_multiply_mapped(const struct linear_run *run, const struct linear_piece *piece, int64_t begin,
                            int64_t columns, int worker) {
    const int64_t width = mapped_width(run, piece->group);
    for (int64_t offset = 0; offset < columns; offset += width) {
        int64_t after = offset + width;
        multiply_tile(run, piece, begin + offset, minimum(width, columns - offset),
                      after < columns ? mapped_rows_of(piece->group, begin + after) : NULL, worker_area(run, worker));
    }
}

// ---- Shares ---------------------------------------------------------------------------------------------------------

// Asks for the scales of a tile that will be next: they lie far from its weights.
static void ask_scales(const struct linear_run *run, const struct linear_group *group, int64_t column) {
    const struct linear_operand *b = &group->b;
    if (run->scaled && b->integers == NULL) {
        const float *scale = b->scale + column / b->scale_rows * b->scale_row_stride;
        for (int64_t k = 0; k < group->depth; k += SCALES_LINE * BLOCK_SIZE) {
            __builtin_prefetch(scale + k / BLOCK_SIZE);
        }
    }
}

static int64_t shared_tiles(const struct linear_run *run, const struct linear_group *group) {
    return divide_up(group->columns, shared_width(run, group));
}

// Takes the first tile of a share, or the first two if they make one mapped tile. Returns how many, and of which piece;
// `left`: more in this share.
static int64_t take_tiles(const struct linear_run *run, struct linear_share *share, const struct linear_piece **piece,
                          int64_t *tile, bool *left) {
    uint64_t tiles = atomic_load(&share->tiles);
    for (;;) {
        const int64_t first = (int64_t)(tiles >> 32), end = (int64_t)(uint32_t)tiles;
        if (first >= end) {
            return 0;
        }
        *piece = find_piece(run, first, false);
        const int64_t within = first - (*piece)->task;
        const bool both = is_wide((*piece)->group) && within % 2 == 0 && end - first >= 2 &&
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
static bool take_half(const struct linear_run *run, struct linear_share *mine) {
    for (;;) {
        struct linear_share *fullest = NULL;
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
void linear_multiply_shares(void *argument, int64_t task, int worker) {
    const struct linear_run *run = argument;
    struct linear_share *mine = &run->shares[worker];
    (void)task;
    do {
        const struct linear_piece *piece;
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
            multiply_tile(run, piece, column, minimum(count * width, group->columns - column), next,
                          worker_area(run, worker));
        }
    } while (take_half(run, mine));
    release(run);
}

bool linear_share_out(struct linear_run *run, struct linear_piece *pieces, int64_t count) {
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
