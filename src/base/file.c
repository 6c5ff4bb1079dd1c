// Files through the plain system calls, so that every failure is seen where it happens: short writes and interrupted
// calls are continued, a full disk names the file and the bytes, and the n-th call can be made to fail (file_fail_at).
#define XXH_STATIC_LINKING_ONLY   // the size of the checksum state: we allocate it
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/memory.h"

#define BUFFER_BYTES ((size_t)1 << 20)
#define CALL_BYTES ((size_t)1 << 30)   // Linux moves at most 2 GiB - 4 KiB by one call

static _Atomic int64_t fail_countdown;   // as in memory.c: 0 = off, 1 = every call fails
static _Atomic int fail_errno;

void file_fail_at(int64_t n, int errno_value) {
    CHECK(n >= 0, "n is %lld", (long long)n);
    atomic_store(&fail_errno, errno_value);
    atomic_store(&fail_countdown, n);
}

static bool call_must_fail(void) {
    int64_t countdown = atomic_load_explicit(&fail_countdown, memory_order_relaxed);
    while (countdown > 1 && !atomic_compare_exchange_weak(&fail_countdown, &countdown, countdown - 1)) {
    }
    if (countdown == 1) {
        errno = atomic_load(&fail_errno);
        return true;
    }
    return false;
}

// The system calls, with the hook and with EINTR retried.

static int call_open(const char *path, int flags) {
    int descriptor;
    do {
        descriptor = call_must_fail() ? -1 : open(path, flags | O_CLOEXEC, 0666);
    } while (descriptor < 0 && errno == EINTR && atomic_load(&fail_countdown) != 1);
    return descriptor;
}

static ssize_t call_read(int descriptor, void *data, size_t size) {
    ssize_t count;
    do {
        count = call_must_fail() ? -1 : read(descriptor, data, size < CALL_BYTES ? size : CALL_BYTES);
    } while (count < 0 && errno == EINTR && atomic_load(&fail_countdown) != 1);
    return count;
}

static ssize_t call_read_at(int descriptor, void *data, size_t size, int64_t offset) {
    ssize_t count;
    do {
        count = call_must_fail() ? -1 : pread(descriptor, data, size < CALL_BYTES ? size : CALL_BYTES, offset);
    } while (count < 0 && errno == EINTR && atomic_load(&fail_countdown) != 1);
    return count;
}

static ssize_t call_write(int descriptor, const void *data, size_t size) {
    ssize_t count;
    do {
        count = call_must_fail() ? -1 : write(descriptor, data, size < CALL_BYTES ? size : CALL_BYTES);
    } while (count < 0 && errno == EINTR && atomic_load(&fail_countdown) != 1);
    return count;
}

static int call_fsync(int descriptor) {
    int result;
    do {
        result = call_must_fail() ? -1 : fsync(descriptor);
    } while (result < 0 && errno == EINTR && atomic_load(&fail_countdown) != 1);
    return result;
}

static int call_rename(const char *from, const char *to) {
    return call_must_fail() ? -1 : rename(from, to);
}

static int call_mkdir(const char *path) {
    return call_must_fail() ? -1 : mkdir(path, 0777);
}

static void *call_map(size_t size, int descriptor) {
    return call_must_fail() ? MAP_FAILED : mmap(NULL, size, PROT_READ, MAP_SHARED, descriptor, 0);
}

// What is mapped, for file_mapped_path. `data` is NULL in a free entry and MAP_FAILED while one is being filled.
static struct mapping {
    _Atomic(const uint8_t *) data;
    int64_t size;
    const char *path;   // of the mapped_file
} mappings[FILE_MAPPINGS];

static void mapping_add(const struct mapped_file *file) {
    for (int i = 0; i < FILE_MAPPINGS; i++) {
        const uint8_t *none = NULL;
        if (atomic_compare_exchange_strong(&mappings[i].data, &none, MAP_FAILED)) {
            mappings[i].size = file->size;
            mappings[i].path = file->path;
            atomic_store(&mappings[i].data, file->data);
            return;
        }
    }
}

static void mapping_remove(const struct mapped_file *file) {
    for (int i = 0; i < FILE_MAPPINGS; i++) {
        const uint8_t *data = file->data;
        if (atomic_compare_exchange_strong(&mappings[i].data, &data, NULL)) {
            return;
        }
    }
}

const char *file_mapped_path(const void *address) {
    const uint8_t *byte = address;
    for (int i = 0; i < FILE_MAPPINGS; i++) {
        const uint8_t *data = atomic_load(&mappings[i].data);
        if (data != NULL && data != MAP_FAILED && byte >= data && byte - data < mappings[i].size) {
            return mappings[i].path;
        }
    }
    return NULL;
}

int file_map(struct mapped_file *file, const char *path, struct error *error) {
    *file = (struct mapped_file){0};
    int code = 0;
    int descriptor = call_open(path, O_RDONLY);
    if (descriptor < 0) {
        return error_set_errno(error, "%s: cannot open", path);
    }
    struct stat status;
    if (fstat(descriptor, &status) != 0) {
        code = error_set_errno(error, "%s: cannot stat", path);
        goto out;
    }
    if (!S_ISREG(status.st_mode)) {
        code = error_set(error, ERROR_IO, "%s: found a %s, expected a regular file", path,
                         S_ISDIR(status.st_mode) ? "directory" : "special file");
        goto out;
    }
    if (status.st_size > 0) {
        void *data = call_map((size_t)status.st_size, descriptor);
        if (data == MAP_FAILED) {
            code = error_set_errno(error, "%s: cannot map %lld bytes", path, (long long)status.st_size);
            goto out;
        }
        file->data = data;
        file->size = status.st_size;
    }
    file->path = memory_copy_string(path, error);
    code = file->path != NULL ? 0 : ERROR_MEMORY;
    if (code == 0 && file->data != NULL) {
        mapping_add(file);
    }

out:
    close(descriptor);
    if (code != 0) {
        file_unmap(file);
    }
    return code;
}

void file_unmap(struct mapped_file *file) {
    if (file->data != NULL) {
        mapping_remove(file);
        munmap((void *)file->data, (size_t)file->size);
    }
    memory_free(file->path);
    *file = (struct mapped_file){0};
}

// Whole pages: those that the range touches, or those inside it.
static void advise(const void *data, size_t size, bool inside, int advice) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)data, end = begin + size;
    uintptr_t first = (inside ? begin + page - 1 : begin) & ~(page - 1), last = inside ? end & ~(page - 1) : end;
    if (last > first) {
        madvise((char *)(uintptr_t)data + (ptrdiff_t)(first - begin), last - first, advice);
    }
}

void file_map_expect(const void *data, size_t size) {
    advise(data, size, false, MADV_WILLNEED);
}

void file_map_forget(const void *data, size_t size) {
    advise(data, size, true, MADV_DONTNEED);
}

int file_read(char **text, int64_t *size, const char *path, int64_t limit, struct error *error) {
    *text = NULL;
    *size = 0;
    bool standard_input = strcmp(path, "-") == 0;
    const char *name = standard_input ? "standard input" : path;
    int descriptor = standard_input ? STDIN_FILENO : call_open(path, O_RDONLY);
    if (descriptor < 0) {
        return error_set_errno(error, "%s: cannot open", name);
    }
    int code = 0;
    size_t capacity = 4096, used = 0;
    struct stat status;
    if (fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0) {
        // One byte more than the file and one for the zero: the end is found without growing.
        capacity = (size_t)(status.st_size < limit ? status.st_size : limit) + 2;
    }
    char *buffer = memory_allocate(capacity, 1, name, error);
    if (buffer == NULL) {
        code = ERROR_MEMORY;
        goto out;
    }
    for (;;) {
        if (used + 2 > capacity) {
            capacity *= 2;
            char *grown = memory_resize(buffer, capacity, 1, name, error);
            if (grown == NULL) {
                code = ERROR_MEMORY;
                goto out;
            }
            buffer = grown;
        }
        ssize_t count = call_read(descriptor, buffer + used, capacity - used - 1);
        if (count < 0) {
            code = error_set_errno(error, "%s: cannot read", name);
            goto out;
        }
        if (count == 0) {
            break;
        }
        used += (size_t)count;
        if ((int64_t)used > limit) {
            code = error_set(error, ERROR_LIMIT, "%s: found more than %lld bytes, the limit", name, (long long)limit);
            goto out;
        }
    }
    buffer[used] = '\0';
    *text = buffer;
    *size = (int64_t)used;
    buffer = NULL;

out:
    memory_free(buffer);
    if (!standard_input) {
        close(descriptor);
    }
    return code;
}

int file_reader_open(struct file_reader *reader, const char *path, struct error *error) {
    bool standard_input = strcmp(path, "-") == 0;
    *reader = (struct file_reader){.descriptor = -1};
    reader->path = memory_copy_string(standard_input ? "standard input" : path, error);
    if (reader->path == NULL) {
        return ERROR_MEMORY;
    }
    reader->descriptor = standard_input ? STDIN_FILENO : call_open(path, O_RDONLY);
    if (reader->descriptor < 0) {
        int code = error_set_errno(error, "%s: cannot open", path);
        file_reader_close(reader);
        return code;
    }
    return 0;
}

int64_t file_reader_read_some(struct file_reader *reader, void *data, int64_t size, struct error *error) {
    ssize_t count = call_read(reader->descriptor, data, (size_t)size);
    return count >= 0 ? count : error_set_errno(error, "%s: cannot read", reader->path);
}

int64_t file_reader_read(struct file_reader *reader, void *data, int64_t size, struct error *error) {
    int64_t used = 0;
    while (used < size) {
        int64_t count = file_reader_read_some(reader, (char *)data + used, size - used, error);
        if (count < 0) {
            return count;
        }
        if (count == 0) {
            break;
        }
        used += count;
    }
    return used;
}

void file_reader_close(struct file_reader *reader) {
    if (reader->descriptor > STDIN_FILENO) {
        close(reader->descriptor);
    }
    memory_free(reader->path);
    *reader = (struct file_reader){.descriptor = -1};
}

int random_file_open(struct random_file *file, const char *path, struct error *error) {
    *file = (struct random_file){.blocks = -1, .bytes = -1};
    file->path = memory_copy_string(path, error);
    if (file->path == NULL) {
        return ERROR_MEMORY;
    }
    file->bytes = call_open(path, O_RDONLY);
    file->blocks = file->bytes < 0 ? -1 : call_open(path, O_RDONLY | O_DIRECT);
    if (file->blocks < 0 && file->bytes >= 0 && errno == EINVAL) {   // a file system without O_DIRECT
        file->blocks = call_open(path, O_RDONLY);
    }
    if (file->blocks < 0) {
        int code = error_set_errno(error, "%s: cannot open", path);
        random_file_close(file);
        return code;
    }
    posix_fadvise(file->bytes, 0, 0, POSIX_FADV_RANDOM);   // no reading ahead: it would stay in the page cache
    return 0;
}

void random_file_close(struct random_file *file) {
    if (file->blocks >= 0) {
        close(file->blocks);
    }
    if (file->bytes >= 0) {
        close(file->bytes);
    }
    memory_free(file->path);
    *file = (struct random_file){.blocks = -1, .bytes = -1};
}

void random_file_forget(const struct random_file *file) {
    posix_fadvise(file->bytes, 0, 0, POSIX_FADV_DONTNEED);
}

// Clean pages of this range leave the page cache; whole ones only, so the range is widened to them.
static void forget_pages(int descriptor, int64_t offset, int64_t size) {
    int64_t begin = offset / FILE_BLOCK * FILE_BLOCK;
    int64_t end = (offset + size + FILE_BLOCK - 1) / FILE_BLOCK * FILE_BLOCK;
    posix_fadvise(descriptor, begin, end - begin, POSIX_FADV_DONTNEED);
}

static int read_at(const struct random_file *file, int descriptor, void *data, int64_t size, int64_t offset,
                   int64_t needed, struct error *error) {
    int64_t done = 0;
    while (done < needed) {
        ssize_t count = call_read_at(descriptor, (char *)data + done, (size_t)(size - done), offset + done);
        if (count < 0 && errno == EINVAL && (fcntl(descriptor, F_GETFL) & O_DIRECT) != 0) {
            // Some file systems refuse only now, or have blocks larger than ours: go on through the page cache.
            fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) & ~O_DIRECT);
        } else if (count < 0) {
            return error_set_errno(error, "%s: cannot read %lld bytes at %lld", file->path, (long long)size,
                                   (long long)offset);
        } else if (count == 0) {
            return error_set(error, ERROR_IO,
                             "%s: expected %lld bytes at %lld, found %lld: the file was truncated while in use",
                             file->path, (long long)needed, (long long)offset, (long long)done);
        } else {
            done += count;
        }
    }
    if ((fcntl(descriptor, F_GETFL) & O_DIRECT) == 0) {
        forget_pages(descriptor, offset, size);
    }
    return 0;
}

int file_read_blocks(const struct random_file *file, void *data, int64_t size, int64_t offset, int64_t needed,
                     struct error *error) {
    CHECK(((uintptr_t)data | (uint64_t)size | (uint64_t)offset) % FILE_BLOCK == 0 && needed <= size,
          "%lld bytes at %lld to %p", (long long)size, (long long)offset, data);
    return read_at(file, file->blocks, data, size, offset, needed, error);
}

int file_read_bytes(const struct random_file *file, void *data, int64_t size, int64_t offset, struct error *error) {
    return read_at(file, file->bytes, data, size, offset, size, error);
}

int file_writer_open(struct file_writer *writer, const char *path, struct error *error) {
    *writer = (struct file_writer){.descriptor = -1, .capacity = BUFFER_BYTES};
    int code = ERROR_MEMORY;
    writer->path = memory_copy_string(path, error);
    writer->temporary = memory_format(error, "%s.tmp-%ld", path, (long)getpid());
    writer->buffer = memory_allocate(writer->capacity, 1, "write buffer", error);
    writer->checksum_state = memory_allocate(1, sizeof(XXH3_state_t), "checksum state", error);
    if (writer->path == NULL || writer->temporary == NULL || writer->buffer == NULL || writer->checksum_state == NULL) {
        goto out;
    }
    XXH3_64bits_reset(writer->checksum_state);
    writer->descriptor = call_open(writer->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW);
    if (writer->descriptor < 0) {
        code = error_set_errno(error, "%s: cannot create", path);
        goto out;
    }
    code = 0;

out:
    if (code != 0) {
        file_writer_abort(writer);
    }
    return code;
}

static int write_all(struct file_writer *writer, const uint8_t *data, size_t size, struct error *error) {
    while (size > 0) {
        ssize_t count = call_write(writer->descriptor, data, size);
        if (count < 0) {
            return error_set_errno(error, "%s: cannot write %zu bytes (%lld bytes in all so far)", writer->path, size,
                                   (long long)writer->written);
        }
        data += count;
        size -= (size_t)count;
    }
    return 0;
}

int file_writer_append(struct file_writer *writer, const void *data, size_t size, struct error *error) {
    CHECK(writer->descriptor >= 0, "writer of %s is not open", writer->path != NULL ? writer->path : "nothing");
    if (size == 0) {
        return 0;
    }
    int code = 0;
    writer->written += (int64_t)size;
    XXH3_64bits_update(writer->checksum_state, data, size);
    if (writer->used + size > writer->capacity) {
        code = write_all(writer, writer->buffer, writer->used, error);
        writer->used = 0;
    }
    if (code == 0 && size >= writer->capacity) {
        code = write_all(writer, data, size, error);
    } else if (code == 0) {
        memcpy(writer->buffer + writer->used, data, size);
        writer->used += size;
    }
    if (code != 0) {
        file_writer_abort(writer);
    }
    return code;
}

int file_writer_commit(struct file_writer *writer, struct error *error) {
    CHECK(writer->descriptor >= 0, "writer of %s is not open", writer->path != NULL ? writer->path : "nothing");
    int code = write_all(writer, writer->buffer, writer->used, error);
    if (code != 0) {
        goto out;
    }
    if (call_fsync(writer->descriptor) != 0) {
        code = error_set_errno(error, "%s: cannot write %lld bytes to the disk", writer->path,
                               (long long)writer->written);
        goto out;
    }
    int closed = close(writer->descriptor);
    writer->descriptor = -1;
    if (closed != 0 && errno != EINTR) {
        code = error_set_errno(error, "%s: cannot close", writer->path);
        goto out;
    }
    if (call_rename(writer->temporary, writer->path) != 0) {
        code = error_set_errno(error, "%s: cannot rename %s to it", writer->path, writer->temporary);
        goto out;
    }
    // From here on the file exists under its name; a failure only means that it may not survive a power cut.
    writer->temporary[0] = '\0';
    writer->checksum = XXH3_64bits_digest(writer->checksum_state);
    char *slash = strrchr(writer->path, '/');
    if (slash == NULL) {
        code = file_sync_directory(".", error);
    } else {
        slash[slash == writer->path] = '\0';   // keeps the "/" of a file in the root directory
        code = file_sync_directory(writer->path, error);
    }

out:
    file_writer_abort(writer);
    return code;
}

void file_writer_abort(struct file_writer *writer) {
    if (writer->descriptor >= 0) {
        close(writer->descriptor);
        unlink(writer->temporary);
    } else if (writer->temporary != NULL && writer->temporary[0] != '\0') {
        unlink(writer->temporary);
    }
    memory_free(writer->path);
    memory_free(writer->temporary);
    memory_free(writer->buffer);
    memory_free(writer->checksum_state);
    // What was written and its checksum stay readable after a commit.
    *writer = (struct file_writer){.descriptor = -1, .written = writer->written, .checksum = writer->checksum};
}

int file_write_text(const char *path, const char *text, struct error *error) {
    struct file_writer writer;
    int code = file_writer_open(&writer, path, error);
    if (code == 0) {
        code = file_writer_append(&writer, text, strlen(text), error);
    }
    if (code == 0) {
        code = file_writer_commit(&writer, error);
    }
    return code;
}

int file_checksum(const char *path, uint64_t *checksum, struct error *error) {
    int code = ERROR_MEMORY;
    XXH3_state_t *state = NULL;
    uint8_t *buffer = NULL;
    int descriptor = call_open(path, O_RDONLY);
    if (descriptor < 0) {
        return error_set_errno(error, "%s: cannot open", path);
    }
    state = memory_allocate(1, sizeof *state, "checksum state", error);
    buffer = memory_allocate(BUFFER_BYTES, 1, "read buffer", error);
    if (state == NULL || buffer == NULL) {
        goto out;
    }
    XXH3_64bits_reset(state);
    ssize_t count;
    while ((count = call_read(descriptor, buffer, BUFFER_BYTES)) > 0) {
        XXH3_64bits_update(state, buffer, (size_t)count);
    }
    if (count < 0) {
        code = error_set_errno(error, "%s: cannot read", path);
        goto out;
    }
    *checksum = XXH3_64bits_digest(state);
    code = 0;

out:
    close(descriptor);
    memory_free(buffer);
    memory_free(state);
    return code;
}

bool file_exists(const char *path) {
    struct stat status;
    return stat(path, &status) == 0;
}

bool file_is_directory(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

int file_make_directory(const char *path, struct error *error) {
    char *prefix = memory_copy_string(path, error);
    if (prefix == NULL) {
        return ERROR_MEMORY;
    }
    int code = 0;
    for (char *end = prefix + 1; prefix[0] != '\0'; end++) {
        if (*end != '/' && *end != '\0') {
            continue;
        }
        char kept = *end;
        *end = '\0';
        if (!file_is_directory(prefix) && call_mkdir(prefix) != 0 && !(errno == EEXIST && file_is_directory(prefix))) {
            code = error_set_errno(error, "%s: cannot create directory", prefix);
            break;
        }
        *end = kept;
        if (kept == '\0') {
            break;
        }
    }
    memory_free(prefix);
    return code;
}

int file_sync_directory(const char *path, struct error *error) {
    int code = 0;
    int descriptor = call_open(path, O_RDONLY | O_DIRECTORY);
    if (descriptor < 0) {
        return error_set_errno(error, "%s: cannot open directory", path);
    }
    // Some file systems cannot sync a directory and say so with EINVAL; there is nothing else to be done there.
    if (call_fsync(descriptor) != 0 && errno != EINVAL) {
        code = error_set_errno(error, "%s: cannot sync directory", path);
    }
    close(descriptor);
    return code;
}

int file_rename(const char *from, const char *to, struct error *error) {
    if (call_rename(from, to) != 0) {
        return error_set_errno(error, "%s: cannot rename to %s", from, to);
    }
    const char *end = strrchr(to, '/');
    while (end != NULL && end[1] == '\0' && end > to) {   // "a/b/" has the parent "a"
        do {
            end--;
        } while (end > to && *end != '/');
        if (*end != '/') {
            end = NULL;
        }
        break;
    }
    char *parent = end == NULL ? memory_copy_string(".", error)
                               : memory_format(error, "%.*s", (int)(end == to ? 1 : end - to), to);
    int code = parent == NULL ? ERROR_MEMORY : file_sync_directory(parent, error);
    memory_free(parent);
    return code;
}

static int remove_children(const char *path, struct error *error);

static int remove_one(const char *path, struct error *error) {
    struct stat status;
    if (lstat(path, &status) != 0) {
        return error_set_errno(error, "%s: cannot remove", path);
    }
    if (S_ISDIR(status.st_mode)) {   // a link to a directory is removed as a link
        int code = remove_children(path, error);
        if (code != 0) {
            return code;
        }
    }
    if (call_must_fail() || remove(path) != 0) {
        return error_set_errno(error, "%s: cannot remove", path);
    }
    return 0;
}

static int remove_children(const char *path, struct error *error) {
    char **names;
    int64_t count;
    int code = file_list(&names, &count, path, error);
    if (code != 0) {
        return code;
    }
    for (int64_t i = 0; i < count && code == 0; i++) {
        char *child = file_join(path, names[i], error);
        code = child == NULL ? ERROR_MEMORY : remove_one(child, error);
        memory_free(child);
    }
    file_list_free(names, count);
    return code;
}

int file_remove_tree(const char *path, struct error *error) {
    const char *last = path + strlen(path);
    while (last > path && last[-1] == '/') {
        last--;
    }
    const char *name = last;
    while (name > path && name[-1] != '/') {
        name--;
    }
    size_t length = (size_t)(last - name);
    if (length == 0 || (length == 1 && name[0] == '.') || (length == 2 && name[0] == '.' && name[1] == '.')) {
        return error_set(error, ERROR_ARGUMENT, "\"%s\": refusing to remove this tree", path);
    }
    return remove_one(path, error);
}

char *file_join(const char *directory, const char *name, struct error *error) {
    size_t length = strlen(directory);
    const char *slash = length == 0 || directory[length - 1] == '/' ? "" : "/";
    return memory_format(error, "%s%s%s", directory, slash, name);
}

static int compare_names(const void *left, const void *right) {
    return strcmp(*(char *const *)left, *(char *const *)right);
}

int file_list(char ***names, int64_t *count, const char *directory, struct error *error) {
    *names = NULL;
    *count = 0;
    char **list = NULL;
    int64_t used = 0, capacity = 0;
    int code = 0;
    DIR *handle = call_must_fail() ? NULL : opendir(directory);
    if (handle == NULL) {
        return error_set_errno(error, "%s: cannot open directory", directory);
    }
    for (;;) {
        errno = 0;
        const struct dirent *entry = call_must_fail() ? NULL : readdir(handle);
        if (entry == NULL) {
            if (errno != 0) {
                code = error_set_errno(error, "%s: cannot read directory", directory);
            }
            break;
        }
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        if (used == capacity) {
            capacity = capacity == 0 ? 16 : 2 * capacity;
            char **grown = memory_resize(list, (size_t)capacity, sizeof *list, "directory list", error);
            if (grown == NULL) {
                code = ERROR_MEMORY;
                break;
            }
            list = grown;
        }
        list[used] = memory_copy_string(entry->d_name, error);
        if (list[used] == NULL) {
            code = ERROR_MEMORY;
            break;
        }
        used++;
    }
    closedir(handle);
    if (code != 0) {
        file_list_free(list, used);
        return code;
    }
    if (used > 0) {
        qsort(list, (size_t)used, sizeof *list, compare_names);
    }
    *names = list;
    *count = used;
    return 0;
}

void file_list_free(char **names, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        memory_free(names[i]);
    }
    memory_free(names);
}
