// llama.cpp or ik_llama.cpp on given token ids, through their public C interface: logits, to compare the models, and
// tokens/s, counted as `minke bench prefill decode` does. Linked with their library by tools/peers/build.sh, with
// -DIK_LLAMA for ik_llama.cpp; no part of Minke.
//
//     speed MODEL.gguf quantize OUT.gguf TYPE     TYPE is their number of a file type (7: Q8_0, 2: Q4_0)
//     speed MODEL.gguf logits IDS.txt OUT.f32     float32 [tokens, vocabulary] of the ids in the file, one prompt
//     speed MODEL.gguf prefill TOKENS ROUNDS      a prompt of random ids, the last token's logits
//     speed MODEL.gguf decode DEPTHS STEPS        random ids one by one, behind so many tokens; DEPTHS ascend: 0,2048
//     speed MODEL.gguf batch SEQUENCES STEPS      greedy, behind a prompt of 64 random ids, other ids in each sequence
//     speed MODEL.gguf short TOKENS STEPS         prefill of TOKENS; STEPS tokens behind none; 8 and 32 sequences
//
// Prints NAME MEDIAN FASTEST SLOWEST in tokens/s.
// Options behind them: threads=2 ubatch=512, of ik_llama.cpp also mla=3 repack=0. The batched benchmark of
// ik_llama.cpp is not used because it feeds token 0 to all sequences, which then all choose the same experts.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "llama.h"

#define PROMPT 64
#define MOST_STEPS 1024

struct settings {
    int threads, mla, repack, ubatch;
};

static _Noreturn void fail(const char *text) {
    fprintf(stderr, "speed: %s\n", text);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static struct settings read_settings(char **argument) {
    struct settings settings = {.threads = 2, .mla = 3, .ubatch = 512};
    struct {
        const char *name;
        int *value;
    } known[] = {{"threads", &settings.threads},
                 {"mla", &settings.mla},
                 {"repack", &settings.repack},
                 {"ubatch", &settings.ubatch}};
    for (; *argument != NULL; argument++) {
        size_t k = 0, length = strcspn(*argument, "=");
        while (k < 4 && (strlen(known[k].name) != length || strncmp(known[k].name, *argument, length) != 0)) {
            k++;
        }
        if (k == 4 || (*argument)[length] != '=') {
            fail("expected threads=, mla=, repack= or ubatch=");
        }
        *known[k].value = (int)strtol(*argument + length + 1, NULL, 10);
    }
    return settings;
}

static struct llama_model *open_model(const char *path, const struct settings *settings) {
    struct llama_model_params params = llama_model_default_params();
#ifdef IK_LLAMA
    params.mla = settings->mla;
    params.repack_tensors = settings->repack != 0;
    params.use_mmap = settings->repack == 0;
    params.flash_attn = true;
#else
    (void)settings;
#endif
    struct llama_model *model = llama_model_load_from_file(path, params);
    if (model == NULL) {
        fail("the model cannot be loaded");
    }
    return model;
}

static struct llama_context *open_context(struct llama_model *model, const struct settings *settings, int tokens,
                                          int sequences) {
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = (uint32_t)tokens;
    params.n_batch = (uint32_t)tokens;
    params.n_ubatch = (uint32_t)settings->ubatch;
    params.n_seq_max = (uint32_t)sequences;
    params.n_threads = params.n_threads_batch = settings->threads;
#ifdef IK_LLAMA
    params.mla_attn = settings->mla;
    params.flash_attn = params.fused_moe_up_gate = params.fused_up_gate = true;
#else
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
#endif
    struct llama_context *context = llama_init_from_model(model, params);
    if (context == NULL) {
        fail("no context");
    }
    return context;
}

static void add_token(struct llama_batch *batch, llama_token id, int position, int sequence, bool wanted) {
    int i = batch->n_tokens++;
    batch->token[i] = id;
    batch->pos[i] = position;
    batch->n_seq_id[i] = 1;
    batch->seq_id[i][0] = sequence;
    batch->logits[i] = wanted;
}

static void decode(struct llama_context *context, struct llama_batch *batch) {
    if (llama_decode(context, *batch) != 0) {
        fail("llama_decode failed");
    }
    llama_synchronize(context);
    batch->n_tokens = 0;
}

static int write_logits(struct llama_model *model, const struct settings *settings, const char *in, const char *out) {
    int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model)), count = 0, id;
    struct llama_context *context = open_context(model, settings, 4096, 1);
    struct llama_batch batch = llama_batch_init(4096, 0, 1);
    FILE *ids = fopen(in, "r"), *file = fopen(out, "wb");
    if (ids == NULL || file == NULL) {
        fail("cannot open the ids or the output");
    }
    for (; count < 4096 && fscanf(ids, "%d%*[ ,\n]", &id) == 1; count++) {
        add_token(&batch, id, count, 0, true);
    }
    decode(context, &batch);
    for (int i = 0; i < count; i++) {
        fwrite(llama_get_logits_ith(context, i), sizeof(float), (size_t)vocabulary, file);
    }
    fclose(ids);
    return fclose(file);
}

static int largest(const float *logits, int count) {
    int best = 0;
    for (int i = 1; i < count; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    return best;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// NAME MEDIAN FASTEST SLOWEST, tokens/s. Sorts `seconds`, each for `tokens` tokens.
static void print_speed(const char *name, int number, double *seconds, int count, double tokens) {
    qsort(seconds, (size_t)count, sizeof *seconds, by_value);
    printf("%s%d %.1f %.1f %.1f\n", name, number, tokens / seconds[count / 2], tokens / seconds[0],
           tokens / seconds[count - 1]);
    fflush(stdout);
}

static llama_token random_id(uint64_t *state, int vocabulary) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (llama_token)((*state >> 33) % (uint64_t)vocabulary);
}

static void clear(struct llama_context *context) {
#ifdef IK_LLAMA
    llama_kv_cache_clear(context);
#else
    llama_memory_clear(llama_get_memory(context), false);
#endif
}

static int measure_prefill(struct llama_model *model, const struct settings *settings, int tokens, int rounds) {
    int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
    struct llama_context *context = open_context(model, settings, tokens, 1);
    struct llama_batch batch = llama_batch_init(tokens, 0, 1);
    double seconds[MOST_STEPS];
    uint64_t state = 1;
    for (int round = -1; round < rounds; round++) {   // one to warm up
        for (int i = 0; i < tokens; i++) {
            add_token(&batch, random_id(&state, vocabulary), i, 0, i == tokens - 1);
        }
        clear(context);
        double start = now();
        decode(context, &batch);
        seconds[round < 0 ? 0 : round] = now() - start;
    }
    print_speed("prefill.", tokens, seconds, rounds, tokens);
    llama_batch_free(batch);
    llama_free(context);
    return 0;
}

static int measure_decode(struct llama_model *model, const struct settings *settings, char *depths, int steps) {
    int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model)), length = 0;
    char *last = strrchr(depths, ',');
    int capacity = (int)strtol(last == NULL ? depths : last + 1, NULL, 10) + 8 * steps + 256;
    struct llama_context *context = open_context(model, settings, capacity, 1);
    struct llama_batch batch = llama_batch_init(capacity, 0, 1);
    double seconds[MOST_STEPS];
    uint64_t state = 1;
    for (char *part = strtok(depths, ","); part != NULL; part = strtok(NULL, ",")) {
        int depth = (int)strtol(part, NULL, 10);
        for (int i = 0; length < depth; length++, i++) {
            add_token(&batch, random_id(&state, vocabulary), length, 0, length == depth - 1);
        }
        if (batch.n_tokens > 0) {
            decode(context, &batch);
        }
        for (int step = -2; step < steps; step++, length++) {   // two to warm up
            add_token(&batch, random_id(&state, vocabulary), length, 0, true);
            double start = now();
            decode(context, &batch);
            seconds[step < 0 ? 0 : step] = now() - start;
        }
        print_speed("decode.1@", depth, seconds, steps, 1.0);
    }
    llama_batch_free(batch);
    llama_free(context);
    return 0;
}

static int measure_batch(struct llama_model *model, const struct settings *settings, int sequences, int steps) {
    int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
    int capacity = (PROMPT + steps + 2 + 255) / 256 * 256 * sequences;
    struct llama_context *context = open_context(model, settings, capacity, sequences);
    struct llama_batch batch = llama_batch_init(capacity, 0, 1);
    double seconds[MOST_STEPS];
    llama_token *next = calloc((size_t)sequences, sizeof *next);
    uint64_t state = 1;
    if (next == NULL) {
        fail("out of memory");
    }
    for (int s = 0; s < sequences; s++) {
        for (int i = 0; i < PROMPT; i++) {
            add_token(&batch, random_id(&state, vocabulary), i, s, i == PROMPT - 1);
        }
    }
    decode(context, &batch);
    for (int s = 0; s < sequences; s++) {
        next[s] = largest(llama_get_logits_ith(context, s * PROMPT + PROMPT - 1), vocabulary);
    }
    for (int step = -2; step < steps; step++) {   // two to warm up
        for (int s = 0; s < sequences; s++) {
            add_token(&batch, next[s], PROMPT + 2 + step, s, true);
        }
        double start = now();
        decode(context, &batch);
        seconds[step < 0 ? 0 : step] = now() - start;
        for (int s = 0; s < sequences; s++) {
            next[s] = largest(llama_get_logits_ith(context, s), vocabulary);
        }
    }
    print_speed("decode.", sequences, seconds, steps, sequences);
    free(next);
    llama_batch_free(batch);
    llama_free(context);
    return 0;
}

static int quantize(const char *in, const char *out, int type) {
    struct llama_model_quantize_params params = llama_model_quantize_default_params();
    params.ftype = (enum llama_ftype)type;
    params.nthread = 2;
    return llama_model_quantize(in, out, &params) == 0 ? 0 : 1;
}

int main(int count, char **argument) {
    if (count < 5) {
        fail("speed MODEL.gguf quantize|logits|prefill|decode|batch|short ARGUMENT ARGUMENT [NAME=NUMBER...]");
    }
    struct settings settings = read_settings(argument + 5);
    const char *what = argument[2];
    int steps = (int)strtol(argument[4], NULL, 10);
    llama_backend_init();
    if (strcmp(what, "quantize") == 0) {
        return quantize(argument[1], argument[3], steps);
    }
    struct llama_model *model = open_model(argument[1], &settings);
    if (strcmp(what, "logits") == 0) {
        return write_logits(model, &settings, argument[3], argument[4]);
    }
    if (steps < 1 || steps > MOST_STEPS) {
        fail("STEPS is 1 to 1024");
    }
    if (strcmp(what, "prefill") == 0) {
        return measure_prefill(model, &settings, (int)strtol(argument[3], NULL, 10), steps);
    }
    if (strcmp(what, "decode") == 0) {
        return measure_decode(model, &settings, argument[3], steps);
    }
    if (strcmp(what, "batch") == 0) {
        return measure_batch(model, &settings, (int)strtol(argument[3], NULL, 10), steps);
    }
    if (strcmp(what, "short") == 0) {
        measure_prefill(model, &settings, (int)strtol(argument[3], NULL, 10), 3);
        measure_decode(model, &settings, (char[]){"0"}, steps);
        measure_batch(model, &settings, 8, steps / 5 + 1);
        return measure_batch(model, &settings, 32, steps / 8 + 1);
    }
    fail("expected quantize, logits, prefill, decode, batch or short");
}
