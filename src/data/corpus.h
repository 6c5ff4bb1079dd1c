// A corpus: files, directories and standard input in -> documents of text out, one after the other, in bounded memory.
//
//   JSON lines   (name ends in .jsonl or .ndjson)  a document is the string at `text_key` of one line's object
//   plain text   (every other file)                a document is
//                    what stands between two separators, when there is a separator;
//                    else the whole file, when document_bytes is 0 or the file is not much longer than that;
//                    else about document_bytes of it, cut behind a blank line, else behind a line, else behind a space:
//                    the documents laid end to end are the file again
//
// Directories are walked in the order of their names' bytes; names that start with '.' and binary files (a zero byte
// among the first 8192) are passed over there, while a binary file that is named itself is taken as it is. A byte order
// mark at the start of a file is dropped. Reading has two steps: corpus_next cuts records off the files (one thread),
// corpus_clean makes the document of a record (any thread).
#ifndef MINKE_DATA_CORPUS_H
#define MINKE_DATA_CORPUS_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "text/buffer.h"

#define CORPUS_DOCUMENT_LIMIT \
    ((int64_t)256 << 20)   // bytes of one record; longer text is cut, a longer line is an error

enum corpus_format { CORPUS_BY_NAME, CORPUS_TEXT, CORPUS_JSONL };
enum corpus_ill_formed { CORPUS_REPLACE, CORPUS_KEEP, CORPUS_REFUSE };

struct corpus_options {
    enum corpus_format format;
    const char *text_key;    // of JSON lines
    const char *separator;   // of plain text; NULL = none
    int64_t separator_size;
    int64_t document_bytes;              // of plain text without a separator; 0 = whole files
    enum corpus_ill_formed ill_formed;   // UTF-8: U+FFFD for each maximal prefix of a character, or bytes as they are
    bool line_feeds;                     // CR LF and lone CR become LF
    const volatile sig_atomic_t *stop;   // not NULL: once it is not 0, waiting for standard input ends with ERROR_STATE
};

struct corpus;

// A document as it stands in its file: `size` bytes at `begin` of the buffer given to corpus_next.
struct corpus_record {
    int64_t begin, size;
    int64_t source;   // number of the file
    int64_t place;    // JSON lines: line number, from 1; plain text: byte in the file
    bool jsonl;
    bool held_out;   // of a file added as held out
};

// The options are borrowed.
int corpus_create(struct corpus **corpus, const struct corpus_options *options, struct error *error);
void corpus_free(struct corpus *corpus);   // NULL is fine
// Adds a file, or a directory's files. "-" = standard input, which is first copied to the file `spool` (the caller
// removes it), because a corpus is read more than once.
int corpus_add(struct corpus *corpus, const char *path, bool held_out, const char *spool, struct error *error);

int64_t corpus_files(const struct corpus *corpus);
int64_t corpus_bytes(const struct corpus *corpus);          // of all files, as their sizes were when they were added
int64_t corpus_position(const struct corpus *corpus);       // bytes read so far
int64_t corpus_binary_files(const struct corpus *corpus);   // passed over since the last rewind
const char *corpus_source_name(const struct corpus *corpus, int64_t source);

// Appends the bytes of the next record to *bytes. 1 = there is one, 0 = the corpus is over, or a negative code.
int corpus_next(struct corpus_record *record, struct byte_buffer *bytes, struct corpus *corpus, struct error *error);
void corpus_rewind(struct corpus *corpus);

// Appends the document of a record (data = its bytes); *replaced counts ill-formed sequences. Safe from any thread.
int corpus_clean(struct byte_buffer *text, int64_t *replaced, const struct corpus *corpus,
                 const struct corpus_record *record, const char *data, struct error *error);

bool corpus_is_well_formed(const char *text, int64_t size);   // UTF-8

// Where text[0..size) is cut when at most `most` bytes may be taken (most < size): in (most / 2, most], or at least 1.
int64_t corpus_cut(const char *text, int64_t most);

#endif
