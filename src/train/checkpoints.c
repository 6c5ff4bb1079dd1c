// Checkpoints on disk: see checkpoints.h for the layout and the order of events.
#include "train/checkpoints.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "model/load.h"
#include "train/state_json.h"

#define STEP_PREFIX "step-"
#define SAVING_PREFIX "saving-"
#define REMOVING_PREFIX "removing-"
#define DAMAGED_PREFIX "damaged-"
#define STATE_FILE "trainer/state.json"
#define MANIFEST_FILE "trainer/manifest.json"
#define JSON_LIMIT ((int64_t)64 << 20)

static bool starts_with(const char *text, const char *prefix) {
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static char *checkpoints_folder(const char *out, struct error *error) {
    return file_join(out, "checkpoints", error);
}

// ---- Removing
// --------------------------------------------------------------------------------------------------------

// Renames first: half of a folder must never stand under a name that counts.
static int retire(const char *folder, const char *name, struct error *error) {
    int code = ERROR_MEMORY;
    char *from = file_join(folder, name, error);
    char *to = memory_format(error, "%s/%s%s", folder, REMOVING_PREFIX, name);
    if (from != NULL && to != NULL) {
        code = file_is_directory(to) ? file_remove_tree(to, error) : 0;
    }
    if (code == 0) {
        code = file_rename(from, to, error);
    }
    if (code == 0) {
        code = file_remove_tree(to, error);
    }
    memory_free(from);
    memory_free(to);
    return code;
}

int checkpoints_clean(const char *out, struct error *error) {
    char **names = NULL;
    int64_t count = 0;
    char *folder = checkpoints_folder(out, error);
    int code = folder == NULL ? ERROR_MEMORY : 0;
    if (code == 0 && file_is_directory(folder)) {
        code = file_list(&names, &count, folder, error);
    }
    for (int64_t i = 0; code == 0 && i < count; i++) {
        if (starts_with(names[i], SAVING_PREFIX) || starts_with(names[i], REMOVING_PREFIX)) {
            char *path = file_join(folder, names[i], error);
            code = path == NULL ? ERROR_MEMORY : file_remove_tree(path, error);
            memory_free(path);
        }
    }
    file_list_free(names, count);
    memory_free(folder);
    return code;
}

// Keeps the newest `keep` (all for 0). Names have eight digits or more: longer is newer, then byte order.
static int name_order(const void *left, const void *right) {
    const char *a = *(char *const *)left, *b = *(char *const *)right;
    size_t la = strlen(a), lb = strlen(b);
    return la != lb ? (la < lb ? -1 : 1) : strcmp(a, b);
}

// Names of the checkpoints in a folder, oldest first; free with file_list_free.
static int list_steps(char ***names, int64_t *count, const char *folder, struct error *error) {
    int code = file_list(names, count, folder, error);
    if (code != 0) {
        return code;
    }
    int64_t kept = 0;
    for (int64_t i = 0; i < *count; i++) {
        if (starts_with((*names)[i], STEP_PREFIX)) {
            char *name = (*names)[kept];
            (*names)[kept++] = (*names)[i];
            (*names)[i] = name;
        }
    }
    for (int64_t i = kept; i < *count; i++) {
        memory_free((*names)[i]);
    }
    *count = kept;
    if (kept > 0) {
        qsort(*names, (size_t)kept, sizeof **names, name_order);
    }
    return 0;
}

static int prune(const char *folder, int64_t keep, struct error *error) {
    char **names;
    int64_t count;
    int code = list_steps(&names, &count, folder, error);
    if (code != 0) {
        return code;
    }
    for (int64_t i = 0; code == 0 && keep > 0 && i < count - keep; i++) {
        code = retire(folder, names[i], error);
    }
    file_list_free(names, count);
    return code;
}

bool checkpoints_exist(const char *out) {
    char **names = NULL;
    int64_t count = 0;
    char *folder = checkpoints_folder(out, NULL);
    bool exist = folder != NULL && file_is_directory(folder) && list_steps(&names, &count, folder, NULL) == 0 &&
                 count > 0;
    file_list_free(names, count);
    memory_free(folder);
    return exist;
}

// ---- Manifest
// --------------------------------------------------------------------------------------------------------

// Adds every regular file below directory/relative to `files`, in byte order of the names, without the manifest itself.
static int manifest_add(json_t *files, const char *directory, const char *relative, struct error *error) {
    char **names;
    int64_t count;
    char *folder = relative[0] != '\0' ? file_join(directory, relative, error) : memory_copy_string(directory, error);
    if (folder == NULL) {
        return ERROR_MEMORY;
    }
    int code = file_list(&names, &count, folder, error);
    for (int64_t i = 0; code == 0 && i < count; i++) {
        char *path = memory_format(error, "%s/%s", folder, names[i]);
        char *name = memory_format(error, "%s%s%s", relative, relative[0] != '\0' ? "/" : "", names[i]);
        uint64_t checksum;
        struct stat status;
        if (path == NULL || name == NULL) {
            code = ERROR_MEMORY;
        } else if (file_is_directory(path)) {
            code = manifest_add(files, directory, name, error);
        } else if (strcmp(name, MANIFEST_FILE) != 0) {
            code = stat(path, &status) != 0 ? error_set_errno(error, "%s: cannot stat", path)
                                            : file_checksum(path, &checksum, error);
            char hex[17];
            if (code == 0) {
                snprintf(hex, sizeof hex, "%016" PRIx64, checksum);
                json_t *entry = json_pack("{s:I, s:s}", "bytes", (json_int_t)status.st_size, "xxh3", hex);
                if (json_object_set_new(files, name, entry) != 0) {
                    code = error_set(error, ERROR_MEMORY, "%s: out of memory", MANIFEST_FILE);
                }
            }
        }
        memory_free(path);
        memory_free(name);
    }
    if (names != NULL) {
        file_list_free(names, count);
    }
    memory_free(folder);
    return code;
}

static int manifest_write(const char *directory, struct error *error) {
    json_t *files = json_object();
    json_t *root = json_pack("{s:i, s:O}", "format", TRAIN_STATE_FORMAT, "files", files);
    int code = root == NULL ? error_set(error, ERROR_MEMORY, "%s: out of memory", MANIFEST_FILE) : 0;
    if (code == 0) {
        code = manifest_add(files, directory, "", error);
    }
    char *path = file_join(directory, MANIFEST_FILE, error);
    if (code == 0) {
        code = path == NULL ? ERROR_MEMORY : json_write(root, path, error);
    }
    memory_free(path);
    json_decref(files);
    json_decref(root);
    return code;
}

static int verify_file(const char *directory, const char *name, const json_t *entry, struct error *error) {
    char *path = file_join(directory, name, error);
    int64_t bytes = 0;
    const char *expected = NULL;
    uint64_t checksum = 0;
    struct stat status;
    int code = path == NULL ? ERROR_MEMORY : json_get_integer(&bytes, entry, "bytes", name, error);
    if (code == 0) {
        code = json_get_string(&expected, entry, "xxh3", name, error);
    }
    if (code == 0 && stat(path, &status) != 0) {
        code = error_set_errno(error, "%s: cannot stat", path);
    }
    if (code == 0 && status.st_size != bytes) {
        code = error_set(error, ERROR_FORMAT, "%s: found %lld bytes, the manifest has %lld", path,
                         (long long)status.st_size, (long long)bytes);
    }
    if (code == 0) {
        code = file_checksum(path, &checksum, error);
    }
    char found[17];
    snprintf(found, sizeof found, "%016" PRIx64, checksum);
    if (code == 0 && strcmp(found, expected) != 0) {
        code = error_set(error, ERROR_FORMAT, "%s: found checksum %s, the manifest has %s", path, found, expected);
    }
    memory_free(path);
    return code;
}

int checkpoint_verify(const char *directory, struct error *error) {
    json_t *root = NULL;
    int64_t format = 0;
    char *path = file_join(directory, MANIFEST_FILE, error);
    int code = path == NULL ? ERROR_MEMORY : json_read(&root, path, JSON_LIMIT, error);
    if (code == 0) {
        code = json_get_integer(&format, root, "format", path, error);
    }
    if (code == 0 && format != TRAIN_STATE_FORMAT) {
        code = error_set(error, ERROR_FORMAT, "%s: found format %lld, expected %d", path, (long long)format,
                         TRAIN_STATE_FORMAT);
    }
    json_t *files = json_object_get(root, "files");
    if (code == 0 && (!json_is_object(files) || json_object_get(files, STATE_FILE) == NULL)) {
        code = error_set(error, ERROR_FORMAT, "%s: key \"files\": expected an object with \"%s\"", path, STATE_FILE);
    }
    const char *name;
    json_t *entry;
    json_object_foreach(files, name, entry) {
        code = code != 0 ? code : verify_file(directory, name, entry, error);
    }
    json_decref(root);
    memory_free(path);
    return code;
}

// ---- Saving
// ----------------------------------------------------------------------------------------------------------

static int write_trees(const char *directory, struct optimizer *optimizer, struct error *error) {
    struct param_tree_part masters = {"", &optimizer->masters}, average = {"", &optimizer->average};
    struct param_tree_part moments[] = {{"m.", &optimizer->m}, {"v.", &optimizer->v}};
    char *path = file_join(directory, "trainer/masters.safetensors", error);
    int code = path == NULL ? ERROR_MEMORY : param_tree_write(path, &masters, 1, error);
    memory_free(path);
    if (code == 0) {
        path = file_join(directory, "trainer/moments.safetensors", error);
        code = path == NULL ? ERROR_MEMORY : param_tree_write(path, moments, 2, error);
        memory_free(path);
    }
    if (code == 0 && optimizer->average.list.count > 0) {
        path = file_join(directory, "trainer/average.safetensors", error);
        code = path == NULL ? ERROR_MEMORY : param_tree_write(path, &average, 1, error);
        memory_free(path);
    }
    return code;
}

static int read_trees(const char *directory, struct optimizer *optimizer, struct error *error) {
    struct param_tree_part masters = {"", &optimizer->masters}, average = {"", &optimizer->average};
    struct param_tree_part moments[] = {{"m.", &optimizer->m}, {"v.", &optimizer->v}};
    char *path = file_join(directory, "trainer/masters.safetensors", error);
    int code = path == NULL ? ERROR_MEMORY : param_tree_read(&masters, 1, path, error);
    memory_free(path);
    if (code == 0) {
        path = file_join(directory, "trainer/moments.safetensors", error);
        code = path == NULL ? ERROR_MEMORY : param_tree_read(moments, 2, path, error);
        memory_free(path);
    }
    if (code == 0 && optimizer->average.list.count > 0) {
        path = file_join(directory, "trainer/average.safetensors", error);
        code = path == NULL ? ERROR_MEMORY : param_tree_read(&average, 1, path, error);
        memory_free(path);
    }
    return code;
}

// Everything of one checkpoint into `directory`, which is under a name that does not count yet.
static int write_all(const char *directory, const struct checkpoint_sources *sources, struct error *error) {
    static const enum format formats[] = {
        [EXPORT_BF16] = FORMAT_BF16, [EXPORT_F32] = FORMAT_F32, [EXPORT_FP8] = FORMAT_E4M3_BLOCK};
    const struct checkpoint_section *section = &sources->run->checkpoint;
    struct model_save_options options = {.format = formats[section->dtype],
                                         .shard_bytes = section->shard_size,
                                         .power_of_two = sources->config->fp8_power_of_two};
    char *trainer = file_join(directory, "trainer", error), *state = file_join(directory, STATE_FILE, error);
    int code = trainer == NULL || state == NULL ? ERROR_MEMORY : file_make_directory(trainer, error);
    if (code == 0) {
        code = model_save(directory, &sources->optimizer->masters.params, sources->config, &options, sources->op,
                          error);
    }
    if (code == 0) {
        code = tokenizer_files_copy(directory, sources->tokenizer, error);
    }
    if (code == 0) {
        code = write_trees(directory, sources->optimizer, error);
    }
    if (code == 0) {
        code = state_write(state, sources, error);
    }
    if (code == 0) {
        code = manifest_write(directory, error);
    }
    if (code == 0) {
        code = file_sync_directory(trainer, error);
    }
    if (code == 0) {
        code = file_sync_directory(directory, error);
    }
    memory_free(trainer);
    memory_free(state);
    return code;
}

// Makes `latest` a link to `name`, by renaming: it is never absent.
static int point_latest(const char *folder, const char *name, struct error *error) {
    char *link = memory_format(error, "%s/latest", folder),
         *temporary = memory_format(error, "%s/%slatest", folder, SAVING_PREFIX);
    int code = link == NULL || temporary == NULL ? ERROR_MEMORY : 0;
    if (code == 0) {
        unlink(temporary);
        code = symlink(name, temporary) != 0 ? error_set_errno(error, "%s: cannot create link", temporary)
                                             : file_rename(temporary, link, error);
    }
    memory_free(link);
    memory_free(temporary);
    return code;
}

int checkpoints_save(const char *out, const struct checkpoint_sources *sources, struct error *error) {
    char name[32];
    snprintf(name, sizeof name, STEP_PREFIX "%08lld", (long long)sources->state->step);
    char *folder = checkpoints_folder(out, error);
    char *saving = folder == NULL ? NULL : memory_format(error, "%s/%s%s", folder, SAVING_PREFIX, name);
    char *final = folder == NULL ? NULL : file_join(folder, name, error);
    int code = saving == NULL || final == NULL ? ERROR_MEMORY : file_make_directory(folder, error);
    if (code == 0 && file_exists(saving)) {
        code = file_remove_tree(saving, error);
    }
    if (code == 0) {
        code = file_make_directory(saving, error);
    }
    if (code == 0) {
        code = write_all(saving, sources, error);
        if (code == 0 && file_is_directory(final)) {
            code = retire(folder, name, error);
        }
        if (code == 0) {
            code = file_rename(saving, final, error);
        }
        if (code == 0) {
            code = file_sync_directory(out, error);   // which got the folder of the first checkpoint
        }
        if (code != 0 && file_is_directory(saving)) {
            struct error ignored = {0};
            file_remove_tree(saving, &ignored);
        }
    }
    if (code == 0) {
        code = point_latest(folder, name, error);
    }
    if (code == 0) {
        code = prune(folder, sources->run->checkpoint.keep, error);
    }
    memory_free(folder);
    memory_free(saving);
    memory_free(final);
    return code == 0 ? 0 : error_prefix(error, "checkpoint of step %lld", (long long)sources->state->step);
}

// ---- Loading
// ---------------------------------------------------------------------------------------------------------

static int set_aside(const char *folder, const char *name, struct error *error) {
    char *from = file_join(folder, name, error), *to = memory_format(error, "%s/%s%s", folder, DAMAGED_PREFIX, name);
    int code = from == NULL || to == NULL ? ERROR_MEMORY : 0;
    if (code == 0 && file_is_directory(to)) {
        code = file_remove_tree(to, error);
    }
    if (code == 0) {
        code = file_rename(from, to, error);
    }
    memory_free(from);
    memory_free(to);
    return code;
}

int checkpoints_load(bool *found, const char *out, const struct checkpoint_sources *sources, struct error *error) {
    char **names = NULL;
    int64_t count = 0;
    *found = false;
    char *folder = checkpoints_folder(out, error);
    int code = folder == NULL ? ERROR_MEMORY : 0;
    if (code == 0 && file_is_directory(folder)) {
        code = list_steps(&names, &count, folder, error);
    }
    for (int64_t i = count - 1; code == 0 && !*found && i >= 0; i--) {
        struct error damage = {0};
        char *directory = file_join(folder, names[i], error);
        char *state = directory == NULL ? NULL : file_join(directory, STATE_FILE, error);
        if (state == NULL) {
            code = ERROR_MEMORY;
        } else if (checkpoint_verify(directory, &damage) != 0) {
            log_warning("%s is damaged and is set aside: %s", directory, damage.text);
            code = damage.code == ERROR_MEMORY ? error_set(error, damage.code, "%s", damage.text)
                                               : set_aside(folder, names[i], error);
        } else {
            code = state_read(sources, state, error);
            code = code != 0 ? code : read_trees(directory, sources->optimizer, error);
            code = code != 0 ? code : point_latest(folder, names[i], error);
            *found = code == 0;
        }
        memory_free(directory);
        memory_free(state);
    }
    file_list_free(names, count);
    memory_free(folder);
    return code;
}
