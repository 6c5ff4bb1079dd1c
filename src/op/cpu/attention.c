// Causal attention over spans (op/ops.h has the definition), never T x T: a piece holds up to 64 query rows of one span
// and walks the keys that they see in blocks of 64, keeping a running maximum, sum and weighted sum of values per row,
// which begin anew with each stretch of keys; sums of a stretch are then added to those before it. Stretches are the
// same for all, so they can be walked by several threads.
#include <math.h>
#include <string.h>

#include "base/arena.h"
#include "base/math.h"
#include "op/cpu/attention_run.h"
#include "tensor/formats.h"

// The last span whose first number is at most `index`.
static int64_t span_of(const int64_t *first, int64_t span_count, int64_t index) {
    int64_t low = 0, high = span_count;
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (first[middle] <= index) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

static int64_t span_stretches(const struct attention_span *span) {
    return (span->position + span->count + ATTENTION_STRETCH - 1) / ATTENTION_STRETCH;
}

// Pieces of a span: groups of heads by blocks of rows, the blocks with the most keys first.
static struct attention_piece piece_make(const struct attention_job *job, int64_t span, int64_t index) {
    struct attention_piece piece = {.span = &job->spans[span]};
    int64_t rows = piece.span->count * job->group_heads, blocks = (rows + job->rows_per_task - 1) / job->rows_per_task;
    int64_t block = blocks - 1 - index / job->groups;
    piece.head = index % job->groups * job->group_heads;
    piece.first = block * job->rows_per_task;
    piece.rows = rows - piece.first < job->rows_per_task ? rows - piece.first : job->rows_per_task;
    piece.seen = piece.span->position + piece_token(job, &piece, piece.rows - 1) + 1;
    return piece;
}

// ---- Tasks ----------------------------------------------------------------------------------------------------------

// Adds row r of a stretch to those before it.
static void fold_row(const struct attention_job *job, const struct attention_sums *total,
                     const struct attention_sums *part, int64_t r) {
    const float before = total->maximum[r], other = part->maximum[r];
    const float largest = other > before ? other : before;
    const float kept = math_exp(before - largest), added = math_exp(other - largest);
    total->maximum[r] = largest;
    total->denominator[r] = fmaf(total->denominator[r], kept, part->denominator[r] * added);
    job->kernels->fold(total->sum + r * job->columns, kept, part->sum + r * job->columns, added, job->columns);
}

static void finish_row(const struct attention_job *job, const struct attention_piece *piece,
                       const struct attention_sums *sums, int64_t r) {
    job->kernels->finish(piece_row(job, piece, job->out, r), sums->sum + r * job->columns, sums->denominator[r],
                         job->v->shape[2]);
    if (job->lse != NULL) {
        int64_t row = piece->span->query_row + piece_token(job, piece, r), head = piece_head(job, piece, r);
        job->lse[row * job->q->shape[1] + head] = sums->maximum[r] + math_log(sums->denominator[r]);
    }
}

static void attention_task(void *argument, int64_t task, int worker) {
    const struct attention_job *job = argument;
    struct attention_area *area = &job->area[worker];
    const int64_t span = span_of(job->first_task, job->span_count, task);
    const struct attention_piece piece = piece_make(job, span, task - job->first_task[span]);
    struct attention_sums own = area->walk;
    attention_put_queries(job, area, &piece);
    attention_few_touch_first(job, &piece, 0);
    for (int64_t stretch = 0; stretch * ATTENTION_STRETCH < piece.seen; stretch++) {
        attention_walk(job, area, &piece, stretch);
        if (stretch == 0) {
            area->walk = area->total;
            area->total = own;
            continue;
        }
        for (int64_t r = unseeing_rows(job, &piece, stretch * ATTENTION_STRETCH); r < piece.rows; r++) {
            fold_row(job, &area->total, &area->walk, r);
        }
    }
    for (int64_t r = 0; r < piece.rows; r++) {
        finish_row(job, &piece, &area->total, r);
    }
}

// ---- Stretches in parallel ------------------------------------------------------------------------------------------

static struct attention_sums part_sums(const struct attention_job *job, int64_t part) {
    const int64_t row = part * job->part_rows;
    return (struct attention_sums){job->parts.sum + row * job->columns, job->parts.maximum + row,
                                   job->parts.denominator + row};
}

// Task: a stretch of a piece.
static void stretch_task(void *argument, int64_t task, int worker) {
    const struct attention_job *job = argument;
    struct attention_area *area = &job->area[worker];
    const int64_t span = span_of(job->first_task, job->span_count, task);
    const int64_t stretches = span_stretches(&job->spans[span]), index = task - job->first_task[span];
    const struct attention_piece piece = piece_make(job, span, index / stretches);
    const int64_t stretch = index % stretches;
    if (stretch * ATTENTION_STRETCH >= piece.seen) {
        return;
    }
    attention_put_queries(job, area, &piece);
    attention_few_touch_first(job, &piece, stretch * (ATTENTION_STRETCH / KEY_ROWS));
    area->walk = part_sums(job, task);
    attention_walk(job, area, &piece, stretch);
}

// Task: a row of a piece, whose stretches are added in order.
static void fold_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct attention_job *job = argument;
    const int64_t number = task / job->part_rows, r = task % job->part_rows;
    const int64_t span = span_of(job->first_piece, job->span_count, number), index = number - job->first_piece[span];
    const struct attention_piece piece = piece_make(job, span, index);
    if (r >= piece.rows) {
        return;
    }
    const int64_t first = job->first_task[span] + index * span_stretches(&job->spans[span]);
    const struct attention_sums total = part_sums(job, first);
    for (int64_t stretch = 1; unseeing_rows(job, &piece, stretch * ATTENTION_STRETCH) <= r; stretch++) {
        const struct attention_sums part = part_sums(job, first + stretch);
        fold_row(job, &total, &part, r);
    }
    finish_row(job, &piece, &total, r);
}

// ---- The operation --------------------------------------------------------------------------------------------------

static struct attention_sums sums_new(struct arena *scratch, int64_t rows, int64_t columns) {
    return (struct attention_sums){arena_allocate(scratch, (size_t)(rows * columns), sizeof(float)),
                                   arena_allocate(scratch, (size_t)rows, sizeof(float)),
                                   arena_allocate(scratch, (size_t)rows, sizeof(float))};
}

static void attention_areas(struct attention_job *job, struct op_context *op) {
    int workers = pool_threads(op->pool);
    size_t step = (size_t)job->kernels->step, words = (size_t)job->q_words, columns = (size_t)job->columns;
    job->area = arena_allocate(op->scratch, (size_t)workers, sizeof *job->area);
    for (int i = 0; i < workers; i++) {
        struct attention_area *area = &job->area[i];
        area->queries = arena_allocate(op->scratch, QUERY_ROWS * words, sizeof(uint32_t));
        area->lanes = arena_allocate(op->scratch, words * KEY_ROWS, sizeof(uint32_t));
        area->values = arena_allocate(op->scratch, KEY_ROWS / step * columns, sizeof(uint32_t));
        if (job->columns > job->v->shape[2]) {   // columns beyond are never packed
            memset(area->values, 0, KEY_ROWS / step * columns * sizeof(uint32_t));
        }
        area->factor = arena_allocate(op->scratch, QUERY_ROWS * KEY_ROWS / step, sizeof(uint32_t));
        area->direct = arena_allocate_zero(op->scratch, (size_t)attention_few_words(job), sizeof(uint32_t));
        area->terms = arena_allocate(op->scratch, (size_t)DIRECT_ROWS * words * step, sizeof(float));
        if (job->latent_stride > 0) {
            area->latent = arena_allocate(op->scratch, (size_t)(KEY_ROWS * job->latent_stride),
                                          (size_t)format_info((enum format)job->q->format)->bytes);
        }
        area->score = arena_allocate(op->scratch, QUERY_ROWS * KEY_ROWS, sizeof(float));
        area->walk = sums_new(op->scratch, QUERY_ROWS, job->columns);
        area->total = sums_new(op->scratch, QUERY_ROWS, job->columns);
    }
}

// Fills first_task and first_piece and returns the number of tasks with `rows_per_task` rows each.
static int64_t count_tasks(struct attention_job *job) {
    int64_t tasks = 0, pieces = 0;
    for (int64_t i = 0; i < job->span_count; i++) {
        int64_t rows = job->spans[i].count * job->group_heads;
        int64_t own = (rows + job->rows_per_task - 1) / job->rows_per_task * job->groups;
        job->first_task[i] = tasks;
        job->first_piece[i] = pieces;
        pieces += own;
        tasks += job->split ? own * span_stretches(&job->spans[i]) : own;
    }
    job->first_task[job->span_count] = tasks;
    job->first_piece[job->span_count] = pieces;
    return tasks;
}

// Few long rows (decoding) are spread over all threads: stretches of keys, if there are enough of them, or else fewer
// rows a task, at the price of reading a block once per task.
static int64_t plan_tasks(struct attention_job *job, int64_t threads) {
    for (int64_t rows = QUERY_ROWS; rows > DIRECT_ROWS; rows /= 2) {
        job->rows_per_task = rows;
        if (count_tasks(job) >= 2 * threads) {
            return job->first_task[job->span_count];
        }
    }
    job->split = threads > 1;
    for (int64_t rows = QUERY_ROWS; rows >= DIRECT_ROWS; rows /= 2) {
        job->rows_per_task = rows;
        if (count_tasks(job) >= 2 * threads) {
            return job->first_task[job->span_count];
        }
    }
    job->split = false;
    int64_t tasks = count_tasks(job);
    while (job->rows_per_task > 2 && tasks < threads) {
        job->rows_per_task /= 2;
        tasks = count_tasks(job);
    }
    return tasks;
}

// Of a piece; at least as many as a tile of few rows may write.
static int64_t most_rows(const struct attention_job *job) {
    int64_t most = DIRECT_ROWS;
    for (int64_t i = 0; i < job->span_count; i++) {
        int64_t rows = job->spans[i].count * job->group_heads;
        most = rows > most ? rows : most;
    }
    return most < job->rows_per_task ? most : job->rows_per_task;
}

void cpu_attention(struct op_context *op, struct tensor *out, float *lse, const struct tensor *q,
                   const struct tensor *k_nope, const struct tensor *k_rope, const struct tensor *v,
                   const struct attention_span *spans, int64_t span_count, float scale) {
    struct arena_mark mark = arena_mark(op->scratch);
    bool bf16 = q->format == FORMAT_BF16, shared = k_nope->stride[1] == 0 && v->stride[1] == 0;
    struct attention_job job = {.kernels = bf16 ? &op->kernels->attention_bf16 : &op->kernels->attention_f32,
                                .out = out,
                                .q = q,
                                .k_nope = k_nope,
                                .k_rope = k_rope,
                                .v = v,
                                .lse = lse,
                                .spans = spans,
                                .span_count = span_count,
                                .scale = scale};
    job.linear = &op->kernels->linear;
    job.latent = &op->kernels->latent;
    job.latent_stride = k_nope->format == FORMAT_E4M3_TILE ? latent_block_stride(k_nope->shape[2]) : 0;
    job.unit = job.kernels->step == 2 ? UNIT_PAIR : UNIT_F32;
    job.group_heads = shared ? q->shape[1] : 1;
    job.groups = q->shape[1] / job.group_heads;
    job.nope = k_nope->shape[2];
    job.rope = q->shape[2] - job.nope;
    job.nope_words = (job.nope + job.kernels->step - 1) / job.kernels->step;
    job.q_words = job.nope_words + (job.rope + job.kernels->step - 1) / job.kernels->step;
    job.columns = (v->shape[2] + SUM_LANES - 1) / SUM_LANES * SUM_LANES;
    job.first_task = arena_allocate(op->scratch, (size_t)span_count + 1, sizeof *job.first_task);
    job.first_piece = arena_allocate(op->scratch, (size_t)span_count + 1, sizeof *job.first_piece);
    attention_areas(&job, op);
    int64_t tasks = plan_tasks(&job, pool_threads(op->pool));
    if (job.split) {
        job.part_rows = most_rows(&job);
        job.parts = sums_new(op->scratch, tasks * job.part_rows, job.columns);
        pool_run(op->pool, tasks, stretch_task, &job);
        pool_run(op->pool, job.first_piece[span_count] * job.part_rows, fold_task, &job);
    } else {
        pool_run(op->pool, tasks, attention_task, &job);
    }
    arena_release(op->scratch, mark);
}
