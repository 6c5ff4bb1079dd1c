// See stop.h.
#include "serve/stop.h"

#include <string.h>

#include "base/memory.h"

void stop_list_destroy(struct stop_list *list) {
    for (int i = 0; i < list->count; i++) {
        memory_free(list->strings[i]);
    }
    *list = (struct stop_list){0};
}

// Position of the stop string that is complete first, of those that end together the longest; `size` if there is none.
// The one that begins first would not do: whether it is seen in time would depend on how the text was cut.
static size_t find_match(const struct stop_list *list, const char *data, size_t size) {
    size_t best = size, end = size;
    for (int i = 0; i < list->count; i++) {
        const char *hit = memmem(data, end, list->strings[i], list->sizes[i]);
        size_t at = hit != NULL ? (size_t)(hit - data) : size;
        if (hit != NULL && (at + list->sizes[i] < end || at < best)) {
            best = at;
            end = at + list->sizes[i];
        }
    }
    return best;
}

// Length of the longest end of data[0..size) with which a stop string begins.
static size_t count_held(const struct stop_list *list, const char *data, size_t size) {
    size_t held = 0;
    for (int i = 0; i < list->count; i++) {
        size_t longest = list->sizes[i] - 1 < size ? list->sizes[i] - 1 : size;
        for (size_t length = longest; length > held; length--) {
            if (memcmp(data + size - length, list->strings[i], length) == 0) {
                held = length;
                break;
            }
        }
    }
    return held;
}

bool stop_scanner_push(struct text *released, struct stop_scanner *scanner, const struct stop_list *list,
                       const char *data, size_t size) {
    if (scanner->matched || size == 0) {
        return scanner->matched;
    }
    if (list->count == 0) {
        if (released != NULL) {
            text_append(released, data, size);
        }
        return false;
    }
    struct text *held = &scanner->held;
    text_append(held, data, size);
    size_t clear = find_match(list, held->data, held->size);
    scanner->matched = clear < held->size;
    if (!scanner->matched) {
        clear = held->size - count_held(list, held->data, held->size);
    }
    if (released != NULL) {
        text_append(released, held->data, clear);
        released->failed |= held->failed;
    }
    text_drop(held, scanner->matched ? held->size : clear);
    return scanner->matched;
}

void stop_scanner_finish(struct text *released, struct stop_scanner *scanner) {
    text_append(released, scanner->held.data, scanner->held.size);
    text_clear(&scanner->held);
}

void stop_scanner_destroy(struct stop_scanner *scanner) {
    text_destroy(&scanner->held);
}
