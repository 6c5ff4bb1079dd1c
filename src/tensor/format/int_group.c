// int8 and int4 groups (tensor/int_groups.h): reading single codes, and quantising.
#include "tensor/int_groups.h"

#include <math.h>
#include <string.h>

#include "tensor/format/format.h"
#include "tensor/formats.h"

#define LANES INT_TILE_ROWS
#define SMALLEST 0x1p-100f   // a group below is zero
#define ROUNDING 0x1.8p23f   // adding and subtracting it rounds to an integer, ties to even
#define INT4_ERROR 0.13f     // of amax, the largest error that the search for a scale may leave
#define INT4_CANDIDATES 7

int64_t int_bytes(const struct tensor *tensor) {
    int64_t scales = int_tiles(tensor) * int_groups(tensor) * LANES * (int64_t)sizeof(uint16_t);
    return int_tiles(tensor) * int_tile_bytes(tensor) + scales;
}

static int code_shift(int format, int64_t k) {
    int64_t j = k % int_slab_depth(format);
    return (int)(16 * (1 - j % 2) + (format == FORMAT_INT4 ? 4 : 8) * (j / 2));
}

int int_code(const struct tensor *tensor, int64_t row, int64_t k) {
    const uint8_t *slab = int_codes(tensor, row / LANES) + k / int_slab_depth(tensor->format) * INT_SLAB_BYTES;
    uint32_t lane;
    memcpy(&lane, slab + row % LANES * 4, sizeof lane);
    uint32_t bits = lane >> code_shift(tensor->format, k);
    return tensor->format == FORMAT_INT4 ? (int)((bits & 15u) ^ 8u) - 8 : (int)((bits & 255u) ^ 128u) - 128;
}

float int_scale(const struct tensor *tensor, int64_t row, int64_t k) {
    const uint16_t *scales = int_scales(tensor, row / LANES);
    return bf16_widen(scales[k / int_group(tensor->format) * LANES + row % LANES]);
}

void int_widen_row(float *out, const struct tensor *source, int64_t row, int64_t column, int64_t count) {
    for (int64_t k = column; k < column + count; k++) {
        out[k - column] = (float)int_code(source, row, k) * int_scale(source, row, k);
    }
}

// ---- Quantising: 16 rows at a time, one in each lane
// -----------------------------------------------------------------

// Groups of 16 rows: weights and, once chosen, codes.
struct groups {
    float weight[INT8_GROUP][LANES], code[INT8_GROUP][LANES];
    float amax[LANES], extreme[LANES];   // largest magnitude; the weight that has it
    float scale[LANES];                  // exact in BF16
    int64_t depth;                       // k of the group
    float least, most;                   // code
};

// code = weight * inverse, rounded to an integer of the range; returns sums of weight * code and code * code.
static void encode(struct groups *groups, const float inverse[LANES], float product[LANES], float square[LANES]) {
    const float least = groups->least, most = groups->most;
    for (int lane = 0; lane < LANES; lane++) {
        product[lane] = 0.0f;
        square[lane] = 0.0f;
    }
    for (int64_t k = 0; k < groups->depth; k++) {
        for (int lane = 0; lane < LANES; lane++) {
            float weight = groups->weight[k][lane], code = weight * inverse[lane];
            code = code > least ? code : least;
            code = code < most ? code : most;
            code = (code + ROUNDING) - ROUNDING;
            groups->code[k][lane] = code;
            product[lane] += weight * code;
            square[lane] += code * code;
        }
    }
}

static void encode_with_scale(struct groups *groups) {
    float inverse[LANES], product[LANES], square[LANES];
    for (int lane = 0; lane < LANES; lane++) {
        float scale = groups->scale[lane];
        inverse[lane] = scale != 0.0f ? 1.0f / scale : 0.0f;
    }
    encode(groups, inverse, product, square);
}

static float round_scale(float scale) {
    return bf16_widen(bf16_narrow(scale));
}

// The scale of least squared error: for codes c of weights w it is sum(wc) / sum(cc) and takes sum(wc)^2 / sum(cc) off
// the error, so that the best of several rounded multiples of w is the one where that is largest.
static void search_scale(struct groups *groups) {
    static const float codes_of_extreme[INT4_CANDIDATES] = {-8.0f, -7.3f, -7.7f, -6.9f, -8.4f, 7.0f, 6.6f};
    float best[LANES] = {0}, inverse[LANES], product[LANES], square[LANES];
    for (int candidate = 0; candidate < INT4_CANDIDATES; candidate++) {
        for (int lane = 0; lane < LANES; lane++) {
            bool empty = groups->extreme[lane] == 0.0f;
            inverse[lane] = empty ? 0.0f : codes_of_extreme[candidate] / groups->extreme[lane];
        }
        encode(groups, inverse, product, square);
        for (int lane = 0; lane < LANES; lane++) {
            float gain = square[lane] > 0.0f ? product[lane] * product[lane] / square[lane] : 0.0f;
            bool better = gain > best[lane];
            best[lane] = better ? gain : best[lane];
            groups->scale[lane] = better ? round_scale(product[lane] / square[lane]) : groups->scale[lane];
        }
    }
}

// Where a weight ended too far from itself, the plain scale: the extreme on the code -8.
static void bound_error(struct groups *groups) {
    float error[LANES] = {0};
    for (int64_t k = 0; k < groups->depth; k++) {
        for (int lane = 0; lane < LANES; lane++) {
            float difference = fabsf(groups->weight[k][lane] - groups->code[k][lane] * groups->scale[lane]);
            error[lane] = difference > error[lane] ? difference : error[lane];
        }
    }
    for (int lane = 0; lane < LANES; lane++) {
        bool far = error[lane] > INT4_ERROR * groups->amax[lane];
        groups->scale[lane] = far ? round_scale(groups->extreme[lane] * -0.125f) : groups->scale[lane];
    }
    encode_with_scale(groups);
}

static void measure(struct groups *groups, bool finite[LANES]) {
    for (int lane = 0; lane < LANES; lane++) {
        groups->amax[lane] = 0.0f;
        groups->extreme[lane] = 0.0f;
        groups->scale[lane] = 0.0f;
        finite[lane] = true;
    }
    for (int64_t k = 0; k < groups->depth; k++) {
        for (int lane = 0; lane < LANES; lane++) {
            float weight = groups->weight[k][lane], magnitude = fabsf(weight);
            finite[lane] = finite[lane] && magnitude < INFINITY;
            groups->extreme[lane] = magnitude > groups->amax[lane] ? weight : groups->extreme[lane];
            groups->amax[lane] = magnitude > groups->amax[lane] ? magnitude : groups->amax[lane];
        }
    }
    for (int lane = 0; lane < LANES; lane++) {
        bool usable = finite[lane] && groups->amax[lane] >= SMALLEST;
        groups->amax[lane] = usable ? groups->amax[lane] : 0.0f;
        groups->extreme[lane] = usable ? groups->extreme[lane] : 0.0f;
    }
}

static void choose_codes(struct groups *groups, int format) {
    bool finite[LANES];
    measure(groups, finite);
    if (format == FORMAT_INT4) {
        search_scale(groups);
        encode_with_scale(groups);
        bound_error(groups);
    } else {
        for (int lane = 0; lane < LANES; lane++) {
            groups->scale[lane] = round_scale(groups->amax[lane] / 127.0f);
        }
        encode_with_scale(groups);
    }
    for (int lane = 0; lane < LANES; lane++) {
        groups->scale[lane] = finite[lane] ? groups->scale[lane] : NAN;
    }
}

static void store_codes(uint8_t *to, const struct groups *groups, int format) {
    const int64_t slab_depth = int_slab_depth(format);
    const uint32_t mask = format == FORMAT_INT4 ? 15u : 255u;
    for (int64_t k = 0; k < groups->depth; k += slab_depth, to += INT_SLAB_BYTES) {
        uint32_t lanes[LANES] = {0};
        int64_t end = k + slab_depth < groups->depth ? k + slab_depth : groups->depth;
        for (int64_t j = k; j < end; j++) {
            int shift = code_shift(format, j);
            for (int lane = 0; lane < LANES; lane++) {
                lanes[lane] |= ((uint32_t)(int32_t)groups->code[j][lane] & mask) << shift;
            }
        }
        memcpy(to, lanes, sizeof lanes);
    }
}

void int_quantize(struct tensor *out, const struct tensor *source, int64_t tile) {
    CHECK(format_is_int(out->format) && out->rank == 2 && tensor_same_shape(out, source), "formats %d from %d",
          out->format, source->format);
    const struct format_info *info = format_info(source->format);
    const int64_t first = tile * LANES, group = int_group(out->format), depth = source->shape[1];
    const int64_t rows = source->shape[0] - first < LANES ? source->shape[0] - first : LANES;
    uint8_t *codes = int_codes(out, tile);
    uint16_t *scales = int_scales(out, tile);
    float line[LANES][INT_CHUNK] = {{0}};
    struct groups groups = {.least = out->format == FORMAT_INT4 ? -8.0f : -127.0f,
                            .most = out->format == FORMAT_INT4 ? 7.0f : 127.0f};
    for (int64_t chunk = 0; chunk < depth; chunk += INT_CHUNK) {
        int64_t count = depth - chunk < INT_CHUNK ? depth - chunk : INT_CHUNK;
        for (int64_t row = 0; row < rows; row++) {
            info->widen(line[row], source, first + row, chunk, count);
        }
        for (int64_t begin = 0; begin < count; begin += group) {
            groups.depth = count - begin < group ? count - begin : group;
            for (int64_t k = 0; k < groups.depth; k++) {
                for (int lane = 0; lane < LANES; lane++) {
                    groups.weight[k][lane] = line[lane][begin + k];
                }
            }
            choose_codes(&groups, out->format);
            store_codes(codes, &groups, out->format);
            codes += (groups.depth + int_slab_depth(out->format) - 1) / int_slab_depth(out->format) * INT_SLAB_BYTES;
            for (int lane = 0; lane < LANES; lane++) {
                *scales++ = bf16_narrow(groups.scale[lane]);
            }
        }
    }
}
