// Interleaved BF16 and E4M3 (tensor/panels.h): reading single elements, and the plain way to fill a panel.
#include "tensor/panels.h"

#include <string.h>

#include "tensor/format/format.h"
#include "tensor/formats.h"

int64_t panels_bytes(const struct tensor *tensor) {
    return panel_count(tensor) * panel_bytes(panels_elements(tensor->format), tensor->shape[1]);
}

// Of element (row of the panel, k): in words of 16 bits or codes, from the first unit.
static int64_t panel_offset(enum format format, int64_t row, int64_t k) {
    int64_t within = format == FORMAT_BF16_PANELS ? 2 * row + 1 - k % 2
                                                  : row % 16 / 4 * 16 + row / 16 * 8 + row % 4 * 2 + 1 - k % 2;
    return k / 2 * 2 * PANEL_ROWS + within;
}

static const char *panel_element(const struct tensor *tensor, int64_t row, int64_t k) {
    enum format elements = panels_elements(tensor->format);
    int64_t bytes = panel_bytes(elements, tensor->shape[1]), offset = panel_offset(tensor->format, row % PANEL_ROWS, k);
    return (const char *)tensor->data + row / PANEL_ROWS * bytes + panel_marks_bytes(elements, tensor->shape[1]) +
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
            out[k - column] = e4m3_widen(panel_code_back((uint8_t)*element)) * scale;
        }
    }
}

static void fill_marks(uint8_t *marks, int64_t depth) {
    const uint8_t *codes = marks + panel_marks_bytes(FORMAT_E4M3_BLOCK, depth);
    for (int64_t i = 0; i < (depth + 1) / 2 * 2 * PANEL_ROWS; i++) {
        int64_t unit = i / (2 * PANEL_ROWS);
        uint8_t magnitude = panel_code_back(codes[i]) & 0x7f;
        if (magnitude < 8) {
            marks[unit / PANEL_CHUNK] |= (uint8_t)(1 << unit % PANEL_CHUNK / PANEL_MARKED);
        }
        marks[panel_chunks(depth)] |= magnitude == 0x7f;
    }
}

void panel_fill(struct tensor *out, const struct tensor *source, int64_t panel) {
    const enum format elements = panels_elements(out->format);
    const int64_t depth = source->shape[1], bytes = panel_bytes(elements, depth);
    const int64_t width = format_info(source->format)->bytes, first = panel * PANEL_ROWS;
    char *begin = (char *)out->data + panel * bytes, *to = begin + panel_marks_bytes(elements, depth);
    memset(begin, 0, (size_t)bytes);
    for (int64_t row = 0; row < PANEL_ROWS && first + row < source->shape[0]; row++) {
        const char *from = (const char *)source->data + (first + row) * source->stride[0] * width;
        for (int64_t k = 0; k < depth; k++) {
            char *element = to + panel_offset(out->format, row, k) * width;
            memcpy(element, from + k * width, (size_t)width);
            if (elements == FORMAT_E4M3_BLOCK) {
                *element = (char)panel_code((uint8_t)*element);
            }
        }
    }
    if (elements == FORMAT_E4M3_BLOCK) {
        fill_marks((uint8_t *)begin, depth);
    }
}
