// The transitions of json_string.h.
#include "serve/json_string.h"

#include <stdbool.h>
#include <string.h>

static int body_next(uint8_t byte) {
    if (byte < 0x20) {
        return -1;
    }
    if (byte < 0x80) {
        return byte == '"' ? STRING_END : byte == '\\' ? STRING_ESCAPE : STRING_BODY;
    }
    if (byte < 0xC2 || byte > 0xF4) {
        return -1;
    }
    if (byte < 0xE0) {
        return STRING_TAIL_1;
    }
    if (byte < 0xF0) {
        return byte == 0xE0 ? STRING_AFTER_E0 : byte == 0xED ? STRING_AFTER_ED : STRING_TAIL_2;
    }
    return byte == 0xF0 ? STRING_AFTER_F0 : byte == 0xF4 ? STRING_AFTER_F4 : STRING_TAIL_3;
}

static int if_between(uint8_t byte, uint8_t low, uint8_t high, int state) {
    return byte >= low && byte <= high ? state : -1;
}

static int escape_next(uint8_t byte) {
    if (byte == 'u') {
        return STRING_HEX_4;
    }
    return byte != 0 && strchr("\"\\/bfnrt", byte) != NULL ? STRING_BODY : -1;
}

static int hex_next(int state, uint8_t byte) {
    bool is_digit = byte >= '0' && byte <= '9';
    uint8_t lower = byte | 0x20;
    bool is_letter = lower >= 'a' && lower <= 'f';
    if (!is_digit && !is_letter) {
        return -1;
    }
    switch (state) {
    case STRING_HEX_4:
        return byte == '0' ? STRING_ZERO_3 : lower == 'd' ? STRING_HEX_D : STRING_HEX_3;
    case STRING_HEX_3:
        return STRING_HEX_2;
    case STRING_HEX_2:
        return STRING_HEX_1;
    case STRING_ZERO_3:
        return byte == '0' ? STRING_ZERO_2 : STRING_HEX_2;
    case STRING_ZERO_2:
        return byte == '0' ? STRING_ZERO_1 : STRING_HEX_1;
    case STRING_ZERO_1:
        return byte == '0' ? -1 : STRING_BODY;
    case STRING_HEX_D:
        return is_digit && byte < '8' ? STRING_HEX_2 : is_digit || lower < 'c' ? STRING_HIGH_2 : -1;
    case STRING_HIGH_2:
        return STRING_HIGH_1;
    case STRING_HIGH_1:
        return STRING_PAIR;
    case STRING_LOW_4:
        return lower == 'd' ? STRING_LOW_3 : -1;
    case STRING_LOW_3:
        return lower >= 'c' && is_letter ? STRING_HEX_2 : -1;
    default:
        return STRING_BODY;   // STRING_HEX_1
    }
}

int string_next(int state, uint8_t byte) {
    switch (state) {
    case STRING_START:
        return byte == '"' ? STRING_BODY : -1;
    case STRING_BODY:
        return body_next(byte);
    case STRING_END:
        return -1;
    case STRING_TAIL_1:
        return if_between(byte, 0x80, 0xBF, STRING_BODY);
    case STRING_TAIL_2:
        return if_between(byte, 0x80, 0xBF, STRING_TAIL_1);
    case STRING_TAIL_3:
        return if_between(byte, 0x80, 0xBF, STRING_TAIL_2);
    case STRING_AFTER_E0:
        return if_between(byte, 0xA0, 0xBF, STRING_TAIL_1);
    case STRING_AFTER_ED:
        return if_between(byte, 0x80, 0x9F, STRING_TAIL_1);
    case STRING_AFTER_F0:
        return if_between(byte, 0x90, 0xBF, STRING_TAIL_2);
    case STRING_AFTER_F4:
        return if_between(byte, 0x80, 0x8F, STRING_TAIL_2);
    case STRING_ESCAPE:
        return escape_next(byte);
    case STRING_PAIR:
        return byte == '\\' ? STRING_PAIR_U : -1;
    case STRING_PAIR_U:
        return byte == 'u' ? STRING_LOW_4 : -1;
    default:
        return hex_next(state, byte);
    }
}
