// The ids of our own answers, for the next turn of a conversation. A client sends an answer back as text, and encoding
// that text need not give the ids that the model wrote; then the prefix cache misses from there on. With this the ids
// that were written take the place of those encoded, wherever the text is the same.
//
// An answer ends at the end-of-sentence token, and ids are exchanged in front of such a token only: special tokens
// stand for themselves, so nothing around them is encoded differently.
#ifndef MINKE_SERVE_REUSE_H
#define MINKE_SERVE_REUSE_H

#include <pthread.h>
#include <stdint.h>

#include "minke.h"

#define REUSE_SLOTS 1024
#define REUSE_IDS ((int64_t)1 << 22)   // kept in all slots together

struct prompt;

struct reuse {
    pthread_mutex_t lock;
    uint64_t seed;   // of the hash, random: nobody can make a text that is taken for another one
    struct reuse_entry {
        uint64_t hash;   // of the text
        int32_t *ids;    // prompt and answer
        int64_t count;
    } slots[REUSE_SLOTS];   // a ring: the oldest goes first
    int64_t next, held;     // held: ids in all slots
};

void reuse_init(struct reuse *reuse);
void reuse_destroy(struct reuse *reuse);
// Remembers what the model wrote after a prompt, without the end token. A failed allocation forgets it.
void reuse_remember(struct reuse *reuse, const struct minke_tokenizer *tokenizer, const struct prompt *prompt,
                    const int32_t *ids, int64_t count);
// Exchanges the longest beginning of a prompt whose text is known. Returns how many ids of `prompt` are such.
int64_t reuse_substitute(struct prompt *prompt, struct reuse *reuse, const struct minke_tokenizer *tokenizer);

#endif
