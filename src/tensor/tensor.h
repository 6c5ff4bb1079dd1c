// A tensor: storage format, shape, strides and where the bytes are. A plain value that owns nothing; only ops
// dereference it (a CUDA table can join: `device` says whose pointer `data` is; a device pointer is handle and offset
// in one).
#ifndef MINKE_TENSOR_TENSOR_H
#define MINKE_TENSOR_TENSOR_H

#include <stdbool.h>
#include <stdint.h>

#define TENSOR_MAX_RANK 4
#define BLOCK_SIZE 128   // edge of an FP8 scale block and length of an activation tile (report 3.3.2)

enum format {
    FORMAT_NONE = 0,   // an absent tensor (all zero)
    FORMAT_F32,
    FORMAT_BF16,
    FORMAT_E4M3_BLOCK,   // one byte an element and one F32 scale per 128 x 128 block; value = element * scale (weights)
    FORMAT_E4M3_TILE,    // one byte an element and one F32 scale per 1 x 128 tile of a row (activations, gradients)
    FORMAT_E4M3_COLUMN,   // the same per 128 x 1 tile of a column: what a weight gradient, which sums over rows,
                          // multiplies
    FORMAT_INT8,   // weights made at load: integers and one BF16 scale per group of 128 along a row, in a layout of our
    FORMAT_INT4,   // own (tensor/int_groups.h); groups of 32. Matrices that are used as a whole: no views
    FORMAT_BF16_PANELS,   // BF16 and E4M3_BLOCK weights interleaved at load, in a layout of our own (tensor/panels.h):
    FORMAT_E4M3_PANELS,   // the same values. Matrices that are used as a whole: no views
    FORMAT_E5M6_TILE,     // twelve bits an element in two planes (format/e5m6.c), scales as E4M3_TILE; never sliced
    FORMAT_I32,
    FORMAT_I64,
    FORMAT_U16,
    FORMAT_U8,
    FORMAT_COUNT
};

enum device { DEVICE_CPU = 0 };

struct tensor {
    void *data;     // element 0; no alignment beyond the element's own size is assumed of mapped files
    float *scale;   // FORMAT_E4M3_BLOCK: [ceil(rows/128), ceil(columns/128)]; may be unaligned in a file (memcpy);
                    // _TILE: [rows, ceil(columns/128)]; _COLUMN: [ceil(rows/128), columns]
    int64_t shape[TENSOR_MAX_RANK];    // outermost first; entries beyond rank are 1
    int64_t stride[TENSOR_MAX_RANK];   // in elements, any value >= 0 (0 = broadcast)
    int64_t scale_stride;              // scales per row of blocks or tiles
    uint8_t format, rank, device;
};

// A view of existing memory, row-major and packed.
struct tensor tensor_make(enum format format, void *data, int rank, const int64_t *shape);
struct tensor tensor_1d(enum format format, void *data, int64_t n);
struct tensor tensor_2d(enum format format, void *data, int64_t rows, int64_t columns);
struct tensor tensor_3d(enum format format, void *data, int64_t a, int64_t b, int64_t c);

// Elements that share one scale along an axis of an E4M3 format: 128 or 1.
int64_t tensor_scale_edge(enum format format, int axis);

// Views of the same memory. CHECK ranges. Slicing an E4M3 tensor needs starts divisible by tensor_scale_edge.
struct tensor tensor_slice(const struct tensor *tensor, int axis, int64_t begin, int64_t count);
struct tensor tensor_transpose(const struct tensor *tensor, int axis_a, int axis_b);         // not for block formats
struct tensor tensor_reshape(const struct tensor *tensor, int rank, const int64_t *shape);   // packed tensors only
// [rows, heads * width] -> [rows, heads, width] by strides alone.
struct tensor tensor_split_columns(const struct tensor *tensor, int64_t heads);

bool tensor_present(const struct tensor *tensor);   // format != FORMAT_NONE
bool tensor_packed(const struct tensor *tensor);    // row-major without gaps
int64_t tensor_elements(const struct tensor *tensor);
int64_t tensor_bytes(const struct tensor *tensor);   // packed bytes of data and scales
bool tensor_same_shape(const struct tensor *a, const struct tensor *b);
char *tensor_shape_text(char buffer[96], const struct tensor *tensor);   // "[2048, 7168]"

#endif
