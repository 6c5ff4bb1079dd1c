// infer/engine on golden models: what a request answers, and with which log-probabilities, has the same bits alone, in
// a crowd that comes and goes, with and without prefix cache, in chunks of any size, preempted, with and without
// drafts, with any number of threads, over a plain and an FP8 cache; expanded it equals session_score. Then finishing,
// cancelling, filters, errors, memory.
#include "support/test.h"

#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "support/engine_clients.h"
#include "support/op_fixture.h"

#define REQUESTS 32
#ifdef LONG_TESTS
#define STORMS 200
#else
#define STORMS 5
#endif

struct way {   // of running the requests
    struct engine_options options;
    int64_t arrive_each;   // steps between arrivals; 0 = all at once
    bool alone;            // one after the other, each in an engine of its own
    bool change_weights;   // "changed" now and then, to the same values
    enum isa isa;          // 0: the best
};

static struct minke_engine_stats run_clients(struct fixture *fixture, struct client *clients, int64_t count,
                                             const struct way *way) {
    struct minke_engine_stats stats = {0};
    struct engine *engine = open_engine(fixture, &way->options);
    int64_t submitted = 0;
    for (int64_t step = 0;; step++) {
        while (submitted < count && (way->arrive_each == 0 || submitted * way->arrive_each <= step)) {
            submit_client(engine, &clients[submitted++]);
        }
        if (way->change_weights && step % 13 == 12) {
            engine_weights_changed(engine);
        }
        int64_t left = engine_step(engine, NULL);
        assert_true(left >= 0 && step < 20000);
        if (left == 0 && submitted == count) {
            break;
        }
    }
    engine_statistics(&stats, engine);
    assert_int_equal(stats.cache_tokens_used, 0);
    engine_destroy(engine);
    return stats;
}

static void run_alone(struct fixture *fixture, struct client *clients, int64_t count, const struct way *way) {
    for (int64_t c = 0; c < count; c++) {
        run_clients(fixture, &clients[c], 1, way);
    }
}

static void assert_same(const struct client *a, const struct client *b, int64_t count, const char *what) {
    for (int64_t c = 0; c < count; c++) {
        assert_true(a[c].finished && b[c].finished);
        if (memcmp(&a[c].transcript, &b[c].transcript, sizeof a[c].transcript) != 0) {
            fail_msg("%s: request %lld differs", what, (long long)c);
        }
    }
}

static const struct {
    const char *name;
    struct way way;
    int threads;
} ways[] = {
    {"batch", {.alone = false}, 2},
    {"arrivals", {.arrive_each = 2}, 2},
    {"without prefix cache", {.options = {.prefix_cache = false}}, 2},
    {"small chunks", {.options = {.chunk = 7}}, 2},
    {"narrow", {.options = {.batch = 3, .chunk = 64}}, 2},
    {"little memory", {.options = {.cache_tokens = CONTEXT + 128}}, 2},
    {"drafts", {.options = {.drafts = DRAFTS_ALWAYS}}, 2},
    {"drafts, little memory",
     {.options = {.drafts = DRAFTS_ALWAYS, .cache_tokens = CONTEXT + 128, .chunk = 33}, .arrive_each = 1},
     2},
    {"adaptive drafts", {.options = {.drafts = DRAFTS_ADAPTIVE, .chunk = 100}, .arrive_each = 3}, 2},
    {"weights changed", {.change_weights = true}, 2},
    {"one thread", {.options = {.drafts = DRAFTS_ALWAYS}, .arrive_each = 1}, 1},
    {"three threads", {.options = {.drafts = DRAFTS_ALWAYS}, .arrive_each = 1}, 3},
    {"seven threads", {.options = {.drafts = DRAFTS_ALWAYS}, .arrive_each = 1}, 7},
    {"AVX2", {.options = {.drafts = DRAFTS_ALWAYS}, .isa = ISA_AVX2}, 2},
};

static struct client expected[REQUESTS], found[REQUESTS];

static void check_form(const char *model, enum session_form form, enum cache_kind cache) {
    struct fixture fixture;
    open_engine_fixture(&fixture, model, 2);
    struct way alone = {.options = default_options()};
    alone.options.form = form;
    alone.options.cache = cache;
    alone.options.prefix_cache = false;
    make_clients(expected, REQUESTS, &fixture);
    run_alone(&fixture, expected, REQUESTS, &alone);
    fixture_close(&fixture);
    for (size_t w = 0; w < sizeof ways / sizeof ways[0]; w++) {
        struct way way = ways[w].way;
        struct engine_options defaults = default_options();
        way.options.form = form;
        way.options.cache = cache;
        way.options.context = defaults.context;
        way.options.cache_tokens = way.options.cache_tokens != 0 ? way.options.cache_tokens : defaults.cache_tokens;
        way.options.batch = way.options.batch != 0 ? way.options.batch : defaults.batch;
        way.options.chunk = way.options.chunk != 0 ? way.options.chunk : defaults.chunk;
        way.options.prefix_cache = strcmp(ways[w].name, "without prefix cache") != 0;
        way.options.drafts = way.options.drafts == DRAFTS_ADAPTIVE && strncmp(ways[w].name, "adaptive", 8) != 0
                                 ? DRAFTS_NEVER
                                 : way.options.drafts;
        open_engine_fixture(&fixture, model, ways[w].threads);
        if (way.isa != ISA_SCALAR && isa_available(way.isa) && fixture.op.isa != ISA_AMX) {
            op_context_init(&fixture.op, way.isa, fixture.pool, &fixture.scratch, NULL);
        }
        make_clients(found, REQUESTS, &fixture);
        struct minke_engine_stats stats = run_clients(&fixture, found, REQUESTS, &way);
        assert_same(expected, found, REQUESTS, ways[w].name);
        assert_int_equal(stats.requests, REQUESTS);
        assert_true(strstr(ways[w].name, "little memory") == NULL || stats.preemptions > 0);
        assert_true(!way.options.prefix_cache || stats.cached_tokens > 0);
        assert_true(way.options.prefix_cache || stats.cached_tokens == 0);
        assert_true(way.options.drafts != DRAFTS_ALWAYS || (stats.drafted[1] > 0 && stats.accepted[0] > 0));
        fixture_close(&fixture);
    }
}

static void test_bits_absorbed(void **state) {
    (void)state;
    check_form("v3_mtp2", SESSION_ABSORBED, CACHE_PLAIN);
}

static void test_bits_absorbed_fp8(void **state) {
    (void)state;
    check_form("v3_mtp2", SESSION_ABSORBED, CACHE_FP8);
}

static void test_bits_auto(void **state) {
    (void)state;
    check_form("v3_mtp2", SESSION_AUTO, CACHE_PLAIN);
}

static void test_bits_auto_fp8(void **state) {
    (void)state;
    check_form("v3_mtp2", SESSION_AUTO, CACHE_FP8);
}

static void test_bits_expanded(void **state) {
    (void)state;
    check_form("v3_mtp2", SESSION_EXPANDED, CACHE_PLAIN);
}

// Requests arrive, are cancelled and finish at random while memory is short, weights "change" and drafts come and go.
// What is answered is right; what is cancelled is the beginning of what is right.
static void storm(struct fixture *fixture, uint64_t seed, enum session_form form, enum cache_kind cache) {
    struct engine_options options = default_options();
    options.form = form;
    options.cache = cache;
    options.batch = 1 + (int64_t)rng_below(seed, 1, 0, 12);
    options.chunk = 1 + (int64_t)rng_below(seed, 1, 1, 150);
    options.cache_tokens = CONTEXT + (int64_t)rng_below(seed, 1, 2, 800);
    options.drafts = (enum engine_drafts)rng_below(seed, 1, 3, 3);
    struct engine *engine = open_engine(fixture, &options);
    make_clients(found, REQUESTS, fixture);
    int64_t submitted = 0, left = 1;
    for (uint64_t step = 0; submitted < REQUESTS || left > 0; step++) {
        for (uint64_t some = rng_below(seed, 2, step, 3); some > 0 && submitted < REQUESTS; some--) {
            submit_client(engine, &found[submitted++]);
        }
        if (rng_below(seed, 3, step, 12) == 0) {
            engine_cancel(engine, (int64_t)rng_below(seed, 4, step, REQUESTS));
        }
        if (rng_below(seed, 5, step, 60) == 0) {
            engine_weights_changed(engine);
        }
        left = engine_step(engine, NULL);
        assert_true(step < 20000);
    }
    for (int64_t c = 0; c < REQUESTS; c++) {
        struct transcript *a = &expected[c].transcript, *b = &found[c].transcript;
        assert_true(found[c].finished);
        if (b->finish != MINKE_FINISH_CANCELLED) {
            assert_memory_equal(a, b, sizeof *a);
            continue;
        }
        assert_true(b->answer_count <= a->answer_count && b->prompt_count <= a->prompt_count);
        assert_memory_equal(a->answer, b->answer, (size_t)b->answer_count * sizeof *b->answer);
        assert_memory_equal(a->log_probability, b->log_probability, (size_t)b->answer_count * sizeof(float));
        assert_memory_equal(a->prompt_log_probability, b->prompt_log_probability,
                            (size_t)b->prompt_count * sizeof(float));
    }
    engine_destroy(engine);
}

static void test_storm(void **state) {
    (void)state;
    struct fixture fixture;
    open_engine_fixture(&fixture, "v3_mtp2", 2);
    static const struct {
        enum session_form form;
        enum cache_kind cache;
    } kinds[] = {{SESSION_AUTO, CACHE_PLAIN},
                 {SESSION_EXPANDED, CACHE_PLAIN},
                 {SESSION_ABSORBED, CACHE_PLAIN},
                 {SESSION_AUTO, CACHE_FP8}};
    for (size_t kind = 0; kind < sizeof kinds / sizeof kinds[0]; kind++) {
        struct way alone = {.options = default_options()};
        alone.options.form = kinds[kind].form;
        alone.options.cache = kinds[kind].cache;
        alone.options.prefix_cache = false;
        make_clients(expected, REQUESTS, &fixture);
        run_alone(&fixture, expected, REQUESTS, &alone);
        for (uint64_t seed = 0; seed < STORMS; seed++) {
            storm(&fixture, 100 * (uint64_t)kind + seed, kinds[kind].form, kinds[kind].cache);
        }
    }
    fixture_close(&fixture);
}

// In the expanded form, prompt and answer have the log-probabilities of session_score, which are the trainer's.
static void test_equals_score(void **state) {
    (void)state;
    struct fixture fixture;
    open_engine_fixture(&fixture, "v3_groups", 2);
    struct way way = {.options = default_options()};
    way.options.form = SESSION_EXPANDED;
    make_clients(found, REQUESTS, &fixture);
    for (int64_t c = 0; c < REQUESTS; c++) {
        found[c].request.prompt_log_probabilities = 1;
    }
    run_clients(&fixture, found, REQUESTS, &way);
    for (int64_t c = 0; c < REQUESTS; c++) {
        struct client *client = &found[c];
        struct transcript *t = &client->transcript;
        int32_t ids[CONTEXT];
        float scores[CONTEXT];
        int64_t prompt = client->request.count, count = prompt + t->answer_count;
        memcpy(ids, client->prompt, (size_t)prompt * sizeof *ids);
        memcpy(ids + prompt, t->answer, (size_t)t->answer_count * sizeof *ids);
        struct session *session;
        struct error error = {0};
        struct session_options options = {.capacity = CONTEXT, .chunk = 50, .form = SESSION_EXPANDED};
        assert_int_equal(session_create(&session, &fixture.model, &fixture.op, &options, &error), 0);
        assert_int_equal(session_score(session, scores, ids, count, &error), 0);
        session_destroy(session);
        assert_int_equal(t->prompt_count, prompt);
        assert_memory_equal(scores, t->prompt_log_probability + 1, (size_t)(prompt - 1) * sizeof *scores);
        assert_memory_equal(scores + prompt - 1, t->log_probability, (size_t)t->answer_count * sizeof *scores);
    }
    fixture_close(&fixture);
}

// The same in F32, and with FP8 weights, over the routers and gates of other models.
static void test_formats(void **state) {
    (void)state;
    static const struct {
        const char *model;
        enum format compute, weights;
        enum cache_kind cache;
    } cases[] = {{"v3_groups", FORMAT_F32, FORMAT_F32, CACHE_PLAIN},
                 {"v3_groups", FORMAT_F32, FORMAT_F32, CACHE_FP8},
                 {"v3_mtp2", FORMAT_BF16, FORMAT_E4M3_BLOCK, CACHE_PLAIN},
                 {"v3_yarn", FORMAT_BF16, FORMAT_E4M3_BLOCK, CACHE_FP8},
                 {"v2_group_limited", FORMAT_BF16, FORMAT_BF16, CACHE_PLAIN},
                 {"v3_ragged", FORMAT_BF16, FORMAT_BF16, CACHE_PLAIN},
                 {"v3_ragged", FORMAT_BF16, FORMAT_BF16, CACHE_FP8}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture fixture;
        struct fixture_options options = {
            .compute = cases[i].compute, .weights = cases[i].weights, .threads = 2, .isa = ISA_BEST};
        fixture_open(&fixture, cases[i].model, &options);
        model_prepare(&fixture.model, CONTEXT, &fixture.arena);
        struct way alone = {.options = default_options()}, crowd = {.options = default_options(), .arrive_each = 1};
        alone.options.form = crowd.options.form = SESSION_AUTO;
        alone.options.cache = crowd.options.cache = cases[i].cache;
        alone.options.prefix_cache = false;
        crowd.options.drafts = DRAFTS_ALWAYS;
        crowd.options.chunk = 40;
        make_clients(expected, 12, &fixture);
        make_clients(found, 12, &fixture);
        run_alone(&fixture, expected, 12, &alone);
        run_clients(&fixture, found, 12, &crowd);
        assert_same(expected, found, 12, cases[i].model);
        fixture_close(&fixture);
    }
}

// The top tokens: descending, the sampled one where it belongs, greedy = the first.
static void test_top(void **state) {
    (void)state;
    struct fixture fixture;
    open_engine_fixture(&fixture, "v3_groups", 2);
    struct way way = {.options = default_options()};
    make_clients(found, REQUESTS, &fixture);
    run_clients(&fixture, found, REQUESTS, &way);
    for (int64_t c = 0; c < REQUESTS; c += 4) {
        const struct transcript *t = &found[c].transcript;
        assert_true(t->answer_count > 0);
        for (int64_t i = 0; i < t->answer_count; i++) {
            assert_int_equal(t->top[i][0].id, t->answer[i]);   // these are greedy
            assert_true(t->top[i][0].log_probability == t->log_probability[i]);
            assert_true(t->top[i][0].log_probability >= t->top[i][1].log_probability);
            assert_true(t->top[i][1].log_probability >= t->top[i][2].log_probability);
        }
    }
    fixture_close(&fixture);
}

// What holds on every instruction set holds within AMX, whose order of sums is another.
static void test_amx(void **state) {
    if (fixture_amx(true)) {
        test_bits_absorbed(state);
        test_bits_auto(state);
        test_bits_expanded(state);
        test_equals_score(state);
        fixture_amx(false);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_amx),
        cmocka_unit_test(test_bits_absorbed),
        cmocka_unit_test(test_bits_absorbed_fp8),
        cmocka_unit_test(test_bits_auto),
        cmocka_unit_test(test_bits_auto_fp8),
        cmocka_unit_test(test_bits_expanded),
        cmocka_unit_test(test_equals_score),
        cmocka_unit_test(test_storm),
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_top),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
