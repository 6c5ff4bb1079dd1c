// Any text as the .ini file of a run, and lines behind it as overrides of the command line. What is accepted and
// consistent is written, read back as the same configuration, and consistent again.
#include <string.h>

#include "base/memory.h"
#include "fuzz/fuzz.h"
#include "train/run_config.h"

const bool fuzz_leaves_memory = false;

void fuzz_open(void) {
    (void)fuzz_directory();
}

static void check_again(const struct run_config *config) {
    struct error error = {0};
    static struct run_config again;
    char *text = run_config_text(config, &error);
    CHECK(text != NULL, "%s", error.text);
    const char *path = fuzz_file("again.ini", text, strlen(text));
    run_config_defaults(&again);
    CHECK(run_config_read(&again, path, &error) == 0, "what was written is refused: %s\n%s", error.text, text);
    char *second = run_config_text(&again, &error);
    CHECK(second != NULL && strcmp(text, second) == 0, "%s\n%s", text, second);
    CHECK(run_config_finish(&again, &error) == 0, "%s", error.text);
    memory_free(second);
    memory_free(text);
}

void fuzz_one(const uint8_t *data, size_t size) {
    struct fuzz_input input = {data, size};
    static struct fuzz_part part;
    static struct run_config config;
    struct error error = {0};
    part = fuzz_take(&input);
    run_config_defaults(&config);
    int code = run_config_read(&config, fuzz_file("run.ini", part.text, part.size), &error);
    while (code == 0 && input.size > 0) {
        part = fuzz_take(&input);
        code = run_config_override(&config, part.text, &error);
    }
    if (code == 0 && (code = run_config_finish(&config, &error)) == 0) {
        const char *name;
        char value[RUN_CONFIG_VALUE];
        for (int i = 0; run_config_fixed(&config, i, &name, value); i++) {
            CHECK(name[0] != '\0' && strlen(value) < sizeof value, "%s", name);
        }
        check_again(&config);
    }
    CHECK(code == error.code && (code == 0 || error.text[0] != 0), "code %d", code);
}
