// A trie over bytes (see added_tokens.h). Nodes keep their children as a linked list: few tokens, few branches.
#include "text/added_tokens.h"

#include <string.h>

#include "base/memory.h"
#include "text/unicode.h"

static int32_t node_add(struct trie *trie, struct error *error) {
    if (trie->count == trie->capacity) {
        int32_t capacity = trie->capacity == 0 ? 64 : trie->capacity * 2;
        struct trie_node *nodes = memory_resize(trie->nodes, (size_t)capacity, sizeof(*nodes), "added tokens", error);
        if (nodes == NULL) {
            return ERROR_MEMORY;
        }
        trie->nodes = nodes;
        trie->capacity = capacity;
    }
    trie->nodes[trie->count] = (struct trie_node){.id = -1};
    return trie->count++;
}

int trie_create(struct trie *trie, struct error *error) {
    *trie = (struct trie){.single_start = -1};
    return node_add(trie, error) < 0 ? ERROR_MEMORY : 0;
}

void trie_destroy(struct trie *trie) {
    memory_free(trie->nodes);
    *trie = (struct trie){0};
}

static int32_t child_find(const struct trie *trie, int32_t node, uint8_t byte) {
    int32_t child = trie->nodes[node].child;
    while (child != 0 && trie->nodes[child].byte != byte) {
        child = trie->nodes[child].sibling;
    }
    return child;
}

int trie_add(struct trie *trie, const char *text, int64_t size, int32_t id, bool strip_left, bool strip_right,
             const char *name, struct error *error) {
    int32_t node = 0;
    for (int64_t i = 0; i < size; i++) {
        uint8_t byte = (uint8_t)text[i];
        int32_t child = child_find(trie, node, byte);
        if (child == 0) {
            if ((child = node_add(trie, error)) < 0) {
                return ERROR_MEMORY;
            }
            trie->nodes[child].byte = byte;
            trie->nodes[child].sibling = trie->nodes[node].child;
            trie->nodes[node].child = child;
        }
        node = child;
    }
    if (size == 0 || trie->nodes[node].id >= 0) {
        return error_set(error, ERROR_FORMAT, "%s: added token \"%.*s\" is %s", name, (int)(size < 80 ? size : 80),
                         text, size == 0 ? "empty" : "given twice");
    }
    trie->nodes[node].id = id;
    trie->nodes[node].strip_left = strip_left;
    trie->nodes[node].strip_right = strip_right;
    trie->has_strip |= strip_left || strip_right;
    int starts = 0;
    trie->starts[(uint8_t)text[0]] = true;
    for (int i = 0; i < 256; i++) {
        starts += trie->starts[i];
    }
    trie->single_start = starts == 1 ? (uint8_t)text[0] : -1;
    return 0;
}

static bool is_space(const uint8_t *text, int64_t size, unsigned *length) {
    uint32_t code;
    *length = unicode_decode(&code, text, (size_t)size);
    unsigned class = unicode_classes()[code] & CHARACTER_CLASS_MASK;
    return class == CHARACTER_SPACE || class == CHARACTER_NEWLINE;
}

static void match_strip(struct trie_match *match, const struct trie_node *node, const uint8_t *text, int64_t from,
                        int64_t size) {
    unsigned length;
    while (node->strip_right && match->end < size && is_space(text + match->end, size - match->end, &length)) {
        match->end += length;
    }
    while (node->strip_left && match->begin > from) {
        // Back to the start of the character before.
        int64_t before = match->begin - 1;
        while (before > from && match->begin - before < 4 && (text[before] & 0xC0) == 0x80) {
            before--;
        }
        if (!is_space(text + before, match->begin - before, &length) || before + (int64_t)length != match->begin) {
            break;
        }
        match->begin = before;
    }
}

bool trie_find(struct trie_match *match, const struct trie *trie, const uint8_t *text, int64_t from, int64_t size) {
    for (int64_t at = from; at < size; at++) {
        if (trie->single_start >= 0) {
            const uint8_t *found = memchr(text + at, trie->single_start, (size_t)(size - at));
            if (found == NULL) {
                return false;
            }
            at = found - text;
        } else if (!trie->starts[text[at]]) {
            continue;
        }
        int32_t node = 0, best = 0;
        for (int64_t i = at; i < size && (node = child_find(trie, node, text[i])) != 0; i++) {
            if (trie->nodes[node].id >= 0) {
                best = node;
                match->end = i + 1;
            }
        }
        if (best != 0) {
            match->begin = at;
            match->id = trie->nodes[best].id;
            match_strip(match, &trie->nodes[best], text, from, size);
            return true;
        }
    }
    return false;
}
