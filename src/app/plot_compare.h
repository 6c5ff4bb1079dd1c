// How far the losses of runs with the same data lie apart: each run against the first, step by step.
#ifndef MINKE_APP_PLOT_COMPARE_H
#define MINKE_APP_PLOT_COMPARE_H

#include <stdbool.h>
#include <stdio.h>

#include "app/plot_metrics.h"

#define PLOT_COMPARE_EMA 0.9   // of the curve in the picture, as in the report; figures are not smoothed

// (loss - loss of first) / loss of first at the steps that both have, over the second half of those.
struct plot_comparison {
    int64_t steps, first_step, last_step;   // of the second half; 0 steps: nothing in common
    double mean, magnitude, largest;        // signed mean, mean and largest magnitude
    double deviation;                       // standard deviation of one step's
    double validation;                      // the same of the last validation that both have; NAN without one
};
struct plot_comparison plot_compare(const struct plot_run *run, const struct plot_run *first);
// A line for people.
void plot_compare_print(FILE *out, const struct plot_run *run, const struct plot_run *first);

// One point a common step, in order: row of `run`, and the smoothed difference in per cent. Returns false at the end.
struct plot_differences {
    const struct plot_run *run, *first;
    int64_t row, first_row;   // the next to look at
    double smooth, weight;
};
bool plot_differences_next(struct plot_differences *differences, int64_t *row, double *value);

#endif
