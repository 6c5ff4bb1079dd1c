// The quantiser's kernels for instruction sets with vectors: avx2/quantize.c and avx512/quantize.c each include this
// once, after
// `#define WIDTH`, the floats of a vector. The steps are those of e4m3_narrow, e4m3_widen and e4m3_scale
// (tensor/format/e4m3.c) on WIDTH elements at a time, without branches.
#ifndef MINKE_OP_CPU_QUANTIZE_KERNELS_H
#define MINKE_OP_CPU_QUANTIZE_KERNELS_H

#include <string.h>

#include "op/cpu/kernels.h"

typedef float floats __attribute__((vector_size(4 * WIDTH)));
typedef int32_t words __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t halves __attribute__((vector_size(2 * WIDTH)));
typedef uint8_t codes_of_lanes __attribute__((vector_size(WIDTH)));

#define INLINE static inline __attribute__((always_inline))

// Bits of the magnitudes of the constants.
enum { BITS_INFINITY = 0x7f800000, BITS_LARGEST = 0x43e00000, BITS_NORMAL = 0x3c800000, BITS_AMAX_MIN = 0x38d1b717 };

INLINE words select_words(words mask, words yes, words no) {
    return (mask & yes) | (~mask & no);
}

// Elements i .. of a row; `count` are there, zeros beyond.
INLINE words load_bits(struct row x, int64_t i, int64_t count) {
    if (x.format == FORMAT_BF16) {
        halves half = {0};
        memcpy(&half, (const uint16_t *)x.data + i, count >= WIDTH ? sizeof half : (size_t)count * sizeof(uint16_t));
        return __builtin_convertvector(half, words) << 16;
    }
    words bits = {0};
    memcpy(&bits, (const float *)x.data + i, count >= WIDTH ? sizeof bits : (size_t)count * sizeof(float));
    return bits;
}

INLINE words magnitude_or_zero(words bits) {
    words magnitude = bits & 0x7fffffff;
    return magnitude & ~(magnitude > BITS_INFINITY);
}

INLINE words larger(words a, words b) {
    return select_words(a > b, a, b);
}

INLINE codes_of_lanes narrow_lanes(words bits, floats scale) {
    words quotient = (words)((floats)bits / scale), magnitude = quotient & 0x7fffffff;
    words normal = (magnitude + 0x7ffff + ((magnitude >> 20) & 1) - (120 << 23)) >> 20;
    words small = (words)((floats)magnitude + 0x1p14f) & 0xf;
    words code = select_words(magnitude < BITS_NORMAL, small, normal);
    code = select_words(magnitude >= BITS_LARGEST, (words){0} + 0x7e, code);
    code = select_words(magnitude > BITS_INFINITY, (words){0} + 0x7f, code);
    code |= (quotient >> 24) & 0x80;
    return __builtin_convertvector(code, codes_of_lanes);
}

INLINE floats widen_lanes(codes_of_lanes codes) {
    words code = __builtin_convertvector(codes, words), magnitude = code & 0x7f;
    words sign = select_words(code > 0x7f, (words){0} + INT32_MIN, (words){0});
    words normal = (magnitude << 20) + (120 << 23);
    words small = (words)(__builtin_convertvector(magnitude, floats) * 0x1p-9f);
    words bits = select_words(magnitude < 8, small, normal);
    bits = select_words(magnitude == 0x7f, (words){0} + 0x7fc00000, bits);
    return (floats)(bits | sign);
}

static float largest(struct row x, int64_t n) {
    words most = {0};
    for (int64_t i = 0; i < n; i += WIDTH) {
        most = larger(magnitude_or_zero(load_bits(x, i, n - i)), most);
    }
    int32_t best = 0;
    for (int lane = 0; lane < WIDTH; lane++) {
        best = most[lane] > best ? most[lane] : best;
    }
    float value;
    memcpy(&value, &best, sizeof value);
    return value;
}

static void narrow(uint8_t *codes, struct row x, float scale, int64_t n) {
    floats divisor = (floats){0} + scale;
    for (int64_t i = 0; i < n; i += WIDTH) {
        codes_of_lanes code = narrow_lanes(load_bits(x, i, n - i), divisor);
        memcpy(codes + i, &code, n - i >= WIDTH ? sizeof code : (size_t)(n - i));
    }
}

static void widen(struct row y, const uint8_t *codes, float scale, int64_t n) {
    floats factor = (floats){0} + scale;
    for (int64_t i = 0; i < n; i += WIDTH) {
        int64_t count = n - i < WIDTH ? n - i : WIDTH;
        codes_of_lanes code = {0};
        memcpy(&code, codes + i, count == WIDTH ? sizeof code : (size_t)count);
        words bits = (words)(widen_lanes(code) * factor);
        if (y.format == FORMAT_BF16) {   // bf16_narrow
            words nan = (bits & 0x7fffffff) > BITS_INFINITY, rounded = bits + 0x7fff + ((bits >> 16) & 1);
            halves half = __builtin_convertvector((select_words(nan, bits | 0x400000, rounded) >> 16) & 0xffff, halves);
            memcpy((uint16_t *)y.data + i, &half, count == WIDTH ? sizeof half : (size_t)count * sizeof(uint16_t));
        } else {
            memcpy((float *)y.data + i, &bits, count == WIDTH ? sizeof bits : (size_t)count * sizeof(float));
        }
    }
}

INLINE floats scale_lanes(words amax, bool power_of_two) {
    floats scale = (floats)larger(amax, (words){0} + BITS_AMAX_MIN) / 448.0f;
    if (power_of_two) {
        words bits = (words)scale, exponent = (bits >> 23) - ((bits & 0x7fffff) != 0);   // a true comparison is -1
        scale = (floats)(select_words(exponent < 254, exponent, (words){0} + 254) << 23);
    }
    return scale;
}

static void columns(uint8_t *codes, int64_t code_stride, float *scale, const float *x, int64_t rows, int64_t count,
                    bool power_of_two) {
    for (int64_t column = 0; column < count; column += WIDTH) {
        const struct row source = {.data = (void *)(uintptr_t)(x + column), .format = FORMAT_F32};
        size_t wide = (size_t)(count - column < WIDTH ? count - column : WIDTH);
        words most = {0};
        for (int64_t i = 0; i < rows; i++) {
            most = larger(magnitude_or_zero(load_bits(source, i * QUANTIZE_COLUMNS, WIDTH)), most);
        }
        floats divisor = scale_lanes(most, power_of_two);
        memcpy(scale + column, &divisor, wide == WIDTH ? sizeof divisor : wide * sizeof(float));
        for (int64_t i = 0; i < rows; i++) {
            codes_of_lanes code = narrow_lanes(load_bits(source, i * QUANTIZE_COLUMNS, WIDTH), divisor);
            memcpy(codes + i * code_stride + column, &code, wide == WIDTH ? sizeof code : wide);
        }
    }
}

static const struct quantize_kernels vector_quantize_kernels = {largest, narrow, widen, columns};

#endif
