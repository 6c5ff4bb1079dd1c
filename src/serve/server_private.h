// What the parts of the server share.
#ifndef MINKE_SERVE_SERVER_PRIVATE_H
#define MINKE_SERVE_SERVER_PRIVATE_H

#include <jansson.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#include "serve/api_key.h"
#include "serve/call.h"
#include "serve/reuse.h"
#include "serve/server.h"
#include "serve/server_metrics.h"
#include "serve/token_vocabulary.h"
#include "serve/worker.h"

struct exchange;

struct server {
    struct server_options options;
    struct minke_model *model;
    struct minke_tokenizer *tokenizer;
    struct minke_sampling sampling;   // the model's own
    int64_t context, vocab_size;      // vocab_size: of the model
    int chat_style;                   // enum minke_chat_style, -1 = no template
    bool add_bos;
    json_t *tokenizer_config;   // tokenizer_config.json, an empty object if there is none
    struct token_vocabulary *vocabulary;
    struct api_keys keys;
    struct minke_engine *engine;
    struct worker worker;
    struct server_metrics metrics;
    struct reuse reuse;
    struct MHD_Daemon *daemon;
    int64_t port, started;
    uint64_t id_seed;
    atomic_uint_fast64_t id_counter;
    atomic_int_fast64_t active;   // requests of the engine that are not finished
    atomic_bool draining;

    // Exchanges that have a call, for the monitor. Lock order: this one, then a call's.
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct exchange *first;
    int64_t live_calls;
    bool closing;
    pthread_t monitor;
    bool monitor_runs;
};

#endif
