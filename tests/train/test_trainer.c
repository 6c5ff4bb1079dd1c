// Whole runs of a tiny model: the same bits whatever the threads, micro-batches, instruction set and recomputation;
// skipped steps; no allocation once warm; it learns; the experts are balanced.
#include <math.h>

#include "base/file.h"
#include "base/memory.h"
#include "op/cpu/kernels.h"
#include "train/tiny_run.h"
#include "weights/safetensors.h"

static char *directory;

static int setup(void **state) {
    (void)state;
    directory = tiny_directory();
    log_set_level(LOG_ERROR);
    tiny_prepare(directory, TINY_VARIED);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    test_directory_remove(directory);
    return 0;
}

static void remove_run(const struct run_config *run) {
    struct error error = {0};
    assert_int_equal(file_remove_tree(run->train.out, &error), 0);
}

// ---- The same bits
// ---------------------------------------------------------------------------------------------------

static void test_same_bits(const char *precision, const char *shards) {
    static const char *const variants[][4] = {
        {"train.threads=2", "train.micro_batch=2", "train.isa=best", "recompute.swiglu=false"},
        {"train.threads=3", "train.micro_batch=4", "train.isa=best", "recompute.swiglu=true"},
        {"train.threads=7", "train.micro_batch=8", "recompute.rms_norm=true", "recompute.mla_up=true"},
        {"train.threads=2", "train.micro_batch=3", "train.isa=scalar", "checkpoint.keep=7"},
    };
    const char *reference_keys[] = {precision, shards, "train.steps=4", "train.micro_batch=1", "train.threads=1", NULL};
    struct run_config reference = tiny_run(directory, "reference", reference_keys);
    tiny_train(&reference, false);
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++) {
        const char *keys[] = {precision,      shards,         "train.steps=4", variants[i][0],
                              variants[i][1], variants[i][2], variants[i][3],  NULL};
        struct run_config run = tiny_run(directory, "variant", keys);
        tiny_train(&run, false);
        assert_same_checkpoint(tiny_checkpoint(&reference, 4), tiny_checkpoint(&run, 4));
        assert_same_metrics(&reference, &run);
        remove_run(&run);
    }
    remove_run(&reference);
}

static void test_same_bits_fp32(void **state) {
    (void)state;
    test_same_bits("train.precision=fp32", "train.reduction_shards=1");
    test_same_bits("train.precision=fp32", "train.reduction_shards=2");
    test_same_bits("train.precision=fp32", "train.reduction_shards=4");
}

static void test_same_bits_bf16(void **state) {
    (void)state;
    test_same_bits("train.precision=bf16", "train.reduction_shards=1");
    test_same_bits("train.precision=bf16", "train.reduction_shards=2");
    test_same_bits("train.precision=bf16", "train.reduction_shards=4");
}

// FP8: whatever the threads, the instruction set and what is computed again; the micro-batch is part of the definition.
// And the same to the bit twice.
// The same with AMX, in which the micro-batch is part of the definition of BF16, too.
static void check_fixed_micro_batch(const char *precision, const char *isa, const char *other_isa) {
    const char *const variants[][3] = {
        {"train.threads=3", isa, "recompute.swiglu=false"},
        {"train.threads=7", "recompute.rms_norm=false", "recompute.mla_up=false"},
        {"train.threads=2", other_isa, "recompute.mla_up=true"},
    };
    const char *keys[] = {
        precision, "train.micro_batch=4", "train.reduction_shards=2", "train.threads=1", isa, NULL, NULL, NULL, NULL};
    struct run_config reference = tiny_run(directory, "reference", keys);
    tiny_train(&reference, false);
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++) {
        for (int k = 0; k < 3; k++) {
            keys[5 + k] = variants[i][k];
        }
        struct run_config run = tiny_run(directory, "variant", keys);
        tiny_train(&run, false);
        assert_same_checkpoint(tiny_checkpoint(&reference, 6), tiny_checkpoint(&run, 6));
        assert_same_metrics(&reference, &run);
        remove_run(&run);
    }
    remove_run(&reference);
}

static void test_same_bits_fp8(void **state) {
    (void)state;
    check_fixed_micro_batch("train.precision=fp8", "train.isa=best", "train.isa=scalar");
}

static void test_same_bits_amx(void **state) {
    (void)state;
    if (cpu_amx_missing() != NULL) {
        print_message("skipped: no AMX (%s)\n", cpu_amx_missing());
        skip();
    }
    check_fixed_micro_batch("train.precision=bf16", "train.isa=amx", "train.isa=amx");
    check_fixed_micro_batch("train.precision=fp8", "train.isa=amx", "train.isa=amx");
}

// While it learns FP8 has about the loss of BF16 (mean of the last 15 steps), and not the same; the export has the
// bytes that the last step would have used.
static void test_fp8_learns_as_bf16(void **state) {
    (void)state;
    double losses[2];
    for (int i = 0; i < 2; i++) {
        const char *keys[] = {i == 0 ? "train.precision=bf16" : "train.precision=fp8", "train.steps=40",
                              "checkpoint.dtype=fp8", NULL};
        struct run_config run = tiny_run(directory, i == 0 ? "bf16" : "fp8", keys);
        struct error error = {0};
        struct trainer *trainer;
        bool finished;
        assert_int_equal(trainer_create(&trainer, &run, false, &error), 0);
        assert_int_equal(trainer_run(trainer, &finished, NULL, &error), 0);
        json_t *lines[64];
        int count = read_metrics(lines, 64, &run);
        double first = json_number_value(json_object_get(lines[0], "loss"));
        losses[i] = 0;
        for (int k = count - 15; k < count; k++) {
            losses[i] += json_number_value(json_object_get(lines[k], "loss")) / 15;
        }
        assert_true(losses[i] < first - 0.3);
        for (int k = 0; k < count; k++) {
            json_decref(lines[k]);
        }
        if (i == 1) {
            struct safetensors file;
            assert_int_equal(safetensors_open(&file, test_path(tiny_checkpoint(&run, 40), "model.safetensors"), &error),
                             0);
            int compared = 0;
            for (int64_t p = 0; p < trainer->optimizer.weights.list.count; p++) {
                const struct param *param = &trainer->optimizer.weights.list.items[p];
                for (int64_t e = 0; param->tensor->format == FORMAT_E4M3_BLOCK && e < file.count; e++) {
                    if (strcmp(file.entries[e].name, param->name) == 0) {
                        assert_memory_equal(file.entries[e].tensor.data, param->tensor->data,
                                            (size_t)tensor_elements(param->tensor));
                        compared++;
                    }
                }
            }
            assert_true(compared > 20);
            safetensors_close(&file);
        }
        trainer_destroy(trainer);
    }
    assert_true(losses[0] != losses[1] && fabs(losses[1] / losses[0] - 1) < 0.01);
}

// The tree is the one that is promised: four parts computed one by one and added here as ((0+1)+(2+3)).
static void test_reduction_tree(void **state) {
    (void)state;
    const char *keys[] = {"train.reduction_shards=4", NULL}, *part_keys[] = {"train.batch=2", NULL};
    struct run_config run = tiny_run(directory, "tree", keys), part_run = tiny_run(directory, "parts", part_keys);
    struct error error = {0};
    struct trainer *whole, *parts;
    assert_int_equal(trainer_create(&whole, &run, false, &error), 0);
    assert_int_equal(trainer_create(&parts, &part_run, false, &error), 0);
    struct loss_weights weights = {0.01f, 0.003f, 0.001f};
    struct micro_batch_result sums;
    batch_gradient_compute(&whole->gradient, &sums, &whole->op, 8, &weights);
    struct param_tree part[4];
    for (int i = 0; i < 4; i++) {
        assert_int_equal(
            param_tree_create(&part[i], &parts->config, FORMAT_F32, true, SCOPE_TRAINED, &parts->arena, &error), 0);
        batch_gradient_compute(&parts->gradient, &sums, &parts->op, 2, &weights);
        param_tree_copy(&parts->op, &part[i], &parts->gradient.buffers[0]);
    }
    for (int64_t i = 0; i < part[0].list.count; i++) {
        const struct tensor *result = whole->gradient.buffers[0].list.items[i].tensor;
        for (int64_t e = 0; tensor_present(result) && e < tensor_elements(result); e++) {
            float p[4];
            for (int k = 0; k < 4; k++) {
                p[k] = ((const float *)part[k].list.items[i].tensor->data)[e];
            }
            assert_true(((const float *)result->data)[e] == (p[0] + p[1]) + (p[2] + p[3]));
        }
    }
    trainer_destroy(whole);
    trainer_destroy(parts);
}

// model.init_ulps: every weight that is trained stands that many units in the last place from where it stood.
static void test_ulps(void **state) {
    (void)state;
    const char *keys[] = {"model.init_ulps=3", NULL};
    struct run_config run = tiny_run(directory, "plain", NULL), moved_run = tiny_run(directory, "moved", keys);
    struct error error = {0};
    struct trainer *plain, *moved;
    assert_int_equal(trainer_create(&plain, &run, false, &error), 0);
    assert_int_equal(trainer_create(&moved, &moved_run, false, &error), 0);
    int64_t ups = 0, downs = 0;
    for (int64_t i = 0; i < plain->optimizer.masters.list.count; i++) {
        const struct param *param = &plain->optimizer.masters.list.items[i];
        const int32_t *from = param->tensor->data, *to = moved->optimizer.masters.list.items[i].tensor->data;
        for (int64_t e = 0; e < tensor_elements(param->tensor); e++) {
            ups += to[e] == from[e] + 3;
            downs += to[e] == from[e] - 3;
            assert_true(param->trained ? to[e] == from[e] + 3 || to[e] == from[e] - 3 : to[e] == from[e]);
        }
    }
    assert_true(ups > 1000 && downs > 1000 && ups < 2 * downs && downs < 2 * ups);
    trainer_destroy(plain);
    trainer_destroy(moved);
}

static void test_batch_ramp(void **state) {
    (void)state;
    // 4 sequences growing to 8 over three steps, a micro-batch that divides neither: no allocation guard may fire.
    const char *one[] = {"schedule.batch_start=4", "schedule.batch_ramp=3 steps", "train.micro_batch=3", NULL};
    const char *two[] = {"schedule.batch_start=4", "schedule.batch_ramp=3 steps", "train.threads=2", NULL};
    struct run_config left = tiny_run(directory, "ramp-1", one), right = tiny_run(directory, "ramp-2", two);
    tiny_train(&left, false);
    tiny_train(&right, false);
    assert_same_checkpoint(tiny_checkpoint(&left, 6), tiny_checkpoint(&right, 6));
    json_t *lines[6];
    assert_int_equal(read_metrics(lines, 6, &left), 6);
    static const int expected[] = {4, 5, 6, 8, 8, 8};
    for (int i = 0; i < 6; i++) {
        assert_int_equal(json_integer_value(json_object_get(lines[i], "batch")), expected[i]);
        json_decref(lines[i]);
    }
}

// ---- Steps that fail
// -------------------------------------------------------------------------------------------------

struct poison {
    int64_t step;
    float value;
};

// Puts a bad value into the last gradient of one step.
static void poison_gradient(void *argument, struct trainer *trainer, struct param_tree *gradients) {
    const struct poison *poison = argument;
    if (trainer->state.step + 1 == poison->step) {
        ((float *)gradients->list.items[gradients->list.count - 1].tensor->data)[0] = poison->value;
    }
}

static void test_skipped_step(void **state) {
    (void)state;
    static const float values[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        const char *keys[] = {"optimizer.ema_decay=0.9", NULL};
        struct run_config run = tiny_run(directory, "skip", keys);
        struct error error = {0};
        struct trainer *trainer;
        struct step_metrics metrics;
        struct poison poison = {3, values[i]};
        log_set_level(LOG_ERROR);
        assert_int_equal(trainer_create(&trainer, &run, false, &error), 0);
        trainer->gradient_hook = poison_gradient;
        trainer->hook_argument = &poison;
        struct optimizer *optimizer = &trainer->optimizer;
        struct param_tree before, moments;
        assert_int_equal(
            param_tree_create(&before, &trainer->config, FORMAT_F32, true, SCOPE_ALL, &trainer->arena, &error), 0);
        assert_int_equal(
            param_tree_create(&moments, &trainer->config, FORMAT_BF16, false, SCOPE_TRAINED, &trainer->arena, &error),
            0);
        for (int step = 1; step <= 4; step++) {
            struct loader_cursor cursor = trainer->state.cursor;
            param_tree_copy(&trainer->op, &before, &optimizer->masters);
            param_tree_copy(&trainer->op, &moments, &optimizer->v);
            assert_int_equal(trainer_step(trainer, &metrics, &error), 0);
            assert_int_equal(metrics.skipped, step == 3);
            assert_true(trainer->state.cursor.tokens == cursor.tokens + 8 * TINY_LENGTH);
            bool same = true;
            for (int64_t p = 0; p < before.list.count; p++) {
                const struct tensor *now = optimizer->masters.list.items[p].tensor,
                                    *v = optimizer->v.list.items[p].tensor;
                same = same && memcmp(now->data, before.list.items[p].tensor->data, (size_t)tensor_bytes(now)) == 0;
                same = same && (!tensor_present(v) ||
                                memcmp(v->data, moments.list.items[p].tensor->data, (size_t)tensor_bytes(v)) == 0);
            }
            assert_int_equal(same, step == 3);
        }
        assert_int_equal(optimizer->updates, 3);
        assert_int_equal(trainer->state.step, 4);
        assert_int_equal(trainer->state.skipped, 1);
        assert_int_equal(trainer->state.skipped_in_a_row, 0);
        trainer_destroy(trainer);
        remove_run(&run);
    }
}

// A weight that is not finite poisons every loss: the run stops, and what it had saved stays.
static void test_persistent_failure(void **state) {
    (void)state;
    const char *keys[] = {"train.skip_limit=3", "train.steps=20", NULL};
    struct run_config run = tiny_run(directory, "numeric", keys);
    struct error error = {0};
    struct trainer *trainer;
    struct step_metrics metrics;
    bool finished;
    assert_int_equal(trainer_create(&trainer, &run, false, &error), 0);
    assert_int_equal(trainer_step(trainer, &metrics, &error), 0);
    assert_int_equal(trainer_save(trainer, &error), 0);
    ((float *)trainer->optimizer.masters.params.layers[1].post_attention_layernorm.data)[3] = NAN;
    int code = trainer_run(trainer, &finished, NULL, &error);
    test_assert_error(code, &error, ERROR_NUMERIC, "3 steps in a row, the last is step 4");
    assert_false(finished);
    trainer_destroy(trainer);
    assert_int_equal(checkpoint_verify(tiny_checkpoint(&run, 1), &error), 0);
    assert_false(file_exists(tiny_checkpoint(&run, 4)));
    json_t *lines[8];
    assert_int_equal(read_metrics(lines, 8, &run), 3);   // not step 1, which the loop did not make
    for (int i = 0; i < 3; i++) {
        assert_true(json_is_true(json_object_get(lines[i], "skipped")));
        assert_true(json_is_null(json_object_get(lines[i], "loss")));
        json_decref(lines[i]);
    }
}

// ---- Memory
// ----------------------------------------------------------------------------------------------------------

static void test_no_allocation(void **state) {
    (void)state;
    static const char *const precisions[] = {"train.precision=fp32", "train.precision=bf16"};
    for (int i = 0; i < 2; i++) {
        const char *keys[] = {precisions[i],
                              "train.micro_batch=2",
                              "train.reduction_shards=2",
                              "train.threads=3",
                              "optimizer.ema_decay=0.99",
                              "train.steps=30",
                              NULL};
        struct run_config run = tiny_run(directory, "memory", keys);
        struct error error = {0};
        struct trainer *trainer;
        struct step_metrics metrics;
        struct validation_result validation;
        assert_int_equal(trainer_create(&trainer, &run, false, &error), 0);
        for (int step = 1; step <= 12; step++) {
            int64_t calls = memory_statistics_get().calls;
            assert_int_equal(trainer_step(trainer, &metrics, &error), 0);
            if (step > 2) {
                assert_int_equal(memory_statistics_get().calls, calls);
            }
            if (step == 5) {
                assert_int_equal(trainer_validate(trainer, &validation, 0, &error), 0);
                assert_int_equal(trainer_save(trainer, &error), 0);
            }
        }
        trainer_destroy(trainer);
        remove_run(&run);
    }
}

// ---- Validation
// ------------------------------------------------------------------------------------------------------

// A model that knows nothing (all weights 0) needs log2(64) bits for every token: the code length is known exactly.
static void test_bits_per_byte(void **state) {
    (void)state;
    static const char *const splits[] = {"train.micro_batch=1", "train.micro_batch=3", "train.micro_batch=64"};
    for (int i = 0; i < 3; i++) {
        const char *keys[] = {"model.init_std=0", splits[i], "train.batch=64", NULL};
        struct run_config run = tiny_run(directory, "bits", keys);
        struct error error = {0};
        struct trainer *trainer;
        struct validation_result result;
        assert_int_equal(trainer_create(&trainer, &run, false, &error), 0);
        int64_t tokens = dataset_tokens(trainer->validation.dataset),
                bytes = dataset_bytes(trainer->validation.dataset);
        assert_true(tokens % TINY_LENGTH > 2 && tokens > 4 * TINY_LENGTH &&
                    bytes == 3 * (tokens - 2 * 4));   // BOS and EOS
        assert_int_equal(trainer_validate(trainer, &result, 0, &error), 0);
        assert_true(fabs(result.loss - log(64)) < 1e-6);
        assert_true(fabs(result.mtp_loss[0] - log(64)) < 1e-6);
        assert_true(fabs(result.bits_per_byte - 6.0 * (double)tokens / (double)bytes) < 1e-6);
        assert_int_equal(trainer_validate(trainer, &result, 3, &error), 0);
        assert_true(fabs(result.bits_per_byte - 6.0 * (double)tokens / (double)bytes) < 1e-6);
        trainer_destroy(trainer);
        remove_run(&run);
    }
}

// The sum does not depend on how windows are batched.
static void test_validation_batches(void **state) {
    (void)state;
    struct validation_result results[2];
    static const char *const splits[] = {"train.micro_batch=1", "train.micro_batch=5"};
    for (int i = 0; i < 2; i++) {
        const char *keys[] = {splits[i], "train.precision=bf16", NULL};
        struct run_config run = tiny_run(directory, "batches", keys);
        struct error error = {0};
        struct trainer *trainer;
        assert_int_equal(trainer_create(&trainer, &run, false, &error), 0);
        assert_int_equal(trainer_validate(trainer, &results[i], 0, &error), 0);
        trainer_destroy(trainer);
        remove_run(&run);
    }
    assert_true(fabs(results[0].loss - results[1].loss) < 1e-12);
    assert_true(results[0].loss > 4 && results[0].loss < 4.4);
}

// A part of the split is taken evenly from all of it: windows 0, k, 2k, ...
static void test_part_of_the_split(void **state) {
    (void)state;
    const char *keys[] = {"train.micro_batch=1", NULL};
    struct run_config run = tiny_run(directory, "part", keys);
    struct error error = {0};
    struct trainer *trainer;
    struct validation_result result;
    assert_int_equal(trainer_create(&trainer, &run, false, &error), 0);
    struct validation *validation = &trainer->validation;
    int64_t windows = dataset_tokens(validation->dataset) / validation->length, count;
    assert_true(windows >= 4);
    const struct loader_cursor start = {0};
    const struct loss_weights weights = {0};
    double sum = 0.0;
    assert_int_equal(loader_seek(validation->loader, &start, &error), 0);
    for (int64_t window = 0; window < 2 * (windows / 2); window++) {
        assert_int_equal(loader_next(validation->ids, &count, validation->loader), 0);
        if (window % (windows / 2) == 0) {
            struct micro_batch micro = {.sequences = 1, .length = validation->length, .ids = validation->ids};
            struct micro_batch_result one;
            model_forward(&trainer->op, &one, trainer->slot, &trainer->model, NULL, &micro, &weights, NULL);
            sum += one.main_loss;
        }
    }
    assert_int_equal(trainer_validate(trainer, &result, 2, &error), 0);
    assert_true(fabs(result.loss - sum / (double)(2 * validation->length)) < 1e-12);
    trainer_destroy(trainer);
    remove_run(&run);
}

// Validating the moving average leaves the training state alone, in both precisions.
static void test_average_validation(void **state) {
    (void)state;
    static const char *const precisions[] = {"train.precision=fp32", "train.precision=bf16"};
    for (int i = 0; i < 2; i++) {
        const char *plain[] = {precisions[i], "optimizer.ema_decay=0.9", NULL};
        const char *often[] = {precisions[i], "optimizer.ema_decay=0.9", "validation.every=1", "validation.sequences=2",
                               NULL};
        struct run_config left = tiny_run(directory, "plain", plain), right = tiny_run(directory, "often", often);
        tiny_train(&left, false);
        tiny_train(&right, false);
        assert_same_checkpoint(tiny_checkpoint(&left, 6), tiny_checkpoint(&right, 6));
        json_t *lines[6];
        assert_int_equal(read_metrics(lines, 6, &right), 6);
        for (int k = 0; k < 6; k++) {
            double loss = json_number_value(json_object_get(lines[k], "validation_loss"));
            double average = json_number_value(json_object_get(lines[k], "validation_average_loss"));
            assert_true(loss > 1 && average > 1 && loss != average);
            json_decref(lines[k]);
        }
        remove_run(&left);
        remove_run(&right);
    }
}

// ---- Learning
// --------------------------------------------------------------------------------------------------------

static void test_learns(void **state) {
    (void)state;
    tiny_prepare(directory, TINY_REPEATING);
    const char *keys[] = {"train.steps=120", "train.precision=bf16", "train.threads=2", "optimizer.ema_decay=0.9",
                          NULL};
    struct run_config run = tiny_run(directory, "learns", keys);
    tiny_train(&run, false);
    json_t *lines[120];
    assert_int_equal(read_metrics(lines, 120, &run), 120);
    double first = json_number_value(json_object_get(lines[0], "main_loss"));
    double last = json_number_value(json_object_get(lines[119], "main_loss"));
    double mtp = json_number_value(json_array_get(json_object_get(lines[119], "mtp_loss"), 0));
    print_message("loss %.3f -> %.3f, MTP %.3f\n", first, last, mtp);
    assert_true(first > 4 && last < 0.5 && mtp < 1);
    for (int i = 0; i < 120; i++) {
        json_decref(lines[i]);
    }
}

// Mean MaxVio of the last 40 of 200 steps.
static double final_violation(const char *gamma) {
    const char *keys[] = {gamma,
                          "train.steps=200",
                          "train.batch=32",
                          "train.micro_batch=32",
                          "train.threads=2",
                          "schedule.gamma_end=never",
                          "schedule.alpha=0",
                          "schedule.learning_rate=0.001",
                          "train.precision=fp32",
                          "model.init_std=0.3",
                          NULL};
    struct run_config run = tiny_run(directory, "balance", keys);
    tiny_train(&run, false);
    json_t *lines[200];
    double sum = 0;
    assert_int_equal(read_metrics(lines, 200, &run), 200);
    for (int i = 0; i < 200; i++) {
        sum += i >= 160 ? json_number_value(json_object_get(lines[i], "max_violation")) : 0;
        json_decref(lines[i]);
    }
    remove_run(&run);
    return sum / 40;
}

static void test_balancing(void **state) {
    (void)state;
    double with = final_violation("schedule.gamma=0.003"), without = final_violation("schedule.gamma=0");
    print_message("MaxVio %.3f with the bias, %.3f without\n", with, without);
    assert_true(with < 0.5 * without);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_same_bits_fp32, setup, teardown),
        cmocka_unit_test_setup_teardown(test_same_bits_bf16, setup, teardown),
        cmocka_unit_test_setup_teardown(test_same_bits_fp8, setup, teardown),
        cmocka_unit_test_setup_teardown(test_same_bits_amx, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fp8_learns_as_bf16, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reduction_tree, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ulps, setup, teardown),
        cmocka_unit_test_setup_teardown(test_batch_ramp, setup, teardown),
        cmocka_unit_test_setup_teardown(test_skipped_step, setup, teardown),
        cmocka_unit_test_setup_teardown(test_persistent_failure, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_allocation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bits_per_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(test_validation_batches, setup, teardown),
        cmocka_unit_test_setup_teardown(test_part_of_the_split, setup, teardown),
        cmocka_unit_test_setup_teardown(test_average_validation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_learns, setup, teardown),
        cmocka_unit_test_setup_teardown(test_balancing, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
