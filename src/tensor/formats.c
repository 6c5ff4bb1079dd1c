// The table of storage formats, one row each. What a row's functions do is in format/<name>.c.
#include "tensor/formats.h"

#include <stddef.h>

#include "tensor/format/format.h"

static const struct format_info table[FORMAT_COUNT] = {
    [FORMAT_NONE] = {.name = "none"},
    [FORMAT_F32] = {"f32", "F32", 4, f32_widen_row, f32_narrow_row},
    [FORMAT_BF16] = {"bf16", "BF16", 2, bf16_widen_row, bf16_narrow_row},
    [FORMAT_E4M3_BLOCK] = {"e4m3", "F8_E4M3", 1, e4m3_widen_row, e4m3_narrow_row},
    [FORMAT_E4M3_TILE] = {"e4m3 tiles", NULL, 1, e4m3_widen_row, e4m3_narrow_row},
    [FORMAT_E4M3_COLUMN] = {"e4m3 column tiles", NULL, 1, e4m3_widen_row, e4m3_narrow_row},
    [FORMAT_INT8] = {.name = "int8", .widen = int_widen_row},
    [FORMAT_INT4] = {.name = "int4", .widen = int_widen_row},
    [FORMAT_BF16_PANELS] = {.name = "bf16 panels", .widen = panels_widen_row},
    [FORMAT_E4M3_PANELS] = {.name = "e4m3 panels", .widen = panels_widen_row},
    [FORMAT_E5M6_TILE] = {"e5m6 tiles", NULL, 1, e5m6_widen_row, e5m6_narrow_row},
    [FORMAT_I32] = {.name = "i32", .safetensors_name = "I32", .bytes = 4},
    [FORMAT_I64] = {.name = "i64", .safetensors_name = "I64", .bytes = 8},
    [FORMAT_U16] = {.name = "u16", .safetensors_name = "U16", .bytes = 2},
    [FORMAT_U8] = {.name = "u8", .safetensors_name = "U8", .bytes = 1},
};

const struct format_info *format_info(enum format format) {
    CHECK((unsigned)format < FORMAT_COUNT, "format %d", (int)format);
    return &table[format];
}

enum format format_by_safetensors_name(const char *name) {
    for (int format = 0; format < FORMAT_COUNT; format++) {
        if (table[format].safetensors_name != NULL && strcmp(table[format].safetensors_name, name) == 0) {
            return (enum format)format;
        }
    }
    return FORMAT_NONE;
}

char *format_element(const struct tensor *tensor, int64_t row, int64_t column) {
    int64_t offset = 0;
    if (tensor->rank > 0) {
        offset = column * tensor->stride[tensor->rank - 1];
        for (int axis = tensor->rank - 2; axis >= 0; axis--) {
            offset += row % tensor->shape[axis] * tensor->stride[axis];
            row /= tensor->shape[axis];
        }
    }
    return (char *)tensor->data + offset * format_info(tensor->format)->bytes;
}
