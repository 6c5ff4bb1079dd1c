// Experts streamed from disk: the bits of the mapped model for any number of slots, chunks, formats and shards; nothing
// allocated after warm-up; unreadable and truncated files end a call with one line and the next call works; limits that
// are too small say what is needed; how the reads of an expert are put together.
#include "support/test.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "infer/engine.h"
#include "infer/session.h"
#include "model/experts.h"
#include "model/experts_private.h"
#include "support/tiny.h"

#define TOKENS 24
#define TOP_K 3
#define EXPERTS 12

static struct model_config streamed_config(void) {
    struct model_config config = tiny_config();
    config.num_hidden_layers = 4;
    config.n_routed_experts = EXPERTS;
    config.num_experts_per_tok = TOP_K;
    return config;
}

static char *save(enum format format, int64_t shard_bytes) {
    struct model_config config = streamed_config();
    struct tiny tiny;
    char *directory = tiny_directory();
    tiny_open(&tiny, &config, FORMAT_F32, 0);
    tiny_save(&tiny, directory, format, false, shard_bytes);
    tiny_close(&tiny);
    return directory;
}

struct opened {
    struct arena arena, scratch;
    struct pool *pool;
    struct op_context op;
    struct checkpoint *checkpoint;
    struct model model;
    struct expert_store *store;
};

static void require(int code, const struct error *error) {
    if (code != 0) {
        fail_msg("%s", error->text);
    }
}

// options NULL: as mapped.
static int model_open(struct opened *opened, const char *directory, const struct expert_options *options, int threads,
                      struct error *error) {
    *opened = (struct opened){0};
    struct model *model = &opened->model;
    arena_init(&opened->arena, "model");
    arena_init(&opened->scratch, "scratch");
    require(pool_create(&opened->pool, threads, error), error);
    require(op_context_init(&opened->op, ISA_BEST, opened->pool, &opened->scratch, error), error);
    require(model_config_read(&model->config, directory, error), error);
    require(checkpoint_open(&opened->checkpoint, directory, error), error);
    require(model_map(&model->params, &model->config, opened->checkpoint, &opened->arena, error), error);
    model->compute = FORMAT_BF16;
    int code = options == NULL ? 0
                               : expert_store_create(&opened->store, &model->params, &model->config, opened->checkpoint,
                                                     options, error);
    if (code == 0) {
        model_prepare(model, 64, &opened->arena);
    }
    return code;
}

static void model_close(struct opened *opened) {
    expert_store_destroy(opened->store);
    checkpoint_close(opened->checkpoint);
    pool_destroy(opened->pool);
    arena_destroy(&opened->scratch);
    arena_destroy(&opened->arena);
}

struct rows {
    float *at;
    int64_t width;
};

static int keep_row(void *argument, int64_t row, const float *logits) {
    struct rows *rows = argument;
    memcpy(rows->at + row * rows->width, logits, (size_t)rows->width * sizeof *logits);
    return 0;
}

static void make_ids(int32_t *ids, int64_t vocab_size) {
    for (int i = 0; i < TOKENS; i++) {
        ids[i] = (int32_t)((i * 7 + 3) % vocab_size);
    }
}

static struct session *open_session(struct opened *opened, int64_t chunk) {
    struct session *session;
    struct error error = {0};
    struct session_options options = {.capacity = TOKENS, .chunk = chunk, .form = SESSION_AUTO};
    require(session_create(&session, &opened->model, &opened->op, &options, &error), &error);
    return session;
}

// Logits of the prompt at MTP depth 0 and 2, then of the same ids as sampled tokens: [3 * TOKENS, V].
static float *all_logits(struct opened *opened, int64_t chunk) {
    int32_t ids[TOKENS];
    struct error error = {0};
    int64_t width = opened->model.config.vocab_size;
    float *values = memory_allocate((size_t)(3 * TOKENS * width), sizeof *values, "logits", NULL);
    make_ids(ids, width);
    struct session *session = open_session(opened, chunk);
    for (int64_t depth = 0; depth <= 2; depth += 2) {
        struct rows rows = {values + depth / 2 * TOKENS * width, width};
        require(session_truncate(session, 0, &error), &error);
        require(session_evaluate(session, ids, TOKENS, depth, keep_row, &rows, &error), &error);
    }
    require(session_truncate(session, 0, &error), &error);
    for (int i = 0; i < TOKENS; i++) {
        require(session_append(session, ids + i, 1, SESSION_SAMPLED, &error), &error);
        memcpy(values + (2 * TOKENS + i) * width, session->logits, (size_t)width * sizeof *values);
    }
    session_destroy(session);
    return values;
}

static void check_statistics(const struct expert_store *store, int64_t slots) {
    struct expert_statistics counts;
    expert_store_statistics(&counts, store);
    assert_int_equal(counts.experts, 5 * EXPERTS);   // 3 main MoE layers, 2 MTP
    assert_true(counts.slots_used <= slots);
    assert_true(counts.misses > 0 && counts.bytes_read > 0 && counts.resident_bytes > 0);
    assert_true(counts.hits + counts.late + counts.misses >= 3 * TOKENS * TOP_K);
    assert_true(counts.right_guesses <= counts.guesses);
    if (slots > 2 * TOP_K) {
        assert_true(counts.right_guesses > 0);
    }
    if (slots == 5 * EXPERTS) {   // each is read once
        assert_true(counts.misses + counts.late <= slots);
        assert_int_equal(counts.slots_used, slots);
    }
}

static void test_bits(void **state) {
    (void)state;
    const enum format formats[] = {FORMAT_F32, FORMAT_BF16, FORMAT_E4M3_BLOCK};
    const struct {
        int64_t slots, chunk;
        int threads;
    } runs[] = {{TOP_K, TOKENS, 2},    {TOP_K, 1, 1},   {TOP_K + 1, 5, 3},
                {2 * TOP_K + 1, 7, 2}, {20, TOKENS, 2}, {5 * EXPERTS, TOKENS, 2}};
    for (size_t f = 0; f < 3; f++) {
        char *directory = save(formats[f], f == 1 ? 50000 : 0);
        struct opened mapped;
        struct error error = {0};
        require(model_open(&mapped, directory, NULL, 2, &error), &error);
        float *expected = all_logits(&mapped, TOKENS);
        size_t bytes = (size_t)(3 * TOKENS * mapped.model.config.vocab_size) * sizeof *expected;
        for (size_t r = 0; r < sizeof runs / sizeof runs[0]; r++) {
            struct opened streamed;
            struct expert_options options = {.slots = runs[r].slots};
            require(model_open(&streamed, directory, &options, runs[r].threads, &error), &error);
            float *found = all_logits(&streamed, runs[r].chunk);
            assert_memory_equal(expected, found, bytes);
            check_statistics(streamed.store, runs[r].slots);
            memory_free(found);
            model_close(&streamed);
        }
        memory_free(expected);
        model_close(&mapped);
        test_directory_remove(directory);
    }
}

static void test_no_allocation(void **state) {
    (void)state;
    char *directory = save(FORMAT_BF16, 0);
    struct opened opened;
    struct error error = {0};
    struct expert_options options = {.slots = TOP_K + 2};
    int32_t ids[TOKENS];
    require(model_open(&opened, directory, &options, 2, &error), &error);
    make_ids(ids, opened.model.config.vocab_size);
    struct session *session = open_session(&opened, TOKENS);
    require(session_append(session, ids, 8, SESSION_PROMPT, &error), &error);
    require(session_append(session, ids + 8, 1, SESSION_SAMPLED, &error), &error);
    require(session_append(session, ids + 9, 1, SESSION_SAMPLED, &error), &error);
    memory_guard(true);
    for (int i = 10; i < TOKENS; i++) {
        require(session_append(session, ids + i, 1, SESSION_SAMPLED, &error), &error);
    }
    memory_guard(false);
    session_destroy(session);
    model_close(&opened);
    test_directory_remove(directory);
}

// The n-th read fails, for all n of a prompt: one error, the session as it was, and the next call gives the right bits.
static void test_failing_reads(void **state) {
    (void)state;
    char *directory = save(FORMAT_BF16, 0);
    struct opened mapped, opened;
    struct error error = {0};
    struct expert_options options = {.slots = TOP_K + 1};
    int32_t ids[TOKENS];
    require(model_open(&mapped, directory, NULL, 2, &error), &error);
    require(model_open(&opened, directory, &options, 2, &error), &error);
    int64_t width = mapped.model.config.vocab_size;
    make_ids(ids, width);
    struct session *right = open_session(&mapped, TOKENS), *session = open_session(&opened, TOKENS);
    require(session_append(right, ids, TOKENS, SESSION_PROMPT, &error), &error);
    int failures = 0;
    for (int n = 1;; n++) {
        require(session_truncate(session, 0, &error), &error);
        file_fail_at(n, EIO);
        int code = session_append(session, ids, TOKENS, SESSION_PROMPT, &error);
        file_fail_at(0, 0);
        if (code == 0) {
            break;
        }
        test_assert_error(code, &error, ERROR_IO, "model.safetensors: cannot read");
        assert_int_equal(session->length, 0);
        assert_int_equal(opened.op.error.code, 0);
        error_clear(&error);
        failures++;
        require(session_append(session, ids, TOKENS, SESSION_PROMPT, &error), &error);
        assert_memory_equal(session->logits, right->logits, (size_t)width * sizeof(float));
    }
    assert_true(failures > 2 * EXPERTS);
    session_destroy(session);
    session_destroy(right);
    model_close(&opened);
    model_close(&mapped);
    test_directory_remove(directory);
}

struct heard {
    int64_t count;
    int32_t ids[8];
    bool finished;
    enum minke_finish finish;
    char text[200];
};

static int on_event(void *argument, const struct minke_event *event) {
    struct heard *heard = argument;
    if (event->kind == MINKE_EVENT_TOKEN) {
        heard->ids[heard->count++] = event->id;
    } else if (event->kind == MINKE_EVENT_FINISHED) {
        heard->finished = true;
        heard->finish = event->finish;
        snprintf(heard->text, sizeof heard->text, "%s", event->error != NULL ? event->error : "");
    }
    return 0;
}

// One request, in an engine that drafts with the MTP modules.
static struct heard ask(struct opened *opened, struct engine *engine) {
    struct heard heard = {0};
    struct error error = {0};
    int32_t ids[TOKENS];
    int64_t number;
    make_ids(ids, opened->model.config.vocab_size);
    struct minke_request request = {.ids = ids,
                                    .count = 10,
                                    .max_tokens = 8,
                                    .sampling = {.top_p = 1},
                                    .ignore_end = 1,
                                    .callback = on_event,
                                    .argument = &heard};
    require(engine_submit(&number, engine, &request, &error), &error);
    for (int step = 0; step < 100 && !heard.finished; step++) {
        assert_true(engine_step(engine, &error) >= 0);
    }
    assert_true(heard.finished);
    return heard;
}

static struct engine *open_engine(struct opened *opened) {
    struct engine *engine;
    struct error error = {0};
    struct engine_options options = {
        .context = 64, .cache_tokens = 256, .batch = 4, .chunk = 16, .drafts = DRAFTS_ALWAYS, .prefix_cache = true};
    require(engine_create(&engine, &opened->model, &opened->op, &options, &error), &error);
    return engine;
}

// In an engine: the request ends with the reason, the next one is answered as if nothing had been.
static void test_failing_reads_of_requests(void **state) {
    (void)state;
    char *directory = save(FORMAT_BF16, 0);
    struct opened mapped, opened;
    struct error error = {0};
    struct expert_options options = {.slots = TOP_K + 1};
    require(model_open(&mapped, directory, NULL, 2, &error), &error);
    require(model_open(&opened, directory, &options, 2, &error), &error);
    struct engine *right_engine = open_engine(&mapped), *engine = open_engine(&opened);
    struct heard right = ask(&mapped, right_engine);
    assert_int_equal(right.finish, MINKE_FINISH_LENGTH);
    int failures = 0;
    for (int n = 1; n < 60; n += 3) {
        file_fail_at(n, EIO);
        struct heard heard = ask(&opened, engine);
        file_fail_at(0, 0);
        assert_memory_equal(heard.ids, right.ids, (size_t)heard.count * sizeof heard.ids[0]);
        if (heard.finish == MINKE_FINISH_ERROR) {
            failures++;
            assert_non_null(strstr(heard.text, "model.safetensors: cannot read"));
        } else {
            assert_int_equal(heard.finish, MINKE_FINISH_LENGTH);
        }
        heard = ask(&opened, engine);
        assert_int_equal(heard.finish, MINKE_FINISH_LENGTH);
        assert_memory_equal(heard.ids, right.ids, sizeof right.ids);
    }
    assert_true(failures > 5);
    engine_destroy(engine);
    engine_destroy(right_engine);
    model_close(&opened);
    model_close(&mapped);
    test_directory_remove(directory);
}

static void test_truncated(void **state) {
    (void)state;
    char *directory = save(FORMAT_E4M3_BLOCK, 0);
    struct opened opened;
    struct error error = {0};
    struct expert_options options = {.slots = TOP_K + 1};
    int32_t ids[TOKENS];
    require(model_open(&opened, directory, &options, 2, &error), &error);
    make_ids(ids, opened.model.config.vocab_size);
    struct session *session = open_session(&opened, TOKENS);
    assert_int_equal(truncate(test_path(directory, "model.safetensors"), 70000), 0);
    int code = session_append(session, ids, TOKENS, SESSION_PROMPT, &error);
    test_assert_error(code, &error, ERROR_IO, "truncated while in use");
    assert_int_equal(session->length, 0);
    session_destroy(session);
    model_close(&opened);
    test_directory_remove(directory);
}

static void test_limits(void **state) {
    (void)state;
    char *directory = save(FORMAT_BF16, 0);
    struct opened opened;
    struct error error = {0};
    struct expert_options options = {.ram_bytes = 1 << 20};
    int code = model_open(&opened, directory, &options, 1, &error);
    test_assert_error(code, &error, ERROR_LIMIT, "at least");
    model_close(&opened);

    // Enough; then something else takes the memory while the model is open.
    error_clear(&error);
    options.ram_bytes = memory_statistics_get().live_bytes + (40 << 20);
    require(model_open(&opened, directory, &options, 1, &error), &error);
    int32_t ids[TOKENS];
    make_ids(ids, opened.model.config.vocab_size);
    struct session *session = open_session(&opened, TOKENS);
    require(session_append(session, ids, 8, SESSION_PROMPT, &error), &error);
    struct expert_statistics before, after;
    expert_store_statistics(&before, opened.store);
    int64_t spare = options.ram_bytes - expert_other_bytes() - before.expert_bytes * (TOP_K + 1);
    void *other = memory_allocate((size_t)spare, 1, "something else", &error);
    assert_non_null(other);
    require(session_append(session, ids + 8, 8, SESSION_PROMPT, &error), &error);
    expert_store_statistics(&after, opened.store);
    assert_true(before.slots_used > TOP_K + 2 && after.slots <= TOP_K + 1 && after.slots_used <= TOP_K + 1);
    void *more = memory_allocate((size_t)before.expert_bytes * 3, 1, "something else", &error);
    code = session_append(session, ids + 16, 1, SESSION_SAMPLED, &error);
    test_assert_error(code, &error, ERROR_LIMIT, "caches and workspace");
    assert_int_equal(session->length, 16);
    memory_free(more);
    memory_free(other);
    error_clear(&error);
    require(session_append(session, ids + 16, 1, SESSION_SAMPLED, &error), &error);
    session_destroy(session);
    model_close(&opened);

    struct tiny tiny;
    struct model_config dense = streamed_config();
    dense.first_k_dense_replace = dense.num_hidden_layers;
    dense.num_nextn_predict_layers = 0;
    char *other_directory = tiny_directory();
    tiny_open(&tiny, &dense, FORMAT_F32, 0);
    tiny_save(&tiny, other_directory, FORMAT_BF16, false, 0);
    tiny_close(&tiny);
    test_assert_error(model_open(&opened, other_directory, &options, 1, &error), &error, ERROR_ARGUMENT, "has none");
    model_close(&opened);
    test_directory_remove(other_directory);
    test_directory_remove(directory);
}

static int open_and_close(void *argument, struct error *error) {
    struct opened *opened = argument;
    struct expert_options options = {.slots = TOP_K};
    struct model_params params = opened->model.params;   // the store is destroyed before they are used
    struct expert_store *store;
    int code = expert_store_create(&store, &params, &opened->model.config, opened->checkpoint, &options, error);
    expert_store_destroy(store);
    return code;
}

static void test_failing_memory_at_opening(void **state) {
    (void)state;
    char *directory = save(FORMAT_BF16, 0);
    struct opened opened;
    struct error error = {0};
    require(model_open(&opened, directory, NULL, 1, &error), &error);
    assert_true(test_failing_memory(open_and_close, &opened) > 5);
    model_close(&opened);
    test_directory_remove(directory);
}

// Matrices that touch are one read, whatever their order; far apart or in other files they are several.
static void test_reads(void **state) {
    (void)state;
    static struct random_file files[2];
    struct expert_store store = {.files = files};
    struct read_job job;
    static uint8_t memory[64 * FILE_BLOCK] __attribute__((aligned(FILE_BLOCK)));
    uint8_t *place[EXPERT_MATRICES];
    struct expert expert = {.matrix = {{0, 5000, 1000}, {0, 6100, 1000}, {0, 3000, 2000}}};
    assert_int_equal(expert_reads(&store, &expert, &job, memory, place), 2 * FILE_BLOCK);
    assert_int_equal(job.part_count, 1);
    assert_int_equal(job.parts[0].offset, 0);
    assert_int_equal(job.parts[0].needed, 7100);
    assert_ptr_equal(place[0], memory + 5000);
    assert_ptr_equal(place[1], memory + 6100);
    assert_ptr_equal(place[2], memory + 3000);

    expert = (struct expert){.matrix = {{0, 1 << 20, 100}, {1, 10, 4086}, {0, 4095, 2}}};
    assert_int_equal(expert_reads(&store, &expert, &job, memory, place), 4 * FILE_BLOCK);
    assert_int_equal(job.part_count, 3);
    assert_ptr_equal(place[2], memory + 4095);
    assert_int_equal(job.parts[0].size, 2 * FILE_BLOCK);
    assert_ptr_equal(place[0], memory + 2 * FILE_BLOCK);
    assert_ptr_equal(place[1], memory + 3 * FILE_BLOCK + 10);
    assert_int_equal(job.parts[2].needed, 4096);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_no_allocation),
        cmocka_unit_test(test_failing_reads),
        cmocka_unit_test(test_failing_reads_of_requests),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_failing_memory_at_opening),
        cmocka_unit_test(test_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
