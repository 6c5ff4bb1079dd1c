// `minke convert`: a Hugging Face directory with BF16, FP8 or F32 weights -> the same model in another of these
// formats.
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "app/app.h"
#include "app/formats.h"
#include "app/options.h"
#include "base/log.h"
#include "model/convert.h"

static volatile sig_atomic_t interrupted;

static void interrupt(int signal) {
    (void)signal;
    interrupted = 1;
}

static void show_progress(void *argument, int64_t bytes_done, int64_t bytes_total) {
    struct progress *progress = argument;
    progress->total = bytes_total;
    progress_update(progress, bytes_done);
}

static int run(const char *from, const char *to, const struct convert_options *asked,
               const struct common_options *common) {
    struct convert_options options = *asked;
    struct error error = {0};
    struct convert_result result;
    struct progress progress;
    const struct sigaction action = {.sa_handler = interrupt, .sa_flags = (int)SA_RESETHAND};   // the second one kills
    char size[32];
    double started = clock_seconds();
    int code = pool_create(&options.pool, (int)common->threads, &error);
    if (code == 0) {
        progress_begin(&progress, "convert", "bytes", 0);
        options.progress = show_progress;
        options.argument = &progress;
        options.stop = &interrupted;
        sigaction(SIGINT, &action, NULL);
        sigaction(SIGTERM, &action, NULL);
        code = model_convert(&result, to, from, &options, &error);
        progress_end(&progress);
        pool_destroy(options.pool);
    }
    if (code != 0) {
        log_error("%s", error.text);
        return 1;
    }
    log_info("wrote %s: %" PRId64 " tensors, %s in %.1f s", to, result.tensors, text_bytes(size, result.bytes),
             clock_seconds() - started);
    return 0;
}

int command_convert(int argc, char **argv) {
    const char *from = NULL, *to = NULL, *dtype = NULL, *shard_size = "5G", *scale_format = "float";
    struct convert_options options = {0};
    const struct command_option table[] = {
        {.name = "dtype",
         .argument = "D",
         .help = "format of the new weights",
         .text = &dtype,
         .choices = "bf16|fp8|f32"},
        {.name = "shard-size",
         .argument = "BYTES",
         .help = "most bytes of a file, e.g. 500M, 5G (5G)",
         .text = &shard_size},
        {.name = "scale-format",
         .argument = "F",
         .help = "FP8 scales: any float, or powers of two (float)",
         .text = &scale_format,
         .choices = "float|ue8m0",
         .given = &options.scale_format_given},
        {0},
    };
    const struct command_positional positionals[] = {
        {.name = "SRC", .help = "a Hugging Face model directory", .text = &from},
        {.name = "DST", .help = "a new or empty directory", .text = &to},
        {0},
    };
    struct common_options common = {0};
    const struct command_syntax syntax = {
        .name = "convert",
        .summary = "convert a model directory between bf16, fp8 and f32",
        .description =
            "FP8 is E4M3 with one scale per 128 x 128 block, as DeepSeek publishes it; embeddings, head, norms and\n"
            "router stay bf16. Weights that are FP8 already keep their bytes. All other files are copied.",
        .examples = "minke convert DeepSeek-V3 DeepSeek-V3-bf16 --dtype bf16\nminke convert RUN/model RUN/model-fp8 "
                    "--dtype fp8",
        .options = table,
        .positionals = positionals,
        .common = &common,
    };
    int status;
    struct error error = {0};
    if (!options_parse(&syntax, argc, argv, &status)) {
        return status;
    }
    if (dtype == NULL) {
        log_error("convert: --dtype: expected bf16, fp8 or f32, found nothing");
        return 2;
    }
    if (app_parse_size(&options.shard_bytes, shard_size, "--shard-size", 1000, &error) != 0) {
        log_error("convert: %s", error.text);
        return 2;
    }
    options.format = app_dtype_format(dtype);
    options.power_of_two = strcmp(scale_format, "ue8m0") == 0;
    return run(from, to, &options, &common);
}
