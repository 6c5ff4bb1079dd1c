// Causal attention over spans (op/ops.h has the definition), never T x T: a task holds up to 64 query rows of one span
// and walks the keys that they see in blocks of 64, keeping a running maximum, sum and weighted sum of values per row.
//
// Heads that share keys and values (head stride 0: the absorbed form) are further query rows of the same task, so that
// a block of the latent is packed once for all of them: row r of such a span is (token r / heads, head r % heads). A
// row meets the same key blocks and the same order whatever task it is in; keys beyond its own position never enter a
// product.
#include <math.h>
#include <string.h>

#include "base/arena.h"
#include "base/math.h"
#include "op/cpu/attention.h"
#include "op/cpu/cpu_ops.h"
#include "op/cpu/kernels.h"
#include "op/cpu/latent_block.h"
#include "tensor/formats.h"

// Per worker. q_words and columns are the packed widths of a query and a value row.
struct attention_area {
    uint32_t *queries;   // [QUERY_ROWS][q_words]
    uint32_t *lanes;     // [q_words][KEY_ROWS]
    uint32_t *values;    // [KEY_ROWS / step][columns]
    uint32_t *factor;    // [QUERY_ROWS][KEY_ROWS / step]
    uint32_t *direct;    // of few rows: queries, then factor, as side a of a matrix product (op/cpu/linear.h)
    float *terms;        // of few rows: queries as scores_rows takes them
    char *latent;        // of an FP8 cache: a block of keys, which are the values too, in the format of q
    float *score;        // [QUERY_ROWS][KEY_ROWS]
    float *sum;          // [QUERY_ROWS][columns]
    float maximum[QUERY_ROWS], denominator[QUERY_ROWS];
};

struct attention_job {
    const struct attention_kernels *kernels;
    const struct linear_kernels *linear;
    const struct latent_kernels *latent;
    enum linear_unit unit;
    struct attention_area *area;
    const struct tensor *out, *q, *k_nope, *k_rope, *v;
    float *lse;
    const struct attention_span *spans;
    int64_t *first_task;   // [span_count + 1]
    int64_t span_count;
    int64_t group_heads, groups;   // heads that share keys; heads / group_heads
    int64_t rows_per_task;
    int64_t nope, rope, nope_words, q_words, columns;
    int64_t latent_stride;   // of area.latent in elements; 0: keys and values are read where they lie
    float scale;
};

// The query rows of one task.
struct attention_piece {
    const struct attention_span *span;
    int64_t head, first,
        rows;   // rows first .. first + rows - 1 of the span, counted over tokens and the heads of the group
};

static int64_t piece_token(const struct attention_job *job, const struct attention_piece *piece, int64_t row) {
    return (piece->first + row) / job->group_heads;
}

static int64_t piece_head(const struct attention_job *job, const struct attention_piece *piece, int64_t row) {
    return piece->head + (piece->first + row) % job->group_heads;
}

static struct row piece_row(const struct attention_job *job, const struct attention_piece *piece,
                            const struct tensor *tensor, int64_t row) {
    return tensor_head_row(tensor, piece->span->query_row + piece_token(job, piece, row), piece_head(job, piece, row));
}

// Tasks of a span: groups of heads by blocks of rows, the blocks with the most keys first.
static struct attention_piece piece_of_task(const struct attention_job *job, int64_t task) {
    int64_t low = 0, high = job->span_count;
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (job->first_task[middle] <= task) {
            low = middle;
        } else {
            high = middle;
        }
    }
    struct attention_piece piece = {.span = &job->spans[low]};
    int64_t rows = piece.span->count * job->group_heads, blocks = (rows + job->rows_per_task - 1) / job->rows_per_task;
    int64_t index = task - job->first_task[low], block = blocks - 1 - index / job->groups;
    piece.head = index % job->groups * job->group_heads;
    piece.first = block * job->rows_per_task;
    piece.rows = rows - piece.first < job->rows_per_task ? rows - piece.first : job->rows_per_task;
    return piece;
}

// The row of keys and values that block number `block` begins with.
static int64_t first_key(const struct attention_span *span, int64_t block) {
    return span->pages != NULL ? (int64_t)span->pages[block] * KEY_ROWS : span->key_row + block * KEY_ROWS;
}

// A block of keys and values: first rows and, in elements, how far apart they are.
struct key_block {
    struct row nope, rope, values;
    int64_t nope_stride, rope_stride, value_stride;
};

// Where a block can be read, `keys` rows of it; those of an FP8 cache are multiplied out first.
static struct key_block open_block(const struct attention_job *job, struct attention_area *area,
                                   const struct attention_piece *piece, int64_t block, int64_t keys) {
    int64_t first = first_key(piece->span, block);
    struct key_block open = {.rope_stride = job->rope > 0 ? job->k_rope->stride[0] : 0};
    if (job->rope > 0) {
        open.rope = tensor_head_row(job->k_rope, first, 0);
    }
    if (job->latent_stride > 0) {
        open.nope = open.values = (struct row){area->latent, (enum format)job->q->format};
        open.nope_stride = open.value_stride = job->latent_stride;
        latent_block_widen(job->latent, open.nope, job->latent_stride, job->k_nope, first, keys);
    } else {
        open.nope = tensor_head_row(job->k_nope, first, piece->head);
        open.values = tensor_head_row(job->v, first, piece->head);
        open.nope_stride = job->k_nope->stride[0];
        open.value_stride = job->v->stride[0];
    }
    return open;
}

static void pack_block(const struct attention_job *job, struct attention_area *area, const struct key_block *from,
                       int64_t keys) {
    const struct attention_kernels *kernels = job->kernels;
    kernels->pack_lanes(area->lanes, from->nope, from->nope_stride, job->nope, keys);
    if (job->rope > 0) {
        kernels->pack_lanes(area->lanes + job->nope_words * KEY_ROWS, from->rope, from->rope_stride, job->rope, keys);
    }
    kernels->pack_rows(area->values, job->columns, from->values, from->value_stride, job->v->shape[2], keys);
}

// One block of keys for rows begin.. of the piece: scores, running softmax, values.
static void attend_block(const struct attention_job *job, struct attention_area *area,
                         const struct attention_piece *piece, int64_t block, int64_t keys) {
    const struct attention_kernels *kernels = job->kernels;
    int64_t factor_words = KEY_ROWS / kernels->step;
    int64_t unseen = (block * KEY_ROWS - piece->span->position) * job->group_heads -
                     piece->first;   // rows before this block
    int64_t begin = unseen > 0 ? unseen : 0;
    kernels->scores(area->score + begin * KEY_ROWS, area->queries + begin * job->q_words, area->lanes,
                    piece->rows - begin, job->q_words, keys);
    while (begin < piece->rows) {   // a run of rows that see equally many keys
        int64_t end = begin, run_visible = 0;
        for (; end < piece->rows; end++) {
            int64_t visible = piece->span->position + piece_token(job, piece, end) + 1 - block * KEY_ROWS;
            visible = visible < KEY_ROWS ? visible : KEY_ROWS;
            if (end > begin && visible != run_visible) {
                break;
            }
            run_visible = visible;
            float correction = kernels->softmax(area->factor + end * factor_words, &area->maximum[end],
                                                &area->denominator[end], area->score + end * KEY_ROWS, visible,
                                                job->scale);
            if (correction != 1.0f) {
                kernels->scale(area->sum + end * job->columns, correction, job->columns);
            }
        }
        kernels->accumulate(area->sum + begin * job->columns, area->factor + begin * factor_words, factor_words, 1,
                            area->values, job->columns, end - begin, run_visible);
        begin = end;
    }
}

// ---- Few rows (decoding) --------------------------------------------------------------------------------------------

// A block of 64 keys costs more to pack than a few rows gain from it. Whole blocks are then read where they lie, by the
// kernels of matrix products with few rows; the chains are the same.
#define DIRECT_ROWS LINEAR_MAX_MAPPED

static int64_t whole_chunks(int64_t words) {
    return (words + LINEAR_CHUNK - 1) / LINEAR_CHUNK * LINEAR_CHUNK;
}

// Words [rows][stride] -> chunks of 16 words of every row, as a matrix product takes its side a.
static void put_chunks(uint32_t *chunks, const uint32_t *words, int64_t stride, int64_t rows, int64_t count) {
    for (int64_t begin = 0; begin < count; begin += LINEAR_CHUNK) {
        int64_t length = count - begin < LINEAR_CHUNK ? count - begin : LINEAR_CHUNK;
        for (int64_t row = 0; row < rows; row++) {
            memcpy(chunks + begin * rows + row * LINEAR_CHUNK, words + row * stride + begin, (size_t)length * 4);
        }
    }
}

// Words of area.direct before the factor.
static int64_t direct_query_words(const struct attention_job *job) {
    return DIRECT_ROWS * (whole_chunks(job->nope_words) + whole_chunks(job->q_words - job->nope_words));
}

// Whether scores of few rows are computed by scores_rows.
static bool is_scored(const struct attention_job *job) {
    return job->kernels->scores_rows != NULL && job->nope % SCORE_TERMS == 0 && job->rope % SCORE_TERMS == 0;
}

static void put_direct_queries(const struct attention_job *job, struct attention_area *area, int64_t rows) {
    int64_t rope_words = job->q_words - job->nope_words;
    if (is_scored(job)) {
        job->kernels->widen_queries(area->terms, area->queries, job->q_words, job->q_words, rows);
        return;
    }
    put_chunks(area->direct, area->queries, job->q_words, rows, job->nope_words);
    put_chunks(area->direct + whole_chunks(job->nope_words) * rows, area->queries + job->nope_words, job->q_words, rows,
               rope_words);
}

static void multiply_direct(const struct attention_job *job, struct linear_tile tile, int64_t columns) {
    int64_t width = job->linear->mapped_columns;
    for (; tile.column < columns; tile.column += width, tile.c += width) {
        tile.columns = (int)(columns - tile.column < width ? columns - tile.column : width);
        job->linear->tile_mapped(&tile);
    }
}

// Part `part` of `parts` of `count` rows into the cache.
static void touch_rows(struct row first, int64_t stride, int64_t width, int64_t count, int64_t part, int64_t parts) {
    for (int64_t row = count * part / parts; row < count * (part + 1) / parts; row++) {
        memory_touch(row_advance(first, row * stride).data, width * format_info(first.format)->bytes);
    }
}

// The products of a block take as long as memory needs for the next, if it is read evenly.
static void touch_block(const struct attention_job *job, const struct attention_piece *piece, int64_t block,
                        int64_t keys, int64_t part, int64_t parts) {
    int64_t first = first_key(piece->span, block);
    if (job->latent_stride > 0) {
        latent_block_touch(job->k_nope, first, keys, part, parts);
    } else {
        touch_rows(tensor_head_row(job->k_nope, first, piece->head), job->k_nope->stride[0], job->nope, keys, part,
                   parts);
    }
    if (job->rope > 0) {
        touch_rows(tensor_head_row(job->k_rope, first, 0), job->k_rope->stride[0], job->rope, keys, part, parts);
    }
}

// The first `keys` keys of a block as lines of memory, if scores_rows can ask for them: what belongs to a key lies
// together, and one key behind the other.
static struct key_lines block_lines(const struct attention_job *job, const struct attention_piece *piece, int64_t block,
                                    int64_t keys) {
    const int64_t bytes = job->k_nope->stride[0] * format_info((enum format)job->k_nope->format)->bytes;
    if (keys == 0 || !is_scored(job) || job->rope == 0) {
        return (struct key_lines){0};
    }
    const int64_t first = first_key(piece->span, block);
    const char *key = (const char *)job->k_nope->data + first * bytes;
    const int64_t offset = (int64_t)((uintptr_t)tensor_head_row(job->k_rope, first, 0).data - (uintptr_t)key);
    const bool together = job->k_nope->stride[1] == 0 && offset > 0 && offset < bytes;
    const int64_t length = (keys - 1) * bytes + offset +
                           job->rope * format_info((enum format)job->k_rope->format)->bytes;
    return (struct key_lines){key, together ? length / MEMORY_LINE : 0};
}

static struct linear_operand direct_operand(struct row first, int64_t row_stride, int64_t k_stride) {
    return (struct linear_operand){
        .data = first.data, .row_stride = row_stride, .k_stride = k_stride, .format = first.format};
}

static void direct_scores(const struct attention_job *job, struct attention_area *area,
                          const struct attention_piece *piece, const struct key_block *from, int64_t keys,
                          const struct key_lines *next) {
    if (is_scored(job)) {
        static const struct key_lines none;
        job->kernels->scores_rows(area->score, area->terms, from->nope, from->nope_stride, job->nope, piece->rows, keys,
                                  false, next);
        job->kernels->scores_rows(area->score, area->terms + job->nope * piece->rows, from->rope, from->rope_stride,
                                  job->rope, piece->rows, keys, true, &none);
        return;
    }
    struct linear_operand nope = direct_operand(from->nope, from->nope_stride, 1);
    struct linear_tile tile = {.c = area->score,
                               .c_stride = KEY_ROWS,
                               .a = area->direct,
                               .mapped = &nope,
                               .depth = job->nope,
                               .units = job->nope_words,
                               .rows = (int)piece->rows,
                               .unit = job->unit};
    if (job->nope > 0) {
        multiply_direct(job, tile, keys);
    }
    if (job->rope > 0) {
        struct linear_operand rope = direct_operand(from->rope, from->rope_stride, 1);
        tile.mapped = &rope;
        tile.a += whole_chunks(job->nope_words) * piece->rows;
        tile.depth = job->rope;
        tile.units = job->q_words - job->nope_words;
        tile.add = job->nope > 0;
        multiply_direct(job, tile, keys);
    }
}

static int64_t whole_vectors(int64_t keys) {
    return (keys + SUM_LANES - 1) / SUM_LANES * SUM_LANES;
}

// Whether values are multiplied by accumulate_rows.
static bool is_accumulated(const struct attention_job *job) {
    return job->kernels->accumulate_rows != NULL && job->v->shape[2] % ROWS_COLUMNS == 0;
}

// Columns [begin, end) of the values of a block.
static void direct_values(const struct attention_job *job, struct attention_area *area, const struct key_block *from,
                          int64_t keys, int64_t rows, int64_t begin, int64_t end) {
    const int64_t words = KEY_ROWS / job->kernels->step, stride = from->value_stride;
    if (is_accumulated(job)) {
        job->kernels->accumulate_rows(area->sum + begin, job->columns, area->factor, words,
                                      row_advance(from->values, begin), stride, end - begin, rows, keys);
        return;
    }
    struct linear_operand operand = direct_operand(from->values, 1, stride);
    struct linear_tile tile = {.c = area->sum + begin,
                               .c_stride = job->columns,
                               .a = area->direct + direct_query_words(job),
                               .mapped = &operand,
                               .column = begin,
                               .depth = KEY_ROWS,
                               .units = words,
                               .rows = (int)rows,
                               .unit = job->unit,
                               .add = true};
    multiply_direct(job, tile, end);
}

// A block of which all rows see the first `keys`; all rows see `next` keys of the block behind it (0: there is none, or
// it is packed), which is asked for during the scores or read between the products.
#define VALUE_COLUMNS 64
static void attend_direct(const struct attention_job *job, struct attention_area *area,
                          const struct attention_piece *piece, int64_t block, int64_t keys, int64_t next) {
    const struct attention_kernels *kernels = job->kernels;
    const int64_t words = KEY_ROWS / kernels->step;
    struct key_block from = open_block(job, area, piece, block, keys);
    const struct key_lines lines = block_lines(job, piece, block + 1, next);
    direct_scores(job, area, piece, &from, whole_vectors(keys), &lines);
    for (int64_t r = 0; r < piece->rows; r++) {
        float correction = kernels->softmax(area->factor + r * words, &area->maximum[r], &area->denominator[r],
                                            area->score + r * KEY_ROWS, keys, job->scale);
        if (correction != 1.0f) {
            kernels->scale(area->sum + r * job->columns, correction, job->columns);
        }
    }
    if (!is_accumulated(job)) {
        put_chunks(area->direct + direct_query_words(job), area->factor, words, piece->rows, words);
    }
    int64_t columns = job->v->shape[2], parts = (columns + VALUE_COLUMNS - 1) / VALUE_COLUMNS;
    for (int64_t part = 0; part < parts; part++) {
        touch_block(job, piece, block + 1, lines.count > 0 ? 0 : next, part, parts);
        int64_t begin = part * VALUE_COLUMNS;
        direct_values(job, area, &from, keys, piece->rows, begin,
                      columns < begin + VALUE_COLUMNS ? columns : begin + VALUE_COLUMNS);
    }
}

// How many keys of a block the few rows of a piece see, if all see equally many and the block can be read where it
// lies; otherwise 0. Scores are computed for whole vectors of keys: rows behind the last key must be there, whatever
// they hold.
static int64_t direct_keys(const struct attention_job *job, const struct attention_piece *piece, int64_t block) {
    int64_t begin = block * KEY_ROWS, least = piece->span->position + piece_token(job, piece, 0) + 1 - begin;
    int64_t most = piece->span->position + piece_token(job, piece, piece->rows - 1) + 1 - begin;
    if (piece->rows > DIRECT_ROWS || least <= 0 || (least < KEY_ROWS && (least < most || !is_accumulated(job)))) {
        return 0;
    }
    int64_t keys = least < KEY_ROWS ? least : KEY_ROWS;
    return first_key(piece->span, block) + whole_vectors(keys) <= job->k_nope->shape[0] ? keys : 0;
}

// ---- Tasks ----------------------------------------------------------------------------------------------------------

static void attention_task(void *argument, int64_t task, int worker) {
    const struct attention_job *job = argument;
    const struct attention_kernels *kernels = job->kernels;
    struct attention_area *area = &job->area[worker];
    struct attention_piece piece = piece_of_task(job, task);
    int64_t run = job->group_heads == 1 ? piece.rows : 1;   // rows of q that lie evenly apart
    for (int64_t r = 0; r < piece.rows; r += run) {
        struct row q = piece_row(job, &piece, job->q, r);
        uint32_t *words = area->queries + r * job->q_words;
        kernels->pack_queries(words, job->q_words, q, job->q->stride[0], job->nope, run);
        kernels->pack_queries(words + job->nope_words, job->q_words, row_advance(q, job->nope), job->q->stride[0],
                              job->rope, run);
    }
    for (int64_t r = 0; r < piece.rows; r++) {
        area->maximum[r] = -INFINITY;
        area->denominator[r] = 0.0f;
    }
    for (int64_t i = 0; i < piece.rows * job->columns; i++) {
        area->sum[i] = 0.0f;
    }
    if (piece.rows <= DIRECT_ROWS) {
        put_direct_queries(job, area, piece.rows);
    }
    int64_t seen = piece.span->position + piece_token(job, &piece, piece.rows - 1) + 1;
    // Nobody has asked for the first block: front to back it comes sooner than in the order in which it is multiplied.
    const struct key_lines begin = block_lines(job, &piece, 0, direct_keys(job, &piece, 0));
    memory_touch(begin.from, begin.count * MEMORY_LINE);
    for (int64_t block = 0; block * KEY_ROWS < seen; block++) {
        int64_t keys = direct_keys(job, &piece, block);
        if (keys > 0) {
            bool more = (block + 1) * KEY_ROWS < seen;
            attend_direct(job, area, &piece, block, keys, more ? direct_keys(job, &piece, block + 1) : 0);
            continue;
        }
        keys = seen - block * KEY_ROWS < KEY_ROWS ? seen - block * KEY_ROWS : KEY_ROWS;
        struct key_block from = open_block(job, area, &piece, block, keys);
        pack_block(job, area, &from, keys);
        attend_block(job, area, &piece, block, keys);
    }
    for (int64_t r = 0; r < piece.rows; r++) {
        int64_t row = piece.span->query_row + piece_token(job, &piece, r), head = piece_head(job, &piece, r);
        kernels->finish(piece_row(job, &piece, job->out, r), area->sum + r * job->columns, area->denominator[r],
                        job->v->shape[2]);
        if (job->lse != NULL) {
            job->lse[row * job->q->shape[1] + head] = area->maximum[r] + math_log(area->denominator[r]);
        }
    }
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
        // A mapped tile may read as if there were DIRECT_ROWS rows.
        area->direct = arena_allocate_zero(
            op->scratch, (size_t)(direct_query_words(job) + DIRECT_ROWS * (KEY_ROWS + LINEAR_CHUNK)), sizeof(uint32_t));
        area->terms = arena_allocate(op->scratch, (size_t)DIRECT_ROWS * words * step, sizeof(float));
        if (job->latent_stride > 0) {
            area->latent = arena_allocate(op->scratch, (size_t)(KEY_ROWS * job->latent_stride),
                                          (size_t)format_info((enum format)job->q->format)->bytes);
        }
        area->score = arena_allocate(op->scratch, QUERY_ROWS * KEY_ROWS, sizeof(float));
        area->sum = arena_allocate(op->scratch, QUERY_ROWS * columns, sizeof(float));
    }
}

// Fills first_task and returns the number of tasks with `rows_per_task` rows each.
static int64_t count_tasks(struct attention_job *job) {
    int64_t tasks = 0;
    for (int64_t i = 0; i < job->span_count; i++) {
        job->first_task[i] = tasks;
        int64_t rows = job->spans[i].count * job->group_heads;
        tasks += (rows + job->rows_per_task - 1) / job->rows_per_task * job->groups;
    }
    job->first_task[job->span_count] = tasks;
    return tasks;
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
    attention_areas(&job, op);
    // Few long rows (decoding) are spread over all threads, at the price of reading a block once per task.
    job.rows_per_task = QUERY_ROWS;
    int64_t tasks = count_tasks(&job), threads = pool_threads(op->pool);
    while (job.rows_per_task > 2 && tasks < (job.rows_per_task > DIRECT_ROWS ? 2 * threads : threads)) {
        job.rows_per_task /= 2;
        tasks = count_tasks(&job);
    }
    pool_run(op->pool, tasks, attention_task, &job);
    arena_release(op->scratch, mark);
}
