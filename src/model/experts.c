// Experts streamed from disk, in use; see experts.h.
#include "model/experts.h"

#include <math.h>

#include "base/log.h"
#include "base/math.h"
#include "base/memory.h"
#include "model/experts_private.h"
#include "model/router.h"

#define EXPERT_HALF_LIFE 64.0   // tokens after which a use counts half
#define LN2 0.69314718055994531
#define READ_AHEAD_JOBS (EXPERT_JOBS / 2)
#define PROGRAM_BYTES ((int64_t)16 << 20)   // code, stacks, C library: what our heap does not count

// ---- Slots ---------------------------------------------------------------------------------------------------------

int64_t expert_other_bytes(void) {
    return PROGRAM_BYTES + memory_statistics_get().live_bytes;
}

int64_t expert_slot_limit(const struct expert_store *store) {
    if (store->options.slots > 0) {
        return store->options.slots;
    }
    int64_t left = store->options.ram_bytes - expert_other_bytes();
    int64_t slots = left > 0 ? left / store->slot_bytes : 0;
    return slots < store->slot_count ? slots : store->slot_count;
}

static struct expert *slot_expert(const struct expert_slot *slot) {
    return &slot->layer->experts[slot->expert];
}

static uint8_t *slot_memory(const struct expert_store *store, const struct expert_slot *slot) {
    return store->memory + (slot - store->slots) * store->slot_bytes;
}

static void set_tables(struct expert_layer *layer, int32_t expert, uint8_t *const place[EXPERT_MATRICES]) {
    layer->params->gate_proj[expert].data = place[0];
    layer->params->up_proj[expert].data = place[1];
    layer->params->down_proj[expert].data = place[2];
}

static void slot_empty(struct expert_slot *slot) {
    static uint8_t *const nowhere[EXPERT_MATRICES];
    set_tables(slot->layer, slot->expert, nowhere);
    slot_expert(slot)->slot = -1;
    slot->state = SLOT_EMPTY;
    slot->pinned = slot->ahead = false;
}

static void slot_discard(struct expert_store *store, struct expert_slot *slot) {
    memory_discard(slot_memory(store, slot), (size_t)store->slot_bytes);
    slot->committed = false;
    store->counts.slots_used--;
}

// A read-ahead that no thread has begun can be dropped at once.
static bool slot_cancel(struct expert_store *store, struct expert_slot *slot) {
    if (slot->state != SLOT_LOADING || slot->pinned || !read_queue_cancel(store->queue, &store->jobs[slot->job])) {
        return false;
    }
    store->job_slot[slot->job] = -1;
    slot_empty(slot);
    return true;
}

// The present expert that is worth least; NULL if all are pinned or loading.
static struct expert_slot *victim_find(struct expert_store *store) {
    struct expert_slot *victim = NULL;
    double least = INFINITY;
    for (int64_t s = 0; s < store->slot_count; s++) {
        struct expert_slot *slot = &store->slots[s];
        if (slot->state == SLOT_READY && !slot->pinned && slot_expert(slot)->rank < least) {
            least = slot_expert(slot)->rank;
            victim = slot;
        }
    }
    return victim;
}

// An empty slot: one that has memory, else a new one within the limit, else the victim's. `urgent` may also take a
// read-ahead that has not begun. NULL: none at present.
static struct expert_slot *slot_take(struct expert_store *store, bool urgent) {
    struct expert_slot *fresh = NULL, *waiting = NULL;
    for (int64_t s = 0; s < store->slot_count; s++) {
        struct expert_slot *slot = &store->slots[s];
        if (slot->state == SLOT_EMPTY && slot->committed) {
            return slot;
        }
        fresh = slot->state == SLOT_EMPTY && fresh == NULL ? slot : fresh;
        waiting = slot->state == SLOT_LOADING && !slot->pinned ? slot : waiting;
    }
    if (fresh != NULL && store->counts.slots_used < store->slot_limit) {
        fresh->committed = true;
        store->counts.slots_used++;
        return fresh;
    }
    if (urgent && waiting != NULL && slot_cancel(store, waiting)) {
        return waiting;
    }
    struct expert_slot *victim = victim_find(store);
    if (victim != NULL) {
        slot_empty(victim);
    }
    return victim;
}

// Gives memory back when something else has grown. Slots in use stay.
static void pool_shrink(struct expert_store *store) {
    store->slot_limit = expert_slot_limit(store);
    for (int64_t s = 0; s < store->slot_count && store->counts.slots_used > store->slot_limit; s++) {
        struct expert_slot *slot = &store->slots[s];
        if (slot->committed && (slot->state == SLOT_EMPTY || slot_cancel(store, slot))) {
            slot_discard(store, slot);
        }
    }
    while (store->counts.slots_used > store->slot_limit) {
        struct expert_slot *victim = victim_find(store);
        if (victim == NULL) {
            return;
        }
        slot_empty(victim);
        slot_discard(store, victim);
    }
}

// ---- Reads ---------------------------------------------------------------------------------------------------------

static int32_t job_find(const struct expert_store *store) {
    for (int32_t j = 0; j < EXPERT_JOBS; j++) {
        if (store->job_slot[j] < 0) {
            return j;
        }
    }
    return -1;
}

// Begins to read an expert that is not in the pool; false if there is no job or no slot to do it with.
static bool read_begin(struct expert_layer *layer, int32_t index, bool urgent) {
    struct expert_store *store = layer->store;
    struct expert *expert = &layer->experts[index];
    int32_t job = job_find(store);
    struct expert_slot *slot = job >= 0 ? slot_take(store, urgent) : NULL;
    if (slot == NULL) {
        return false;
    }
    uint8_t *place[EXPERT_MATRICES];
    expert_reads(store, expert, &store->jobs[job], slot_memory(store, slot), place);
    slot->state = SLOT_LOADING;
    slot->layer = layer;
    slot->expert = index;
    slot->job = job;
    slot->ahead = !urgent;
    slot->pinned = urgent;
    expert->slot = (int32_t)(slot - store->slots);
    store->job_slot[job] = expert->slot;
    read_queue_submit(store->queue, &store->jobs[job], urgent);
    return true;
}

static void read_finish(struct op_context *op, struct expert_store *store, int32_t job) {
    struct expert_slot *slot = &store->slots[store->job_slot[job]];
    const struct error *error = &store->jobs[job].error;
    store->job_slot[job] = -1;
    if (error->code != 0) {
        if (slot->pinned && !slot->ahead) {   // what was begun before the request is tried again instead
            error_set(&op->error, error->code, "%s", error->text);
        }
        slot_empty(slot);
        return;
    }
    for (int p = 0; p < store->jobs[job].part_count; p++) {
        store->counts.bytes_read += store->jobs[job].parts[p].size;
    }
    struct read_job again;   // only to learn the places anew
    uint8_t *place[EXPERT_MATRICES];
    expert_reads(store, slot_expert(slot), &again, slot_memory(store, slot), place);
    set_tables(slot->layer, slot->expert, place);
    slot->state = SLOT_READY;
    slot->ahead = false;
    if (slot->pinned) {
        slot_expert(slot)->need = NEED_PINNED;
    }
}

static void reads_poll(struct op_context *op, struct expert_store *store) {
    store->seen = read_queue_finished(store->queue);
    for (int32_t j = 0; j < EXPERT_JOBS; j++) {
        if (store->job_slot[j] >= 0 && read_queue_take(store->queue, &store->jobs[j])) {
            read_finish(op, store, j);
        }
    }
}

// Begins the reads of needed experts that have none; how many are left without.
static int64_t reads_begin(struct expert_layer *layer) {
    int64_t left = 0;
    bool more = true;
    for (int64_t e = 0; e < layer->store->experts_per_layer; e++) {
        struct expert *expert = &layer->experts[e];
        if (expert->need == NEED_READ && expert->slot < 0) {
            more = more && read_begin(layer, (int32_t)e, true);
            left += expert->slot < 0;
        }
    }
    return left;
}

// ---- A layer's request ---------------------------------------------------------------------------------------------

static bool plan_uses(const struct dispatch_plan *plan, int64_t expert) {
    return plan->offsets[expert + 1] > plan->offsets[expert];
}

static void expert_count_use(struct expert *expert, int64_t clock, int64_t rows) {
    double now = (double)clock * (LN2 / EXPERT_HALF_LIFE), age = now - expert->rank;
    double count = age < 40.0 ? math_exp_double(-age) : 0.0;
    expert->rank = math_log_double(count + (double)rows) + now;
}

static void request_one(struct expert_layer *layer, int64_t index, int64_t rows) {
    struct expert_store *store = layer->store;
    struct expert *expert = &layer->experts[index];
    struct expert_slot *slot = expert->slot >= 0 ? &store->slots[expert->slot] : NULL;
    expert_count_use(expert, store->clock, rows);
    expert->need = slot != NULL && slot->state == SLOT_READY ? NEED_PINNED : NEED_READ;
    if (slot == NULL) {
        store->counts.misses++;
        return;
    }
    slot->pinned = true;
    if (slot->state == SLOT_LOADING) {
        store->counts.late++;
        read_queue_hurry(store->queue, &store->jobs[slot->job]);
    } else {
        store->counts.hits++;
    }
}

// Compares what read-ahead guessed with what was routed, and drops wrong guesses that have not begun.
static void guesses_check(struct expert_layer *layer, const struct dispatch_plan *plan) {
    struct expert_store *store = layer->store;
    for (int64_t e = 0; e < store->experts_per_layer; e++) {
        struct expert *expert = &layer->experts[e];
        if (expert->guessed) {
            expert->guessed = false;
            store->counts.guesses++;
            store->counts.right_guesses += plan_uses(plan, e);
            if (!plan_uses(plan, e) && expert->slot >= 0) {
                slot_cancel(store, &store->slots[expert->slot]);
            }
        }
    }
}

// The pool must hold one token's experts, or it would do nothing but read.
static void check_room(struct op_context *op, const struct expert_store *store) {
    if (store->slot_limit < store->top_k) {
        int64_t live = memory_statistics_get().live_bytes;
        error_set(
            &op->error, ERROR_LIMIT,
            "memory limit of %.2f GiB: resident weights take %.2f GiB, caches and workspace %.2f GiB; the rest holds "
            "%lld experts of %.1f MiB, and at least %lld are needed",
            (double)store->options.ram_bytes / 0x1p30, (double)store->resident_bytes / 0x1p30,
            (double)(live - store->resident_bytes) / 0x1p30, (long long)store->slot_limit,
            (double)store->slot_bytes / 0x1p20, (long long)store->top_k);
    }
}

void expert_request(struct op_context *op, struct expert_layer *layer, const struct dispatch_plan *plan) {
    struct expert_store *store = layer->store;
    CHECK(plan->slots == store->experts_per_layer, "%lld slots", (long long)plan->slots);
    layer->needed = 0;
    if (op->error.code != 0) {
        return;
    }
    store->clock += layer == store->layers ? plan->tokens : 0;
    reads_poll(op, store);
    guesses_check(layer, plan);
    for (int64_t e = 0; e < plan->slots; e++) {
        int64_t rows = plan->offsets[e + 1] - plan->offsets[e];
        if (rows > 0) {
            request_one(layer, e, rows);
            layer->needed++;
        }
    }
    pool_shrink(store);
    check_room(op, store);
    if (op->error.code == 0) {
        reads_begin(layer);
    }
}

// Lets go of what the request still holds; reads that were begun end by themselves.
static void request_abandon(struct expert_layer *layer) {
    struct expert_store *store = layer->store;
    for (int64_t e = 0; e < store->experts_per_layer; e++) {
        struct expert *expert = &layer->experts[e];
        expert->need = NEED_NONE;
        if (expert->slot >= 0) {
            store->slots[expert->slot].pinned = false;
            store->slots[expert->slot].ahead = true;
        }
    }
    layer->needed = 0;
}

// The first experts in order that are present, with the empty ones between them.
static bool run_find(struct expert_run *run, const struct expert_layer *layer, const struct dispatch_plan *plan) {
    *run = (struct expert_run){0, 0};
    for (int64_t e = 0; e < plan->slots; e++) {
        enum expert_need need = layer->experts[e].need;
        if (need == NEED_PINNED) {
            run->begin = run->end == 0 ? e : run->begin;
            run->end = e + 1;
        } else if (run->end > 0 && plan_uses(plan, e)) {   // still to be read, or released before
            break;
        }
    }
    return run->end > 0;
}

bool expert_acquire(struct op_context *op, struct expert_run *run, struct expert_layer *layer,
                    const struct dispatch_plan *plan) {
    struct expert_store *store = layer->store;
    while (op->error.code == 0 && layer->needed > 0) {
        reads_poll(op, store);
        reads_begin(layer);
        if (run_find(run, layer, plan)) {
            return true;
        }
        if (op->error.code == 0) {
            double start = clock_seconds();
            read_queue_wait(store->queue, &store->seen);
            store->counts.stall_seconds += clock_seconds() - start;
        }
    }
    request_abandon(layer);
    return false;
}

void expert_release(struct expert_layer *layer, const struct expert_run *run, const struct dispatch_plan *plan) {
    for (int64_t e = run->begin; e < run->end; e++) {
        if (plan_uses(plan, e)) {
            struct expert *expert = &layer->experts[e];
            expert->need = NEED_NONE;
            layer->store->slots[expert->slot].pinned = false;
            layer->needed--;
        }
    }
}

// ---- Reading ahead -------------------------------------------------------------------------------------------------

// Experts that the router of `layer` would choose for the rows of h: marks them as guessed.
static void guess(const struct pass *pass, struct expert_layer *layer, const struct tensor *h) {
    struct op_context *op = pass->op;
    struct arena_mark mark = arena_mark(op->scratch);
    struct tensor normed = matrix_allocate(op->scratch, pass->compute, h->shape[0], h->shape[1]);
    op_rms_norm(op, &normed, NULL, h, &layer->block->post_attention_layernorm, (float)pass->config->rms_norm_eps);
    struct pass quiet = *pass;
    quiet.keep = op->scratch;
    quiet.expert_load = NULL;
    quiet.balance_loss = NULL;
    struct router_saved saved;
    router_forward(&quiet, &saved, &normed, layer->params);
    for (int64_t i = 0; i < saved.routing.tokens * saved.routing.top_k; i++) {
        layer->experts[saved.routing.expert[i]].guessed = true;
    }
    arena_release(op->scratch, mark);
}

// Present experts that were guessed are pinned while room is made for the others.
static void pin_guesses(struct expert_layer *layer, bool pinned) {
    struct expert_store *store = layer->store;
    for (int64_t e = 0; e < store->experts_per_layer; e++) {
        const struct expert *expert = &layer->experts[e];
        if (expert->guessed && expert->slot >= 0) {
            store->slots[expert->slot].pinned = pinned;
        }
    }
}

static bool all_present(const struct expert_layer *layer) {
    for (int64_t e = 0; e < layer->store->experts_per_layer; e++) {
        if (layer->experts[e].slot < 0) {
            return false;
        }
    }
    return true;
}

void expert_read_ahead(const struct pass *pass, struct expert_layer *layer, const struct tensor *h) {
    struct expert_store *store = layer->store;
    struct expert_layer *next = layer->next;
    if (next == NULL || pass->op->error.code != 0 || all_present(next) || reads_begin(layer) > 0) {
        return;   // nothing to read, or nothing to spare while the layer at hand lacks slots
    }
    guess(pass, next, h);
    pin_guesses(next, true);
    int64_t begun = 0;
    for (int32_t e = 0; e < store->experts_per_layer && begun < READ_AHEAD_JOBS; e++) {
        if (next->experts[e].guessed && next->experts[e].slot < 0) {
            if (!read_begin(next, e, false)) {
                break;
            }
            begun++;
        }
    }
    pin_guesses(next, false);
}

void expert_store_statistics(struct expert_statistics *statistics, const struct expert_store *store) {
    *statistics = store->counts;
    statistics->limit_bytes = store->options.ram_bytes;
    statistics->resident_bytes = store->resident_bytes;
    statistics->expert_bytes = store->slot_bytes;
    statistics->experts = store->layer_count * store->experts_per_layer;
    statistics->slots = store->slot_limit;
}
