// Losses and the gradient of every parameter against torch (tests/golden/model/make_goldens.py), and the bits that
// training promises: whatever the split into micro-batches, the recompute switches, the time of W, the threads and the
// instruction set.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../support/model_fixture.h"
#include "base/memory.h"

static const char *const cases[] = {"v3_groups", "v3_one_group", "v3_no_q_lora",     "v2_lite",
                                    "v3_yarn",   "v3_ragged",    "v2_group_limited", "v3_mtp2"};
#define CASES (sizeof cases / sizeof *cases)

static const struct fixture_options plain = {.compute = FORMAT_F32, .threads = 1, .isa = ISA_BEST};

static void check_losses(struct fixture *f, const struct micro_batch_result *result, double bound) {
    struct tensor losses = fixture_golden(f, "losses");
    const float *expected = losses.data;
    assert_int_equal(result->targets, f->sequences * f->length);
    assert_true(fabs(result->main_loss / (double)expected[0] - 1) < bound);
    for (int64_t k = 0; k < f->depths; k++) {
        assert_true(fabs(result->mtp_loss[k] / (double)expected[1 + k] - 1) < bound);
    }
    assert_true(fabs(result->balance_loss / (double)expected[1 + f->depths] - 1) < bound);
}

// The largest relative distance over all gradient tensors; says which one is beyond `bound`.
static double check_gradients(struct fixture *f, const char *name, double bound) {
    double worst = 0;
    for (int64_t i = 0; i < f->gradient_list.count; i++) {
        const struct param *param = &f->gradient_list.items[i];
        if (!param->trained) {
            continue;
        }
        char key[160];
        snprintf(key, sizeof key, "grad.%s", param->name);
        struct tensor expected = fixture_golden(f, key);
        double distance = relative_difference(param->tensor, &expected);
        if (!(distance < bound)) {
            fail_msg("%s: gradient of %s is off by %g", name, param->name, distance);
        }
        worst = distance > worst ? distance : worst;
    }
    return worst;
}

static void test_gradients_against_torch(void **state) {
    (void)state;
    for (size_t i = 0; i < CASES; i++) {
        struct fixture f;
        fixture_open(&f, cases[i], &plain);
        struct micro_batch_result result = fixture_step(&f, f.sequences, false);
        check_losses(&f, &result, 1e-5);
        double worst = check_gradients(&f, cases[i], 1e-4);
        print_message("%s: gradients within %.1e\n", cases[i], worst);
        fixture_close(&f);
    }
}

// ---- The same bits ------------------------------------------------------------------------------

// What is tried in F32 and in BF16, on a model with two MTP depths and on one with sizes that divide nothing.
static const struct {
    const char *name;
    struct fixture_options options;
} variants[] = {
    {"v3_mtp2", {FORMAT_F32, FORMAT_NONE, 2, ISA_BEST, false}},
    {"v3_mtp2", {FORMAT_BF16, FORMAT_BF16, 2, ISA_BEST, false}},
    {"v2_group_limited", {FORMAT_BF16, FORMAT_BF16, 2, ISA_BEST, false}},   // tied embedding and head
    {"v3_ragged", {FORMAT_F32, FORMAT_NONE, 2, ISA_BEST, false}},
    {"v3_ragged", {FORMAT_BF16, FORMAT_BF16, 2, ISA_BEST, false}},
};
#define VARIANTS (sizeof variants / sizeof *variants)

struct bits {
    float *values;
    int64_t count;
};

static struct bits step_bits(struct fixture *f, int64_t sequences_each, bool late) {
    struct bits bits;
    fixture_step(f, sequences_each, late);
    bits.values = fixture_gradients_copy(f, &bits.count);
    return bits;
}

static void check_same(const struct bits *a, const struct bits *b) {
    assert_int_equal(a->count, b->count);
    assert_memory_equal(a->values, b->values, (size_t)a->count * sizeof(float));
}

static void test_micro_batch_splits(void **state) {
    (void)state;
    for (size_t i = 0; i < VARIANTS; i++) {
        struct fixture f;
        fixture_open(&f, variants[i].name, &variants[i].options);
        struct bits whole = step_bits(&f, f.sequences, false), single = step_bits(&f, 1, false);
        check_same(&whole, &single);
        for (int64_t each = 2; each < f.sequences; each++) {
            if (f.sequences % each == 0) {
                struct bits part = step_bits(&f, each, false);
                check_same(&whole, &part);
            }
        }
        fixture_close(&f);
    }
}

// All forwards, then all B, then all W, each micro-batch in its own slot: what a pipeline schedule may do.
static void test_weights_much_later(void **state) {
    (void)state;
    for (size_t i = 0; i < VARIANTS; i++) {
        struct fixture f;
        fixture_open(&f, variants[i].name, &variants[i].options);
        struct bits now = step_bits(&f, 1, false), later = step_bits(&f, 1, true);
        check_same(&now, &later);
        fixture_close(&f);
    }
}

// B and W layer by layer: the same bits in a smaller slot.
static void test_backward_at_once(void **state) {
    (void)state;
    for (size_t i = 0; i < VARIANTS; i++) {
        struct fixture f;
        struct micro_batch_result result;
        fixture_open(&f, variants[i].name, &variants[i].options);
        struct bits parts = step_bits(&f, f.sequences, false);
        int64_t bytes = model_slot_bytes(f.slot);
        fixture_clear(&f);
        model_slot_destroy(f.slot);
        assert_int_equal(model_slot_create(&f.slot, &f.model, NULL), 0);
        struct micro_batch micro = {.sequences = f.sequences, .length = f.length, .ids = f.ids};
        model_forward(&f.op, &result, f.slot, &f.model, &f.gradients, &micro, &f.weights, NULL);
        model_backward(&f.op, f.slot, &f.model, &f.gradients);
        struct bits together;
        together.values = fixture_gradients_copy(&f, &together.count);
        check_same(&parts, &together);
        assert_true(model_slot_bytes(f.slot) < bytes);
        fixture_close(&f);
    }
}

static void test_recompute(void **state) {
    (void)state;
    for (size_t i = 0; i < VARIANTS; i++) {
        struct fixture f;
        fixture_open(&f, variants[i].name, &variants[i].options);
        struct bits kept = step_bits(&f, f.sequences, false);
        int64_t kept_bytes = model_slot_bytes(f.slot);
        for (int mask = 1; mask < 8; mask++) {
            f.model.recompute = (struct recompute){.rms_norm = mask & 1, .swiglu = mask & 2, .mla_up = mask & 4};
            struct bits again = step_bits(&f, f.sequences, mask == 7);
            check_same(&kept, &again);
        }
        assert_true(kept_bytes > 0);
        fixture_close(&f);
    }
}

// Recompute makes the forward's share of the slot smaller: what lives between forward and backward.
static void test_recompute_saves_memory(void **state) {
    (void)state;
    int64_t bytes[2];
    for (int on = 0; on < 2; on++) {
        struct fixture f;
        struct micro_batch_result result;
        fixture_open(&f, "v3_ragged", &plain);
        f.model.recompute = (struct recompute){on, on, on};
        struct micro_batch micro = {.sequences = f.sequences, .length = f.length, .ids = f.ids};
        model_forward(&f.op, &result, f.slot, &f.model, &f.gradients, &micro, &f.weights, NULL);
        bytes[on] = model_slot_bytes(f.slot);
        fixture_close(&f);
    }
    assert_true(bytes[1] * 4 < bytes[0] * 3);
}

static void test_expert_load_counted_once(void **state) {
    (void)state;
    struct fixture f;
    struct micro_batch_result result;
    int64_t load[3][4] = {{0}};   // v3_mtp2: one MoE layer and two MTP layers of 4 experts, 2 of them per token
    fixture_open(&f, "v3_mtp2", &plain);
    f.model.recompute = (struct recompute){true, true, true};
    struct micro_batch micro = {.sequences = f.sequences, .length = f.length, .ids = f.ids};
    model_forward(&f.op, &result, f.slot, &f.model, &f.gradients, &micro, &f.weights, load[0]);
    model_backward_input(&f.op, f.slot, &f.model, &f.gradients);
    model_backward_weight(&f.op, f.slot, &f.model, &f.gradients);
    for (int layer = 0; layer < 3; layer++) {
        assert_int_equal(load[layer][0] + load[layer][1] + load[layer][2] + load[layer][3], f.sequences * f.length * 2);
    }
    fixture_close(&f);
}

static void test_threads_and_instruction_sets(void **state) {
    (void)state;
    static const int threads[] = {1, 2, 3, 7};
    for (size_t i = 0; i < VARIANTS; i++) {
        struct fixture reference;
        struct fixture_options options = variants[i].options;
        options.threads = 0;
        options.isa = ISA_SCALAR;
        fixture_open(&reference, variants[i].name, &options);
        struct bits expected = step_bits(&reference, reference.sequences, false);
        for (int t = 0; t < 4; t++) {
            struct fixture f;
            options.threads = threads[t];
            options.isa = ISA_BEST;
            fixture_open(&f, variants[i].name, &options);
            struct bits found = step_bits(&f, f.sequences, false);
            check_same(&expected, &found);
            bool had_avx512 = f.op.isa == ISA_AVX512;
            fixture_close(&f);
            if (t == 0 && had_avx512) {
                options.isa = ISA_AVX2;
                fixture_open(&f, variants[i].name, &options);
                found = step_bits(&f, f.sequences, false);
                check_same(&expected, &found);
                fixture_close(&f);
            }
        }
        fixture_close(&reference);
    }
}

// ---- Sanity of BF16 and FP8, finite differences, memory -----------------------------------------

// Distance of all gradients together from the golden ones.
static double total_distance(struct fixture *f) {
    double distance = 0, norm = 0;
    for (int64_t i = 0; i < f->gradient_list.count; i++) {
        const struct param *param = &f->gradient_list.items[i];
        if (!param->trained) {
            continue;
        }
        char key[160];
        snprintf(key, sizeof key, "grad.%s", param->name);
        struct tensor expected = fixture_golden(f, key);
        const float *x = param->tensor->data, *y = expected.data;
        for (int64_t j = 0; j < tensor_elements(&expected); j++) {
            distance += ((double)x[j] - (double)y[j]) * ((double)x[j] - (double)y[j]);
            norm += (double)y[j] * (double)y[j];
        }
    }
    return sqrt(distance / norm);
}

// A BF16 rounding is at most 2^-9 = 0.2 % of a value, a path through three blocks has some thirty of them: losses agree
// to a fraction of a per cent and gradients to several (measured: 0.2 % and 2 to 6 %). An error of formula or of order
// of magnitude would be far beyond.
static void test_bf16_is_near(void **state) {
    (void)state;
    for (size_t i = 0; i < CASES; i++) {
        struct fixture f;
        struct fixture_options options = {
            .compute = FORMAT_BF16, .weights = FORMAT_BF16, .threads = 1, .isa = ISA_BEST};
        fixture_open(&f, cases[i], &options);
        struct micro_batch_result result = fixture_step(&f, f.sequences, false);
        check_losses(&f, &result, 0.02);
        double distance = total_distance(&f);
        if (!(distance < 0.12)) {
            fail_msg("%s: BF16 gradients off by %g", cases[i], distance);
        }
        fixture_close(&f);
    }
}

// E4M3 weights as stored against the same values in F32: only the order of sums differs.
static void test_fp8_weights(void **state) {
    (void)state;
    for (size_t i = 0; i < CASES; i++) {
        struct fixture stored, widened;
        struct fixture_options options = {
            .compute = FORMAT_F32, .weights = FORMAT_E4M3_BLOCK, .threads = 1, .isa = ISA_BEST};
        fixture_open(&stored, cases[i], &options);
        options.weights = FORMAT_F32;
        options.through_fp8 = true;
        fixture_open(&widened, cases[i], &options);
        struct micro_batch_result a = fixture_step(&stored, stored.sequences, false);
        struct micro_batch_result b = fixture_step(&widened, widened.sequences, false);
        assert_true(fabs(a.main_loss / b.main_loss - 1) < 1e-5);
        for (int64_t p = 0; p < stored.gradient_list.count; p++) {
            const struct param *param = &stored.gradient_list.items[p];
            if (param->trained) {
                double distance = relative_difference(param->tensor, widened.gradient_list.items[p].tensor);
                if (!(distance < 1e-4)) {
                    fail_msg("%s: gradient of %s with FP8 weights is off by %g", cases[i], param->name, distance);
                }
            }
        }
        fixture_close(&stored);
        fixture_close(&widened);
    }
}

static double total_loss(struct fixture *f) {
    struct micro_batch_result result;
    struct micro_batch micro = {.sequences = f->sequences, .length = f->length, .ids = f->ids};
    model_forward(&f->op, &result, f->slot, &f->model, NULL, &micro, &f->weights, NULL);
    double mtp = 0;
    for (int64_t k = 0; k < f->depths; k++) {
        mtp += result.mtp_loss[k];
    }
    return (double)f->weights.main_scale * result.main_loss + (double)f->weights.mtp_scale * mtp +
           (double)f->weights.balance_scale * result.balance_loss;
}

// Moves the parameters of one kind (all when < 0) by step * direction, a random vector of -1, 0, 1; returns <gradient,
// direction>.
static double move(struct fixture *f, struct param_list *list, int kind, double step) {
    double slope = 0;
    uint32_t random = 12345;
    for (int64_t i = 0; i < list->count; i++) {
        const struct param *param = &list->items[i];
        if (!param->trained || (kind >= 0 && (int)param->kind != kind)) {
            continue;
        }
        float *w = param->tensor->data, *g = f->gradient_list.items[i].tensor->data;
        for (int64_t j = 0; j < tensor_elements(param->tensor); j++) {
            random = random * 1664525u + 1013904223u;
            double direction = (double)(random >> 16) / 32768.0 - 1.0;
            slope += direction * (double)g[j];
            w[j] += (float)(step * direction);
        }
    }
    return slope;
}

static void test_finite_differences(void **state) {
    (void)state;
    struct fixture f;
    struct error error = {0};
    struct param_list list;
    struct fixture_options options = {.compute = FORMAT_F32, .weights = FORMAT_F32, .threads = 1, .isa = ISA_BEST};
    fixture_open(&f, "v3_mtp2", &options);
    assert_int_equal(params_list(&list, &f.model.params, &f.model.config, &f.arena, &error), 0);
    fixture_step(&f, f.sequences, false);
    static const int kinds[] = {PARAM_EMBEDDING, PARAM_HEAD, PARAM_NORM, PARAM_LINEAR, PARAM_EH_PROJ, PARAM_ROUTER, -1};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        double step = 1e-4;   // larger ones change what the router chooses
        double slope = move(&f, &list, kinds[k], step), above = total_loss(&f);
        move(&f, &list, kinds[k], -2 * step);
        double below = total_loss(&f), measured = (above - below) / (2 * step);
        move(&f, &list, kinds[k], step);
        assert_true(fabs(measured - slope) < 1e-2 * fabs(slope) + 5e-4);
    }
    fixture_close(&f);
}

static void test_no_allocation_after_warm_up(void **state) {
    (void)state;
    for (size_t i = 0; i < VARIANTS; i++) {
        struct fixture f;
        fixture_open(&f, variants[i].name, &variants[i].options);
        f.model.recompute = (struct recompute){true, true, true};
        for (int step = 0; step < 4; step++) {
            memory_guard(step == 3);
            fixture_step(&f, 1, false);
            memory_guard(false);
            arena_reset(&f.scratch);
        }
        fixture_close(&f);
    }
}

// What holds on every instruction set holds within AMX, whose order of sums is another.
static void test_amx(void **state) {
    if (fixture_amx(true)) {
        test_weights_much_later(state);
        test_backward_at_once(state);
        test_recompute(state);
        test_bf16_is_near(state);
        fixture_amx(false);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_amx),
        cmocka_unit_test(test_gradients_against_torch),
        cmocka_unit_test(test_micro_batch_splits),
        cmocka_unit_test(test_weights_much_later),
        cmocka_unit_test(test_backward_at_once),
        cmocka_unit_test(test_recompute),
        cmocka_unit_test(test_recompute_saves_memory),
        cmocka_unit_test(test_expert_load_counted_once),
        cmocka_unit_test(test_threads_and_instruction_sets),
        cmocka_unit_test(test_bf16_is_near),
        cmocka_unit_test(test_fp8_weights),
        cmocka_unit_test(test_finite_differences),
        cmocka_unit_test(test_no_allocation_after_warm_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
