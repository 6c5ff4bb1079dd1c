// Embedding lookup: ids[T], table [vocabulary, d] -> y [T, d] F32; backward adds dy rows to dtable rows, t ascending.
// The forward gives rows to tasks; the backward gives columns, so that each element of dtable is summed by one task.
#include "op/cpu/cpu_ops.h"
#include "op/cpu/kernels.h"

#define GRADIENT_COLUMNS 128   // columns of dtable per task

struct embedding_job {
    const struct row_kernels *kernels;
    struct row_split split;
    const struct tensor *y, *table;
    const int32_t *ids;
};

static int64_t checked_id(const struct embedding_job *job, int64_t t) {
    int32_t id = job->ids[t];
    CHECK(id >= 0 && id < job->table->shape[0], "id %d of token %lld, vocabulary %lld", id, (long long)t,
          (long long)job->table->shape[0]);
    return id;
}

static void embedding_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct embedding_job *job = argument;
    int64_t n = job->y->shape[1];
    for (int64_t t = row_split_begin(&job->split, task); t < row_split_end(&job->split, task); t++) {
        int64_t id = checked_id(job, t);
        if (job->table->format == FORMAT_E4M3_BLOCK) {
            format_info(FORMAT_E4M3_BLOCK)->widen(float_row(job->y, t), job->table, id, 0, n);
        } else {
            job->kernels->copy(tensor_row(job->y, t), tensor_row(job->table, id), n);
        }
    }
}

void cpu_embedding(struct op_context *op, struct tensor *y, const int32_t *ids, const struct tensor *table) {
    struct embedding_job job = {.kernels = &op->kernels->row,
                                .split = row_split_make(y->shape[0], y->shape[1]),
                                .y = y,
                                .table = table,
                                .ids = ids};
    pool_run(op->pool, job.split.tasks, embedding_task, &job);
}

static void embedding_backward_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct embedding_job *job = argument;   // y is dy, table is dtable
    int64_t begin = row_split_begin(&job->split, task), n = row_split_end(&job->split, task) - begin;
    for (int64_t t = 0; t < job->y->shape[0]; t++) {
        job->kernels->accumulate(float_row(job->table, checked_id(job, t)) + begin,
                                 row_of_floats(float_row(job->y, t) + begin), 1.0f, n);
    }
}

void cpu_embedding_backward(struct op_context *op, struct tensor *dtable, const struct tensor *dy, const int32_t *ids) {
    int64_t columns = dy->shape[1];
    struct embedding_job job = {.kernels = &op->kernels->row, .y = dy, .table = dtable, .ids = ids};
    job.split = (struct row_split){
        .rows = columns, .chunk = GRADIENT_COLUMNS, .tasks = (columns + GRADIENT_COLUMNS - 1) / GRADIENT_COLUMNS};
    pool_run(op->pool, job.split.tasks, embedding_backward_task, &job);
}
