// What all operations share: a wrong shape stops the process and says what is wrong, empty row counts do nothing, and
// nothing is allocated once the scratch memory has reached its size.
#include <signal.h>
#include <string.h>

#include "base/memory.h"
#include "support/op_fixture.h"
#include "support/test.h"

// One call of every operation with `rows` rows.
struct everything {
    struct op_fixture fixture;
    struct tensor x, y, w, dw, ids, table, gradient, logits, dlogits, heads, half, angles, master, moment, second;
    float *statistics, *lse;
    struct attention_span span;
};

static const struct router_rule rule = {.experts = 32,
                                        .top_k = 4,
                                        .groups = 4,
                                        .top_groups = 2,
                                        .score = ROUTER_SIGMOID,
                                        .method = ROUTER_GROUP_TOP2,
                                        .normalize = true,
                                        .scaling = 1.0f};

static void everything_open(struct everything *e, int64_t rows, int threads) {
    op_fixture_open(&e->fixture, ISA_BEST, threads);
    e->x = tensor_new_2d(FORMAT_F32, rows, 64);
    e->y = tensor_new_2d(FORMAT_F32, rows, 64);
    e->w = tensor_new_1d(FORMAT_F32, 64);
    e->dw = tensor_new_1d(FORMAT_F32, 64);
    e->ids = tensor_new_1d(FORMAT_I32, rows * 4);
    e->table = tensor_new_2d(FORMAT_BF16, 40, 64);
    e->gradient = tensor_new_2d(FORMAT_F32, 40, 64);
    e->logits = tensor_new_2d(FORMAT_F32, rows, 32);
    e->dlogits = tensor_new_2d(FORMAT_F32, rows, 32);
    e->heads = tensor_new_3d(FORMAT_BF16, rows, 2, 24);
    e->half = tensor_new_3d(FORMAT_BF16, rows, 2, 24);
    e->angles = tensor_new_3d(FORMAT_F32, 300, 12, 2);
    e->master = tensor_new_1d(FORMAT_F32, rows * 64);
    e->moment = tensor_new_1d(FORMAT_BF16, rows * 64);
    e->second = tensor_new_1d(FORMAT_BF16, rows * 64);
    e->statistics = array_new(rows * 32, sizeof(float));
    e->lse = array_new(rows * 2, sizeof(float));
    e->span = (struct attention_span){.count = rows};
    fill_uniform(&e->x, 1.0f, 1);
    fill_uniform(&e->heads, 1.0f, 2);
    fill_uniform(&e->logits, 1.0f, 3);
}

static void everything_close(struct everything *e) {
    struct tensor *all[] = {&e->x,     &e->y,        &e->w,      &e->dw,      &e->ids,
                            &e->table, &e->gradient, &e->logits, &e->dlogits, &e->heads,
                            &e->half,  &e->angles,   &e->master, &e->moment,  &e->second};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        tensor_free(all[i]);
    }
    memory_free(e->statistics);
    memory_free(e->lse);
    op_fixture_close(&e->fixture);
}

static void run_everything(struct everything *e) {
    struct op_context *op = &e->fixture.op;
    int32_t *ids = e->ids.data;
    int64_t rows = e->x.shape[0];
    float *statistics = e->statistics, *weight = e->lse;
    struct adamw_step step = {.learning_rate = 0.1f,
                              .beta1 = 0.9f,
                              .beta2 = 0.9f,
                              .epsilon = 1e-8f,
                              .correction1 = 1.0f,
                              .correction2 = 1.0f,
                              .gradient_scale = 1.0f};
    struct tensor k_nope = tensor_slice(&e->heads, 2, 0, 16), none = {0};
    struct tensor k_rope = tensor_slice(&e->heads, 2, 16, 8), one = tensor_slice(&k_rope, 1, 0, 1);
    struct tensor x1 = tensor_reshape(&e->x, 1, (const int64_t[]){rows * 64});
    op_embedding(op, &e->y, ids, &e->table);
    op_embedding_backward(op, &e->gradient, &e->x, ids);
    op_rms_norm(op, &e->y, statistics, &e->x, &e->w, 1e-6f);
    op_rms_norm_backward(op, &e->y, OP_ADD, &e->dw, &e->x, &e->x, &e->w, statistics);
    op_rope(op, &e->half, ids, &e->angles, false);
    op_attention(op, &e->half, e->lse, &e->heads, &k_nope, &one, &e->heads, &e->span, 1, 0.2f);
    op_attention(op, &e->half, NULL, &e->heads, &e->heads, NULL, &e->heads, &e->span, 1, 0.2f);
    op_attention_backward(op, &e->half, &e->half, &none, &e->half, &e->heads, &e->heads, e->lse, &e->heads, &e->heads,
                          &none, &e->heads, &e->span, 1, 0.2f);
    op_swiglu(op, &e->y, &e->x, &e->x, NULL);
    op_swiglu_backward(op, &e->y, &e->y, statistics, &e->x, &e->x, &e->x, NULL);
    int32_t *expert = ids;
    op_router(op, statistics, expert, e->y.data, &e->logits, NULL, &rule);
    op_router_backward(op, &e->dlogits, e->y.data, statistics, expert, &rule, NULL, 1);
    op_balance_loss(op, weight, e->gradient.data, statistics, rows > 0 ? 1 : 0, rows > 0 ? rows : 1, &rule);
    memset(ids, 0, (size_t)tensor_bytes(&e->ids));
    op_gather_rows(op, &e->y, &e->x, ids);
    for (int32_t i = 0; i < rows; i++) {
        ids[i] = i;
    }
    op_scatter_rows(op, &e->y, &e->x, ids);
    memset(ids, 0, (size_t)tensor_bytes(&e->ids));
    op_combine_rows(op, &e->y, &e->x, ids, NULL, 4, OP_SET);
    op_copy(op, &e->y, &e->x);
    op_add(op, &e->y, &e->x);
    op_zero(op, &e->y);
    op_cross_entropy(op, statistics, &e->dlogits, &e->logits, ids, 1.0f);
    op_adamw(op, &e->master, &e->moment, &e->second, NULL, &x1, &step);
    op_ema(op, &e->master, &x1, 0.9f);
    assert_true(op_sum_squares(op, &e->x) >= 0.0 && op_all_finite(op, &e->x));
}

static void test_empty(void **state) {
    (void)state;
    struct everything e;
    everything_open(&e, 0, 2);
    run_everything(&e);
    for (int64_t i = 0; i < tensor_elements(&e.gradient); i++) {
        assert_true(element_get(&e.gradient, i) == 0.0f);
    }
    everything_close(&e);
}

static void test_no_allocation(void **state) {
    (void)state;
    struct everything e;
    everything_open(&e, 150, 3);
    for (int step = 0; step < 5; step++) {
        memory_guard(step >= 3);
        run_everything(&e);
        arena_reset(&e.fixture.arena);
    }
    memory_guard(false);
    assert_int_equal(e.fixture.arena.used, 0);
    everything_close(&e);
}

enum mistake { WIDTHS, FORMATS, IDENTIFIER, TARGET, KEYS_BEYOND, PAGE_BEYOND, GROUPS, MISTAKES };
static const char *const complaints[MISTAKES] = {"widths",      "format", "vocabulary", "target",
                                                 "keys beyond", "page",   "groups"};

static void make_mistake(void *argument) {
    enum mistake mistake = *(const enum mistake *)argument;
    struct everything e;
    everything_open(&e, 70, 1);
    struct op_context *op = &e.fixture.op;
    int32_t *ids = e.ids.data, pages[] = {0, 1};
    struct router_rule wrong = rule;
    if (mistake == WIDTHS) {
        struct tensor narrow = tensor_slice(&e.w, 0, 0, 63);
        op_rms_norm(op, &e.y, NULL, &e.x, &narrow, 1e-6f);
    } else if (mistake == FORMATS) {
        struct tensor f32 = tensor_new_3d(FORMAT_F32, 70, 2, 24);
        op_attention(op, &f32, NULL, &e.heads, &e.heads, NULL, &e.heads, &e.span, 1, 1.0f);
    } else if (mistake == IDENTIFIER) {
        ids[69] = 40;
        op_embedding(op, &e.y, ids, &e.table);
    } else if (mistake == TARGET) {
        ids[3] = -2;
        op_cross_entropy(op, e.statistics, NULL, &e.logits, ids, 1.0f);
    } else if (mistake == KEYS_BEYOND) {
        e.span.position = 1;
        op_attention(op, &e.half, NULL, &e.heads, &e.heads, NULL, &e.heads, &e.span, 1, 1.0f);
    } else if (mistake == PAGE_BEYOND) {   // page 1 has six rows: enough for positions 64..69, not for 70
        e.span = (struct attention_span){.count = 1, .position = 69, .pages = pages};
        op_attention(op, &e.half, NULL, &e.heads, &e.heads, NULL, &e.heads, &e.span, 1, 1.0f);
        e.span.position = 70;
        op_attention(op, &e.half, NULL, &e.heads, &e.heads, NULL, &e.heads, &e.span, 1, 1.0f);
    } else {
        wrong.top_k = 17;
        op_router(op, e.statistics, ids, e.lse, &e.logits, NULL, &wrong);
    }
}

static void test_mistakes(void **state) {
    (void)state;
    for (enum mistake mistake = WIDTHS; mistake < MISTAKES; mistake++) {
        char text[1024];
        assert_int_equal(test_child_signal(make_mistake, &mistake, text, sizeof text), SIGABRT);
        if (strstr(text, complaints[mistake]) == NULL) {
            fail_msg("\"%s\" does not say \"%s\"", text, complaints[mistake]);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_no_allocation),
        cmocka_unit_test(test_mistakes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
