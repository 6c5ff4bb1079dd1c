// The table of the page's files. A new file of the page needs a line in PAGE_FILES and nothing else.
#include "serve/page.h"

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#define HTML "text/html; charset=utf-8"
#define STYLE "text/css; charset=utf-8"
#define SCRIPT "text/javascript; charset=utf-8"
#define PICTURE "image/svg+xml"

// Symbol, path in the URL, file, content type.
#define PAGE_FILES(FILE)                                          \
    FILE(index, "/", "index.html", HTML)                          \
    FILE(icon, "/page/icon.svg", "icon.svg", PICTURE)             \
    FILE(style, "/page/style.css", "style.css", STYLE)            \
    FILE(answer, "/page/answer.js", "answer.js", SCRIPT)          \
    FILE(api, "/page/api.js", "api.js", SCRIPT)                   \
    FILE(app, "/page/app.js", "app.js", SCRIPT)                   \
    FILE(composer, "/page/composer.js", "composer.js", SCRIPT)    \
    FILE(dom, "/page/dom.js", "dom.js", SCRIPT)                   \
    FILE(engine, "/page/engine.js", "engine.js", SCRIPT)          \
    FILE(heatmap, "/page/heatmap.js", "heatmap.js", SCRIPT)       \
    FILE(inline, "/page/inline.js", "inline.js", SCRIPT)          \
    FILE(markdown, "/page/markdown.js", "markdown.js", SCRIPT)    \
    FILE(monitor, "/page/monitor.js", "monitor.js", SCRIPT)       \
    FILE(render, "/page/render.js", "render.js", SCRIPT)          \
    FILE(settings, "/page/settings.js", "settings.js", SCRIPT)    \
    FILE(sidebar, "/page/sidebar.js", "sidebar.js", SCRIPT)       \
    FILE(sparkline, "/page/sparkline.js", "sparkline.js", SCRIPT) \
    FILE(sse, "/page/sse.js", "sse.js", SCRIPT)                   \
    FILE(store, "/page/store.js", "store.js", SCRIPT)             \
    FILE(theme, "/page/theme.js", "theme.js", SCRIPT)             \
    FILE(transcript, "/page/transcript.js", "transcript.js", SCRIPT)

// .incbin puts a file between two labels of read-only data; the path is relative to the root of the checkout, where
// make runs the compiler. Pages are rebuilt with this file (rule in the Makefile).
#define EMBED(symbol, path, name, type)                                                     \
    __asm__(".pushsection .rodata\n"                                                        \
            "page_bytes_" #symbol ":\n"                                                     \
            ".incbin \"src/serve/page/" name "\"\n"                                         \
            "page_end_" #symbol ":\n"                                                       \
            ".byte 0\n"                                                                     \
            ".popsection\n");                                                               \
    extern const unsigned char page_bytes_##symbol[] __attribute__((visibility("hidden"))); \
    extern const unsigned char page_end_##symbol[] __attribute__((visibility("hidden")));
PAGE_FILES(EMBED)

#define ROW(symbol, path, name, type) {path, type, page_bytes_##symbol, page_end_##symbol},
static const struct {
    const char *path, *content_type;
    const unsigned char *begin, *end;
} page_files[] = {PAGE_FILES(ROW)};

const struct page_header page_headers[PAGE_HEADERS] = {
    {"Cache-Control", "no-cache"},
    {"Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
                                "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
    {"X-Content-Type-Options", "nosniff"},
    {"Referrer-Policy", "no-referrer"},
    {"Cross-Origin-Opener-Policy", "same-origin"},
};

bool page_find(struct page_file *file, const char *path) {
    for (size_t i = 0; i < sizeof page_files / sizeof page_files[0]; i++) {
        if (strcmp(path, page_files[i].path) != 0) {
            continue;
        }
        *file = (struct page_file){.path = page_files[i].path,
                                   .content_type = page_files[i].content_type,
                                   .bytes = page_files[i].begin,
                                   .size = (size_t)(page_files[i].end - page_files[i].begin)};
        snprintf(file->etag, sizeof file->etag, "\"%016" PRIx64 "\"", (uint64_t)XXH3_64bits(file->bytes, file->size));
        return true;
    }
    return false;
}
