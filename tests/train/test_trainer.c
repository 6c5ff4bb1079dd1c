// Whole runs of a tiny model: the same bits whatever the threads, the micro-batches and the interruptions; skipped steps; no allocation.
#include <math.h>

#include "base/file.h"
#include "base/memory.h"
#include "train/tiny_run.h"

static char *directory;

static int setup(void **state) {
    (void)state;
    directory = test_directory();
    log_set_level(LOG_ERROR);
    tiny_prepare(directory);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    test_directory_remove(directory);
    return 0;
}

static void first_run(void **state) {
    (void)state;
    struct run_config run = tiny_run(directory, "first", NULL);
    tiny_train(&run, false);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(first_run, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
