// Schedules in closed form, in double precision with our own cosine: the same bits on every machine.
#include "train/schedule.h"

#include "base/math.h"

#define PI 3.14159265358979323846

// How far `position` is in the unit of `duration`.
static double coordinate(const struct duration *duration, struct schedule_position position) {
    return (double)(duration->unit == DURATION_STEPS ? position.step : position.tokens);
}

// Whether a milestone lies behind: "until" includes the milestone itself.
static bool passed(const struct duration *duration, struct schedule_position position) {
    return duration->unit != DURATION_NEVER && coordinate(duration, position) > (double)duration->count;
}

// The part of a duration that is over, 0 to 1.
static double part_done(const struct duration *duration, struct schedule_position position) {
    double x = coordinate(duration, position), whole = (double)duration->count;
    return duration->unit == DURATION_NEVER || x >= whole ? 1 : x / whole;
}

double schedule_learning_rate(const struct schedule_section *schedule, struct schedule_position position) {
    double rate = schedule->learning_rate;
    if (passed(&schedule->tail_start, position)) {
        rate = schedule->tail_learning_rate;
    } else if (schedule->decay_start.unit != DURATION_NEVER && passed(&schedule->decay_end, position)) {
        rate = schedule->decay_learning_rate;
    } else if (passed(&schedule->decay_start, position)) {
        double start = (double)schedule->decay_start.count, end = (double)schedule->decay_end.count;
        double sine, cosine, low = schedule->decay_learning_rate;
        math_sincos(PI * (coordinate(&schedule->decay_start, position) - start) / (end - start), &sine, &cosine);
        rate = low + 0.5 * (schedule->learning_rate - low) * (1 + cosine);
    }
    return rate * part_done(&schedule->warmup, position);
}

int64_t schedule_batch(const struct run_config *config, struct schedule_position before) {
    int64_t start = config->schedule.batch_start, end = config->train.batch, shards = config->train.reduction_shards;
    if (start == 0) {
        return end;
    }
    double batch = (double)start + (double)(end - start) * part_done(&config->schedule.batch_ramp, before);
    return (int64_t)(batch / (double)shards) * shards;
}

double schedule_gamma(const struct schedule_section *schedule, struct schedule_position position) {
    return passed(&schedule->gamma_end, position) ? 0 : schedule->gamma;
}

double schedule_lambda(const struct schedule_section *schedule, struct schedule_position position) {
    return passed(&schedule->lambda_switch, position) ? schedule->lambda_late : schedule->lambda;
}

bool schedule_ended(const struct train_section *train, struct schedule_position position) {
    return train->steps > 0 ? position.step >= train->steps : position.tokens >= train->tokens;
}

double schedule_fraction(const struct train_section *train, struct schedule_position position) {
    double part = train->steps > 0 ? (double)position.step / (double)train->steps
                                   : (double)position.tokens / (double)train->tokens;
    return part < 1 ? part : 1;
}
