// Command lines, described by tables. argv in -> typed variables out, or one line that says what is wrong; `--help` is
// made from the same tables.
//
//     static int64_t count = 64;                       (the default is what the variable holds)
//     double temperature = 1.0;
//     const char *directory = NULL;
//     const struct command_option options[] = {
//         {.name = "tokens", .letter = 'n', .argument = "N", .help = "tokens to write", .integer = &count,
//          .minimum = 1},
//         {.name = "temp", .argument = "T", .help = "sampling temperature", .number = &temperature, .least = 0,
//          .most = 10},
//         {.name = "no-mtp", .help = "do not draft with the MTP head", .flag = &no_mtp},
//         {.name = "dtype", .argument = "D", .help = "storage format", .text = &dtype, .choices = "bf16|fp8|f32"},
//         {0},
//     };
//     const struct command_positional positionals[] = {
//         {.name = "MODEL_DIR", .help = "a Hugging Face directory", .text = &directory},
//         {0},
//     };
//     struct common_options common = {0};
//     const struct command_syntax syntax = {.name = "generate", .summary = ..., .options = options,
//                                           .positionals = positionals, .common = &common};
//     int status;
//     if (!options_parse(&syntax, argc, argv, &status)) {
//         return status;
//     }
//
// Accepted: --name VALUE, --name=VALUE, -n VALUE, -nVALUE, flags without a value, options and positionals in any order,
// `--` before positionals that start with '-' (a lone "-" is a positional). A repeated option: the last one counts.
#ifndef MINKE_APP_OPTIONS_H
#define MINKE_APP_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "op/ops.h"

// Exactly one of flag, integer, number and text is set: where the value goes.
struct command_option {
    const char *name;       // without the dashes; NULL ends the table
    char letter;            // short form, 0 = none
    const char *argument;   // the value's name in the help, e.g. "N"
    const char *help;       // one line; the default is appended by the caller where it helps
    bool *flag;
    int64_t *integer;
    int64_t minimum, maximum;   // of an integer, inclusive; both 0 = any
    double *number;
    double least, most;    // of a number, inclusive; both 0 = any finite
    const char **text;     // points into argv
    const char *choices;   // of a text: "a|b|c"; NULL = anything
    bool *given;           // may be NULL: set to true when the option appears
};

// text: exactly one argument (or at most one when `optional`). list and count: all remaining arguments, at least
// `minimum`; the last row only.
struct command_positional {
    const char *name;   // in capitals; NULL ends the table
    const char *help;
    const char **text;
    bool optional;
    char ***list;   // points into argv
    int *count;
    int minimum;
};

// Options that most commands share: --threads, --isa, --quiet. --quiet takes effect at once (log_set_level).
struct common_options {
    int64_t threads;   // 0 = one per CPU, as pool_create has it
    enum isa isa;      // zero-initialised by the caller; ISA_BEST unless asked for
    bool quiet;
};

struct command_syntax {
    const char *name;                               // of the command
    const char *summary;                            // one line
    const char *description;                        // further lines for --help, or NULL
    const char *examples;                           // lines for --help, or NULL
    const struct command_option *options;           // NULL = none
    const struct command_positional *positionals;   // NULL = none
    struct common_options *common;                  // NULL = the command does not take them
};

// Returns true when the command should run. Otherwise *status is its exit status: 0 after --help (printed on stdout),
// 2 after a mistake (reported on stderr).
bool options_parse(const struct command_syntax *syntax, int argc, char **argv, int *status);

// The same without printing: 0, 1 for --help, or a negative code with *error filled. argv is permuted: list positionals
// come to stand together.
int options_read(const struct command_syntax *syntax, int argc, char **argv, struct error *error);
void options_print_help(const struct command_syntax *syntax);

#endif
