// Writing the gnuplot script of `minke plot` (plot_draw.h). Numbers are reduced here to what a picture can show: at
// most POINTS per curve, means over what they stand for; gnuplot only draws.
#include "app/plot_draw.h"

#include "app/plot_compare.h"

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include "base/log.h"

#define POINTS 1000        // of a curve
#define TIME_COLUMNS 160   // of the load over time

// Pixels.
enum { WIDTH = 1560, LEFT = 84, GAP = 120, RIGHT = 104, PANEL_HEIGHT = 238, PITCH = 330, HEAD_LINE = 26, FOOT = 60 };
#define PANEL_WIDTH ((WIDTH - LEFT - GAP - RIGHT) / 2)

static const char *const colors[PLOT_RUNS_MAXIMUM] = {"#20558a", "#d1495b", "#2a9d6f", "#e09f3e", "#6a4c93", "#5c6670"};

struct drawing {
    FILE *out;
    const struct plot_run *runs;
    int run_count, height, head;
    bool by_tokens;
    double unit;   // x = tokens (or steps) / unit
    const char *unit_name;
    double x_end;
};

// ---- numbers --------------------------------------------------------------------------------------------------------

static double row_x(const struct drawing *drawing, const struct plot_run *run, int64_t row) {
    return plot_value(run, row, drawing->by_tokens ? PLOT_TOKENS : PLOT_STEP) / drawing->unit;
}

// Mean of the numbers among rows [begin, end), NAN without one.
static double mean_rows(const struct plot_run *run, enum plot_column column, int64_t begin, int64_t end) {
    double sum = 0;
    int64_t count = 0;
    begin = begin < 0 ? 0 : begin;
    end = end > run->count ? run->count : end;
    for (int64_t row = begin; row < end; row++) {
        double value = plot_value(run, row, column);
        if (isfinite(value)) {
            sum += value;
            count++;
        }
    }
    return count > 0 ? sum / (double)count : NAN;
}

// Half the width of the moving mean, in rows.
static int64_t smoothing(const struct plot_run *run) {
    return run->count < 60 ? run->count / 30 : run->count / 80 + 1;
}

static double smooth_row(const struct plot_run *run, enum plot_column column, int64_t row) {
    // Shorter near the ends, so that it stays centred: a steep start is not flattened.
    int64_t half = smoothing(run);
    half = row < half ? row : half;
    half = run->count - 1 - row < half ? run->count - 1 - row : half;
    return mean_rows(run, column, row - half, row + half + 1);
}

static bool has_column(const struct drawing *drawing, enum plot_column column) {
    for (int r = 0; r < drawing->run_count; r++) {
        if (isfinite(plot_last(&drawing->runs[r], column))) {
            return true;
        }
    }
    return false;
}

// ---- data blocks ----------------------------------------------------------------------------------------------------

static void put_value(FILE *out, double value) {
    if (isfinite(value)) {
        fprintf(out, " %.7g", value);
    } else {
        fprintf(out, " NaN");
    }
}

// Columns of $curveR: x, then of each of these the mean of the rows a point stands for, and the moving mean.
static const enum plot_column curve_columns[] = {PLOT_MAIN_LOSS,     PLOT_MTP_LOSS,      PLOT_LEARNING_RATE,
                                                 PLOT_GRADIENT_NORM, PLOT_MAX_VIOLATION, PLOT_BIAS_LOW,
                                                 PLOT_BIAS_HIGH};
enum { CURVES = sizeof curve_columns / sizeof curve_columns[0] };

static int curve_raw(enum plot_column column) {
    for (int i = 0; i < CURVES; i++) {
        if (curve_columns[i] == column) {
            return 2 + 2 * i;
        }
    }
    return 0;
}

static void put_curves(const struct drawing *drawing, int r) {
    const struct plot_run *run = &drawing->runs[r];
    int64_t points = run->count < POINTS ? run->count : POINTS;
    fprintf(drawing->out, "$curve%d << END\n", r);
    for (int64_t point = 0; point < points; point++) {
        int64_t begin = point * run->count / points, end = (point + 1) * run->count / points;
        put_value(drawing->out, row_x(drawing, run, end - 1));
        for (int i = 0; i < CURVES; i++) {
            put_value(drawing->out, mean_rows(run, curve_columns[i], begin, end));
            put_value(drawing->out, smooth_row(run, curve_columns[i], (begin + end - 1) / 2));
        }
        fputc('\n', drawing->out);
    }
    fprintf(drawing->out, "END\n$valid%d << END\n", r);
    for (int64_t row = 0; row < run->count; row++) {
        double loss = plot_value(run, row, PLOT_VALIDATION_LOSS), bits = plot_value(run, row, PLOT_BITS_PER_BYTE);
        if (isfinite(loss) || isfinite(bits)) {
            put_value(drawing->out, row_x(drawing, run, row));
            put_value(drawing->out, loss);
            put_value(drawing->out, bits);
            fputc('\n', drawing->out);
        }
    }
    fprintf(drawing->out, "END\n");
}

// Load of each expert over rows [begin, end) of one layer, divided by their mean: 1 is balance.
static const double *sum_loads(const struct plot_run *run, int64_t layer, int64_t begin, int64_t end) {
    double *shares = run->shares, total = 0;
    for (int64_t e = 0; e < run->experts; e++) {
        shares[e] = 0;
        for (int64_t row = begin; row < end; row++) {
            shares[e] += (double)run->loads[(row * run->layers + layer) * run->experts + e];
        }
        total += shares[e];
    }
    for (int64_t e = 0; e < run->experts; e++) {
        shares[e] = total > 0 ? shares[e] * (double)run->experts / total : NAN;
    }
    return shares;
}

struct text {
    char data[320];
    size_t used;
};

static void text_add(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void text_add(struct text *text, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text->data + text->used, sizeof text->data - text->used, format, arguments);
    va_end(arguments);
    text->used += length > 0 ? (size_t)length : 0;
    text->used = text->used < sizeof text->data ? text->used : sizeof text->data - 1;
}

// ---- panels ---------------------------------------------------------------------------------------------------------

static void begin_panel(const struct drawing *drawing, int row, int column, const char *title) {
    FILE *out = drawing->out;
    double left = LEFT + column * (PANEL_WIDTH + GAP), top = drawing->head + row * PITCH + 40.0;
    fprintf(out, "\nreset\nset lmargin at screen %.5f\nset rmargin at screen %.5f\n", left / WIDTH,
            (left + PANEL_WIDTH) / WIDTH);
    fprintf(out, "set tmargin at screen %.5f\nset bmargin at screen %.5f\n", 1 - top / drawing->height,
            1 - (top + PANEL_HEIGHT) / drawing->height);
    fprintf(out, "set border 3 lc rgb '#9a9a9a' lw 1\nset tics nomirror out scale 0.5 textcolor rgb '#555555'\n"
                 "set grid ytics lc rgb '#e4e4e4' lw 1 lt 1\nset key at graph 1.0, graph 1.11 right horizontal Left "
                 "reverse samplen 1.6 width -1 textcolor rgb '#333333' font ',11'\n");
    fprintf(out, "set label 1 '%s' at graph 0, graph 1.09 left font ',14' textcolor rgb '#222222'\n", title);
}

static void set_x_axis(const struct drawing *drawing) {
    fprintf(drawing->out, "set xrange [0:%.7g]\nset xlabel '%s' offset 0, 0.4 textcolor rgb '#777777' font ',11'\n",
            drawing->x_end, drawing->unit_name);
}

static void empty_panel(const struct drawing *drawing, const char *text) {
    fprintf(drawing->out,
            "unset tics\nset border 0\nset label 2 '%s' at graph 0.5, graph 0.5 center textcolor rgb '#999999'\n"
            "set xrange [0:1]\nset yrange [0:1]\nplot NaN notitle\n",
            text);
}

// The y range of losses leaves out the fall of the first few per cent, which would flatten all the rest.
static void set_loss_range(const struct drawing *drawing) {
    double low = INFINITY, high = -INFINITY;
    for (int r = 0; r < drawing->run_count; r++) {
        const struct plot_run *run = &drawing->runs[r];
        if (run->count < 40) {
            return;
        }
        for (int64_t row = run->count / 20; row < run->count; row++) {
            double smooth = plot_value(run, row, PLOT_MAIN_LOSS), valid = plot_value(run, row, PLOT_VALIDATION_LOSS);
            low = smooth < low ? smooth : low;
            low = valid < low ? valid : low;
            high = smooth > high ? smooth : high;
        }
        double mtp = plot_last(run, PLOT_MTP_LOSS);
        high = mtp > high ? mtp : high;
    }
    if (low < high) {
        fprintf(drawing->out, "set yrange [%.7g:%.7g]\n", low - 0.04 * (high - low), high + 0.06 * (high - low));
    }
}

// Comma between the parts of one plot command.
static const char *next_part(int *parts) {
    return (*parts)++ == 0 ? "plot " : ", \\\n     ";
}

// One curve a run: the points pale, the moving mean strong.
static void put_smooth_curves(const struct drawing *drawing, int *parts, enum plot_column column, const char *title) {
    int raw = curve_raw(column);
    for (int r = 0; r < drawing->run_count; r++) {
        fprintf(drawing->out, "%s$curve%d using 1:%d with lines lw 1 lc rgb '#b0%s' notitle", next_part(parts), r, raw,
                colors[r] + 1);
    }
    for (int r = 0; r < drawing->run_count; r++) {
        fprintf(drawing->out, "%s$curve%d using 1:%d with lines lw 2.2 lc rgb '%s' ", next_part(parts), r, raw + 1,
                colors[r]);
        if (drawing->run_count == 1 && title != NULL) {
            fprintf(drawing->out, "title '%s'", title);
        } else {
            fprintf(drawing->out, "notitle");
        }
    }
}

static void draw_loss(const struct drawing *drawing) {
    bool one = drawing->run_count == 1;
    int parts = 0;
    begin_panel(drawing, 0, 0, "Loss, nats per token");
    if (!has_column(drawing, PLOT_MAIN_LOSS)) {
        empty_panel(drawing, "not in metrics.jsonl");
        return;
    }
    set_x_axis(drawing);
    set_loss_range(drawing);
    put_smooth_curves(drawing, &parts, PLOT_MAIN_LOSS, "training");
    if (has_column(drawing, PLOT_MTP_LOSS) && one) {
        fprintf(drawing->out, "%s$curve0 using 1:%d with lines lw 1.6 lc rgb '#8fb8de' title 'MTP'", next_part(&parts),
                curve_raw(PLOT_MTP_LOSS) + 1);
    }
    for (int r = 0; r < drawing->run_count && has_column(drawing, PLOT_VALIDATION_LOSS); r++) {
        fprintf(drawing->out, "%s$valid%d using 1:2 with linespoints lw 1.4 pt 7 ps 0.7 lc rgb '%s' %s",
                next_part(&parts), r, one ? "#e07a1f" : colors[r], one ? "title 'validation'" : "notitle");
    }
    fprintf(drawing->out, "\n");
}

// Few enough that each can carry its number.
static bool few_values(const struct plot_run *run, enum plot_column column) {
    int64_t count = 0;
    for (int64_t row = 0; row < run->count; row++) {
        count += isfinite(plot_value(run, row, column));
    }
    return count <= 16;
}

static void draw_bits(const struct drawing *drawing) {
    begin_panel(drawing, 0, 1, "Validation, bits per byte");
    if (!has_column(drawing, PLOT_BITS_PER_BYTE)) {
        empty_panel(drawing, "no validation yet");
        return;
    }
    set_x_axis(drawing);
    // The first values of a run that starts from noise say nothing about the end.
    double low = INFINITY, high = -INFINITY;
    for (int r = 0; r < drawing->run_count; r++) {
        int64_t seen = 0;
        for (int64_t row = 0; row < drawing->runs[r].count; row++) {
            double bits = plot_value(&drawing->runs[r], row, PLOT_BITS_PER_BYTE);
            if (isfinite(bits)) {
                low = bits < low ? bits : low;
                high = bits > high && (seen > 1 || drawing->runs[r].count < 5) ? bits : high;
                seen++;
            }
        }
    }
    if (low < high) {
        fprintf(drawing->out, "set yrange [%.7g:%.7g]\n", low - 0.08 * (high - low), high + 0.25 * (high - low));
    }
    int parts = 0;
    for (int r = 0; r < drawing->run_count; r++) {
        fprintf(drawing->out, "%s$valid%d using 1:3 with linespoints lw 2.2 pt 7 ps 0.8 lc rgb '%s' notitle",
                next_part(&parts), r, colors[r]);
        if (drawing->run_count == 1 && few_values(&drawing->runs[r], PLOT_BITS_PER_BYTE)) {
            fprintf(drawing->out,
                    ", \\\n     $valid%d using 1:3:(sprintf('%%.3f', $3)) with labels offset 0, 0.9 textcolor rgb '%s' "
                    "font ',10' notitle",
                    r, colors[r]);
        }
    }
    fprintf(drawing->out, "\n");
}

static void draw_curve(const struct drawing *drawing, int row, int column, const char *title, enum plot_column values,
                       const char *settings) {
    begin_panel(drawing, row, column, title);
    if (!has_column(drawing, values)) {
        empty_panel(drawing, "not in metrics.jsonl");
        return;
    }
    set_x_axis(drawing);
    fprintf(drawing->out, "%s", settings);
    int parts = 0;
    put_smooth_curves(drawing, &parts, values, NULL);
    fprintf(drawing->out, "\n");
}

static void draw_learning_rate(const struct drawing *drawing) {
    begin_panel(drawing, 1, 0, "Learning rate");
    if (!has_column(drawing, PLOT_LEARNING_RATE)) {
        empty_panel(drawing, "not in metrics.jsonl");
        return;
    }
    set_x_axis(drawing);
    fprintf(drawing->out, "set yrange [0:*]\nset format y '%%g'\n");
    int parts = 0;
    for (int r = 0; r < drawing->run_count; r++) {
        fprintf(drawing->out, "%s$curve%d using 1:%d with lines lw 2.2 lc rgb '%s' notitle", next_part(&parts), r,
                curve_raw(PLOT_LEARNING_RATE), colors[r]);
    }
    fprintf(drawing->out, "\n");
}

static void draw_bias(const struct drawing *drawing) {
    begin_panel(drawing, 2, 1, "Router biases, lowest and highest");
    if (!has_column(drawing, PLOT_BIAS_LOW)) {
        empty_panel(drawing, "no router biases");
        return;
    }
    set_x_axis(drawing);
    int parts = 0;
    for (int r = 0; r < drawing->run_count; r++) {
        int low = curve_raw(PLOT_BIAS_LOW), high = curve_raw(PLOT_BIAS_HIGH);
        fprintf(drawing->out, "%s$curve%d using 1:%d:%d with filledcurves fc rgb '#d0%s' notitle", next_part(&parts), r,
                low, high, colors[r] + 1);
        fprintf(drawing->out, ", \\\n     $curve%d using 1:%d with lines lw 1.6 lc rgb '%s' notitle", r, low,
                colors[r]);
        fprintf(drawing->out, ", \\\n     $curve%d using 1:%d with lines lw 1.6 lc rgb '%s' notitle", r, high,
                colors[r]);
    }
    fprintf(drawing->out, "\n");
}

// ---- expert load ----------------------------------------------------------------------------------------------------

static void set_load_colors(const struct drawing *drawing, bool box) {
    fprintf(
        drawing->out,
        "set palette defined (0 '#1d4e89', 0.5 '#85b6d9', 0.85 '#eef3f6', 1 '#fafafa', 1.15 '#f9eee7', 1.5 '#ef9a6a', "
        "2 '#b1182b')\nset cbrange [0:2]\nset border 15\nunset grid\n");
    if (box) {
        fprintf(
            drawing->out,
            "set colorbox vertical user origin graph 1.03, graph 0 size graph 0.025, graph 1\n"
            "set cbtics ('0' 0, '0.5' 0.5, '1' 1, '1.5' 1.5, '\xE2\x89\xA5 2' 2) scale 0.3 textcolor rgb '#555555'\n");
    } else {
        fprintf(drawing->out, "unset colorbox\n");
    }
}

// Names such as "a_b's" in a string of the script; braces and underscores mean nothing there (noenhanced).
static void put_quoted(FILE *out, const char *text) {
    fputc('\'', out);
    for (; *text != '\0'; text++) {
        if (*text == '\'') {
            fputc('\'', out);
        }
        fputc((unsigned char)*text < ' ' ? '?' : *text, out);
    }
    fputc('\'', out);
}

// Rows of the last tenth of a run, at most 100.
static int64_t final_begin(const struct plot_run *run) {
    int64_t rows = run->count / 10;
    rows = rows < 1 ? 1 : rows > 100 ? 100 : rows;
    return run->count - rows;
}

static void draw_final_load(const struct drawing *drawing, int row, int column, int r) {
    const struct plot_run *run = &drawing->runs[r];
    FILE *out = drawing->out;
    begin_panel(drawing, row, column, "");
    double low = INFINITY, high = -INFINITY;
    fprintf(out, "$final%d << END\n", r);
    for (int64_t layer = 0; layer < run->layers; layer++) {
        const double *shares = sum_loads(run, layer, final_begin(run), run->count);
        for (int64_t e = 0; e < run->experts; e++) {
            put_value(out, shares[e]);
            low = shares[e] < low ? shares[e] : low;
            high = shares[e] > high ? shares[e] : high;
        }
        fputc('\n', out);
    }
    fprintf(out, "END\nset label 1 ");
    struct text title = {0};
    text_add(&title, "Expert load / mean, at the end");
    if (low <= high) {
        text_add(&title, " (%.2f to %.2f)", low, high);
    }
    if (drawing->run_count > 1) {
        text_add(&title, ": %.200s", run->name);
    }
    put_quoted(out, title.data);
    fprintf(out, " textcolor rgb '%s'\n", drawing->run_count > 1 ? colors[r] : "#222222");
    if (!(low <= high)) {
        empty_panel(drawing, "no expert loads");
        return;
    }
    set_load_colors(drawing, column == 1);
    fprintf(out, "set xlabel 'expert' offset 0, 0.4 textcolor rgb '#777777'\n"
                 "set ylabel 'MoE layer' offset 0.6, 0 textcolor rgb '#777777'\n");
    fprintf(out, "set xrange [-0.5:%lld.5]\nset yrange [%lld.5:-0.5]\nset ytics %lld\n", (long long)run->experts - 1,
            (long long)run->layers - 1, (long long)(run->layers / 12 + 1));
    fprintf(out, "plot $final%d matrix using 1:2:3 with image pixels notitle\n", r);
}

// The layer whose load deviates most over the second half of the run.
static int64_t worst_layer(const struct plot_run *run) {
    int64_t worst = 0;
    double worst_share = -1;
    for (int64_t layer = 0; layer < run->layers; layer++) {
        const double *shares = sum_loads(run, layer, run->count / 2, run->count);
        for (int64_t e = 0; e < run->experts; e++) {
            if (shares[e] > worst_share) {
                worst_share = shares[e];
                worst = layer;
            }
        }
    }
    return worst;
}

static void draw_load_over_time(const struct drawing *drawing, int row) {
    const struct plot_run *run = &drawing->runs[0];
    FILE *out = drawing->out;
    if (run->layers == 0) {
        begin_panel(drawing, row, 1, "Expert load over time");
        empty_panel(drawing, "no experts");
        return;
    }
    int64_t layer = worst_layer(run), columns = run->count < TIME_COLUMNS ? run->count : TIME_COLUMNS;
    char title[128];
    snprintf(title, sizeof title, "Expert load / mean over time, MoE layer %lld (the least balanced)",
             (long long)layer);
    begin_panel(drawing, row, 1, title);
    // One line a moment: gnuplot's matrix has x along a line, so x and y are exchanged in `using`.
    fprintf(out, "$time << END\n");
    for (int64_t c = 0; c < columns; c++) {
        const double *shares = sum_loads(run, layer, c * run->count / columns, (c + 1) * run->count / columns);
        for (int64_t e = 0; e < run->experts; e++) {
            put_value(out, shares[e]);
        }
        fputc('\n', out);
    }
    fprintf(out, "END\n");
    set_load_colors(drawing, true);
    set_x_axis(drawing);
    double width = row_x(drawing, run, run->count - 1) / (double)columns;
    fprintf(out, "set xrange [0:%.7g]\n", width * (double)columns);
    fprintf(out, "set ylabel 'expert' offset 0.6, 0 textcolor rgb '#777777'\nset yrange [%lld.5:-0.5]\n",
            (long long)run->experts - 1);
    fprintf(out, "plot $time matrix using (($2+0.5)*%.9g):1:3 with image pixels notitle\n", width);
}

// ---- runs beside the first ------------------------------------------------------------------------------------------

static void put_differences(const struct drawing *drawing, int r) {
    struct plot_differences differences = {.run = &drawing->runs[r], .first = &drawing->runs[0]};
    int64_t row, every = drawing->runs[r].count / POINTS + 1;
    double value;
    fprintf(drawing->out, "$difference%d << END\n", r);
    while (plot_differences_next(&differences, &row, &value)) {
        if (row % every == 0) {
            put_value(drawing->out, row_x(drawing, &drawing->runs[r], row));
            put_value(drawing->out, value);
            fputc('\n', drawing->out);
        }
    }
    fprintf(drawing->out, "END\n");
}

// The range is that of the second half, or twice the report's quarter of a per cent.
static void draw_differences(const struct drawing *drawing, int row, int column) {
    struct text title = {0};
    double range = 0.5;
    text_add(&title, "Loss relative to %.100s, per cent", drawing->runs[0].name);
    bool some = false;
    for (int r = 1; r < drawing->run_count; r++) {
        struct plot_comparison found = plot_compare(&drawing->runs[r], &drawing->runs[0]);
        double wide = 100 * (fabs(found.mean) + 2 * found.deviation);
        some = some || found.steps > 0;
        range = wide > range ? wide : range;
        put_differences(drawing, r);
    }
    begin_panel(drawing, row, column, "");
    fprintf(drawing->out, "set label 1 ");
    put_quoted(drawing->out, title.data);
    fprintf(drawing->out, "\n");
    if (!some) {
        empty_panel(drawing, "no step in common");
        return;
    }
    set_x_axis(drawing);
    fprintf(drawing->out, "set yrange [%.4g:%.4g]\n", -range, range);
    int parts = 0;
    fprintf(drawing->out, "%s0.25 with lines dt 2 lc rgb '#999999' notitle", next_part(&parts));
    fprintf(drawing->out, "%s-0.25 with lines dt 2 lc rgb '#999999' notitle", next_part(&parts));
    for (int r = 1; r < drawing->run_count; r++) {
        fprintf(drawing->out, "%s$difference%d using 1:2 with lines lw 1.6 lc rgb '%s' notitle", next_part(&parts), r,
                colors[r]);
    }
    fprintf(drawing->out, "\n");
}

// ---- the picture ----------------------------------------------------------------------------------------------------

// "1200 steps, 2.4 M tokens, ...": where the run stands.
static void describe_run(struct text *text, const struct plot_run *run) {
    char number[32];
    double tokens = plot_last(run, PLOT_TOKENS), speed = mean_rows(run, PLOT_SPEED, 0, run->count);
    double loss = mean_rows(run, PLOT_MAIN_LOSS, final_begin(run), run->count);
    double validation = plot_last(run, PLOT_VALIDATION_LOSS), bits = plot_last(run, PLOT_BITS_PER_BYTE);
    text_add(text, "%.0f steps", plot_value(run, run->count - 1, PLOT_STEP));
    if (isfinite(tokens)) {
        text_add(text, "   %s tokens", text_count(number, tokens));
    }
    if (isfinite(speed)) {
        text_add(text, "   %s tokens/s", text_count(number, speed));
    }
    if (isfinite(loss)) {
        text_add(text, "   training loss %.3f", loss);
    }
    if (isfinite(validation)) {
        text_add(text, "   validation loss %.3f", validation);
    }
    if (isfinite(bits)) {
        text_add(text, "   %.3f bits per byte", bits);
    }
}

// A plot of nothing over the whole page, for its labels.
static void draw_heading(const struct drawing *drawing) {
    fprintf(drawing->out, "reset\nset lmargin at screen 0\nset rmargin at screen 1\nset tmargin at screen 1\n"
                          "set bmargin at screen 0\nunset tics\nset border 0\nset xrange [0:1]\nset yrange [0:1]\n");
    for (int r = 0; r < drawing->run_count; r++) {
        struct text text = {0};
        double y = 1 - (30.0 + HEAD_LINE * r) / drawing->height;
        describe_run(&text, &drawing->runs[r]);
        fprintf(drawing->out, "set label ");
        put_quoted(drawing->out, drawing->runs[r].name);
        fprintf(drawing->out, " at screen %.5f, screen %.5f left font ',17' textcolor rgb '%s'\n",
                (double)(LEFT - 46) / WIDTH, y, colors[r]);
        fprintf(drawing->out, "set label ");
        put_quoted(drawing->out, text.data);
        fprintf(drawing->out, " at screen %.5f, screen %.5f right font ',12' textcolor rgb '#555555'\n",
                (double)(WIDTH - 30) / WIDTH, y);
    }
    fprintf(drawing->out, "plot NaN notitle\n");
}

static void choose_axis(struct drawing *drawing) {
    drawing->by_tokens = true;
    for (int r = 0; r < drawing->run_count; r++) {
        drawing->by_tokens = drawing->by_tokens && isfinite(plot_last(&drawing->runs[r], PLOT_TOKENS));
    }
    drawing->unit = 1;
    double end = 0;
    for (int r = 0; r < drawing->run_count; r++) {
        double last = plot_last(&drawing->runs[r], drawing->by_tokens ? PLOT_TOKENS : PLOT_STEP);
        end = last > end ? last : end;
    }
    drawing->unit_name = drawing->by_tokens ? "tokens" : "steps";
    if (drawing->by_tokens && end >= 1e4) {
        drawing->unit = end >= 2e9 ? 1e9 : end >= 2e6 ? 1e6 : 1e3;
        drawing->unit_name = end >= 2e9 ? "billion tokens" : end >= 2e6 ? "million tokens" : "thousand tokens";
    }
    drawing->x_end = end > 0 ? end / drawing->unit : 1;
}

void plot_draw(FILE *script, const struct plot_picture *picture) {
    struct drawing drawing = {.out = script, .runs = picture->runs, .run_count = picture->run_count};
    int load_rows = drawing.run_count == 1 ? 1 : (drawing.run_count + 2) / 2;
    CHECK(drawing.run_count >= 1 && drawing.run_count <= PLOT_RUNS_MAXIMUM, "%d runs", drawing.run_count);
    choose_axis(&drawing);
    drawing.head = 30 + HEAD_LINE * drawing.run_count;
    drawing.height = drawing.head + (3 + load_rows) * PITCH + FOOT - 20;
    bool png = strcmp(picture->terminal, "png") == 0;
    fprintf(script,
            "set encoding utf8\nset terminal %s size %d, %d font 'Sans,12' noenhanced background rgb '#ffffff'\n",
            png ? "pngcairo" : "svg", WIDTH, drawing.height);
    fprintf(script, "set output ");
    put_quoted(script, picture->output);
    fprintf(script, "\n");
    for (int r = 0; r < drawing.run_count; r++) {
        put_curves(&drawing, r);
    }
    fprintf(script, "set multiplot\n");
    draw_heading(&drawing);
    draw_loss(&drawing);
    draw_bits(&drawing);
    draw_learning_rate(&drawing);
    draw_curve(&drawing, 1, 1, "Gradient norm", PLOT_GRADIENT_NORM, "set logscale y\n");
    draw_curve(&drawing, 2, 0, "MaxVio: (highest load - mean) / mean, mean over layers", PLOT_MAX_VIOLATION,
               "set yrange [0:*]\n");
    draw_bias(&drawing);
    if (drawing.run_count == 1) {
        draw_final_load(&drawing, 3, 0, 0);
        draw_load_over_time(&drawing, 3);
    } else {
        draw_differences(&drawing, 3, 0);
        for (int r = 0; r < drawing.run_count; r++) {
            draw_final_load(&drawing, 3 + (r + 1) / 2, (r + 1) % 2, r);
        }
    }
    fprintf(script, "unset multiplot\nunset output\n");
}
