// int8 and int4 groups (tensor/int_groups.h): reading single codes, and quantising.
#include "tensor/int_groups.h"

#include <math.h>
#include <string.h>

#include "tensor/format/format.h"
#include "tensor/formats.h"

#define LANES INT_TILE_ROWS
#define WIDTH 8              // rows quantised at a time
#define SMALLEST 0x1p-100f   // a group below is zero
#define ROUNDING 0x1.8p23f   // adding and subtracting it rounds to an integer, ties to even
#define INT4_ERROR 0.13f     // of amax, the largest error that the search for a scale may leave

int64_t int_bytes(const struct tensor *tensor) {
    int64_t tiles = int_tiles(tensor), last = tiles % INT_BLOCK_TILES;
    return tiles / INT_BLOCK_TILES * int_block_bytes(tensor, INT_BLOCK_TILES) +
           (last > 0 ? int_block_bytes(tensor, last) : 0);
}

static int code_shift(enum format format, int64_t k) {
    int64_t j = k % int_slab_depth(format);
    return (int)(16 * (1 - j % 2) + (format == FORMAT_INT4 ? 4 : 8) * (j / 2));
}

int int_code(const struct tensor *tensor, int64_t row, int64_t k) {
    const enum format format = (enum format)tensor->format;
    const int64_t tile = row / LANES, slab_of_group = k % int_group(format) / int_slab_depth(format);
    const uint8_t *slab = int_slabs(tensor, tile, k / int_group(format)) +
                          slab_of_group * int_slab_stride(tensor, tile);
    uint32_t lane;
    memcpy(&lane, slab + row % LANES * 4, sizeof lane);
    uint32_t bits = lane >> code_shift(tensor->format, k);
    return tensor->format == FORMAT_INT4 ? (int)((bits & 15u) ^ 8u) - 8 : (int)((bits & 255u) ^ 128u) - 128;
}

float int_scale(const struct tensor *tensor, int64_t row, int64_t k) {
    return bf16_widen(int_scales(tensor, row / LANES, k / int_group((enum format)tensor->format))[row % LANES]);
}

void int_widen_row(float *out, const struct tensor *source, int64_t row, int64_t column, int64_t count) {
    for (int64_t k = column; k < column + count; k++) {
        out[k - column] = (float)int_code(source, row, k) * int_scale(source, row, k);
    }
}

// ---- Quantising: half a tile at a time, a row in each lane
// -----------------------------------------------------------

typedef float floats __attribute__((vector_size(4 * WIDTH)));
typedef int32_t words __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t bits_of_words __attribute__((vector_size(4 * WIDTH)));

static inline floats set(float value) {
    return (floats){0} + value;
}

static inline floats choose(words mask, floats yes, floats no) {
    return (floats)((mask & (words)yes) | (~mask & (words)no));
}

static inline floats magnitude(floats value) {
    return (floats)((words)value & 0x7fffffff);
}

// Groups of eight rows: weights and, once chosen, codes.
struct groups {
    floats weight[INT8_GROUP], code[INT8_GROUP];
    floats amax, extreme;   // largest magnitude; the weight that has it
    floats scale;           // exact in BF16
    int64_t depth;          // k of the group
    float least, most;      // code
};

// weight / scale rounded to integers of the range.
static void encode(struct groups *groups) {
    const floats least = set(groups->least), most = set(groups->most);
    const floats inverse = choose(groups->scale != 0.0f, 1.0f / groups->scale, set(0.0f));
    for (int64_t k = 0; k < groups->depth; k++) {
        floats code = (groups->weight[k] * inverse + ROUNDING) - ROUNDING;
        code = choose(code < most, code, most);
        groups->code[k] = choose(code > least, code, least);
    }
}

static floats round_scale(floats scale) {
    for (int lane = 0; lane < WIDTH; lane++) {
        scale[lane] = bf16_widen(bf16_narrow(scale[lane]));
    }
    return scale;
}

// The scale of least squared error: for codes c of weights w it is sum(wc) / sum(cc) and takes sum(wc)^2 / sum(cc) off
// the error, so that the best of several rounded multiples of w is the one where that is largest.
static void search_scale(struct groups *groups) {
    static const float codes_of_extreme[] = {-8.4f, -7.7f, -7.0f};
    const floats most = set(groups->most);
    floats best = set(0.0f);
    for (size_t i = 0; i < sizeof codes_of_extreme / sizeof codes_of_extreme[0]; i++) {
        const floats inverse = choose(groups->extreme != 0.0f, codes_of_extreme[i] / groups->extreme, set(0.0f));
        floats product = set(0.0f), square = set(0.0f);
        for (int64_t k = 0; k < groups->depth; k++) {
            floats weight = groups->weight[k], code = (weight * inverse + ROUNDING) - ROUNDING;
            code = choose(code < most, code, most);   // none is below -8: the extreme rounds to it
            product += weight * code;
            square += code * code;
        }
        floats gain = choose(square > 0.0f, product * product / square, set(0.0f));
        words better = gain > best;
        best = choose(better, gain, best);
        groups->scale = choose(better, product / square, groups->scale);
    }
    groups->scale = round_scale(groups->scale);
}

// Where a weight ended too far from itself, the plain scale: the extreme on the code -8.
static void bound_error(struct groups *groups) {
    const floats bound = INT4_ERROR * groups->amax;
    words near = ~(words){0};
    for (int64_t k = 0; k < groups->depth; k++) {
        near &= magnitude(groups->weight[k] - groups->code[k] * groups->scale) <= bound;   // false for NaN
    }
    groups->scale = choose(near, groups->scale, round_scale(groups->extreme * -0.125f));
}

// Returns the lanes whose weights are all finite.
static words measure(struct groups *groups) {
    words finite = ~(words){0};
    groups->amax = groups->extreme = groups->scale = set(0.0f);
    for (int64_t k = 0; k < groups->depth; k++) {
        floats size = magnitude(groups->weight[k]);
        words larger = size > groups->amax;
        finite &= size < INFINITY;
        groups->extreme = choose(larger, groups->weight[k], groups->extreme);
        groups->amax = choose(larger, size, groups->amax);
    }
    words usable = finite & (groups->amax >= SMALLEST);
    groups->amax = choose(usable, groups->amax, set(0.0f));
    groups->extreme = choose(usable, groups->extreme, set(0.0f));
    return finite;
}

static void choose_codes(struct groups *groups, enum format format) {
    words finite = measure(groups);
    if (format == FORMAT_INT4) {
        search_scale(groups);
        encode(groups);
        bound_error(groups);
    } else {
        groups->scale = round_scale(groups->amax / 127.0f);
    }
    encode(groups);
    groups->scale = choose(finite, groups->scale, set(NAN));
}

static void store_codes(uint8_t *to, int64_t stride, const struct groups *groups, enum format format) {
    const int64_t slab_depth = int_slab_depth(format);
    for (int64_t k = 0; k < groups->depth; k += slab_depth, to += stride) {
        bits_of_words lanes = {0};
        int64_t end = k + slab_depth < groups->depth ? k + slab_depth : groups->depth;
        for (int64_t j = k; j < end; j++) {
            bits_of_words code = (bits_of_words) __builtin_convertvector(groups->code[j], words);
            lanes |= (code & (format == FORMAT_INT4 ? 15u : 255u)) << code_shift(format, j);
        }
        memcpy(to, &lanes, sizeof lanes);
    }
}

// Weights [row, row + rows) x [k, k + depth) of the source; zeros in the other lanes. Where rows are BF16 with k
// contiguous, as in most files, without a detour.
static void load_weights(struct groups *groups, const struct tensor *source, int64_t row, int64_t rows, int64_t k) {
    float line[INT8_GROUP];
    memset(groups->weight, 0, (size_t)groups->depth * sizeof groups->weight[0]);
    for (int64_t lane = 0; lane < rows; lane++) {
        float *to = (float *)groups->weight + lane;
        if (source->format == FORMAT_BF16 && source->stride[1] == 1) {
            const char *from = (const char *)source->data + 2 * ((row + lane) * source->stride[0] + k);
            for (int64_t i = 0; i < groups->depth; i++) {
                uint16_t bits;
                memcpy(&bits, from + 2 * i, sizeof bits);
                to[i * WIDTH] = bf16_widen(bits);
            }
            continue;
        }
        format_info(source->format)->widen(line, source, row + lane, k, groups->depth);
        for (int64_t i = 0; i < groups->depth; i++) {
            to[i * WIDTH] = line[i];
        }
    }
}

static void quantize_half(struct tensor *out, const struct tensor *source, int64_t tile, int64_t half) {
    const int64_t row = tile * LANES + half * WIDTH, depth = source->shape[1], group = int_group(out->format);
    const int64_t left = source->shape[0] - row, rows = left < 0 ? 0 : left < WIDTH ? left : WIDTH;
    struct groups groups = {.least = out->format == FORMAT_INT4 ? -8.0f : -127.0f,
                            .most = out->format == FORMAT_INT4 ? 7.0f : 127.0f};
    for (int64_t k = 0; k < depth; k += group) {
        uint8_t *codes = int_slabs(out, tile, k / group) + half * INT_SLAB_BYTES / 2;
        uint16_t *scales = int_scales(out, tile, k / group) + half * WIDTH;
        groups.depth = depth - k < group ? depth - k : group;
        load_weights(&groups, source, row, rows, k);
        choose_codes(&groups, out->format);
        store_codes(codes, int_slab_stride(out, tile), &groups, out->format);
        for (int lane = 0; lane < WIDTH; lane++) {
            scales[lane] = bf16_narrow(groups.scale[lane]);
        }
    }
}

void int_quantize(struct tensor *out, const struct tensor *source, int64_t tile) {
    CHECK(format_is_int(out->format) && out->rank == 2 && tensor_same_shape(out, source), "formats %d from %d",
          out->format, source->format);
    quantize_half(out, source, tile, 0);
    quantize_half(out, source, tile, 1);
}
