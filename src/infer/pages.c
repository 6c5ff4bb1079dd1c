// See pages.h.
#include "infer/pages.h"

#include <string.h>
#include <xxhash.h>

#include "base/memory.h"

#define NONE (-1)

// ---- Lists ----------------------------------------------------------------------------------------------------------

static void free_push(struct page_pool *pool, int32_t page) {
    pool->pages[page].next = pool->free_head;
    pool->free_head = page;
    pool->free_count++;
}

static void kept_remove(struct page_pool *pool, int32_t page) {
    struct page *p = &pool->pages[page];
    *(p->previous == NONE ? &pool->kept_oldest : &pool->pages[p->previous].next) = p->next;
    *(p->next == NONE ? &pool->kept_newest : &pool->pages[p->next].previous) = p->previous;
    pool->kept_count--;
}

static void kept_append(struct page_pool *pool, int32_t page) {
    struct page *p = &pool->pages[page];
    p->next = NONE;
    p->previous = pool->kept_newest;
    *(pool->kept_newest == NONE ? &pool->kept_oldest : &pool->pages[pool->kept_newest].next) = page;
    pool->kept_newest = page;
    pool->kept_count++;
}

static int32_t *bucket_of(struct page_pool *pool, uint64_t key) {
    return &pool->buckets[key % (uint64_t)pool->bucket_count];
}

static void unregister(struct page_pool *pool, int32_t page) {
    struct page *p = &pool->pages[page];
    int32_t *link = bucket_of(pool, p->key);
    while (*link != page) {
        CHECK(*link != NONE, "page %d is not in its bucket", page);
        link = &pool->pages[*link].next_in_bucket;
    }
    *link = p->next_in_bucket;
    p->registered = false;
}

// ---- Life -----------------------------------------------------------------------------------------------------------

int page_pool_create(struct page_pool *pool, const struct cache_layout *layout, int64_t layer_count, int64_t page_count,
                     struct error *error) {
    const int64_t layer_bytes = ATTENTION_BLOCK * layout->token_bytes;
    *pool = (struct page_pool){.layer_count = layer_count,
                               .page_count = page_count,
                               .page_bytes = layer_count * layer_bytes,
                               .bucket_count = page_count * 2 + 1,
                               .free_head = NONE,
                               .kept_oldest = NONE,
                               .kept_newest = NONE};
    if (page_count * layer_count > INT32_MAX / ATTENTION_BLOCK) {
        return error_set(error, ERROR_LIMIT, "attention cache: at most %lld pages of %d tokens, found %lld",
                         (long long)(INT32_MAX / ATTENTION_BLOCK / layer_count), ATTENTION_BLOCK,
                         (long long)page_count);
    }
    pool->layers = memory_allocate((size_t)layer_count, sizeof *pool->layers, "attention cache table", error);
    pool->pages = memory_allocate((size_t)page_count, sizeof *pool->pages, "attention cache table", error);
    pool->buckets = memory_allocate((size_t)pool->bucket_count, sizeof *pool->buckets, "attention cache table", error);
    pool->memory = memory_allocate((size_t)page_count, (size_t)pool->page_bytes, "attention cache", error);
    if (pool->layers == NULL || pool->pages == NULL || pool->buckets == NULL || pool->memory == NULL) {
        page_pool_destroy(pool);
        return ERROR_MEMORY;
    }
    int64_t rows = page_count * layer_count * ATTENTION_BLOCK;
    for (int64_t layer = 0; layer < layer_count; layer++) {
        pool->layers[layer] = cache_layout_view(layout, pool->memory + layer * layer_bytes,
                                                rows - layer * ATTENTION_BLOCK);
    }
    for (int64_t i = 0; i < pool->bucket_count; i++) {
        pool->buckets[i] = NONE;
    }
    for (int64_t i = page_count - 1; i >= 0; i--) {
        free_push(pool, (int32_t)i);
    }
    return 0;
}

void page_pool_destroy(struct page_pool *pool) {
    memory_free(pool->layers);
    memory_free(pool->pages);
    memory_free(pool->buckets);
    memory_free(pool->memory);
    *pool = (struct page_pool){0};
}

int32_t page_pool_take(struct page_pool *pool) {
    int32_t page = pool->free_head;
    if (page != NONE) {
        pool->free_head = pool->pages[page].next;
        pool->free_count--;
    } else if ((page = pool->kept_oldest) != NONE) {
        kept_remove(pool, page);
        unregister(pool, page);
    } else {
        return NONE;
    }
    pool->pages[page].references = 1;
    return page;
}

void page_pool_hold(struct page_pool *pool, int32_t page) {
    struct page *p = &pool->pages[page];
    if (p->references == 0) {
        kept_remove(pool, page);
    }
    p->references++;
}

void page_pool_release(struct page_pool *pool, int32_t page) {
    struct page *p = &pool->pages[page];
    CHECK(p->references > 0, "page %d is not in use", page);
    if (--p->references > 0) {
        return;
    }
    if (p->registered) {
        kept_append(pool, page);
    } else {
        free_push(pool, page);
    }
}

// ---- Content --------------------------------------------------------------------------------------------------------

struct page_chain page_chain_root(void) {
    return (struct page_chain){0};
}

static uint64_t content_key(const struct page_chain *chain, const int32_t *ids) {
    return XXH3_64bits_withSeed(ids, ATTENTION_BLOCK * sizeof *ids, (uint64_t)chain->serial);
}

struct page_chain page_chain_next(const struct page_chain *chain, const int32_t *ids, int64_t expanded) {
    struct {
        uint64_t parent[2];
        int64_t expanded;
        int32_t ids[ATTENTION_BLOCK];
    } content = {{chain->hash[0], chain->hash[1]}, expanded, {0}};
    memcpy(content.ids, ids, sizeof content.ids);
    XXH128_hash_t hash = XXH3_128bits(&content, sizeof content);
    return (struct page_chain){.serial = -1, .hash = {hash.low64, hash.high64}};
}

static int32_t find_content(struct page_pool *pool, const struct page_chain *chain, const struct page_want *want) {
    uint64_t key = content_key(chain, want->ids);
    int32_t other = NONE;
    for (int32_t i = *bucket_of(pool, key); i != NONE; i = pool->pages[i].next_in_bucket) {
        const struct page *p = &pool->pages[i];
        if (p->key == key && p->parent == chain->serial && memcmp(p->ids, want->ids, sizeof p->ids) == 0) {
            if (p->expanded == want->expanded) {
                return i;
            }
            other = i;
        }
    }
    return want->any_form ? other : NONE;
}

int32_t page_pool_find(struct page_pool *pool, const struct page_chain *chain, const struct page_want *want) {
    int32_t page = find_content(pool, chain, want);
    if (page != NONE) {
        page_pool_hold(pool, page);
    }
    return page;
}

struct page_chain page_pool_register(struct page_pool *pool, int32_t page, const struct page_chain *chain,
                                     const int32_t *ids, int64_t expanded, bool drafts) {
    struct page_want want = {.ids = ids, .expanded = expanded};
    int32_t there = find_content(pool, chain, &want);
    if (there != NONE) {
        return pool->pages[there].chain;
    }
    struct page *p = &pool->pages[page];
    CHECK(p->references > 0 && !p->registered, "page %d cannot be registered", page);
    p->registered = true;
    p->drafts = drafts;
    p->saved = false;
    p->expanded = (int16_t)expanded;
    p->parent = chain->serial;
    memcpy(p->parent_hash, chain->hash, sizeof p->parent_hash);
    p->key = content_key(chain, ids);
    p->chain = page_chain_next(chain, ids, expanded);
    p->chain.serial = ++pool->serials;
    memcpy(p->ids, ids, sizeof p->ids);
    int32_t *bucket = bucket_of(pool, p->key);
    p->next_in_bucket = *bucket;
    *bucket = page;
    return p->chain;
}

void page_pool_forget(struct page_pool *pool) {
    for (int64_t i = 0; i < pool->page_count; i++) {
        if (pool->pages[i].registered) {
            unregister(pool, (int32_t)i);
            if (pool->pages[i].references == 0) {
                kept_remove(pool, (int32_t)i);
                free_push(pool, (int32_t)i);
            }
        }
    }
}
