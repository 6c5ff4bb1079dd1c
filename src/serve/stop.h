// Stop strings: text in, piece by piece -> the text that is certainly part of the answer. What could be the beginning
// of a stop string is held back until it is clear; a stop string may span any number of pieces. The answer ends with
// the first byte that completes one, in front of it; how the text is cut into pieces makes no difference.
#ifndef MINKE_SERVE_STOP_H
#define MINKE_SERVE_STOP_H

#include "serve/text.h"

#define STOP_STRINGS_MAX 64
#define STOP_BYTES_MAX 1024   // of one string

struct stop_list {
    char *strings[STOP_STRINGS_MAX];   // owned
    size_t sizes[STOP_STRINGS_MAX];
    int count;
};
void stop_list_destroy(struct stop_list *list);

struct stop_scanner {   // starts as all zero
    struct text held;   // at most the longest stop string - 1 bytes between two pushes
    bool matched;
};
// Appends to `released` (NULL = nobody wants it) what can be released. After a match the rest is dropped and every
// further push gives nothing. Returns whether a stop string has been found, now or before.
bool stop_scanner_push(struct text *released, struct stop_scanner *scanner, const struct stop_list *list,
                       const char *data, size_t size);
// The end of the answer: releases what was held back.
void stop_scanner_finish(struct text *released, struct stop_scanner *scanner);
void stop_scanner_destroy(struct stop_scanner *scanner);

#endif
