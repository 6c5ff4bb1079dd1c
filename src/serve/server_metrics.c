// See server_metrics.h.
#include "serve/server_metrics.h"

#include <inttypes.h>
#include <string.h>

static const double bounds[METRIC_BUCKETS] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                                              1,     2.5,    5,     10,   25,    50,   100, 250,  500};

void server_metrics_init(struct server_metrics *metrics) {
    *metrics = (struct server_metrics){0};
    pthread_mutex_init(&metrics->lock, NULL);
}

void server_metrics_destroy(struct server_metrics *metrics) {
    pthread_mutex_destroy(&metrics->lock);
}

void server_metrics_observe(struct server_metrics *metrics, enum metric metric, double seconds) {
    int at = 0;
    while (at < METRIC_BUCKETS && seconds > bounds[at]) {
        at++;
    }
    pthread_mutex_lock(&metrics->lock);
    struct histogram *histogram = &metrics->histograms[metric];
    histogram->buckets[at]++;
    histogram->sum += seconds;
    histogram->count++;
    pthread_mutex_unlock(&metrics->lock);
}

void server_metrics_count_finish(struct server_metrics *metrics, enum minke_finish finish) {
    pthread_mutex_lock(&metrics->lock);
    metrics->finishes[finish]++;
    pthread_mutex_unlock(&metrics->lock);
}

void server_metrics_count_response(struct server_metrics *metrics, const char *route, int status) {
    pthread_mutex_lock(&metrics->lock);
    int64_t at = 0;
    while (at < metrics->response_kinds &&
           (metrics->responses[at].status != status || strcmp(metrics->responses[at].route, route) != 0)) {
        at++;
    }
    if (at < METRIC_ROUTES * 4) {
        metrics->responses[at].route = route;
        metrics->responses[at].status = status;
        metrics->responses[at].count++;
        metrics->response_kinds = at == metrics->response_kinds ? at + 1 : metrics->response_kinds;
    }
    pthread_mutex_unlock(&metrics->lock);
}

void server_metrics_count_disconnect(struct server_metrics *metrics) {
    pthread_mutex_lock(&metrics->lock);
    metrics->disconnects++;
    pthread_mutex_unlock(&metrics->lock);
}

static void write_head(struct text *out, const char *name, const char *type, const char *help) {
    text_format(out, "# HELP minke_%s %s\n# TYPE minke_%s %s\n", name, help, name, type);
}

static void write_number(struct text *out, const char *name, const char *type, const char *help, int64_t value) {
    write_head(out, name, type, help);
    text_format(out, "minke_%s %" PRId64 "\n", name, value);
}

static void write_real(struct text *out, const char *name, const char *type, const char *help, double value) {
    write_head(out, name, type, help);
    text_format(out, "minke_%s %.9g\n", name, value);
}

static void write_histogram(struct text *out, const char *name, const char *help, const struct histogram *histogram) {
    write_head(out, name, "histogram", help);
    int64_t sum = 0;
    for (int i = 0; i < METRIC_BUCKETS; i++) {
        sum += histogram->buckets[i];
        text_format(out, "minke_%s_bucket{le=\"%g\"} %" PRId64 "\n", name, bounds[i], sum);
    }
    text_format(out, "minke_%s_bucket{le=\"+Inf\"} %" PRId64 "\n", name, histogram->count);
    text_format(out, "minke_%s_sum %.9g\nminke_%s_count %" PRId64 "\n", name, histogram->sum, name, histogram->count);
}

static void write_engine(struct text *out, const struct worker_view *view) {
    const struct minke_engine_stats *stats = &view->stats;
    write_number(out, "requests_waiting", "gauge", "Requests in the queue.", stats->waiting);
    write_number(out, "requests_running", "gauge", "Requests in the batch.", stats->running);
    write_number(out, "cache_tokens_used", "gauge", "Tokens in the attention cache.", stats->cache_tokens_used);
    write_number(out, "cache_tokens", "gauge", "Tokens the attention cache holds.", stats->cache_tokens_total);
    write_number(out, "requests_total", "counter", "Requests submitted to the engine.", stats->requests);
    write_number(out, "prompt_tokens_total", "counter", "Prompt tokens of requests.", stats->prompt_tokens);
    write_number(out, "cached_tokens_total", "counter", "Prompt tokens found in the prefix cache.",
                 stats->cached_tokens);
    write_number(out, "answer_tokens_total", "counter", "Tokens written.", stats->answer_tokens);
    write_number(out, "preemptions_total", "counter", "Requests moved out of a full cache.", stats->preemptions);
    write_number(out, "steps_total", "counter", "Forward passes.", stats->steps);
    write_real(out, "step_seconds_total", "counter", "Time spent in forward passes.", stats->step_seconds);
    write_real(out, "tokens_per_second", "gauge", "Tokens written a second, of the last two seconds.",
               view->tokens_per_second);
    write_real(out, "prompt_tokens_per_second", "gauge", "Prompt tokens a second, of the last two seconds.",
               view->prompt_tokens_per_second);
    write_head(out, "mtp_drafted_total", "counter", "Draft tokens of the MTP modules, by position.");
    for (int i = 0; i < MINKE_MAX_DRAFTS; i++) {
        if (i == 0 || stats->drafted[i] > 0) {
            text_format(out, "minke_mtp_drafted_total{position=\"%d\"} %" PRId64 "\n", i, stats->drafted[i]);
        }
    }
    write_head(out, "mtp_accepted_total", "counter", "Draft tokens that were right, by position.");
    for (int i = 0; i < MINKE_MAX_DRAFTS; i++) {
        if (i == 0 || stats->drafted[i] > 0) {
            text_format(out, "minke_mtp_accepted_total{position=\"%d\"} %" PRId64 "\n", i, stats->accepted[i]);
        }
    }
}

void server_metrics_write(struct text *out, struct server_metrics *metrics, const struct worker_view *view,
                          int64_t connections) {
    static const char *const finishes[] = {[MINKE_FINISH_STOP] = "stop",
                                           [MINKE_FINISH_LENGTH] = "length",
                                           [MINKE_FINISH_CANCELLED] = "cancelled",
                                           [MINKE_FINISH_ERROR] = "error"};
    write_engine(out, view);
    write_number(out, "connections", "gauge", "Open connections.", connections);
    pthread_mutex_lock(&metrics->lock);
    write_histogram(out, "time_to_first_token_seconds", "From the arrival of a request to its first token.",
                    &metrics->histograms[METRIC_FIRST_TOKEN]);
    write_histogram(out, "time_per_token_seconds", "From one token of an answer to the next.",
                    &metrics->histograms[METRIC_NEXT_TOKEN]);
    write_histogram(out, "request_seconds", "From the arrival of a request to its last token.",
                    &metrics->histograms[METRIC_REQUEST]);
    write_head(out, "requests_finished_total", "counter", "Requests of the engine by how they ended.");
    for (int i = 0; i < 4; i++) {
        text_format(out, "minke_requests_finished_total{reason=\"%s\"} %" PRId64 "\n", finishes[i],
                    metrics->finishes[i]);
    }
    write_number(out, "disconnects_total", "counter", "Clients that left before their answer was complete.",
                 metrics->disconnects);
    write_head(out, "http_responses_total", "counter", "Responses by route and status.");
    for (int64_t i = 0; i < metrics->response_kinds; i++) {
        text_format(out, "minke_http_responses_total{route=\"%s\",status=\"%d\"} %" PRId64 "\n",
                    metrics->responses[i].route, metrics->responses[i].status, metrics->responses[i].count);
    }
    pthread_mutex_unlock(&metrics->lock);
}
