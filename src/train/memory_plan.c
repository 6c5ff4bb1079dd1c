// The memory of a training run, by rehearsal: see memory_plan.h.
#include "train/memory_plan.h"

#include <stdio.h>

#include "base/log.h"
#include "train/optimizer.h"
#include "train/step.h"

// Routes token t's choices to experts (t + k) mod E: even loads.
static void plan_even(const struct dispatch *self, struct op_context *op, struct dispatch_plan *plan,
                      const struct routing *routing, const struct expert_map *map, struct arena *keep) {
    for (int64_t t = 0; t < routing->tokens; t++) {
        for (int64_t k = 0; k < routing->top_k; k++) {
            routing->expert[t * routing->top_k + k] = (int32_t)((t + k) % map->slots);
        }
    }
    dispatch_local.plan(self, op, plan, routing, map, keep);
}

struct rehearsal {
    struct arena state, scratch, slot_arena;
    struct op_context op;
    struct optimizer optimizer;
    struct param_tree gradients;
    struct dispatch dispatch;
    struct model model;
    struct model_slot *slot;
};

// Masters, moments, average, compute weights, gradients and the small tables, in the order of trainer_create.
static int create_state(struct rehearsal *rehearsal, struct memory_plan *plan, const struct run_config *run,
                        const struct model_config *config, struct error *error) {
    const struct train_section *train = &run->train;
    struct optimizer *optimizer = &rehearsal->optimizer;
    int64_t buffers = gradient_buffer_count(train->reduction_shards);
    int code = optimizer_create(optimizer, config, run, &rehearsal->state, error);
    for (int64_t i = 0; code == 0 && i < buffers; i++) {
        code = param_tree_create(&rehearsal->gradients, config, FORMAT_F32, true, SCOPE_TRAINED, &rehearsal->state,
                                 error);
    }
    if (code != 0) {
        return code;
    }
    *plan = (struct memory_plan){.weights = optimizer->weights.bytes,
                                 .masters = optimizer->masters.bytes,
                                 .moments = optimizer->m.bytes + optimizer->v.bytes,
                                 .average = optimizer->average.bytes,
                                 .gradients = buffers * rehearsal->gradients.bytes};
    rehearsal->dispatch = dispatch_local;
    rehearsal->dispatch.plan = plan_even;
    rehearsal->model = (struct model){
        .config = *config,
        .params = optimizer->weights.params,
        .compute = train->precision == PRECISION_FP32 ? FORMAT_F32 : FORMAT_BF16,
        .fp8 = train->precision == PRECISION_FP8,
        .recompute = {run->recompute.rms_norm, run->recompute.swiglu, run->recompute.mla_up},
        .dispatch = &rehearsal->dispatch,
        .expert_map = {.slots = config->n_routed_experts},
    };
    model_prepare(&rehearsal->model, train->sequence_length, &rehearsal->state);
    code = model_slot_create(&rehearsal->slot, &rehearsal->model, error);
    if (code == 0) {
        *model_slot_arena(rehearsal->slot) = rehearsal->slot_arena;
        rehearsal->slot_arena = (struct arena){0};
    }
    return code;
}

static void rehearse(struct rehearsal *rehearsal, struct memory_plan *plan, const struct run_config *run) {
    const struct train_section *train = &run->train;
    int64_t sequences = train->batch / train->reduction_shards, length = train->sequence_length;
    int64_t stride = length + 1 + rehearsal->model.config.num_nextn_predict_layers;
    sequences = sequences < train->micro_batch ? sequences : train->micro_batch;
    struct arena_mark mark = arena_mark(&rehearsal->state);
    const int32_t *ids = arena_allocate(&rehearsal->state, (size_t)(train->micro_batch * stride), sizeof *ids);
    struct micro_batch batch = {.sequences = sequences, .length = length, .ids = ids};
    struct loss_weights weights = {1, 1, run->schedule.alpha > 0 ? 1 : 0};
    struct micro_batch_result result;
    model_forward(&rehearsal->op, &result, rehearsal->slot, &rehearsal->model, &rehearsal->gradients.params, &batch,
                  &weights, NULL);
    plan->saved = model_slot_bytes(rehearsal->slot);
    model_backward(&rehearsal->op, rehearsal->slot, &rehearsal->model, &rehearsal->gradients.params);
    batch.sequences = train->micro_batch;   // validation fills it, whatever the batch is
    weights = (struct loss_weights){0};
    model_forward(&rehearsal->op, &result, rehearsal->slot, &rehearsal->model, NULL, &batch, &weights, NULL);
    plan->activations = model_slot_bytes(rehearsal->slot);
    plan->workspace = rehearsal->scratch.peak;
    arena_release(&rehearsal->state, mark);
}

static int64_t saving_bytes(const struct param_tree *masters, int64_t dtype) {
    int64_t largest = 0;
    for (int64_t i = 0; i < masters->list.count && dtype != EXPORT_F32; i++) {
        int64_t elements = tensor_elements(masters->list.items[i].tensor);
        largest = elements > largest ? elements : largest;
    }
    int64_t names = masters->list.count * 2 * (int64_t)sizeof(struct param);   // headers and indices, about
    return (1 << 20) + (1 << 16) + names + largest * 2;   // in FP8 the largest, the embedding, is BF16
}

// What trainer_create takes besides: batches of ids, counts of loads, the buffers' table.
static int64_t small_tables(const struct run_config *run, const struct model_config *config) {
    const struct train_section *train = &run->train;
    int64_t ids = train->micro_batch * (train->sequence_length + 1 + config->num_nextn_predict_layers);
    int64_t loads = moe_layer_count(config) * config->n_routed_experts;
    return ids * (int64_t)sizeof(int32_t) + loads * (int64_t)sizeof(int64_t) +
           gradient_buffer_count(train->reduction_shards) * (int64_t)sizeof(struct param_tree) + 4096;
}

int memory_plan_make(struct memory_plan *plan, const struct run_config *run, const struct model_config *config,
                     struct error *error) {
    struct rehearsal rehearsal = {0};
    struct pool *pool = NULL;
    *plan = (struct memory_plan){0};
    int code = pool_create_idle(&pool, (int)run->train.threads, error);
    if (code == 0) {
        code = arena_init_counting(&rehearsal.state, "rehearsal of the weights", error);
    }
    if (code == 0) {
        code = arena_init_counting(&rehearsal.scratch, "rehearsal of the workspace", error);
    }
    if (code == 0) {
        code = arena_init_counting(&rehearsal.slot_arena, "rehearsal of the activations", error);
    }
    if (code == 0) {
        code = op_context_init(&rehearsal.op, (enum isa)run->train.isa, pool, &rehearsal.scratch, error);
    }
    if (code == 0) {
        code = create_state(&rehearsal, plan, run, config, error);
    }
    if (code == 0) {
        plan->state = rehearsal.state.used + small_tables(run, config);
        rehearse(&rehearsal, plan, run);
        plan->saving = saving_bytes(&rehearsal.optimizer.masters, run->checkpoint.dtype);
        plan->total = plan->state + plan->activations + plan->workspace + plan->saving;
    }
    model_slot_destroy(rehearsal.slot);
    arena_destroy(&rehearsal.slot_arena);
    arena_destroy(&rehearsal.scratch);
    arena_destroy(&rehearsal.state);
    pool_destroy(pool);
    return code;
}

char *memory_plan_text(char text[MEMORY_PLAN_TEXT], const struct memory_plan *plan) {
    char size[10][32];
    snprintf(text, MEMORY_PLAN_TEXT,
             "weights %s, masters %s, moments %s, average %s, gradients %s, saved activations %s (%s in backward), "
             "workspace %s, saving %s; together %s",
             text_bytes(size[0], plan->weights), text_bytes(size[1], plan->masters), text_bytes(size[2], plan->moments),
             text_bytes(size[3], plan->average), text_bytes(size[4], plan->gradients), text_bytes(size[5], plan->saved),
             text_bytes(size[6], plan->activations), text_bytes(size[7], plan->workspace),
             text_bytes(size[8], plan->saving), text_bytes(size[9], plan->total));
    return text;
}
