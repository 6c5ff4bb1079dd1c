// The optimizer against formulas written out in double precision, and the balancing rule.
#include <math.h>

#include "base/file.h"
#include "tensor/formats.h"
#include "train/tiny_run.h"

static char *directory;
static struct trainer *trainer;

static int setup(void **state) {
    (void)state;
    directory = tiny_directory();
    log_set_level(LOG_ERROR);
    tiny_prepare(directory, TINY_VARIED);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    trainer_destroy(trainer);
    trainer = NULL;
    test_directory_remove(directory);
    return 0;
}

static void create(const char *const *assignments) {
    struct run_config run = tiny_run(directory, "run", assignments);
    struct error error = {0};
    if (trainer_create(&trainer, &run, false, &error) != 0) {
        fail_msg("%s", error.text);
    }
}

static void fill_gradients(struct param_tree *gradients, double scale) {
    for (int64_t i = 0; i < gradients->list.count; i++) {
        struct tensor *tensor = gradients->list.items[i].tensor;
        for (int64_t e = 0; tensor_present(tensor) && e < tensor_elements(tensor); e++) {
            ((float *)tensor->data)[e] = (float)(scale * sin((double)(i * 131 + e)));
        }
    }
}

static void test_norm(void **state) {
    (void)state;
    create(NULL);
    struct param_tree *gradients = &trainer->gradient.buffers[0];
    fill_gradients(gradients, 0.01);
    double sum = 0;
    for (int64_t i = 0; i < gradients->list.count; i++) {
        const struct tensor *tensor = gradients->list.items[i].tensor;
        for (int64_t e = 0; tensor_present(tensor) && e < tensor_elements(tensor); e++) {
            double value = (double)((const float *)tensor->data)[e];
            sum += value * value;
        }
    }
    double norm = gradient_norm(&trainer->op, gradients);
    assert_true(fabs(norm - sqrt(sum)) < 1e-6 * norm);
    ((float *)gradients->list.items[3].tensor->data)[0] = NAN;
    assert_true(!isfinite(gradient_norm(&trainer->op, gradients)));
}

// Three updates of every element with FP32 moments, clipped and not, against double precision. The optimizer gets
// gradients that are `power` times as large.
static void check_adamw(double scale, double clip_factor, double power) {
    static const char *const keys[] = {"optimizer.moments=f32", "optimizer.ema_decay=0.999", NULL};
    create(keys);
    struct optimizer *optimizer = &trainer->optimizer;
    struct param_tree *gradients = &trainer->gradient.buffers[0], start;
    struct error error = {0};
    const double rate = 0.01;
    assert_int_equal(param_tree_create(&start, &trainer->config, FORMAT_F32, true, SCOPE_ALL, &trainer->arena, &error),
                     0);
    param_tree_copy(&trainer->op, &start, &optimizer->masters);
    fill_gradients(gradients, scale * power);
    double norm = gradient_norm(&trainer->op, gradients) / power;
    for (int step = 0; step < 3; step++) {
        optimizer_update(optimizer, &trainer->op, gradients, &trainer->run.optimizer, power, rate, norm);
    }
    double factor = (clip_factor > 0 ? clip_factor / norm : 1) / power;
    for (int64_t i = 0; i < start.list.count; i++) {
        const struct param *param = &start.list.items[i];
        for (int64_t e = 0; param->trained && e < tensor_elements(param->tensor); e += 7) {
            double gradient = factor * (double)((const float *)gradients->list.items[i].tensor->data)[e];
            double w = (double)((const float *)param->tensor->data)[e], m = 0, v = 0, average = w;
            double decay = param->rank == 2 ? 0.1 : 0;
            for (int t = 1; t <= 3; t++) {
                m = 0.9 * m + 0.1 * gradient;
                v = 0.95 * v + 0.05 * gradient * gradient;
                w -= rate * (m / (1 - pow(0.9, t)) / (sqrt(v / (1 - pow(0.95, t))) + 1e-8) + decay * w);
                double d = fmin(0.999, (1.0 + t) / (10.0 + t));
                average = d * average + (1 - d) * w;
            }
            double found = (double)((const float *)optimizer->masters.list.items[i].tensor->data)[e];
            double found_average = (double)((const float *)optimizer->average.list.items[i].tensor->data)[e];
            if (!(fabs(found - w) < 2e-6 && fabs(found_average - average) < 2e-6)) {
                fail_msg("%s[%lld]: found %.9g, average %.9g; expected %.9g, %.9g", param->name, (long long)e, found,
                         found_average, w, average);
            }
        }
    }
}

static void test_adamw(void **state) {
    (void)state;
    check_adamw(1e-4, 0, 1);
}

static void test_adamw_clipped(void **state) {
    (void)state;
    check_adamw(1.0, 1.0, 1);
}

static void test_adamw_scaled(void **state) {
    (void)state;
    check_adamw(1e-4, 0, ldexp(1, 30));
}

static void test_adamw_clipped_scaled(void **state) {
    (void)state;
    check_adamw(1.0, 1.0, ldexp(1, 30));
}

// In BF16 training the compute weights are the masters rounded, and the small ones are the masters.
static void test_compute_weights(void **state) {
    (void)state;
    static const char *const keys[] = {"train.precision=bf16", NULL};
    create(keys);
    struct optimizer *optimizer = &trainer->optimizer;
    fill_gradients(&trainer->gradient.buffers[0], 1e-3);
    optimizer_update(optimizer, &trainer->op, &trainer->gradient.buffers[0], &trainer->run.optimizer, 1, 0.01, 1);
    int64_t rounded = 0, shared = 0;
    for (int64_t i = 0; i < optimizer->masters.list.count; i++) {
        const struct tensor *master = optimizer->masters.list.items[i].tensor,
                            *weight = optimizer->weights.list.items[i].tensor;
        if (weight->data == master->data) {
            assert_true(optimizer->masters.list.items[i].kind == PARAM_NORM ||
                        optimizer->masters.list.items[i].kind == PARAM_ROUTER ||
                        optimizer->masters.list.items[i].kind == PARAM_ROUTER_BIAS);
            shared++;
            continue;
        }
        rounded++;
        for (int64_t e = 0; e < tensor_elements(master); e++) {
            assert_int_equal(((const uint16_t *)weight->data)[e], bf16_narrow(((const float *)master->data)[e]));
        }
    }
    assert_true(rounded > 10 && shared > 5);
}

static void test_router_bias(void **state) {
    (void)state;
    create(NULL);
    // Two MoE layers (one of the MTP module) of eight experts. Mean of the first is 10, of the second 2.5 (not whole).
    static const int64_t load[16] = {10, 9, 11, 10, 40, 0, 0, 0, 2, 3, 2, 3, 2, 3, 2, 3};
    assert_int_equal(moe_layer_count(&trainer->config), 2);
    router_bias_update(&trainer->optimizer, &trainer->config, load, 0.25);
    router_bias_update(&trainer->optimizer, &trainer->config, load, 0.25);
    static const float expected[16] = {0,    0.5f,  -0.5f, 0,     -0.5f, 0.5f,  0.5f, 0.5f,
                                       0.5f, -0.5f, 0.5f,  -0.5f, 0.5f,  -0.5f, 0.5f, -0.5f};
    const float *first = router_bias(&trainer->optimizer.masters, 0),
                *second = router_bias(&trainer->optimizer.masters, 1);
    assert_ptr_equal(first, trainer->model.params.layers[1].moe.e_score_correction_bias.data);
    assert_ptr_equal(second, trainer->model.params.mtp[0].block.moe.e_score_correction_bias.data);
    assert_memory_equal(first, expected, 8 * sizeof(float));
    assert_memory_equal(second, expected + 8, 8 * sizeof(float));
    assert_null(router_bias(&trainer->optimizer.masters, 2));
}

static void test_violation(void **state) {
    (void)state;
    static const int64_t load[8] = {10, 10, 10, 10, 0, 0, 30, 10};
    assert_true(load_violation(load, 4) == 0);
    assert_true(load_violation(load + 4, 4) == 2);
    assert_true(load_violation_mean(load, 2, 4) == 1);
    static const int64_t nothing[4] = {0};
    assert_true(load_violation(nothing, 4) == 0);
    assert_true(load_violation_mean(nothing, 0, 4) == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_norm, setup, teardown),
        cmocka_unit_test_setup_teardown(test_adamw, setup, teardown),
        cmocka_unit_test_setup_teardown(test_adamw_clipped, setup, teardown),
        cmocka_unit_test_setup_teardown(test_adamw_scaled, setup, teardown),
        cmocka_unit_test_setup_teardown(test_adamw_clipped_scaled, setup, teardown),
        cmocka_unit_test_setup_teardown(test_compute_weights, setup, teardown),
        cmocka_unit_test_setup_teardown(test_router_bias, setup, teardown),
        cmocka_unit_test(test_violation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
