// Packed products: tiles of side b packed block by block of k, or straight from panels of BF16, by packed rows. See
// linear_run.h.
#include "op/cpu/kernels.h"
#include "op/cpu/linear_run.h"
#include "tensor/formats.h"
#include "tensor/panels.h"

#define MAX_SCALES (2 * LINEAR_DEPTH_UNITS / INT4_GROUP)

static char *c_address(const struct linear_run *run, const struct linear_group *group, int64_t row, int64_t column) {
    int64_t offset = row * group->c_row_stride + column * group->c_column_stride;
    return group->c + offset * format_info(run->c_format)->bytes;
}

void linear_store_c(const struct linear_run *run, const struct linear_group *group, int64_t row, int64_t column,
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

void linear_load_c(const struct linear_run *run, const struct linear_group *group, int64_t row, int64_t column,
                   float *area, int64_t stride, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < rows; i++) {
        const float *c = (const float *)(void *)c_address(run, group, row + i, column);
        for (int64_t j = 0; j < columns; j++) {
            area[i * stride + j] = c[j * group->c_column_stride];
        }
    }
}

// ---- Products -------------------------------------------------------------------------------------------------------

void linear_load_scales(const struct linear_run *run, float *scale, int64_t stride,
                        const struct linear_operand *operand, int64_t row, int64_t rows, int64_t k_begin,
                        int64_t k_end) {
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
static void prefetch_c(const struct linear_run *run, const struct linear_group *group, int64_t row, int64_t rows,
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

static void run_tile(const struct linear_run *run, const struct linear_group *group, int64_t row, int64_t column,
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
        linear_load_c(run, group, row, column, tile->c, tile->c_stride, tile->rows, tile->columns);
    }
    run->tile(tile);
    if (place->last) {
        linear_store_c(run, group, row, column, tile->c, tile->c_stride, tile->rows, tile->columns);
    }
}

// Columns [column, column + columns) of b, k in [k_begin, k_end), as panels of `units` units.
static void pack_block(const struct linear_run *run, const struct linear_operand *b, int64_t column, int64_t columns,
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
static const uint32_t *block_panels(const struct linear_run *run, const struct linear_group *group, int64_t column,
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
static void ask_ahead(const struct linear_run *run, const struct linear_piece *piece, int64_t panel, int64_t k_begin,
                      int64_t k_end, int64_t part, int64_t parts, struct linear_tile *tile) {
    if (panel == piece->panels) {
        return;
    }
    const enum linear_unit unit = row_unit(run, piece);
    int64_t rows = panel_row(piece, panel + 1) - panel_row(piece, panel);
    int64_t lines = rows * divide_up(units_of(unit, k_end - k_begin), LINEAR_CHUNK), first = lines * part / parts;
    tile->ahead = packed_panel(run, piece, panel) + units_of(unit, k_begin) * rows + first * LINEAR_CHUNK;
    tile->ahead_lines = lines * (part + 1) / parts - first;
}

static void multiply_block(const struct linear_run *run, const struct linear_piece *piece, int64_t column_begin,
                           int64_t columns, int64_t k_begin, uint32_t *packed_b, float *area) {
    const struct linear_group *group = piece->group;
    const int64_t width = run->kernels->tile_columns;
    int64_t k_end = minimum(k_begin + run->depth_block, group->depth);
    int64_t units = units_of(run->column_unit, k_end - k_begin);
    const enum linear_unit unit = row_unit(run, piece);
    bool single = k_begin == 0 && k_end == group->depth;   // the area is needed for one tile at a time
    float column_scales[(LINEAR_MAX_PANELS * MAX_SCALES + LINEAR_MAX_SHORT_PANELS) * LINEAR_MAX_COLUMNS],
        row_scales[MAX_SCALES * LINEAR_MAX_ROWS];
    const int64_t panel_scales = divide_up(k_end - k_begin, run->scale_depth) * LINEAR_MAX_COLUMNS;
    int64_t panel_stride;
    const uint32_t *b = block_panels(run, group, column_begin, columns, k_begin, k_end, packed_b, &panel_stride);
    for (int64_t panel = 0; run->scaled && panel * width < columns; panel++) {
        linear_load_scales(run, column_scales + panel * panel_scales, LINEAR_MAX_COLUMNS, &group->b,
                           column_begin + panel * width, minimum(width, columns - panel * width), k_begin, k_end);
    }
    for (int64_t m = 0; m < piece->panels; m++) {
        int64_t row = panel_row(piece, m), rows = panel_row(piece, m + 1) - row;
        const uint32_t *a = packed_panel(run, piece, m) + units_of(unit, k_begin) * rows;
        if (run->scaled) {
            linear_load_scales(run, row_scales, LINEAR_MAX_ROWS, &group->a, piece->row + row, rows, k_begin, k_end);
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

void linear_multiply_packed(const struct linear_run *run, const struct linear_piece *piece, int64_t begin,
                            int64_t columns, int worker) {
    char *share = run->workspace + worker * run->worker_bytes;
    for (int64_t k = 0; k < piece->group->depth; k += run->depth_block) {
        multiply_block(run, piece, begin, columns, k, (uint32_t *)(void *)share, worker_area(run, worker));
    }
}
