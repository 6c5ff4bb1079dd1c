// A recursive descent over the expression that adds edges as it goes. What {n,m} repeats is read again for every copy,
// so that no tree is needed; the limit on edges bounds the copies of copies.
#include "serve/pattern.h"

#include <string.h>

#define DEPTH_LIMIT 50
#define REPEAT_LIMIT 100000
#define CLASS_RANGES 256
#define LAST_CHARACTER 0x10FFFFu

struct range {
    uint32_t low, high;
};

struct class {
    struct range ranges[CLASS_RANGES];
    int count;
};

struct parser {
    struct nfa *nfa;
    const char *text;
    size_t at, size;
    int depth;
};

static int fail(struct parser *parser, const char *what) {
    if (parser->nfa->code == 0) {
        parser->nfa->code = error_set(parser->nfa->error, ERROR_ARGUMENT, "pattern: %s (byte %zu) is not supported",
                                      what, parser->at);
    }
    return parser->nfa->code;
}

static bool at_end(const struct parser *parser) {
    return parser->at >= parser->size || parser->nfa->code != 0;
}

static char peek(const struct parser *parser) {
    return parser->at < parser->size ? parser->text[parser->at] : 0;
}

static bool accept(struct parser *parser, const char *text) {
    size_t size = strlen(text);
    bool found = parser->size - parser->at >= size && memcmp(parser->text + parser->at, text, size) == 0;
    parser->at += found ? size : 0;
    return found;
}

// ---- characters and classes ----

static uint32_t read_character(struct parser *parser) {
    uint8_t lead = (uint8_t)parser->text[parser->at++];
    int more = lead < 0xC0 ? 0 : lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
    uint32_t character = more == 0 ? lead : lead & (0x3Fu >> more);
    for (; more > 0 && parser->at < parser->size; more--) {
        character = character << 6 | ((uint8_t)parser->text[parser->at++] & 0x3F);
    }
    return character;
}

static int hex_value(char digit) {
    char lower = (char)(digit | 0x20);
    return digit >= '0' && digit <= '9' ? digit - '0' : lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

static uint32_t read_hex(struct parser *parser, int count) {
    uint32_t value = 0;
    for (int i = 0; i < count; i++) {
        int digit = hex_value(peek(parser));
        if (digit < 0) {
            fail(parser, "an escape without its hexadecimal digits");
            return 0;
        }
        value = value * 16 + (uint32_t)digit;
        parser->at++;
    }
    return value;
}

static uint32_t read_unicode_escape(struct parser *parser) {
    if (!accept(parser, "{")) {
        uint32_t high = read_hex(parser, 4);
        if (high >= 0xD800 && high < 0xDC00 && accept(parser, "\\u")) {
            uint32_t low = read_hex(parser, 4);
            return 0x10000 + ((high - 0xD800) << 10) + (low & 0x3FF);
        }
        return high;
    }
    uint32_t value = 0;
    int count = 0;
    for (; hex_value(peek(parser)) >= 0 && count < 7; count++) {
        value = value * 16 + (uint32_t)hex_value(parser->text[parser->at++]);
    }
    if (!accept(parser, "}") || value > LAST_CHARACTER) {
        fail(parser, "this \\u{}");
    }
    return value;
}

static void class_add(struct parser *parser, struct class *class, uint32_t low, uint32_t high) {
    if (class->count == CLASS_RANGES) {
        fail(parser, "a class of so many ranges");
        return;
    }
    class->ranges[class->count++] = (struct range){low, high};
}

static void class_sort(struct class *class) {
    for (int i = 1; i < class->count; i++) {
        struct range range = class->ranges[i];
        int at = i;
        for (; at > 0 && class->ranges[at - 1].low > range.low; at--) {
            class->ranges[at] = class->ranges[at - 1];
        }
        class->ranges[at] = range;
    }
}

static void class_invert(struct parser *parser, struct class *class) {
    struct class inverse;
    uint32_t next = 0;
    inverse.count = 0;
    class_sort(class);
    for (int i = 0; i < class->count; i++) {
        if (class->ranges[i].low > next) {
            class_add(parser, &inverse, next, class->ranges[i].low - 1);
        }
        next = class->ranges[i].high + 1 > next ? class->ranges[i].high + 1 : next;
    }
    if (next <= LAST_CHARACTER) {
        class_add(parser, &inverse, next, LAST_CHARACTER);
    }
    *class = inverse;
}

// \d \w \s and their inverses, added to the class; false if the letter is none of them.
static bool class_add_named(struct parser *parser, struct class *class, char letter) {
    static const struct range digits[] = {{'0', '9'}}, words[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
    static const struct range spaces[] = {{'\t', '\r'},     {' ', ' '},       {0xA0, 0xA0},     {0x1680, 0x1680},
                                          {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F},
                                          {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
    const struct range *ranges;
    int count;
    switch (letter | 0x20) {
    case 'd':
        ranges = digits, count = 1;
        break;
    case 'w':
        ranges = words, count = 4;
        break;
    case 's':
        ranges = spaces, count = 10;
        break;
    default:
        return false;
    }
    struct class named = {.count = count};
    memcpy(named.ranges, ranges, (size_t)count * sizeof *ranges);
    if ((letter & 0x20) == 0) {
        class_invert(parser, &named);
    }
    for (int i = 0; i < named.count; i++) {
        class_add(parser, class, named.ranges[i].low, named.ranges[i].high);
    }
    return true;
}

// Behind a backslash, what stands for one character.
static uint32_t read_escape(struct parser *parser, bool in_class) {
    static const char letters[] = "tnvfr0", values[] = "\t\n\v\f\r\0";
    if (at_end(parser)) {
        fail(parser, "a backslash at the end");
        return 0;
    }
    char letter = peek(parser);
    const char *found = letter != 0 ? strchr(letters, letter) : NULL;
    bool alphanumeric = (letter >= '0' && letter <= '9') || ((letter | 0x20) >= 'a' && (letter | 0x20) <= 'z');
    if (in_class && accept(parser, "b")) {
        return '\b';
    }
    if (found != NULL) {
        parser->at++;
        return (uint32_t)values[found - letters];
    }
    if (accept(parser, "x")) {
        return read_hex(parser, 2);
    }
    if (accept(parser, "u")) {
        return read_unicode_escape(parser);
    }
    if (alphanumeric) {
        char what[] = "escape \\?";
        what[8] = letter;
        fail(parser, what);
        return 0;
    }
    return read_character(parser);
}

// One character or named class between brackets; *single tells which.
static uint32_t read_class_item(struct parser *parser, struct class *class, bool *single) {
    *single = true;
    if (!accept(parser, "\\")) {
        return read_character(parser);
    }
    if (class_add_named(parser, class, peek(parser))) {
        parser->at++;
        *single = false;
        return 0;
    }
    return read_escape(parser, true);
}

static void read_class(struct parser *parser, struct class *class) {
    bool inverse = accept(parser, "^"), single, single_end;
    while (!at_end(parser) && peek(parser) != ']') {
        uint32_t low = read_class_item(parser, class, &single), high = low;
        bool ranges = peek(parser) == '-' && parser->at + 1 < parser->size && parser->text[parser->at + 1] != ']';
        if (ranges && !at_end(parser)) {
            parser->at++;
            high = read_class_item(parser, class, &single_end);
            if (!single || !single_end || high < low) {
                fail(parser, "this range of a class");
            }
        }
        if (single) {
            class_add(parser, class, low, high);
        }
    }
    if (!accept(parser, "]")) {
        fail(parser, "a class without its ]");
    }
    if (inverse) {
        class_invert(parser, class);
    }
}

static void add_class(struct parser *parser, int32_t from, int32_t to, const struct class *class) {
    nfa_empty(parser->nfa, from, nfa_state(parser->nfa));   // even an empty class costs an edge
    for (int i = 0; i < class->count; i++) {
        nfa_characters(parser->nfa, from, to, class->ranges[i].low, class->ranges[i].high);
    }
}

// ---- terms ----

static void read_alternatives(struct parser *parser, int32_t from, int32_t to);

static void read_group(struct parser *parser, int32_t from, int32_t to) {
    if (accept(parser, "?")) {
        bool named = peek(parser) == '<' && parser->at + 1 < parser->size &&
                     strchr("=!", parser->text[parser->at + 1]) == NULL;
        if (named) {
            while (!at_end(parser) && peek(parser) != '>') {
                parser->at++;
            }
        }
        if (!accept(parser, named ? ">" : ":")) {
            fail(parser, "this group (?");
            return;
        }
    }
    if (++parser->depth > DEPTH_LIMIT) {
        fail(parser, "such deep nesting");
    }
    read_alternatives(parser, from, to);
    parser->depth--;
    if (!accept(parser, ")")) {
        fail(parser, "a group without its )");
    }
}

static void read_atom(struct parser *parser, int32_t from, int32_t to) {
    struct class class;
    class.count = 0;
    if (accept(parser, "(")) {
        read_group(parser, from, to);
        return;
    }
    if (accept(parser, "[")) {
        read_class(parser, &class);
    } else if (accept(parser, ".")) {
        class = (struct class){{{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}}, 3};
        class_invert(parser, &class);
    } else if (accept(parser, "\\")) {
        if (class_add_named(parser, &class, peek(parser))) {
            parser->at++;
        } else {
            uint32_t character = read_escape(parser, false);
            class_add(parser, &class, character, character);
        }
    } else if (strchr("^$*+?{}])", peek(parser)) != NULL) {
        char what[] = "? here";
        what[0] = peek(parser);
        fail(parser, what);
    } else {
        uint32_t character = read_character(parser);
        class_add(parser, &class, character, character);
    }
    add_class(parser, from, to, &class);
}

static int32_t read_number(struct parser *parser) {
    int32_t number = 0;
    size_t begin = parser->at;
    while (peek(parser) >= '0' && peek(parser) <= '9' && number <= REPEAT_LIMIT) {
        number = number * 10 + (parser->text[parser->at++] - '0');
    }
    if (parser->at == begin || number > REPEAT_LIMIT) {
        fail(parser, "this number of repetitions");
    }
    return number;
}

// Reads * + ? {n} {n,} {n,m}; max -1 = without limit. Lazy forms match the same texts.
static void read_quantifier(struct parser *parser, int32_t *min, int32_t *max) {
    *min = *max = 1;
    if (accept(parser, "*")) {
        *min = 0, *max = -1;
    } else if (accept(parser, "+")) {
        *max = -1;
    } else if (accept(parser, "?")) {
        *min = 0;
    } else if (accept(parser, "{")) {
        *min = *max = read_number(parser);
        if (accept(parser, ",")) {
            *max = peek(parser) == '}' ? -1 : read_number(parser);
        }
        if (!accept(parser, "}") || (*max >= 0 && *max < *min)) {
            fail(parser, "this number of repetitions");
        }
    } else {
        return;
    }
    accept(parser, "?");
}

// An atom and how often it may stand: copies in a row, the last one in a loop if there is no limit.
static void read_term(struct parser *parser, int32_t from, int32_t to) {
    struct nfa *nfa = parser->nfa;
    size_t begin = parser->at;
    int32_t min, max, first = nfa_state(nfa), last = nfa_state(nfa);
    read_atom(parser, first, last);
    read_quantifier(parser, &min, &max);
    size_t end = parser->at;
    if (min == 0) {
        nfa_empty(nfa, from, to);
    }
    if (max == 0) {
        return;   // the copy that was made is not connected
    }
    nfa_empty(nfa, from, first);
    int32_t copies = max > 0 ? max : min > 1 ? min : 1;
    for (int32_t copy = 1; copy < copies && nfa->code == 0; copy++) {
        if (copy >= min) {
            nfa_empty(nfa, last, to);
        }
        int32_t next = nfa_state(nfa), next_last = nfa_state(nfa);
        nfa_empty(nfa, last, next);
        parser->at = begin;
        read_atom(parser, next, next_last);
        first = next, last = next_last;
    }
    if (max < 0) {
        nfa_empty(nfa, last, first);
    }
    nfa_empty(nfa, last, to);
    parser->at = end;
}

// A row of terms up to | or ). Returns the state that it ends in.
static int32_t read_sequence(struct parser *parser, int32_t from) {
    while (!at_end(parser) && strchr("|)", peek(parser)) == NULL) {
        bool last = parser->at + 1 == parser->size || parser->text[parser->at + 1] == '|';
        if (parser->depth == 0 && peek(parser) == '$' && last) {
            break;
        }
        int32_t next = nfa_state(parser->nfa);
        read_term(parser, from, next);
        from = next;
    }
    return from;
}

static void read_alternatives(struct parser *parser, int32_t from, int32_t to) {
    do {
        nfa_empty(parser->nfa, read_sequence(parser, from), to);
    } while (parser->nfa->code == 0 && accept(parser, "|"));
}

static void add_anything(struct nfa *nfa, int32_t from, int32_t to) {
    int32_t loop = nfa_state(nfa);
    nfa_empty(nfa, from, loop);
    nfa_characters(nfa, loop, loop, 1, LAST_CHARACTER);
    nfa_empty(nfa, loop, to);
}

int pattern_add(struct nfa *nfa, int32_t from, int32_t to, const char *pattern, bool quoted) {
    struct parser parser = {.nfa = nfa, .text = pattern, .size = strlen(pattern)};
    if (quoted) {
        int32_t inside = nfa_state(nfa), end = nfa_state(nfa);
        nfa_bytes(nfa, from, inside, '"', '"');
        nfa_bytes(nfa, end, to, '"', '"');
        from = inside, to = end;
    }
    do {
        int32_t begin = nfa_state(nfa);
        if (accept(&parser, "^")) {
            nfa_empty(nfa, from, begin);
        } else {
            add_anything(nfa, from, begin);
        }
        int32_t end = read_sequence(&parser, begin);
        if (accept(&parser, "$")) {
            nfa_empty(nfa, end, to);
        } else {
            add_anything(nfa, end, to);
        }
    } while (nfa->code == 0 && accept(&parser, "|"));
    if (nfa->code == 0 && parser.at < parser.size) {
        fail(&parser, ") without (");
    }
    return nfa->code;
}
