// E5M6, twelve bits: sign, 5 exponent bits with bias 15, 6 mantissa bits; what IEEE would make of that width. Largest
// 65024 (0x7bf), smallest normal 2^-14 (0x040), smallest 2^-20 (0x001), infinity 0x7c0, NaN above. In a tensor one F32
// scale, a power of two, belongs to each 1 x 128 tile: value = element * scale, exact in BF16.
//
// A matrix [rows, columns] is two planes one behind the other: the low eight bits of each element, a byte each, then
// the high four, elements 2i (low half) and 2i + 1 (high half) of a row in one byte, (columns + 1) / 2 bytes a row.
#include "tensor/formats.h"

#include "tensor/format/format.h"

#define E5M6_MAX 65024.0f
#define AMAX_MIN 1e-4f   // as in E4M3

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

float e5m6_widen(uint16_t bits) {
    uint32_t sign = (uint32_t)(bits & 0x800u) << 20, magnitude = bits & 0x7ffu;
    if (magnitude >= 0x7c0u) {
        return float_from_bits(sign | (magnitude == 0x7c0u ? 0x7f800000u : 0x7fc00000u));
    }
    if (magnitude < 0x40u) {
        return float_from_bits(sign | float_bits((float)magnitude * 0x1p-20f));
    }
    return float_from_bits(sign | ((magnitude << 17) + (112u << 23)));   // the exponent's bias grows from 15 to 127
}

uint16_t e5m6_narrow(float value) {
    uint32_t bits = float_bits(value), sign = bits >> 20 & 0x800u, magnitude = bits & 0x7fffffffu;
    if (magnitude >= 0x7f800000u) {
        return (uint16_t)(sign | (magnitude == 0x7f800000u ? 0x7c0u : 0x7e0u));
    }
    if (magnitude >= float_bits(E5M6_MAX)) {
        return (uint16_t)(sign | 0x7bfu);
    }
    if (magnitude < float_bits(0x1p-14f)) {
        // One unit in the last place of 2^3 is 2^-20, the subnormals' step: the addition rounds to nearest even.
        return (uint16_t)(sign | (float_bits(float_from_bits(magnitude) + 0x1p3f) & 0x7fu));
    }
    magnitude += 0xffffu + (magnitude >> 17 & 1u);
    return (uint16_t)(sign | ((magnitude - (112u << 23)) >> 17));
}

float e5m6_scale(float amax) {
    uint32_t bits = float_bits((amax > AMAX_MIN ? amax : AMAX_MIN) / E5M6_MAX);
    uint32_t exponent = (bits >> 23 & 0xffu) + ((bits & 0x7fffffu) != 0 ? 1u : 0u);
    return float_from_bits((exponent < 254u ? exponent : 254u) << 23);
}

uint8_t *e5m6_high(const struct tensor *tensor, int64_t row) {
    int64_t rows = tensor->shape[0], columns = tensor->shape[1];
    return (uint8_t *)tensor->data + rows * columns + row * ((columns + 1) / 2);
}

static float scale_at(const struct tensor *tensor, int64_t row, int64_t column) {
    return tensor->scale[row * tensor->scale_stride + column / BLOCK_SIZE];
}

void e5m6_widen_row(float *out, const struct tensor *source, int64_t row, int64_t column, int64_t count) {
    const uint8_t *low = (const uint8_t *)format_element(source, row, 0), *high = e5m6_high(source, row);
    for (int64_t i = column; i < column + count; i++) {
        unsigned code = low[i] | (unsigned)(high[i / 2] >> i % 2 * 4 & 15) << 8;
        out[i - column] = e5m6_widen((uint16_t)code) * scale_at(source, row, i);
    }
}

void e5m6_narrow_row(struct tensor *out, const float *source, int64_t row, int64_t column, int64_t count) {
    uint8_t *low = (uint8_t *)format_element(out, row, 0), *high = e5m6_high(out, row);
    for (int64_t i = column; i < column + count; i++) {
        unsigned code = e5m6_narrow(source[i - column] / scale_at(out, row, i)), shift = i % 2 == 0 ? 0u : 4u;
        low[i] = (uint8_t)code;
        high[i / 2] = (uint8_t)((high[i / 2] & (15u << (4 - shift))) | code >> 8 << shift);
    }
}
