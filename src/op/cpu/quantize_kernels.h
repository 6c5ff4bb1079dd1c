// The quantiser's kernels for instruction sets with vectors: avx2/quantize.c and avx512/quantize.c each include this
// once, after
//   #define WIDTH           the floats of a vector
//   #define LARGER(a, b)    the larger of two vectors of words, lane by lane
// The steps are those of e4m3_narrow, e4m3_widen, e4m3_scale (tensor/format/e4m3.c) and their like of E5M6 on WIDTH
// elements at a time, without branches. Loops take whole vectors with a constant count, so that no load goes through
// the stack, then the rest.
#ifndef MINKE_OP_CPU_QUANTIZE_KERNELS_H
#define MINKE_OP_CPU_QUANTIZE_KERNELS_H

#include <string.h>

#include "op/cpu/kernels.h"

typedef float floats __attribute__((vector_size(4 * WIDTH)));
typedef int32_t words __attribute__((vector_size(4 * WIDTH)));
typedef uint64_t pairs_of_words __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t halves __attribute__((vector_size(2 * WIDTH)));
typedef uint8_t codes_of_lanes __attribute__((vector_size(WIDTH)));
typedef uint8_t codes_of_pairs __attribute__((vector_size(WIDTH / 2)));

#define INLINE static inline __attribute__((always_inline))

// Bits of the magnitudes of the constants.
enum {
    BITS_INFINITY = 0x7f800000,
    BITS_LARGEST = 0x43e00000,   // 448
    BITS_NORMAL = 0x3c800000,    // 2^-6
    BITS_AMAX_MIN = 0x38d1b717,
    BITS_LARGEST_E5M6 = 0x477e0000,   // 65024
    BITS_NORMAL_E5M6 = 0x38800000,    // 2^-14
};

INLINE words select_words(words mask, words yes, words no) {
    return (mask & yes) | (~mask & no);
}

// Elements i .. of a row of F32 or BF16; `count` are there (WIDTH: a constant), zeros beyond.
INLINE words load_bits(const void *data, bool narrow, int64_t i, int64_t count) {
    if (narrow) {
        halves half = {0};
        memcpy(&half, (const uint16_t *)data + i, (size_t)count * sizeof(uint16_t));
        return __builtin_convertvector(half, words) << 16;
    }
    words bits = {0};
    memcpy(&bits, (const float *)data + i, (size_t)count * sizeof(float));
    return bits;
}

INLINE void store_values(void *data, bool narrow, int64_t i, floats value, int64_t count) {
    words bits = (words)value;
    if (narrow) {   // bf16_narrow
        words nan = (bits & 0x7fffffff) > BITS_INFINITY, rounded = bits + 0x7fff + ((bits >> 16) & 1);
        halves half = __builtin_convertvector((select_words(nan, bits | 0x400000, rounded) >> 16) & 0xffff, halves);
        memcpy((uint16_t *)data + i, &half, (size_t)count * sizeof(uint16_t));
    } else {
        memcpy((float *)data + i, &bits, (size_t)count * sizeof(float));
    }
}

INLINE words magnitude_or_zero(words bits) {
    words magnitude = bits & 0x7fffffff;
    return magnitude & ~(magnitude > BITS_INFINITY);
}

// ---- E4M3 -----------------------------------------------------------------------------------------------------------

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
    words sign = -(code & 0x80) & INT32_MIN;
    words normal = (magnitude << 20) + (120 << 23);
    words small = (words)(__builtin_convertvector(magnitude, floats) * 0x1p-9f);
    words bits = select_words(magnitude < 8, small, normal);
    bits = select_words(magnitude == 0x7f, (words){0} + 0x7fc00000, bits);
    return (floats)(bits | sign);
}

INLINE float largest_of(const void *data, bool narrow, int64_t n) {
    words most = {0};
    int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        most = LARGER(magnitude_or_zero(load_bits(data, narrow, i, WIDTH)), most);
    }
    if (i < n) {
        most = LARGER(magnitude_or_zero(load_bits(data, narrow, i, n - i)), most);
    }
    int32_t lanes[WIDTH];
    memcpy(lanes, &most, sizeof lanes);
    for (int width = WIDTH / 2; width > 0; width /= 2) {
        for (int lane = 0; lane < width; lane++) {
            lanes[lane] = lanes[lane + width] > lanes[lane] ? lanes[lane + width] : lanes[lane];
        }
    }
    float value;
    memcpy(&value, lanes, sizeof value);
    return value;
}

static float largest(struct row x, int64_t n) {
    return x.format == FORMAT_BF16 ? largest_of(x.data, true, n) : largest_of(x.data, false, n);
}

INLINE void narrow_all(uint8_t *codes, const void *data, bool narrow, float scale, int64_t n) {
    floats divisor = (floats){0} + scale;
    int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        codes_of_lanes code = narrow_lanes(load_bits(data, narrow, i, WIDTH), divisor);
        memcpy(codes + i, &code, sizeof code);
    }
    if (i < n) {
        codes_of_lanes code = narrow_lanes(load_bits(data, narrow, i, n - i), divisor);
        memcpy(codes + i, &code, (size_t)(n - i));
    }
}

static void narrow(uint8_t *codes, struct row x, float scale, int64_t n) {
    if (x.format == FORMAT_BF16) {
        narrow_all(codes, x.data, true, scale, n);
    } else {
        narrow_all(codes, x.data, false, scale, n);
    }
}

INLINE void widen_all(void *data, bool narrow, const uint8_t *codes, float scale, int64_t n) {
    floats factor = (floats){0} + scale;
    codes_of_lanes code = {0};
    int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        memcpy(&code, codes + i, sizeof code);
        store_values(data, narrow, i, widen_lanes(code) * factor, WIDTH);
    }
    if (i < n) {
        memcpy(&code, codes + i, (size_t)(n - i));
        store_values(data, narrow, i, widen_lanes(code) * factor, n - i);
    }
}

static void widen(struct row y, const uint8_t *codes, float scale, int64_t n) {
    if (y.format == FORMAT_BF16) {
        widen_all(y.data, true, codes, scale, n);
    } else {
        widen_all(y.data, false, codes, scale, n);
    }
}

INLINE floats scale_lanes(words amax, bool power_of_two) {
    floats scale = (floats)LARGER(amax, (words){0} + BITS_AMAX_MIN) / 448.0f;
    if (power_of_two) {
        words bits = (words)scale, exponent = (bits >> 23) - ((bits & 0x7fffff) != 0);   // a true comparison is -1
        scale = (floats)(select_words(exponent < 254, exponent, (words){0} + 254) << 23);
    }
    return scale;
}

// What the source holds in row i, `count` columns from `column`.
enum source_kind { SOURCE_F32, SOURCE_BF16, SOURCE_CODES };
INLINE words source_bits(const struct quantize_columns_source *source, enum source_kind kind, int64_t i, int64_t column,
                         int64_t count) {
    int64_t at = i * source->x_stride + column;
    if (kind == SOURCE_CODES) {
        codes_of_lanes code = {0};
        memcpy(&code, (const uint8_t *)source->x.data + at, (size_t)count);
        return (words)(widen_lanes(code) * source->tile_scale[i * source->tile_scale_stride]);
    }
    return load_bits(source->x.data, kind == SOURCE_BF16, at, count);
}

// WIDTH (or `count`) columns of one tile. Values of codes are kept between the two passes, others are loaded again.
INLINE void columns_of(uint8_t *codes, int64_t code_stride, float *scale, const struct quantize_columns_source *source,
                       enum source_kind kind, int64_t column, int64_t rows, int64_t count, bool power_of_two) {
    words kept[BLOCK_SIZE], most = {0};
    for (int64_t i = 0; i < rows; i++) {
        words bits = source_bits(source, kind, i, column, count);
        most = LARGER(magnitude_or_zero(bits), most);
        if (kind == SOURCE_CODES) {
            kept[i] = bits;
        }
    }
    floats divisor = scale_lanes(most, power_of_two);
    memcpy(scale + column, &divisor, (size_t)count * sizeof(float));
    for (int64_t i = 0; i < rows; i++) {
        words bits = kind == SOURCE_CODES ? kept[i] : source_bits(source, kind, i, column, count);
        codes_of_lanes code = narrow_lanes(bits, divisor);
        memcpy(codes + i * code_stride + column, &code, (size_t)count);
    }
}

INLINE void columns_of_kind(uint8_t *codes, int64_t code_stride, float *scale,
                            const struct quantize_columns_source *source, enum source_kind kind, int64_t rows,
                            int64_t count, bool power_of_two) {
    int64_t column = 0;
    for (; column + WIDTH <= count; column += WIDTH) {
        columns_of(codes, code_stride, scale, source, kind, column, rows, WIDTH, power_of_two);
    }
    if (column < count) {
        columns_of(codes, code_stride, scale, source, kind, column, rows, count - column, power_of_two);
    }
}

static void columns(uint8_t *codes, int64_t code_stride, float *scale, const struct quantize_columns_source *source,
                    int64_t rows, int64_t count, bool power_of_two) {
    if (source->x.format == FORMAT_E4M3_TILE) {
        columns_of_kind(codes, code_stride, scale, source, SOURCE_CODES, rows, count, power_of_two);
    } else if (source->x.format == FORMAT_BF16) {
        columns_of_kind(codes, code_stride, scale, source, SOURCE_BF16, rows, count, power_of_two);
    } else {
        columns_of_kind(codes, code_stride, scale, source, SOURCE_F32, rows, count, power_of_two);
    }
}

// ---- E5M6 -----------------------------------------------------------------------------------------------------------

INLINE words narrow_lanes_e5m6(words bits, floats scale) {
    words quotient = (words)((floats)bits / scale), magnitude = quotient & 0x7fffffff;
    words normal = (magnitude + 0xffff + ((magnitude >> 17) & 1) - (112 << 23)) >> 17;
    words small = (words)((floats)magnitude + 0x1p3f) & 0x7f;
    words code = select_words(magnitude < BITS_NORMAL_E5M6, small, normal);
    code = select_words(magnitude >= BITS_LARGEST_E5M6, (words){0} + 0x7bf, code);
    code = select_words(magnitude == BITS_INFINITY, (words){0} + 0x7c0, code);
    code = select_words(magnitude > BITS_INFINITY, (words){0} + 0x7e0, code);
    return code | ((quotient >> 20) & 0x800);
}

INLINE floats widen_lanes_e5m6(words code) {
    words magnitude = code & 0x7ff, sign = -(code & 0x800) & INT32_MIN;
    words normal = (magnitude << 17) + (112 << 23);
    words small = (words)(__builtin_convertvector(magnitude, floats) * 0x1p-20f);
    words bits = select_words(magnitude < 0x40, small, normal);
    bits = select_words(magnitude == 0x7c0, (words){0} + BITS_INFINITY, bits);
    bits = select_words(magnitude > 0x7c0, (words){0} + 0x7fc00000, bits);
    return (floats)(bits | sign);
}

INLINE void narrow_part_e5m6(uint8_t *low, uint8_t *high, words bits, floats divisor, int64_t count) {
    words code = narrow_lanes_e5m6(bits, divisor);
    codes_of_lanes first = __builtin_convertvector(code & 0xff, codes_of_lanes);
    pairs_of_words halved = (pairs_of_words)(code >> 8);
    codes_of_pairs second = __builtin_convertvector((halved | halved >> 28) & 0xff, codes_of_pairs);
    memcpy(low, &first, (size_t)count);
    memcpy(high, &second, (size_t)((count + 1) / 2));
}

static void narrow_e5m6(uint8_t *low, uint8_t *high, struct row x, float scale, int64_t n) {
    bool narrow = x.format == FORMAT_BF16;
    floats divisor = (floats){0} + scale;
    int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        words bits = narrow ? load_bits(x.data, true, i, WIDTH) : load_bits(x.data, false, i, WIDTH);
        narrow_part_e5m6(low + i, high + i / 2, bits, divisor, WIDTH);
    }
    if (i < n) {
        narrow_part_e5m6(low + i, high + i / 2, load_bits(x.data, narrow, i, n - i), divisor, n - i);
    }
}

INLINE floats widen_part_e5m6(const uint8_t *low, const uint8_t *high, int64_t count) {
    codes_of_lanes first = {0};
    codes_of_pairs second = {0};
    memcpy(&first, low, (size_t)count);
    memcpy(&second, high, (size_t)((count + 1) / 2));
    pairs_of_words halved = __builtin_convertvector(second, pairs_of_words);
    words top = (words)((halved | halved << 28) & 0x0000000f0000000fu);
    return widen_lanes_e5m6(__builtin_convertvector(first, words) | top << 8);
}

static void widen_e5m6(struct row y, const uint8_t *low, const uint8_t *high, float scale, int64_t n) {
    bool narrow = y.format == FORMAT_BF16;
    int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        floats value = widen_part_e5m6(low + i, high + i / 2, WIDTH) * scale;
        if (narrow) {
            store_values(y.data, true, i, value, WIDTH);
        } else {
            store_values(y.data, false, i, value, WIDTH);
        }
    }
    if (i < n) {
        store_values(y.data, narrow, i, widen_part_e5m6(low + i, high + i / 2, n - i) * scale, n - i);
    }
}

static const struct quantize_kernels vector_quantize_kernels = {largest, narrow,      widen,
                                                                columns, narrow_e5m6, widen_e5m6};

#endif
