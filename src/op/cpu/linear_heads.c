// op_linear_heads of few rows with transposed BF16 weights, whose columns are contiguous (W_UK of absorbed attention):
// a task walks a head's weights once, front to back, as memory likes it, and keeps its sums in the first cache level.
// Everything else is a matrix product like others (linear.c). The chains are the same.
#include <string.h>

#include "op/cpu/cpu_ops.h"
#include "op/cpu/kernels.h"
#include "tensor/formats.h"

#define MOST_ROWS 32   // above, packing pays
#define STEP \
    16   // rows of w at a time: what is walked over for each part of the columns stays in the first cache level
#define AHEAD 2   // steps that are asked for before their turn

struct heads_job {
    const struct cpu_kernels *kernels;
    const struct tensor *y, *x, *w;
    uint32_t *factor;   // [workers][rows][k / 2]
    float *sum;         // [workers][rows][columns]
};

bool cpu_linear_heads_served(const struct op_context *op, const struct tensor *y, const struct tensor *x,
                             const struct tensor *w) {
    bool bf16 = y->format == FORMAT_BF16 && x->format == FORMAT_BF16 && w->format == FORMAT_BF16;   // not panels
    bool strides = w->stride[1] == 1 && w->stride[2] >= w->shape[1] && x->stride[2] == 1 && y->stride[2] == 1;
    bool sizes = x->shape[0] <= MOST_ROWS && w->shape[1] % ROWS_COLUMNS == 0 && w->shape[2] % 2 == 0;
    // Products in blocks have an order of their own, which more rows than these would have.
    bool chains = op->kernels->linear.blocks.tile == NULL;
    return chains && op->kernels->attention_bf16.accumulate_rows != NULL && bf16 && strides && sizes;
}

static void heads_task(void *argument, int64_t head, int worker) {
    const struct heads_job *job = argument;
    const struct attention_kernels *kernels = &job->kernels->attention_bf16;
    const int64_t rows = job->x->shape[0], columns = job->w->shape[1], depth = job->w->shape[2];
    const int64_t stride = job->w->stride[2], words = depth / 2;
    uint32_t *factor = job->factor + worker * rows * words;
    float *sum = job->sum + worker * rows * columns;
    struct row w = row_advance((struct row){.data = job->w->data, .format = FORMAT_BF16}, head * job->w->stride[0]);
    kernels->pack_queries(factor, words, tensor_head_row(job->x, 0, head), job->x->stride[0], depth, rows);
    memset(sum, 0, (size_t)(rows * columns) * sizeof *sum);
    for (int64_t k = 0; k < depth; k += STEP) {
        int64_t count = depth - k < STEP ? depth - k : STEP;
        for (int64_t i = 0; i < count; i++) {
            memory_touch(row_advance(w, (k + i) * stride).data, columns * 2);
        }
        struct key_lines none = {0};
        for (int64_t row = 0; row < rows; row += ROWS_AT_ONCE) {
            kernels->accumulate_rows(sum + row * columns, columns, factor + row * words + k / 2, words,
                                     row_advance(w, k * stride), stride, columns,
                                     rows - row < ROWS_AT_ONCE ? rows - row : ROWS_AT_ONCE, count, &none);
        }
    }
    for (int64_t row = 0; row < rows; row++) {
        job->kernels->linear.narrow(tensor_head_row(job->y, row, head).data, sum + row * columns, columns);
    }
}

void cpu_linear_heads(struct op_context *op, struct tensor *y, const struct tensor *x, const struct tensor *w) {
    struct arena_mark mark = arena_mark(op->scratch);
    size_t workers = (size_t)pool_threads(op->pool), rows = (size_t)x->shape[0];
    struct heads_job job = {.kernels = op->kernels, .y = y, .x = x, .w = w};
    job.factor = arena_allocate(op->scratch, workers * rows * (size_t)w->shape[2] / 2, sizeof *job.factor);
    job.sum = arena_allocate(op->scratch, workers * rows * (size_t)w->shape[1], sizeof *job.sum);
    pool_run(op->pool, w->shape[0], heads_task, &job);
    arena_release(op->scratch, mark);
}
