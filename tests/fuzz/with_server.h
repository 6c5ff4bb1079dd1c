// A server over a small random model, for fuzzers: without HTTP, its engine is stepped by hand.
#ifndef MINKE_TESTS_FUZZ_WITH_SERVER_H
#define MINKE_TESTS_FUZZ_WITH_SERVER_H

#include "serve/server_private.h"

#define SERVER_STYLES 6
#define SERVER_CONTEXT 256

// The model's directory; the same for every tokenizer.
const char *server_model(void);
// A tokenizer whose chat template is of this style.
struct minke_tokenizer *server_tokenizer(enum minke_chat_style style);
// A server without threads. It is never freed.
struct server *server_make(struct minke_model *model, enum minke_chat_style style);

#endif
