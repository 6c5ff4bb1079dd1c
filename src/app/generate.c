// `minke generate`: a prompt continued by a model. Text goes to stdout as it comes, speed to stderr at the end.
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "app/app.h"
#include "app/model_files.h"
#include "app/options.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number) {
    (void)number;
    interrupted = 1;
}

struct generation {
    const char *directory, *attention, *cache;
    struct model_arguments arguments;
    const char *prompt;   // bytes, prompt_size of them
    int64_t prompt_size;
    int64_t tokens, context;
    struct minke_sampling sampling;
    bool ignore_eos, no_bos, plain, echo, no_mtp;
};

// The text while it is written.
struct writing {
    const struct minke_model *model;
    const struct minke_tokenizer *tokenizer;
    struct minke_decoder decoder;
    double first_seconds;      // when the first token came
    struct minke_event last;   // FINISHED
    bool ignore_eos, failed;
};

// Prints one more piece of text; returns 0 or 1 after reporting.
static int print_token(struct minke_decoder *decoder, const struct minke_tokenizer *tokenizer, int32_t id) {
    char *text = NULL;
    size_t size = 0;
    struct minke_error error = {0};
    if (minke_decode_next(&text, &size, decoder, tokenizer, id, &error) != 0) {
        log_error("%s", error.text);
        return 1;
    }
    fwrite(text, 1, size, stdout);
    fflush(stdout);
    minke_free(text);
    return 0;
}

static void report_speed(const struct writing *writing, double start) {
    double end = clock_seconds(), first = writing->first_seconds > 0 ? writing->first_seconds : end;
    const struct minke_event *last = &writing->last;
    log_info("prompt: %" PRId64 " tokens, %.1f tokens/s; written: %" PRId64 " tokens, %.1f tokens/s",
             last->prompt_tokens, (double)last->prompt_tokens / (first - start), last->answer_tokens,
             last->answer_tokens > 1 ? (double)(last->answer_tokens - 1) / (end - first) : 0.0);
    if (last->drafted_tokens > 0) {
        log_info("drafts of the MTP head: %" PRId64 " of %" PRId64 " accepted (%.1f %%)", last->accepted_tokens,
                 last->drafted_tokens, 100.0 * (double)last->accepted_tokens / (double)last->drafted_tokens);
    }
}

static int on_event(void *argument, const struct minke_event *event) {
    struct writing *writing = argument;
    if (event->kind == MINKE_EVENT_FINISHED) {
        writing->last = *event;
        return 0;
    }
    if (event->index == 0) {
        writing->first_seconds = clock_seconds();
    }
    if (!writing->ignore_eos && minke_model_is_end(writing->model, event->id)) {
        return 0;
    }
    writing->failed = print_token(&writing->decoder, writing->tokenizer, event->id) != 0;
    return writing->failed || interrupted;
}

// Runs the one request to its end.
static int write_text(struct minke_engine *engine, struct writing *writing, const struct generation *wanted,
                      const int32_t *ids, int64_t count) {
    struct minke_error error = {0};
    struct minke_request request = {.ids = ids,
                                    .count = count,
                                    .max_tokens = wanted->tokens,
                                    .sampling = wanted->sampling,
                                    .ignore_end = wanted->ignore_eos,
                                    .callback = on_event,
                                    .argument = writing};
    int64_t number, left = 1;
    double start = clock_seconds();
    if (minke_engine_submit(&number, engine, &request, &error) != 0) {
        log_error("%s", error.text);
        return 1;
    }
    while (left > 0) {
        left = minke_engine_step(engine, &error);
        if (interrupted) {
            minke_engine_cancel(engine, number);
        }
    }
    int status = print_token(&writing->decoder, writing->tokenizer, -1) != 0 || writing->failed;
    putchar('\n');
    if (left < 0 || writing->last.finish == MINKE_FINISH_ERROR) {
        log_error("%s", left < 0 ? error.text : writing->last.error);
        return 1;
    }
    if (writing->last.finish == MINKE_FINISH_LENGTH && writing->last.answer_tokens < wanted->tokens) {
        log_warning("the context of %" PRId64 " tokens is full", wanted->context);
    }
    report_speed(writing, start);
    return status;
}

static enum minke_attention attention_by_name(const char *name) {
    return strcmp(name, "expanded") == 0   ? MINKE_ATTENTION_EXPANDED
           : strcmp(name, "absorbed") == 0 ? MINKE_ATTENTION_ABSORBED
                                           : MINKE_ATTENTION_AUTO;
}

static int continue_prompt(struct minke_model *model, const struct minke_tokenizer *tokenizer,
                           struct generation *wanted, const int32_t *ids, int64_t count) {
    struct minke_error error = {0};
    struct minke_engine *engine = NULL;
    int64_t limit = minke_model_context(model);
    if (wanted->context == 0) {
        wanted->context = count + wanted->tokens < limit ? count + wanted->tokens : limit;
    }
    struct minke_engine_options options = {.context = wanted->context,
                                           .cache_tokens = wanted->context,
                                           .batch = 1,
                                           .attention = attention_by_name(wanted->attention),
                                           .cache = app_cache(wanted->cache),
                                           .no_prefix_cache = 1,
                                           .no_drafts = wanted->no_mtp};
    if (minke_engine_create(&engine, model, &options, &error) != 0) {
        log_error("%s", error.text);
        return 1;
    }
    if (wanted->echo) {
        fwrite(wanted->prompt, 1, (size_t)wanted->prompt_size, stdout);
    }
    struct writing writing = {.model = model, .tokenizer = tokenizer, .ignore_eos = wanted->ignore_eos};
    int status = write_text(engine, &writing, wanted, ids, count);
    minke_engine_close(engine);
    app_report_memory(model);
    return status;
}

static int run(struct generation *wanted, const struct common_options *common,
               const struct sampling_arguments *sampling) {
    struct minke_error error = {0};
    struct minke_tokenizer *tokenizer = NULL;
    struct minke_model *model = NULL;
    int32_t *ids = NULL;
    int64_t count = 0;
    int status = 1;
    unsigned flags = (wanted->no_bos ? 0 : MINKE_ENCODE_BOS) | (wanted->plain ? MINKE_ENCODE_PLAIN : 0);
    if (app_open_model(&model, wanted->directory, common, &wanted->arguments) != 0) {
        return 1;
    }
    if (minke_tokenizer_open(&tokenizer, wanted->directory, &error) != 0 ||
        minke_encode(&ids, &count, tokenizer, wanted->prompt, (size_t)wanted->prompt_size, flags, &error) != 0) {
        log_error("%s", error.text);
    } else if (count == 0) {
        log_error("generate: the prompt is empty; give -p TEXT or leave out --no-bos");
    } else {
        wanted->sampling = app_sampling(sampling, model);
        status = continue_prompt(model, tokenizer, wanted, ids, count);
    }
    minke_free(ids);
    minke_tokenizer_close(tokenizer);
    minke_model_close(model);
    return status;
}

int command_generate(int argc, char **argv) {
    struct generation wanted = {.attention = "auto", .tokens = 128};
    const char *prompt = NULL, *prompt_file = NULL;
    struct sampling_arguments sampling = {0};
    const struct command_option options[] = {
        {.name = "prompt", .letter = 'p', .argument = "TEXT", .help = "text to continue", .text = &prompt},
        {.name = "prompt-file",
         .argument = "F",
         .help = "the same from a file (- = standard input)",
         .text = &prompt_file},
        {.name = "tokens",
         .letter = 'n',
         .argument = "N",
         .help = "tokens to write at most (128)",
         .integer = &wanted.tokens,
         .minimum = 1,
         .maximum = INT32_MAX},
        SAMPLING_OPTIONS(sampling),
        {.name = "context",
         .argument = "N",
         .help = "tokens of attention cache (prompt + N)",
         .integer = &wanted.context,
         .minimum = 1,
         .maximum = INT32_MAX},
        MODEL_OPTIONS(wanted.arguments),
        {.name = "attention",
         .argument = "A",
         .help = "form of latent attention (auto)",
         .text = &wanted.attention,
         .choices = "auto|expanded|absorbed"},
        CACHE_OPTION(wanted.cache),
        {.name = "ignore-eos", .help = "write on after the end-of-sentence token", .flag = &wanted.ignore_eos},
        {.name = "no-bos", .help = "do not put the begin-of-sentence token in front", .flag = &wanted.no_bos},
        {.name = "plain", .help = "markup such as <|EOT|> in the prompt is text, not a token", .flag = &wanted.plain},
        {.name = "echo", .help = "print the prompt first", .flag = &wanted.echo},
        {.name = "no-mtp",
         .help = "no drafting with the MTP head (drafts change speed, never the text)",
         .flag = &wanted.no_mtp},
        {0},
    };
    const struct command_positional positionals[] = {
        {.name = "MODEL_DIR", .help = "a Hugging Face model directory with a tokenizer", .text = &wanted.directory},
        {0},
    };
    struct common_options common = {0};
    const struct command_syntax syntax = {
        .name = "generate",
        .summary = "continue a text",
        .description = "The prompt is raw text; for a conversation with the model's chat template use `minke chat`.",
        .examples = "minke generate MODEL_DIR -p \"In the beginning\" -n 200 --temp 0.8 --top-p 0.95 --seed 1\n"
                    "minke generate MODEL_DIR --prompt-file story.txt --echo",
        .options = options,
        .positionals = positionals,
        .common = &common,
    };
    int status;
    if (!options_parse(&syntax, argc, argv, &status)) {
        return status;
    }
    signal(SIGINT, on_interrupt);
    struct error error = {0};
    char *text = NULL;
    if (prompt != NULL && prompt_file != NULL) {
        log_error("generate: expected either --prompt or --prompt-file, found both");
        return 2;
    }
    if (prompt_file != NULL && file_read(&text, &wanted.prompt_size, prompt_file, (int64_t)1 << 30, &error) != 0) {
        log_error("%s", error.text);
        return 1;
    }
    wanted.prompt = text != NULL ? text : prompt != NULL ? prompt : "";
    wanted.prompt_size = text != NULL ? wanted.prompt_size : (int64_t)strlen(wanted.prompt);
    status = run(&wanted, &common, &sampling);
    memory_free(text);
    return status;
}
