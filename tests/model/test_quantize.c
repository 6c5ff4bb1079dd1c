// model/quantize.c: which parameters become integers and of which values, from directories of every format and by any
// number of threads; logits against those of the same weights multiplied out; the bits of sessions.
#include "model/quantize.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "infer/session.h"
#include "support/model_fixture.h"
#include "support/test.h"
#include "support/tiny.h"
#include "tensor/formats.h"
#include "tensor/int_groups.h"

// ---- Directories ----------------------------------------------------------------------------------------------------

struct opened {
    struct checkpoint *checkpoint;
    struct model_config config;
    struct model_params params;
    struct param_list list;
    struct arena arena;
};

static void open_directory(struct opened *opened, const char *directory) {
    struct error error = {0};
    *opened = (struct opened){0};
    arena_init(&opened->arena, "opened");
    assert_int_equal(model_config_read(&opened->config, directory, &error), 0);
    assert_int_equal(checkpoint_open(&opened->checkpoint, directory, &error), 0);
    assert_int_equal(model_map(&opened->params, &opened->config, opened->checkpoint, &opened->arena, &error), 0);
    assert_int_equal(params_list(&opened->list, &opened->params, &opened->config, &opened->arena, &error), 0);
}

static void close_directory(struct opened *opened) {
    checkpoint_close(opened->checkpoint);
    arena_destroy(&opened->arena);
}

static void quantize(struct opened *opened, enum format format, int threads) {
    struct pool *pool = NULL;
    struct error error = {0};
    if (threads > 0) {
        assert_int_equal(pool_create(&pool, threads, &error), 0);
    }
    assert_int_equal(model_quantize(&opened->params, &opened->config, format, true, pool, &opened->arena, &error), 0);
    pool_destroy(pool);
}

static void assert_integers_of(const struct tensor *found, const struct tensor *source, enum format format) {
    struct tensor expected = tensor_2d(format, NULL, source->shape[0], source->shape[1]);
    assert_int_equal(found->format, format);
    expected.data = memory_allocate((size_t)int_bytes(&expected), 1, "integers", NULL);
    for (int64_t tile = 0; tile < int_tiles(&expected); tile++) {
        int_quantize(&expected, source, tile);
    }
    assert_memory_equal(found->data, expected.data, (size_t)int_bytes(&expected));
    memory_free(expected.data);
}

static bool ends_with(const char *name, const char *suffix) {
    size_t length = strlen(name), tail = strlen(suffix);
    return length >= tail && strcmp(name + length - tail, suffix) == 0;
}

static enum format expected_format(const struct param *param, enum format format) {
    bool more_exact = ends_with(param->name, "lm_head.weight") || ends_with(param->name, "eh_proj.weight");
    bool linear = ends_with(param->name, "_proj.weight") || ends_with(param->name, "kv_a_proj_with_mqa.weight");
    return more_exact ? FORMAT_INT8 : linear && !ends_with(param->name, "kv_b_proj.weight") ? format : FORMAT_NONE;
}

static void check_directory(const char *directory, enum format format, int threads) {
    struct opened stored, opened;
    int64_t integers = 0;
    open_directory(&stored, directory);
    open_directory(&opened, directory);
    quantize(&opened, format, threads);
    for (int64_t i = 0; i < stored.list.count; i++) {
        const struct param *param = &stored.list.items[i];
        const struct tensor *found = opened.list.items[i].tensor;
        enum format wanted = expected_format(param, format);
        assert_int_equal(model_quantized_format(param, format), wanted);
        if (wanted != FORMAT_NONE) {
            assert_integers_of(found, param->tensor, wanted);
            integers++;
        } else {
            assert_int_equal(found->format, param->tensor->format);
            assert_memory_equal(found->data, param->tensor->data, (size_t)tensor_elements(found));
        }
    }
    assert_true(integers > 40);
    if (stored.config.tie_word_embeddings) {
        assert_integers_of(&opened.params.lm_head, &stored.params.embed_tokens, FORMAT_INT8);
        assert_int_equal(opened.params.embed_tokens.format, stored.params.embed_tokens.format);
    }
    close_directory(&stored);
    close_directory(&opened);
}

static void test_directories(void **state) {
    (void)state;
    static const enum format formats[] = {FORMAT_F32, FORMAT_BF16, FORMAT_E4M3_BLOCK};
    char *root = tiny_directory();
    for (int i = 0; i < 4; i++) {
        struct model_config config = tiny_config();
        struct tiny tiny;
        char directory[600];
        snprintf(directory, sizeof directory, "%s/%d", root, i);
        config.tie_word_embeddings = i == 3;
        tiny_open(&tiny, &config, FORMAT_F32, 0);
        tiny_save(&tiny, directory, formats[i % 3], false, 30000);
        tiny_close(&tiny);
        check_directory(directory, FORMAT_INT8, 0);
        check_directory(directory, FORMAT_INT4, 3);
    }
    test_directory_remove(root);
}

static int quantize_tiny(void *argument, struct error *error) {
    struct arena arena;
    struct tiny *tiny = argument;
    struct model_params params = tiny->params;   // the tables are shared: put back below
    struct param_list list;
    struct tensor before[256];
    arena_init(&arena, "integers");
    assert_int_equal(params_list(&list, &tiny->params, &tiny->config, &tiny->arena, NULL), 0);
    assert_true(list.count <= 256);
    for (int64_t i = 0; i < list.count; i++) {
        before[i] = *list.items[i].tensor;
    }
    int code = model_quantize(&params, &tiny->config, FORMAT_INT4, false, NULL, &arena, error);
    for (int64_t i = 0; i < list.count; i++) {
        *list.items[i].tensor = before[i];
    }
    arena_destroy(&arena);
    return code;
}

static void test_failing_memory_everywhere(void **state) {
    (void)state;
    struct model_config config = tiny_config();
    struct tiny tiny;
    tiny_open(&tiny, &config, FORMAT_BF16, 0);
    assert_int_equal(arena_reserve(&tiny.arena, 1 << 24, NULL), 0);   // for the lists of quantize_tiny
    assert_int_equal(test_failing_memory(quantize_tiny, &tiny), 2);
    tiny_close(&tiny);
}

// ---- Logits ---------------------------------------------------------------------------------------------------------

static void quantize_fixture(struct fixture *fixture, enum format format) {
    struct error error = {0};
    assert_int_equal(model_quantize(&fixture->model.params, &fixture->model.config, format, false, fixture->pool,
                                    &fixture->arena, &error),
                     0);
}

static int widen_param(void *argument, const struct param *param, struct error *error) {
    struct fixture *fixture = argument;
    (void)error;
    if (format_is_int(param->tensor->format)) {
        const struct tensor source = *param->tensor;
        int64_t rows = source.shape[0], columns = source.shape[1];
        float *values = arena_allocate(&fixture->arena, (size_t)(rows * columns), sizeof *values);
        for (int64_t row = 0; row < rows; row++) {
            format_info(source.format)->widen(values + row * columns, &source, row, 0, columns);
        }
        *param->tensor = tensor_2d(FORMAT_F32, values, rows, columns);
    }
    return 0;
}

static struct tensor logits_of(struct fixture *fixture) {
    struct tensor hidden = fixture_hidden(fixture, FORMAT_F32);
    return fixture_logits(fixture, &hidden);
}

static void test_logits(void **state) {
    (void)state;
    static const struct fixture_options f32 = {.compute = FORMAT_F32, .threads = 2, .isa = ISA_BEST};
    static const char *const cases[] = {"v3_groups", "v3_mtp2", "v2_lite"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (enum format format = FORMAT_INT8; format <= FORMAT_INT4; format++) {
            struct fixture fixture;
            fixture_open(&fixture, cases[i], &f32);
            struct tensor exact = logits_of(&fixture);
            quantize_fixture(&fixture, format);
            struct tensor integers = logits_of(&fixture);
            params_visit(&fixture.model.params, &fixture.model.config, widen_param, &fixture, NULL);
            struct tensor widened = logits_of(&fixture);
            double from_exact = relative_difference(&integers, &exact);
            print_message("%s, %s: logits differ from unrounded weights' by %.4f\n", cases[i],
                          format_info(format)->name, from_exact);
            assert_true(relative_difference(&integers, &widened) < 1e-5);
            assert_true(from_exact > 1e-5);   // how far depends on the model: an expert may change places with another
            fixture_close(&fixture);
        }
    }
}

#define TOKENS 40

struct rows {
    float *values;
    int64_t width;
};

static int keep_row(void *argument, int64_t row, const float *logits) {
    struct rows *rows = argument;
    memcpy(rows->values + row * rows->width, logits, (size_t)rows->width * sizeof *logits);
    return 0;
}

static void evaluate(float *values, struct fixture *fixture, enum session_form form, int64_t chunk) {
    struct error error = {0};
    int32_t ids[TOKENS];
    struct rows rows = {.values = values, .width = fixture->model.config.vocab_size};
    struct session *session;
    struct session_options options = {.capacity = TOKENS, .chunk = chunk, .form = form};
    for (int i = 0; i < TOKENS; i++) {
        ids[i] = (int32_t)((i * 7 + 3) % rows.width);
    }
    assert_int_equal(session_create(&session, &fixture->model, &fixture->op, &options, &error), 0);
    assert_int_equal(session_evaluate(session, ids, TOKENS, 0, keep_row, &rows, &error), 0);
    session_destroy(session);
}

// Token by token, in chunks, by another number of threads, on another instruction set: the same bits.
static void test_same_bits(void **state) {
    (void)state;
    for (enum format format = FORMAT_INT8; format <= FORMAT_INT4; format++) {
        for (int form = SESSION_EXPANDED; form <= SESSION_ABSORBED; form++) {
            static float first[TOKENS * 512], other[TOKENS * 512];
            static const struct {
                int threads, chunk;
                enum isa isa;
            } ways[] = {{2, TOKENS, ISA_BEST}, {1, 1, ISA_BEST}, {3, 11, ISA_SCALAR}};
            for (size_t way = 0; way < sizeof ways / sizeof *ways; way++) {
                struct fixture_options options = {
                    .compute = FORMAT_BF16, .weights = FORMAT_BF16, .threads = ways[way].threads, .isa = ways[way].isa};
                struct fixture fixture;
                fixture_open(&fixture, "v3_mtp2", &options);
                assert_true(fixture.model.config.vocab_size <= 512);
                quantize_fixture(&fixture, format);
                evaluate(way == 0 ? first : other, &fixture, (enum session_form)form, ways[way].chunk);
                if (way > 0) {
                    assert_memory_equal(first, other,
                                        (size_t)(TOKENS * fixture.model.config.vocab_size) * sizeof *first);
                }
                fixture_close(&fixture);
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_directories),
        cmocka_unit_test(test_failing_memory_everywhere),
        cmocka_unit_test(test_logits),
        cmocka_unit_test(test_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
