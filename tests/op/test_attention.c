// Causal attention: against the textbook formula in double, and the promise that a query row has the same bits whatever
// it is computed with.
#include <math.h>
#include <string.h>

#include "base/math.h"
#include "base/memory.h"
#include "base/rng.h"
#include "support/op_fixture.h"
#include "support/test.h"
#include "tensor/formats.h"

// A problem of one sequence: T rows of queries and keys.
struct problem {
    struct tensor q, k_nope, k_rope, v;
    int64_t tokens, heads;
    float scale;
    const struct attention_span *spans;
    int64_t span_count;
};

static struct problem problem_new(enum format format, int64_t tokens, int64_t heads, int64_t nope, int64_t rope,
                                  int64_t width_v, int edges) {
    struct problem p = {.tokens = tokens, .heads = heads, .scale = 1.0f / sqrtf((float)(nope + rope))};
    p.q = tensor_new_3d(format, tokens, heads, nope + rope);
    p.k_nope = tensor_new_3d(format, tokens, heads, nope);
    p.v = tensor_new_3d(format, tokens, heads, width_v);
    p.k_rope = tensor_new_3d(format, tokens, 1, rope);
    struct tensor *all[] = {&p.q, &p.k_nope, &p.k_rope, &p.v};
    for (uint64_t i = 0; i < 4; i++) {
        if (edges > 0) {
            fill_edges(all[i], 3.0f, i + 1, edges);
        } else {
            fill_uniform(all[i], 3.0f, i + 1);
        }
    }
    return p;
}

static void problem_free(struct problem *p) {
    tensor_free(&p->q);
    tensor_free(&p->k_nope);
    tensor_free(&p->k_rope);
    tensor_free(&p->v);
}

static void run_problem(struct op_context *op, struct tensor *outputs, void *argument) {
    struct problem *p = argument;
    op_attention(op, &outputs[0], outputs[1].data, &p->q, &p->k_nope, &p->k_rope, &p->v, p->spans, p->span_count,
                 p->scale);
}

static void naive(double *out, double *lse, const struct problem *p) {
    int64_t nope = p->k_nope.shape[2], width = p->q.shape[2], width_v = p->v.shape[2];
    double *score = array_new(p->tokens, sizeof *score);
    for (int64_t t = 0; t < p->tokens; t++) {
        for (int64_t h = 0; h < p->heads; h++) {
            double largest = -INFINITY, sum = 0;
            for (int64_t j = 0; j <= t; j++) {
                score[j] = 0;
                for (int64_t d = 0; d < width; d++) {
                    double key = d < nope ? (double)element_get(&p->k_nope, (j * p->heads + h) * nope + d)
                                          : (double)element_get(&p->k_rope, j * (width - nope) + d - nope);
                    score[j] += (double)element_get(&p->q, (t * p->heads + h) * width + d) * key;
                }
                score[j] *= (double)p->scale;
                largest = fmax(largest, score[j]);
            }
            for (int64_t j = 0; j <= t; j++) {
                sum += exp(score[j] - largest);
            }
            lse[t * p->heads + h] = largest + log(sum);
            for (int64_t c = 0; c < width_v; c++) {
                double total = 0;
                for (int64_t j = 0; j <= t; j++) {
                    total += exp(score[j] - largest) / sum *
                             (double)element_get(&p->v, (j * p->heads + h) * width_v + c);
                }
                out[(t * p->heads + h) * width_v + c] = total;
            }
        }
    }
    memory_free(score);
}

static float rounded(const struct problem *p, float value) {
    return p->v.format == FORMAT_BF16 ? bf16_widen(bf16_narrow(value)) : value;
}

// The definition in op/ops.h word by word, keys [begin, end) of one row: out as it is summed, maximum and denominator.
static void defined_keys(float *out, float *maximum, float *denominator, const struct problem *p, int64_t t, int64_t h,
                         int64_t begin, int64_t end) {
    int64_t nope = p->k_nope.shape[2], width = p->q.shape[2], width_v = p->v.shape[2];
    float m = -INFINITY, l = 0.0f;
    memset(out, 0, (size_t)width_v * sizeof *out);
    for (int64_t block = begin; block < end; block += ATTENTION_BLOCK) {
        float score[ATTENTION_BLOCK], probability[ATTENTION_BLOCK], lane[16] = {0}, largest = m;
        int64_t keys = end - block < ATTENTION_BLOCK ? end - block : ATTENTION_BLOCK;
        for (int64_t j = 0; j < keys; j++) {
            float chain = 0.0f;
            for (int64_t d = 0; d < width; d++) {
                float key = d < nope ? element_get(&p->k_nope, ((block + j) * p->heads + h) * nope + d)
                                     : element_get(&p->k_rope, (block + j) * (width - nope) + d - nope);
                chain = fmaf(element_get(&p->q, (t * p->heads + h) * width + d), key, chain);
            }
            score[j] = chain * p->scale;
            largest = score[j] > largest ? score[j] : largest;
        }
        for (int64_t j = 0; j < keys; j++) {
            probability[j] = math_exp(score[j] - largest);
            lane[j % 16] += probability[j];
        }
        for (int half = 8; half >= 1; half /= 2) {
            for (int i = 0; i < half; i++) {
                lane[i] += lane[i + half];
            }
        }
        float correction = math_exp(m - largest);
        l = fmaf(l, correction, lane[0]);
        m = largest;
        for (int64_t c = 0; c < width_v; c++) {
            out[c] *= correction;
            for (int64_t j = 0; j < keys; j++) {
                float value = element_get(&p->v, ((block + j) * p->heads + h) * width_v + c);
                out[c] = fmaf(rounded(p, probability[j]), value, out[c]);
            }
        }
    }
    *maximum = m;
    *denominator = l;
}

// The same, a whole row; out in F32 before it is stored.
static void defined_row(float *out, float *lse, const struct problem *p, int64_t t, int64_t h) {
    int64_t width_v = p->v.shape[2];
    float m = -INFINITY, l = 0.0f, *part = array_new(width_v, sizeof *part);
    for (int64_t begin = 0; begin <= t; begin += ATTENTION_STRETCH) {
        float other, sum;
        int64_t end = t + 1 < begin + ATTENTION_STRETCH ? t + 1 : begin + ATTENTION_STRETCH;
        defined_keys(begin == 0 ? out : part, &other, &sum, p, t, h, begin, end);
        if (begin == 0) {
            m = other;
            l = sum;
            continue;
        }
        float largest = other > m ? other : m, kept = math_exp(m - largest), added = math_exp(other - largest);
        l = fmaf(l, kept, sum * added);
        m = largest;
        for (int64_t c = 0; c < width_v; c++) {
            out[c] = fmaf(out[c], kept, part[c] * added);
        }
    }
    for (int64_t c = 0; c < width_v; c++) {
        out[c] = out[c] / l + 0.0f;
    }
    *lse = m + math_log(l);
    memory_free(part);
}

static void test_definition(void **state) {
    (void)state;
    enum { TOKENS = 2 * ATTENTION_STRETCH + 70, HEADS = 2, NOPE = 11, ROPE = 6, WIDTH_V = 13 };   // three stretches
    pool_set_flush_to_zero();
    for (enum format format = FORMAT_F32; format <= FORMAT_BF16; format++) {
        struct problem p = problem_new(format, TOKENS, HEADS, NOPE, ROPE, WIDTH_V, 0);
        struct attention_span span = {.count = TOKENS};
        p.spans = &span;
        p.span_count = 1;
        struct tensor outputs[] = {tensor_new_3d(format, TOKENS, HEADS, WIDTH_V),
                                   tensor_new_2d(FORMAT_F32, TOKENS, HEADS)};
        struct tensor expected[] = {tensor_clone(&outputs[0]), tensor_clone(&outputs[1])};
        assert_same_everywhere(run_problem, outputs, 2, &p);
        for (int64_t row = 0; row < TOKENS * HEADS; row++) {
            float out[WIDTH_V], lse;
            defined_row(out, &lse, &p, row / HEADS, row % HEADS);
            element_set(&expected[1], row, lse);
            for (int64_t c = 0; c < WIDTH_V; c++) {
                element_set(&expected[0], row * WIDTH_V + c, out[c]);
            }
        }
        assert_true(same_bits(&outputs[0], &expected[0]));
        assert_true(same_bits(&outputs[1], &expected[1]));
        for (int i = 0; i < 2; i++) {
            tensor_free(&outputs[i]);
            tensor_free(&expected[i]);
        }
        problem_free(&p);
    }
}

static void check_against_naive(enum format format, int64_t tokens, int64_t heads, int64_t nope, int64_t rope,
                                int64_t width_v) {
    struct problem p = problem_new(format, tokens, heads, nope, rope, width_v, 0);
    struct attention_span span = {.count = tokens};
    p.spans = &span;
    p.span_count = 1;
    struct tensor outputs[] = {tensor_new_3d(format, tokens, heads, width_v), tensor_new_2d(FORMAT_F32, tokens, heads)};
    assert_same_everywhere(run_problem, outputs, 2, &p);
    double *out = array_new(tokens * heads * width_v, sizeof *out), *lse = array_new(tokens * heads, sizeof *lse);
    naive(out, lse, &p);
    assert_true(relative_error(&outputs[0], out) < (format == FORMAT_F32 ? 4e-6 : 8e-3));
    assert_true(relative_error(&outputs[1], lse) < 2e-6);
    memory_free(out);
    memory_free(lse);
    tensor_free(&outputs[0]);
    tensor_free(&outputs[1]);
    problem_free(&p);
}

static void test_formula(void **state) {
    (void)state;
    for (enum format format = FORMAT_F32; format <= FORMAT_BF16; format++) {
        check_against_naive(format, 1, 1, 1, 0, 1);
        check_against_naive(format, 67, 2, 1, 1, 1);
        check_against_naive(format, 70, 3, 5, 3, 7);
        check_against_naive(format, 130, 2, 16, 8, 16);
        check_against_naive(format, 65, 1, 64, 0, 33);
        check_against_naive(format, 80, 1, 0, 6, 8);
        check_against_naive(format, 66, 2, 128, 64, 128);
        check_against_naive(format, 2 * ATTENTION_STRETCH + 30, 1, 16, 8, 16);
    }
}

static void test_edges(void **state) {
    (void)state;
    for (enum format format = FORMAT_F32; format <= FORMAT_BF16; format++) {
        for (int rarity = 3; rarity < 100000; rarity *= 12) {
            struct problem p = problem_new(format, 133, 2, 21, 7, 19, rarity);
            struct attention_span span = {.count = 133};
            p.spans = &span;
            p.span_count = 1;
            struct tensor outputs[] = {tensor_new_3d(format, 133, 2, 19), tensor_new_2d(FORMAT_F32, 133, 2)};
            assert_same_everywhere(run_problem, outputs, 2, &p);
            tensor_free(&outputs[0]);
            tensor_free(&outputs[1]);
            problem_free(&p);
        }
    }
}

// The problem with k and v spread over pages in shuffled order; rows of no page hold NaN.
static struct problem problem_paged(const struct problem *p, int32_t *pages, int64_t page_count) {
    struct problem paged = *p;
    struct tensor *to[] = {&paged.k_nope, &paged.k_rope, &paged.v};
    for (int i = 0; i < 3; i++) {
        struct tensor from = *to[i];
        *to[i] = tensor_new_3d((enum format)from.format, page_count * ATTENTION_BLOCK, from.shape[1], from.shape[2]);
        int64_t width = from.shape[1] * from.shape[2];
        for (int64_t e = 0; e < tensor_elements(to[i]); e++) {
            element_set(to[i], e, NAN);
        }
        for (int64_t e = 0; e < tensor_elements(&from); e++) {
            int64_t row = e / width, page = (row / ATTENTION_BLOCK * 3 + 1) % page_count;
            pages[row / ATTENTION_BLOCK] = (int32_t)page;
            element_set(to[i], (page * ATTENTION_BLOCK + row % ATTENTION_BLOCK) * width + e % width,
                        element_get(&from, e));
        }
    }
    paged.q = tensor_clone(&p->q);
    return paged;
}

static void check_chunking(enum format format, enum isa isa, int64_t heads, bool shared, int64_t width_v) {
    enum { TOKENS = 203, NOPE = 18, ROPE = 9, PAGES = 7 };
    // Infinite values in the future of some rows must not reach them.
    struct problem p = problem_new(format, TOKENS, heads, NOPE, ROPE, width_v, 4000);
    if (shared) {
        p.k_nope.stride[1] = p.v.stride[1] = 0;
    }
    int32_t pages[PAGES];
    struct problem paged = problem_paged(&p, pages, PAGES);
    if (shared) {
        paged.k_nope.stride[1] = paged.v.stride[1] = 0;
    }
    struct attention_span whole = {.count = TOKENS};
    p.spans = &whole;
    p.span_count = 1;
    struct tensor expected[] = {tensor_new_3d(format, TOKENS, heads, width_v),
                                tensor_new_2d(FORMAT_F32, TOKENS, heads)};
    struct tensor found[] = {tensor_new_3d(format, TOKENS, heads, width_v), tensor_new_2d(FORMAT_F32, TOKENS, heads)};
    struct op_fixture fixture;
    op_fixture_open(&fixture, isa, 3);
    run_problem(&fixture.op, expected, &p);
    for (int64_t chunk = 1; chunk <= 131; chunk = chunk * 2 + (chunk == 63)) {
        struct attention_span spans[TOKENS], paged_spans[TOKENS];
        int64_t count = 0;
        for (int64_t begin = 0; begin < TOKENS; begin += chunk, count++) {
            spans[count] = (struct attention_span){
                .query_row = begin, .position = begin, .count = TOKENS - begin < chunk ? TOKENS - begin : chunk};
            paged_spans[count] = spans[count];
            paged_spans[count].pages = pages;
        }
        p.spans = spans;
        paged.spans = paged_spans;
        p.span_count = paged.span_count = count;
        for (int form = 0; form < 2; form++) {
            memset(found[0].data, 0xff, (size_t)tensor_bytes(&found[0]));
            memset(found[1].data, 0xff, (size_t)tensor_bytes(&found[1]));
            run_problem(&fixture.op, found, form == 0 ? &p : &paged);
            assert_true(same_bits(&found[0], &expected[0]));
            assert_true(same_bits(&found[1], &expected[1]));
        }
    }
    op_fixture_close(&fixture);
    for (int i = 0; i < 2; i++) {
        tensor_free(&expected[i]);
        tensor_free(&found[i]);
    }
    problem_free(&p);
    problem_free(&paged);
}

static void test_chunks_and_pages(void **state) {
    (void)state;
    for (enum isa isa = ISA_SCALAR; isa < ISA_BEST && isa_available(isa); isa++) {
        for (enum format format = FORMAT_F32; format <= FORMAT_BF16; format++) {
            check_chunking(format, isa, 2, false, 21);
            check_chunking(format, isa, 3, true, 21);
            check_chunking(format, isa, 3, true, 96);   // values in whole vectors: few rows read blocks where they lie
        }
    }
}

// Stretches of keys walked by several threads and added up, against one thread that walks them in order: the last rows
// of a long sequence, alone, a few or many at a time, beside rows of a short one.
static void check_stretches(enum format format, enum isa isa, int64_t heads, int64_t width_v) {
    enum { TOKENS = 4 * ATTENTION_STRETCH + 70, LAST = 30, SHORT = 20, NOPE = 32, ROPE = 32 };
    struct problem p = problem_new(format, TOKENS, heads, NOPE, ROPE, width_v, 0);
    p.k_nope.stride[1] = p.v.stride[1] = 0;
    struct attention_span whole[] = {{.query_row = TOKENS - LAST, .position = TOKENS - LAST, .count = LAST},
                                     {.count = SHORT}};
    struct tensor expected[] = {tensor_new_3d(format, TOKENS, heads, width_v),
                                tensor_new_2d(FORMAT_F32, TOKENS, heads)};
    struct tensor found[] = {tensor_new_3d(format, TOKENS, heads, width_v), tensor_new_2d(FORMAT_F32, TOKENS, heads)};
    struct op_fixture fixture;
    p.spans = whole;
    p.span_count = 2;
    op_fixture_open(&fixture, isa, 1);
    run_problem(&fixture.op, expected, &p);
    op_fixture_close(&fixture);
    static const int64_t chunks[] = {1, 2, 7, LAST};
    for (int threads = 1; threads <= 7; threads += threads == 3 ? 4 : 1) {
        op_fixture_open(&fixture, isa, threads);
        for (size_t c = 0; c < sizeof chunks / sizeof chunks[0]; c++) {
            // One call for each chunk: few rows at a time, which is when stretches are tasks.
            for (int64_t begin = 0; begin < LAST; begin += chunks[c]) {
                int64_t count = LAST - begin < chunks[c] ? LAST - begin : chunks[c], first = TOKENS - LAST + begin;
                struct attention_span spans[] = {
                    {.query_row = begin % SHORT, .position = begin % SHORT, .count = begin % 3 == 0 ? 1 : 0},
                    {.query_row = first, .position = first, .count = count}};
                p.spans = spans;
                run_problem(&fixture.op, found, &p);
            }
            int64_t row = TOKENS - LAST;
            size_t bytes = (size_t)(format == FORMAT_F32 ? 4 : 2);
            assert_memory_equal((char *)found[0].data + (size_t)(row * heads * width_v) * bytes,
                                (char *)expected[0].data + (size_t)(row * heads * width_v) * bytes,
                                (size_t)(LAST * heads * width_v) * bytes);
            assert_memory_equal((float *)found[1].data + row * heads, (float *)expected[1].data + row * heads,
                                (size_t)(LAST * heads) * sizeof(float));
            assert_memory_equal(found[0].data, expected[0].data, (size_t)(heads * width_v) * bytes);
            memset(found[0].data, 0xff, (size_t)tensor_bytes(&found[0]));
            memset(found[1].data, 0xff, (size_t)tensor_bytes(&found[1]));
        }
        op_fixture_close(&fixture);
    }
    for (int i = 0; i < 2; i++) {
        tensor_free(&expected[i]);
        tensor_free(&found[i]);
    }
    problem_free(&p);
}

static void test_stretches(void **state) {
    (void)state;
    for (enum isa isa = ISA_SCALAR; isa < ISA_BEST && isa_available(isa); isa++) {
        for (enum format format = FORMAT_F32; format <= FORMAT_BF16; format++) {
            check_stretches(format, isa, 3, 64);
            check_stretches(format, isa, 12, 20);
        }
    }
}

// Keys shared by heads through stride 0 give the bits of keys copied for each head; sequences side by side those of
// each alone.
static void test_shared_heads_and_mixed_spans(void **state) {
    (void)state;
    enum { TOKENS = 150, HEADS = 5, NOPE = 32, ROPE = 8, WIDTH_V = 32, FIRST = 71 };
    for (enum format format = FORMAT_F32; format <= FORMAT_BF16; format++) {
        struct problem shared = problem_new(format, TOKENS, HEADS, NOPE, ROPE, WIDTH_V, 0), copied = shared;
        shared.k_nope.stride[1] = shared.v.stride[1] = 0;
        copied.k_nope = tensor_new_3d(format, TOKENS, HEADS, NOPE);
        copied.v = tensor_new_3d(format, TOKENS, HEADS, WIDTH_V);
        for (int64_t t = 0; t < TOKENS; t++) {
            for (int64_t h = 0; h < HEADS; h++) {
                for (int64_t d = 0; d < NOPE; d++) {
                    int64_t row = t * HEADS * NOPE;
                    element_set(&copied.k_nope, row + h * NOPE + d, element_get(&shared.k_nope, row + d));
                    element_set(&copied.v, row + h * NOPE + d, element_get(&shared.v, row + d));
                }
            }
        }
        // Two sequences: rows 0..70 and 71..149; the second is computed in two pieces, listed out of order.
        struct attention_span spans[] = {
            {.query_row = FIRST + 40, .count = TOKENS - FIRST - 40, .position = 40, .key_row = FIRST},
            {.query_row = 0, .count = FIRST},
            {.query_row = 3, .count = 0},
            {.query_row = FIRST, .count = 40, .key_row = FIRST}};
        struct tensor a[] = {tensor_new_3d(format, TOKENS, HEADS, WIDTH_V), tensor_new_2d(FORMAT_F32, TOKENS, HEADS)};
        struct tensor b[] = {tensor_new_3d(format, TOKENS, HEADS, WIDTH_V), tensor_new_2d(FORMAT_F32, TOKENS, HEADS)};
        shared.spans = spans;
        shared.span_count = 4;
        assert_same_everywhere(run_problem, a, 2, &shared);
        struct attention_span alone[] = {{.count = FIRST},
                                         {.query_row = FIRST, .count = TOKENS - FIRST, .key_row = FIRST}};
        copied.spans = alone;
        copied.span_count = 2;
        assert_same_everywhere(run_problem, b, 2, &copied);
        assert_true(same_bits(&a[0], &b[0]));
        assert_true(same_bits(&a[1], &b[1]));
        for (int i = 0; i < 2; i++) {
            tensor_free(&a[i]);
            tensor_free(&b[i]);
        }
        tensor_free(&copied.k_nope);
        tensor_free(&copied.v);
        problem_free(&shared);
    }
}

// Views with gaps between rows and heads, as the projections leave them, and no lse.
static void test_strides(void **state) {
    (void)state;
    enum { TOKENS = 77, HEADS = 3, NOPE = 12, ROPE = 4, WIDTH_V = 10, KV = NOPE + WIDTH_V };
    for (enum format format = FORMAT_F32; format <= FORMAT_BF16; format++) {
        struct problem p = problem_new(format, TOKENS, HEADS, NOPE, ROPE, WIDTH_V, 0);
        struct tensor kv = tensor_new_3d(format, TOKENS, HEADS, KV), latent = tensor_new_2d(format, TOKENS, 30 + ROPE);
        struct tensor wide = tensor_new_3d(format, TOKENS, HEADS, WIDTH_V + 5),
                      out = tensor_new_3d(format, TOKENS, HEADS, WIDTH_V);
        for (int64_t row = 0; row < TOKENS * HEADS; row++) {
            for (int64_t d = 0; d < KV; d++) {
                element_set(&kv, row * KV + d,
                            d < NOPE ? element_get(&p.k_nope, row * NOPE + d)
                                     : element_get(&p.v, row * WIDTH_V + d - NOPE));
            }
        }
        for (int64_t i = 0; i < TOKENS * ROPE; i++) {
            element_set(&latent, i / ROPE * (30 + ROPE) + 30 + i % ROPE, element_get(&p.k_rope, i));
        }
        struct tensor k_nope = tensor_slice(&kv, 2, 0, NOPE), v = tensor_slice(&kv, 2, NOPE, WIDTH_V);
        struct tensor rope = tensor_slice(&latent, 1, 30, ROPE), k_rope = tensor_split_columns(&rope, 1);
        struct tensor view = tensor_slice(&wide, 2, 2, WIDTH_V);
        struct attention_span span = {.count = TOKENS};
        struct op_fixture fixture;
        op_fixture_open(&fixture, ISA_BEST, 2);
        op_attention(&fixture.op, &out, NULL, &p.q, &p.k_nope, &p.k_rope, &p.v, &span, 1, p.scale);
        op_attention(&fixture.op, &view, NULL, &p.q, &k_nope, &k_rope, &v, &span, 1, p.scale);
        op_fixture_close(&fixture);
        for (int64_t i = 0; i < TOKENS * HEADS * WIDTH_V; i++) {
            assert_true(element_get(&out, i) == element_get(&wide, i / WIDTH_V * (WIDTH_V + 5) + 2 + i % WIDTH_V));
        }
        for (int64_t row = 0; row < TOKENS * HEADS; row++) {   // nothing beside the view was written
            assert_true(element_get(&wide, row * (WIDTH_V + 5)) == 0.0f &&
                        element_get(&wide, row * (WIDTH_V + 5) + 14) == 0.0f);
        }
        tensor_free(&kv);
        tensor_free(&latent);
        tensor_free(&wide);
        tensor_free(&out);
        problem_free(&p);
    }
}

struct absorbed {
    struct tensor x, w;   // [T, H, k], [H, k, n]
};

static void run_absorbed(struct op_context *op, struct tensor *outputs, void *argument) {
    struct absorbed *a = argument;
    struct tensor w = tensor_transpose(&a->w, 1, 2);
    op_linear_heads(op, &outputs[0], &a->x, &w);
}

// The products before attention in the absorbed form: weights transposed in each head, few rows and many.
static void test_absorbed_queries(void **state) {
    (void)state;
    static const struct {
        int64_t tokens, heads, k, n;
    } sizes[] = {{1, 3, 128, 512}, {2, 2, 34, 96},  {3, 1, 2, 32},   {7, 2, 33, 64},
                 {8, 5, 16, 160},  {33, 2, 48, 32}, {20, 2, 50, 288}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct absorbed a = {tensor_new_3d(FORMAT_BF16, sizes[i].tokens, sizes[i].heads, sizes[i].k),
                             tensor_new_3d(FORMAT_BF16, sizes[i].heads, sizes[i].k, sizes[i].n)};
        fill_edges(&a.x, 1.0f, 2 * i, 400);
        fill_edges(&a.w, 1.0f, 2 * i + 1, 4000);
        struct tensor y = tensor_new_3d(FORMAT_BF16, sizes[i].tokens, sizes[i].heads, sizes[i].n);
        assert_same_everywhere(run_absorbed, &y, 1, &a);
        tensor_free(&y);
        tensor_free(&a.x);
        tensor_free(&a.w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_definition), cmocka_unit_test(test_formula),
        cmocka_unit_test(test_edges),      cmocka_unit_test(test_chunks_and_pages),
        cmocka_unit_test(test_stretches),  cmocka_unit_test(test_shared_heads_and_mixed_spans),
        cmocka_unit_test(test_strides),    cmocka_unit_test(test_absorbed_queries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
