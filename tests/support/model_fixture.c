// Golden models for tests; see model_fixture.h.
#include "model_fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "op/cpu/kernels.h"
#include "tensor/formats.h"

static void succeed(int code, const struct error *error) {
    if (code != 0) {
        fail_msg("%s", error->text);
    }
}

struct cast {
    const struct fixture_options *options;
    struct arena *arena;
};

static struct tensor matrix(struct arena *arena, enum format format, int64_t rows, int64_t columns) {
    struct tensor out = tensor_2d(format, arena_allocate_zero(arena, (size_t)(rows * columns), 4), rows, columns);
    if (format == FORMAT_E4M3_BLOCK) {
        out.scale_stride = (columns + BLOCK_SIZE - 1) / BLOCK_SIZE;
        int64_t blocks = out.scale_stride * ((rows + BLOCK_SIZE - 1) / BLOCK_SIZE);
        out.scale = arena_allocate_zero(arena, (size_t)blocks, sizeof(float));
    }
    return out;
}

static struct tensor cast_matrix(struct arena *arena, enum format format, const struct tensor *source) {
    struct tensor out = matrix(arena, format, source->shape[0], source->shape[1]);
    if (format == FORMAT_E4M3_BLOCK) {
        quantize_e4m3_blocks(&out, source, 0);
        return out;
    }
    float *row = arena_allocate(arena, (size_t)out.shape[1], sizeof(float));
    for (int64_t r = 0; r < out.shape[0]; r++) {
        format_info((enum format)source->format)->widen(row, source, r, 0, out.shape[1]);
        format_info(format)->narrow(&out, row, r, 0, out.shape[1]);
    }
    return out;
}

// Vectors stay F32; official FP8 checkpoints have only PARAM_LINEAR in FP8.
static int cast_parameter(void *argument, const struct param *param, struct error *error) {
    (void)error;
    const struct cast *cast = argument;
    struct tensor *tensor = param->tensor;
    if (param->rank == 1) {
        float *copy = arena_allocate(cast->arena, (size_t)param->shape[0], sizeof(float));
        memcpy(copy, tensor->data, (size_t)param->shape[0] * sizeof(float));
        *tensor = tensor_1d(FORMAT_F32, copy, param->shape[0]);
        return 0;
    }
    enum format format = cast->options->weights;
    bool linear = param->kind == PARAM_LINEAR;
    if (linear && cast->options->through_fp8) {
        *tensor = cast_matrix(cast->arena, FORMAT_E4M3_BLOCK, tensor);
    }
    *tensor = cast_matrix(cast->arena, format == FORMAT_E4M3_BLOCK && !linear ? FORMAT_F32 : format, tensor);
    return 0;
}

static enum isa best = ISA_BEST;

bool fixture_amx(bool on) {
    const char *missing = on ? cpu_amx_missing() : NULL;
    if (missing != NULL) {
        print_message("skipped: no AMX (%s)\n", missing);
        return false;
    }
    best = on ? ISA_AMX : ISA_BEST;
    return true;
}

void fixture_open(struct fixture *fixture, const char *name, const struct fixture_options *options) {
    struct error error = {0};
    char path[256];
    *fixture = (struct fixture){0};
    arena_init(&fixture->arena, "test");
    arena_init(&fixture->scratch, "scratch");
    if (options->threads > 0) {
        succeed(pool_create(&fixture->pool, options->threads, &error), &error);
    } else {
        pool_set_flush_to_zero();
    }
    succeed(op_context_init(&fixture->op, options->isa == ISA_BEST ? best : options->isa, fixture->pool,
                            &fixture->scratch, &error),
            &error);
    struct model *model = &fixture->model;
    snprintf(path, sizeof path, "tests/golden/model/%s", name);
    succeed(model_config_read(&model->config, path, &error), &error);
    succeed(checkpoint_open(&fixture->checkpoint, path, &error), &error);
    succeed(model_map(&model->params, &model->config, fixture->checkpoint, &fixture->arena, &error), &error);
    if (options->weights != FORMAT_NONE) {
        struct cast cast = {options, &fixture->arena};
        params_visit(&model->params, &model->config, cast_parameter, &cast, NULL);
        if (model->config.tie_word_embeddings) {
            model->params.lm_head = model->params.embed_tokens;
        }
    }
    model->compute = options->compute;
    model_prepare(model, FIXTURE_POSITIONS, &fixture->arena);
    if (!model->fp8) {
        model_prepare_absorbed(model, &fixture->op);   // not at first use: tests release parts of the arena
    }

    params_create(&fixture->gradients, &model->config, &fixture->arena);
    succeed(params_allocate(&fixture->gradients, &model->config, FORMAT_F32, true, true, &fixture->arena, &error),
            &error);
    succeed(params_list(&fixture->gradient_list, &fixture->gradients, &model->config, &fixture->arena, &error), &error);
    succeed(model_slot_create(&fixture->slot, model, &error), &error);

    snprintf(path, sizeof path, "tests/golden/model/%s/golden.safetensors", name);
    succeed(safetensors_open(&fixture->golden, path, &error), &error);
    struct tensor ids = fixture_golden(fixture, "ids"), scales = fixture_golden(fixture, "scales");
    fixture->ids = ids.data;
    fixture->depths = model->config.num_nextn_predict_layers;
    fixture->sequences = ids.shape[0];
    fixture->length = ids.shape[1] - 1 - fixture->depths;
    const float *scale = scales.data;
    fixture->weights = (struct loss_weights){.main_scale = scale[0], .mtp_scale = scale[1], .balance_scale = scale[2]};
}

void fixture_close(struct fixture *fixture) {
    model_slot_destroy(fixture->slot);
    safetensors_close(&fixture->golden);
    checkpoint_close(fixture->checkpoint);
    pool_destroy(fixture->pool);
    arena_destroy(&fixture->arena);
    arena_destroy(&fixture->scratch);
}

void fixture_clear(struct fixture *fixture) {
    for (int64_t i = 0; i < fixture->gradient_list.count; i++) {
        struct tensor *tensor = fixture->gradient_list.items[i].tensor;
        if (tensor_present(tensor)) {
            memset(tensor->data, 0, (size_t)tensor_bytes(tensor));
        }
    }
}

struct tensor fixture_golden(const struct fixture *fixture, const char *name) {
    for (int64_t i = 0; i < fixture->golden.count; i++) {
        if (strcmp(fixture->golden.entries[i].name, name) == 0) {
            return fixture->golden.entries[i].tensor;
        }
    }
    fail_msg("golden tensor %s is missing", name);
    return (struct tensor){0};
}

// Gradients as a first micro-batch may find them: zeros, and NaN where it sets them.
static void spoil_set_gradients(struct fixture *fixture) {
    fixture_clear(fixture);
    for (int64_t i = 0; i < fixture->gradient_list.count; i++) {
        const struct param *param = &fixture->gradient_list.items[i];
        if (tensor_present(param->tensor) && model_gradient_is_set(param)) {
            memset(param->tensor->data, 0xff, (size_t)tensor_bytes(param->tensor));
        }
    }
}

static void result_add(struct micro_batch_result *sum, const struct micro_batch_result *part) {
    sum->main_loss += part->main_loss;
    sum->balance_loss += part->balance_loss;
    sum->targets += part->targets;
    for (int k = 0; k < MODEL_MAX_DEPTH; k++) {
        sum->mtp_loss[k] += part->mtp_loss[k];
    }
}

struct micro_batch_result fixture_step(struct fixture *fixture, int64_t sequences_each, bool late) {
    struct micro_batch_result sum = {0};
    struct error error = {0};
    struct model_slot *slots[16] = {0};
    int64_t stride = fixture->length + 1 + fixture->depths, parts = fixture->sequences / sequences_each;
    assert_true(parts * sequences_each == fixture->sequences && parts <= 16);
    spoil_set_gradients(fixture);
    for (int64_t i = 0; i < parts; i++) {
        struct micro_batch_result part;
        struct micro_batch micro = {sequences_each, fixture->length, fixture->ids + i * sequences_each * stride,
                                    i == 0};
        if (late) {
            succeed(model_slot_create(&slots[i], &fixture->model, &error), &error);
        } else {
            slots[i] = fixture->slot;
        }
        model_forward(&fixture->op, &part, slots[i], &fixture->model, &fixture->gradients, &micro, &fixture->weights,
                      NULL);
        result_add(&sum, &part);
        if (!late) {
            model_backward_input(&fixture->op, slots[i], &fixture->model, &fixture->gradients);
            model_backward_weight(&fixture->op, slots[i], &fixture->model, &fixture->gradients);
        }
    }
    for (int64_t i = 0; i < parts && late; i++) {
        model_backward_input(&fixture->op, slots[i], &fixture->model, &fixture->gradients);
    }
    for (int64_t i = 0; i < parts && late; i++) {
        model_backward_weight(&fixture->op, slots[i], &fixture->model, &fixture->gradients);
        model_slot_destroy(slots[i]);
    }
    return sum;
}

struct tensor fixture_hidden(struct fixture *fixture, enum format format) {
    int64_t rows = fixture->sequences * fixture->length, stride = fixture->length + 1 + fixture->depths;
    int32_t *ids = arena_allocate(&fixture->arena, (size_t)rows, sizeof *ids);
    int32_t *positions = arena_allocate(&fixture->arena, (size_t)rows, sizeof *positions);
    struct attention_span *spans = arena_allocate(&fixture->arena, (size_t)fixture->sequences, sizeof *spans);
    for (int64_t i = 0; i < rows; i++) {
        ids[i] = fixture->ids[i / fixture->length * stride + i % fixture->length];
        positions[i] = (int32_t)(i % fixture->length);
    }
    for (int64_t s = 0; s < fixture->sequences; s++) {
        int64_t row = s * fixture->length;
        spans[s] = (struct attention_span){.query_row = row, .count = fixture->length, .key_row = row};
    }
    struct token_batch batch = {
        .tokens = rows, .ids = ids, .positions = positions, .spans = spans, .span_count = fixture->sequences};
    int64_t width = fixture->model.config.hidden_size;
    struct tensor hidden = tensor_2d(format, arena_allocate(&fixture->arena, (size_t)(rows * width), 4), rows, width);
    model_infer(&fixture->op, &hidden, &fixture->model, &batch, NULL);
    return hidden;
}

struct tensor fixture_logits(struct fixture *fixture, const struct tensor *hidden) {
    int64_t rows = hidden->shape[0], vocab = fixture->model.config.vocab_size;
    struct tensor logits = tensor_2d(FORMAT_F32, arena_allocate(&fixture->arena, (size_t)(rows * vocab), 4), rows,
                                     vocab);
    model_logits(&fixture->op, &logits, &fixture->model, hidden);
    return logits;
}

float *fixture_gradients_copy(struct fixture *fixture, int64_t *count) {
    *count = 0;
    for (int pass = 0;; pass++) {
        float *all = pass ? arena_allocate(&fixture->arena, (size_t)*count, sizeof(float)) : NULL;
        int64_t at = 0;
        for (int64_t i = 0; i < fixture->gradient_list.count; i++) {
            const struct tensor *tensor = fixture->gradient_list.items[i].tensor;
            if (!tensor_present(tensor)) {
                continue;
            }
            int64_t elements = tensor_elements(tensor);
            if (pass) {
                memcpy(all + at, tensor->data, (size_t)elements * sizeof(float));
            }
            at += elements;
        }
        *count = at;
        if (pass) {
            return all;
        }
    }
}

double largest_difference(const struct tensor *a, const struct tensor *b) {
    assert_int_equal(tensor_elements(a), tensor_elements(b));
    assert_true(a->format == FORMAT_F32 && b->format == FORMAT_F32);
    const float *x = a->data, *y = b->data;
    double largest = 0;
    for (int64_t i = 0; i < tensor_elements(a); i++) {
        double difference = fabs((double)x[i] - (double)y[i]);
        largest = difference <= largest ? largest : difference;   // a NaN wins
    }
    return largest;
}

double relative_difference(const struct tensor *a, const struct tensor *b) {
    assert_int_equal(tensor_elements(a), tensor_elements(b));
    assert_true(a->format == FORMAT_F32 && b->format == FORMAT_F32);
    const float *x = a->data, *y = b->data;
    double distance = 0, norm = 0;
    for (int64_t i = 0; i < tensor_elements(a); i++) {
        distance += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        norm += (double)y[i] * (double)y[i];
    }
    return norm > 0 ? sqrt(distance / norm) : sqrt(distance);
}
