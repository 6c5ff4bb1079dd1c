// SwiGLU of FP8 training, forward and backward, with the quantisers round it (op/ops.h): the sequences of swiglu.c and
// quantize.c on pieces that stay in the second cache level. Nothing in BF16 but dy and the forward's input is read from
// memory, and nothing in BF16 is written to it.
#include "op/cpu/cpu_ops.h"
#include "op/cpu/kernels.h"

#define PIECE QUANTIZE_COLUMNS   // columns at a time

static int64_t piece_end(int64_t begin, int64_t size) {
    return size - begin < PIECE ? size - begin : PIECE;
}

static struct row bf16_row(uint16_t *data) {
    return (struct row){.data = data, .format = FORMAT_BF16};
}

struct swiglu_tiles_job {
    const struct cpu_kernels *kernels;
    struct row_split split;
    const struct swiglu_tiles *out;
    const struct tensor *hidden, *tiles, *gate_up, *dy;
    const float *weight;
    float *dweight;
    const struct quantize_tile *of_rows;
    struct backward_piece *pieces;   // one for each worker
    int64_t width;
    bool power_of_two;
};

// ---- Forward: a task is some rows -----------------------------------------------------------------------------------

static void forward_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct swiglu_tiles_job *job = argument;
    const struct quantize_kernels *quantize = &job->kernels->quantize;
    int64_t width = job->width;
    uint16_t hidden[PIECE];
    for (int64_t t = row_split_begin(&job->split, task); t < row_split_end(&job->split, task); t++) {
        struct row gate_up = tensor_row(job->gate_up, t);
        quantize_row(quantize, job->tiles, t, 0, gate_up, 2 * width, job->power_of_two);
        for (int64_t column = 0; column < width; column += PIECE) {
            int64_t n = piece_end(column, width);
            job->kernels->row.swiglu(bf16_row(hidden), row_advance(gate_up, column),
                                     row_advance(gate_up, width + column), 1.0f, n);
            quantize_row(quantize, job->hidden, t, column, bf16_row(hidden), n, job->power_of_two);
        }
    }
}

void cpu_swiglu_tiles(struct op_context *op, struct tensor *hidden, struct tensor *tiles, const struct tensor *gate_up,
                      bool power_of_two) {
    struct swiglu_tiles_job job = {.kernels = op->kernels,
                                   .split = row_split_make(hidden->shape[0], gate_up->shape[1]),
                                   .hidden = hidden,
                                   .tiles = tiles,
                                   .gate_up = gate_up,
                                   .width = hidden->shape[1],
                                   .power_of_two = power_of_two};
    pool_run(op->pool, job.split.tasks, forward_task, &job);
}

// ---- Backward: a task is a tile of 128 rows, of all columns if rows are summed, else of a piece of them -------------

struct backward_piece {
    uint16_t hidden[BLOCK_SIZE * PIECE], dgate[BLOCK_SIZE * PIECE], dup[BLOCK_SIZE * PIECE];
    uint16_t gate[PIECE], up[PIECE];
    float lane[BLOCK_SIZE][SUM_LANES];
};

static void backward_row(const struct swiglu_tiles_job *job, struct backward_piece *piece, int64_t row, int64_t i,
                         int64_t column, int64_t n) {
    const struct quantize_kernels *quantize = &job->kernels->quantize;
    struct row gate = bf16_row(piece->gate), up = bf16_row(piece->up);
    struct row dgate = bf16_row(piece->dgate + i * PIECE), dup = bf16_row(piece->dup + i * PIECE);
    dequantize_row(quantize, gate, job->gate_up, row, column, n);
    dequantize_row(quantize, up, job->gate_up, row, job->width + column, n);
    job->kernels->row.swiglu_backward(dgate, dup, bf16_row(piece->hidden + i * PIECE), piece->lane[i],
                                      row_advance(tensor_row(job->dy, row), column), gate, up,
                                      job->weight != NULL ? job->weight[row] : 1.0f, n);
    quantize_row(quantize, &job->out->dgate, row, column, dgate, n, job->power_of_two);
    quantize_row(quantize, &job->out->dup, row, column, dup, n, job->power_of_two);
}

static void backward_piece(const struct swiglu_tiles_job *job, struct backward_piece *piece, int64_t index,
                           int64_t column) {
    const struct quantize_tile *tile = &job->of_rows[index];
    const struct quantize_kernels *quantize = &job->kernels->quantize;
    const struct swiglu_tiles *out = job->out;
    int64_t n = piece_end(column, job->width);
    for (int64_t i = 0; i < tile->rows; i++) {
        backward_row(job, piece, tile->row + i, i, column, n);
    }
    quantize_column_tile(quantize, &out->hidden_columns, index, tile, column, bf16_row(piece->hidden), PIECE, n,
                         job->power_of_two);
    quantize_column_tile(quantize, &out->dgate_columns, index, tile, column, bf16_row(piece->dgate), PIECE, n,
                         job->power_of_two);
    quantize_column_tile(quantize, &out->dup_columns, index, tile, column, bf16_row(piece->dup), PIECE, n,
                         job->power_of_two);
}

static void backward_piece_task(void *argument, int64_t task, int worker) {
    const struct swiglu_tiles_job *job = argument;
    int64_t pieces = (job->width + PIECE - 1) / PIECE;
    backward_piece(job, &job->pieces[worker], task / pieces, task % pieces * PIECE);
}

static void backward_rows_task(void *argument, int64_t task, int worker) {
    const struct swiglu_tiles_job *job = argument;
    const struct quantize_tile *tile = &job->of_rows[task];
    struct backward_piece *piece = &job->pieces[worker];
    for (int64_t i = 0; i < tile->rows; i++) {
        for (int l = 0; l < SUM_LANES; l++) {
            piece->lane[i][l] = 0.0f;
        }
    }
    for (int64_t column = 0; column < job->width; column += PIECE) {
        backward_piece(job, piece, task, column);
    }
    for (int64_t i = 0; i < tile->rows; i++) {
        job->dweight[tile->row + i] = lane_tree(piece->lane[i]);
    }
}

void cpu_swiglu_backward_tiles(struct op_context *op, struct swiglu_tiles *out, float *dweight, const struct tensor *dy,
                               const struct tensor *gate_up, const float *weight, const int32_t *offsets,
                               int64_t groups, bool power_of_two) {
    struct arena_mark mark = arena_mark(op->scratch);
    int64_t count, threads = op->pool != NULL ? pool_threads(op->pool) : 1;
    struct swiglu_tiles_job job = {.kernels = op->kernels,
                                   .out = out,
                                   .gate_up = gate_up,
                                   .dy = dy,
                                   .weight = weight,
                                   .dweight = dweight,
                                   .of_rows = quantize_tiles(op, offsets, groups, &count),
                                   .pieces = arena_allocate(op->scratch, (size_t)threads, sizeof *job.pieces),
                                   .width = dy->shape[1],
                                   .power_of_two = power_of_two};
    if (dweight != NULL) {
        pool_run(op->pool, count, backward_rows_task, &job);
    } else {
        pool_run(op->pool, count * ((job.width + PIECE - 1) / PIECE), backward_piece_task, &job);
    }
    arena_release(op->scratch, mark);
}
