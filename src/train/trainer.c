// One step and the loop round it: see trainer.h.
#include "train/trainer.h"

#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"

#define WARM_STEPS 2   // steps with the largest micro-batch after which a step allocates nothing

// ---- A step ---------------------------------------------------------------------------------------------------------

static void fill_losses(struct step_metrics *metrics, const struct micro_batch_result *sums,
                        const struct trainer *trainer, int64_t sequences) {
    double targets = (double)sums->targets, mtp = 0;
    int64_t depths = trainer->config.num_nextn_predict_layers;
    metrics->main_loss = sums->main_loss / targets;
    for (int64_t k = 0; k < depths; k++) {
        metrics->mtp_loss[k] = sums->mtp_loss[k] / targets;
        mtp += metrics->mtp_loss[k] / (double)depths;
    }
    metrics->balance_loss = sums->balance_loss / (double)sequences;
    metrics->loss = metrics->main_loss + metrics->lambda * mtp + metrics->alpha * metrics->balance_loss;
}

// In FP8, gradients are this many times too large from the loss to the optimizer: the mean over a batch makes them so
// small that the floor of the tiles' scales (1e-4 / 448) would decide, more so the larger the batch. A power of two,
// which takes the division by the targets back and leaves 2^16 for what becomes of a token's gradient on its way;
// everything but the quantisers computes the same bits with it.
static double backward_scale(const struct trainer *trainer, int64_t sequences) {
    if (trainer->run.train.precision != PRECISION_FP8) {
        return 1;
    }
    int exponent;
    frexp((double)(sequences * trainer->run.train.sequence_length), &exponent);
    return ldexp(1, exponent - 1 + 16);
}

static struct loss_weights loss_weights(const struct step_metrics *metrics, const struct trainer *trainer) {
    int64_t depths = trainer->config.num_nextn_predict_layers,
            targets = metrics->batch * trainer->run.train.sequence_length;
    double scale = backward_scale(trainer, metrics->batch);
    return (struct loss_weights){
        .main_scale = (float)(scale / (double)targets),
        .mtp_scale = depths > 0 ? (float)(scale * metrics->lambda / (double)depths / (double)targets) : 0,
        .balance_scale = (float)(scale * metrics->alpha / (double)metrics->batch),
    };
}

// A step allocates nothing once every shape that it can meet has been met twice (arenas settle in the second round).
static bool is_warm(struct trainer *trainer, int64_t sequences) {
    int64_t shard = sequences / trainer->run.train.reduction_shards;
    int64_t micro = shard < trainer->run.train.micro_batch ? shard : trainer->run.train.micro_batch;
    if (micro > trainer->largest_micro) {
        trainer->largest_micro = micro;
        trainer->steps_at_it = 0;
    }
    return trainer->steps_at_it++ >= WARM_STEPS;
}

static void learn(struct trainer *trainer, const struct step_metrics *metrics) {
    struct optimizer *optimizer = &trainer->optimizer;
    optimizer_update(optimizer, &trainer->op, &trainer->gradient.buffers[0], &trainer->run.optimizer,
                     backward_scale(trainer, metrics->batch), metrics->learning_rate, metrics->gradient_norm);
    if (metrics->gamma > 0) {
        router_bias_update(optimizer, &trainer->config, trainer->gradient.expert_load, metrics->gamma);
    }
    trainer->state.skipped_in_a_row = 0;
}

static int skip(struct trainer *trainer, const struct step_metrics *metrics, struct error *error) {
    struct train_state *state = &trainer->state;
    state->skipped++;
    state->skipped_in_a_row++;
    log_warning("step %lld skipped: loss %g, gradient norm %g", (long long)metrics->step, metrics->loss,
                metrics->gradient_norm);
    if (state->skipped_in_a_row < trainer->run.train.skip_limit) {
        return 0;
    }
    return error_set(
        error, ERROR_NUMERIC,
        "loss or gradient was not finite in %lld steps in a row, the last is step %lld; the newest checkpoint in %s is "
        "from before (a lower schedule.learning_rate or another data.seed may help)",
        (long long)state->skipped_in_a_row, (long long)metrics->step, trainer->run.train.out);
}

int trainer_step(struct trainer *trainer, struct step_metrics *metrics, struct error *error) {
    const struct run_config *run = &trainer->run;
    struct train_state *state = &trainer->state;
    int64_t sequences = schedule_batch(run, (struct schedule_position){state->step, state->tokens});
    struct schedule_position after = {state->step + 1, state->tokens + sequences * run->train.sequence_length};
    double began = clock_seconds();
    *metrics = (struct step_metrics){
        .step = after.step,
        .tokens = after.tokens,
        .batch = sequences,
        .learning_rate = schedule_learning_rate(&run->schedule, after),
        .lambda = schedule_lambda(&run->schedule, after),
        .gamma = schedule_gamma(&run->schedule, after),
        .alpha = run->schedule.alpha,
        .expert_load = trainer->gradient.expert_load,
    };
    bool warm = is_warm(trainer, sequences);
    memory_guard(warm);
    struct loss_weights weights = loss_weights(metrics, trainer);
    struct micro_batch_result sums;
    batch_gradient_compute(&trainer->gradient, &sums, &trainer->op, sequences, &weights);
    if (trainer->gradient_hook != NULL) {
        trainer->gradient_hook(trainer->hook_argument, trainer, &trainer->gradient.buffers[0]);
    }
    metrics->gradient_norm = gradient_norm(&trainer->op, &trainer->gradient.buffers[0]) /
                             backward_scale(trainer, sequences);
    fill_losses(metrics, &sums, trainer, sequences);
    metrics->skipped = !isfinite(metrics->loss) || !isfinite(metrics->gradient_norm);
    metrics->clipped = !metrics->skipped && run->optimizer.clip > 0 && metrics->gradient_norm > run->optimizer.clip;
    metrics->max_violation = load_violation_mean(metrics->expert_load, moe_layer_count(&trainer->config),
                                                 trainer->config.n_routed_experts);
    if (!metrics->skipped) {
        learn(trainer, metrics);
    }
    state->step = after.step;
    state->tokens = after.tokens;
    state->cursor = loader_cursor(trainer->loader);
    memory_guard(false);
    metrics->seconds = clock_seconds() - began;
    metrics->tokens_per_second = (double)(sequences * run->train.sequence_length) / metrics->seconds;
    return metrics->skipped ? skip(trainer, metrics, error) : 0;
}

// ---- Validation and checkpoints
// --------------------------------------------------------------------------------------

int trainer_validate(struct trainer *trainer, struct validation_result *result, int64_t sequences,
                     struct error *error) {
    struct optimizer *optimizer = &trainer->optimizer;
    *result = (struct validation_result){.average_loss = NAN};
    int code = validation_run(&trainer->validation, result, &trainer->op, &trainer->model, trainer->slot, sequences,
                              error);
    if (code == 0 && optimizer->average.list.count > 0) {
        struct validation_result average;
        trainer->model.params = optimizer_average_weights(optimizer, &trainer->op);
        code = validation_run(&trainer->validation, &average, &trainer->op, &trainer->model, trainer->slot, sequences,
                              error);
        trainer->model.params = optimizer_weights(optimizer, &trainer->op);
        result->average_loss = average.loss;
    }
    return code;
}

int trainer_save(struct trainer *trainer, struct error *error) {
    const struct run_config *run = &trainer->run;
    const struct checkpoint_sources sources = {
        .state = &trainer->state,
        .optimizer = &trainer->optimizer,
        .config = &trainer->config,
        .run = run,
        .tokenizer = run->model.tokenizer[0] != '\0' ? run->model.tokenizer : run->data.path,
        .op = &trainer->op,
    };
    int code = metrics_sync(&trainer->metrics, error);
    return code == 0 ? checkpoints_save(run->train.out, &sources, error) : code;
}

// ---- The loop
// --------------------------------------------------------------------------------------------------------

// What the plan said, and what was taken: the heap's high-water mark above what lived before the run was set up.
static void report_memory(const struct trainer *trainer) {
    char text[4][32];
    int64_t measured = memory_statistics_get().peak_bytes - trainer->memory_before;
    log_info("memory after the first step: heap %s of %s planned (activations %s, workspace %s)",
             text_bytes(text[0], measured), text_bytes(text[1], trainer->plan.total),
             text_bytes(text[2], model_slot_bytes(trainer->slot)), text_bytes(text[3], trainer->scratch.peak));
}

// The process's peak beside what it held before the run was set up and the plan.
static void report_process(const struct trainer *trainer) {
    char text[3][32];
    log_info("memory of the process: %s at most, of %s planned and %s before (program, tokenizer, data)",
             text_bytes(text[0], memory_resident_peak()), text_bytes(text[1], trainer->plan.total),
             text_bytes(text[2], trainer->resident_before));
}

// Steps or tokens of the whole run, whichever measures it.
static int64_t amount_done(const struct trainer *trainer) {
    return trainer->run.train.steps > 0 ? trainer->state.step : trainer->state.tokens;
}

static void show_progress(struct trainer *trainer, struct progress *progress, const struct step_metrics *metrics,
                          int64_t from) {
    char rate[32];
    progress_note(progress, "step %lld, %s tokens/s, loss %.4f, lr %.3g, norm %.3g, MaxVio %.3f",
                  (long long)metrics->step, text_count(rate, metrics->tokens_per_second), metrics->main_loss,
                  metrics->learning_rate, metrics->gradient_norm, metrics->max_violation);
    progress_update(progress, amount_done(trainer) - from);
    if (trainer->last_gamma > 0 && metrics->gamma == 0) {
        log_info("gamma is 0 from step %lld on: router biases stay as they are", (long long)metrics->step);
    }
    trainer->last_gamma = metrics->gamma;
}

static bool due(int64_t every, int64_t step) {
    return every > 0 && step % every == 0;
}

// What belongs to a step besides the step: validation, its line of metrics, a checkpoint.
static int record(struct trainer *trainer, struct step_metrics *metrics, bool last, bool stopping,
                  struct error *error) {
    const struct run_config *run = &trainer->run;
    int code = 0;
    if (trainer->has_validation && !metrics->skipped && (last || due(run->validation.every, metrics->step))) {
        struct validation_result *result = &metrics->validation;
        code = trainer_validate(trainer, result, last ? 0 : run->validation.sequences, error);
        metrics->validated = code == 0;
        if (code == 0) {
            log_info("step %lld: validation loss %.4f, %.4f bits per byte%s", (long long)metrics->step, result->loss,
                     result->bits_per_byte, last || run->validation.sequences == 0 ? "" : " (part of the split)");
        }
    }
    if (code == 0) {
        code = metrics_write(&trainer->metrics, metrics, &trainer->optimizer.masters, error);
    }
    if (code == 0 && (last || stopping || due(run->checkpoint.every, metrics->step))) {
        code = trainer_save(trainer, error);
    }
    return code;
}

int trainer_run(struct trainer *trainer, bool *finished, const volatile sig_atomic_t *stop, struct error *error) {
    const struct train_section *train = &trainer->run.train;
    const struct train_state *state = &trainer->state;
    int64_t from = amount_done(trainer), whole = train->steps > 0 ? train->steps : train->tokens;
    int64_t first = state->step;
    struct progress progress;
    int code = 0;
    bool stopping = false;
    *finished = schedule_ended(train, (struct schedule_position){state->step, state->tokens});
    if (*finished) {
        log_info("%s: the run is complete (step %lld)", train->out, (long long)state->step);
        return 0;
    }
    progress_begin(&progress, "train", train->steps > 0 ? "steps" : "tokens", whole - from);
    while (code == 0 && !*finished && !stopping) {
        struct step_metrics metrics;
        struct error stepped = {0};
        int step_code = trainer_step(trainer, &metrics, &stepped);
        *finished = schedule_ended(train, (struct schedule_position){state->step, state->tokens});
        stopping = stop != NULL && *stop != 0;
        show_progress(trainer, &progress, &metrics, from);
        if (state->step == first + 1) {
            report_memory(trainer);
        }
        if (step_code != 0) {
            // The line of metrics shows what happened; the checkpoint from before stays the newest.
            metrics_write(&trainer->metrics, &metrics, &trainer->optimizer.masters, NULL);
            code = error_set(error, step_code, "%s", stepped.text);
        } else {
            code = record(trainer, &metrics, *finished, stopping, error);
        }
    }
    *finished = *finished && code == 0;
    progress_end(&progress);
    report_process(trainer);
    return code;
}
