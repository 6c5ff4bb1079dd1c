// Tokens -> sorted spellings -> trie; and what of it is the inside of a JSON string (see token_trie.h).
#include "serve/token_vocabulary.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "serve/json_string.h"
#include "serve/token_trie.h"

struct spelling {
    const uint8_t *bytes;
    int32_t size, id;
};

static int spelling_compare(const void *a, const void *b) {
    const struct spelling *left = a, *right = b;
    int32_t size = left->size < right->size ? left->size : right->size;
    int order = memcmp(left->bytes, right->bytes, (size_t)size);
    if (order != 0) {
        return order;
    }
    return left->size != right->size ? left->size - right->size : left->id - right->id;
}

// Bytes that a token adds to `text`; 0 = it is left out.
static size_t spelling_size(const char **bytes, int *markup, const struct minke_tokenizer *tokenizer, int32_t id) {
    size_t size;
    *bytes = minke_token_bytes(&size, markup, tokenizer, id);
    if (*bytes == NULL || size == 0 || size + 1 > TRIE_DEPTH ||
        (!*markup && memchr(*bytes, TRIE_MARKUP, size) != NULL)) {
        return 0;
    }
    return size + (*markup ? 1 : 0);
}

static int spellings_read(struct token_vocabulary *vocabulary, const struct minke_tokenizer *tokenizer,
                          struct error *error) {
    size_t total = 0;
    const char *bytes;
    int markup;
    for (int32_t id = 0; id < vocabulary->vocab_size; id++) {
        total += spelling_size(&bytes, &markup, tokenizer, id);
    }
    vocabulary->offset = memory_allocate((size_t)vocabulary->vocab_size + 1, sizeof(int32_t), "tokens", error);
    vocabulary->text = memory_allocate(total + 1, 1, "tokens", error);
    if (vocabulary->offset == NULL || vocabulary->text == NULL || total > INT32_MAX) {
        return ERROR_MEMORY;
    }
    int32_t at = 0;
    for (int32_t id = 0; id < vocabulary->vocab_size; id++) {
        size_t size = spelling_size(&bytes, &markup, tokenizer, id);
        vocabulary->offset[id] = at;
        if (size > 0) {
            size_t front = markup ? 1 : 0;
            vocabulary->text[at] = (char)TRIE_MARKUP;
            memcpy(vocabulary->text + at + front, bytes, size - front);
        }
        at += (int32_t)size;
    }
    vocabulary->offset[vocabulary->vocab_size] = at;
    return 0;
}

// How many bytes two neighbours of the sorted list begin with in common.
static int32_t common_size(const struct spelling *a, const struct spelling *b) {
    int32_t size = 0;
    while (size < a->size && size < b->size && a->bytes[size] == b->bytes[size]) {
        size++;
    }
    return size;
}

// Closes the nodes deeper than `depth`: the next node is behind their subtrees.
static void trie_close(struct token_vocabulary *vocabulary, int32_t *path, int32_t *path_size, int32_t depth) {
    while (*path_size > depth) {
        vocabulary->skip[path[(*path_size)--]] = vocabulary->node_count;
    }
}

static void trie_build(struct token_vocabulary *vocabulary, const struct spelling *sorted, int32_t count) {
    int32_t path[TRIE_DEPTH + 1] = {0}, path_size = 0;
    vocabulary->node_count = 1;
    for (int32_t i = 0; i < count; i++) {
        trie_close(vocabulary, path, &path_size, i == 0 ? 0 : common_size(&sorted[i - 1], &sorted[i]));
        while (path_size < sorted[i].size) {
            int32_t node = vocabulary->node_count++;
            vocabulary->byte[node] = sorted[i].bytes[path_size];
            vocabulary->depth[node] = (uint8_t)(path_size + 1);
            vocabulary->first[node] = i;
            path[++path_size] = node;
        }
        vocabulary->tokens[i] = sorted[i].id;
    }
    trie_close(vocabulary, path, &path_size, -1);
    vocabulary->first[vocabulary->node_count] = count;
}

// Nodes above a token are numbered before it, so that first[] as set while building names the next token, which spells
// a deeper node: tokens[first[i] .. first[i + 1]) is empty for them already.
static int trie_create(struct token_vocabulary *vocabulary, struct error *error) {
    int32_t count = 0;
    struct spelling *sorted = memory_allocate((size_t)vocabulary->vocab_size + 1, sizeof *sorted, "tokens", error);
    if (sorted == NULL) {
        return ERROR_MEMORY;
    }
    for (int32_t id = 0; id < vocabulary->vocab_size; id++) {
        int32_t size;
        const char *text = token_vocabulary_spelling(&size, vocabulary, id);
        if (size > 0) {
            sorted[count++] = (struct spelling){(const uint8_t *)text, size, id};
        }
    }
    qsort(sorted, (size_t)count, sizeof *sorted, spelling_compare);
    size_t nodes = 1;
    for (int32_t i = 0; i < count; i++) {
        nodes += (size_t)(sorted[i].size - (i == 0 ? 0 : common_size(&sorted[i - 1], &sorted[i])));
    }
    vocabulary->byte = memory_allocate(nodes, 1, "token trie", error);
    vocabulary->depth = memory_allocate(nodes, 1, "token trie", error);
    vocabulary->skip = memory_allocate(nodes, sizeof(int32_t), "token trie", error);
    vocabulary->first = memory_allocate(nodes + 1, sizeof(int32_t), "token trie", error);
    vocabulary->tokens = memory_allocate((size_t)count + 1, sizeof(int32_t), "token trie", error);
    bool complete = vocabulary->byte != NULL && vocabulary->depth != NULL && vocabulary->skip != NULL &&
                    vocabulary->first != NULL && vocabulary->tokens != NULL;
    if (complete) {
        trie_build(vocabulary, sorted, count);
    }
    memory_free(sorted);
    return complete ? 0 : ERROR_MEMORY;
}

// ---- the inside of a string ----

struct inside_visit {   // what a walk counts and, the second time, stores
    int32_t tokens[TRIE_DEPTH + 1], exits;
    bool store;
};

static void inside_walk(struct inside_visit *visit, struct token_vocabulary *vocabulary) {
    int state[TRIE_DEPTH + 1] = {STRING_BODY};
    int32_t characters[TRIE_DEPTH + 1] = {0};
    for (int32_t node = 1; node < vocabulary->node_count;) {
        int depth = vocabulary->depth[node], before = state[depth - 1];
        int after = string_next(before, vocabulary->byte[node]);
        state[depth] = after;
        characters[depth] = characters[depth - 1] + (before == STRING_BODY && after != STRING_END ? 1 : 0);
        if (after < 0 || after == STRING_END) {
            if (after == STRING_END) {
                if (visit->store) {
                    vocabulary->exits[visit->exits] = (struct trie_exit){node, characters[depth]};
                }
                visit->exits++;
            }
            node = vocabulary->skip[node];
            continue;
        }
        for (int32_t i = vocabulary->first[node]; i < vocabulary->first[node + 1]; i++) {
            if (visit->store) {
                token_set_add(vocabulary->inside_set, vocabulary->tokens[i]);
                vocabulary->inside[visit->tokens[characters[depth]]] = vocabulary->tokens[i];
            }
            visit->tokens[characters[depth]]++;
        }
        node++;
    }
}

static int inside_create(struct token_vocabulary *vocabulary, struct error *error) {
    struct inside_visit count = {.store = false}, store = {.store = true};
    inside_walk(&count, vocabulary);
    for (int32_t c = 0; c <= TRIE_DEPTH; c++) {
        store.tokens[c] = vocabulary->inside_first[c];
        vocabulary->inside_first[c + 1] = vocabulary->inside_first[c] + count.tokens[c];
    }
    int32_t total = vocabulary->inside_first[TRIE_DEPTH + 1];
    vocabulary->inside = memory_allocate((size_t)total + 1, sizeof(int32_t), "token trie", error);
    vocabulary->inside_set = memory_allocate((size_t)vocabulary->words, sizeof(uint64_t), "token trie", error);
    vocabulary->exits = memory_allocate((size_t)count.exits + 1, sizeof *vocabulary->exits, "token trie", error);
    if (vocabulary->inside == NULL || vocabulary->inside_set == NULL || vocabulary->exits == NULL) {
        return ERROR_MEMORY;
    }
    vocabulary->exit_count = count.exits;
    inside_walk(&store, vocabulary);
    return 0;
}

static int end_tokens_set(struct token_vocabulary *vocabulary, const struct minke_tokenizer *tokenizer,
                          const int32_t *end_tokens, int64_t end_count, struct error *error) {
    int32_t eos = minke_tokenizer_eos(tokenizer);
    if (end_count == 0 && eos >= 0) {
        token_set_add(vocabulary->end_tokens, eos);
    }
    for (int64_t i = 0; i < end_count; i++) {
        if (end_tokens[i] < 0 || end_tokens[i] >= vocabulary->vocab_size) {
            return error_set(error, ERROR_ARGUMENT, "end token: found %d, expected an id of the tokenizer, 0 to %d",
                             (int)end_tokens[i], (int)vocabulary->vocab_size - 1);
        }
        token_set_add(vocabulary->end_tokens, end_tokens[i]);
    }
    return 0;
}

int token_vocabulary_create(struct token_vocabulary **out, const struct minke_tokenizer *tokenizer,
                            const int32_t *end_tokens, int64_t end_count, struct error *error) {
    *out = NULL;
    struct token_vocabulary *vocabulary = memory_allocate(1, sizeof *vocabulary, "vocabulary", error);
    if (vocabulary == NULL) {
        return ERROR_MEMORY;
    }
    vocabulary->vocab_size = (int32_t)minke_tokenizer_vocab_size(tokenizer);
    vocabulary->words = vocabulary->vocab_size / 64 + 1;
    vocabulary->end_tokens = memory_allocate((size_t)vocabulary->words, sizeof(uint64_t), "vocabulary", error);
    int code = vocabulary->end_tokens == NULL ? ERROR_MEMORY : 0;
    if (code == 0 && (code = end_tokens_set(vocabulary, tokenizer, end_tokens, end_count, error)) == 0 &&
        (code = spellings_read(vocabulary, tokenizer, error)) == 0 && (code = trie_create(vocabulary, error)) == 0) {
        code = inside_create(vocabulary, error);
    }
    if (code != 0) {
        token_vocabulary_free(vocabulary);
        return code;
    }
    *out = vocabulary;
    return 0;
}

void token_vocabulary_free(struct token_vocabulary *vocabulary) {
    if (vocabulary == NULL) {
        return;
    }
    memory_free(vocabulary->byte);
    memory_free(vocabulary->depth);
    memory_free(vocabulary->skip);
    memory_free(vocabulary->first);
    memory_free(vocabulary->tokens);
    memory_free(vocabulary->offset);
    memory_free(vocabulary->text);
    memory_free(vocabulary->end_tokens);
    memory_free(vocabulary->inside_set);
    memory_free(vocabulary->inside);
    memory_free(vocabulary->exits);
    memory_free(vocabulary);
}

const char *token_vocabulary_spelling(int32_t *size, const struct token_vocabulary *vocabulary, int32_t id) {
    if (id < 0 || id >= vocabulary->vocab_size) {
        *size = 0;
        return NULL;
    }
    *size = vocabulary->offset[id + 1] - vocabulary->offset[id];
    return vocabulary->text + vocabulary->offset[id];
}

int32_t token_vocabulary_markup(const struct token_vocabulary *vocabulary, const char *text) {
    size_t length = strlen(text);
    for (int32_t id = vocabulary->vocab_size - 1; id >= 0; id--) {
        int32_t size;
        const char *spelling = token_vocabulary_spelling(&size, vocabulary, id);
        if ((size_t)size == length + 1 && (uint8_t)spelling[0] == TRIE_MARKUP &&
            memcmp(spelling + 1, text, length) == 0) {
            return id;
        }
    }
    return -1;
}
