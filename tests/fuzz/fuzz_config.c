// Any text as a config.json. What is accepted can be counted, walked, written, and read back as the same configuration.
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "fuzz/fuzz.h"
#include "model/params.h"

#define TABLE_LIMIT (8 << 20)   // bytes of tables for a walk: huge layer counts are legal but slow

const bool fuzz_leaves_memory = false;

void fuzz_open(void) {
    (void)fuzz_directory();
}

static int add_up(void *argument, const struct param *param, struct error *error) {
    int64_t *total = argument;
    (void)error;
    *total += param->shape[0] * param->shape[1];
    return 0;
}

static void walk(const struct model_config *config) {
    struct model_count count = model_count_parameters(config);
    CHECK(count.active <= count.total && count.mtp_unique <= count.mtp, "counts");
    if (params_table_bytes(config) > TABLE_LIMIT) {
        return;
    }
    struct model_params params;
    struct arena arena;
    int64_t total = 0;
    static float table[2 * 32768];
    arena_init(&arena, "fuzz");
    params_create(&params, config, &arena);
    params_visit(&params, config, add_up, &total, NULL);
    CHECK(total == count.total + count.mtp_unique, "%lld parameters", (long long)total);
    model_rope_table(table, 1, config);
    (void)model_softmax_scale(config);
    (void)model_router_rule(config);
    arena_destroy(&arena);
}

// Two texts of the same configuration are the same, whatever stands in it that is not written.
static void write_again(const struct model_config *config) {
    const char *path = fuzz_file("config.json", NULL, 0);
    struct error error = {0};
    struct model_config again;
    char *first, *second;
    int64_t first_size, second_size;
    CHECK(model_config_write(config, path, &error) == 0, "%s", error.text);
    CHECK(file_read(&first, &first_size, path, 1 << 20, &error) == 0, "%s", error.text);
    CHECK(model_config_read(&again, path, &error) == 0, "what was written is refused: %s", error.text);
    CHECK(model_config_write(&again, path, &error) == 0, "%s", error.text);
    CHECK(file_read(&second, &second_size, path, 1 << 20, &error) == 0, "%s", error.text);
    CHECK(first_size == second_size && memcmp(first, second, (size_t)first_size) == 0, "%s\n%s", first, second);
    struct model_count before = model_count_parameters(config), after = model_count_parameters(&again);
    CHECK(memcmp(&before, &after, sizeof after) == 0, "parameters");
    // Without experts nothing is written that only matters with them.
    CHECK(config->n_routed_experts == 0 || memcmp(config, &again, sizeof again) == 0, "another configuration: %s",
          first);
    CHECK(memcmp(&config->rope_scaling, &again.rope_scaling, sizeof again.rope_scaling) == 0, "rope");
    memory_free(first);
    memory_free(second);
}

void fuzz_one(const uint8_t *data, size_t size) {
    struct error error = {0};
    struct model_config config;
    json_t *root;
    if (json_parse(&root, (const char *)data, size, "fuzz", &error) != 0) {
        return;
    }
    int code = model_config_from_json(&config, root, "fuzz", &error);
    CHECK(code == error.code && (code == 0 || error.text[0] != 0), "code %d", code);
    if (code == 0) {
        walk(&config);
        write_again(&config);
    }
    json_decref(root);
}
