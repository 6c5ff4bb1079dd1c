// Casts between storage formats: bands of rows, one task each, no sums. See cast.h.
#include "weights/cast.h"

#include <string.h>

#include "base/memory.h"
#include "tensor/formats.h"

#define CHUNK 4096   // elements widened at a time

struct cast {
    struct tensor out, source;   // both [rows, columns]
    int64_t band;                // rows of a task
    bool power_of_two;
};

static struct tensor as_matrix(const struct tensor *tensor) {
    if (tensor->rank == 2) {
        return *tensor;
    }
    int64_t columns = tensor->rank > 0 ? tensor->shape[tensor->rank - 1] : 1;
    int64_t rows = columns > 0 ? tensor_elements(tensor) / columns : 0;
    return tensor_reshape(tensor, 2, (int64_t[]){rows, columns});
}

static void cast_values(struct tensor *out, const struct tensor *source) {
    const struct format_info *from = format_info(source->format), *to = format_info(out->format);
    float values[CHUNK];
    for (int64_t row = 0; row < out->shape[0]; row++) {
        for (int64_t column = 0; column < out->shape[1]; column += CHUNK) {
            int64_t count = out->shape[1] - column < CHUNK ? out->shape[1] - column : CHUNK;
            from->widen(values, source, row, column, count);
            to->narrow(out, values, row, column, count);
        }
    }
}

static void cast_band(void *argument, int64_t task, int worker) {
    const struct cast *cast = argument;
    (void)worker;
    int64_t row = task * cast->band;
    int64_t height = cast->out.shape[0] - row < cast->band ? cast->out.shape[0] - row : cast->band;
    struct tensor out = tensor_slice(&cast->out, 0, row, height);
    struct tensor source = tensor_slice(&cast->source, 0, row, height);
    if (out.format == source.format) {
        memcpy(out.data, source.data, (size_t)(tensor_elements(&out) * format_info(out.format)->bytes));
    } else if (out.format == FORMAT_E4M3_BLOCK) {
        quantize_e4m3_blocks(&out, &source, cast->power_of_two);
    } else {
        cast_values(&out, &source);
    }
}

void tensor_cast(struct tensor *out, const struct tensor *source, bool power_of_two, struct pool *pool) {
    CHECK(tensor_same_shape(out, source) && tensor_packed(out) && tensor_packed(source),
          "cast between different layouts");
    if (tensor_elements(out) == 0) {
        return;
    }
    struct cast cast = {
        .out = as_matrix(out), .source = as_matrix(source), .band = BLOCK_SIZE, .power_of_two = power_of_two};
    if (out->format == FORMAT_E4M3_BLOCK && source->format == FORMAT_E4M3_BLOCK) {
        size_t scale_bytes = (size_t)(tensor_bytes(out) - tensor_elements(out));
        memcpy(out->scale, source->scale, scale_bytes);
    }
    pool_run(pool, (cast.out.shape[0] + cast.band - 1) / cast.band, cast_band, &cast);
}

int tensor_cast_buffered(struct tensor *out, struct cast_buffer *buffer, enum format format,
                         const struct tensor *source, bool power_of_two, struct pool *pool, struct error *error) {
    if (source->format == format && tensor_packed(source)) {
        *out = *source;
        return 0;
    }
    *out = tensor_make(format, NULL, source->rank, source->shape);
    int64_t data_bytes = tensor_elements(out) * format_info(format)->bytes;
    int64_t scale_offset = (data_bytes + 3) / 4 * 4;   // scales stand behind the data, on a boundary of floats
    int64_t bytes = scale_offset + tensor_bytes(out) - data_bytes;
    if (bytes > buffer->capacity) {
        cast_buffer_free(buffer);
        buffer->memory = memory_allocate((size_t)bytes, 1, "cast buffer", error);
        if (buffer->memory == NULL) {
            return ERROR_MEMORY;
        }
        buffer->capacity = bytes;
    }
    out->data = buffer->memory;
    out->scale = format == FORMAT_E4M3_BLOCK ? (float *)(void *)(buffer->memory + scale_offset) : NULL;
    tensor_cast(out, source, power_of_two, pool);
    return 0;
}

void cast_buffer_free(struct cast_buffer *buffer) {
    memory_free(buffer->memory);
    *buffer = (struct cast_buffer){0};
}
