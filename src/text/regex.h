// The regular expressions of tokenizer.json, run by PCRE2 so that they find what Oniguruma (Ruby syntax, UTF-8) finds
// inside Hugging Face tokenizers.
//
// Where the two engines differ in meaning the pattern is refused with a message (\w \b \h \R, nested or intersected
// character classes, script names, possessive {n,m}+, ...); \s is written out, because PCRE2's has U+180E. Where they
// differ in data (PCRE2's Unicode version is not 16, it takes no ill-formed UTF-8), the subject is rewritten before
// matching: such a character is replaced by one of equal class and equal length. What remains different: a pattern that
// names such a character literally, and subcategories (\p{Lu}) of characters newer than the PCRE2 library.
#ifndef MINKE_TEXT_REGEX_H
#define MINKE_TEXT_REGEX_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "text/buffer.h"

struct regex;

// Working memory of one thread; starts as all zero.
struct regex_scratch {
    void *match_data, *match_context, *jit_stack;   // PCRE2's, made on first use
    struct byte_buffer subject;
};

// `literal`: the pattern is a plain string. `name` says where it stands, for messages.
int regex_create(struct regex **regex, const char *pattern, bool literal, const char *name, struct error *error);
void regex_free(struct regex *regex);   // NULL is fine

// Rewrites text as described above, same length; the result (text itself, or scratch->subject) is valid until the next
// call.
int regex_prepare(const uint8_t **subject, struct regex_scratch *scratch, const uint8_t *text, int64_t size,
                  struct error *error);
// First match at or after `from` in a prepared subject: 1 and [*begin, *end), 0 = none, or a negative code.
int regex_find(int64_t *begin, int64_t *end, const struct regex *regex, struct regex_scratch *scratch,
               const uint8_t *subject, int64_t size, int64_t from, struct error *error);

void regex_scratch_destroy(struct regex_scratch *scratch);

#endif
