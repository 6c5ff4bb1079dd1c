// Files: whole reads, memory maps, and writes that are either complete or absent.
#ifndef MINKE_BASE_FILE_H
#define MINKE_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct mapped_file {
    const uint8_t *data;   // NULL for an empty file
    int64_t size;
    char *path;   // owned, for messages
};
// Maps a regular file read-only. The mapping outlives the descriptor.
int file_map(struct mapped_file *file, const char *path, struct error *error);
void file_unmap(struct mapped_file *file);
// The path of the mapped file that holds an address, or NULL: for a handler of SIGBUS, which reading a mapping raises
// when the file was truncated or its disk fails. Knows the first FILE_MAPPINGS of them. Safe in a signal handler.
#define FILE_MAPPINGS 1024
const char *file_mapped_path(const void *address);
// Hints for a part of a mapped file: it is wanted soon, or not any more. Its bytes stay what they are: they are read
// from the file again when they are touched.
void file_map_expect(const void *data, size_t size);
void file_map_forget(const void *data, size_t size);

// Reads a whole file (limit in bytes, ERROR_LIMIT beyond) and adds a terminating zero that is not counted. "-" = stdin.
int file_read(char **text, int64_t *size, const char *path, int64_t limit, struct error *error);

// Reads a file of any size from its beginning, piece by piece. "-" = stdin.
struct file_reader {
    int descriptor;
    char *path;   // owned, for messages
};
int file_reader_open(struct file_reader *reader, const char *path, struct error *error);
// Fills `data` up to `size` bytes, or less at the end of the file; returns how many, or a negative code.
int64_t file_reader_read(struct file_reader *reader, void *data, int64_t size, struct error *error);
// What is there now, at least one byte: waits on a pipe or terminal that has none. 0 at the end.
int64_t file_reader_read_some(struct file_reader *reader, void *data, int64_t size, struct error *error);
void file_reader_close(struct file_reader *reader);   // also when open failed

// A file read at chosen places, from any thread. file_read_blocks goes past the page cache where the file system can
// (O_DIRECT), else it drops what it read from there, so that data is held once, by the caller.
#define FILE_BLOCK 4096   // addresses, offsets and sizes of file_read_blocks are multiples of it
struct random_file {
    int blocks, bytes;   // descriptors; the first with O_DIRECT while the file system allows it
    char *path;          // owned, for messages
};
int random_file_open(struct random_file *file, const char *path, struct error *error);
void random_file_close(struct random_file *file);   // also when open failed
// Asks the system to drop what it caches of the file, whoever read it.
void random_file_forget(const struct random_file *file);
// Reads `size` bytes at `offset`; the file must hold the first `needed` of them, what lies beyond its end stays as it
// was.
int file_read_blocks(const struct random_file *file, void *data, int64_t size, int64_t offset, int64_t needed,
                     struct error *error);
// Reads exactly `size` bytes at any offset to any address, for small pieces.
int file_read_bytes(const struct random_file *file, void *data, int64_t size, int64_t offset, struct error *error);

// Buffered writer to "<path>.tmp-<pid>"; file_writer_commit flushes, fsyncs, renames over <path> and fsyncs the folder.
// Until then nothing is visible under <path>; file_writer_abort (also on every error) removes the temporary file.
struct file_writer {
    int descriptor;
    char *path, *temporary;
    uint8_t *buffer;
    size_t used, capacity;
    int64_t written;     // bytes accepted so far
    uint64_t checksum;   // XXH3-64 of the bytes accepted so far; final after commit
    void *checksum_state;
};
int file_writer_open(struct file_writer *writer, const char *path, struct error *error);
int file_writer_append(struct file_writer *writer, const void *data, size_t size, struct error *error);
int file_writer_commit(struct file_writer *writer, struct error *error);
void file_writer_abort(struct file_writer *writer);

int file_write_text(const char *path, const char *text, struct error *error);   // writer open, append, commit
int file_checksum(const char *path, uint64_t *checksum, struct error *error);   // XXH3-64 of a file's bytes

bool file_exists(const char *path);
bool file_is_directory(const char *path);
int file_make_directory(const char *path, struct error *error);   // like mkdir -p
int file_sync_directory(const char *path, struct error *error);
int file_rename(const char *from, const char *to, struct error *error);          // and fsync of the parent
int file_remove_tree(const char *path, struct error *error);                     // refuses "", "/", "." and ".."
char *file_join(const char *directory, const char *name, struct error *error);   // owned by the caller
// Names in a directory, sorted by byte, without "." and ".."; free each and the array with file_list_free.
int file_list(char ***names, int64_t *count, const char *directory, struct error *error);
void file_list_free(char **names, int64_t count);

// Test hook: the n-th read/write/fsync/rename/map from now (1 = the next) and all later ones fail with `errno_value`.
void file_fail_at(int64_t n, int errno_value);

#endif
