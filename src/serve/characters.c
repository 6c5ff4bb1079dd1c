// Ranges of characters -> edges over the bytes that spell them in a JSON string (see pattern.h).
#include <string.h>

#include "serve/pattern.h"

#define SURROGATES_BEGIN 0xD800
#define SURROGATES_END 0xE000

static void utf8_put(uint8_t bytes[4], uint32_t character, int size) {
    static const uint8_t lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (int i = size - 1; i > 0; i--) {
        bytes[i] = (uint8_t)(0x80 | (character & 0x3F));
        character >>= 6;
    }
    bytes[0] = (uint8_t)(lead[size] | character);
}

static bool all_are(const uint8_t *bytes, int size, uint8_t value) {
    for (int i = 0; i < size; i++) {
        if (bytes[i] != value) {
            return false;
        }
    }
    return true;
}

// Byte sequences of one length between two, in order; continuation bytes are 80 to BF.
static void add_sequences(struct nfa *nfa, int32_t from, int32_t to, const uint8_t *low, const uint8_t *high,
                          int size) {
    static const uint8_t lowest[3] = {0x80, 0x80, 0x80}, highest[3] = {0xBF, 0xBF, 0xBF};
    if (size == 1) {
        nfa_bytes(nfa, from, to, low[0], high[0]);
        return;
    }
    if (nfa->code != 0) {
        return;
    }
    if (low[0] == high[0]) {
        int32_t next = nfa_state(nfa);
        nfa_bytes(nfa, from, next, low[0], low[0]);
        add_sequences(nfa, next, to, low + 1, high + 1, size - 1);
        return;
    }
    int first = low[0], last = high[0];
    if (!all_are(low + 1, size - 1, 0x80)) {
        int32_t next = nfa_state(nfa);
        nfa_bytes(nfa, from, next, low[0], low[0]);
        add_sequences(nfa, next, to, low + 1, highest, size - 1);
        first++;
    }
    if (!all_are(high + 1, size - 1, 0xBF)) {
        int32_t next = nfa_state(nfa);
        nfa_bytes(nfa, from, next, high[0], high[0]);
        add_sequences(nfa, next, to, lowest, high + 1, size - 1);
        last--;
    }
    if (first <= last) {
        int32_t next = nfa_state(nfa);
        nfa_bytes(nfa, from, next, (uint8_t)first, (uint8_t)last);
        add_sequences(nfa, next, to, lowest, highest, size - 1);
    }
}

static void add_hex_digit(struct nfa *nfa, int32_t from, int32_t to, uint32_t low, uint32_t high) {
    if (low < 10) {
        nfa_bytes(nfa, from, to, (uint8_t)('0' + low), (uint8_t)('0' + (high < 9 ? high : 9)));
    }
    if (high >= 10) {
        uint32_t first = low > 10 ? low : 10;
        nfa_bytes(nfa, from, to, (uint8_t)('a' + first - 10), (uint8_t)('a' + high - 10));
    }
}

// Control characters: \u00XX, and the short escapes of those that have one.
static void add_controls(struct nfa *nfa, int32_t from, int32_t to, uint32_t low, uint32_t high) {
    static const char letters[] = "btnfr", values[] = "\b\t\n\f\r";
    int32_t escape = nfa_state(nfa), digits = nfa_state(nfa);
    nfa_bytes(nfa, from, escape, '\\', '\\');
    nfa_text(nfa, escape, digits, "u00", 3);
    for (uint32_t high_digit = 0; high_digit < 2; high_digit++) {
        uint32_t first = low > high_digit * 16 ? low : high_digit * 16;
        uint32_t last = high < high_digit * 16 + 15 ? high : high_digit * 16 + 15;
        if (first <= last) {
            int32_t next = nfa_state(nfa);
            add_hex_digit(nfa, digits, next, high_digit, high_digit);
            add_hex_digit(nfa, next, to, first % 16, last % 16);
        }
    }
    for (int i = 0; i < 5; i++) {
        if ((uint32_t)values[i] >= low && (uint32_t)values[i] <= high) {
            nfa_bytes(nfa, escape, to, (uint8_t)letters[i], (uint8_t)letters[i]);
        }
    }
}

// The part of [low, high] that lies between two bounds, as long as there is one.
static bool clip(uint32_t *first, uint32_t *last, uint32_t low, uint32_t high, uint32_t from, uint32_t to) {
    *first = low > from ? low : from;
    *last = high < to ? high : to;
    return *first <= *last;
}

static void add_escaped(struct nfa *nfa, int32_t from, int32_t to, char character) {
    int32_t next = nfa_state(nfa);
    nfa_bytes(nfa, from, next, '\\', '\\');
    nfa_bytes(nfa, next, to, (uint8_t)character, (uint8_t)character);
}

void nfa_characters(struct nfa *nfa, int32_t from, int32_t to, uint32_t low, uint32_t high) {
    static const struct {
        uint32_t from, to;
        int size;   // bytes in UTF-8; without control characters, quote and backslash
    } parts[] = {{0x20, 0x21, 1},
                 {0x23, 0x5B, 1},
                 {0x5D, 0x7F, 1},
                 {0x80, 0x7FF, 2},
                 {0x800, SURROGATES_BEGIN - 1, 3},
                 {SURROGATES_END, 0xFFFF, 3},
                 {0x10000, 0x10FFFF, 4}};
    uint32_t first, last;
    if (clip(&first, &last, low, high, 1, 0x1F)) {
        add_controls(nfa, from, to, first, last);
    }
    if (clip(&first, &last, low, high, '"', '"')) {
        add_escaped(nfa, from, to, '"');
    }
    if (clip(&first, &last, low, high, '\\', '\\')) {
        add_escaped(nfa, from, to, '\\');
    }
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (clip(&first, &last, low, high, parts[i].from, parts[i].to)) {
            uint8_t low_bytes[4], high_bytes[4];
            utf8_put(low_bytes, first, parts[i].size);
            utf8_put(high_bytes, last, parts[i].size);
            add_sequences(nfa, from, to, low_bytes, high_bytes, parts[i].size);
        }
    }
}

void nfa_string(struct nfa *nfa, int32_t from, int32_t to, const char *text, size_t size) {
    for (size_t i = 0; i < size && nfa->code == 0; i++) {
        uint8_t byte = (uint8_t)text[i];
        int32_t next = nfa_state(nfa);
        if (byte < 0x80) {
            nfa_characters(nfa, from, next, byte, byte);
        } else {
            nfa_bytes(nfa, from, next, byte, byte);   // a byte of a longer character
        }
        from = next;
    }
    nfa_empty(nfa, from, to);
}
