// Storage formats: one table row each (formats.c); conversions of one format live in format/<name>.c.
#ifndef MINKE_TENSOR_FORMATS_H
#define MINKE_TENSOR_FORMATS_H

#include <stdint.h>
#include <string.h>

#include "base/error.h"
#include "tensor/tensor.h"

struct format_info {
    const char *name;               // for people: "bf16"
    const char *safetensors_name;   // in files: "BF16"; NULL if it never stands in one by itself
    // Per element; 0: the layout is not one of elements (int_groups.h); E5M6_TILE: of the plane of low bits alone
    // (tensor_bytes has the whole).
    int bytes;
    // Widen `count` consecutive elements of row `row` starting at `column` to F32 (exact for f32 and bf16; element *
    // scale rounded once for block formats), and the way back. NULL for integer formats.
    void (*widen)(float *out, const struct tensor *source, int64_t row, int64_t column, int64_t count);
    // Writes `count` elements (rank 1 or 2 tensors; the whole block row at once for block formats is done by
    // quantize_e4m3_blocks).
    void (*narrow)(struct tensor *out, const float *source, int64_t row, int64_t column, int64_t count);
};
const struct format_info *format_info(enum format format);
enum format format_by_safetensors_name(const char *name);   // FORMAT_NONE if unknown; F8_E4M3 gives FORMAT_E4M3_BLOCK

// bf16: the upper half of an IEEE single; narrowing rounds to nearest even, NaN stays NaN (quiet bit set).
static inline float bf16_widen(uint16_t bits) {
    uint32_t word = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}
static inline uint16_t bf16_narrow(float value) {
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    if ((word & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)((word >> 16) | 0x40u);
    }
    return (uint16_t)((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
}

// E4M3 ("e4m3fn": bias 7, largest 448, NaN = S.1111.111, no infinities). Narrowing rounds to nearest even and saturates
// to +-448.
float e4m3_widen(uint8_t bits);
uint8_t e4m3_narrow(float value);
// The scale of a block or tile whose largest magnitude (NaN left out) is `amax`: max(amax, 1e-4) / 448; power of two:
// that with its exponent rounded up, kept in 1..254; smaller ones keep the scale of 1e-4, as the reference quantiser
// does (spec 6.2). An element is e4m3_narrow(x / scale): a NaN spoils itself alone; an infinite amax gives an infinite
// scale, or 2^127 with the infinity as 448, so that what is multiplied out is not finite in either mode.
static inline float e4m3_scale(float amax, int power_of_two) {
    float scale = (amax > 1e-4f ? amax : 1e-4f) / 448.0f;
    if (power_of_two) {
        uint32_t bits, exponent;
        memcpy(&bits, &scale, sizeof bits);
        exponent = (bits >> 23 & 0xffu) + ((bits & 0x7fffffu) != 0 ? 1u : 0u);
        bits = (exponent < 254u ? exponent : 254u) << 23;
        memcpy(&scale, &bits, sizeof scale);
    }
    return scale;
}

// E5M6 (format/e5m6.c): twelve bits as IEEE would make them, with infinities; narrowing rounds to nearest even, finite
// values saturate to +-65024. The scale of a tile: max(amax, 1e-4) / 65024 with its exponent rounded up.
float e5m6_widen(uint16_t bits);
uint16_t e5m6_narrow(float value);
float e5m6_scale(float amax);
uint8_t *e5m6_high(const struct tensor *tensor, int64_t row);   // high halves of a row: two elements a byte

// Quantises a packed F32 or BF16 matrix to 128 x 128 blocks (spec 6.2, official cast): ragged edges count as zeros;
// scale = amax / 448, or the next power of two when `power_of_two`; out->data [rows, columns] u8 and out->scale are
// written.
void quantize_e4m3_blocks(struct tensor *out, const struct tensor *source, int power_of_two);

#endif
