// Cutting files into documents (corpus.h). One window slides over one open file; it grows to hold a record and is
// reused.
#include "data/corpus.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "text/unicode.h"

#define READ_BYTES ((int64_t)1 << 20)
#define BINARY_BYTES 8192
#define DIRECTORY_DEPTH 64
#define STOP_MILLISECONDS 100   // how often a wait for standard input looks whether it should end

struct source {
    char *path;
    char *name;   // for messages
    int64_t bytes;
    bool jsonl, held_out, walked;   // walked: found in a directory, not named
};

struct corpus {
    const struct corpus_options *options;
    struct source *sources;
    int64_t source_count, source_capacity;
    int64_t bytes, position, binary_files;

    int64_t current;     // source being read, or to be opened next
    bool open, at_end;   // at_end: the file has no bytes beyond the window
    struct file_reader reader;
    struct byte_buffer window;   // bytes read; those before `begin` are consumed
    int64_t begin;
    int64_t offset;   // of window.data[begin] in the file
    int64_t line;     // JSON lines: number of the next line
};

int corpus_create(struct corpus **out, const struct corpus_options *options, struct error *error) {
    *out = memory_allocate(1, sizeof **out, "corpus", error);
    if (*out == NULL) {
        return ERROR_MEMORY;
    }
    (*out)->options = options;
    return 0;
}

static void close_source(struct corpus *corpus) {
    if (corpus->open) {
        file_reader_close(&corpus->reader);
    }
    corpus->open = false;
    corpus->window.size = corpus->begin = 0;
}

void corpus_free(struct corpus *corpus) {
    if (corpus == NULL) {
        return;
    }
    close_source(corpus);
    for (int64_t i = 0; i < corpus->source_count; i++) {
        memory_free(corpus->sources[i].path);
        memory_free(corpus->sources[i].name);
    }
    memory_free(corpus->sources);
    byte_buffer_destroy(&corpus->window);
    memory_free(corpus);
}

int64_t corpus_files(const struct corpus *corpus) {
    return corpus->source_count;
}

int64_t corpus_bytes(const struct corpus *corpus) {
    return corpus->bytes;
}

int64_t corpus_position(const struct corpus *corpus) {
    return corpus->position;
}

int64_t corpus_binary_files(const struct corpus *corpus) {
    return corpus->binary_files;
}

const char *corpus_source_name(const struct corpus *corpus, int64_t source) {
    CHECK(source >= 0 && source < corpus->source_count, "source %lld", (long long)source);
    return corpus->sources[source].name;
}

// ---- the list of files ----------------------------------------------------------------------------------------------

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

static int add_file(struct corpus *corpus, const char *path, const char *name, struct source source,
                    struct error *error) {
    if (corpus->source_count == corpus->source_capacity) {
        int64_t capacity = 2 * corpus->source_capacity + 16;
        struct source *grown = memory_resize(corpus->sources, (size_t)capacity, sizeof *grown, "list of files", error);
        if (grown == NULL) {
            return ERROR_MEMORY;
        }
        corpus->sources = grown;
        corpus->source_capacity = capacity;
    }
    enum corpus_format format = corpus->options->format;
    source.jsonl = format == CORPUS_JSONL ||
                   (format == CORPUS_BY_NAME && (ends_with(name, ".jsonl") || ends_with(name, ".ndjson")));
    source.path = memory_copy_string(path, error);
    source.name = memory_copy_string(name, error);
    if (source.path == NULL || source.name == NULL) {
        memory_free(source.path);
        memory_free(source.name);
        return ERROR_MEMORY;
    }
    corpus->sources[corpus->source_count++] = source;
    corpus->bytes += source.bytes;
    return 0;
}

static int add_path(struct corpus *corpus, const char *path, bool held_out, int depth, struct error *error);

static int add_directory(struct corpus *corpus, const char *path, bool held_out, int depth, struct error *error) {
    if (depth == DIRECTORY_DEPTH) {
        return error_set(error, ERROR_LIMIT, "%s: more than %d directories deep (a link to a directory above it?)",
                         path, DIRECTORY_DEPTH);
    }
    char **names;
    int64_t count;
    int code = file_list(&names, &count, path, error);
    if (code != 0) {
        return code;
    }
    for (int64_t i = 0; i < count && code == 0; i++) {
        if (names[i][0] == '.') {
            continue;
        }
        char *child = file_join(path, names[i], error);
        code = child == NULL ? ERROR_MEMORY : add_path(corpus, child, held_out, depth + 1, error);
        memory_free(child);
    }
    file_list_free(names, count);
    return code;
}

// depth 0: named by the user.
static int add_path(struct corpus *corpus, const char *path, bool held_out, int depth, struct error *error) {
    struct stat status;
    if (stat(path, &status) != 0) {
        return error_set_errno(error, "%s: cannot open", path);
    }
    if (S_ISDIR(status.st_mode)) {
        return add_directory(corpus, path, held_out, depth, error);
    }
    if (!S_ISREG(status.st_mode)) {
        if (depth > 0) {
            return 0;   // sockets and devices of a directory are no text
        }
        return error_set(error, ERROR_ARGUMENT,
                         "%s: found a special file, expected a file or a directory (\"-\" is standard input)", path);
    }
    struct source source = {.bytes = status.st_size, .held_out = held_out, .walked = depth > 0};
    return add_file(corpus, path, path, source, error);
}

static bool stopped(const struct corpus *corpus) {
    return corpus->options->stop != NULL && *corpus->options->stop != 0;
}

// Bytes that stand ready, 0 at the end; a negative code, also when told to stop.
static int64_t read_standard_input(struct file_reader *reader, char *buffer, const struct corpus *corpus,
                                   struct error *error) {
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    int ready = 0;
    while (ready == 0 && !stopped(corpus)) {
        ready = poll(&input, 1, STOP_MILLISECONDS);
        if (ready < 0 && errno != EINTR) {
            return error_set_errno(error, "standard input: cannot wait");
        }
        ready = ready < 0 ? 0 : ready;
    }
    return ready == 0 ? error_set(error, ERROR_STATE, "interrupted; nothing was written")
                      : file_reader_read_some(reader, buffer, READ_BYTES, error);
}

static int copy_standard_input(int64_t *bytes, const char *spool, const struct corpus *corpus, struct error *error) {
    struct file_reader reader;
    struct file_writer writer;
    bool writing = false;
    int code = file_reader_open(&reader, "-", error);
    if (code != 0) {
        return code;
    }
    char *buffer = memory_allocate((size_t)READ_BYTES, 1, "read buffer", error);
    code = buffer == NULL ? ERROR_MEMORY : file_writer_open(&writer, spool, error);
    writing = code == 0;
    *bytes = 0;
    while (code == 0) {
        int64_t count = read_standard_input(&reader, buffer, corpus, error);
        if (count <= 0) {
            code = (int)count;
            break;
        }
        *bytes += count;
        code = file_writer_append(&writer, buffer, (size_t)count, error);
    }
    if (code == 0) {
        code = file_writer_commit(&writer, error);
    } else if (writing) {
        file_writer_abort(&writer);
    }
    file_reader_close(&reader);
    memory_free(buffer);
    return code;
}

int corpus_add(struct corpus *corpus, const char *path, bool held_out, const char *spool, struct error *error) {
    if (strcmp(path, "-") != 0) {
        return add_path(corpus, path, held_out, 0, error);
    }
    struct source source = {.held_out = held_out};
    int code = copy_standard_input(&source.bytes, spool, corpus, error);
    return code == 0 ? add_file(corpus, spool, "standard input", source, error) : code;
}

// ---- the window -----------------------------------------------------------------------------------------------------

static int64_t available(const struct corpus *corpus) {
    return corpus->window.size - corpus->begin;
}

static int64_t least(int64_t left, int64_t right) {
    return left < right ? left : right;
}

static const char *unread(const struct corpus *corpus) {
    return corpus->window.data + corpus->begin;
}

// Makes at least `wanted` bytes available, or all that the file has.
static int window_fill(struct corpus *corpus, int64_t wanted, struct error *error) {
    struct byte_buffer *window = &corpus->window;
    if (available(corpus) >= wanted || corpus->at_end) {
        return 0;
    }
    if (corpus->begin > 0) {
        memmove(window->data, window->data + corpus->begin, (size_t)available(corpus));
        window->size -= corpus->begin;
        corpus->begin = 0;
    }
    while (window->size < wanted && !corpus->at_end) {
        // By doubling: what is wanted may be far more than the file has.
        int64_t more = window->size > READ_BYTES ? window->size : READ_BYTES;
        int code = byte_buffer_reserve(window, more, error);
        if (code != 0) {
            return code;
        }
        int64_t count = file_reader_read(&corpus->reader, window->data + window->size, more, error);
        if (count < 0) {
            return (int)count;
        }
        window->size += count;
        corpus->position += count;
        corpus->at_end = count < more;
    }
    return 0;
}

static void consume(struct corpus *corpus, int64_t bytes) {
    corpus->begin += bytes;
    corpus->offset += bytes;
}

// Opens sources until one has something to read; sets corpus->open, or leaves it false at the end of the corpus.
static int open_next(struct corpus *corpus, struct error *error) {
    while (!corpus->open && corpus->current < corpus->source_count) {
        const struct source *source = &corpus->sources[corpus->current];
        int code = file_reader_open(&corpus->reader, source->path, error);
        if (code != 0) {
            return code;
        }
        corpus->open = true;
        corpus->at_end = false;
        corpus->offset = 0;
        corpus->line = 1;
        if ((code = window_fill(corpus, BINARY_BYTES, error)) != 0) {
            return code;
        }
        int64_t seen = least(available(corpus), BINARY_BYTES);
        if (source->walked && seen > 0 && memchr(unread(corpus), 0, (size_t)seen) != NULL) {
            corpus->binary_files++;
            corpus->position += source->bytes - available(corpus);
            close_source(corpus);
            corpus->current++;
        } else if (seen >= 3 && memcmp(unread(corpus), "\xEF\xBB\xBF", 3) == 0) {
            consume(corpus, 3);
        }
    }
    return 0;
}

void corpus_rewind(struct corpus *corpus) {
    close_source(corpus);
    corpus->current = corpus->position = corpus->binary_files = 0;
}

// ---- cutting --------------------------------------------------------------------------------------------------------

static bool is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '\v' || c == '\f';
}

int64_t corpus_cut(const char *text, int64_t most) {
    int64_t line = 0, space = 0, first = most / 2;
    int64_t candidate = 0;   // behind a line feed with nothing but blanks between `i` and it
    for (int64_t i = most; i > first; i--) {
        char c = text[i - 1];   // the last byte of the document if the cut is at i
        if (c == '\n') {
            if (candidate > 0) {
                return candidate;
            }
            candidate = i;
            line = line == 0 ? i : line;
        } else if (!is_blank(c)) {
            candidate = 0;
        }
        space = space == 0 && is_blank(c) ? i : space;
    }
    int64_t cut = line > 0 ? line : space > 0 ? space : most;
    // No place to cut: at least not inside a UTF-8 character.
    for (int back = 0; cut == most - back && back < 3 && cut > 1 && ((unsigned char)text[cut] & 0xc0) == 0x80; back++) {
        cut--;
    }
    return cut;
}

// One line, without its line feed. Lines of blanks are passed over.
static int next_line(struct corpus_record *record, struct corpus *corpus, struct error *error) {
    for (;;) {
        int64_t searched = 0, size;
        for (;;) {
            const char *end = available(corpus) > searched
                                  ? memchr(unread(corpus) + searched, '\n', (size_t)(available(corpus) - searched))
                                  : NULL;
            if (end != NULL) {
                size = end - unread(corpus);
                break;
            }
            searched = size = available(corpus);
            if (corpus->at_end) {
                break;
            }
            if (size > CORPUS_DOCUMENT_LIMIT) {
                return error_set(error, ERROR_LIMIT, "%s: line %lld: more than %lld bytes, the limit of a document",
                                 corpus->reader.path, (long long)corpus->line, (long long)CORPUS_DOCUMENT_LIMIT);
            }
            int code = window_fill(corpus, least(2 * size, CORPUS_DOCUMENT_LIMIT) + 1, error);
            if (code != 0) {
                return code;
            }
        }
        if (available(corpus) == 0) {
            return 0;
        }
        bool blank = true;
        for (int64_t i = 0; i < size && blank; i++) {
            blank = is_blank(unread(corpus)[i]);
        }
        if (!blank) {
            record->size = size;
            record->place = corpus->line;
            return 1;
        }
        consume(corpus, size < available(corpus) ? size + 1 : size);
        corpus->line++;
    }
}

// Sets record->size; *separator becomes the bytes to pass over behind it.
static int next_text(struct corpus_record *record, int64_t *separator, struct corpus *corpus, struct error *error) {
    const struct corpus_options *options = corpus->options;
    bool separated = options->separator != NULL;
    int64_t most = separated || options->document_bytes == 0 ? CORPUS_DOCUMENT_LIMIT : options->document_bytes;
    *separator = 0;
    record->place = corpus->offset;
    for (int64_t searched = 0; separated;) {
        const char *end = memmem(unread(corpus) + searched, (size_t)(available(corpus) - searched), options->separator,
                                 (size_t)options->separator_size);
        if (end != NULL) {
            record->size = end - unread(corpus);
            *separator = options->separator_size;
            return 1;
        }
        if (corpus->at_end || available(corpus) > most) {
            break;
        }
        // A separator may stand across the end of what was searched.
        searched = available(corpus) < options->separator_size ? 0 : available(corpus) - options->separator_size + 1;
        int code = window_fill(corpus, least(2 * available(corpus), most) + 1, error);
        if (code != 0) {
            return code;
        }
    }
    int code = window_fill(corpus, most + most / 4 + 1, error);
    if (code != 0) {
        return code;
    }
    int64_t left = available(corpus);
    record->size = left > most + most / 4 ? corpus_cut(unread(corpus), most) : left;
    return left > 0 ? 1 : 0;
}

int corpus_next(struct corpus_record *record, struct byte_buffer *bytes, struct corpus *corpus, struct error *error) {
    for (;;) {
        int code = open_next(corpus, error);
        if (code != 0 || !corpus->open) {
            return code;
        }
        const struct source *source = &corpus->sources[corpus->current];
        *record = (struct corpus_record){
            .source = corpus->current, .jsonl = source->jsonl, .held_out = source->held_out};
        int64_t separator = 0;
        int found = source->jsonl ? next_line(record, corpus, error) : next_text(record, &separator, corpus, error);
        if (found < 0) {
            return found;
        }
        if (found == 0) {
            close_source(corpus);
            corpus->current++;
            continue;
        }
        record->begin = bytes->size;
        code = byte_buffer_append(bytes, unread(corpus), record->size, error);
        if (code != 0) {
            return code;
        }
        if (source->jsonl) {
            separator = record->size < available(corpus);   // the line feed
            corpus->line++;
        }
        consume(corpus, record->size + separator);
        return 1;
    }
}

// ---- cleaning -------------------------------------------------------------------------------------------------------

// Bytes at text[0..size) that begin no character: the longest prefix of one (Unicode 3.9, "maximal subpart"), at
// least 1.
static int64_t ill_formed_prefix(const uint8_t *text, int64_t size) {
    unsigned lead = text[0];
    if (lead < 0xc2 || lead > 0xf4) {
        return 1;
    }
    int64_t need = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    unsigned low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    unsigned high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    int64_t length = 1;
    while (length < need && length < size && text[length] >= low && text[length] <= high) {
        length++;
        low = 0x80;
        high = 0xbf;
    }
    return length;
}

// Where the next ill-formed sequence begins; size if there is none.
static int64_t find_ill_formed(const uint8_t *text, int64_t size, int64_t from) {
    int64_t at = from;
    while (at < size) {
        uint64_t word;
        if (size - at >= 8 && (memcpy(&word, text + at, 8), (word & 0x8080808080808080u) == 0)) {
            at += 8;
            continue;
        }
        uint32_t code;
        unsigned length = unicode_decode(&code, text + at, (size_t)(size - at));
        if (code == UNICODE_ILL_FORMED) {
            return at;
        }
        at += length;
    }
    return size;
}

bool corpus_is_well_formed(const char *text, int64_t size) {
    return find_ill_formed((const uint8_t *)text, size, 0) == size;
}

static int append_well_formed(struct byte_buffer *text, int64_t *replaced, const struct corpus *corpus,
                              const struct corpus_record *record, const char *data, struct error *error) {
    const uint8_t *bytes = (const uint8_t *)data;
    int64_t size = record->size, at = 0;
    int code = 0;
    if (corpus->options->ill_formed == CORPUS_KEEP) {
        return byte_buffer_append(text, data, size, error);
    }
    while (code == 0 && at < size) {
        int64_t bad = find_ill_formed(bytes, size, at);
        code = byte_buffer_append(text, data + at, bad - at, error);
        at = bad;
        if (code != 0 || at == size) {
            break;
        }
        if (corpus->options->ill_formed == CORPUS_REFUSE) {
            return error_set(error, ERROR_FORMAT, "%s: %s %lld: ill-formed UTF-8: found byte 0x%02x at its byte %lld",
                             corpus->sources[record->source].name, record->jsonl ? "line" : "document at byte",
                             (long long)record->place, bytes[at], (long long)at);
        }
        code = byte_buffer_append(text, "\xEF\xBF\xBD", 3, error);
        at += ill_formed_prefix(bytes + at, size - at);
        ++*replaced;
    }
    return code;
}

static void make_line_feeds(struct byte_buffer *text, int64_t from) {
    int64_t out = from;
    for (int64_t i = from; i < text->size; i++) {
        char c = text->data[i];
        if (c == '\r') {
            c = '\n';
            i += i + 1 < text->size && text->data[i + 1] == '\n';
        }
        text->data[out++] = c;
    }
    text->size = out;
}

// The string at the text key; *text holds the line from `from` on and then the string instead.
static int extract_string(struct byte_buffer *text, int64_t from, const struct corpus *corpus,
                          const struct corpus_record *record, struct error *error) {
    const char *name = corpus->sources[record->source].name, *key = corpus->options->text_key;
    json_t *root;
    int code = json_parse_line(&root, text->data + from, (size_t)(text->size - from), name, record->place, error);
    if (code != 0) {
        return code;
    }
    const json_t *value = json_object_get(root, key);   // NULL when root is no object
    if (!json_is_object(root)) {
        code = error_set(error, ERROR_FORMAT, "%s: line %lld: expected an object, found %s", name,
                         (long long)record->place, json_type_text(root));
    } else if (!json_is_string(value)) {
        code = error_set(error, ERROR_FORMAT, "%s: line %lld: key \"%s\": expected a string, found %s", name,
                         (long long)record->place, key, json_type_text(value));
    } else {
        text->size = from;
        code = byte_buffer_append(text, json_string_value(value), (int64_t)json_string_length(value), error);
    }
    json_decref(root);
    return code;
}

int corpus_clean(struct byte_buffer *text, int64_t *replaced, const struct corpus *corpus,
                 const struct corpus_record *record, const char *data, struct error *error) {
    int64_t from = text->size;
    int code = append_well_formed(text, replaced, corpus, record, data, error);
    if (code == 0 && record->jsonl) {
        code = extract_string(text, from, corpus, record, error);
    }
    if (code == 0 && corpus->options->line_feeds) {
        make_line_feeds(text, from);
    }
    return code;
}
