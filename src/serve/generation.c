// See generation.h.
#include "serve/generation.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/json.h"
#include "base/memory.h"
#include "serve/fields.h"

// Fields of other servers and of OpenAI that would change the answer and that we do not have. What is not listed here
// and not known is ignored, as clients expect.
static const struct {
    const char *key;
    enum { ALWAYS, UNLESS_FALSE, UNLESS_ZERO, UNLESS_ONE } refuse;
    const char *advice;
} unsupported[] = {
    {"functions", ALWAYS, "use 'tools'"},
    {"function_call", ALWAYS, "use 'tool_choice'"},
    {"audio", ALWAYS, "this model writes text"},
    {"web_search_options", ALWAYS, "there is no web search"},
    {"guided_json", ALWAYS, "use 'response_format'"},
    {"guided_regex", ALWAYS, "use 'response_format'"},
    {"guided_choice", ALWAYS, "use 'response_format' with an enum"},
    {"guided_grammar", ALWAYS, "use 'response_format'"},
    {"grammar", ALWAYS, "use 'response_format'"},
    {"stop_token_ids", ALWAYS, "use 'stop'"},
    {"bad_words", ALWAYS, "use 'logit_bias'"},
    {"truncate_prompt_tokens", ALWAYS, "shorten the prompt"},
    {"use_beam_search", UNLESS_FALSE, "use 'n'"},
    {"include_stop_str_in_output", UNLESS_FALSE, "append the stop string yourself"},
    {"min_tokens", UNLESS_ZERO, "use 'ignore_eos'"},
    {"length_penalty", UNLESS_ONE, "there is no beam search"},
};

static int refuse_unsupported(const json_t *body, struct failure *failure) {
    for (size_t i = 0; i < sizeof unsupported / sizeof unsupported[0]; i++) {
        const json_t *value = field_value(body, unsupported[i].key);
        bool harmless = value == NULL || (unsupported[i].refuse == UNLESS_FALSE && json_is_false(value)) ||
                        (unsupported[i].refuse == UNLESS_ZERO && json_is_number(value) &&
                         json_number_value(value) == 0) ||
                        (unsupported[i].refuse == UNLESS_ONE && json_is_number(value) && json_number_value(value) == 1);
        if (!harmless) {
            return failure_set(failure, 400, "unsupported_parameter", unsupported[i].key, "'%s' is not supported: %s",
                               unsupported[i].key, unsupported[i].advice);
        }
    }
    return 0;
}

static int add_stop(struct stop_list *list, const json_t *value, struct failure *failure) {
    if (!json_is_string(value)) {
        return field_mismatch("stop", "a string or an array of strings", value, failure);
    }
    size_t size = json_string_length(value);
    if (size == 0) {
        return 0;   // clients send "" for none
    }
    if (size > STOP_BYTES_MAX || list->count == STOP_STRINGS_MAX) {
        return failure_set(failure, 400, NULL, "stop", "'stop': expected at most %d strings of at most %d bytes",
                           STOP_STRINGS_MAX, STOP_BYTES_MAX);
    }
    char *copy = memory_allocate(size + 1, 1, "stop string", NULL);
    if (copy == NULL) {
        return failure_set(failure, 500, NULL, NULL, "out of memory");
    }
    memcpy(copy, json_string_value(value), size);
    list->strings[list->count] = copy;
    list->sizes[list->count++] = size;
    return 0;
}

static int read_stop(struct stop_list *list, const json_t *body, struct failure *failure) {
    const json_t *stop = field_value(body, "stop");
    if (stop == NULL) {
        return 0;
    }
    if (!json_is_array(stop)) {
        return add_stop(list, stop, failure);
    }
    for (size_t i = 0; i < json_array_size(stop); i++) {
        if (add_stop(list, json_array_get(stop, i), failure) != 0) {
            return failure->status;
        }
    }
    return 0;
}

static int read_bias(struct generation *generation, const json_t *body, int64_t vocab_size, struct failure *failure) {
    const json_t *map = field_value(body, "logit_bias");
    if (map == NULL) {
        return 0;
    }
    if (!json_is_object(map)) {
        return field_mismatch("logit_bias", "an object of token ids and numbers", map, failure);
    }
    size_t count = json_object_size(map);
    if (count > LOGIT_BIAS_MAX) {
        return failure_set(failure, 400, NULL, "logit_bias", "'logit_bias': expected at most %d tokens, found %zu",
                           LOGIT_BIAS_MAX, count);
    }
    generation->bias = memory_allocate(count + 1, sizeof *generation->bias, "logit bias", NULL);
    if (generation->bias == NULL) {
        return failure_set(failure, 500, NULL, NULL, "out of memory");
    }
    const char *key;
    json_t *value;
    int64_t used = 0;
    json_object_foreach((json_t *)(uintptr_t)map, key, value) {
        char *end;
        errno = 0;
        long long id = strtoll(key, &end, 10);
        if (end == key || *end != '\0' || errno != 0 || id < 0 || id >= vocab_size) {
            return failure_set(failure, 400, NULL, "logit_bias",
                               "'logit_bias': expected token ids in 0..%" PRId64 " as keys, found \"%.40s\"",
                               vocab_size - 1, key);
        }
        double bias = json_number_value(value);
        if (!json_is_number(value) || !(bias >= -100 && bias <= 100)) {
            return failure_set(failure, 400, NULL, "logit_bias",
                               "'logit_bias': token %lld: expected a number in -100..100", id);
        }
        generation->bias[used++] = (struct minke_logit_bias){.id = (int32_t)id, .bias = (float)bias};
    }
    generation->sampling.logit_bias = generation->bias;
    generation->sampling.logit_bias_count = used;
    return 0;
}

static int read_sampling(struct minke_sampling *sampling, const json_t *body, struct failure *failure) {
    int64_t seed = 0;
    if (field_value(body, "seed") == NULL) {
        if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed) {
            return failure_set(failure, 500, NULL, NULL, "no random seed from the system");
        }
    }
    int64_t top_k = sampling->top_k;
    if (field_integer(&seed, body, "seed", INT64_MIN, INT64_MAX, failure) != 0 ||
        field_float(&sampling->temperature, body, "temperature", 0, 100, failure) != 0 ||
        field_float(&sampling->top_p, body, "top_p", 0, 1, failure) != 0 ||
        field_integer(&top_k, body, "top_k", -1, INT32_MAX, failure) != 0 ||
        field_float(&sampling->min_p, body, "min_p", 0, 1, failure) != 0 ||
        field_float(&sampling->frequency_penalty, body, "frequency_penalty", -2, 2, failure) != 0 ||
        field_float(&sampling->presence_penalty, body, "presence_penalty", -2, 2, failure) != 0 ||
        field_float(&sampling->repetition_penalty, body, "repetition_penalty", 0, 10, failure) != 0) {
        return failure->status;
    }
    sampling->seed = (uint64_t)seed;
    sampling->top_k = top_k < 0 ? 0 : top_k;   // -1 is how vLLM spells off
    return 0;
}

static int read_amounts(struct generation *generation, const json_t *body, const struct generation_limits *limits,
                        struct failure *failure) {
    int64_t best_of = 0;
    generation->n = 1;
    generation->max_tokens = -1;
    if (field_integer(&generation->n, body, "n", 1, limits->n, failure) != 0 ||
        field_integer(&best_of, body, "best_of", 1, INT64_MAX, failure) != 0 ||
        field_integer(&generation->max_tokens, body, "max_tokens", 0, INT64_MAX, failure) != 0 ||
        field_integer(&generation->max_tokens, body, "max_completion_tokens", 0, INT64_MAX, failure) != 0) {
        return failure->status;
    }
    if (best_of != 0 && best_of != generation->n) {
        return failure_set(failure, 400, "unsupported_parameter", "best_of",
                           "'best_of' is not supported beyond 'n': ask for n answers and choose");
    }
    if (limits->max_tokens > 0 && (generation->max_tokens < 0 || generation->max_tokens > limits->max_tokens)) {
        generation->max_tokens = limits->max_tokens;
    }
    return 0;
}

static int read_stream(struct generation *generation, const json_t *body, struct failure *failure) {
    if (field_boolean(&generation->stream, body, "stream", failure) != 0) {
        return failure->status;
    }
    const json_t *options = field_value(body, "stream_options");
    if (options == NULL) {
        return 0;
    }
    if (!json_is_object(options)) {
        return field_mismatch("stream_options", "an object", options, failure);
    }
    if (!generation->stream) {
        return failure_set(failure, 400, NULL, "stream_options", "'stream_options' needs \"stream\": true");
    }
    return field_boolean(&generation->include_usage, options, "include_usage", failure);
}

int generation_parse(struct generation *generation, const json_t *body, const struct minke_sampling *defaults,
                     const struct generation_limits *limits, struct failure *failure) {
    *generation = (struct generation){.sampling = *defaults};
    if (refuse_unsupported(body, failure) == 0 && read_sampling(&generation->sampling, body, failure) == 0 &&
        read_amounts(generation, body, limits, failure) == 0 && read_stream(generation, body, failure) == 0 &&
        field_boolean(&generation->ignore_end, body, "ignore_eos", failure) == 0 &&
        read_stop(&generation->stop, body, failure) == 0) {
        read_bias(generation, body, limits->vocab_size, failure);
    }
    return failure->status;
}

void generation_destroy(struct generation *generation) {
    stop_list_destroy(&generation->stop);
    memory_free(generation->bias);
    *generation = (struct generation){0};
}
