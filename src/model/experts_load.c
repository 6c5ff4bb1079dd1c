// Opening a model under a memory limit: where the experts stand in the files, what becomes resident, the pool of slots;
// see experts.h.
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "model/experts_private.h"
#include "tensor/formats.h"

#define JOINED_GAP (64 << 10)        // bytes between two matrices that are read rather than skipped
#define BLOCK_READ_BYTES (1 << 20)   // resident tensors from this size on are read past the page cache
#define SCALE_SUFFIX "_scale_inv"

// ---- The reads of an expert ----------------------------------------------------------------------------------------

static int64_t block_floor(int64_t offset) {
    return offset / FILE_BLOCK * FILE_BLOCK;
}

static int64_t block_ceiling(int64_t offset) {
    return block_floor(offset + FILE_BLOCK - 1);
}

static bool stands_before(const struct expert_matrix *a, const struct expert_matrix *b) {
    return a->file != b->file ? a->file < b->file : a->offset < b->offset;
}

// Order of an expert's matrices in the files: gate, up, down as we write them, down, gate, up as the published files
// have them.
static void sort_matrices(int order[EXPERT_MATRICES], const struct expert *expert) {
    for (int m = 0; m < EXPERT_MATRICES; m++) {
        int at = m;
        for (; at > 0 && stands_before(&expert->matrix[m], &expert->matrix[order[at - 1]]); at--) {
            order[at] = order[at - 1];
        }
        order[at] = m;
    }
}

int64_t expert_reads(const struct expert_store *store, const struct expert *expert, struct read_job *job,
                     uint8_t *memory, uint8_t *place[EXPERT_MATRICES]) {
    int order[EXPERT_MATRICES];
    int64_t used = 0;
    sort_matrices(order, expert);
    job->part_count = 0;
    for (int i = 0; i < EXPERT_MATRICES; i++) {
        const struct expert_matrix *matrix = &expert->matrix[order[i]];
        const struct random_file *file = &store->files[matrix->file];
        struct read_part *part = job->part_count > 0 ? &job->parts[job->part_count - 1] : NULL;
        bool joined = part != NULL && part->file == file && matrix->offset <= part->offset + part->needed + JOINED_GAP;
        if (!joined) {
            part = &job->parts[job->part_count++];
            *part = (struct read_part){.file = file, .offset = block_floor(matrix->offset)};
            part->data = memory == NULL ? NULL : memory + used;
        }
        place[order[i]] = memory == NULL ? NULL : part->data + (matrix->offset - part->offset);
        part->needed = matrix->offset + matrix->bytes - part->offset;
        used += block_ceiling(part->needed) - part->size;
        part->size = block_ceiling(part->needed);
    }
    return used;
}

// ---- What there is -------------------------------------------------------------------------------------------------

struct survey {
    struct expert_store *store;
    const struct model_config *config;
    struct checkpoint *checkpoint;
    struct expert_layer *layer;   // the one whose experts are being visited
    int64_t layer_number;         // its number in the model
    int matrix;
    int64_t reserve;       // bytes of arena that the resident tensors take
    int64_t dense_bytes;   // that absorbed attention adds, see model_prepare
};

// What a resident tensor takes of the arena: large ones stand in it as in the blocks of the file.
static int64_t resident_room(int64_t bytes) {
    int64_t room = bytes + (bytes >= BLOCK_READ_BYTES ? 3 * FILE_BLOCK : 0);
    return (room + MEMORY_ALIGNMENT) / MEMORY_ALIGNMENT * MEMORY_ALIGNMENT;
}

static int locate_scale(struct survey *survey, struct checkpoint_range *range, const char *name, struct error *error) {
    char *scale_name = memory_format(error, "%s" SCALE_SUFFIX, name);
    int code = scale_name != NULL ? checkpoint_locate(survey->checkpoint, range, scale_name, error) : ERROR_MEMORY;
    memory_free(scale_name);
    return code;
}

// Shards are opened for reading when the survey first meets them.
static int open_shard(struct expert_store *store, const struct checkpoint_range *range, struct error *error) {
    struct random_file *file = &store->files[range->shard];
    return file->path != NULL ? 0 : random_file_open(file, range->path, error);
}

static int survey_expert(struct survey *survey, const struct param *param, const struct checkpoint_range *range,
                         struct error *error) {
    struct expert_store *store = survey->store;
    if (survey->layer == NULL || survey->layer_number != param->layer) {
        survey->layer = &store->layers[store->layer_count++];
        survey->layer_number = param->layer;
    }
    struct expert *expert = &survey->layer->experts[param->expert];
    int matrix = survey->matrix++ % EXPERT_MATRICES;   // params_visit: gate, up, down of each expert
    expert->matrix[matrix] = (struct expert_matrix){(int32_t)range->shard, range->offset, range->bytes};
    if (matrix == EXPERT_MATRICES - 1) {
        struct read_job job;
        uint8_t *place[EXPERT_MATRICES];
        int64_t bytes = expert_reads(store, expert, &job, store->memory, place);
        store->slot_bytes = bytes > store->slot_bytes ? bytes : store->slot_bytes;
    }
    return open_shard(store, range, error);
}

static int survey_param(void *argument, const struct param *param, struct error *error) {
    struct survey *survey = argument;
    struct checkpoint_range range, scale;
    int code;
    if (param->kind == PARAM_ROUTER_BIAS) {   // model_map made a copy
        return 0;
    }
    if ((code = checkpoint_locate(survey->checkpoint, &range, param->name, error)) != 0 ||
        (code = open_shard(survey->store, &range, error)) != 0) {
        return code;
    }
    if (param->tensor->format == FORMAT_E4M3_BLOCK) {
        if ((code = locate_scale(survey, &scale, param->name, error)) != 0 ||
            (code = open_shard(survey->store, &scale, error)) != 0) {
            return code;
        }
        survey->reserve += resident_room(scale.bytes);
        survey->store->resident_bytes += scale.bytes;
        const char *suffix = ".self_attn.kv_b_proj.weight";
        size_t length = strlen(param->name), tail = strlen(suffix);
        if (length > tail && strcmp(param->name + length - tail, suffix) == 0) {
            survey->dense_bytes += 2 * range.bytes;
        }
    }
    if (param->expert >= 0) {
        return survey_expert(survey, param, &range, error);
    }
    survey->reserve += resident_room(range.bytes);
    survey->store->resident_bytes += range.bytes;
    return 0;
}

// ---- Residents -----------------------------------------------------------------------------------------------------

static int load_range(void **data, struct expert_store *store, const struct checkpoint_range *range,
                      struct error *error) {
    const struct random_file *file = &store->files[range->shard];
    uint8_t *memory = arena_allocate(&store->arena, (size_t)resident_room(range->bytes), 1);
    if (range->bytes < BLOCK_READ_BYTES) {
        *data = memory;
        return file_read_bytes(file, memory, range->bytes, range->offset, error);
    }
    struct read_job *job = &store->jobs[0];
    struct read_part *part = &job->parts[0];
    int64_t begin = block_floor(range->offset);
    memory += (FILE_BLOCK - (uintptr_t)memory % FILE_BLOCK) % FILE_BLOCK;
    *part = (struct read_part){.file = file,
                               .offset = begin,
                               .size = block_ceiling(range->offset + range->bytes) - begin,
                               .needed = range->offset + range->bytes - begin,
                               .data = memory};
    job->part_count = 1;
    *data = memory + (range->offset - begin);
    read_queue_submit(store->queue, job, true);
    while (!read_queue_take(store->queue, job)) {
        read_queue_wait(store->queue, &store->seen);
        store->seen = read_queue_finished(store->queue);
    }
    return job->error.code != 0 ? error_set(error, job->error.code, "%s", job->error.text) : 0;
}

static int load_param(void *argument, const struct param *param, struct error *error) {
    struct survey *survey = argument;
    struct tensor *tensor = param->tensor;
    struct checkpoint_range range;
    int code = 0;
    if (param->kind == PARAM_ROUTER_BIAS) {
        return 0;
    }
    if (tensor->format == FORMAT_E4M3_BLOCK) {
        void *scale = NULL;
        if ((code = locate_scale(survey, &range, param->name, error)) != 0 ||
            (code = load_range(&scale, survey->store, &range, error)) != 0) {
            return code;
        }
        tensor->scale = scale;
    }
    if (param->expert >= 0) {
        tensor->data = NULL;
        return 0;
    }
    if ((code = checkpoint_locate(survey->checkpoint, &range, param->name, error)) != 0) {
        return code;
    }
    return load_range(&tensor->data, survey->store, &range, error);
}

// ---- Opening -------------------------------------------------------------------------------------------------------

static int create_tables(struct expert_store *store, struct error *error) {
    size_t layers = (size_t)store->layer_count, experts = layers * (size_t)store->experts_per_layer;
    store->layers = memory_allocate(layers, sizeof *store->layers, "expert layers", error);
    store->experts = memory_allocate(experts, sizeof *store->experts, "expert table", error);
    store->files = memory_allocate((size_t)store->file_count, sizeof *store->files, "shards", error);
    store->jobs = memory_allocate(EXPERT_JOBS, sizeof *store->jobs, "expert reads", error);
    store->job_slot = memory_allocate(EXPERT_JOBS, sizeof *store->job_slot, "expert reads", error);
    if (!store->layers || !store->experts || !store->files || !store->jobs || !store->job_slot) {
        return ERROR_MEMORY;
    }
    for (int j = 0; j < EXPERT_JOBS; j++) {
        store->job_slot[j] = -1;
    }
    for (size_t e = 0; e < experts; e++) {
        store->experts[e].slot = -1;
        store->experts[e].rank = -INFINITY;
    }
    for (size_t l = 0; l < layers; l++) {
        store->layers[l].store = store;
        store->layers[l].experts = store->experts + l * (size_t)store->experts_per_layer;
    }
    return 0;
}

static void link_layer(struct expert_store *store, struct block_params *block, int64_t index) {
    store->layers[index].params = &block->moe;
    store->layers[index].block = block;
    block->moe.streamed = &store->layers[index];
}

// In the order of params_visit, which is the order of the survey.
static void link_layers(struct expert_store *store, struct model_params *params, const struct model_config *config) {
    int64_t index = 0;
    for (int64_t l = 0; l < config->num_hidden_layers; l++) {
        if (params->layers[l].is_moe) {
            if (index > 0) {
                store->layers[index - 1].next = &store->layers[index];
            }
            link_layer(store, &params->layers[l], index++);
        }
    }
    for (int64_t k = 0; k < config->num_nextn_predict_layers; k++) {
        if (params->mtp[k].block.is_moe) {
            link_layer(store, &params->mtp[k].block, index++);
        }
    }
    CHECK(index == store->layer_count, "%lld MoE layers, %lld surveyed", (long long)index,
          (long long)store->layer_count);
}

static int check_limit(struct expert_store *store, const struct survey *survey, struct error *error) {
    int64_t coming = survey->reserve + survey->dense_bytes, experts = store->top_k * store->slot_bytes;
    int64_t total = store->layer_count * store->experts_per_layer;
    int64_t least = coming + experts + expert_other_bytes();
    if (store->options.slots == 0 && store->options.ram_bytes < least) {
        return error_set(
            error, ERROR_LIMIT,
            "memory limit of %.2f GiB: too little for this model, whose resident weights take %.2f GiB and "
            "the %lld experts of a token %.2f GiB: at least %.2f GiB are needed, and room for caches",
            (double)store->options.ram_bytes / 0x1p30, (double)coming / 0x1p30, (long long)store->top_k,
            (double)experts / 0x1p30, (double)least / 0x1p30);
    }
    int64_t most = store->options.slots > 0 ? store->options.slots : store->options.ram_bytes / store->slot_bytes;
    store->slot_count = most < total ? most : total;
    return 0;
}

static int create_pool(struct expert_store *store, struct error *error) {
    store->slots = memory_allocate((size_t)store->slot_count, sizeof *store->slots, "expert slots", error);
    store->memory = memory_reserve((size_t)(store->slot_count * store->slot_bytes), "expert slots", error);
    return store->slots != NULL && store->memory != NULL ? 0 : ERROR_MEMORY;
}

static int64_t count_moe_layers(const struct model_config *config) {
    int64_t count = 0;
    for (int64_t l = 0; l < config->num_hidden_layers + config->num_nextn_predict_layers; l++) {
        count += model_layer_is_moe(config, l);
    }
    return count;
}

static int store_fill(struct expert_store *store, struct model_params *params, const struct model_config *config,
                      struct checkpoint *checkpoint, struct error *error) {
    struct survey survey = {.store = store, .config = config, .checkpoint = checkpoint};
    int code;
    store->layer_count = count_moe_layers(config);
    store->file_count = checkpoint_shards(checkpoint);
    if (store->layer_count == 0) {
        return error_set(error, ERROR_ARGUMENT, "%s: a memory limit needs a model with experts, this one has none",
                         checkpoint_directory(checkpoint));
    }
    if ((code = create_tables(store, error)) != 0) {
        return code;
    }
    store->layer_count = 0;   // counted again by the survey
    if ((code = params_visit(params, config, survey_param, &survey, error)) != 0 ||
        (code = check_limit(store, &survey, error)) != 0 || (code = create_pool(store, error)) != 0 ||
        (code = arena_reserve(&store->arena, (size_t)survey.reserve, error)) != 0 ||
        (code = read_queue_create(&store->queue, EXPERT_READERS, error)) != 0 ||
        (code = params_visit(params, config, load_param, &survey, error)) != 0) {
        return code;
    }
    if (config->tie_word_embeddings) {
        params->lm_head = params->embed_tokens;
    }
    for (int64_t f = 0; f < store->file_count; f++) {
        if (store->files[f].path != NULL) {   // headers and what was read around them
            random_file_forget(&store->files[f]);
        }
    }
    link_layers(store, params, config);
    store->slot_limit = expert_slot_limit(store);
    return 0;
}

int expert_store_create(struct expert_store **out, struct model_params *params, const struct model_config *config,
                        struct checkpoint *checkpoint, const struct expert_options *options, struct error *error) {
    *out = NULL;
    struct expert_store *store = memory_allocate(1, sizeof *store, "expert store", error);
    if (store == NULL) {
        return ERROR_MEMORY;
    }
    store->options = *options;
    store->experts_per_layer = config->n_routed_experts;
    store->top_k = config->num_experts_per_tok;
    arena_init(&store->arena, "resident weights");
    int code = store_fill(store, params, config, checkpoint, error);
    if (code != 0) {
        expert_store_destroy(store);
        return code;
    }
    *out = store;
    return 0;
}

void expert_store_destroy(struct expert_store *store) {
    if (store == NULL) {
        return;
    }
    read_queue_destroy(store->queue);
    for (int64_t f = 0; store->files != NULL && f < store->file_count; f++) {
        if (store->files[f].path != NULL) {
            random_file_close(&store->files[f]);
        }
    }
    if (store->memory != NULL) {
        memory_unreserve(store->memory, (size_t)(store->slot_count * store->slot_bytes));
    }
    memory_free(store->slots);
    memory_free(store->jobs);
    memory_free(store->job_slot);
    memory_free(store->files);
    memory_free(store->experts);
    memory_free(store->layers);
    arena_destroy(&store->arena);
    memory_free(store);
}
