// Reading metrics.jsonl for `minke plot` (plot_metrics.h).
#include "app/plot_metrics.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

#define METRICS_LIMIT ((int64_t)8 << 30)   // bytes of one metrics.jsonl
#define LOAD_LIMIT 65536                   // layers or experts

static const char *const column_keys[PLOT_COLUMNS] = {
    [PLOT_STEP] = "step",
    [PLOT_TOKENS] = "tokens",
    [PLOT_SPEED] = "tokens_per_second",
    [PLOT_LOSS] = "loss",
    [PLOT_MAIN_LOSS] = "main_loss",
    [PLOT_MTP_LOSS] = "mtp_loss",
    [PLOT_BALANCE_LOSS] = "balance_loss",
    [PLOT_LEARNING_RATE] = "learning_rate",
    [PLOT_GRADIENT_NORM] = "gradient_norm",
    [PLOT_MAX_VIOLATION] = "max_violation",
    [PLOT_BIAS_LOW] = "bias_min",
    [PLOT_BIAS_HIGH] = "bias_max",
    [PLOT_VALIDATION_LOSS] = "validation_loss",
    [PLOT_BITS_PER_BYTE] = "validation_bits_per_byte",
};

static double number_of(const json_t *value) {
    return json_is_number(value) ? json_number_value(value) : NAN;
}

// A number, or the mean of an array of numbers.
static double mean_of(const json_t *value) {
    if (!json_is_array(value) || json_array_size(value) == 0) {
        return number_of(value);
    }
    double sum = 0;
    for (size_t i = 0; i < json_array_size(value); i++) {
        sum += number_of(json_array_get(value, i));
    }
    return sum / (double)json_array_size(value);
}

// [[min, max], ...] per layer -> the least and the greatest.
static void read_bias_range(double *values, const json_t *range) {
    for (size_t i = 0; i < json_array_size(range); i++) {
        const json_t *pair = json_array_get(range, i);
        double low = number_of(json_array_get(pair, 0)), high = number_of(json_array_get(pair, 1));
        values[PLOT_BIAS_LOW] = !(values[PLOT_BIAS_LOW] <= low) ? low : values[PLOT_BIAS_LOW];
        values[PLOT_BIAS_HIGH] = !(values[PLOT_BIAS_HIGH] >= high) ? high : values[PLOT_BIAS_HIGH];
    }
}

static void read_loads(const struct plot_run *run, float *loads, const json_t *layers) {
    if ((int64_t)json_array_size(layers) != run->layers) {
        return;
    }
    for (int64_t layer = 0; layer < run->layers; layer++) {
        const json_t *counts = json_array_get(layers, (size_t)layer);
        for (int64_t e = 0; (int64_t)json_array_size(counts) == run->experts && e < run->experts; e++) {
            double count = number_of(json_array_get(counts, (size_t)e));
            loads[layer * run->experts + e] = count > 0 ? (float)count : 0.0f;
        }
    }
}

struct capacity {
    int64_t rows, load_rows;
};

static int reserve_row(struct plot_run *run, struct capacity *capacity, const json_t *line, struct error *error) {
    if (run->count == capacity->rows) {
        int64_t rows = 2 * capacity->rows + 256;
        double *values = memory_resize(run->values, (size_t)rows, PLOT_COLUMNS * sizeof *values, "metrics", error);
        if (values == NULL) {
            return ERROR_MEMORY;
        }
        run->values = values;
        capacity->rows = rows;
    }
    const json_t *layers = json_object_get(line, "expert_load");
    if (run->layers == 0 && json_array_size(layers) > 0 && json_array_size(layers) < LOAD_LIMIT) {
        size_t experts = json_array_size(json_array_get(layers, 0));
        if (experts > 0 && experts < LOAD_LIMIT) {
            run->layers = (int64_t)json_array_size(layers);
            run->experts = (int64_t)experts;
            run->shares = memory_allocate(experts, sizeof *run->shares, "metrics", error);
            if (run->shares == NULL) {
                return ERROR_MEMORY;
            }
        }
    }
    int64_t width = run->layers * run->experts;
    if (width > 0 && capacity->load_rows < capacity->rows) {
        float *loads = memory_resize(run->loads, (size_t)capacity->rows, (size_t)width * sizeof *loads, "metrics",
                                     error);
        if (loads == NULL) {
            return ERROR_MEMORY;
        }
        memset(loads + capacity->load_rows * width, 0,
               (size_t)((capacity->rows - capacity->load_rows) * width) * sizeof *loads);
        run->loads = loads;
        capacity->load_rows = capacity->rows;
    }
    return 0;
}

static int read_line(struct plot_run *run, struct capacity *capacity, const json_t *line, struct error *error) {
    int code = reserve_row(run, capacity, line, error);
    if (code != 0) {
        return code;
    }
    double *values = run->values + run->count * PLOT_COLUMNS;
    for (int column = 0; column < PLOT_COLUMNS; column++) {
        values[column] = mean_of(json_object_get(line, column_keys[column]));
    }
    values[PLOT_STEP] = isnan(values[PLOT_STEP]) ? (double)run->count + 1 : values[PLOT_STEP];
    values[PLOT_MAIN_LOSS] = isnan(values[PLOT_MAIN_LOSS]) ? values[PLOT_LOSS] : values[PLOT_MAIN_LOSS];
    read_bias_range(values, json_object_get(line, "bias_range"));
    if (run->loads != NULL) {
        read_loads(run, run->loads + run->count * run->layers * run->experts, json_object_get(line, "expert_load"));
    }
    run->count++;
    return 0;
}

static int read_lines(struct plot_run *run, const char *text, int64_t size, const char *path, struct error *error) {
    struct capacity capacity = {0};
    int code = 0;
    int64_t number = 1;
    for (const char *at = text, *end = text + size; at < end && code == 0; number++) {
        const char *line_end = memchr(at, '\n', (size_t)(end - at));
        size_t length = line_end != NULL ? (size_t)(line_end - at) : (size_t)(end - at);
        json_t *line;
        struct error reason = {0};
        code = strspn(at, " \t\r") >= length ? 0 : json_parse_line(&line, at, length, path, number, &reason);
        if (code == 0 && strspn(at, " \t\r") < length) {
            code = read_line(run, &capacity, line, error);
            json_decref(line);
        } else if (code == ERROR_FORMAT && line_end == NULL) {
            code = 0;   // the trainer was stopped in the middle of it, or is writing it now
        } else if (code != 0) {
            error_set(error, code, "%s", reason.text);
        }
        at += length + 1;
    }
    if (code == 0 && run->count == 0) {
        code = error_set(error, ERROR_FORMAT, "%s: no lines; the run has not finished a step", path);
    }
    return code;
}

static int name_of(char **name, const char *directory, struct error *error) {
    size_t end = strlen(directory);
    while (end > 1 && directory[end - 1] == '/') {
        end--;
    }
    size_t begin = end;
    while (begin > 0 && directory[begin - 1] != '/') {
        begin--;
    }
    *name = memory_format(error, "%.*s", (int)(end - begin), directory + begin);
    return *name == NULL ? ERROR_MEMORY : 0;
}

int plot_run_read(struct plot_run *run, const char *directory, struct error *error) {
    *run = (struct plot_run){0};
    char *path = file_join(directory, "metrics.jsonl", error), *text = NULL;
    int64_t size;
    int code = path == NULL ? ERROR_MEMORY : name_of(&run->name, directory, error);
    if (code == 0) {
        code = file_read(&text, &size, path, METRICS_LIMIT, error);
    }
    if (code == 0) {
        code = read_lines(run, text, size, path, error);
    }
    memory_free(text);
    memory_free(path);
    if (code != 0) {
        plot_run_free(run);
    }
    return code;
}

void plot_run_free(struct plot_run *run) {
    memory_free(run->name);
    memory_free(run->values);
    memory_free(run->loads);
    memory_free(run->shares);
    *run = (struct plot_run){0};
}

double plot_last(const struct plot_run *run, enum plot_column column) {
    for (int64_t row = run->count - 1; row >= 0; row--) {
        if (isfinite(plot_value(run, row, column))) {
            return plot_value(run, row, column);
        }
    }
    return NAN;
}
