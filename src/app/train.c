// `minke train`: runs the trainer of train/trainer.h on a configuration file. Messages and progress on stderr,
// everything else in the run folder.
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "app/app.h"
#include "app/options.h"
#include "base/log.h"
#include "base/memory.h"
#include "train/trainer.h"

static volatile sig_atomic_t stop_signal;

// The first signal asks the trainer to stop after its step; the second ends the process at once, as if there were no
// handler.
static void on_signal(int number) {
    stop_signal = number;
}

static void catch_signals(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND | SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static int print_reference(void) {
    struct error error = {0};
    char *text = run_config_reference(&error);
    if (text == NULL) {
        log_error("%s", error.text);
        return 1;
    }
    printf("; Every key of a run configuration with its default; on the command line: section.key=value\n\n%s", text);
    memory_free(text);
    return 0;
}

struct train_arguments {
    char **list;   // RUN.ini and assignments
    int count;
    const char *out;
    bool resume, help_config;
    struct common_options common;
};

static int read_run(struct run_config *run, const struct train_arguments *arguments, struct error *error) {
    int code = 0;
    run_config_defaults(run);
    // Files first, so that an assignment counts wherever it stands.
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; code == 0 && i < arguments->count; i++) {
            bool assignment = strchr(arguments->list[i], '=') != NULL;
            if (pass == 0 && !assignment) {
                code = run_config_read(run, arguments->list[i], error);
            } else if (pass == 1 && assignment) {
                code = run_config_override(run, arguments->list[i], error);
            }
        }
    }
    if (code == 0 && arguments->out != NULL) {
        if (strlen(arguments->out) >= sizeof run->train.out) {
            return error_set(error, ERROR_LIMIT, "--out: found %zu bytes, expected a path of at most %zu",
                             strlen(arguments->out), sizeof run->train.out - 1);
        }
        memcpy(run->train.out, arguments->out, strlen(arguments->out) + 1);
    }
    if (arguments->common.threads > 0) {
        run->train.threads = arguments->common.threads;
    }
    if (arguments->common.isa != ISA_BEST) {
        run->train.isa = (int64_t)arguments->common.isa;   // the key's choices stand in the order of the enum
    }
    return code == 0 ? run_config_finish(run, error) : code;
}

static int run_training(const struct run_config *run, bool resume) {
    struct error error = {0};
    struct trainer *trainer = NULL;
    bool finished = false;
    int code = trainer_create(&trainer, run, resume, &error);
    if (code == 0) {
        catch_signals();
        code = trainer_run(trainer, &finished, &stop_signal, &error);
    }
    int64_t step = trainer != NULL ? trainer->state.step : 0;
    trainer_destroy(trainer);
    if (code != 0) {
        log_error("train: %s", error.text);
        return 1;
    }
    if (!finished) {
        log_info("stopped by a signal after step %lld; its checkpoint is written, --resume goes on", (long long)step);
        return 128 + (int)stop_signal;
    }
    log_info("the model is in %s/checkpoints/latest", run->train.out);
    return 0;
}

int command_train(int argc, char **argv) {
    struct train_arguments arguments = {0};
    const struct command_option options[] = {
        {.name = "out", .argument = "DIR", .help = "run folder (train.out)", .text = &arguments.out},
        {.name = "resume",
         .help = "go on from the newest whole checkpoint in the run folder",
         .flag = &arguments.resume},
        {.name = "help-config",
         .help = "print every configuration key with its default",
         .flag = &arguments.help_config},
        {0},
    };
    const struct command_positional positionals[] = {
        {.name = "RUN.ini",
         .help = "configuration file, then any section.key=value",
         .list = &arguments.list,
         .count = &arguments.count},
        {0},
    };
    const struct command_syntax syntax = {
        .name = "train",
        .summary = "train a model: metrics in DIR/metrics.jsonl, complete Hugging Face directories in DIR/checkpoints",
        .description =
            "SIGINT and SIGTERM finish the step, write a checkpoint and leave with status 130 or 143; a second one\n"
            "ends at once. --resume goes on from the newest checkpoint that is whole, with the bits of a run that\n"
            "never stopped.\n"
            "Later files and assignments win over earlier ones; --out, --threads and --isa win over all.",
        .examples = "  minke train examples/demo.ini --out run\n"
                    "  minke train examples/demo.ini --out run --resume --threads 4\n"
                    "  minke train examples/demo.ini --out other train.steps=100 schedule.gamma=0",
        .options = options,
        .positionals = positionals,
        .common = &arguments.common,
    };
    int status;
    if (!options_parse(&syntax, argc, argv, &status)) {
        return status;
    }
    if (arguments.help_config) {
        return print_reference();
    }
    if (arguments.count == 0) {
        log_error("train: RUN.ini is missing; see `minke train --help`");
        return 2;
    }
    struct run_config run;
    struct error error = {0};
    if (read_run(&run, &arguments, &error) != 0) {
        log_error("train: %s", error.text);
        return 2;
    }
    return run_training(&run, arguments.resume);
}
