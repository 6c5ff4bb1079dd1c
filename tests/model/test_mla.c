// Attention as a layer: its formula against a plain double-precision computation, its backward against finite
// differences, the split into B and W, and recompute.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../support/model_fixture.h"
#include "base/rng.h"
#include "model/mla.h"

#define TOKENS 9   // two sequences of 5 and 4 tokens

static const struct fixture_options f32 = {.compute = FORMAT_F32, .threads = 2, .isa = ISA_BEST};
static const struct recompute nothing;

struct layer {
    struct fixture f;
    const struct mla_params *params;
    struct mla_params *dparams;
    struct tensor x;
    int32_t positions[TOKENS];
    struct attention_span spans[2];
    struct token_batch batch;
    struct arena slot;
};

static struct tensor random_matrix(struct arena *arena, int64_t rows, int64_t columns, uint64_t seed) {
    float *data = arena_allocate(arena, (size_t)(rows * columns), sizeof *data);
    for (int64_t i = 0; i < rows * columns; i++) {
        data[i] = rng_normal(7, seed, (uint64_t)i);
    }
    return tensor_2d(FORMAT_F32, data, rows, columns);
}

static void layer_open(struct layer *layer, const char *name) {
    fixture_open(&layer->f, name, &f32);
    layer->params = &layer->f.model.params.layers[0].self_attn;
    layer->dparams = &layer->f.gradients.layers[0].self_attn;
    layer->x = random_matrix(&layer->f.arena, TOKENS, layer->f.model.config.hidden_size, 1);
    layer->spans[0] = (struct attention_span){.query_row = 0, .count = 5, .key_row = 0};
    layer->spans[1] = (struct attention_span){.query_row = 5, .count = 4, .key_row = 5};
    for (int32_t i = 0; i < TOKENS; i++) {
        layer->positions[i] = i < 5 ? i : i - 5;
    }
    layer->batch = (struct token_batch){
        .tokens = TOKENS, .positions = layer->positions, .spans = layer->spans, .span_count = 2};
    arena_init(&layer->slot, "slot");
}

static void layer_close(struct layer *layer) {
    arena_destroy(&layer->slot);
    fixture_close(&layer->f);
}

static struct tensor layer_forward(struct layer *layer, struct mla_saved *saved, const struct recompute *recompute) {
    struct tensor out = tensor_2d(FORMAT_F32, arena_allocate(&layer->f.arena, (size_t)tensor_elements(&layer->x), 4),
                                  TOKENS, layer->x.shape[1]);
    mla_forward(&layer->f.op, &out, &layer->x, layer->params, &layer->f.model.config, &layer->batch,
                &layer->f.model.rope_table, NULL, saved, recompute, &layer->slot);
    return out;
}

// ---- The formula in double ----------------------------------------------------------------------

static void multiply(double *y, const double *x, const struct tensor *w) {
    const float *values = w->data;
    for (int64_t n = 0; n < w->shape[0]; n++) {
        y[n] = 0;
        for (int64_t k = 0; k < w->shape[1]; k++) {
            y[n] += x[k] * (double)values[n * w->shape[1] + k];
        }
    }
}

static void normalize(double *x, const struct tensor *w, int64_t count) {
    const float *weight = w->data;
    double squares = 0;
    for (int64_t i = 0; i < count; i++) {
        squares += x[i] * x[i];
    }
    for (int64_t i = 0; i < count; i++) {
        x[i] *= (double)weight[i] / sqrt(squares / (double)count + 1e-6);
    }
}

static void rotate(double *x, int64_t pairs, double position) {
    for (int64_t i = 0; i < pairs; i++) {
        double angle = position * pow(10000.0, -(double)i / (double)pairs), a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cos(angle) - b * sin(angle);
        x[2 * i + 1] = a * sin(angle) + b * cos(angle);
    }
}

#define WIDE 256

// spec 2.1 without YaRN, one query token at a time.
static void plain_attention(double *out, const struct layer *layer, int64_t query) {
    const struct model_config *c = &layer->f.model.config;
    const struct mla_params *p = layer->params;
    int64_t h = c->num_attention_heads, dn = c->qk_nope_head_dim, dr = c->qk_rope_head_dim, dv = c->v_head_dim;
    int64_t d = c->hidden_size, first = query < 5 ? 0 : 5;
    double x[WIDE], q[WIDE], latent[WIDE], kv[TOKENS][WIDE], key[TOKENS][WIDE], o[WIDE], score[TOKENS];
    for (int64_t t = first; t <= query; t++) {
        for (int64_t i = 0; i < d; i++) {
            x[i] = (double)((const float *)layer->x.data)[t * d + i];
        }
        multiply(latent, x, &p->kv_a_proj_with_mqa);
        memcpy(key[t], latent + c->kv_lora_rank, (size_t)dr * sizeof(double));
        rotate(key[t], dr / 2, (double)(t - first));
        normalize(latent, &p->kv_a_layernorm, c->kv_lora_rank);
        multiply(kv[t], latent, &p->kv_b_proj);
    }
    if (c->q_lora_rank) {
        multiply(latent, x, &p->q_a_proj);
        normalize(latent, &p->q_a_layernorm, c->q_lora_rank);
        multiply(q, latent, &p->q_b_proj);
    } else {
        multiply(q, x, &p->q_proj);
    }
    for (int64_t head = 0; head < h; head++) {
        double *qh = q + head * (dn + dr), sum = 0;
        rotate(qh + dn, dr / 2, (double)(query - first));
        for (int64_t t = first; t <= query; t++) {
            double dot = 0;
            for (int64_t i = 0; i < dn; i++) {
                dot += qh[i] * kv[t][head * (dn + dv) + i];
            }
            for (int64_t i = 0; i < dr; i++) {
                dot += qh[dn + i] * key[t][i];
            }
            score[t] = exp(dot / sqrt((double)(dn + dr)));
            sum += score[t];
        }
        for (int64_t i = 0; i < dv; i++) {
            o[head * dv + i] = 0;
            for (int64_t t = first; t <= query; t++) {
                o[head * dv + i] += score[t] / sum * kv[t][head * (dn + dv) + dn + i];
            }
        }
    }
    multiply(out, o, &p->o_proj);
}

static void test_formula(void **state) {
    (void)state;
    static const char *const cases[] = {"v3_groups", "v3_no_q_lora", "v3_ragged"};
    for (int i = 0; i < 3; i++) {
        struct layer layer;
        layer_open(&layer, cases[i]);
        struct tensor out = layer_forward(&layer, NULL, &nothing);
        layer.batch.form = ATTENTION_ABSORBED;   // over this batch's own latents, no cache
        struct tensor absorbed = layer_forward(&layer, NULL, &nothing);
        const float *found[2] = {out.data, absorbed.data};
        for (int64_t t = 0; t < TOKENS; t++) {
            double expected[WIDE];
            plain_attention(expected, &layer, t);
            for (int64_t j = 0; j < out.shape[1]; j++) {
                assert_true(fabs((double)found[0][t * out.shape[1] + j] - expected[j]) < 1e-5);
                assert_true(fabs((double)found[1][t * out.shape[1] + j] - expected[j]) < 1e-5);
            }
        }
        layer_close(&layer);
    }
}

// ---- Backward -----------------------------------------------------------------------------------

static double dot(const struct tensor *a, const struct tensor *b) {
    const float *x = a->data, *y = b->data;
    double sum = 0;
    for (int64_t i = 0; i < tensor_elements(a); i++) {
        sum += (double)x[i] * (double)y[i];
    }
    return sum;
}

static struct tensor layer_backward(struct layer *layer, struct mla_kept *kept, struct mla_saved *saved,
                                    const struct tensor *dout) {
    struct tensor dx = random_matrix(&layer->f.arena, TOKENS, layer->x.shape[1], 9);   // overwritten
    mla_backward_input(&layer->f.op, &dx, kept, layer->dparams, dout, layer->params, &layer->f.model.config,
                       &layer->batch, &layer->f.model.rope_table, saved, &layer->slot);
    return dx;
}

static void test_input_gradient(void **state) {
    (void)state;
    static const char *const cases[] = {"v3_groups", "v3_no_q_lora", "v3_yarn"};
    for (int i = 0; i < 3; i++) {
        struct layer layer;
        layer_open(&layer, cases[i]);
        int64_t d = layer.x.shape[1];
        struct tensor dout = random_matrix(&layer.f.arena, TOKENS, d, 2),
                      direction = random_matrix(&layer.f.arena, TOKENS, d, 3);
        struct mla_saved saved;
        struct mla_kept kept;
        layer_forward(&layer, &saved, &nothing);
        struct tensor dx = layer_backward(&layer, &kept, &saved, &dout);
        double slope = dot(&dx, &direction), sides[2], step = 1e-3;
        float *x = layer.x.data, *u = direction.data;
        for (int side = 0; side < 2; side++) {
            for (int64_t j = 0; j < TOKENS * d; j++) {
                x[j] += (float)((side ? -2 : 1) * step) * u[j];
            }
            struct tensor out = layer_forward(&layer, NULL, &nothing);
            sides[side] = dot(&out, &dout);
        }
        double measured = (sides[0] - sides[1]) / (2 * step);
        if (!(fabs(measured - slope) < 2e-3 * fabs(slope) + 1e-2)) {
            fail_msg("%s: slope %g, measured %g", cases[i], slope, measured);
        }
        layer_close(&layer);
    }
}

// B leaves the Linear gradients alone, W changes nothing but them, and both have the bits of any recompute setting.
static void test_input_and_weight_parts(void **state) {
    (void)state;
    struct layer layer;
    layer_open(&layer, "v3_groups");
    struct tensor dout = random_matrix(&layer.f.arena, TOKENS, layer.x.shape[1], 2);
    float *bits[8];
    int64_t count = 0;
    for (int mask = 0; mask < 8; mask++) {
        struct mla_saved saved;
        struct mla_kept kept;
        struct recompute recompute = {.rms_norm = mask & 1, .mla_up = mask & 2};
        fixture_clear(&layer.f);
        arena_reset(&layer.slot);
        layer_forward(&layer, &saved, &recompute);
        assert_int_equal(tensor_present(&saved.c), !recompute.rms_norm);
        assert_int_equal(tensor_present(&saved.kv), !recompute.mla_up);
        layer_backward(&layer, &kept, &saved, &dout);
        const float *norm = layer.dparams->kv_a_layernorm.data, *linear = layer.dparams->kv_b_proj.data;
        assert_true(norm[0] != 0.0f && linear[0] == 0.0f);
        float norm_before = norm[0];
        mla_backward_weight(&layer.f.op, layer.dparams, &kept, OP_ADD);
        assert_true(norm[0] == norm_before && linear[0] != 0.0f);
        bits[mask] = fixture_gradients_copy(&layer.f, &count);
        assert_memory_equal(bits[0], bits[mask], (size_t)count * sizeof(float));
    }
    layer_close(&layer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formula),
        cmocka_unit_test(test_input_gradient),
        cmocka_unit_test(test_input_and_weight_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
