// The HTTP side of an answer: takes the records that the engine has delivered, turns tokens into text, holds back what
// may be the beginning of a stop string, and hands text and log-probabilities to the format of the API.
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "serve/call.h"
#include "serve/server_private.h"

static void fail_memory(struct choice *choice) {
    failure_set(&choice->call->failure, 500, NULL, NULL, "out of memory");
}

// ---- Log-probabilities: a token is reported when its text is --------------------------------------------------------

static void add_pending(struct choice *choice, const struct token_record *record, size_t begin, size_t end) {
    if (choice->pending_count == choice->pending_capacity) {
        int64_t capacity = choice->pending_capacity * 2 + 8;
        struct pending_entry *grown = memory_resize(choice->pending, (size_t)capacity, sizeof *grown, "entries", NULL);
        if (grown == NULL) {
            fail_memory(choice);
            return;
        }
        choice->pending = grown;
        choice->pending_capacity = capacity;
    }
    struct pending_entry *entry = &choice->pending[choice->pending_count++];
    entry->record = *record;
    entry->begin = begin;
    entry->end = end;
    for (int i = 0; i < record->top_count; i++) {
        entry->tops[i] = choice->taken.tops[record->top_first + i];
    }
}

// Reports the tokens that lie in front of `certain` as a whole; at the end also those that begin there.
static void release_entries(struct choice *choice, bool end) {
    int64_t count = 0;
    while (count < choice->pending_count) {
        const struct pending_entry *entry = &choice->pending[count];
        bool inside = entry->end <= choice->certain;
        // Of a stopped answer the tokens are dropped that begin with the stop string or behind it.
        if (!inside && !(end && entry->begin < choice->certain)) {
            break;
        }
        choice->call->format->entry(choice, entry);
        choice->entry_count++;
        count++;
    }
    if (count > 0) {
        memmove(choice->pending, choice->pending + count,
                (size_t)(choice->pending_count - count) * sizeof *choice->pending);
        choice->pending_count -= count;
    }
}

// ---- Text -----------------------------------------------------------------------------------------------------------

static void push_text(struct choice *choice, const char *data, size_t size) {
    text_clear(&choice->released);
    choice->stopped = stop_scanner_push(&choice->released, &choice->scanner, &choice->call->generation.stop, data,
                                        size);
    if (choice->released.failed) {
        fail_memory(choice);
    }
    choice->certain += choice->released.size;
}

static void keep_id(struct choice *choice, int32_t id) {
    if (choice->id_count == choice->id_capacity) {
        int64_t capacity = choice->id_capacity * 2 + 64;
        int32_t *grown = memory_resize(choice->ids, (size_t)capacity, sizeof *grown, "answer", NULL);
        if (grown == NULL) {
            return;   // this answer will not be reused
        }
        choice->ids = grown;
        choice->id_capacity = capacity;
    }
    choice->ids[choice->id_count++] = id;
}

// Entries first: a chunk of a stream carries them together with the text that they belong to.
static void flush_text(struct choice *choice, bool end) {
    if (choice->call->generation.log_probabilities) {
        release_entries(choice, end);
    }
    if (choice->released.size > 0) {
        choice->call->format->text(choice, choice->released.data, choice->released.size);
        text_clear(&choice->released);
    }
}

static void push_prompt(struct choice *choice, const struct token_record *record) {
    if (choice->call->generation.log_probabilities) {
        add_pending(choice, record, 0, 0);
        release_entries(choice, false);
    }
}

static void push_token(struct choice *choice, const struct token_record *record) {
    if (choice->stopped) {
        return;
    }
    if (record->end) {
        if (choice->call->generation.log_probabilities && choice->call->format->end_tokens) {
            add_pending(choice, record, choice->seen, choice->seen);
        }
        return;
    }
    choice->tokens++;
    char *text = NULL;
    size_t size = 0;
    struct minke_error error = {0};
    if (minke_decode_next(&text, &size, &choice->decoder, choice->call->server->tokenizer, record->id, &error) != 0) {
        fail_memory(choice);
        return;
    }
    if (choice->call->server->options.reuse_ids) {
        keep_id(choice, record->id);
    }
    size_t begin = choice->seen;
    choice->seen += size;
    if (choice->call->generation.log_probabilities) {
        add_pending(choice, record, begin, choice->seen);
    }
    push_text(choice, text, size);
    minke_free(text);
    flush_text(choice, choice->stopped);
}

static void end_text(struct choice *choice) {
    if (!choice->stopped) {
        char *text = NULL;
        size_t size = 0;
        struct minke_error error = {0};
        if (minke_decode_next(&text, &size, &choice->decoder, choice->call->server->tokenizer, -1, &error) != 0) {
            fail_memory(choice);
            return;
        }
        push_text(choice, text, size);
        minke_free(text);
        if (!choice->stopped) {
            size_t before = choice->released.size;
            stop_scanner_finish(&choice->released, &choice->scanner);
            choice->certain += choice->released.size - before;
        }
    }
    flush_text(choice, true);
}

// ---- A call ---------------------------------------------------------------------------------------------------------

// Swaps the records that have come for the empty batch that was processed last time.
static bool take_records(struct choice *choice) {
    struct call *call = choice->call;
    struct record_batch empty = choice->taken;
    empty.count = empty.top_count = 0;
    pthread_mutex_lock(&call->lock);
    choice->taken = choice->incoming;
    choice->incoming = empty;
    bool finished = choice->finished;
    if (finished && choice->failure.status != 0 && call->failure.status == 0) {
        call->failure = choice->failure;
    }
    pthread_mutex_unlock(&call->lock);
    return finished;
}

static void collect_choice(struct choice *choice) {
    if (choice->ended) {
        return;
    }
    bool finished = take_records(choice);
    for (int64_t i = 0; i < choice->taken.count; i++) {
        const struct token_record *record = &choice->taken.records[i];
        if (record->prompt) {
            push_prompt(choice, record);
        } else {
            push_token(choice, record);
        }
    }
    if (finished && choice->call->failure.status == 0) {
        end_text(choice);
        choice->call->format->end(choice);
        choice->ended = true;
    }
}

static void finish_stream(struct call *call) {
    if (call->failure.status != 0) {
        text_string(&call->output, "data: ");
        failure_write(&call->output, &call->failure);
        text_string(&call->output, "\n\n");
    } else if (call->generation.include_usage) {
        call->format->usage(call);
    }
    text_string(&call->output, "data: [DONE]\n\n");
}

void call_collect(struct call *call) {
    if (call->finished) {
        return;
    }
    pthread_mutex_lock(&call->lock);
    bool keep_alive = call->keep_alive_due;
    call->news = call->keep_alive_due = false;
    bool done = call->unfinished == 0;
    pthread_mutex_unlock(&call->lock);
    size_t before = call->output.size;
    for (int64_t i = 0; i < call->choice_count; i++) {
        collect_choice(&call->choices[i]);
    }
    bool stream = call->generation.stream;
    if (done || (call->failure.status != 0 && stream)) {
        if (stream) {
            finish_stream(call);
        } else if (call->failure.status != 0) {
            failure_write(&call->output, &call->failure);
        } else {
            call->format->whole(call);
        }
        call->finished = true;
    } else if (keep_alive && call->output.size == before) {
        text_string(&call->output, stream ? ": keep-alive\n\n" : "\n");
    }
    if (call->output.failed) {
        fail_memory(&call->choices[0]);
        call->finished = true;
    }
}
