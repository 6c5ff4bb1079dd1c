// `minke bench serve`: the whole server, on a port of this machine, with streaming clients in the same process. What
// they get a second is judged by what the engine alone does with the same requests and as many at a time: the
// difference is HTTP, JSON, text and the clients themselves. The two take turns, so that slower and faster spells of
// the machine meet both.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/bench.h"
#include "app/bench_client.h"
#include "app/init.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/rng.h"
#include "minke.h"
#include "serve/server.h"
#include "text/bpe_train.h"

#define ROUNDS 3
#define TEXT_PER_TOKEN 48   // bytes of text for a token of a made-up vocabulary

struct serving {
    struct bench *bench;
    char made[64];   // a directory with a random model; "" = --model was given
    const char *directory;
    struct minke_model *model;
    struct minke_tokenizer *tokenizer;
    struct minke_engine_options engine;
    struct client_options load;
    struct client_result result;
    double alone[ROUNDS], served[ROUNDS];   // tokens a second
    int64_t drafted, accepted;
};

// ---- A model to serve -----------------------------------------------------------------------------------------------

// A vocabulary made of words of random letters: what a random model writes is then text, which streams can show.
static int make_tokenizer(const char *directory, int64_t vocab_size, struct pool *pool, struct error *error) {
    struct bpe_trainer *trainer = NULL;
    struct bpe_train_result result;
    int64_t size = vocab_size * TEXT_PER_TOKEN;
    char *text = memory_allocate((size_t)size + 1, 1, "text", error);
    int code = text == NULL ? ERROR_MEMORY : bpe_trainer_create(&trainer, pool, error);
    for (int64_t i = 0; i < size && code == 0; i++) {
        uint64_t letter = rng_below(1, 1, (uint64_t)i, 31);   // every sixth a space
        text[i] = letter < 26 ? (char)('a' + (int)letter) : ' ';
    }
    if (code == 0 && (code = bpe_trainer_add(trainer, text, size, error)) == 0) {
        code = bpe_trainer_finish(&result, trainer, vocab_size, directory, NULL, error);
    }
    bpe_trainer_free(trainer);
    memory_free(text);
    return code;
}

static int make_model(struct serving *serving, struct error *error) {
    struct bench *bench = serving->bench;
    struct op_context *op = &bench->op[TEAM_ALL];
    snprintf(serving->made, sizeof serving->made, "/tmp/minke-bench-XXXXXX");
    if (mkdtemp(serving->made) == NULL) {
        int code = error_set_errno(error, "%s", serving->made);
        serving->made[0] = '\0';
        return code;
    }
    serving->directory = serving->made;
    int code = init_write_model(serving->made, &bench->config, FORMAT_BF16, 1, op, error);
    return code == 0 ? make_tokenizer(serving->made, bench->config.vocab_size, op->pool, error) : code;
}

static int open_model(struct serving *serving, struct error *error) {
    const struct bench_options *options = &serving->bench->options;
    const struct op_context *op = &serving->bench->op[TEAM_ALL];
    bool integers = options->weights != NULL && strncmp(options->weights, "int", 3) == 0;
    struct minke_model_options wanted = {.threads = pool_threads(op->pool),
                                         .isa = isa_name(op->isa),
                                         .weights = integers ? options->weights : NULL,
                                         .ram_bytes = options->ram_bytes};
    struct minke_error outer = {0};
    serving->directory = options->directory;
    int code = options->directory == NULL ? make_model(serving, error) : 0;
    if (code == 0 && (minke_model_open(&serving->model, serving->directory, &wanted, &outer) != 0 ||
                      minke_tokenizer_open(&serving->tokenizer, serving->directory, &outer) != 0)) {
        code = error_set(error, outer.code, "%s", outer.text);
    }
    return code;
}

static void close_model(struct serving *serving) {
    struct error error = {0};
    minke_tokenizer_close(serving->tokenizer);
    minke_model_close(serving->model);
    if (serving->made[0] != '\0' && file_remove_tree(serving->made, &error) != 0) {
        log_warning("%s", error.text);
    }
}

// What all clients need at the same time, and prompts that fit.
static int plan_load(struct serving *serving, struct error *error) {
    const struct bench_options *options = &serving->bench->options;
    struct client_options *load = &serving->load;
    *load = (struct client_options){
        .clients = options->clients > 0 ? options->clients : 8,
        .requests = options->requests,
        .prompt = options->length > 0 ? options->length : 128,
        .shared = options->shared,
        .answer = options->tokens > 0 ? options->tokens : 64,
        .vocab_size = minke_tokenizer_vocab_size(serving->tokenizer),
    };
    load->requests = load->requests > 0 ? load->requests : 2 * load->clients;
    if (load->vocab_size > minke_model_vocab_size(serving->model)) {
        load->vocab_size = minke_model_vocab_size(serving->model);
    }
    int64_t length = load->prompt + load->answer, context = minke_model_context(serving->model);
    if (length > context) {
        return error_set(error, ERROR_ARGUMENT,
                         "serve: a prompt of %" PRId64 " tokens and an answer of %" PRId64
                         " do not fit into the context of %" PRId64,
                         load->prompt, load->answer, context);
    }
    serving->engine = (struct minke_engine_options){.context = length,
                                                    .cache_tokens = (load->clients + 1) * (length + 64),
                                                    .batch = load->clients < 64 ? load->clients : 64};
    return 0;
}

// ---- The engine alone -----------------------------------------------------------------------------------------------

struct direct {
    int64_t finished, tokens;
};

static int on_event(void *argument, const struct minke_event *event) {
    struct direct *direct = argument;
    direct->finished += event->kind == MINKE_EVENT_FINISHED;
    direct->tokens += event->kind == MINKE_EVENT_TOKEN;
    return 0;
}

static int submit(struct minke_engine *engine, struct direct *direct, int32_t *ids, const struct client_options *load,
                  int64_t number, struct minke_error *error) {
    int64_t request;
    client_prompt(ids, load, number);
    struct minke_request wanted = {.ids = ids,
                                   .count = load->prompt,
                                   .max_tokens = load->answer,
                                   .sampling = {.temperature = 0.6F, .top_p = 0.95F, .seed = (uint64_t)number},
                                   .ignore_end = 1,
                                   .callback = on_event,
                                   .argument = direct};
    return minke_engine_submit(&request, engine, &wanted, error);
}

static int run_engine(struct serving *serving, int round, struct error *error) {
    const struct client_options *load = &serving->load;
    struct minke_engine *engine = NULL;
    struct minke_error outer = {0};
    struct direct direct = {0};
    int64_t submitted = 0;
    int32_t *ids = memory_allocate((size_t)load->prompt, sizeof *ids, "prompt", error);
    if (ids == NULL) {
        return ERROR_MEMORY;
    }
    int code = minke_engine_create(&engine, serving->model, &serving->engine, &outer);
    double began = clock_seconds();
    while (code == 0 && direct.finished < load->requests) {
        while (code == 0 && submitted < load->requests && submitted - direct.finished < load->clients) {
            code = submit(engine, &direct, ids, load, submitted++, &outer);
        }
        code = code == 0 && minke_engine_step(engine, &outer) < 0 ? outer.code : code;
    }
    serving->alone[round] = (double)direct.tokens / (clock_seconds() - began);
    minke_engine_close(engine);
    memory_free(ids);
    return code == 0 ? 0 : error_set(error, outer.code, "%s", outer.text);
}

// ---- The server -----------------------------------------------------------------------------------------------------

static int run_server(struct serving *serving, int round, struct error *error) {
    struct server_options options;
    struct server *server = NULL;
    server_defaults(&options);
    options.port = 0;
    options.name = "bench";
    options.model_directory = serving->directory;
    options.access_log = false;
    options.engine = serving->engine;
    options.connections = options.connections > 2 * serving->load.clients ? options.connections
                                                                          : 2 * serving->load.clients;
    int code = server_open(&server, &options, serving->model, serving->tokenizer, error);
    if (code == 0) {
        struct client_result before = serving->result;
        int64_t drafted = 0, accepted = 0;
        serving->load.port = server_port(server);
        if ((code = clients_run(&serving->result, &serving->load, error)) == 0) {
            code = clients_read_drafts(&drafted, &accepted, serving->load.port, error);
        }
        serving->drafted += drafted;
        serving->accepted += accepted;
        serving->served[round] = (double)(serving->result.answer_tokens - before.answer_tokens) /
                                 (serving->result.seconds - before.seconds);
    }
    server_close(server);
    return code;
}

// ---- Results --------------------------------------------------------------------------------------------------------

static double spread_of(const double *sorted) {
    return (sorted[ROUNDS - 1] - sorted[0]) / sorted[ROUNDS / 2];
}

static void report_times(const struct serving *serving, const char *what, struct client_times *times) {
    static const int percents[] = {50, 90, 99};
    char name[BENCH_NAME];
    if (times->count == 0) {
        return;   // nothing that was written was text
    }
    bench_median(times->values, (int)times->count);   // sorts them
    for (size_t p = 0; p < sizeof percents / sizeof percents[0]; p++) {
        int64_t at = (times->count * percents[p] + 99) / 100 - 1;
        snprintf(name, sizeof name, "serve.%" PRId64 ".%s.p%d", serving->load.clients, what, percents[p]);
        bench_print_line(serving->bench, name, "ms", 1e3 * times->values[at], 0.0, 0.0, TEAM_ALL);
    }
}

static void report(struct serving *serving) {
    struct bench *bench = serving->bench;
    struct client_result *result = &serving->result;
    const struct client_options *load = &serving->load;
    char name[BENCH_NAME];
    double alone = bench_median(serving->alone, ROUNDS), served = bench_median(serving->served, ROUNDS);
    snprintf(name, sizeof name, "serve.%" PRId64 ".engine", load->clients);
    bench_print_line(bench, name, "tokens/s", alone, 0.0, spread_of(serving->alone), TEAM_ALL);
    snprintf(name, sizeof name, "serve.%" PRId64, load->clients);
    bench_print_line(bench, name, "tokens/s", served, alone, spread_of(serving->served), TEAM_ALL);
    snprintf(name, sizeof name, "serve.%" PRId64 ".requests", load->clients);
    bench_print_line(bench, name, "requests/s", served / (double)load->answer, alone / (double)load->answer,
                     spread_of(serving->served), TEAM_ALL);
    report_times(serving, "first", &result->first);
    report_times(serving, "next", &result->next);
    snprintf(name, sizeof name, "serve.%" PRId64 ".cached", load->clients);
    bench_print_line(bench, name, "% prompt", 100.0 * (double)result->cached_tokens / (double)result->prompt_tokens,
                     0.0, 0.0, TEAM_ALL);
    snprintf(name, sizeof name, "serve.%" PRId64 ".accepted", load->clients);
    bench_print_line(bench, name, "% drafts",
                     serving->drafted > 0 ? 100.0 * (double)serving->accepted / (double)serving->drafted : 0.0, 0.0,
                     0.0, TEAM_ALL);
    bench_print_note(bench,
                     "%d times %" PRId64 " requests of %" PRId64 " + %" PRId64 " tokens, %" PRId64
                     " at a time; HTTP and text cost %.1f %% of the engine's speed",
                     ROUNDS, load->requests, load->prompt, load->answer, load->clients, 100.0 * (1.0 - served / alone));
    bench_print_note(bench, "%" PRId64 " tokens drafted, %" PRId64 " of %" PRId64 " events came with text",
                     serving->drafted, result->first.count + result->next.count, result->answer_tokens);
}

int bench_serve(struct bench *bench, struct error *error) {
    struct serving serving = {.bench = bench};
    bench_print_heading(bench, "serving");
    int code = open_model(&serving, error);
    if (code == 0) {
        code = plan_load(&serving, error);
    }
    if (code == 0) {
        code = run_engine(&serving, 0, error);   // not counted: pages of the weights are read, caches get warm
    }
    for (int round = 0; round < ROUNDS && code == 0; round++) {
        if ((code = run_engine(&serving, round, error)) == 0) {
            code = run_server(&serving, round, error);
        }
    }
    if (code == 0) {
        report(&serving);
    }
    clients_free(&serving.result);
    close_model(&serving);
    return code;
}
