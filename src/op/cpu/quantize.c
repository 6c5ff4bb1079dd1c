// Quantisation to E4M3 and E5M6 (op/ops.h): scalar kernels, and how rows, tiles of columns and blocks are split over
// the pool. Every tile is one task's.
#include "op/cpu/quantize.h"

#include <string.h>

#include "op/cpu/cpu_ops.h"
#include "op/cpu/kernels.h"

#define EXPANDED_COLUMNS 64   // of a task whose source is multiplied out first

static float larger_magnitude(float value, float amax) {
    float magnitude = value < 0.0f ? -value : value;
    return magnitude > amax ? magnitude : amax;   // a NaN never wins
}

static float largest_scalar(struct row x, int64_t n) {
    float amax = 0.0f;
    for (int64_t i = 0; i < n; i++) {
        amax = larger_magnitude(row_load(x, i), amax);
    }
    return amax;
}

static void narrow_scalar(uint8_t *codes, struct row x, float scale, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        codes[i] = e4m3_narrow(row_load(x, i) / scale);
    }
}

static void tiles_scalar(uint8_t *codes, float *scale, struct row x, int64_t n, bool power_of_two) {
    for (int64_t i = 0; i < n; i += BLOCK_SIZE) {
        int64_t left = n - i < BLOCK_SIZE ? n - i : BLOCK_SIZE;
        *scale = e4m3_scale(largest_scalar(row_advance(x, i), left), power_of_two);
        narrow_scalar(codes + i, row_advance(x, i), *scale, left);
        scale++;
    }
}

static void widen_scalar(struct row y, const uint8_t *codes, float scale, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        row_store(y, i, e4m3_widen(codes[i]) * scale);
    }
}

static float source_value(const struct quantize_columns_source *source, int64_t i, int64_t column) {
    int64_t at = i * source->x_stride + column;
    if (source->x.format == FORMAT_E4M3_TILE) {
        return e4m3_widen(((const uint8_t *)source->x.data)[at]) *
               source->tile_scale[i * source->tile_scale_stride + column / BLOCK_SIZE];
    }
    return row_load(source->x, at);
}

static void columns_scalar(uint8_t *codes, int64_t code_stride, float *scale,
                           const struct quantize_columns_source *source, int64_t rows, int64_t columns,
                           bool power_of_two) {
    for (int64_t column = 0; column < columns; column++) {
        float amax = 0.0f;
        for (int64_t i = 0; i < rows; i++) {
            amax = larger_magnitude(source_value(source, i, column), amax);
        }
        scale[column] = e4m3_scale(amax, power_of_two);
        for (int64_t i = 0; i < rows; i++) {
            codes[i * code_stride + column] = e4m3_narrow(source_value(source, i, column) / scale[column]);
        }
    }
}

static void narrow_e5m6_scalar(uint8_t *low, uint8_t *high, struct row x, float scale, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        unsigned code = e5m6_narrow(row_load(x, i) / scale);
        low[i] = (uint8_t)code;
        high[i / 2] = (uint8_t)(i % 2 == 0 ? code >> 8 : high[i / 2] | code >> 8 << 4);
    }
}

static void widen_e5m6_scalar(struct row y, const uint8_t *low, const uint8_t *high, float scale, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        unsigned top = (unsigned)high[i / 2] >> i % 2 * 4 & 15u;
        row_store(y, i, e5m6_widen((uint16_t)(low[i] | top << 8)) * scale);
    }
}

void kernels_scalar_quantize(struct cpu_kernels *kernels) {
    kernels->quantize = (struct quantize_kernels){largest_scalar, narrow_scalar,      widen_scalar,     tiles_scalar,
                                                  columns_scalar, narrow_e5m6_scalar, widen_e5m6_scalar};
}

struct quantize_job {
    const struct cpu_kernels *kernels;
    struct row_split split;
    const struct tensor *out, *x;
    const struct quantize_tile *tiles;   // of columns
    const struct tensor *row_tiles;      // both ways
    const int32_t *rows;                 // of x, gathered; NULL: in order
    bool power_of_two;
};

static uint8_t *code_row(const struct tensor *tensor, int64_t row) {
    return (uint8_t *)tensor->data + row * tensor->stride[0];
}

static float *scale_row(const struct tensor *tensor, int64_t row) {
    return tensor->scale + row * tensor->scale_stride;
}

static int64_t tile_end(int64_t begin, int64_t size) {
    return size - begin < BLOCK_SIZE ? size - begin : BLOCK_SIZE;
}

// ---- 1 x 128 --------------------------------------------------------------------------------------------------------

void quantize_row(const struct quantize_kernels *kernels, const struct tensor *out, int64_t row, int64_t column,
                  struct row x, int64_t count, bool power_of_two) {
    float *scale = scale_row(out, row) + column / BLOCK_SIZE;
    if (out->format == FORMAT_E4M3_TILE) {
        kernels->tiles(code_row(out, row) + column, scale, x, count, power_of_two);
        return;
    }
    for (int64_t done = 0; done < count; done += BLOCK_SIZE) {
        struct row tile = row_advance(x, done);
        int64_t n = tile_end(done, count), at = column + done;
        *scale = e5m6_scale(kernels->largest(tile, n));
        kernels->narrow_e5m6(code_row(out, row) + at, e5m6_high(out, row) + at / 2, tile, *scale, n);
        scale++;
    }
}

static void narrow_row(const struct quantize_kernels *kernels, const struct tensor *out, int64_t row, struct row x,
                       bool power_of_two) {
    quantize_row(kernels, out, row, 0, x, out->shape[1], power_of_two);
}

static void rows_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct quantize_job *job = argument;
    for (int64_t i = row_split_begin(&job->split, task); i < row_split_end(&job->split, task); i++) {
        narrow_row(&job->kernels->quantize, job->out, i, tensor_row(job->x, i), job->power_of_two);
    }
}

void cpu_quantize_rows(struct op_context *op, struct tensor *out, const struct tensor *x, bool power_of_two) {
    struct quantize_job job = {.kernels = op->kernels,
                               .split = row_split_make(x->shape[0], x->shape[1]),
                               .out = out,
                               .x = x,
                               .power_of_two = power_of_two};
    pool_run(op->pool, job.split.tasks, rows_task, &job);
}

void dequantize_row(const struct quantize_kernels *kernels, struct row y, const struct tensor *x, int64_t row,
                    int64_t column, int64_t count) {
    for (int64_t done = 0; done < count;) {
        int64_t at = column + done, n = BLOCK_SIZE - at % BLOCK_SIZE;
        n = n < count - done ? n : count - done;
        float scale = scale_row(x, row)[at / BLOCK_SIZE];
        if (x->format == FORMAT_E5M6_TILE) {
            kernels->widen_e5m6(row_advance(y, done), code_row(x, row) + at, e5m6_high(x, row) + at / 2, scale, n);
        } else {
            kernels->widen(row_advance(y, done), code_row(x, row) + at, scale, n);
        }
        done += n;
    }
}

static void dequantize_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct quantize_job *job = argument;
    for (int64_t i = row_split_begin(&job->split, task); i < row_split_end(&job->split, task); i++) {
        dequantize_row(&job->kernels->quantize, tensor_row(job->out, i), job->x, i, 0, job->x->shape[1]);
    }
}

void cpu_dequantize_rows(struct op_context *op, struct tensor *y, const struct tensor *x) {
    struct quantize_job job = {
        .kernels = op->kernels, .split = row_split_make(x->shape[0], x->shape[1]), .out = y, .x = x};
    pool_run(op->pool, job.split.tasks, dequantize_task, &job);
}

// ---- 128 x 1 --------------------------------------------------------------------------------------------------------

struct quantize_tile *quantize_tiles(struct op_context *op, const int32_t *offsets, int64_t groups, int64_t *count) {
    int64_t most = groups > 0 ? op_column_tiles_most(offsets[groups] - offsets[0], groups) : 0;
    struct quantize_tile *tiles = arena_allocate(op->scratch, (size_t)most, sizeof *tiles);
    *count = 0;
    for (int64_t g = 0; g < groups; g++) {
        for (int64_t row = offsets[g]; row < offsets[g + 1]; row += BLOCK_SIZE) {
            tiles[(*count)++] = (struct quantize_tile){row, tile_end(row, offsets[g + 1])};
        }
    }
    return tiles;
}

void quantize_column_tile(const struct quantize_kernels *kernels, const struct tensor *out, int64_t index,
                          const struct quantize_tile *tile, int64_t column, struct row x, int64_t stride, int64_t count,
                          bool power_of_two) {
    const struct quantize_columns_source source = {.x = x, .x_stride = stride};
    kernels->columns(code_row(out, tile->row) + column, out->stride[0], scale_row(out, index) + column, &source,
                     tile->rows, count, power_of_two);
}

// Columns of a task: E5M6 is multiplied out on the stack.
static int64_t task_columns(const struct tensor *x) {
    return x->format == FORMAT_E5M6_TILE ? EXPANDED_COLUMNS : QUANTIZE_COLUMNS;
}

// A task is up to task_columns columns of one tile of rows.
static void columns_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct quantize_job *job = argument;
    int64_t columns = job->x->shape[1], step = task_columns(job->x), chunks = (columns + step - 1) / step;
    int64_t index = task / chunks, column = task % chunks * step;
    const struct quantize_tile *tile = &job->tiles[index];
    int64_t count = columns - column < step ? columns - column : step;
    struct quantize_columns_source source = {.x_stride = job->x->stride[0]};
    float values[BLOCK_SIZE * EXPANDED_COLUMNS];
    if (job->x->format == FORMAT_E5M6_TILE) {
        for (int64_t i = 0; i < tile->rows; i++) {
            dequantize_row(&job->kernels->quantize, row_of_floats(values + i * EXPANDED_COLUMNS), job->x, tile->row + i,
                           column, count);
        }
        source.x = row_of_floats(values);
        source.x_stride = EXPANDED_COLUMNS;
    } else if (job->x->format == FORMAT_E4M3_TILE) {
        source.x = (struct row){code_row(job->x, tile->row) + column, FORMAT_E4M3_TILE};
        source.tile_scale = scale_row(job->x, tile->row) + column / BLOCK_SIZE;
        source.tile_scale_stride = job->x->scale_stride;
    } else {
        source.x = row_advance(tensor_row(job->x, tile->row), column);
    }
    job->kernels->quantize.columns(code_row(job->out, tile->row) + column, job->out->stride[0],
                                   scale_row(job->out, index) + column, &source, tile->rows, count, job->power_of_two);
}

void cpu_quantize_columns(struct op_context *op, struct tensor *out, const struct tensor *x, const int32_t *offsets,
                          int64_t groups, bool power_of_two) {
    struct arena_mark mark = arena_mark(op->scratch);
    int64_t step = task_columns(x), chunks = (x->shape[1] + step - 1) / step, count;
    struct quantize_tile *tiles = quantize_tiles(op, offsets, groups, &count);
    struct quantize_job job = {
        .kernels = op->kernels, .out = out, .x = x, .tiles = tiles, .power_of_two = power_of_two};
    pool_run(op->pool, count * chunks, columns_task, &job);
    arena_release(op->scratch, mark);
}

// ---- 1 x 128 and 128 x 1 --------------------------------------------------------------------------------------------

// A task is up to QUANTIZE_COLUMNS columns of a tile of 128 rows, which the second pass finds in a cache. Rows from
// anywhere are put beside each other first.
static void both_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct quantize_job *job = argument;
    const struct quantize_kernels *kernels = &job->kernels->quantize;
    int64_t columns = job->x->shape[1], chunks = (columns + QUANTIZE_COLUMNS - 1) / QUANTIZE_COLUMNS;
    int64_t index = task / chunks, column = task % chunks * QUANTIZE_COLUMNS, stride = job->x->stride[0];
    int64_t count = columns - column < QUANTIZE_COLUMNS ? columns - column : QUANTIZE_COLUMNS;
    const struct quantize_tile *tile = &job->tiles[index];
    _Alignas(64) float gathered[BLOCK_SIZE * QUANTIZE_COLUMNS];
    struct row first = row_advance(tensor_row(job->x, job->rows != NULL ? 0 : tile->row), column);
    if (job->rows != NULL) {
        first.data = gathered;
        stride = QUANTIZE_COLUMNS;
    }
    for (int64_t i = 0; i < tile->rows; i++) {
        struct row x = row_advance(first, i * stride);
        if (job->rows != NULL) {
            int32_t from = job->rows[tile->row + i];
            CHECK(from >= 0 && from < job->x->shape[0], "row %d of %lld", from, (long long)job->x->shape[0]);
            job->kernels->row.copy(x, row_advance(tensor_row(job->x, from), column), count);
        }
        quantize_row(kernels, job->row_tiles, tile->row + i, column, x, count, job->power_of_two);
    }
    quantize_column_tile(kernels, job->out, index, tile, column, first, stride, count, job->power_of_two);
}

void cpu_quantize_both(struct op_context *op, struct tensor *tiles, struct tensor *out, const struct tensor *x,
                       const int32_t *rows, const int32_t *offsets, int64_t groups, bool power_of_two) {
    struct arena_mark mark = arena_mark(op->scratch);
    int64_t count, chunks = (x->shape[1] + QUANTIZE_COLUMNS - 1) / QUANTIZE_COLUMNS;
    struct quantize_job job = {.kernels = op->kernels,
                               .out = out,
                               .x = x,
                               .tiles = quantize_tiles(op, offsets, groups, &count),
                               .row_tiles = tiles,
                               .rows = rows,
                               .power_of_two = power_of_two};
    pool_run(op->pool, count * chunks, both_task, &job);
    arena_release(op->scratch, mark);
}

// ---- 128 x 128 ------------------------------------------------------------------------------------------------------

void quantize_block(const struct quantize_kernels *kernels, const struct tensor *out, const struct tensor *x,
                    bool power_of_two, int64_t block) {
    int64_t rows = x->shape[0], columns = x->shape[1], across = (columns + BLOCK_SIZE - 1) / BLOCK_SIZE;
    int64_t row = block / across * BLOCK_SIZE, column = block % across * BLOCK_SIZE;
    int64_t height = tile_end(row, rows), width = tile_end(column, columns);
    float amax = 0.0f;
    for (int64_t i = row; i < row + height; i++) {
        amax = larger_magnitude(kernels->largest(row_advance(tensor_row(x, i), column), width), amax);
    }
    float scale = e4m3_scale(amax, power_of_two);
    scale_row(out, block / across)[block % across] = scale;
    for (int64_t i = row; i < row + height; i++) {
        kernels->narrow(code_row(out, i) + column, row_advance(tensor_row(x, i), column), scale, width);
    }
}

static void blocks_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct quantize_job *job = argument;
    quantize_block(&job->kernels->quantize, job->out, job->x, job->power_of_two, task);
}

void cpu_quantize_blocks(struct op_context *op, struct tensor *out, const struct tensor *x, bool power_of_two) {
    struct quantize_job job = {.kernels = op->kernels, .out = out, .x = x, .power_of_two = power_of_two};
    int64_t down = (x->shape[0] + BLOCK_SIZE - 1) / BLOCK_SIZE, across = (x->shape[1] + BLOCK_SIZE - 1) / BLOCK_SIZE;
    pool_run(op->pool, down * across, blocks_task, &job);
}

// ---- Moving ---------------------------------------------------------------------------------------------------------

struct moving_job {
    const struct cpu_kernels *kernels;
    struct row_split split;
    const struct tensor *y, *x;
    const int32_t *rows;
};

static int64_t moved_row(const struct moving_job *job, int64_t i, const struct tensor *tensor) {
    int32_t row = job->rows[i];
    CHECK(row >= 0 && row < tensor->shape[0], "row %d of %lld", row, (long long)tensor->shape[0]);
    return row;
}

static void gather_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct moving_job *job = argument;
    for (int64_t i = row_split_begin(&job->split, task); i < row_split_end(&job->split, task); i++) {
        int64_t row = moved_row(job, i, job->x);
        memcpy(code_row(job->y, i), code_row(job->x, row), (size_t)job->x->shape[1]);
        memcpy(scale_row(job->y, i), scale_row(job->x, row),
               (size_t)((job->x->shape[1] + BLOCK_SIZE - 1) / BLOCK_SIZE) * sizeof(float));
    }
}

static void scatter_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct moving_job *job = argument;
    for (int64_t i = row_split_begin(&job->split, task); i < row_split_end(&job->split, task); i++) {
        narrow_row(&job->kernels->quantize, job->y, moved_row(job, i, job->y), tensor_row(job->x, i), true);
    }
}

static void move_rows(struct op_context *op, void (*task)(void *argument, int64_t task, int worker), struct tensor *y,
                      const struct tensor *x, const int32_t *rows, int64_t count) {
    struct moving_job job = {
        .kernels = op->kernels, .split = row_split_make(count, y->shape[1]), .y = y, .x = x, .rows = rows};
    pool_run(op->pool, job.split.tasks, task, &job);
}

void cpu_gather_tiles(struct op_context *op, struct tensor *y, const struct tensor *x, const int32_t *rows) {
    move_rows(op, gather_task, y, x, rows, y->shape[0]);
}

void cpu_scatter_tiles(struct op_context *op, struct tensor *y, const struct tensor *x, const int32_t *rows) {
    move_rows(op, scatter_task, y, x, rows, x->shape[0]);
}
