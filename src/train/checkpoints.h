// Checkpoints of a run on disk.
//
//    OUT/checkpoints/step-00000100/    a complete Hugging Face directory: config.json, generation_config.json,
//                                      tokenizer files, model*.safetensors
//      trainer/masters.safetensors     F32, all parameters under their checkpoint names
//      trainer/moments.safetensors     "m.<name>" and "v.<name>", BF16 or F32
//      trainer/average.safetensors     F32; only with optimizer.ema_decay
//      trainer/state.json              struct train_state, and the fixed keys of the run
//      trainer/manifest.json           {"format": 1, "files": {"<path>": {"bytes": n, "xxh3": "<16 hex digits>"}}} of
//                                      every other file
//    OUT/checkpoints/latest            symbolic link to the newest
//
// Bytes are a function of the training state alone: no dates, no paths, no thread counts. A checkpoint is written into
// saving-step-NNNNNNNN, every file and folder fsynced, and renamed; one that goes is renamed to removing-step-NNNNNNNN
// and then deleted. So whatever stands under a step- name was complete once, and a name with another prefix is rubbish
// of a run that was killed. One found damaged by --resume is set aside as damaged-step-NNNNNNNN.
#ifndef MINKE_TRAIN_CHECKPOINTS_H
#define MINKE_TRAIN_CHECKPOINTS_H

#include "data/loader.h"
#include "train/optimizer.h"

#define TRAIN_STATE_FORMAT 1

struct train_state {
    int64_t step, tokens;   // steps done, tokens consumed (skipped steps among them)
    int64_t skipped, skipped_in_a_row;
    struct loader_cursor cursor;
    uint64_t model_fingerprint;   // XXH3 of the run's config.json
    uint64_t data_fingerprint;    // XXH3 of the data folder's dataset.json
};

struct checkpoint_sources {   // what a save reads; a load fills state and optimizer
    struct train_state *state;
    struct optimizer *optimizer;
    const struct model_config *config;
    const struct run_config *run;
    const char *tokenizer;   // directory with the tokenizer files
    struct op_context *op;
};

// Writes OUT/checkpoints/step-<state.step>, points `latest` at it and removes all but the newest run.checkpoint.keep.
// On failure nothing of the new checkpoint remains and the old ones are as they were.
int checkpoints_save(const char *out, const struct checkpoint_sources *sources, struct error *error);

// Loads the newest checkpoint that is whole: every file of its manifest there, of its size, with its checksum. Others
// are reported as warnings and set aside. *found is false when there is none. A whole checkpoint of another run (model,
// data, a fixed key) is an error that names the key.
int checkpoints_load(bool *found, const char *out, const struct checkpoint_sources *sources, struct error *error);

// Removes what a killed run left: folders being written or removed.
int checkpoints_clean(const char *out, struct error *error);
// Whether OUT has any checkpoint (whole or not).
bool checkpoints_exist(const char *out);

// Checks one checkpoint directory against its manifest.
int checkpoint_verify(const char *directory, struct error *error);

#endif
