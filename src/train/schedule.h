// What changes during a run, as functions of how far it has come (spec 8.2).
//
//    learning rate   linear from 0 over `warmup`; learning_rate until decay_start (s); until decay_end (e) the cosine
//                    low + (high - low) / 2 * (1 + cos(pi * (x - s) / (e - s))); then decay_learning_rate; from
//                    tail_start tail_learning_rate. The warm-up multiplies whatever the rest gives.
//    batch           linear in x from batch_start to train.batch over batch_ramp (U12), cut down to a multiple of
//                    reduction_shards
//    gamma           gamma until gamma_end, then 0
//    lambda          lambda until lambda_switch, then lambda_late
//
// A step stands at the end of its batch: its position counts its own tokens and itself. So the first step already
// learns (learning_rate / warm-up steps), step 2K of a warm-up of 2K steps has the full rate, and the step that ends
// exactly on a milestone belongs to the interval before it. The batch alone depends on the position before the step.
#ifndef MINKE_TRAIN_SCHEDULE_H
#define MINKE_TRAIN_SCHEDULE_H

#include "train/run_config.h"

struct schedule_position {
    int64_t step, tokens;   // steps done, tokens consumed
};

double schedule_learning_rate(const struct schedule_section *schedule, struct schedule_position position);
int64_t schedule_batch(const struct run_config *config, struct schedule_position before);   // sequences
double schedule_gamma(const struct schedule_section *schedule, struct schedule_position position);
double schedule_lambda(const struct schedule_section *schedule, struct schedule_position position);
// Whether the run is over, and which part of it is done (0 to 1).
bool schedule_ended(const struct train_section *train, struct schedule_position position);
double schedule_fraction(const struct train_section *train, struct schedule_position position);

#endif
