// Interleaving of weights (tensor/panels.h), a panel a task.
#include "op/cpu/cpu_ops.h"
#include "op/cpu/kernels.h"
#include "tensor/panels.h"

struct interleaving {
    const struct linear_kernels *kernels;
    struct tensor *out;
    const struct tensor *source;
};

static void interleave_task(void *argument, int64_t panel, int worker) {
    const struct interleaving *job = argument;
    (void)worker;
    job->kernels->fill_panel(job->out, job->source, panel);
}

void cpu_interleave(struct op_context *op, struct tensor *out, const struct tensor *x) {
    struct interleaving job = {&op->kernels->linear, out, x};
    pool_run(op->pool, panel_count(out), interleave_task, &job);
}
