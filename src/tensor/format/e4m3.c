// E4M3 ("e4m3fn"), one byte: sign, 4 exponent bits with bias 7, 3 mantissa bits. Largest 448 (0x7e), smallest normal
// 2^-6 (0x08), smallest 2^-9 (0x01), NaN 0x7f and 0xff, no infinities. In a tensor one F32 scale belongs to each 128 x
// 128 block, 1 x 128 tile or 128 x 1 tile: value = element * scale.
#include "tensor/formats.h"

#include "tensor/format/format.h"

#define E4M3_MAX 448.0f

static float float_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

float e4m3_widen(uint8_t bits) {
    uint32_t sign = (uint32_t)(bits & 0x80u) << 24, magnitude = bits & 0x7fu;
    if (magnitude == 0x7fu) {
        return float_from_bits(sign | 0x7fc00000u);
    }
    if (magnitude < 8u) {
        return float_from_bits(sign | float_bits((float)magnitude * 0x1p-9f));
    }
    return float_from_bits(sign | ((magnitude << 20) + (120u << 23)));   // the exponent's bias grows from 7 to 127
}

uint8_t e4m3_narrow(float value) {
    uint32_t bits = float_bits(value), sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return (uint8_t)(sign | 0x7fu);
    }
    if (magnitude >= float_bits(E4M3_MAX)) {
        return (uint8_t)(sign | 0x7eu);
    }
    if (magnitude < float_bits(0x1p-6f)) {
        // One unit in the last place of 2^14 is 2^-9, the subnormals' step: the addition rounds to nearest even.
        return (uint8_t)(sign | (float_bits(float_from_bits(magnitude) + 0x1p14f) & 0xfu));
    }
    magnitude += 0x7ffffu + (magnitude >> 20 & 1u);
    return (uint8_t)(sign | ((magnitude - (120u << 23)) >> 20));
}

static float scale_at(const struct tensor *tensor, int64_t row, int64_t column) {
    float scale;
    const char *from = (const char *)tensor->scale;
    int64_t index = row / tensor_scale_edge(tensor->format, 0) * tensor->scale_stride +
                    column / tensor_scale_edge(tensor->format, 1);
    memcpy(&scale, from + index * (int64_t)sizeof scale, sizeof scale);
    return scale;
}

void e4m3_widen_row(float *out, const struct tensor *source, int64_t row, int64_t column, int64_t count) {
    const uint8_t *in = (const uint8_t *)format_element(source, row, 0);
    const int64_t edge = tensor_scale_edge(source->format, 1);
    float scale = 0.0f;
    for (int64_t i = column; i < column + count; i++) {
        scale = i == column || i % edge == 0 ? scale_at(source, row, i) : scale;
        out[i - column] = e4m3_widen(in[i * source->stride[1]]) * scale;
    }
}

void e4m3_narrow_row(struct tensor *out, const float *source, int64_t row, int64_t column, int64_t count) {
    uint8_t *to = (uint8_t *)format_element(out, row, 0);
    for (int64_t i = column; i < column + count; i++) {
        to[i * out->stride[1]] = e4m3_narrow(source[i - column] / scale_at(out, row, i));
    }
}

void quantize_e4m3_blocks(struct tensor *out, const struct tensor *source, int power_of_two) {
    CHECK(out->format == FORMAT_E4M3_BLOCK && tensor_packed(out) && out->scale != NULL, "output format %d",
          out->format);
    CHECK(source->format == FORMAT_F32 || source->format == FORMAT_BF16, "source format %d", source->format);
    CHECK(source->rank == 2 && tensor_same_shape(out, source), "shapes differ");
    const struct format_info *info = format_info(source->format);
    int64_t rows = source->shape[0], columns = source->shape[1];
    float line[BLOCK_SIZE];
    for (int64_t row = 0; row < rows; row += BLOCK_SIZE) {
        int64_t height = rows - row < BLOCK_SIZE ? rows - row : BLOCK_SIZE;
        for (int64_t column = 0; column < columns; column += BLOCK_SIZE) {
            int64_t width = columns - column < BLOCK_SIZE ? columns - column : BLOCK_SIZE;
            float amax = 0.0f;
            for (int64_t i = 0; i < height; i++) {
                info->widen(line, source, row + i, column, width);
                for (int64_t j = 0; j < width; j++) {
                    float magnitude = float_from_bits(float_bits(line[j]) & 0x7fffffffu);
                    amax = magnitude > amax ? magnitude : amax;   // a NaN never wins: it spoils itself alone
                }
            }
            float scale = e4m3_scale(amax, power_of_two);
            int64_t index = row / BLOCK_SIZE * out->scale_stride + column / BLOCK_SIZE;
            memcpy((char *)out->scale + index * (int64_t)sizeof scale, &scale, sizeof scale);
            for (int64_t i = 0; i < height; i++) {
                info->widen(line, source, row + i, column, width);
                e4m3_narrow_row(out, line, row + i, column, width);
            }
        }
    }
}
