// trainer/state.json and the tokenizer files of a checkpoint (private to checkpoints).
#ifndef MINKE_TRAIN_STATE_JSON_H
#define MINKE_TRAIN_STATE_JSON_H

#include "train/checkpoints.h"

int state_write(const char *path, const struct checkpoint_sources *sources, struct error *error);
// Fills state and the optimizer's count of updates. The fingerprints in *sources->state and the fixed keys of
// sources->run are what this run has: a difference is ERROR_ARGUMENT naming the key, what the checkpoint has and what
// the run has.
int state_read(const struct checkpoint_sources *sources, const char *path, struct error *error);

// Copies what makes a directory talk: tokenizer.json, tokenizer_config.json, special_tokens_map.json,
// chat_template.jinja, where they exist.
int tokenizer_files_copy(const char *to, const char *from, struct error *error);

#endif
