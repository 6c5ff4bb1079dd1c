// Moving rows: gather, scatter, weighted combination, copies with a change of format, sums, zeros.
#include <math.h>
#include <string.h>

#include "op/cpu/cpu_ops.h"
#include "op/cpu/kernels.h"

static void copy_scalar(struct row y, struct row x, int64_t n) {
    if (y.format == x.format) {
        memmove(y.data, x.data, (size_t)n * (y.format == FORMAT_BF16 ? 2 : 4));
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        row_store(y, i, row_load(x, i));
    }
}

static void accumulate_scalar(float *y, struct row x, float weight, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        y[i] = fmaf(weight, row_load(x, i), y[i]);
    }
}

void kernels_scalar_rows(struct cpu_kernels *kernels) {
    kernels->row.copy = copy_scalar;
    kernels->row.accumulate = accumulate_scalar;
}

struct rows_job {
    const struct row_kernels *kernels;
    struct row_split split;
    const struct tensor *y, *x, *b;
    const int32_t *rows;
    const float *weight;
    int64_t top_k;
    enum op_mode mode;
};

static void gather_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct rows_job *job = argument;
    for (int64_t i = row_split_begin(&job->split, task); i < row_split_end(&job->split, task); i++) {
        int32_t row = job->rows[i];
        CHECK(row >= 0 && row < job->x->shape[0], "row %d of %lld", row, (long long)job->x->shape[0]);
        job->kernels->copy(tensor_row(job->y, i), tensor_row(job->x, row), job->y->shape[1]);
    }
}

void cpu_gather_rows(struct op_context *op, struct tensor *y, const struct tensor *x, const int32_t *rows) {
    struct rows_job job = {
        .kernels = &op->kernels->row, .split = row_split_make(y->shape[0], y->shape[1]), .y = y, .x = x, .rows = rows};
    pool_run(op->pool, job.split.tasks, gather_task, &job);
}

static void scatter_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct rows_job *job = argument;
    for (int64_t i = row_split_begin(&job->split, task); i < row_split_end(&job->split, task); i++) {
        int32_t row = job->rows[i];
        CHECK(row >= 0 && row < job->y->shape[0], "row %d of %lld", row, (long long)job->y->shape[0]);
        job->kernels->copy(tensor_row(job->y, row), tensor_row(job->x, i), job->x->shape[1]);
    }
}

void cpu_scatter_rows(struct op_context *op, struct tensor *y, const struct tensor *x, const int32_t *rows) {
    struct rows_job job = {
        .kernels = &op->kernels->row, .split = row_split_make(x->shape[0], x->shape[1]), .y = y, .x = x, .rows = rows};
    pool_run(op->pool, job.split.tasks, scatter_task, &job);
}

static void combine_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct rows_job *job = argument;
    int64_t n = job->y->shape[1];
    for (int64_t t = row_split_begin(&job->split, task); t < row_split_end(&job->split, task); t++) {
        float *y = float_row(job->y, t);
        if (job->mode == OP_SET) {
            memset(y, 0, (size_t)n * sizeof *y);
        }
        for (int64_t k = t * job->top_k; k < (t + 1) * job->top_k; k++) {
            int32_t slot = job->rows[k];
            if (slot >= 0) {
                CHECK(slot < job->x->shape[0], "slot %d of %lld", slot, (long long)job->x->shape[0]);
                job->kernels->accumulate(y, tensor_row(job->x, slot), job->weight != NULL ? job->weight[k] : 1.0f, n);
            }
        }
    }
}

void cpu_combine_rows(struct op_context *op, struct tensor *y, const struct tensor *x, const int32_t *slot,
                      const float *weight, int64_t top_k, enum op_mode mode) {
    struct rows_job job = {.kernels = &op->kernels->row,
                           .split = row_split_make(y->shape[0], y->shape[1] * (top_k + 1)),
                           .y = y,
                           .x = x,
                           .rows = slot,
                           .weight = weight,
                           .top_k = top_k,
                           .mode = mode};
    pool_run(op->pool, job.split.tasks, combine_task, &job);
}

// Rows of a tensor of rank 1..3, as (a, b) -> a * stride_a + b * stride_b elements from data, each of `columns`
// elements.
struct row_grid {
    char *data;
    int64_t count, inner, columns, stride_outer, stride_inner;
    int bytes;
};

static struct row_grid row_grid_make(const struct tensor *tensor) {
    int rank = tensor->rank;
    struct row_grid grid = {.data = tensor->data,
                            .inner = 1,
                            .columns = tensor->shape[rank - 1],
                            .bytes = format_info((enum format)tensor->format)->bytes};
    int64_t outer = 1;
    if (rank >= 2) {
        grid.inner = tensor->shape[rank - 2];
        grid.stride_inner = tensor->stride[rank - 2];
    }
    if (rank >= 3) {
        outer = tensor->shape[rank - 3];
        grid.stride_outer = tensor->stride[rank - 3];
    }
    grid.count = outer * grid.inner;
    return grid;
}

static void *row_grid_data(const struct row_grid *grid, int64_t index) {
    int64_t outer = index / grid->inner, inner = index % grid->inner;
    return grid->data + (outer * grid->stride_outer + inner * grid->stride_inner) * grid->bytes;
}

static struct row row_grid_row(const struct row_grid *grid, const struct tensor *tensor, int64_t index) {
    return (struct row){.data = row_grid_data(grid, index), .format = (enum format)tensor->format};
}

static void copy_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct rows_job *job = argument;
    struct row_grid to = row_grid_make(job->y), from = row_grid_make(job->x);
    for (int64_t i = row_split_begin(&job->split, task); i < row_split_end(&job->split, task); i++) {
        if (job->x->format == FORMAT_E4M3_BLOCK && job->y->format == FORMAT_F32) {
            format_info(FORMAT_E4M3_BLOCK)->widen(row_grid_data(&to, i), job->x, i, 0, to.columns);
        } else if (job->x->format == job->y->format) {
            memmove(row_grid_data(&to, i), row_grid_data(&from, i), (size_t)(to.columns * to.bytes));
        } else {
            job->kernels->copy(row_grid_row(&to, job->y, i), row_grid_row(&from, job->x, i), to.columns);
        }
    }
}

void cpu_copy(struct op_context *op, struct tensor *y, const struct tensor *x) {
    struct row_grid grid = row_grid_make(y);
    struct rows_job job = {
        .kernels = &op->kernels->row, .split = row_split_make(grid.count, grid.columns), .y = y, .x = x};
    pool_run(op->pool, job.split.tasks, copy_task, &job);
}

static void add_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct rows_job *job = argument;
    struct row_grid to = row_grid_make(job->y), from = row_grid_make(job->x);
    for (int64_t i = row_split_begin(&job->split, task); i < row_split_end(&job->split, task); i++) {
        job->kernels->accumulate(row_grid_data(&to, i), row_grid_row(&from, job->x, i), 1.0f, to.columns);
    }
}

void cpu_add(struct op_context *op, struct tensor *y, const struct tensor *x) {
    struct row_grid grid = row_grid_make(y);
    struct rows_job job = {
        .kernels = &op->kernels->row, .split = row_split_make(grid.count, grid.columns), .y = y, .x = x};
    pool_run(op->pool, job.split.tasks, add_task, &job);
}

// By parts that stay in the first cache level: one pass over memory.
#define SUM_PART 256
static void sum_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct rows_job *job = argument;
    const struct row_kernels *kernels = job->kernels;
    int64_t columns = job->y->shape[1];
    float part[SUM_PART];
    const struct row sum = {.data = part, .format = FORMAT_F32};
    for (int64_t i = row_split_begin(&job->split, task); i < row_split_end(&job->split, task); i++) {
        struct row y = tensor_row(job->y, i), a = tensor_row(job->x, i), b = tensor_row(job->b, i);
        for (int64_t at = 0; at < columns; at += SUM_PART) {
            int64_t n = columns - at < SUM_PART ? columns - at : SUM_PART;
            kernels->copy(sum, row_advance(a, at), n);
            kernels->accumulate(part, row_advance(b, at), 1.0f, n);
            kernels->copy(row_advance(y, at), sum, n);
        }
    }
}

void cpu_sum(struct op_context *op, struct tensor *y, const struct tensor *a, const struct tensor *b) {
    struct rows_job job = {
        .kernels = &op->kernels->row, .split = row_split_make(y->shape[0], y->shape[1]), .y = y, .x = a, .b = b};
    pool_run(op->pool, job.split.tasks, sum_task, &job);
}

static void zero_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct rows_job *job = argument;
    struct row_grid to = row_grid_make(job->y);
    for (int64_t i = row_split_begin(&job->split, task); i < row_split_end(&job->split, task); i++) {
        memset(row_grid_data(&to, i), 0, (size_t)(to.columns * to.bytes));
    }
}

void cpu_zero(struct op_context *op, struct tensor *y) {
    struct row_grid grid = row_grid_make(y);
    struct rows_job job = {.kernels = &op->kernels->row, .split = row_split_make(grid.count, grid.columns), .y = y};
    pool_run(op->pool, job.split.tasks, zero_task, &job);
}
