// See session.h.
#include "infer/session.h"

#include <string.h>

#include "base/memory.h"

#define LOGIT_ROWS 32   // rows of logits computed at a time while evaluating

static enum attention_form stored_form(enum session_form form) {
    return form == SESSION_EXPANDED ? ATTENTION_EXPANDED : ATTENTION_ABSORBED;
}

int session_create(struct session **out, struct model *model, struct op_context *op,
                   const struct session_options *options, struct error *error) {
    *out = NULL;
    int64_t positions = model->rope_table.shape[0];
    if (options->capacity < 1 || options->capacity > positions) {
        return error_set(error, ERROR_ARGUMENT, "session context: expected 1..%lld tokens, found %lld",
                         (long long)positions, (long long)options->capacity);
    }
    if (options->chunk < 1) {
        return error_set(error, ERROR_ARGUMENT, "session chunk: expected at least 1 token, found %lld",
                         (long long)options->chunk);
    }
    struct session *session = memory_allocate(1, sizeof *session, "session", error);
    if (session == NULL) {
        return ERROR_MEMORY;
    }
    session->model = model;
    session->op = op;
    session->options = *options;
    const struct model_config *config = &model->config;
    size_t chunk = (size_t)options->chunk, width = (size_t)config->hidden_size;
    session->ids = memory_allocate((size_t)options->capacity, sizeof(int32_t), "session ids", error);
    session->positions = memory_allocate(chunk, sizeof(int32_t), "session positions", error);
    session->cache_rows = memory_allocate(chunk, sizeof(int32_t), "session cache rows", error);
    session->hidden = memory_allocate(chunk * width, sizeof(float), "session hidden states", error);
    session->next_hidden = memory_allocate(chunk * width, sizeof(float), "session hidden states", error);
    session->logits = memory_allocate((size_t)config->vocab_size * LOGIT_ROWS, sizeof(float), "session logits", error);
    struct cache_layout layout;
    int code = 0;
    if (session->ids == NULL || session->positions == NULL || session->cache_rows == NULL || session->hidden == NULL ||
        session->next_hidden == NULL || session->logits == NULL) {
        code = ERROR_MEMORY;
    } else {
        code = sampler_create(&session->sampler, config->vocab_size, error);
    }
    if (code == 0 && (code = cache_layout_make(&layout, config, model->compute, stored_form(options->form),
                                               options->cache, error)) == 0) {
        code = kv_cache_create(&session->cache, config, &layout, options->capacity, error);
    }
    if (code != 0) {
        session_destroy(session);
        return code;
    }
    *out = session;
    return 0;
}

void session_destroy(struct session *session) {
    if (session == NULL) {
        return;
    }
    kv_cache_destroy(&session->cache);
    sampler_destroy(&session->sampler);
    memory_free(session->ids);
    memory_free(session->positions);
    memory_free(session->cache_rows);
    memory_free(session->hidden);
    memory_free(session->next_hidden);
    memory_free(session->logits);
    memory_free(session);
}

static int check_ids(const struct session *session, const int32_t *ids, int64_t count, struct error *error) {
    int64_t vocab_size = session->model->config.vocab_size;
    for (int64_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= vocab_size) {
            return error_set(error, ERROR_ARGUMENT, "token %lld of the input: expected an id in 0..%lld, found %d",
                             (long long)i, (long long)vocab_size - 1, ids[i]);
        }
    }
    if (count > session->options.capacity - session->length) {
        return error_set(error, ERROR_LIMIT,
                         "context full: %lld tokens in the session and %lld more do not fit into %lld",
                         (long long)session->length, (long long)count, (long long)session->options.capacity);
    }
    return 0;
}

// The batch of `count` tokens from position `begin`; span is the caller's storage.
static struct token_batch make_batch(struct session *session, struct attention_span *span, const int32_t *ids,
                                     int64_t begin, int64_t count, enum attention_form form) {
    for (int64_t i = 0; i < count; i++) {
        session->positions[i] = (int32_t)(begin + i);
        session->cache_rows[i] = (int32_t)(begin + i);
    }
    *span = (struct attention_span){.query_row = 0, .count = count, .position = begin, .key_row = 0};
    return (struct token_batch){
        .tokens = count,
        .ids = ids,
        .positions = session->positions,
        .spans = span,
        .span_count = 1,
        .cache_row = session->cache_rows,
        .form = form,
    };
}

static enum attention_form form_of(const struct session *session, enum session_kind kind) {
    if (session->options.form == SESSION_AUTO) {
        return kind == SESSION_PROMPT ? ATTENTION_EXPANDED : ATTENTION_ABSORBED;
    }
    return stored_form(session->options.form);
}

static struct tensor hidden_rows(float *hidden, const struct session *session, int64_t rows) {
    return tensor_2d(FORMAT_F32, hidden, rows, session->model->config.hidden_size);
}

// Runs the main model on the next `count` <= chunk tokens; session->hidden holds their final hidden states. On failure
// the session is as long as before.
static int run_chunk(struct session *session, const int32_t *ids, int64_t count, enum session_kind kind,
                     struct error *error) {
    struct attention_span span;
    struct token_batch batch = make_batch(session, &span, ids, session->length, count, form_of(session, kind));
    struct tensor hidden = hidden_rows(session->hidden, session, count);
    model_infer(session->op, &hidden, session->model, &batch, session->cache.layers);
    int code = op_context_error(session->op, error);
    if (code == 0) {
        memcpy(session->ids + session->length, ids, (size_t)count * sizeof *ids);
        session->length += count;
        session->prompt_length = kind == SESSION_PROMPT ? session->length : session->prompt_length;
    }
    return code;
}

// Logits of hidden rows row..row+rows-1 (rows <= LOGIT_ROWS) into session->logits.
static struct tensor some_logits(struct session *session, int64_t row, int64_t rows, int64_t depth) {
    int64_t width = session->model->config.hidden_size;
    struct tensor hidden = tensor_2d(FORMAT_F32, session->hidden + row * width, rows, width);
    struct tensor logits = tensor_2d(FORMAT_F32, session->logits, rows, session->model->config.vocab_size);
    if (depth == 0) {
        model_logits(session->op, &logits, session->model, &hidden);
    } else {
        model_mtp_logits(session->op, &logits, session->model, depth - 1, &hidden);
    }
    return logits;
}

static int64_t chunk_rows(const struct session *session, int64_t left) {
    return left < session->options.chunk ? left : session->options.chunk;
}

int session_append(struct session *session, const int32_t *ids, int64_t count, enum session_kind kind,
                   struct error *error) {
    int code = check_ids(session, ids, count, error);
    if (code != 0 || count == 0) {
        return code;
    }
    int64_t last = 0;
    for (int64_t done = 0; done < count; done += last) {
        last = chunk_rows(session, count - done);
        code = run_chunk(session, ids + done, last, kind, error);
        if (code != 0) {
            session->has_logits = false;
            return code;
        }
    }
    some_logits(session, last - 1, 1, 0);
    session->has_logits = true;
    return 0;
}

int session_truncate(struct session *session, int64_t length, struct error *error) {
    if (length < 0 || length > session->length) {
        return error_set(error, ERROR_ARGUMENT, "session truncate: expected a length in 0..%lld, found %lld",
                         (long long)session->length, (long long)length);
    }
    session->has_logits = session->has_logits && length == session->length;
    session->length = length;
    session->prompt_length = session->prompt_length < length ? session->prompt_length : length;
    return 0;
}

int32_t session_sample(struct session *session, const struct minke_sampling *sampling) {
    if (!session->has_logits) {
        return -1;
    }
    struct sampler_text text = {session->ids, session->prompt_length, session->length};
    return sampler_choose(&session->sampler, session->op, session->logits, sampling, &text, NULL);
}

// Runs MTP modules 1..depth on the rows of the chunk that begins at `begin`; afterwards session->hidden holds module
// depth's output. ids are the whole input; returns the number of rows that module `depth` has in this chunk.
static int64_t run_mtp(struct session *session, const int32_t *ids, int64_t count, int64_t begin, int64_t rows,
                       int64_t depth) {
    for (int64_t module = 1; module <= depth; module++) {
        int64_t available = count - module - begin;   // row i needs token i + module
        rows = rows < available ? rows : available;
        if (rows <= 0) {
            return 0;
        }
        struct attention_span span;
        struct token_batch batch = make_batch(session, &span, ids + begin + module, begin, rows,
                                              form_of(session, SESSION_PROMPT));
        struct tensor in = hidden_rows(session->hidden, session, rows),
                      out = hidden_rows(session->next_hidden, session, rows);
        int64_t layer = session->model->config.num_hidden_layers + module - 1;
        model_mtp_infer(session->op, &out, session->model, module - 1, &in, &batch, &session->cache.layers[layer]);
        float *swap = session->hidden;
        session->hidden = session->next_hidden;
        session->next_hidden = swap;
    }
    return rows;
}

static int report_logits(struct session *session, int64_t begin, int64_t rows, int64_t depth,
                         session_logits_callback callback, void *argument) {
    for (int64_t row = 0; row < rows; row += LOGIT_ROWS) {
        int64_t some = rows - row < LOGIT_ROWS ? rows - row : LOGIT_ROWS;
        some_logits(session, row, some, depth);
        for (int64_t i = 0; i < some; i++) {
            int code = callback(argument, begin + row + i, session->logits + i * session->model->config.vocab_size);
            if (code != 0) {
                return code;
            }
        }
    }
    return 0;
}

// What session_evaluate and session_score ask of their input.
static int check_evaluation(struct session *session, const int32_t *ids, int64_t count, struct error *error) {
    if (session->length != 0) {
        return error_set(error, ERROR_STATE, "session: expected an empty one, found %lld tokens in it",
                         (long long)session->length);
    }
    session->has_logits = false;
    return check_ids(session, ids, count, error);
}

int session_evaluate(struct session *session, const int32_t *ids, int64_t count, int64_t mtp_depth,
                     session_logits_callback callback, void *argument, struct error *error) {
    int64_t modules = session->model->config.num_nextn_predict_layers;
    if (mtp_depth < 0 || mtp_depth > modules) {
        return error_set(error, ERROR_ARGUMENT,
                         "MTP depth: this model has %lld MTP modules, found a request for module %lld",
                         (long long)modules, (long long)mtp_depth);
    }
    int code = check_evaluation(session, ids, count, error);
    for (int64_t begin = 0; begin < count && code == 0;) {
        int64_t rows = chunk_rows(session, count - begin);
        if ((code = run_chunk(session, ids + begin, rows, SESSION_PROMPT, error)) != 0) {
            break;
        }
        int64_t reported = run_mtp(session, ids, count, begin, rows, mtp_depth);
        if ((code = op_context_error(session->op, error)) == 0) {
            code = report_logits(session, begin, reported, mtp_depth, callback, argument);
        }
        begin += rows;
    }
    return code;
}

int session_score(struct session *session, float *log_probability, const int32_t *ids, int64_t count,
                  struct error *error) {
    int code = check_evaluation(session, ids, count, error);
    for (int64_t begin = 0; begin < count && code == 0;) {
        int64_t rows = chunk_rows(session, count - begin);
        if ((code = run_chunk(session, ids + begin, rows, SESSION_PROMPT, error)) != 0) {
            break;
        }
        int64_t scored = begin + rows < count ? rows : rows - 1;   // the last token predicts nothing that is given
        for (int64_t row = 0; row < scored; row += LOGIT_ROWS) {
            int64_t some = scored - row < LOGIT_ROWS ? scored - row : LOGIT_ROWS;
            struct tensor logits = some_logits(session, row, some, 0);
            float *loss = log_probability + begin + row;
            op_cross_entropy(session->op, loss, NULL, &logits, ids + begin + row + 1, 1.0f);
            for (int64_t i = 0; i < some; i++) {
                loss[i] = -loss[i];
            }
        }
        begin += rows;
    }
    return code;
}
