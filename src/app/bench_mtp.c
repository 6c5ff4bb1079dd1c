// Drafting with MTP modules: how many drafts are accepted, how much faster the engine writes with them, and how much
// faster it should be by the bytes that its steps read. Of a model directory, or of random weights made so that the
// module can guess: no block adds anything to the residual stream, so that the next token depends on the last one
// alone, and the module sees that one too. The work of a step is that of any model of the shape.
//
//   predicted gain = tokens of a drafted step / tokens of a plain step * bytes of a plain step / bytes of a drafted
//   step
//
// Bytes of a step: the weights of the main model without embedding and routed experts, once; every distinct expert that
// the rows of the step met, counted while it ran; the head, once for the model and once for each module; the rows of
// the cache; and, of a drafted step, the modules in the same way. Tokens of a step are those that were really written,
// so that the prediction takes acceptance as it was measured. Engines with and without drafts write in turns, some
// steps each, so that slower and faster spells of the machine meet both.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "app/bench.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/rng.h"
#include "infer/engine.h"
#include "infer/kv_cache.h"
#include "model/quantize.h"
#include "tensor/formats.h"

#define CONTEXT 1024   // tokens of a request
#define ROUNDS 9
#define WARM_STEPS 40
#define MOST_SEQUENCES 32
#define OTHER_SHARE 0.1F   // of the hidden state in what a module made to guess sees: it errs now and then

enum side { SIDE_PLAIN, SIDE_DRAFTED, SIDE_ADAPTIVE, SIDES };

struct writer {
    struct engine *engine;
    int64_t *load;   // the engine's expert load before a step
    int64_t tokens, finished, wave;
    double rates[ROUNDS];
    double bytes;   // of all measured steps
    int64_t steps, written;
    int64_t drafted[MINKE_MAX_DRAFTS], accepted[MINKE_MAX_DRAFTS];   // before the measured steps
};

struct speculation {
    struct bench *bench;
    struct bench_directory files;
    int64_t sequences;
    bool sampled;
    double fixed, module_fixed;     // bytes without experts, head and cache
    double head;                    // bytes
    double expert, module_expert;   // bytes of one expert
    struct writer writers[SIDES];
};

// ---- Bytes ----------------------------------------------------------------------------------------------------------

static int count_bytes(void *argument, const struct param *param, struct error *error) {
    struct speculation *s = argument;
    const struct model_config *config = &s->files.model.config;
    double bytes = tensor_present(param->tensor) ? (double)tensor_bytes(param->tensor) : 0.0;
    bool of_module = param->layer >= config->num_hidden_layers;
    (void)error;
    if (param->kind == PARAM_HEAD || (param->kind == PARAM_EMBEDDING && config->tie_word_embeddings)) {
        s->head = bytes;
    } else if (param->expert >= 0) {
        *(of_module ? &s->module_expert : &s->expert) += bytes;
    } else if (param->kind != PARAM_EMBEDDING) {
        *(of_module ? &s->module_fixed : &s->fixed) += bytes;
    }
    return 0;
}

static void count_all_bytes(struct speculation *s) {
    const struct model_config *config = &s->files.model.config;
    int64_t layers = 0, modules = 0;
    params_visit(&s->files.model.params, config, count_bytes, s, NULL);
    for (int64_t l = 0; l < config->num_hidden_layers + config->num_nextn_predict_layers; l++) {
        *(l < config->num_hidden_layers ? &layers : &modules) += model_layer_is_moe(config, l);
    }
    s->expert /= (double)(layers > 0 ? layers * config->n_routed_experts : 1);
    s->module_expert /= (double)(modules > 0 ? modules * config->n_routed_experts : 1);
}

// Of the step that has just been made; writer->load is brought up to date.
static double step_bytes(const struct speculation *s, struct writer *writer, double depth) {
    const struct model_config *config = &s->files.model.config;
    struct minke_engine_stats stats;
    engine_statistics(&stats, writer->engine);
    int64_t modules = writer == &s->writers[SIDE_PLAIN] ? 0 : config->num_nextn_predict_layers;
    int64_t main_layers = stats.moe_layers - modules, met[2] = {0, 0};
    for (int64_t i = 0; i < stats.moe_layers * stats.experts; i++) {
        met[i / stats.experts >= main_layers] += stats.expert_load[i] != writer->load[i];
        writer->load[i] = stats.expert_load[i];
    }
    double layers = (double)config->num_hidden_layers, ran = met[1] > 0 ? (double)modules : 0.0;
    struct cache_layout layout;
    CHECK(cache_layout_make(&layout, config, FORMAT_BF16, ATTENTION_ABSORBED, CACHE_PLAIN, NULL) == 0, "latents");
    double rows = (double)layout.token_bytes * depth * (layers + ran);
    return s->fixed + s->expert * (double)met[0] + s->head * (1.0 + ran) + rows +
           (ran > 0 ? s->module_fixed + s->module_expert * (double)met[1] : 0.0);
}

// ---- Writing --------------------------------------------------------------------------------------------------------

static int on_event(void *argument, const struct minke_event *event) {
    struct writer *writer = argument;
    writer->tokens += event->kind == MINKE_EVENT_TOKEN;
    writer->finished += event->kind == MINKE_EVENT_FINISHED;
    return 0;
}

// A fresh set of requests: each begins with the begin-of-sentence token and another one, and goes on to the end of the
// context.
static int start_wave(struct speculation *s, struct writer *writer, struct error *error) {
    const struct model_config *config = &s->files.model.config;
    int code = 0;
    for (int64_t i = 0; i < s->sequences && code == 0; i++) {
        int64_t number;
        uint64_t seed = (uint64_t)(writer->wave * s->sequences + i);
        int32_t ids[2] = {(int32_t)config->bos_token_id, (int32_t)rng_below(3, 0, seed, (uint64_t)config->vocab_size)};
        struct minke_request request = {.ids = ids,
                                        .count = 2,
                                        .max_tokens = CONTEXT,
                                        .sampling = {.top_p = 1, .seed = seed},
                                        .ignore_end = 1,
                                        .callback = on_event,
                                        .argument = writer};
        if (s->sampled) {
            request.sampling.temperature = 0.6F;
            request.sampling.top_p = 0.95F;
        }
        code = engine_submit(&number, writer->engine, &request, error);
    }
    writer->wave++;
    writer->finished = 0;
    return code == 0 && engine_step(writer->engine, error) < 0 ? error->code : code;
}

static int writer_open(struct speculation *s, enum side side, struct error *error) {
    static const enum engine_drafts drafts[] = {DRAFTS_NEVER, DRAFTS_ALWAYS, DRAFTS_ADAPTIVE};
    struct writer *writer = &s->writers[side];
    struct engine_options options = {.context = CONTEXT,
                                     .cache_tokens = s->sequences * CONTEXT,
                                     .batch = s->sequences,
                                     .chunk = 512,
                                     .drafts = drafts[side]};
    int code = engine_create(&writer->engine, &s->files.model, &s->bench->op[TEAM_ALL], &options, error);
    if (code != 0) {
        return code;
    }
    struct minke_engine_stats stats;
    engine_statistics(&stats, writer->engine);
    writer->load = memory_allocate((size_t)(stats.moe_layers * stats.experts) + 1, sizeof *writer->load, "expert load",
                                   error);
    return writer->load == NULL ? ERROR_MEMORY : start_wave(s, writer, error);
}

static void writer_close(struct writer *writer) {
    engine_destroy(writer->engine);
    memory_free(writer->load);
    *writer = (struct writer){0};
}

// One step in which every request writes; returns its seconds. Requests that reach the end of the context are replaced
// all at once, outside of the time.
static double write_step(struct speculation *s, struct writer *writer, struct error *error) {
    if (writer->finished > 0) {
        engine_weights_changed(writer->engine);   // nothing is found in the cache: every wave is like the first
        while (engine_step(writer->engine, error) > 0) {
        }
        CHECK(start_wave(s, writer, error) == 0, "%s", error->text);
    }
    double began = clock_seconds();
    CHECK(engine_step(writer->engine, error) >= 0, "%s", error->text);
    return clock_seconds() - began;
}

// `steps` measured steps.
static void write_some(struct speculation *s, struct writer *writer, int64_t steps, int round, struct error *error) {
    double seconds = 0.0;
    int64_t tokens = 0;
    for (int64_t i = 0; i < steps; i++) {
        int64_t before = writer->tokens;
        seconds += write_step(s, writer, error);
        tokens += writer->tokens - before;
        writer->bytes += step_bytes(s, writer, (double)(s->sequences * CONTEXT) / 4.0);
    }
    writer->steps += steps;
    writer->written += tokens;
    writer->rates[round] = (double)tokens / seconds;
}

// ---- Results --------------------------------------------------------------------------------------------------------

static double ratio_of(const struct writer *a, const struct writer *b, double *spread) {
    double ratios[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        ratios[i] = a->rates[i] / b->rates[i];
    }
    double middle = bench_median(ratios, ROUNDS);
    *spread = (ratios[ROUNDS - 1] - ratios[0]) / middle;
    return middle;
}

static void report_speed(const struct speculation *s, const char *name, struct writer *writer, double read) {
    double rates[ROUNDS];
    memcpy(rates, writer->rates, sizeof rates);
    double middle = bench_median(rates, ROUNDS);
    bench_print_line(s->bench, name, "tokens/s", middle, read * 1e9 * (double)writer->written / writer->bytes,
                     (rates[ROUNDS - 1] - rates[0]) / middle, TEAM_ALL);
}

static void note_acceptance(const struct speculation *s, const struct writer *writer) {
    struct minke_engine_stats stats;
    engine_statistics(&stats, writer->engine);
    char text[160] = "";
    for (int k = 0, at = 0; k < MINKE_MAX_DRAFTS && stats.drafted[k] > writer->drafted[k]; k++) {
        at += snprintf(text + at, sizeof text - (size_t)at, " %.1f %%",
                       100.0 * (double)(stats.accepted[k] - writer->accepted[k]) /
                           (double)(stats.drafted[k] - writer->drafted[k]));
    }
    const struct writer *plain = &s->writers[SIDE_PLAIN];
    bench_print_note(s->bench, "accepted%s; %.2f tokens a request and step; %.1f MB a step, %.1f without drafts", text,
                     (double)writer->written / (double)(writer->steps * s->sequences),
                     writer->bytes / (double)writer->steps / 1e6, plain->bytes / (double)plain->steps / 1e6);
}

static void report(struct speculation *s, double read) {
    struct writer *plain = &s->writers[SIDE_PLAIN], *drafted = &s->writers[SIDE_DRAFTED];
    const char *mode = s->sampled ? "sampled" : "greedy";
    char name[BENCH_NAME];
    double spread, gain = ratio_of(drafted, plain, &spread);
    double predicted = (double)drafted->written / (double)plain->written * plain->bytes / drafted->bytes;
    snprintf(name, sizeof name, "mtp.%s.%" PRId64 ".plain", mode, s->sequences);
    report_speed(s, name, plain, read);
    snprintf(name, sizeof name, "mtp.%s.%" PRId64 ".drafted", mode, s->sequences);
    report_speed(s, name, drafted, read);
    snprintf(name, sizeof name, "mtp.%s.%" PRId64 ".gain", mode, s->sequences);
    bench_print_line(s->bench, name, "times", gain, predicted, spread, TEAM_ALL);
    note_acceptance(s, drafted);
    snprintf(name, sizeof name, "mtp.%s.%" PRId64 ".adaptive", mode, s->sequences);
    gain = ratio_of(&s->writers[SIDE_ADAPTIVE], plain, &spread);
    double best = predicted > 1.0 ? predicted : 1.0;
    bench_print_line(s->bench, name, "times", gain, best, spread, TEAM_ALL);
}

static int measure(struct speculation *s, struct error *error) {
    struct bench *bench = s->bench;
    double reads[ROUNDS], step = 0.0;
    int code = 0;
    for (int side = 0; side < SIDES && code == 0; side++) {
        code = writer_open(s, (enum side)side, error);
        for (int i = 0; i < WARM_STEPS && code == 0; i++) {
            step = write_step(s, &s->writers[side], error);
        }
        struct writer *writer = &s->writers[side];
        if (code == 0) {
            step_bytes(s, writer, 0.0);
            struct minke_engine_stats stats;
            engine_statistics(&stats, writer->engine);
            memcpy(writer->drafted, stats.drafted, sizeof writer->drafted);
            memcpy(writer->accepted, stats.accepted, sizeof writer->accepted);
        }
    }
    int64_t steps = (int64_t)(bench->options.seconds / ROUNDS / (step + 1e-6)) + 1;
    for (int round = 0; round < ROUNDS && code == 0; round++) {
        reads[round] = bench_limit_sample(bench, LIMIT_READ, TEAM_ALL);
        for (int side = 0; side < SIDES; side++) {
            write_some(s, &s->writers[side], steps, round, error);
        }
    }
    if (code == 0) {
        report(s, bench_median(reads, ROUNDS));
    }
    for (int side = 0; side < SIDES; side++) {
        writer_close(&s->writers[side]);
    }
    return code;
}

// ---- Models ---------------------------------------------------------------------------------------------------------

// Outputs of attention and of feed-forward networks are zero, and a module's input is its embedding and a little of the
// hidden state: bf16 [d, 2d].
static int make_guessable(void *argument, const struct param *param, struct error *error) {
    (void)argument, (void)error;
    bool output = strstr(param->name, "o_proj") != NULL || strstr(param->name, "down_proj") != NULL;
    if (output || param->kind == PARAM_EH_PROJ) {
        memset(param->tensor->data, 0, (size_t)tensor_bytes(param->tensor));
    }
    const struct format_info *info = format_info(param->tensor->format);
    const float own = 1.0F, other = OTHER_SHARE;
    int64_t width = param->shape[0];
    for (int64_t i = 0; param->kind == PARAM_EH_PROJ && i < width; i++) {
        info->narrow(param->tensor, &own, i, i, 1);
        info->narrow(param->tensor, &other, i, width + i, 1);
    }
    return 0;
}

static int open_random(struct speculation *s, struct error *error) {
    struct bench *bench = s->bench;
    struct model *model = &s->files.model;
    struct model_config *config = &model->config;
    struct arena *arena = &s->files.arena;
    struct op_context *op = &bench->op[TEAM_ALL];
    int code;
    *model = (struct model){.config = bench->config, .compute = FORMAT_BF16};
    arena_init(arena, "model");
    if ((code = arena_reserve(arena, params_table_bytes(config), error)) != 0) {
        return code;
    }
    params_create(&model->params, config, arena);
    if ((code = params_allocate(&model->params, config, FORMAT_BF16, false, false, arena, error)) != 0 ||
        (code = params_initialize(&model->params, config, 1, config->initializer_range, op, error)) != 0 ||
        (code = params_visit(&model->params, config, make_guessable, NULL, error)) != 0 ||
        (op_interleaves(op) && (code = model_interleave(&model->params, config, false, op, arena, error)) != 0)) {
        return code;
    }
    model->absorbed_panels = op_interleaves(op);
    model_prepare(model, CONTEXT, arena);
    model_prepare_absorbed(model, op);
    return 0;
}

int bench_mtp(struct bench *bench, struct error *error) {
    struct speculation s = {.bench = bench};
    const char *directory = bench->options.directory;
    bench_print_heading(bench, "drafting with the MTP module");
    int code = directory != NULL ? bench_directory_open(&s.files, bench, CONTEXT, error) : open_random(&s, error);
    if (code == 0 && s.files.model.config.num_nextn_predict_layers == 0) {
        code = error_set(error, ERROR_ARGUMENT, "mtp: expected a model with MTP modules, found none in %s",
                         directory != NULL ? directory : "the configuration");
    }
    if (code == 0) {
        count_all_bytes(&s);
    }
    int64_t only = bench->options.batch;
    for (int sampled = 0; sampled < 2 && code == 0; sampled++) {
        int64_t most = only > 0 ? only : MOST_SEQUENCES;
        for (s.sequences = only > 0 ? only : 1; s.sequences <= most && code == 0;
             s.sequences *= s.sequences == 1 ? 8 : 4) {
            s.sampled = sampled;
            code = measure(&s, error);
        }
    }
    bench_directory_close(&s.files);
    return code;
}
