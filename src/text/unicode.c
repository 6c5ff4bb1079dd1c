// Unicode classes unpacked from the generated runs, and UTF-8 (see unicode.h).
#include "text/unicode.h"

#include <pthread.h>
#include <string.h>

static uint8_t classes[UNICODE_ILL_FORMED + 1];
static pthread_once_t classes_once = PTHREAD_ONCE_INIT;

static void classes_build(void) {
    for (int i = 0; i < unicode_range_count; i++) {
        uint32_t first = unicode_ranges[i] >> 3;
        uint32_t end = i + 1 < unicode_range_count ? unicode_ranges[i + 1] >> 3 : UNICODE_ILL_FORMED;
        memset(classes + first, (int)(unicode_ranges[i] & CHARACTER_CLASS_MASK), end - first);
    }
    for (uint32_t code = 0x3040; code <= 0x9FA5; code++) {
        if (code <= 0x30FF || code >= 0x4E00) {
            classes[code] |= CHARACTER_HAN_KANA;
        }
    }
    classes[UNICODE_ILL_FORMED] = CHARACTER_OTHER;
}

const uint8_t *unicode_classes(void) {
    pthread_once(&classes_once, classes_build);
    return classes;
}

static unsigned ill_formed(uint32_t *code) {
    *code = UNICODE_ILL_FORMED;
    return 1;
}

unsigned unicode_decode(uint32_t *code, const uint8_t *text, size_t size) {
    uint32_t first = text[0];
    if (first < 0x80) {
        *code = first;
        return 1;
    }
    if (first < 0xC2 || first > 0xF4 || size < 2 || (text[1] & 0xC0) != 0x80) {
        return ill_formed(code);
    }
    uint32_t value = text[1] & 0x3Fu;
    if (first < 0xE0) {
        *code = (first & 0x1Fu) << 6 | value;
        return 2;
    }
    if (size < 3 || (text[2] & 0xC0) != 0x80) {
        return ill_formed(code);
    }
    value = value << 6 | (text[2] & 0x3Fu);
    if (first < 0xF0) {
        value |= (first & 0xFu) << 12;
        if (value < 0x800 || (value >= 0xD800 && value < 0xE000)) {
            return ill_formed(code);
        }
        *code = value;
        return 3;
    }
    if (size < 4 || (text[3] & 0xC0) != 0x80) {
        return ill_formed(code);
    }
    value = (first & 0x7u) << 18 | value << 6 | (text[3] & 0x3Fu);
    if (value < 0x10000 || value > 0x10FFFF) {
        return ill_formed(code);
    }
    *code = value;
    return 4;
}

unsigned unicode_encode(uint8_t out[4], uint32_t code) {
    if (code < 0x80) {
        out[0] = (uint8_t)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (uint8_t)(0xC0 | code >> 6);
        out[1] = (uint8_t)(0x80 | (code & 0x3F));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (uint8_t)(0xE0 | code >> 12);
        out[1] = (uint8_t)(0x80 | (code >> 6 & 0x3F));
        out[2] = (uint8_t)(0x80 | (code & 0x3F));
        return 3;
    }
    out[0] = (uint8_t)(0xF0 | code >> 18);
    out[1] = (uint8_t)(0x80 | (code >> 12 & 0x3F));
    out[2] = (uint8_t)(0x80 | (code >> 6 & 0x3F));
    out[3] = (uint8_t)(0x80 | (code & 0x3F));
    return 4;
}
