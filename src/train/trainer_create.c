// Setting a run up and taking it down: see trainer.h.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "model/load.h"
#include "text/fim.h"
#include "train/trainer.h"

// Two trainers in one folder would spoil each other's files. The lock goes with the process, however it ends.
static int take_lock(struct trainer *trainer, struct error *error) {
    char *path = file_join(trainer->run.train.out, "lock", error);
    if (path == NULL) {
        return ERROR_MEMORY;
    }
    int code = 0;
    trainer->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (trainer->lock < 0) {
        code = error_set_errno(error, "%s: cannot open", path);
    } else if (flock(trainer->lock, LOCK_EX | LOCK_NB) != 0) {
        code = errno == EWOULDBLOCK
                   ? error_set(error, ERROR_STATE, "%s: another `minke train` is running in this folder",
                               trainer->run.train.out)
                   : error_set_errno(error, "%s: cannot lock", path);
    }
    memory_free(path);
    return code;
}

static int claim_folder(struct trainer *trainer, bool resume, struct error *error) {
    const char *out = trainer->run.train.out;
    int code = file_make_directory(out, error);
    if (code == 0) {
        code = take_lock(trainer, error);
    }
    char *metrics = file_join(out, "metrics.jsonl", error);
    if (code == 0 && metrics == NULL) {
        code = ERROR_MEMORY;
    }
    if (code == 0 && !resume && (checkpoints_exist(out) || file_exists(metrics))) {
        code = error_set(error, ERROR_ARGUMENT,
                         "%s: found a run in this folder; --resume goes on with it, --out takes another folder", out);
    }
    memory_free(metrics);
    return code == 0 ? checkpoints_clean(out, error) : code;
}

static int read_config(struct trainer *trainer, struct error *error) {
    const struct model_section *section = &trainer->run.model;
    const char *path = section->config[0] != '\0' ? section->config : section->init_from;
    int code = model_config_read(&trainer->config, path, error);
    // Not the format of the run but that of a file: the export decides it anew.
    trainer->config.fp8 = trainer->run.checkpoint.dtype == EXPORT_FP8;
    return code;
}

static int check_sizes(const struct trainer *trainer, struct error *error) {
    int64_t vocabulary = dataset_vocab_size(trainer->dataset), length = trainer->run.train.sequence_length;
    if (vocabulary > trainer->config.vocab_size) {
        return error_set(error, ERROR_ARGUMENT, "data.path: found token ids up to %lld, the model's vocab_size is %lld",
                         (long long)vocabulary - 1, (long long)trainer->config.vocab_size);
    }
    if (length > trainer->config.max_position_embeddings) {
        return error_set(error, ERROR_ARGUMENT,
                         "train.sequence_length: found %lld, the model's max_position_embeddings is %lld",
                         (long long)length, (long long)trainer->config.max_position_embeddings);
    }
    return 0;
}

static const char *tokenizer_folder(const struct run_config *run) {
    return run->model.tokenizer[0] != '\0' ? run->model.tokenizer : run->data.path;
}

// What the loader needs of the tokenizer: the FIM tokens and the table of splits.
static int prepare_text(struct trainer *trainer, struct loader_options *options, struct error *error) {
    const struct data_section *data = &trainer->run.data;
    if (data->fim_rate == 0 && data->split_rate == 0) {
        return 0;
    }
    struct tokenizer *tokenizer = NULL;
    struct fim_tokens fim;
    int code = tokenizer_load(&tokenizer, tokenizer_folder(&trainer->run), error);
    if (code == 0 && data->fim_rate > 0) {
        code = fim_tokens_find(&fim, tokenizer, error);
        if (code != 0) {
            error_prefix(error, "data.fim_rate above 0");
        } else {
            options->fim_begin = fim.begin;
            options->fim_hole = fim.hole;
            options->fim_end = fim.end;
        }
    }
    if (code == 0 && data->split_rate > 0) {
        code = token_split_create(&trainer->split, tokenizer, error);
        options->split_offsets = trainer->split.offsets;
        options->split_pieces = trainer->split.pieces;
    }
    tokenizer_free(tokenizer);
    return code;
}

static int open_data(struct trainer *trainer, struct error *error) {
    const struct run_config *run = &trainer->run;
    int64_t depths = trainer->config.num_nextn_predict_layers;
    struct loader_options options = {
        .seed = (uint64_t)run->data.seed,
        .length = run->train.sequence_length,
        .extra = 1 + depths,
        .fim_rate = run->data.fim_rate,
        .split_rate = run->data.split_rate,
        .fim_begin = -1,
        .fim_hole = -1,
        .fim_end = -1,
        .shuffle = true,
    };
    int code = dataset_open(&trainer->dataset, run->data.path, DATA_TRAIN, error);
    if (code == 0) {
        code = check_sizes(trainer, error);
    }
    if (code == 0) {
        code = prepare_text(trainer, &options, error);
    }
    if (code == 0) {
        code = loader_create(&trainer->loader, trainer->dataset, &options, error);
    }
    if (code == 0) {
        trainer->state.data_fingerprint = dataset_fingerprint(trainer->dataset);
        trainer->state.cursor = loader_cursor(trainer->loader);
    }
    return code;
}

// A data folder without held-out documents trains too, but says so.
static int open_validation(struct trainer *trainer, struct error *error) {
    const struct run_config *run = &trainer->run;
    struct dataset *dataset = NULL;
    int code = dataset_open(&dataset, run->data.path, DATA_VALIDATION, error);
    if (code != 0) {
        return code;
    }
    trainer->has_validation = dataset_tokens(dataset) > 1 && dataset_bytes(dataset) > 0;
    dataset_close(dataset);
    if (!trainer->has_validation) {
        log_warning("%s has no validation documents: the run is not validated", run->data.path);
        return 0;
    }
    return validation_create(&trainer->validation, run->data.path, run->train.sequence_length,
                             trainer->config.num_nextn_predict_layers, run->train.micro_batch, error);
}

// ---- Weights
// ---------------------------------------------------------------------------------------------------------

// The FP32 masters that a checkpoint of ours has beside its exported weights; NULL when there are none.
static char *masters_of(const char *directory, struct error *error) {
    char *path = file_join(directory, "trainer/masters.safetensors", error);
    if (path != NULL && !file_exists(path)) {
        memory_free(path);
        path = NULL;
    }
    return path;
}

// Weights of another model into the masters. The directory's own config may differ from the run's (YaRN), its shapes
// may not.
static int start_from_model(struct trainer *trainer, struct error *error) {
    const char *directory = trainer->run.model.init_from;
    struct param_tree_part masters = {"", &trainer->optimizer.masters};
    struct arena arena;
    struct checkpoint *checkpoint = NULL;
    struct model_config config = trainer->config;
    struct param_tree mapped = {0};
    char *path = masters_of(directory, error);
    arena_init(&arena, "initial weights");
    int code = error != NULL ? error->code : 0;
    if (code == 0 && path != NULL) {
        code = param_tree_read(&masters, 1, path, error);
        goto out;
    }
    if (code == 0) {
        code = checkpoint_open(&checkpoint, directory, error);
    }
    if (code == 0) {
        code = model_map(&mapped.params, &config, checkpoint, &arena, error);
    }
    if (code == 0 && config.num_nextn_predict_layers != trainer->config.num_nextn_predict_layers) {
        code = error_set(
            error, ERROR_FORMAT,
            "%s: found no weights of the MTP layer; a model.config with num_nextn_predict_layers 0 trains without it",
            directory);
    }
    if (code == 0) {
        code = params_list(&mapped.list, &mapped.params, &config, &arena, error);
    }
    if (code == 0) {
        param_tree_copy(&trainer->op, &trainer->optimizer.masters, &mapped);
    }

out:
    checkpoint_close(checkpoint);
    arena_destroy(&arena);
    memory_free(path);
    return code;
}

static int start_weights(struct trainer *trainer, struct error *error) {
    const struct run_config *run = &trainer->run;
    int code = run->model.init_from[0] != '\0'
                   ? start_from_model(trainer, error)
                   : params_initialize(&trainer->optimizer.masters.params, &trainer->config, (uint64_t)run->train.seed,
                                       run->model.init_std, &trainer->op, error);
    if (code == 0 && run->model.init_ulps > 0) {
        param_tree_perturb(&trainer->optimizer.masters, (uint64_t)run->train.seed, run->model.init_ulps);
    }
    if (code == 0) {
        optimizer_start(&trainer->optimizer, &trainer->op);
    }
    return code;
}

// ---- Memory
// ----------------------------------------------------------------------------------------------------------

static int create_gradient(struct trainer *trainer, struct error *error) {
    const struct train_section *train = &trainer->run.train;
    struct batch_gradient *gradient = &trainer->gradient;
    int64_t depths = trainer->config.num_nextn_predict_layers;
    *gradient = (struct batch_gradient){
        .model = &trainer->model,
        .slot = trainer->slot,
        .loader = trainer->loader,
        .buffer_count = gradient_buffer_count(train->reduction_shards),
        .expert_load_count = moe_layer_count(&trainer->config) * trainer->config.n_routed_experts,
        .length = train->sequence_length,
        .depths = depths,
        .micro_batch = train->micro_batch,
        .reduction_shards = train->reduction_shards,
    };
    size_t buffers = (size_t)gradient->buffer_count,
           ids = (size_t)(train->micro_batch * (train->sequence_length + 1 + depths));
    size_t loads = (size_t)gradient->expert_load_count;
    int code = arena_reserve(&trainer->arena, buffers * sizeof *gradient->buffers + ids * 4 + loads * 8 + 256, error);
    if (code != 0) {
        return code;
    }
    gradient->buffers = arena_allocate_zero(&trainer->arena, buffers, sizeof *gradient->buffers);
    gradient->ids = arena_allocate_zero(&trainer->arena, ids, sizeof *gradient->ids);
    gradient->expert_load = loads > 0 ? arena_allocate_zero(&trainer->arena, loads, sizeof *gradient->expert_load)
                                      : NULL;
    for (int64_t i = 0; code == 0 && i < gradient->buffer_count; i++) {
        code = param_tree_create(&gradient->buffers[i], &trainer->config, FORMAT_F32, true, SCOPE_TRAINED,
                                 &trainer->arena, error);
    }
    return code;
}

static int create_model(struct trainer *trainer, struct error *error) {
    const struct run_config *run = &trainer->run;
    int64_t length = run->train.sequence_length;
    int code = memory_plan_make(&trainer->plan, run, &trainer->config, error);
    if (code == 0) {
        trainer->memory_before = memory_statistics_get().live_bytes;
        trainer->resident_before = memory_resident();
        code = arena_reserve(&trainer->arena, (size_t)trainer->plan.state, error);
    }
    if (code == 0) {
        code = arena_reserve(&trainer->scratch, (size_t)trainer->plan.workspace, error);
    }
    if (code == 0) {
        code = optimizer_create(&trainer->optimizer, &trainer->config, run, &trainer->arena, error);
    }
    if (code == 0) {
        code = arena_reserve(&trainer->arena, (size_t)(length * trainer->config.qk_rope_head_dim) * sizeof(float),
                             error);
    }
    if (code != 0) {
        return code;
    }
    trainer->model = (struct model){
        .config = trainer->config,
        .params = trainer->optimizer.weights.params,
        .compute = run->train.precision == PRECISION_FP32 ? FORMAT_F32 : FORMAT_BF16,
        .fp8 = run->train.precision == PRECISION_FP8,
        .recompute = {run->recompute.rms_norm, run->recompute.swiglu, run->recompute.mla_up},
    };
    model_prepare(&trainer->model, length, &trainer->arena);
    code = model_slot_create(&trainer->slot, &trainer->model, error);
    if (code == 0) {
        code = arena_reserve(model_slot_arena(trainer->slot), (size_t)trainer->plan.activations, error);
    }
    return code == 0 ? create_gradient(trainer, error) : code;
}

// ---- What the run folder says of itself
// ------------------------------------------------------------------------------

static int write_descriptions(struct trainer *trainer, struct error *error) {
    const char *out = trainer->run.train.out;
    char *config = file_join(out, "config.json", error), *ini = file_join(out, "run.ini", error);
    char *text = run_config_text(&trainer->run, error);
    int code = config == NULL || ini == NULL || text == NULL ? ERROR_MEMORY : file_write_text(ini, text, error);
    if (code == 0) {
        code = model_config_write(&trainer->config, config, error);
    }
    if (code == 0) {
        code = file_checksum(config, &trainer->state.model_fingerprint, error);
    }
    memory_free(config);
    memory_free(ini);
    memory_free(text);
    return code;
}

static void announce(const struct trainer *trainer) {
    const struct schedule_section *schedule = &trainer->run.schedule;
    struct model_count count = model_count_parameters(&trainer->config);
    char total[32], active[32], tokens[32];
    log_info("model: %s parameters, %s active for a token, %lld MTP module(s); data: %s tokens, %lld documents",
             text_count(total, (double)(count.total + count.mtp_unique)), text_count(active, (double)count.active),
             (long long)trainer->config.num_nextn_predict_layers,
             text_count(tokens, (double)dataset_tokens(trainer->dataset)),
             (long long)dataset_documents(trainer->dataset));
    char plan[MEMORY_PLAN_TEXT];
    log_info("memory: %s", memory_plan_text(plan, &trainer->plan));
    if (moe_layer_count(&trainer->config) == 0) {
        return;
    }
    if (router_bias(&trainer->optimizer.masters, 0) == NULL) {
        log_info("these routers have no bias (topk_method is not noaux_tc): gamma balances nothing");
    } else if (schedule->gamma == 0) {
        log_info("gamma is 0: router biases stay as they are, nothing but alpha balances the experts");
    }
    if (schedule->alpha == 0) {
        log_info("alpha is 0: no sequence-wise balance loss");
    }
}

static int find_state(struct trainer *trainer, bool resume, struct error *error) {
    const struct checkpoint_sources sources = {
        .state = &trainer->state,
        .optimizer = &trainer->optimizer,
        .config = &trainer->config,
        .run = &trainer->run,
        .tokenizer = tokenizer_folder(&trainer->run),
        .op = &trainer->op,
    };
    bool found = false;
    int code = resume ? checkpoints_load(&found, trainer->run.train.out, &sources, error) : 0;
    if (code != 0) {
        return code;
    }
    if (!found) {
        if (resume) {
            log_info("%s: no checkpoint to resume from, starting anew", trainer->run.train.out);
        }
        return start_weights(trainer, error);
    }
    optimizer_refresh(&trainer->optimizer, &trainer->op);
    log_info("resuming at step %lld, after %lld tokens", (long long)trainer->state.step,
             (long long)trainer->state.tokens);
    return loader_seek(trainer->loader, &trainer->state.cursor, error);
}

int trainer_create(struct trainer **out, const struct run_config *run, bool resume, struct error *error) {
    *out = NULL;
    struct trainer *trainer = memory_allocate(1, sizeof *trainer, "trainer", error);
    if (trainer == NULL) {
        return ERROR_MEMORY;
    }
    trainer->run = *run;
    trainer->lock = -1;
    trainer->metrics.descriptor = -1;
    trainer->last_gamma = -1;
    arena_init(&trainer->arena, "weights and optimizer");
    arena_init(&trainer->scratch, "workspace");
    int code = pool_create(&trainer->pool, (int)run->train.threads, error);
    if (code == 0) {
        code = op_context_init(&trainer->op, (enum isa)run->train.isa, trainer->pool, &trainer->scratch, error);
    }
    if (code == 0) {
        code = read_config(trainer, error);
    }
    if (code == 0) {
        code = open_data(trainer, error);
    }
    if (code == 0) {
        code = open_validation(trainer, error);
    }
    if (code == 0) {   // the inputs are readable: only now the run folder is touched
        code = claim_folder(trainer, resume, error);
    }
    if (code == 0) {
        code = create_model(trainer, error);
    }
    if (code == 0) {
        code = write_descriptions(trainer, error);
    }
    if (code == 0) {
        code = find_state(trainer, resume, error);
    }
    if (code == 0) {
        code = metrics_open(&trainer->metrics, run->train.out, &trainer->config, trainer->state.step, error);
    }
    if (code != 0) {
        trainer_destroy(trainer);
        return code;
    }
    announce(trainer);
    *out = trainer;
    return 0;
}

void trainer_destroy(struct trainer *trainer) {
    if (trainer == NULL) {
        return;
    }
    metrics_close(&trainer->metrics);
    model_slot_destroy(trainer->slot);
    if (trainer->has_validation) {
        validation_destroy(&trainer->validation);
    }
    loader_destroy(trainer->loader);
    token_split_destroy(&trainer->split);
    dataset_close(trainer->dataset);
    arena_destroy(&trainer->arena);
    arena_destroy(&trainer->scratch);
    pool_destroy(trainer->pool);
    if (trainer->lock >= 0) {
        close(trainer->lock);
    }
    memory_free(trainer);
}
