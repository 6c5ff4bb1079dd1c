// Weights quantised at load; see quantize.h.
#include "model/quantize.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "tensor/formats.h"
#include "tensor/int_groups.h"

// One tensor to do. In the order of addresses, which is that of the files, a disk is read from front to back.
struct item {
    struct tensor *target, source;
    enum format format;
};

struct plan {
    enum format format;
    struct item *items;   // NULL: only count
    int64_t count;
    size_t bytes;         // of the integers
    int64_t read_bytes;   // of the sources
};

enum format model_quantized_format(const struct param *param, enum format format) {
    static const char kept[] = "kv_b_proj.weight";
    size_t length = strlen(param->name), suffix = sizeof kept - 1;
    if (param->kind == PARAM_LINEAR) {
        return length >= suffix && strcmp(param->name + length - suffix, kept) == 0 ? FORMAT_NONE : format;
    }
    return param->kind == PARAM_HEAD || param->kind == PARAM_EH_PROJ ? FORMAT_INT8 : FORMAT_NONE;
}

static size_t round_up(int64_t bytes) {
    return ((size_t)bytes + MEMORY_ALIGNMENT - 1) / MEMORY_ALIGNMENT * MEMORY_ALIGNMENT;
}

static void plan_tensor(struct plan *plan, struct tensor *target, const struct tensor *source, enum format format) {
    if (plan->items != NULL) {
        plan->items[plan->count] = (struct item){.target = target, .source = *source, .format = format};
    }
    struct tensor integers = tensor_2d(format, NULL, source->shape[0], source->shape[1]);
    plan->bytes += round_up(int_bytes(&integers));
    plan->read_bytes += tensor_bytes(source);
    plan->count++;
}

static int plan_param(void *argument, const struct param *param, struct error *error) {
    struct plan *plan = argument;
    enum format format = model_quantized_format(param, plan->format);
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
        plan_tensor(plan, &params->lm_head, &params->embed_tokens, FORMAT_INT8);
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

static void run_plan(const struct plan *plan, bool mapped, struct pool *pool, struct arena *arena) {
    struct progress progress;
    int64_t done = 0;
    progress_begin(&progress, plan->format == FORMAT_INT4 ? "quantise to int4" : "quantise to int8", "bytes",
                   plan->read_bytes);
    for (int64_t i = 0; i < plan->count; i++) {
        const struct item *item = &plan->items[i];
        if (mapped && i + 1 < plan->count) {
            expect_source(&plan->items[i + 1].source);
        }
        struct job job = {.out = tensor_2d(item->format, NULL, item->source.shape[0], item->source.shape[1]),
                          .source = &item->source};
        job.out.data = arena_allocate(arena, (size_t)int_bytes(&job.out), 1);
        pool_run(pool, int_tiles(&job.out), quantize_tile, &job);
        *item->target = job.out;
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

int model_quantize(struct model_params *params, const struct model_config *config, enum format format, bool mapped,
                   struct pool *pool, struct arena *arena, struct error *error) {
    CHECK(format_is_int(format), "format %d", (int)format);
    struct plan plan = {.format = format};
    plan_model(&plan, NULL, params, config);
    struct item *items = memory_allocate((size_t)plan.count, sizeof *items, "plan of quantisation", error);
    if (items == NULL) {
        return ERROR_MEMORY;
    }
    int code = arena_reserve(arena, plan.bytes, error);
    if (code == 0) {
        plan_model(&plan, items, params, config);
        qsort(items, (size_t)plan.count, sizeof *items, compare_addresses);
        run_plan(&plan, mapped, pool, arena);
    }
    memory_free(items);
    return code;
}
