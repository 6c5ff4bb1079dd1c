// Gradient of causal attention over whole sequences (op/ops.h has the definition). A task is one (span, head): key
// blocks ascending, for each of them the query blocks that see it, ascending. With the packed operands of attention.h,
// for a pair of blocks:
//
//   S = Q K^T, dP = dO V^T                        as in the forward pass, by scores
//   P = exp(S scale - lse), dS = P (dP - D) scale     D = rowsum(dout * out)
//   dV += P^T dO, dK += dS^T Q                    chains over queries ascending
//   dQ += dS K                                    chain over keys ascending; dQ of the whole span stays in scratch
//
// Sums are F32 until they are stored. The rotary key is shared by heads: each head's part goes to scratch and a second
// pass adds the heads, ascending.
#include <math.h>

#include "base/arena.h"
#include "op/cpu/attention.h"
#include "op/cpu/cpu_ops.h"
#include "op/cpu/kernels.h"

#define ROPE_ROWS_PER_TASK 64

struct gradient_area {
    uint32_t *queries, *outputs;                // [T][q_words], [T][v_words]: rows of q and dout
    uint32_t *query_columns, *output_columns;   // [ceil(T / step)][q_columns], [..][v_columns]: the same, words of rows
    uint32_t *key_lanes, *value_lanes;          // [q_words][KEY_ROWS], [v_words][KEY_ROWS]
    uint32_t *key_rows;                         // [KEY_ROWS / step][q_columns]
    uint32_t *p_columns, *ds_columns, *ds_rows;   // [QUERY_ROWS][KEY_ROWS] terms
    float *score, *dp;                            // [QUERY_ROWS][KEY_ROWS]
    float *dq;                                    // [T][q_columns]
    float *dk, *dv;                               // [KEY_ROWS][q_columns], [KEY_ROWS][v_columns]
    float *delta, *lse;                           // [T]
};

struct gradient_job {
    const struct attention_kernels *kernels;
    const struct row_kernels *row_kernels;
    struct gradient_area *area;
    const struct tensor *dq, *dk_nope, *dk_rope, *dv, *dout, *out, *q, *k_nope, *k_rope, *v;
    const float *lse;
    const struct attention_span *spans;
    float *rope_parts;    // [rows of all spans][heads][rope]
    int64_t *first_row;   // [span_count]: a span's first row in rope_parts
    int64_t longest;      // span
    int64_t heads, nope, rope, width_v, nope_words, q_words, v_words, q_columns, v_columns;
    float scale;
};

// Packs what all key blocks share: q and dout in both layouts, D and lse.
static void pack_span(const struct gradient_job *job, struct gradient_area *area, const struct attention_span *span,
                      int64_t head) {
    const struct attention_kernels *kernels = job->kernels;
    int64_t count = span->count;
    struct row q = tensor_head_row(job->q, span->query_row, head),
               dout = tensor_head_row(job->dout, span->query_row, head);
    struct row q_rope = row_advance(q, job->nope);
    int64_t q_stride = job->q->stride[0], dout_stride = job->dout->stride[0];
    kernels->pack_queries(area->queries, job->q_words, q, q_stride, job->nope, count);
    kernels->pack_queries(area->queries + job->nope_words, job->q_words, q_rope, q_stride, job->rope, count);
    kernels->pack_queries(area->outputs, job->v_words, dout, dout_stride, job->width_v, count);
    kernels->pack_rows(area->query_columns, job->q_columns, q, q_stride, job->nope + job->rope, count);
    kernels->pack_rows(area->output_columns, job->v_columns, dout, dout_stride, job->width_v, count);
    for (int64_t i = 0; i < count; i++) {
        area->delta[i] = job->row_kernels->dot(tensor_head_row(job->dout, span->query_row + i, head),
                                               tensor_head_row(job->out, span->query_row + i, head), job->width_v);
        area->lse[i] = job->lse[(span->query_row + i) * job->heads + head];
    }
    for (int64_t i = 0; i < count * job->q_columns; i++) {
        area->dq[i] = 0.0f;
    }
}

static void pack_keys(const struct gradient_job *job, struct gradient_area *area, const struct attention_span *span,
                      int64_t head, int64_t first, int64_t keys) {
    const struct attention_kernels *kernels = job->kernels;
    struct row k = tensor_head_row(job->k_nope, span->key_row + first, head);
    kernels->pack_lanes(area->key_lanes, k, job->k_nope->stride[0], job->nope, keys);
    kernels->pack_rows(area->key_rows, job->q_columns, k, job->k_nope->stride[0], job->nope, keys);
    if (job->rope > 0) {
        struct row rope = tensor_head_row(job->k_rope, span->key_row + first, 0);
        kernels->pack_lanes(area->key_lanes + job->nope_words * KEY_ROWS, rope, job->k_rope->stride[0], job->rope,
                            keys);
        kernels->pack_rows(area->key_rows + job->nope, job->q_columns, rope, job->k_rope->stride[0], job->rope, keys);
    }
    kernels->pack_lanes(area->value_lanes, tensor_head_row(job->v, span->key_row + first, head), job->v->stride[0],
                        job->width_v, keys);
    for (int64_t i = 0; i < KEY_ROWS * job->q_columns; i++) {
        area->dk[i] = 0.0f;
    }
    for (int64_t i = 0; i < KEY_ROWS * job->v_columns; i++) {
        area->dv[i] = 0.0f;
    }
}

// One query block against the packed key block.
static void gradient_block(const struct gradient_job *job, struct gradient_area *area, int64_t query, int64_t rows,
                           int64_t keys, bool diagonal) {
    const struct attention_kernels *kernels = job->kernels;
    int64_t step = kernels->step, words = KEY_ROWS / step;
    kernels->scores(area->score, area->queries + query * job->q_words, area->key_lanes, rows, job->q_words, keys);
    kernels->scores(area->dp, area->outputs + query * job->v_words, area->value_lanes, rows, job->v_words, keys);
    kernels->gradient(area->p_columns, area->ds_columns, area->ds_rows, area->score, area->dp, area->lse + query,
                      area->delta + query, rows, diagonal, job->scale);
    kernels->accumulate(area->dv, area->p_columns, 1, KEY_ROWS, area->output_columns + query / step * job->v_columns,
                        job->v_columns, keys, rows);
    kernels->accumulate(area->dk, area->ds_columns, 1, KEY_ROWS, area->query_columns + query / step * job->q_columns,
                        job->q_columns, keys, rows);
    kernels->accumulate(area->dq + query * job->q_columns, area->ds_rows, words, 1, area->key_rows, job->q_columns,
                        rows, keys);
}

static void gradient_task(void *argument, int64_t task, int worker) {
    const struct gradient_job *job = argument;
    const struct attention_kernels *kernels = job->kernels;
    struct gradient_area *area = &job->area[worker];
    const struct attention_span *span = &job->spans[task / job->heads];
    int64_t head = task % job->heads, count = span->count;
    pack_span(job, area, span, head);
    for (int64_t first = 0; first < count; first += KEY_ROWS) {
        int64_t keys = count - first < KEY_ROWS ? count - first : KEY_ROWS;
        pack_keys(job, area, span, head, first, keys);
        for (int64_t query = first; query < count; query += QUERY_ROWS) {
            int64_t rows = count - query < QUERY_ROWS ? count - query : QUERY_ROWS;
            gradient_block(job, area, query, rows, keys, query == first);
        }
        for (int64_t j = 0; j < keys; j++) {
            int64_t row = span->key_row + first + j;
            kernels->finish(tensor_head_row(job->dk_nope, row, head), area->dk + j * job->q_columns, 1.0f, job->nope);
            kernels->finish(tensor_head_row(job->dv, row, head), area->dv + j * job->v_columns, 1.0f, job->width_v);
            if (job->rope > 0) {
                int64_t part = (job->first_row[task / job->heads] + first + j) * job->heads + head;
                kernels->finish(row_of_floats(job->rope_parts + part * job->rope),
                                area->dk + j * job->q_columns + job->nope, 1.0f, job->rope);
            }
        }
    }
    for (int64_t i = 0; i < count; i++) {
        kernels->finish(tensor_head_row(job->dq, span->query_row + i, head), area->dq + i * job->q_columns, 1.0f,
                        job->nope + job->rope);
    }
}

// dk_rope: task = block of rows of one span, heads ascending. Sums into head 0's part, which nobody reads again.
static void rope_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct gradient_job *job = argument;
    int64_t blocks = (job->longest + ROPE_ROWS_PER_TASK - 1) / ROPE_ROWS_PER_TASK, index = task / blocks;
    const struct attention_span *span = &job->spans[index];
    int64_t begin = task % blocks * ROPE_ROWS_PER_TASK, end = begin + ROPE_ROWS_PER_TASK;
    for (int64_t i = begin; i < end && i < span->count; i++) {
        float *parts = job->rope_parts + (job->first_row[index] + i) * job->heads * job->rope;
        for (int64_t h = 1; h < job->heads; h++) {
            job->row_kernels->accumulate(parts, row_of_floats(parts + h * job->rope), 1.0f, job->rope);
        }
        job->row_kernels->copy(tensor_head_row(job->dk_rope, span->key_row + i, 0), row_of_floats(parts), job->rope);
    }
}

static void gradient_areas(struct gradient_job *job, struct op_context *op) {
    int workers = pool_threads(op->pool);
    size_t step = (size_t)job->kernels->step, longest = (size_t)job->longest, pairs = (longest + step - 1) / step;
    size_t q_words = (size_t)job->q_words, v_words = (size_t)job->v_words;
    size_t q_columns = (size_t)job->q_columns, v_columns = (size_t)job->v_columns, tile = QUERY_ROWS * KEY_ROWS;
    struct arena *scratch = op->scratch;
    job->area = arena_allocate(scratch, (size_t)workers, sizeof *job->area);
    for (int i = 0; i < workers; i++) {
        struct gradient_area *area = &job->area[i];
        area->queries = arena_allocate(scratch, longest * q_words, sizeof(uint32_t));
        area->outputs = arena_allocate(scratch, longest * v_words, sizeof(uint32_t));
        area->query_columns = arena_allocate_zero(scratch, pairs * q_columns,
                                                  sizeof(uint32_t));   // padding columns stay zero
        area->output_columns = arena_allocate_zero(scratch, pairs * v_columns, sizeof(uint32_t));
        area->key_lanes = arena_allocate(scratch, q_words * KEY_ROWS, sizeof(uint32_t));
        area->value_lanes = arena_allocate(scratch, v_words * KEY_ROWS, sizeof(uint32_t));
        area->key_rows = arena_allocate_zero(scratch, KEY_ROWS / step * q_columns, sizeof(uint32_t));
        area->p_columns = arena_allocate(scratch, tile / step, sizeof(uint32_t));
        area->ds_columns = arena_allocate(scratch, tile / step, sizeof(uint32_t));
        area->ds_rows = step == 1 ? area->ds_columns : arena_allocate(scratch, tile / step, sizeof(uint32_t));
        area->score = arena_allocate_zero(scratch, tile, sizeof(float));
        area->dp = arena_allocate_zero(scratch, tile, sizeof(float));
        area->dq = arena_allocate(scratch, longest * q_columns, sizeof(float));
        area->dk = arena_allocate(scratch, KEY_ROWS * q_columns, sizeof(float));
        area->dv = arena_allocate(scratch, KEY_ROWS * v_columns, sizeof(float));
        area->delta = arena_allocate(scratch, longest, sizeof(float));
        area->lse = arena_allocate(scratch, longest, sizeof(float));
    }
}

static int64_t round_up(int64_t n, int64_t multiple) {
    return (n + multiple - 1) / multiple * multiple;
}

void cpu_attention_backward(struct op_context *op, struct tensor *dq, struct tensor *dk_nope, struct tensor *dk_rope,
                            struct tensor *dv, const struct tensor *dout, const struct tensor *out, const float *lse,
                            const struct tensor *q, const struct tensor *k_nope, const struct tensor *k_rope,
                            const struct tensor *v, const struct attention_span *spans, int64_t span_count,
                            float scale) {
    struct arena_mark mark = arena_mark(op->scratch);
    struct gradient_job job = {.dq = dq,
                               .dk_nope = dk_nope,
                               .dk_rope = dk_rope,
                               .dv = dv,
                               .dout = dout,
                               .out = out,
                               .q = q,
                               .k_nope = k_nope,
                               .k_rope = k_rope,
                               .v = v,
                               .lse = lse,
                               .spans = spans,
                               .heads = q->shape[1],
                               .nope = k_nope->shape[2],
                               .width_v = v->shape[2],
                               .scale = scale};
    job.kernels = q->format == FORMAT_BF16 ? &op->kernels->attention_bf16 : &op->kernels->attention_f32;
    job.row_kernels = &op->kernels->row;
    int64_t step = job.kernels->step, rows = 0;
    job.rope = q->shape[2] - job.nope;
    job.nope_words = (job.nope + step - 1) / step;
    job.q_words = job.nope_words + (job.rope + step - 1) / step;
    job.v_words = (job.width_v + step - 1) / step;
    job.q_columns = round_up(job.nope + job.rope, SUM_LANES);
    job.v_columns = round_up(job.width_v, SUM_LANES);
    job.first_row = arena_allocate(op->scratch, (size_t)span_count, sizeof *job.first_row);
    for (int64_t i = 0; i < span_count; i++) {
        job.first_row[i] = rows;
        rows += spans[i].count;
        job.longest = spans[i].count > job.longest ? spans[i].count : job.longest;
    }
    job.rope_parts = arena_allocate(op->scratch, (size_t)(rows * job.heads * job.rope), sizeof(float));
    gradient_areas(&job, op);
    pool_run(op->pool, span_count * job.heads, gradient_task, &job);
    if (job.rope > 0) {
        pool_run(op->pool, span_count * ((job.longest + ROPE_ROWS_PER_TASK - 1) / ROPE_ROWS_PER_TASK), rope_task, &job);
    }
    arena_release(op->scratch, mark);
}
