// weights/cast.c against numpy, ml_dtypes and torch (tests/golden/weights/make_fp8.py), and its independence of
// threads.
#include "weights/cast.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "support/test.h"
#include "tensor/formats.h"
#include "weights/safetensors.h"

#define GOLDEN "tests/golden/weights/fp8.safetensors"

static struct safetensors golden;

static int setup(void **state) {
    (void)state;
    struct error error = {0};
    if (safetensors_open(&golden, GOLDEN, &error) != 0) {
        print_error("%s\n", error.text);
        return -1;
    }
    return 0;
}

static int teardown(void **state) {
    (void)state;
    safetensors_close(&golden);
    return 0;
}

static struct tensor find(const char *name) {
    for (int64_t i = 0; i < golden.count; i++) {
        if (strcmp(golden.entries[i].name, name) == 0) {
            return golden.entries[i].tensor;
        }
    }
    fail_msg("%s: no tensor \"%s\"", GOLDEN, name);
    return (struct tensor){0};
}

static void assert_same(const struct tensor *a, const struct tensor *b) {
    assert_true(tensor_same_shape(a, b));
    assert_memory_equal(a->data, b->data, (size_t)(tensor_elements(a) * format_info(a->format)->bytes));
}

// The E4M3 byte of each of the 65,536 BF16 values.
static void test_every_bf16(void **state) {
    (void)state;
    struct tensor expected = find("e4m3_of_bf16");
    for (uint32_t bits = 0; bits < 65536; bits++) {
        uint8_t found = e4m3_narrow(bf16_widen((uint16_t)bits)), wanted = ((const uint8_t *)expected.data)[bits];
        if (found != wanted) {
            fail_msg("bf16 0x%04x: expected 0x%02x, found 0x%02x", bits, wanted, found);
        }
    }
}

static void check_format(const char *weight_name, const char *scale_name, const char *cast_name, bool power_of_two,
                         struct pool *pool) {
    struct cast_buffer buffer = {0}, back = {0};
    struct tensor source = find("source"), weight = find(weight_name), scale = find(scale_name), cast = find(cast_name),
                  out;
    assert_int_equal(tensor_cast_buffered(&out, &buffer, FORMAT_E4M3_BLOCK, &source, power_of_two, pool, NULL), 0);
    assert_same(&out, &weight);
    assert_memory_equal(out.scale, scale.data, 4 * sizeof(float));
    // The way back, to BF16 as the published script does it, and to F32, whose rounding is the same.
    struct tensor bf16, f32, rounded;
    assert_int_equal(tensor_cast_buffered(&bf16, &back, FORMAT_BF16, &out, false, pool, NULL), 0);
    assert_same(&bf16, &cast);
    cast_buffer_free(&back);
    assert_int_equal(tensor_cast_buffered(&f32, &back, FORMAT_F32, &out, false, pool, NULL), 0);
    struct cast_buffer last = {0};
    assert_int_equal(tensor_cast_buffered(&rounded, &last, FORMAT_BF16, &f32, false, pool, NULL), 0);
    assert_same(&rounded, &cast);
    cast_buffer_free(&last);
    cast_buffer_free(&back);
    cast_buffer_free(&buffer);
}

static void test_golden(void **state) {
    (void)state;
    for (int threads = 0; threads <= 3; threads += 3) {
        struct pool *pool = NULL;
        if (threads > 0) {
            assert_int_equal(pool_create(&pool, threads, NULL), 0);
        }
        check_format("float.weight", "float.weight_scale_inv", "float.cast", false, pool);
        check_format("ue8m0.weight", "ue8m0.weight_scale_inv", "ue8m0.cast", true, pool);
        pool_destroy(pool);
    }
}

// Same format: the tensor itself, no copy. Ranks 0, 1, 3 and empty tensors pass.
static void test_shapes(void **state) {
    (void)state;
    struct cast_buffer buffer = {0};
    struct tensor source = find("source"), out;
    assert_int_equal(tensor_cast_buffered(&out, &buffer, FORMAT_BF16, &source, false, NULL, NULL), 0);
    assert_ptr_equal(out.data, source.data);
    assert_null(buffer.memory);
    const struct tensor views[] = {
        tensor_make(FORMAT_BF16, source.data, 0, NULL), tensor_1d(FORMAT_BF16, source.data, 9001),
        tensor_3d(FORMAT_BF16, source.data, 3, 5, 7), tensor_2d(FORMAT_BF16, source.data, 0, 7)};
    for (size_t i = 0; i < sizeof views / sizeof views[0]; i++) {
        assert_int_equal(tensor_cast_buffered(&out, &buffer, FORMAT_F32, &views[i], false, NULL, NULL), 0);
        assert_true(tensor_same_shape(&out, &views[i]));
        for (int64_t j = 0; j < tensor_elements(&out); j++) {
            uint16_t bits;
            memcpy(&bits, (const char *)source.data + 2 * j, sizeof bits);
            assert_true(((const float *)out.data)[j] == bf16_widen(bits));
        }
    }
    cast_buffer_free(&buffer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_bf16),
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_shapes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
