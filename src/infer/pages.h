// The paged cache of an engine: pages of ATTENTION_BLOCK tokens, over all layers, shared by requests with one prefix.
//
// Memory of a page: [layer][token][row of struct cache_layout]. It holds no pointers and looks
// the same on disk (infer/page_files.h). A layer's tensors are strided views of the whole memory, so that token i of
// page p is row pages_row(p) + i of every layer.
//
// A page is free, in use (references > 0) or kept: registered under its content and not in use, until the memory is
// needed; the least recently used goes first. The content of a page is its ids, how many of its rows are expanded (the
// rest absorbed, which is other bits), and what came before: the registered page that is its parent. Ids and parent are
// compared; a hash only finds.
#ifndef MINKE_INFER_PAGES_H
#define MINKE_INFER_PAGES_H

#include "infer/kv_cache.h"

// The beginning of a sequence, up to the end of some page: the place in the tree of registered pages.
struct page_chain {
    int64_t serial;     // of the registered page; 0 = the root; never used twice
    uint64_t hash[2];   // of everything up to here: the name of the page on disk
};

struct page {
    int32_t references;
    int32_t next, previous;   // in the list of free or of kept pages
    int32_t next_in_bucket;
    bool registered;
    bool drafts;        // the rows of the MTP layers are there too
    bool saved;         // on disk, or not wanted there
    int16_t expanded;   // rows
    int64_t parent;     // serial
    uint64_t parent_hash[2];
    uint64_t key;   // hash of parent and ids
    struct page_chain chain;
    int32_t ids[ATTENTION_BLOCK];
};

struct page_pool {
    struct layer_cache *layers;   // [layer_count] views for model_infer
    int64_t layer_count, page_count, page_bytes;
    char *memory;   // [page_count][page_bytes]
    struct page *pages;
    int32_t *buckets;
    int64_t bucket_count;
    int32_t free_head;   // singly linked by next
    int32_t kept_oldest, kept_newest;
    int64_t free_count, kept_count;
    int64_t serials;
};

// layer_count: main layers, and MTP modules if drafts are made.
int page_pool_create(struct page_pool *pool, const struct cache_layout *layout, int64_t layer_count, int64_t page_count,
                     struct error *error);
void page_pool_destroy(struct page_pool *pool);
struct page_chain page_chain_root(void);

static inline int64_t page_pool_available(const struct page_pool *pool) {
    return pool->free_count + pool->kept_count;
}
static inline int32_t page_pool_row(const struct page_pool *pool, int32_t page) {
    return (int32_t)(page * pool->layer_count);   // in units of pages, for attention_span.pages
}
static inline char *page_pool_data(const struct page_pool *pool, int32_t page) {
    return pool->memory + page * pool->page_bytes;
}

// A page for new content, with one reference; forgets the least recently used one if none is free. -1: all are in use.
int32_t page_pool_take(struct page_pool *pool);
void page_pool_hold(struct page_pool *pool, int32_t page);
void page_pool_release(struct page_pool *pool, int32_t page);

struct page_want {
    const int32_t *ids;   // [ATTENTION_BLOCK]
    int64_t expanded;     // rows
    bool any_form;        // another split of forms will do when this one is not there
};
// The registered page that follows `chain`; takes a reference. -1: none.
int32_t page_pool_find(struct page_pool *pool, const struct page_chain *chain, const struct page_want *want);
// The content of a full page that is in use becomes known; returns the place in the tree. If there is such a page
// already, that one stays and `page` remains private.
struct page_chain page_pool_register(struct page_pool *pool, int32_t page, const struct page_chain *chain,
                                     const int32_t *ids, int64_t expanded, bool drafts);
// The name that a page would have.
struct page_chain page_chain_next(const struct page_chain *chain, const int32_t *ids, int64_t expanded);
// Forgets all content; pages in use stay in use, unregistered.
void page_pool_forget(struct page_pool *pool);

#endif
