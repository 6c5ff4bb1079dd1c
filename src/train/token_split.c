// The table of splittable tokens: see token_split.h.
#include "train/token_split.h"

#include <ctype.h>

#include "base/memory.h"

static bool is_break(uint8_t byte) {
    return byte == '\n' || byte == '\r';
}

// Length of the first half, or 0.
static int64_t first_half(const uint8_t *bytes, int64_t size) {
    int64_t end = size;
    while (end > 0 && is_break(bytes[end - 1])) {
        end--;
    }
    bool visible = false;
    for (int64_t i = 0; i < end; i++) {
        if (isalnum(bytes[i]) || is_break(bytes[i])) {
            return 0;
        }
        visible |= bytes[i] > ' ';
    }
    return visible && end < size ? end : 0;
}

int token_split_create(struct token_split *split, const struct tokenizer *tokenizer, int64_t vocab_size, struct error *error) {
    *split = (struct token_split){0};
    int32_t tokens = tokenizer_vocabulary_size(tokenizer);
    split->offsets = memory_allocate((size_t)vocab_size + 1, sizeof *split->offsets, "token splits", error);
    split->pieces = memory_allocate(2 * (size_t)vocab_size, sizeof *split->pieces, "token splits", error);
    if (split->offsets == NULL || split->pieces == NULL) {
        token_split_destroy(split);
        return ERROR_MEMORY;
    }
    int32_t used = 0;
    for (int32_t id = 0; id < vocab_size; id++) {
        split->offsets[id] = used;
        int64_t size = 0;
        const uint8_t *bytes = id < tokens && !tokenizer_is_added(tokenizer, id) ? tokenizer_token(&size, tokenizer, id) : NULL;
        int64_t half = bytes != NULL ? first_half(bytes, size) : 0;
        int32_t left = half > 0 ? tokenizer_find(tokenizer, (const char *)bytes, half) : -1;
        int32_t right = half > 0 ? tokenizer_find(tokenizer, (const char *)bytes + half, size - half) : -1;
        if (left >= 0 && right >= 0 && left < vocab_size && right < vocab_size) {
            split->pieces[used++] = left;
            split->pieces[used++] = right;
            split->count++;
        }
    }
    split->offsets[vocab_size] = used;
    return 0;
}

void token_split_destroy(struct token_split *split) {
    memory_free(split->offsets);
    memory_free(split->pieces);
    *split = (struct token_split){0};
}
