// The web page as data: the files of src/serve/page, embedded in the library when it is built.
//
// The page and what it loads are public (they hold no secret and must load before the page can ask for an API key);
// everything the page then fetches is not.
#ifndef MINKE_SERVE_PAGE_H
#define MINKE_SERVE_PAGE_H

#include <stdbool.h>
#include <stddef.h>

struct page_file {
    const char *path;           // as in the URL: "/" is the page itself, everything else lies under "/page/"
    const char *content_type;   // with its charset
    const void *bytes;          // not terminated; lives as long as the program
    size_t size;
    char etag[19];   // quoted hash of the bytes, e.g. "0123456789abcdef": answer If-None-Match with 304
};

// Looks `path` (without a query) up; false if the page has no such file.
bool page_find(struct page_file *file, const char *path);

// Headers that every answer with a file of the page carries: Cache-Control (keep, but ask whether it is still the
// same), and a policy that lets the page load nothing from elsewhere and run no script but its own.
struct page_header {
    const char *name, *value;
};
#define PAGE_HEADERS 5
extern const struct page_header page_headers[PAGE_HEADERS];

#endif
