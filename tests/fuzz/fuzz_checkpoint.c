// A directory of weights: an index file and two shards. Input: the index, and for each shard the JSON of its header, in
// parts; a shard is made of its header and as many bytes as the largest number in it says. What opens can be listed,
// found, located and read, or an error says why not.
#include <stdlib.h>
#include <string.h>

#include "fuzz/fuzz.h"
#include "weights/checkpoint.h"

#define DATA_LIMIT 65536   // bytes of data of a shard

const bool fuzz_leaves_memory = false;

void fuzz_open(void) {
    (void)fuzz_directory();
}

static size_t largest_number(const char *text) {
    size_t largest = 0;
    while (*text != '\0') {
        char *end = (char *)(uintptr_t)text;
        unsigned long long value = *text >= '0' && *text <= '9' ? strtoull(text, &end, 10) : 0;
        largest = value <= DATA_LIMIT && value > largest ? (size_t)value : largest;
        text = end > text ? end : text + 1;
    }
    return largest;
}

static int64_t write_shard(const char *name, const struct fuzz_part *header) {
    static uint8_t bytes[8 + FUZZ_PART + DATA_LIMIT];
    size_t data = largest_number(header->text);
    for (int i = 0; i < 8; i++) {
        bytes[i] = (uint8_t)(header->size >> (8 * i));
    }
    memcpy(bytes + 8, header->text, header->size);
    memset(bytes + 8 + header->size, 0x3C, data);
    (void)fuzz_file(name, bytes, 8 + header->size + data);
    return (int64_t)(8 + header->size + data);
}

// Every byte of a tensor can be read.
static void touch(const struct tensor *tensor) {
    const uint8_t *bytes = tensor->data;
    int64_t size = tensor->format == FORMAT_E4M3_BLOCK ? tensor_elements(tensor) : tensor_bytes(tensor);
    volatile uint8_t sum = 0;
    for (int64_t i = 0; i < size; i++) {
        sum = (uint8_t)(sum + bytes[i]);
    }
    if (tensor->scale != NULL) {
        int64_t rows = (tensor->shape[0] + BLOCK_SIZE - 1) / BLOCK_SIZE;
        const uint8_t *scales = (const uint8_t *)tensor->scale;
        for (int64_t i = 0; i < rows * tensor->scale_stride * 4; i++) {
            sum = (uint8_t)(sum + scales[i]);
        }
    }
}

static void check_tensor(struct checkpoint *checkpoint, const char *name, const int64_t sizes[2]) {
    struct error error = {0}, other = {0};
    struct tensor tensor;
    struct checkpoint_range range;
    CHECK(checkpoint_has(checkpoint, name), "%s is lost", name);
    int code = checkpoint_find(checkpoint, &tensor, name, &error);
    CHECK(code == error.code && (code == 0 || error.text[0] != 0), "code %d", code);
    if (code == 0 && tensor.format != FORMAT_NONE) {
        touch(&tensor);
    }
    code = checkpoint_locate(checkpoint, &range, name, &other);
    CHECK(code == other.code, "code %d", code);
    if (code == 0) {
        int64_t largest = sizes[0] > sizes[1] ? sizes[0] : sizes[1];
        CHECK(range.offset >= 8 && range.bytes >= 0 && range.offset + range.bytes <= largest, "range of %s", name);
        CHECK(range.shard >= 0 && range.shard < checkpoint_shards(checkpoint), "shard of %s", name);
    }
}

void fuzz_one(const uint8_t *data, size_t size) {
    struct fuzz_input input = {data, size};
    static struct fuzz_part index, header;
    struct error error = {0};
    struct checkpoint *checkpoint;
    int64_t sizes[2];
    index = fuzz_take(&input);
    (void)fuzz_file("model.safetensors.index.json", index.text, index.size);
    header = fuzz_take(&input);
    sizes[0] = write_shard("a.safetensors", &header);
    header = fuzz_take(&input);
    sizes[1] = write_shard("b.safetensors", &header);
    int code = checkpoint_open(&checkpoint, fuzz_directory(), &error);
    CHECK(code == error.code && (code == 0) == (checkpoint != NULL), "code %d: %s", code, error.text);
    if (code != 0) {
        return;
    }
    for (int64_t i = 0; i < checkpoint_count(checkpoint); i++) {
        CHECK(i == 0 || strcmp(checkpoint_name(checkpoint, i - 1), checkpoint_name(checkpoint, i)) < 0, "order");
        check_tensor(checkpoint, checkpoint_name(checkpoint, i), sizes);
    }
    CHECK(!checkpoint_has(checkpoint, "no such tensor") || strstr(index.text, "no such") != NULL, "an invented tensor");
    checkpoint_close(checkpoint);
}
