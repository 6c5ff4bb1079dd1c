// Tensor views: arithmetic on shapes, strides and pointers. No element is read or written here.
#include "tensor/tensor.h"

#include <stdio.h>

#include "base/error.h"
#include "tensor/formats.h"
#include "tensor/int_groups.h"
#include "tensor/panels.h"

static int64_t blocks(int64_t elements) {
    return (elements + BLOCK_SIZE - 1) / BLOCK_SIZE;
}

// Scales of a mapped file may be unaligned, so the pointer moves in bytes.
static float *scale_advance(float *scale, int64_t count) {
    return scale == NULL ? NULL : (float *)(void *)((char *)scale + count * (int64_t)sizeof(float));
}

static bool is_scaled(enum format format) {
    return format == FORMAT_E4M3_BLOCK || format == FORMAT_E4M3_TILE || format == FORMAT_E4M3_COLUMN ||
           format == FORMAT_E4M3_PANELS || format == FORMAT_E5M6_TILE;
}

int64_t tensor_scale_edge(enum format format, int axis) {
    CHECK(is_scaled(format), "format %d has no scales", (int)format);
    bool tile = format == FORMAT_E4M3_TILE || format == FORMAT_E5M6_TILE;
    bool alone = (axis == 0 && tile) || (axis == 1 && format == FORMAT_E4M3_COLUMN);
    return alone ? 1 : BLOCK_SIZE;
}

static int64_t scales(enum format format, int axis, int64_t elements) {
    return tensor_scale_edge(format, axis) == 1 ? elements : blocks(elements);
}

struct tensor tensor_make(enum format format, void *data, int rank, const int64_t *shape) {
    CHECK(rank >= 0 && rank <= TENSOR_MAX_RANK, "rank %d", rank);
    struct tensor tensor = {.data = data, .format = (uint8_t)format, .rank = (uint8_t)rank, .device = DEVICE_CPU};
    for (int axis = 0; axis < TENSOR_MAX_RANK; axis++) {
        tensor.shape[axis] = 1;
        tensor.stride[axis] = 1;
    }
    int64_t stride = 1;
    for (int axis = rank - 1; axis >= 0; axis--) {
        CHECK(shape[axis] >= 0, "axis %d has %lld elements", axis, (long long)shape[axis]);
        tensor.shape[axis] = shape[axis];
        tensor.stride[axis] = stride;
        CHECK(!__builtin_mul_overflow(stride, shape[axis] > 0 ? shape[axis] : 1, &stride), "shape too large");
    }
    if (is_scaled(format)) {
        CHECK(rank == 2, "block formats are matrices, rank is %d", rank);
        tensor.scale_stride = scales(format, 1, shape[1]);
    }
    return tensor;
}

struct tensor tensor_1d(enum format format, void *data, int64_t n) {
    return tensor_make(format, data, 1, (int64_t[]){n});
}

struct tensor tensor_2d(enum format format, void *data, int64_t rows, int64_t columns) {
    return tensor_make(format, data, 2, (int64_t[]){rows, columns});
}

struct tensor tensor_3d(enum format format, void *data, int64_t a, int64_t b, int64_t c) {
    return tensor_make(format, data, 3, (int64_t[]){a, b, c});
}

struct tensor tensor_slice(const struct tensor *tensor, int axis, int64_t begin, int64_t count) {
    CHECK(axis >= 0 && axis < tensor->rank, "axis %d of rank %d", axis, tensor->rank);
    CHECK(begin >= 0 && count >= 0 && count <= tensor->shape[axis] && begin <= tensor->shape[axis] - count,
          "[%lld, +%lld) of %lld", (long long)begin, (long long)count, (long long)tensor->shape[axis]);
    CHECK(tensor->format != FORMAT_E5M6_TILE || count == tensor->shape[axis], "a slice of two planes");
    struct tensor slice = *tensor;
    slice.shape[axis] = count;
    if (slice.data != NULL) {
        slice.data = (char *)slice.data + begin * tensor->stride[axis] * format_info(tensor->format)->bytes;
    }
    if (is_scaled(tensor->format)) {
        int64_t edge = tensor_scale_edge(tensor->format, axis);
        CHECK(begin % edge == 0 || count == 0, "slice of blocks starts at %lld", (long long)begin);
        slice.scale = scale_advance(slice.scale, begin / edge * (axis == 0 ? tensor->scale_stride : 1));
    }
    return slice;
}

struct tensor tensor_transpose(const struct tensor *tensor, int axis_a, int axis_b) {
    CHECK(axis_a >= 0 && axis_a < tensor->rank && axis_b >= 0 && axis_b < tensor->rank, "axes %d, %d of rank %d",
          axis_a, axis_b, tensor->rank);
    CHECK(!is_scaled(tensor->format) || axis_a == axis_b, "a block format cannot be transposed by strides");
    struct tensor view = *tensor;
    view.shape[axis_a] = tensor->shape[axis_b];
    view.shape[axis_b] = tensor->shape[axis_a];
    view.stride[axis_a] = tensor->stride[axis_b];
    view.stride[axis_b] = tensor->stride[axis_a];
    return view;
}

struct tensor tensor_reshape(const struct tensor *tensor, int rank, const int64_t *shape) {
    CHECK(tensor_packed(tensor), "reshape of a strided view");
    struct tensor view = tensor_make(tensor->format, tensor->data, rank, shape);
    CHECK(tensor_elements(&view) == tensor_elements(tensor), "reshape of %lld to %lld elements",
          (long long)tensor_elements(tensor), (long long)tensor_elements(&view));
    if (is_scaled(tensor->format)) {
        CHECK(tensor_same_shape(&view, tensor), "a block format cannot be reshaped");
        view.scale = tensor->scale;
        view.scale_stride = tensor->scale_stride;
    }
    view.device = tensor->device;
    return view;
}

struct tensor tensor_split_columns(const struct tensor *tensor, int64_t heads) {
    CHECK(tensor->rank == 2 && heads > 0 && tensor->shape[1] % heads == 0, "%lld columns in %lld heads",
          (long long)tensor->shape[1], (long long)heads);
    CHECK(!is_scaled(tensor->format), "a block format cannot be split by strides");
    struct tensor view = *tensor;
    view.rank = 3;
    view.shape[1] = heads;
    view.shape[2] = tensor->shape[1] / heads;
    view.stride[1] = view.shape[2] * tensor->stride[1];
    view.stride[2] = tensor->stride[1];
    return view;
}

bool tensor_present(const struct tensor *tensor) {
    return tensor->format != FORMAT_NONE;
}

bool tensor_packed(const struct tensor *tensor) {
    int64_t stride = 1;
    if (tensor_elements(tensor) == 0) {
        return true;
    }
    for (int axis = tensor->rank - 1; axis >= 0; axis--) {
        if (tensor->shape[axis] != 1 && tensor->stride[axis] != stride) {
            return false;
        }
        stride *= tensor->shape[axis];
    }
    return true;
}

int64_t tensor_elements(const struct tensor *tensor) {
    if (!tensor_present(tensor)) {
        return 0;
    }
    int64_t elements = 1;
    for (int axis = 0; axis < tensor->rank; axis++) {
        elements *= tensor->shape[axis];
    }
    return elements;
}

int64_t tensor_bytes(const struct tensor *tensor) {
    if (format_is_int(tensor->format)) {
        return int_bytes(tensor);
    }
    int64_t bytes = format_is_panels(tensor->format) ? panels_bytes(tensor)
                                                     : tensor_elements(tensor) * format_info(tensor->format)->bytes;
    if (tensor->format == FORMAT_E5M6_TILE) {
        bytes += tensor->shape[0] * ((tensor->shape[1] + 1) / 2);
    }
    if (is_scaled(tensor->format)) {
        bytes += scales(tensor->format, 0, tensor->shape[0]) * scales(tensor->format, 1, tensor->shape[1]) *
                 (int64_t)sizeof(float);
    }
    return bytes;
}

bool tensor_same_shape(const struct tensor *a, const struct tensor *b) {
    if (a->rank != b->rank) {
        return false;
    }
    for (int axis = 0; axis < a->rank; axis++) {
        if (a->shape[axis] != b->shape[axis]) {
            return false;
        }
    }
    return true;
}

char *tensor_shape_text(char buffer[96], const struct tensor *tensor) {
    int used = snprintf(buffer, 96, "[");
    for (int axis = 0; axis < tensor->rank; axis++) {
        used += snprintf(buffer + used, (size_t)(96 - used), "%s%lld", axis > 0 ? ", " : "",
                         (long long)tensor->shape[axis]);
    }
    snprintf(buffer + used, (size_t)(96 - used), "]");
    return buffer;
}
