// SwiGLU, forward and backward, on rows of F32 or BF16 (computed in FP32); weight is one number per row or absent (1).
//
//   r  = 1 / (1 + exp(-gate))      s = gate * r
//   y  = weight * (s * up)
//   with e = weight * dy:   dup = e * s      dgate = (e * up) * (r * (gate * (1 - r) + 1))
//   dweight = lanes of dy * (s*up) + lane
#include <math.h>

#include "base/math.h"
#include "op/cpu/cpu_ops.h"
#include "op/cpu/kernels.h"

static void swiglu_scalar(struct row y, struct row gate, struct row up, float weight, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float g = row_load(gate, i);
        float s = g * math_sigmoid(g);
        row_store(y, i, weight * (s * row_load(up, i)));
    }
}

static void swiglu_backward_scalar(struct row dgate, struct row dup, struct row y, float *lane, struct row dy,
                                   struct row gate, struct row up, float weight, int64_t n) {
    for (int64_t base = 0; base < n; base += SUM_LANES) {
        for (int l = 0; l < SUM_LANES; l++) {
            int64_t i = base + l;
            if (i >= n) {
                lane[l] = fmaf(0.0f, 0.0f, lane[l]);
                continue;
            }
            float g = row_load(gate, i), u = row_load(up, i), d = row_load(dy, i);
            float r = math_sigmoid(g), s = g * r, e = weight * d;
            lane[l] = fmaf(d, s * u, lane[l]);
            row_store(dgate, i, (e * u) * (r * fmaf(g, 1.0f - r, 1.0f)));
            row_store(dup, i, e * s);
            if (y.data != NULL) {
                row_store(y, i, weight * (s * u));
            }
        }
    }
}

void kernels_scalar_swiglu(struct cpu_kernels *kernels) {
    kernels->row.swiglu = swiglu_scalar;
    kernels->row.swiglu_backward = swiglu_backward_scalar;
}

struct swiglu_job {
    const struct row_kernels *kernels;
    struct row_split split;
    const struct tensor *y, *gate, *up, *dgate, *dup, *dy;
    const float *weight;
    float *dweight;
};

static void swiglu_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct swiglu_job *job = argument;
    for (int64_t t = row_split_begin(&job->split, task); t < row_split_end(&job->split, task); t++) {
        job->kernels->swiglu(tensor_row(job->y, t), tensor_row(job->gate, t), tensor_row(job->up, t),
                             job->weight != NULL ? job->weight[t] : 1.0f, job->y->shape[1]);
    }
}

void cpu_swiglu(struct op_context *op, struct tensor *y, const struct tensor *gate, const struct tensor *up,
                const float *weight) {
    struct swiglu_job job = {.kernels = &op->kernels->row,
                             .split = row_split_make(y->shape[0], y->shape[1]),
                             .y = y,
                             .gate = gate,
                             .up = up,
                             .weight = weight};
    pool_run(op->pool, job.split.tasks, swiglu_task, &job);
}

static void swiglu_backward_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct swiglu_job *job = argument;
    for (int64_t t = row_split_begin(&job->split, task); t < row_split_end(&job->split, task); t++) {
        float lane[SUM_LANES] = {0};
        job->kernels->swiglu_backward(tensor_row(job->dgate, t), tensor_row(job->dup, t), (struct row){0}, lane,
                                      tensor_row(job->dy, t), tensor_row(job->gate, t), tensor_row(job->up, t),
                                      job->weight != NULL ? job->weight[t] : 1.0f, job->dy->shape[1]);
        if (job->dweight != NULL) {
            job->dweight[t] = lane_tree(lane);
        }
    }
}

void cpu_swiglu_backward(struct op_context *op, struct tensor *dgate, struct tensor *dup, float *dweight,
                         const struct tensor *dy, const struct tensor *gate, const struct tensor *up,
                         const float *weight) {
    struct swiglu_job job = {.kernels = &op->kernels->row,
                             .split = row_split_make(dy->shape[0], dy->shape[1]),
                             .gate = gate,
                             .up = up,
                             .dgate = dgate,
                             .dup = dup,
                             .dy = dy,
                             .weight = weight,
                             .dweight = dweight};
    pool_run(op->pool, job.split.tasks, swiglu_backward_task, &job);
}
