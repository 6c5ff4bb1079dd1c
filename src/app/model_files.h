// What the commands that run a model share: opening it with the common options, and reading lists of ids.
#ifndef MINKE_APP_MODEL_FILES_H
#define MINKE_APP_MODEL_FILES_H

#include <stdint.h>

#include "app/options.h"
#include "minke.h"

// The options of the commands that open a model, besides the common ones; all zero = the library's defaults.
struct model_arguments {
    const char *compute, *weights, *ram;
};
#define MODEL_OPTIONS(arguments)                                                                                    \
    {.name = "compute",                                                                                             \
     .argument = "C",                                                                                               \
     .help = "format of activations (bf16)",                                                                        \
     .text = &(arguments).compute,                                                                                  \
     .choices = "bf16|f32"},                                                                                        \
        {.name = "weights",                                                                                         \
         .argument = "W",                                                                                           \
         .help = "weights as the files have them, the same without a copy, or quantised (stored)",                  \
         .text = &(arguments).weights,                                                                              \
         .choices = "stored|mapped|int8|int4"},                                                                     \
    {                                                                                                               \
        .name = "ram", .argument = "SIZE",                                                                          \
        .help = "memory to use at most, e.g. 16G: experts are read from disk when needed", .text = &(arguments).ram \
    }
// How the attention cache keeps latents; app_cache reads `name`, which may be NULL.
#define CACHE_OPTION(name_)                                                                             \
    {                                                                                                   \
        .name = "cache-format", .argument = "F",                                                        \
        .help = "attention cache like the activations (bf16), or its latents in FP8", .text = &(name_), \
        .choices = "bf16|fp8"                                                                           \
    }
enum minke_cache app_cache(const char *name);

// Opens a model directory with --threads, --isa and the options above. Returns 0, or 1 after reporting the error.
int app_open_model(struct minke_model **model, const char *directory, const struct common_options *common,
                   const struct model_arguments *arguments);
// With --ram: two lines about the memory and the reads so far.
void app_report_memory(const struct minke_model *model);

// Ids separated by commas, spaces or line ends; a JSON array works too. *ids is the caller's (memory_free). `name` is
// for messages.
int app_parse_ids(int32_t **ids, int64_t *count, const char *text, const char *name, struct error *error);

// The sampling options of the commands that write text; defaults come from the model's generation_config.json.
struct sampling_arguments {
    double temperature, top_p, min_p, frequency_penalty, presence_penalty, repetition_penalty;
    int64_t seed, top_k;
    bool temperature_given, top_p_given;
};
#define SAMPLING_OPTIONS(arguments)                                                                 \
    {.name = "temp",                                                                                \
     .argument = "T",                                                                               \
     .help = "sampling temperature, 0 = greedy (default: generation_config.json, else 0)",          \
     .number = &(arguments).temperature,                                                            \
     .most = 100,                                                                                   \
     .given = &(arguments).temperature_given},                                                      \
        {.name = "top-p",                                                                           \
         .argument = "P",                                                                           \
         .help = "keep the likeliest tokens that hold this much probability",                       \
         .number = &(arguments).top_p,                                                              \
         .most = 1,                                                                                 \
         .given = &(arguments).top_p_given},                                                        \
        {.name = "top-k",                                                                           \
         .argument = "K",                                                                           \
         .help = "keep the K likeliest tokens (0 = all)",                                           \
         .integer = &(arguments).top_k,                                                             \
         .maximum = INT32_MAX},                                                                     \
        {.name = "min-p",                                                                           \
         .argument = "P",                                                                           \
         .help = "drop tokens less likely than P times the likeliest (0)",                          \
         .number = &(arguments).min_p,                                                              \
         .most = 1},                                                                                \
        {.name = "frequency-penalty",                                                               \
         .argument = "F",                                                                           \
         .help = "taken from a logit for each time the token was written (0)",                      \
         .number = &(arguments).frequency_penalty,                                                  \
         .least = -100,                                                                             \
         .most = 100},                                                                              \
        {.name = "presence-penalty",                                                                \
         .argument = "F",                                                                           \
         .help = "taken from the logits of tokens that were written (0)",                           \
         .number = &(arguments).presence_penalty,                                                   \
         .least = -100,                                                                             \
         .most = 100},                                                                              \
        {.name = "repetition-penalty",                                                              \
         .argument = "F",                                                                           \
         .help = "divides the logits of tokens in prompt and text (1)",                             \
         .number = &(arguments).repetition_penalty,                                                 \
         .most = 100},                                                                              \
    {                                                                                               \
        .name = "seed", .argument = "S", .help = "of the sampling noise (0); same seed, same text", \
        .integer = &(arguments).seed, .maximum = INT64_MAX                                          \
    }
struct minke_sampling app_sampling(const struct sampling_arguments *arguments, const struct minke_model *model);

#endif
