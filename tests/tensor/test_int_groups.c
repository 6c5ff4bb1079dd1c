// int8 and int4 groups: the layout byte by byte, the stated errors on ordinary and awkward weights, the quality of the
// search for a scale, and what becomes of zeros, infinities and NaN.
#include "tensor/int_groups.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "support/test.h"
#include "tensor/formats.h"

static struct tensor quantized(enum format format, const struct tensor *source) {
    struct tensor out = tensor_2d(format, NULL, source->shape[0], source->shape[1]);
    out.data = memory_allocate((size_t)int_bytes(&out), 1, "integers", NULL);
    assert_non_null(out.data);
    memset(out.data, 0x5a, (size_t)int_bytes(&out));
    for (int64_t tile = 0; tile < int_tiles(&out); tile++) {
        int_quantize(&out, source, tile);
    }
    return out;
}

// ---- Layout ---------------------------------------------------------------------------------------------------------

// Integers whose group has the extreme -8 (or 127) come back as they are, with a scale of 1.
static void test_layout_of_int4(void **state) {
    (void)state;
    enum { ROWS = 18, DEPTH = 37 };
    float values[ROWS][DEPTH];
    for (int row = 0; row < ROWS; row++) {
        for (int k = 0; k < DEPTH; k++) {
            values[row][k] = k % 32 == 0 ? -8.0f : (float)((row * 5 + k * 3) % 16 - 8);
        }
    }
    struct tensor source = tensor_2d(FORMAT_F32, values, ROWS, DEPTH), out = quantized(FORMAT_INT4, &source);
    const uint8_t *bytes = out.data;
    assert_int_equal(int_bytes(&out), 2 * 5 * 64 + 2 * 2 * 16 * 2);
    for (int row = 0; row < 32; row++) {
        for (int k = 0; k < 40; k++) {
            // Two tiles side by side: each group has 64 bytes of scales, then slabs by ascending k.
            int slab = 1 + k / 8 * 2 + row / 16 + k / 32, lane = row % 16, j = k % 8;
            // Even k in bytes 2 and 3 of the lane, odd k in bytes 0 and 1, four bits each, ascending.
            int byte = bytes[slab * 64 + lane * 4 + (j % 2 == 0 ? 2 : 0) + j / 4];
            int nibble = j / 2 % 2 == 0 ? byte & 15 : byte >> 4, code = nibble < 8 ? nibble : nibble - 16;
            assert_int_equal(code, row < ROWS && k < DEPTH ? (int)values[row][k] : 0);
            if (row < ROWS && k < DEPTH) {
                assert_int_equal(int_code(&out, row, k), code);
            }
        }
        for (int group = 0; group < 2; group++) {
            uint16_t bits;
            memcpy(&bits, bytes + group * 9 * 64 + row * 2, sizeof bits);
            assert_int_equal(bits, row < ROWS ? 0x3f80 : 0);
        }
    }
    memory_free(out.data);
}

static void test_layout_of_int8(void **state) {
    (void)state;
    enum { ROWS = 3, DEPTH = 131 };
    float values[ROWS][DEPTH];
    for (int row = 0; row < ROWS; row++) {
        for (int k = 0; k < DEPTH; k++) {
            values[row][k] = k % 128 == 1 ? -127.0f : (float)((row * 50 + k * 7) % 255 - 127);
        }
    }
    struct tensor source = tensor_2d(FORMAT_F32, values, ROWS, DEPTH), out = quantized(FORMAT_INT8, &source);
    const int8_t *bytes = out.data;
    assert_int_equal(int_bytes(&out), 33 * 64 + 2 * 16 * 2);
    for (int row = 0; row < 16; row++) {
        for (int k = 0; k < 132; k++) {
            static const int place[] = {2, 0, 3, 1};
            int code = bytes[32 + k / 128 * 32 + k / 4 * 64 + row * 4 + place[k % 4]];
            assert_int_equal(code, row < ROWS && k < DEPTH ? (int)values[row][k] : 0);
        }
    }
    assert_true(int_scale(&out, 2, 0) == 1.0f && int_scale(&out, 0, 130) == 1.0f);
    memory_free(out.data);
}

// ---- Errors ---------------------------------------------------------------------------------------------------------

enum shape_of_values { NORMAL, UNIFORM, HEAVY, OUTLIER, CONSTANT, ONE_SIGN, EDGE };

static float draw_weight(enum shape_of_values shape, int64_t i) {
    float normal = rng_normal(17, (uint64_t)shape, (uint64_t)i), uniform = rng_uniform(18, 1, (uint64_t)i);
    switch (shape) {
    case NORMAL:
        return 0.02f * normal;
    case UNIFORM:
        return uniform - 0.5f;
    case HEAVY:
        return normal * normal * normal;
    case OUTLIER:
        return i % 50 == 7 ? 30.0f : 0.1f * normal;
    case CONSTANT:
        return -0.3f;
    case ONE_SIGN:
        return 1.0f + uniform;
    case EDGE:
        return i % 3 == 0 ? 1.0f : i % 3 == 1 ? -1.0f : 0.0f;
    }
    return 0.0f;
}

// Checks every weight against the bound that the header states; returns the relative RMS error.
static double check_errors(enum format format, const struct tensor *source) {
    const int64_t rows = source->shape[0], depth = source->shape[1], group = int_group(format);
    const double bound = format == FORMAT_INT4 ? 0.13 : 1.0 / 250.0;
    struct tensor out = quantized(format, source);
    float *exact = memory_allocate((size_t)depth, sizeof(float), "row", NULL);
    float *found = memory_allocate((size_t)depth, sizeof(float), "row", NULL);
    double error = 0, size = 0;
    for (int64_t row = 0; row < rows; row++) {
        format_info(source->format)->widen(exact, source, row, 0, depth);
        format_info(format)->widen(found, &out, row, 0, depth);
        for (int64_t k = 0; k < depth; k++) {
            double amax = 0, difference = (double)found[k] - (double)exact[k];
            for (int64_t i = k / group * group; i < depth && i < (k / group + 1) * group; i++) {
                amax = fmax(amax, fabs((double)exact[i]));
            }
            assert_true(fabs(difference) <= bound * amax);
            assert_true(found[k] == (float)int_code(&out, row, k) * int_scale(&out, row, k));
            error += difference * difference;
            size += (double)exact[k] * (double)exact[k];
        }
    }
    memory_free(exact);
    memory_free(found);
    memory_free(out.data);
    return sqrt(error / size);
}

static void test_errors(void **state) {
    (void)state;
    enum { ROWS = 21, DEPTH = 301 };
    static float values[ROWS * DEPTH];
    for (enum shape_of_values shape = NORMAL; shape <= EDGE; shape++) {
        for (int64_t i = 0; i < ROWS * DEPTH; i++) {
            values[i] = draw_weight(shape, i);
        }
        struct tensor source = tensor_2d(FORMAT_F32, values, ROWS, DEPTH);
        double int8 = check_errors(FORMAT_INT8, &source), int4 = check_errors(FORMAT_INT4, &source);
        if (shape == NORMAL) {   // with the extreme on -8 and no search it would be 0.084
            assert_true(int8 > 0.004 && int8 < 0.0075);
            assert_true(int4 > 0.06 && int4 < 0.083);
        }
    }
}

// ---- Sources and special values -------------------------------------------------------------------------------------

static void assert_same(const struct tensor *left, const struct tensor *right) {
    assert_memory_equal(left->data, right->data, (size_t)int_bytes(left));
}

static void test_sources(void **state) {
    (void)state;
    enum { ROWS = 19, DEPTH = 150 };
    static float values[ROWS * DEPTH], widened[ROWS * DEPTH], transposed[ROWS * DEPTH];
    static uint16_t halves[ROWS * DEPTH];
    static uint8_t codes[ROWS * DEPTH];
    float scales[2];
    for (int64_t i = 0; i < ROWS * DEPTH; i++) {
        halves[i] = bf16_narrow(draw_weight(NORMAL, i));
        values[i] = bf16_widen(halves[i]);
        transposed[i % DEPTH * ROWS + i / DEPTH] = values[i];
    }
    struct tensor plain = tensor_2d(FORMAT_F32, values, ROWS, DEPTH);
    struct tensor bf16 = tensor_2d(FORMAT_BF16, halves, ROWS, DEPTH);
    struct tensor turned = tensor_2d(FORMAT_F32, transposed, DEPTH, ROWS), view = tensor_transpose(&turned, 0, 1);
    struct tensor e4m3 = tensor_2d(FORMAT_E4M3_BLOCK, codes, ROWS, DEPTH);
    e4m3.scale = scales;
    quantize_e4m3_blocks(&e4m3, &plain, 0);
    for (int64_t row = 0; row < ROWS; row++) {
        format_info(FORMAT_E4M3_BLOCK)->widen(widened + row * DEPTH, &e4m3, row, 0, DEPTH);
    }
    struct tensor of_e4m3 = tensor_2d(FORMAT_F32, widened, ROWS, DEPTH);
    for (enum format format = FORMAT_INT8; format <= FORMAT_INT4; format++) {
        struct tensor from[] = {quantized(format, &plain), quantized(format, &bf16), quantized(format, &view),
                                quantized(format, &of_e4m3), quantized(format, &e4m3)};
        assert_same(&from[0], &from[1]);
        assert_same(&from[0], &from[2]);
        assert_same(&from[3], &from[4]);
        for (int i = 0; i < 5; i++) {
            memory_free(from[i].data);
        }
    }
}

static void test_special_values(void **state) {
    (void)state;
    float values[6][32], row[32];
    for (int i = 0; i < 6; i++) {
        for (int k = 0; k < 32; k++) {
            values[i][k] = (float)(k - 16) * 0.1f;
        }
    }
    memset(values[0], 0, sizeof values[0]);
    values[1][3] = NAN;
    values[2][5] = -INFINITY;
    for (int k = 0; k < 32; k++) {
        values[3][k] *= 0x1p-104f;   // below the smallest group
        values[4][k] *= 0x1p-96f;
        values[5][k] *= 0x1p125f;
    }
    struct tensor source = tensor_2d(FORMAT_F32, values, 6, 32);
    for (enum format format = FORMAT_INT8; format <= FORMAT_INT4; format++) {
        struct tensor out = quantized(format, &source);
        for (int i = 0; i < 6; i++) {
            format_info(format)->widen(row, &out, i, 0, 32);
            for (int k = 0; k < 32; k++) {
                float amax = 1.6f * (i == 4 ? 0x1p-96f : 0x1p125f);
                bool good = i == 0 || i == 3   ? row[k] == 0.0f
                            : i == 1 || i == 2 ? row[k] != row[k]
                                               : fabsf(row[k] - values[i][k]) <= 0.13f * amax;
                assert_true(good);
            }
        }
        memory_free(out.data);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout_of_int4), cmocka_unit_test(test_layout_of_int8), cmocka_unit_test(test_errors),
        cmocka_unit_test(test_sources),        cmocka_unit_test(test_special_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
