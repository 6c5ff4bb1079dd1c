// What the tests of operations share: contexts of every instruction set and thread count, tensors with random or nasty
// content, and comparison of bits.
#ifndef MINKE_TESTS_SUPPORT_OP_FIXTURE_H
#define MINKE_TESTS_SUPPORT_OP_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "op/ops.h"

struct op_fixture {
    struct arena arena;
    struct pool *pool;
    struct op_context op;
};
// Fails the test if the CPU cannot run `isa`; ask isa_available first.
void op_fixture_open(struct op_fixture *fixture, enum isa isa, int threads);
void op_fixture_close(struct op_fixture *fixture);
// Gives the context a copy of its table that multiplies pairs of BF16 the other way; false if there are not two.
struct cpu_kernels;
bool op_other_pairs(struct op_context *op, struct cpu_kernels *copy);
bool isa_available(enum isa isa);

// A packed tensor on the heap, zeroed; free with tensor_free.
struct tensor tensor_new(enum format format, int rank, const int64_t *shape);
struct tensor tensor_new_1d(enum format format, int64_t n);
struct tensor tensor_new_2d(enum format format, int64_t rows, int64_t columns);
struct tensor tensor_new_3d(enum format format, int64_t a, int64_t b, int64_t c);
struct tensor tensor_clone(const struct tensor *tensor);   // packed ones
void tensor_free(struct tensor *tensor);

// Elements of packed F32 and BF16 tensors in memory order.
float element_get(const struct tensor *tensor, int64_t i);
void element_set(struct tensor *tensor, int64_t i, float value);
// Uniform in [-scale, scale), rounded to the format; a function of (stream, index) alone.
void fill_uniform(struct tensor *tensor, float scale, uint64_t stream);
// The same with about one element in `rarity` replaced by NaN, infinities, zeros of both signs, subnormals and
// extremes.
void fill_edges(struct tensor *tensor, float scale, uint64_t stream, int rarity);
void *array_new(int64_t count, int64_t size);   // zeroed; free with memory_free

// The same bits, where any NaN equals any NaN (payload and sign of a NaN are not defined).
bool same_bits(const struct tensor *a, const struct tensor *b);
bool same_floats(const float *a, const float *b, int64_t n);
// Largest |a - b| over the largest |b|; b in double, memory order.
double relative_error(const struct tensor *a, const double *b);

// Runs `run` on copies of the outputs (which bring their initial content) with scalar kernels and one thread, then with
// every instruction set of this CPU, way to multiply pairs and 1, 2, 3 and 7 threads, asserts the same bits everywhere
// (with AMX: for any number of threads), and leaves the result of the scalar kernels in the outputs.
void assert_same_everywhere(void (*run)(struct op_context *op, struct tensor *outputs, void *argument),
                            struct tensor *outputs, int output_count, void *argument);

#endif
