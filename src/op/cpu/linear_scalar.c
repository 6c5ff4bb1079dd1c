// Scalar kernels of the matrix products: the specification that AVX2 and AVX-512 repeat with the same bits. The packing
// functions also serve those tables for operands with neither stride equal to 1.
#include <math.h>
#include <string.h>

#include "op/cpu/kernels.h"
#include "tensor/formats.h"

#define COLUMNS 16

float linear_scale(const struct linear_operand *operand, int64_t row, int64_t k) {
    float scale = 1.0f;
    if (operand->scale == NULL) {
        return scale;
    }
    int64_t index = row / operand->scale_rows * operand->scale_row_stride + k / BLOCK_SIZE * operand->scale_k_stride;
    memcpy(&scale, (const char *)operand->scale + index * (int64_t)sizeof scale, sizeof scale);
    return scale;
}

// Element without its scale.
static float element(const struct linear_operand *operand, int64_t row, int64_t k) {
    int64_t offset = row * operand->row_stride + k * operand->k_stride;
    if (operand->format == FORMAT_F32) {
        float value;
        memcpy(&value, operand->data + 4 * offset, sizeof value);
        return value;
    }
    if (operand->format == FORMAT_BF16) {
        uint16_t bits;
        memcpy(&bits, operand->data + 2 * offset, sizeof bits);
        return bf16_widen(bits);
    }
    return e4m3_widen((uint8_t)operand->data[offset]);
}

static uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

// The unit that starts at k. `partner` is the low half of a pair whose second k does not exist.
static uint32_t unit_at(const struct linear_strip *strip, int64_t row, int64_t k, uint32_t partner) {
    uint32_t bits = float_bits(element(strip->source, row, k));
    if (strip->unit == UNIT_F32) {
        return bits;
    }
    return bits | (k + 1 < strip->k_end ? float_bits(element(strip->source, row, k + 1)) >> 16 : partner);
}

void linear_pack_rows_scalar(const struct linear_strip *strip) {
    int64_t step = strip->unit == UNIT_PAIR ? 2 : 1;
    for (int row = 0; row < strip->rows; row++) {
        int64_t unit = 0;
        for (int64_t k = strip->k_begin; k < strip->k_end; k += step, unit++) {
            strip->out[unit / LINEAR_CHUNK * strip->chunk_stride + row * LINEAR_CHUNK + unit % LINEAR_CHUNK] = unit_at(
                strip, strip->row + row, k, 0x8000u);
        }
    }
}

void linear_pack_columns_scalar(const struct linear_strip *strip) {
    int64_t step = strip->unit == UNIT_PAIR ? 2 : 1;
    for (int row = 0; row < strip->rows; row++) {
        int64_t unit = 0;
        for (int64_t k = strip->k_begin; k < strip->k_end; k += step, unit++) {
            strip->out[unit * strip->unit_stride + row] = unit_at(strip, strip->row + row, k, 0);
        }
    }
}

static float packed_a(const struct linear_tile *tile, int64_t row, int64_t unit) {
    float value;
    memcpy(&value, tile->a + (unit / LINEAR_CHUNK * tile->rows + row) * LINEAR_CHUNK + unit % LINEAR_CHUNK,
           sizeof value);
    return value;
}

static float packed_b(const struct linear_tile *tile, int64_t unit, int64_t column) {
    float value;
    memcpy(&value, tile->b + unit * COLUMNS + column, sizeof value);
    return value;
}

static float mapped_b(const struct linear_tile *tile, int64_t unit, int64_t column) {
    return element(tile->mapped, tile->column + column, unit);
}

static float scale_of(const struct linear_tile *tile, int64_t block, int row, int column) {
    return tile->mapped != NULL ? tile->scale[block]
                                : tile->row_scale[block * LINEAR_MAX_ROWS + row] *
                                      tile->column_scale[block * LINEAR_MAX_COLUMNS + column];
}

static void tile_with(const struct linear_tile *tile,
                      float (*b)(const struct linear_tile *tile, int64_t unit, int64_t column)) {
    bool scaled = (tile->mapped != NULL ? tile->scale : tile->row_scale) != NULL;
    int64_t block = scaled ? tile->scale_depth : tile->units;
    for (int row = 0; row < tile->rows; row++) {
        for (int column = 0; column < tile->columns; column++) {
            float *c = &tile->c[row * tile->c_stride + column];
            float total = tile->add ? *c : 0.0f;
            for (int64_t begin = 0; begin < tile->units; begin += block) {
                int64_t end = begin + block < tile->units ? begin + block : tile->units;
                float sum = scaled ? 0.0f : total;
                for (int64_t unit = begin; unit < end; unit++) {
                    sum = fmaf(packed_a(tile, row, unit), b(tile, unit, column), sum);
                }
                total = scaled ? fmaf(sum, scale_of(tile, begin / block, row, column), total) : sum;
            }
            *c = total;
        }
    }
}

static void tile_scalar(const struct linear_tile *tile) {
    tile_with(tile, packed_b);
}

static void tile_mapped_scalar(const struct linear_tile *tile) {
    tile_with(tile, mapped_b);
}

static void narrow_scalar(uint16_t *out, const float *in, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        out[i] = bf16_narrow(in[i]);
    }
}

void kernels_scalar_linear(struct cpu_kernels *kernels) {
    kernels->linear = (struct linear_kernels){.pairs = false,
                                              .tile_rows = 4,
                                              .tile_columns = COLUMNS,
                                              .mapped_columns = COLUMNS,
                                              .pack_rows = linear_pack_rows_scalar,
                                              .pack_columns = linear_pack_columns_scalar,
                                              .tile = tile_scalar,
                                              .tile_mapped = tile_mapped_scalar,
                                              .narrow = narrow_scalar};
}
