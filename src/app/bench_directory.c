// A model directory, opened as the program opens it, mapped, or under a memory limit: tokens written one by one, with
// the bytes that a token reads. The directory may be a single layer of a large model; what a token takes in a layer
// tells what it takes in many.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "app/bench.h"
#include "base/rng.h"
#include "infer/session.h"
#include "model/experts.h"
#include "model/load.h"
#include "model/quantize.h"
#include "tensor/formats.h"

struct directory {
    struct bench_directory files;
    struct session *session;
    int64_t depth, capacity;
};

int bench_directory_open(struct bench_directory *directory, struct bench *bench, int64_t positions,
                         struct error *error) {
    struct model *model = &directory->model;
    const char *path = bench->options.directory, *weights = bench->options.weights;
    struct expert_options limit = {.ram_bytes = bench->options.ram_bytes};
    const bool mapped = limit.ram_bytes > 0 || (weights != NULL && strstr(weights, "mapped") != NULL);
    int code;
    model->compute = FORMAT_BF16;
    arena_init(&directory->arena, "model directory");
    if ((code = model_config_read(&model->config, path, error)) != 0 ||
        (code = checkpoint_open(&directory->checkpoint, path, error)) != 0 ||
        (code = model_map(&model->params, &model->config, directory->checkpoint, &directory->arena, error)) != 0 ||
        (!mapped &&
         (code = model_interleave_mapped(model, false, &bench->op[TEAM_ALL], &directory->arena, error)) != 0) ||
        (limit.ram_bytes > 0 && (code = expert_store_create(&directory->store, &model->params, &model->config,
                                                            directory->checkpoint, &limit, error)) != 0)) {
        return code;
    }
    model_prepare(model, positions, &directory->arena);
    model_prepare_absorbed(model, &bench->op[TEAM_ALL]);
    return 0;
}

void bench_directory_close(struct bench_directory *directory) {
    expert_store_destroy(directory->store);
    checkpoint_close(directory->checkpoint);
    arena_destroy(&directory->arena);
}

// Tokens are random: an untrained router then spreads them over all experts, which no cache likes.
static int append(struct directory *directory, int64_t count, enum session_kind kind, int64_t round,
                  struct error *error) {
    int32_t id;
    for (int64_t i = 0; i < count; i++) {
        id = (int32_t)rng_below(7, (uint64_t)round, (uint64_t)i, (uint64_t)directory->files.model.config.vocab_size);
        int code = session_append(directory->session, &id, 1, kind, error);
        if (code != 0) {
            return code;
        }
    }
    return 0;
}

static void decode(void *argument, struct op_context *op, int64_t round) {
    struct directory *directory = argument;
    struct error error = {0};
    (void)op;
    if (directory->session->length == directory->capacity) {
        CHECK(session_truncate(directory->session, directory->depth, &error) == 0, "%s", error.text);
    }
    CHECK(append(directory, 1, SESSION_SAMPLED, round, &error) == 0, "%s", error.text);
}

// Since `before`; every token asks for top_k experts in each MoE layer of the main model.
static void note_streaming(const struct bench *bench, const struct directory *directory,
                           const struct expert_statistics *before) {
    struct expert_statistics now;
    expert_store_statistics(&now, directory->files.store);
    const struct model_config *config = &directory->files.model.config;
    int64_t layers = 0;
    for (int64_t l = 0; l < config->num_hidden_layers; l++) {
        layers += model_layer_is_moe(config, l);
    }
    double asked = (double)(now.hits + now.late + now.misses - before->hits - before->late - before->misses);
    double tokens = asked / (double)(layers * config->num_experts_per_tok);
    bench_print_note(
        bench,
        "%" PRId64 " of %" PRId64 " experts of %.1f MB fit; %.1f %% were there, %.1f %% on their way; %.1f MB "
        "read and %.1f ms waited a token",
        now.slots, now.experts, (double)now.expert_bytes / 1e6, 100.0 * (double)(now.hits - before->hits) / asked,
        100.0 * (double)(now.late - before->late) / asked, (double)(now.bytes_read - before->bytes_read) / 1e6 / tokens,
        1e3 * (now.stall_seconds - before->stall_seconds) / tokens);
}

static void measure(struct directory *directory, struct bench *bench) {
    const struct model_config *config = &directory->files.model.config;
    double bytes = bench_token_bytes(&directory->files.model.params, config, CACHE_PLAIN, directory->depth);
    struct bench_case measured = {.name = "directory.decode.1",
                                  .unit = "tokens/s",
                                  .amount = 1.0,
                                  .work = bytes / 1e9,
                                  .limit = LIMIT_READ,
                                  .team = TEAM_ALL,
                                  .run = decode,
                                  .argument = directory};
    struct expert_statistics before = {0};
    if (directory->files.store != NULL) {
        expert_store_statistics(&before, directory->files.store);
    }
    double seconds = bench_measure(bench, &measured);
    double layers = (double)config->num_hidden_layers;
    bench_print_note(bench, "behind %" PRId64 " tokens; %.1f ms and %.1f MB a token, %.1f GB/s; 61 such layers: %.2f s",
                     directory->depth, seconds * 1e3, bytes / 1e6, bytes / seconds / 1e9, seconds * 61.0 / layers);
    if (directory->files.store != NULL) {
        note_streaming(bench, directory, &before);
    }
}

int bench_directory(struct bench *bench, struct error *error) {
    struct directory directory = {.depth = bench->options.depth > 0 ? bench->options.depth : 64};
    directory.capacity = directory.depth + 64;
    struct session_options session = {.capacity = directory.capacity, .chunk = 256};
    bench_print_heading(bench, "writing token by token, a model directory");
    int code = bench_directory_open(&directory.files, bench, directory.capacity, error);
    if (code == 0 &&
        (code = session_create(&directory.session, &directory.files.model, &bench->op[TEAM_ALL], &session, error)) ==
            0 &&
        (code = append(&directory, directory.depth, SESSION_SAMPLED, 0, error)) == 0) {
        measure(&directory, bench);
    }
    session_destroy(directory.session);
    bench_directory_close(&directory.files);
    return code;
}
