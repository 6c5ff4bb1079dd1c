// Whole models with random weights: a training step as the trainer does it, a prompt, and single tokens behind one.
//
// Operations of a training step: 6 x active matmul parameters x tokens, and causal attention, two products forward and
// twice that backward. Active: every matrix that a token meets, K of the E routed experts, the head once for each
// prediction, no embedding table. A prompt takes a third of that and no head; bytes of a token: the active weights
// once, and the cache.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "app/bench.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/rng.h"
#include "infer/engine.h"
#include "infer/session.h"
#include "model/quantize.h"
#include "tensor/formats.h"
#include "tensor/int_groups.h"
#include "tensor/panels.h"
#include "train/optimizer.h"

#define CHUNK 512          // prompt tokens per forward pass
#define DECODE_TOKENS 16   // before the session is cut back to its depth
#define BATCH_PROMPT 64    // tokens before
#define BATCH_ANSWER 256   // most tokens that the measurement may take
#define MOST_SEQUENCES 32
#define SHARE_STEPS 3

// ---- Counting -------------------------------------------------------------------------------------------------------

struct active {
    const struct model_config *config;
    bool mtp;            // with the MTP modules
    int64_t rows;        // tokens at a time, for the experts that their bytes are counted of (0: one)
    double parameters;   // of matrices, without embedding and head
    double head;         // of one prediction
    double bytes;        // of everything a token reads, head included
};

// The share of the experts that `rows` tokens meet, if each chooses at random.
static double expert_share(const struct active *active, const struct param *param) {
    const struct model_config *config = active->config;
    double missed = 1.0;
    for (int64_t row = 0; row < (active->rows > 1 ? active->rows : 1); row++) {
        missed *= 1.0 - (double)config->num_experts_per_tok / (double)config->n_routed_experts;
    }
    return param->expert >= 0 ? 1.0 - missed : 1.0;
}

static int count_param(void *argument, const struct param *param, struct error *error) {
    struct active *active = argument;
    const struct model_config *config = active->config;
    (void)error;
    double share = param->expert >= 0 ? (double)config->num_experts_per_tok / (double)config->n_routed_experts : 1.0;
    double elements = (double)(param->shape[0] * (param->rank > 1 ? param->shape[1] : 1)) * share;
    double met = expert_share(active, param);
    double bytes = tensor_present(param->tensor) ? (double)tensor_bytes(param->tensor) * met : 0.0;
    bool head = param->kind == PARAM_HEAD || (param->kind == PARAM_EMBEDDING && config->tie_word_embeddings);
    bool of_mtp = param->layer >= config->num_hidden_layers;
    if (head) {
        active->head = elements;
        active->bytes += bytes;
    } else if (param->kind != PARAM_EMBEDDING && (!of_mtp || active->mtp)) {
        active->bytes += bytes;
        if (param->rank > 1) {
            active->parameters += elements;
        }
    }
    return 0;
}

static struct active count_active(struct model_params *params, const struct model_config *config, bool mtp) {
    struct active active = {.config = config, .mtp = mtp};
    params_visit(params, config, count_param, &active, NULL);
    return active;
}

// Operations of `layers` layers for the tokens of one sequence, forward.
static double attention_work(const struct model_config *config, int64_t layers, int64_t length) {
    double pairs = (double)length * (double)(length + 1) / 2.0;
    double width = (double)(config->num_attention_heads * (model_qk_head_dim(config) + config->v_head_dim));
    return 2.0 * pairs * width * (double)layers;
}

static void random_ids(int32_t *ids, int64_t count, const struct model_config *config) {
    for (int64_t i = 0; i < count; i++) {
        ids[i] = (int32_t)rng_below(1, 0, (uint64_t)i, (uint64_t)config->vocab_size);
    }
}

// ---- Training -------------------------------------------------------------------------------------------------------

struct training {
    struct bench *bench;
    struct run_config run;
    struct arena arena;
    struct optimizer optimizer;
    struct param_tree gradients;
    struct model model;
    struct model_slot *slot;
    struct micro_batch batch;
    struct loss_weights weights;
    int64_t *expert_load;
    size_t expert_load_bytes;
};

static int training_open(struct training *t, struct bench *bench, enum precision precision, struct error *error) {
    const struct model_config *config = &bench->config;
    int64_t sequences = bench->options.batch > 0 ? bench->options.batch : 8;
    int64_t length = bench->options.length > 0 ? bench->options.length : 256;
    int64_t depths = config->num_nextn_predict_layers, ids = sequences * (length + 1 + depths);
    double targets = (double)(sequences * length);
    t->bench = bench;
    run_config_defaults(&t->run);
    t->run.train.precision = precision;
    t->expert_load_bytes = (size_t)(moe_layer_count(config) * config->n_routed_experts) * sizeof *t->expert_load;
    t->weights = (struct loss_weights){.main_scale = (float)(1.0 / targets),
                                       .mtp_scale = (float)(0.3 / targets / (double)(depths > 0 ? depths : 1)),
                                       .balance_scale = (float)(1e-4 / (double)sequences)};
    int code;
    if ((code = optimizer_create(&t->optimizer, config, &t->run, &t->arena, error)) != 0 ||
        (code = param_tree_create(&t->gradients, config, FORMAT_F32, true, SCOPE_TRAINED, &t->arena, error)) != 0 ||
        (code = arena_reserve(&t->arena, (size_t)ids * 4 + t->expert_load_bytes + 4096, error)) != 0 ||
        (code = params_initialize(&t->optimizer.masters.params, config, 1, config->initializer_range,
                                  &bench->op[TEAM_ALL], error)) != 0) {
        return code;
    }
    optimizer_start(&t->optimizer, &bench->op[TEAM_ALL]);
    int32_t *tokens = arena_allocate(&t->arena, (size_t)ids, sizeof *tokens);
    random_ids(tokens, ids, config);
    t->expert_load = arena_allocate(&t->arena, t->expert_load_bytes + 8, 1);
    t->batch = (struct micro_batch){.sequences = sequences, .length = length, .ids = tokens, .first = true};
    t->model = (struct model){.config = *config,
                              .params = t->optimizer.weights.params,
                              .compute = precision == PRECISION_FP32 ? FORMAT_F32 : FORMAT_BF16,
                              .fp8 = precision == PRECISION_FP8};
    model_prepare(&t->model, length, &t->arena);
    return model_slot_create(&t->slot, &t->model, error);
}

// As train/step.c and train/trainer.c do it, the whole batch in one piece.
static void training_step(void *argument, struct op_context *op, int64_t round) {
    struct training *t = argument;
    struct micro_batch_result result;
    (void)round;
    memset(t->expert_load, 0, t->expert_load_bytes);
    param_tree_zero_added(op, &t->gradients);
    model_forward(op, &result, t->slot, &t->model, &t->gradients.params, &t->batch, &t->weights, t->expert_load);
    model_backward_input(op, t->slot, &t->model, &t->gradients.params);
    model_backward_weight(op, t->slot, &t->model, &t->gradients.params);
    double norm = gradient_norm(op, &t->gradients);
    optimizer_update(&t->optimizer, op, &t->gradients, &t->run.optimizer, 1, 1e-4, norm);
    if (t->expert_load_bytes > 0) {
        router_bias_update(&t->optimizer, &t->bench->config, t->expert_load, 1e-3);
    }
}

static void optimizer_only(void *argument, struct op_context *op, int64_t round) {
    struct training *t = argument;
    (void)round;
    optimizer_update(&t->optimizer, op, &t->gradients, &t->run.optimizer, 1, 1e-4, gradient_norm(op, &t->gradients));
}

static void forward_only(void *argument, struct op_context *op, int64_t round) {
    struct training *t = argument;
    struct micro_batch_result result;
    (void)round;
    model_forward(op, &result, t->slot, &t->model, &t->gradients.params, &t->batch, &t->weights, NULL);
}

// Where a step's time goes, from SHARE_STEPS steps behind the measured ones.
static void measure_shares(struct training *t, const char *name) {
    struct op_context *op = &t->bench->op[TEAM_ALL];
    struct op_times times = {0};
    op->times = &times;
    double began = clock_seconds();
    for (int64_t i = 0; i < SHARE_STEPS; i++) {
        training_step(t, op, i);
    }
    double whole = (clock_seconds() - began) / SHARE_STEPS;
    op->times = NULL;
    double products = times.seconds[OP_PRODUCTS] / SHARE_STEPS, attention = times.seconds[OP_ATTENTION] / SHARE_STEPS;
    const struct {
        const char *name;
        double seconds;
    } shares[] = {{"products", products}, {"attention", attention}, {"rest", whole - products - attention}};
    for (size_t i = 0; i < sizeof shares / sizeof shares[0]; i++) {
        char text[BENCH_NAME];
        snprintf(text, sizeof text, "%s.%s", name, shares[i].name);
        bench_print_line(t->bench, text, "s", shares[i].seconds, whole, 0.0, TEAM_ALL);
    }
}

static void measure_training(struct training *t, const char *name, enum bench_limit limit) {
    struct bench *bench = t->bench;
    const struct model_config *config = &bench->config;
    int64_t depths = config->num_nextn_predict_layers, layers = config->num_hidden_layers + depths;
    struct active active = count_active(&t->optimizer.weights.params, config, true);
    double parameters = active.parameters + active.head * (double)(1 + depths);
    double tokens = (double)(t->batch.sequences * t->batch.length);
    double attention = 3.0 * attention_work(config, layers, t->batch.length) * (double)t->batch.sequences;
    double work = (6.0 * parameters * tokens + attention) / 1e9;
    struct bench_case measured = {.unit = "GFLOP/s",
                                  .amount = work,
                                  .work = work,
                                  .limit = limit,
                                  .team = TEAM_ALL,
                                  .run = training_step,
                                  .argument = t};
    snprintf(measured.name, sizeof measured.name, "%s.flops", name);
    double step = bench_measure(bench, &measured);
    measured.unit = "tokens/s";
    measured.amount = tokens;
    snprintf(measured.name, sizeof measured.name, "%s", name);
    bench_measure_again(bench, &measured);
    measure_shares(t, name);
    if (!bench->options.json) {
        measured.limit = LIMIT_NONE;
        measured.unit = "steps/s";
        measured.amount = 1.0, measured.work = 0.0;
        measured.run = forward_only;
        snprintf(measured.name, sizeof measured.name, "%s.forward", name);
        double forward = bench_measure(bench, &measured);
        measured.run = optimizer_only;
        snprintf(measured.name, sizeof measured.name, "%s.optimizer", name);
        double optimizer = bench_measure(bench, &measured);
        bench_print_note(
            bench, "a step of %" PRId64 " x %" PRId64 " tokens, %.1f M active matmul parameters: %.1f GFLOP in %.3f s",
            t->batch.sequences, t->batch.length, parameters / 1e6, work, step);
        bench_print_note(bench, "forward and loss %.0f %%, backward %.0f %%, gradient norm and AdamW %.0f %%",
                         100.0 * forward / step, 100.0 * (step - forward - optimizer) / step, 100.0 * optimizer / step);
    }
}

static int train(struct bench *bench, const char *name, enum precision precision, struct error *error) {
    static const char *const names[] = {[PRECISION_FP32] = "fp32", [PRECISION_BF16] = "bf16", [PRECISION_FP8] = "fp8"};
    if (bench->options.precision != NULL && strcmp(bench->options.precision, names[precision]) != 0) {
        return 0;
    }
    struct training t = {0};
    arena_init(&t.arena, "training");
    int code = training_open(&t, bench, precision, error);
    if (code == 0) {
        measure_training(&t, name, precision == PRECISION_FP32 ? LIMIT_F32 : LIMIT_PAIRS);
    }
    model_slot_destroy(t.slot);
    arena_destroy(&t.arena);
    return code;
}

int bench_train(struct bench *bench, struct error *error) {
    bench_print_heading(bench, "training");
    int code = train(bench, "train.step", PRECISION_BF16, error);
    code = code == 0 ? train(bench, "train.step.fp8", PRECISION_FP8, error) : code;
    return code == 0 ? train(bench, "train.step.fp32", PRECISION_FP32, error) : code;
}

// ---- Inference ------------------------------------------------------------------------------------------------------

struct inference {
    struct arena arena, source;   // source: what weights were made from, and what stays of it
    struct model model;
    struct session *session;
    int32_t *ids;
    int64_t count;   // ids of a prompt
};

static enum cache_kind wanted_cache(const struct bench *bench) {
    return bench->options.cache != NULL && strcmp(bench->options.cache, "fp8") == 0 ? CACHE_FP8 : CACHE_PLAIN;
}

// How weights are kept in what is measured; all but the first stand behind the names of the measurements. Those that
// are mapped are measured only if they are asked for.
static const struct weight_kind {
    enum format format;
    bool mapped;
    const char *name;
} weights[] = {{FORMAT_BF16, false, "bf16"},       {FORMAT_E4M3_BLOCK, false, "fp8"},
               {FORMAT_INT8, false, "int8"},       {FORMAT_INT4, false, "int4"},
               {FORMAT_BF16, true, "bf16-mapped"}, {FORMAT_E4M3_BLOCK, true, "fp8-mapped"}};
#define WEIGHTS (sizeof weights / sizeof weights[0])

// Integers of BF16, or panels of what is stored.
static int make_weights(struct model *model, enum format format, struct op_context *op, struct arena *arena,
                        struct error *error) {
    return format_is_int(format) ? model_quantize(&model->params, &model->config, format, false, op->pool, arena, error)
                                 : model_interleave(&model->params, &model->config, false, op, arena, error);
}

static int inference_open(struct inference *inference, struct bench *bench, const struct weight_kind *kind,
                          int64_t capacity, struct error *error) {
    const struct model_config *config = &bench->config;
    struct session_options options = {.capacity = capacity, .chunk = CHUNK, .cache = wanted_cache(bench)};
    struct model *model = &inference->model;
    struct op_context *op = &bench->op[TEAM_ALL];
    *model = (struct model){.config = *config, .compute = FORMAT_BF16};
    int code = arena_reserve(&inference->arena, params_table_bytes(config) + (size_t)capacity * 4 + 4096, error);
    if (code != 0) {
        return code;
    }
    inference->ids = arena_allocate(&inference->arena, (size_t)capacity, sizeof *inference->ids);
    random_ids(inference->ids, capacity, config);
    params_create(&model->params, config, &inference->arena);
    bool integers = format_is_int(kind->format), made = integers || (!kind->mapped && op_interleaves(op));
    struct arena *first = made ? &inference->source : &inference->arena;
    enum format stored = integers ? FORMAT_BF16 : kind->format;
    if ((code = params_allocate(&model->params, config, stored, false, false, first, error)) != 0 ||
        (code = params_initialize(&model->params, config, 1, config->initializer_range, op, error)) != 0 ||
        (made && (code = make_weights(model, kind->format, op, &inference->arena, error)) != 0)) {
        return code;
    }
    model_prepare(model, capacity, &inference->arena);
    model->absorbed_panels = !kind->mapped && op_interleaves(op);
    model_prepare_absorbed(model, op);
    return session_create(&inference->session, model, op, &options, error);
}

static void inference_close(struct inference *inference) {
    session_destroy(inference->session);
    arena_destroy(&inference->source);
    arena_destroy(&inference->arena);
}

static void append(struct inference *inference, int64_t count, enum session_kind kind) {
    struct error error = {0};
    const int32_t *ids = inference->ids + (kind == SESSION_SAMPLED ? inference->session->length : 0);
    CHECK(session_append(inference->session, ids, count, kind, &error) == 0, "%s", error.text);
}

static void cut(struct inference *inference, int64_t length) {
    struct error error = {0};
    CHECK(session_truncate(inference->session, length, &error) == 0, "%s", error.text);
}

static void run_prefill(void *argument, struct op_context *op, int64_t round) {
    struct inference *inference = argument;
    (void)op, (void)round;
    cut(inference, 0);
    append(inference, inference->count, SESSION_PROMPT);
}

static void run_decode(void *argument, struct op_context *op, int64_t round) {
    struct inference *inference = argument;
    (void)op, (void)round;
    if (inference->session->length >= inference->count + DECODE_TOKENS) {
        cut(inference, inference->count);
    }
    append(inference, 1, SESSION_SAMPLED);
}

static bool is_wanted(const struct bench *bench, size_t f) {
    return bench->options.weights == NULL ? !weights[f].mapped : strcmp(bench->options.weights, weights[f].name) == 0;
}

static void name_case(const struct bench *bench, struct bench_case *measured, const char *name, int64_t number,
                      size_t f) {
    const char *label = weights[f].name;
    bool plain = f == 0;
    snprintf(measured->name, sizeof measured->name, "%s.%" PRId64 "%s%s%s", name, number, plain ? "" : ".",
             plain ? "" : label, wanted_cache(bench) == CACHE_FP8 ? ".cache-fp8" : "");
}

int bench_prefill(struct bench *bench, struct error *error) {
    const struct model_config *config = &bench->config;
    int64_t length = bench->options.length > 0 ? bench->options.length : 512;
    int code = 0;
    bench_print_heading(bench, "reading a prompt");
    for (size_t f = 0; f < WEIGHTS && code == 0; f++) {
        if (!is_wanted(bench, f)) {
            continue;
        }
        struct inference inference = {.count = length};
        arena_init(&inference.arena, "inference");
        arena_init(&inference.source, "weights");
        if ((code = inference_open(&inference, bench, &weights[f], length, error)) == 0) {
            struct active active = count_active(&inference.model.params, config, false);
            double work = 2.0 * (active.parameters * (double)length + active.head) +
                          attention_work(config, config->num_hidden_layers, length);
            struct bench_case measured = {.unit = "tokens/s",
                                          .amount = (double)length,
                                          .work = work / 1e9,
                                          .limit = format_is_int(weights[f].format) ? LIMIT_VECTORS : LIMIT_PAIRS,
                                          .team = TEAM_ALL,
                                          .evict = true,
                                          .run = run_prefill,
                                          .argument = &inference};
            name_case(bench, &measured, "prefill", length, f);
            bench_measure(bench, &measured);
        }
        inference_close(&inference);
    }
    return code;
}

double bench_token_bytes(struct model_params *params, const struct model_config *config, enum cache_kind cache,
                         int64_t depth) {
    struct cache_layout layout;
    CHECK(cache_layout_make(&layout, config, FORMAT_BF16, ATTENTION_ABSORBED, cache, NULL) == 0, "cache of latents");
    double layers = (double)config->num_hidden_layers, all = layers + (double)config->num_nextn_predict_layers;
    double bytes = (double)kv_cache_token_bytes(config, &layout) * (double)depth * layers / all;
    for (int64_t l = 0; l < config->num_hidden_layers; l++) {
        const struct mla_params *attention = &params->layers[l].self_attn;
        if (tensor_present(&attention->absorbed_key)) {
            bytes += (double)(panels_bytes(&attention->absorbed_key) + panels_bytes(&attention->absorbed_value) -
                              tensor_bytes(&attention->kv_b_proj));
        } else if (tensor_present(&attention->kv_b_dense)) {
            bytes += (double)(tensor_bytes(&attention->kv_b_dense) - tensor_bytes(&attention->kv_b_proj));
        }
    }
    return bytes + count_active(params, config, false).bytes;
}

// Tokens of the session, and ids that the prompts of a batch are taken from.
static int64_t decode_capacity(int64_t depth) {
    int64_t batch = BATCH_PROMPT + BATCH_ANSWER;
    return depth + DECODE_TOKENS > batch ? depth + DECODE_TOKENS : batch;
}

// ---- Many sequences -------------------------------------------------------------------------------------------------

static int ignore_event(void *argument, const struct minke_event *event) {
    (void)argument, (void)event;
    return 0;
}

static void run_step(void *argument, struct op_context *op, int64_t round) {
    struct engine *engine = argument;
    struct error error = {0};
    (void)op, (void)round;
    CHECK(engine_step(engine, &error) >= 0, "%s", error.text);
}

// `sequences` requests that all write a token with each step.
static int start_batch(struct engine **engine, struct inference *inference, struct op_context *op, int64_t sequences,
                       struct error *error) {
    const int64_t length = BATCH_PROMPT + BATCH_ANSWER;
    struct engine_options options = {.context = length,
                                     .cache_tokens = sequences * length,
                                     .batch = sequences,
                                     .chunk = sequences * BATCH_PROMPT,
                                     .cache = inference->session->options.cache,
                                     .drafts = DRAFTS_NEVER};
    int code = engine_create(engine, &inference->model, op, &options, error);
    for (int64_t i = 0; i < sequences && code == 0; i++) {
        int64_t number;
        struct minke_request request = {.ids = inference->ids + i,   // all different
                                        .count = BATCH_PROMPT,
                                        .max_tokens = BATCH_ANSWER,
                                        .ignore_end = 1,
                                        .callback = ignore_event};
        code = engine_submit(&number, *engine, &request, error);
    }
    for (int warm = 0; warm < 2 && code == 0; warm++) {
        int64_t running = engine_step(*engine, error);
        code = running < 0 ? (int)running : 0;
    }
    return code;
}

static int measure_batch(struct bench *bench, struct inference *inference, int64_t sequences, size_t f,
                         struct error *error) {
    struct engine *engine = NULL;
    int code = start_batch(&engine, inference, &bench->op[TEAM_ALL], sequences, error);
    if (code == 0) {
        struct active active = {.config = &bench->config, .rows = sequences};
        params_visit(&inference->model.params, &bench->config, count_param, &active, NULL);
        struct bench_case measured = {.unit = "tokens/s",
                                      .amount = (double)sequences,
                                      .work = active.bytes / 1e9,
                                      .limit = LIMIT_READ,
                                      .team = TEAM_ALL,
                                      .evict = true,
                                      .run = run_step,
                                      .argument = engine};
        name_case(bench, &measured, "decode", sequences, f);
        bench_measure(bench, &measured);
    }
    engine_destroy(engine);
    return code;
}

int bench_decode(struct bench *bench, struct error *error) {
    const struct model_config *config = &bench->config;
    int64_t depth = bench->options.depth > 0 ? bench->options.depth : 512;
    int code = 0;
    bench_print_heading(bench, "writing token by token");
    for (size_t f = 0; f < WEIGHTS && code == 0; f++) {
        if (!is_wanted(bench, f)) {
            continue;
        }
        struct inference inference = {.count = depth};
        arena_init(&inference.arena, "inference");
        arena_init(&inference.source, "weights");
        if ((code = inference_open(&inference, bench, &weights[f], decode_capacity(depth), error)) == 0) {
            append(&inference, depth, SESSION_PROMPT);
            double bytes = bench_token_bytes(&inference.model.params, config, wanted_cache(bench),
                                             depth + DECODE_TOKENS / 2);
            struct bench_case measured = {.unit = "tokens/s",
                                          .amount = 1.0,
                                          .work = bytes / 1e9,
                                          .limit = LIMIT_READ,
                                          .team = TEAM_ALL,
                                          .evict = true,
                                          .run = run_decode,
                                          .argument = &inference};
            name_case(bench, &measured, "decode", 1, f);
            double seconds = bench_measure(bench, &measured);
            bench_print_note(bench, "behind %" PRId64 " tokens; %.1f MB a token, %.1f GB/s", depth, bytes / 1e6,
                             bytes / seconds / 1e9);
            for (int64_t sequences = 8; sequences <= MOST_SEQUENCES && code == 0; sequences *= 4) {
                code = measure_batch(bench, &inference, sequences, f, error);
            }
        }
        inference_close(&inference);
    }
    return code;
}
