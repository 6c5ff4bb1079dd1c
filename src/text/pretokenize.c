// The stages of "pre_tokenizer" read from tokenizer.json, and the general way to run them (see pretokenize.h).
#include "text/pretokenize.h"

#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "text/unicode.h"

#define STAGES_MAX 16

static const char gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

enum stage_kind { STAGE_REGEX, STAGE_DIGITS, STAGE_DIGIT_RUNS };

struct stage {
    enum stage_kind kind;
    struct regex *regex;    // STAGE_REGEX
    int deepseek_pattern;   // which of pretokenize_deepseek_patterns it is, or -1
};

struct pretokenizer {
    struct stage stages[STAGES_MAX];
    int count;
    bool byte_level;   // the alphabet that bpe.h expects; nothing may follow it
};

static int stage_add(struct pretokenizer *pretokenizer, struct stage stage, const char *name, struct error *error) {
    if (pretokenizer->count == STAGES_MAX || pretokenizer->byte_level) {
        regex_free(stage.regex);
        return error_set(error, ERROR_FORMAT,
                         "%s: key \"pre_tokenizer\": expected at most %d stages with ByteLevel last", name, STAGES_MAX);
    }
    pretokenizer->stages[pretokenizer->count++] = stage;
    return 0;
}

static int regex_stage_add(struct pretokenizer *pretokenizer, const char *pattern, bool literal, const char *name,
                           struct error *error) {
    struct stage stage = {.kind = STAGE_REGEX, .deepseek_pattern = -1};
    for (int i = 0; i < 3 && !literal; i++) {
        if (strcmp(pattern, pretokenize_deepseek_patterns[i]) == 0) {
            stage.deepseek_pattern = i;
        }
    }
    int code = regex_create(&stage.regex, pattern, literal, name, error);
    return code != 0 ? code : stage_add(pretokenizer, stage, name, error);
}

static int split_add(struct pretokenizer *pretokenizer, const json_t *specification, const char *name,
                     struct error *error) {
    const char *behavior;
    bool invert;
    int code = json_get_string(&behavior, specification, "behavior", name, error);
    if (code != 0 || (code = json_get_boolean_or(&invert, false, specification, "invert", name, error)) != 0) {
        return code;
    }
    if (strcmp(behavior, "Isolated") != 0) {
        return error_set(error, ERROR_FORMAT,
                         "%s: pre-tokenizer Split: key \"behavior\": found \"%s\", supported is "
                         "\"Isolated\"",
                         name, behavior);
    }
    const json_t *pattern = json_object_get(specification, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex"), *string = json_object_get(pattern, "String");
    if (!json_is_string(regex) && !json_is_string(string)) {
        return error_set(error, ERROR_FORMAT,
                         "%s: pre-tokenizer Split: key \"pattern\": expected {\"Regex\": string} or "
                         "{\"String\": string}, found %s",
                         name, json_type_text(pattern));
    }
    bool literal = !json_is_string(regex);
    const json_t *text = literal ? string : regex;
    if (strlen(json_string_value(text)) != json_string_length(text) || json_string_length(text) == 0) {
        return error_set(error, ERROR_FORMAT, "%s: pre-tokenizer Split: key \"pattern\" is empty or has a NUL", name);
    }
    return regex_stage_add(pretokenizer, json_string_value(text), literal, name, error);
}

static int specification_add(struct pretokenizer *pretokenizer, const json_t *specification, int depth,
                             const char *name, struct error *error) {
    const char *type;
    int code = 0;
    if (!json_is_object(specification) || depth > 8) {
        return error_set(error, ERROR_FORMAT, "%s: key \"pre_tokenizer\": expected an object%s, found %s", name,
                         depth > 8 ? " nested at most 8 deep" : "", json_type_text(specification));
    }
    if ((code = json_get_string(&type, specification, "type", name, error)) != 0) {
        return code;
    }
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(specification, "pretokenizers");
        if (!json_is_array(list)) {
            return error_set(error, ERROR_FORMAT, "%s: key \"pretokenizers\": expected an array, found %s", name,
                             json_type_text(list));
        }
        for (size_t i = 0; code == 0 && i < json_array_size(list); i++) {
            code = specification_add(pretokenizer, json_array_get(list, i), depth + 1, name, error);
        }
        return code;
    }
    if (strcmp(type, "Split") == 0) {
        return split_add(pretokenizer, specification, name, error);
    }
    if (strcmp(type, "Digits") == 0) {
        bool individual;
        code = json_get_boolean_or(&individual, false, specification, "individual_digits", name, error);
        struct stage stage = {.kind = individual ? STAGE_DIGITS : STAGE_DIGIT_RUNS, .deepseek_pattern = -1};
        return code != 0 ? code : stage_add(pretokenizer, stage, name, error);
    }
    if (strcmp(type, "ByteLevel") == 0) {
        bool prefix, use_regex;
        if ((code = json_get_boolean_or(&prefix, true, specification, "add_prefix_space", name, error)) != 0 ||
            (code = json_get_boolean_or(&use_regex, true, specification, "use_regex", name, error)) != 0) {
            return code;
        }
        if (prefix) {
            return error_set(error, ERROR_FORMAT,
                             "%s: pre-tokenizer ByteLevel: key \"add_prefix_space\": found true, "
                             "supported is false",
                             name);
        }
        if (use_regex && (code = regex_stage_add(pretokenizer, gpt2_pattern, false, name, error)) != 0) {
            return code;
        }
        pretokenizer->byte_level = true;
        return 0;
    }
    return error_set(error, ERROR_FORMAT,
                     "%s: pre-tokenizer \"%s\" is not supported (supported: Sequence, Split, Digits, "
                     "ByteLevel)",
                     name, type);
}

int pretokenizer_create(struct pretokenizer **out, const json_t *specification, const char *name, struct error *error) {
    *out = NULL;
    struct pretokenizer *pretokenizer = memory_allocate(1, sizeof(*pretokenizer), "pre-tokenizer", error);
    if (pretokenizer == NULL) {
        return ERROR_MEMORY;
    }
    int code = specification_add(pretokenizer, specification, 0, name, error);
    if (code == 0 && !pretokenizer->byte_level) {
        code = error_set(error, ERROR_FORMAT, "%s: key \"pre_tokenizer\": expected a ByteLevel stage, found none",
                         name);
    }
    if (code != 0) {
        pretokenizer_free(pretokenizer);
        return code;
    }
    *out = pretokenizer;
    return 0;
}

void pretokenizer_free(struct pretokenizer *pretokenizer) {
    if (pretokenizer != NULL) {
        for (int i = 0; i < pretokenizer->count; i++) {
            regex_free(pretokenizer->stages[i].regex);
        }
        memory_free(pretokenizer);
    }
}

bool pretokenizer_is_deepseek(const struct pretokenizer *pretokenizer) {
    const struct stage *stages = pretokenizer->stages;
    return pretokenizer->count == 3 && stages[0].deepseek_pattern == 0 && stages[1].deepseek_pattern == 1 &&
           stages[2].deepseek_pattern == 2;
}

// ---- the general way ----

// Ends before which nothing is open; ignores the empty piece.
static int piece_end(struct piece_list *list, int64_t begin, int64_t end, struct error *error) {
    if (end == begin) {
        return 0;
    }
    if (list->count == list->capacity) {
        int64_t capacity = list->capacity == 0 ? 256 : list->capacity * 2;
        int64_t *ends = memory_resize(list->ends, (size_t)capacity, sizeof(*ends), "pieces of text", error);
        if (ends == NULL) {
            return ERROR_MEMORY;
        }
        list->ends = ends;
        list->capacity = capacity;
    }
    list->ends[list->count++] = end;
    return 0;
}

static int regex_split(struct piece_list *list, struct regex_scratch *scratch, const struct regex *regex,
                       const uint8_t *subject, int64_t begin, int64_t end, struct error *error) {
    const uint8_t *piece = subject + begin;
    int64_t size = end - begin, done = 0, from = 0, last_match = -1;
    int code = 0;
    while (code == 0 && from <= size) {
        int64_t match_begin, match_end;
        int found = regex_find(&match_begin, &match_end, regex, scratch, piece, size, from, error);
        if (found < 0) {
            return found;
        }
        if (found == 0) {
            break;
        }
        from = match_end;
        if (match_begin == match_end) {
            // An empty match cuts too, but not right behind the match before it.
            uint32_t character;
            from += match_end < size ? unicode_decode(&character, piece + match_end, (size_t)(size - match_end)) : 1;
            if (match_end == last_match) {
                continue;
            }
        }
        last_match = match_end;
        if ((code = piece_end(list, begin + done, begin + match_begin, error)) == 0) {
            code = piece_end(list, begin + match_begin, begin + match_end, error);
        }
        done = match_end;
    }
    return code != 0 ? code : piece_end(list, begin + done, end, error);
}

static int digits_split(struct piece_list *list, bool individual, const uint8_t *text, int64_t begin, int64_t end,
                        struct error *error) {
    const uint8_t *classes = unicode_classes();
    int64_t open = begin;
    bool in_number = false;
    int code = 0;
    for (int64_t at = begin; code == 0 && at < end;) {
        uint32_t character;
        unsigned length = unicode_decode(&character, text + at, (size_t)(end - at));
        bool number = (classes[character] & CHARACTER_CLASS_MASK) == CHARACTER_NUMBER;
        if (number != in_number || (number && individual)) {
            code = piece_end(list, open, at, error);
            open = at;
            in_number = number;
        }
        at += length;
    }
    return code != 0 ? code : piece_end(list, open, end, error);
}

int pretokenizer_split(const struct piece_list **pieces, struct pretokenize_scratch *scratch,
                       const struct pretokenizer *pretokenizer, const uint8_t *text, int64_t size,
                       struct error *error) {
    struct piece_list *from = &scratch->pieces[0], *to = &scratch->pieces[1];
    const uint8_t *subject;
    from->count = 0;
    int code = regex_prepare(&subject, &scratch->regex, text, size, error);
    if (code == 0) {
        code = piece_end(from, 0, size, error);
    }
    for (int i = 0; code == 0 && i < pretokenizer->count; i++) {
        const struct stage *stage = &pretokenizer->stages[i];
        to->count = 0;
        for (int64_t p = 0; code == 0 && p < from->count; p++) {
            int64_t begin = p == 0 ? 0 : from->ends[p - 1], end = from->ends[p];
            if (stage->kind == STAGE_REGEX) {
                code = regex_split(to, &scratch->regex, stage->regex, subject, begin, end, error);
            } else {
                code = digits_split(to, stage->kind == STAGE_DIGITS, text, begin, end, error);
            }
        }
        struct piece_list *other = from;
        from = to;
        to = other;
    }
    *pieces = from;
    return code;
}

void pretokenize_scratch_destroy(struct pretokenize_scratch *scratch) {
    memory_free(scratch->pieces[0].ends);
    memory_free(scratch->pieces[1].ends);
    regex_scratch_destroy(&scratch->regex);
    *scratch = (struct pretokenize_scratch){0};
}
