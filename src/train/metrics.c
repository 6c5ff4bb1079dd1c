// Metrics of a step and their file: see metrics.h.
#include "train/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"

#define FILE_LIMIT ((int64_t)1 << 40)
#define NUMBER_WIDTH 32   // characters of the longest number with its comma

double load_violation(const int64_t *load, int64_t experts) {
    int64_t total = 0, most = 0;
    for (int64_t e = 0; e < experts; e++) {
        total += load[e];
        most = load[e] > most ? load[e] : most;
    }
    double mean = (double)total / (double)experts;
    return total > 0 ? ((double)most - mean) / mean : 0;
}

double load_violation_mean(const int64_t *load, int64_t layers, int64_t experts) {
    double sum = 0;
    for (int64_t layer = 0; layer < layers; layer++) {
        sum += load_violation(load + layer * experts, experts);
    }
    return layers > 0 ? sum / (double)layers : 0;
}

// The length of the part of `text` that stays: whole lines whose step is at most last_step.
static int64_t kept_length(const char *text, int64_t size, int64_t last_step) {
    int64_t kept = 0;
    while (kept < size) {
        const char *line = text + kept, *end = memchr(line, '\n', (size_t)(size - kept));
        if (end == NULL || strncmp(line, "{\"step\": ", 9) != 0 || strtoll(line + 9, NULL, 10) > last_step) {
            break;
        }
        kept += end - line + 1;
    }
    return kept;
}

static int truncate_lines(const char *path, int64_t last_step, struct error *error) {
    char *text;
    int64_t size;
    if (!file_exists(path)) {
        return 0;
    }
    int code = file_read(&text, &size, path, FILE_LIMIT, error);
    if (code != 0) {
        return code;
    }
    int64_t kept = kept_length(text, size, last_step);
    if (kept < size) {
        text[kept] = '\0';
        code = file_write_text(path, text, error);
    }
    memory_free(text);
    return code;
}

int metrics_open(struct metrics_file *file, const char *out, const struct model_config *config, int64_t last_step,
                 struct error *error) {
    *file = (struct metrics_file){.descriptor = -1, .config = config, .layers = moe_layer_count(config)};
    file->path = file_join(out, "metrics.jsonl", error);
    int code = file->path == NULL ? ERROR_MEMORY : truncate_lines(file->path, last_step, error);
    if (code == 0) {
        file->capacity = 4096 + (size_t)(file->layers * (config->n_routed_experts + 4)) * NUMBER_WIDTH;
        file->line = memory_allocate(file->capacity, 1, "metrics line", error);
        code = file->line == NULL ? ERROR_MEMORY : 0;
    }
    if (code == 0) {
        file->descriptor = open(file->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
        code = file->descriptor < 0 ? error_set_errno(error, "%s: cannot open", file->path) : 0;
    }
    if (code != 0) {
        metrics_close(file);
    }
    return code;
}

struct line {
    char *text;
    size_t used, capacity;
};

static void put(struct line *line, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(struct line *line, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line->text + line->used, line->capacity - line->used, format, arguments);
    va_end(arguments);
    CHECK(length >= 0 && (size_t)length < line->capacity - line->used, "metrics line of more than %zu bytes",
          line->capacity);
    line->used += (size_t)length;
}

static void put_value(struct line *line, double value) {
    if (isfinite(value)) {
        put(line, "%.9g", value);
    } else {
        put(line, "null");
    }
}

static void put_number(struct line *line, const char *key, double value) {
    put(line, ", \"%s\": ", key);
    put_value(line, value);
}

static void put_numbers(struct line *line, const char *key, const double *values, int64_t count) {
    put(line, ", \"%s\": [", key);
    for (int64_t i = 0; i < count; i++) {
        put(line, "%s", i > 0 ? ", " : "");
        put_value(line, values[i]);
    }
    put(line, "]");
}

static void put_experts(struct line *line, const struct metrics_file *file, const struct step_metrics *metrics,
                        const struct param_tree *masters) {
    int64_t experts = file->config->n_routed_experts;
    put_number(line, "max_violation", metrics->max_violation);
    put(line, ", \"max_violation_layers\": [");
    for (int64_t layer = 0; layer < file->layers; layer++) {
        put(line, "%s", layer > 0 ? ", " : "");
        put_value(line, load_violation(metrics->expert_load + layer * experts, experts));
    }
    put(line, "], \"bias_range\": [");
    for (int64_t layer = 0; layer < file->layers; layer++) {
        const float *bias = router_bias(masters, layer);
        double low = bias != NULL ? (double)bias[0] : NAN, high = low;
        for (int64_t e = 0; bias != NULL && e < experts; e++) {
            low = (double)bias[e] < low ? (double)bias[e] : low;
            high = (double)bias[e] > high ? (double)bias[e] : high;
        }
        put(line, "%s[", layer > 0 ? ", " : "");
        put_value(line, low);
        put(line, ", ");
        put_value(line, high);
        put(line, "]");
    }
    put(line, "], \"expert_load\": [");
    for (int64_t layer = 0; layer < file->layers; layer++) {
        put(line, "%s[", layer > 0 ? ", " : "");
        for (int64_t e = 0; e < experts; e++) {
            put(line, "%s%lld", e > 0 ? ", " : "", (long long)metrics->expert_load[layer * experts + e]);
        }
        put(line, "]");
    }
    put(line, "]");
}

static void put_validation(struct line *line, const struct validation_result *validation, int64_t depths) {
    put_number(line, "validation_loss", validation->loss);
    put_numbers(line, "validation_mtp_loss", validation->mtp_loss, depths);
    put_number(line, "validation_bits_per_byte", validation->bits_per_byte);
    if (!isnan(validation->average_loss)) {
        put_number(line, "validation_average_loss", validation->average_loss);
    }
}

int metrics_write(struct metrics_file *file, const struct step_metrics *metrics, const struct param_tree *masters,
                  struct error *error) {
    struct line line = {.text = file->line, .capacity = file->capacity};
    int64_t depths = file->config->num_nextn_predict_layers;
    put(&line, "{\"step\": %lld, \"tokens\": %lld", (long long)metrics->step, (long long)metrics->tokens);
    put_number(&line, "seconds", metrics->seconds);
    put_number(&line, "tokens_per_second", metrics->tokens_per_second);
    put_number(&line, "loss", metrics->loss);
    put_number(&line, "main_loss", metrics->main_loss);
    put_numbers(&line, "mtp_loss", metrics->mtp_loss, depths);
    put_number(&line, "balance_loss", metrics->balance_loss);
    put_number(&line, "learning_rate", metrics->learning_rate);
    put(&line, ", \"batch\": %lld", (long long)metrics->batch);
    put_number(&line, "gradient_norm", metrics->gradient_norm);
    put(&line, ", \"clipped\": %s, \"skipped\": %s", metrics->clipped ? "true" : "false",
        metrics->skipped ? "true" : "false");
    put_number(&line, "lambda", metrics->lambda);
    put_number(&line, "gamma", metrics->gamma);
    put_number(&line, "alpha", metrics->alpha);
    put_experts(&line, file, metrics, masters);
    put(&line, ", \"memory_peak\": %lld", (long long)memory_statistics_get().peak_bytes);
    if (metrics->validated) {
        put_validation(&line, &metrics->validation, depths);
    }
    put(&line, "}\n");
    // One call where the system allows: a reader sees whole lines.
    for (size_t written = 0; written < line.used;) {
        ssize_t count = write(file->descriptor, line.text + written, line.used - written);
        if (count < 0 && errno != EINTR) {
            return error_set_errno(error, "%s: cannot write", file->path);
        }
        written += count > 0 ? (size_t)count : 0;
    }
    return 0;
}

int metrics_sync(struct metrics_file *file, struct error *error) {
    return fsync(file->descriptor) != 0 && errno != EINVAL
               ? error_set_errno(error, "%s: cannot write to the disk", file->path)
               : 0;
}

void metrics_close(struct metrics_file *file) {
    if (file->descriptor >= 0) {
        close(file->descriptor);
    }
    memory_free(file->path);
    memory_free(file->line);
    *file = (struct metrics_file){.descriptor = -1};
}
