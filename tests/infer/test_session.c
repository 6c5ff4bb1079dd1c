// infer/session on a golden model: logits do not depend on chunking, on when tokens were appended, on threads or
// instruction sets; expanded sessions equal the training forward bit for bit; evaluation, scoring, truncation, MTP
// rows, errors, no allocation while decoding.
#include "support/test.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "infer/session.h"
#include "support/model_fixture.h"

#define TOKENS 40

static struct session *open_session(struct fixture *fixture, enum session_form form, int64_t chunk, int64_t capacity,
                                    enum cache_kind cache) {
    struct session *session;
    struct error error = {0};
    struct session_options options = {.capacity = capacity, .chunk = chunk, .form = form, .cache = cache};
    assert_int_equal(session_create(&session, &fixture->model, &fixture->op, &options, &error), 0);
    return session;
}

static void make_ids(int32_t *ids, const struct fixture *fixture) {
    for (int i = 0; i < TOKENS; i++) {
        ids[i] = (int32_t)((i * 7 + 3) % fixture->model.config.vocab_size);
    }
}

struct rows {
    float *values;
    int64_t width, count;
};

static int keep_row(void *argument, int64_t row, const float *logits) {
    struct rows *rows = argument;
    assert_int_equal(row, rows->count);
    memcpy(rows->values + row * rows->width, logits, (size_t)rows->width * sizeof *logits);
    rows->count++;
    return 0;
}

static float *evaluate_over(enum cache_kind cache, struct fixture *fixture, enum session_form form, int64_t chunk,
                            int64_t depth, int64_t *count) {
    int32_t ids[TOKENS];
    make_ids(ids, fixture);
    struct error error = {0};
    int64_t width = fixture->model.config.vocab_size;
    struct rows rows = {.values = memory_allocate((size_t)(TOKENS * width), sizeof(float), "rows", NULL),
                        .width = width};
    struct session *session = open_session(fixture, form, chunk, TOKENS, cache);
    assert_int_equal(session_evaluate(session, ids, TOKENS, depth, keep_row, &rows, &error), 0);
    session_destroy(session);
    *count = rows.count;
    return rows.values;
}

static float *evaluate(struct fixture *fixture, enum session_form form, int64_t chunk, int64_t depth, int64_t *count) {
    return evaluate_over(CACHE_PLAIN, fixture, form, chunk, depth, count);
}

static const struct fixture_options bf16 = {
    .compute = FORMAT_BF16, .weights = FORMAT_BF16, .threads = 2, .isa = ISA_BEST};

static void test_chunks(void **state) {
    (void)state;
    struct fixture fixture;
    fixture_open(&fixture, "v3_mtp2", &bf16);
    for (int form = SESSION_AUTO; form <= SESSION_ABSORBED; form++) {
        for (int64_t depth = 0; depth <= 2; depth++) {
            int64_t count, again;
            float *whole = evaluate(&fixture, (enum session_form)form, TOKENS, depth, &count);
            assert_int_equal(count, TOKENS - depth);
            const int64_t chunks[] = {1, 3, 16, 39};
            for (size_t i = 0; i < 4; i++) {
                float *parts = evaluate(&fixture, (enum session_form)form, chunks[i], depth, &again);
                assert_int_equal(again, count);
                assert_memory_equal(whole, parts, (size_t)(count * fixture.model.config.vocab_size) * sizeof(float));
                memory_free(parts);
            }
            memory_free(whole);
        }
    }
    fixture_close(&fixture);
}

// Appending one by one, rewinding and appending again gives the logits of one evaluation.
static void test_append_and_truncate(void **state) {
    (void)state;
    struct fixture fixture;
    fixture_open(&fixture, "v3_groups", &bf16);
    int64_t width = fixture.model.config.vocab_size, count;
    size_t bytes = (size_t)width * sizeof(float);
    struct error error = {0};
    int32_t ids[TOKENS];
    make_ids(ids, &fixture);
    for (int form = SESSION_EXPANDED; form <= SESSION_ABSORBED; form++) {
        float *whole = evaluate(&fixture, (enum session_form)form, TOKENS, 0, &count);
        struct session *session = open_session(&fixture, (enum session_form)form, 8, TOKENS, CACHE_PLAIN);
        assert_int_equal(session_append(session, ids, 20, SESSION_PROMPT, &error), 0);
        assert_memory_equal(session->logits, whole + 19 * width, bytes);
        memory_guard(true);
        for (int i = 20; i < TOKENS; i++) {
            assert_int_equal(session_append(session, ids + i, 1, SESSION_SAMPLED, &error), 0);
            assert_memory_equal(session->logits, whole + i * width, bytes);
        }
        memory_guard(false);
        assert_int_equal(session_truncate(session, 5, &error), 0);
        assert_int_equal(session_append(session, ids + 5, 2, SESSION_PROMPT, &error), 0);
        assert_memory_equal(session->logits, whole + 6 * width, bytes);
        session_destroy(session);
        memory_free(whole);
    }
    fixture_close(&fixture);
}

// An expanded session is the training forward, bit for bit; absorbed ones agree to rounding.
static void test_forms(void **state) {
    (void)state;
    struct fixture fixture;
    fixture_open(&fixture, "v3_groups", &bf16);
    int32_t ids[TOKENS];
    make_ids(ids, &fixture);
    int64_t width = fixture.model.config.vocab_size, count;
    int32_t positions[TOKENS];
    for (int i = 0; i < TOKENS; i++) {
        positions[i] = i;
    }
    struct attention_span span = {.count = TOKENS};
    struct token_batch batch = {.tokens = TOKENS,
                                .ids = ids,
                                .positions = positions,
                                .spans = &span,
                                .span_count = 1,
                                .form = ATTENTION_EXPANDED};
    float *hidden_values = arena_allocate(&fixture.arena, (size_t)(TOKENS * fixture.model.config.hidden_size),
                                          sizeof(float));
    float *logit_values = arena_allocate(&fixture.arena, (size_t)(TOKENS * width), sizeof(float));
    struct tensor hidden = tensor_2d(FORMAT_F32, hidden_values, TOKENS, fixture.model.config.hidden_size);
    struct tensor logits = tensor_2d(FORMAT_F32, logit_values, TOKENS, width);
    model_infer(&fixture.op, &hidden, &fixture.model, &batch, NULL);
    model_logits(&fixture.op, &logits, &fixture.model, &hidden);
    float *expanded = evaluate(&fixture, SESSION_EXPANDED, 16, 0, &count);
    float *automatic = evaluate(&fixture, SESSION_AUTO, 16, 0, &count);
    float *absorbed = evaluate(&fixture, SESSION_ABSORBED, 16, 0, &count);
    assert_memory_equal(expanded, logit_values, (size_t)(TOKENS * width) * sizeof(float));
    assert_memory_equal(automatic, logit_values, (size_t)(TOKENS * width) * sizeof(float));
    double difference = 0, size = 0;
    for (int64_t i = 0; i < TOKENS * width; i++) {
        difference += pow((double)(absorbed[i] - expanded[i]), 2);
        size += pow((double)expanded[i], 2);
    }
    assert_true(difference > 0);                   // really another computation
    assert_true(sqrt(difference / size) < 0.02);   // a few BF16 roundings (2^-9 each) per layer
    memory_free(expanded);
    memory_free(automatic);
    memory_free(absorbed);
    fixture_close(&fixture);
}

static void test_threads_and_isa(void **state) {
    (void)state;
    float *first = NULL;
    int64_t count = 0;
    const struct {
        int threads;
        enum isa isa;
    } runs[] = {{1, ISA_BEST}, {2, ISA_BEST}, {3, ISA_BEST}, {7, ISA_BEST}, {2, ISA_SCALAR}, {2, ISA_AVX2}};
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
        struct fixture fixture;
        struct fixture_options options = bf16;
        options.threads = runs[i].threads;
        options.isa = runs[i].isa;
        fixture_open(&fixture, "v3_groups", &options);
        float *logits = evaluate(&fixture, SESSION_ABSORBED, 16, 0, &count);
        if (first == NULL) {
            first = logits;
        } else {
            assert_memory_equal(first, logits, (size_t)(count * fixture.model.config.vocab_size) * sizeof(float));
            memory_free(logits);
        }
        fixture_close(&fixture);
    }
    memory_free(first);
}

static double distance(const float *a, const float *b, int64_t count) {
    double difference = 0, size = 0;
    for (int64_t i = 0; i < count; i++) {
        difference += pow((double)(a[i] - b[i]), 2);
        size += pow((double)b[i], 2);
    }
    return sqrt(difference / size);
}

// An FP8 cache: every chunking and way of appending reads back what was quantised, MTP modules too; other bits than a
// plain cache.
static void test_fp8_cache(void **state) {
    (void)state;
    static const enum session_form forms[] = {SESSION_AUTO, SESSION_ABSORBED};
    struct fixture fixture;
    fixture_open(&fixture, "v3_mtp2", &bf16);
    int32_t ids[TOKENS];
    make_ids(ids, &fixture);
    struct error error = {0};
    int64_t width = fixture.model.config.vocab_size, count, again;
    for (int f = 0; f < 2; f++) {
        for (int64_t depth = 0; depth <= 2; depth++) {
            float *plain = evaluate(&fixture, forms[f], TOKENS, depth, &count);
            float *whole = evaluate_over(CACHE_FP8, &fixture, forms[f], TOKENS, depth, &count);
            float *parts = evaluate_over(CACHE_FP8, &fixture, forms[f], 7, depth, &again);
            double apart = distance(whole, plain, count * width);
            assert_memory_equal(whole, parts, (size_t)(count * width) * sizeof(float));
            print_message("    form %d, module %d: logits %.3f from a plain cache's\n", (int)forms[f], (int)depth,
                          apart);
            assert_true(apart > 0);   // really another cache; how far attention is off: tests/op/test_latent.c
            memory_free(plain);
            memory_free(parts);
            if (depth == 0 && forms[f] == SESSION_ABSORBED) {
                struct session *session = open_session(&fixture, forms[f], 8, TOKENS, CACHE_FP8);
                assert_int_equal(session_append(session, ids, 20, SESSION_PROMPT, &error), 0);
                memory_guard(true);
                for (int i = 20; i < TOKENS; i++) {
                    assert_int_equal(session_append(session, ids + i, 1, SESSION_SAMPLED, &error), 0);
                    assert_memory_equal(session->logits, whole + i * width, (size_t)width * sizeof(float));
                }
                memory_guard(false);
                session_destroy(session);
            }
            memory_free(whole);
        }
    }
    struct session *session;
    struct session_options options = {.capacity = 8, .chunk = 4, .form = SESSION_EXPANDED, .cache = CACHE_FP8};
    test_assert_error(session_create(&session, &fixture.model, &fixture.op, &options, &error), &error, ERROR_ARGUMENT,
                      "attention cache fp8");
    fixture_close(&fixture);
}

static void test_score(void **state) {
    (void)state;
    struct fixture fixture;
    fixture_open(&fixture, "v3_groups", &bf16);
    int32_t ids[TOKENS];
    make_ids(ids, &fixture);
    int64_t width = fixture.model.config.vocab_size, count;
    float *logits = evaluate(&fixture, SESSION_EXPANDED, 16, 0, &count), scores[TOKENS];
    struct session *session = open_session(&fixture, SESSION_EXPANDED, 7, TOKENS, CACHE_PLAIN);
    struct error error = {0};
    assert_int_equal(session_score(session, scores, ids, TOKENS, &error), 0);
    for (int i = 0; i < TOKENS - 1; i++) {
        double sum = 0;
        for (int64_t v = 0; v < width; v++) {
            sum += exp((double)logits[i * width + v]);
        }
        assert_true(fabs((double)scores[i] - ((double)logits[i * width + ids[i + 1]] - log(sum))) < 1e-5);
    }
    session_destroy(session);
    memory_free(logits);
    fixture_close(&fixture);
}

static void test_errors(void **state) {
    (void)state;
    struct fixture fixture;
    fixture_open(&fixture, "v3_groups", &bf16);
    struct session *session;
    struct error error = {0};
    struct session_options options = {.capacity = FIXTURE_POSITIONS + 1, .chunk = 4};
    int code = session_create(&session, &fixture.model, &fixture.op, &options, &error);
    test_assert_error(code, &error, ERROR_ARGUMENT, "session context");
    session = open_session(&fixture, SESSION_AUTO, 4, 8, CACHE_PLAIN);
    int32_t ids[16] = {0};
    error_clear(&error);
    test_assert_error(session_append(session, ids, 9, SESSION_PROMPT, &error), &error, ERROR_LIMIT, "context full");
    ids[2] = (int32_t)fixture.model.config.vocab_size;
    error_clear(&error);
    test_assert_error(session_append(session, ids, 4, SESSION_PROMPT, &error), &error, ERROR_ARGUMENT,
                      "token 2 of the input");
    ids[2] = -1;
    error_clear(&error);
    test_assert_error(session_append(session, ids, 4, SESSION_PROMPT, &error), &error, ERROR_ARGUMENT, "found -1");
    assert_int_equal(session->length, 0);
    error_clear(&error);
    test_assert_error(session_truncate(session, 1, &error), &error, ERROR_ARGUMENT, "truncate");
    error_clear(&error);
    test_assert_error(session_evaluate(session, ids, 1, 9, NULL, NULL, &error), &error, ERROR_ARGUMENT, "MTP");
    struct minke_sampling greedy = {.top_p = 1};
    assert_int_equal(session_sample(session, &greedy), -1);
    session_destroy(session);
    fixture_close(&fixture);
}

// What holds on every instruction set holds within AMX, whose order of sums is another.
static void test_amx(void **state) {
    if (fixture_amx(true)) {
        test_chunks(state);
        test_append_and_truncate(state);
        test_forms(state);
        test_score(state);
        test_fp8_cache(state);
        fixture_amx(false);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_amx),
        cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_append_and_truncate),
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_threads_and_isa),
        cmocka_unit_test(test_score),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_fp8_cache),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
