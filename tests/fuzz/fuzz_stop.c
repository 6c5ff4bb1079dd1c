// Stop strings: any list and any text, cut at places that the input chooses. The answer ends in front of the stop
// string that is complete first, however the text was cut, and nothing is held back that could not be the beginning of
// one.
#include <string.h>

#include "fuzz/fuzz.h"
#include "serve/stop.h"

#define STRINGS 6

const bool fuzz_leaves_memory = false;

void fuzz_open(void) {
}

// What the answer is: a plain search in the whole for the end of the first stop string that is complete.
static size_t answer_size(const struct stop_list *list, const char *text, size_t size) {
    for (size_t end = 1; end <= size; end++) {
        size_t longest = 0;
        for (int i = 0; i < list->count; i++) {
            if (list->sizes[i] <= end && memcmp(text + end - list->sizes[i], list->strings[i], list->sizes[i]) == 0) {
                longest = list->sizes[i] > longest ? list->sizes[i] : longest;
            }
        }
        if (longest > 0) {
            return end - longest;
        }
    }
    return size;
}

static bool may_begin(const struct stop_list *list, const char *text, size_t size) {
    for (int i = 0; i < list->count; i++) {
        if (size < list->sizes[i] && memcmp(text, list->strings[i], size) == 0) {
            return true;
        }
    }
    return size == 0;
}

void fuzz_one(const uint8_t *data, size_t size) {
    struct fuzz_input input = {data, size};
    static struct fuzz_part parts[STRINGS];
    struct stop_list list = {0};
    struct stop_scanner scanner = {0};
    struct text released = {0};
    int wanted = fuzz_take_byte(&input) % (STRINGS + 1);
    unsigned piece = fuzz_take_byte(&input) % 31 + 1u;
    for (int i = 0; i < wanted; i++) {
        parts[list.count] = fuzz_take(&input);
        list.strings[list.count] = parts[list.count].text;
        list.sizes[list.count] = parts[list.count].size;
        list.count += parts[list.count].size > 0;   // as generation_parse has it
    }
    const char *text = (const char *)input.data;
    size_t end = answer_size(&list, text, input.size), at = 0;
    bool stopped = false;
    while (at < input.size && !stopped) {
        size_t step = piece < input.size - at ? piece : input.size - at;
        stopped = stop_scanner_push(&released, &scanner, &list, text + at, step);
        at += step;
        CHECK(stopped || may_begin(&list, text + released.size, at - released.size), "%zu bytes held without need",
              at - released.size);
        piece = piece * 5 % 31 + 1;
    }
    CHECK(stopped == (end < input.size), "stopped %d", stopped);
    if (!stopped) {
        stop_scanner_finish(&released, &scanner);
    }
    CHECK(released.size == end && (end == 0 || memcmp(released.data, text, end) == 0), "%zu bytes instead of %zu",
          released.size, end);
    text_destroy(&released);
    stop_scanner_destroy(&scanner);
}
