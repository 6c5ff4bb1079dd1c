// Storage formats: every bf16 and every E4M3 code against an independent rounding (nearest of all codes, in double
// precision) and against ml_dtypes (hashes by tests/golden/tensor/e4m3.py); the block quantiser against its definition.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "tensor/formats.h"

#define HASH_BF16_TO_E4M3 0xf9dea88c05be79a5u
#define HASH_E4M3_TO_F32 0xdad259c50f757625u

static uint64_t fnv1a(uint64_t hash, const void *data, size_t size) {
    for (size_t i = 0; i < size; i++) {
        hash = (hash ^ ((const uint8_t *)data)[i]) * 0x100000001b3u;
    }
    return hash;
}

static uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// Value of an E4M3 magnitude by its definition.
static double e4m3_value(int magnitude) {
    int exponent = magnitude >> 3, mantissa = magnitude & 7;
    return exponent == 0 ? ldexp(mantissa, -9) : ldexp(8 + mantissa, exponent - 10);
}

// Nearest of all finite codes, ties to the even code, beyond the largest to the largest.
static uint8_t e4m3_nearest(float value) {
    double magnitude = fabs((double)value), distance = INFINITY;
    int best = 0;
    for (int code = 0; code < 127; code++) {
        double d = fabs(magnitude - e4m3_value(code));
        if (d < distance || (d == distance && code % 2 == 0)) {
            best = code;
            distance = d;
        }
    }
    best = magnitude >= 448.0 ? 126 : best;
    return (uint8_t)(best | (signbit(value) ? 0x80 : 0));
}

static void test_e4m3_widen(void **state) {
    (void)state;
    uint64_t hash = 0xcbf29ce484222325u;
    for (int code = 0; code < 256; code++) {
        float value = e4m3_widen((uint8_t)code);
        uint32_t bits = float_bits(value);
        hash = fnv1a(hash, &bits, sizeof bits);
        if ((code & 127) == 127) {
            assert_true(isnan(value));
        } else {
            assert_true((double)value == (code < 128 ? e4m3_value(code) : -e4m3_value(code - 128)));
            assert_int_equal(bits >> 31, code >> 7);
            assert_int_equal(bf16_narrow(value), bits >> 16);   // exact in BF16
            assert_int_equal(bits & 0xffff, 0);
            assert_int_equal(e4m3_narrow(value), code);
        }
    }
    assert_true(hash == HASH_E4M3_TO_F32);
}

static void test_e4m3_narrow(void **state) {
    (void)state;
    uint64_t hash = 0xcbf29ce484222325u;
    for (int word = 0; word < 65536; word++) {
        float value = bf16_widen((uint16_t)word);
        uint8_t code = e4m3_narrow(value);
        hash = fnv1a(hash, &code, 1);
        if (isnan(value)) {
            assert_int_equal(code, signbit(value) ? 0xff : 0x7f);
        } else if (e4m3_nearest(value) != code) {
            fail_msg("%a: 0x%02x, expected 0x%02x", (double)value, code, e4m3_nearest(value));
        }
    }
    assert_true(hash == HASH_BF16_TO_E4M3);
    // Around every value and every midpoint, a step to each side.
    for (int code = 0; code < 126; code++) {
        for (int middle = 0; middle < 2; middle++) {
            float value = (float)(middle ? (e4m3_value(code) + e4m3_value(code + 1)) / 2 : e4m3_value(code));
            for (int step = -1; step <= 1; step++) {
                float near = step == 0 ? value : nextafterf(value, step < 0 ? -INFINITY : INFINITY);
                assert_int_equal(e4m3_narrow(near), e4m3_nearest(near));
                assert_int_equal(e4m3_narrow(-near), e4m3_nearest(-near));
            }
        }
    }
}

// Value of an E5M6 magnitude by its definition.
static double e5m6_value(int magnitude) {
    int exponent = magnitude >> 6, mantissa = magnitude & 63;
    return exponent == 0 ? ldexp(mantissa, -20) : ldexp(64 + mantissa, exponent - 21);
}

static int e5m6_nearest(float value) {
    double magnitude = fabs((double)value), distance = INFINITY;
    int best = 0;
    for (int code = 0; code < 0x7c0; code++) {
        double d = fabs(magnitude - e5m6_value(code));
        if (d < distance || (d == distance && code % 2 == 0)) {
            best = code;
            distance = d;
        }
    }
    best = isinf(value) ? 0x7c0 : magnitude >= 65024.0 ? 0x7bf : best;
    return best | (signbit(value) ? 0x800 : 0);
}

static void test_e5m6(void **state) {
    (void)state;
    for (int code = 0; code < 4096; code++) {
        float value = e5m6_widen((uint16_t)code);
        int magnitude = code & 0x7ff;
        if (magnitude > 0x7c0) {
            assert_true(isnan(value));
            continue;
        }
        double expected = magnitude == 0x7c0 ? INFINITY : e5m6_value(magnitude);
        assert_true((double)value == (code < 2048 ? expected : -expected));
        assert_int_equal(float_bits(value) >> 31, code >> 11);
        assert_int_equal(float_bits(value) & 0xffff, 0);   // exact in BF16
        assert_int_equal(e5m6_narrow(value), code);
        if (magnitude < 0x7bf) {
            float middle = (float)((expected + e5m6_value(magnitude + 1)) / 2);
            for (int step = -1; step <= 1; step++) {
                float near = step == 0 ? middle : nextafterf(middle, step < 0 ? -INFINITY : INFINITY);
                near = code < 2048 ? near : -near;
                assert_int_equal(e5m6_narrow(near), e5m6_nearest(near));
            }
        }
    }
    for (int word = 0; word < 65536; word += 13) {
        float value = bf16_widen((uint16_t)word);
        assert_int_equal(e5m6_narrow(value), isnan(value) ? (signbit(value) ? 0xfe0 : 0x7e0) : e5m6_nearest(value));
    }
    assert_true(e5m6_scale(65024.0f) == 1.0f && e5m6_scale(65025.0f) == 2.0f && e5m6_scale(0.0f) == 0x1p-29f);
    assert_true(e5m6_scale(INFINITY) == 0x1p127f);
}

// Two planes with an odd number of columns, written in parts.
static void test_e5m6_rows(void **state) {
    (void)state;
    enum { ROWS = 3, COLUMNS = 131 };
    uint8_t planes[ROWS * (COLUMNS + (COLUMNS + 1) / 2) + 1];
    float scale[ROWS * 2], line[COLUMNS], back[COLUMNS];
    struct tensor t = tensor_2d(FORMAT_E5M6_TILE, planes, ROWS, COLUMNS);
    t.scale = scale;
    assert_int_equal(tensor_bytes(&t), ROWS * (COLUMNS + 66 + 2 * 4));
    memset(planes, 0xa5, sizeof planes);
    for (int round = 0; round < 2; round++) {
        for (int row = ROWS - 1; row >= 0; row--) {
            scale[row * 2] = 0x1p-3f;
            scale[row * 2 + 1] = 0x1p5f;
            for (int i = 0; i < COLUMNS; i++) {
                line[i] = rng_normal(7, (uint64_t)row, (uint64_t)i) * (i < 128 ? 1.0f : 512.0f);
            }
            format_info(FORMAT_E5M6_TILE)->narrow(&t, line, row, 0, 77);
            format_info(FORMAT_E5M6_TILE)->narrow(&t, line + 77, row, 77, COLUMNS - 77);
        }
    }
    for (int row = 0; row < ROWS; row++) {
        format_info(FORMAT_E5M6_TILE)->widen(back, &t, row, 1, COLUMNS - 1);
        for (int i = 1; i < COLUMNS; i++) {
            float value = rng_normal(7, (uint64_t)row, (uint64_t)i) * (i < 128 ? 1.0f : 512.0f);
            assert_true(fabsf(back[i - 1] - value) <= fabsf(value) / 128 + 0x1p-15f);
        }
    }
    assert_int_equal(planes[sizeof planes - 1], 0xa5);
}

static void test_bf16(void **state) {
    (void)state;
    for (int word = 0; word < 65536; word++) {
        float value = bf16_widen((uint16_t)word);
        uint16_t expected = (uint16_t)(isnan(value) ? word | 0x40 : word);
        assert_int_equal(bf16_narrow(value), expected);
    }
    for (uint64_t i = 0; i < 300000; i++) {
        float value = float_from_bits((uint32_t)rng_u64(1, 2, i));
        uint32_t bits = float_bits(value), low = bits & 0xffffu;
        if (isnan(value)) {
            assert_true(isnan(bf16_widen(bf16_narrow(value))));
            continue;
        }
        uint32_t up = low > 0x8000u || (low == 0x8000u && (bits >> 16 & 1u));
        assert_int_equal(bf16_narrow(value), (bits >> 16) + up);
    }
    assert_int_equal(bf16_narrow(float_from_bits(0x7f7fffffu)), 0x7f80);   // the largest float rounds to infinity
}

static void test_table(void **state) {
    (void)state;
    for (int format = FORMAT_F32; format < FORMAT_COUNT; format++) {
        const struct format_info *info = format_info((enum format)format);
        assert_non_null(info->name);
        bool own = format == FORMAT_INT8 || format == FORMAT_INT4 || format == FORMAT_BF16_PANELS ||
                   format == FORMAT_E4M3_PANELS;   // no layout of elements
        assert_true(own ? info->bytes == 0 : info->bytes > 0);
        if (info->safetensors_name != NULL) {   // tiles never stand in a file
            assert_int_equal(format_by_safetensors_name(info->safetensors_name), format);
        }
    }
    assert_int_equal(format_by_safetensors_name("F8_E4M3"), FORMAT_E4M3_BLOCK);
    assert_int_equal(format_by_safetensors_name("F64"), FORMAT_NONE);
}

static void test_rows(void **state) {
    (void)state;
    float source[12], back[12];
    for (int i = 0; i < 12; i++) {
        source[i] = (float)(i - 5) * 0.75f;
    }
    unsigned char memory[12 * 4 + 1];
    const enum format formats[] = {FORMAT_F32, FORMAT_BF16};
    for (int f = 0; f < 2; f++) {
        struct tensor t = tensor_3d(formats[f], memory + 1, 2, 2, 3);   // unaligned, as in a mapped file
        for (int row = 0; row < 4; row++) {
            format_info(formats[f])->narrow(&t, source + row * 3, row, 0, 3);
        }
        struct tensor swapped = tensor_transpose(&t, 1, 2);   // [2, 3, 2]
        for (int row = 0; row < 6; row++) {
            format_info(formats[f])->widen(back + row * 2, &swapped, row, 0, 2);
        }
        for (int a = 0; a < 2; a++) {
            for (int b = 0; b < 2; b++) {
                for (int c = 0; c < 3; c++) {
                    assert_true(back[(a * 3 + c) * 2 + b] == source[(a * 2 + b) * 3 + c]);
                }
            }
        }
        format_info(formats[f])->widen(back, &t, 3, 1, 2);
        assert_true(back[0] == source[10] && back[1] == source[11]);
    }
}

static void check_blocks(int64_t rows, int64_t columns, enum format format, int power_of_two) {
    static float values[300 * 300], line[300];
    static uint16_t words[300 * 300];
    static uint8_t codes[300 * 300];
    static float scales[9];
    for (int64_t i = 0; i < rows * columns; i++) {
        values[i] = rng_normal(3, 4, (uint64_t)i) * ldexpf(1.0f, (int)(i / columns / 128) * 4 - 7);
        words[i] = bf16_narrow(values[i]);
        values[i] = format == FORMAT_BF16 ? bf16_widen(words[i]) : values[i];
    }
    struct tensor source = tensor_2d(format, format == FORMAT_BF16 ? (void *)words : (void *)values, rows, columns);
    struct tensor out = tensor_2d(FORMAT_E4M3_BLOCK, codes, rows, columns);
    out.scale = scales;
    quantize_e4m3_blocks(&out, &source, power_of_two);
    for (int64_t i = 0; i < rows; i++) {
        format_info(FORMAT_E4M3_BLOCK)->widen(line, &out, i, 0, columns);
        for (int64_t j = 0; j < columns; j++) {
            float amax = 0;
            for (int64_t a = i / 128 * 128; a < rows && a < i / 128 * 128 + 128; a++) {
                for (int64_t b = j / 128 * 128; i % 128 == 0 && b < columns && b < j / 128 * 128 + 128; b++) {
                    amax = fmaxf(amax, fabsf(values[a * columns + b]));
                }
            }
            float scale = scales[i / 128 * ((columns + 127) / 128) + j / 128], expected = fmaxf(amax, 1e-4f) / 448.0f;
            if (i % 128 == 0 && j % 128 == 0) {
                assert_true(scale == (power_of_two ? exp2f(ceilf(log2f(expected))) : expected));
            }
            assert_int_equal(codes[i * columns + j], e4m3_nearest(values[i * columns + j] / scale));
            assert_true(line[j] == e4m3_widen(codes[i * columns + j]) * scale);
        }
    }
}

static void test_quantize(void **state) {
    (void)state;
    check_blocks(1, 1, FORMAT_F32, 0);
    check_blocks(128, 128, FORMAT_BF16, 0);
    check_blocks(130, 257, FORMAT_F32, 1);
    check_blocks(259, 127, FORMAT_BF16, 1);
    check_blocks(129, 129, FORMAT_F32, 0);
    float zero[4] = {0}, scale;
    uint8_t codes[4] = {9, 9, 9, 9};
    struct tensor source = tensor_2d(FORMAT_F32, zero, 2, 2), out = tensor_2d(FORMAT_E4M3_BLOCK, codes, 2, 2);
    out.scale = &scale;
    quantize_e4m3_blocks(&out, &source, 0);
    assert_true(scale == 1e-4f / 448.0f && codes[0] == 0 && codes[3] == 0);
    zero[1] = NAN;
    zero[2] = 3.0f;
    quantize_e4m3_blocks(&out, &source, 1);
    assert_true(scale == 0x1p-7f && codes[0] == 0 && codes[1] == 0x7f && codes[2] == e4m3_nearest(384.0f));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_e4m3_widen), cmocka_unit_test(test_e4m3_narrow), cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_e5m6),       cmocka_unit_test(test_e5m6_rows),   cmocka_unit_test(test_table),
        cmocka_unit_test(test_rows),       cmocka_unit_test(test_quantize),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
