// Cross-entropy over logits F32 [T, V], targets[t] in [0, V) or -1 (ignored).
//
//   m = largest logit;  sum = blocks of SUM_BLOCK elements ascending, each the lanes of exp(x - m)
//   loss[t]    = ln(sum) + (m - x[target])
//   dlogits[t] = scale * (exp(x - m) * (1 / sum) - onehot)      F32 (may be the logits themselves) or BF16; zeros for
//   an ignored row
#include <math.h>
#include <string.h>

#include "base/math.h"
#include "op/cpu/cpu_ops.h"
#include "op/cpu/kernels.h"

#define SUM_BLOCK 1024   // part of the definition of the bits

static float maximum_scalar(const float *x, int64_t n) {
    float largest = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        largest = x[i] > largest ? x[i] : largest;
    }
    return largest;
}

static float exp_sum_scalar(float *y, const float *x, float maximum, int64_t n) {
    float lane[SUM_LANES] = {0};
    for (int64_t i = 0; i < n; i++) {
        float value = math_exp(x[i] - maximum);
        lane[i % SUM_LANES] = lane[i % SUM_LANES] + value;
        if (y != NULL) {
            y[i] = value;
        }
    }
    return lane_tree(lane);
}

static void softmax_gradient_scalar(struct row y, const float *x, float maximum, float inverse, float scale,
                                    int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        row_store(y, i, scale * (math_exp(x[i] - maximum) * inverse));
    }
}

void kernels_scalar_cross_entropy(struct cpu_kernels *kernels) {
    kernels->row.maximum = maximum_scalar;
    kernels->row.exp_sum = exp_sum_scalar;
    kernels->row.softmax_gradient = softmax_gradient_scalar;
}

static float softmax_row(const struct row_kernels *kernels, float *y, float *maximum, const float *x, int64_t n) {
    *maximum = kernels->maximum(x, n);
    float sum = 0.0f;
    for (int64_t begin = 0; begin < n; begin += SUM_BLOCK) {
        int64_t some = n - begin < SUM_BLOCK ? n - begin : SUM_BLOCK;
        sum += kernels->exp_sum(y != NULL ? y + begin : NULL, x + begin, *maximum, some);
    }
    return sum;
}

float cpu_row_maximum(const struct op_context *op, const float *x, int64_t n) {
    return op->kernels->row.maximum(x, n);
}

float cpu_softmax_row(const struct op_context *op, float *y, float *maximum, const float *x, int64_t n) {
    return softmax_row(&op->kernels->row, y, maximum, x, n);
}

struct cross_entropy_job {
    const struct row_kernels *kernels;
    struct row_split split;
    const struct tensor *dlogits, *logits;
    const int32_t *targets;
    float *loss;
    float scale;
};

static void cross_entropy_row(const struct cross_entropy_job *job, int64_t t) {
    int64_t vocabulary = job->logits->shape[1];
    int32_t target = job->targets[t];
    CHECK(target >= -1 && target < vocabulary, "target %d, vocabulary %lld", target, (long long)vocabulary);
    struct row gradient = job->dlogits != NULL ? tensor_row(job->dlogits, t) : (struct row){0};
    if (target < 0) {
        job->loss[t] = 0.0f;
        if (gradient.data != NULL) {
            memset(gradient.data, 0, (size_t)vocabulary * (gradient.format == FORMAT_BF16 ? 2 : 4));
        }
        return;
    }
    const float *x = float_row(job->logits, t);
    float maximum, sum = softmax_row(job->kernels, NULL, &maximum, x, vocabulary);
    job->loss[t] = math_log(sum) + (maximum - x[target]);
    if (gradient.data != NULL) {
        float inverse = 1.0f / sum;
        float at_target = job->scale * (math_exp(x[target] - maximum) * inverse - 1.0f);
        job->kernels->softmax_gradient(gradient, x, maximum, inverse, job->scale, vocabulary);
        row_store(gradient, target, at_target);
    }
}

static void cross_entropy_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct cross_entropy_job *job = argument;
    for (int64_t t = row_split_begin(&job->split, task); t < row_split_end(&job->split, task); t++) {
        cross_entropy_row(job, t);
    }
}

void cpu_cross_entropy(struct op_context *op, float *loss, struct tensor *dlogits, const struct tensor *logits,
                       const int32_t *targets, float scale) {
    struct cross_entropy_job job = {.kernels = &op->kernels->row,
                                    .split = row_split_make(logits->shape[0], logits->shape[1]),
                                    .dlogits = dlogits,
                                    .logits = logits,
                                    .targets = targets,
                                    .loss = loss,
                                    .scale = scale};
    pool_run(op->pool, job.split.tasks, cross_entropy_task, &job);
}
