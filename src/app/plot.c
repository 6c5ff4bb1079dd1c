// `minke plot`: metrics.jsonl of one or more runs -> one picture, drawn by gnuplot.
#include <errno.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "app/app.h"
#include "app/options.h"
#include "app/plot_compare.h"
#include "app/plot_draw.h"
#include "app/plot_metrics.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"

extern char **environ;

// Writes the script into a file in memory. Returns its stream, at the beginning.
static FILE *make_script(const struct plot_picture *picture, struct error *error) {
    int descriptor = memfd_create("gnuplot script", MFD_CLOEXEC);
    FILE *script = descriptor < 0 ? NULL : fdopen(descriptor, "w+");
    if (script == NULL) {
        error_set_errno(error, "plot: cannot make a temporary file");
        if (descriptor >= 0) {
            close(descriptor);
        }
        return NULL;
    }
    plot_draw(script, picture);
    if (fflush(script) != 0 || ferror(script) || lseek(descriptor, 0, SEEK_SET) != 0) {
        error_set_errno(error, "plot: cannot write a temporary file");
        fclose(script);
        return NULL;
    }
    return script;
}

// Runs gnuplot on a script; what it says goes to `messages`.
static int run_gnuplot(FILE *script, int messages, struct error *error) {
    char name[] = "gnuplot";
    char *arguments[] = {name, NULL};
    posix_spawn_file_actions_t actions;
    pid_t child;
    int status, code = 0;
    if (posix_spawn_file_actions_init(&actions) != 0) {
        return error_set(error, ERROR_MEMORY, "gnuplot: out of memory");
    }
    int reason = posix_spawn_file_actions_adddup2(&actions, fileno(script), STDIN_FILENO);
    reason = reason == 0 ? posix_spawn_file_actions_adddup2(&actions, messages, STDERR_FILENO) : reason;
    reason = reason == 0 ? posix_spawnp(&child, "gnuplot", &actions, NULL, arguments, environ) : reason;
    posix_spawn_file_actions_destroy(&actions);
    if (reason == ENOENT) {
        return error_set(error, ERROR_IO, "gnuplot is not installed; Debian has it in the package gnuplot-nox");
    }
    if (reason != 0) {
        errno = reason;
        return error_set_errno(error, "gnuplot: cannot start it");
    }
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) {
            return error_set_errno(error, "gnuplot: cannot wait for it");
        }
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        char text[400] = "";
        ssize_t count = pread(messages, text, sizeof text - 1, 0);
        text[count > 0 ? count : 0] = '\0';
        // gnuplot repeats the command and points at a column below it: one line keeps the words.
        size_t used = 0;
        for (const char *at = text; *at != '\0'; at++) {
            bool blank = *at == ' ' || *at == '\n' || *at == '\t';
            if (!blank || (used > 0 && text[used - 1] != ' ')) {
                text[used++] = blank ? ' ' : *at;
            }
        }
        text[used] = '\0';
        code = error_set(error, ERROR_IO, "gnuplot failed: %s", text);
    }
    return code;
}

static int draw(const struct plot_picture *picture, struct error *error) {
    FILE *script = make_script(picture, error);
    if (script == NULL) {
        return error->code;
    }
    int messages = memfd_create("gnuplot messages", MFD_CLOEXEC);
    int code = messages < 0 ? error_set_errno(error, "plot: cannot make a temporary file")
                            : run_gnuplot(script, messages, error);
    if (messages >= 0) {
        close(messages);
    }
    fclose(script);
    return code;
}

// Draws beside the picture and renames: an old picture stays until the new one is complete.
static int write_picture(const struct plot_run *runs, int run_count, const char *directory, const char *format,
                         struct error *error) {
    char *path = memory_format(error, "%s/%s.%s", directory, run_count == 1 ? "run" : "compare", format);
    char *temporary = memory_format(error, "%s/.plot.tmp-%ld", directory, (long)getpid());
    int code = path == NULL || temporary == NULL ? ERROR_MEMORY : file_make_directory(directory, error);
    if (code == 0) {
        // gnuplot goes on without a word when it cannot write, so that is tried first.
        code = file_write_text(temporary, "", error);
    }
    if (code == 0) {
        const struct plot_picture picture = {
            .terminal = format, .output = temporary, .runs = runs, .run_count = run_count};
        code = draw(&picture, error);
        if (code == 0) {
            struct mapped_file file;
            code = file_map(&file, temporary, error);
            if (code == 0 && file.size == 0) {
                code = error_set(error, ERROR_IO, "%s: gnuplot wrote nothing (is the disk full?)", path);
            }
            file_unmap(&file);
        }
        code = code == 0 ? file_rename(temporary, path, error) : code;
        if (code != 0) {
            unlink(temporary);
        }
    }
    if (code == 0) {
        printf("%s\n", path);
    }
    memory_free(path);
    memory_free(temporary);
    return code;
}

static int run(char *const *directories, int count, const char *output, const char *format) {
    struct error error = {0};
    struct plot_run runs[PLOT_RUNS_MAXIMUM] = {0};
    int code = 0;
    for (int i = 0; i < count && code == 0; i++) {
        code = plot_run_read(&runs[i], directories[i], &error);
    }
    if (code == 0) {
        for (int i = 1; i < count; i++) {
            plot_compare_print(stdout, &runs[i], &runs[0]);
        }
        code = write_picture(runs, count, output != NULL ? output : directories[0], format, &error);
    }
    for (int i = 0; i < count; i++) {
        plot_run_free(&runs[i]);
    }
    if (code != 0) {
        log_error("%s", error.text);
    }
    return code == 0 ? 0 : 1;
}

int command_plot(int argc, char **argv) {
    const char *output = NULL, *format = "png";
    char **directories = NULL;
    int count = 0, status;
    const struct command_option rows[] = {
        {.name = "output",
         .letter = 'o',
         .argument = "DIR",
         .help = "folder of the picture (the first RUN_DIR)",
         .text = &output},
        {.name = "format", .argument = "F", .help = "of the picture (png)", .text = &format, .choices = "png|svg"},
        {0},
    };
    const struct command_positional positionals[] = {
        {.name = "RUN_DIR",
         .help = "folders with a metrics.jsonl",
         .list = &directories,
         .count = &count,
         .minimum = 1},
        {0},
    };
    const struct command_syntax syntax = {
        .name = "plot",
        .summary = "draw the pictures of training runs",
        .description =
            "Draws loss, validation, learning rate, gradient norm and the balance of the experts, over the tokens\n"
            "of a run: RUN_DIR/run.png. Several runs are drawn into one picture, compare.png, and the losses of\n"
            "all but the first are compared with it over the second half of the steps. Needs gnuplot.",
        .examples = "  minke plot run\n  minke plot run-gamma run-no-gamma -o pictures --format svg\n",
        .options = rows,
        .positionals = positionals,
    };
    if (!options_parse(&syntax, argc, argv, &status)) {
        return status;
    }
    if (count > PLOT_RUNS_MAXIMUM) {
        log_error("plot: found %d runs, expected at most %d", count, PLOT_RUNS_MAXIMUM);
        return 2;
    }
    return run(directories, count, output, format);
}
