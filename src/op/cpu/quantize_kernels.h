// The quantiser's kernels for instruction sets with vectors: avx2/quantize.c and avx512/quantize.c each include this
// once, after
//   #define WIDTH                 the floats of a vector
//   #define LARGER(a, b)          the larger (smaller) of two vectors of words, lane by lane
//   #define SMALLER(a, b)
//   #define LARGER_HALVES(a, b)   the same of vectors of signed 16-bit lanes
//   #define MULTIPLY_ADD(a, b, c) a * b + c of floats, rounded once
//   #define LARGEST_LANE(a)       the largest lane
//   #define LARGEST_HALF(a)
//   #define WIDEN_CODES(codes)    e4m3_widen of WIDTH codes; optional
// The results are those of e4m3_narrow, e4m3_widen, e4m3_scale (tensor/format/e4m3.c) and their like of E5M6 on WIDTH
// elements at a time, without branches. Loops take whole vectors with a constant count, so that no load goes through
// the stack, then the rest. BF16 is taken two elements a word: the even ones of a row in one vector, the odd ones in
// another, so that neither loading nor storing codes shuffles.
#ifndef MINKE_OP_CPU_QUANTIZE_KERNELS_H
#define MINKE_OP_CPU_QUANTIZE_KERNELS_H

#include <string.h>

#include "op/cpu/kernels.h"

typedef float floats __attribute__((vector_size(4 * WIDTH)));
typedef int32_t words __attribute__((vector_size(4 * WIDTH)));
typedef uint64_t pairs_of_words __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t halves __attribute__((vector_size(2 * WIDTH)));
typedef int16_t wide_halves __attribute__((vector_size(4 * WIDTH)));
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

// Bits of x / scale. `multiply`: the scale is a power of two, `by` its reciprocal, and the product has the same bits.
INLINE words quotient(words bits, floats by, bool multiply) {
    return (words)(multiply ? (floats)bits * by : (floats)bits / by);
}

// e4m3_narrow in the low byte of each word; the bytes above hold nothing. A power of two 2^20 times that of the
// magnitude (at least the smallest normal) has a unit in the last place of 2^-3 times it, the step of the codes: the
// sum of both rounds to nearest even and counts steps, behind the 56 that bring the exponent's 8 * 121 to 0 (mod 256).
INLINE words narrow_words(words value) {
    words magnitude = value & 0x7fffffff, nan = magnitude > BITS_INFINITY;   // a true comparison is -1
    words capped = SMALLER(magnitude, (words){0} + BITS_LARGEST);
    words exponent = LARGER(capped, (words){0} + BITS_NORMAL) & 0x7f800000;
    words steps = (words)((floats)capped + (floats)(exponent + ((20 << 23) + 56)));
    words code = steps + (exponent >> 20) - nan;   // a NaN was capped to 0x7e
    return code | ((value >> 24) & 0x80);
}

// The same for ordinary elements, of a tile without infinities and NaN, by their magnitudes: quotients are at most a
// little above 448. Codes stand in the low bytes, without their signs.
//
// The quotient by multiplications: with r = 1 / scale rounded, q = x * r is next to the quotient or beside that; adding
// (x - q * scale) * r once makes it one of the two nearest, another time the nearest (Markstein; x - q * scale is exact
// but for the first, where a last bit does not matter). What underflows belongs to quotients whose code is zero.
struct divisor {
    floats reciprocal, minus_scale;
};

INLINE words quotient_ordinary(words magnitude, const struct divisor *by, bool multiply) {
    floats x = (floats)magnitude, q = x * by->reciprocal;
    if (!multiply) {
        q = MULTIPLY_ADD(MULTIPLY_ADD(q, by->minus_scale, x), by->reciprocal, q);
        q = MULTIPLY_ADD(MULTIPLY_ADD(q, by->minus_scale, x), by->reciprocal, q);
    }
    return (words)q;
}

INLINE words narrow_ordinary(words magnitude, const struct divisor *by, bool multiply) {
    words quotient = quotient_ordinary(magnitude, by, multiply);
    words exponent = LARGER(quotient, (words){0} + BITS_NORMAL) & 0x7f800000;
    return (words)((floats)quotient + (floats)(exponent + ((20 << 23) + 56))) + (exponent >> 20);
}

INLINE void store_codes(uint8_t *codes, words code, int64_t count) {
    codes_of_lanes bytes = __builtin_convertvector(code, codes_of_lanes);
    memcpy(codes, &bytes, (size_t)count);
}

// The even and the odd ones of 2 * WIDTH BF16 as floats.
INLINE words even_of(wide_halves pairs) {
    return (words)pairs << 16;
}

INLINE words odd_of(wide_halves pairs) {
    return (words)pairs & ~0xffff;
}

INLINE wide_halves load_pairs(const void *data, int64_t i, int64_t count) {
    wide_halves pairs = {0};
    memcpy(&pairs, (const uint16_t *)data + i, (size_t)count * sizeof(uint16_t));
    return pairs;
}

INLINE wide_halves pairs_magnitude_or_zero(wide_halves pairs) {
    wide_halves magnitude = pairs & 0x7fff;
    return magnitude & ~(magnitude > 0x7f80);
}

INLINE void store_code_pairs(uint8_t *codes, words even, words odd, int64_t count) {
    halves both = __builtin_convertvector(((even & 0xff) | (odd << 8)) & 0xffff, halves);
    memcpy(codes, &both, (size_t)count);
}

INLINE floats widen_lanes(codes_of_lanes codes) {
#ifdef WIDEN_CODES
    return (floats)WIDEN_CODES(codes);
#else
    words code = __builtin_convertvector(codes, words), magnitude = code & 0x7f;
    words sign = -(code & 0x80) & INT32_MIN;
    words normal = (magnitude << 20) + (120 << 23);
    words small = (words)(__builtin_convertvector(magnitude, floats) * 0x1p-9f);
    words bits = select_words(magnitude < 8, small, normal);
    bits = select_words(magnitude == 0x7f, (words){0} + 0x7fc00000, bits);
    return (floats)(bits | sign);
#endif
}

static float largest_float(const void *data, int64_t n) {
    words most = {0};
    int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        most = LARGER(magnitude_or_zero(load_bits(data, false, i, WIDTH)), most);
    }
    if (i < n) {
        most = LARGER(magnitude_or_zero(load_bits(data, false, i, n - i)), most);
    }
    int32_t bits = LARGEST_LANE(most);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float largest_bf16(const void *data, int64_t n) {
    wide_halves most = {0};
    int64_t i = 0;
    for (; i + 2 * WIDTH <= n; i += 2 * WIDTH) {
        most = LARGER_HALVES(pairs_magnitude_or_zero(load_pairs(data, i, 2 * WIDTH)), most);
    }
    if (i < n) {
        most = LARGER_HALVES(pairs_magnitude_or_zero(load_pairs(data, i, n - i)), most);
    }
    return bf16_widen((uint16_t)LARGEST_HALF(most));
}

static float largest(struct row x, int64_t n) {
    return x.format == FORMAT_BF16 ? largest_bf16(x.data, n) : largest_float(x.data, n);
}

// Whether dividing by the scale is multiplying by *reciprocal: it is a power of two whose reciprocal is normal.
static bool has_reciprocal(float scale, float *reciprocal) {
    int32_t bits;
    memcpy(&bits, &scale, sizeof bits);
    if ((bits & 0x7fffff) != 0 || bits < 1 << 23 || bits >= 254 << 23) {
        return false;
    }
    bits = (254 << 23) - bits;
    memcpy(reciprocal, &bits, sizeof bits);
    return true;
}

INLINE void narrow_floats(uint8_t *codes, const void *data, floats by, bool multiply, int64_t n) {
    int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        store_codes(codes + i, narrow_words(quotient(load_bits(data, false, i, WIDTH), by, multiply)), WIDTH);
    }
    if (i < n) {
        store_codes(codes + i, narrow_words(quotient(load_bits(data, false, i, n - i), by, multiply)), n - i);
    }
}

INLINE void narrow_pairs_ordinary(uint8_t *codes, wide_halves pairs, const struct divisor *even,
                                  const struct divisor *odd, bool multiply, int64_t count) {
    wide_halves magnitude = pairs & 0x7fff;
    words first = narrow_ordinary(even_of(magnitude), even, multiply);
    words second = narrow_ordinary(odd_of(magnitude), odd, multiply);
    words signs = (((words)pairs >> 8) & 0x80) | (((words)pairs >> 16) & 0x8000);
    halves both = __builtin_convertvector(((first & 0x7f) | (second << 8) | signs) & 0xffff, halves);
    memcpy(codes, &both, (size_t)count);
}

INLINE void narrow_pairs(uint8_t *codes, wide_halves pairs, floats even, floats odd, bool multiply, int64_t count) {
    store_code_pairs(codes, narrow_words(quotient(even_of(pairs), even, multiply)),
                     narrow_words(quotient(odd_of(pairs), odd, multiply)), count);
}

INLINE void narrow_bf16(uint8_t *codes, const void *data, floats by, bool multiply, int64_t n) {
    int64_t i = 0;
    for (; i + 2 * WIDTH <= n; i += 2 * WIDTH) {
        narrow_pairs(codes + i, load_pairs(data, i, 2 * WIDTH), by, by, multiply, 2 * WIDTH);
    }
    if (i < n) {
        narrow_pairs(codes + i, load_pairs(data, i, n - i), by, by, multiply, n - i);
    }
}

static void narrow(uint8_t *codes, struct row x, float scale, int64_t n) {
    float reciprocal = 0.0f;
    bool multiply = has_reciprocal(scale, &reciprocal);
    floats by = (floats){0} + (multiply ? reciprocal : scale);
    if (x.format == FORMAT_BF16 && multiply) {
        narrow_bf16(codes, x.data, by, true, n);
    } else if (x.format == FORMAT_BF16) {
        narrow_bf16(codes, x.data, by, false, n);
    } else if (multiply) {
        narrow_floats(codes, x.data, by, true, n);
    } else {
        narrow_floats(codes, x.data, by, false, n);
    }
}

INLINE struct divisor divisor_make(floats scale, bool power_of_two) {
    floats reciprocal = power_of_two ? (floats)((254 << 23) - (words)scale) : 1.0f / scale;
    return (struct divisor){reciprocal, -scale};
}

// A whole tile of BF16, which stays in registers between the passes.
INLINE void tile_bf16(uint8_t *codes, float *scale, const void *data, bool power_of_two) {
    wide_halves pairs[BLOCK_SIZE / WIDTH / 2], most = {0};
#pragma GCC unroll 8
    for (int v = 0; v < BLOCK_SIZE / WIDTH / 2; v++) {
        pairs[v] = load_pairs(data, v * 2 * WIDTH, 2 * WIDTH);
        most = LARGER_HALVES(pairs[v] & 0x7fff, most);
    }
    int32_t amax = LARGEST_HALF(most);
    if (amax >= BITS_INFINITY >> 16) {
        *scale = e4m3_scale(largest_bf16(data, BLOCK_SIZE), power_of_two);
        narrow(codes, (struct row){.data = (void *)(uintptr_t)data, .format = FORMAT_BF16}, *scale, BLOCK_SIZE);
        return;
    }
    *scale = e4m3_scale(bf16_widen((uint16_t)amax), power_of_two);
    struct divisor by = divisor_make((floats){0} + *scale, power_of_two);
#pragma GCC unroll 8
    for (int v = 0; v < BLOCK_SIZE / WIDTH / 2; v++) {
        narrow_pairs_ordinary(codes + v * 2 * WIDTH, pairs[v], &by, &by, power_of_two, 2 * WIDTH);
    }
}

static void tiles(uint8_t *codes, float *scale, struct row x, int64_t n, bool power_of_two) {
    int64_t i = 0;
    if (x.format == FORMAT_BF16 && power_of_two) {
        for (; i + BLOCK_SIZE <= n; i += BLOCK_SIZE) {
            tile_bf16(codes + i, scale++, (const uint16_t *)x.data + i, true);
        }
    } else if (x.format == FORMAT_BF16) {
        for (; i + BLOCK_SIZE <= n; i += BLOCK_SIZE) {
            tile_bf16(codes + i, scale++, (const uint16_t *)x.data + i, false);
        }
    }
    for (; i < n; i += BLOCK_SIZE) {
        int64_t left = n - i < BLOCK_SIZE ? n - i : BLOCK_SIZE;
        *scale = e4m3_scale(largest(row_advance(x, i), left), power_of_two);
        narrow(codes + i, row_advance(x, i), *scale, left);
        scale++;
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

// What the source holds in row i, `count` (WIDTH: a constant) columns from `column`.
enum source_kind { SOURCE_F32, SOURCE_CODES };
INLINE words source_bits(const struct quantize_columns_source *source, enum source_kind kind, int64_t i, int64_t column,
                         int64_t count) {
    int64_t at = i * source->x_stride + column;
    if (kind == SOURCE_CODES) {
        codes_of_lanes code = {0};
        memcpy(&code, (const uint8_t *)source->x.data + at, (size_t)count);
        return (words)(widen_lanes(code) * source->tile_scale[i * source->tile_scale_stride + column / BLOCK_SIZE]);
    }
    return load_bits(source->x.data, false, at, count);
}

INLINE bool all_ordinary(const words *most, int64_t vectors) {
    words highest = {0};
    for (int64_t v = 0; v < vectors; v++) {
        highest = LARGER(most[v], highest);
    }
    return LARGEST_LANE(highest) < BITS_INFINITY;
}

// Puts the scales of vectors of columns into `scale` and what to divide or multiply by into `by`; whether to multiply:
// the scales are powers of two, and all have normal reciprocals.
INLINE bool choose_scales(float *scale, floats *by, const words *most, int64_t vectors, bool power_of_two) {
    words highest = {0};
    for (int64_t v = 0; v < vectors; v++) {
        by[v] = scale_lanes(most[v], power_of_two);
        memcpy(scale + v * WIDTH, &by[v], sizeof by[v]);
        highest = LARGER((words)by[v], highest);
    }
    if (!power_of_two || LARGEST_LANE(highest) >= 254 << 23) {
        return false;
    }
    for (int64_t v = 0; v < vectors; v++) {
        by[v] = (floats)((254 << 23) - (words)by[v]);
    }
    return true;
}

INLINE void narrow_kept(uint8_t *codes, int64_t code_stride, const words *kept, const struct divisor *by, bool multiply,
                        int64_t rows, int64_t count) {
    for (int64_t i = 0; i < rows; i++) {
        words code = narrow_ordinary(kept[i] & 0x7fffffff, by, multiply);
        store_codes(codes + i * code_stride, (code & 0x7f) | ((kept[i] >> 24) & 0x80), count);
    }
}

// WIDTH (or `count`) columns of F32 or codes, whose values are kept between the passes.
INLINE void columns_of(uint8_t *codes, int64_t code_stride, float *scale, const struct quantize_columns_source *source,
                       enum source_kind kind, int64_t column, int64_t rows, int64_t count, bool power_of_two) {
    words kept[BLOCK_SIZE], most = {0};
    float scales[WIDTH];
    floats by;
    for (int64_t i = 0; i < rows; i++) {
        kept[i] = source_bits(source, kind, i, column, count);
        most = LARGER(kept[i] & 0x7fffffff, most);
    }
    if (all_ordinary(&most, 1)) {
        by = scale_lanes(most, power_of_two);
        memcpy(scale + column, &by, (size_t)count * sizeof *scale);
        struct divisor divisor = divisor_make(by, power_of_two);
        if (power_of_two) {
            narrow_kept(codes + column, code_stride, kept, &divisor, true, rows, count);
        } else {
            narrow_kept(codes + column, code_stride, kept, &divisor, false, rows, count);
        }
        return;
    }
    most = (words){0};
    for (int64_t i = 0; i < rows; i++) {
        most = LARGER(magnitude_or_zero(kept[i]), most);
    }
    bool multiply = choose_scales(scales, &by, &most, 1, power_of_two);
    memcpy(scale + column, scales, (size_t)count * sizeof *scale);
    if (multiply) {
        for (int64_t i = 0; i < rows; i++) {
            store_codes(codes + i * code_stride + column, narrow_words(quotient(kept[i], by, true)), count);
        }
    } else {
        for (int64_t i = 0; i < rows; i++) {
            store_codes(codes + i * code_stride + column, narrow_words(quotient(kept[i], by, false)), count);
        }
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

// BF16, row after row in both passes, so that memory is read in runs.
INLINE void narrow_columns_bf16(uint8_t *codes, int64_t code_stride, const struct quantize_columns_source *source,
                                const floats *by, bool multiply, int64_t rows, int64_t count) {
    for (int64_t i = 0; i < rows; i++) {
        const uint16_t *from = (const uint16_t *)source->x.data + i * source->x_stride;
        uint8_t *to = codes + i * code_stride;
        int64_t column = 0;
        for (; column + 2 * WIDTH <= count; column += 2 * WIDTH) {
            const floats *pair = by + column / WIDTH;
            narrow_pairs(to + column, load_pairs(from, column, 2 * WIDTH), pair[0], pair[1], multiply, 2 * WIDTH);
        }
        if (column < count) {
            const floats *pair = by + column / WIDTH;
            narrow_pairs(to + column, load_pairs(from, column, count - column), pair[0], pair[1], multiply,
                         count - column);
        }
    }
}

// The same for ordinary elements; `by` of the even ones of 2 * WIDTH columns, then of the odd ones.
INLINE void narrow_columns_ordinary(uint8_t *codes, int64_t code_stride, const struct quantize_columns_source *source,
                                    const struct divisor *by, bool multiply, int64_t rows, int64_t count) {
    for (int64_t i = 0; i < rows; i++) {
        const uint16_t *from = (const uint16_t *)source->x.data + i * source->x_stride;
        uint8_t *to = codes + i * code_stride;
        int64_t column = 0;
        for (; column + 2 * WIDTH <= count; column += 2 * WIDTH) {
            const struct divisor *pair = by + column / WIDTH;
            narrow_pairs_ordinary(to + column, load_pairs(from, column, 2 * WIDTH), pair, pair + 1, multiply,
                                  2 * WIDTH);
        }
        if (column < count) {
            const struct divisor *pair = by + column / WIDTH;
            narrow_pairs_ordinary(to + column, load_pairs(from, column, count - column), pair, pair + 1, multiply,
                                  count - column);
        }
    }
}

// The largest magnitudes of columns of BF16, NaN left out or not: of the even ones of 2 * WIDTH columns, then of the
// odd ones.
INLINE void largest_columns_bf16(words *most, const struct quantize_columns_source *source, bool any, int64_t rows,
                                 int64_t count) {
    wide_halves largest_pairs[QUANTIZE_COLUMNS / WIDTH / 2] = {{0}};
    for (int64_t i = 0; i < rows; i++) {
        const uint16_t *from = (const uint16_t *)source->x.data + i * source->x_stride;
        for (int64_t column = 0; column < count; column += 2 * WIDTH) {
            wide_halves pairs = count - column >= 2 * WIDTH ? load_pairs(from, column, 2 * WIDTH)
                                                            : load_pairs(from, column, count - column);
            wide_halves *largest_pair = &largest_pairs[column / WIDTH / 2];
            *largest_pair = LARGER_HALVES(any ? pairs & 0x7fff : pairs_magnitude_or_zero(pairs), *largest_pair);
        }
    }
    for (int64_t v = 0; v < QUANTIZE_COLUMNS / WIDTH; v += 2) {
        most[v] = even_of(largest_pairs[v / 2]);
        most[v + 1] = odd_of(largest_pairs[v / 2]);
    }
}

static void columns_bf16(uint8_t *codes, int64_t code_stride, float *scale,
                         const struct quantize_columns_source *source, int64_t rows, int64_t count, bool power_of_two) {
    words most[QUANTIZE_COLUMNS / WIDTH];
    floats by[QUANTIZE_COLUMNS / WIDTH];
    float scales[QUANTIZE_COLUMNS];
    int64_t vectors = (count + 2 * WIDTH - 1) / (2 * WIDTH) * 2;
    largest_columns_bf16(most, source, true, rows, count);
    bool ordinary = all_ordinary(most, vectors);
    if (!ordinary) {
        largest_columns_bf16(most, source, false, rows, count);
    }
    bool multiply = choose_scales(scales, by, most, vectors, power_of_two);
    for (int64_t column = 0; column < count; column++) {
        int64_t vector = column / (2 * WIDTH) * 2 + column % 2, lane = column % (2 * WIDTH) / 2;
        scale[column] = scales[vector * WIDTH + lane];
    }
    struct divisor divisors[QUANTIZE_COLUMNS / WIDTH];
    for (int64_t v = 0; ordinary && v < vectors; v++) {
        floats of_vector;
        memcpy(&of_vector, scales + v * WIDTH, sizeof of_vector);
        divisors[v] = divisor_make(of_vector, power_of_two);
    }
    if (ordinary && power_of_two) {
        narrow_columns_ordinary(codes, code_stride, source, divisors, true, rows, count);
    } else if (ordinary) {
        narrow_columns_ordinary(codes, code_stride, source, divisors, false, rows, count);
    } else if (multiply) {
        narrow_columns_bf16(codes, code_stride, source, by, true, rows, count);
    } else {
        narrow_columns_bf16(codes, code_stride, source, by, false, rows, count);
    }
}

static void columns(uint8_t *codes, int64_t code_stride, float *scale, const struct quantize_columns_source *source,
                    int64_t rows, int64_t count, bool power_of_two) {
    if (source->x.format == FORMAT_E4M3_TILE) {
        columns_of_kind(codes, code_stride, scale, source, SOURCE_CODES, rows, count, power_of_two);
    } else if (source->x.format == FORMAT_BF16) {
        columns_bf16(codes, code_stride, scale, source, rows, count, power_of_two);
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

static const struct quantize_kernels vector_quantize_kernels = {largest, narrow,      widen,     tiles,
                                                                columns, narrow_e5m6, widen_e5m6};

#endif
