// See model_files.h.
#include "app/model_files.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "app/formats.h"
#include "base/log.h"
#include "base/memory.h"

enum minke_cache app_cache(const char *name) {
    return name != NULL && strcmp(name, "fp8") == 0 ? MINKE_CACHE_FP8 : MINKE_CACHE_PLAIN;
}

int app_open_model(struct minke_model **model, const char *directory, const struct common_options *common,
                   const struct model_arguments *arguments) {
    static const char *const names[] = {
        [ISA_SCALAR] = "scalar", [ISA_AVX2] = "avx2", [ISA_AVX512] = "avx512", [ISA_AMX] = "amx", [ISA_BEST] = "auto"};
    struct minke_model_options options = {.threads = (int)common->threads,
                                          .isa = names[common->isa],
                                          .compute = arguments->compute,
                                          .weights = arguments->weights};
    struct minke_error error = {0};
    struct error bad_size = {0};
    if (arguments->ram != NULL && app_parse_size(&options.ram_bytes, arguments->ram, "--ram", 1024, &bad_size) != 0) {
        log_error("%s", bad_size.text);
        return 1;
    }
    if (minke_model_open(model, directory, &options, &error) != 0) {
        log_error("%s", error.text);
        return 1;
    }
    return 0;
}

static double percent(int64_t part, int64_t whole) {
    return whole > 0 ? 100.0 * (double)part / (double)whole : 0.0;
}

void app_report_memory(const struct minke_model *model) {
    struct minke_memory_stats stats;
    minke_model_memory(&stats, model);
    if (stats.limit_bytes == 0) {
        return;
    }
    const double gib = 0x1p30;
    int64_t asked = stats.hits + stats.late + stats.misses;
    log_info("memory: limit %.2f GiB, peak %.2f; resident weights %.2f, and %lld of %lld experts of %.1f MiB",
             (double)stats.limit_bytes / gib, (double)memory_resident_peak() / gib, (double)stats.resident_bytes / gib,
             (long long)stats.slots_used, (long long)stats.experts, (double)stats.expert_bytes / 0x1p20);
    log_info("experts: %.1f %% of %lld requests found theirs, %.1f %% on its way; read %.2f GiB, waited %.2f s; "
             "%.1f %% of %lld guesses were right",
             percent(stats.hits, asked), (long long)asked, percent(stats.late, asked), (double)stats.bytes_read / gib,
             stats.stall_seconds, percent(stats.right_guesses, stats.guesses), (long long)stats.guesses);
}

int app_parse_ids(int32_t **ids, int64_t *count, const char *text, const char *name, struct error *error) {
    // Every id takes at least one digit and a separator, so half the text's length is enough room.
    int32_t *list = memory_allocate(strlen(text) / 2 + 1, sizeof *list, "token ids", error);
    if (list == NULL) {
        return ERROR_MEMORY;
    }
    int64_t found = 0;
    const char *at = text + strspn(text, ", \t\r\n[]");
    while (*at != '\0') {
        char *end;
        errno = 0;
        long long value = strtoll(at, &end, 10);
        if (end == at || errno != 0 || value < 0 || value > INT32_MAX) {
            memory_free(list);
            return error_set(error, ERROR_FORMAT, "%s: id %lld: expected a number in 0..%d, found \"%.20s\"", name,
                             (long long)found, INT32_MAX, at);
        }
        list[found++] = (int32_t)value;
        size_t separators = strspn(end, ", \t\r\n[]");
        if (separators == 0 && *end != '\0') {
            memory_free(list);
            return error_set(error, ERROR_FORMAT, "%s: after id %lld: expected a comma or a space, found \"%.20s\"",
                             name, (long long)found - 1, end);
        }
        at = end + separators;
    }
    *ids = list;
    *count = found;
    return 0;
}

struct minke_sampling app_sampling(const struct sampling_arguments *arguments, const struct minke_model *model) {
    struct minke_sampling sampling = minke_model_sampling(model);
    if (arguments->temperature_given) {
        sampling.temperature = (float)arguments->temperature;
    }
    if (arguments->top_p_given) {
        sampling.top_p = (float)arguments->top_p;
    }
    sampling.seed = (uint64_t)arguments->seed;
    sampling.top_k = arguments->top_k;
    sampling.min_p = (float)arguments->min_p;
    sampling.frequency_penalty = (float)arguments->frequency_penalty;
    sampling.presence_penalty = (float)arguments->presence_penalty;
    sampling.repetition_penalty = (float)arguments->repetition_penalty;
    return sampling;
}
