// An FP8 latent cache in the operations: what scatter writes is what op_quantize_rows makes, what gather and attention
// read is what op_dequantize_rows gives, to the bit; rows as a cache lays them out (codes, scales and rope key of a
// token side by side), ragged tiles, pages, few and many query rows, nasty values.
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "support/op_fixture.h"
#include "support/test.h"
#include "tensor/formats.h"

// Rows of a cache on the heap: [codes, padded to 4][scales][rope key BF16 or F32].
struct cache {
    struct tensor tiles, rope;
    char *memory;
    int64_t bytes;
};

static struct cache cache_new(enum format format, int64_t rows, int64_t width, int64_t rope) {
    int64_t codes = (width + 3) / 4 * 4, scales = (width + BLOCK_SIZE - 1) / BLOCK_SIZE * 4;
    int64_t element = format_info(format)->bytes, row = codes + scales + (rope * element + 3) / 4 * 4;
    struct cache c = {.bytes = rows * row};
    c.memory = array_new(c.bytes, 1);
    c.tiles = tensor_2d(FORMAT_E4M3_TILE, c.memory, rows, width);
    c.tiles.stride[0] = row;
    c.tiles.scale = (float *)(void *)(c.memory + codes);
    c.tiles.scale_stride = row / 4;
    c.rope = tensor_2d(format, c.memory + codes + scales, rows, rope);
    c.rope.stride[0] = row / element;
    return c;
}

static struct cache cache_clone(const struct cache *cache) {
    struct cache c = *cache;
    c.memory = array_new(c.bytes, 1);
    memcpy(c.memory, cache->memory, (size_t)c.bytes);
    int64_t moved = c.memory - cache->memory;
    c.tiles.data = c.memory;
    c.tiles.scale = (float *)(void *)((char *)cache->tiles.scale + moved);
    c.rope.data = (char *)cache->rope.data + moved;
    return c;
}

static void fill(struct tensor *x, int rarity, uint64_t stream) {
    if (rarity > 0) {
        fill_edges(x, 3.0f, stream, rarity);
    } else {
        fill_uniform(x, 3.0f, stream);
    }
}

static void scatter_all(struct op_context *op, struct cache *cache, const struct tensor *x) {
    int32_t *rows = array_new(x->shape[0], sizeof *rows);
    for (int64_t i = 0; i < x->shape[0]; i++) {
        rows[i] = (int32_t)i;
    }
    op_scatter_rows(op, &cache->tiles, x, rows);
    memory_free(rows);
}

static const int64_t widths[] = {1, 16, 77, 128, 130, 512};
#define WIDTHS (sizeof widths / sizeof widths[0])

// ---- Scatter and gather ---------------------------------------------------------------------------------------------

static void check_moving(enum format format, int64_t width, int rarity, enum isa isa, int threads) {
    enum { ROWS = 21, CACHE = 40 };
    struct op_fixture f;
    op_fixture_open(&f, isa, threads);
    struct tensor x = tensor_new_2d(format, ROWS, width);
    fill(&x, rarity, 7);
    struct tensor quantized = tensor_new_2d(FORMAT_E4M3_TILE, ROWS, width);
    quantized.scale = array_new(ROWS * quantized.scale_stride, sizeof(float));
    op_quantize_rows(&f.op, &quantized, &x, true);
    struct cache cache = cache_new(format, CACHE, width, 6);
    memset(cache.memory, 0x55, (size_t)cache.bytes);
    struct cache expected = cache_clone(&cache);
    int32_t rows[ROWS];
    for (int i = 0; i < ROWS; i++) {
        rows[i] = (i * 17 + 5) % CACHE;   // distinct
        memcpy((char *)expected.tiles.data + rows[i] * expected.tiles.stride[0], (char *)quantized.data + i * width,
               (size_t)width);
        memcpy(expected.tiles.scale + rows[i] * expected.tiles.scale_stride,
               quantized.scale + i * quantized.scale_stride, (size_t)quantized.scale_stride * sizeof(float));
    }
    op_scatter_rows(&f.op, &cache.tiles, &x, rows);
    assert_memory_equal(cache.memory, expected.memory, (size_t)cache.bytes);   // and nothing else is touched

    for (enum format to = FORMAT_F32; to <= FORMAT_BF16; to++) {
        struct tensor y = tensor_new_2d(to, ROWS, width), plain = tensor_new_2d(to, ROWS, width);
        op_gather_rows(&f.op, &y, &cache.tiles, rows);
        op_dequantize_rows(&f.op, &plain, &quantized);
        assert_true(same_bits(&y, &plain));
        tensor_free(&y);
        tensor_free(&plain);
    }
    memory_free(quantized.scale);
    memory_free(cache.memory);
    memory_free(expected.memory);
    tensor_free(&quantized);
    tensor_free(&x);
    op_fixture_close(&f);
}

static void test_moving(void **state) {
    (void)state;
    for (size_t w = 0; w < WIDTHS; w++) {
        for (enum isa isa = ISA_SCALAR; isa <= ISA_AVX512 && isa_available(isa); isa++) {
            check_moving(FORMAT_F32, widths[w], 0, isa, 1);
            check_moving(FORMAT_BF16, widths[w], 0, isa, 3);
            check_moving(FORMAT_F32, widths[w], 9, isa, 2);
            check_moving(FORMAT_BF16, widths[w], 9, isa, 1);
        }
    }
}

// Every code with every exponent, and with scales that no cache has.
static void test_widening(void **state) {
    (void)state;
    enum { SCALES = 300, WIDTH = 256 + 39 };
    static const float odd[] = {0.0f, 0.75f, 1.5f, -2.0f, 0x1p-130f, 0x1p127f, INFINITY, NAN, 3.0e-7f, 0x1.000002p0f};
    int32_t rows[SCALES];
    for (enum isa isa = ISA_SCALAR; isa <= ISA_AVX512 && isa_available(isa); isa++) {
        struct op_fixture f;
        op_fixture_open(&f, isa, 2);
        struct cache cache = cache_new(FORMAT_F32, SCALES, WIDTH, 2);
        for (int i = 0; i < SCALES; i++) {
            rows[i] = i;
            for (int k = 0; k < WIDTH; k++) {
                ((uint8_t *)cache.tiles.data)[i * cache.tiles.stride[0] + k] = (uint8_t)(k + i);
            }
            for (int tile = 0; tile < 3; tile++) {
                float scale = i < 256 ? ldexpf(1.0f, i - 128) : odd[(i + tile) % 10];
                cache.tiles.scale[i * cache.tiles.scale_stride + tile] = scale;
            }
        }
        for (enum format to = FORMAT_F32; to <= FORMAT_BF16; to++) {
            struct tensor y = tensor_new_2d(to, SCALES, WIDTH), plain = tensor_clone(&y);
            op_gather_rows(&f.op, &y, &cache.tiles, rows);
            op_dequantize_rows(&f.op, &plain, &cache.tiles);
            assert_true(same_bits(&y, &plain));
            tensor_free(&y);
            tensor_free(&plain);
        }
        memory_free(cache.memory);
        op_fixture_close(&f);
    }
}

// A scale is a power of two, so that what is multiplied out is exact in BF16 already.
static void test_exact(void **state) {
    (void)state;
    enum { ROWS = 50, WIDTH = 300 };
    struct op_fixture f;
    op_fixture_open(&f, ISA_BEST, 2);
    struct tensor x = tensor_new_2d(FORMAT_F32, ROWS, WIDTH), wide = tensor_clone(&x);
    struct tensor narrow = tensor_new_2d(FORMAT_BF16, ROWS, WIDTH);
    for (int64_t i = 0; i < ROWS * WIDTH; i++) {
        element_set(&x, i, (rng_uniform(3, 1, (uint64_t)i) - 0.5f) * exp2f((float)(i / WIDTH % 25) - 12.0f));
    }
    struct cache cache = cache_new(FORMAT_F32, ROWS, WIDTH, 2);
    int32_t rows[ROWS];
    for (int i = 0; i < ROWS; i++) {
        rows[i] = i;
    }
    op_scatter_rows(&f.op, &cache.tiles, &x, rows);
    op_gather_rows(&f.op, &wide, &cache.tiles, rows);
    op_gather_rows(&f.op, &narrow, &cache.tiles, rows);
    double squares = 0, errors = 0;
    for (int64_t i = 0; i < ROWS * WIDTH; i++) {
        float a = element_get(&wide, i), b = element_get(&narrow, i);
        assert_true(same_floats(&a, &b, 1));
        squares += pow((double)element_get(&x, i), 2);
        errors += pow((double)element_get(&x, i) - (double)a, 2);
    }
    assert_true(sqrt(errors / squares) < 0.03);   // E4M3: half a unit of 2^-3 to 2^-4, 0.026 in the mean square
    memory_free(cache.memory);
    tensor_free(&x);
    tensor_free(&wide);
    tensor_free(&narrow);
    op_fixture_close(&f);
}

// ---- Attention ------------------------------------------------------------------------------------------------------

struct problem {
    struct tensor q, latent, rope;   // latent: of the FP8 cache or what it means
    const struct attention_span *spans;
    int64_t span_count;
};

static struct tensor shared(const struct tensor *rows, int64_t heads) {
    struct tensor view = *rows;
    view.rank = 3;
    view.shape[1] = heads;
    view.shape[2] = rows->shape[1];
    view.stride[1] = 0;
    view.stride[2] = 1;
    return view;
}

static void run_problem(struct op_context *op, struct tensor *outputs, void *argument) {
    struct problem *p = argument;
    struct tensor latent = shared(&p->latent, p->q.shape[1]), rope = tensor_split_columns(&p->rope, 1);
    op_attention(op, &outputs[0], outputs[1].data, &p->q, &latent, &rope, &latent, p->spans, p->span_count, 0.11f);
}

// The same problem over the tiles (every instruction set and number of threads) and over what they mean.
static void check_attention(enum format format, int64_t heads, int64_t width, int64_t rope, int rarity,
                            const struct attention_span *spans, int64_t span_count, int64_t queries, int64_t keys) {
    struct op_fixture f;
    op_fixture_open(&f, ISA_BEST, 2);
    struct tensor x = tensor_new_2d(format, keys, width), plain = tensor_clone(&x);
    struct tensor rope_rows = tensor_new_2d(format, keys, rope);
    struct cache cache = cache_new(format, keys, width, rope);
    fill(&x, rarity, 1);
    fill(&rope_rows, 0, 2);
    scatter_all(&f.op, &cache, &x);
    op_copy(&f.op, &cache.rope, &rope_rows);
    int32_t *rows = array_new(keys, sizeof *rows);
    for (int64_t i = 0; i < keys; i++) {
        rows[i] = (int32_t)i;
    }
    op_gather_rows(&f.op, &plain, &cache.tiles, rows);
    op_fixture_close(&f);

    struct problem coded = {.q = tensor_new_3d(format, queries, heads, width + rope),
                            .latent = cache.tiles,
                            .rope = cache.rope,
                            .spans = spans,
                            .span_count = span_count};
    fill(&coded.q, 0, 3);
    struct problem decoded = coded;
    decoded.latent = plain;
    struct tensor found[] = {tensor_new_3d(format, queries, heads, width), tensor_new_2d(FORMAT_F32, queries, heads)};
    struct tensor expected[] = {tensor_clone(&found[0]), tensor_clone(&found[1])};
    assert_same_everywhere(run_problem, found, 2, &coded);
    assert_same_everywhere(run_problem, expected, 2, &decoded);
    for (int i = 0; i < 2; i++) {
        assert_true(same_bits(&found[i], &expected[i]));
        tensor_free(&found[i]);
        tensor_free(&expected[i]);
    }
    memory_free(rows);
    memory_free(cache.memory);
    tensor_free(&coded.q);
    tensor_free(&rope_rows);
    tensor_free(&plain);
    tensor_free(&x);
}

static void test_attention(void **state) {
    (void)state;
    static const int32_t pages[] = {4, 0, 2};
    const struct attention_span one = {.count = 1, .position = 199};
    const struct attention_span deep = {.count = 1, .position = 4 * ATTENTION_STRETCH + 50};   // stretches side by side
    const struct attention_span mixed[] = {{.query_row = 0, .count = 2, .position = 130, .pages = pages},
                                           {.query_row = 2, .count = 1, .position = 3, .key_row = 70},
                                           {.query_row = 3, .count = 30, .position = 60, .key_row = 10}};
    for (enum format format = FORMAT_F32; format <= FORMAT_BF16; format++) {
        for (size_t w = 0; w < WIDTHS; w++) {
            check_attention(format, 3, widths[w], 6, 0, &one, 1, 1, 200);
            check_attention(format, 3, widths[w], 6, 0, mixed, 3, 33, 320);
        }
        check_attention(format, 8, 512, 64, 0, &one, 1, 1, 200);
        check_attention(format, 3, 256, 32, 0, &deep, 1, 1, 4 * ATTENTION_STRETCH + 64);
        check_attention(format, 16, 130, 8, 0, mixed, 3, 33, 320);
        check_attention(format, 2, 130, 8, 100, &one, 1, 1, 200);   // NaN, infinities, extremes in the latent
        check_attention(format, 2, 300, 8, 5000, mixed, 3, 33, 320);
    }
}

// What FP8 costs: attention over the cache against attention over the latents it was written from, in F32. Elements are
// off by 0.026 each, independently: so is the sum of values. Scores here have a deviation of 0.11 sqrt(512 * 1/3 * 3) =
// 2.5 and are off by 0.026 of it, 0.065, which is what the weights of the sum are off by. Together sqrt(0.026^2 +
// 0.065^2) = 0.07.
static void test_error(void **state) {
    (void)state;
    enum { KEYS = 500, HEADS = 4, WIDTH = 512, ROPE = 64 };
    struct op_fixture f;
    op_fixture_open(&f, ISA_BEST, 2);
    struct tensor x = tensor_new_2d(FORMAT_F32, KEYS, WIDTH), rope = tensor_new_2d(FORMAT_F32, KEYS, ROPE);
    fill(&x, 0, 1);
    fill(&rope, 0, 2);
    struct cache cache = cache_new(FORMAT_F32, KEYS, WIDTH, ROPE);
    scatter_all(&f.op, &cache, &x);
    const struct attention_span span = {.count = 1, .position = KEYS - 1};
    struct problem coded = {.q = tensor_new_3d(FORMAT_F32, 1, HEADS, WIDTH + ROPE),
                            .latent = cache.tiles,
                            .rope = rope,
                            .spans = &span,
                            .span_count = 1};
    fill_uniform(&coded.q, 1.0f, 3);
    struct problem plain = coded;
    plain.latent = x;
    struct tensor found[] = {tensor_new_3d(FORMAT_F32, 1, HEADS, WIDTH), tensor_new_2d(FORMAT_F32, 1, HEADS)};
    struct tensor expected[] = {tensor_clone(&found[0]), tensor_clone(&found[1])};
    run_problem(&f.op, found, &coded);
    run_problem(&f.op, expected, &plain);
    double squares = 0, errors = 0;
    for (int64_t i = 0; i < HEADS * WIDTH; i++) {
        squares += pow((double)element_get(&expected[0], i), 2);
        errors += pow((double)element_get(&expected[0], i) - (double)element_get(&found[0], i), 2);
    }
    double error = sqrt(errors / squares);
    print_message("    attention output: relative error %.4f\n", error);
    assert_true(error > 0.02 && error < 0.07);
    for (int i = 0; i < 2; i++) {
        tensor_free(&found[i]);
        tensor_free(&expected[i]);
    }
    memory_free(cache.memory);
    tensor_free(&coded.q);
    tensor_free(&rope);
    tensor_free(&x);
    op_fixture_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moving),    cmocka_unit_test(test_widening), cmocka_unit_test(test_exact),
        cmocka_unit_test(test_attention), cmocka_unit_test(test_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
