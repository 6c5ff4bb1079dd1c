// f32: IEEE single precision as it is. Elements are copied bytewise because mapped files promise no alignment.
#include <string.h>

#include "tensor/format/format.h"

void f32_widen_row(float *out, const struct tensor *source, int64_t row, int64_t column, int64_t count) {
    int64_t stride = source->rank > 0 ? source->stride[source->rank - 1] : 1;
    const char *in = format_element(source, row, column);
    if (stride == 1) {
        memcpy(out, in, (size_t)count * sizeof(float));
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        memcpy(out + i, in + i * stride * 4, sizeof(float));
    }
}

void f32_narrow_row(struct tensor *out, const float *source, int64_t row, int64_t column, int64_t count) {
    int64_t stride = out->rank > 0 ? out->stride[out->rank - 1] : 1;
    char *to = format_element(out, row, column);
    if (stride == 1) {
        memcpy(to, source, (size_t)count * sizeof(float));
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        memcpy(to + i * stride * 4, source + i, sizeof(float));
    }
}
