// A training run: everything `minke train` owns, one step, and the loop round it (report 4; docs/training.md).
//
//    trainer_create   configuration, model, data; fresh weights, those of another model, or the newest whole checkpoint
//    trainer_step     one global batch: gradient, optimizer, router biases; no heap allocation once the largest
//                     micro-batch has been met twice
//    trainer_run      steps with metrics, validation and checkpoints until the run ends or is asked to stop
#ifndef MINKE_TRAIN_TRAINER_H
#define MINKE_TRAIN_TRAINER_H

#include <signal.h>

#include "data/token_split.h"
#include "train/checkpoints.h"
#include "train/memory_plan.h"
#include "train/metrics.h"
#include "train/schedule.h"
#include "train/step.h"
#include "train/validation.h"

struct trainer {
    struct run_config run;
    struct model_config config;
    struct arena arena, scratch;   // run lifetime; workspace of ops
    struct pool *pool;
    struct op_context op;
    struct dataset *dataset;
    struct loader *loader;
    struct token_split split;
    struct validation validation;
    bool has_validation;
    struct optimizer optimizer;
    struct train_state state;
    struct model model;
    struct model_slot *slot;
    struct batch_gradient gradient;
    struct metrics_file metrics;
    struct memory_plan plan;              // all of it reserved when the run is set up
    int64_t memory_before;                // live bytes of the heap before: data, tokenizer, pool
    int64_t resident_before;              // what the process had in memory then: the program, too
    int lock;                             // descriptor of OUT/lock, held while the run lasts
    int64_t largest_micro, steps_at_it;   // sequences of the largest micro-batch so far, steps done since
    double last_gamma;                    // to say it when it becomes 0
    // For tests: called between the gradient and its norm; may change the gradients.
    void (*gradient_hook)(void *argument, struct trainer *trainer, struct param_tree *gradients);
    void *hook_argument;
};

// `run` has been through run_config_finish. resume: go on from the newest whole checkpoint in train.out (from the start
// when there is none); otherwise a folder that already holds a run is refused.
int trainer_create(struct trainer **trainer, const struct run_config *run, bool resume, struct error *error);
void trainer_destroy(struct trainer *trainer);   // NULL is fine

// One step. *metrics is filled but for the validation and points into the trainer. A step whose loss or gradient norm
// is not finite is skipped: its data is consumed and nothing learned. ERROR_NUMERIC after train.skip_limit of them in a
// row.
int trainer_step(struct trainer *trainer, struct step_metrics *metrics, struct error *error);
int trainer_validate(struct trainer *trainer, struct validation_result *result, int64_t sequences, struct error *error);
int trainer_save(struct trainer *trainer, struct error *error);
// *finished: the run's last step is done. When *stop (may be NULL) becomes non-zero the step at hand is finished, a
// checkpoint written and 0 returned.
int trainer_run(struct trainer *trainer, bool *finished, const volatile sig_atomic_t *stop, struct error *error);

#endif
