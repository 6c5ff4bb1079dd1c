// minke_session_* and sampling: the public face of infer/session.h.
#include "api/api.h"
#include "base/memory.h"

#define DEFAULT_CONTEXT 4096
#define DEFAULT_CHUNK 256

void api_cover_positions(struct minke_model *model, int64_t positions) {
    struct tensor *table = &model->model.rope_table;
    if (positions > table->shape[0]) {
        int64_t pairs = model->model.config.qk_rope_head_dim / 2;
        float *values = arena_allocate(&model->arena, (size_t)(positions * pairs * 2), sizeof *values);
        model_rope_table(values, positions, &model->model.config);
        *table = tensor_3d(FORMAT_F32, values, positions, pairs, 2);
    }
}

int minke_session_create(struct minke_session **out, struct minke_model *model,
                         const struct minke_session_options *options, struct minke_error *error) {
    static const struct minke_session_options defaults = {0};
    struct error inner = {0};
    *out = NULL;
    options = options != NULL ? options : &defaults;
    int64_t limit = minke_model_context(model);
    int64_t context = options->context != 0 ? options->context : (limit < DEFAULT_CONTEXT ? limit : DEFAULT_CONTEXT);
    if (context < 1 || context > limit) {
        error_set(&inner, ERROR_ARGUMENT,
                  "context: this model takes 1..%lld tokens (max_position_embeddings), found %lld", (long long)limit,
                  (long long)context);
        return api_error(error, &inner);
    }
    struct minke_session *session = memory_allocate(1, sizeof *session, "session", &inner);
    if (session == NULL) {
        return api_error(error, &inner);
    }
    api_cover_positions(model, context);
    struct session_options wanted = {
        .capacity = context,
        .chunk = options->chunk != 0 ? options->chunk : DEFAULT_CHUNK,
        .form = (enum session_form)options->attention,
        .cache = options->cache == MINKE_CACHE_FP8 ? CACHE_FP8 : CACHE_PLAIN,
    };
    session->model = model;
    if (session_create(&session->session, &model->model, &model->op, &wanted, &inner) != 0) {
        memory_free(session);
        return api_error(error, &inner);
    }
    *out = session;
    return 0;
}

void minke_session_close(struct minke_session *session) {
    if (session != NULL) {
        session_destroy(session->session);
        memory_free(session);
    }
}

int64_t minke_session_length(const struct minke_session *session) {
    return session->session->length;
}

int minke_session_truncate(struct minke_session *session, int64_t length, struct minke_error *error) {
    struct error inner = {0};
    session_truncate(session->session, length, &inner);
    return api_error(error, &inner);
}

int minke_session_append(struct minke_session *session, const int32_t *ids, int64_t count, enum minke_token_kind kind,
                         struct minke_error *error) {
    struct error inner = {0};
    session_append(session->session, ids, count, (enum session_kind)kind, &inner);
    return api_error(error, &inner);
}

const float *minke_session_logits(const struct minke_session *session) {
    return session->session->has_logits ? session->session->logits : NULL;
}

int minke_session_evaluate(struct minke_session *session, const int32_t *ids, int64_t count, int64_t mtp_depth,
                           minke_logits_callback callback, void *argument, struct minke_error *error) {
    struct error inner = {0};
    int code = session_evaluate(session->session, ids, count, mtp_depth, callback, argument, &inner);
    return inner.code != 0 ? api_error(error, &inner) : code;
}

int minke_session_score(struct minke_session *session, float *log_probability, const int32_t *ids, int64_t count,
                        struct minke_error *error) {
    struct error inner = {0};
    session_score(session->session, log_probability, ids, count, &inner);
    return api_error(error, &inner);
}

int32_t minke_session_sample(struct minke_session *session, const struct minke_sampling *sampling) {
    return session_sample(session->session, sampling);
}
