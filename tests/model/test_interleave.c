// model_interleave: which parameters become panels, and that not a bit of a model's logits changes, prompts and single
// tokens, both forms of attention, experts included, for BF16 and E4M3 weights.
#include <string.h>

#include "infer/session.h"
#include "model/quantize.h"
#include "support/model_fixture.h"
#include "support/test.h"
#include "tensor/formats.h"
#include "tensor/panels.h"

#define TOKENS 40
#define MOST_VOCABULARY 512

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

static int count_panels(void *argument, const struct param *param, struct error *error) {
    int64_t *count = argument;
    (void)error;
    bool kept = strstr(param->name, "kv_b_proj") != NULL;
    bool linear = param->kind == PARAM_LINEAR || param->kind == PARAM_HEAD || param->kind == PARAM_EH_PROJ;
    bool plain = param->tensor->format == FORMAT_F32;   // what the fixture leaves as it is
    assert_int_equal(format_is_panels(param->tensor->format), linear && !kept && !plain);
    *count += format_is_panels(param->tensor->format);
    return 0;
}

static void interleave(struct fixture *fixture) {
    struct error error = {0};
    int64_t count = 0;
    int64_t bytes = model_interleaved_bytes(&fixture->model.params, &fixture->model.config);
    assert_int_equal(
        model_interleave(&fixture->model.params, &fixture->model.config, false, &fixture->op, &fixture->arena, &error),
        0);
    params_visit(&fixture->model.params, &fixture->model.config, count_panels, &count, NULL);
    assert_true(count > 20 && bytes > 0);
}

static void check_case(const char *name, enum format format, enum session_form form, int64_t chunk) {
    static float stored[TOKENS * MOST_VOCABULARY], interleaved[TOKENS * MOST_VOCABULARY];
    const struct fixture_options options = {.compute = FORMAT_BF16, .weights = format, .threads = 2, .isa = ISA_BEST};
    struct fixture fixture;
    fixture_open(&fixture, name, &options);
    assert_true(fixture.model.config.vocab_size <= MOST_VOCABULARY);
    if (op_interleaves(&fixture.op)) {
        evaluate(stored, &fixture, form, chunk);
        interleave(&fixture);
        evaluate(interleaved, &fixture, form, chunk);
        assert_memory_equal(stored, interleaved, (size_t)(TOKENS * fixture.model.config.vocab_size) * sizeof *stored);
    }
    fixture_close(&fixture);
}

static void test_same_bits(void **state) {
    (void)state;
    static const char *const cases[] = {"v3_groups", "v3_mtp2", "v2_lite"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int form = SESSION_EXPANDED; form <= SESSION_ABSORBED; form++) {
            for (int f = 0; f < 2; f++) {
                enum format format = f == 0 ? FORMAT_BF16 : FORMAT_E4M3_BLOCK;
                check_case(cases[i], format, (enum session_form)form, TOKENS);
                check_case(cases[i], format, (enum session_form)form, 1);
                check_case(cases[i], format, (enum session_form)form, 11);
            }
        }
    }
}

// What holds on every instruction set holds within AMX, whose order of sums is another.
static void test_amx(void **state) {
    if (fixture_amx(true)) {
        test_same_bits(state);
        fixture_amx(false);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_amx), cmocka_unit_test(test_same_bits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
