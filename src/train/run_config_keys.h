// One row of the table of keys (private to run_config).
#ifndef MINKE_TRAIN_RUN_CONFIG_KEYS_H
#define MINKE_TRAIN_RUN_CONFIG_KEYS_H

#include "train/run_config.h"

enum key_type { KEY_PATH, KEY_COUNT, KEY_NUMBER, KEY_BOOLEAN, KEY_CHOICE, KEY_DURATION };

struct run_config_key {
    const char *name;   // "section.key"
    enum key_type type;
    size_t offset;             // in struct run_config
    const char *fallback;      // the default, in the syntax of the file
    double minimum, maximum;   // KEY_COUNT and KEY_NUMBER, inclusive
    const char *choices;       // KEY_CHOICE: "a|b|c", value = position
    bool fixed;                // may not change on --resume
    const char *help;          // one or more lines
};
extern const struct run_config_key run_config_keys[];
extern const int run_config_key_count;

#endif
