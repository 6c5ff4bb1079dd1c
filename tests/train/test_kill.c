// A run that is killed (SIGKILL) again and again, at random moments and in the middle of saves, and resumed each time,
// ends with the bytes of the run that nobody disturbed.
#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/rng.h"
#include "train/tiny_run.h"

#define KILLS 20          // at least
#define KILLS_IN_SAVE 6   // of them while a checkpoint was being written
#define LIMIT 400         // then something is wrong

static char *directory;

static int setup(void **state) {
    (void)state;
    directory = tiny_directory();
    log_set_level(LOG_ERROR);
    tiny_prepare(directory, TINY_VARIED);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    test_directory_remove(directory);
    return 0;
}

// Whether a folder of a checkpoint being written stands in the run.
static bool is_saving(const struct run_config *run) {
    DIR *folder = opendir(test_path(run->train.out, "checkpoints"));
    bool found = false;
    for (const struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
        found = found || strncmp(entry->d_name, "saving-step-", 12) == 0;
    }
    if (folder != NULL) {
        closedir(folder);
    }
    return found;
}

static void wait_microseconds(uint64_t microseconds) {
    struct timespec pause = {(time_t)(microseconds / 1000000), (long)(microseconds % 1000000) * 1000};
    nanosleep(&pause, NULL);
}

static pid_t start(const struct run_config *run) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct error error = {0};
        struct trainer *trainer = NULL;
        bool finished = false;
        log_set_level(LOG_ERROR);
        int code = trainer_create(&trainer, run, true, &error);
        code = code != 0 ? code : trainer_run(trainer, &finished, NULL, &error);
        if (code != 0) {
            fprintf(stderr, "%s\n", error.text);
        }
        _exit(code == 0 && finished ? 0 : 1);
    }
    return child;
}

// Waits for the chosen moment or for the end of the child. in_save: the moment a save begins, and a little.
static bool wait_for_moment(const struct run_config *run, pid_t child, int *status, uint64_t delay, bool in_save) {
    if (in_save) {
        while (!is_saving(run)) {
            if (waitpid(child, status, WNOHANG) == child) {
                return false;
            }
        }
        delay /= 64;
    }
    wait_microseconds(delay);
    return waitpid(child, status, WNOHANG) != child;
}

static void test_kill(void **state) {
    (void)state;
    static const char *const keys[] = {
        "train.steps=200", "checkpoint.every=3",      "checkpoint.keep=2",  "train.precision=bf16",
        "train.threads=2", "optimizer.ema_decay=0.9", "validation.every=7", NULL};
    struct run_config whole = tiny_run(directory, "whole", keys), run = tiny_run(directory, "killed", keys);
    tiny_train(&whole, false);
    int kills = 0, in_save = 0;
    for (uint64_t round = 0;; round++) {
        assert_true(round < LIMIT);
        bool enough = kills >= KILLS && in_save >= KILLS_IN_SAVE;
        int status = 0;
        pid_t child = start(&run);
        if (enough) {
            assert_int_equal(waitpid(child, &status, 0), child);
            assert_true(WIFEXITED(status));
            assert_int_equal(WEXITSTATUS(status), 0);
            break;
        }
        bool aim_at_save = round % 2 == 1;
        if (wait_for_moment(&run, child, &status, rng_below(1, 2, round, 60000), aim_at_save)) {
            assert_int_equal(kill(child, SIGKILL), 0);
            assert_int_equal(waitpid(child, &status, 0), child);
        }
        if (WIFSIGNALED(status)) {
            kills++;
            in_save += is_saving(&run);
        } else {
            // It came to its end before the moment: over again from the first step, with the kills that it has.
            assert_int_equal(WEXITSTATUS(status), 0);
            struct error error = {0};
            assert_int_equal(file_remove_tree(run.train.out, &error), 0);
        }
    }
    print_message("%d kills, %d of them inside a save\n", kills, in_save);
    assert_same_checkpoint(tiny_checkpoint(&whole, 200), tiny_checkpoint(&run, 200));
    assert_same_metrics(&whole, &run);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_kill, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
