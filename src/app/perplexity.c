// `minke perplexity`: how well a model predicts a text. File -> negative log-likelihood per token, perplexity, bits per
// byte.
//
// The text is cut into windows of --context tokens, each scored from an empty cache; consecutive windows overlap so
// that every token but the first window's first ones has at least context - stride tokens before it. Every token after
// BOS is scored exactly once.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "app/app.h"
#include "app/model_files.h"
#include "app/options.h"
#include "base/file.h"
#include "base/log.h"
#include "base/math.h"
#include "base/memory.h"

struct perplexity {
    double nats;   // sum of -log p over scored tokens
    int64_t tokens, bytes;
};

struct scoring {
    const char *attention, *cache;   // NULL: the default
    int64_t context, stride;
};

static enum minke_attention form_of(const struct scoring *scoring) {
    if (scoring->attention == NULL) {
        return app_cache(scoring->cache) == MINKE_CACHE_FP8 ? MINKE_ATTENTION_ABSORBED : MINKE_ATTENTION_EXPANDED;
    }
    return strcmp(scoring->attention, "absorbed") == 0 ? MINKE_ATTENTION_ABSORBED
           : strcmp(scoring->attention, "auto") == 0   ? MINKE_ATTENTION_AUTO
                                                       : MINKE_ATTENTION_EXPANDED;
}

static int score_windows(struct perplexity *result, struct minke_model *model, const int32_t *ids, int64_t count,
                         const struct scoring *scoring) {
    const int64_t context = scoring->context, stride = scoring->stride;
    struct minke_error error = {0};
    struct minke_session *session = NULL;
    struct minke_session_options options = {
        .context = context,
        .attention = form_of(scoring),
        .cache = app_cache(scoring->cache),
    };
    float *scores = memory_allocate((size_t)context, sizeof *scores, "scores", NULL);
    int status = 1;
    if (scores == NULL || minke_session_create(&session, model, &options, &error) != 0) {
        log_error("%s", scores == NULL ? "perplexity: out of memory" : error.text);
        goto out;
    }
    struct progress progress;
    progress_begin(&progress, "perplexity", "tokens", count - 1);
    int64_t scored = 1;   // tokens before this index are done; the first has nothing before it
    for (int64_t begin = 0; scored < count; begin += stride) {
        int64_t end = begin + context < count ? begin + context : count;
        if (minke_session_truncate(session, 0, &error) != 0 ||
            minke_session_score(session, scores, ids + begin, end - begin, &error) != 0) {
            log_error("%s", error.text);
            goto out;
        }
        for (; scored < end; scored++) {
            result->nats -= (double)scores[scored - 1 - begin];
            result->tokens++;
        }
        progress_note(&progress, "%.4f nats/token", result->nats / (double)result->tokens);
        progress_update(&progress, scored - 1);
    }
    progress_end(&progress);
    status = 0;
out:
    minke_session_close(session);
    memory_free(scores);
    return status;
}

static void print_result(const struct perplexity *result, bool json) {
    double mean = result->nats / (double)result->tokens;
    double bits_per_byte = result->nats / math_log_double(2) / (double)result->bytes;
    if (json) {
        printf("{\"tokens\":%" PRId64 ",\"bytes\":%" PRId64
               ",\"nats_per_token\":%.6f,\"perplexity\":%.6f,\"bits_per_byte\":%.6f}\n",
               result->tokens, result->bytes, mean, math_exp_double(mean), bits_per_byte);
    } else {
        printf("tokens          %" PRId64 "\nbytes           %" PRId64
               "\nnats per token  %.4f\nperplexity      %.4f\nbits per byte   %.4f\n",
               result->tokens, result->bytes, mean, math_exp_double(mean), bits_per_byte);
    }
}

static int run(const char *directory, const char *file, const struct model_arguments *arguments,
               struct scoring *scoring, bool json, const struct common_options *common) {
    struct error error = {0};
    struct minke_error api_failure = {0};
    struct minke_model *model = NULL;
    struct minke_tokenizer *tokenizer = NULL;
    char *text = NULL;
    int32_t *ids = NULL;
    int64_t size = 0, count = 0;
    int status = 1;
    if (file_read(&text, &size, file, (int64_t)4 << 30, &error) != 0) {
        log_error("%s", error.text);
        goto out;
    }
    if (app_open_model(&model, directory, common, arguments) != 0) {
        goto out;
    }
    if (minke_tokenizer_open(&tokenizer, directory, &api_failure) != 0 ||
        minke_encode(&ids, &count, tokenizer, text, (size_t)size, MINKE_ENCODE_BOS | MINKE_ENCODE_PLAIN,
                     &api_failure) != 0) {
        log_error("%s", api_failure.text);
        goto out;
    }
    if (count < 2) {
        log_error("%s: expected text to score, found an empty file", file);
        goto out;
    }
    int64_t limit = minke_model_context(model);
    int64_t context = scoring->context != 0 ? scoring->context : limit < 2048 ? limit : 2048;
    scoring->context = context = context < count ? context : count;
    scoring->stride = scoring->stride != 0 ? scoring->stride : context / 2;
    if (scoring->stride < 1 || scoring->stride >= context + (context < 2)) {
        log_error("perplexity: --stride: expected 1..%" PRId64 " (below the context of %" PRId64 "), found %" PRId64,
                  context - 1, context, scoring->stride);
        goto out;
    }
    struct perplexity result = {.bytes = size};
    status = score_windows(&result, model, ids, count, scoring);
    if (status == 0) {
        print_result(&result, json);
        app_report_memory(model);
    }
out:
    minke_free(ids);
    minke_tokenizer_close(tokenizer);
    minke_model_close(model);
    memory_free(text);
    return status;
}

int command_perplexity(int argc, char **argv) {
    const char *directory = NULL, *file = NULL;
    struct model_arguments arguments = {0};
    struct scoring scoring = {0};
    bool json = false;
    const struct command_option options[] = {
        {.name = "context",
         .argument = "N",
         .help = "tokens a window holds (default: the model's context, at most 2048)",
         .integer = &scoring.context,
         .minimum = 2,
         .maximum = INT32_MAX},
        {.name = "stride",
         .argument = "N",
         .help = "tokens between windows (default: half the context)",
         .integer = &scoring.stride,
         .minimum = 1,
         .maximum = INT32_MAX},
        MODEL_OPTIONS(arguments),
        {.name = "attention",
         .argument = "A",
         .help = "form of latent attention (expanded; with an FP8 cache absorbed)",
         .text = &scoring.attention,
         .choices = "auto|expanded|absorbed"},
        CACHE_OPTION(scoring.cache),
        {.name = "json", .help = "one JSON object instead of a table", .flag = &json},
        {0},
    };
    const struct command_positional positionals[] = {
        {.name = "MODEL_DIR", .help = "a Hugging Face model directory with a tokenizer", .text = &directory},
        {.name = "FILE", .help = "text to score (- = standard input)", .text = &file},
        {0},
    };
    struct common_options common = {0};
    const struct command_syntax syntax = {
        .name = "perplexity",
        .summary = "score a text: perplexity and bits per byte",
        .examples = "minke perplexity MODEL_DIR book.txt\n"
                    "minke perplexity MODEL_DIR book.txt --context 4096 --stride 512 --json",
        .options = options,
        .positionals = positionals,
        .common = &common,
    };
    int status;
    if (!options_parse(&syntax, argc, argv, &status)) {
        return status;
    }
    return run(directory, file, &arguments, &scoring, json, &common);
}
