// Weights quantised or interleaved at load; see quantize.h.
#include "model/quantize.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "model/absorbed.h"
#include "tensor/formats.h"
#include "tensor/int_groups.h"
#include "tensor/panels.h"

// One tensor to do. In the order of addresses, which is that of the files, a disk is read from front to back.
struct item {
    struct tensor *target, source;
    enum format format;
};

struct plan {
    enum format format;   // FORMAT_NONE: panels of what is stored
    struct item *items;   // NULL: only count
    int64_t count;
    size_t bytes;         // of what is made
    int64_t read_bytes;   // of the sources
};

// Whether a parameter is the weight of Linears and nothing else.
static bool is_weight(const struct param *param) {
    static const char kept[] = "kv_b_proj.weight";
    size_t length = strlen(param->name), suffix = sizeof kept - 1;
    if (param->kind == PARAM_LINEAR) {
        return length < suffix || strcmp(param->name + length - suffix, kept) != 0;
    }
    return param->kind == PARAM_HEAD || param->kind == PARAM_EH_PROJ;
}

enum format model_quantized_format(const struct param *param, enum format format) {
    return !is_weight(param) ? FORMAT_NONE : param->kind == PARAM_LINEAR ? format : FORMAT_INT8;
}

static enum format wanted_format(const struct plan *plan, const struct param *param) {
    if (plan->format != FORMAT_NONE) {
        return model_quantized_format(param, plan->format);
    }
    return is_weight(param) ? panels_format((enum format)param->tensor->format) : FORMAT_NONE;
}

// Of the memory that a tensor takes when it is made: the scales of panels stay where they are.
static int64_t made_bytes(const struct tensor *made) {
    return format_is_panels(made->format) ? panels_bytes(made) : int_bytes(made);
}

static size_t round_up(int64_t bytes) {
    return ((size_t)bytes + MEMORY_ALIGNMENT - 1) / MEMORY_ALIGNMENT * MEMORY_ALIGNMENT;
}

static void plan_tensor(struct plan *plan, struct tensor *target, const struct tensor *source, enum format format) {
    if (plan->items != NULL) {
        plan->items[plan->count] = (struct item){.target = target, .source = *source, .format = format};
    }
    struct tensor made = tensor_2d(format, NULL, source->shape[0], source->shape[1]);
    plan->bytes += round_up(made_bytes(&made));
    plan->read_bytes += tensor_bytes(source);
    plan->count++;
}

static int plan_param(void *argument, const struct param *param, struct error *error) {
    struct plan *plan = argument;
    enum format format = wanted_format(plan, param);
    (void)error;
    if (format != FORMAT_NONE) {
        plan_tensor(plan, param->tensor, param->tensor, format);
    }
    return 0;
}

static void plan_model(struct plan *plan, struct item *items, struct model_params *params,
                       const struct model_config *config) {
    *plan = (struct plan){.format = plan->format, .items = items};
    params_visit(params, config, plan_param, plan, NULL);
    if (config->tie_word_embeddings) {   // visited as the embedding, which stays
        const struct param head = {.kind = PARAM_HEAD, .tensor = &params->embed_tokens};
        enum format format = wanted_format(plan, &head);
        if (format != FORMAT_NONE) {
            plan_tensor(plan, &params->lm_head, &params->embed_tokens, format);
        }
    }
}

static int compare_addresses(const void *left, const void *right) {
    uintptr_t a = (uintptr_t)((const struct item *)left)->source.data;
    uintptr_t b = (uintptr_t)((const struct item *)right)->source.data;
    return a < b ? -1 : a > b;
}

static void expect_source(const struct tensor *source) {
    file_map_expect(source->data, (size_t)(tensor_elements(source) * format_info(source->format)->bytes));
}

static void forget_source(const struct tensor *source) {
    file_map_forget(source->data, (size_t)(tensor_elements(source) * format_info(source->format)->bytes));
}

struct job {
    struct tensor out;
    const struct tensor *source;
};

static void quantize_tile(void *argument, int64_t task, int worker) {
    struct job *job = argument;
    (void)worker;
    int_quantize(&job->out, job->source, task);
}

static void make_tensor(const struct item *item, struct op_context *op, struct arena *arena) {
    struct job job = {.out = tensor_2d(item->format, NULL, item->source.shape[0], item->source.shape[1]),
                      .source = &item->source};
    job.out.data = arena_allocate(arena, (size_t)made_bytes(&job.out), 1);
    if (format_is_panels(item->format)) {
        job.out.scale = item->source.scale;
        op_interleave(op, &job.out, &item->source);
    } else {
        pool_run(op->pool, int_tiles(&job.out), quantize_tile, &job);
    }
    *item->target = job.out;
}

static void run_plan(const struct plan *plan, bool mapped, struct op_context *op, struct arena *arena) {
    struct progress progress;
    int64_t done = 0;
    const char *title = plan->format == FORMAT_NONE   ? "interleave weights"
                        : plan->format == FORMAT_INT4 ? "quantise to int4"
                                                      : "quantise to int8";
    progress_begin(&progress, title, "bytes", plan->read_bytes);
    for (int64_t i = 0; i < plan->count; i++) {
        const struct item *item = &plan->items[i];
        if (mapped && i + 1 < plan->count) {
            expect_source(&plan->items[i + 1].source);
        }
        make_tensor(item, op, arena);
        done += tensor_bytes(&item->source);
        if (mapped) {
            forget_source(&item->source);
        }
        if (progress.terminal) {
            progress_update(&progress, done);
        }
    }
    // Once more: reading a tensor brings in some pages of its neighbours.
    for (int64_t i = 0; mapped && i < plan->count; i++) {
        forget_source(&plan->items[i].source);
    }
    if (progress.terminal) {
        progress_end(&progress);
    }
}

static int make_model(struct plan *plan, struct model_params *params, const struct model_config *config, bool mapped,
                      struct op_context *op, struct arena *arena, struct error *error) {
    plan_model(plan, NULL, params, config);
    struct item *items = memory_allocate((size_t)plan->count, sizeof *items, "plan of the weights", error);
    if (items == NULL) {
        return ERROR_MEMORY;
    }
    int code = arena_reserve(arena, plan->bytes, error);
    if (code == 0) {
        plan_model(plan, items, params, config);
        qsort(items, (size_t)plan->count, sizeof *items, compare_addresses);
        run_plan(plan, mapped, op, arena);
    }
    memory_free(items);
    return code;
}

int model_quantize(struct model_params *params, const struct model_config *config, enum format format, bool mapped,
                   struct pool *pool, struct arena *arena, struct error *error) {
    CHECK(format_is_int(format), "format %d", (int)format);
    struct plan plan = {.format = format};
    struct op_context op = {.pool = pool};   // integers need no kernels
    return make_model(&plan, params, config, mapped, &op, arena, error);
}

int64_t model_interleaved_bytes(struct model_params *params, const struct model_config *config) {
    struct plan plan = {.format = FORMAT_NONE};
    plan_model(&plan, NULL, params, config);
    return (int64_t)plan.bytes;
}

int model_interleave(struct model_params *params, const struct model_config *config, bool mapped, struct op_context *op,
                     struct arena *arena, struct error *error) {
    struct plan plan = {.format = FORMAT_NONE};
    return make_model(&plan, params, config, mapped, op, arena, error);
}

int model_interleave_mapped(struct model *model, bool integers, struct op_context *op, struct arena *arena,
                            struct error *error) {
    int64_t bytes = absorbed_bytes(&model->config);
    bytes += integers ? 0 : model_interleaved_bytes(&model->params, &model->config);
    if (!op_interleaves(op) || model->compute != FORMAT_BF16 || bytes > memory_available() / 4 * 3) {
        return 0;
    }
    model->absorbed_panels = true;
    return integers ? 0 : model_interleave(&model->params, &model->config, true, op, arena, error);
}
