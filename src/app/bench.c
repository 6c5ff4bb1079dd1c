// `minke bench`: how fast this machine can be, and how near to it every kernel, a training step and inference come.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "app/app.h"
#include "app/bench.h"
#include "app/formats.h"
#include "app/model_files.h"
#include "app/options.h"
#include "base/log.h"
#include "base/pool.h"

// A model small enough for any machine and large enough that its products are not all overhead: 132 M parameters with
// the MTP module, of which a token meets 44 M in matrix products.
static const struct model_config default_config = {
    .model_type = "deepseek_v3",
    .vocab_size = 16384,
    .hidden_size = 512,
    .num_hidden_layers = 8,
    .first_k_dense_replace = 1,
    .moe_layer_freq = 1,
    .intermediate_size = 2048,
    .moe_intermediate_size = 256,
    .num_attention_heads = 8,
    .q_lora_rank = 256,
    .kv_lora_rank = 128,
    .qk_nope_head_dim = 64,
    .qk_rope_head_dim = 32,
    .v_head_dim = 64,
    .n_routed_experts = 32,
    .n_shared_experts = 1,
    .num_experts_per_tok = 4,
    .n_group = 4,
    .topk_group = 2,
    .scoring_func = ROUTER_SIGMOID,
    .topk_method = ROUTER_GROUP_TOP2,
    .norm_topk_prob = true,
    .routed_scaling_factor = 2.5,
    .num_nextn_predict_layers = 1,
    .max_position_embeddings = 4096,
    .rms_norm_eps = 1e-6,
    .rope_theta = 10000.0,
    .initializer_range = 0.02,
    .bos_token_id = 1,
    .eos_token_id = 2,
    .torch_dtype = "bfloat16",
};

static int peaks_only(struct bench *bench, struct error *error) {
    (void)bench, (void)error;
    return 0;   // the peaks are measured before every subject
}

static const struct subject {
    const char *name;
    int (*run)(struct bench *bench, struct error *error);
    bool needs_directory;   // --model DIR; left out of "all" without
} subjects[] = {
    {"peak", peaks_only, false},     {"gemm", bench_gemm, false},          {"attention", bench_attention, false},
    {"ops", bench_ops, false},       {"train", bench_train, false},        {"prefill", bench_prefill, false},
    {"decode", bench_decode, false}, {"directory", bench_directory, true}, {"mtp", bench_mtp, false},
    {"serve", bench_serve, false},
};
#define SUBJECTS (sizeof subjects / sizeof subjects[0])

struct bench_request {
    struct bench_options options;
    const char *config_path, *shape, *ram;
    char **names;
    int name_count;
};

static bool wanted(const struct bench_request *request, const struct subject *subject) {
    if (subject->needs_directory && request->options.directory == NULL) {
        return false;
    }
    for (int i = 0; i < request->name_count; i++) {
        if (strcmp(request->names[i], subject->name) == 0 || strcmp(request->names[i], "all") == 0) {
            return true;
        }
    }
    return request->name_count == 0;
}

static int check_names(const struct bench_request *request, struct error *error) {
    for (int i = 0; i < request->name_count; i++) {
        bool known = strcmp(request->names[i], "all") == 0;
        for (size_t s = 0; s < SUBJECTS; s++) {
            bool named = strcmp(request->names[i], subjects[s].name) == 0;
            if (named && subjects[s].needs_directory && request->options.directory == NULL) {
                return error_set(error, ERROR_ARGUMENT, "%s: expected --model DIR", subjects[s].name);
            }
            known = known || named;
        }
        if (!known) {
            return error_set(
                error, ERROR_ARGUMENT,
                "unknown subject \"%s\": expected peak, gemm, attention, ops, train, prefill, decode, directory, mtp, "
                "serve or all",
                request->names[i]);
        }
    }
    return 0;
}

static int parse_shape(struct bench_options *options, const char *shape, struct error *error) {
    char rest;
    if (shape != NULL && (sscanf(shape, "%6" SCNd64 "x%6" SCNd64 "x%6" SCNd64 "%c", &options->rows, &options->columns,
                                 &options->inner, &rest) != 3 ||
                          options->rows < 1 || options->columns < 1 || options->inner < 1)) {
        return error_set(error, ERROR_ARGUMENT, "--shape: expected MxNxK such as 2048x2048x2048, found \"%s\"", shape);
    }
    return 0;
}

// With --threads those threads alone, otherwise one and all.
static void choose_teams(struct bench *bench, bool threads_given) {
    struct bench_options *options = &bench->options;
    if (!threads_given && pool_threads(bench->pool[TEAM_ALL]) > 1) {
        options->teams[options->team_count++] = TEAM_ONE;
    }
    options->teams[options->team_count++] = TEAM_ALL;
}

static int run(const struct bench_request *request, const struct common_options *common) {
    struct bench bench = {.options = request->options, .config = default_config};
    struct error error = {0};
    int code = 0;
    if (request->config_path != NULL) {
        code = model_config_read(&bench.config, request->config_path, &error);
    }
    if (code == 0) {
        code = bench_open(&bench, common->threads, common->isa, &error);
    }
    if (code == 0) {
        choose_teams(&bench, common->threads > 0);
        if (!bench.options.json) {
            printf("%s, %d threads; medians, operands over %lld MB; limits measured in this run\n",
                   isa_name(bench.op[TEAM_ALL].isa), pool_threads(bench.pool[TEAM_ALL]),
                   (long long)BENCH_ROTATION >> 20);
        }
        bench_peaks(&bench);
    }
    for (size_t s = 0; s < SUBJECTS && code == 0; s++) {
        if (wanted(request, &subjects[s])) {
            code = subjects[s].run(&bench, &error);
        }
    }
    bench_close(&bench);
    if (code != 0) {
        log_error("%s", error.text);
    }
    return code != 0 ? 1 : 0;
}

// What the command line says. At file scope, like the table of options that points into it.
static struct bench_request asked = {.options = {.seconds = 1.0}};

static const struct command_option options[] = {
    {.name = "json", .help = "one object a line instead of a table", .flag = &asked.options.json},
    {.name = "seconds",
     .argument = "S",
     .help = "of one measurement, about (1)",
     .number = &asked.options.seconds,
     .least = 0.001,
     .most = 3600},
    {.name = "shape",
     .argument = "MxNxK",
     .help = "gemm: this product instead of the built-in ones",
     .text = &asked.shape},
    {.name = "config",
     .argument = "F.json",
     .help = "model of train, prefill, decode, mtp, serve (built in: 132 M parameters)",
     .text = &asked.config_path},
    {.name = "batch",
     .argument = "B",
     .help = "train: sequences (8); mtp: requests at a time (1, 8, 32)",
     .integer = &asked.options.batch,
     .minimum = 1,
     .maximum = 65536},
    {.name = "length",
     .argument = "T",
     .help = "tokens of a sequence (train 256, attention 2048, prefill 512, serve 128)",
     .integer = &asked.options.length,
     .minimum = 1,
     .maximum = 1 << 20},
    {.name = "depth",
     .argument = "D",
     .help = "decode: tokens before (512)",
     .integer = &asked.options.depth,
     .minimum = 1,
     .maximum = 1 << 20},
    {.name = "clients",
     .argument = "C",
     .help = "serve: requests at a time (8)",
     .integer = &asked.options.clients,
     .minimum = 1,
     .maximum = 4096},
    {.name = "requests",
     .argument = "R",
     .help = "serve: requests in all (2 for each client)",
     .integer = &asked.options.requests,
     .minimum = 1,
     .maximum = 1 << 24},
    {.name = "tokens",
     .argument = "N",
     .help = "serve: tokens of an answer (64)",
     .integer = &asked.options.tokens,
     .minimum = 1,
     .maximum = 1 << 20},
    {.name = "shared",
     .argument = "N",
     .help = "serve: tokens that all prompts begin with (0)",
     .integer = &asked.options.shared,
     .minimum = 0,
     .maximum = 1 << 20},
    {.name = "model",
     .argument = "DIR",
     .help = "directory, mtp, serve: measure this model directory",
     .text = &asked.options.directory},
    {.name = "ram", .argument = "SIZE", .help = "directory: memory to use at most, e.g. 16G", .text = &asked.ram},
    {.name = "weights",
     .argument = "W",
     .help = "prefill, decode: this format alone; directory, mtp, serve: *-mapped leaves weights in the files",
     .text = &asked.options.weights,
     .choices = "bf16|fp8|int8|int4|bf16-mapped|fp8-mapped"},
    CACHE_OPTION(asked.options.cache),
    {.name = "precision",
     .argument = "P",
     .help = "train: this precision alone",
     .text = &asked.options.precision,
     .choices = "bf16|fp8|fp32"},
    {0},
};

int command_bench(int argc, char **argv) {
    const struct command_positional positionals[] = {
        {.name = "SUBJECT",
         .help = "peak gemm attention ops train prefill decode directory mtp serve all (all)",
         .list = &asked.names,
         .count = &asked.name_count},
        {0},
    };
    struct common_options common = {0};
    common.isa = ISA_BEST;
    const struct command_syntax syntax = {
        .name = "bench",
        .summary = "measure speed as a fraction of what this machine can do",
        .description =
            "The limits (multiply-adds, BF16 pairs, reading, copying) are measured first, and again between the runs\n"
            "of every measurement. See BENCHMARKS.md for what is counted.",
        .examples =
            "minke bench gemm --threads 1\nminke bench train --config config.json --batch 8 --length 256 --json\n"
            "minke bench mtp --model DIR --batch 1\n"
            "minke bench serve --model DIR --clients 32 --length 512 --tokens 128",
        .options = options,
        .positionals = positionals,
        .common = &common,
    };
    int status;
    if (!options_parse(&syntax, argc, argv, &status)) {
        return status;
    }
    struct error error = {0};
    if (check_names(&asked, &error) != 0 || parse_shape(&asked.options, asked.shape, &error) != 0 ||
        (asked.ram != NULL && app_parse_size(&asked.options.ram_bytes, asked.ram, "--ram", 1024, &error) != 0)) {
        log_error("bench: %s", error.text);
        return 2;
    }
    return run(&asked, &common);
}
