// Scalar kernels of products with integer weights (tensor/int_groups.h): the specification that AVX2 and AVX-512 repeat
// with the same bits. y = for each group of k: total = fma(chain of x * code from +0, scale, total).
#include <math.h>
#include <string.h>

#include "op/cpu/kernels.h"
#include "tensor/formats.h"
#include "tensor/int_groups.h"

#define COLUMNS 16

void linear_int_scales(float *scale, int64_t stride, const struct tensor *weight, int64_t row, int64_t rows,
                       int64_t k_begin, int64_t k_end) {
    const int64_t depth = int_group(weight->format);
    for (int64_t k = k_begin; k < k_end; k += depth, scale += stride) {
        for (int64_t first = 0; first < rows; first += INT_TILE_ROWS) {
            const uint16_t *from = int_scales(weight, (row + first) / INT_TILE_ROWS, k / depth);
            for (int64_t i = first; i < rows && i < first + INT_TILE_ROWS; i++) {
                scale[i] = bf16_widen(from[i - first]);
            }
        }
        for (int64_t i = rows; i < stride; i++) {
            scale[i] = 0.0f;
        }
    }
}

static uint32_t code_bits(const struct linear_strip *strip, int64_t row, int64_t k) {
    float value = (float)int_code(strip->source->integers, row, k);
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static void pack_columns_scalar(const struct linear_strip *strip) {
    const int64_t step = strip->unit == UNIT_PAIR ? 2 : 1;
    for (int row = 0; row < strip->rows; row++) {
        int64_t unit = 0;
        for (int64_t k = strip->k_begin; k < strip->k_end; k += step, unit++) {
            uint32_t bits = code_bits(strip, strip->row + row, k);
            if (step == 2 && k + 1 < strip->k_end) {
                bits |= code_bits(strip, strip->row + row, k + 1) >> 16;
            }
            strip->out[unit * strip->unit_stride + row] = bits;
        }
    }
}

static float packed_a(const struct linear_tile *tile, int64_t row, int64_t k) {
    float value;
    memcpy(&value, tile->a + (k / LINEAR_CHUNK * tile->rows + row) * LINEAR_CHUNK + k % LINEAR_CHUNK, sizeof value);
    return value;
}

static void tile_int_scalar(const struct linear_tile *tile) {
    const struct tensor *weight = tile->mapped->integers;
    const int64_t group = int_group(weight->format);
    for (int row = 0; row < tile->rows; row++) {
        for (int column = 0; column < tile->columns; column++) {
            float *c = &tile->c[row * tile->c_stride + column];
            float total = tile->add ? *c : 0.0f;
            for (int64_t begin = 0; begin < tile->depth; begin += group) {
                int64_t end = begin + group < tile->depth ? begin + group : tile->depth;
                float sum = 0.0f;
                for (int64_t k = begin; k < end; k++) {
                    sum = fmaf(packed_a(tile, row, k), (float)int_code(weight, tile->column + column, k), sum);
                }
                total = fmaf(sum, int_scale(weight, tile->column + column, begin), total);
            }
            *c = total;
        }
    }
}

void kernels_scalar_linear_int(struct cpu_kernels *kernels) {
    kernels->linear.pack_columns_int = pack_columns_scalar;
    kernels->linear.tile_int = tile_int_scalar;
}
