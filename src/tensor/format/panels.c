// Interleaved BF16 and E4M3 (tensor/panels.h): reading single elements, and the plain way to fill a panel.
#include "tensor/panels.h"

#include <string.h>

#include "tensor/format/format.h"
#include "tensor/formats.h"

int64_t panels_bytes(const struct tensor *tensor) {
    return panel_count(tensor) * panel_bytes(panels_elements(tensor->format), tensor->shape[1]);
}

// Of element (row of the panel, k): in words of 16 bits or codes, from the beginning of the panel.
static int64_t panel_offset(enum format format, int64_t row, int64_t k) {
    int64_t within = format == FORMAT_BF16_PANELS ? 2 * row + 1 - k % 2
                                                  : row % 16 / 4 * 16 + row / 16 * 8 + row % 4 * 2 + 1 - k % 2;
    return k / 2 * 2 * PANEL_ROWS + within;
}

static const char *panel_element(const struct tensor *tensor, int64_t row, int64_t k) {
    int64_t bytes = panel_bytes(panels_elements(tensor->format), tensor->shape[1]);
    int64_t offset = panel_offset(tensor->format, row % PANEL_ROWS, k);
    return (const char *)tensor->data + row / PANEL_ROWS * bytes +
           offset * (tensor->format == FORMAT_BF16_PANELS ? (int64_t)sizeof(uint16_t) : 1);
}

void panels_widen_row(float *out, const struct tensor *source, int64_t row, int64_t column, int64_t count) {
    for (int64_t k = column; k < column + count; k++) {
        const char *element = panel_element(source, row, k);
        if (source->format == FORMAT_BF16_PANELS) {
            uint16_t bits;
            memcpy(&bits, element, sizeof bits);
            out[k - column] = bf16_widen(bits);
        } else {
            float scale;
            int64_t block = row / BLOCK_SIZE * source->scale_stride + k / BLOCK_SIZE;
            memcpy(&scale, (const char *)source->scale + block * (int64_t)sizeof scale, sizeof scale);
            out[k - column] = e4m3_widen((uint8_t)*element) * scale;
        }
    }
}

void panel_fill(struct tensor *out, const struct tensor *source, int64_t panel) {
    const int64_t depth = source->shape[1], bytes = panel_bytes(panels_elements(out->format), depth);
    const int64_t width = format_info(source->format)->bytes, first = panel * PANEL_ROWS;
    char *to = (char *)out->data + panel * bytes;
    memset(to, 0, (size_t)bytes);
    for (int64_t row = 0; row < PANEL_ROWS && first + row < source->shape[0]; row++) {
        const char *from = (const char *)source->data + (first + row) * source->stride[0] * width;
        for (int64_t k = 0; k < depth; k++) {
            memcpy(to + panel_offset(out->format, row, k) * width, from + k * width, (size_t)width);
        }
    }
}
