// infer/pages: views of the memory, who is forgotten first, content by parent, ids and form, duplicates, forgetting
// all.
#include "support/test.h"

#include <string.h>

#include "infer/pages.h"
#include "support/tiny.h"

#define PAGES 4
#define LAYERS 3

static struct page_pool pool;

static int open_pool(void **state) {
    (void)state;
    struct model_config config = tiny_config();
    struct cache_layout layout;
    assert_int_equal(cache_layout_make(&layout, &config, FORMAT_BF16, ATTENTION_ABSORBED, CACHE_PLAIN, NULL), 0);
    return page_pool_create(&pool, &layout, LAYERS, PAGES, NULL);
}

static int close_pool(void **state) {
    (void)state;
    page_pool_destroy(&pool);
    return 0;
}

static const int32_t *ids_of(int32_t content) {
    static int32_t ids[ATTENTION_BLOCK];
    for (int i = 0; i < ATTENTION_BLOCK; i++) {
        ids[i] = content;
    }
    return ids;
}

static int32_t find(const struct page_chain *chain, int32_t content, int64_t expanded, bool any) {
    struct page_want want = {.ids = ids_of(content), .expanded = expanded, .any_form = any};
    return page_pool_find(&pool, chain, &want);
}

static int32_t add(struct page_chain *chain, int32_t content, int64_t expanded) {
    int32_t page = page_pool_take(&pool);
    assert_true(page >= 0);
    *chain = page_pool_register(&pool, page, chain, ids_of(content), expanded, false);
    return page;
}

// Row i of page p is page_pool_row(p) * 64 + i in every layer, and pages and layers do not overlap.
static void test_views(void **state) {
    (void)state;
    for (int32_t page = 0; page < PAGES; page++) {
        for (int64_t layer = 0; layer < LAYERS; layer++) {
            const struct layer_cache *cache = &pool.layers[layer];
            for (int64_t i = 0; i < ATTENTION_BLOCK; i++) {
                int64_t row = page_pool_row(&pool, page) * (int64_t)ATTENTION_BLOCK + i;
                assert_true(row < cache->latent.shape[0] && row < cache->rope_key.shape[0]);
                uint16_t *latent = (uint16_t *)cache->latent.data + row * cache->latent.stride[0];
                uint16_t *rope = (uint16_t *)cache->rope_key.data + row * cache->rope_key.stride[0];
                uint16_t mark = (uint16_t)(1 + (page * LAYERS + layer) * ATTENTION_BLOCK + i);
                for (int64_t k = 0; k < cache->latent.shape[1]; k++) {
                    assert_int_equal(latent[k], 0);
                    latent[k] = mark;
                }
                for (int64_t k = 0; k < cache->rope_key.shape[1]; k++) {
                    assert_int_equal(rope[k], 0);
                    rope[k] = mark;
                }
            }
        }
        const uint16_t *all = (const uint16_t *)(const void *)page_pool_data(&pool, page);
        for (int64_t k = 0; k < pool.page_bytes / 2; k++) {
            assert_int_not_equal(all[k], 0);   // the page is all there is of it, without gaps
        }
    }
}

static void test_order(void **state) {
    (void)state;
    struct page_chain root = page_chain_root(), a = root, b = root;
    int32_t first = add(&a, 1, 64), second = add(&a, 2, 64), other = add(&b, 3, 64), plain = page_pool_take(&pool);
    assert_int_equal(page_pool_take(&pool), -1);   // all are in use
    page_pool_release(&pool, second);              // the end of a prefix first
    page_pool_release(&pool, first);
    page_pool_release(&pool, other);
    page_pool_release(&pool, plain);
    assert_int_equal(page_pool_available(&pool), PAGES);
    assert_int_equal(page_pool_take(&pool), plain);   // what holds nothing goes first
    assert_int_equal(find(&root, 1, 64, false), first);
    page_pool_release(&pool, first);   // used again: now the youngest
    assert_int_equal(page_pool_take(&pool), second);
    assert_int_equal(page_pool_take(&pool), other);
    assert_int_equal(find(&root, 3, 64, false), -1);
    assert_int_equal(find(&root, 1, 64, false), first);
}

static void test_content(void **state) {
    (void)state;
    struct page_chain root = page_chain_root(), a = root, b = root, deep = root;
    int32_t expanded = add(&a, 1, 64), absorbed = add(&b, 1, 0);
    assert_int_equal(find(&root, 1, 64, true), expanded);   // what is wanted before anything else
    assert_int_equal(find(&root, 1, 0, true), absorbed);
    assert_int_equal(find(&root, 1, 30, false), -1);
    assert_true(find(&root, 1, 30, true) >= 0);
    assert_int_equal(find(&a, 1, 64, true), -1);   // the same ids elsewhere
    assert_int_equal(find(&root, 2, 64, true), -1);
    // A page with the content of another stays private, but leads to the same place.
    int32_t twin = page_pool_take(&pool);
    deep = page_pool_register(&pool, twin, &root, ids_of(1), 64, false);
    assert_int_equal(deep.serial, a.serial);
    assert_false(pool.pages[twin].registered);
    int32_t child = add(&deep, 9, 64);
    assert_int_equal(find(&a, 9, 64, false), child);
    assert_int_equal(find(&b, 9, 64, true), -1);
    struct page_chain named = page_chain_next(&a, ids_of(9), 64);
    assert_memory_equal(named.hash, deep.hash, sizeof deep.hash);

    page_pool_forget(&pool);
    assert_int_equal(find(&root, 1, 64, true), -1);
    assert_int_equal(page_pool_available(&pool), 0);   // in use all the same
    while (pool.pages[expanded].references > 0) {
        page_pool_release(&pool, expanded);
    }
    assert_int_equal(page_pool_available(&pool), 1);
    assert_int_equal(find(&root, 1, 64, true), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_views, open_pool, close_pool),
        cmocka_unit_test_setup_teardown(test_order, open_pool, close_pool),
        cmocka_unit_test_setup_teardown(test_content, open_pool, close_pool),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
