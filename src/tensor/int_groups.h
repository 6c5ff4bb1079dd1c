// Weights as small integers in groups: value = code * scale, codes -127..127 (int8) or -8..7 (int4), one BF16 scale for
// each group of 128 (int8) or 32 (int4) consecutive elements of a row. Made when a model is opened, never stored in a
// file, so the layout is one that kernels read straight through:
//
//   tile    16 rows; rows beyond the last have codes and scales of 0
//   block   two tiles, the last as many as are left
//   slab    64 bytes of a tile: lane r (32 bits, little-endian) holds consecutive k of row r: 8 codes of int4 or 4 of
//           int8, two's complement. Code j of a lane stands at bit 16 * (1 - j % 2) + width * (j / 2): even k in the
//           upper half, odd k in the lower, which is the order of a UNIT_PAIR (op/cpu/linear.h).
//   data    [blocks][groups] of { [tiles][16] scales; [slabs][tiles][64 bytes] of codes }, groups and slabs by
//           ascending k, so that a block is one stream of memory
#ifndef MINKE_TENSOR_INT_GROUPS_H
#define MINKE_TENSOR_INT_GROUPS_H

#include "tensor/tensor.h"

#define INT_TILE_ROWS 16
#define INT_BLOCK_TILES 2
#define INT_SLAB_BYTES 64
#define INT8_GROUP 128
#define INT4_GROUP 32

static inline bool format_is_int(enum format format) {
    return format == FORMAT_INT8 || format == FORMAT_INT4;
}

static inline int64_t int_group(enum format format) {
    return format == FORMAT_INT4 ? INT4_GROUP : INT8_GROUP;
}

// k of a row in one slab.
static inline int64_t int_slab_depth(enum format format) {
    return format == FORMAT_INT4 ? 8 : 4;
}

static inline int64_t int_tiles(const struct tensor *tensor) {
    return (tensor->shape[0] + INT_TILE_ROWS - 1) / INT_TILE_ROWS;
}

static inline int64_t int_groups(const struct tensor *tensor) {
    int64_t group = int_group(tensor->format);
    return (tensor->shape[1] + group - 1) / group;
}

// Tiles of the block of `tile`.
static inline int64_t int_block_width(const struct tensor *tensor, int64_t tile) {
    int64_t left = int_tiles(tensor) - tile / INT_BLOCK_TILES * INT_BLOCK_TILES;
    return left < INT_BLOCK_TILES ? left : INT_BLOCK_TILES;
}

// Of a block of `width` tiles: the scales of a group; a whole group; everything.
static inline int64_t int_scale_bytes(int64_t width) {
    return width * INT_TILE_ROWS * (int64_t)sizeof(uint16_t);
}
static inline int64_t int_group_bytes(enum format format, int64_t width) {
    return int_scale_bytes(width) + int_group(format) / int_slab_depth(format) * width * INT_SLAB_BYTES;
}
static inline int64_t int_block_bytes(const struct tensor *tensor, int64_t width) {
    int64_t depth = int_slab_depth(tensor->format), slabs = (tensor->shape[1] + depth - 1) / depth;
    return int_groups(tensor) * int_scale_bytes(width) + slabs * width * INT_SLAB_BYTES;
}

// The 16 scales of group `group` of tile `tile`, and its first slab; the next are int_slab_stride bytes apart, other
// groups int_group_bytes.
static inline uint16_t *int_scales(const struct tensor *tensor, int64_t tile, int64_t group) {
    int64_t offset = tile / INT_BLOCK_TILES * int_block_bytes(tensor, INT_BLOCK_TILES) +
                     group * int_group_bytes((enum format)tensor->format, int_block_width(tensor, tile));
    return (uint16_t *)(void *)((char *)tensor->data + offset) + tile % INT_BLOCK_TILES * INT_TILE_ROWS;
}
static inline uint8_t *int_slabs(const struct tensor *tensor, int64_t tile, int64_t group) {
    int64_t place = tile % INT_BLOCK_TILES;
    return (uint8_t *)int_scales(tensor, tile - place, group) + int_scale_bytes(int_block_width(tensor, tile)) +
           place * INT_SLAB_BYTES;
}
static inline int64_t int_slab_stride(const struct tensor *tensor, int64_t tile) {
    return int_block_width(tensor, tile) * INT_SLAB_BYTES;
}

int64_t int_bytes(const struct tensor *tensor);   // of codes and scales
int int_code(const struct tensor *tensor, int64_t row, int64_t k);
float int_scale(const struct tensor *tensor, int64_t row, int64_t k);   // of the group that holds k

// Fills tile `tile` of `out` (a packed matrix with memory) from the rows of `source` (same shape; F32, BF16 or E4M3
// blocks).
//   int8   scale = amax / 127 of the group; every value lies within amax / 250 of the weight
//   int4   the scale, which may be negative, is searched for the least sum of squared errors, beginning with the
//          weight of largest magnitude on the code -8; every value lies within 0.13 amax of the weight
// A group with a NaN or an infinity is NaN; one whose amax is below 2^-100 is zero.
void int_quantize(struct tensor *out, const struct tensor *source, int64_t tile);

#endif
