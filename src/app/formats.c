// See formats.h.
#include "app/formats.h"

#include <stdlib.h>
#include <string.h>

enum format app_dtype_format(const char *dtype) {
    return strcmp(dtype, "f32") == 0    ? FORMAT_F32
           : strcmp(dtype, "bf16") == 0 ? FORMAT_BF16
           : strcmp(dtype, "fp8") == 0  ? FORMAT_E4M3_BLOCK
                                        : FORMAT_NONE;
}

int app_parse_bytes(int64_t *bytes, const char *text, const char *what, struct error *error) {
    static const char units[] = "KMGT";
    char *end;
    double value = strtod(text, &end);
    const char *unit = *end != 0 ? strchr(units, *end) : NULL;
    if (unit != NULL) {
        for (const char *at = units; at <= unit; at++) {
            value *= 1000.0;
        }
        end++;
        end += *end == 'B';
    }
    if (end == text || *end != 0 || !(value >= 1.0 && value < 9e18)) {
        return error_set(error, ERROR_ARGUMENT, "%s: expected a size such as 500M or 5G, found \"%s\"", what, text);
    }
    *bytes = (int64_t)value;
    return 0;
}
