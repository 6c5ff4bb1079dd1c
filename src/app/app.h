// One subcommand of the program: a row of the table in main.c. A command is one file src/app/<name>.c with
// `int command_<name>(int argc, char **argv)` and one line in src/app/commands.h.
//
// argv[0] is the command's name; the return value is the exit status (0 only on success). Results go to stdout,
// messages to stderr.
#ifndef MINKE_APP_APP_H
#define MINKE_APP_APP_H

struct command {
    const char *name;
    const char *summary;   // one line for `minke --help`
    int (*run)(int argc, char **argv);
};

// Declares command_<name> for every line of commands.h.
#define COMMAND(name, summary) int command_##name(int argc, char **argv);
#include "app/commands.h"
#undef COMMAND

#endif
