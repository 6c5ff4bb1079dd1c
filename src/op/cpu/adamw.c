// AdamW on packed tensors (spec 6.1): F32 master weights, moments BF16 or F32, decoupled weight decay. Per element,
// with g = gradient * gradient_scale and the moments widened to F32:
//
//   m' = beta1*m + ((1 - beta1) * g)          v' = beta2*v + (((1 - beta2) * g) * g)
//   r  = (m' / correction1) / (sqrt(v' / correction2) + epsilon)
//   w' = -learning_rate*(weight_decay*w + r) + w
//
// ("a*b + c" is one fused multiply-add, every other operation rounds.) m' and v' are stored rounded to nearest even,
// but this step uses them unrounded. The weight tensor, if there is one, receives w' rounded to its format: one in
// blocks is quantised while the new masters of a row of blocks are still in a cache.
#include <math.h>

#include "op/cpu/cpu_ops.h"
#include "op/cpu/kernels.h"

#define ADAMW_CHUNK 8192   // elements per task
#define ADAMW_WIDTH 1024   // most columns of a weight in blocks whose rows of blocks are tasks

static void adamw_scalar(float *master, struct row m, struct row v, struct row weight, const float *gradient,
                         const struct adamw_step *step, int64_t n) {
    float rest1 = 1.0f - step->beta1, rest2 = 1.0f - step->beta2;
    for (int64_t i = 0; i < n; i++) {
        float g = gradient[i] * step->gradient_scale;
        float first = fmaf(step->beta1, row_load(m, i), rest1 * g);
        float second = fmaf(step->beta2, row_load(v, i), rest2 * g * g);
        float ratio = first / step->correction1 / (sqrtf(second / step->correction2) + step->epsilon);
        float updated = fmaf(-step->learning_rate, fmaf(step->weight_decay, master[i], ratio), master[i]);
        row_store(m, i, first);
        row_store(v, i, second);
        master[i] = updated;
        if (weight.data != NULL) {
            row_store(weight, i, updated);
        }
    }
}

static void ema_scalar(float *average, const float *master, float decay, int64_t n) {
    float rest = 1.0f - decay;
    for (int64_t i = 0; i < n; i++) {
        average[i] = fmaf(decay, average[i], rest * master[i]);
    }
}

void kernels_scalar_adamw(struct cpu_kernels *kernels) {
    kernels->row.adamw = adamw_scalar;
    kernels->row.ema = ema_scalar;
}

struct adamw_job {
    const struct row_kernels *kernels;
    struct row_split split;
    float *master;
    struct row m, v, weight;
    const float *gradient;
    const struct adamw_step *step;
    float decay;
    const struct quantize_kernels *quantize;   // of a weight in blocks, with the two tensors
    const struct tensor *blocks, *masters;
};

static void adamw_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct adamw_job *job = argument;
    int64_t begin = row_split_begin(&job->split, task), n = row_split_end(&job->split, task) - begin;
    job->kernels->adamw(job->master + begin, row_advance(job->m, begin), row_advance(job->v, begin),
                        row_advance(job->weight, begin), job->gradient + begin, job->step, n);
}

// A row of blocks of a weight in blocks: one run of each array, then the codes.
static void adamw_blocks_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct adamw_job *job = argument;
    int64_t rows = job->masters->shape[0], columns = job->masters->shape[1];
    int64_t across = (columns + BLOCK_SIZE - 1) / BLOCK_SIZE, row = task * BLOCK_SIZE, begin = row * columns;
    int64_t n = (rows - row < BLOCK_SIZE ? rows - row : BLOCK_SIZE) * columns;
    job->kernels->adamw(job->master + begin, row_advance(job->m, begin), row_advance(job->v, begin), (struct row){0},
                        job->gradient + begin, job->step, n);
    for (int64_t block = task * across; block < (task + 1) * across; block++) {
        quantize_block(job->quantize, job->blocks, job->masters, job->step->power_of_two, block);
    }
}

static struct row packed_row(const struct tensor *tensor) {
    return tensor != NULL ? (struct row){.data = tensor->data, .format = (enum format)tensor->format} : (struct row){0};
}

static struct row_split element_split(int64_t elements) {
    return (struct row_split){
        .rows = elements, .chunk = ADAMW_CHUNK, .tasks = (elements + ADAMW_CHUNK - 1) / ADAMW_CHUNK};
}

void cpu_adamw(struct op_context *op, struct tensor *master, struct tensor *m, struct tensor *v, struct tensor *weight,
               const struct tensor *gradient, const struct adamw_step *step) {
    struct adamw_job job = {.kernels = &op->kernels->row,
                            .split = element_split(tensor_elements(master)),
                            .master = master->data,
                            .m = packed_row(m),
                            .v = packed_row(v),
                            .gradient = gradient->data,
                            .step = step,
                            .quantize = &op->kernels->quantize,
                            .blocks = weight,
                            .masters = master};
    bool blocks = weight != NULL && weight->format == FORMAT_E4M3_BLOCK;
    int64_t tasks = blocks ? (master->shape[0] + BLOCK_SIZE - 1) / BLOCK_SIZE : 0;
    if (blocks && master->shape[1] <= ADAMW_WIDTH && tasks >= (op->pool != NULL ? pool_threads(op->pool) : 1)) {
        pool_run(op->pool, tasks, adamw_blocks_task, &job);
        return;
    }
    job.weight = packed_row(blocks ? NULL : weight);
    pool_run(op->pool, job.split.tasks, adamw_task, &job);
    if (blocks) {   // a row of them would not stay in the second cache level; narrower tasks read memory in short runs
        cpu_quantize_blocks(op, weight, master, step->power_of_two);
    }
}

static void ema_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct adamw_job *job = argument;   // master is the average, gradient the weights it follows
    int64_t begin = row_split_begin(&job->split, task), n = row_split_end(&job->split, task) - begin;
    job->kernels->ema(job->master + begin, job->gradient + begin, job->decay, n);
}

void cpu_ema(struct op_context *op, struct tensor *average, const struct tensor *master, float decay) {
    struct adamw_job job = {.kernels = &op->kernels->row,
                            .split = element_split(tensor_elements(master)),
                            .master = average->data,
                            .gradient = master->data,
                            .decay = decay};
    pool_run(op->pool, job.split.tasks, ema_task, &job);
}
