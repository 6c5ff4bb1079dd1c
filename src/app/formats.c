// See formats.h.
#include "app/formats.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum format app_dtype_format(const char *dtype) {
    return strcmp(dtype, "f32") == 0    ? FORMAT_F32
           : strcmp(dtype, "bf16") == 0 ? FORMAT_BF16
           : strcmp(dtype, "fp8") == 0  ? FORMAT_E4M3_BLOCK
                                        : FORMAT_NONE;
}

int app_parse_size(int64_t *bytes, const char *text, const char *name, int kilo, struct error *error) {
    static const char units[] = "KMGT";
    char *end;
    double value = strtod(text, &end);
    const char *unit = *end != '\0' ? strchr(units, *end) : NULL;
    if (unit != NULL) {
        bool binary = strcmp(end + 1, "iB") == 0;
        for (const char *at = units; at <= unit; at++) {
            value *= binary ? 1024.0 : (double)kilo;
        }
        end += binary ? 3 : strcmp(end + 1, "B") == 0 ? 2 : 1;
    }
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || !(value >= 1.0 && value < 9e18)) {
        return error_set(error, ERROR_ARGUMENT, "%s: expected a size such as 500M or 16G, found \"%.40s\"", name, text);
    }
    *bytes = (int64_t)value;
    return 0;
}
