// Model directories (spec 11): mapped weights -> model_params, model_params -> files.
#include "model/load.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "tensor/formats.h"
#include "weights/cast.h"

#define SHARD_BYTES_DEFAULT 5000000000

// ---- Loading -------------------------------------------------------------------------------------------------------

struct mapping {
    struct checkpoint *checkpoint;
    struct arena *arena;
};

// The bias is read as a float array by the router: copied, because a mapped tensor may be unaligned or, in some
// directories, BF16.
static int map_bias(struct mapping *mapping, struct tensor *tensor, struct error *error) {
    struct tensor mapped = *tensor;
    int64_t count = mapped.shape[0];
    int code = arena_reserve(mapping->arena, (size_t)count * sizeof(float), error);
    if (code == 0) {
        *tensor = tensor_1d(FORMAT_F32, arena_allocate(mapping->arena, (size_t)count, sizeof(float)), count);
        tensor_cast(tensor, &mapped, false, NULL);
    }
    return code;
}

static int map_param(void *argument, const struct param *param, struct error *error) {
    struct mapping *mapping = argument;
    int code = checkpoint_expect(mapping->checkpoint, param->tensor, param->name, param->rank, param->shape, error);
    return code == 0 && param->kind == PARAM_ROUTER_BIAS ? map_bias(mapping, param->tensor, error) : code;
}

// Directories without their announced MTP layer exist (transformers drops it when it saves).
static int check_mtp(struct model_config *config, const struct checkpoint *checkpoint, struct error *error) {
    if (config->num_nextn_predict_layers == 0) {
        return 0;
    }
    char *prefix = memory_format(error, "model.layers.%lld.", (long long)config->num_hidden_layers);
    if (prefix == NULL) {
        return ERROR_MEMORY;
    }
    bool found = false;
    for (int64_t i = 0; i < checkpoint_count(checkpoint) && !found; i++) {
        found = strncmp(checkpoint_name(checkpoint, i), prefix, strlen(prefix)) == 0;
    }
    if (!found) {
        log_warning("%s: config.json announces %lld MTP layer(s), the files have no tensor %s*: going on without",
                    checkpoint_directory(checkpoint), (long long)config->num_nextn_predict_layers, prefix);
        config->num_nextn_predict_layers = 0;
    }
    memory_free(prefix);
    return 0;
}

// The usual reason for names that do not match, before the general message about the first missing one.
static int check_prefix(const struct checkpoint *checkpoint, struct error *error) {
    static const char *const inner = "embed_tokens.weight";
    if (!checkpoint_has(checkpoint, "model.embed_tokens.weight") && checkpoint_has(checkpoint, inner)) {
        return error_set(error, ERROR_FORMAT,
                         "%s: expected tensor \"model.%s\", found \"%s\": the names lack the prefix \"model.\"",
                         checkpoint_directory(checkpoint), inner, inner);
    }
    return 0;
}

int model_map(struct model_params *params, struct model_config *config, struct checkpoint *checkpoint,
              struct arena *arena, struct error *error) {
    struct mapping mapping = {checkpoint, arena};
    int code;
    if ((code = check_prefix(checkpoint, error)) != 0 || (code = check_mtp(config, checkpoint, error)) != 0 ||
        (code = arena_reserve(arena, params_table_bytes(config), error)) != 0) {
        return code;
    }
    params_create(params, config, arena);
    code = params_visit(params, config, map_param, &mapping, error);
    if (code == 0 && config->tie_word_embeddings) {
        params->lm_head = params->embed_tokens;
    }
    return code;
}

// ---- Saving --------------------------------------------------------------------------------------------------------

struct saving {
    struct checkpoint_plan_entry *entries;
    const struct tensor **sources;                         // of each entry
    char (*copy_names)[sizeof((struct param *)0)->name];   // of the MTP copies of embedding and head
    int64_t count;
    const struct model_save_options *options;
    struct pool *pool;
    struct cast_buffer buffer;
};

static enum format save_format(const struct model_save_options *options, enum param_kind kind) {
    if (kind == PARAM_ROUTER_BIAS) {
        return FORMAT_F32;
    }
    return options->format == FORMAT_E4M3_BLOCK && kind != PARAM_LINEAR ? FORMAT_BF16 : options->format;
}

static void plan_entry(struct saving *saving, const char *name, enum param_kind kind, const struct tensor *source) {
    struct checkpoint_plan_entry *entry = &saving->entries[saving->count];
    *entry = (struct checkpoint_plan_entry){
        .name = name, .format = save_format(saving->options, kind), .rank = source->rank};
    memcpy(entry->shape, source->shape, sizeof entry->shape);
    saving->sources[saving->count++] = source;
}

// The parameters in model order; each MTP layer ends with its copies of embedding and head, as in the published files.
static void plan_model(struct saving *saving, const struct model_params *params, const struct param_list *list,
                       const struct model_config *config) {
    int64_t copies = 0;
    for (int64_t i = 0; i < list->count; i++) {
        const struct param *param = &list->items[i];
        plan_entry(saving, param->name, param->kind, param->tensor);
        bool last_of_mtp = param->layer >= config->num_hidden_layers &&
                           (i + 1 == list->count || list->items[i + 1].layer != param->layer);
        if (last_of_mtp) {
            char *embedding = saving->copy_names[copies++], *head = saving->copy_names[copies++];
            size_t size = sizeof saving->copy_names[0];
            snprintf(embedding, size, "model.layers.%lld.embed_tokens.weight", (long long)param->layer);
            snprintf(head, size, "model.layers.%lld.shared_head.head.weight", (long long)param->layer);
            plan_entry(saving, embedding, PARAM_EMBEDDING, &params->embed_tokens);
            plan_entry(saving, head, PARAM_HEAD,
                       config->tie_word_embeddings ? &params->embed_tokens : &params->lm_head);
        }
    }
}

static int save_fetch(void *argument, struct tensor *tensor, int64_t index, struct error *error) {
    struct saving *saving = argument;
    const struct checkpoint_plan_entry *entry = &saving->entries[index];
    const struct tensor *source = saving->sources[index];
    struct tensor filled;
    CHECK(tensor_present(source) && (source->data != NULL || saving->options->fill != NULL), "%s has no memory",
          entry->name);
    if (source->data == NULL) {
        int code = saving->options->fill(saving->options->argument, &filled, source, error);
        if (code != 0) {
            return code;
        }
        source = &filled;
    }
    return tensor_cast_buffered(tensor, &saving->buffer, entry->format, source, saving->options->power_of_two,
                                saving->pool, error);
}

static int write_generation_config(const char *directory, const struct model_config *config, struct error *error) {
    char *path = file_join(directory, "generation_config.json", error);
    json_t *root = json_object();
    bool failed = json_object_set_new(root, "_from_model_config", json_true()) != 0;
    if (config->bos_token_id >= 0) {
        failed = json_object_set_new(root, "bos_token_id", json_integer(config->bos_token_id)) != 0 || failed;
    }
    if (config->eos_token_id >= 0) {
        failed = json_object_set_new(root, "eos_token_id", json_integer(config->eos_token_id)) != 0 || failed;
    }
    int code = path == NULL ? ERROR_MEMORY : failed ? error_set(error, ERROR_MEMORY, "%s: out of memory", path) : 0;
    if (code == 0) {
        code = json_write(root, path, error);
    }
    json_decref(root);
    memory_free(path);
    return code;
}

static int write_config(const char *directory, const struct model_config *config,
                        const struct model_save_options *options, struct error *error) {
    struct model_config saved = *config;
    saved.fp8 = options->format == FORMAT_E4M3_BLOCK;
    saved.fp8_power_of_two = saved.fp8 && options->power_of_two;
    snprintf(saved.torch_dtype, sizeof saved.torch_dtype, "%s", options->format == FORMAT_F32 ? "float32" : "bfloat16");
    char *path = file_join(directory, "config.json", error);
    int code = path == NULL ? ERROR_MEMORY : model_config_write(&saved, path, error);
    memory_free(path);
    return code;
}

static int save_weights(const char *directory, struct model_params *params, const struct model_config *config,
                        const struct model_save_options *options, struct op_context *op, struct error *error) {
    struct saving saving = {.options = options, .pool = op->pool};
    struct param_list list = {0};
    struct arena arena;
    arena_init(&arena, "save plan");
    int code = params_list(&list, params, config, &arena, error);
    size_t copies = 2 * (size_t)config->num_nextn_predict_layers, count = (size_t)list.count + copies;
    size_t bytes = count * (sizeof *saving.entries + sizeof *saving.sources) + copies * sizeof *saving.copy_names;
    if (code != 0 || (code = arena_reserve(&arena, bytes + (size_t)4 * MEMORY_ALIGNMENT, error)) != 0) {
        goto out;
    }
    saving.entries = arena_allocate_zero(&arena, count, sizeof *saving.entries);
    saving.sources = arena_allocate_zero(&arena, count, sizeof *saving.sources);
    saving.copy_names = arena_allocate_zero(&arena, copies, sizeof *saving.copy_names);
    plan_model(&saving, params, &list, config);
    code = checkpoint_write(directory, saving.entries, saving.count,
                            options->shard_bytes > 0 ? options->shard_bytes : SHARD_BYTES_DEFAULT, save_fetch, &saving,
                            NULL, error);
out:
    cast_buffer_free(&saving.buffer);
    arena_destroy(&arena);
    return code;
}

static void remove_file(const char *directory, const char *name) {
    char path[4096];   // without the heap: the failure may be that memory has run out
    int length = snprintf(path, sizeof path, "%s/%s", directory, name);
    if (length > 0 && length < (int)sizeof path) {
        unlink(path);
    }
}

int model_save(const char *directory, struct model_params *params, const struct model_config *config,
               const struct model_save_options *options, struct op_context *op, struct error *error) {
    // The weights come last: a directory without them is visibly incomplete, whatever stops us.
    int code = checkpoint_check_absent(directory, error);
    if (code != 0) {
        return code;
    }
    if ((code = write_generation_config(directory, config, error)) == 0 &&
        (code = write_config(directory, config, options, error)) == 0) {
        code = save_weights(directory, params, config, options, op, error);
    }
    if (code != 0) {
        remove_file(directory, "generation_config.json");
        remove_file(directory, "config.json");
    }
    return code;
}

// ---- Companions ----------------------------------------------------------------------------------------------------

// Everything that belongs to a model but its weights: no hidden or temporary files, no weights of any container.
static bool is_companion(const char *name) {
    static const char *const suffixes[] = {".safetensors", ".index.json", ".bin",     ".pt",  ".pth",
                                           ".gguf",        ".h5",         ".msgpack", ".onnx"};
    size_t length = strlen(name);
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        size_t suffix = strlen(suffixes[i]);
        if (length >= suffix && strcmp(name + length - suffix, suffixes[i]) == 0) {
            return false;
        }
    }
    return name[0] != '.' && strstr(name, ".tmp-") == NULL;
}

static int copy_file(const char *to, const char *from, struct error *error) {
    struct mapped_file file;
    struct file_writer writer;
    int code = file_map(&file, from, error);
    if (code != 0) {
        return code;
    }
    if ((code = file_writer_open(&writer, to, error)) == 0 &&
        (code = file_writer_append(&writer, file.data, (size_t)file.size, error)) == 0 &&
        (code = file_writer_commit(&writer, error)) != 0) {
        unlink(to);
    }
    file_unmap(&file);
    return code;
}

int model_copy_companions(const char *to, const char *from, struct error *error) {
    char **names = NULL;
    int64_t count = 0;
    int code = file_list(&names, &count, from, error);
    for (int64_t i = 0; i < count && code == 0; i++) {
        if (!is_companion(names[i])) {
            continue;
        }
        char *source = file_join(from, names[i], error), *target = file_join(to, names[i], error);
        if (source == NULL || target == NULL) {
            code = ERROR_MEMORY;
        } else if (!file_is_directory(source) && !file_exists(target)) {   // what was written for `to` itself stays
            code = copy_file(target, source, error);
        }
        memory_free(source);
        memory_free(target);
    }
    file_list_free(names, count);
    return code;
}
