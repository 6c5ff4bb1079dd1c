// Counters and histograms of the server, and their text for Prometheus.
#ifndef MINKE_SERVE_SERVER_METRICS_H
#define MINKE_SERVE_SERVER_METRICS_H

#include <pthread.h>
#include <stdint.h>

#include "minke.h"
#include "serve/text.h"
#include "serve/worker.h"

enum metric { METRIC_FIRST_TOKEN, METRIC_NEXT_TOKEN, METRIC_REQUEST, METRIC_COUNT };

#define METRIC_BUCKETS 18
#define METRIC_ROUTES 24

struct histogram {
    int64_t buckets[METRIC_BUCKETS + 1];   // not cumulative; the last one is +Inf
    double sum;
    int64_t count;
};
struct server_metrics {
    pthread_mutex_t lock;
    struct histogram histograms[METRIC_COUNT];
    int64_t finishes[4];   // by enum minke_finish
    struct {
        const char *route;   // a literal
        int status;
        int64_t count;
    } responses[METRIC_ROUTES * 4];
    int64_t response_kinds, disconnects;
};

void server_metrics_init(struct server_metrics *metrics);
void server_metrics_destroy(struct server_metrics *metrics);
void server_metrics_observe(struct server_metrics *metrics, enum metric metric, double seconds);
void server_metrics_count_finish(struct server_metrics *metrics, enum minke_finish finish);
void server_metrics_count_response(struct server_metrics *metrics, const char *route, int status);
void server_metrics_count_disconnect(struct server_metrics *metrics);
// Prometheus' text format, version 0.0.4. `connections`: open now.
void server_metrics_write(struct text *out, struct server_metrics *metrics, const struct worker_view *view,
                          int64_t connections);

#endif
