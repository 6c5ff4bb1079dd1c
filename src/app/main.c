// The program `minke`: picks a subcommand. argv in -> exit status out.
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "app/app.h"
#include "base/file.h"
#include "base/log.h"
#include "base/spelling.h"
#include "minke.h"

static int run_help(int argc, char **argv);
static int run_version(int argc, char **argv);

static const struct command commands[] = {
#define COMMAND(name, summary) {#name, summary, command_##name},
#include "app/commands.h"
#undef COMMAND
    // Always there, after the others.
    {"help", "explain a command", run_help},
    {"version", "print the version", run_version},
};
#define COMMANDS (sizeof commands / sizeof commands[0])

static const struct command *command_find(const char *name) {
    for (size_t i = 0; i < COMMANDS; i++) {
        if (strcmp(commands[i].name, name) == 0) {
            return &commands[i];
        }
    }
    return NULL;
}

static int unknown_command(const char *name) {
    const struct command *nearest = NULL;
    int best = 3;   // further away it is no misspelling
    for (size_t i = 0; i < COMMANDS; i++) {
        int distance = spelling_distance(name, commands[i].name);
        if (distance < best) {
            best = distance;
            nearest = &commands[i];
        }
    }
    if (nearest != NULL) {
        log_error("unknown command \"%s\"; did you mean \"%s\"?", name, nearest->name);
    } else {
        log_error("unknown command \"%s\"; `minke --help` lists them", name);
    }
    return 2;
}

static void print_overview(void) {
    printf("minke %s: trains and runs models of the DeepSeek-V3 architecture\n\n", MINKE_VERSION);
    printf("usage: minke COMMAND [ARGUMENTS]\n\n");
    for (size_t i = 0; i < COMMANDS; i++) {
        printf("  %-12s %s\n", commands[i].name, commands[i].summary);
    }
    printf("\n`minke help COMMAND` or `minke COMMAND --help` explains a command.\n");
}

static int run_help(int argc, char **argv) {
    if (argc < 2 || strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0) {
        print_overview();
        return 0;
    }
    const struct command *command = command_find(argv[1]);
    if (command == NULL) {
        return unknown_command(argv[1]);
    }
    char help[] = "--help";
    char *arguments[] = {argv[1], help, NULL};
    return command->run(2, arguments);
}

static int run_version(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--help") == 0) {
        printf("usage: minke version\n\nPrints the version.\n");
        return 0;
    }
    printf("minke %s\n", MINKE_VERSION);
    return 0;
}

// Reading a mapped file that shrank or cannot be read any more: one line instead of "Bus error". Only calls that are
// allowed in a signal handler.
static void on_bus_error(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    const char *path = file_mapped_path(info->si_addr);
    const char *parts[] = {"minke: ", path != NULL ? path : "memory",
                           ": cannot be read: the file was truncated while in use, or its disk failed\n"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (write(STDERR_FILENO, parts[i], strlen(parts[i])) < 0) {
            break;
        }
    }
    _exit(1);
}

int main(int argc, char **argv) {
    struct sigaction bus = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &bus, NULL);
    if (argc < 2) {
        print_overview();
        return 2;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        name = "help";
    } else if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        name = "version";
    }
    const struct command *command = command_find(name);
    if (command == NULL) {
        return unknown_command(name);
    }
    int status = command->run(argc - 1, argv + 1);
    // A result that could not be written is a failure: a full disk behind a pipe or a redirection.
    if (fflush(stdout) != 0 || ferror(stdout)) {
        log_error("standard output: cannot write");
        status = status != 0 ? status : 1;
    }
    return status;
}
