// Attention of few rows (decoding). A block of 64 keys costs more to pack than a few rows gain from it: whole blocks
// are read where they lie, by kernels of their own or those of matrix products with few rows; the chains are the same.
#include <string.h>

#include "op/cpu/attention_run.h"
#include "tensor/formats.h"

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

int64_t attention_few_words(const struct attention_job *job) {
    return direct_query_words(job) +
           DIRECT_ROWS * (KEY_ROWS + LINEAR_CHUNK);   // a tile may read as if there were all rows
}

// Whether scores of few rows are computed by scores_rows.
static bool is_scored(const struct attention_job *job) {
    return job->kernels->scores_rows != NULL && job->nope % SCORE_TERMS == 0 && job->rope % SCORE_TERMS == 0;
}

void attention_few_put_queries(const struct attention_job *job, struct attention_area *area, int64_t rows) {
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
                          struct key_lines *next) {
    if (is_scored(job)) {
        job->kernels->scores_rows(area->score, area->terms, from->nope, from->nope_stride, job->nope, piece->rows, keys,
                                  false, next);
        job->kernels->scores_rows(area->score, area->terms + job->nope * piece->rows, from->rope, from->rope_stride,
                                  job->rope, piece->rows, keys, true, next);
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
                          int64_t keys, int64_t rows, int64_t begin, int64_t end, struct key_lines *next) {
    const int64_t words = KEY_ROWS / job->kernels->step, stride = from->value_stride;
    if (is_accumulated(job)) {
        job->kernels->accumulate_rows(area->walk.sum + begin, job->columns, area->factor, words,
                                      row_advance(from->values, begin), stride, end - begin, rows, keys, next);
        return;
    }
    struct linear_operand operand = direct_operand(from->values, 1, stride);
    struct linear_tile tile = {.c = area->walk.sum + begin,
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

#define VALUE_COLUMNS 64   // of a product, before a part of the next block is read
void attention_few_attend(const struct attention_job *job, struct attention_area *area,
                          const struct attention_piece *piece, int64_t block, int64_t keys, int64_t next) {
    const struct attention_kernels *kernels = job->kernels;
    const int64_t words = KEY_ROWS / kernels->step;
    struct key_block from = attention_open_block(job, area, piece, block, keys);
    struct key_lines lines = block_lines(job, piece, block + 1, next);
    const bool asked = lines.count > 0;
    direct_scores(job, area, piece, &from, whole_vectors(keys), &lines);
    for (int64_t r = 0; r < piece->rows; r++) {
        float correction = kernels->softmax(area->factor + r * words, &area->walk.maximum[r],
                                            &area->walk.denominator[r], area->score + r * KEY_ROWS, keys, job->scale);
        if (correction != 1.0f) {
            kernels->scale(area->walk.sum + r * job->columns, correction, job->columns);
        }
    }
    if (!is_accumulated(job)) {
        put_chunks(area->direct + direct_query_words(job), area->factor, words, piece->rows, words);
    }
    int64_t columns = job->v->shape[2], parts = (columns + VALUE_COLUMNS - 1) / VALUE_COLUMNS;
    for (int64_t part = 0; part < parts; part++) {
        touch_block(job, piece, block + 1, asked ? 0 : next, part, parts);
        int64_t begin = part * VALUE_COLUMNS;
        direct_values(job, area, &from, keys, piece->rows, begin,
                      columns < begin + VALUE_COLUMNS ? columns : begin + VALUE_COLUMNS, &lines);
    }
}

int64_t attention_few_keys(const struct attention_job *job, const struct attention_piece *piece, int64_t block) {
    int64_t begin = block * KEY_ROWS, least = piece->span->position + piece_token(job, piece, 0) + 1 - begin;
    int64_t most = piece->span->position + piece_token(job, piece, piece->rows - 1) + 1 - begin;
    if (piece->rows > DIRECT_ROWS || least <= 0 || (least < KEY_ROWS && (least < most || !is_accumulated(job)))) {
        return 0;
    }
    int64_t keys = least < KEY_ROWS ? least : KEY_ROWS;
    return first_key(piece->span, block) + whole_vectors(keys) <= job->k_nope->shape[0] ? keys : 0;
}

void attention_few_touch_first(const struct attention_job *job, const struct attention_piece *piece, int64_t block) {
    const struct key_lines begin = block_lines(job, piece, block, attention_few_keys(job, piece, block));
    memory_touch(begin.from, begin.count * MEMORY_LINE);
}
