// minke_model_*: a model directory mapped and ready to run.
#include <string.h>

#include "api/api.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "model/quantize.h"

#define POSITIONS_AT_OPEN 4096   // rows of the rope table computed at open; longer sessions extend it

const char *minke_version(void) {
    return MINKE_VERSION;
}

int api_error(struct minke_error *to, const struct error *from) {
    if (to != NULL) {
        to->code = from->code;
        memcpy(to->text, from->text, sizeof to->text);
    }
    return from->code;
}

static int parse_isa(enum isa *isa, const char *text, struct error *error) {
    static const char *const names[] = {
        [ISA_SCALAR] = "scalar", [ISA_AVX2] = "avx2", [ISA_AVX512] = "avx512", [ISA_AMX] = "amx", [ISA_BEST] = "auto"};
    for (int i = 0; i <= ISA_BEST; i++) {
        if (text == NULL || strcmp(text, names[i]) == 0) {
            *isa = text == NULL ? ISA_BEST : (enum isa)i;
            return 0;
        }
    }
    return error_set(error, ERROR_ARGUMENT, "isa: expected auto, scalar, avx2, avx512 or amx, found \"%s\"", text);
}

static int parse_compute(enum format *compute, const char *text, struct error *error) {
    if (text == NULL || strcmp(text, "bf16") == 0) {
        *compute = FORMAT_BF16;
    } else if (strcmp(text, "f32") == 0) {
        *compute = FORMAT_F32;
    } else {
        return error_set(error, ERROR_ARGUMENT, "compute: expected bf16 or f32, found \"%s\"", text);
    }
    return 0;
}

// FORMAT_NONE = as stored.
static int parse_weights(enum format *weights, bool *mapped, const char *text, struct error *error) {
    *weights = FORMAT_NONE;
    *mapped = text != NULL && strcmp(text, "mapped") == 0;
    if (text == NULL || *mapped || strcmp(text, "stored") == 0) {
        return 0;
    }
    if (strcmp(text, "int8") == 0) {
        *weights = FORMAT_INT8;
    } else if (strcmp(text, "int4") == 0) {
        *weights = FORMAT_INT4;
    } else {
        return error_set(error, ERROR_ARGUMENT, "weights: expected stored, mapped, int8 or int4, found \"%s\"", text);
    }
    return 0;
}

static int add_end_token(struct minke_model *model, const json_t *value, const char *name, struct error *error) {
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) >= model->model.config.vocab_size) {
        return error_set(error, ERROR_FORMAT,
                         "%s: key \"eos_token_id\": expected an id in 0..%lld or a list of ids, found %s", name,
                         (long long)model->model.config.vocab_size - 1, json_type_text(value));
    }
    if (model->end_token_count == API_END_TOKENS) {
        return error_set(error, ERROR_LIMIT, "%s: key \"eos_token_id\": at most %d ids are supported", name,
                         API_END_TOKENS);
    }
    model->end_tokens[model->end_token_count++] = (int32_t)json_integer_value(value);
    return 0;
}

static int read_generation_keys(struct minke_model *model, const json_t *root, const char *path, struct error *error) {
    const json_t *end = json_object_get(root, "eos_token_id"), *one;
    size_t index;
    int code = 0;
    if (json_is_array(end)) {
        json_array_foreach(end, index, one) {
            code = code != 0 ? code : add_end_token(model, one, path, error);
        }
    } else if (end != NULL && !json_is_null(end)) {
        code = add_end_token(model, end, path, error);
    }
    bool sample = false;
    double temperature = 1, top_p = 1;
    if (code == 0 && (code = json_get_boolean_or(&sample, false, root, "do_sample", path, error)) == 0 &&
        (code = json_get_number_or(&temperature, 1, root, "temperature", path, error)) == 0) {
        code = json_get_number_or(&top_p, 1, root, "top_p", path, error);
    }
    if (code == 0 && sample) {
        model->sampling.temperature = (float)temperature;
        model->sampling.top_p = (float)top_p;
    }
    return code;
}

static int read_generation_config(struct minke_model *model, const char *directory, struct error *error) {
    model->sampling = (struct minke_sampling){.temperature = 0, .top_p = 1, .seed = 0};
    char *path = file_join(directory, "generation_config.json", error);
    if (path == NULL) {
        return ERROR_MEMORY;
    }
    json_t *root = NULL;
    int code = 0;
    if (file_exists(path) && (code = json_read(&root, path, 1 << 20, error)) == 0) {
        code = read_generation_keys(model, root, path, error);
    }
    if (code == 0 && model->end_token_count == 0 && model->model.config.eos_token_id >= 0) {
        model->end_tokens[model->end_token_count++] = (int32_t)model->model.config.eos_token_id;
    }
    json_decref(root);
    memory_free(path);
    return code;
}

static int open_parts(struct minke_model *model, const char *directory, const struct minke_model_options *options,
                      struct error *error) {
    enum isa isa = ISA_BEST;
    enum format weights = FORMAT_NONE;
    bool mapped = false;
    int code;
    model->directory = memory_copy_string(directory, error);
    if (model->directory == NULL) {
        return ERROR_MEMORY;
    }
    if ((code = parse_isa(&isa, options->isa, error)) != 0 ||
        (code = parse_compute(&model->model.compute, options->compute, error)) != 0 ||
        (code = parse_weights(&weights, &mapped, options->weights, error)) != 0 ||
        (code = pool_create(&model->pool, options->threads, error)) != 0 ||
        (code = op_context_init(&model->op, isa, model->pool, &model->scratch, error)) != 0 ||
        (code = model_config_read(&model->model.config, directory, error)) != 0 ||
        (code = checkpoint_open(&model->checkpoint, directory, error)) != 0 ||
        (code = model_map(&model->model.params, &model->model.config, model->checkpoint, &model->arena, error)) != 0 ||
        (code = read_generation_config(model, directory, error)) != 0) {
        return code;
    }
    model->weights = memory_copy_string(weights != FORMAT_NONE ? options->weights : "stored", error);
    if (model->weights == NULL) {
        return ERROR_MEMORY;
    }
    if (weights != FORMAT_NONE && options->ram_bytes > 0) {
        return error_set(error, ERROR_ARGUMENT,
                         "weights %s and a memory limit: experts are read as the files have them; expected one of both",
                         options->weights);
    }
    if (weights != FORMAT_NONE && (code = model_quantize(&model->model.params, &model->model.config, weights, true,
                                                         model->pool, &model->arena, error)) != 0) {
        return code;
    }
    if (!mapped && options->ram_bytes == 0 &&
        (code = model_interleave_mapped(&model->model, weights != FORMAT_NONE, &model->op, &model->arena, error)) !=
            0) {
        return code;
    }
    if (options->ram_bytes > 0) {
        struct expert_options limit = {.ram_bytes = options->ram_bytes};
        code = expert_store_create(&model->experts, &model->model.params, &model->model.config, model->checkpoint,
                                   &limit, error);
        if (code != 0) {
            return error_prefix(error, "%s", directory);
        }
    }
    int64_t positions = minke_model_context(model);
    model_prepare(&model->model, positions < POSITIONS_AT_OPEN ? positions : POSITIONS_AT_OPEN, &model->arena);
    return 0;
}

int minke_model_open(struct minke_model **out, const char *directory, const struct minke_model_options *options,
                     struct minke_error *error) {
    static const struct minke_model_options defaults = {0};
    struct error inner = {0};
    *out = NULL;
    struct minke_model *model = memory_allocate(1, sizeof *model, "model", &inner);
    if (model == NULL) {
        return api_error(error, &inner);
    }
    arena_init(&model->arena, "model");
    arena_init(&model->scratch, "workspace");
    if (open_parts(model, directory, options != NULL ? options : &defaults, &inner) != 0) {
        minke_model_close(model);
        return api_error(error, &inner);
    }
    *out = model;
    return 0;
}

void minke_model_close(struct minke_model *model) {
    if (model == NULL) {
        return;
    }
    expert_store_destroy(model->experts);
    memory_free(model->directory);
    memory_free(model->weights);
    checkpoint_close(model->checkpoint);
    pool_destroy(model->pool);
    arena_destroy(&model->scratch);
    arena_destroy(&model->arena);
    memory_free(model);
}

int64_t minke_model_vocab_size(const struct minke_model *model) {
    return model->model.config.vocab_size;
}

int64_t minke_model_context(const struct minke_model *model) {
    return model->model.config.max_position_embeddings;
}

int64_t minke_model_mtp_depth(const struct minke_model *model) {
    return model->model.config.num_nextn_predict_layers;
}

int minke_model_is_end(const struct minke_model *model, int32_t id) {
    for (int64_t i = 0; i < model->end_token_count; i++) {
        if (model->end_tokens[i] == id) {
            return 1;
        }
    }
    return 0;
}

struct minke_sampling minke_model_sampling(const struct minke_model *model) {
    return model->sampling;
}

void minke_model_memory(struct minke_memory_stats *stats, const struct minke_model *model) {
    *stats = (struct minke_memory_stats){0};
    if (model->experts != NULL) {
        struct expert_statistics inner;
        expert_store_statistics(&inner, model->experts);
        *stats = (struct minke_memory_stats){
            .limit_bytes = inner.limit_bytes,
            .resident_bytes = inner.resident_bytes,
            .expert_bytes = inner.expert_bytes,
            .experts = inner.experts,
            .slots = inner.slots,
            .slots_used = inner.slots_used,
            .hits = inner.hits,
            .late = inner.late,
            .misses = inner.misses,
            .bytes_read = inner.bytes_read,
            .guesses = inner.guesses,
            .right_guesses = inner.right_guesses,
            .stall_seconds = inner.stall_seconds,
        };
    }
}
