// trainer/state.json:
//
//    {"format": 1, "step": n, "updates": n, "tokens": n, "skipped": n, "skipped_in_a_row": n,
//     "loader": {"epoch": n, "document": n, "offset": n, "sequences": n, "tokens": n},
//     "model": "<16 hex digits>", "data": "<16 hex digits>",
//     "run": {"section.key": "value", ...}}       the keys that may not change while the run lasts
//
// The schedules follow from step and tokens; the average of the weights counts `updates`.
#include "train/state_json.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "op/ops.h"

#define STATE_LIMIT ((int64_t)1 << 20)
#define TOKENIZER_LIMIT ((int64_t)1 << 30)

static char *hex_text(char text[17], uint64_t value) {
    snprintf(text, 17, "%016" PRIx64, value);
    return text;
}

static json_t *fixed_keys(const struct run_config *run) {
    json_t *object = json_object();
    const char *name;
    char value[RUN_CONFIG_VALUE];
    for (int i = 0; run_config_fixed(run, i, &name, value); i++) {
        if (json_object_set_new(object, name, json_string(value)) != 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

int state_write(const char *path, const struct checkpoint_sources *sources, struct error *error) {
    const struct train_state *state = sources->state;
    const struct loader_cursor *cursor = &state->cursor;
    char model[17], data[17];
    json_t *loader = json_pack("{s:I, s:I, s:I, s:I, s:I}", "epoch", (json_int_t)cursor->epoch, "document",
                               (json_int_t)cursor->document, "offset", (json_int_t)cursor->offset, "sequences",
                               (json_int_t)cursor->sequences, "tokens", (json_int_t)cursor->tokens);
    // json_pack takes `loader` and the keys over, also when it fails.
    json_t *root = json_pack("{s:i, s:I, s:I, s:I, s:I, s:I, s:o, s:s, s:s, s:o}", "format", TRAIN_STATE_FORMAT, "step",
                             (json_int_t)state->step, "updates", (json_int_t)sources->optimizer->updates, "tokens",
                             (json_int_t)state->tokens, "skipped", (json_int_t)state->skipped, "skipped_in_a_row",
                             (json_int_t)state->skipped_in_a_row, "loader", loader, "model",
                             hex_text(model, state->model_fingerprint), "data", hex_text(data, state->data_fingerprint),
                             "run", fixed_keys(sources->run));
    int code = root == NULL ? error_set(error, ERROR_MEMORY, "%s: out of memory", path) : json_write(root, path, error);
    json_decref(root);
    return code;
}

static int compare_fingerprint(const json_t *root, const char *key, const char *what, uint64_t expected,
                               const char *path, struct error *error) {
    const char *text;
    char hex[17];
    int code = json_get_string(&text, root, key, path, error);
    if (code == 0 && strcmp(text, hex_text(hex, expected)) != 0) {
        code = error_set(error, ERROR_ARGUMENT,
                         "%s: the checkpoint was trained with another %s (found %s, this run has %s)", path, what, text,
                         hex);
    }
    return code;
}

// A run computes with AMX from its first step to its last, or never: found only where it does.
static int compare_isa(const struct run_config *run, const json_t *keys, const char *path, struct error *error) {
    const bool found = json_object_get(keys, "train.isa") != NULL, wanted = run->train.isa == ISA_AMX;
    return found == wanted
               ? 0
               : error_set(error, ERROR_ARGUMENT,
                           "%s: train.isa may not change to or from amx on --resume, which sums in another "
                           "order: the checkpoint has %s, this run %s (start a new run with model.init_from "
                           "instead)",
                           path, found ? "amx" : "another", wanted ? "amx" : "another");
}

static int compare_keys(const struct run_config *run, const json_t *root, const char *path, struct error *error) {
    const json_t *object = json_object_get(root, "run");
    const char *name, *found;
    char value[RUN_CONFIG_VALUE];
    int isa = compare_isa(run, object, path, error);
    if (isa != 0) {
        return isa;
    }
    for (int i = 0; run_config_fixed(run, i, &name, value); i++) {
        int code = json_get_string(&found, object, name, path, error);
        if (code != 0) {
            return code;
        }
        if (strcmp(found, value) != 0) {
            return error_set(
                error, ERROR_ARGUMENT,
                "%s: %s may not change on --resume: the checkpoint has %s, this run %s (start a new run with "
                "model.init_from instead)",
                path, name, found, value);
        }
    }
    return 0;
}

static int read_counters(struct train_state *state, int64_t *updates, const json_t *root, const char *path,
                         struct error *error) {
    const json_t *loader = json_object_get(root, "loader");
    struct loader_cursor *cursor = &state->cursor;
    const struct {
        int64_t *value;
        const json_t *object;
        const char *key;
    } integers[] = {
        {&state->step, root, "step"},
        {updates, root, "updates"},
        {&state->tokens, root, "tokens"},
        {&state->skipped, root, "skipped"},
        {&state->skipped_in_a_row, root, "skipped_in_a_row"},
        {&cursor->epoch, loader, "epoch"},
        {&cursor->document, loader, "document"},
        {&cursor->offset, loader, "offset"},
        {&cursor->sequences, loader, "sequences"},
        {&cursor->tokens, loader, "tokens"},
    };
    int code = 0;
    for (size_t i = 0; code == 0 && i < sizeof integers / sizeof integers[0]; i++) {
        code = json_get_integer(integers[i].value, integers[i].object, integers[i].key, path, error);
        if (code == 0 && *integers[i].value < 0) {
            code = error_set(error, ERROR_FORMAT, "%s: key \"%s\": found %lld, expected at least 0", path,
                             integers[i].key, (long long)*integers[i].value);
        }
    }
    return code;
}

int state_read(const struct checkpoint_sources *sources, const char *path, struct error *error) {
    struct train_state state = *sources->state;
    json_t *root = NULL;
    int64_t format = 0, updates = 0;
    int code = json_read(&root, path, STATE_LIMIT, error);
    if (code != 0) {
        return code;
    }
    code = json_get_integer(&format, root, "format", path, error);
    if (code == 0 && format != TRAIN_STATE_FORMAT) {
        code = error_set(error, ERROR_FORMAT, "%s: found format %lld, expected %d", path, (long long)format,
                         TRAIN_STATE_FORMAT);
    }
    if (code == 0) {
        code = compare_keys(sources->run, root, path, error);
    }
    if (code == 0) {
        code = compare_fingerprint(root, "model", "config.json", state.model_fingerprint, path, error);
    }
    if (code == 0) {
        code = compare_fingerprint(root, "data", "data folder", state.data_fingerprint, path, error);
    }
    if (code == 0) {
        code = read_counters(&state, &updates, root, path, error);
    }
    if (code == 0) {
        *sources->state = state;
        sources->optimizer->updates = updates;
    }
    json_decref(root);
    return code;
}

static int copy_file(const char *to, const char *from, struct error *error) {
    char *text;
    int64_t size;
    struct file_writer writer;
    int code = file_read(&text, &size, from, TOKENIZER_LIMIT, error);
    if (code != 0) {
        return code;
    }
    code = file_writer_open(&writer, to, error);
    if (code == 0) {
        code = file_writer_append(&writer, text, (size_t)size, error);
    }
    if (code == 0) {
        code = file_writer_commit(&writer, error);
    }
    memory_free(text);
    return code;
}

int tokenizer_files_copy(const char *to, const char *from, struct error *error) {
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                                        "chat_template.jinja"};
    int code = 0;
    for (size_t i = 0; code == 0 && i < sizeof names / sizeof names[0]; i++) {
        char *source = file_join(from, names[i], error), *target = file_join(to, names[i], error);
        if (source == NULL || target == NULL) {
            code = ERROR_MEMORY;
        } else if (file_exists(source)) {
            code = copy_file(target, source, error);
        }
        memory_free(source);
        memory_free(target);
    }
    return code;
}
