// See reuse.h.
#include "serve/reuse.h"

#include <string.h>
#include <sys/random.h>
#include <xxhash.h>

#include "base/memory.h"
#include "serve/call.h"

void reuse_init(struct reuse *reuse) {
    memset(reuse, 0, sizeof *reuse);
    if (getrandom(&reuse->seed, sizeof reuse->seed, 0) != (ssize_t)sizeof reuse->seed) {
        reuse->seed = (uint64_t)(uintptr_t)reuse;
    }
    pthread_mutex_init(&reuse->lock, NULL);
}

void reuse_destroy(struct reuse *reuse) {
    for (int64_t i = 0; i < REUSE_SLOTS; i++) {
        memory_free(reuse->slots[i].ids);
    }
    pthread_mutex_destroy(&reuse->lock);
}

static bool is_markup(const char *text, size_t size) {
    static const char open[] = "<｜", close[] = "｜>";
    return size >= sizeof open + sizeof close - 2 && memcmp(text, open, sizeof open - 1) == 0 &&
           memcmp(text + size - (sizeof close - 1), close, sizeof close - 1) == 0;
}

// Text of one token as it counts here. Markup that a user typed is plain tokens and must not look like the special
// token: that one goes in as its id behind a byte that text never holds.
static bool hash_token(XXH3_state_t *state, const struct minke_tokenizer *tokenizer, int32_t id) {
    char *text;
    size_t size;
    struct minke_error error = {0};
    if (minke_decode(&text, &size, tokenizer, &id, 1, &error) != 0) {
        return false;
    }
    if (is_markup(text, size)) {
        XXH3_64bits_update(state, "\xff", 1);
        XXH3_64bits_update(state, &id, sizeof id);
    } else {
        XXH3_64bits_update(state, text, size);
    }
    minke_free(text);
    return true;
}

void reuse_remember(struct reuse *reuse, const struct minke_tokenizer *tokenizer, const struct prompt *prompt,
                    const int32_t *ids, int64_t count) {
    int64_t total = prompt->count + count;
    XXH3_state_t *state = XXH3_createState();
    int32_t *copy = memory_allocate((size_t)total + 1, sizeof *copy, "answer", NULL);
    bool good = state != NULL && copy != NULL && total <= REUSE_IDS / 4;
    if (good) {
        XXH3_64bits_reset_withSeed(state, reuse->seed);
        memcpy(copy, prompt->ids, (size_t)prompt->count * sizeof *copy);
        if (count > 0) {
            memcpy(copy + prompt->count, ids, (size_t)count * sizeof *copy);
        }
    }
    for (int64_t i = 0; good && i < total; i++) {
        good = hash_token(state, tokenizer, copy[i]);
    }
    if (!good) {
        memory_free(copy);
        XXH3_freeState(state);
        return;
    }
    pthread_mutex_lock(&reuse->lock);
    int64_t at = reuse->next;
    do {   // one slot at least, more until there is room
        struct reuse_entry *oldest = &reuse->slots[at];
        reuse->held -= oldest->count;
        memory_free(oldest->ids);
        *oldest = (struct reuse_entry){0};
        at = (at + 1) % REUSE_SLOTS;
    } while (reuse->held + total > REUSE_IDS && at != reuse->next);
    reuse->slots[reuse->next] = (struct reuse_entry){.hash = XXH3_64bits_digest(state), .ids = copy, .count = total};
    reuse->held += total;
    reuse->next = (reuse->next + 1) % REUSE_SLOTS;
    pthread_mutex_unlock(&reuse->lock);
    XXH3_freeState(state);
}

// Copies the ids of the entry with this hash and `rest` ids behind it into a new list; NULL if there is none.
static int32_t *find(int64_t *count, struct reuse *reuse, uint64_t hash, const int32_t *rest, int64_t rest_count) {
    int32_t *ids = NULL;
    pthread_mutex_lock(&reuse->lock);
    for (int64_t i = 0; i < REUSE_SLOTS && ids == NULL; i++) {
        const struct reuse_entry *entry = &reuse->slots[i];
        if (entry->count > 0 && entry->hash == hash) {
            ids = memory_allocate((size_t)(entry->count + rest_count) + 1, sizeof *ids, "prompt", NULL);
            if (ids != NULL) {
                memcpy(ids, entry->ids, (size_t)entry->count * sizeof *ids);
                memcpy(ids + entry->count, rest, (size_t)rest_count * sizeof *ids);
                *count = entry->count;
            }
        }
    }
    pthread_mutex_unlock(&reuse->lock);
    return ids;
}

int64_t reuse_substitute(struct prompt *prompt, struct reuse *reuse, const struct minke_tokenizer *tokenizer) {
    int32_t end = minke_tokenizer_eos(tokenizer);
    XXH3_state_t *state = XXH3_createState();
    if (state == NULL) {
        return 0;
    }
    XXH3_64bits_reset_withSeed(state, reuse->seed);
    int32_t *best = NULL;
    int64_t best_count = 0, best_at = 0;
    for (int64_t i = 0; i < prompt->count; i++) {
        if (prompt->ids[i] == end) {
            int64_t count = 0;
            int32_t *ids = find(&count, reuse, XXH3_64bits_digest(state), prompt->ids + i, prompt->count - i);
            if (ids != NULL) {
                memory_free(best);
                best = ids;
                best_count = count;
                best_at = i;
            }
        }
        if (!hash_token(state, tokenizer, prompt->ids[i])) {
            break;
        }
    }
    XXH3_freeState(state);
    if (best != NULL) {
        memory_free(prompt->ids);
        prompt->count = best_count + prompt->count - best_at;
        prompt->ids = best;
    }
    return best_count;
}
