// Stopping and going on: the same bits as a run without a stop; damaged checkpoints; changed configurations; disks and
// memory that fail.
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "op/cpu/kernels.h"
#include "tensor/formats.h"
#include "train/tiny_run.h"

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
    file_fail_at(0, 0);
    memory_fail_at(0);
    test_directory_remove(directory);
    return 0;
}

struct stop {
    int64_t step;
    volatile sig_atomic_t flag;
};

static void stop_at_step(void *argument, struct trainer *trainer, struct param_tree *gradients) {
    struct stop *stop = argument;
    (void)gradients;
    stop->flag = trainer->state.step + 1 >= stop->step;
}

// Runs until the flag is set during `step`, as by a signal.
static void train_until(const struct run_config *run, bool resume, int64_t step) {
    struct error error = {0};
    struct trainer *trainer;
    struct stop stop = {.step = step};
    bool finished;
    if (trainer_create(&trainer, run, resume, &error) != 0) {
        fail_msg("%s", error.text);
    }
    trainer->gradient_hook = stop_at_step;
    trainer->hook_argument = &stop;
    if (trainer_run(trainer, &finished, &stop.flag, &error) != 0) {
        fail_msg("%s", error.text);
    }
    assert_false(finished);
    assert_int_equal(trainer->state.step, step);
    trainer_destroy(trainer);
}

static void check_resume(const char *const *keys, const char *micro_batch) {
    struct run_config whole = tiny_run(directory, "whole", keys), parts = tiny_run(directory, "parts", keys);
    tiny_train(&whole, false);
    train_until(&parts, false, 1);
    train_until(&parts, true, 3);
    train_until(&parts, true, 4);
    // What may change between the parts: threads, micro-batch, where and how often things are written.
    struct error error = {0};
    assert_int_equal(run_config_override(&parts, "train.threads=3", &error), 0);
    assert_int_equal(run_config_override(&parts, micro_batch, &error), 0);
    tiny_train(&parts, true);
    assert_same_checkpoint(tiny_checkpoint(&whole, 6), tiny_checkpoint(&parts, 6));
    assert_same_metrics(&whole, &parts);
    // A finished run has nothing to do.
    tiny_train(&parts, true);
    assert_same_metrics(&whole, &parts);
    assert_int_equal(file_remove_tree(whole.train.out, &error), 0);
    assert_int_equal(file_remove_tree(parts.train.out, &error), 0);
}

static void test_resume(void **state) {
    (void)state;
    static const char *const fp32[] = {"train.reduction_shards=2", "validation.every=2", "checkpoint.every=2", NULL};
    static const char *const bf16[] = {"train.precision=bf16", "optimizer.ema_decay=0.9", "checkpoint.every=5", NULL};
    static const char *const ramp[] = {"train.precision=bf16",           "schedule.batch_start=2",
                                       "schedule.batch_ramp=500 tokens", "optimizer.moments=f32",
                                       "checkpoint.dtype=fp8",           NULL};
    static const char *const fp8[] = {"train.precision=fp8", "optimizer.ema_decay=0.9", "checkpoint.dtype=fp8",
                                      "validation.every=3", NULL};
    check_resume(fp32, "train.micro_batch=2");
    check_resume(bf16, "train.micro_batch=2");
    check_resume(ramp, "train.micro_batch=2");
    check_resume(fp8, "train.micro_batch=1");   // FP8: tiles of 128 tokens end with a micro-batch, its size stays
}

static void test_resume_without_checkpoint(void **state) {
    (void)state;
    struct run_config run = tiny_run(directory, "nothing", NULL), whole = tiny_run(directory, "whole", NULL);
    tiny_train(&whole, false);
    // Killed before the first checkpoint: lines of metrics, half a line, half a folder.
    struct error error = {0};
    assert_int_equal(file_make_directory(test_path(run.train.out, "checkpoints/saving-step-00000003/trainer"), &error),
                     0);
    assert_int_equal(file_make_directory(test_path(run.train.out, "checkpoints/removing-step-00000001"), &error), 0);
    test_write_file(test_path(run.train.out, "checkpoints/saving-step-00000003/config.json"), "{", 1);
    static const char lines[] = "{\"step\": 1, \"tokens\": 128}\n{\"step\": 2, \"to";
    test_write_file(test_path(run.train.out, "metrics.jsonl"), lines, sizeof lines - 1);
    tiny_train(&run, true);
    assert_same_checkpoint(tiny_checkpoint(&whole, 6), tiny_checkpoint(&run, 6));
    assert_same_metrics(&whole, &run);
    assert_false(file_exists(test_path(run.train.out, "checkpoints/saving-step-00000003")));
    assert_false(file_exists(test_path(run.train.out, "checkpoints/removing-step-00000001")));
}

static void test_keep(void **state) {
    (void)state;
    static const char *const keys[] = {"checkpoint.every=1", "checkpoint.keep=2", NULL};
    struct run_config run = tiny_run(directory, "keep", keys);
    struct error error = {0};
    char **names;
    int64_t count;
    tiny_train(&run, false);
    assert_int_equal(file_list(&names, &count, test_path(run.train.out, "checkpoints"), &error), 0);
    assert_int_equal(count, 3);
    assert_string_equal(names[0], "latest");
    assert_string_equal(names[1], "step-00000005");
    assert_string_equal(names[2], "step-00000006");
    file_list_free(names, count);
    char target[64] = {0};
    assert_true(readlink(test_path(run.train.out, "checkpoints/latest"), target, sizeof target - 1) > 0);
    assert_string_equal(target, "step-00000006");
}

// ---- Damage
// ----------------------------------------------------------------------------------------------------------

static void flip_byte(const char *path, int64_t offset) {
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, (long)offset, offset < 0 ? SEEK_END : SEEK_SET);
    int byte = fgetc(file);
    fseek(file, -1, SEEK_CUR);
    fputc(byte ^ 0x10, file);
    fclose(file);
}

static void test_damage(void **state) {
    (void)state;
    static const char *const keys[] = {"checkpoint.every=2", NULL};
    struct run_config whole = tiny_run(directory, "whole", keys);
    tiny_train(&whole, false);
    for (int kind = 0; kind < 7; kind++) {
        struct run_config run = tiny_run(directory, "damaged", keys);
        struct error error = {0};
        tiny_train(&run, false);
        char newest[1200];
        snprintf(newest, sizeof newest, "%s", tiny_checkpoint(&run, 6));
        if (kind == 0) {
            flip_byte(test_path(newest, "trainer/masters.safetensors"), -1);
        } else if (kind == 1) {
            flip_byte(test_path(newest, "model.safetensors"), 40);
        } else if (kind == 2) {
            assert_int_equal(truncate(test_path(newest, "trainer/moments.safetensors"), 1000), 0);
        } else if (kind == 3) {
            assert_int_equal(unlink(test_path(newest, "config.json")), 0);
        } else if (kind == 4) {
            assert_int_equal(unlink(test_path(newest, "trainer/manifest.json")), 0);
        } else if (kind == 5) {
            test_write_file(test_path(newest, "trainer/manifest.json"), "{\"format\": 1, \"files\": {}}", 26);
        } else {
            assert_int_equal(truncate(test_path(newest, "trainer/state.json"), 0), 0);
        }
        assert_true(checkpoint_verify(newest, &error) < 0);
        assert_non_null(strstr(error.text, newest));
        tiny_train(&run, true);   // from step 4
        assert_true(file_is_directory(test_path(run.train.out, "checkpoints/damaged-step-00000006")));
        assert_same_checkpoint(tiny_checkpoint(&whole, 6), tiny_checkpoint(&run, 6));
        assert_same_metrics(&whole, &run);
        assert_int_equal(file_remove_tree(run.train.out, &error), 0);
    }
}

// ---- Refusals
// --------------------------------------------------------------------------------------------------------

static void refused(const struct run_config *run, bool resume, int code, const char *fragment) {
    struct error error = {0};
    struct trainer *trainer;
    int found = trainer_create(&trainer, run, resume, &error);
    if (found != code || strstr(error.text, fragment) == NULL) {
        fail_msg("code %d, \"%s\" does not have \"%s\"", found, error.text, fragment);
    }
    assert_null(trainer);
}

// FP8 tiles of tokens end with a micro-batch: another size would go on with other bits.
static void test_fp8_micro_batch(void **state) {
    (void)state;
    static const char *const keys[] = {"train.precision=fp8", "train.micro_batch=2", NULL};
    struct run_config run = tiny_run(directory, "fp8", keys), other = run;
    tiny_train(&run, false);
    other.train.micro_batch = 4;
    refused(&other, true, ERROR_ARGUMENT,
            "train.micro_batch may not change on --resume: the checkpoint has 2, this run 4");
}

// AMX: an order of sums of its own, whose blocks of tokens end with a micro-batch.
static void test_amx(void **state) {
    (void)state;
    if (cpu_amx_missing() != NULL) {
        print_message("skipped: no AMX (%s)\n", cpu_amx_missing());
        skip();
    }
    static const char *const keys[] = {"train.precision=bf16", "train.isa=amx", "train.micro_batch=2",
                                       "checkpoint.every=3", NULL};
    check_resume(keys, "train.micro_batch=2");
    struct run_config run = tiny_run(directory, "amx", keys), other = run;
    tiny_train(&run, false);
    other.train.micro_batch = 4;
    refused(&other, true, ERROR_ARGUMENT,
            "train.micro_batch may not change on --resume: the checkpoint has 2, this run 4");
    other = run;
    other.train.isa = ISA_BEST;
    refused(&other, true, ERROR_ARGUMENT, "train.isa may not change to or from amx on --resume");
    struct run_config plain = tiny_run(directory, "plain", NULL);
    tiny_train(&plain, false);
    plain.train.isa = ISA_AMX;
    refused(&plain, true, ERROR_ARGUMENT, "train.isa may not change to or from amx on --resume");
}

static void test_refusals(void **state) {
    (void)state;
    struct run_config run = tiny_run(directory, "run", NULL);
    tiny_train(&run, false);
    refused(&run, false, ERROR_ARGUMENT, "found a run in this folder; --resume goes on with it");

    static const char *const fixed[][2] = {
        {"train.batch=16", "train.batch may not change on --resume: the checkpoint has 8, this run 16"},
        {"train.seed=2", "train.seed"},
        {"schedule.learning_rate=0.02",
         "schedule.learning_rate may not change on --resume: the checkpoint has 0.01, this run 0.02"},
        {"train.precision=bf16", "train.precision may not change on --resume: the checkpoint has fp32, this run bf16"},
        {"data.seed=4", "data.seed"},
    };
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++) {
        const char *keys[] = {fixed[i][0], NULL};
        struct run_config changed = tiny_run(directory, "run", keys);
        refused(&changed, true, ERROR_ARGUMENT, fixed[i][1]);
    }
    // Another model, another data folder.
    size_t size;
    char *text = test_read_file(test_path(directory, "config.json"), &size);
    char *factor = strstr(text, "\"routed_scaling_factor\": 2.5");
    assert_non_null(factor);
    factor[strlen("\"routed_scaling_factor\": ")] = '1';
    test_write_file(test_path(directory, "config.json"), text, size);
    free(text);
    refused(&run, true, ERROR_ARGUMENT, "the checkpoint was trained with another config.json");
    tiny_prepare(directory, TINY_REPEATING);
    refused(&run, true, ERROR_ARGUMENT, "the checkpoint was trained with another data folder");
}

// What a run cannot start with: one line that names the thing.
static void test_bad_inputs(void **state) {
    (void)state;
    struct run_config run = tiny_run(directory, "bad", NULL), changed = run;
    snprintf(changed.model.config, sizeof changed.model.config, "%s/nowhere.json", directory);
    refused(&changed, false, ERROR_IO, "nowhere.json");
    changed = run;
    snprintf(changed.data.path, sizeof changed.data.path, "%s/nodata", directory);
    refused(&changed, false, ERROR_IO, "nodata");
    assert_false(file_exists(run.train.out));   // nothing was begun
    changed = run;
    changed.train.sequence_length = 65;
    refused(&changed, false, ERROR_ARGUMENT,
            "train.sequence_length: found 65, the model's max_position_embeddings is 64");
    changed = run;
    changed.data.fim_rate = 0.1;   // the tokenizer of this folder is no tokenizer
    refused(&changed, false, ERROR_FORMAT, "tokenizer.json");
    changed = run;
    snprintf(changed.model.init_from, sizeof changed.model.init_from, "%s/data", directory);
    refused(&changed, false, ERROR_IO, "data");
    changed = run;
    snprintf(changed.train.out, sizeof changed.train.out, "%s/config.json/out", directory);
    refused(&changed, false, ERROR_IO, "config.json");
}

static void test_two_trainers(void **state) {
    (void)state;
    struct run_config run = tiny_run(directory, "run", NULL);
    struct error error = {0};
    struct trainer *trainer;
    assert_int_equal(trainer_create(&trainer, &run, false, &error), 0);
    refused(&run, true, ERROR_STATE, "another `minke train` is running in this folder");
    trainer_destroy(trainer);
    tiny_train(&run, true);
}

// ---- Memory and disks that fail
// --------------------------------------------------------------------------------------

static struct run_config failing_run;

static int create_and_destroy(void *argument, struct error *error) {
    struct trainer *trainer;
    (void)argument;
    int code = trainer_create(&trainer, &failing_run, true, error);
    trainer_destroy(trainer);
    return code;
}

static void test_failing_memory_create(void **state) {
    (void)state;
    static const char *const keys[] = {"train.precision=bf16", "optimizer.ema_decay=0.9", NULL};
    failing_run = tiny_run(directory, "memory", keys);
    log_set_level(LOG_ERROR);
    assert_true(test_failing_memory(create_and_destroy, NULL) > 20);
    train_until(&failing_run, true, 2);
    assert_true(test_failing_memory(create_and_destroy, NULL) > 20);   // with a checkpoint to read
    assert_true(file_is_directory(tiny_checkpoint(&failing_run, 2)));
    tiny_train(&failing_run, true);
}

// One step, a checkpoint, another step: what is saved next will fail.
static struct trainer *two_steps(const struct run_config *run) {
    struct error error = {0};
    struct trainer *trainer;
    struct step_metrics metrics;
    assert_int_equal(trainer_create(&trainer, run, false, &error), 0);
    assert_int_equal(trainer_step(trainer, &metrics, &error), 0);
    assert_int_equal(trainer_save(trainer, &error), 0);
    assert_int_equal(trainer_step(trainer, &metrics, &error), 0);
    return trainer;
}

static int save_again(void *argument, struct error *error) {
    return trainer_save(argument, error);
}

static void test_failing_memory_save(void **state) {
    (void)state;
    struct run_config run = tiny_run(directory, "save", NULL);
    struct trainer *trainer = two_steps(&run);
    assert_true(test_failing_memory(save_again, trainer) > 20);
    trainer_destroy(trainer);
    struct error error = {0};
    assert_int_equal(checkpoint_verify(tiny_checkpoint(&run, 1), &error), 0);
    assert_int_equal(checkpoint_verify(tiny_checkpoint(&run, 2), &error), 0);
}

// Every system call of a save fails once, with all that follow it.
static void test_failing_disk(void **state) {
    (void)state;
    struct run_config run = tiny_run(directory, "disk", NULL);
    struct trainer *trainer = two_steps(&run);
    int failures = 0;
    for (int64_t n = 1;; n++) {
        struct error error = {0};
        file_fail_at(n, ENOSPC);
        int code = trainer_save(trainer, &error);
        file_fail_at(0, 0);
        if (code == 0) {
            break;
        }
        test_assert_error(code, &error, ERROR_IO, "checkpoint of step 2");
        failures++;
        struct error clean = {0};
        assert_int_equal(checkpoint_verify(tiny_checkpoint(&run, 1), &clean), 0);
        // The second is absent or whole (only what comes after its renaming failed).
        if (file_exists(tiny_checkpoint(&run, 2))) {
            assert_int_equal(checkpoint_verify(tiny_checkpoint(&run, 2), &clean), 0);
        }
        assert_int_equal(checkpoints_clean(run.train.out, &clean), 0);
    }
    assert_true(failures > 30);
    trainer_destroy(trainer);
    tiny_train(&run, true);
}

// A disk that is really full, as far as a process can have it: no file may grow beyond 150 KB.
static void save_on_full_disk(void *argument) {
    struct run_config run = *(struct run_config *)argument;
    struct error error = {0};
    struct trainer *trainer = two_steps(&run);
    const struct rlimit limit = {150000, 150000};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
    bool finished;
    int code = trainer_run(trainer, &finished, NULL, &error);
    fprintf(stderr, "code %d: %s\n", code, error.text);
    trainer_destroy(trainer);
}

static void test_full_disk(void **state) {
    (void)state;
    static const char *const keys[] = {"checkpoint.every=1", NULL};
    struct run_config run = tiny_run(directory, "full", keys), whole = tiny_run(directory, "whole", keys);
    struct error error = {0};
    char text[4096];
    assert_int_equal(test_child_signal(save_on_full_disk, &run, text, sizeof text), 0);
    if (strstr(text, "code -1: checkpoint of step 3: ") == NULL || strstr(text, "File too large") == NULL) {
        fail_msg("%s", text);
    }
    char **names;
    int64_t count;
    assert_int_equal(file_list(&names, &count, test_path(run.train.out, "checkpoints"), &error), 0);
    assert_int_equal(count, 2);   // latest, step-00000001: nothing half-written remains
    file_list_free(names, count);
    tiny_train(&run, true);
    tiny_train(&whole, false);
    assert_same_checkpoint(tiny_checkpoint(&whole, 6), tiny_checkpoint(&run, 6));
}

// ---- Starting from another model
// -------------------------------------------------------------------------------------

static void write_config(const char *name, const char *from, const char *to) {
    const char *place = strstr(tiny_config, from);
    assert_non_null(place);
    char text[4096];
    int length = snprintf(text, sizeof text, "%.*s%s%s", (int)(place - tiny_config), tiny_config, to,
                          place + strlen(from));
    test_write_file(test_path(directory, name), text, (size_t)length);
}

// Context extension: a run with YaRN, longer sequences and its own schedule that starts from the checkpoint of another.
static void test_context_extension(void **state) {
    (void)state;
    struct run_config first = tiny_run(directory, "first", NULL);
    tiny_train(&first, false);
    write_config("long.json", "\"rope_scaling\": null",
                 "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4, \"mscale\": 1.0, \"mscale_all_dim\": 1.0,"
                 " \"beta_fast\": 32, \"beta_slow\": 1, \"original_max_position_embeddings\": 16}");
    static const char *const keys[] = {"train.sequence_length=64", "train.batch=2", "train.steps=3", NULL};
    struct run_config second = tiny_run(directory, "second", keys);
    snprintf(second.model.config, sizeof second.model.config, "%s/long.json", directory);
    snprintf(second.model.init_from, sizeof second.model.init_from, "%s/first/checkpoints/latest", directory);
    struct error error = {0};
    struct trainer *trainer;
    assert_int_equal(trainer_create(&trainer, &second, false, &error), 0);
    assert_true(trainer->model.config.rope_scaling.factor == 4);
    assert_int_equal(trainer->state.step, 0);
    // The FP32 masters of the first run, bit by bit.
    struct param_tree masters;
    struct param_tree_part part = {"", &masters};
    assert_int_equal(
        param_tree_create(&masters, &trainer->config, FORMAT_F32, true, SCOPE_ALL, &trainer->arena, &error), 0);
    assert_int_equal(
        param_tree_read(&part, 1, test_path(tiny_checkpoint(&first, 6), "trainer/masters.safetensors"), &error), 0);
    for (int64_t i = 0; i < masters.list.count; i++) {
        const struct tensor *found = trainer->optimizer.masters.list.items[i].tensor,
                            *expected = masters.list.items[i].tensor;
        assert_memory_equal(found->data, expected->data, (size_t)tensor_bytes(expected));
    }
    trainer_destroy(trainer);
    tiny_train(&second, true);
    char *text = test_read_file(test_path(tiny_checkpoint(&second, 3), "config.json"), &(size_t){0});
    assert_non_null(strstr(text, "yarn"));
    free(text);
}

// Weights of any model directory: the BF16 export without the trainer's folder.
static void test_start_from_export(void **state) {
    (void)state;
    struct run_config first = tiny_run(directory, "first", NULL), second = tiny_run(directory, "second", NULL);
    struct error error = {0};
    struct trainer *trainer, *trained;
    tiny_train(&first, false);
    assert_int_equal(trainer_create(&trained, &first, true, &error), 0);
    assert_int_equal(file_remove_tree(test_path(tiny_checkpoint(&first, 6), "trainer"), &error), 0);
    snprintf(second.model.init_from, sizeof second.model.init_from, "%s", tiny_checkpoint(&first, 6));
    second.model.config[0] = '\0';
    assert_int_equal(trainer_create(&trainer, &second, false, &error), 0);
    for (int64_t i = 0; i < trainer->optimizer.masters.list.count; i++) {
        const struct param *param = &trainer->optimizer.masters.list.items[i];
        const float *found = param->tensor->data, *exact = trained->optimizer.masters.list.items[i].tensor->data;
        for (int64_t e = 0; e < tensor_elements(param->tensor); e++) {
            float expected = param->kind == PARAM_ROUTER_BIAS ? exact[e] : bf16_widen(bf16_narrow(exact[e]));
            assert_true(found[e] == expected);
        }
    }
    trainer_destroy(trainer);
    trainer_destroy(trained);
    // Other shapes: refused with the tensor's name.
    write_config("wide.json", "\"intermediate_size\": 48", "\"intermediate_size\": 64");
    struct run_config third = tiny_run(directory, "third", NULL);
    snprintf(third.model.config, sizeof third.model.config, "%s/wide.json", directory);
    snprintf(third.model.init_from, sizeof third.model.init_from, "%s", second.model.init_from);
    refused(&third, false, ERROR_FORMAT, "mlp.gate_proj.weight");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_resume, setup, teardown),
        cmocka_unit_test_setup_teardown(test_amx, setup, teardown),
        cmocka_unit_test_setup_teardown(test_resume_without_checkpoint, setup, teardown),
        cmocka_unit_test_setup_teardown(test_keep, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damage, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fp8_micro_batch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_inputs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_two_trainers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failing_memory_create, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failing_memory_save, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failing_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_context_extension, setup, teardown),
        cmocka_unit_test_setup_teardown(test_start_from_export, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
