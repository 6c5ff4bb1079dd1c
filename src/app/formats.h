// Words of the command line that name storage formats and sizes.
#ifndef MINKE_APP_FORMATS_H
#define MINKE_APP_FORMATS_H

#include <stdint.h>

#include "base/error.h"
#include "tensor/tensor.h"

enum format app_dtype_format(const char *dtype);   // "f32", "bf16", "fp8"; FORMAT_NONE otherwise

// "1000", "64K", "500M", "1.5G", "2T" (powers of 1000, as disks and the other tools count) -> bytes, at least 1.
int app_parse_bytes(int64_t *bytes, const char *text, const char *what, struct error *error);

#endif
