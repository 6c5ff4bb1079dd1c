// Sums over one tensor: sum of squares and the test for finite values of packed F32 tensors; also the dot product of
// two rows.
//   sum of squares: blocks of SUM_BLOCK elements, each by lanes (row_kernels.h), the blocks added in double, ascending.
#include <math.h>
#include <string.h>

#include "base/arena.h"
#include "op/cpu/cpu_ops.h"
#include "op/cpu/kernels.h"

#define SUM_BLOCK 4096   // part of the definition of the bits
#define BLOCKS_PER_TASK 4

static float sum_squares_scalar(struct row x, int64_t n) {
    float lane[SUM_LANES] = {0};
    for (int64_t i = 0; i < n; i++) {
        float value = row_load(x, i);
        lane[i % SUM_LANES] = fmaf(value, value, lane[i % SUM_LANES]);
    }
    return lane_tree(lane);
}

// Padding with zeros matters: it turns a lane of -0 into +0.
static float dot_scalar(struct row a, struct row b, int64_t n) {
    float lane[SUM_LANES] = {0};
    for (int64_t base = 0; base < n; base += SUM_LANES) {
        for (int l = 0; l < SUM_LANES; l++) {
            int64_t i = base + l;
            lane[l] = i < n ? fmaf(row_load(a, i), row_load(b, i), lane[l]) : fmaf(0.0f, 0.0f, lane[l]);
        }
    }
    return lane_tree(lane);
}

static bool all_finite_scalar(const float *x, int64_t n) {
    bool finite = true;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        finite = finite && (bits & 0x7f800000u) != 0x7f800000u;
    }
    return finite;
}

void kernels_scalar_reduce(struct cpu_kernels *kernels) {
    kernels->row.sum_squares = sum_squares_scalar;
    kernels->row.dot = dot_scalar;
    kernels->row.all_finite = all_finite_scalar;
}

struct reduce_job {
    const struct row_kernels *kernels;
    struct row_split split;   // of blocks
    float *x;
    float *results;   // per block
    int64_t elements;
};

static int64_t block_elements(const struct reduce_job *job, int64_t block) {
    int64_t left = job->elements - block * SUM_BLOCK;
    return left < SUM_BLOCK ? left : SUM_BLOCK;
}

static void sum_squares_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct reduce_job *job = argument;
    for (int64_t b = row_split_begin(&job->split, task); b < row_split_end(&job->split, task); b++) {
        job->results[b] = job->kernels->sum_squares(row_of_floats(job->x + b * SUM_BLOCK), block_elements(job, b));
    }
}

static void all_finite_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct reduce_job *job = argument;
    for (int64_t b = row_split_begin(&job->split, task); b < row_split_end(&job->split, task); b++) {
        job->results[b] = job->kernels->all_finite(job->x + b * SUM_BLOCK, block_elements(job, b)) ? 0.0f : 1.0f;
    }
}

// Runs `task` over the blocks and adds their results in double, ascending.
static double reduce_blocks(struct op_context *op, const struct tensor *x,
                            void (*task)(void *argument, int64_t task, int worker)) {
    int64_t elements = tensor_elements(x), blocks = (elements + SUM_BLOCK - 1) / SUM_BLOCK;
    struct arena_mark mark = arena_mark(op->scratch);
    struct reduce_job job = {.kernels = &op->kernels->row, .x = x->data, .elements = elements};
    job.split = (struct row_split){
        .rows = blocks, .chunk = BLOCKS_PER_TASK, .tasks = (blocks + BLOCKS_PER_TASK - 1) / BLOCKS_PER_TASK};
    job.results = arena_allocate(op->scratch, (size_t)blocks, sizeof *job.results);
    pool_run(op->pool, job.split.tasks, task, &job);
    double sum = 0.0;
    for (int64_t b = 0; b < blocks; b++) {
        sum += (double)job.results[b];
    }
    arena_release(op->scratch, mark);
    return sum;
}

double cpu_sum_squares(struct op_context *op, const struct tensor *x) {
    return reduce_blocks(op, x, sum_squares_task);
}

bool cpu_all_finite(struct op_context *op, const struct tensor *x) {
    return reduce_blocks(op, x, all_finite_task) == 0.0;
}
