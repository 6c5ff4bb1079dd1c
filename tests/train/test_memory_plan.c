// The plan of a run's memory against what the heap really reached: the sizes by kind, for every precision, with and
// without what is computed again, with validation and checkpoints, for the tiny model and one of a few million weights.
#include <sys/wait.h>

#include "base/memory.h"
#include "train/tiny_run.h"

// A sanitizer's shadow memory is part of the process.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTS_PROCESS false
#elif defined(__has_feature)
#define COUNTS_PROCESS (!__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer))
#else
#define COUNTS_PROCESS true
#endif

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

static bool near(int64_t found, int64_t expected) {
    return found <= expected + expected / 20 && found >= expected - expected / 20;
}

static bool slot_as_planned(const struct trainer *trainer) {
    return model_slot_bytes(trainer->slot) == trainer->plan.activations &&
           near(trainer->scratch.peak, trainer->plan.workspace) &&
           trainer->scratch.peak <= trainer->plan.workspace * 102 / 100;
}

// The high-water mark of the heap belongs to the process: each case has its own. Returns what went wrong, 0 = nothing.
static int run_case(const struct run_config *run, bool whole_process) {
    struct error error = {0};
    struct trainer *trainer;
    bool finished;
    int64_t before = memory_statistics_get().live_bytes;
    if (trainer_create(&trainer, run, false, &error) != 0) {
        return 1;
    }
    const struct memory_plan *plan = &trainer->plan;
    const struct optimizer *optimizer = &trainer->optimizer;
    if (trainer->arena.used > plan->state || !near(trainer->arena.used, plan->state)) {
        return 2;
    }
    if (plan->weights != optimizer->weights.bytes || plan->masters != optimizer->masters.bytes ||
        plan->moments != optimizer->m.bytes + optimizer->v.bytes || plan->average != optimizer->average.bytes ||
        plan->gradients != trainer->gradient.buffer_count * trainer->gradient.buffers[0].bytes) {
        return 3;
    }
    if (trainer_run(trainer, &finished, NULL, &error) != 0 || !finished) {
        return 4;
    }
    int64_t peak = memory_statistics_get().peak_bytes - trainer->memory_before;
    int wrong = !slot_as_planned(trainer) ? 5 : !near(peak, plan->total) ? 6 : 0;
    int64_t resident = memory_resident_peak(), base = trainer->resident_before;
    if (wrong == 0 && whole_process && COUNTS_PROCESS && !near(resident, plan->total + base)) {
        fprintf(stderr, "process %lld of %lld planned and %lld before\n", (long long)resident, (long long)plan->total,
                (long long)base);
        wrong = 8;
    }
    if (wrong != 0) {
        fprintf(stderr, "state %lld of %lld, slot %lld of %lld, workspace %lld of %lld, heap %lld of %lld\n",
                (long long)trainer->arena.used, (long long)plan->state, (long long)model_slot_bytes(trainer->slot),
                (long long)plan->activations, (long long)trainer->scratch.peak, (long long)plan->workspace,
                (long long)peak, (long long)plan->total);
    }
    trainer_destroy(trainer);
    return wrong == 0 && memory_statistics_get().live_bytes != before ? 7 : wrong;
}

static void check(const char *const *keys, bool whole_process) {
    struct run_config run = tiny_run(directory, "run", keys);
    struct error error = {0};
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        _exit(run_case(&run, whole_process));
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fail_msg("%s, %s: %d", keys[0], keys[1], WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    }
    assert_int_equal(file_remove_tree(run.train.out, &error), 0);
}

#define COMMON "train.sequence_length=32", "train.micro_batch=8", "train.steps=3"

static void test_tiny(void **state) {
    (void)state;
    static const char *const cases[][9] = {
        {"train.precision=fp32", "recompute.swiglu=false", COMMON},
        {"train.precision=bf16", "optimizer.ema_decay=0.9", COMMON},
        {"train.precision=fp8", "validation.every=1", "checkpoint.every=2", COMMON},
        {"train.precision=bf16", "recompute.rms_norm=true", "recompute.mla_up=true", "train.reduction_shards=4",
         COMMON},
        {"train.precision=fp8", "recompute.mla_up=true", "train.threads=3", "optimizer.moments=f32", COMMON},
        {"train.precision=bf16", "train.micro_batch=3", "train.sequence_length=20", "train.steps=3"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        check(cases[i], false);
    }
}

// A model of some 1.5 million weights, whose heap is mostly weights.
static void test_larger(void **state) {
    (void)state;
    char config[1200], text[2048];
    snprintf(config, sizeof config, "%s", test_path(directory, "config.json"));
    size_t size;
    char *tiny = test_read_file(config, &size);
    const struct {
        const char *from, *to;
    } changes[] = {{"\"hidden_size\": 32", "\"hidden_size\": 256"},
                   {"\"intermediate_size\": 48", "\"intermediate_size\": 512"},
                   {"\"moe_intermediate_size\": 16", "\"moe_intermediate_size\": 128"}};
    snprintf(text, sizeof text, "%s", tiny);
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        char *at = strstr(text, changes[i].from), rest[2048];
        assert_non_null(at);
        snprintf(rest, sizeof rest, "%s", at + strlen(changes[i].from));
        snprintf(at, sizeof text - (size_t)(at - text), "%s%s", changes[i].to, rest);
    }
    test_write_file(config, text, strlen(text));
    static const char *const fp8[] = {"train.precision=fp8", "train.threads=2", COMMON, NULL};
    static const char *const bf16[] = {"train.precision=bf16", "train.threads=2", COMMON, NULL};
    check(fp8, true);
    check(bf16, true);
    free(tiny);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_tiny, setup, teardown),
        cmocka_unit_test_setup_teardown(test_larger, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
