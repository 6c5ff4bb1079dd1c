// Pieces of answers that both APIs write in the same way.
#ifndef MINKE_SERVE_CHUNK_H
#define MINKE_SERVE_CHUNK_H

#include "serve/call.h"

// {"id":...,"object":...,"created":...,"model":...  without a closing brace; `suffix` is added to the object's name.
void chunk_head(struct text *out, const struct call *call, const char *suffix);
// "stop", "length" or "tool_calls"
const char *finish_reason(const struct choice *choice);
// {"prompt_tokens":..., ...}: the counts of all answers; a prompt with several answers counts once.
void usage_write(struct text *out, const struct call *call);
// A token's bytes as they are (not always well-formed); the caller frees *text with minke_free. Empty on failure.
void token_bytes(char **text, size_t *size, const struct call *call, int32_t id);

#endif
