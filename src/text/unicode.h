// Unicode 16.0 as far as pre-tokenization needs it: the class of a code point, and reading UTF-8 one character at a
// time.
//
// Ill-formed UTF-8 (stray or missing continuation bytes, overlong forms, surrogates, beyond U+10FFFF) is read as one
// character of class OTHER per byte, so that every byte string has exactly one reading and nothing is lost.
#ifndef MINKE_TEXT_UNICODE_H
#define MINKE_TEXT_UNICODE_H

#include <stddef.h>
#include <stdint.h>

enum character_class {
    CHARACTER_OTHER = 0,         // controls, formats, private use, unassigned, ill-formed bytes
    CHARACTER_LETTER = 1,        // \p{L}
    CHARACTER_MARK = 2,          // \p{M}
    CHARACTER_NUMBER = 3,        // \p{N}
    CHARACTER_PUNCTUATION = 4,   // \p{P}
    CHARACTER_SYMBOL = 5,        // \p{S}
    CHARACTER_SPACE = 6,         // \s (property White_Space) other than CR and LF
    CHARACTER_NEWLINE = 7,       // CR, LF
};
#define CHARACTER_CLASS_MASK 7u
// Set beside the class for U+4E00-9FA5 and U+3040-30FF: the run of Han and kana that DeepSeek's second regex isolates.
#define CHARACTER_HAN_KANA 8u

#define UNICODE_ILL_FORMED \
    0x110000u   // the "code point" of an ill-formed byte; has an entry (OTHER) in unicode_classes

extern const uint32_t unicode_ranges[];   // unicode_ranges.c
extern const int unicode_range_count;

// Table of 0x110001 bytes: class | flag by code point. Built on the first call, read-only afterwards; safe from any
// thread.
const uint8_t *unicode_classes(void);

// Reads the character at text[0..size), size >= 1. Returns its length in bytes, 1 to 4.
unsigned unicode_decode(uint32_t *code, const uint8_t *text, size_t size);
// Writes 1 to 4 bytes; returns how many. `code` <= 0x10FFFF.
unsigned unicode_encode(uint8_t out[4], uint32_t code);

#endif
