// Trees of parameters: memory, whole-tree operations, and their safetensors form.
#include "train/param_tree.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "model/model.h"
#include "tensor/formats.h"
#include "weights/cast.h"
#include "weights/safetensors.h"

#define NAME_CAPACITY (sizeof((struct param *)0)->name + 16)

int param_tree_create_empty(struct param_tree *tree, const struct model_config *config, struct arena *arena,
                            struct error *error) {
    *tree = (struct param_tree){0};
    int code = arena_reserve(arena, params_table_bytes(config), error);
    if (code != 0) {
        return code;
    }
    params_create(&tree->params, config, arena);
    return params_list(&tree->list, &tree->params, config, arena, error);
}

int param_tree_create(struct param_tree *tree, const struct model_config *config, enum format format,
                      bool keep_small_f32, enum param_scope scope, struct arena *arena, struct error *error) {
    int code = param_tree_create_empty(tree, config, arena, error);
    if (code == 0) {
        code = params_allocate(&tree->params, config, format, keep_small_f32, scope == SCOPE_TRAINED, arena, error);
    }
    for (int64_t i = 0; code == 0 && i < tree->list.count; i++) {
        const struct tensor *tensor = tree->list.items[i].tensor;
        tree->bytes += tensor_present(tensor) ? tensor_bytes(tensor) : 0;
    }
    return code;
}

void param_tree_zero_added(struct op_context *op, struct param_tree *tree) {
    for (int64_t i = 0; i < tree->list.count; i++) {
        const struct param *param = &tree->list.items[i];
        if (tensor_present(param->tensor) && !model_gradient_is_set(param)) {
            op_zero(op, param->tensor);
        }
    }
}

void param_tree_copy(struct op_context *op, struct param_tree *to, const struct param_tree *from) {
    CHECK(to->list.count == from->list.count, "trees of different models");
    for (int64_t i = 0; i < to->list.count; i++) {
        struct tensor *target = to->list.items[i].tensor;
        const struct tensor *source = from->list.items[i].tensor;
        if (tensor_present(target) && tensor_present(source) && target->data != source->data) {
            tensor_cast(target, source, false, op->pool);
        }
    }
}

void param_tree_perturb(struct param_tree *tree, uint64_t seed, int64_t ulps) {
    for (int64_t i = 0; i < tree->list.count; i++) {
        const struct param *param = &tree->list.items[i];
        uint32_t *bits = param->tensor->data;
        for (int64_t e = 0; param->trained && e < tensor_elements(param->tensor); e++) {
            bool up = (rng_u64(seed, (uint64_t)i, (uint64_t)e) & 1) != 0;
            int64_t magnitude = (int64_t)(bits[e] & 0x7fffffffu), moved = magnitude + (up ? ulps : -ulps);
            if (magnitude != 0 && moved >= 0x00800000 && moved < 0x7f800000) {   // normal numbers before and after
                bits[e] = (bits[e] & 0x80000000u) | (uint32_t)moved;
            }
        }
    }
}

void param_tree_add(struct op_context *op, struct param_tree *to, const struct param_tree *from) {
    for (int64_t i = 0; i < to->list.count; i++) {
        if (tensor_present(to->list.items[i].tensor)) {
            op_add(op, to->list.items[i].tensor, from->list.items[i].tensor);
        }
    }
}

static const char *part_name(char name[NAME_CAPACITY], const struct param_tree_part *part, const struct param *param) {
    snprintf(name, NAME_CAPACITY, "%s%s", part->prefix, param->name);
    return name;
}

int param_tree_write(const char *path, const struct param_tree_part *parts, int count, struct error *error) {
    struct safetensors_writer *writer = NULL;
    char name[NAME_CAPACITY];
    int code = safetensors_writer_create(&writer, error);
    for (int p = 0; code == 0 && p < count; p++) {
        for (int64_t i = 0; code == 0 && i < parts[p].tree->list.count; i++) {
            const struct tensor *tensor = parts[p].tree->list.items[i].tensor;
            if (tensor_present(tensor)) {
                code = safetensors_writer_declare(writer, part_name(name, &parts[p], &parts[p].tree->list.items[i]),
                                                  format_info((enum format)tensor->format)->safetensors_name,
                                                  tensor->rank, tensor->shape, error);
            }
        }
    }
    if (code == 0) {
        code = safetensors_writer_begin(writer, path, error);
    }
    for (int p = 0; code == 0 && p < count; p++) {
        for (int64_t i = 0; code == 0 && i < parts[p].tree->list.count; i++) {
            const struct tensor *tensor = parts[p].tree->list.items[i].tensor;
            if (tensor_present(tensor)) {
                code = safetensors_writer_append(writer, tensor->data, tensor_bytes(tensor), error);
            }
        }
    }
    if (code == 0) {
        return safetensors_writer_commit(writer, NULL, error);
    }
    safetensors_writer_abort(writer);
    return code;
}

static const struct safetensors_entry *entry_find(const struct safetensors *file, const char *name) {
    for (int64_t i = 0; i < file->count; i++) {
        if (strcmp(file->entries[i].name, name) == 0) {
            return &file->entries[i];
        }
    }
    return NULL;
}

// Files written by us have the tensors in list order: the entry at `hint` is looked at first.
static int read_tensor(struct tensor *target, const struct safetensors *file, int64_t hint, const char *name,
                       const char *path, struct error *error) {
    const struct safetensors_entry *entry = hint < file->count ? &file->entries[hint] : NULL;
    if (entry == NULL || strcmp(entry->name, name) != 0) {
        entry = entry_find(file, name);
    }
    if (entry == NULL) {
        return error_set(error, ERROR_FORMAT, "%s: tensor \"%s\": found nothing, expected it", path, name);
    }
    if (entry->tensor.format != target->format || !tensor_same_shape(&entry->tensor, target)) {
        char found[96], expected[96];
        return error_set(error, ERROR_FORMAT, "%s: tensor \"%s\": found %s %s, expected %s %s", path, name,
                         entry->dtype, tensor_shape_text(found, &entry->tensor),
                         format_info((enum format)target->format)->safetensors_name,
                         tensor_shape_text(expected, target));
    }
    memcpy(target->data, entry->tensor.data, (size_t)tensor_bytes(target));
    return 0;
}

int param_tree_read(const struct param_tree_part *parts, int count, const char *path, struct error *error) {
    struct safetensors file;
    int code = safetensors_open(&file, path, error);
    if (code != 0) {
        return code;
    }
    int64_t taken = 0;
    char name[NAME_CAPACITY];
    for (int p = 0; code == 0 && p < count; p++) {
        for (int64_t i = 0; code == 0 && i < parts[p].tree->list.count; i++) {
            struct tensor *tensor = parts[p].tree->list.items[i].tensor;
            if (tensor_present(tensor)) {
                code = read_tensor(tensor, &file, taken, part_name(name, &parts[p], &parts[p].tree->list.items[i]),
                                   path, error);
                taken++;
            }
        }
    }
    if (code == 0 && taken != file.count) {
        code = error_set(error, ERROR_FORMAT, "%s: found %lld tensors, expected %lld", path, (long long)file.count,
                         (long long)taken);
    }
    safetensors_close(&file);
    return code;
}
