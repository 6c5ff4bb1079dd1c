// Any bytes as a model's answer in any of the six styles, cut at places that the input chooses. The events must equal
// those of the uncut text, calls must be well nested, and what is delivered is never more than what came. Without
// tools and reasoning the answer is the text itself.
#include <string.h>

#include "fuzz/fuzz.h"
#include "serve/answer_parser.h"

#define TEXT_LIMIT 8192

const bool fuzz_leaves_memory = false;

void fuzz_open(void) {
}

struct digest {   // of the joined events
    uint64_t hash;
    size_t bytes;
    int kind, open;
};

static void mix(struct digest *digest, unsigned value) {
    digest->hash = (digest->hash ^ value) * 0x100000001B3u;
}

static void take(void *argument, const struct answer_event *event) {
    struct digest *digest = argument;
    if ((int)event->kind != digest->kind || event->kind == ANSWER_CALL_BEGIN) {
        mix(digest, 256 + (unsigned)event->kind);
        digest->kind = (int)event->kind;
    }
    for (size_t i = 0; i < event->size; i++) {
        mix(digest, (unsigned char)event->text[i]);
    }
    if (event->cut) {
        mix(digest, 300);
    }
    digest->bytes += event->size;
    CHECK(event->kind != ANSWER_CALL_BEGIN || digest->open == 0, "a call inside a call");
    CHECK((event->kind != ANSWER_CALL_ARGUMENTS && event->kind != ANSWER_CALL_END) || digest->open == 1, "no call");
    digest->open += event->kind == ANSWER_CALL_BEGIN ? 1 : event->kind == ANSWER_CALL_END ? -1 : 0;
}

static struct digest parse(const struct answer_options *options, const char *text, size_t size, unsigned piece) {
    struct digest digest = {.hash = 0xCBF29CE484222325u, .kind = -1};
    struct answer_parser *parser;
    CHECK(answer_parser_create(&parser, options, take, &digest, NULL) == 0, "memory");
    for (size_t at = 0; at < size;) {
        size_t step = piece < size - at ? piece : size - at;
        answer_parser_push(parser, text + at, step);
        at += step;
        piece = piece * 5 % 31 + 1;
    }
    answer_parser_finish(parser);
    CHECK(digest.open == 0, "a call without end");
    CHECK(digest.bytes <= size, "%zu bytes of %zu", digest.bytes, size);
    CHECK(options->tools || options->reasoning != REASONING_NONE || digest.bytes == size, "%zu bytes of %zu",
          digest.bytes, size);
    answer_parser_free(parser);
    return digest;
}

void fuzz_one(const uint8_t *data, size_t size) {
    if (size < 2 || size > TEXT_LIMIT) {
        return;
    }
    struct answer_options options = {(enum minke_chat_style)(data[0] % 6), (enum answer_reasoning)(data[0] / 6 % 3),
                                     data[0] < 128};
    struct digest whole = parse(&options, (const char *)data + 2, size - 2, TEXT_LIMIT);
    struct digest pieces = parse(&options, (const char *)data + 2, size - 2, data[1] % 31 + 1u);
    CHECK(whole.bytes == pieces.bytes && whole.hash == pieces.hash, "cuts change the events");
}
