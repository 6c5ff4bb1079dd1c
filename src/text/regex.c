// PCRE2 made to find what Oniguruma finds (see regex.h).
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex.h"

#include <ctype.h>
#include <pcre2.h>
#include <pthread.h>

#include "text/unicode.h"

#define JIT_STACK_BYTES ((size_t)1 << 20)

struct regex {
    pcre2_code *code;
    char *name;
};

static void *pcre2_allocate(size_t size, void *data) {
    (void)data;
    return memory_allocate(1, size, "regular expression", NULL);
}

static void pcre2_release(void *pointer, void *data) {
    (void)data;
    memory_free(pointer);
}

// ---- characters on which PCRE2 and Unicode 16 disagree ----

// disagreement[code]: 0, or 1 + the class that the character has to be given.
static uint8_t disagreement[UNICODE_ILL_FORMED + 1];
static pthread_once_t disagreement_once = PTHREAD_ONCE_INIT;
static bool disagreement_known;

// Of equal class by [length - 1]; 0 = there is no character of this class and length that needs one. Chosen from corners
// that patterns do not name: controls, private use, Yi, Linear B, Ethiopic, Aegean, Braille, musical symbols, Thai digits.
static const uint32_t stand_ins[8][4] = {
    [CHARACTER_OTHER] = {0x1, 0x9F, 0xE000, 0xF0000},
    [CHARACTER_LETTER] = {0, 0, 0xA000, 0x10000},
    [CHARACTER_MARK] = {0, 0, 0x1DC0, 0x101FD},
    [CHARACTER_NUMBER] = {0, 0, 0x0E50, 0x104A0},
    [CHARACTER_PUNCTUATION] = {0, 0, 0x1360, 0x10100},
    [CHARACTER_SYMBOL] = {0, 0, 0x2800, 0x1D000},
};

// Runs one property over all code points and notes where it differs from ours.
static bool property_compare(const char *property, unsigned class, const uint8_t *all, size_t size) {
    int problem;
    PCRE2_SIZE where;
    bool done = false;
    pcre2_general_context *general = pcre2_general_context_create(pcre2_allocate, pcre2_release, NULL);
    pcre2_compile_context *context = general ? pcre2_compile_context_create(general) : NULL;
    pcre2_code *code = context ? pcre2_compile((PCRE2_SPTR)property, PCRE2_ZERO_TERMINATED,
                                               PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK, &problem, &where, context)
                               : NULL;
    pcre2_match_data *match = code ? pcre2_match_data_create_from_pattern(code, general) : NULL;
    if (match != NULL) {
        pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
        const uint8_t *classes = unicode_classes();
        size_t at = 0;
        while (at < size) {
            size_t begin = size, end = size;
            if (pcre2_match(code, all, size, at, PCRE2_NO_UTF_CHECK, match, NULL) > 0) {
                begin = pcre2_get_ovector_pointer(match)[0];
                end = pcre2_get_ovector_pointer(match)[1];
            }
            while (at < end) {
                uint32_t character;
                bool theirs = at >= begin;
                at += unicode_decode(&character, all + at, size - at);
                unsigned ours = classes[character] & CHARACTER_CLASS_MASK;
                bool is_space = ours == CHARACTER_SPACE || ours == CHARACTER_NEWLINE;
                if (theirs != (class == CHARACTER_SPACE ? is_space : ours == class)) {
                    disagreement[character] = (uint8_t)(1 + ours);
                }
            }
        }
        done = true;
    }
    pcre2_match_data_free(match);
    pcre2_code_free(code);
    pcre2_compile_context_free(context);
    pcre2_general_context_free(general);
    return done;
}

static void disagreement_build(void) {
    uint8_t *all = memory_allocate(UNICODE_ILL_FORMED, 4, "all characters", NULL);
    if (all == NULL) {
        return;
    }
    size_t size = 0;
    for (uint32_t code = 0; code < UNICODE_ILL_FORMED; code++) {
        if (code < 0xD800 || code > 0xDFFF) {
            size += unicode_encode(all + size, code);
        }
    }
    disagreement_known = property_compare("\\p{L}+", CHARACTER_LETTER, all, size) &&
                         property_compare("\\p{M}+", CHARACTER_MARK, all, size) &&
                         property_compare("\\p{N}+", CHARACTER_NUMBER, all, size) &&
                         property_compare("\\p{P}+", CHARACTER_PUNCTUATION, all, size) &&
                         property_compare("\\p{S}+", CHARACTER_SYMBOL, all, size) &&
                         property_compare("\\s+", CHARACTER_SPACE, all, size);
    disagreement[UNICODE_ILL_FORMED] = 1 + CHARACTER_OTHER;
    memory_free(all);
}

int regex_prepare(const uint8_t **subject, struct regex_scratch *scratch, const uint8_t *text, int64_t size,
                  struct error *error) {
    bool copied = false;
    *subject = text;
    pthread_once(&disagreement_once, disagreement_build);   // here, because the scanner for DeepSeek's patterns needs none of it
    if (!disagreement_known) {
        return error_set(error, ERROR_MEMORY, "out of memory comparing character properties");
    }
    for (int64_t at = 0; at < size;) {
        uint32_t code;
        unsigned length = unicode_decode(&code, text + at, (size_t)(size - at));
        if (disagreement[code] != 0) {
            uint32_t stand_in = stand_ins[disagreement[code] - 1][length - 1];
            if (!copied) {
                scratch->subject.size = 0;
                if (byte_buffer_append(&scratch->subject, text, size, error) != 0) {
                    return ERROR_MEMORY;
                }
                *subject = (const uint8_t *)scratch->subject.data;
                copied = true;
            }
            if (stand_in != 0) {
                unicode_encode((uint8_t *)scratch->subject.data + at, stand_in);
            }
        }
        at += length;
    }
    return 0;
}

// ---- patterns ----

static int refuse(const char *name, const char *pattern, size_t at, const char *what, struct error *error) {
    return error_set(error, ERROR_FORMAT, "%s: regular expression \"%.80s\": %s at byte %zu is not supported", name, pattern,
                     what, at);
}

static int check_escape(size_t *at, const char *pattern, const char *name, struct error *error) {
    char kind = pattern[*at + 1];
    if (kind == 'p' || kind == 'P') {
        size_t end = *at + 2;
        if (pattern[end] == '{') {
            end += pattern[end + 1] == '^' ? 2 : 1;
            size_t first = end;
            while (isalpha((unsigned char)pattern[end])) {
                end++;
            }
            if (pattern[end] == '}' && end - first >= 1 && end - first <= 2 && strchr("LMNPSZC", pattern[first]) != NULL) {
                *at = end + 1;
                return 0;
            }
        }
        return refuse(name, pattern, *at, "a property other than a general category", error);
    }
    if (kind == '\0' || (isalnum((unsigned char)kind) && strchr("sSdDnrtfAz", kind) == NULL)) {
        return refuse(name, pattern, *at, "this escape", error);
    }
    *at += 2;
    return 0;
}

static int check_class(size_t *at, const char *pattern, const char *name, struct error *error) {
    size_t begin = (*at)++;
    if (pattern[*at] == '^') {
        (*at)++;
    }
    if (pattern[*at] == ']') {
        return refuse(name, pattern, begin, "an empty character class", error);
    }
    while (pattern[*at] != ']') {
        if (pattern[*at] == '\0') {
            return refuse(name, pattern, begin, "an unclosed character class", error);
        }
        if (pattern[*at] == '[' || (pattern[*at] == '&' && pattern[*at + 1] == '&')) {
            return refuse(name, pattern, *at, "a nested or intersected character class", error);
        }
        if (pattern[*at] == '\\') {
            if (check_escape(at, pattern, name, error) != 0) {
                return ERROR_FORMAT;
            }
        } else {
            (*at)++;
        }
    }
    (*at)++;
    return 0;
}

// A brace is a quantifier {n}, {n,} or {n,m}, not followed by a second one.
static int check_brace(size_t *at, const char *pattern, const char *name, struct error *error) {
    size_t begin = (*at)++;
    size_t digits = strspn(pattern + *at, "0123456789");
    *at += digits;
    if (pattern[*at] == ',') {
        *at += 1 + strspn(pattern + *at + 1, "0123456789");
    }
    if (digits == 0 || pattern[*at] != '}' || strchr("+?*{", pattern[*at + 1] ? pattern[*at + 1] : 'x') != NULL) {
        return refuse(name, pattern, begin, "this brace", error);
    }
    (*at)++;
    return 0;
}

static int check_group(size_t *at, const char *pattern, const char *name, struct error *error) {
    static const char *const allowed[] = {"(?:", "(?!", "(?=", "(?<!", "(?<=", "(?>", "(?i:"};
    if (pattern[*at + 1] != '?') {
        (*at)++;
        return 0;
    }
    for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++) {
        size_t length = strlen(allowed[i]);
        if (strncmp(pattern + *at, allowed[i], length) == 0) {
            *at += length;
            return 0;
        }
    }
    return refuse(name, pattern, *at, "this group", error);
}

// Only what means the same to both engines passes.
static int check_pattern(const char *pattern, const char *name, struct error *error) {
    int code = 0;
    for (size_t at = 0; code == 0 && pattern[at] != '\0';) {
        switch (pattern[at]) {
        case '\\': code = check_escape(&at, pattern, name, error); break;
        case '[': code = check_class(&at, pattern, name, error); break;
        case '{': code = check_brace(&at, pattern, name, error); break;
        case '(': code = check_group(&at, pattern, name, error); break;
        default: at++;
        }
    }
    return code;
}

int regex_create(struct regex **out, const char *pattern, bool literal, const char *name, struct error *error) {
    *out = NULL;
    if (!literal && check_pattern(pattern, name, error) != 0) {
        return ERROR_FORMAT;
    }
    int code = ERROR_MEMORY;
    struct regex *regex = memory_allocate(1, sizeof(*regex), "regular expression", error);
    pcre2_general_context *general = pcre2_general_context_create(pcre2_allocate, pcre2_release, NULL);
    pcre2_compile_context *context = general ? pcre2_compile_context_create(general) : NULL;
    if (regex == NULL || context == NULL || (regex->name = memory_copy_string(name, error)) == NULL) {
        error_set(error, ERROR_MEMORY, "%s: out of memory", name);
        goto out;
    }
    // Ruby: ^ and $ match at every line, a line ends in LF alone.
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE;
    int problem;
    PCRE2_SIZE where;
    regex->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                literal ? PCRE2_UTF | PCRE2_LITERAL : options, &problem, &where, context);
    if (regex->code == NULL) {
        char reason[128] = "";
        pcre2_get_error_message(problem, (PCRE2_UCHAR *)reason, sizeof(reason));
        code = error_set(error, ERROR_FORMAT, "%s: regular expression \"%.80s\": %s at byte %zu", name, pattern, reason, where);
        goto out;
    }
    pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE);   // when it cannot, the interpreter runs
    *out = regex;
    regex = NULL;
    code = 0;
out:
    pcre2_compile_context_free(context);
    pcre2_general_context_free(general);
    regex_free(regex);
    return code;
}

void regex_free(struct regex *regex) {
    if (regex != NULL) {
        pcre2_code_free(regex->code);
        memory_free(regex->name);
        memory_free(regex);
    }
}

static int scratch_create(struct regex_scratch *scratch, struct error *error) {
    int code = 0;
    pcre2_general_context *general = pcre2_general_context_create(pcre2_allocate, pcre2_release, NULL);
    if (general != NULL) {
        scratch->match_context = pcre2_match_context_create(general);
        scratch->jit_stack = pcre2_jit_stack_create(32768, JIT_STACK_BYTES, general);
        scratch->match_data = pcre2_match_data_create(1, general);
    }
    if (scratch->match_context == NULL || scratch->jit_stack == NULL || scratch->match_data == NULL) {
        regex_scratch_destroy(scratch);
        code = error_set(error, ERROR_MEMORY, "out of memory for a regular expression match");
    } else {
        pcre2_jit_stack_assign(scratch->match_context, NULL, scratch->jit_stack);
    }
    pcre2_general_context_free(general);
    return code;
}

int regex_find(int64_t *begin, int64_t *end, const struct regex *regex, struct regex_scratch *scratch,
               const uint8_t *subject, int64_t size, int64_t from, struct error *error) {
    if (scratch->match_data == NULL && scratch_create(scratch, error) != 0) {
        return ERROR_MEMORY;
    }
    int found = pcre2_match(regex->code, subject, (size_t)size, (size_t)from, PCRE2_NO_UTF_CHECK, scratch->match_data,
                            scratch->match_context);
    if (found == PCRE2_ERROR_NOMATCH) {
        return 0;
    }
    if (found < 0) {
        char reason[128] = "";
        pcre2_get_error_message(found, (PCRE2_UCHAR *)reason, sizeof(reason));
        return error_set(error, ERROR_LIMIT, "%s: matching failed at byte %lld of a piece: %s", regex->name, (long long)from,
                         reason);
    }
    // With one pair of offsets PCRE2 returns 0 when the pattern has groups; the pair of the whole match is set all the same.
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(scratch->match_data);
    *begin = (int64_t)ends[0];
    *end = (int64_t)ends[1];
    return 1;
}

void regex_scratch_destroy(struct regex_scratch *scratch) {
    pcre2_match_data_free(scratch->match_data);
    pcre2_match_context_free(scratch->match_context);
    pcre2_jit_stack_free(scratch->jit_stack);
    byte_buffer_destroy(&scratch->subject);
    *scratch = (struct regex_scratch){0};
}
