// The scanner for DeepSeek-V3's three regexes (see pretokenize.h): one pass, no backtracking.
//
// Stages 1 and 2 only cut the text into segments: groups of at most three numbers, runs of Han and kana, and the rest.
// Stage 3 sees a segment alone, so a number or a change between "Han and kana" and "rest" is an end of text for it.
// What a piece is depends on nothing before its first character, hence one function from a piece's begin to its end.
#include "text/pretokenize.h"

#include "text/unicode.h"

const char *const pretokenize_deepseek_patterns[3] = {
    "\\p{N}{1,3}",
    "[\xE4\xB8\x80-\xE9\xBE\xA5\xE3\x81\x80-\xE3\x82\x9F\xE3\x82\xA0-\xE3\x83\xBF]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
    " ?[\\p{P}\\p{S}]+[\r\n]*|"
    "\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
};

#define SEGMENT_END 8u   // "class" of the place behind a segment

struct segment {
    const uint8_t *text, *classes;
    size_t size;
    unsigned flag;   // CHARACTER_HAN_KANA or 0: what every character of the segment has
};

static inline unsigned class_at(const uint8_t *classes, const uint8_t *text, size_t size, size_t at, unsigned *length) {
    if (text[at] < 0x80) {
        *length = 1;
        return classes[text[at]];
    }
    uint32_t code;
    *length = unicode_decode(&code, text + at, size - at);
    return classes[code];
}

// Class of the character at `at`, or SEGMENT_END.
static inline unsigned peek(const struct segment *segment, size_t at, unsigned *length) {
    if (at >= segment->size) {
        return SEGMENT_END;
    }
    unsigned found = class_at(segment->classes, segment->text, segment->size, at, length);
    if ((found & CHARACTER_HAN_KANA) != segment->flag || found == CHARACTER_NUMBER) {
        return SEGMENT_END;
    }
    return found & CHARACTER_CLASS_MASK;
}

static inline bool is_word(unsigned class) {
    return class == CHARACTER_LETTER || class == CHARACTER_MARK;
}

static inline bool is_sign(unsigned class) {
    return class == CHARACTER_PUNCTUATION || class == CHARACTER_SYMBOL;
}

static inline bool is_ascii_letter(uint8_t byte) {
    return (uint8_t)((byte | 0x20) - 'a') < 26;
}

static size_t scan_word(const struct segment *segment, size_t at) {
    unsigned length = 0;
    while (is_word(peek(segment, at, &length))) {
        at += length;
    }
    return at;
}

static size_t scan_signs(const struct segment *segment, size_t at) {
    unsigned length = 0;
    while (is_sign(peek(segment, at, &length))) {
        at += length;
    }
    while (at < segment->size && segment->flag == 0 && (segment->text[at] == '\n' || segment->text[at] == '\r')) {
        at++;
    }
    return at;
}

static size_t scan_space(const struct segment *segment, size_t begin) {
    unsigned length = 0, last_length = 0;
    size_t at = begin, newline_end = begin;
    unsigned class;
    while ((class = peek(segment, at, &length)) == CHARACTER_SPACE || class == CHARACTER_NEWLINE) {
        at += length;
        last_length = length;
        if (class == CHARACTER_NEWLINE) {
            newline_end = at;
        }
    }
    if (newline_end > begin) {
        return newline_end;
    }
    if (class == SEGMENT_END || at - last_length == begin) {
        return at;
    }
    return at - last_length;
}

// Characters that no alternative matches form a piece together, up to where a match begins.
static size_t scan_gap(const struct segment *segment, size_t at, unsigned length) {
    for (;;) {
        at += length;
        unsigned class = peek(segment, at, &length);
        if (class != CHARACTER_OTHER) {
            return at;
        }
        unsigned next_length = 0;
        if (is_word(peek(segment, at + length, &next_length))) {
            return at;
        }
    }
}

static size_t scan_numbers(const uint8_t *classes, const uint8_t *text, size_t size, size_t at) {
    for (int i = 0; i < 3 && at < size; i++) {
        unsigned length;
        if (class_at(classes, text, size, at, &length) != CHARACTER_NUMBER) {
            break;
        }
        at += length;
    }
    return at;
}

size_t pretokenize_deepseek_next(const uint8_t *classes, const uint8_t *text, size_t size, size_t begin) {
    unsigned length, next_length = 0;
    unsigned class = class_at(classes, text, size, begin, &length);
    struct segment segment = {.text = text, .classes = classes, .size = size, .flag = class & CHARACTER_HAN_KANA};
    size_t next = begin + length;
    switch (class & CHARACTER_CLASS_MASK) {
    case CHARACTER_NUMBER:
        return scan_numbers(classes, text, size, begin);
    case CHARACTER_LETTER:
    case CHARACTER_MARK:
        return scan_word(&segment, next);
    case CHARACTER_SPACE: {
        unsigned second = peek(&segment, next, &next_length);
        if (is_word(second)) {
            return scan_word(&segment, next + next_length);
        }
        if (is_sign(second) && text[begin] == ' ') {
            return scan_signs(&segment, next);
        }
        return scan_space(&segment, begin);
    }
    case CHARACTER_NEWLINE:
        return scan_space(&segment, begin);
    case CHARACTER_PUNCTUATION:
    case CHARACTER_SYMBOL:
        if (text[begin] < 0x80 && next < size && is_ascii_letter(text[next])) {
            while (next < size && is_ascii_letter(text[next])) {
                next++;
            }
            return next;
        }
        return scan_signs(&segment, next);
    default:
        if (is_word(peek(&segment, next, &next_length))) {
            return scan_word(&segment, next + next_length);
        }
        return scan_gap(&segment, begin, length);
    }
}
