// See page_files.h.
#include "infer/page_files.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"

#define MAGIC "MINKEPG2"   // another number when the bits of a latent change (2: attention by stretches)
#define SUFFIX ".page"
#define NAME_LENGTH 32       // hex digits
#define SLOTS 8              // pages on their way to disk
#define SCAN 4096            // pages looked at in one step
#define STALE_SECONDS 3600   // after which an unfinished file is a leftover

struct page_file_header {
    char magic[8];
    uint64_t checksum;   // XXH3-64 of the header with 0 here, and of the payload
    uint64_t payload_bytes;
    uint64_t weights[2];   // hash of the weights' name, the form, the format and the layers
    uint64_t parent[2], self[2];
    int64_t expanded, drafts;
    int32_t ids[ATTENTION_BLOCK];
};

struct page_entry {   // a file
    uint64_t hash[2];
    int64_t used;   // time of the last use, seconds
};

struct page_slot {
    char *image;   // header and payload
    bool full;
};

struct page_files {
    struct page_pool *pool;
    char *directory;
    uint64_t weights[2];
    int64_t bytes_limit, file_bytes;
    int64_t cursor;   // page that is looked at next

    pthread_t thread;
    bool thread_runs;
    pthread_mutex_t lock;   // over the rest
    pthread_cond_t changed;
    struct page_entry *entries;   // sorted by nothing; found by a table
    int64_t entry_count, entry_capacity;
    int32_t *table;   // open addressing, -1 = empty
    int64_t table_size;
    struct page_slot slots[SLOTS];
    bool stop, warned;
};

// ---- Index ----------------------------------------------------------------------------------------------------------

static int64_t now_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec;
}

static int32_t *table_place(struct page_files *files, const uint64_t hash[2]) {
    uint64_t at = hash[0];
    for (;; at++) {
        int32_t *place = &files->table[at % (uint64_t)files->table_size];
        if (*place < 0 || memcmp(files->entries[*place].hash, hash, sizeof files->entries[0].hash) == 0) {
            return place;
        }
    }
}

static void table_fill(struct page_files *files) {
    for (int64_t i = 0; i < files->table_size; i++) {
        files->table[i] = -1;
    }
    for (int64_t i = 0; i < files->entry_count; i++) {
        *table_place(files, files->entries[i].hash) = (int32_t)i;
    }
}

static int index_add(struct page_files *files, const uint64_t hash[2], int64_t used, struct error *error) {
    if (files->entry_count == files->entry_capacity) {
        int64_t capacity = files->entry_capacity > 0 ? 2 * files->entry_capacity : 256;
        struct page_entry *entries = memory_resize(files->entries, (size_t)capacity, sizeof *entries, "page files",
                                                   error);
        if (entries == NULL) {
            return ERROR_MEMORY;
        }
        files->entries = entries;
        int32_t *table = memory_resize(files->table, (size_t)(2 * capacity + 1), sizeof *table, "page files", error);
        if (table == NULL) {
            return ERROR_MEMORY;
        }
        files->table = table;
        files->table_size = 2 * capacity + 1;
        files->entry_capacity = capacity;
        table_fill(files);
    }
    int32_t *place = table_place(files, hash);
    if (*place < 0) {
        *place = (int32_t)files->entry_count;
        files->entries[files->entry_count++] = (struct page_entry){{hash[0], hash[1]}, used};
    }
    files->entries[*place].used = used;
    return 0;
}

static bool index_has(struct page_files *files, const uint64_t hash[2], int64_t used) {
    pthread_mutex_lock(&files->lock);
    int32_t found = files->entry_count > 0 ? *table_place(files, hash) : -1;
    if (found >= 0 && used > 0) {
        files->entries[found].used = used;
    }
    pthread_mutex_unlock(&files->lock);
    return found >= 0;
}

static void index_remove(struct page_files *files, const uint64_t hash[2]) {
    pthread_mutex_lock(&files->lock);
    int32_t found = files->entry_count > 0 ? *table_place(files, hash) : -1;
    if (found >= 0) {
        files->entries[found] = files->entries[--files->entry_count];
        table_fill(files);
    }
    pthread_mutex_unlock(&files->lock);
}

// ---- Names ----------------------------------------------------------------------------------------------------------

static char *file_name(const struct page_files *files, const uint64_t hash[2], struct error *error) {
    return memory_format(error, "%s/%016" PRIx64 "%016" PRIx64 SUFFIX, files->directory, hash[0], hash[1]);
}

static bool parse_name(uint64_t hash[2], const char *name) {
    char digits[2][17] = {{0}};
    char *end[2];
    if (strlen(name) != NAME_LENGTH + strlen(SUFFIX) || strcmp(name + NAME_LENGTH, SUFFIX) != 0 ||
        strspn(name, "0123456789abcdef") != NAME_LENGTH) {
        return false;
    }
    for (int i = 0; i < 2; i++) {
        memcpy(digits[i], name + 16 * i, 16);
        hash[i] = strtoull(digits[i], &end[i], 16);
    }
    return true;
}

static void remove_file(struct page_files *files, const uint64_t hash[2]) {
    char *path = file_name(files, hash, NULL);
    if (path != NULL) {
        unlink(path);   // what is gone already is fine
        memory_free(path);
    }
    index_remove(files, hash);
}

// Removes the least recently used files until the bound holds.
static void keep_bound(struct page_files *files) {
    while (files->bytes_limit > 0) {
        uint64_t oldest[2] = {0};
        int64_t least = INT64_MAX;
        pthread_mutex_lock(&files->lock);
        bool over = files->entry_count * files->file_bytes > files->bytes_limit;
        for (int64_t i = 0; i < files->entry_count && over; i++) {
            if (files->entries[i].used < least) {
                least = files->entries[i].used;
                memcpy(oldest, files->entries[i].hash, sizeof oldest);
            }
        }
        pthread_mutex_unlock(&files->lock);
        if (!over) {
            return;
        }
        remove_file(files, oldest);
    }
}

// ---- Writing --------------------------------------------------------------------------------------------------------

static uint64_t image_checksum(const struct page_file_header *header, const void *payload) {
    struct page_file_header copy = *header;
    copy.checksum = 0;
    uint64_t of_header = XXH3_64bits(&copy, sizeof copy);
    return XXH3_64bits_withSeed(payload, header->payload_bytes, of_header);
}

static void fill_image(const struct page_files *files, char *image, const struct page *page, int32_t number,
                       const uint64_t parent[2]) {
    struct page_file_header header = {.magic = MAGIC,
                                      .payload_bytes = (uint64_t)files->pool->page_bytes,
                                      .weights = {files->weights[0], files->weights[1]},
                                      .parent = {parent[0], parent[1]},
                                      .self = {page->chain.hash[0], page->chain.hash[1]},
                                      .expanded = page->expanded,
                                      .drafts = page->drafts};
    memcpy(header.ids, page->ids, sizeof header.ids);
    memcpy(image + sizeof header, page_pool_data(files->pool, number), (size_t)files->pool->page_bytes);
    memcpy(image, &header, sizeof header);   // the checksum is the writing thread's work
}

static int write_image(struct page_files *files, char *image, struct error *error) {
    struct page_file_header *header = (struct page_file_header *)(void *)image;
    header->checksum = image_checksum(header, image + sizeof *header);
    char *path = file_name(files, header->self, error);
    if (path == NULL) {
        return ERROR_MEMORY;
    }
    struct file_writer writer;
    int code = file_writer_open(&writer, path, error);
    if (code == 0 && (code = file_writer_append(&writer, image, (size_t)files->file_bytes, error)) == 0) {
        code = file_writer_commit(&writer, error);
    }
    memory_free(path);
    if (code == 0) {
        pthread_mutex_lock(&files->lock);
        code = index_add(files, header->self, now_seconds(), error);
        pthread_mutex_unlock(&files->lock);
        keep_bound(files);
    }
    return code;
}

static void save_image(struct page_files *files, char *image) {
    struct error error = {0};
    if (write_image(files, image, &error) != 0 && !files->warned) {
        files->warned = true;   // a full disk is said once
        log_warning("prefix cache: %s", error.text);
    }
}

static void *writing_thread(void *argument) {
    struct page_files *files = argument;
    pthread_mutex_lock(&files->lock);
    for (;;) {
        int slot = 0;
        while (slot < SLOTS && !files->slots[slot].full) {
            slot++;
        }
        if (slot == SLOTS) {
            if (files->stop) {
                break;
            }
            pthread_cond_wait(&files->changed, &files->lock);
            continue;
        }
        pthread_mutex_unlock(&files->lock);
        save_image(files, files->slots[slot].image);
        pthread_mutex_lock(&files->lock);
        files->slots[slot].full = false;
        pthread_cond_broadcast(&files->changed);
    }
    pthread_mutex_unlock(&files->lock);
    return NULL;
}

static struct page_slot *free_slot(struct page_files *files) {
    for (int slot = 0; slot < SLOTS; slot++) {
        if (!files->slots[slot].full) {
            return &files->slots[slot];
        }
    }
    return NULL;
}

// Hands one page over; false if there is no room.
static bool hand_over(struct page_files *files, int32_t number) {
    struct page *page = &files->pool->pages[number];
    if (index_has(files, page->chain.hash, 0)) {
        page->saved = true;
        return true;
    }
    pthread_mutex_lock(&files->lock);
    struct page_slot *slot = free_slot(files);
    pthread_mutex_unlock(&files->lock);
    if (slot == NULL) {
        return false;
    }
    fill_image(files, slot->image, page, number, page->parent_hash);   // only this thread fills slots
    pthread_mutex_lock(&files->lock);
    slot->full = true;
    pthread_cond_broadcast(&files->changed);
    pthread_mutex_unlock(&files->lock);
    page->saved = true;
    return true;
}

void page_files_save_some(struct page_files *files) {
    struct page_pool *pool = files->pool;
    for (int64_t looked = 0; looked < SCAN && looked < pool->page_count; looked++) {
        const struct page *page = &pool->pages[files->cursor];
        if (page->registered && !page->saved && !hand_over(files, (int32_t)files->cursor)) {
            return;
        }
        files->cursor = (files->cursor + 1) % pool->page_count;
    }
}

void page_files_wait(struct page_files *files) {
    pthread_mutex_lock(&files->lock);
    for (int slot = 0; slot < SLOTS; slot++) {
        while (files->slots[slot].full) {
            pthread_cond_wait(&files->changed, &files->lock);
        }
    }
    pthread_mutex_unlock(&files->lock);
}

// ---- Reading --------------------------------------------------------------------------------------------------------

static bool header_fits(const struct page_files *files, const struct page_file_header *header,
                        const struct page_chain *chain, const uint64_t self[2], const int32_t *ids) {
    return memcmp(header->magic, MAGIC, sizeof header->magic) == 0 &&
           header->payload_bytes == (uint64_t)files->pool->page_bytes &&
           memcmp(header->weights, files->weights, sizeof header->weights) == 0 &&
           memcmp(header->parent, chain->hash, sizeof header->parent) == 0 &&
           memcmp(header->self, self, sizeof header->self) == 0 && memcmp(header->ids, ids, sizeof header->ids) == 0;
}

static int read_page(const struct page_files *files, struct page_file_header *header, int32_t page, const char *path,
                     const struct page_chain *chain, const uint64_t self[2], const int32_t *ids, struct error *error) {
    struct file_reader reader;
    int code = file_reader_open(&reader, path, error);
    if (code == 0) {
        char *payload = page_pool_data(files->pool, page);
        int64_t found = file_reader_read(&reader, header, sizeof *header, error);
        bool good = found == (int64_t)sizeof *header && header_fits(files, header, chain, self, ids);
        if (good) {
            found = file_reader_read(&reader, payload, files->pool->page_bytes, error);
            good = found == files->pool->page_bytes && header->checksum == image_checksum(header, payload);
        }
        if (found < 0) {
            code = (int)found;
        } else if (!good) {
            code = error_set(error, ERROR_FORMAT, "%s: damaged or not a page of this model", path);
        }
    }
    file_reader_close(&reader);
    return code;
}

static int32_t load_named(struct page_files *files, const struct page_chain *chain, const struct page_want *want,
                          int64_t expanded) {
    struct page_chain self = page_chain_next(chain, want->ids, expanded);
    if (!index_has(files, self.hash, now_seconds())) {
        return -1;
    }
    struct error error = {0};
    struct page_file_header header;
    int32_t page = page_pool_take(files->pool);
    char *path = page < 0 ? NULL : file_name(files, self.hash, &error);
    if (path == NULL) {
        if (page >= 0) {
            page_pool_release(files->pool, page);
        }
        return -1;
    }
    if (read_page(files, &header, page, path, chain, self.hash, want->ids, &error) == 0) {
        page_pool_register(files->pool, page, chain, want->ids, expanded, header.drafts != 0);
        files->pool->pages[page].saved = true;
        utimensat(AT_FDCWD, path, NULL, 0);   // for the order of use after a restart
    } else {
        if (error.code == ERROR_FORMAT) {
            log_warning("prefix cache: %s; the file is removed", error.text);
        }
        remove_file(files, self.hash);
        page_pool_release(files->pool, page);
        page = -1;
    }
    memory_free(path);
    return page;
}

int32_t page_files_load(struct page_files *files, const struct page_chain *chain, const struct page_want *want) {
    int32_t page = load_named(files, chain, want, want->expanded);
    for (int64_t expanded = 0; page < 0 && want->any_form && expanded <= ATTENTION_BLOCK; expanded++) {
        page = load_named(files, chain, want, expanded);
    }
    return page;
}

// ---- Life -----------------------------------------------------------------------------------------------------------

static int scan_directory(struct page_files *files, struct error *error) {
    char **names = NULL;
    int64_t count = 0;
    int code = file_list(&names, &count, files->directory, error);
    for (int64_t i = 0; i < count && code == 0; i++) {
        uint64_t hash[2];
        struct stat status;
        char *path = file_join(files->directory, names[i], error);
        if (path == NULL) {
            code = ERROR_MEMORY;
        } else if (stat(path, &status) == 0) {
            if (parse_name(hash, names[i])) {
                code = index_add(files, hash, status.st_mtime, error);
            } else if (strstr(names[i], ".tmp-") != NULL && status.st_mtime + STALE_SECONDS < now_seconds()) {
                unlink(path);
            }
        }
        memory_free(path);
    }
    file_list_free(names, count);
    return code;
}

static int open_directory(struct page_files *files, const struct page_files_options *options, struct error *error) {
    const struct page_pool *pool = files->pool;
    const struct layer_cache *layer = &pool->layers[0];
    const char *stored = tensor_present(&layer->keys_values)        ? "expanded"
                         : layer->latent.format == FORMAT_E4M3_TILE ? "latent e4m3"
                                                                    : "latent";
    char *content = memory_format(error, "%s|%s|%d|%lld|%lld", options->weights_name, stored, layer->rope_key.format,
                                  (long long)pool->layer_count, (long long)pool->page_bytes);
    if (content == NULL) {
        return ERROR_MEMORY;
    }
    XXH128_hash_t hash = XXH3_128bits(content, strlen(content));
    memory_free(content);
    files->weights[0] = hash.low64;
    files->weights[1] = hash.high64;
    files->directory = memory_format(error, "%s/%016" PRIx64 "%016" PRIx64, options->directory, files->weights[0],
                                     files->weights[1]);
    int code = files->directory == NULL ? ERROR_MEMORY : file_make_directory(files->directory, error);
    return code != 0 ? code : scan_directory(files, error);
}

static int start_thread(struct page_files *files, struct error *error) {
    // Signals belong to the program's own threads.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failure = pthread_create(&files->thread, NULL, writing_thread, files);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    files->thread_runs = failure == 0;
    return failure == 0 ? 0
                        : error_set(error, ERROR_LIMIT, "prefix cache: cannot start a thread: %s", strerror(failure));
}

int page_files_open(struct page_files **out, struct page_pool *pool, const struct page_files_options *options,
                    struct error *error) {
    *out = NULL;
    struct page_files *files = memory_allocate(1, sizeof *files, "page files", error);
    if (files == NULL) {
        return ERROR_MEMORY;
    }
    files->pool = pool;
    files->bytes_limit = options->bytes;
    files->file_bytes = pool->page_bytes + (int64_t)sizeof(struct page_file_header);
    pthread_mutex_init(&files->lock, NULL);
    pthread_cond_init(&files->changed, NULL);
    int code = open_directory(files, options, error);
    for (int slot = 0; slot < SLOTS && code == 0; slot++) {
        files->slots[slot].image = memory_allocate((size_t)files->file_bytes, 1, "page files", error);
        code = files->slots[slot].image == NULL ? ERROR_MEMORY : 0;
    }
    if (code == 0) {
        code = start_thread(files, error);
    }
    if (code != 0) {
        page_files_close(files);
        return code;
    }
    keep_bound(files);
    *out = files;
    return 0;
}

void page_files_close(struct page_files *files) {
    if (files == NULL) {
        return;
    }
    if (files->thread_runs) {
        for (int64_t page = 0; page < files->pool->page_count; page++) {
            while (files->pool->pages[page].registered && !files->pool->pages[page].saved &&
                   !hand_over(files, (int32_t)page)) {
                page_files_wait(files);
            }
        }
        pthread_mutex_lock(&files->lock);
        files->stop = true;
        pthread_cond_broadcast(&files->changed);
        pthread_mutex_unlock(&files->lock);
        pthread_join(files->thread, NULL);
    }
    for (int slot = 0; slot < SLOTS; slot++) {
        memory_free(files->slots[slot].image);
    }
    pthread_cond_destroy(&files->changed);
    pthread_mutex_destroy(&files->lock);
    memory_free(files->entries);
    memory_free(files->table);
    memory_free(files->directory);
    memory_free(files);
}
