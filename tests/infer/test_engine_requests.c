// infer/engine: how requests end, share, are cancelled, filtered and refused; the cache on disk; memory; threads.
#include "support/test.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "support/engine_clients.h"

static struct fixture fixture;

static int open_model(void **state) {
    (void)state;
    open_engine_fixture(&fixture, "v3_mtp2", 2);
    return 0;
}

static int close_model(void **state) {
    (void)state;
    fixture_close(&fixture);
    return 0;
}

// One request in an engine of its own.
static void run_one(struct client *client, const struct engine_options *options) {
    struct engine *engine = open_engine(&fixture, options);
    submit_client(engine, client);
    run_engine(engine);
    engine_destroy(engine);
    assert_true(client->finished);
}

static void test_ends(void **state) {
    (void)state;
    struct engine_options options = default_options();
    static struct client client, whole;
    make_client(&whole, &fixture, 30, 1, 40);
    run_one(&whole, &options);
    assert_int_equal(whole.transcript.finish, MINKE_FINISH_LENGTH);
    assert_int_equal(whole.transcript.answer_count, 40);

    int32_t end = whole.transcript.answer[20];
    int64_t first = 0;
    while (whole.transcript.answer[first] != end) {
        first++;
    }
    struct engine_options ending = options;
    ending.end_tokens = &end;
    ending.end_token_count = 1;
    ending.drafts = DRAFTS_ALWAYS;
    make_client(&client, &fixture, 30, 1, 40);
    client.request.ignore_end = 0;
    run_one(&client, &ending);
    assert_int_equal(client.transcript.finish, MINKE_FINISH_STOP);
    assert_int_equal(client.transcript.answer_count, first + 1);   // the end token is told of
    assert_memory_equal(client.transcript.answer, whole.transcript.answer, (size_t)(first + 1) * sizeof(int32_t));

    make_client(&client, &fixture, 30, 1, 40);
    client.stop_after = 7;
    run_one(&client, &options);
    assert_int_equal(client.transcript.finish, MINKE_FINISH_STOP);
    assert_int_equal(client.transcript.answer_count, 7);

    struct engine_options tight = options;
    tight.context = 50;
    tight.drafts = DRAFTS_ALWAYS;
    make_client(&client, &fixture, 30, 1, 40);
    run_one(&client, &tight);
    assert_int_equal(client.transcript.finish, MINKE_FINISH_LENGTH);
    assert_int_equal(client.transcript.answer_count, 20);
    assert_memory_equal(client.transcript.answer, whole.transcript.answer, 20 * sizeof(int32_t));
}

// Scoring alone; a prompt of one token has nothing to compute.
static void test_score_only(void **state) {
    (void)state;
    struct engine_options options = default_options();
    static struct client client;
    for (int64_t length = 1; length <= 70; length += 23) {
        make_client(&client, &fixture, length, 2, 0);
        client.request.prompt_log_probabilities = 1;
        client.request.log_probabilities = TOP;
        run_one(&client, &options);
        assert_int_equal(client.transcript.finish, MINKE_FINISH_LENGTH);
        assert_int_equal(client.transcript.prompt_count, length);
        assert_int_equal(client.transcript.answer_count, 0);
        assert_true(client.transcript.prompt_log_probability[0] == 0);
        for (int64_t i = 1; i < length; i++) {
            assert_true(client.transcript.prompt_log_probability[i] < 0);
            assert_true(client.transcript.prompt_top[i][0].log_probability >=
                        client.transcript.prompt_log_probability[i]);
        }
    }
}

static void test_cancel(void **state) {
    (void)state;
    struct engine_options options = default_options();
    options.batch = 2;
    static struct client clients[4];
    struct engine *engine = open_engine(&fixture, &options);
    for (int c = 0; c < 4; c++) {
        make_client(&clients[c], &fixture, 40, (uint64_t)c, 30);
        submit_client(engine, &clients[c]);
    }
    for (int step = 0; step < 5; step++) {
        assert_int_equal(engine_step(engine, NULL), 4);
    }
    engine_cancel(engine, clients[0].number);   // runs
    engine_cancel(engine, clients[3].number);   // waits
    engine_cancel(engine, 12345);               // is not there
    assert_int_equal(engine_step(engine, NULL), 2);
    assert_int_equal(clients[0].transcript.finish, MINKE_FINISH_CANCELLED);
    assert_true(clients[0].transcript.answer_count > 0);
    assert_int_equal(clients[3].transcript.finish, MINKE_FINISH_CANCELLED);
    engine_destroy(engine);   // cancels the others
    assert_int_equal(clients[1].transcript.finish, MINKE_FINISH_CANCELLED);
    assert_true(clients[2].finished);
}

// n answers to one prompt: it is computed once, by the first; the others wait for it.
static void test_shared_prompt(void **state) {
    (void)state;
    struct engine_options options = default_options();
    options.chunk = 50;
    static struct client clients[5];
    struct engine *engine = open_engine(&fixture, &options);
    for (int c = 0; c < 5; c++) {
        make_client(&clients[c], &fixture, 150, 1, 20);
        clients[c].request.sampling.temperature = 1;
        clients[c].request.sampling.choice = c;
        submit_client(engine, &clients[c]);
    }
    run_engine(engine);
    struct minke_engine_stats stats;
    engine_statistics(&stats, engine);
    assert_int_equal(clients[0].cached, 0);
    for (int c = 1; c < 5; c++) {
        assert_int_equal(clients[c].cached, 128);
        assert_memory_not_equal(clients[c].transcript.answer, clients[0].transcript.answer, 20 * sizeof(int32_t));
    }
    assert_int_equal(stats.cached_tokens, 4 * 128);
    assert_int_equal(stats.prompt_tokens, 5 * 150);
    assert_int_equal(stats.answer_tokens, 5 * 20);
    assert_int_equal(stats.cache_tokens_used, 0);
    int64_t routed = 0;
    for (int64_t i = 0; i < stats.experts; i++) {
        routed += stats.expert_load[i];
    }
    // 150 + 4 * 22 prompt tokens, and all answer tokens but the last, meet every layer.
    assert_int_equal(routed, (150 + 4 * 22 + 5 * 19) * fixture.model.config.num_experts_per_tok);
    engine_destroy(engine);
}

// A conversation finds its own answers in the cache, in every form.
static void test_conversation(void **state) {
    (void)state;
    for (int form = SESSION_AUTO; form <= SESSION_ABSORBED; form++) {
        struct engine_options options = default_options();
        options.form = (enum session_form)form;
        static struct client first, second;
        struct engine *engine = open_engine(&fixture, &options);
        make_client(&first, &fixture, 100, 1, 40);
        submit_client(engine, &first);
        run_engine(engine);
        make_client(&second, &fixture, 150, 1, 5);
        memcpy(second.prompt + 100, first.transcript.answer, 40 * sizeof(int32_t));
        submit_client(engine, &second);
        run_engine(engine);
        assert_int_equal(second.cached, 128);
        engine_destroy(engine);
    }
}

// ---- Filters --------------------------------------------------------------------------------------------------------

struct parity {   // allows even and odd ids in turn, and nothing after `most` tokens
    int64_t accepted, most;
};

static void restrict_parity(void *argument, uint64_t *allowed, int64_t vocab_size) {
    const struct parity *parity = argument;
    for (int64_t id = 0; id < vocab_size; id++) {
        if (id % 2 != parity->accepted % 2 || parity->accepted >= parity->most) {
            allowed[id / 64] &= ~(1ull << (id % 64));
        }
    }
}

static void accept_parity(void *argument, int32_t id) {
    struct parity *parity = argument;
    assert_int_equal(id % 2, parity->accepted % 2);
    parity->accepted++;
}

static void test_filter(void **state) {
    (void)state;
    for (int drafts = DRAFTS_NEVER; drafts <= DRAFTS_ALWAYS; drafts++) {
        struct engine_options options = default_options();
        options.drafts = (enum engine_drafts)drafts;
        static struct client client;
        struct parity parity = {.most = 17};
        struct minke_token_filter filter = {&parity, restrict_parity, accept_parity};
        make_client(&client, &fixture, 30, 1, 40);
        client.request.sampling.temperature = drafts == DRAFTS_ALWAYS ? 1 : 0;
        client.request.filter = &filter;
        run_one(&client, &options);
        assert_int_equal(client.transcript.finish, MINKE_FINISH_STOP);
        assert_int_equal(client.transcript.answer_count, 17);
    }
}

// ---- Refusals -------------------------------------------------------------------------------------------------------

static void refuse(struct engine *engine, struct client *client, int code, const char *fragment) {
    struct error error = {0};
    test_assert_error(engine_submit(&client->number, engine, &client->request, &error), &error, code, fragment);
}

static void test_errors(void **state) {
    (void)state;
    struct engine_options options = default_options();
    struct engine *engine = open_engine(&fixture, &options);
    static struct client client;
    make_client(&client, &fixture, 10, 1, 5);
    client.prompt[3] = (int32_t)fixture.model.config.vocab_size;
    refuse(engine, &client, ERROR_ARGUMENT, "token 3: expected an id in 0..");
    make_client(&client, &fixture, 10, 1, 5);
    client.request.count = 0;
    refuse(engine, &client, ERROR_ARGUMENT, "at least one prompt token");
    make_client(&client, &fixture, 10, 1, 5);
    client.request.log_probabilities = 21;
    refuse(engine, &client, ERROR_ARGUMENT, "0..20");
    make_client(&client, &fixture, 10, 1, 5);
    struct minke_logit_bias bias = {.id = -1};
    client.request.sampling.logit_bias = &bias;
    client.request.sampling.logit_bias_count = 1;
    refuse(engine, &client, ERROR_ARGUMENT, "logit_bias");
    make_client(&client, &fixture, 10, 1, 5);
    client.request.sampling.temperature = NAN;
    refuse(engine, &client, ERROR_ARGUMENT, "finite");
    engine_destroy(engine);

    options.context = 20;
    engine = open_engine(&fixture, &options);
    make_client(&client, &fixture, 20, 1, 1);
    refuse(engine, &client, ERROR_LIMIT, "does not fit into the context of 20");
    client.request.max_tokens = 0;
    submit_client(engine, &client);
    run_engine(engine);
    assert_true(client.finished);
    engine_destroy(engine);

    struct error error = {0};
    options.context = CONTEXT + 1;
    test_assert_error(engine_create(&engine, &fixture.model, &fixture.op, &options, &error), &error, ERROR_ARGUMENT,
                      "engine context");
    options.context = CONTEXT;
    options.cache_tokens = CONTEXT - 1;
    error_clear(&error);
    test_assert_error(engine_create(&engine, &fixture.model, &fixture.op, &options, &error), &error, ERROR_ARGUMENT,
                      "at least the context");
}

// Logits that are not finite end the request with an error, and nothing else.
static void test_unsound_model(void **state) {
    (void)state;
    struct engine_options options = default_options();
    static struct client client;
    make_client(&client, &fixture, 20, 1, 5);
    uint16_t *norm = fixture.model.params.norm.data;   // F32 in truth: one NaN will do
    uint16_t saved = norm[1];
    norm[1] = 0x7fff;
    run_one(&client, &options);
    norm[1] = saved;
    assert_int_equal(client.transcript.finish, MINKE_FINISH_ERROR);
    assert_int_equal(client.transcript.answer_count, 0);
}

static int create_engine(void *argument, struct error *error) {
    struct engine *engine;
    int code = engine_create(&engine, &fixture.model, &fixture.op, argument, error);
    if (code == 0) {
        engine_destroy(engine);
    }
    return code;
}

static void test_memory(void **state) {
    (void)state;
    struct engine_options options = default_options();
    assert_true(test_failing_memory(create_engine, &options) > 10);

    // Decoding takes no memory from the heap: 8 requests, drafts, sampling with everything on.
    options.drafts = DRAFTS_ALWAYS;
    struct engine *engine = open_engine(&fixture, &options);
    static struct client clients[8];
    for (int c = 0; c < 8; c++) {
        make_client(&clients[c], &fixture, 40 + c, (uint64_t)c, MAX_ANSWER);
        clients[c].request.sampling = (struct minke_sampling){
            .temperature = 1, .top_p = 0.9f, .min_p = 0.01f, .top_k = 20, .frequency_penalty = 0.1f};
        clients[c].request.log_probabilities = TOP;
        submit_client(engine, &clients[c]);
    }
    for (int step = 0; step < 6; step++) {
        engine_step(engine, NULL);
    }
    memory_guard(true);
    for (int step = 0; step < 6; step++) {
        assert_int_equal(engine_step(engine, NULL), 8);
    }
    memory_guard(false);
    engine_destroy(engine);
}

// ---- The cache on disk ----------------------------------------------------------------------------------------------

static void test_cache_directory(void **state) {
    (void)state;
    char *directory = test_directory();
    struct engine_options options = default_options();
    options.cache_directory = directory;
    options.weights_name = "some weights";
    static struct client first, again;
    make_client(&first, &fixture, 200, 1, 20);
    run_one(&first, &options);
    assert_int_equal(first.cached, 0);
    make_client(&again, &fixture, 200, 1, 20);
    run_one(&again, &options);
    assert_int_equal(again.cached, 192);
    assert_memory_equal(&first.transcript, &again.transcript, sizeof first.transcript);

    options.weights_name = "other weights";
    make_client(&again, &fixture, 200, 1, 20);
    run_one(&again, &options);
    assert_int_equal(again.cached, 0);

    // Every file damaged in another place: none is believed, all answers stay right.
    options.weights_name = "some weights";
    char **folders, **names;
    int64_t folder_count, count;
    assert_int_equal(file_list(&folders, &folder_count, directory, NULL), 0);
    assert_int_equal(folder_count, 2);
    for (int64_t f = 0; f < folder_count; f++) {
        char *folder = file_join(directory, folders[f], NULL);
        assert_int_equal(file_list(&names, &count, folder, NULL), 0);
        assert_int_equal(count, 3);
        for (int64_t i = 0; i < count; i++) {
            size_t size;
            char *path = file_join(folder, names[i], NULL), *content = test_read_file(path, &size);
            content[size * (size_t)(i + 1) / 4 - 30 * (size_t)(i == 0)] ^= 1;
            test_write_file(path, content, i == 1 ? size - 1 : size);
            memory_free(path);
            memory_free_foreign(content);
        }
        file_list_free(names, count);
        memory_free(folder);
    }
    file_list_free(folders, folder_count);
    for (int64_t cached = 0; cached <= 192; cached += 64) {   // what is found damaged is written anew
        make_client(&again, &fixture, 200, 1, 20);
        run_one(&again, &options);
        assert_int_equal(again.cached, cached);
        assert_memory_equal(&first.transcript, &again.transcript, sizeof first.transcript);
    }

    // A bound of one page.
    options.cache_directory_bytes = 1;
    make_client(&again, &fixture, 200, 1, 20);
    run_one(&again, &options);
    options.cache_directory_bytes = 0;
    make_client(&again, &fixture, 200, 1, 20);
    run_one(&again, &options);
    assert_int_equal(again.cached, 0);
    test_directory_remove(directory);
}

// Plain and FP8 caches share a directory and nothing in it.
static void test_cache_formats(void **state) {
    (void)state;
    char *directory = test_directory();
    struct engine_options options = default_options();
    options.cache_directory = directory;
    options.weights_name = "some weights";
    static struct client first[2], again;
    for (int round = 0; round < 2; round++) {
        for (int kind = CACHE_PLAIN; kind <= CACHE_FP8; kind++) {
            options.cache = (enum cache_kind)kind;
            make_client(&again, &fixture, 200, 1, 20);
            run_one(&again, &options);
            assert_int_equal(again.cached, round * 192);
            if (round == 0) {
                first[kind] = again;
            }
            assert_memory_equal(&first[kind].transcript, &again.transcript, sizeof again.transcript);
        }
    }
    assert_true(memcmp(&first[0].transcript, &first[1].transcript, sizeof again.transcript) != 0);
    test_directory_remove(directory);

    struct engine *engine;
    struct error error = {0};
    options = default_options();
    options.form = SESSION_EXPANDED;
    options.cache = CACHE_FP8;
    test_assert_error(engine_create(&engine, &fixture.model, &fixture.op, &options, &error), &error, ERROR_ARGUMENT,
                      "attention cache fp8");
}

// Changed weights: nothing old is used, in memory or on disk.
static void test_weights_changed(void **state) {
    (void)state;
    struct engine_options options = default_options();
    static struct client first, second, alone;
    struct engine *engine = open_engine(&fixture, &options);
    make_client(&first, &fixture, 150, 1, 10);
    submit_client(engine, &first);
    run_engine(engine);
    float *norm = fixture.model.params.norm.data, saved = norm[0];
    norm[0] = saved * 3;
    engine_weights_changed(engine);
    make_client(&second, &fixture, 150, 1, 10);
    submit_client(engine, &second);
    run_engine(engine);
    engine_destroy(engine);
    make_client(&alone, &fixture, 150, 1, 10);
    run_one(&alone, &options);
    norm[0] = saved;
    assert_int_equal(second.cached, 0);
    assert_memory_equal(&second.transcript, &alone.transcript, sizeof alone.transcript);
    assert_memory_not_equal(&second.transcript, &first.transcript, sizeof alone.transcript);
}

// ---- Threads --------------------------------------------------------------------------------------------------------

struct crowd {
    struct engine *engine;
    struct client *clients;
};

static void *submit_and_cancel(void *argument) {
    struct crowd *crowd = argument;
    for (int c = 0; c < 10; c++) {
        struct minke_engine_stats stats;
        submit_client(crowd->engine, &crowd->clients[c]);
        engine_statistics(&stats, crowd->engine);
        if (c % 3 == 2) {
            engine_cancel(crowd->engine, crowd->clients[c].number);
        }
    }
    return NULL;
}

// Numbers are written by submit while another thread steps, so that callbacks must not look at them.
static int on_quiet_event(void *argument, const struct minke_event *event) {
    struct client *client = argument;
    if (event->kind == MINKE_EVENT_FINISHED) {
        client->transcript.finish = event->finish;
        client->finished = true;
    }
    return 0;
}

static void test_threads(void **state) {
    (void)state;
    struct engine_options options = default_options();
    struct crowd crowds[3];
    pthread_t threads[3];
    static struct client clients[3][10];
    struct engine *engine = open_engine(&fixture, &options);
    for (int t = 0; t < 3; t++) {
        for (int c = 0; c < 10; c++) {
            make_client(&clients[t][c], &fixture, 20 + 9 * c, (uint64_t)c, 10);
            clients[t][c].request.callback = on_quiet_event;
        }
        crowds[t] = (struct crowd){engine, clients[t]};
        assert_int_equal(pthread_create(&threads[t], NULL, submit_and_cancel, &crowds[t]), 0);
    }
    for (int step = 0; step < 50; step++) {
        engine_step(engine, NULL);
    }
    for (int t = 0; t < 3; t++) {
        pthread_join(threads[t], NULL);
    }
    run_engine(engine);
    engine_destroy(engine);
    for (int t = 0; t < 3; t++) {
        for (int c = 0; c < 10; c++) {
            assert_true(clients[t][c].finished);
            assert_true(c % 3 == 2 || clients[t][c].transcript.finish == MINKE_FINISH_LENGTH);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ends),          cmocka_unit_test(test_score_only),
        cmocka_unit_test(test_cancel),        cmocka_unit_test(test_shared_prompt),
        cmocka_unit_test(test_conversation),  cmocka_unit_test(test_filter),
        cmocka_unit_test(test_errors),        cmocka_unit_test(test_unsound_model),
        cmocka_unit_test(test_memory),        cmocka_unit_test(test_cache_directory),
        cmocka_unit_test(test_cache_formats), cmocka_unit_test(test_weights_changed),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
