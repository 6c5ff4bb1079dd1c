// The MoE layer and its dispatch seam: order of rows, any expert map, a row's bits alone and in company, and backward
// against finite differences.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../support/model_fixture.h"
#include "base/rng.h"
#include "model/moe.h"

#define TOKENS 10

static const struct fixture_options f32 = {.compute = FORMAT_F32, .threads = 2, .isa = ISA_BEST};
static const struct recompute nothing;

struct layer {
    struct fixture f;
    struct moe_params params, dparams;
    struct tensor x;
    struct token_batch batch;
    struct expert_map map;
    struct pass pass;
    struct moe_saved saved;
    struct moe_kept kept;
    double balance;
};

static struct tensor random_matrix(struct arena *arena, int64_t rows, int64_t columns, uint64_t seed) {
    float *data = arena_allocate(arena, (size_t)(rows * columns), sizeof *data);
    for (int64_t i = 0; i < rows * columns; i++) {
        data[i] = rng_normal(11, seed, (uint64_t)i);
    }
    return tensor_2d(FORMAT_F32, data, rows, columns);
}

static void layer_open(struct layer *layer, const char *name, float balance_scale) {
    *layer = (struct layer){0};
    fixture_open(&layer->f, name, &f32);
    layer->params = layer->f.model.params.layers[1].moe;
    layer->dparams = layer->f.gradients.layers[1].moe;
    layer->x = random_matrix(&layer->f.arena, TOKENS, layer->f.model.config.hidden_size, 1);
    layer->batch = (struct token_batch){.tokens = TOKENS, .sequence_length = TOKENS / 2};
    layer->map = (struct expert_map){.slots = layer->f.model.config.n_routed_experts};
    layer->pass = (struct pass){
        .op = &layer->f.op,
        .config = &layer->f.model.config,
        .batch = &layer->batch,
        .recompute = &nothing,
        .dispatch = &dispatch_local,
        .expert_map = &layer->map,
        .keep = &layer->f.arena,
        .compute = FORMAT_F32,
        .training = true,
        .balance_scale = balance_scale,
        .balance_loss = &layer->balance,
    };
}

// h += MoE(x), from h = 0.
static struct tensor layer_forward(struct layer *layer, const struct tensor *x) {
    struct tensor h = tensor_2d(FORMAT_F32, arena_allocate_zero(&layer->f.arena, (size_t)tensor_elements(x), 4),
                                x->shape[0], x->shape[1]);
    struct moe_transit transit = {0};
    layer->balance = 0;
    layer->batch.tokens = x->shape[0];
    moe_dispatch_forward(&layer->pass, &layer->saved, x, &layer->params);
    moe_experts_forward(&layer->pass, &transit, &layer->params, &layer->saved);
    moe_combine_forward(&layer->pass, &h, &transit, &layer->saved);
    return h;
}

static struct tensor layer_backward(struct layer *layer, const struct tensor *dout) {
    struct tensor dx = random_matrix(&layer->f.arena, TOKENS, dout->shape[1], 99);   // overwritten
    struct moe_transit transit = {0};
    moe_combine_backward(&layer->pass, &transit, &layer->kept, dout, &layer->saved);
    moe_experts_backward(&layer->pass, &dx, &transit, &layer->kept, dout, &layer->params, &layer->saved);
    moe_dispatch_backward(&layer->pass, &dx, &transit, &layer->kept, &layer->params, &layer->saved);
    return dx;
}

static void test_plan(void **state) {
    (void)state;
    struct layer layer;
    layer_open(&layer, "v3_groups", 0);
    static int32_t expert[] = {1, 3, 0, 3, 1, 2, 1, 3};
    static float weight[] = {.1f, .2f, .3f, .4f, .5f, .6f, .7f, .8f};
    static const int32_t slot[] = {5, 0, 1, 2};
    struct routing routing = {.tokens = 4, .top_k = 2, .expert = expert, .weight = weight};
    struct expert_map map = {.slots = 6, .slot = slot};
    struct dispatch_plan plan;
    dispatch_local.plan(&dispatch_local, &layer.f.op, &plan, &routing, &map, &layer.f.arena);
    // slot 0 = expert 1: tokens 0, 2, 3; slot 1 = expert 2: token 2; slot 2 = expert 3: 0, 1, 3; slot 5 = expert 0: 1
    static const int32_t offsets[] = {0, 3, 4, 7, 7, 7, 8}, token[] = {0, 2, 3, 2, 0, 1, 3, 1};
    static const int32_t row[] = {0, 4, 7, 5, 1, 3, 2, 6};
    assert_int_equal(plan.rows, 8);
    assert_memory_equal(plan.offsets, offsets, sizeof offsets);
    assert_memory_equal(plan.token, token, sizeof token);
    assert_memory_equal(plan.row, row, sizeof row);
    for (int i = 0; i < 8; i++) {
        assert_true(plan.row_weight[row[i]] == weight[i]);
    }
    fixture_close(&layer.f);
}

// Expert weights in other slots, reached through the map: the same bits, forward and backward.
static void test_expert_map(void **state) {
    (void)state;
    struct layer plain, mapped;
    layer_open(&plain, "v3_groups", 0.1f);
    layer_open(&mapped, "v3_groups", 0.1f);
    static const int32_t slot[8] = {6, 1, 7, 0, 2, 5, 3, 4};
    struct tensor *tables[6] = {plain.params.gate_proj,  plain.params.up_proj,  plain.params.down_proj,
                                plain.dparams.gate_proj, plain.dparams.up_proj, plain.dparams.down_proj};
    struct tensor moved[6][8];
    for (int t = 0; t < 6; t++) {
        for (int e = 0; e < 8; e++) {
            moved[t][slot[e]] = tables[t][e];
        }
    }
    struct tensor dgate[8];
    for (int s = 0; s < 8; s++) {   // gradients of its own, by slot
        dgate[s] = tensor_2d(FORMAT_F32, arena_allocate_zero(&mapped.f.arena, (size_t)tensor_elements(&moved[3][s]), 4),
                             moved[3][s].shape[0], moved[3][s].shape[1]);
    }
    mapped.map.slot = slot;
    mapped.params.gate_proj = moved[0];
    mapped.params.up_proj = moved[1];
    mapped.params.down_proj = moved[2];
    mapped.dparams.gate_proj = dgate;
    struct tensor a = layer_forward(&plain, &plain.x), b = layer_forward(&mapped, &plain.x);
    assert_memory_equal(a.data, b.data, (size_t)tensor_bytes(&a));
    struct tensor dout = random_matrix(&plain.f.arena, TOKENS, a.shape[1], 2);
    struct tensor da = layer_backward(&plain, &dout), db = layer_backward(&mapped, &dout);
    assert_memory_equal(da.data, db.data, (size_t)tensor_bytes(&da));
    fixture_clear(&plain.f);
    moe_backward_weight(&plain.f.op, &plain.dparams, &plain.kept, OP_ADD);
    moe_backward_weight(&mapped.f.op, &mapped.dparams, &mapped.kept, OP_ADD);
    for (int e = 0; e < 8; e++) {
        const struct tensor *expected = &plain.dparams.gate_proj[e];
        assert_memory_equal(expected->data, dgate[slot[e]].data, (size_t)tensor_bytes(expected));
    }
    fixture_close(&plain.f);
    fixture_close(&mapped.f);
}

static void test_row_alone(void **state) {
    (void)state;
    static const char *const cases[] = {"v3_groups", "v3_ragged", "v3_mtp2", "v2_group_limited"};
    for (int i = 0; i < 4; i++) {
        struct layer layer;
        layer_open(&layer, cases[i], 0);
        layer.pass.training = false;
        layer.batch.sequence_length = 0;
        struct tensor all = layer_forward(&layer, &layer.x);
        int64_t width = all.shape[1];
        for (int64_t t = 0; t < TOKENS; t++) {
            struct tensor row = tensor_slice(&layer.x, 0, t, 1), alone = layer_forward(&layer, &row);
            assert_memory_equal(alone.data, (const float *)all.data + t * width, (size_t)width * sizeof(float));
        }
        struct tensor none = tensor_2d(FORMAT_F32, layer.x.data, 0, width);
        layer_forward(&layer, &none);   // an empty batch is legal
        fixture_close(&layer.f);
    }
}

// The gradient of <h, dout> + scale * balance loss with respect to x.
static void test_input_gradient(void **state) {
    (void)state;
    static const char *const cases[] = {"v3_groups", "v3_mtp2", "v2_lite", "v2_group_limited"};
    for (int i = 0; i < 4; i++) {
        for (int balance = 0; balance < 2; balance++) {
            struct layer layer;
            float scale = balance ? 20.0f : 0.0f;
            layer_open(&layer, cases[i], scale);
            int64_t d = layer.x.shape[1];
            struct tensor dout = random_matrix(&layer.f.arena, TOKENS, d, 2);
            struct tensor direction = random_matrix(&layer.f.arena, TOKENS, d, 3);
            layer_forward(&layer, &layer.x);
            assert_int_equal(layer.balance != 0, balance);
            struct tensor dx = layer_backward(&layer, &dout);
            double slope = 0, sides[2] = {0, 0}, step = 1e-4;
            float *x = layer.x.data, *u = direction.data, *w = dout.data, *g = dx.data;
            for (int64_t j = 0; j < TOKENS * d; j++) {
                slope += (double)g[j] * (double)u[j];
            }
            for (int side = 0; side < 2; side++) {
                for (int64_t j = 0; j < TOKENS * d; j++) {
                    x[j] += (float)((side ? -2 : 1) * step) * u[j];
                }
                struct tensor h = layer_forward(&layer, &layer.x);
                for (int64_t j = 0; j < TOKENS * d; j++) {
                    sides[side] += (double)((const float *)h.data)[j] * (double)w[j];
                }
                sides[side] += (double)scale * layer.balance;
            }
            double measured = (sides[0] - sides[1]) / (2 * step);
            if (!(fabs(measured - slope) < 3e-3 * fabs(slope) + 0.1)) {
                fail_msg("%s: slope %g, measured %g", cases[i], slope, measured);
            }
            fixture_close(&layer.f);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan),
        cmocka_unit_test(test_expert_map),
        cmocka_unit_test(test_row_alone),
        cmocka_unit_test(test_input_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
