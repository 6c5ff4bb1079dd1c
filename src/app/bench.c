// `minke bench`: how fast this machine is, and how near the kernels come to it.
//
// The limits (multiply-add and memory-read rates of all threads together) are measured in the same run as what is
// compared with them. A figure is the best of its runs: what else the machine does can only slow a run down. Operands
// rotate over OPERAND_BYTES of memory, so that no cache keeps them from one run to the next; packing of operands is
// inside the time.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "app/app.h"
#include "app/options.h"
#include "base/arena.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/pool.h"
#include "op/cpu/kernels.h"
#include "tensor/formats.h"

#define OPERAND_BYTES ((int64_t)320 << 20)
#define READ_BYTES ((int64_t)64 << 20)   // of one run; runs follow each other through the operands
#define READ_TASKS 64
#define PEAK_TASKS_PER_THREAD 4
#define RUNS 3   // at least, of each figure

struct bench {
    struct op_context op;
    int threads;
    bool json;
    double seconds;   // for each figure
    char *operands;   // OPERAND_BYTES of small BF16 numbers
    float *scales;    // 0.5 each, enough for the largest E4M3 weight
    double limit_f32, limit_pairs, limit_read;
};

// ---- Measuring and printing -------------------------------------------------------------------------------------

static double best_seconds(struct bench *bench, void (*run)(struct bench *bench, void *argument, int64_t turn),
                           void *argument) {
    double best = 0.0, begin = clock_seconds();
    for (int64_t turn = 0; turn <= RUNS || clock_seconds() - begin < bench->seconds; turn++) {
        double start = clock_seconds();
        run(bench, argument, turn);
        double seconds = clock_seconds() - start;
        if (turn == 1 || (turn > 1 && seconds < best)) {
            best = seconds;   // the first turn warms pages and buffers up
        }
    }
    return best;
}

static void print_figure(const struct bench *bench, const char *name, double value, const char *unit, double limit) {
    if (bench->json) {
        printf("{\"name\": \"%s\", \"value\": %.4g, \"unit\": \"%s\", \"limit\": %.4g, \"fraction\": %.4f, ", name,
               value, unit, limit, value / limit);
        printf("\"threads\": %d, \"isa\": \"%s\"}\n", bench->threads, isa_name(bench->op.isa));
    } else {
        printf("%-44s %10.1f %-8s %5.1f %% of %.1f\n", name, value, unit, 100.0 * value / limit, limit);
    }
    fflush(stdout);
}

// ---- Limits -----------------------------------------------------------------------------------------------------

struct peak_run {
    double (*multiply_add)(int64_t rounds);
    int64_t rounds;
    double operations;   // of one task; the same in each
};

static void peak_task(void *argument, int64_t task, int worker) {
    struct peak_run *run = argument;
    double operations = run->multiply_add(run->rounds);
    if (task == 0) {
        run->operations = operations;
    }
    (void)worker;
}

static void run_peak(struct bench *bench, void *argument, int64_t turn) {
    (void)turn;
    pool_run(bench->op.pool, (int64_t)bench->threads * PEAK_TASKS_PER_THREAD, peak_task, argument);
}

static double measure_peak(struct bench *bench, double (*multiply_add)(int64_t rounds)) {
    struct peak_run run = {.multiply_add = multiply_add, .rounds = 100000};
    double seconds = best_seconds(bench, run_peak, &run);
    return run.operations * bench->threads * PEAK_TASKS_PER_THREAD / seconds * 1e-9;
}

struct read_run {
    const struct bench *bench;
    const char *from;
    uint64_t sums[READ_TASKS];
};

static void read_task(void *argument, int64_t task, int worker) {
    struct read_run *run = argument;
    const int64_t bytes = READ_BYTES / READ_TASKS;
    (void)worker;
    run->sums[task] = run->bench->op.kernels->peak.read(run->from + task * bytes, bytes);
}

static void run_read(struct bench *bench, void *argument, int64_t turn) {
    struct read_run *run = argument;
    run->from = bench->operands + turn * READ_BYTES % OPERAND_BYTES;
    pool_run(bench->op.pool, READ_TASKS, read_task, run);
}

static double measure_read(struct bench *bench) {
    struct read_run run = {.bench = bench};
    return (double)READ_BYTES / best_seconds(bench, run_read, &run) * 1e-9;
}

static void measure_limits(struct bench *bench, bool print) {
    const struct peak_kernels *peak = &bench->op.kernels->peak;
    bench->limit_f32 = measure_peak(bench, peak->multiply_add);
    bench->limit_pairs = peak->multiply_add_pairs != NULL ? measure_peak(bench, peak->multiply_add_pairs)
                                                          : bench->limit_f32;
    bench->limit_read = measure_read(bench);
    if (print) {
        print_figure(bench, "peak.f32", bench->limit_f32, "GFLOP/s", bench->limit_f32);
        print_figure(bench, "peak.bf16", bench->limit_pairs, "GFLOP/s", bench->limit_pairs);
        print_figure(bench, "peak.read", bench->limit_read, "GB/s", bench->limit_read);
    }
}

// ---- Matrix products --------------------------------------------------------------------------------------------

enum product { FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT };
static const char *const product_names[] = {"", "dgrad.", "wgrad."};

struct product_run {
    enum product product;
    enum format activation, weight;
    int64_t tokens, outputs, inputs;   // x [tokens, inputs], w [outputs, inputs]
    int64_t x_bytes, w_bytes, y_bytes, sets;
};

static int64_t cache_lines(int64_t bytes) {
    return (bytes + MEMORY_ALIGNMENT - 1) / MEMORY_ALIGNMENT * MEMORY_ALIGNMENT;
}

static void run_product(struct bench *bench, void *argument, int64_t turn) {
    const struct product_run *run = argument;
    char *set = bench->operands + turn % run->sets * (run->x_bytes + run->w_bytes + run->y_bytes);
    struct tensor x = tensor_2d(run->activation, set, run->tokens, run->inputs);
    struct tensor w = tensor_2d(run->product == BACKWARD_WEIGHT ? FORMAT_F32 : run->weight, set + run->x_bytes,
                                run->outputs, run->inputs);
    struct tensor y = tensor_2d(run->activation, set + run->x_bytes + run->w_bytes, run->tokens, run->outputs);
    w.scale = bench->scales;
    if (run->product == FORWARD) {
        op_linear(&bench->op, &y, &x, &w, OP_SET);
    } else if (run->product == BACKWARD_INPUT) {
        op_linear_backward_input(&bench->op, &x, &y, &w, OP_SET);
    } else {
        op_linear_backward_weight(&bench->op, &w, &y, &x);
    }
}

// Small numbers in every format. What products write over them may be anything: no kernel's time depends on values.
static void fill_operands(struct bench *bench) {
    uint64_t state = 0x9e3779b97f4a7c15u;
    for (int64_t i = 0; i < OPERAND_BYTES; i += 8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Four BF16 in +-[0.25, 0.5); as bytes they are finite E4M3, as words small F32.
        uint64_t words = (state & 0x8077807780778077u) | 0x3e803e803e803e80u;
        memcpy(bench->operands + i, &words, sizeof words);
    }
}

static const char *format_word(enum format format) {
    return format == FORMAT_E4M3_BLOCK ? "fp8" : format_info(format)->name;
}

static void measure_product(struct bench *bench, struct product_run run, bool matvec) {
    int64_t weight_bytes = run.outputs * run.inputs * format_info(run.weight)->bytes;
    run.x_bytes = cache_lines(run.tokens * run.inputs * format_info(run.activation)->bytes);
    run.y_bytes = cache_lines(run.tokens * run.outputs * format_info(run.activation)->bytes);
    run.w_bytes = cache_lines(run.product == BACKWARD_WEIGHT ? run.outputs * run.inputs * 4 : weight_bytes);
    run.sets = OPERAND_BYTES / (run.x_bytes + run.w_bytes + run.y_bytes);
    double seconds = best_seconds(bench, run_product, &run);
    char name[96];
    snprintf(name, sizeof name, "%s.%s%s.%" PRId64 "x%" PRId64 "x%" PRId64, matvec ? "matvec" : "gemm",
             product_names[run.product], format_word(run.weight), run.tokens, run.outputs, run.inputs);
    if (matvec) {
        print_figure(bench, name, (double)weight_bytes / seconds * 1e-9, "GB/s", bench->limit_read);
    } else {
        double operations = 2.0 * (double)run.tokens * (double)run.outputs * (double)run.inputs;
        bool pairs = run.activation == FORMAT_BF16;
        print_figure(bench, name, operations / seconds * 1e-9, "GFLOP/s",
                     pairs ? bench->limit_pairs : bench->limit_f32);
    }
}

static void bench_gemm(struct bench *bench) {
    static const enum format formats[] = {FORMAT_BF16, FORMAT_F32, FORMAT_E4M3_BLOCK};
    for (int f = 0; f < 3; f++) {
        enum format activation = formats[f] == FORMAT_F32 ? FORMAT_F32 : FORMAT_BF16;
        for (enum product product = FORWARD; product <= (f < 2 ? BACKWARD_WEIGHT : BACKWARD_INPUT); product++) {
            measure_product(bench, (struct product_run){product, activation, formats[f], 2048, 2048, 2048, 0, 0, 0, 0},
                            false);
        }
        for (int64_t tokens = 64; tokens <= 256; tokens *= 2) {
            measure_product(bench, (struct product_run){FORWARD, activation, formats[f], tokens, 512, 1024, 0, 0, 0, 0},
                            false);
            measure_product(
                bench, (struct product_run){FORWARD, activation, formats[f], tokens, 2048, 7168, 0, 0, 0, 0}, false);
        }
    }
}

static void bench_matvec(struct bench *bench) {
    static const enum format formats[] = {FORMAT_BF16, FORMAT_F32, FORMAT_E4M3_BLOCK};
    for (int f = 0; f < 3; f++) {
        enum format activation = formats[f] == FORMAT_F32 ? FORMAT_F32 : FORMAT_BF16;
        for (int64_t tokens = 1; tokens <= 8; tokens *= 2) {
            measure_product(
                bench, (struct product_run){FORWARD, activation, formats[f], tokens, 7168, 2048, 0, 0, 0, 0}, true);
            measure_product(
                bench, (struct product_run){FORWARD, activation, formats[f], tokens, 2048, 7168, 0, 0, 0, 0}, true);
        }
    }
}

// ---- The command ------------------------------------------------------------------------------------------------

static const struct suite {
    const char *name;
    void (*run)(struct bench *bench);   // NULL: the limits alone
} suites[] = {{"peak", NULL}, {"gemm", bench_gemm}, {"matvec", bench_matvec}};
#define SUITES ((int)(sizeof suites / sizeof *suites))

static const struct suite *find_suite(const char *name) {
    for (int i = 0; i < SUITES; i++) {
        if (strcmp(suites[i].name, name) == 0) {
            return &suites[i];
        }
    }
    return NULL;
}

int command_bench(int argc, char **argv) {
    struct bench bench = {.seconds = 0.5};
    char **names = NULL;
    int count = 0, status = 1;
    const struct command_option options[] = {
        {.name = "json", .help = "one JSON object a line", .flag = &bench.json},
        {.name = "seconds",
         .argument = "S",
         .help = "time for each figure, at least (0.5)",
         .number = &bench.seconds,
         .least = 0.001,
         .most = 600},
        {0},
    };
    const struct command_positional positionals[] = {
        {.name = "WHAT", .help = "peak, gemm, matvec; all of them if none is named", .list = &names, .count = &count},
        {0},
    };
    struct common_options common = {0};
    const struct command_syntax syntax = {
        .name = "bench",
        .summary = "measure the machine and the kernels",
        .description = "Prints each figure with the limit it runs against, measured in the same run.",
        .options = options,
        .positionals = positionals,
        .common = &common};
    if (!options_parse(&syntax, argc, argv, &status)) {
        return status;
    }
    status = 1;
    struct error error = {0};
    struct pool *pool = NULL;
    struct arena scratch;
    arena_init(&scratch, "bench");
    for (int i = 0; i < count; i++) {
        if (find_suite(names[i]) == NULL) {
            error_set(&error, ERROR_ARGUMENT, "bench: \"%s\": expected peak, gemm or matvec", names[i]);
            goto out;
        }
    }
    if (pool_create(&pool, (int)common.threads, &error) != 0 ||
        op_context_init(&bench.op, common.isa, pool, &scratch, &error) != 0 ||
        (bench.operands = memory_allocate(1, (size_t)OPERAND_BYTES, "operands", &error)) == NULL ||
        (bench.scales = memory_allocate(4096, sizeof(float), "scales", &error)) == NULL) {
        goto out;
    }
    bench.threads = pool_threads(pool);
    for (int i = 0; i < 4096; i++) {
        bench.scales[i] = 0.5f;
    }
    fill_operands(&bench);
    bool print_limits = count == 0;
    for (int i = 0; i < count; i++) {
        print_limits |= find_suite(names[i])->run == NULL;
    }
    measure_limits(&bench, print_limits);
    for (int i = 0; i < (count > 0 ? count : SUITES); i++) {
        const struct suite *suite = count > 0 ? find_suite(names[i]) : &suites[i];
        if (suite->run != NULL) {
            fill_operands(&bench);
            suite->run(&bench);
        }
    }
    status = 0;
out:
    if (status != 0) {
        log_error("%s", error.text);
    }
    memory_free(bench.operands);
    memory_free(bench.scales);
    pool_destroy(pool);
    arena_destroy(&scratch);
    return status;
}
