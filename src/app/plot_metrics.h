// RUN_DIR/metrics.jsonl -> columns of numbers for the pictures (train/metrics.h says what a line holds). Lenient: what
// a line lacks is NAN, keys that are not known are passed over, a torn last line is ignored.
#ifndef MINKE_APP_PLOT_METRICS_H
#define MINKE_APP_PLOT_METRICS_H

#include <stdint.h>

#include "base/error.h"

enum plot_column {
    PLOT_STEP,
    PLOT_TOKENS,
    PLOT_SPEED,
    PLOT_LOSS,
    PLOT_MAIN_LOSS,
    PLOT_MTP_LOSS,   // mean over depths
    PLOT_BALANCE_LOSS,
    PLOT_LEARNING_RATE,
    PLOT_GRADIENT_NORM,
    PLOT_MAX_VIOLATION,
    PLOT_BIAS_LOW,   // over all layers
    PLOT_BIAS_HIGH,
    PLOT_VALIDATION_LOSS,
    PLOT_BITS_PER_BYTE,
    PLOT_COLUMNS
};

struct plot_run {
    char *name;       // last part of the folder's name
    double *values;   // [count, PLOT_COLUMNS]
    int64_t count;
    int64_t layers, experts;   // of the loads; 0 = the run has none
    float *loads;              // [count, layers, experts]; zeros where a line had none
    double *shares;            // [experts], room to work
};

int plot_run_read(struct plot_run *run, const char *directory, struct error *error);
void plot_run_free(struct plot_run *run);

static inline double plot_value(const struct plot_run *run, int64_t row, enum plot_column column) {
    return run->values[row * PLOT_COLUMNS + column];
}
// The last value of a column that is a number, NAN without one.
double plot_last(const struct plot_run *run, enum plot_column column);

#endif
