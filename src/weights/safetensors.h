// One safetensors file (spec 11.1): u64 little-endian header length, JSON header, packed row-major tensors.
// Everything about the header is checked before anything is believed: length (<= 100 MB, within the file), '{' first,
// no duplicate names, known dtypes, shape product and end - begin equal without overflow, ranges inside the file, no
// overlaps, no gaps.
#ifndef MINKE_WEIGHTS_SAFETENSORS_H
#define MINKE_WEIGHTS_SAFETENSORS_H

#include <stdint.h>

#include "base/error.h"
#include "base/file.h"
#include "tensor/tensor.h"

struct safetensors_entry {
    char *name;
    // data points into the mapping; E4M3 tensors have scale == NULL here (checkpoint.h joins them); format is
    // FORMAT_NONE for what no op takes (F16, F64, an FP8 tensor that is no matrix, ...).
    struct tensor tensor;
    int64_t begin, end;   // byte range in the file
    char dtype[12];       // as written in the file
};

struct safetensors {
    struct mapped_file file;
    struct safetensors_entry *entries;   // ordered by begin
    int64_t count;
    char *metadata;   // "__metadata__" as JSON text, or NULL
    char *names;      // storage of all names
};
int safetensors_open(struct safetensors *file, const char *path, struct error *error);
// The same on bytes that are in memory already (file->file filled, the rest zero); on failure only file->file stays.
int safetensors_parse(struct safetensors *file, struct error *error);
void safetensors_close(struct safetensors *file);

// Writing: declare every tensor (name, dtype, shape) in order, then append the data in the same order; the header is
// written first, space-padded to 8 bytes. The result is a pure function of what was declared and appended (no dates):
// same input, same bytes.
struct safetensors_writer;
int safetensors_writer_create(struct safetensors_writer **writer, struct error *error);
int safetensors_writer_declare(struct safetensors_writer *writer, const char *name, const char *dtype, int rank,
                               const int64_t *shape, struct error *error);
int safetensors_writer_metadata(struct safetensors_writer *writer, const char *key, const char *value,
                                struct error *error);
int safetensors_writer_begin(struct safetensors_writer *writer, const char *path, struct error *error);
int safetensors_writer_append(struct safetensors_writer *writer, const void *data, int64_t bytes, struct error *error);
// Checks that every declared byte came, fsyncs and renames; *checksum (XXH3-64 of the file) may be NULL. Frees the
// writer on success and failure.
int safetensors_writer_commit(struct safetensors_writer *writer, uint64_t *checksum, struct error *error);
void safetensors_writer_abort(struct safetensors_writer *writer);

#endif
