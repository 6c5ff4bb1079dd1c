// Timing, limits and operands of `minke bench`: see bench.h.
#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/bench.h"
#include "base/log.h"
#include "base/memory.h"
#include "op/cpu/kernels.h"
#include "tensor/formats.h"
#include "tensor/panels.h"

#define SAMPLES 9
#define FEW_SAMPLES 3        // of calls that take long
#define LIMIT_SECONDS 0.01   // of one sample of a compute limit: long beside the waking of a thread
#define READ_TASKS 8         // of each thread
#define READ_STEP 1024       // peak.read takes multiples of it
#define GIGA 1e9

// ---- Limits ---------------------------------------------------------------------------------------------------------

struct limit_job {
    const struct peak_kernels *kernels;
    double (*multiply_add)(int64_t rounds);
    int64_t rounds, slice;   // slice: bytes of a task
    char *memory;
    _Atomic uint64_t sink;   // so that no loop can be left out
};

static void compute_task(void *argument, int64_t task, int worker) {
    struct limit_job *job = argument;
    (void)task, (void)worker;
    job->multiply_add(job->rounds);
}

static void read_task(void *argument, int64_t task, int worker) {
    struct limit_job *job = argument;
    (void)worker;
    atomic_fetch_xor(&job->sink, job->kernels->read(job->memory + task * job->slice, job->slice));
}

// Lower half of the memory to the upper half.
static void copy_task(void *argument, int64_t task, int worker) {
    struct limit_job *job = argument;
    (void)worker;
    memcpy(job->memory + BENCH_ROTATION / 2 + task * job->slice, job->memory + task * job->slice, (size_t)job->slice);
}

// All threads for about LIMIT_SECONDS. Without an instruction for BF16 pairs their limit is that of F32.
static double compute_rate(struct op_context *op, const struct peak_kernels *kernels, bool pairs) {
    struct limit_job job = {.rounds = 1000,
                            .multiply_add = pairs && kernels->multiply_add_pairs != NULL ? kernels->multiply_add_pairs
                                                                                         : kernels->multiply_add};
    double each = job.multiply_add(1);
    int threads = pool_threads(op->pool);
    for (;;) {
        double began = clock_seconds();
        pool_run(op->pool, threads, compute_task, &job);
        double seconds = clock_seconds() - began;
        if (seconds >= LIMIT_SECONDS) {
            return each * (double)job.rounds * threads / seconds / GIGA;
        }
        job.rounds = seconds > LIMIT_SECONDS / 8 ? (int64_t)((double)job.rounds * 1.2 * LIMIT_SECONDS / seconds) + 1
                                                 : job.rounds * 8;
    }
}

static double memory_rate(struct bench *bench, struct op_context *op, bool copy) {
    struct limit_job job = {.kernels = &op->kernels->peak, .memory = bench->memory};
    int64_t tasks = (int64_t)pool_threads(op->pool) * READ_TASKS;
    int64_t slice = (copy ? BENCH_ROTATION / 2 : BENCH_ROTATION) / tasks;
    job.slice = slice / READ_STEP * READ_STEP;
    double began = clock_seconds();
    pool_run(op->pool, tasks, copy ? copy_task : read_task, &job);
    return (double)(job.slice * tasks) * (copy ? 2.0 : 1.0) / (clock_seconds() - began) / GIGA;
}

// One sample, in 1e9 operations or bytes a second.
double bench_limit_sample(struct bench *bench, enum bench_limit limit, enum bench_team team) {
    struct op_context *op = &bench->op[team];
    double rate = 0.0;
    if (limit == LIMIT_F32 || limit == LIMIT_BF16) {
        rate = compute_rate(op, &op->kernels->peak, limit == LIMIT_BF16);
    } else if (limit == LIMIT_PAIRS || (limit == LIMIT_VECTORS && op->isa != ISA_AMX)) {
        double whole = bench_limit_sample(bench, LIMIT_F32, team), pairs = bench_limit_sample(bench, LIMIT_BF16, team);
        rate = whole > pairs ? whole : pairs;
    } else if (limit == LIMIT_VECTORS) {
        double whole = bench_limit_sample(bench, LIMIT_F32, team);
        double pairs = compute_rate(op, &cpu_kernels_get(ISA_AVX512)->peak, true);
        rate = whole > pairs ? whole : pairs;
    } else if (limit == LIMIT_READ || limit == LIMIT_COPY) {
        rate = memory_rate(bench, op, limit == LIMIT_COPY);
    }
    if (rate > bench->best[limit][team]) {
        bench->best[limit][team] = rate;
    }
    return rate;
}

// ---- Statistics and output ------------------------------------------------------------------------------------------

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, compare);
    return count % 2 != 0 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

void bench_print_heading(const struct bench *bench, const char *title) {
    if (!bench->options.json) {
        printf("\n%-40s %7s %10s %-9s %7s %10s  %s\n", title, "threads", "value", "", "spread", "limit", "of limit");
    }
}

void bench_print_note(const struct bench *bench, const char *format, ...) {
    if (!bench->options.json) {
        va_list arguments;
        va_start(arguments, format);
        printf("  ");
        vprintf(format, arguments);
        printf("\n");
        va_end(arguments);
    }
}

void bench_print_line(const struct bench *bench, const char *name, const char *unit, double value, double limit,
                      double spread, enum bench_team team) {
    int threads = pool_threads(bench->op[team].pool);
    const char *isa = isa_name(bench->op[team].isa);
    double fraction = limit > 0.0 ? value / limit : 0.0;
    if (bench->options.json) {
        printf("{\"name\":\"%s\",\"value\":%.6g,\"unit\":\"%s\",\"limit\":%.6g,\"fraction\":%.4f,"
               "\"threads\":%d,\"isa\":\"%s\"}\n",
               name, value, unit, limit, fraction, threads, isa);
    } else {
        static const char bar[] = "####################";
        int filled = fraction >= 1.0 ? 20 : (int)(fraction * 20.0 + 0.5);
        printf("  %-38s %7d %10.4g %-9s %6.1f%%", name, threads, value, unit, 100.0 * spread);
        if (limit > 0.0) {
            printf(" %10.4g  %5.1f%% %.*s", limit, 100.0 * fraction, filled, bar);
        }
        printf("\n");
    }
    fflush(stdout);
}

// ---- Measuring ------------------------------------------------------------------------------------------------------

// Seconds of `calls` calls, without the sweeps between them.
static double time_calls(struct bench *bench, const struct bench_case *measured, int64_t *round, int64_t calls) {
    struct op_context *op = &bench->op[measured->team];
    double seconds = 0.0, began = clock_seconds();
    for (int64_t i = 0; i < calls; i++) {
        if (measured->evict) {
            memory_rate(bench, &bench->op[TEAM_ALL], false);
            began = clock_seconds();
        }
        measured->run(measured->argument, op, (*round)++);
        if (measured->evict || i + 1 == calls) {
            seconds += clock_seconds() - began;
        }
    }
    return seconds;
}

double bench_measure(struct bench *bench, const struct bench_case *measured) {
    double rates[SAMPLES], limits[SAMPLES], wanted = bench->options.seconds / SAMPLES;
    int64_t round = 0, calls = 1;
    double began = clock_seconds(), once;
    time_calls(bench, measured, &round, 1);   // work space reaches its size
    for (;;) {
        once = time_calls(bench, measured, &round, calls) / (double)calls;
        double whole = clock_seconds() - began;
        if (once * (double)calls >= wanted / 4 || whole >= bench->options.seconds / 4) {
            break;
        }
        calls *= 2;
    }
    double sweep = measured->evict ? (double)BENCH_ROTATION / GIGA / (bench->best[LIMIT_READ][TEAM_ALL] + 1.0) : 0.0;
    calls = (int64_t)(wanted / (once + sweep));
    calls = calls < 1 ? 1 : calls;
    int samples = (once + sweep) * SAMPLES > 2.0 * bench->options.seconds ? FEW_SAMPLES : SAMPLES;
    for (int i = 0; i < samples; i++) {
        limits[i] = bench_limit_sample(bench, measured->limit, measured->team);
        rates[i] = (double)calls / time_calls(bench, measured, &round, calls);
    }
    double rate = bench_median(rates, samples), limit = bench_median(limits, samples);
    if (measured->limit == LIMIT_F32 || measured->limit == LIMIT_PAIRS || measured->limit == LIMIT_VECTORS) {
        limit = bench->best[measured->limit][measured->team];
    }
    bench->last_rate = rate;
    bench->last_limit = limit;
    bench->last_spread = (rates[samples - 1] - rates[0]) / rate;
    bench_measure_again(bench, measured);
    return 1.0 / rate;
}

void bench_measure_again(struct bench *bench, const struct bench_case *measured) {
    double scale = measured->work > 0.0 ? measured->amount / measured->work : 0.0;
    bench_print_line(bench, measured->name, measured->unit, bench->last_rate * measured->amount,
                     bench->last_limit * scale, bench->last_spread, measured->team);
}

void bench_peaks(struct bench *bench) {
    static const struct {
        enum bench_limit limit;
        const char *name, *unit;
    } peaks[] = {
        {LIMIT_F32, "peak.f32", "GFLOP/s"},
        {LIMIT_BF16, "peak.bf16", "GFLOP/s"},
        {LIMIT_READ, "peak.read", "GB/s"},
        {LIMIT_COPY, "peak.copy", "GB/s"},
    };
    bench_print_heading(bench, "the machine");
    for (size_t p = 0; p < sizeof peaks / sizeof peaks[0]; p++) {
        for (int t = 0; t < bench->options.team_count; t++) {
            enum bench_team team = bench->options.teams[t];
            double samples[SAMPLES];
            double wanted = bench->options.seconds / SAMPLES;
            for (int i = 0; i < SAMPLES; i++) {
                double began = clock_seconds(), best = 0.0;
                do {
                    double rate = bench_limit_sample(bench, peaks[p].limit, team);
                    best = rate > best ? rate : best;
                } while (clock_seconds() - began < wanted);
                samples[i] = best;
            }
            double middle = bench_median(samples, SAMPLES), spread = (samples[SAMPLES - 1] - samples[0]) / middle;
            double value = peaks[p].limit == LIMIT_READ || peaks[p].limit == LIMIT_COPY ? middle : samples[SAMPLES - 1];
            bench_print_line(bench, peaks[p].name, peaks[p].unit, value, value, spread, team);
        }
    }
}

// ---- Operands -------------------------------------------------------------------------------------------------------

// Every page gets written: pages never touched would all be one page of zeros, in the cache.
static int make_memory(struct bench *bench, int64_t bytes, struct error *error) {
    if (bytes > bench->memory_bytes) {
        memory_free(bench->memory);
        bench->memory_bytes = 0;
        bench->memory = memory_allocate((size_t)bytes, 1, "operands", error);
        if (bench->memory == NULL) {
            return ERROR_MEMORY;
        }
        bench->memory_bytes = bytes;
        memset(bench->memory, 1, (size_t)bytes);
    }
    bench->memory_used = 0;
    return 0;
}

int bench_sets(struct bench *bench, int64_t *sets, int64_t bytes, struct error *error) {
    CHECK(bytes > 0, "an empty set of operands");
    *sets = (BENCH_ROTATION + bytes - 1) / bytes;
    arena_reset(&bench->arena);
    return make_memory(bench, *sets * bytes, error);
}

static int64_t aligned(int64_t bytes) {
    return (bytes + MEMORY_ALIGNMENT - 1) / MEMORY_ALIGNMENT * MEMORY_ALIGNMENT;
}

// Scales of an E4M3 tensor: one for each piece of as many rows and columns as its format says.
static int64_t scale_count(enum format format, int64_t rows, int64_t columns) {
    if (format != FORMAT_E4M3_BLOCK && format != FORMAT_E4M3_TILE && format != FORMAT_E4M3_COLUMN &&
        format != FORMAT_E4M3_PANELS) {
        return 0;
    }
    int64_t height = tensor_scale_edge(format, 0), width = tensor_scale_edge(format, 1);
    return (rows + height - 1) / height * ((columns + width - 1) / width);
}

static int64_t element_bytes(const struct tensor *tensor) {
    return format_is_panels(tensor->format) ? panels_bytes(tensor)
                                            : tensor_elements(tensor) * format_info(tensor->format)->bytes;
}

int64_t bench_tensor_bytes(enum format format, int64_t rows, int64_t columns) {
    struct tensor tensor = tensor_2d(format, NULL, rows, columns);
    return aligned(element_bytes(&tensor)) + aligned(scale_count(format, rows, columns) * 4);
}

// Random bits, of which each element keeps sign and mantissa; the exponent is that of 0.5. No panel is marked then.
static void fill(char *data, enum format format, int64_t bytes) {
    uint64_t state = 0x9e3779b97f4a7c15u, keep, set;
    if (format == FORMAT_F32) {
        keep = 0x807fffff807fffffu, set = 0x3f0000003f000000u;
    } else if (format == FORMAT_BF16 || format == FORMAT_BF16_PANELS) {
        keep = 0x807f807f807f807fu, set = 0x3f003f003f003f00u;
    } else if (format == FORMAT_E4M3_PANELS) {
        keep = 0xb8b8b8b8b8b8b8b8u, set = 0x0303030303030303u;
    } else {
        keep = 0x8787878787878787u, set = 0x3030303030303030u;
    }
    for (int64_t i = 0; i < aligned(bytes); i += 8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        uint64_t word = (state & keep) | set;
        memcpy(data + i, &word, sizeof word);
    }
}

static char *take(struct bench *bench, int64_t bytes) {
    char *at = bench->memory + bench->memory_used;
    bench->memory_used += aligned(bytes);
    CHECK(bench->memory_used <= bench->memory_bytes, "operands beyond their %" PRId64 " bytes", bench->memory_bytes);
    return at;
}

struct tensor bench_tensor(struct bench *bench, enum format format, int rank, const int64_t *shape) {
    struct tensor tensor = tensor_make(format, NULL, rank, shape);
    int64_t bytes = element_bytes(&tensor);
    tensor.data = take(bench, bytes);
    fill(tensor.data, format, bytes);
    for (int64_t panel = 0; format == FORMAT_E4M3_PANELS && panel < panel_count(&tensor); panel++) {
        memset((char *)tensor.data + panel * panel_bytes(FORMAT_E4M3_BLOCK, shape[1]), 0,
               (size_t)panel_marks_bytes(FORMAT_E4M3_BLOCK, shape[1]));
    }
    int64_t scales = rank == 2 ? scale_count(format, shape[0], shape[1]) : 0;
    if (scales > 0) {
        tensor.scale = (float *)(void *)take(bench, scales * 4);
        for (int64_t i = 0; i < scales; i++) {
            tensor.scale[i] = 0.5f;
        }
    }
    return tensor;
}

struct tensor bench_matrix(struct bench *bench, enum format format, int64_t rows, int64_t columns) {
    return bench_tensor(bench, format, 2, (int64_t[]){rows, columns});
}

// ---- Opening and closing --------------------------------------------------------------------------------------------

int bench_open(struct bench *bench, int64_t threads, enum isa isa, struct error *error) {
    arena_init(&bench->arena, "benchmark");
    int code = 0;
    for (int team = 0; team < TEAM_COUNT && code == 0; team++) {
        arena_init(&bench->scratch[team], "workspace");
        code = pool_create(&bench->pool[team], team == TEAM_ONE ? 1 : (int)threads, error);
        if (code == 0) {
            code = op_context_init(&bench->op[team], isa, bench->pool[team], &bench->scratch[team], error);
        }
    }
    return code == 0 ? make_memory(bench, BENCH_ROTATION, error) : code;
}

void bench_close(struct bench *bench) {
    memory_free(bench->memory);
    arena_destroy(&bench->arena);
    for (int team = 0; team < TEAM_COUNT; team++) {
        arena_destroy(&bench->scratch[team]);
        pool_destroy(bench->pool[team]);
    }
}
