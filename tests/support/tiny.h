// A model of a few thousand parameters with every kind of tensor, ragged FP8 edges included, for tests of files.
#ifndef MINKE_TESTS_TINY_H
#define MINKE_TESTS_TINY_H

#include "base/file.h"
#include "base/pool.h"
#include "model/config.h"
#include "model/load.h"
#include "op/ops.h"

struct model_config tiny_config(void);   // deepseek_v3: dense + MoE layer, 2 MTP modules, YaRN

struct tiny {
    struct model_config config;
    struct arena arena, scratch;
    struct pool *pool;
    struct op_context op;
    struct model_params params;
};
// Parameters of one format with random values; threads 0 = no pool.
void tiny_open(struct tiny *tiny, const struct model_config *config, enum format format, int threads);
void tiny_close(struct tiny *tiny);
// Saves into a new directory; fails the test on error.
void tiny_save(struct tiny *tiny, const char *directory, enum format format, bool power_of_two, int64_t shard_bytes);

// A fresh directory as test_directory gives it, in memory where the system has such a file system: thousands of fsyncs.
char *tiny_directory(void);

#endif
