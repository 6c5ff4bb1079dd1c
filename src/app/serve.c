// `minke serve`: a model behind OpenAI's HTTP API, until SIGTERM or SIGINT. The first signal refuses new requests and
// lets those that run finish; the second one cancels them.
#include "serve/server.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "app/app.h"
#include "app/model_files.h"
#include "app/options.h"
#include "base/log.h"
#include "base/memory.h"

// What the command line says. At file scope, like the table of options that points into it.
static struct serve_arguments {
    const char *directory, *attention, *cache_format, *log;
    char name[256];
    int64_t body_mib;
    bool no_mtp, no_prefix_cache;
    struct model_arguments model;
    struct server_options server;
} arguments = {.attention = "auto", .log = "requests"};

// The name of a model is that of its directory.
static void name_model(char name[256], const char *directory) {
    size_t end = strlen(directory);
    while (end > 1 && directory[end - 1] == '/') {
        end--;
    }
    size_t begin = end;
    while (begin > 0 && directory[begin - 1] != '/') {
        begin--;
    }
    snprintf(name, 256, "%.*s", (int)(end - begin), directory + begin);
}

static void announce(struct server *server, const struct server_options *options) {
    bool six = strchr(options->host, ':') != NULL;
    // On standard output and at once: scripts wait for this line to learn the port.
    printf("http://%s%s%s:%" PRId64 "\n", six ? "[" : "", options->host, six ? "]" : "", server_port(server));
    fflush(stdout);
    log_info("serving %s: context %" PRId64 " tokens, cache %" PRId64 " tokens, %s", options->name,
             server_context(server), server_cache_tokens(server),
             options->api_key_file != NULL ? "with API keys" : "no API key asked for");
    if (options->api_key_file == NULL && strcmp(options->host, "127.0.0.1") != 0 && strcmp(options->host, "::1") != 0 &&
        strcmp(options->host, "localhost") != 0) {
        log_warning("anybody who reaches %s may use the model: consider --api-key-file", options->host);
    }
}

// Waits for signals, which are blocked in all threads. Returns the exit status.
static int wait_for_end(struct server *server, const sigset_t *signals) {
    int seen = 0;
    for (;;) {
        struct timespec pause = {.tv_nsec = 200000000};
        int number = sigtimedwait(signals, NULL, &pause);
        if (number > 0 && seen++ == 0) {
            log_info("shutting down: finishing what runs; another signal cancels it");
            server_drain(server);
        } else if (number > 0) {
            log_info("shutting down: cancelling what runs");
            server_cancel(server);
        }
        if (server_has_failed(server)) {
            return 1;
        }
        if (seen > 0 && server_is_idle(server)) {
            return 0;
        }
    }
}

static int run(const struct common_options *common) {
    struct minke_error error = {0};
    struct error inner = {0};
    struct minke_model *model = NULL;
    struct minke_tokenizer *tokenizer = NULL;
    struct server *server = NULL;
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);   // before any thread is made: they inherit it
    signal(SIGPIPE, SIG_IGN);
    if (app_open_model(&model, arguments.directory, common, &arguments.model) != 0) {
        return 1;
    }
    int status = 1;
    if (minke_tokenizer_open(&tokenizer, arguments.directory, &error) != 0) {
        log_error("%s", error.text);
    } else if (server_open(&server, &arguments.server, model, tokenizer, &inner) != 0) {
        log_error("%s", inner.text);
    } else {
        announce(server, &arguments.server);
        status = wait_for_end(server, &signals);
        app_report_memory(model);
    }
    server_close(server);
    minke_tokenizer_close(tokenizer);
    minke_model_close(model);
    return status;
}

static enum minke_attention attention_by_name(const char *name) {
    return strcmp(name, "expanded") == 0   ? MINKE_ATTENTION_EXPANDED
           : strcmp(name, "absorbed") == 0 ? MINKE_ATTENTION_ABSORBED
                                           : MINKE_ATTENTION_AUTO;
}

static const struct command_option options[] = {
    {.name = "host",
     .argument = "H",
     .help = "address to listen on (127.0.0.1: this machine only)",
     .text = &arguments.server.host},
    {.name = "port",
     .argument = "P",
     .help = "port, 0 = any free one (8080)",
     .integer = &arguments.server.port,
     .maximum = 65535},
    {.name = "name",
     .argument = "NAME",
     .help = "name of the model (that of its directory)",
     .text = &arguments.server.name},
    {.name = "api-key-file",
     .argument = "F",
     .help = "ask for one of the keys in this file, one a line",
     .text = &arguments.server.api_key_file},
    {.name = "cors",
     .argument = "ORIGIN",
     .help = "let pages of this origin use the API; * = of any",
     .text = &arguments.server.cors},
    {.name = "context",
     .argument = "N",
     .help = "longest request in tokens (the model's context)",
     .integer = &arguments.server.engine.context,
     .minimum = 16,
     .maximum = INT32_MAX},
    {.name = "cache",
     .argument = "N",
     .help = "tokens of all requests in the attention cache",
     .integer = &arguments.server.engine.cache_tokens,
     .minimum = 16,
     .maximum = INT32_MAX},
    {.name = "cache-dir",
     .argument = "DIR",
     .help = "keep the prefix cache over restarts",
     .text = &arguments.server.engine.cache_directory},
    {.name = "no-prefix-cache", .help = "do not share beginnings of prompts", .flag = &arguments.no_prefix_cache},
    {.name = "batch",
     .argument = "N",
     .help = "requests computed at the same time (64)",
     .integer = &arguments.server.engine.batch,
     .minimum = 1,
     .maximum = 4096},
    {.name = "chunk",
     .argument = "N",
     .help = "prompt tokens computed per step (512)",
     .integer = &arguments.server.engine.chunk,
     .minimum = 1,
     .maximum = INT32_MAX},
    {.name = "no-mtp", .help = "no drafting with the MTP modules", .flag = &arguments.no_mtp},
    MODEL_OPTIONS(arguments.model),
    {.name = "attention",
     .argument = "A",
     .help = "form of latent attention (auto)",
     .text = &arguments.attention,
     .choices = "auto|expanded|absorbed"},
    CACHE_OPTION(arguments.cache_format),
    {.name = "thinking",
     .help = "thinking mode unless a request says otherwise (V3.1)",
     .flag = &arguments.server.thinking},
    {.name = "reuse-ids",
     .help = "keep the ids of own answers for the next turn of a conversation",
     .flag = &arguments.server.reuse_ids},
    {.name = "max-n",
     .argument = "N",
     .help = "answers to one request at most (128)",
     .integer = &arguments.server.n,
     .minimum = 1,
     .maximum = 4096},
    {.name = "max-tokens",
     .argument = "N",
     .help = "tokens of one answer at most (the context)",
     .integer = &arguments.server.max_tokens,
     .minimum = 1,
     .maximum = INT32_MAX},
    {.name = "max-queue",
     .argument = "N",
     .help = "requests that wait at most; more get a 503 (512)",
     .integer = &arguments.server.queue,
     .minimum = 0,
     .maximum = 1 << 20},
    {.name = "max-body",
     .argument = "MIB",
     .help = "largest request body (16)",
     .integer = &arguments.body_mib,
     .minimum = 1,
     .maximum = 4096},
    {.name = "max-connections",
     .argument = "N",
     .help = "open connections at most (1000)",
     .integer = &arguments.server.connections,
     .minimum = 1,
     .maximum = 100000},
    {.name = "timeout",
     .argument = "S",
     .help = "seconds until a silent or stuck connection is closed (60)",
     .number = &arguments.server.connection_seconds,
     .least = 1,
     .most = 86400},
    {.name = "request-timeout",
     .argument = "S",
     .help = "seconds an answer may take (no limit)",
     .number = &arguments.server.request_seconds,
     .least = 1,
     .most = 1e6},
    {.name = "keep-alive",
     .argument = "S",
     .help = "seconds of silence until a sign of life is sent (5)",
     .number = &arguments.server.keep_alive_seconds,
     .least = 0.1,
     .most = 3600},
    {.name = "http-threads",
     .argument = "N",
     .help = "threads for HTTP (4)",
     .integer = &arguments.server.http_threads,
     .minimum = 1,
     .maximum = 256},
    {.name = "log",
     .argument = "L",
     .help = "what is reported (requests)",
     .text = &arguments.log,
     .choices = "none|requests|debug"},
    {0},
};

int command_serve(int argc, char **argv) {
    struct server_options *server = &arguments.server;
    server_defaults(server);
    arguments.body_mib = server->body_bytes >> 20;
    const struct command_positional positionals[] = {
        {.name = "MODEL_DIR", .help = "a Hugging Face model directory with a tokenizer", .text = &arguments.directory},
        {0},
    };
    struct common_options common = {0};
    const struct command_syntax syntax = {
        .name = "serve",
        .summary = "serve a model over HTTP: OpenAI's API, and a chat page",
        .description = "Prints its address on standard output and runs until SIGTERM or SIGINT: running answers are "
                       "finished, a second\nsignal cancels them. docs/serving.md describes the endpoints.",
        .examples = "minke serve MODEL_DIR\n"
                    "minke serve MODEL_DIR --host 0.0.0.0 --port 8000 --api-key-file keys.txt\n"
                    "curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\\n"
                    "    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}], \"stream\": true}'",
        .options = options,
        .positionals = positionals,
        .common = &common,
    };
    int status;
    if (!options_parse(&syntax, argc, argv, &status)) {
        return status;
    }
    server->body_bytes = arguments.body_mib << 20;
    server->engine.attention = attention_by_name(arguments.attention);
    server->engine.cache = app_cache(arguments.cache_format);
    server->engine.no_drafts = arguments.no_mtp;
    server->engine.no_prefix_cache = arguments.no_prefix_cache;
    server->access_log = strcmp(arguments.log, "none") != 0 && !common.quiet;
    server->model_directory = arguments.directory;
    name_model(arguments.name, arguments.directory);
    server->name = server->name != NULL ? server->name : arguments.name;
    if (strcmp(arguments.log, "debug") == 0) {
        log_set_level(LOG_DEBUG);
    }
    return run(&common);
}
