// Chat templates of DeepSeek: conversation in -> prompt out, written as code. The styles:
//
//   v3       December 2024. The assistant marker comes with the assistant's turn. Byte-equal to the official template,
//            including its defects: calls are closed only after the second one, the "first" flags never reset,
//            calls of a message that also has content are left out.
//   v3-0324  The assistant marker ends the user's turn; tool rounds close properly.
//   r1       January 2025: as v3 with calls closed, tool outputs without line breaks, history without its reasoning.
//   r1-think r1 as revised in February 2025: the generation prompt opens <think>.
//   r1-0528  as v3-0324, history without its reasoning.
//   v3.1     Hybrid: option `thinking`; calls without type and code fence; tool descriptions in the system text.
//
// The prompt is made of segments: markup (exactly one special token's text) and text. chat_encode looks up markup by
// name and encodes text without recognising added tokens, so that "<｜Assistant｜>" inside a message stays what the
// user typed. For messages without such text the ids equal those of the whole prompt encoded as one string.
#ifndef MINKE_TEXT_CHAT_TEMPLATE_H
#define MINKE_TEXT_CHAT_TEMPLATE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "text/tokenizer.h"

enum chat_style { CHAT_V3, CHAT_V3_0324, CHAT_R1, CHAT_R1_THINK, CHAT_R1_0528, CHAT_V3_1, CHAT_STYLES };

struct chat_tool_call {
    const char *type;   // NULL = "function"
    const char *name;
    const char *arguments;   // JSON, copied as it is
};

struct chat_message {
    const char *role;                          // "system", "user", "assistant" or "tool"
    const char *content;                       // NULL only for an assistant that calls tools
    const struct chat_tool_call *tool_calls;   // assistant only
    int64_t tool_call_count;
    bool prefix;   // v3.1, assistant: an answer that is being thought out begins with <think>
};

struct chat_options {
    bool add_generation_prompt;
    bool thinking;       // v3.1 only
    const char *tools;   // v3.1 only: JSON array of {"type": "function", "function": {...}}; NULL = none
};

struct chat_segment {
    int64_t begin, end;   // in text
    bool markup;
};

struct chat_prompt {   // starts as all zero, can be reused
    struct byte_buffer text;
    struct chat_segment *segments;
    int64_t count, capacity;
};

const char *chat_style_name(enum chat_style style);
int chat_style_from_name(enum chat_style *style, const char *name, struct error *error);

// Recognises the style by what is characteristic in the chat template's text. A tokenizer without one but with
// DeepSeek's role tokens gets v3.1 when it has <think>, else v3-0324, and *assumed = true. An unknown template is an
// error.
int chat_style_detect(enum chat_style *style, bool *assumed, const struct tokenizer *tokenizer, struct error *error);

int chat_render(struct chat_prompt *prompt, enum chat_style style, const struct chat_message *messages, int64_t count,
                const struct chat_options *options, struct error *error);
int chat_encode(struct token_buffer *out, struct encoder *encoder, const struct chat_prompt *prompt,
                struct error *error);
void chat_prompt_destroy(struct chat_prompt *prompt);

// Our own Jinja text of v3-0324, for the tokenizers that we train.
extern const char *const chat_template_jinja_v3_0324;

#endif
