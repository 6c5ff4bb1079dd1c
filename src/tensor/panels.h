// Weights interleaved when a model is opened: the values of a BF16 or E4M3 (128 x 128 blocks) matrix in the order in
// which products read them (op/cpu/linear.h: packed columns, side b). A chain runs along k and lanes are rows, so that
// what one multiplication takes lies side by side, and memory is read front to back.
//
//   unit    two k of a row: k (even) and k + 1; the second of a lone last k is 0
//   panel   32 rows; rows beyond the last are 0
//   data    [panels] of [units][32] words of 32 bits (BF16: k in the upper half), or of marks and [units][64] codes
//   (E4M3) in
//           four quarters of 16: quarter q has rows 4 q .. 4 q + 3, then rows 16 + 4 q .. 16 + 4 q + 3, of each the
//           code of k + 1 before that of k. Unpacking the looked-up lower and upper bytes of the BF16 values then
//           gives the words of rows 0 .. 15 and of rows 16 .. 31.
//   code    sign, lowest bit of the exponent, mantissa, upper three bits of the exponent: in this order a word of 16
//   bits
//           with sign, exponent and mantissa in their places is two windows of 8 bits on it
//   marks   a byte for every chunk of 16 units, in which bit i says whether units 4 i .. 4 i + 3 have a code without a
//           leading one (zero or subnormal: 3 % of them, in a trained weight), and a byte that is 1 if the panel has a
//           NaN; zeros up to a multiple of 64
//   scale   as E4M3_BLOCK has them
//
// Matrices that are used as a whole, as weights of products with BF16 activations: no views.
#ifndef MINKE_TENSOR_PANELS_H
#define MINKE_TENSOR_PANELS_H

#include "tensor/tensor.h"

#define PANEL_ROWS 32

static inline bool format_is_panels(enum format format) {
    return format == FORMAT_BF16_PANELS || format == FORMAT_E4M3_PANELS;
}

// The format of panels for elements of `format`; FORMAT_NONE: there is none.
static inline enum format panels_format(enum format format) {
    return format == FORMAT_BF16 ? FORMAT_BF16_PANELS : format == FORMAT_E4M3_BLOCK ? FORMAT_E4M3_PANELS : FORMAT_NONE;
}

// The way back.
static inline enum format panels_elements(enum format format) {
    return format == FORMAT_E4M3_PANELS ? FORMAT_E4M3_BLOCK : FORMAT_BF16;
}

// Of a unit of a panel, of elements of `format`.
static inline int64_t panel_unit_bytes(enum format elements) {
    return elements == FORMAT_E4M3_BLOCK ? 2 * PANEL_ROWS : 4 * PANEL_ROWS;
}

#define PANEL_CHUNK 16   // units that share a byte of marks,
#define PANEL_MARKED 4   // and a bit

static inline int64_t panel_chunks(int64_t depth) {
    return (depth + 2 * PANEL_CHUNK - 1) / (2 * PANEL_CHUNK);
}

// Of the marks, which a panel begins with.
static inline int64_t panel_marks_bytes(enum format elements, int64_t depth) {
    return elements == FORMAT_E4M3_BLOCK ? (panel_chunks(depth) + 1 + 63) / 64 * 64 : 0;
}

static inline int64_t panel_bytes(enum format elements, int64_t depth) {
    return panel_marks_bytes(elements, depth) + (depth + 1) / 2 * panel_unit_bytes(elements);
}

static inline int64_t panel_count(const struct tensor *tensor) {
    return (tensor->shape[0] + PANEL_ROWS - 1) / PANEL_ROWS;
}

// An E4M3 in the order of bits of a panel, and the way back.
static inline uint8_t panel_code(uint8_t code) {
    return (uint8_t)((code & 0x80) | (code & 0x0f) << 3 | (code >> 4 & 0x07));
}

static inline uint8_t panel_code_back(uint8_t code) {
    return (uint8_t)((code & 0x80) | (code & 0x07) << 4 | (code >> 3 & 0x0f));
}

int64_t panels_bytes(const struct tensor *tensor);   // of the data, without scales

// Fills panel `panel` of `out` (a packed matrix with memory) from the rows of `source` (same shape, of the format of
// its elements, k contiguous).
void panel_fill(struct tensor *out, const struct tensor *source, int64_t panel);

#endif
