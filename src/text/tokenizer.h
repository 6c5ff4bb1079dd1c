// A tokenizer.json of the byte-level BPE family: text <-> token ids, the same ids as Hugging Face tokenizers.
//
// tokenizer_load reads tokenizer.json, and tokenizer_config.json beside it when there is one. Supported: no normalizer
// (or an empty Sequence), the pre-tokenizers of pretokenize.h, model BPE over bytes with or without ignore_merges,
// decoder ByteLevel, post-processors ByteLevel (no effect on ids) and TemplateProcessing (read for a leading BOS only).
// Anything else is an error that names it. An added token has its flags lstrip, rstrip, normalized and special
// honoured; single_word is refused. Ids are those of the file; Hugging Face renumbers added tokens that leave holes, we
// do not.
//
// Any byte string can be encoded: an ill-formed UTF-8 byte is a character of its own (unicode.h), and
// decode(encode(x)) = x for all x. (Hugging Face takes well-formed text only.)
//
// A loaded tokenizer never changes: share it between threads. Encoding needs a struct encoder, one per thread.
#ifndef MINKE_TEXT_TOKENIZER_H
#define MINKE_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "text/buffer.h"

struct tokenizer;
struct encoder;

// `path`: a tokenizer.json, or a directory with one.
int tokenizer_load(struct tokenizer **tokenizer, const char *path, struct error *error);
void tokenizer_free(struct tokenizer *tokenizer);   // NULL is fine

// One more than the highest id. Ids below it may be holes (no token); a model may have more rows than this.
int32_t tokenizer_vocabulary_size(const struct tokenizer *tokenizer);

// Ids by role, -1 = none, from tokenizer_config.json; without one, tokens with DeepSeek's names are taken.
struct tokenizer_roles {
    int32_t bos, eos, pad;
    bool add_bos;   // "add_bos_token": prompts of a base model start with BOS (chat templates contain it already)
};
struct tokenizer_roles tokenizer_roles(const struct tokenizer *tokenizer);

// Text of "chat_template" (or of chat_template.jinja beside it), NULL = none. Not terminated inside; lives as long as
// the tokenizer.
const char *tokenizer_chat_template(const struct tokenizer *tokenizer);

// Bytes of a token, NULL and 0 for ids that have none. Added tokens give their text.
const uint8_t *tokenizer_token(int64_t *size, const struct tokenizer *tokenizer, int32_t id);
// The id whose bytes these are, added tokens first; -1 = none.
int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *bytes, int64_t size);
int32_t tokenizer_find_string(const struct tokenizer *tokenizer, const char *text);
bool tokenizer_is_added(const struct tokenizer *tokenizer, int32_t id);
bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id);

// ---- encoding ----

// One thread's working memory: a cache of pieces (4 MiB), scratch. Keeps a pointer to the tokenizer.
int encoder_create(struct encoder **encoder, const struct tokenizer *tokenizer, struct error *error);
void encoder_free(struct encoder *encoder);   // NULL is fine
const struct tokenizer *encoder_tokenizer(const struct encoder *encoder);

enum encode_flags {
    ENCODE_ADDED_TOKENS = 1,   // text like "<｜User｜>" becomes its added token; without the flag it is plain text
    ENCODE_BOS = 2,            // BOS first; error when the tokenizer has none
};
// Appends the ids of text[0..size).
int encoder_encode(struct token_buffer *out, struct encoder *encoder, const char *text, int64_t size, unsigned flags,
                   struct error *error);

// ---- decoding ----

enum decode_flags {
    DECODE_SKIP_SPECIAL = 1,   // leave out tokens flagged special (role and tool markers of DeepSeek are not)
};
// Appends the bytes of the ids. An id below 0 or at least tokenizer_vocabulary_size is an error, a hole gives nothing.
int tokenizer_decode(struct byte_buffer *out, const struct tokenizer *tokenizer, const int32_t *ids, int64_t count,
                     unsigned flags, struct error *error);

// Decoding for people, token by token: appends well-formed UTF-8 only. Bytes of a character that is not complete are
// held back until it is; ill-formed sequences become U+FFFD, one for each maximal prefix of a character. Unknown ids
// give nothing.
struct decode_stream {
    uint8_t held[4];   // starts as all zero
    int held_count;
};
int decode_stream_push(struct byte_buffer *out, struct decode_stream *stream, const struct tokenizer *tokenizer,
                       int32_t id, unsigned flags, struct error *error);
// What is still held becomes U+FFFD.
int decode_stream_finish(struct byte_buffer *out, struct decode_stream *stream, struct error *error);

#endif
