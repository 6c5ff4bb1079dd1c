// bf16: the upper half of an IEEE single (bf16_widen and bf16_narrow are in formats.h), row by row.
#include "tensor/formats.h"

#include "tensor/format/format.h"

void bf16_widen_row(float *out, const struct tensor *source, int64_t row, int64_t column, int64_t count) {
    int64_t stride = source->rank > 0 ? source->stride[source->rank - 1] : 1;
    const char *in = format_element(source, row, column);
    for (int64_t i = 0; i < count; i++) {
        uint16_t bits;
        memcpy(&bits, in + i * stride * 2, sizeof bits);
        out[i] = bf16_widen(bits);
    }
}

void bf16_narrow_row(struct tensor *out, const float *source, int64_t row, int64_t column, int64_t count) {
    int64_t stride = out->rank > 0 ? out->stride[out->rank - 1] : 1;
    char *to = format_element(out, row, column);
    for (int64_t i = 0; i < count; i++) {
        uint16_t bits = bf16_narrow(source[i]);
        memcpy(to + i * stride * 2, &bits, sizeof bits);
    }
}
