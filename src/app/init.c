// `minke init`: config.json -> a model directory with random weights, Normal(0, std) by (seed, name, element): the same
// for any number of threads and, up to rounding, for any format.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "app/app.h"
#include "app/formats.h"
#include "app/init.h"
#include "app/options.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "model/load.h"
#include "tensor/formats.h"

struct init_request {
    const char *config_path, *directory;
    enum format format;
    int64_t seed;
    double std;   // negative: initializer_range of the configuration
};

static int check_target(const char *directory, struct error *error) {
    char **names;
    int64_t count;
    if (!file_exists(directory)) {
        return 0;
    }
    int code = file_list(&names, &count, directory, error);
    if (code == 0) {
        if (count > 0) {
            code = error_set(error, ERROR_ARGUMENT,
                             "%s: expected an empty or new directory, found %lld files (the first is %s)", directory,
                             (long long)count, names[0]);
        }
        file_list_free(names, count);
    }
    return code;
}

// Values are made one tensor at a time, while the files are written: a model may be larger than memory.
struct filling {
    uint64_t seed;
    const struct model_config *config;
    struct op_context *op;
    struct param_list list;
    int64_t next;   // in the list: tensors are asked for in its order, but for copies of some
    char *buffer;
    size_t capacity;
};

static const struct param *filling_find(struct filling *filling, const struct tensor *tensor) {
    for (int64_t i = 0; i < filling->list.count; i++) {
        const struct param *param = &filling->list.items[(filling->next + i) % filling->list.count];
        if (param->tensor == tensor) {
            filling->next = (filling->next + i + 1) % filling->list.count;
            return param;
        }
    }
    CHECK(false, "a tensor that is none of the model's");
    return NULL;
}

static int fill(void *argument, struct tensor *filled, const struct tensor *tensor, struct error *error) {
    struct filling *filling = argument;
    size_t data = (size_t)(tensor_elements(tensor) * format_info(tensor->format)->bytes) + MEMORY_ALIGNMENT;
    data -= data % MEMORY_ALIGNMENT;   // scales stand behind it, aligned
    size_t bytes = data + (size_t)tensor_bytes(tensor);
    if (bytes > filling->capacity) {
        memory_free(filling->buffer);
        filling->buffer = memory_allocate(bytes, 1, "initial values", error);
        filling->capacity = filling->buffer != NULL ? bytes : 0;
        if (filling->buffer == NULL) {
            return ERROR_MEMORY;
        }
    }
    *filled = *tensor;
    filled->data = filling->buffer;
    filled->scale = (float *)(void *)(filling->buffer + data);
    return param_initialize(filled, filling_find(filling, tensor), filling->config, filling->seed,
                            filling->config->initializer_range, filling->op, error);
}

int init_write_model(const char *directory, const struct model_config *config, enum format format, uint64_t seed,
                     struct op_context *op, struct error *error) {
    struct arena arena;
    struct model_params params;
    struct filling filling = {.seed = seed, .config = config, .op = op};
    struct model_save_options options = {
        .format = format, .power_of_two = config->fp8_power_of_two, .fill = fill, .argument = &filling};
    bool existed = file_exists(directory);
    arena_init(&arena, "model");
    int code = arena_reserve(&arena, params_table_bytes(config), error);
    if (code == 0) {
        params_create(&params, config, &arena);
        params_shape(&params, config, format);
        if ((code = params_list(&filling.list, &params, config, &arena, error)) == 0 &&
            (code = file_make_directory(directory, error)) == 0) {
            code = model_save(directory, &params, config, &options, op, error);
        }
    }
    memory_free(filling.buffer);
    arena_destroy(&arena);
    if (code != 0 && !existed) {
        rmdir(directory);
    }
    return code;
}

static int run(const struct init_request *request, const struct common_options *common) {
    struct error error = {0};
    struct model_config config;
    struct pool *pool = NULL;
    struct arena scratch;
    struct op_context op;
    double started = clock_seconds();
    char count[32];
    arena_init(&scratch, "scratch");
    int code;
    if ((code = model_config_read(&config, request->config_path, &error)) == 0 &&
        (code = check_target(request->directory, &error)) == 0 &&
        (code = pool_create(&pool, (int)common->threads, &error)) == 0 &&
        (code = op_context_init(&op, common->isa, pool, &scratch, &error)) == 0) {
        config.initializer_range = request->std < 0.0 ? config.initializer_range : request->std;
        code = init_write_model(request->directory, &config, request->format, (uint64_t)request->seed, &op, &error);
    }
    arena_destroy(&scratch);
    pool_destroy(pool);
    if (code != 0) {
        log_error("%s", error.text);
        return 1;
    }
    struct model_count parameters = model_count_parameters(&config);
    log_info("wrote %s: %s parameters, std %g, seed %" PRId64 ", in %.1f s", request->directory,
             text_count(count, (double)(parameters.total + parameters.mtp_unique)), config.initializer_range,
             request->seed, clock_seconds() - started);
    return 0;
}

int command_init(int argc, char **argv) {
    struct init_request request = {.std = -1.0};
    const char *dtype = "bf16";
    const struct command_option options[] = {
        {.name = "seed",
         .argument = "S",
         .help = "of the random numbers (0)",
         .integer = &request.seed,
         .minimum = 0,
         .maximum = INT64_MAX},
        {.name = "dtype",
         .argument = "D",
         .help = "format of the weights (bf16)",
         .text = &dtype,
         .choices = "bf16|f32|fp8"},
        {.name = "std",
         .argument = "X",
         .help = "standard deviation (default: initializer_range of the configuration)",
         .number = &request.std,
         .least = 0.0,
         .most = 100.0},
        {0},
    };
    const struct command_positional positionals[] = {
        {.name = "CONFIG", .help = "a config.json, or a directory that holds one", .text = &request.config_path},
        {.name = "OUT_DIR", .help = "a new or empty directory", .text = &request.directory},
        {0},
    };
    struct common_options common = {0};
    const struct command_syntax syntax = {
        .name = "init",
        .summary = "write a model with random weights from a config.json",
        .description = "The directory gets config.json, generation_config.json and the weights; add a tokenizer to use "
                       "it with text.",
        .examples = "minke init config.json model --seed 1 --std 0.006",
        .options = options,
        .positionals = positionals,
        .common = &common,
    };
    int status;
    if (!options_parse(&syntax, argc, argv, &status)) {
        return status;
    }
    request.format = app_dtype_format(dtype);
    return run(&request, &common);
}
