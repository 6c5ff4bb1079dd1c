// Losses of runs against each other: see plot_compare.h.
#include "app/plot_compare.h"

#include <inttypes.h>
#include <math.h>

// Moves both rows to the next step that both runs have with a loss; NAN when there is none.
static double next_difference(const struct plot_run *run, int64_t *row, const struct plot_run *first,
                              int64_t *first_row) {
    while (*row < run->count && *first_row < first->count) {
        double step = plot_value(run, *row, PLOT_STEP), other = plot_value(first, *first_row, PLOT_STEP);
        double loss = plot_value(run, *row, PLOT_MAIN_LOSS), base = plot_value(first, *first_row, PLOT_MAIN_LOSS);
        if (step == other && isfinite(loss) && isfinite(base) && base > 0) {
            return (loss - base) / base;
        }
        *row += !(step > other);
        *first_row += !(other > step);
    }
    return NAN;
}

static double validation_difference(const struct plot_run *run, const struct plot_run *first) {
    double found = NAN;
    for (int64_t row = 0, other = 0; row < run->count && other < first->count;) {
        double step = plot_value(run, row, PLOT_STEP), base_step = plot_value(first, other, PLOT_STEP);
        double loss = plot_value(run, row, PLOT_VALIDATION_LOSS);
        double base = plot_value(first, other, PLOT_VALIDATION_LOSS);
        if (step == base_step && isfinite(loss) && isfinite(base) && base > 0) {
            found = (loss - base) / base;
        }
        row += !(step > base_step);
        other += !(base_step > step);
    }
    return found;
}

struct plot_comparison plot_compare(const struct plot_run *run, const struct plot_run *first) {
    struct plot_comparison result = {.validation = validation_difference(run, first)};
    int64_t common = 0, index = 0;
    for (int64_t row = 0, other = 0; isfinite(next_difference(run, &row, first, &other)); row++, other++) {
        common++;
    }
    double sum = 0, magnitudes = 0, squares = 0, difference;
    for (int64_t row = 0, other = 0; isfinite(difference = next_difference(run, &row, first, &other)); row++, other++) {
        if (index++ < common / 2) {
            continue;
        }
        int64_t step = (int64_t)plot_value(run, row, PLOT_STEP);
        result.first_step = result.steps == 0 ? step : result.first_step;
        result.last_step = step;
        result.steps++;
        sum += difference;
        magnitudes += fabs(difference);
        squares += difference * difference;
        result.largest = fabs(difference) > result.largest ? fabs(difference) : result.largest;
    }
    if (result.steps > 0) {
        double count = (double)result.steps, variance = squares / count - sum / count * (sum / count);
        result.mean = sum / count;
        result.magnitude = magnitudes / count;
        result.deviation = sqrt(variance > 0 ? variance : 0);
    }
    return result;
}

void plot_compare_print(FILE *out, const struct plot_run *run, const struct plot_run *first) {
    struct plot_comparison found = plot_compare(run, first);
    if (found.steps == 0) {
        fprintf(out, "%s against %s: no step in common\n", run->name, first->name);
        return;
    }
    fprintf(out,
            "%s against %s, steps %" PRId64 " to %" PRId64
            ": training loss %+.4f %% (mean; of one step %.4f %%, deviation %.4f, largest %.4f)",
            run->name, first->name, found.first_step, found.last_step, 100 * found.mean, 100 * found.magnitude,
            100 * found.deviation, 100 * found.largest);
    if (isfinite(found.validation)) {
        fprintf(out, ", last validation %+.4f %%", 100 * found.validation);
    }
    fputc('\n', out);
}

bool plot_differences_next(struct plot_differences *differences, int64_t *row, double *value) {
    double difference = next_difference(differences->run, &differences->row, differences->first,
                                        &differences->first_row);
    if (!isfinite(difference)) {
        return false;
    }
    // Divided by the weights so far, the mean does not start from 0.
    differences->smooth = PLOT_COMPARE_EMA * differences->smooth + (1 - PLOT_COMPARE_EMA) * difference;
    differences->weight = PLOT_COMPARE_EMA * differences->weight + (1 - PLOT_COMPARE_EMA);
    *row = differences->row++;
    differences->first_row++;
    *value = 100 * differences->smooth / differences->weight;
    return true;
}
