// The layouts of a prompt and of a training document (see fim.h).
#include "text/fim.h"

#include "base/rng.h"

int fim_tokens_find(struct fim_tokens *tokens, const struct tokenizer *tokenizer, struct error *error) {
    static const char *const names[] = {"<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"};
    int32_t *const ids[] = {&tokens->begin, &tokens->hole, &tokens->end};
    for (int i = 0; i < 3; i++) {
        *ids[i] = tokenizer_find_string(tokenizer, names[i]);
        if (*ids[i] < 0) {
            return error_set(error, ERROR_FORMAT, "the tokenizer has no token \"%s\" for fill-in-the-middle", names[i]);
        }
    }
    tokens->eos = tokenizer_roles(tokenizer).eos;
    if (tokens->eos < 0) {
        return error_set(error, ERROR_FORMAT, "the tokenizer has no end-of-sentence token for fill-in-the-middle");
    }
    return 0;
}

static int parts_encode(struct token_buffer *out, struct encoder *encoder, const struct fim_tokens *tokens,
                        const char *prefix, int64_t prefix_size, const char *suffix, int64_t suffix_size,
                        struct error *error) {
    int code = token_buffer_append(out, tokens->begin, error);
    if (code != 0 || (code = encoder_encode(out, encoder, prefix, prefix_size, 0, error)) != 0 ||
        (code = token_buffer_append(out, tokens->hole, error)) != 0 ||
        (code = encoder_encode(out, encoder, suffix, suffix_size, 0, error)) != 0) {
        return code;
    }
    return token_buffer_append(out, tokens->end, error);
}

int fim_prompt_encode(struct token_buffer *out, struct encoder *encoder, const char *prefix, int64_t prefix_size,
                      const char *suffix, int64_t suffix_size, struct error *error) {
    struct fim_tokens tokens;
    struct tokenizer_roles roles = tokenizer_roles(encoder_tokenizer(encoder));
    int code = fim_tokens_find(&tokens, encoder_tokenizer(encoder), error);
    if (code == 0 && roles.add_bos) {
        code = token_buffer_append(out, roles.bos, error);
    }
    return code != 0 ? code : parts_encode(out, encoder, &tokens, prefix, prefix_size, suffix, suffix_size, error);
}

int fim_document_encode(struct token_buffer *out, struct encoder *encoder, const char *document, int64_t size,
                        int64_t begin, int64_t end, struct error *error) {
    struct fim_tokens tokens;
    int code = fim_tokens_find(&tokens, encoder_tokenizer(encoder), error);
    CHECK(begin >= 0 && begin <= end && end <= size, "middle [%lld, %lld) of a document of %lld bytes",
          (long long)begin, (long long)end, (long long)size);
    if (code != 0 ||
        (code = parts_encode(out, encoder, &tokens, document, begin, document + end, size - end, error)) != 0 ||
        (code = encoder_encode(out, encoder, document + begin, end - begin, 0, error)) != 0) {
        return code;
    }
    return token_buffer_append(out, tokens.eos, error);
}

void fim_cut(int64_t *begin, int64_t *end, const char *document, int64_t size, uint64_t seed,
             uint64_t document_number) {
    uint64_t stream = rng_hash_string("fim.cut");
    int64_t cuts[2];
    for (uint64_t i = 0; i < 2; i++) {
        cuts[i] = (int64_t)rng_below(seed, stream, document_number * 2 + i, (uint64_t)size + 1);
        for (int back = 0; back < 3 && cuts[i] > 0 && cuts[i] < size && ((uint8_t)document[cuts[i]] & 0xC0) == 0x80;
             back++) {
            cuts[i]--;
        }
    }
    *begin = cuts[0] < cuts[1] ? cuts[0] : cuts[1];
    *end = cuts[0] < cuts[1] ? cuts[1] : cuts[0];
}
