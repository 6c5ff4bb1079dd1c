// PCRE2 made to find what Oniguruma finds (see regex.h).
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex.h"

#include <ctype.h>
#include <pcre2.h>
#include <pthread.h>
#include <stdatomic.h>

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
static uint8_t disagreement[UNICODE_ILL_FORMED + 1] = {[UNICODE_ILL_FORMED] = 1 + CHARACTER_OTHER};
static pthread_mutex_t disagreement_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool disagreement_known;   // the table is complete

// Of equal class by [length - 1]; 0 = there is no character of this class and length that needs one. Chosen from
// corners that patterns do not name alone: controls, private use, Yi, Linear B, Ethiopic, Aegean, Braille, musical
// symbols, Thai digits.
static const uint32_t stand_ins[6][4] = {
    [CHARACTER_OTHER] = {0x1, 0x9F, 0xE000, 0xF0000},  [CHARACTER_LETTER] = {0, 0, 0xA000, 0x10000},
    [CHARACTER_MARK] = {0, 0, 0x1DC0, 0x101FD},        [CHARACTER_NUMBER] = {0, 0, 0x0E50, 0x104A0},
    [CHARACTER_PUNCTUATION] = {0, 0, 0x1360, 0x10100}, [CHARACTER_SYMBOL] = {0, 0, 0x2800, 0x1D000},
};
#define STAND_IN_LETTER_LOW 0x1401u   // for letters below U+4E00, where patterns have a border

// What \s matches in Oniguruma: property White_Space. PCRE2's has U+180E besides.
#define SPACE_RANGES \
    "\\x09-\\x0D\\x20\\x85\\xA0\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"

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
                if (theirs != (ours == class)) {
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

// Fills the table unless that is done already (in some thread); out of memory is no final state.
static int disagreement_build(struct error *error) {
    if (atomic_load_explicit(&disagreement_known, memory_order_acquire)) {
        return 0;
    }
    uint8_t *all = memory_allocate(UNICODE_ILL_FORMED, 4, "all characters", error);
    if (all == NULL) {
        return ERROR_MEMORY;
    }
    size_t size = 0;
    for (uint32_t code = 0; code < UNICODE_ILL_FORMED; code++) {
        if (code < 0xD800 || code > 0xDFFF) {
            size += unicode_encode(all + size, code);
        }
    }
    pthread_mutex_lock(&disagreement_lock);
    bool known = atomic_load_explicit(&disagreement_known, memory_order_relaxed);   // another thread was faster
    known = known || (property_compare("\\p{L}+", CHARACTER_LETTER, all, size) &&
                      property_compare("\\p{M}+", CHARACTER_MARK, all, size) &&
                      property_compare("\\p{N}+", CHARACTER_NUMBER, all, size) &&
                      property_compare("\\p{P}+", CHARACTER_PUNCTUATION, all, size) &&
                      property_compare("\\p{S}+", CHARACTER_SYMBOL, all, size));
    atomic_store_explicit(&disagreement_known, known, memory_order_release);
    pthread_mutex_unlock(&disagreement_lock);
    memory_free(all);
    return known ? 0 : error_set(error, ERROR_MEMORY, "out of memory comparing character properties");
}

int regex_prepare(const uint8_t **subject, struct regex_scratch *scratch, const uint8_t *text, int64_t size,
                  struct error *error) {
    bool copied = false;
    *subject = text;
    int code = disagreement_build(error);   // here, because the scanner for DeepSeek's patterns needs none of it
    if (code != 0) {
        return code;
    }
    for (int64_t at = 0; at < size;) {
        uint32_t character;
        unsigned length = unicode_decode(&character, text + at, (size_t)(size - at));
        if (disagreement[character] != 0) {
            uint32_t stand_in = stand_ins[disagreement[character] - 1][length - 1];
            stand_in = stand_in == 0xA000 && character < 0x4E00 ? STAND_IN_LETTER_LOW : stand_in;
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
    return error_set(error, ERROR_FORMAT, "%s: regular expression \"%.80s\": %s at byte %zu is not supported", name,
                     pattern, what, at);
}

// Copies a pattern to PCRE2's syntax; only what means the same to both engines passes.
struct translation {
    struct byte_buffer out;
    const char *pattern, *name;
    size_t at;
    bool in_class;
    struct error *error;
};

// Copies up to byte `end` of the pattern.
static int copy_until(struct translation *translation, size_t end) {
    size_t begin = translation->at;
    translation->at = end;
    return byte_buffer_append(&translation->out, translation->pattern + begin, (int64_t)(end - begin),
                              translation->error);
}

static int refuse_here(const struct translation *translation, const char *what) {
    return refuse(translation->name, translation->pattern, translation->at, what, translation->error);
}

static int translate_escape(struct translation *translation) {
    const char *pattern = translation->pattern;
    size_t at = translation->at;
    char kind = pattern[at + 1];
    if (kind == 'p' || kind == 'P') {
        size_t end = at + 2;
        if (pattern[end] == '{') {
            end += pattern[end + 1] == '^' ? 2 : 1;
            size_t first = end;
            while (isalpha((unsigned char)pattern[end])) {
                end++;
            }
            if (pattern[end] == '}' && end - first >= 1 && end - first <= 2 &&
                strchr("LMNPSZC", pattern[first]) != NULL) {
                return copy_until(translation, end + 1);
            }
        }
        return refuse_here(translation, "a property other than a general category");
    }
    if (kind == 's' || (kind == 'S' && !translation->in_class)) {
        translation->at += 2;
        const char *text = translation->in_class ? SPACE_RANGES
                           : kind == 's'         ? "[" SPACE_RANGES "]"
                                                 : "[^" SPACE_RANGES "]";
        return byte_buffer_append_string(&translation->out, text, translation->error);
    }
    if (kind == '\0' || (isalnum((unsigned char)kind) && strchr("dDnrtfAz", kind) == NULL)) {
        return refuse_here(translation, "this escape");
    }
    return copy_until(translation, at + 2);
}

static int translate_class(struct translation *translation) {
    const char *pattern = translation->pattern;
    size_t begin = translation->at;
    int code = copy_until(translation, begin + (pattern[begin + 1] == '^' ? 2 : 1));
    if (code == 0 && pattern[translation->at] == ']') {
        return refuse_here(translation, "an empty character class");
    }
    translation->in_class = true;
    while (code == 0 && pattern[translation->at] != ']') {
        char byte = pattern[translation->at];
        if (byte == '\0') {
            translation->at = begin;
            return refuse_here(translation, "an unclosed character class");
        }
        if (byte == '[' || (byte == '&' && pattern[translation->at + 1] == '&')) {
            return refuse_here(translation, "a nested or intersected character class");
        }
        code = byte == '\\' ? translate_escape(translation) : copy_until(translation, translation->at + 1);
    }
    translation->in_class = false;
    return code != 0 ? code : copy_until(translation, translation->at + 1);
}

// A brace is a quantifier {n}, {n,} or {n,m}, not followed by a second one.
static int translate_brace(struct translation *translation) {
    const char *pattern = translation->pattern;
    size_t at = translation->at + 1, digits = strspn(pattern + at, "0123456789");
    at += digits;
    if (pattern[at] == ',') {
        at += 1 + strspn(pattern + at + 1, "0123456789");
    }
    if (digits == 0 || pattern[at] != '}' || (pattern[at + 1] != '\0' && strchr("+?*{", pattern[at + 1]) != NULL)) {
        return refuse_here(translation, "this brace");
    }
    return copy_until(translation, at + 1);
}

static int translate_group(struct translation *translation) {
    static const char *const allowed[] = {"(?:", "(?!", "(?=", "(?<!", "(?<=", "(?>", "(?i:"};
    const char *here = translation->pattern + translation->at;
    if (here[1] != '?') {
        return copy_until(translation, translation->at + 1);
    }
    for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++) {
        if (strncmp(here, allowed[i], strlen(allowed[i])) == 0) {
            return copy_until(translation, translation->at + strlen(allowed[i]));
        }
    }
    return refuse_here(translation, "this group");
}

static int translate(struct translation *translation) {
    int code = 0;
    while (code == 0 && translation->pattern[translation->at] != '\0') {
        switch (translation->pattern[translation->at]) {
        case '\\':
            code = translate_escape(translation);
            break;
        case '[':
            code = translate_class(translation);
            break;
        case '{':
            code = translate_brace(translation);
            break;
        case '(':
            code = translate_group(translation);
            break;
        default:
            code = copy_until(translation, translation->at + 1);
        }
    }
    return code;
}

static int regex_compile(struct regex *regex, const char *pattern, size_t size, bool literal, const char *shown,
                         struct error *error) {
    pcre2_general_context *general = pcre2_general_context_create(pcre2_allocate, pcre2_release, NULL);
    pcre2_compile_context *context = general ? pcre2_compile_context_create(general) : NULL;
    int problem = PCRE2_ERROR_HEAP_FAILED, code = 0;
    PCRE2_SIZE where = 0;
    if (context != NULL) {
        // Ruby: ^ and $ match at every line, a line ends in LF alone.
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        uint32_t options = literal ? PCRE2_UTF | PCRE2_LITERAL : PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE;
        regex->code = pcre2_compile((PCRE2_SPTR)pattern, size, options, &problem, &where, context);
    }
    if (regex->code == NULL && (problem == PCRE2_ERROR_HEAP_FAILED || context == NULL)) {
        code = error_set(error, ERROR_MEMORY, "%s: regular expression \"%.80s\": out of memory", regex->name, shown);
    } else if (regex->code == NULL) {
        char reason[128] = "";
        pcre2_get_error_message(problem, (PCRE2_UCHAR *)reason, sizeof(reason));
        code = error_set(error, ERROR_FORMAT, "%s: regular expression \"%.80s\": %s", regex->name, shown, reason);
    } else {
        pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE);   // when it cannot, the interpreter runs
    }
    pcre2_compile_context_free(context);
    pcre2_general_context_free(general);
    return code;
}

int regex_create(struct regex **out, const char *pattern, bool literal, const char *name, struct error *error) {
    *out = NULL;
    struct translation translation = {.pattern = pattern, .name = name, .error = error};
    struct regex *regex = memory_allocate(1, sizeof(*regex), "regular expression", error);
    int code = regex == NULL || (regex->name = memory_copy_string(name, error)) == NULL ? ERROR_MEMORY : 0;
    if (code == 0) {
        code = literal ? byte_buffer_append_string(&translation.out, pattern, error) : translate(&translation);
    }
    if (code == 0) {
        code = regex_compile(regex, translation.out.data, (size_t)translation.out.size, literal, pattern, error);
    }
    byte_buffer_destroy(&translation.out);
    if (code != 0) {
        regex_free(regex);
        return code;
    }
    *out = regex;
    return 0;
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
        return error_set(error, found == PCRE2_ERROR_NOMEMORY ? ERROR_MEMORY : ERROR_LIMIT,
                         "%s: matching failed at byte %lld of a piece: %s", regex->name, (long long)from, reason);
    }
    // With one pair of offsets PCRE2 returns 0 when the pattern has groups; the pair of the whole match is set all the
    // same.
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
