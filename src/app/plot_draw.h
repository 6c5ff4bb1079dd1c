// The gnuplot script of `minke plot`: runs in -> a script on a stream. One picture of panels, two side by side:
//
//   loss (each point, and a moving mean)          validation bits per byte
//   learning rate                                 gradient norm
//   MaxVio: (max load - mean load) / mean load    range of the router biases
//   load of each expert of each layer at the end  the same over time, of the layer that was least balanced
//
// Several runs share the panels, one colour each; the last rows then show how far each loss is from the first run's,
// and the load of each run at the end.
#ifndef MINKE_APP_PLOT_DRAW_H
#define MINKE_APP_PLOT_DRAW_H

#include <stdio.h>

#include "app/plot_metrics.h"

#define PLOT_RUNS_MAXIMUM 6   // as many colours are there

struct plot_picture {
    const char *terminal;   // "png" or "svg"
    const char *output;     // file that gnuplot writes
    const struct plot_run *runs;
    int run_count;
};

void plot_draw(FILE *script, const struct plot_picture *picture);

#endif
