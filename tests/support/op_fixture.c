// Shared parts of the tests of operations (op_fixture.h).
#include "support/op_fixture.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "op/cpu/kernels.h"
#include "support/test.h"
#include "tensor/formats.h"

#define SEED 20240607

bool isa_available(enum isa isa) {
    return isa == ISA_AMX ? cpu_amx_missing() == NULL : isa <= cpu_isa_best();
}

void op_fixture_open(struct op_fixture *fixture, enum isa isa, int threads) {
    struct error error = {0};
    arena_init(&fixture->arena, "test scratch");
    assert_int_equal(pool_create(&fixture->pool, threads, &error), 0);
    assert_int_equal(op_context_init(&fixture->op, isa, fixture->pool, &fixture->arena, &error), 0);
}

bool op_other_pairs(struct op_context *op, struct cpu_kernels *copy) {
    if (!op->kernels->linear.pairs) {
        return false;
    }
    *copy = *op->kernels;
    kernels_avx512_pairs(copy, !copy->linear.wide);
    op->kernels = copy;
    return true;
}

void op_fixture_close(struct op_fixture *fixture) {
    pool_destroy(fixture->pool);
    arena_destroy(&fixture->arena);
}

void *array_new(int64_t count, int64_t size) {
    struct error error = {0};
    void *memory = memory_allocate((size_t)(count > 0 ? count : 1), (size_t)size, "test array", &error);
    assert_non_null(memory);
    return memory;
}

struct tensor tensor_new(enum format format, int rank, const int64_t *shape) {
    struct tensor tensor = tensor_make(format, NULL, rank, shape);
    tensor.data = array_new(tensor_elements(&tensor), format_info(format)->bytes);
    return tensor;
}

struct tensor tensor_new_1d(enum format format, int64_t n) {
    return tensor_new(format, 1, (const int64_t[]){n});
}

struct tensor tensor_new_2d(enum format format, int64_t rows, int64_t columns) {
    return tensor_new(format, 2, (const int64_t[]){rows, columns});
}

struct tensor tensor_new_3d(enum format format, int64_t a, int64_t b, int64_t c) {
    return tensor_new(format, 3, (const int64_t[]){a, b, c});
}

struct tensor tensor_clone(const struct tensor *tensor) {
    struct tensor copy = tensor_new((enum format)tensor->format, tensor->rank, tensor->shape);
    memcpy(copy.data, tensor->data, (size_t)tensor_bytes(tensor));
    return copy;
}

void tensor_free(struct tensor *tensor) {
    memory_free(tensor->data);
    *tensor = (struct tensor){0};
}

float element_get(const struct tensor *tensor, int64_t i) {
    return tensor->format == FORMAT_BF16 ? bf16_widen(((const uint16_t *)tensor->data)[i])
                                         : ((const float *)tensor->data)[i];
}

void element_set(struct tensor *tensor, int64_t i, float value) {
    if (tensor->format == FORMAT_BF16) {
        ((uint16_t *)tensor->data)[i] = bf16_narrow(value);
    } else {
        ((float *)tensor->data)[i] = value;
    }
}

void fill_uniform(struct tensor *tensor, float scale, uint64_t stream) {
    for (int64_t i = 0; i < tensor_elements(tensor); i++) {
        element_set(tensor, i, (2.0f * rng_uniform(SEED, stream, (uint64_t)i) - 1.0f) * scale);
    }
}

void fill_edges(struct tensor *tensor, float scale, uint64_t stream, int rarity) {
    static const float edges[] = {NAN,        INFINITY,  -INFINITY,  0.0f,        -0.0f,    0x1p-126f,
                                  -0x1p-126f, 0x1p-140f, -0x1p-130f, 0x1.8p-126f, 0x1p127f, -0x1p127f,
                                  0x1p-60f,   -0x1p-63f, 1.0f,       88.0f,       -87.4f};
    fill_uniform(tensor, scale, stream);
    for (int64_t i = 0; i < tensor_elements(tensor); i++) {
        uint64_t dice = rng_u64(SEED, stream + 1000003, (uint64_t)i);
        if (dice % (uint64_t)rarity == 0) {
            element_set(tensor, i, edges[(dice >> 32) % (sizeof edges / sizeof *edges)]);
        }
    }
}

bool same_floats(const float *a, const float *b, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (memcmp(&a[i], &b[i], sizeof a[i]) != 0 && (a[i] == a[i] || b[i] == b[i])) {
            return false;
        }
    }
    return true;
}

bool same_bits(const struct tensor *a, const struct tensor *b) {
    if (a->format != b->format || !tensor_same_shape(a, b)) {
        return false;
    }
    if (a->format != FORMAT_F32 && a->format != FORMAT_BF16) {
        return memcmp(a->data, b->data, (size_t)tensor_bytes(a)) == 0;
    }
    for (int64_t i = 0; i < tensor_elements(a); i++) {
        float x = element_get(a, i), y = element_get(b, i);
        if (!same_floats(&x, &y, 1)) {
            return false;
        }
    }
    return true;
}

double relative_error(const struct tensor *a, const double *b) {
    double largest = 1e-30, difference = 0;
    for (int64_t i = 0; i < tensor_elements(a); i++) {
        double d = fabs((double)element_get(a, i) - b[i]);
        difference = d > difference || d != d ? d : difference;
        largest = fabs(b[i]) > largest ? fabs(b[i]) : largest;
    }
    return difference / largest;
}

void assert_same_everywhere(void (*run)(struct op_context *op, struct tensor *outputs, void *argument),
                            struct tensor *outputs, int output_count, void *argument) {
    static const int threads[] = {1, 2, 3, 7};
    enum { OUTPUTS = 8 };
    struct tensor expected[2][OUTPUTS], found[OUTPUTS];   // of AMX, which has another order of products, its own
    assert_true(output_count <= OUTPUTS);
    for (enum isa isa = ISA_SCALAR; isa < ISA_BEST; isa++) {
        for (size_t t = 0; t < 2 * (sizeof threads / sizeof *threads) && isa_available(isa); t++) {
            const bool amx = isa == ISA_AMX, first = (isa == ISA_SCALAR || amx) && t == 0;
            struct op_fixture fixture;
            struct cpu_kernels other;
            op_fixture_open(&fixture, isa, threads[t / 2]);
            if (t % 2 != 0 && !op_other_pairs(&fixture.op, &other)) {
                op_fixture_close(&fixture);
                continue;
            }
            for (int i = 0; i < output_count; i++) {
                found[i] = tensor_clone(&outputs[i]);
            }
            run(&fixture.op, found, argument);
            for (int i = 0; i < output_count; i++) {
                if (first) {
                    expected[amx][i] = found[i];
                    continue;
                }
                if (!same_bits(&found[i], &expected[amx][i])) {
                    fail_msg("output %d: %s with %d threads (way %zu) differs from %s with one", i, isa_name(isa),
                             threads[t / 2], t % 2, amx ? "itself" : "scalar");
                }
                tensor_free(&found[i]);
            }
            op_fixture_close(&fixture);
        }
    }
    for (int i = 0; i < output_count; i++) {
        memcpy(outputs[i].data, expected[0][i].data, (size_t)tensor_bytes(&outputs[i]));
        tensor_free(&expected[0][i]);
        if (isa_available(ISA_AMX)) {
            tensor_free(&expected[1][i]);
        }
    }
}
