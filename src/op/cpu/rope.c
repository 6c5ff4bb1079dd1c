// Rotary position embedding on interleaved pairs, in place (spec 3.3): pair i of position p turns by the angle whose
// cosine and sine stand in table[p, i, :]. inverse turns back, which is the backward pass.
//
//   y0 = x0*c - (x1*s)      y1 = x1*c + (x0*s)        the bracket rounds first, the rest is one fused multiply-add
#include <math.h>

#include "op/cpu/cpu_ops.h"
#include "op/cpu/kernels.h"

static void rope_scalar(struct row x, const float *table, float sign, int64_t pairs) {
    for (int64_t i = 0; i < pairs; i++) {
        float c = table[2 * i], s = table[2 * i + 1] * sign;
        float x0 = row_load(x, 2 * i), x1 = row_load(x, 2 * i + 1);
        row_store(x, 2 * i, fmaf(x0, c, -(x1 * s)));
        row_store(x, 2 * i + 1, fmaf(x1, c, x0 * s));
    }
}

void kernels_scalar_rope(struct cpu_kernels *kernels) {
    kernels->row.rope = rope_scalar;
}

struct rope_job {
    const struct row_kernels *kernels;
    struct row_split split;
    const struct tensor *x, *table;
    const int32_t *positions;
    float sign;
};

static void rope_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct rope_job *job = argument;
    const struct tensor *x = job->x, *table = job->table;
    for (int64_t t = row_split_begin(&job->split, task); t < row_split_end(&job->split, task); t++) {
        int32_t position = job->positions[t];
        CHECK(position >= 0 && position < table->shape[0], "position %d, table of %lld", position,
              (long long)table->shape[0]);
        const float *angles = (const float *)table->data + position * table->stride[0];
        for (int64_t h = 0; h < x->shape[1]; h++) {
            job->kernels->rope(tensor_head_row(x, t, h), angles, job->sign, table->shape[1]);
        }
    }
}

void cpu_rope(struct op_context *op, struct tensor *x, const int32_t *positions, const struct tensor *table,
              bool inverse) {
    struct rope_job job = {.kernels = &op->kernels->row,
                           .split = row_split_make(x->shape[0], x->shape[1] * x->shape[2]),
                           .x = x,
                           .table = table,
                           .positions = positions,
                           .sign = inverse ? -1.0f : 1.0f};
    pool_run(op->pool, job.split.tasks, rope_task, &job);
}
