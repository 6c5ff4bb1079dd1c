// AdamW and the weight average: the update in double over several steps, formats, edges.
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "support/op_fixture.h"
#include "support/test.h"
#include "tensor/formats.h"

enum { MASTER, M, V, WEIGHT, OUTPUTS };

struct update {
    struct tensor gradient;
    struct adamw_step step;
    float decay;
    bool without_weight;
    struct tensor blocks, expected;   // weights in blocks, of `scales` blocks
    int64_t scales;
};

static void run(struct op_context *op, struct tensor *outputs, void *argument) {
    struct update *u = argument;
    op_adamw(op, &outputs[MASTER], &outputs[M], &outputs[V], u->without_weight ? NULL : &outputs[WEIGHT], &u->gradient,
             &u->step);
}

static void run_average(struct op_context *op, struct tensor *outputs, void *argument) {
    struct update *u = argument;
    op_ema(op, &outputs[0], &u->gradient, u->decay);
}

static void test_update(void **state) {
    (void)state;
    enum { ELEMENTS = 9001 };
    for (int formats = 0; formats < 4; formats++) {
        enum format moments = formats & 1 ? FORMAT_BF16 : FORMAT_F32, weights = formats & 2 ? FORMAT_BF16 : FORMAT_F32;
        struct tensor t[] = {tensor_new_1d(FORMAT_F32, ELEMENTS), tensor_new_1d(moments, ELEMENTS),
                             tensor_new_1d(moments, ELEMENTS), tensor_new_1d(weights, ELEMENTS)};
        struct update u = {.gradient = tensor_new_1d(FORMAT_F32, ELEMENTS)};
        double *w = array_new(ELEMENTS, sizeof *w), *m = array_new(ELEMENTS, sizeof *m),
               *v = array_new(ELEMENTS, sizeof *v);
        fill_uniform(&t[MASTER], 0.02f, 1);
        for (int64_t i = 0; i < ELEMENTS; i++) {
            w[i] = (double)element_get(&t[MASTER], i);
        }
        for (int n = 1; n <= 3; n++) {
            fill_uniform(&u.gradient, 3.0f, (uint64_t)n + 1);
            u.step = (struct adamw_step){.learning_rate = 0.01f,
                                         .beta1 = 0.9f,
                                         .beta2 = 0.95f,
                                         .epsilon = 1e-8f,
                                         .weight_decay = 0.1f,
                                         .correction1 = 1.0f - powf(0.9f, (float)n),
                                         .correction2 = 1.0f - powf(0.95f, (float)n),
                                         .gradient_scale = 0.7f};
            assert_same_everywhere(run, t, OUTPUTS, &u);
            for (int64_t i = 0; i < ELEMENTS; i++) {
                double g = (double)element_get(&u.gradient, i) * (double)u.step.gradient_scale;
                m[i] = (double)u.step.beta1 * m[i] + (1 - (double)u.step.beta1) * g;
                v[i] = (double)u.step.beta2 * v[i] + (1 - (double)u.step.beta2) * g * g;
                w[i] -= (double)u.step.learning_rate *
                        (m[i] / (double)u.step.correction1 /
                             (sqrt(v[i] / (double)u.step.correction2) + (double)u.step.epsilon) +
                         (double)u.step.weight_decay * w[i]);
                if (moments == FORMAT_BF16) {   // stored rounded, used unrounded
                    m[i] = (double)bf16_widen(bf16_narrow((float)m[i]));
                    v[i] = (double)bf16_widen(bf16_narrow((float)v[i]));
                    assert_true(fabs((double)element_get(&t[M], i) - m[i]) <= fabs(m[i]) / 128);
                    assert_true(fabs((double)element_get(&t[V], i) - v[i]) <= fabs(v[i]) / 128);
                    m[i] = (double)element_get(&t[M], i);   // a rounding may fall on the other side
                    v[i] = (double)element_get(&t[V], i);
                }
                float weight = element_get(&t[MASTER], i);
                assert_true(element_get(&t[WEIGHT], i) ==
                            (weights == FORMAT_BF16 ? bf16_widen(bf16_narrow(weight)) : weight));
            }
            assert_true(relative_error(&t[MASTER], w) < 1e-6);
        }
        struct tensor clone[] = {tensor_clone(&t[0]), tensor_clone(&t[1]), tensor_clone(&t[2]), tensor_clone(&t[3])};
        assert_same_everywhere(run, t, OUTPUTS, &u);
        u.without_weight = true;
        assert_same_everywhere(run, clone, 3, &u);
        for (int i = 0; i < OUTPUTS; i++) {
            assert_true(i == WEIGHT || same_bits(&clone[i], &t[i]));
            tensor_free(&clone[i]);
            tensor_free(&t[i]);
        }
        tensor_free(&u.gradient);
        memory_free(w);
        memory_free(m);
        memory_free(v);
    }
}

static void test_edges(void **state) {
    (void)state;
    for (int64_t elements = 0; elements < 40000; elements = elements * 7 + 1) {
        for (int formats = 0; formats < 4; formats++) {
            enum format moments = formats & 1 ? FORMAT_BF16 : FORMAT_F32,
                        weights = formats & 2 ? FORMAT_BF16 : FORMAT_F32;
            struct tensor t[] = {tensor_new_1d(FORMAT_F32, elements), tensor_new_1d(moments, elements),
                                 tensor_new_1d(moments, elements), tensor_new_1d(weights, elements)};
            struct update u = {.gradient = tensor_new_1d(FORMAT_F32, elements), .decay = 0.999f};
            u.step = (struct adamw_step){.learning_rate = 2.2e-4f,
                                         .beta1 = 0.9f,
                                         .beta2 = 0.95f,
                                         .epsilon = 1e-8f,
                                         .weight_decay = 0.1f,
                                         .correction1 = 0.1f,
                                         .correction2 = 0.05f,
                                         .gradient_scale = 0.33f};
            for (uint64_t i = 0; i < OUTPUTS; i++) {
                fill_edges(&t[i], 1.0f, i + 1, 8);
            }
            fill_edges(&u.gradient, 1.0f, 9, 8);
            assert_same_everywhere(run, t, OUTPUTS, &u);
            assert_same_everywhere(run_average, t, 1, &u);
            for (int i = 0; i < OUTPUTS; i++) {
                tensor_free(&t[i]);
            }
            tensor_free(&u.gradient);
        }
    }
}

// A weight in blocks holds what op_quantize_blocks makes of the new masters, by whatever way: a row of blocks at a time
// (enough of them for the threads, and narrow), or after the update.
static void run_blocks(struct op_context *op, struct tensor *outputs, void *argument) {
    struct update *u = argument;
    size_t codes = (size_t)tensor_elements(&u->blocks), scales = (size_t)u->scales * sizeof(float);
    memset(u->blocks.data, 0x55, codes);
    memset(u->blocks.scale, 0x55, scales);
    op_adamw(op, &outputs[MASTER], &outputs[M], &outputs[V], &u->blocks, &u->gradient, &u->step);
    op_quantize_blocks(op, &u->expected, &outputs[MASTER], u->step.power_of_two);
    assert_memory_equal(u->blocks.data, u->expected.data, codes);
    assert_memory_equal(u->blocks.scale, u->expected.scale, scales);
}

static void test_blocks(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{1, 1}, {300, 200}, {1000, 100}, {130, 1024}, {260, 1100}};
    for (uint64_t n = 0; n < 2 * sizeof shapes / sizeof *shapes; n++) {
        int64_t rows = shapes[n / 2][0], columns = shapes[n / 2][1];
        struct tensor t[] = {tensor_new_2d(FORMAT_F32, rows, columns), tensor_new_2d(FORMAT_BF16, rows, columns),
                             tensor_new_2d(FORMAT_BF16, rows, columns)};
        struct update u = {.gradient = tensor_new_2d(FORMAT_F32, rows, columns),
                           .blocks = tensor_new_2d(FORMAT_E4M3_BLOCK, rows, columns),
                           .expected = tensor_new_2d(FORMAT_E4M3_BLOCK, rows, columns)};
        u.scales = (rows + 127) / 128 * u.blocks.scale_stride;
        u.blocks.scale = array_new(u.scales, sizeof(float));
        u.expected.scale = array_new(u.scales, sizeof(float));
        u.step = (struct adamw_step){.learning_rate = 0.01f,
                                     .beta1 = 0.9f,
                                     .beta2 = 0.95f,
                                     .epsilon = 1e-8f,
                                     .correction1 = 0.1f,
                                     .correction2 = 0.05f,
                                     .gradient_scale = 0.7f,
                                     .power_of_two = n % 2 != 0};
        fill_uniform(&t[MASTER], 0.02f, n);
        fill_uniform(&u.gradient, 3.0f, n + 100);
        assert_same_everywhere(run_blocks, t, WEIGHT, &u);
        memory_free(u.blocks.scale);
        memory_free(u.expected.scale);
        tensor_free(&u.blocks);
        tensor_free(&u.expected);
        tensor_free(&u.gradient);
        for (int i = 0; i < WEIGHT; i++) {
            tensor_free(&t[i]);
        }
    }
}

static void test_average(void **state) {
    (void)state;
    enum { ELEMENTS = 20000 };
    struct tensor average = tensor_new_1d(FORMAT_F32, ELEMENTS);
    struct update u = {.gradient = tensor_new_1d(FORMAT_F32, ELEMENTS), .decay = 0.99f};
    double *expected = array_new(ELEMENTS, sizeof *expected);
    fill_uniform(&average, 1.0f, 1);
    fill_uniform(&u.gradient, 1.0f, 2);
    for (int64_t i = 0; i < ELEMENTS; i++) {
        expected[i] = (double)u.decay * (double)element_get(&average, i) +
                      (1 - (double)u.decay) * (double)element_get(&u.gradient, i);
    }
    assert_same_everywhere(run_average, &average, 1, &u);
    assert_true(relative_error(&average, expected) < 2e-7);
    memory_free(expected);
    tensor_free(&average);
    tensor_free(&u.gradient);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_update),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_average),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
