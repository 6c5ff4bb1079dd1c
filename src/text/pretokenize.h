// Pre-tokenization: cuts text into pieces; byte-pair merges never cross a piece boundary.
//
// A pre-tokenizer is the list of stages of tokenizer.json's "pre_tokenizer": each stage cuts every piece of the stage
// before it, seeing the piece alone (its ends are the ends of the text). Supported kinds: Sequence; Split with a Regex
// or String pattern and behavior Isolated (matches and the gaps between them become pieces; nothing is dropped; invert
// makes no difference); Digits; ByteLevel without a prefix space (its byte alphabet is the business of bpe.h; with
// use_regex it also cuts with GPT-2's regex). Anything else is an error that names the kind.
//
// The three regexes of DeepSeek-V3 are recognised and run by a hand-written scanner instead of the regex engine:
//   1  \p{N}{1,3}
//   2  runs of U+4E00-9FA5, U+3040-30FF
//   3  one ASCII punctuation sign + ASCII letters
//      | [one that is not CR LF L P S] + run of L, M
//      | [space] + run of P, S + run of CR, LF
//      | white space up to its last CR or LF
//      | white space but its last character when something follows
//      | white space
// Both ways give the same pieces for every byte string. Ill-formed UTF-8 is read as in unicode.h.
#ifndef MINKE_TEXT_PRETOKENIZE_H
#define MINKE_TEXT_PRETOKENIZE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "text/regex.h"

struct pretokenizer;

// Ends of consecutive pieces, ascending, the last one = size of the text; no piece is empty.
struct piece_list {
    int64_t *ends;
    int64_t count, capacity;
};

// Working memory of one thread; starts as all zero.
struct pretokenize_scratch {
    struct piece_list pieces[2];
    struct regex_scratch regex;
};

// The patterns of DeepSeek-V3's three stages, as in tokenizer.json.
extern const char *const pretokenize_deepseek_patterns[3];

// `specification` is the value of "pre_tokenizer" (borrowed during the call); `name` is the file, for messages.
int pretokenizer_create(struct pretokenizer **pretokenizer, const json_t *specification, const char *name,
                        struct error *error);
void pretokenizer_free(struct pretokenizer *pretokenizer);   // NULL is fine

// True when pretokenize_deepseek_next does what this pre-tokenizer says.
bool pretokenizer_is_deepseek(const struct pretokenizer *pretokenizer);

// End of the piece that starts at `begin` < size, in time proportional to the piece. `begin` is 0 or an earlier end;
// `classes` is unicode_classes().
size_t pretokenize_deepseek_next(const uint8_t *classes, const uint8_t *text, size_t size, size_t begin);

// All pieces of a text with the regex engine, stage by stage: returns the list inside scratch through *pieces.
int pretokenizer_split(const struct piece_list **pieces, struct pretokenize_scratch *scratch,
                       const struct pretokenizer *pretokenizer, const uint8_t *text, int64_t size, struct error *error);

void pretokenize_scratch_destroy(struct pretokenize_scratch *scratch);

#endif
