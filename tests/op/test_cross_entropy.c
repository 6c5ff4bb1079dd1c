// Cross-entropy: loss and gradient in double, ignored targets, formats, aliases, edges, row batching.
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "support/op_fixture.h"
#include "support/test.h"

struct entropy {
    struct tensor logits;
    int32_t targets[64];
    float scale;
};

static struct entropy entropy_new(int64_t rows, int64_t vocabulary, int edges) {
    struct entropy e = {.logits = tensor_new_2d(FORMAT_F32, rows, vocabulary), .scale = 0.37f};
    if (edges > 0) {
        fill_edges(&e.logits, 9.0f, 1, edges);
    } else {
        fill_uniform(&e.logits, 9.0f, 1);
    }
    for (int64_t t = 0; t < rows; t++) {
        e.targets[t] = t % 5 == 3 ? -1 : (int32_t)(t * 7919 % vocabulary);
    }
    return e;
}

static void run(struct op_context *op, struct tensor *outputs, void *argument) {
    struct entropy *e = argument;
    op_cross_entropy(op, outputs[0].data, &outputs[1], &e->logits, e->targets, e->scale);
}

static void run_loss(struct op_context *op, struct tensor *outputs, void *argument) {
    struct entropy *e = argument;
    op_cross_entropy(op, outputs[0].data, NULL, &e->logits, e->targets, e->scale);
}

static void run_in_place(struct op_context *op, struct tensor *outputs, void *argument) {
    struct entropy *e = argument;
    op_cross_entropy(op, outputs[0].data, &outputs[1], &outputs[1], e->targets, e->scale);
}

static void test_formula(void **state) {
    (void)state;
    static const int64_t vocabularies[] = {1, 2, 17, 1024, 1025, 5003};
    for (size_t k = 0; k < sizeof vocabularies / sizeof *vocabularies; k++) {
        int64_t rows = 13, vocabulary = vocabularies[k];
        struct entropy e = entropy_new(rows, vocabulary, 0);
        struct tensor full[] = {tensor_new_1d(FORMAT_F32, rows), tensor_new_2d(FORMAT_F32, rows, vocabulary)};
        struct tensor half[] = {tensor_new_1d(FORMAT_F32, rows), tensor_new_2d(FORMAT_BF16, rows, vocabulary)};
        struct tensor alone = tensor_new_1d(FORMAT_F32, rows);
        struct tensor in_place[] = {tensor_new_1d(FORMAT_F32, rows), tensor_clone(&e.logits)};
        fill_uniform(&full[1], 1.0f, 2);   // to be overwritten, also in ignored rows
        double *loss = array_new(rows, sizeof *loss), *gradient = array_new(rows * vocabulary, sizeof *gradient);
        for (int64_t t = 0; t < rows; t++) {
            double sum = 0;
            for (int64_t i = 0; i < vocabulary; i++) {
                sum += exp((double)element_get(&e.logits, t * vocabulary + i));
            }
            for (int64_t i = 0; i < vocabulary && e.targets[t] >= 0; i++) {
                double logit = (double)element_get(&e.logits, t * vocabulary + i);
                gradient[t * vocabulary + i] = (double)e.scale * (exp(logit) / sum - (i == e.targets[t]));
                loss[t] += i == e.targets[t] ? log(sum) - logit : 0;
            }
        }
        assert_same_everywhere(run, full, 2, &e);
        assert_same_everywhere(run, half, 2, &e);
        assert_same_everywhere(run_loss, &alone, 1, &e);
        assert_same_everywhere(run_in_place, in_place, 2, &e);
        if (vocabulary > 1) {
            assert_true(relative_error(&full[0], loss) < 5e-7);
            assert_true(relative_error(&full[1], gradient) < 1e-6);
            assert_true(relative_error(&half[1], gradient) < 4e-3);
        }
        assert_true(same_bits(&full[0], &half[0]) && same_bits(&full[0], &alone) && same_bits(&full[0], &in_place[0]));
        assert_true(same_bits(&full[1], &in_place[1]));
        memory_free(loss);
        memory_free(gradient);
        for (int i = 0; i < 2; i++) {
            tensor_free(&full[i]);
            tensor_free(&half[i]);
            tensor_free(&in_place[i]);
        }
        tensor_free(&alone);
        tensor_free(&e.logits);
    }
}

static void test_edges(void **state) {
    (void)state;
    for (int rarity = 2; rarity < 100000; rarity *= 20) {
        for (int64_t vocabulary = 1; vocabulary < 3000; vocabulary = vocabulary * 9 + 4) {
            struct entropy e = entropy_new(40, vocabulary, rarity);
            struct tensor full[] = {tensor_new_1d(FORMAT_F32, 40), tensor_new_2d(FORMAT_F32, 40, vocabulary)};
            struct tensor half[] = {tensor_new_1d(FORMAT_F32, 40), tensor_new_2d(FORMAT_BF16, 40, vocabulary)};
            assert_same_everywhere(run, full, 2, &e);
            assert_same_everywhere(run, half, 2, &e);
            for (int i = 0; i < 2; i++) {
                tensor_free(&full[i]);
                tensor_free(&half[i]);
            }
            tensor_free(&e.logits);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formula),
        cmocka_unit_test(test_edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
