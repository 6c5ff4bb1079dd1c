// libFuzzer: any text as a config.json. What is accepted can be counted, walked, written and read back as the same
// configuration.
#include <stdint.h>
#include <string.h>

#include "model/params.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define TABLE_LIMIT (8 << 20)   // bytes of tables for a walk: huge layer counts are legal but slow

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
    float table[2 * 32768];
    arena_init(&arena, "fuzz");
    params_create(&params, config, &arena);
    params_visit(&params, config, add_up, &total, NULL);
    CHECK(total == count.total + count.mtp_unique, "%lld parameters", (long long)total);
    model_rope_table(table, 1, config);
    (void)model_softmax_scale(config);
    (void)model_router_rule(config);
    arena_destroy(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct error error = {0};
    struct model_config config;
    json_t *root;
    if (json_parse(&root, (const char *)data, size, "fuzz", &error) != 0) {
        return 0;
    }
    int code = model_config_from_json(&config, root, "fuzz", &error);
    CHECK(code == error.code && (code == 0 || error.text[0] != 0), "code %d", code);
    if (code == 0) {
        walk(&config);
    }
    json_decref(root);
    return 0;
}
