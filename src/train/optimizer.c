// The optimizer: see optimizer.h. Everything is element-wise or a sum in one written order, so nothing depends on
// threads.
#include "train/optimizer.h"

#include <math.h>

#include "base/math.h"

// Compute weights that are F32 in BF16 training too (norms, routers, biases) need no copy.
static void share_small(struct param_tree *weights, const struct param_tree *source) {
    for (int64_t i = 0; i < weights->list.count; i++) {
        struct tensor *weight = weights->list.items[i].tensor;
        if (weight->format == FORMAT_F32) {
            *weight = *source->list.items[i].tensor;
        }
    }
}

int optimizer_create(struct optimizer *optimizer, const struct model_config *config, const struct run_config *run,
                     struct arena *arena, struct error *error) {
    *optimizer = (struct optimizer){0};
    enum format moments = run->optimizer.moments == MOMENTS_F32 ? FORMAT_F32 : FORMAT_BF16;
    int code = param_tree_create(&optimizer->masters, config, FORMAT_F32, true, SCOPE_ALL, arena, error);
    if (code == 0) {
        code = param_tree_create(&optimizer->m, config, moments, false, SCOPE_TRAINED, arena, error);
    }
    if (code == 0) {
        code = param_tree_create(&optimizer->v, config, moments, false, SCOPE_TRAINED, arena, error);
    }
    if (code == 0 && run->optimizer.ema_decay > 0) {
        code = param_tree_create(&optimizer->average, config, FORMAT_F32, true, SCOPE_ALL, arena, error);
    }
    if (code != 0 || run->train.precision == PRECISION_FP32) {
        optimizer->weights = optimizer->masters;
        optimizer->weights.bytes = 0;
        return code;
    }
    optimizer->power_of_two = config->fp8_power_of_two;
    enum format format = run->train.precision == PRECISION_FP8 ? FORMAT_E4M3_BLOCK : FORMAT_BF16;
    code = param_tree_create(&optimizer->weights, config, format, true, SCOPE_ALL, arena, error);
    if (code == 0) {
        share_small(&optimizer->weights, &optimizer->masters);
    }
    return code;
}

// Blocks are quantised with the scales that the export would choose: an FP8 checkpoint has these very bytes.
static void weights_copy(struct optimizer *optimizer, struct op_context *op, const struct param_tree *from) {
    for (int64_t i = 0; i < from->list.count; i++) {
        struct tensor *weight = optimizer->weights.list.items[i].tensor;
        const struct tensor *source = from->list.items[i].tensor;
        if (weight->format == FORMAT_E4M3_BLOCK) {
            op_quantize_blocks(op, weight, source, optimizer->power_of_two);
        } else if (weight->data != source->data) {
            op_copy(op, weight, source);
        }
    }
}

void optimizer_refresh(struct optimizer *optimizer, struct op_context *op) {
    weights_copy(optimizer, op, &optimizer->masters);
}

void optimizer_start(struct optimizer *optimizer, struct op_context *op) {
    if (optimizer->average.list.count > 0) {
        param_tree_copy(op, &optimizer->average, &optimizer->masters);
    }
    optimizer_refresh(optimizer, op);
}

static bool weights_are_masters(const struct optimizer *optimizer) {
    return optimizer->weights.list.items == optimizer->masters.list.items;
}

struct model_params optimizer_average_weights(struct optimizer *optimizer, struct op_context *op) {
    if (weights_are_masters(optimizer)) {
        return optimizer->average.params;
    }
    share_small(&optimizer->weights, &optimizer->average);
    weights_copy(optimizer, op, &optimizer->average);
    return optimizer->weights.params;
}

struct model_params optimizer_weights(struct optimizer *optimizer, struct op_context *op) {
    if (!weights_are_masters(optimizer)) {
        share_small(&optimizer->weights, &optimizer->masters);
        optimizer_refresh(optimizer, op);
    }
    return optimizer->weights.params;
}

double gradient_norm(struct op_context *op, const struct param_tree *gradients) {
    double sum = 0;
    for (int64_t i = 0; i < gradients->list.count; i++) {
        if (tensor_present(gradients->list.items[i].tensor)) {
            sum += op_sum_squares(op, gradients->list.items[i].tensor);
        }
    }
    return sqrt(sum);
}

static void average_update(struct optimizer *optimizer, struct op_context *op, double ema_decay) {
    double n = (double)optimizer->updates, young = (1 + n) / (10 + n);
    float decay = (float)(young < ema_decay ? young : ema_decay);
    for (int64_t i = 0; i < optimizer->average.list.count; i++) {
        op_ema(op, optimizer->average.list.items[i].tensor, optimizer->masters.list.items[i].tensor, decay);
    }
}

void optimizer_update(struct optimizer *optimizer, struct op_context *op, const struct param_tree *gradients,
                      const struct optimizer_section *section, double scale, double learning_rate, double norm) {
    optimizer->updates++;
    double updates = (double)optimizer->updates, clip = section->clip;
    struct adamw_step step = {
        .learning_rate = (float)learning_rate,
        .beta1 = (float)section->beta1,
        .beta2 = (float)section->beta2,
        .epsilon = (float)section->epsilon,
        // 1 - 0^t needs no logarithm of 0.
        .correction1 = section->beta1 > 0 ? (float)(1 - math_pow_double(section->beta1, updates)) : 1,
        .correction2 = section->beta2 > 0 ? (float)(1 - math_pow_double(section->beta2, updates)) : 1,
        .gradient_scale = (float)((clip > 0 && norm > clip ? clip / norm : 1) / scale),
        .power_of_two = optimizer->power_of_two,
    };
    for (int64_t i = 0; i < optimizer->masters.list.count; i++) {
        const struct param *param = &optimizer->masters.list.items[i];
        if (!param->trained) {
            continue;
        }
        step.weight_decay = param->decay ? (float)section->weight_decay : 0;
        struct tensor *weight = optimizer->weights.list.items[i].tensor;
        op_adamw(op, param->tensor, optimizer->m.list.items[i].tensor, optimizer->v.list.items[i].tensor,
                 weight->data == param->tensor->data ? NULL : weight, gradients->list.items[i].tensor, &step);
    }
    average_update(optimizer, op, section->ema_decay);
}

int64_t moe_layer_count(const struct model_config *config) {
    int64_t count = 0;
    for (int64_t layer = 0; layer < config->num_hidden_layers + config->num_nextn_predict_layers; layer++) {
        count += model_layer_is_moe(config, layer);
    }
    return count;
}

const float *router_bias(const struct param_tree *masters, int64_t moe_layer) {
    int64_t router = -1;
    for (int64_t i = 0; i < masters->list.count; i++) {
        const struct param *param = &masters->list.items[i];
        router += param->kind == PARAM_ROUTER;
        if (param->kind == PARAM_ROUTER_BIAS && router == moe_layer) {
            return param->tensor->data;
        }
    }
    return NULL;
}

void router_bias_update(struct optimizer *optimizer, const struct model_config *config, const int64_t *expert_load,
                        double gamma) {
    int64_t experts = config->n_routed_experts, router = -1;
    for (int64_t i = 0; i < optimizer->masters.list.count; i++) {
        const struct param *param = &optimizer->masters.list.items[i];
        router += param->kind == PARAM_ROUTER;   // the weight comes right before its bias
        if (param->kind != PARAM_ROUTER_BIAS) {
            continue;
        }
        const int64_t *load = expert_load + router * experts;
        int64_t total = 0;
        for (int64_t e = 0; e < experts; e++) {
            total += load[e];
        }
        float *bias = param->tensor->data;
        for (int64_t e = 0; e < experts; e++) {
            // mean > load without a division: exact.
            int sign = (total > load[e] * experts) - (total < load[e] * experts);
            bias[e] += (float)gamma * (float)sign;
        }
    }
}
