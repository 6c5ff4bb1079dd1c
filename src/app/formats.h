// Words of the command line that name storage formats and sizes.
#ifndef MINKE_APP_FORMATS_H
#define MINKE_APP_FORMATS_H

#include <stdint.h>

#include "base/error.h"
#include "tensor/tensor.h"

enum format app_dtype_format(const char *dtype);   // "f32", "bf16", "fp8"; FORMAT_NONE otherwise

// "1000", "64K", "500M", "1.5G", "2TB" -> bytes, at least 1. The letters are powers of `kilo`: 1024 of memory, 1000 of
// files, as disks and other tools count; "KiB", "MiB", ... are powers of 1024 in both. `name` is for messages.
int app_parse_size(int64_t *bytes, const char *text, const char *name, int kilo, struct error *error);

#endif
