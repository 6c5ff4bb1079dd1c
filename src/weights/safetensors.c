// safetensors files, read and written (spec 11.1).
//
//   u64 little-endian N | N bytes of JSON: {"name": {"dtype": D, "shape": [...], "data_offsets": [begin, end]}, ...} |
//   data
//
// Offsets count from the first byte after the header. The header is parsed in one pass straight into the entry array;
// names share one block of memory. Only after every check has passed does a tensor point into the mapping.
#include "weights/safetensors.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/formats.h"
#include "weights/grow.h"
#include "weights/json_stream.h"

#define HEADER_LIMIT 100000000   // bytes; the limit of the reference implementation
#define LENGTH_BYTES 8

// Every dtype of the format and its width; those that format_by_safetensors_name knows become tensors.
static const struct dtype {
    const char *name;
    int bits;
} dtypes[] = {
    {"F32", 32}, {"BF16", 16}, {"F8_E4M3", 8}, {"F16", 16},    {"F64", 64},        {"I64", 64},
    {"I32", 32}, {"I16", 16},  {"I8", 8},      {"U64", 64},    {"U32", 32},        {"U16", 16},
    {"U8", 8},   {"BOOL", 8},  {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8},
    {"C64", 64}, {"F4", 4},    {"F6_E2M3", 6}, {"F6_E3M2", 6},
};

static const struct dtype *dtype_find(const char *name) {
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (strcmp(dtypes[i].name, name) == 0) {
            return &dtypes[i];
        }
    }
    return NULL;
}

// Bytes of a packed tensor; negative if the shape overflows or its bits do not fill whole bytes. The product leaves
// zeros out, so that strides cannot overflow either.
static int64_t dtype_bytes(const struct dtype *dtype, int rank, const int64_t *shape) {
    int64_t bits = dtype->bits;
    bool empty = false;
    for (int i = 0; i < rank; i++) {
        empty = empty || shape[i] == 0;
        if (shape[i] < 0 || (shape[i] > 0 && __builtin_mul_overflow(bits, shape[i], &bits))) {
            return -1;
        }
    }
    return empty ? 0 : bits % 8 != 0 ? -1 : bits / 8;
}

// ---- Reading -------------------------------------------------------------------------------------------------------

struct header_scan {
    struct safetensors *file;
    struct json_reader json;
    int64_t capacity;     // of file->entries
    int64_t name_bytes;   // used of file->names
    int64_t data_bytes;   // behind the header
    const uint8_t *data;
};

static int header_parse_shape(struct header_scan *scan, int *rank, int64_t *shape, const char *name,
                              struct error *error) {
    int code = json_reader_expect(&scan->json, '[', error);
    *rank = 0;
    if (code != 0 || json_reader_accept(&scan->json, ']')) {
        return code;
    }
    do {
        if (*rank == TENSOR_MAX_RANK) {
            return error_set(error, ERROR_FORMAT, "%s: tensor \"%s\": expected at most %d dimensions, found more",
                             scan->json.name, name, TENSOR_MAX_RANK);
        }
        code = json_reader_integer(&scan->json, &shape[(*rank)++], error);
        if (code != 0) {
            return code;
        }
    } while (json_reader_accept(&scan->json, ','));
    return json_reader_expect(&scan->json, ']', error);
}

static int header_parse_offsets(struct header_scan *scan, struct safetensors_entry *entry, struct error *error) {
    int code;
    if ((code = json_reader_expect(&scan->json, '[', error)) != 0 ||
        (code = json_reader_integer(&scan->json, &entry->begin, error)) != 0 ||
        (code = json_reader_expect(&scan->json, ',', error)) != 0 ||
        (code = json_reader_integer(&scan->json, &entry->end, error)) != 0) {
        return code;
    }
    return json_reader_expect(&scan->json, ']', error);
}

static int header_parse_dtype(struct header_scan *scan, struct safetensors_entry *entry, struct error *error) {
    struct json_reader ahead = scan->json;   // measures before it decodes
    int64_t length;
    int code = json_reader_string(&ahead, NULL, &length, error);
    if (code != 0) {
        return code;
    }
    if (length >= (int64_t)sizeof entry->dtype) {
        return error_set(error, ERROR_FORMAT, "%s: tensor \"%s\": unknown dtype of %lld characters", scan->json.name,
                         entry->name, (long long)length);
    }
    code = json_reader_string(&scan->json, entry->dtype, NULL, error);
    if (code != 0) {
        return code;
    }
    if (dtype_find(entry->dtype) == NULL) {
        return error_set(error, ERROR_FORMAT, "%s: tensor \"%s\": unknown dtype \"%s\"", scan->json.name, entry->name,
                         entry->dtype);
    }
    return 0;
}

// {"dtype": ..., "shape": ..., "data_offsets": ...}, each exactly once, in any order.
static int header_parse_fields(struct header_scan *scan, struct safetensors_entry *entry, int *rank, int64_t *shape,
                               struct error *error) {
    static const char *const fields[] = {"dtype", "shape", "data_offsets"};
    unsigned seen = 0;
    int code = json_reader_expect(&scan->json, '{', error);
    if (code != 0) {
        return code;
    }
    do {
        int64_t length;
        struct json_reader ahead = scan->json;
        char field[16];
        if ((code = json_reader_string(&ahead, NULL, &length, error)) != 0) {
            return code;
        }
        if (length >= (int64_t)sizeof field) {
            return error_set(error, ERROR_FORMAT, "%s: tensor \"%s\": unknown key of %lld characters", scan->json.name,
                             entry->name, (long long)length);
        }
        if ((code = json_reader_string(&scan->json, field, NULL, error)) != 0 ||
            (code = json_reader_expect(&scan->json, ':', error)) != 0) {
            return code;
        }
        unsigned which = 0;
        while (which < 3 && strcmp(field, fields[which]) != 0) {
            which++;
        }
        if (which == 3 || (seen & (1u << which)) != 0) {
            return error_set(error, ERROR_FORMAT, "%s: tensor \"%s\": %s key \"%s\"", scan->json.name, entry->name,
                             which == 3 ? "unknown" : "duplicate", field);
        }
        seen |= 1u << which;
        code = which == 0   ? header_parse_dtype(scan, entry, error)
               : which == 1 ? header_parse_shape(scan, rank, shape, entry->name, error)
                            : header_parse_offsets(scan, entry, error);
        if (code != 0) {
            return code;
        }
    } while (json_reader_accept(&scan->json, ','));
    if ((code = json_reader_expect(&scan->json, '}', error)) != 0) {
        return code;
    }
    for (unsigned which = 0; which < 3; which++) {
        if ((seen & (1u << which)) == 0) {
            return error_set(error, ERROR_FORMAT, "%s: tensor \"%s\": missing key \"%s\"", scan->json.name, entry->name,
                             fields[which]);
        }
    }
    return 0;
}

static int header_parse_tensor(struct header_scan *scan, char *name, struct error *error) {
    struct safetensors *file = scan->file;
    int code = array_grow((void **)&file->entries, &scan->capacity, file->count + 1, sizeof *file->entries,
                          scan->json.name, error);
    if (code != 0) {
        return code;
    }
    struct safetensors_entry *entry = &file->entries[file->count];
    *entry = (struct safetensors_entry){.name = name};
    int rank = 0;
    int64_t shape[TENSOR_MAX_RANK] = {0};
    code = header_parse_fields(scan, entry, &rank, shape, error);
    if (code != 0) {
        return code;
    }
    int64_t bytes = dtype_bytes(dtype_find(entry->dtype), rank, shape);
    if (bytes < 0) {
        return error_set(error, ERROR_FORMAT, "%s: tensor \"%s\": shape is too large or does not fill whole bytes",
                         scan->json.name, name);
    }
    if (entry->begin > entry->end || entry->end > scan->data_bytes) {
        return error_set(error, ERROR_FORMAT,
                         "%s: tensor \"%s\": data_offsets [%lld, %lld] are outside the %lld bytes of data%s",
                         scan->json.name, name, (long long)entry->begin, (long long)entry->end,
                         (long long)scan->data_bytes, entry->begin <= entry->end ? " (the file is truncated)" : "");
    }
    if (entry->end - entry->begin != bytes) {
        return error_set(error, ERROR_FORMAT,
                         "%s: tensor \"%s\": shape and dtype need %lld bytes, data_offsets give %lld", scan->json.name,
                         name, (long long)bytes, (long long)(entry->end - entry->begin));
    }
    enum format format = format_by_safetensors_name(entry->dtype);
    format = format == FORMAT_E4M3_BLOCK && rank != 2 ? FORMAT_NONE : format;   // blocks are defined for matrices alone
    entry->tensor = tensor_make(format, (void *)(uintptr_t)(scan->data + entry->begin), rank, shape);
    file->count++;
    return 0;
}

static int header_parse_metadata(struct header_scan *scan, struct error *error) {
    struct json_reader *json = &scan->json;
    if (scan->file->metadata != NULL) {
        return error_set(error, ERROR_FORMAT, "%s: duplicate key \"__metadata__\"", json->name);
    }
    int code = json_reader_expect(json, '{', error);
    if (code != 0) {
        return code;
    }
    int64_t start = json->position - 1;
    if (!json_reader_accept(json, '}')) {
        do {
            if ((code = json_reader_string(json, NULL, NULL, error)) != 0 ||
                (code = json_reader_expect(json, ':', error)) != 0 ||
                (code = json_reader_string(json, NULL, NULL, error)) != 0) {
                return code;
            }
        } while (json_reader_accept(json, ','));
        if ((code = json_reader_expect(json, '}', error)) != 0) {
            return code;
        }
    }
    size_t length = (size_t)(json->position - start);
    scan->file->metadata = memory_allocate(length + 1, 1, json->name, error);
    if (scan->file->metadata == NULL) {
        return ERROR_MEMORY;
    }
    memcpy(scan->file->metadata, json->text + start, length);
    return 0;
}

static int header_parse(struct header_scan *scan, struct error *error) {
    int code = json_reader_expect(&scan->json, '{', error);
    if (code != 0) {
        return code;
    }
    if (!json_reader_accept(&scan->json, '}')) {
        do {
            char *name = scan->file->names + scan->name_bytes;
            int64_t length;
            if ((code = json_reader_string(&scan->json, name, &length, error)) != 0 ||
                (code = json_reader_expect(&scan->json, ':', error)) != 0) {
                return code;
            }
            if (strcmp(name, "__metadata__") == 0) {
                code = header_parse_metadata(scan, error);
            } else {
                scan->name_bytes += length + 1;
                code = header_parse_tensor(scan, name, error);
            }
            if (code != 0) {
                return code;
            }
        } while (json_reader_accept(&scan->json, ','));
        if ((code = json_reader_expect(&scan->json, '}', error)) != 0) {
            return code;
        }
    }
    return json_reader_end(&scan->json, error);
}

static int entry_compare_begin(const void *left, const void *right) {
    const struct safetensors_entry *a = left, *b = right;
    if (a->begin != b->begin) {
        return a->begin < b->begin ? -1 : 1;
    }
    if (a->end != b->end) {
        return a->end < b->end ? -1 : 1;
    }
    return strcmp(a->name, b->name);
}

static int name_compare(const void *left, const void *right) {
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

static int names_check_unique(const char **names, int64_t count, const char *path, struct error *error) {
    qsort(names, (size_t)count, sizeof *names, name_compare);
    for (int64_t i = 1; i < count; i++) {
        if (strcmp(names[i - 1], names[i]) == 0) {
            return error_set(error, ERROR_FORMAT, "%s: duplicate tensor \"%s\"", path, names[i]);
        }
    }
    return 0;
}

static int header_check_unique(const struct safetensors *file, const char *path, struct error *error) {
    const char **names = memory_allocate((size_t)file->count + 1, sizeof *names, path, error);
    if (names == NULL) {
        return ERROR_MEMORY;
    }
    for (int64_t i = 0; i < file->count; i++) {
        names[i] = file->entries[i].name;
    }
    int code = names_check_unique(names, file->count, path, error);
    memory_free(names);
    return code;
}

// Ranges must follow one another without overlap or gap and end with the file.
static int header_check_layout(struct safetensors *file, const char *path, int64_t data_bytes, struct error *error) {
    if (file->count > 0) {
        qsort(file->entries, (size_t)file->count, sizeof *file->entries, entry_compare_begin);
    }
    int64_t end = 0;
    const char *previous = "the header";
    for (int64_t i = 0; i < file->count; i++) {
        const struct safetensors_entry *entry = &file->entries[i];
        if (entry->begin != end) {
            return error_set(error, ERROR_FORMAT,
                             "%s: tensor \"%s\" begins at data byte %lld, expected %lld: %s \"%s\"", path, entry->name,
                             (long long)entry->begin, (long long)end,
                             entry->begin < end ? "it overlaps" : "a gap behind", previous);
        }
        end = entry->end;
        previous = entry->name;
    }
    if (end != data_bytes) {
        return error_set(error, ERROR_FORMAT, "%s: %lld bytes follow the last tensor, expected none", path,
                         (long long)(data_bytes - end));
    }
    return 0;
}

int safetensors_parse(struct safetensors *file, struct error *error) {
    const char *path = file->file.path;
    const uint8_t *bytes = file->file.data;
    struct header_scan scan = {.file = file};
    uint64_t length = 0;
    int code = 0;

    if (file->file.size < LENGTH_BYTES) {
        return error_set(error, ERROR_FORMAT, "%s: expected a safetensors file, found only %lld bytes", path,
                         (long long)file->file.size);
    }
    for (int i = LENGTH_BYTES - 1; i >= 0; i--) {
        length = length << 8 | bytes[i];
    }
    if (length > HEADER_LIMIT) {
        return error_set(error, ERROR_FORMAT, "%s: expected a header of at most %d bytes, found length %llu", path,
                         HEADER_LIMIT, (unsigned long long)length);
    }
    if ((int64_t)length > file->file.size - LENGTH_BYTES) {
        return error_set(error, ERROR_FORMAT,
                         "%s: the header needs %llu bytes, only %lld follow its length (the file is truncated)", path,
                         (unsigned long long)length, (long long)(file->file.size - LENGTH_BYTES));
    }
    if (length == 0 || bytes[LENGTH_BYTES] != '{') {
        return error_set(error, ERROR_FORMAT, "%s: expected '{' at the start of the header (not a safetensors file?)",
                         path);
    }
    scan.json = (struct json_reader){(const char *)bytes + LENGTH_BYTES, (int64_t)length, 0, path};
    scan.data = bytes + LENGTH_BYTES + length;
    scan.data_bytes = file->file.size - LENGTH_BYTES - (int64_t)length;
    file->names = memory_allocate((size_t)length, 1, path, error);
    if (file->names == NULL) {
        return ERROR_MEMORY;
    }
    if ((code = header_parse(&scan, error)) == 0 && (code = header_check_unique(file, path, error)) == 0) {
        code = header_check_layout(file, path, scan.data_bytes, error);
    }
    if (code != 0) {
        memory_free(file->names);
        memory_free(file->metadata);
        memory_free(file->entries);
        *file = (struct safetensors){.file = file->file};
    }
    return code;
}

int safetensors_open(struct safetensors *file, const char *path, struct error *error) {
    *file = (struct safetensors){0};
    int code = file_map(&file->file, path, error);
    if (code == 0) {
        code = safetensors_parse(file, error);
        if (code != 0) {
            file_unmap(&file->file);
            *file = (struct safetensors){0};
        }
    }
    return code;
}

void safetensors_close(struct safetensors *file) {
    memory_free(file->names);
    memory_free(file->metadata);
    memory_free(file->entries);
    file_unmap(&file->file);
    *file = (struct safetensors){0};
}

// ---- Writing -------------------------------------------------------------------------------------------------------

struct declared {
    char *name;
    const struct dtype *dtype;
    int rank;
    int64_t shape[TENSOR_MAX_RANK];
    int64_t bytes;
};

struct safetensors_writer {
    struct file_writer file;
    bool open;   // `file` holds a temporary file
    struct declared *declared;
    int64_t count, capacity;
    int64_t data_bytes, appended;
    struct json_text metadata;   // inner text of "__metadata__", "" = none
};

int safetensors_writer_create(struct safetensors_writer **writer, struct error *error) {
    *writer = memory_allocate(1, sizeof **writer, "safetensors writer", error);
    return *writer != NULL ? 0 : ERROR_MEMORY;
}

int safetensors_writer_declare(struct safetensors_writer *writer, const char *name, const char *dtype, int rank,
                               const int64_t *shape, struct error *error) {
    CHECK(!writer->open, "the header of %s is written already", writer->file.path);
    CHECK(rank >= 0 && rank <= TENSOR_MAX_RANK, "%s: rank %d", name, rank);
    struct declared declared = {.dtype = dtype_find(dtype), .rank = rank};
    CHECK(declared.dtype != NULL, "%s: dtype %s", name, dtype);
    for (int i = 0; i < rank; i++) {
        declared.shape[i] = shape[i];
    }
    declared.bytes = dtype_bytes(declared.dtype, rank, shape);
    if (declared.bytes < 0 || __builtin_add_overflow(writer->data_bytes, declared.bytes, &writer->data_bytes)) {
        return error_set(error, ERROR_ARGUMENT, "tensor \"%s\": shape is too large for any file", name);
    }
    int code = array_grow((void **)&writer->declared, &writer->capacity, writer->count + 1, sizeof declared, name,
                          error);
    if (code != 0) {
        return code;
    }
    declared.name = memory_copy_string(name, error);
    if (declared.name == NULL) {
        return ERROR_MEMORY;
    }
    writer->declared[writer->count++] = declared;
    return 0;
}

int safetensors_writer_metadata(struct safetensors_writer *writer, const char *key, const char *value,
                                struct error *error) {
    CHECK(!writer->open, "the header of %s is written already", writer->file.path);
    json_text_append(&writer->metadata, "%s", writer->metadata.size > 0 ? "," : "");
    json_text_string(&writer->metadata, key);
    json_text_append(&writer->metadata, ":");
    json_text_string(&writer->metadata, value);
    return json_text_finish(&writer->metadata, "safetensors metadata", error);
}

static int writer_header(struct safetensors_writer *writer, struct json_text *text, const char *path,
                         struct error *error) {
    const char *separator = "";
    int64_t begin = 0;
    json_text_append(text, "{");
    if (writer->metadata.size > 0) {
        json_text_append(text, "\"__metadata__\":{%s}", writer->metadata.text);
        separator = ",";
    }
    for (int64_t i = 0; i < writer->count; i++) {
        const struct declared *declared = &writer->declared[i];
        json_text_append(text, "%s", separator);
        json_text_string(text, declared->name);
        json_text_append(text, ":{\"dtype\":\"%s\",\"shape\":[", declared->dtype->name);
        for (int axis = 0; axis < declared->rank; axis++) {
            json_text_append(text, "%s%lld", axis > 0 ? "," : "", (long long)declared->shape[axis]);
        }
        json_text_append(text, "],\"data_offsets\":[%lld,%lld]}", (long long)begin,
                         (long long)(begin + declared->bytes));
        begin += declared->bytes;
        separator = ",";
    }
    json_text_append(text, "}");
    json_text_append(text, "%*s", (int)((8 - text->size % 8) % 8), "");
    int code = json_text_finish(text, path, error);
    if (code == 0 && text->size > HEADER_LIMIT) {
        code = error_set(error, ERROR_LIMIT, "%s: a safetensors header is limited to %d bytes, %lld tensors need %lld",
                         path, HEADER_LIMIT, (long long)writer->count, (long long)text->size);
    }
    return code;
}

static int writer_check_unique(const struct safetensors_writer *writer, const char *path, struct error *error) {
    const char **names = memory_allocate((size_t)writer->count + 1, sizeof *names, path, error);
    if (names == NULL) {
        return ERROR_MEMORY;
    }
    for (int64_t i = 0; i < writer->count; i++) {
        names[i] = writer->declared[i].name;
    }
    int code = names_check_unique(names, writer->count, path, error);
    memory_free(names);
    return code;
}

int safetensors_writer_begin(struct safetensors_writer *writer, const char *path, struct error *error) {
    CHECK(!writer->open, "the header of %s is written already", writer->file.path);
    struct json_text text = {0};
    uint8_t length[LENGTH_BYTES];
    int code;
    if ((code = writer_check_unique(writer, path, error)) != 0 ||
        (code = writer_header(writer, &text, path, error)) != 0 ||
        (code = file_writer_open(&writer->file, path, error)) != 0) {
        goto out;
    }
    writer->open = true;
    for (int i = 0; i < LENGTH_BYTES; i++) {
        length[i] = (uint8_t)((uint64_t)text.size >> (8 * i));
    }
    if ((code = file_writer_append(&writer->file, length, sizeof length, error)) == 0) {
        code = file_writer_append(&writer->file, text.text, (size_t)text.size, error);
    }
out:
    json_text_free(&text);
    return code;
}

int safetensors_writer_append(struct safetensors_writer *writer, const void *data, int64_t bytes, struct error *error) {
    CHECK(writer->open && bytes >= 0 && bytes <= writer->data_bytes - writer->appended, "%lld bytes", (long long)bytes);
    writer->appended += bytes;
    return bytes > 0 ? file_writer_append(&writer->file, data, (size_t)bytes, error) : 0;
}

static void writer_free(struct safetensors_writer *writer) {
    for (int64_t i = 0; i < writer->count; i++) {
        memory_free(writer->declared[i].name);
    }
    memory_free(writer->declared);
    json_text_free(&writer->metadata);
    memory_free(writer);
}

int safetensors_writer_commit(struct safetensors_writer *writer, uint64_t *checksum, struct error *error) {
    CHECK(writer->open && writer->appended == writer->data_bytes, "%lld of %lld bytes", (long long)writer->appended,
          (long long)writer->data_bytes);
    int code = file_writer_commit(&writer->file, error);
    if (code == 0 && checksum != NULL) {
        *checksum = writer->file.checksum;
    }
    writer_free(writer);
    return code;
}

void safetensors_writer_abort(struct safetensors_writer *writer) {
    if (writer == NULL) {
        return;
    }
    if (writer->open) {
        file_writer_abort(&writer->file);
    }
    writer_free(writer);
}
