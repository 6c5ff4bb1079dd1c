// A training run small enough for tests: a V3-like model (dense layer, MoE layer, MTP layer) of a few thousand weights,
// and a dataset.
#ifndef MINKE_TESTS_TRAIN_TINY_RUN_H
#define MINKE_TESTS_TRAIN_TINY_RUN_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "data/dataset_writer.h"
#include "support/test.h"
#include "train/trainer.h"

#define TINY_VOCAB 64
#define TINY_LENGTH 16

static const char *const tiny_config =
    "{\"model_type\": \"deepseek_v3\", \"vocab_size\": 64, \"hidden_size\": 32, \"num_hidden_layers\": 2, "
    "\"first_k_dense_replace\": 1, \"moe_layer_freq\": 1, \"intermediate_size\": 48, "
    "\"moe_intermediate_size\": 16, \"num_attention_heads\": 2, \"num_key_value_heads\": 2, "
    "\"q_lora_rank\": 16, \"kv_lora_rank\": 16, \"qk_nope_head_dim\": 8, \"qk_rope_head_dim\": 4, "
    "\"v_head_dim\": 8, \"n_routed_experts\": 8, \"n_shared_experts\": 1, \"num_experts_per_tok\": 2, "
    "\"n_group\": 4, \"topk_group\": 2, \"scoring_func\": \"sigmoid\", \"topk_method\": \"noaux_tc\", "
    "\"norm_topk_prob\": true, \"routed_scaling_factor\": 2.5, \"num_nextn_predict_layers\": 1, "
    "\"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0, "
    "\"rope_scaling\": null, \"initializer_range\": 0.02, \"bos_token_id\": 0, \"eos_token_id\": 1, "
    "\"hidden_act\": \"silu\", \"attention_bias\": false, \"tie_word_embeddings\": false, "
    "\"torch_dtype\": \"bfloat16\"}\n";

// A test directory in memory where there is such a thing: the trainer fsyncs a lot, and a busy disk takes its time.
static inline char *tiny_directory(void) {
    if (access("/dev/shm", W_OK) == 0) {
        setenv("TMPDIR", "/dev/shm", 0);
    }
    return test_directory();
}

enum tiny_data { TINY_VARIED, TINY_REPEATING };

// TINY_REPEATING: the same twelve tokens over and over. TINY_VARIED, document d: a walk through the vocabulary whose
// stride depends on d. Learnable, and no two stretches are alike.
static inline int64_t tiny_document(int32_t ids[128], int64_t document, enum tiny_data data) {
    int64_t length = 40 + document * 13 % 60;
    for (int64_t i = 0; i < length; i++) {
        ids[i] = (int32_t)(2 + (document * 17 + i * (1 + document % 5) + i * i * (document % 3)) % (TINY_VOCAB - 2));
        ids[i] = data == TINY_REPEATING ? (int32_t)(2 + i * 5 % 12) : ids[i];
    }
    return length;
}

// Writes DIR/data and DIR/config.json.
static inline void tiny_prepare(const char *directory, enum tiny_data kind) {
    struct error error = {0};
    char data[1024];
    snprintf(data, sizeof data, "%s/data", directory);
    assert_int_equal(file_make_directory(data, &error), 0);
    struct dataset_writer_options options = {
        .directory = data, .vocab_size = TINY_VOCAB, .bos = 0, .eos = 1, .shard_bytes = 1 << 20};
    struct dataset_writer *writer = NULL;
    json_t *properties = json_pack("{s:{s:s, s:s}}", "tokenizer", "file", "tokenizer.json", "checksum",
                                   "0123456789abcdef");
    assert_int_equal(dataset_writer_create(&writer, &options, &error), 0);
    for (int64_t document = 0; document < 44; document++) {
        int32_t ids[128];
        int64_t length = tiny_document(ids, document, kind);
        assert_int_equal(dataset_writer_append(writer, document < 40 ? DATA_TRAIN : DATA_VALIDATION, ids, length,
                                               3 * length, &error),
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
        "train.steps=6",
        "train.sequence_length=16",
        "train.batch=8",
        "train.threads=1",
        "data.fim_rate=0",
        "data.split_rate=0",
        "schedule.warmup=2 steps",
        "schedule.learning_rate=0.01",
        "checkpoint.keep=0",
        "train.precision=fp32",
        "model.init_std=0.05",
        "schedule.decay_start=never",
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
    bool finished = false;
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

// The lines of a run's metrics as objects; returns how many there are (at most `capacity` are kept).
static inline int read_metrics(json_t **lines, int capacity, const struct run_config *run) {
    size_t size;
    char *text = test_read_file(test_path(run->train.out, "metrics.jsonl"), &size);
    int count = 0;
    for (char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        json_t *root = json_loadb(line, (size_t)(end - line), 0, NULL);
        assert_non_null(root);
        if (count < capacity) {
            lines[count] = root;
        } else {
            json_decref(root);
        }
        count++;
    }
    free(text);
    return count;
}

// The metrics of two runs, without what belongs to the machine and the moment.
static inline void assert_same_metrics(const struct run_config *left, const struct run_config *right) {
    static const char *const timing[] = {"seconds", "tokens_per_second", "memory_peak"};
    json_t *a[256], *b[256];
    int count = read_metrics(a, 256, left);
    assert_int_equal(read_metrics(b, 256, right), count);
    assert_true(count <= 256);
    for (int i = 0; i < count; i++) {
        for (size_t k = 0; k < sizeof timing / sizeof timing[0]; k++) {
            assert_int_equal(json_object_del(a[i], timing[k]), 0);
            assert_int_equal(json_object_del(b[i], timing[k]), 0);
        }
        if (!json_equal(a[i], b[i])) {
            fail_msg("line %d of %s and %s:\n%s\n%s", i + 1, left->train.out, right->train.out, json_dumps(a[i], 0),
                     json_dumps(b[i], 0));
        }
        json_decref(a[i]);
        json_decref(b[i]);
    }
}

static inline const char *tiny_checkpoint(const struct run_config *run, int64_t step) {
    char name[64];
    snprintf(name, sizeof name, "checkpoints/step-%08lld", (long long)step);
    return test_path(run->train.out, name);
}

#endif
