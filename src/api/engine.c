// minke_engine_*: the public face of infer/engine.h.
#include "infer/engine.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "api/api.h"
#include "base/file.h"
#include "base/memory.h"

#define DEFAULT_CACHE_TOKENS 32768
#define DEFAULT_BATCH 64
#define DEFAULT_CHUNK 512

#define CACHE_DIRECTORY_BYTES ((int64_t)16 << 30)

struct minke_engine {
    struct engine *engine;
};

static int check_options(const struct minke_engine_options *options, const struct minke_model *model,
                         struct error *error) {
    int64_t limit = minke_model_context(model);
    if (options->context < 0 || options->context > limit) {
        return error_set(error, ERROR_ARGUMENT,
                         "engine context: this model takes 1..%lld tokens (max_position_embeddings), found %lld",
                         (long long)limit, (long long)options->context);
    }
    if (options->attention < MINKE_ATTENTION_AUTO || options->attention > MINKE_ATTENTION_ABSORBED) {
        return error_set(error, ERROR_ARGUMENT, "engine attention: expected a member of enum minke_attention, found %d",
                         (int)options->attention);
    }
    if (options->cache < MINKE_CACHE_PLAIN || options->cache > MINKE_CACHE_FP8) {
        return error_set(error, ERROR_ARGUMENT, "engine cache: expected a member of enum minke_cache, found %d",
                         (int)options->cache);
    }
    return 0;
}

// A name of the weights for the cache directory: what config.json says, how large and how old the files are, and
// whether products are summed in the order of AMX, as a checksum. Reading all weights would say more, and take minutes.
static int name_weights(char name[32], const struct minke_model *model, struct error *error) {
    char **files = NULL;
    int64_t count = 0;
    int code = file_list(&files, &count, model->directory, error);
    uint64_t sum = XXH3_64bits(model->weights, strlen(model->weights));
    if (model->op.isa == ISA_AMX) {
        sum = XXH3_64bits_withSeed("amx", 3, sum);
    }
    for (int64_t i = 0; i < count && code == 0; i++) {
        const char *suffix = strrchr(files[i], '.');
        bool weights = suffix != NULL && strcmp(suffix, ".safetensors") == 0;
        if (!weights && strcmp(files[i], "config.json") != 0) {
            continue;
        }
        char *path = file_join(model->directory, files[i], error);
        struct stat status = {0};
        uint64_t content = 0;
        if (path == NULL || stat(path, &status) != 0) {
            code = path == NULL ? ERROR_MEMORY : error_set_errno(error, "%s", path);
        } else if (!weights) {
            code = file_checksum(path, &content, error);
        }
        int64_t age[2] = {weights ? status.st_mtim.tv_sec : 0, weights ? status.st_mtim.tv_nsec : 0};
        sum = XXH3_64bits_withSeed(files[i], strlen(files[i]), sum ^ content);
        sum = XXH3_64bits_withSeed(&status.st_size, sizeof status.st_size, sum);
        sum = XXH3_64bits_withSeed(age, sizeof age, sum);
        memory_free(path);
    }
    file_list_free(files, count);
    snprintf(name, 32, "%016" PRIx64, sum);
    return code;
}

int minke_engine_create(struct minke_engine **out, struct minke_model *model,
                        const struct minke_engine_options *options, struct minke_error *error) {
    static const struct minke_engine_options defaults = {0};
    struct error inner = {0};
    *out = NULL;
    options = options != NULL ? options : &defaults;
    char weights_name[32] = "";
    if (check_options(options, model, &inner) != 0 ||
        (options->cache_directory != NULL && name_weights(weights_name, model, &inner) != 0)) {
        return api_error(error, &inner);
    }
    int64_t context = options->context != 0 ? options->context : minke_model_context(model);
    struct engine_options wanted = {
        .context = context,
        .cache_tokens = options->cache_tokens != 0       ? options->cache_tokens
                        : context > DEFAULT_CACHE_TOKENS ? context
                                                         : DEFAULT_CACHE_TOKENS,
        .batch = options->batch != 0 ? options->batch : DEFAULT_BATCH,
        .chunk = options->chunk != 0 ? options->chunk : DEFAULT_CHUNK,
        .form = (enum session_form)options->attention,
        .cache = options->cache == MINKE_CACHE_FP8 ? CACHE_FP8 : CACHE_PLAIN,
        .prefix_cache = !options->no_prefix_cache,
        .drafts = options->no_drafts ? DRAFTS_NEVER : DRAFTS_ADAPTIVE,
        .end_tokens = model->end_tokens,
        .end_token_count = model->end_token_count,
        .cache_directory = options->cache_directory,
        .weights_name = weights_name,
        .cache_directory_bytes = CACHE_DIRECTORY_BYTES,
    };
    struct minke_engine *engine = memory_allocate(1, sizeof *engine, "engine", &inner);
    if (engine == NULL) {
        return api_error(error, &inner);
    }
    api_cover_positions(model, context);
    if (engine_create(&engine->engine, &model->model, &model->op, &wanted, &inner) != 0) {
        memory_free(engine);
        return api_error(error, &inner);
    }
    *out = engine;
    return 0;
}

void minke_engine_close(struct minke_engine *engine) {
    if (engine != NULL) {
        engine_destroy(engine->engine);
        memory_free(engine);
    }
}

int minke_engine_submit(int64_t *number, struct minke_engine *engine, const struct minke_request *request,
                        struct minke_error *error) {
    struct error inner = {0};
    engine_submit(number, engine->engine, request, &inner);
    return api_error(error, &inner);
}

void minke_engine_cancel(struct minke_engine *engine, int64_t number) {
    engine_cancel(engine->engine, number);
}

int64_t minke_engine_step(struct minke_engine *engine, struct minke_error *error) {
    struct error inner = {0};
    int64_t left = engine_step(engine->engine, &inner);
    api_error(error, &inner);
    return left;
}

void minke_engine_weights_changed(struct minke_engine *engine) {
    engine_weights_changed(engine->engine);
}

void minke_engine_statistics(struct minke_engine_stats *stats, struct minke_engine *engine) {
    engine_statistics(stats, engine->engine);
}
