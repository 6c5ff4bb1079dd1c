// Table-driven command lines (options.h has the rules).
#include "app/options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/spelling.h"

#define COMMON_OPTIONS 4   // three and the end of the table

// The shared rows, with destinations of their own: `isa_text` is turned into an enum after parsing.
static void common_table(struct command_option table[COMMON_OPTIONS], struct common_options *common,
                         const char **isa_text) {
    table[0] = (struct command_option){.name = "threads",
                                       .argument = "N",
                                       .help = "threads to work with (default: one per CPU)",
                                       .integer = &common->threads,
                                       .minimum = 0,
                                       .maximum = 1024};
    table[1] = (struct command_option){.name = "isa",
                                       .argument = "I",
                                       .help = "instruction set; amx sums in another order",
                                       .text = isa_text,
                                       .choices = "scalar|avx2|avx512|amx"};
    table[2] = (struct command_option){
        .name = "quiet", .help = "print warnings and errors only", .flag = &common->quiet};
    table[3] = (struct command_option){0};
}

static bool name_equals(const char *name, const char *text, size_t length) {
    return strlen(name) == length && memcmp(name, text, length) == 0;
}

static const struct command_option *find_in(const struct command_option *table, const char *name, size_t length,
                                            char letter) {
    for (; table != NULL && table->name != NULL; table++) {
        if (letter != 0 ? table->letter == letter : name_equals(table->name, name, length)) {
            return table;
        }
    }
    return NULL;
}

static const char *nearest_name(const struct command_option *table, const char *name, const char *best, int *distance) {
    for (; table != NULL && table->name != NULL; table++) {
        int candidate = spelling_distance(name, table->name);
        if (candidate < *distance) {
            *distance = candidate;
            best = table->name;
        }
    }
    return best;
}

// Whether `text` is one of the words of "a|b|c".
static bool is_choice(const char *choices, const char *text) {
    size_t length = strlen(text);
    while (*choices != '\0') {
        size_t word = strcspn(choices, "|");
        if (word == length && memcmp(choices, text, length) == 0) {
            return true;
        }
        choices += word + (choices[word] == '|');
    }
    return false;
}

static int store_integer(const struct command_option *option, const char *text, struct error *error) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0) {
        return error_set(error, ERROR_ARGUMENT, "--%s: found \"%s\", expected an integer", option->name, text);
    }
    bool bounded = option->minimum != 0 || option->maximum != 0;
    int64_t maximum = option->maximum < option->minimum ? INT64_MAX
                                                        : option->maximum;   // .minimum = 1 alone: no upper end
    if (bounded && maximum == INT64_MAX && value < option->minimum) {
        return error_set(error, ERROR_ARGUMENT, "--%s: found %lld, expected at least %lld", option->name, value,
                         (long long)option->minimum);
    }
    if (bounded && (value < option->minimum || value > maximum)) {
        return error_set(error, ERROR_ARGUMENT, "--%s: found %lld, expected %lld to %lld", option->name, value,
                         (long long)option->minimum, (long long)maximum);
    }
    *option->integer = value;
    return 0;
}

static int store_number(const struct command_option *option, const char *text, struct error *error) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value - value == 0)) {
        return error_set(error, ERROR_ARGUMENT, "--%s: found \"%s\", expected a number", option->name, text);
    }
    bool bounded = option->least != 0 || option->most != 0;
    if (bounded && !(value >= option->least && value <= option->most)) {
        return error_set(error, ERROR_ARGUMENT, "--%s: found %s, expected %g to %g", option->name, text, option->least,
                         option->most);
    }
    *option->number = value;
    return 0;
}

static int store_value(const struct command_option *option, const char *text, struct error *error) {
    if (option->integer != NULL) {
        return store_integer(option, text, error);
    }
    if (option->number != NULL) {
        return store_number(option, text, error);
    }
    if (option->choices != NULL && !is_choice(option->choices, text)) {
        return error_set(error, ERROR_ARGUMENT, "--%s: found \"%s\", expected one of %s", option->name, text,
                         option->choices);
    }
    *option->text = text;
    return 0;
}

struct reader {
    const struct command_syntax *syntax;
    struct command_option common[COMMON_OPTIONS];
    int argc, next;   // next: index of the argument to look at
    char **argv;
    struct error *error;
};

// Takes the option at argv[next], and its value from the same or the following argument. 0, 1 for --help, or an error.
static int take_option(struct reader *reader) {
    const char *argument = reader->argv[reader->next++];
    bool is_long = argument[1] == '-';
    const char *name = argument + (is_long ? 2 : 1);
    size_t length = is_long ? strcspn(name, "=") : 1;
    if (is_long ? name_equals("help", name, length) : name[0] == 'h' && name[1] == '\0') {
        return 1;
    }
    char letter = is_long ? 0 : name[0];
    const struct command_option *option = find_in(reader->syntax->options, name, length, letter);
    if (option == NULL) {
        option = find_in(reader->common, name, length, letter);
    }
    if (option == NULL) {
        int distance = 3;
        char word[64];
        snprintf(word, sizeof word, "%.*s", (int)(length < sizeof word ? length : sizeof word - 1), name);
        const char *near = is_long ? nearest_name(reader->syntax->options, word, NULL, &distance) : NULL;
        near = is_long ? nearest_name(reader->common, word, near, &distance) : NULL;
        if (near != NULL) {
            return error_set(reader->error, ERROR_ARGUMENT, "unknown option \"%s\"; did you mean --%s?", argument,
                             near);
        }
        return error_set(reader->error, ERROR_ARGUMENT, "unknown option \"%s\"", argument);
    }
    const char *value = name[length] == '\0' ? NULL : name + length + (is_long ? 1 : 0);
    if (option->given != NULL) {
        *option->given = true;
    }
    if (option->flag != NULL) {
        if (value != NULL) {
            return error_set(reader->error, ERROR_ARGUMENT, "--%s: found \"%s\", expected no value", option->name,
                             value);
        }
        *option->flag = true;
        return 0;
    }
    if (value == NULL) {
        if (reader->next >= reader->argc) {
            return error_set(reader->error, ERROR_ARGUMENT, "--%s: found nothing, expected %s", option->name,
                             option->argument != NULL ? option->argument : "a value");
        }
        value = reader->argv[reader->next++];
    }
    return store_value(option, value, reader->error);
}

// Deals the `count` positionals at argv[1...] out to the table.
static int assign_positionals(const struct command_syntax *syntax, char **arguments, int count, struct error *error) {
    const struct command_positional *row = syntax->positionals;
    for (; row != NULL && row->name != NULL; row++) {
        if (row->list != NULL) {
            *row->list = arguments;
            *row->count = count;
            if (count < row->minimum) {
                return error_set(error, ERROR_ARGUMENT, "%s: found %d, expected at least %d (%s)", row->name, count,
                                 row->minimum, row->help);
            }
            return 0;
        }
        if (count == 0 && !row->optional) {
            return error_set(error, ERROR_ARGUMENT, "%s is missing (%s)", row->name, row->help);
        }
        if (count > 0) {
            *row->text = *arguments++;
            count--;
        }
    }
    return count == 0 ? 0 : error_set(error, ERROR_ARGUMENT, "unexpected argument \"%s\"", *arguments);
}

int options_read(const struct command_syntax *syntax, int argc, char **argv, struct error *error) {
    struct reader reader = {.syntax = syntax, .argc = argc, .next = 1, .argv = argv, .error = error};
    const char *isa_text = NULL;
    if (syntax->common != NULL) {
        syntax->common->isa = ISA_BEST;
        common_table(reader.common, syntax->common, &isa_text);
    }
    int count = 0;   // positionals so far, moved to argv[1...]
    bool only_positionals = false;
    while (reader.next < argc) {
        char *argument = argv[reader.next];
        if (!only_positionals && strcmp(argument, "--") == 0) {
            only_positionals = true;
            reader.next++;
        } else if (!only_positionals && argument[0] == '-' && argument[1] != '\0') {
            int code = take_option(&reader);
            if (code != 0) {
                return code;
            }
        } else {
            argv[1 + count++] = argument;
            reader.next++;
        }
    }
    if (isa_text != NULL) {
        syntax->common->isa = strcmp(isa_text, "scalar") == 0 ? ISA_SCALAR
                              : strcmp(isa_text, "avx2") == 0 ? ISA_AVX2
                              : strcmp(isa_text, "amx") == 0  ? ISA_AMX
                                                              : ISA_AVX512;
    }
    return assign_positionals(syntax, argv + 1, count, error);
}

static void print_options(const struct command_option *table) {
    for (; table != NULL && table->name != NULL; table++) {
        char left[64], letter[8] = "    ";
        if (table->letter != 0) {
            snprintf(letter, sizeof letter, "-%c, ", table->letter);
        }
        snprintf(left, sizeof left, "%s--%s%s%s", letter, table->name, table->argument != NULL ? " " : "",
                 table->argument != NULL ? table->argument : "");
        printf("  %-26s %s%s%s\n", left, table->help != NULL ? table->help : "", table->choices != NULL ? ": " : "",
               table->choices != NULL ? table->choices : "");
    }
}

void options_print_help(const struct command_syntax *syntax) {
    printf("usage: minke %s", syntax->name);
    for (const struct command_positional *row = syntax->positionals; row != NULL && row->name != NULL; row++) {
        bool optional = row->optional || (row->list != NULL && row->minimum == 0);
        printf(" %s%s%s%s", optional ? "[" : "", row->name, row->list != NULL ? "..." : "", optional ? "]" : "");
    }
    printf(" [OPTIONS]\n\n%s\n", syntax->summary);
    if (syntax->description != NULL) {
        printf("\n%s\n", syntax->description);
    }
    if (syntax->positionals != NULL && syntax->positionals->name != NULL) {
        printf("\nArguments:\n");
        for (const struct command_positional *row = syntax->positionals; row->name != NULL; row++) {
            printf("  %-26s %s\n", row->name, row->help);
        }
    }
    printf("\nOptions:\n");
    print_options(syntax->options);
    if (syntax->common != NULL) {
        struct command_option common[COMMON_OPTIONS];
        const char *isa_text;
        common_table(common, syntax->common, &isa_text);
        print_options(common);
    }
    printf("  %-26s %s\n", "-h, --help", "this text");
    if (syntax->examples != NULL) {
        printf("\nExamples:\n%s\n", syntax->examples);
    }
}

bool options_parse(const struct command_syntax *syntax, int argc, char **argv, int *status) {
    struct error error = {0};
    int code = options_read(syntax, argc, argv, &error);
    if (code < 0) {
        log_error("%s: %s; see `minke %s --help`", syntax->name, error.text, syntax->name);
        *status = 2;
        return false;
    }
    if (code == 1) {
        options_print_help(syntax);
        *status = 0;
        return false;
    }
    if (syntax->common != NULL && syntax->common->quiet) {
        log_set_level(LOG_WARNING);
    }
    return true;
}
