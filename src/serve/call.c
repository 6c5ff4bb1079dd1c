// The life of a call: creation, hand-over to the engine, events, waiting, cancellation. See call.h.
#include "serve/call.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/memory.h"
#include "serve/server_private.h"

#define WHOLE_PATIENCE 6

// ---- Creation and end -----------------------------------------------------------------------------------------------

static void batch_destroy(struct record_batch *batch) {
    memory_free(batch->records);
    memory_free(batch->tops);
    *batch = (struct record_batch){0};
}

static void choice_destroy(struct choice *choice) {
    batch_destroy(&choice->incoming);
    batch_destroy(&choice->taken);
    stop_scanner_destroy(&choice->watch);
    stop_scanner_destroy(&choice->scanner);
    grammar_state_free(choice->grammar_state);
    answer_parser_free(choice->parser);
    text_destroy(&choice->piece);
    text_destroy(&choice->released);
    text_destroy(&choice->content);
    text_destroy(&choice->reasoning);
    for (int64_t i = 0; i < choice->tool_count; i++) {
        text_destroy(&choice->tools[i].name);
        text_destroy(&choice->tools[i].arguments);
    }
    memory_free(choice->tools);
    for (int i = 0; i < ENTRY_LISTS; i++) {
        text_destroy(&choice->entries[i]);
    }
    memory_free(choice->pending);
    memory_free(choice->ids);
}

static void call_destroy(struct call *call) {
    for (int64_t i = 0; i < call->choice_count; i++) {
        choice_destroy(&call->choices[i]);
    }
    memory_free(call->choices);
    grammar_free(call->grammar);
    for (int64_t i = 0; i < call->prompt_count; i++) {
        memory_free(call->prompts[i].ids);
    }
    memory_free(call->prompts);
    generation_destroy(&call->generation);
    text_destroy(&call->output);
    memory_free(call->model);
    pthread_mutex_destroy(&call->lock);
    memory_free(call);
}

static void call_release(struct call *call) {
    pthread_mutex_lock(&call->lock);
    bool last = --call->references == 0;
    pthread_mutex_unlock(&call->lock);
    if (last) {
        call_destroy(call);
    }
}

int call_create(struct call **out, struct server *server, const struct answer_format *format,
                struct generation *generation, struct prompt *prompts, int64_t prompt_count, struct failure *failure) {
    struct call *call = memory_allocate(1, sizeof *call, "call", NULL);
    int64_t count = prompt_count * generation->n;
    struct choice *choices = memory_allocate((size_t)count, sizeof *choices, "choices", NULL);
    *out = NULL;
    if (call == NULL || choices == NULL) {
        memory_free(call);
        memory_free(choices);
        return failure_set(failure, 500, NULL, NULL, "out of memory");
    }
    *call = (struct call){.server = server,
                          .format = format,
                          .generation = *generation,
                          .prompts = prompts,
                          .prompt_count = prompt_count,
                          .choices = choices,
                          .choice_count = count,
                          .created = (int64_t)time(NULL),
                          .references = 1,
                          .started = clock_seconds()};
    *generation = (struct generation){0};
    call->last_output = call->started;
    pthread_mutex_init(&call->lock, NULL);
    snprintf(call->id, sizeof call->id, "%s%012" PRIx64 "%08" PRIx64, format->id_prefix,
             server->id_seed & 0xffffffffffff, (uint64_t)atomic_fetch_add(&server->id_counter, 1));
    for (int64_t i = 0; i < count; i++) {
        choices[i].call = call;
        choices[i].index = i;
        choices[i].prompt = i / call->generation.n;
    }
    *out = call;
    return 0;
}

// ---- To the engine --------------------------------------------------------------------------------------------------

static int submit_choice(struct choice *choice, struct failure *failure) {
    struct call *call = choice->call;
    const struct generation *generation = &call->generation;
    const struct prompt *prompt = &call->prompts[choice->prompt];
    struct minke_token_filter filter = {0};
    struct error inner = {0};
    if (call->grammar != NULL) {
        if (grammar_state_create(&choice->grammar_state, call->grammar, &inner) != 0) {
            return failure_set(failure, 500, NULL, NULL, "%s", inner.text);
        }
        filter = grammar_state_filter(choice->grammar_state);
    }
    int64_t room = call->server->context - prompt->count;
    struct minke_request request = {
        .ids = prompt->ids,
        .count = prompt->count,
        .max_tokens = generation->max_tokens < 0 || generation->max_tokens > room ? room : generation->max_tokens,
        .sampling = generation->sampling,
        .log_probabilities = generation->log_probabilities ? generation->top : 0,
        .prompt_log_probabilities = call->score_prompt,
        .ignore_end = generation->ignore_end,
        .filter = call->grammar != NULL ? &filter : NULL,
        .callback = call_on_event,
        .argument = choice,
    };
    request.sampling.choice = choice->index % generation->n;
    pthread_mutex_lock(&call->lock);
    call->references++;
    call->unfinished++;
    pthread_mutex_unlock(&call->lock);
    struct minke_error error = {0};
    int64_t number = 0;
    int code = minke_engine_submit(&number, call->server->engine, &request, &error);
    pthread_mutex_lock(&call->lock);
    choice->number = number;
    choice->submitted = code == 0;
    if (code == 0) {
        atomic_fetch_add(&call->server->active, 1);
    } else {
        call->references--;
        call->unfinished--;
    }
    pthread_mutex_unlock(&call->lock);
    return code == 0 ? 0 : failure_set(failure, code == ERROR_MEMORY ? 500 : 400, NULL, NULL, "%s", error.text);
}

int call_submit(struct call *call, struct failure *failure) {
    for (int64_t i = 0; i < call->choice_count; i++) {
        if ((call->format->start != NULL && call->format->start(&call->choices[i], failure) != 0) ||
            submit_choice(&call->choices[i], failure) != 0) {
            break;
        }
    }
    worker_wake(&call->server->worker);
    return failure->status;
}

void call_cancel(struct call *call) {
    for (int64_t i = 0; i < call->choice_count; i++) {
        // The engine is called without the lock: it may be inside call_on_event.
        pthread_mutex_lock(&call->lock);
        bool runs = call->choices[i].submitted && !call->choices[i].finished;
        int64_t number = call->choices[i].number;
        pthread_mutex_unlock(&call->lock);
        if (runs) {
            minke_engine_cancel(call->server->engine, number);
        }
    }
    worker_wake(&call->server->worker);
}

void call_abandon(struct call *call) {
    pthread_mutex_lock(&call->lock);
    call->connection = NULL;
    call->gone = true;
    call->suspended = false;
    pthread_mutex_unlock(&call->lock);
    call_cancel(call);
    call_release(call);
}

// ---- Events (inference thread) --------------------------------------------------------------------------------------

static bool batch_grow(void **memory, int64_t *capacity, int64_t needed, size_t size) {
    if (needed <= *capacity) {
        return true;
    }
    int64_t wanted = needed > 2 * *capacity ? needed : 2 * *capacity;
    wanted = wanted < 16 ? 16 : wanted;
    void *grown = memory_resize(*memory, (size_t)wanted, size, "answer", NULL);
    if (grown != NULL) {
        *memory = grown;
        *capacity = wanted;
    }
    return grown != NULL;
}

static bool keep_record(struct choice *choice, const struct minke_event *event) {
    struct record_batch *batch = &choice->incoming;
    int64_t tops = event->top_count < TOP_LOG_PROBABILITIES_MAX ? event->top_count : TOP_LOG_PROBABILITIES_MAX;
    void *records = batch->records, *top_memory = batch->tops;
    bool room = batch_grow(&records, &batch->capacity, batch->count + 1, sizeof *batch->records) &&
                batch_grow(&top_memory, &batch->top_capacity, batch->top_count + tops, sizeof *batch->tops);
    batch->records = records;
    batch->tops = top_memory;
    if (!room) {
        return false;
    }
    bool prompt = event->kind == MINKE_EVENT_PROMPT;
    batch->records[batch->count++] = (struct token_record){
        .id = event->id,
        .log_probability = event->log_probability,
        .prompt = prompt,
        .end = !prompt && !choice->call->generation.ignore_end &&
               minke_model_is_end(choice->call->server->model, event->id),
        .has_value = !(prompt && event->index == 0),
        .top_count = (uint8_t)tops,
        .top_first = batch->top_count,
    };
    for (int64_t i = 0; i < tops; i++) {
        batch->tops[batch->top_count++] = event->top[i];
    }
    return true;
}

// Whether the answer has come to a stop string with this token.
static bool watch_stop(struct choice *choice, int32_t id) {
    const struct call *call = choice->call;
    if (call->generation.stop.count == 0) {
        return false;
    }
    char *text = NULL;
    size_t size = 0;
    struct minke_error error = {0};
    if (minke_decode_next(&text, &size, &choice->watch_decoder, call->server->tokenizer, id, &error) != 0) {
        choice->out_of_memory = true;
        return true;
    }
    bool matched = stop_scanner_push(NULL, &choice->watch, &call->generation.stop, text, size);
    minke_free(text);
    return matched;
}

static void observe_token(struct choice *choice) {
    struct server_metrics *metrics = &choice->call->server->metrics;
    double now = clock_seconds();
    if (choice->first_token == 0) {
        choice->first_token = now;
        server_metrics_observe(metrics, METRIC_FIRST_TOKEN, now - choice->call->started);
    } else {
        server_metrics_observe(metrics, METRIC_NEXT_TOKEN, now - choice->last_token);
    }
    choice->last_token = now;
}

static void keep_end(struct choice *choice, const struct minke_event *event) {
    if (choice->finished) {
        return;   // call_fail was first
    }
    choice->finished = true;
    choice->finish = event->finish;
    choice->prompt_tokens = event->prompt_tokens;
    choice->cached_tokens = event->cached_tokens;
    choice->answer_tokens = event->answer_tokens;
    if (choice->out_of_memory) {
        failure_set(&choice->failure, 500, NULL, NULL, "out of memory");
    } else if (event->finish == MINKE_FINISH_ERROR) {
        failure_set(&choice->failure, 500, NULL, NULL, "%s", event->error != NULL ? event->error : "engine failure");
    } else if (event->finish == MINKE_FINISH_CANCELLED) {
        failure_set(&choice->failure, 503, "cancelled", NULL, "the request was cancelled");
    }
    choice->call->unfinished--;
}

// Under the lock.
static void resume(struct call *call) {
    if (call->suspended) {
        call->suspended = false;
        MHD_resume_connection(call->connection);
    }
}

int call_on_event(void *argument, const struct minke_event *event) {
    struct choice *choice = argument;
    struct call *call = choice->call;
    bool last = event->kind == MINKE_EVENT_FINISHED;
    bool stop = false;
    if (event->kind == MINKE_EVENT_TOKEN) {
        observe_token(choice);
    }
    pthread_mutex_lock(&call->lock);
    if (last) {
        keep_end(choice, event);
    } else if (!call->gone) {
        choice->out_of_memory |= !keep_record(choice, event);
        stop = choice->out_of_memory;
        if (event->kind == MINKE_EVENT_TOKEN && !choice->incoming.records[choice->incoming.count - 1].end) {
            stop |= watch_stop(choice, event->id);
        }
    }
    call->news = true;
    if (call->generation.stream || call->unfinished == 0) {
        resume(call);
    }
    pthread_mutex_unlock(&call->lock);
    if (last) {
        server_metrics_observe(&call->server->metrics, METRIC_REQUEST, clock_seconds() - call->started);
        server_metrics_count_finish(&call->server->metrics, event->finish);
        atomic_fetch_sub(&call->server->active, 1);
        call_release(call);
    }
    return stop;
}

// ---- Waiting (HTTP side and monitor) --------------------------------------------------------------------------------

bool call_wait(struct call *call, struct MHD_Connection *connection) {
    pthread_mutex_lock(&call->lock);
    bool ready = call->gone || call->keep_alive_due || call->unfinished == 0 || (call->generation.stream && call->news);
    if (!ready) {
        call->connection = connection;
        call->suspended = true;
        MHD_suspend_connection(connection);
    }
    pthread_mutex_unlock(&call->lock);
    return !ready;
}

void call_keep_alive(struct call *call, double seconds) {
    pthread_mutex_lock(&call->lock);
    // A whole answer commits itself to status 200 with its first sign of life: that one comes late.
    bool begun = call->generation.stream || call->last_output > call->started;
    double patience = begun ? seconds : WHOLE_PATIENCE * seconds;
    if (call->suspended && clock_seconds() - call->last_output >= patience) {
        call->keep_alive_due = true;
        resume(call);
    }
    pthread_mutex_unlock(&call->lock);
}

void call_disconnect(struct call *call) {
    pthread_mutex_lock(&call->lock);
    call->gone = true;
    resume(call);
    pthread_mutex_unlock(&call->lock);
    call_cancel(call);
}

void call_fail(struct call *call) {
    pthread_mutex_lock(&call->lock);
    for (int64_t i = 0; i < call->choice_count; i++) {
        struct choice *choice = &call->choices[i];
        if (choice->submitted && !choice->finished) {
            choice->finished = true;
            failure_set(&choice->failure, 500, NULL, NULL, "the engine has failed, see the server's log");
            call->unfinished--;
        }
    }
    call->news = true;
    resume(call);
    pthread_mutex_unlock(&call->lock);
}

bool call_is_gone(struct call *call) {
    pthread_mutex_lock(&call->lock);
    bool gone = call->gone;
    pthread_mutex_unlock(&call->lock);
    return gone;
}

bool call_is_done(struct call *call) {
    pthread_mutex_lock(&call->lock);
    bool done = call->unfinished == 0;
    pthread_mutex_unlock(&call->lock);
    return done;
}
