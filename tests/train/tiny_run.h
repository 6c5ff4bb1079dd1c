// A training run small enough for tests: a V3-like model (dense layer, MoE layer, MTP layer) of a few thousand weights, and a dataset.
#ifndef MINKE_TESTS_TRAIN_TINY_RUN_H
#define MINKE_TESTS_TRAIN_TINY_RUN_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "data/dataset_writer.h"
#include "support/test.h"
#include "train/trainer.h"

#define TINY_VOCAB 64
#define TINY_LENGTH 16

static const char *const tiny_config =
    "{\"model_type\": \"deepseek_v3\", \"vocab_size\": 64, \"hidden_size\": 32, \"num_hidden_layers\": 2, \"first_k_dense_replace\": 1,\n"
    " \"moe_layer_freq\": 1, \"intermediate_size\": 48, \"moe_intermediate_size\": 16, \"num_attention_heads\": 2,\n"
    " \"num_key_value_heads\": 2, \"q_lora_rank\": 16, \"kv_lora_rank\": 16, \"qk_nope_head_dim\": 8, \"qk_rope_head_dim\": 4,\n"
    " \"v_head_dim\": 8, \"n_routed_experts\": 8, \"n_shared_experts\": 1, \"num_experts_per_tok\": 2, \"n_group\": 4, \"topk_group\": 2,\n"
    " \"scoring_func\": \"sigmoid\", \"topk_method\": \"noaux_tc\", \"norm_topk_prob\": true, \"routed_scaling_factor\": 2.5,\n"
    " \"num_nextn_predict_layers\": 1, \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0,\n"
    " \"rope_scaling\": null, \"initializer_range\": 0.02, \"bos_token_id\": 0, \"eos_token_id\": 1, \"hidden_act\": \"silu\",\n"
    " \"attention_bias\": false, \"tie_word_embeddings\": false, \"torch_dtype\": \"bfloat16\"}\n";

// Document d: BOS, a walk through the vocabulary whose stride depends on d, EOS. Learnable, and no two stretches are alike.
static inline int64_t tiny_document(int32_t ids[128], int64_t document) {
    int64_t length = 40 + document * 13 % 60;
    ids[0] = 0;
    for (int64_t i = 1; i + 1 < length; i++) {
        ids[i] = (int32_t)(2 + (document * 17 + i * (1 + document % 5) + i * i * (document % 3)) % (TINY_VOCAB - 2));
    }
    ids[length - 1] = 1;
    return length;
}

// Writes DIR/data and DIR/config.json.
static inline void tiny_prepare(const char *directory) {
    struct error error = {0};
    char data[1024];
    snprintf(data, sizeof data, "%s/data", directory);
    assert_int_equal(file_make_directory(data, &error), 0);
    struct dataset_writer_options options = {
        .directory = data, .vocab_size = TINY_VOCAB, .bos = 0, .eos = 1, .shard_bytes = 1 << 20};
    struct dataset_writer *writer = NULL;
    json_t *properties = json_pack("{s:{s:s, s:s}}", "tokenizer", "file", "tokenizer.json", "checksum", "0123456789abcdef");
    assert_int_equal(dataset_writer_create(&writer, &options, &error), 0);
    for (int64_t document = 0; document < 44; document++) {
        int32_t ids[128];
        int64_t length = tiny_document(ids, document);
        assert_int_equal(dataset_writer_append(writer, document < 40 ? DATA_TRAIN : DATA_VALIDATION, ids, length, 3 * length, &error),
                         0);
    }
    if (dataset_writer_finish(writer, properties, &error) != 0) {
        fail_msg("%s", error.text);
    }
    dataset_writer_free(writer);
    json_decref(properties);
    test_write_file(test_path(data, "tokenizer.json"), "{}\n", 3);
    test_write_file(test_path(directory, "config.json"), tiny_config, strlen(tiny_config));
}

// The configuration of a run in DIR/<name>, with assignments ("section.key=value", NULL ends them).
static inline struct run_config tiny_run(const char *directory, const char *name, const char *const *assignments) {
    static const char *const common[] = {
        "train.steps=6",        "train.sequence_length=16", "train.batch=8",          "train.threads=1",
        "data.fim_rate=0",      "data.split_rate=0",        "schedule.warmup=2 steps", "schedule.learning_rate=0.01",
        "checkpoint.keep=0",    "train.precision=fp32",     "model.init_std=0.05",    "schedule.decay_start=never",
        "schedule.tail_start=never",
    };
    struct run_config run;
    struct error error = {0};
    run_config_defaults(&run);
    snprintf(run.model.config, sizeof run.model.config, "%s/config.json", directory);
    snprintf(run.data.path, sizeof run.data.path, "%s/data", directory);
    snprintf(run.train.out, sizeof run.train.out, "%s/%s", directory, name);
    for (size_t i = 0; i < sizeof common / sizeof common[0]; i++) {
        assert_int_equal(run_config_override(&run, common[i], &error), 0);
    }
    for (; assignments != NULL && *assignments != NULL; assignments++) {
        if (run_config_override(&run, *assignments, &error) != 0) {
            fail_msg("%s", error.text);
        }
    }
    if (run_config_finish(&run, &error) != 0) {
        fail_msg("%s", error.text);
    }
    return run;
}

// Runs to the end.
static inline void tiny_train(const struct run_config *run, bool resume) {
    struct error error = {0};
    struct trainer *trainer;
    bool finished;
    if (trainer_create(&trainer, run, resume, &error) != 0 || trainer_run(trainer, &finished, NULL, &error) != 0) {
        fail_msg("%s", error.text);
    }
    assert_true(finished);
    trainer_destroy(trainer);
}

// Compares every file of two checkpoint directories; their manifests have all names, sizes and checksums.
static inline void assert_same_checkpoint(const char *left, const char *right) {
    struct error error = {0};
    size_t left_size, right_size;
    if (checkpoint_verify(left, &error) != 0 || checkpoint_verify(right, &error) != 0) {
        fail_msg("%s", error.text);
    }
    char *a = test_read_file(test_path(left, "trainer/manifest.json"), &left_size);
    char *b = test_read_file(test_path(right, "trainer/manifest.json"), &right_size);
    if (left_size != right_size || memcmp(a, b, left_size) != 0) {
        fail_msg("%s and %s differ:\n%s%s", left, right, a, b);
    }
    free(a);
    free(b);
}

static inline const char *tiny_checkpoint(const struct run_config *run, int64_t step) {
    char name[64];
    snprintf(name, sizeof name, "checkpoints/step-%08lld", (long long)step);
    return test_path(run->train.out, name);
}

#endif
