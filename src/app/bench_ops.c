// The operations round the matrix products, each by the bytes that it must read and write once. Their limit is the
// bandwidth of copying, or of reading where nothing is written.
#include <stdio.h>
#include <string.h>

#include "app/bench.h"
#include "base/math.h"
#include "tensor/formats.h"

#define ROWS 1024
#define WIDTH 2048
#define MOST_TENSORS 5
#define EXPERTS 256
#define TOP_K 8
#define VOCABULARY 16384

// Tensors [rows, columns]; what stands for what is written at each operation.
struct ops_set {
    struct tensor t[MOST_TENSORS];
};

struct ops_case {
    struct ops_set *sets;
    int64_t set_count;
    struct tensor weight, weight_gradient, table;   // norm weight [WIDTH], its gradient, cos and sin of 32 pairs
    float *rstd, *loss;                             // [ROWS]
    float *score, *choice_weight;                   // [ROWS, EXPERTS], [ROWS, TOP_K]
    int32_t *rows, *choice;                         // [ROWS]: permutation and targets; [ROWS, TOP_K]
};

static void rms_norm(struct op_context *op, const struct ops_case *c, struct tensor *t) {
    op_rms_norm(op, &t[1], c->rstd, &t[0], &c->weight, 1e-6f);
}
static void rms_norm_backward(struct op_context *op, const struct ops_case *c, struct tensor *t) {
    struct tensor dw = c->weight_gradient;
    op_rms_norm_backward(op, &t[2], OP_ADD, &dw, &t[1], &t[0], &c->weight, c->rstd);
}
static void swiglu(struct op_context *op, const struct ops_case *c, struct tensor *t) {
    (void)c;
    op_swiglu(op, &t[2], &t[0], &t[1], NULL);
}
static void swiglu_backward(struct op_context *op, const struct ops_case *c, struct tensor *t) {
    op_swiglu_backward(op, &t[3], &t[4], c->loss, &t[2], &t[0], &t[1], NULL);
}
static void rope(struct op_context *op, const struct ops_case *c, struct tensor *t) {
    struct tensor heads = tensor_split_columns(&t[0], WIDTH / 64);
    op_rope(op, &heads, c->rows, &c->table, false);
}
static void cross_entropy(struct op_context *op, const struct ops_case *c, struct tensor *t) {
    op_cross_entropy(op, c->loss, &t[1], &t[0], c->rows, 0.001f);
}
static void adamw(struct op_context *op, const struct ops_case *c, struct tensor *t) {
    static const struct adamw_step step = {.learning_rate = 1e-4f,
                                           .beta1 = 0.9f,
                                           .beta2 = 0.95f,
                                           .epsilon = 1e-8f,
                                           .weight_decay = 0.1f,
                                           .correction1 = 0.5f,
                                           .correction2 = 0.5f,
                                           .gradient_scale = 1.0f};
    (void)c;
    op_adamw(op, &t[0], &t[1], &t[2], &t[3], &t[4], &step);
}
static void router(struct op_context *op, const struct ops_case *c, struct tensor *t) {
    static const struct router_rule rule = {.experts = EXPERTS,
                                            .top_k = TOP_K,
                                            .groups = 8,
                                            .top_groups = 4,
                                            .score = ROUTER_SIGMOID,
                                            .method = ROUTER_GROUP_TOP2,
                                            .normalize = true,
                                            .scaling = 2.5f};
    op_router(op, c->score, c->choice, c->choice_weight, &t[0], c->loss, &rule);
}
static void gather_rows(struct op_context *op, const struct ops_case *c, struct tensor *t) {
    op_gather_rows(op, &t[1], &t[0], c->rows);
}
static void combine_rows(struct op_context *op, const struct ops_case *c, struct tensor *t) {
    op_combine_rows(op, &t[1], &t[0], c->rows, c->loss, 1, OP_ADD);
}
static void add(struct op_context *op, const struct ops_case *c, struct tensor *t) {
    (void)c;
    op_add(op, &t[0], &t[1]);
}
static void sum_squares(struct op_context *op, const struct ops_case *c, struct tensor *t) {
    (void)c;
    op_sum_squares(op, &t[0]);
}
static void quantize_rows(struct op_context *op, const struct ops_case *c, struct tensor *t) {
    (void)c;
    op_quantize_rows(op, &t[1], &t[0], false);
}
static void quantize_rows_power(struct op_context *op, const struct ops_case *c, struct tensor *t) {
    (void)c;
    op_quantize_rows(op, &t[1], &t[0], true);
}
static void quantize_columns(struct op_context *op, const struct ops_case *c, struct tensor *t) {
    (void)c;
    op_quantize_columns(op, &t[1], &t[0], NULL, 1, false);
}
static void quantize_columns_power(struct op_context *op, const struct ops_case *c, struct tensor *t) {
    (void)c;
    op_quantize_columns(op, &t[1], &t[0], NULL, 1, true);
}
static void quantize_blocks(struct op_context *op, const struct ops_case *c, struct tensor *t) {
    (void)c;
    op_quantize_blocks(op, &t[1], &t[0], false);
}
static void dequantize_rows(struct op_context *op, const struct ops_case *c, struct tensor *t) {
    (void)c;
    op_dequantize_rows(op, &t[1], &t[0]);
}

#define F32 FORMAT_F32
#define BF16 FORMAT_BF16
#define TILE FORMAT_E4M3_TILE
#define COLUMN FORMAT_E4M3_COLUMN
#define BLOCK FORMAT_E4M3_BLOCK
// traffic[i]: how often tensor i is read and written; the last tensor has format none.
static const struct ops_row {
    const char *name;
    void (*run)(struct op_context *op, const struct ops_case *c, struct tensor *t);
    int64_t columns;
    enum format formats[MOST_TENSORS];
    int traffic[MOST_TENSORS];
    enum bench_limit limit;
} table[] = {
    {"ops.rms_norm", rms_norm, WIDTH, {F32, BF16}, {1, 1}, LIMIT_COPY},
    {"ops.rms_norm.backward", rms_norm_backward, WIDTH, {F32, F32, F32}, {1, 1, 2}, LIMIT_COPY},
    {"ops.swiglu", swiglu, WIDTH, {BF16, BF16, BF16}, {1, 1, 1}, LIMIT_COPY},
    {"ops.swiglu.backward", swiglu_backward, WIDTH, {BF16, BF16, BF16, BF16, BF16}, {1, 1, 1, 1, 1}, LIMIT_COPY},
    {"ops.rope", rope, WIDTH, {BF16}, {2}, LIMIT_COPY},
    {"ops.cross_entropy", cross_entropy, VOCABULARY, {F32, BF16}, {1, 1}, LIMIT_COPY},
    {"ops.adamw", adamw, WIDTH, {F32, BF16, BF16, BF16, F32}, {2, 2, 2, 1, 1}, LIMIT_COPY},
    {"ops.router", router, EXPERTS, {F32}, {2}, LIMIT_COPY},
    {"ops.gather_rows", gather_rows, WIDTH, {BF16, BF16}, {1, 1}, LIMIT_COPY},
    {"ops.combine_rows", combine_rows, WIDTH, {BF16, F32}, {1, 2}, LIMIT_COPY},
    {"ops.add", add, WIDTH, {F32, BF16}, {2, 1}, LIMIT_COPY},
    {"ops.quantize.rows", quantize_rows, WIDTH, {BF16, TILE}, {1, 1}, LIMIT_COPY},
    {"ops.quantize.rows.power", quantize_rows_power, WIDTH, {BF16, TILE}, {1, 1}, LIMIT_COPY},
    {"ops.quantize.columns", quantize_columns, WIDTH, {BF16, COLUMN}, {1, 1}, LIMIT_COPY},
    {"ops.quantize.columns.power", quantize_columns_power, WIDTH, {BF16, COLUMN}, {1, 1}, LIMIT_COPY},
    {"ops.quantize.retile", quantize_columns, WIDTH, {TILE, COLUMN}, {1, 1}, LIMIT_COPY},
    {"ops.quantize.retile.power", quantize_columns_power, WIDTH, {TILE, COLUMN}, {1, 1}, LIMIT_COPY},
    {"ops.quantize.blocks", quantize_blocks, WIDTH, {F32, BLOCK}, {1, 1}, LIMIT_COPY},
    {"ops.dequantize.rows", dequantize_rows, WIDTH, {TILE, BF16}, {1, 1}, LIMIT_COPY},
    {"ops.sum_squares", sum_squares, WIDTH, {F32}, {1}, LIMIT_READ},
};

struct ops_run {
    const struct ops_row *row;
    const struct ops_case *operands;
};

static void run_row(void *argument, struct op_context *op, int64_t round) {
    struct ops_run *run = argument;
    run->row->run(op, run->operands, run->operands->sets[round % run->operands->set_count].t);
}

static size_t small_bytes(void) {
    return (size_t)(2 * WIDTH + ROWS * (2 * 32 + 3 + EXPERTS + 2 * TOP_K)) * 4 + 4096;
}

// What all operations share and no rotation needs: small beside the sets.
static void make_small(struct ops_case *c, struct arena *arena) {
    float *weight = arena_allocate_zero(arena, WIDTH, sizeof(float));
    c->weight = tensor_1d(FORMAT_F32, weight, WIDTH);
    c->weight_gradient = tensor_1d(FORMAT_F32, arena_allocate_zero(arena, WIDTH, sizeof(float)), WIDTH);
    float *angles = arena_allocate(arena, ROWS * 32 * 2, sizeof *angles);
    c->table = tensor_3d(FORMAT_F32, angles, ROWS, 32, 2);
    c->rstd = arena_allocate(arena, ROWS, sizeof *c->rstd);
    c->loss = arena_allocate_zero(arena, ROWS, sizeof *c->loss);
    c->rows = arena_allocate(arena, ROWS, sizeof *c->rows);
    c->score = arena_allocate_zero(arena, ROWS * EXPERTS, sizeof *c->score);
    c->choice = arena_allocate_zero(arena, ROWS * TOP_K, sizeof *c->choice);
    c->choice_weight = arena_allocate_zero(arena, ROWS * TOP_K, sizeof *c->choice_weight);
    for (int i = 0; i < WIDTH; i++) {
        weight[i] = 1.0f;
    }
    for (int i = 0; i < ROWS * 32; i++) {
        angles[2 * i] = 0.8f;
        angles[2 * i + 1] = 0.6f;
    }
    for (int i = 0; i < ROWS; i++) {
        c->rstd[i] = 1.0f;
        c->rows[i] = (int32_t)((i * 389) % ROWS);   // 389 is odd: a permutation
    }
}

static int measure_row(struct bench *bench, const struct ops_row *row, struct error *error) {
    struct ops_case c = {0};
    int64_t bytes = 0, moved = 0;
    for (int i = 0; i < MOST_TENSORS && row->formats[i] != FORMAT_NONE; i++) {
        int64_t tensor = bench_tensor_bytes(row->formats[i], ROWS, row->columns);
        bytes += tensor;
        moved += row->traffic[i] * tensor;
    }
    int code = bench_sets(bench, &c.set_count, bytes, error);
    if (code == 0) {
        code = arena_reserve(&bench->arena, (size_t)c.set_count * sizeof *c.sets + small_bytes(), error);
    }
    if (code != 0) {
        return code;
    }
    c.sets = arena_allocate_zero(&bench->arena, (size_t)c.set_count, sizeof *c.sets);
    make_small(&c, &bench->arena);
    for (int64_t s = 0; s < c.set_count; s++) {
        for (int i = 0; i < MOST_TENSORS && row->formats[i] != FORMAT_NONE; i++) {
            c.sets[s].t[i] = bench_matrix(bench, row->formats[i], ROWS, row->columns);
        }
        if (row->run == adamw) {
            op_zero(&bench->op[TEAM_ALL], &c.sets[s].t[2]);   // a second moment is not negative
        }
    }
    struct ops_run run = {row, &c};
    struct bench_case measured = {.unit = "GB/s",
                                  .amount = (double)moved / 1e9,
                                  .work = (double)moved / 1e9,
                                  .limit = row->limit,
                                  .team = TEAM_ALL,
                                  .run = run_row,
                                  .argument = &run};
    snprintf(measured.name, sizeof measured.name, "%s", row->name);
    bench_measure(bench, &measured);
    return 0;
}

int bench_ops(struct bench *bench, struct error *error) {
    bench_print_heading(bench, "others, bytes read and written");
    int code = 0;
    for (size_t i = 0; i < sizeof table / sizeof table[0] && code == 0; i++) {
        code = measure_row(bench, &table[i], error);
    }
    return code;
}
