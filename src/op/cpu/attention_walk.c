// Attention: the keys of a stretch, block by block. Many rows multiply packed operands here; few rows read blocks where
// they lie (attention_few.c). The chains are the same.
#include <math.h>

#include "op/cpu/attention_run.h"
#include "tensor/formats.h"

struct key_block attention_open_block(const struct attention_job *job, struct attention_area *area,
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
    int64_t begin = unseeing_rows(job, piece, block * KEY_ROWS);
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
            float correction = kernels->softmax(area->factor + end * factor_words, &area->walk.maximum[end],
                                                &area->walk.denominator[end], area->score + end * KEY_ROWS, visible,
                                                job->scale);
            if (correction != 1.0f) {
                kernels->scale(area->walk.sum + end * job->columns, correction, job->columns);
            }
        }
        kernels->accumulate(area->walk.sum + begin * job->columns, area->factor + begin * factor_words, factor_words, 1,
                            area->values, job->columns, end - begin, run_visible);
        begin = end;
    }
}

void attention_put_queries(const struct attention_job *job, struct attention_area *area,
                           const struct attention_piece *piece) {
    const struct attention_kernels *kernels = job->kernels;
    int64_t run = job->group_heads == 1 ? piece->rows : 1;   // rows of q that lie evenly apart
    for (int64_t r = 0; r < piece->rows; r += run) {
        struct row q = piece_row(job, piece, job->q, r);
        uint32_t *words = area->queries + r * job->q_words;
        kernels->pack_queries(words, job->q_words, q, job->q->stride[0], job->nope, run);
        kernels->pack_queries(words + job->nope_words, job->q_words, row_advance(q, job->nope), job->q->stride[0],
                              job->rope, run);
    }
    if (piece->rows <= DIRECT_ROWS) {
        attention_few_put_queries(job, area, piece->rows);
    }
}

void attention_walk(const struct attention_job *job, struct attention_area *area, const struct attention_piece *piece,
                    int64_t stretch) {
    const int64_t stretch_blocks = ATTENTION_STRETCH / KEY_ROWS;
    const int64_t end = (stretch + 1) * ATTENTION_STRETCH < piece->seen ? (stretch + 1) * ATTENTION_STRETCH
                                                                        : piece->seen;
    for (int64_t r = 0; r < piece->rows; r++) {
        area->walk.maximum[r] = -INFINITY;
        area->walk.denominator[r] = 0.0f;
    }
    for (int64_t i = 0; i < piece->rows * job->columns; i++) {
        area->walk.sum[i] = 0.0f;
    }
    for (int64_t block = stretch * stretch_blocks; block * KEY_ROWS < end; block++) {
        int64_t keys = attention_few_keys(job, piece, block);
        if (keys > 0) {
            bool more = (block + 1) * KEY_ROWS < end;
            attention_few_attend(job, area, piece, block, keys, more ? attention_few_keys(job, piece, block + 1) : 0);
            continue;
        }
        keys = end - block * KEY_ROWS < KEY_ROWS ? end - block * KEY_ROWS : KEY_ROWS;
        struct key_block from = attention_open_block(job, area, piece, block, keys);
        pack_block(job, area, &from, keys);
        attend_block(job, area, piece, block, keys);
    }
}
