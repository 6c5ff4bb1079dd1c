// minke_tokenizer_*, minke_encode*, minke_decode*: the public face of text/.
#include <pthread.h>
#include <string.h>

#include "api/api.h"
#include "base/memory.h"
#include "text/chat_template.h"
#include "text/fim.h"
#include "text/tokenizer.h"

struct minke_tokenizer {
    struct tokenizer *tokenizer;
    struct encoder *encoder;   // its cache of pieces is shared by all callers, one at a time
    pthread_mutex_t lock;
};

int minke_tokenizer_open(struct minke_tokenizer **out, const char *path, struct minke_error *error) {
    struct error inner = {0};
    *out = NULL;
    struct minke_tokenizer *tokenizer = memory_allocate(1, sizeof *tokenizer, "tokenizer", &inner);
    if (tokenizer == NULL) {
        return api_error(error, &inner);
    }
    pthread_mutex_init(&tokenizer->lock, NULL);
    if (tokenizer_load(&tokenizer->tokenizer, path, &inner) != 0 ||
        encoder_create(&tokenizer->encoder, tokenizer->tokenizer, &inner) != 0) {
        minke_tokenizer_close(tokenizer);
        return api_error(error, &inner);
    }
    *out = tokenizer;
    return 0;
}

void minke_tokenizer_close(struct minke_tokenizer *tokenizer) {
    if (tokenizer == NULL) {
        return;
    }
    encoder_free(tokenizer->encoder);
    tokenizer_free(tokenizer->tokenizer);
    pthread_mutex_destroy(&tokenizer->lock);
    memory_free(tokenizer);
}

int64_t minke_tokenizer_vocab_size(const struct minke_tokenizer *tokenizer) {
    return tokenizer_vocabulary_size(tokenizer->tokenizer);
}

int32_t minke_tokenizer_bos(const struct minke_tokenizer *tokenizer) {
    return tokenizer_roles(tokenizer->tokenizer).bos;
}

int32_t minke_tokenizer_eos(const struct minke_tokenizer *tokenizer) {
    return tokenizer_roles(tokenizer->tokenizer).eos;
}

// The lock guards the encoder's cache alone; the tokenizer itself never changes.
static struct encoder *lock_encoder(const struct minke_tokenizer *tokenizer) {
    struct minke_tokenizer *shared = (struct minke_tokenizer *)(uintptr_t)tokenizer;
    pthread_mutex_lock(&shared->lock);
    return tokenizer->encoder;
}

static void unlock_encoder(const struct minke_tokenizer *tokenizer) {
    struct minke_tokenizer *shared = (struct minke_tokenizer *)(uintptr_t)tokenizer;
    pthread_mutex_unlock(&shared->lock);
}

static int give_ids(int32_t **ids, int64_t *count, struct token_buffer *buffer, int code, const struct error *inner,
                    struct minke_error *error) {
    if (code != 0) {
        token_buffer_destroy(buffer);
        return api_error(error, inner);
    }
    *ids = buffer->ids;
    *count = buffer->count;
    return 0;
}

int minke_encode(int32_t **ids, int64_t *count, const struct minke_tokenizer *tokenizer, const char *text, size_t size,
                 unsigned flags, struct minke_error *error) {
    struct error inner = {0};
    struct token_buffer buffer = {0};
    *ids = NULL;
    *count = 0;
    unsigned inner_flags = (flags & MINKE_ENCODE_PLAIN ? 0 : ENCODE_ADDED_TOKENS) |
                           (flags & MINKE_ENCODE_BOS ? ENCODE_BOS : 0);
    struct encoder *encoder = lock_encoder(tokenizer);
    int code = encoder_encode(&buffer, encoder, text, (int64_t)size, inner_flags, &inner);
    unlock_encoder(tokenizer);
    return give_ids(ids, count, &buffer, code, &inner, error);
}

// Brings messages of the public header into the form of the text layer: every message's calls follow one another in
// `calls`.
static void adopt_messages(struct chat_message *inner, struct chat_tool_call *calls,
                           const struct minke_message *messages, int64_t message_count) {
    for (int64_t i = 0; i < message_count; i++) {
        inner[i] = (struct chat_message){
            .role = messages[i].role,
            .content = messages[i].content,
            .tool_calls = calls,
            .tool_call_count = messages[i].tool_call_count,
        };
        for (int64_t call = 0; call < messages[i].tool_call_count; call++) {
            *calls++ = (struct chat_tool_call){
                .name = messages[i].tool_calls[call].name,
                .arguments = messages[i].tool_calls[call].arguments,
            };
        }
    }
}

static int render_chat(struct chat_prompt *prompt, const struct minke_tokenizer *tokenizer,
                       const struct minke_message *messages, int64_t message_count, const char *tools, unsigned flags,
                       struct error *error) {
    enum chat_style style;
    bool assumed;
    const struct chat_options options = {
        .add_generation_prompt = (flags & MINKE_CHAT_GENERATION_PROMPT) != 0,
        .thinking = (flags & MINKE_CHAT_THINKING) != 0,
        .tools = tools,
    };
    int64_t call_count = 0;
    for (int64_t i = 0; i < message_count; i++) {
        call_count += messages[i].tool_call_count;
    }
    struct chat_message *inner = memory_allocate((size_t)message_count + 1, sizeof *inner, "messages", error);
    struct chat_tool_call *calls = memory_allocate((size_t)call_count + 1, sizeof *calls, "tool calls", error);
    int code = inner == NULL || calls == NULL ? ERROR_MEMORY : 0;
    if (code == 0) {
        code = chat_style_detect(&style, &assumed, tokenizer->tokenizer, error);
    }
    if (code == 0) {
        adopt_messages(inner, calls, messages, message_count);
        code = chat_render(prompt, style, inner, message_count, &options, error);
    }
    memory_free(calls);
    memory_free(inner);
    return code;
}

int minke_encode_chat(int32_t **ids, int64_t *count, const struct minke_tokenizer *tokenizer,
                      const struct minke_message *messages, int64_t message_count, const char *tools, unsigned flags,
                      struct minke_error *error) {
    struct error inner = {0};
    struct token_buffer buffer = {0};
    struct chat_prompt prompt = {0};
    *ids = NULL;
    *count = 0;
    int code = render_chat(&prompt, tokenizer, messages, message_count, tools, flags, &inner);
    if (code == 0) {
        struct encoder *encoder = lock_encoder(tokenizer);
        code = chat_encode(&buffer, encoder, &prompt, &inner);
        unlock_encoder(tokenizer);
    }
    chat_prompt_destroy(&prompt);
    return give_ids(ids, count, &buffer, code, &inner, error);
}

int minke_tokenizer_chat_style(const struct minke_tokenizer *tokenizer) {
    enum chat_style style;
    bool assumed;
    struct error ignored = {0};
    return chat_style_detect(&style, &assumed, tokenizer->tokenizer, &ignored) == 0 ? (int)style : -1;
}

int minke_encode_fim(int32_t **ids, int64_t *count, const struct minke_tokenizer *tokenizer, const char *prefix,
                     size_t prefix_size, const char *suffix, size_t suffix_size, struct minke_error *error) {
    struct error inner = {0};
    struct token_buffer buffer = {0};
    *ids = NULL;
    *count = 0;
    struct encoder *encoder = lock_encoder(tokenizer);
    int code = fim_prompt_encode(&buffer, encoder, prefix, (int64_t)prefix_size, suffix, (int64_t)suffix_size, &inner);
    unlock_encoder(tokenizer);
    return give_ids(ids, count, &buffer, code, &inner, error);
}

static int give_text(char **text, size_t *size, struct byte_buffer *buffer, int code, struct error *inner,
                     struct minke_error *error) {
    if (code == 0) {
        code = byte_buffer_append(buffer, "", 1, inner);   // the closing zero
    }
    if (code != 0) {
        byte_buffer_destroy(buffer);
        return api_error(error, inner);
    }
    *text = buffer->data;
    *size = (size_t)buffer->size - 1;
    return 0;
}

int minke_decode(char **text, size_t *size, const struct minke_tokenizer *tokenizer, const int32_t *ids, int64_t count,
                 struct minke_error *error) {
    struct error inner = {0};
    struct byte_buffer buffer = {0};
    *text = NULL;
    *size = 0;
    int code = tokenizer_decode(&buffer, tokenizer->tokenizer, ids, count, 0, &inner);
    return give_text(text, size, &buffer, code, &inner, error);
}

int minke_decode_next(char **text, size_t *size, struct minke_decoder *decoder, const struct minke_tokenizer *tokenizer,
                      int32_t id, struct minke_error *error) {
    struct error inner = {0};
    struct byte_buffer buffer = {0};
    struct decode_stream stream = {.held_count = decoder->held_count};
    memcpy(stream.held, decoder->held, sizeof stream.held);
    *text = NULL;
    *size = 0;
    int code = id < 0 ? decode_stream_finish(&buffer, &stream, &inner)
                      : decode_stream_push(&buffer, &stream, tokenizer->tokenizer, id, 0, &inner);
    memcpy(decoder->held, stream.held, sizeof stream.held);
    decoder->held_count = stream.held_count;
    return give_text(text, size, &buffer, code, &inner, error);
}

const char *minke_token_bytes(size_t *size, int *markup, const struct minke_tokenizer *tokenizer, int32_t id) {
    int64_t length;
    const uint8_t *bytes = tokenizer_token(&length, tokenizer->tokenizer, id);
    *size = (size_t)length;
    *markup = bytes != NULL && tokenizer_is_added(tokenizer->tokenizer, id);
    return (const char *)bytes;
}

void minke_free(void *pointer) {
    memory_free(pointer);
}
