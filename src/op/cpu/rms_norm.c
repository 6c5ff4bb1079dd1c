// RMSNorm, forward and backward (spec 1.2; orders of sums in op/ops.h).
//
//   rstd = 1 / sqrt(mean(x^2) + epsilon)        y = w * (x * rstd)
//   dx   = rstd * (w*dy - x * k),  k = rstd^2 * mean(w*dy*x)
//   dw   = dw + sum over rows of dy * (x * rstd)
//
// x, y, dy, dx [T, d] F32 or BF16; w [d]; statistics FP32. Rows go to tasks; dw sums over rows, so its tasks own
// columns.
#include <math.h>

#include "op/cpu/cpu_ops.h"
#include "op/cpu/kernels.h"

#define WEIGHT_COLUMNS 128   // columns of dw per task

static void rms_norm_scalar(struct row y, struct row x, struct row w, float rstd, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        row_store(y, i, row_load(w, i) * (row_load(x, i) * rstd));
    }
}

// Lanes of (w*dy)*x + lane. Padding with zeros matters: it turns a lane of -0 into +0.
static float rms_norm_dot_scalar(struct row dy, struct row x, struct row w, int64_t n) {
    float lane[SUM_LANES] = {0};
    for (int64_t base = 0; base < n; base += SUM_LANES) {
        for (int l = 0; l < SUM_LANES; l++) {
            int64_t i = base + l;
            float g = i < n ? row_load(w, i) * row_load(dy, i) : 0.0f;
            lane[l] = fmaf(g, i < n ? row_load(x, i) : 0.0f, lane[l]);
        }
    }
    return lane_tree(lane);
}

static void rms_norm_backward_scalar(struct row dx, enum op_mode mode, struct row dy, struct row x, struct row w,
                                     float rstd, float k, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float g = row_load(w, i) * row_load(dy, i);
        float value = rstd * fmaf(-k, row_load(x, i), g);
        row_store(dx, i, mode == OP_ADD ? row_load(dx, i) + value : value);
    }
}

static void rms_norm_weight_scalar(float *dw, struct row dy, struct row x, float rstd, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        dw[i] = fmaf(row_load(dy, i), row_load(x, i) * rstd, dw[i]);
    }
}

void kernels_scalar_rms_norm(struct cpu_kernels *kernels) {
    kernels->row.rms_norm = rms_norm_scalar;
    kernels->row.rms_norm_dot = rms_norm_dot_scalar;
    kernels->row.rms_norm_backward = rms_norm_backward_scalar;
    kernels->row.rms_norm_weight = rms_norm_weight_scalar;
}

struct rms_norm_job {
    const struct row_kernels *kernels;
    struct row_split split;
    const struct tensor *y, *x, *w, *dx, *dw, *dy;
    float *rstd;
    const float *rstd_saved;
    float epsilon;
    enum op_mode mode;
};

static void rms_norm_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct rms_norm_job *job = argument;
    int64_t n = job->x->shape[1];
    struct row w = tensor_row(job->w, 0);
    for (int64_t t = row_split_begin(&job->split, task); t < row_split_end(&job->split, task); t++) {
        struct row x = tensor_row(job->x, t);
        float rstd = 1.0f / sqrtf(job->kernels->sum_squares(x, n) / (float)n + job->epsilon);
        job->kernels->rms_norm(tensor_row(job->y, t), x, w, rstd, n);
        if (job->rstd != NULL) {
            job->rstd[t] = rstd;
        }
    }
}

void cpu_rms_norm(struct op_context *op, struct tensor *y, float *rstd, const struct tensor *x, const struct tensor *w,
                  float epsilon) {
    struct rms_norm_job job = {.kernels = &op->kernels->row,
                               .split = row_split_make(x->shape[0], x->shape[1]),
                               .y = y,
                               .x = x,
                               .w = w,
                               .rstd = rstd,
                               .epsilon = epsilon};
    pool_run(op->pool, job.split.tasks, rms_norm_task, &job);
}

static void rms_norm_backward_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct rms_norm_job *job = argument;
    int64_t n = job->x->shape[1];
    struct row w = tensor_row(job->w, 0);
    for (int64_t t = row_split_begin(&job->split, task); t < row_split_end(&job->split, task); t++) {
        struct row x = tensor_row(job->x, t), dy = tensor_row(job->dy, t);
        float rstd = job->rstd_saved[t];
        float k = rstd * rstd * (job->kernels->rms_norm_dot(dy, x, w, n) / (float)n);
        job->kernels->rms_norm_backward(tensor_row(job->dx, t), job->mode, dy, x, w, rstd, k, n);
    }
}

static void rms_norm_weight_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct rms_norm_job *job = argument;
    int64_t begin = row_split_begin(&job->split, task), n = row_split_end(&job->split, task) - begin;
    for (int64_t t = 0; t < job->x->shape[0]; t++) {
        job->kernels->rms_norm_weight((float *)job->dw->data + begin, row_advance(tensor_row(job->dy, t), begin),
                                      row_advance(tensor_row(job->x, t), begin), job->rstd_saved[t], n);
    }
}

void cpu_rms_norm_backward(struct op_context *op, struct tensor *dx, enum op_mode mode, struct tensor *dw,
                           const struct tensor *dy, const struct tensor *x, const struct tensor *w, const float *rstd) {
    struct rms_norm_job job = {
        .kernels = &op->kernels->row, .x = x, .w = w, .dx = dx, .dw = dw, .dy = dy, .rstd_saved = rstd, .mode = mode};
    if (dw != NULL) {   // first, because dx may alias dy or x
        int64_t columns = x->shape[1];
        job.split = (struct row_split){
            .rows = columns, .chunk = WEIGHT_COLUMNS, .tasks = (columns + WEIGHT_COLUMNS - 1) / WEIGHT_COLUMNS};
        pool_run(op->pool, job.split.tasks, rms_norm_weight_task, &job);
    }
    job.split = row_split_make(x->shape[0], x->shape[1]);
    pool_run(op->pool, job.split.tasks, rms_norm_backward_task, &job);
}
