// What the commands that run a model share: opening it with the common options, and reading lists of ids.
#ifndef MINKE_APP_MODEL_FILES_H
#define MINKE_APP_MODEL_FILES_H

#include <stdint.h>

#include "app/options.h"
#include "minke.h"

// Opens a model directory with --threads, --isa and --compute. Returns 0, or 1 after reporting the error.
int app_open_model(struct minke_model **model, const char *directory, const struct common_options *common, const char *compute);

// Ids separated by commas, spaces or line ends; a JSON array works too. *ids is the caller's (memory_free). `name` is for messages.
int app_parse_ids(int32_t **ids, int64_t *count, const char *text, const char *name, struct error *error);

#endif
