// What the server tells about itself: /v1/models, /health, /metrics, /engine, and the page.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "serve/api.h"
#include "serve/page.h"
#include "serve/server_private.h"

static void reply(struct exchange *exchange, int status, const char *type) {
    exchange->status = status;
    exchange->content_type = type;
}

static void write_model(struct text *out, const struct server *server) {
    text_string(out, "{\"id\":");
    text_json_string(out, server->options.name);
    text_format(out,
                ",\"object\":\"model\",\"created\":%" PRId64 ",\"owned_by\":\"minke\",\"max_model_len\":%" PRId64
                ",\"context_length\":%" PRId64 "}",
                server->started, server->context, server->context);
}

void api_models(struct exchange *exchange) {
    text_string(&exchange->reply, "{\"object\":\"list\",\"data\":[");
    write_model(&exchange->reply, exchange->server);
    text_string(&exchange->reply, "]}");
    reply(exchange, 200, "application/json");
}

void api_model(struct exchange *exchange) {
    const char *name = exchange->path + strlen("/v1/models/");
    if (strcmp(name, exchange->server->options.name) != 0) {
        failure_set(&exchange->failure, 404, "model_not_found", "model", "the model '%.100s' is not served here", name);
        return;
    }
    write_model(&exchange->reply, exchange->server);
    reply(exchange, 200, "application/json");
}

void api_health(struct exchange *exchange) {
    struct server *server = exchange->server;
    bool failed = worker_has_failed(&server->worker, NULL), draining = atomic_load(&server->draining);
    text_format(&exchange->reply, "{\"status\":\"%s\"}", failed ? "failed" : draining ? "draining" : "ok");
    reply(exchange, failed ? 500 : draining ? 503 : 200, "application/json");
}

void api_metrics(struct exchange *exchange) {
    struct server *server = exchange->server;
    struct worker_view view;
    worker_look(&view, &server->worker, NULL, 0);
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_CURRENT_CONNECTIONS);
    server_metrics_write(&exchange->reply, &server->metrics, &view, info != NULL ? info->num_connections : 0);
    reply(exchange, 200, "text/plain; version=0.0.4; charset=utf-8");
}

// ---- /engine --------------------------------------------------------------------------------------------------------

static void write_integers(struct text *out, const int64_t *values, int64_t count) {
    text_string(out, "[");
    for (int64_t i = 0; i < count; i++) {
        text_format(out, i > 0 ? ",%" PRId64 : "%" PRId64, values[i]);
    }
    text_string(out, "]");
}

static void write_settings(struct text *out, const struct server *server) {
    static const char *const styles[] = {[MINKE_CHAT_V3] = "v3",           [MINKE_CHAT_V3_0324] = "v3_0324",
                                         [MINKE_CHAT_R1] = "r1",           [MINKE_CHAT_R1_THINK] = "r1_think",
                                         [MINKE_CHAT_R1_0528] = "r1_0528", [MINKE_CHAT_V3_1] = "v3_1"};
    text_string(out, "{\"model\":");
    text_json_string(out, server->options.name);
    text_format(out, ",\"version\":\"%s\",\"context\":%" PRId64 ",\"chat_style\":", minke_version(), server->context);
    if (server->chat_style >= 0) {
        text_json_string(out, styles[server->chat_style]);
    } else {
        text_string(out, "null");
    }
    // Six digits: what a person set as 0.6 is to read 0.6.
    text_format(out, ",\"sampling\":{\"temperature\":%.6g,\"top_p\":%.6g,\"top_k\":%" PRId64 ",\"min_p\":%.6g}",
                (double)server->sampling.temperature, (double)server->sampling.top_p, server->sampling.top_k,
                (double)server->sampling.min_p);
}

static void write_counters(struct text *out, const struct worker_view *view) {
    const struct minke_engine_stats *stats = &view->stats;
    text_format(out,
                ",\"waiting\":%" PRId64 ",\"running\":%" PRId64 ",\"cache_tokens_used\":%" PRId64
                ",\"cache_tokens_total\":%" PRId64,
                stats->waiting, stats->running, stats->cache_tokens_used, stats->cache_tokens_total);
    text_format(out, ",\"tokens_per_second\":%.6g,\"prompt_tokens_per_second\":%.6g", view->tokens_per_second,
                view->prompt_tokens_per_second);
    text_format(out,
                ",\"requests\":%" PRId64 ",\"prompt_tokens\":%" PRId64 ",\"cached_tokens\":%" PRId64
                ",\"answer_tokens\":%" PRId64 ",\"preemptions\":%" PRId64 ",\"steps\":%" PRId64,
                stats->requests, stats->prompt_tokens, stats->cached_tokens, stats->answer_tokens, stats->preemptions,
                stats->steps);
    int64_t drafts = MINKE_MAX_DRAFTS;
    while (drafts > 0 && stats->drafted[drafts - 1] == 0) {
        drafts--;
    }
    text_string(out, ",\"drafted\":");
    write_integers(out, stats->drafted, drafts);
    text_string(out, ",\"accepted\":");
    write_integers(out, stats->accepted, drafts);
}

void api_engine(struct exchange *exchange) {
    struct server *server = exchange->server;
    struct text *out = &exchange->reply;
    struct worker_view view;
    worker_look(&view, &server->worker, NULL, 0);
    int64_t layers = view.stats.moe_layers, experts = view.stats.experts;
    int64_t *load = memory_allocate((size_t)(layers * experts) + 1, sizeof *load, "expert load", NULL);
    if (load == NULL) {
        failure_set(&exchange->failure, 500, NULL, NULL, "out of memory");
        return;
    }
    worker_look(&view, &server->worker, load, layers * experts);
    write_settings(out, server);
    write_counters(out, &view);
    text_string(out, ",\"expert_load\":[");
    for (int64_t layer = 0; layer < layers; layer++) {
        text_string(out, layer > 0 ? "," : "");
        write_integers(out, load + layer * experts, experts);
    }
    text_string(out, "]}");
    memory_free(load);
    reply(exchange, 200, "application/json");
}

// ---- The page -------------------------------------------------------------------------------------------------------

void api_page(struct exchange *exchange) {
    struct page_file file;
    if (!page_find(&file, exchange->path)) {
        failure_set(&exchange->failure, 404, NULL, NULL, "there is no %.200s here", exchange->path);
        return;
    }
    snprintf(exchange->etag_text, sizeof exchange->etag_text, "%s", file.etag);
    if (http_matches(exchange, file.etag)) {
        exchange->status = 304;
        return;
    }
    exchange->status = 200;
    exchange->content_type = file.content_type;
    exchange->fixed = file.bytes;
    exchange->fixed_size = file.size;
}
