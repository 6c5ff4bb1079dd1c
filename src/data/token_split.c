// Finding the tokens of punctuation with line breaks behind it, and their pieces (token_split.h).
#include "data/token_split.h"

#include "base/memory.h"
#include "text/unicode.h"

// Bytes before the line breaks of a splittable token, 0 for any other.
static int64_t split_place(const uint8_t *text, int64_t size) {
    const uint8_t *classes = unicode_classes();
    int64_t at = size > 0 && text[0] == ' ' ? 1 : 0, signs = 0;
    while (at < size && text[at] != '\r' && text[at] != '\n') {
        uint32_t code;
        at += unicode_decode(&code, text + at, (size_t)(size - at));
        unsigned class = classes[code] & CHARACTER_CLASS_MASK;
        if (class != CHARACTER_PUNCTUATION && class != CHARACTER_SYMBOL) {
            return 0;
        }
        signs++;
    }
    int64_t place = at;
    while (at < size && (text[at] == '\r' || text[at] == '\n')) {
        at++;
    }
    return signs > 0 && at == size && at > place ? place : 0;
}

static int append_pieces(struct token_buffer *pieces, struct encoder *encoder, const uint8_t *text, int64_t place,
                         int64_t size, struct error *error) {
    int code = encoder_encode(pieces, encoder, (const char *)text, place, 0, error);
    if (code == 0) {
        code = encoder_encode(pieces, encoder, (const char *)text + place, size - place, 0, error);
    }
    if (code == 0 && pieces->count > INT32_MAX) {
        code = error_set(error, ERROR_LIMIT, "token pieces: more than %d", INT32_MAX);
    }
    return code;
}

int token_split_create(struct token_split *split, const struct tokenizer *tokenizer, struct error *error) {
    *split = (struct token_split){0};
    int32_t vocabulary = tokenizer_vocabulary_size(tokenizer);
    struct encoder *encoder = NULL;
    struct token_buffer pieces = {0};
    int code = encoder_create(&encoder, tokenizer, error);
    if (code != 0) {
        return code;
    }
    split->offsets = memory_allocate((size_t)vocabulary + 1, sizeof *split->offsets, "token pieces", error);
    if (split->offsets == NULL || token_buffer_reserve(&pieces, 1, error) != 0) {
        code = ERROR_MEMORY;
        goto out;
    }
    for (int32_t id = 0; id < vocabulary && code == 0; id++) {
        int64_t size;
        const uint8_t *text = tokenizer_token(&size, tokenizer, id);
        int64_t place = text == NULL || tokenizer_is_added(tokenizer, id) ? 0 : split_place(text, size);
        if (place > 0) {
            code = append_pieces(&pieces, encoder, text, place, size, error);
            split->tokens++;
        }
        split->offsets[id + 1] = (int32_t)pieces.count;
    }

out:
    encoder_free(encoder);
    split->pieces = pieces.ids;
    if (code != 0) {
        token_split_destroy(split);
    }
    return code;
}

void token_split_destroy(struct token_split *split) {
    memory_free(split->offsets);
    memory_free(split->pieces);
    *split = (struct token_split){0};
}
