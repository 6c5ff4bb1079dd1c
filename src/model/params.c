// The list of parameters: tables, the one walk over them, memory and initial values.
#include "model/params.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "tensor/formats.h"

#define CHUNK 16384   // elements that one task initialises

static size_t round_up(size_t bytes) {
    return (bytes + MEMORY_ALIGNMENT - 1) / MEMORY_ALIGNMENT * MEMORY_ALIGNMENT;
}

// ---- Tables --------------------------------------------------------------------------------------------------------

static int64_t moe_layers(const struct model_config *config) {
    int64_t count = 0;
    for (int64_t layer = 0; layer < config->num_hidden_layers + config->num_nextn_predict_layers; layer++) {
        count += model_layer_is_moe(config, layer);
    }
    return count;
}

size_t params_table_bytes(const struct model_config *config) {
    size_t experts = 3 * round_up((size_t)config->n_routed_experts * sizeof(struct tensor));
    return round_up((size_t)config->num_hidden_layers * sizeof(struct block_params)) +
           round_up((size_t)config->num_nextn_predict_layers * sizeof(struct mtp_params)) +
           (size_t)moe_layers(config) * experts + 4 * MEMORY_ALIGNMENT;
}

static void block_create(struct block_params *block, const struct model_config *config, int64_t layer,
                         struct arena *arena) {
    block->is_moe = model_layer_is_moe(config, layer);
    if (block->is_moe) {
        size_t experts = (size_t)config->n_routed_experts;
        block->moe.gate_proj = arena_allocate_zero(arena, experts, sizeof(struct tensor));
        block->moe.up_proj = arena_allocate_zero(arena, experts, sizeof(struct tensor));
        block->moe.down_proj = arena_allocate_zero(arena, experts, sizeof(struct tensor));
    }
}

void params_create(struct model_params *params, const struct model_config *config, struct arena *arena) {
    *params = (struct model_params){0};
    params->layers = arena_allocate_zero(arena, (size_t)config->num_hidden_layers, sizeof *params->layers);
    params->mtp = arena_allocate_zero(arena, (size_t)config->num_nextn_predict_layers, sizeof *params->mtp);
    for (int64_t layer = 0; layer < config->num_hidden_layers; layer++) {
        block_create(&params->layers[layer], config, layer, arena);
    }
    for (int64_t k = 0; k < config->num_nextn_predict_layers; k++) {
        block_create(&params->mtp[k].block, config, config->num_hidden_layers + k, arena);
    }
}

// ---- The walk ------------------------------------------------------------------------------------------------------

struct walk {
    const struct model_config *config;
    param_visitor visitor;
    void *argument;
    struct error *error;
    int64_t layer, expert;
    int code;   // first non-zero answer of the visitor; nothing is visited after it
};

// columns 0 = a vector of `rows` elements.
static void visit(struct walk *walk, struct tensor *tensor, enum param_kind kind, int64_t rows, int64_t columns,
                  const char *format, ...) __attribute__((format(printf, 6, 7)));
static void visit(struct walk *walk, struct tensor *tensor, enum param_kind kind, int64_t rows, int64_t columns,
                  const char *format, ...) {
    if (walk->code != 0) {
        return;
    }
    struct param param = {.kind = kind,
                          .layer = walk->layer,
                          .expert = walk->expert,
                          .rank = columns > 0 ? 2 : 1,
                          .shape = {rows, columns > 0 ? columns : 1},
                          .tensor = tensor};
    param.decay = param.rank == 2;
    param.trained = kind != PARAM_ROUTER_BIAS;
    va_list arguments;
    va_start(arguments, format);
    int length = 0;
    if (walk->layer >= 0) {
        length = snprintf(param.name, sizeof param.name, "model.layers.%lld.", (long long)walk->layer);
    }
    length += vsnprintf(param.name + length, sizeof param.name - (size_t)length, format, arguments);
    va_end(arguments);
    CHECK(length < (int)sizeof param.name, "name of %d characters", length);
    walk->code = walk->visitor(walk->argument, &param, walk->error);
}

static void visit_attention(struct walk *walk, struct mla_params *mla) {
    const struct model_config *c = walk->config;
    int64_t d = c->hidden_size, heads = c->num_attention_heads, queries = heads * model_qk_head_dim(c);
    if (c->q_lora_rank == 0) {
        visit(walk, &mla->q_proj, PARAM_LINEAR, queries, d, "self_attn.q_proj.weight");
    } else {
        visit(walk, &mla->q_a_proj, PARAM_LINEAR, c->q_lora_rank, d, "self_attn.q_a_proj.weight");
        visit(walk, &mla->q_a_layernorm, PARAM_NORM, c->q_lora_rank, 0, "self_attn.q_a_layernorm.weight");
        visit(walk, &mla->q_b_proj, PARAM_LINEAR, queries, c->q_lora_rank, "self_attn.q_b_proj.weight");
    }
    visit(walk, &mla->kv_a_proj_with_mqa, PARAM_LINEAR, c->kv_lora_rank + c->qk_rope_head_dim, d,
          "self_attn.kv_a_proj_with_mqa.weight");
    visit(walk, &mla->kv_a_layernorm, PARAM_NORM, c->kv_lora_rank, 0, "self_attn.kv_a_layernorm.weight");
    visit(walk, &mla->kv_b_proj, PARAM_LINEAR, heads * (c->qk_nope_head_dim + c->v_head_dim), c->kv_lora_rank,
          "self_attn.kv_b_proj.weight");
    visit(walk, &mla->o_proj, PARAM_LINEAR, d, heads * c->v_head_dim, "self_attn.o_proj.weight");
}

static void visit_mlp(struct walk *walk, struct mlp_params *mlp, int64_t width, const char *prefix) {
    int64_t d = walk->config->hidden_size;
    visit(walk, &mlp->gate_proj, PARAM_LINEAR, width, d, "%s.gate_proj.weight", prefix);
    visit(walk, &mlp->up_proj, PARAM_LINEAR, width, d, "%s.up_proj.weight", prefix);
    visit(walk, &mlp->down_proj, PARAM_LINEAR, d, width, "%s.down_proj.weight", prefix);
}

static void visit_moe(struct walk *walk, struct moe_params *moe) {
    const struct model_config *c = walk->config;
    int64_t d = c->hidden_size, width = c->moe_intermediate_size;
    visit(walk, &moe->gate, PARAM_ROUTER, c->n_routed_experts, d, "mlp.gate.weight");
    if (c->topk_method == ROUTER_GROUP_TOP2) {
        visit(walk, &moe->e_score_correction_bias, PARAM_ROUTER_BIAS, c->n_routed_experts, 0,
              "mlp.gate.e_score_correction_bias");
    }
    for (int64_t e = 0; e < c->n_routed_experts && walk->code == 0; e++) {
        walk->expert = e;
        visit(walk, &moe->gate_proj[e], PARAM_LINEAR, width, d, "mlp.experts.%lld.gate_proj.weight", (long long)e);
        visit(walk, &moe->up_proj[e], PARAM_LINEAR, width, d, "mlp.experts.%lld.up_proj.weight", (long long)e);
        visit(walk, &moe->down_proj[e], PARAM_LINEAR, d, width, "mlp.experts.%lld.down_proj.weight", (long long)e);
    }
    walk->expert = -1;
    if (c->n_shared_experts > 0) {
        visit_mlp(walk, &moe->shared_experts, c->n_shared_experts * width, "mlp.shared_experts");
    }
}

static void visit_block(struct walk *walk, struct block_params *block) {
    int64_t d = walk->config->hidden_size;
    visit(walk, &block->input_layernorm, PARAM_NORM, d, 0, "input_layernorm.weight");
    visit_attention(walk, &block->self_attn);
    visit(walk, &block->post_attention_layernorm, PARAM_NORM, d, 0, "post_attention_layernorm.weight");
    if (block->is_moe) {
        visit_moe(walk, &block->moe);
    } else {
        visit_mlp(walk, &block->mlp, walk->config->intermediate_size, "mlp");
    }
}

int params_visit(struct model_params *params, const struct model_config *config, param_visitor visitor, void *argument,
                 struct error *error) {
    struct walk walk = {
        .config = config, .visitor = visitor, .argument = argument, .error = error, .layer = -1, .expert = -1};
    int64_t d = config->hidden_size;
    visit(&walk, &params->embed_tokens, PARAM_EMBEDDING, config->vocab_size, d, "model.embed_tokens.weight");
    for (int64_t layer = 0; layer < config->num_hidden_layers && walk.code == 0; layer++) {
        walk.layer = layer;
        visit_block(&walk, &params->layers[layer]);
    }
    walk.layer = -1;
    visit(&walk, &params->norm, PARAM_NORM, d, 0, "model.norm.weight");
    if (!config->tie_word_embeddings) {
        visit(&walk, &params->lm_head, PARAM_HEAD, config->vocab_size, d, "lm_head.weight");
    }
    for (int64_t k = 0; k < config->num_nextn_predict_layers && walk.code == 0; k++) {
        struct mtp_params *mtp = &params->mtp[k];
        walk.layer = config->num_hidden_layers + k;
        visit(&walk, &mtp->enorm, PARAM_NORM, d, 0, "enorm.weight");
        visit(&walk, &mtp->hnorm, PARAM_NORM, d, 0, "hnorm.weight");
        visit(&walk, &mtp->eh_proj, PARAM_EH_PROJ, d, 2 * d, "eh_proj.weight");
        visit_block(&walk, &mtp->block);
        visit(&walk, &mtp->shared_head_norm, PARAM_NORM, d, 0, "shared_head.norm.weight");
    }
    return walk.code;
}

// Counts, and copies once there is an array.
static int list_param(void *argument, const struct param *param, struct error *error) {
    struct param_list *list = argument;
    (void)error;
    if (list->items != NULL) {
        list->items[list->count] = *param;
    }
    list->count++;
    return 0;
}

int params_list(struct param_list *list, struct model_params *params, const struct model_config *config,
                struct arena *arena, struct error *error) {
    *list = (struct param_list){0};
    params_visit(params, config, list_param, list, NULL);
    int code = arena_reserve(arena, (size_t)list->count * sizeof *list->items, error);
    if (code != 0) {
        return code;
    }
    *list = (struct param_list){.items = arena_allocate(arena, (size_t)list->count, sizeof *list->items)};
    params_visit(params, config, list_param, list, NULL);
    return 0;
}

// ---- Memory --------------------------------------------------------------------------------------------------------

struct allocation {
    enum format format;
    bool keep_small_f32, only_trained;
    struct arena *arena;   // NULL: only add up
    size_t bytes;
};

static enum format allocation_format(const struct allocation *allocation, const struct param *param) {
    bool small = param->kind == PARAM_NORM || param->kind == PARAM_ROUTER;
    if (param->kind == PARAM_ROUTER_BIAS || (small && allocation->keep_small_f32)) {
        return FORMAT_F32;
    }
    return allocation->format == FORMAT_E4M3_BLOCK && param->kind != PARAM_LINEAR ? FORMAT_BF16 : allocation->format;
}

static int allocate_param(void *argument, const struct param *param, struct error *error) {
    struct allocation *allocation = argument;
    (void)error;
    if (allocation->only_trained && !param->trained) {
        return 0;
    }
    struct tensor tensor = tensor_make(allocation_format(allocation, param), NULL, param->rank, param->shape);
    size_t data_bytes = (size_t)(tensor_elements(&tensor) * format_info(tensor.format)->bytes);
    size_t scale_bytes = (size_t)tensor_bytes(&tensor) - data_bytes;
    if (allocation->arena == NULL) {
        allocation->bytes += round_up(data_bytes) + round_up(scale_bytes);
        return 0;
    }
    tensor.data = arena_allocate_zero(allocation->arena, data_bytes, 1);
    tensor.scale = scale_bytes > 0 ? arena_allocate_zero(allocation->arena, scale_bytes, 1) : NULL;
    *param->tensor = tensor;
    return 0;
}

int params_allocate(struct model_params *params, const struct model_config *config, enum format format,
                    bool keep_small_f32, bool only_trained, struct arena *arena, struct error *error) {
    struct allocation allocation = {.format = format, .keep_small_f32 = keep_small_f32, .only_trained = only_trained};
    params_visit(params, config, allocate_param, &allocation, NULL);
    int code = arena_reserve(arena, allocation.bytes, error);
    if (code != 0) {
        return code;
    }
    allocation.arena = arena;
    params_visit(params, config, allocate_param, &allocation, NULL);
    if (config->tie_word_embeddings) {
        params->lm_head = params->embed_tokens;
    }
    return 0;
}

static int shape_param(void *argument, const struct param *param, struct error *error) {
    (void)error;
    *param->tensor = tensor_make(allocation_format(argument, param), NULL, param->rank, param->shape);
    return 0;
}

void params_shape(struct model_params *params, const struct model_config *config, enum format format) {
    struct allocation allocation = {.format = format};
    params_visit(params, config, shape_param, &allocation, NULL);
    if (config->tie_word_embeddings) {
        params->lm_head = params->embed_tokens;
    }
}

// ---- Initial values ------------------------------------------------------------------------------------------------

struct initialization {
    uint64_t seed, stream;
    float std, constant;    // std < 0: every element is `constant`
    struct tensor tensor;   // packed
    int64_t columns;
    float *band;         // E4M3: [threads, 128 * columns] values before quantisation
    bool power_of_two;   // scales
    const struct op_context *op;
};

static void fill(float *out, const struct initialization *init, int64_t begin, int64_t count) {
    if (init->std >= 0.0f) {
        op_random_normal(init->op, out, init->seed, init->stream, (uint64_t)begin, count);
    }
    for (int64_t i = 0; i < count; i++) {
        out[i] = init->std >= 0.0f ? init->std * out[i] : init->constant;
    }
}

static void initialize_chunk(void *argument, int64_t task, int worker) {
    const struct initialization *init = argument;
    (void)worker;
    float values[256];
    struct tensor flat = tensor_reshape(&init->tensor, 1, (int64_t[]){tensor_elements(&init->tensor)});
    int64_t end = (task + 1) * CHUNK < flat.shape[0] ? (task + 1) * CHUNK : flat.shape[0];
    for (int64_t i = task * CHUNK; i < end; i += 256) {
        int64_t count = end - i < 256 ? end - i : 256;
        fill(values, init, i, count);
        format_info(flat.format)->narrow(&flat, values, 0, i, count);
    }
}

static void initialize_band(void *argument, int64_t task, int worker) {
    const struct initialization *init = argument;
    int64_t row = task * BLOCK_SIZE;
    int64_t height = init->tensor.shape[0] - row < BLOCK_SIZE ? init->tensor.shape[0] - row : BLOCK_SIZE;
    float *values = init->band + worker * BLOCK_SIZE * init->columns;
    fill(values, init, row * init->columns, height * init->columns);
    struct tensor source = tensor_2d(FORMAT_F32, values, height, init->columns);
    struct tensor out = tensor_slice(&init->tensor, 0, row, height);
    quantize_e4m3_blocks(&out, &source, init->power_of_two);
}

static int initialize_param(void *argument, const struct param *param, struct error *error) {
    struct initialization *init = argument;
    struct initialization own = *init;
    if (!tensor_present(param->tensor)) {
        return 0;
    }
    own.stream = rng_hash_string(param->name);
    own.tensor = *param->tensor;
    own.columns = param->shape[1];
    own.constant = param->kind == PARAM_NORM ? 1.0f : 0.0f;
    own.std = param->kind == PARAM_NORM || param->kind == PARAM_ROUTER_BIAS ? -1.0f : own.std;
    if (own.tensor.format != FORMAT_E4M3_BLOCK) {
        pool_run(own.op->pool, (tensor_elements(&own.tensor) + CHUNK - 1) / CHUNK, initialize_chunk, &own);
        return 0;
    }
    size_t workers = own.op->pool != NULL ? (size_t)pool_threads(own.op->pool) : 1;
    own.band = memory_allocate(workers * BLOCK_SIZE * (size_t)own.columns, sizeof *own.band, param->name, error);
    if (own.band == NULL) {
        return ERROR_MEMORY;
    }
    pool_run(own.op->pool, (own.tensor.shape[0] + BLOCK_SIZE - 1) / BLOCK_SIZE, initialize_band, &own);
    memory_free(own.band);
    return 0;
}

int params_initialize(struct model_params *params, const struct model_config *config, uint64_t seed, double std,
                      struct op_context *op, struct error *error) {
    struct initialization init = {.seed = seed, .std = (float)std, .power_of_two = config->fp8_power_of_two, .op = op};
    CHECK(std >= 0.0, "std %g", std);
    return params_visit(params, config, initialize_param, &init, error);
}

int param_initialize(struct tensor *tensor, const struct param *param, const struct model_config *config, uint64_t seed,
                     double std, struct op_context *op, struct error *error) {
    struct initialization init = {.seed = seed, .std = (float)std, .power_of_two = config->fp8_power_of_two, .op = op};
    struct param own = *param;
    own.tensor = tensor;
    return initialize_param(&init, &own, error);
}
