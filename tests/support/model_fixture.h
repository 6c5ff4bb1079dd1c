// A golden model (tests/golden/model/<case>) opened for a test: weights as mapped or cast, gradients, a slot, an op
// context.
#ifndef MINKE_TESTS_MODEL_FIXTURE_H
#define MINKE_TESTS_MODEL_FIXTURE_H

#include "base/arena.h"
#include "base/pool.h"
#include "model/load.h"
#include "model/model.h"
#include "weights/safetensors.h"

#define FIXTURE_POSITIONS 128

struct fixture_options {
    enum format compute;   // of activations
    enum format weights;   // NONE = as mapped (F32); F32, BF16, E4M3_BLOCK = copies that may be written
    int threads;           // 0 = no pool
    enum isa isa;
    bool through_fp8;   // with weights F32: values are first rounded to E4M3 blocks
};

struct fixture {
    struct arena arena, scratch;
    struct pool *pool;
    struct op_context op;
    struct checkpoint *checkpoint;
    struct safetensors golden;
    struct model model;
    struct model_params gradients;   // f32, zeroed by fixture_clear
    struct param_list gradient_list;
    struct model_slot *slot;
    const int32_t *ids;   // of the golden file [sequences, length + 1 + D]
    int64_t sequences, length, depths;
    struct loss_weights weights;
};

// From now on ISA_BEST means ISA_AMX, or what it says again: for tests whose promise holds within AMX as well. Says
// "skipped" and returns false if this CPU has none.
bool fixture_amx(bool on);
void fixture_open(struct fixture *fixture, const char *name, const struct fixture_options *options);
void fixture_close(struct fixture *fixture);
void fixture_clear(struct fixture *fixture);   // gradients = 0
// A tensor of golden.safetensors; fails the test if it is not there.
struct tensor fixture_golden(const struct fixture *fixture, const char *name);
// Forward, B and W of the golden ids in micro-batches of `sequences_each`; all forwards first, then all B, then all W
// when `late` (each in a slot of its own), else one after the other. Returns the sum of the results.
struct micro_batch_result fixture_step(struct fixture *fixture, int64_t sequences_each, bool late);
// The whole ids as one forward without caches: hidden [sequences * length, d] of `format`, in the arena.
struct tensor fixture_hidden(struct fixture *fixture, enum format format);
struct tensor fixture_logits(struct fixture *fixture, const struct tensor *hidden);
// All gradients in one row of memory, for memcmp; owned by the arena.
float *fixture_gradients_copy(struct fixture *fixture, int64_t *count);

double largest_difference(const struct tensor *a, const struct tensor *b);    // max abs, F32 tensors
double relative_difference(const struct tensor *a, const struct tensor *b);   // ||a - b|| / ||b||

#endif
