// What a training run needs in memory, by kind, before anything of it is allocated.
//
// The sizes are not formulas beside the code but the code itself: the optimizer and the gradients are created in an
// arena that only counts, and a micro-batch goes forward and backward, and through validation, with a pool that runs
// nothing. What the layers take for saved activations, and the ops for workspace, is then known to the byte, except
// that the experts' loads are taken as even.
#ifndef MINKE_TRAIN_MEMORY_PLAN_H
#define MINKE_TRAIN_MEMORY_PLAN_H

#include "train/run_config.h"

struct model_config;

struct memory_plan {   // bytes
    int64_t weights;   // that the model computes with; 0 in FP32 training, which uses the masters
    int64_t masters, moments, average, gradients;
    int64_t state;         // all of these with the tables that describe them: the run's arena
    int64_t saved;         // activations at the end of forward
    int64_t activations;   // most that the slot of a micro-batch holds, in backward
    int64_t workspace;     // of ops and between layers
    int64_t saving;        // of a checkpoint: buffers, names, and the largest tensor in the format of the export
    int64_t total;         // state + activations + workspace + saving
};

// `run` has been through run_config_finish; its model.config is not read.
int memory_plan_make(struct memory_plan *plan, const struct run_config *run, const struct model_config *config,
                     struct error *error);
// "weights 51.2 MiB, masters ..." for people.
#define MEMORY_PLAN_TEXT 320
char *memory_plan_text(char text[MEMORY_PLAN_TEXT], const struct memory_plan *plan);

#endif
