// Parsing, checking and writing of run configurations, all by the table of run_config_keys.c.
#include "train/run_config.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/spelling.h"
#include "op/ops.h"
#include "train/run_config_keys.h"

#define FILE_LIMIT ((int64_t)1 << 20)
#define TEXT_CAPACITY ((size_t)64 << 10)   // of a written configuration: 8 paths of 512 bytes and about 12 KB of help
#define VALUE_TEXT (RUN_CONFIG_PATH + 16)

static const struct {
    char letter;
    int exponent;
} suffixes[] = {{'K', 3}, {'M', 6}, {'B', 9}, {'G', 9}, {'T', 12}};

// A decimal number with an optional suffix that comes out whole: "4096", "2K", "14.633T". Returns the first character
// behind it, or NULL.
static const char *parse_count(int64_t *value, const char *text) {
    int64_t whole = 0;
    int fraction_digits = 0, digits = 0;
    bool fraction = false;
    const char *at = text;
    for (; isdigit((unsigned char)*at) || (*at == '.' && !fraction); at++) {
        if (*at == '.') {
            fraction = true;
            continue;
        }
        digits++;
        fraction_digits += fraction;
        if (__builtin_mul_overflow(whole, 10, &whole) || __builtin_add_overflow(whole, *at - '0', &whole)) {
            return NULL;
        }
    }
    int exponent = 0;
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        if (*at == suffixes[i].letter) {
            exponent = suffixes[i].exponent;
            at++;
            break;
        }
    }
    exponent -= fraction_digits;
    for (; exponent < 0 && whole % 10 == 0; exponent++) {
        whole /= 10;
    }
    if (digits == 0 || exponent < 0) {
        return NULL;
    }
    for (; exponent > 0; exponent--) {
        if (__builtin_mul_overflow(whole, 10, &whole)) {
            return NULL;
        }
    }
    *value = whole;
    return at;
}

static bool parse_number(double *value, const char *text) {
    char *end;
    *value = strtod(text, &end);
    return end != text && *end == '\0' && *value - *value == 0;
}

static bool parse_duration(struct duration *duration, const char *text) {
    if (strcmp(text, "never") == 0) {
        *duration = (struct duration){.unit = DURATION_NEVER};
        return true;
    }
    size_t length = strlen(text);
    if (length > 1 && text[length - 1] == '%') {
        char *end;
        double percent = strtod(text, &end);
        *duration = (struct duration){.unit = DURATION_PERCENT, .percent = percent};
        return end == text + length - 1 && percent >= 0 && percent <= 100;
    }
    int64_t count;
    const char *rest = parse_count(&count, text);
    if (rest == NULL) {
        return false;
    }
    rest += strspn(rest, " \t");
    // The unit must be said: a bare 40 would be taken for steps by some and for tokens by others.
    bool steps = strcmp(rest, "steps") == 0 || strcmp(rest, "step") == 0;
    *duration = (struct duration){.unit = steps ? DURATION_STEPS : DURATION_TOKENS, .count = count};
    return steps || strcmp(rest, "tokens") == 0;
}

// Position of `text` among "a|b|c", or -1.
static int64_t parse_choice(const char *choices, const char *text) {
    size_t length = strlen(text);
    for (int64_t position = 0; *choices != '\0'; position++) {
        size_t word = strcspn(choices, "|");
        if (word == length && memcmp(choices, text, length) == 0) {
            return position;
        }
        choices += word + (choices[word] == '|');
    }
    return -1;
}

static const char *choice_text(char *text, size_t capacity, const char *choices, int64_t position) {
    for (; position > 0; position--) {
        choices += strcspn(choices, "|") + 1;
    }
    snprintf(text, capacity, "%.*s", (int)strcspn(choices, "|"), choices);
    return text;
}

static int parse_boolean(bool *value, const char *text) {
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcmp(text, words[i]) == 0) {
            *value = i % 2 == 1;
            return 0;
        }
    }
    return -1;
}

// Stores `text` as the value of one key. `place` ("run.ini:12: ", "command line: ") opens the message.
static int store(struct run_config *config, const struct run_config_key *key, const char *text, const char *place,
                 struct error *error) {
    char *target = (char *)config + key->offset;
    switch (key->type) {
    case KEY_PATH:
        if (strlen(text) >= RUN_CONFIG_PATH) {
            return error_set(error, ERROR_LIMIT, "%s%s: found %zu bytes, expected a path of at most %d", place,
                             key->name, strlen(text), RUN_CONFIG_PATH - 1);
        }
        memset(target, 0, RUN_CONFIG_PATH);
        memcpy(target, text, strlen(text));
        return 0;
    case KEY_COUNT: {
        int64_t value = 0;
        const char *rest = parse_count(&value, text);
        if (rest == NULL || *rest != '\0' || (double)value < key->minimum || (double)value > key->maximum) {
            return error_set(error, ERROR_ARGUMENT, "%s%s: found \"%s\", expected a whole number from %.15g to %.15g",
                             place, key->name, text, key->minimum, key->maximum);
        }
        memcpy(target, &value, sizeof value);
        return 0;
    }
    case KEY_NUMBER: {
        double value = 0;
        if (!parse_number(&value, text) || value < key->minimum || value > key->maximum) {
            return error_set(error, ERROR_ARGUMENT, "%s%s: found \"%s\", expected a number from %.15g to %.15g", place,
                             key->name, text, key->minimum, key->maximum);
        }
        memcpy(target, &value, sizeof value);
        return 0;
    }
    case KEY_BOOLEAN:
        if (parse_boolean((bool *)target, text) != 0) {
            return error_set(error, ERROR_ARGUMENT, "%s%s: found \"%s\", expected true or false", place, key->name,
                             text);
        }
        return 0;
    case KEY_CHOICE: {
        int64_t value = parse_choice(key->choices, text);
        if (value < 0) {
            return error_set(error, ERROR_ARGUMENT, "%s%s: found \"%s\", expected one of %s", place, key->name, text,
                             key->choices);
        }
        memcpy(target, &value, sizeof value);
        return 0;
    }
    case KEY_DURATION:
        if (!parse_duration((struct duration *)(void *)target, text)) {
            return error_set(
                error, ERROR_ARGUMENT,
                "%s%s: found \"%s\", expected a duration such as \"2K steps\", \"10T tokens\", \"70%%\" or \"never\"",
                place, key->name, text);
        }
        return 0;
    }
    return 0;
}

static const struct run_config_key *key_find(const char *name) {
    for (int i = 0; i < run_config_key_count; i++) {
        if (strcmp(run_config_keys[i].name, name) == 0) {
            return &run_config_keys[i];
        }
    }
    return NULL;
}

static int unknown_key(const char *name, const char *place, struct error *error) {
    const struct run_config_key *nearest = &run_config_keys[0];
    int best = INT_MAX;
    for (int i = 0; i < run_config_key_count; i++) {
        // The section counts little: "train.gamma" should find "schedule.gamma".
        const char *key = run_config_keys[i].name;
        const char *own = strchr(name, '.') != NULL ? strchr(name, '.') : name;
        int whole = spelling_distance(name, key), tail = spelling_distance(own, strchr(key, '.')) + 1;
        int distance = whole < tail ? whole : tail;
        if (distance < best) {
            best = distance;
            nearest = &run_config_keys[i];
        }
    }
    return error_set(error, ERROR_ARGUMENT,
                     "%sunknown key \"%s\"; the nearest is \"%s\" (`minke train --help-config` lists all)", place, name,
                     nearest->name);
}

// train.steps and train.tokens are two ways to say one thing: the one given last counts.
static void keep_one_length(struct run_config *config, const struct run_config_key *key) {
    if (key->offset == offsetof(struct run_config, train.steps) && config->train.steps > 0) {
        config->train.tokens = 0;
    } else if (key->offset == offsetof(struct run_config, train.tokens) && config->train.tokens > 0) {
        config->train.steps = 0;
    }
}

static int assign(struct run_config *config, const char *name, const char *text, const char *place,
                  struct error *error) {
    const struct run_config_key *key = key_find(name);
    if (key == NULL) {
        return unknown_key(name, place, error);
    }
    int code = store(config, key, text, place, error);
    if (code == 0) {
        keep_one_length(config, key);
    }
    return code;
}

void run_config_defaults(struct run_config *config) {
    *config = (struct run_config){0};
    for (int i = 0; i < run_config_key_count; i++) {
        struct error error = {0};
        int code = store(config, &run_config_keys[i], run_config_keys[i].fallback, "", &error);
        CHECK(code == 0, "%s", error.text);
    }
}

struct ini_reading {
    struct run_config *config;
    const char *path, *rest;   // the text not yet given to the parser
    int line;
    bool given[128];   // by index into the table
    struct error *error;
    int code;
};

static char *next_line(char *line, int capacity, void *stream) {
    struct ini_reading *reading = stream;
    if (*reading->rest == '\0' || reading->code != 0) {
        return NULL;
    }
    reading->line++;
    size_t length = strcspn(reading->rest, "\n"), skip = length + (reading->rest[length] == '\n');
    if (length + 2 > (size_t)capacity && reading->code == 0) {
        reading->code = error_set(reading->error, ERROR_LIMIT, "%s:%d: found a line of %zu bytes, the limit is %d",
                                  reading->path, reading->line, length, capacity - 2);
        return NULL;
    }
    // Blanks in front would make the line a continuation of the value above; we have no such lines.
    size_t blanks = strspn(reading->rest, " \t\r");
    blanks = blanks < length ? blanks : length;
    memcpy(line, reading->rest + blanks, length - blanks);
    line[length - blanks] = '\n';
    line[length - blanks + 1] = '\0';
    reading->rest += skip;
    return line;
}

static int take_pair(void *user, const char *section, const char *name, const char *value) {
    struct ini_reading *reading = user;
    char full[256], place[RUN_CONFIG_PATH + 32];
    snprintf(full, sizeof full, "%s%s%s", section, section[0] != '\0' ? "." : "", name);
    snprintf(place, sizeof place, "%s:%d: ", reading->path, reading->line);
    const struct run_config_key *key = key_find(full);
    if (key != NULL) {
        bool *given = &reading->given[key - run_config_keys];
        if (*given) {
            reading->code = error_set(reading->error, ERROR_ARGUMENT, "%s%s: given a second time", place, full);
            return 1;
        }
        *given = true;
    }
    reading->code = assign(reading->config, full, value, place, reading->error);
    return 1;
}

int run_config_read(struct run_config *config, const char *path, struct error *error) {
    CHECK(run_config_key_count <= 128, "too many keys for struct ini_reading");
    char *text;
    int64_t size;
    int code = file_read(&text, &size, path, FILE_LIMIT, error);
    if (code != 0) {
        return code;
    }
    if ((int64_t)strlen(text) != size) {
        code = error_set(error, ERROR_FORMAT, "%s: found a zero byte, expected text", path);
        goto out;
    }
    struct ini_reading reading = {.config = config, .path = path, .rest = text, .error = error};
    int line = ini_parse_stream(next_line, &reading, take_pair, &reading);
    code = reading.code;
    if (line > 0 &&
        (code == 0 || line < reading.line)) {   // the parser goes on after a malformed line: the first mistake counts
        error_clear(error);
        code = error_set(error, ERROR_FORMAT, "%s:%d: expected \"[section]\" or \"key = value\"", path, line);
    } else if (code == 0 && line < 0) {
        code = error_set(error, ERROR_MEMORY, "%s: out of memory", path);
    }

out:
    memory_free(text);
    return code;
}

int run_config_override(struct run_config *config, const char *assignment, struct error *error) {
    const char *equals = strchr(assignment, '=');
    char name[256];
    if (equals == NULL || equals == assignment || equals - assignment >= (ptrdiff_t)sizeof name) {
        return error_set(error, ERROR_ARGUMENT, "command line: found \"%s\", expected section.key=value", assignment);
    }
    snprintf(name, sizeof name, "%.*s", (int)(equals - assignment), assignment);
    return assign(config, name, equals + 1, "command line: ", error);
}

static void duration_finish(struct duration *duration, const struct train_section *train) {
    if (duration->unit == DURATION_PERCENT) {
        int64_t length = train->steps > 0 ? train->steps : train->tokens;
        duration->unit = train->steps > 0 ? DURATION_STEPS : DURATION_TOKENS;
        duration->count = (int64_t)(duration->percent / 100 * (double)length + 0.5);
        duration->percent = 0;
    }
}

static int check_curve(struct schedule_section *schedule, struct error *error) {
    if (schedule->decay_start.unit == DURATION_NEVER) {
        schedule->decay_end = schedule->decay_start;   // it has no say, so that it may not stand in a resumed run's way
        return 0;
    }
    if (schedule->decay_end.unit != schedule->decay_start.unit ||
        schedule->decay_end.count < schedule->decay_start.count) {
        return error_set(
            error, ERROR_ARGUMENT,
            "schedule.decay_end: expected a duration in the same unit as schedule.decay_start and not before it");
    }
    return 0;
}

static int check_batch(const struct run_config *config, struct error *error) {
    int64_t shards = config->train.reduction_shards, start = config->schedule.batch_start;
    if ((shards & (shards - 1)) != 0) {
        return error_set(error, ERROR_ARGUMENT, "train.reduction_shards: found %lld, expected a power of two",
                         (long long)shards);
    }
    if (config->train.batch % shards != 0) {
        return error_set(error, ERROR_ARGUMENT,
                         "train.batch: found %lld, expected a multiple of train.reduction_shards, %lld",
                         (long long)config->train.batch, (long long)shards);
    }
    if (start % shards != 0 || start > config->train.batch) {
        return error_set(
            error, ERROR_ARGUMENT,
            "schedule.batch_start: found %lld, expected a multiple of train.reduction_shards, %lld, up to train.batch, "
            "%lld",
            (long long)start, (long long)shards, (long long)config->train.batch);
    }
    if (start > 0 && (config->schedule.batch_ramp.unit == DURATION_NEVER || config->schedule.batch_ramp.count == 0)) {
        return error_set(error, ERROR_ARGUMENT,
                         "schedule.batch_ramp: expected a duration, since schedule.batch_start is given");
    }
    return 0;
}

int run_config_finish(struct run_config *config, struct error *error) {
    if (config->model.config[0] == '\0' && config->model.init_from[0] == '\0') {
        return error_set(error, ERROR_ARGUMENT, "model.config: expected a path (or model.init_from)");
    }
    if (config->data.path[0] == '\0') {
        return error_set(error, ERROR_ARGUMENT, "data.path: expected the folder written by `minke prepare`");
    }
    if (config->train.out[0] == '\0') {
        return error_set(error, ERROR_ARGUMENT, "train.out: expected the run folder (or --out DIR)");
    }
    if ((config->train.steps > 0) == (config->train.tokens > 0)) {
        return error_set(error, ERROR_ARGUMENT, "train.steps or train.tokens: expected one of them to be above 0");
    }
    struct schedule_section *schedule = &config->schedule;
    struct duration *durations[] = {&schedule->warmup,       &schedule->decay_start, &schedule->decay_end,
                                    &schedule->tail_start,   &schedule->batch_ramp,  &schedule->gamma_end,
                                    &schedule->lambda_switch};
    for (size_t i = 0; i < sizeof durations / sizeof durations[0]; i++) {
        duration_finish(durations[i], &config->train);
    }
    int code = check_curve(schedule, error);
    return code != 0 ? code : check_batch(config, error);
}

// The shortest of %.15g and %.17g that reads back as the same number.
static void number_text(char *text, size_t capacity, double value) {
    snprintf(text, capacity, "%.15g", value);
    if (strtod(text, NULL) != value) {
        snprintf(text, capacity, "%.17g", value);
    }
}

static void value_text(char text[VALUE_TEXT], const struct run_config *config, const struct run_config_key *key) {
    const char *source = (const char *)config + key->offset;
    int64_t count;
    double number;
    struct duration duration;
    switch (key->type) {
    case KEY_PATH:
        snprintf(text, VALUE_TEXT, "%s", source);
        break;
    case KEY_COUNT:
        memcpy(&count, source, sizeof count);
        snprintf(text, VALUE_TEXT, "%lld", (long long)count);
        break;
    case KEY_NUMBER:
        memcpy(&number, source, sizeof number);
        number_text(text, VALUE_TEXT, number);
        break;
    case KEY_BOOLEAN:
        snprintf(text, VALUE_TEXT, "%s", *(const bool *)source ? "true" : "false");
        break;
    case KEY_CHOICE:
        memcpy(&count, source, sizeof count);
        choice_text(text, VALUE_TEXT, key->choices, count);
        break;
    case KEY_DURATION:
        memcpy(&duration, source, sizeof duration);
        if (duration.unit == DURATION_PERCENT) {
            number_text(text, VALUE_TEXT - 1, duration.percent);
            text[strlen(text) + 1] = '\0';
            text[strlen(text)] = '%';
        } else if (duration.unit == DURATION_NEVER) {
            snprintf(text, VALUE_TEXT, "never");
        } else {
            snprintf(text, VALUE_TEXT, "%lld %s", (long long)duration.count,
                     duration.unit == DURATION_STEPS ? "steps" : "tokens");
        }
        break;
    }
}

// In FP8, tiles of tokens end with a micro-batch, with AMX blocks of a sum over tokens do: its size decides about bits.
// AMX itself has an order of sums of its own; the other instruction sets share one.
static bool is_fixed(const struct run_config_key *key, const struct run_config *config) {
    bool micro_batch = key->offset == offsetof(struct run_config, train.micro_batch);
    bool isa = key->offset == offsetof(struct run_config, train.isa), amx = config->train.isa == ISA_AMX;
    return key->fixed || (micro_batch && (config->train.precision == PRECISION_FP8 || amx)) || (isa && amx);
}

bool run_config_fixed(const struct run_config *config, int index, const char **name, char value[RUN_CONFIG_VALUE]) {
    for (int i = 0; i < run_config_key_count; i++) {
        if (is_fixed(&run_config_keys[i], config) && index-- == 0) {
            char text[VALUE_TEXT];
            value_text(text, config, &run_config_keys[i]);
            CHECK(strlen(text) < RUN_CONFIG_VALUE, "%s is a path", run_config_keys[i].name);
            memcpy(value, text, strlen(text) + 1);
            *name = run_config_keys[i].name;
            return true;
        }
    }
    return false;
}

struct text_buffer {
    char *text;
    size_t used;
};

static void put(struct text_buffer *buffer, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(struct text_buffer *buffer, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(buffer->text + buffer->used, TEXT_CAPACITY - buffer->used, format, arguments);
    va_end(arguments);
    CHECK(length >= 0 && (size_t)length < TEXT_CAPACITY - buffer->used, "configuration text is too long");
    buffer->used += (size_t)length;
}

// The help as comment lines, then type and range.
static void put_help(struct text_buffer *buffer, const struct run_config_key *key) {
    for (const char *line = key->help; *line != '\0';) {
        int length = (int)strcspn(line, "\n");
        put(buffer, "; %.*s\n", length, line);
        line += length + (line[length] == '\n');
    }
    const char *when = key->fixed ? "; fixed for the run" : "";
    switch (key->type) {
    case KEY_PATH:
        put(buffer, "; (path)\n");
        break;
    case KEY_COUNT:
        put(buffer, "; (whole number, %.15g to %.15g%s)\n", key->minimum, key->maximum, when);
        break;
    case KEY_NUMBER:
        put(buffer, "; (number, %.15g to %.15g%s)\n", key->minimum, key->maximum, when);
        break;
    case KEY_BOOLEAN:
        put(buffer, "; (true or false%s)\n", when);
        break;
    case KEY_CHOICE:
        put(buffer, "; (%s%s)\n", key->choices, when);
        break;
    case KEY_DURATION:
        put(buffer, "; (duration: steps, tokens, %% of the run, never%s)\n", when);
        break;
    }
}

static char *table_text(const struct run_config *config, bool help, struct error *error) {
    struct text_buffer buffer = {.text = memory_allocate(TEXT_CAPACITY, 1, "configuration text", error)};
    if (buffer.text == NULL) {
        return NULL;
    }
    const char *section = "";
    for (int i = 0; i < run_config_key_count; i++) {
        const struct run_config_key *key = &run_config_keys[i];
        size_t length = strcspn(key->name, ".");
        if (strncmp(section, key->name, length + 1) != 0) {
            put(&buffer, "%s[%.*s]\n", i > 0 ? "\n" : "", (int)length, key->name);
            section = key->name;
        }
        if (help) {
            put_help(&buffer, key);
        }
        char value[VALUE_TEXT];
        value_text(value, config, key);
        put(&buffer, "%s =%s%s\n", key->name + length + 1, value[0] != '\0' ? " " : "", value);
    }
    return buffer.text;
}

char *run_config_text(const struct run_config *config, struct error *error) {
    return table_text(config, false, error);
}

char *run_config_reference(struct error *error) {
    struct run_config config;
    run_config_defaults(&config);
    return table_text(&config, true, error);
}
