// `minke logits`: the model's raw output as a NumPy file, for comparing with other implementations.
// ids -> float32 [tokens, vocab] (or the MTP head's [tokens - 1, vocab]) in .npy format 1.0.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "app/app.h"
#include "app/model_files.h"
#include "app/options.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"

// The fixed preamble of an .npy file: magic, version, header length, a Python dict padded so that data starts at a
// multiple of 64.
static int write_npy_header(struct file_writer *writer, int64_t rows, int64_t columns, struct error *error) {
    char header[128];
    memset(header, ' ', sizeof header);
    memcpy(header, "\x93NUMPY\x01\x00", 8);
    header[8] = (char)(sizeof header - 10);
    header[9] = 0;
    int length = snprintf(header + 10, sizeof header - 10,
                          "{'descr': '<f4', 'fortran_order': False, 'shape': (%" PRId64 ", %" PRId64 "), }", rows,
                          columns);
    CHECK(length > 0 && length < (int)sizeof header - 11, "npy header too long");
    header[10 + length] = ' ';
    header[sizeof header - 1] = '\n';
    return file_writer_append(writer, header, sizeof header, error);
}

struct logits_sink {
    struct file_writer writer;
    struct progress progress;
    struct error error;
    int64_t columns;
};

static int write_row(void *argument, int64_t row, const float *logits) {
    struct logits_sink *sink = argument;
    progress_update(&sink->progress, row + 1);
    return file_writer_append(&sink->writer, logits, (size_t)sink->columns * sizeof *logits, &sink->error);
}

static int write_logits(struct minke_model *model, const int32_t *ids, int64_t count, int64_t depth, const char *form,
                        const char *cache, const char *output) {
    struct logits_sink sink = {.columns = minke_model_vocab_size(model)};
    struct minke_error error = {0};
    struct minke_session *session = NULL;
    struct minke_session_options options = {
        .context = count,
        .attention = strcmp(form, "absorbed") == 0 ? MINKE_ATTENTION_ABSORBED : MINKE_ATTENTION_EXPANDED,
        .cache = app_cache(cache),
    };
    if (minke_session_create(&session, model, &options, &error) != 0) {
        log_error("%s", error.text);
        return 1;
    }
    int status = 1;
    if (file_writer_open(&sink.writer, output, &sink.error) != 0 ||
        write_npy_header(&sink.writer, count - depth, sink.columns, &sink.error) != 0) {
        goto out;
    }
    progress_begin(&sink.progress, "logits", "tokens", count - depth);
    if (minke_session_evaluate(session, ids, count, depth, write_row, &sink, &error) != 0) {
        goto out;
    }
    progress_end(&sink.progress);
    if (file_writer_commit(&sink.writer, &sink.error) == 0) {
        status = 0;
    }
out:
    if (status != 0) {
        log_error("%s", sink.error.code != 0 ? sink.error.text : error.text);
        file_writer_abort(&sink.writer);
    }
    minke_session_close(session);
    return status;
}

static int run(const char *directory, const char *ids_text, const char *ids_name, const char *output, bool mtp,
               const char *form, const char *cache, const struct model_arguments *arguments,
               const struct common_options *common) {
    struct error error = {0};
    int32_t *ids = NULL;
    int64_t count = 0, depth = mtp ? 1 : 0;
    if (app_parse_ids(&ids, &count, ids_text, ids_name, &error) != 0) {
        log_error("%s", error.text);
        return 1;
    }
    int status = 1;
    struct minke_model *model = NULL;
    if (count <= depth) {
        log_error("%s: expected at least %" PRId64 " ids, found %" PRId64, ids_name, depth + 1, count);
    } else if (app_open_model(&model, directory, common, arguments) == 0) {
        status = write_logits(model, ids, count, depth, form, cache, output);
        app_report_memory(model);
    }
    minke_model_close(model);
    memory_free(ids);
    return status;
}

int command_logits(int argc, char **argv) {
    const char *directory = NULL, *ids = NULL, *ids_file = NULL, *output = NULL, *form = NULL, *cache = NULL;
    struct model_arguments arguments = {0};
    bool mtp = false;
    const struct command_option options[] = {
        {.name = "ids", .argument = "LIST", .help = "token ids, separated by commas", .text = &ids},
        {.name = "ids-file",
         .argument = "F",
         .help = "the same from a file (or a JSON array; - = standard input)",
         .text = &ids_file},
        {.name = "output",
         .letter = 'o',
         .argument = "OUT.npy",
         .help = "float32 [tokens, vocabulary]",
         .text = &output},
        {.name = "mtp",
         .help = "the MTP head instead: row i from hidden state i and token i+1, [tokens-1, vocabulary]",
         .flag = &mtp},
        MODEL_OPTIONS(arguments),
        {.name = "attention",
         .argument = "A",
         .help = "form of latent attention (expanded; with an FP8 cache absorbed)",
         .text = &form,
         .choices = "expanded|absorbed"},
        CACHE_OPTION(cache),
        {0},
    };
    const struct command_positional positionals[] = {
        {.name = "MODEL_DIR", .help = "a Hugging Face model directory", .text = &directory},
        {0},
    };
    struct common_options common = {0};
    const struct command_syntax syntax = {
        .name = "logits",
        .summary = "write a model's logits for given token ids as a NumPy file",
        .description = "Rows are positions: row i is the prediction of token i+1.",
        .examples = "minke logits MODEL_DIR --ids 0,100,200 -o out.npy\n"
                    "minke tokenize MODEL_DIR < text | minke logits MODEL_DIR --ids-file - -o out.npy --compute f32",
        .options = options,
        .positionals = positionals,
        .common = &common,
    };
    int status;
    if (!options_parse(&syntax, argc, argv, &status)) {
        return status;
    }
    if ((ids == NULL) == (ids_file == NULL) || output == NULL) {
        log_error("logits: expected either --ids or --ids-file, and -o OUT.npy; see `minke logits --help`");
        return 2;
    }
    if (form == NULL) {
        form = app_cache(cache) == MINKE_CACHE_FP8 ? "absorbed" : "expanded";
    }
    if (ids != NULL) {
        return run(directory, ids, "--ids", output, mtp, form, cache, &arguments, &common);
    }
    struct error error = {0};
    char *text = NULL;
    int64_t size = 0;
    if (file_read(&text, &size, ids_file, (int64_t)1 << 30, &error) != 0) {
        log_error("%s", error.text);
        return 1;
    }
    status = run(directory, text, ids_file, output, mtp, form, cache, &arguments, &common);
    memory_free(text);
    return status;
}
