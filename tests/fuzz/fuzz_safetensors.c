// libFuzzer: any bytes as a safetensors file. What is accepted must keep its promises: entries in order, without
// overlap or gap, data inside the file.
#include <stdint.h>
#include <string.h>

#include "base/error.h"
#include "weights/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char path[] = "fuzz";
    struct safetensors file = {.file = {.data = data, .size = (int64_t)size, .path = path}};
    struct error error = {0};
    int code = safetensors_parse(&file, &error);
    CHECK(code == error.code && (code == 0 || error.text[0] != 0), "code %d", code);
    if (code != 0) {
        CHECK(file.entries == NULL && file.names == NULL && file.metadata == NULL, "left behind");
        return 0;
    }
    int64_t end = 0;
    for (int64_t i = 0; i < file.count; i++) {
        const struct safetensors_entry *entry = &file.entries[i];
        const uint8_t *first = entry->tensor.data;
        CHECK(entry->begin == end && entry->end >= entry->begin, "order of %s", entry->name);
        CHECK(first >= data && first + (entry->end - entry->begin) <= data + size, "data of %s", entry->name);
        CHECK(entry->tensor.format == FORMAT_NONE || entry->tensor.format == FORMAT_E4M3_BLOCK ||
                  tensor_bytes(&entry->tensor) == entry->end - entry->begin,
              "bytes of %s", entry->name);
        end = entry->end;
    }
    file.file = (struct mapped_file){0};   // the bytes belong to the fuzzer
    safetensors_close(&file);
    return 0;
}
