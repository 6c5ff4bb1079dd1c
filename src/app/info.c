// `minke info`: what a model is, whether its files are complete and sound, and what it takes to run or train it.
//
// Every header is read and checked: all shards that the index names, all tensors that the architecture needs with their
// shapes and FP8 scales. The data itself is not read.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "app/app.h"
#include "app/options.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "infer/kv_cache.h"
#include "model/params.h"
#include "model/quantize.h"
#include "train/memory_plan.h"
#include "weights/checkpoint.h"

#define KINDS 32          // dtypes of a directory; the format has 22
#define KEPT_PROBLEMS 8   // told one by one
#define TRAIN_BYTES 14    // a parameter: F32 master 4, BF16 weight 2, F32 gradient 4, BF16 moments 2 + 2
#define AVERAGE_BYTES 4   // more with the F32 moving average

struct dtype_use {
    char name[12];
    int64_t tensors, elements, bytes;
};

struct model_info {
    struct model_config config;
    struct model_count count;
    bool weights;   // false: a config.json alone was given
    int64_t files, unreadable_files, tensors, data_bytes, unindexed;
    struct dtype_use dtypes[KINDS];
    int64_t dtype_count;
    int64_t needed, missing,
        used;   // parameters of the architecture; those without a sound tensor; tensors they use, scales included
    bool mtp_absent;   // announced, but no tensor of it is there
    char problems[KEPT_PROBLEMS][sizeof((struct error *)0)->text];
    int64_t problem_count;
    struct checkpoint *checkpoint;
};

static void add_problem(struct model_info *info, const struct error *error) {
    for (int64_t i = 0; i < info->problem_count && i < KEPT_PROBLEMS; i++) {
        if (strcmp(info->problems[i], error->text) == 0) {
            return;   // an unreadable shard fails for each of its tensors
        }
    }
    if (info->problem_count < KEPT_PROBLEMS) {
        memcpy(info->problems[info->problem_count], error->text, sizeof error->text);
    }
    info->problem_count++;
}

// ---- Collecting ----------------------------------------------------------------------------------------------------

static void count_entry(struct model_info *info, const struct safetensors_entry *entry) {
    int64_t kind = 0, elements = 1;
    while (kind < info->dtype_count && strcmp(info->dtypes[kind].name, entry->dtype) != 0) {
        kind++;
    }
    if (kind == info->dtype_count) {
        CHECK(kind < KINDS, "more dtypes than the format has");
        memcpy(info->dtypes[info->dtype_count++].name, entry->dtype, sizeof entry->dtype);
    }
    for (int axis = 0; axis < entry->tensor.rank; axis++) {
        elements *= entry->tensor.shape[axis];
    }
    info->dtypes[kind].tensors++;
    info->dtypes[kind].elements += elements;
    info->dtypes[kind].bytes += entry->end - entry->begin;
}

static void collect_files(struct model_info *info) {
    info->files = checkpoint_shards(info->checkpoint);
    for (int64_t shard = 0; shard < info->files; shard++) {
        const struct safetensors *file;
        struct error error = {0};
        if (checkpoint_shard_open(info->checkpoint, &file, shard, &error) != 0) {
            add_problem(info, &error);
            info->unreadable_files++;
            continue;
        }
        for (int64_t i = 0; i < file->count; i++) {
            if (!checkpoint_holds(info->checkpoint, shard, file->entries[i].name)) {
                info->unindexed++;
                continue;
            }
            count_entry(info, &file->entries[i]);
            info->tensors++;
            info->data_bytes += file->entries[i].end - file->entries[i].begin;
        }
    }
}

static int check_param(void *argument, const struct param *param, struct error *unused) {
    struct model_info *info = argument;
    struct error error = {0};
    struct tensor tensor;
    (void)unused;
    info->needed++;
    if (checkpoint_expect(info->checkpoint, &tensor, param->name, param->rank, param->shape, &error) != 0) {
        info->missing++;
        add_problem(info, &error);
    } else {
        info->used += tensor.format == FORMAT_E4M3_BLOCK ? 2 : 1;
    }
    return 0;
}

static bool has_prefix(const struct model_info *info, const char *prefix) {
    for (int64_t i = 0; i < checkpoint_count(info->checkpoint); i++) {
        if (strncmp(checkpoint_name(info->checkpoint, i), prefix, strlen(prefix)) == 0) {
            return true;
        }
    }
    return false;
}

// The stored copies of embedding and head in MTP layers are used by others, not by us.
static void count_copies(struct model_info *info) {
    static const char *const names[] = {"embed_tokens.weight", "shared_head.head.weight"};
    for (int64_t k = 0; k < info->config.num_nextn_predict_layers; k++) {
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
            char name[128];
            snprintf(name, sizeof name, "model.layers.%" PRId64 ".%s", info->config.num_hidden_layers + k, names[i]);
            info->used += checkpoint_has(info->checkpoint, name);
        }
    }
}

static int check_params(struct model_info *info, struct error *error) {
    struct model_config config = info->config;
    struct model_params params;
    struct arena arena;
    char prefix[64];
    snprintf(prefix, sizeof prefix, "model.layers.%" PRId64 ".", config.num_hidden_layers);
    if (config.num_nextn_predict_layers > 0 && !has_prefix(info, prefix)) {
        info->mtp_absent = true;
        config.num_nextn_predict_layers = 0;
    }
    arena_init(&arena, "model tables");
    int code = arena_reserve(&arena, params_table_bytes(&config), error);
    if (code == 0) {
        params_create(&params, &config, &arena);
        params_visit(&params, &config, check_param, info, NULL);
        count_copies(info);
    }
    arena_destroy(&arena);
    return code;
}

static bool is_complete(const struct model_info *info) {
    return info->problem_count == 0 && info->missing == 0 && info->unreadable_files == 0;
}

static int collect(struct model_info *info, const char *path, struct error *error) {
    int code = model_config_read(&info->config, path, error);
    if (code != 0) {
        return code;
    }
    info->count = model_count_parameters(&info->config);
    info->weights = file_is_directory(path);
    if (!info->weights) {
        return 0;
    }
    struct error problem = {0};
    if (checkpoint_open(&info->checkpoint, path, &problem) != 0) {
        add_problem(info, &problem);   // the architecture can be shown all the same
        return 0;
    }
    collect_files(info);
    return check_params(info, error);
}

// ---- Printing ------------------------------------------------------------------------------------------------------

// 671026419200 -> "671,026,419,200"
static char *grouped(char buffer[32], int64_t value) {
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%" PRId64, value), used = 0;
    for (int i = 0; i < length; i++) {
        buffer[used++] = digits[i];
        if ((length - i - 1) % 3 == 0 && i + 1 < length) {
            buffer[used++] = ',';
        }
    }
    buffer[used] = 0;
    return buffer;
}

static void print_architecture(const struct model_config *c) {
    static const char *const methods[] = {
        [ROUTER_GREEDY] = "greedy", [ROUTER_GROUP_MAX] = "group_limited_greedy", [ROUTER_GROUP_TOP2] = "noaux_tc"};
    int64_t moe = 0;
    for (int64_t layer = 0; layer < c->num_hidden_layers; layer++) {
        moe += model_layer_is_moe(c, layer);
    }
    printf("architecture   %s\n", c->model_type);
    printf("  layers       %" PRId64 " (%" PRId64 " dense, %" PRId64 " mixture of experts) + %" PRId64
           " multi-token prediction\n",
           c->num_hidden_layers, c->num_hidden_layers - moe, moe, c->num_nextn_predict_layers);
    printf("  sizes        hidden %" PRId64 ", vocabulary %" PRId64 ", dense FFN %" PRId64 "%s\n", c->hidden_size,
           c->vocab_size, c->intermediate_size, c->tie_word_embeddings ? ", head tied to the embedding" : "");
    printf("  attention    %" PRId64 " heads of %" PRId64 " + %" PRId64 " (rotary), values %" PRId64 ", latent %" PRId64
           ", queries ",
           c->num_attention_heads, c->qk_nope_head_dim, c->qk_rope_head_dim, c->v_head_dim, c->kv_lora_rank);
    if (c->q_lora_rank > 0) {
        printf("through %" PRId64 "\n", c->q_lora_rank);
    } else {
        printf("not compressed\n");
    }
    if (moe > 0 || c->n_routed_experts > 0) {
        printf("  experts      %" PRId64 " routed of width %" PRId64 ", %" PRId64 " a token, + %" PRId64
               " shared; %s, %s",
               c->n_routed_experts, c->moe_intermediate_size, c->num_experts_per_tok, c->n_shared_experts,
               c->scoring_func == ROUTER_SIGMOID ? "sigmoid" : "softmax", methods[c->topk_method]);
        if (c->topk_method != ROUTER_GREEDY) {
            printf(", %" PRId64 " of %" PRId64 " groups", c->topk_group, c->n_group);
        }
        printf(", times %g\n", c->routed_scaling_factor);
    }
    printf("  positions    %" PRId64 ", rotary base %g", c->max_position_embeddings, c->rope_theta);
    if (c->rope_scaling.factor > 0.0) {
        printf(", YaRN x %g from %" PRId64, c->rope_scaling.factor, c->rope_scaling.original_max_position_embeddings);
    }
    printf("\n\n");
}

static void print_count(const char *label, int64_t value, const char *note) {
    char digits[32], rounded[32];
    printf("  %-12s %20s  %8s%s\n", label, grouped(digits, value), text_count(rounded, (double)value), note);
}

static void print_parameters(const struct model_info *info) {
    printf("parameters\n");
    print_count("total", info->count.total, "  without multi-token prediction");
    print_count("active", info->count.active, "  for one token, embedding and head included");
    print_count("", info->count.active_without_embedding, "  without the embedding table");
    if (info->config.num_nextn_predict_layers > 0) {
        print_count("MTP", info->count.mtp_unique, "  of its own");
        print_count("", info->count.mtp, "  with the stored copies of embedding and head");
    }
    printf("\n");
}

static void print_weights(const struct model_info *info) {
    char digits[32], tensors[32], size[32];
    printf("weights        %" PRId64 " file%s, %s tensors, %s\n", info->files, info->files == 1 ? "" : "s",
           grouped(tensors, info->tensors), text_bytes(size, info->data_bytes));
    for (int64_t i = 0; i < info->dtype_count; i++) {
        const struct dtype_use *use = &info->dtypes[i];
        printf("  %-12s %20s  elements in %s tensors, %s\n", use->name, grouped(digits, use->elements),
               grouped(tensors, use->tensors), text_bytes(size, use->bytes));
    }
    printf("\n");
}

struct needs {
    int64_t latent, latent_fp8, expanded;   // bytes of cache for 1024 tokens, BF16 or FP8
    int64_t training, average;              // bytes of trainer state without and with the moving average
};

static int64_t cache_bytes(const struct model_info *info, enum attention_form stored, enum cache_kind kind) {
    struct cache_layout layout = {0};
    return cache_layout_make(&layout, &info->config, FORMAT_BF16, stored, kind, NULL) == 0
               ? 1024 * kv_cache_token_bytes(&info->config, &layout)
               : 0;
}

static struct needs model_needs(const struct model_info *info) {
    int64_t parameters = info->count.total + info->count.mtp_unique;
    return (struct needs){.latent = cache_bytes(info, ATTENTION_ABSORBED, CACHE_PLAIN),
                          .latent_fp8 = cache_bytes(info, ATTENTION_ABSORBED, CACHE_FP8),
                          .expanded = cache_bytes(info, ATTENTION_EXPANDED, CACHE_PLAIN),
                          .training = TRAIN_BYTES * parameters,
                          .average = (TRAIN_BYTES + AVERAGE_BYTES) * parameters};
}

// Bytes of all weights, those that stay taken as BF16.
struct quantized_bytes {
    int64_t int8, int4;
};

static int64_t param_bytes(const struct param *param, enum format format) {
    enum format quantized = model_quantized_format(param, format);
    struct tensor tensor = tensor_make(quantized != FORMAT_NONE ? quantized : FORMAT_BF16, NULL, param->rank,
                                       param->shape);
    return tensor_bytes(&tensor);
}

static int add_quantized_bytes(void *argument, const struct param *param, struct error *unused) {
    struct quantized_bytes *bytes = argument;
    (void)unused;
    bytes->int8 += param_bytes(param, FORMAT_INT8);
    bytes->int4 += param_bytes(param, FORMAT_INT4);
    return 0;
}

static void print_quantized(const struct model_info *info) {
    char a[32], b[32];
    struct quantized_bytes bytes = {0};
    struct model_params params;
    struct arena arena;
    arena_init(&arena, "model tables");
    if (arena_reserve(&arena, params_table_bytes(&info->config), NULL) == 0) {
        params_create(&params, &info->config, &arena);
        params_visit(&params, &info->config, add_quantized_bytes, &bytes, NULL);
        printf("  quantised    %s with --weights int8, %s with int4\n", text_bytes(a, bytes.int8),
               text_bytes(b, bytes.int4));
    }
    arena_destroy(&arena);
}

static void print_memory(const struct model_info *info) {
    char a[32], b[32], c[32];
    struct needs needs = model_needs(info);
    printf("memory\n");
    if (info->data_bytes > 0) {
        printf("  weights      %s in files that are mapped; again in memory where products read them interleaved "
               "(not with --weights mapped)\n",
               text_bytes(a, info->data_bytes));
    }
    print_quantized(info);
    printf("  cache        %s per 1024 tokens as latents (%s in FP8), %s expanded (bf16)\n",
           text_bytes(a, needs.latent), text_bytes(c, needs.latent_fp8), text_bytes(b, needs.expanded));
    printf("  training     %s of weights, gradients and optimizer state, %s with the moving average\n",
           text_bytes(a, needs.training), text_bytes(b, needs.average));
}

// What a run of this configuration would take, by kind (train/memory_plan.h).
static int plan_training(struct memory_plan *plan, struct run_config *run, const char *path,
                         const struct model_config *config, struct error *error) {
    run_config_defaults(run);
    int code = run_config_read(run, path, error);
    code = code == 0 ? run_config_finish(run, error) : code;
    return code == 0 ? memory_plan_make(plan, run, config, error) : code;
}

static void print_plan(const struct memory_plan *plan, const struct run_config *run) {
    static const char *const precisions[] = {"fp32", "bf16", "fp8"};
    const struct {
        const char *name;
        int64_t bytes;
        const char *note;
    } kinds[] = {
        {"weights", plan->weights, "that the model computes with"},
        {"masters", plan->masters, "FP32"},
        {"moments", plan->moments, ""},
        {"average", plan->average, ""},
        {"gradients", plan->gradients, ""},
        {"activations", plan->activations, "most that backward holds"},
        {"  saved", plan->saved, "of these at the end of forward"},
        {"workspace", plan->workspace, ""},
        {"saving", plan->saving, "a checkpoint"},
        {"together", plan->total, "and data and tokenizer"},
    };
    char size[32];
    printf("\ntraining       %s, micro-batch of %" PRId64 " x %" PRId64 " tokens\n", precisions[run->train.precision],
           run->train.micro_batch, run->train.sequence_length);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        printf("  %-12s %10s  %s\n", kinds[i].name, text_bytes(size, kinds[i].bytes), kinds[i].note);
    }
}

static json_t *plan_json(const struct memory_plan *plan) {
    return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "weights", (json_int_t)plan->weights, "masters",
                     (json_int_t)plan->masters, "moments", (json_int_t)plan->moments, "average",
                     (json_int_t)plan->average, "gradients", (json_int_t)plan->gradients, "activations",
                     (json_int_t)plan->activations, "saved", (json_int_t)plan->saved, "workspace",
                     (json_int_t)plan->workspace, "saving", (json_int_t)plan->saving, "total", (json_int_t)plan->total);
}

static void print_state(const struct model_info *info) {
    if (!info->weights) {
        return;
    }
    printf("\nfiles          ");
    if (is_complete(info)) {
        printf("complete: all %" PRId64 " parameters are there with the right shapes\n", info->needed);
    } else if (info->checkpoint == NULL) {
        printf("INCOMPLETE: no weights\n");
    } else {
        printf("INCOMPLETE: %" PRId64 " of %" PRId64 " parameters are missing or unusable, %" PRId64 " of %" PRId64
               " files unreadable\n",
               info->missing, info->needed, info->unreadable_files, info->files);
    }
    for (int64_t i = 0; i < info->problem_count && i < KEPT_PROBLEMS; i++) {
        printf("  %s\n", info->problems[i]);
    }
    if (info->problem_count > KEPT_PROBLEMS) {
        printf("  and %" PRId64 " more\n", info->problem_count - KEPT_PROBLEMS);
    }
    if (info->mtp_absent) {
        printf("  the multi-token prediction layer that config.json announces is not in the files: it is left out\n");
    }
    if (info->checkpoint != NULL && info->unreadable_files == 0 && info->tensors > info->used) {
        printf("  %" PRId64 " tensors are not used by the architecture\n", info->tensors - info->used);
    }
    if (info->unindexed > 0) {
        printf("  %" PRId64 " tensors in the files are not in the index\n", info->unindexed);
    }
}

static int print_json(const struct model_info *info, const struct memory_plan *plan, struct error *error) {
    struct needs needs = model_needs(info);
    json_t *dtypes = json_object(), *problems = json_array();
    for (int64_t i = 0; i < info->dtype_count; i++) {
        const struct dtype_use *use = &info->dtypes[i];
        json_object_set_new(dtypes, use->name,
                            json_pack("{s:I,s:I,s:I}", "tensors", (json_int_t)use->tensors, "elements",
                                      (json_int_t)use->elements, "bytes", (json_int_t)use->bytes));
    }
    for (int64_t i = 0; i < info->problem_count && i < KEPT_PROBLEMS; i++) {
        json_array_append_new(problems, json_string(info->problems[i]));
    }
    json_t *root = json_pack(
        "{s:s, s:{s:I,s:I,s:I,s:I,s:I}, s:{s:I,s:I,s:I,s:o}, s:{s:I,s:I,s:I,s:I,s:I}, s:b, s:I, s:I, s:o}",
        "model_type", info->config.model_type, "parameters", "total", (json_int_t)info->count.total, "active",
        (json_int_t)info->count.active, "active_without_embedding", (json_int_t)info->count.active_without_embedding,
        "mtp", (json_int_t)info->count.mtp, "mtp_unique", (json_int_t)info->count.mtp_unique, "weights", "files",
        (json_int_t)info->files, "tensors", (json_int_t)info->tensors, "bytes", (json_int_t)info->data_bytes, "dtypes",
        dtypes, "memory", "cache_1k_latent", (json_int_t)needs.latent, "cache_1k_latent_fp8",
        (json_int_t)needs.latent_fp8, "cache_1k_expanded", (json_int_t)needs.expanded, "training",
        (json_int_t)needs.training, "training_with_average", (json_int_t)needs.average, "complete",
        (int)(info->weights && is_complete(info)), "missing_parameters", (json_int_t)info->missing, "unreadable_files",
        (json_int_t)info->unreadable_files, "problems", problems);
    if (root != NULL && plan != NULL) {
        json_object_set_new(root, "train", plan_json(plan));
    }
    char *text = root != NULL ? json_dumps(root, JSON_COMPACT) : NULL;
    int code = text != NULL ? 0 : error_set(error, ERROR_MEMORY, "info: out of memory");
    if (code == 0) {
        printf("%s\n", text);
    }
    memory_free(text);
    json_decref(root);
    return code;
}

int command_info(int argc, char **argv) {
    const char *path = NULL, *run_path = NULL;
    bool json = false;
    const struct command_option options[] = {
        {.name = "json", .help = "one JSON object instead of a table", .flag = &json},
        {.name = "train",
         .argument = "RUN.ini",
         .help = "memory that training it with this configuration takes",
         .text = &run_path},
        {0},
    };
    const struct command_positional positionals[] = {
        {.name = "MODEL_DIR", .help = "a Hugging Face model directory, or a config.json", .text = &path},
        {0},
    };
    const struct command_syntax syntax = {
        .name = "info",
        .summary = "show architecture, parameters, files and memory needs of a model",
        .description = "Reads and checks all headers, not the data. Exit status 1 if the files are incomplete.",
        .examples = "minke info DeepSeek-V3\nminke info config.json --json\n"
                    "minke info examples/fp8.json --train examples/fp8.ini",
        .options = options,
        .positionals = positionals,
    };
    int status;
    struct error error = {0};
    if (!options_parse(&syntax, argc, argv, &status)) {
        return status;
    }
    struct model_info info = {0};
    struct memory_plan plan;
    struct run_config run;
    int code = collect(&info, path, &error);
    if (code == 0 && run_path != NULL) {
        code = plan_training(&plan, &run, run_path, &info.config, &error);
    }
    if (code == 0 && json) {
        code = print_json(&info, run_path != NULL ? &plan : NULL, &error);
    } else if (code == 0) {
        print_architecture(&info.config);
        print_parameters(&info);
        if (info.checkpoint != NULL) {
            print_weights(&info);
        }
        print_memory(&info);
        if (run_path != NULL) {
            print_plan(&plan, &run);
        }
        print_state(&info);
    }
    checkpoint_close(info.checkpoint);
    if (code != 0) {
        log_error("%s", error.text);
    }
    return code != 0 || (info.weights && !is_complete(&info)) ? 1 : 0;
}
