// Two products of one input in one parallel run: the bits of two calls, for few rows (one run) and more (two).
#include "base/memory.h"
#include "support/op_fixture.h"
#include "support/test.h"

enum { DEPTH = 96, FIRST = 40, SECOND = 72, GROUPS = 3 };

struct pair {
    struct tensor x, w_first[GROUPS], w_second[GROUPS];
    const int32_t *offsets;   // NULL: the first two weights alone
};

static struct pair pair_new(enum format format, int64_t rows) {
    struct pair pair = {.x = tensor_new_2d(format, rows, DEPTH)};
    fill_edges(&pair.x, 1.0f, 1, 300);
    for (uint64_t g = 0; g < GROUPS; g++) {
        pair.w_first[g] = tensor_new_2d(format, FIRST, DEPTH);
        pair.w_second[g] = tensor_new_2d(format, SECOND, DEPTH);
        fill_uniform(&pair.w_first[g], 1.0f, 2 + 2 * g);
        fill_uniform(&pair.w_second[g], 1.0f, 3 + 2 * g);
    }
    return pair;
}

static void pair_free(struct pair *pair) {
    tensor_free(&pair->x);
    for (int g = 0; g < GROUPS; g++) {
        tensor_free(&pair->w_first[g]);
        tensor_free(&pair->w_second[g]);
    }
}

static void run_pair(struct op_context *op, struct tensor *y, void *argument) {
    struct pair *p = argument;
    if (p->offsets == NULL) {
        op_linear_pair(op, &y[0], &y[1], &p->x, p->w_first, p->w_second);
    } else {
        op_linear_grouped_pair(op, &y[0], &y[1], &p->x, p->w_first, p->w_second, p->offsets, GROUPS);
    }
}

static void run_apart(struct op_context *op, struct tensor *y, void *argument) {
    struct pair *p = argument;
    if (p->offsets == NULL) {
        op_linear(op, &y[0], &p->x, p->w_first, OP_SET);
        op_linear(op, &y[1], &p->x, p->w_second, OP_SET);
    } else {
        op_linear_grouped(op, &y[0], &p->x, p->w_first, p->offsets, GROUPS);
        op_linear_grouped(op, &y[1], &p->x, p->w_second, p->offsets, GROUPS);
    }
}

static void check(enum format format, int64_t rows, const int32_t *offsets) {
    struct pair pair = pair_new(format, rows);
    pair.offsets = offsets;
    struct tensor together[] = {tensor_new_2d(format, rows, FIRST), tensor_new_2d(format, rows, SECOND)};
    struct tensor apart[] = {tensor_new_2d(format, rows, FIRST), tensor_new_2d(format, rows, SECOND)};
    assert_same_everywhere(run_pair, together, 2, &pair);
    assert_same_everywhere(run_apart, apart, 2, &pair);
    for (int i = 0; i < 2; i++) {
        assert_true(same_bits(&together[i], &apart[i]));
        tensor_free(&together[i]);
        tensor_free(&apart[i]);
    }
    pair_free(&pair);
}

static void test_pair(void **state) {
    (void)state;
    for (enum format format = FORMAT_F32; format <= FORMAT_BF16; format++) {
        check(format, 1, NULL);
        check(format, 8, NULL);
        check(format, 9, NULL);
    }
}

static void test_grouped_pair(void **state) {
    (void)state;
    static const int32_t few[] = {0, 1, 1, 7}, many[] = {0, 4, 30, 40};
    for (enum format format = FORMAT_F32; format <= FORMAT_BF16; format++) {
        check(format, 7, few);
        check(format, 40, many);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pair),
        cmocka_unit_test(test_grouped_pair),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
