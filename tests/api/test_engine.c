// The public engine: defaults, answers equal to a session's, options, errors, the cache directory, statistics.
#include "support/test.h"

#include <string.h>

#include "minke.h"

#define MODEL "tests/golden/model/v3_mtp2"
#define ANSWER 30

static struct minke_model *open_model(int threads) {
    struct minke_model *model;
    struct minke_error error = {0};
    struct minke_model_options options = {.threads = threads};
    assert_int_equal(minke_model_open(&model, MODEL, &options, &error), 0);
    return model;
}

struct answer {
    int32_t ids[ANSWER];
    float log_probability[ANSWER];
    int64_t count, cached;
    enum minke_finish finish;
    int finished;
};

static int on_event(void *argument, const struct minke_event *event) {
    struct answer *answer = argument;
    if (event->kind == MINKE_EVENT_TOKEN) {
        answer->ids[answer->count] = event->id;
        answer->log_probability[answer->count++] = event->log_probability;
    } else {
        assert_int_equal(event->kind, MINKE_EVENT_FINISHED);
        answer->finish = event->finish;
        answer->cached = event->cached_tokens;
        answer->finished++;
    }
    return 0;
}

static void fill_prompt(int32_t *ids, int64_t count, const struct minke_model *model) {
    for (int64_t i = 0; i < count; i++) {
        ids[i] = (int32_t)((i * 13 + 5) % minke_model_vocab_size(model));
    }
}

static void ask(struct minke_engine *engine, struct answer *answer, const int32_t *ids, int64_t count,
                const struct minke_sampling *sampling) {
    struct minke_error error = {0};
    *answer = (struct answer){0};
    struct minke_request request = {.ids = ids,
                                    .count = count,
                                    .max_tokens = ANSWER,
                                    .sampling = *sampling,
                                    .ignore_end = 1,
                                    .callback = on_event,
                                    .argument = answer};
    int64_t number;
    assert_int_equal(minke_engine_submit(&number, engine, &request, &error), 0);
    int64_t left = 1;
    while (left > 0) {
        left = minke_engine_step(engine, &error);
    }
    assert_int_equal(left, 0);
    assert_int_equal(answer->finished, 1);
}

static struct minke_engine *open_engine(struct minke_model *model, const struct minke_engine_options *options) {
    struct minke_engine *engine;
    struct minke_error error = {0};
    assert_int_equal(minke_engine_create(&engine, model, options, &error), 0);
    return engine;
}

// A session and an engine of one form of attention write the same text.
static void test_equals_session(void **state) {
    (void)state;
    struct minke_model *model = open_model(2);
    struct minke_error error = {0};
    int32_t prompt[70];
    fill_prompt(prompt, 70, model);
    struct minke_sampling sampling = {.temperature = 0.9f, .top_p = 0.9f, .seed = 4, .frequency_penalty = 0.3f};
    for (int attention = MINKE_ATTENTION_AUTO; attention <= MINKE_ATTENTION_ABSORBED; attention++) {
        struct minke_session *session;
        struct minke_session_options options = {.context = 110, .attention = (enum minke_attention)attention};
        assert_int_equal(minke_session_create(&session, model, &options, &error), 0);
        assert_int_equal(minke_session_append(session, prompt, 70, MINKE_PROMPT, &error), 0);
        int32_t expected[ANSWER];
        for (int i = 0; i < ANSWER; i++) {
            expected[i] = minke_session_sample(session, &sampling);
            assert_int_equal(minke_session_append(session, &expected[i], 1, MINKE_SAMPLED, &error), 0);
        }
        minke_session_close(session);
        struct minke_engine_options wanted = {
            .context = 110, .cache_tokens = 500, .attention = (enum minke_attention)attention};
        struct minke_engine *engine = open_engine(model, &wanted);
        struct answer answer;
        ask(engine, &answer, prompt, 70, &sampling);
        assert_int_equal(answer.finish, MINKE_FINISH_LENGTH);
        assert_int_equal(answer.count, ANSWER);
        assert_memory_equal(answer.ids, expected, sizeof expected);
        minke_engine_close(engine);
    }
    minke_model_close(model);
}

static void test_cache_directory(void **state) {
    (void)state;
    char *directory = test_directory();
    struct minke_sampling greedy = {.top_p = 1};
    struct answer answers[2];
    int32_t prompt[70];
    for (int run = 0; run < 2; run++) {   // two lives of a server
        struct minke_model *model = open_model(1 + run);
        fill_prompt(prompt, 70, model);
        struct minke_engine_options options = {.context = 110, .cache_tokens = 500, .cache_directory = directory};
        struct minke_engine *engine = open_engine(model, &options);
        ask(engine, &answers[run], prompt, 70, &greedy);
        minke_engine_close(engine);
        minke_model_close(model);
        assert_int_equal(answers[run].cached, run == 0 ? 0 : 64);
        assert_int_equal(answers[run].count, ANSWER);
    }
    assert_memory_equal(answers[0].ids, answers[1].ids, sizeof answers[0].ids);
    assert_memory_equal(answers[0].log_probability, answers[1].log_probability, sizeof answers[0].log_probability);
    // With AMX sums have another order: nothing of that is used.
    struct minke_model *amx;
    struct minke_model_options wanted = {.threads = 1, .isa = "amx"};
    if (minke_model_open(&amx, MODEL, &wanted, NULL) == 0) {
        struct minke_engine_options options = {.context = 110, .cache_tokens = 500, .cache_directory = directory};
        struct minke_engine *engine = open_engine(amx, &options);
        ask(engine, &answers[0], prompt, 70, &greedy);
        assert_int_equal(answers[0].cached, 0);
        minke_engine_close(engine);
        minke_model_close(amx);
    }
    test_directory_remove(directory);
}

static void test_defaults_and_statistics(void **state) {
    (void)state;
    struct minke_model *model = open_model(2);
    struct minke_engine *engine = open_engine(model, NULL);
    struct minke_sampling greedy = {.top_p = 1};
    struct minke_engine_stats stats;
    struct answer answer;
    int32_t prompt[70];
    fill_prompt(prompt, 70, model);
    ask(engine, &answer, prompt, 70, &greedy);
    ask(engine, &answer, prompt, 70, &greedy);
    minke_engine_statistics(&stats, engine);
    assert_int_equal(stats.requests, 2);
    assert_int_equal(stats.waiting + stats.running, 0);
    assert_int_equal(stats.prompt_tokens, 140);
    assert_int_equal(stats.cached_tokens, 64);
    assert_int_equal(stats.answer_tokens, 2 * ANSWER);
    assert_true(stats.cache_tokens_total >= 32768 && stats.cache_tokens_total >= minke_model_context(model));
    assert_true(stats.steps > 0 && stats.step_seconds > 0);
    assert_true(stats.moe_layers > 0 && stats.experts > 0);
    assert_true(stats.drafted[0] > 0);
    minke_engine_weights_changed(engine);
    ask(engine, &answer, prompt, 70, &greedy);
    assert_int_equal(answer.cached, 0);
    minke_engine_close(engine);
    minke_engine_close(NULL);
    minke_model_close(model);
}

static void test_errors(void **state) {
    (void)state;
    struct minke_model *model = open_model(1);
    struct minke_engine *engine;
    struct minke_error error = {0};
    struct minke_engine_options options = {.context = minke_model_context(model) + 1};
    assert_int_equal(minke_engine_create(&engine, model, &options, &error), -4);
    assert_non_null(strstr(error.text, "max_position_embeddings"));
    assert_null(engine);
    options = (struct minke_engine_options){.attention = (enum minke_attention)9};
    assert_int_equal(minke_engine_create(&engine, model, &options, &error), -4);
    options = (struct minke_engine_options){.context = 64, .cache_directory = "/dev/null/here"};
    assert_int_equal(minke_engine_create(&engine, model, &options, &error), -1);
    assert_non_null(strstr(error.text, "/dev/null"));
    options = (struct minke_engine_options){.context = 64, .chunk = -1};
    assert_int_equal(minke_engine_create(&engine, model, &options, &error), -4);

    options = (struct minke_engine_options){.context = 64};
    engine = open_engine(model, &options);
    struct minke_request request = {.count = 65, .callback = on_event};
    int64_t number;
    assert_int_equal(minke_engine_submit(&number, engine, &request, &error), -5);
    assert_non_null(strstr(error.text, "context of 64"));
    assert_int_equal(minke_engine_step(engine, &error), 0);   // nothing to do
    minke_engine_close(engine);
    minke_model_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_session),
        cmocka_unit_test(test_cache_directory),
        cmocka_unit_test(test_defaults_and_statistics),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
