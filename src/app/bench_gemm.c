// Matrix products: y = x W^T [M, N] = [M, K] [N, K]^T, its two gradients, the same for groups (experts), and products
// of few rows, which read the weights at the speed of memory. Packing is inside the time, operands rotate.
#include <inttypes.h>
#include <stdio.h>

#include "app/bench.h"
#include "tensor/formats.h"
#include "tensor/panels.h"

#define MOST_GROUPS 8

enum product { PRODUCT_FORWARD, PRODUCT_DGRAD, PRODUCT_WGRAD };

struct product_set {
    struct tensor x, y;             // [groups * M, K], [groups * M, N]
    struct tensor w[MOST_GROUPS];   // [N, K]; wgrad: F32, added to
};

struct product_case {
    enum product product;
    enum format format;                     // of the weights; activations are F32 beside F32, else BF16,
    bool quantised;                         // or E4M3 with a scale for 128 along k, as FP8 training has them
    bool by_memory;                         // judged by the bytes of the weights
    int64_t groups, rows, columns, inner;   // groups 0: not grouped
    int32_t offsets[MOST_GROUPS + 1];
    struct product_set *sets;
    int64_t set_count;
};

static void run_product(void *argument, struct op_context *op, int64_t round) {
    struct product_case *c = argument;
    struct product_set *set = &c->sets[round % c->set_count];
    if (c->groups == 0 && c->product == PRODUCT_FORWARD) {
        op_linear(op, &set->y, &set->x, set->w, OP_SET);
    } else if (c->groups == 0 && c->product == PRODUCT_DGRAD) {
        op_linear_backward_input(op, &set->x, &set->y, set->w, OP_SET);
    } else if (c->groups == 0) {
        op_linear_backward_weight(op, set->w, &set->y, &set->x, OP_ADD);
    } else if (c->product == PRODUCT_FORWARD) {
        op_linear_grouped(op, &set->y, &set->x, set->w, c->offsets, c->groups);
    } else if (c->product == PRODUCT_DGRAD) {
        op_linear_grouped_backward_input(op, &set->x, &set->y, set->w, c->offsets, c->groups);
    } else {
        op_linear_grouped_backward_weight(op, set->w, &set->y, &set->x, c->offsets, c->groups, OP_ADD);
    }
}

// Format of x (or of y), which is an operand of two of the three products and the result of the third.
static enum format activation_format(const struct product_case *c, enum product result) {
    if (c->format == FORMAT_F32) {
        return FORMAT_F32;
    }
    if (!c->quantised || c->product == result) {
        return FORMAT_BF16;
    }
    return c->product == PRODUCT_WGRAD ? FORMAT_E4M3_COLUMN : FORMAT_E4M3_TILE;
}

// [rows, columns] of scales; no columns where the format has none or bench_tensor makes them.
static void scale_shape(int64_t shape[2], enum format format, int64_t rows, int64_t columns) {
    shape[0] = format == FORMAT_E4M3_COLUMN ? (rows + BLOCK_SIZE - 1) / BLOCK_SIZE : rows;
    shape[1] = format == FORMAT_E4M3_COLUMN ? columns
               : format == FORMAT_E4M3_TILE ? (columns + BLOCK_SIZE - 1) / BLOCK_SIZE
                                            : 0;
}

static int64_t activation_bytes(enum format format, int64_t rows, int64_t columns) {
    int64_t scales[2];
    scale_shape(scales, format, rows, columns);
    return bench_tensor_bytes(format, rows, columns) + bench_tensor_bytes(FORMAT_F32, scales[0], scales[1]);
}

static struct tensor make_activation(struct bench *bench, enum format format, int64_t rows, int64_t columns) {
    struct tensor tensor = bench_matrix(bench, format, rows, columns);
    int64_t scales[2];
    scale_shape(scales, format, rows, columns);
    if (scales[1] > 0) {
        tensor.scale = bench_matrix(bench, FORMAT_F32, scales[0], scales[1]).data;
    }
    return tensor;
}

static int make_sets(struct bench *bench, struct product_case *c, struct error *error) {
    int64_t groups = c->groups > 0 ? c->groups : 1, rows = groups * c->rows;
    enum format x = activation_format(c, PRODUCT_DGRAD), y = activation_format(c, PRODUCT_FORWARD);
    enum format weight = c->product == PRODUCT_WGRAD ? FORMAT_F32 : c->format;
    int64_t bytes = activation_bytes(x, rows, c->inner) + activation_bytes(y, rows, c->columns) +
                    groups * bench_tensor_bytes(weight, c->columns, c->inner);
    int code = bench_sets(bench, &c->set_count, bytes, error);
    if (code == 0) {
        code = arena_reserve(&bench->arena, (size_t)c->set_count * sizeof *c->sets, error);
    }
    if (code != 0) {
        return code;
    }
    c->sets = arena_allocate(&bench->arena, (size_t)c->set_count, sizeof *c->sets);
    for (int64_t i = 0; i < c->set_count; i++) {
        c->sets[i].x = make_activation(bench, x, rows, c->inner);
        c->sets[i].y = make_activation(bench, y, rows, c->columns);
        for (int64_t g = 0; g < groups; g++) {
            c->sets[i].w[g] = bench_matrix(bench, weight, c->columns, c->inner);
        }
    }
    for (int64_t g = 0; g <= groups; g++) {
        c->offsets[g] = (int32_t)(g * c->rows);
    }
    return 0;
}

static const char *format_label(const struct product_case *c) {
    if (format_is_panels(c->format)) {
        return c->format == FORMAT_E4M3_PANELS ? "fp8-panels" : "bf16-panels";
    }
    return c->quantised ? "fp8xfp8" : c->format == FORMAT_E4M3_BLOCK ? "fp8" : format_info(c->format)->name;
}

static void name_product(char name[BENCH_NAME], const struct product_case *c) {
    static const char *const products[] = {"", ".dgrad", ".wgrad"};
    char groups[24] = "";
    if (c->groups > 0) {
        snprintf(groups, sizeof groups, "%" PRId64 "x", c->groups);
    }
    snprintf(name, BENCH_NAME, "%s.%s%s.%s%" PRId64 "x%" PRId64 "x%" PRId64,
             c->by_memory    ? "gemv"
             : c->groups > 0 ? "grouped"
                             : "gemm",
             format_label(c), products[c->product], groups, c->rows, c->columns, c->inner);
}

// One product with the operands that are there.
static void measure_product(struct bench *bench, struct product_case *c, enum bench_team team) {
    int64_t groups = c->groups > 0 ? c->groups : 1;
    struct bench_case measured = {.unit = "GFLOP/s", .team = team, .run = run_product, .argument = c};
    name_product(measured.name, c);
    measured.limit = c->format == FORMAT_F32 ? LIMIT_F32 : LIMIT_PAIRS;
    measured.amount = 2.0 * (double)(groups * c->rows) * (double)c->columns * (double)c->inner / 1e9;
    if (c->by_memory) {
        measured.unit = "GB/s";
        measured.limit = LIMIT_READ;
        measured.amount = (double)(groups * tensor_bytes(&c->sets[0].w[0])) / 1e9;
    }
    measured.work = measured.amount;
    bench_measure(bench, &measured);
}

static int product(struct bench *bench, struct product_case c, bool every_team, struct error *error) {
    int code = make_sets(bench, &c, error);
    for (int t = 0; t < bench->options.team_count && code == 0; t++) {
        enum bench_team team = bench->options.teams[t];
        if (every_team || team == bench->options.teams[bench->options.team_count - 1]) {
            measure_product(bench, &c, team);
        }
    }
    return code;
}

static const enum format formats[] = {FORMAT_F32, FORMAT_BF16, FORMAT_E4M3_BLOCK};
#define FORMATS 3

// Every format and direction of one shape.
static int directions(struct bench *bench, int64_t rows, int64_t columns, int64_t inner, struct error *error) {
    int code = 0;
    for (int direction = PRODUCT_FORWARD; direction <= PRODUCT_WGRAD; direction++) {
        for (int f = 0; f <= FORMATS && code == 0; f++) {
            if (direction == PRODUCT_WGRAD && f < FORMATS && formats[f] == FORMAT_E4M3_BLOCK) {
                continue;   // a weight gradient has no E4M3 weights
            }
            struct product_case c = {.product = (enum product)direction,
                                     .format = f < FORMATS ? formats[f] : FORMAT_E4M3_BLOCK,
                                     .quantised = f == FORMATS,
                                     .rows = rows,
                                     .columns = columns,
                                     .inner = inner};
            code = product(bench, c, direction == PRODUCT_FORWARD, error);
        }
    }
    return code;
}

static int experts(struct bench *bench, struct error *error) {
    static const int64_t shapes[][2] = {{512, 1024}, {2048, 7168}}, tokens[] = {64, 128, 256};
    int code = 0;
    for (int s = 0; s < 2; s++) {
        for (int t = 0; t < 3; t++) {
            for (int f = 1; f < FORMATS && code == 0; f++) {
                struct product_case c = {
                    .format = formats[f], .rows = tokens[t], .columns = shapes[s][0], .inner = shapes[s][1]};
                code = product(bench, c, false, error);
            }
        }
    }
    for (int direction = PRODUCT_FORWARD; direction <= PRODUCT_WGRAD && code == 0; direction++) {
        struct product_case c = {.product = (enum product)direction,
                                 .format = FORMAT_BF16,
                                 .groups = MOST_GROUPS,
                                 .rows = 128,
                                 .columns = 512,
                                 .inner = 1024};
        code = product(bench, c, false, error);
    }
    return code;
}

static int vectors(struct bench *bench, struct error *error) {
    static const struct {
        int64_t groups, rows, columns, inner;
    } shapes[] = {
        {0, 1, 512, 1024},
        {0, 1, 2048, 7168},
        {0, 1, 7168, 2048},
        {0, 1, 16384, 4096},
        {0, 8, 2048, 7168},
        {MOST_GROUPS, 4, 512, 1024},   // experts of a batch of sequences that write token
                                       // by token
        {MOST_GROUPS, 4, 1024, 512},
    };
    int code = 0;
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        for (int f = 0; f < 2 * FORMATS && code == 0; f++) {
            enum format format = f < FORMATS ? formats[f] : panels_format(formats[f - FORMATS]);
            if (format == FORMAT_NONE || (f >= FORMATS && !op_interleaves(&bench->op[TEAM_ALL]))) {
                continue;
            }
            struct product_case c = {.format = format,
                                     .by_memory = true,
                                     .groups = shapes[s].groups,
                                     .rows = shapes[s].rows,
                                     .columns = shapes[s].columns,
                                     .inner = shapes[s].inner};
            code = product(bench, c, false, error);
        }
    }
    return code;
}

int bench_gemm(struct bench *bench, struct error *error) {
    const struct bench_options *options = &bench->options;
    bench_print_heading(bench, "matrix products, rows x columns x inner");
    if (options->rows > 0) {
        return directions(bench, options->rows, options->columns, options->inner, error);
    }
    int code = directions(bench, 2048, 2048, 2048, error);
    if (code == 0) {
        bench_print_heading(bench, "products of the size of an expert");
        code = experts(bench, error);
    }
    if (code == 0) {
        bench_print_heading(bench, "matrix-vector products");
        code = vectors(bench, error);
    }
    return code;
}
