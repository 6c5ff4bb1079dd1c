// Logits of the main model and of MTP against transformers and torch (tests/golden/model/make_goldens.py), and what
// inference promises: a row's bits do not depend on batch, chunks, cache layout, threads or instruction set, and are
// the trainer's.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../support/model_fixture.h"
#include "base/memory.h"

static const char *const cases[] = {"v3_groups", "v3_one_group", "v3_no_q_lora",     "v2_lite",
                                    "v3_yarn",   "v3_ragged",    "v2_group_limited", "v3_mtp2"};
#define CASES (sizeof cases / sizeof *cases)

static const struct fixture_options f32 = {.compute = FORMAT_F32, .threads = 2, .isa = ISA_BEST};
static const struct fixture_options bf16 = {
    .compute = FORMAT_BF16, .weights = FORMAT_BF16, .threads = 2, .isa = ISA_BEST};
static const struct fixture_options fp8 = {
    .compute = FORMAT_BF16, .weights = FORMAT_E4M3_BLOCK, .threads = 2, .isa = ISA_BEST};

static const struct fixture_options fp8_f32 = {
    .compute = FORMAT_F32, .weights = FORMAT_E4M3_BLOCK, .threads = 2, .isa = ISA_BEST};

// ---- Sequences with caches ----------------------------------------------------------------------

enum cache_kind { CACHE_LATENT, CACHE_EXPANDED };

struct session {   // one sequence's cache of every layer and its place in it
    struct layer_cache *caches;
    const int32_t *pages;   // NULL: contiguous from row `first`
    int64_t first;
};

// Caches of `rows` rows, filled with NaN: what was not written must not be read.
static struct layer_cache *make_caches(struct fixture *f, enum cache_kind kind, int64_t rows) {
    const struct model_config *c = &f->model.config;
    int64_t layers = c->num_hidden_layers + c->num_nextn_predict_layers;
    int64_t wide = c->num_attention_heads * (c->qk_nope_head_dim + c->v_head_dim);
    struct layer_cache *caches = arena_allocate_zero(&f->arena, (size_t)layers, sizeof *caches);
    for (int64_t l = 0; l < layers; l++) {
        struct tensor *main = kind == CACHE_LATENT ? &caches[l].latent : &caches[l].keys_values;
        struct tensor *parts[2] = {main, &caches[l].rope_key};
        int64_t widths[2] = {kind == CACHE_LATENT ? c->kv_lora_rank : wide, c->qk_rope_head_dim};
        for (int p = 0; p < 2; p++) {
            void *data = arena_allocate(&f->arena, (size_t)(rows * widths[p]), 4);
            memset(data, 0xff, (size_t)(rows * widths[p]) * 4);
            *parts[p] = tensor_2d(f->model.compute, data, rows, widths[p]);
        }
    }
    return caches;
}

static int32_t row_of(const struct session *session, int64_t position) {
    return (int32_t)(session->pages
                         ? session->pages[position / ATTENTION_BLOCK] * ATTENTION_BLOCK + position % ATTENTION_BLOCK
                         : session->first + position);
}

static int32_t golden_id(const struct fixture *f, int64_t sequence, int64_t position) {
    return f->ids[sequence * (f->length + 1 + f->depths) + position];
}

struct piece {   // tokens begin..begin+count-1 of a sequence
    int64_t sequence, begin, count;
};

// One forward of several pieces; hidden rows go to `hidden` [sequences * length, d] (format of activations) where they
// belong. depth < 0: the main model; else that MTP module, from `from`.
static void run_pieces(struct fixture *f, struct tensor *hidden, int depth, const struct tensor *from,
                       const struct piece *pieces, int64_t piece_count, const struct session *sessions,
                       enum attention_form form) {
    struct arena_mark mark = arena_mark(&f->arena);
    int32_t ids[1024], positions[1024], cache_rows[1024], rows[1024];
    struct attention_span spans[64];
    int64_t tokens = 0;
    for (int64_t p = 0; p < piece_count; p++) {
        const struct session *session = &sessions[pieces[p].sequence];
        spans[p] = (struct attention_span){.query_row = tokens,
                                           .count = pieces[p].count,
                                           .position = pieces[p].begin,
                                           .key_row = session->first,
                                           .pages = session->pages};
        for (int64_t i = 0; i < pieces[p].count; i++, tokens++) {
            int64_t position = pieces[p].begin + i;
            ids[tokens] = golden_id(f, pieces[p].sequence, position + depth + 1);
            positions[tokens] = (int32_t)position;
            cache_rows[tokens] = row_of(session, position);
            rows[tokens] = (int32_t)(pieces[p].sequence * f->length + position);
        }
    }
    struct token_batch batch = {.tokens = tokens,
                                .ids = ids,
                                .positions = positions,
                                .spans = spans,
                                .span_count = piece_count,
                                .cache_row = cache_rows,
                                .form = form};
    int64_t width = f->model.config.hidden_size;
    enum format format = f->model.compute;
    struct layer_cache *caches = sessions[pieces[0].sequence].caches;   // one for all pieces
    struct tensor out = tensor_2d(format, arena_allocate(&f->arena, (size_t)(tokens * width), 4), tokens, width);
    if (depth < 0) {
        model_infer(&f->op, &out, &f->model, &batch, caches);
    } else {
        struct tensor in = tensor_2d(format, arena_allocate(&f->arena, (size_t)(tokens * width), 4), tokens, width);
        op_gather_rows(&f->op, &in, from, rows);
        model_mtp_infer(&f->op, &out, &f->model, depth, &in, &batch,
                        &caches[f->model.config.num_hidden_layers + depth]);
    }
    op_scatter_rows(&f->op, hidden, &out, rows);
    arena_release(&f->arena, mark);
}

static struct tensor hidden_make(struct fixture *f) {
    int64_t rows = f->sequences * f->length, width = f->model.config.hidden_size;
    return tensor_2d(f->model.compute, arena_allocate_zero(&f->arena, (size_t)(rows * width), 4), rows, width);
}

// All sequences, each in chunks of `chunk` tokens, one after the other, in caches of their own.
static struct tensor run_chunked(struct fixture *f, enum cache_kind kind, enum attention_form form, int64_t chunk) {
    struct tensor hidden = hidden_make(f);
    struct session sessions[16];
    for (int64_t s = 0; s < f->sequences; s++) {
        sessions[s] = (struct session){.caches = make_caches(f, kind, f->length + 3), .first = 3};
        for (int64_t at = 0; at < f->length; at += chunk) {
            struct piece piece = {s, at, f->length - at < chunk ? f->length - at : chunk};
            run_pieces(f, &hidden, -1, NULL, &piece, 1, sessions, form);
        }
    }
    return hidden;
}

static void check_same(const struct tensor *a, const struct tensor *b) {
    assert_int_equal(tensor_bytes(a), tensor_bytes(b));
    assert_memory_equal(a->data, b->data, (size_t)tensor_bytes(a));
}

// ---- Values -------------------------------------------------------------------------------------

static void test_logits_against_transformers(void **state) {
    (void)state;
    for (size_t i = 0; i < CASES; i++) {
        struct fixture f;
        fixture_open(&f, cases[i], &f32);
        struct tensor hidden = fixture_hidden(&f, FORMAT_F32), logits = fixture_logits(&f, &hidden);
        struct tensor expected = fixture_golden(&f, "logits");
        double difference = largest_difference(&logits, &expected);
        print_message("%s: logits within %.1e\n", cases[i], difference);
        assert_true(difference < 1e-4);
        fixture_close(&f);
    }
}

static void test_mtp_logits(void **state) {
    (void)state;
    static const char *const with_mtp[] = {"v3_one_group", "v3_mtp2"};
    for (size_t i = 0; i < 2; i++) {
        struct fixture f;
        fixture_open(&f, with_mtp[i], &f32);
        struct tensor hidden = fixture_hidden(&f, FORMAT_F32);
        for (int depth = 0; depth < f.depths; depth++) {
            struct tensor next = hidden_make(&f);
            struct session sessions[16];
            struct layer_cache *caches = make_caches(&f, CACHE_LATENT, f.sequences * f.length);
            struct piece pieces[16];
            for (int64_t s = 0; s < f.sequences; s++) {
                sessions[s] = (struct session){.caches = caches, .first = s * f.length};
                pieces[s] = (struct piece){s, 0, f.length};
            }
            run_pieces(&f, &next, depth, &hidden, pieces, f.sequences, sessions, ATTENTION_EXPANDED);
            struct tensor chunked = hidden_make(&f);
            for (int64_t at = 0; at < f.length; at += 4) {
                struct piece piece = {0, at, 4};
                run_pieces(&f, &chunked, depth, &hidden, &piece, 1, sessions, ATTENTION_EXPANDED);
            }
            assert_memory_equal(chunked.data, next.data, (size_t)(f.length * next.shape[1]) * sizeof(float));
            int64_t vocab = f.model.config.vocab_size, rows = f.sequences * f.length;
            struct tensor logits = tensor_2d(FORMAT_F32, arena_allocate(&f.arena, (size_t)(rows * vocab), 4), rows,
                                             vocab);
            model_mtp_logits(&f.op, &logits, &f.model, depth, &next);
            char key[32];
            snprintf(key, sizeof key, "mtp_logits.%d", depth + 1);
            struct tensor expected = fixture_golden(&f, key);
            assert_true(largest_difference(&logits, &expected) < 1e-4);
            hidden = next;
        }
        fixture_close(&f);
    }
}

static double hidden_distance(struct fixture *f, const struct tensor *a, const struct tensor *b) {
    struct tensor wide[2];
    const struct tensor *parts[2] = {a, b};
    for (int i = 0; i < 2; i++) {
        wide[i] = tensor_2d(FORMAT_F32, arena_allocate(&f->arena, (size_t)tensor_elements(a), 4), a->shape[0],
                            a->shape[1]);
        op_copy(&f->op, &wide[i], parts[i]);
    }
    return relative_difference(&wide[0], &wide[1]);
}

// The same function in another order of sums and, in BF16, with other roundings (of queries in latent space and, from
// FP8, of kv_b_proj).
static void test_absorbed_is_expanded(void **state) {
    (void)state;
    static const struct {
        const struct fixture_options *options;
        double bound;
    } tries[] = {{&f32, 1e-5}, {&bf16, 0.05}, {&fp8, 0.15}, {&fp8_f32, 1e-5}};
    for (size_t i = 0; i < CASES; i++) {
        for (int t = 0; t < 4; t++) {
            struct fixture f;
            fixture_open(&f, cases[i], tries[t].options);
            struct tensor expanded = run_chunked(&f, CACHE_LATENT, ATTENTION_EXPANDED, 5);
            struct tensor absorbed = run_chunked(&f, CACHE_LATENT, ATTENTION_ABSORBED, 5);
            double distance = hidden_distance(&f, &absorbed, &expanded);
            if (!(distance < tries[t].bound)) {
                fail_msg("%s: absorbed attention is off by %g", cases[i], distance);
            }
            fixture_close(&f);
        }
    }
}

// ---- The same bits ------------------------------------------------------------------------------

static const struct {
    const char *name;
    const struct fixture_options *options;
} variants[] = {{"v3_mtp2", &f32}, {"v3_ragged", &f32}, {"v3_ragged", &bf16}, {"v2_lite", &bf16}, {"v3_yarn", &fp8}};
#define VARIANTS (sizeof variants / sizeof *variants)

// Without a cache, with a cache of keys and values, and with latents expanded on the fly; in any chunks.
static void test_expanded_chunks(void **state) {
    (void)state;
    for (size_t v = 0; v < VARIANTS; v++) {
        struct fixture f;
        fixture_open(&f, variants[v].name, variants[v].options);
        struct tensor whole = fixture_hidden(&f, f.model.compute);
        static const int64_t chunks[] = {1, 5, 64, 128};
        for (int i = 0; i < 4; i++) {
            struct tensor expanded = run_chunked(&f, CACHE_EXPANDED, ATTENTION_EXPANDED, chunks[i]);
            struct tensor latent = run_chunked(&f, CACHE_LATENT, ATTENTION_EXPANDED, chunks[i]);
            check_same(&whole, &expanded);
            check_same(&whole, &latent);
        }
        fixture_close(&f);
    }
}

static void test_absorbed_chunks(void **state) {
    (void)state;
    for (size_t v = 0; v < VARIANTS; v++) {
        struct fixture f;
        fixture_open(&f, variants[v].name, variants[v].options);
        struct tensor whole = run_chunked(&f, CACHE_LATENT, ATTENTION_ABSORBED, f.length);
        static const int64_t chunks[] = {1, 7, 64};
        for (int i = 0; i < 3; i++) {
            struct tensor chunked = run_chunked(&f, CACHE_LATENT, ATTENTION_ABSORBED, chunks[i]);
            check_same(&whole, &chunked);
        }
        fixture_close(&f);
    }
}

// All sequences in one cache by pages in a mixed order, in common batches of uneven pieces, against each alone and
// contiguous.
static void test_batched_pages(void **state) {
    (void)state;
    static const struct {
        enum cache_kind kind;
        enum attention_form form;
    } ways[] = {
        {CACHE_LATENT, ATTENTION_ABSORBED}, {CACHE_LATENT, ATTENTION_EXPANDED}, {CACHE_EXPANDED, ATTENTION_EXPANDED}};
    for (size_t v = 0; v < VARIANTS; v++) {
        for (int w = 0; w < 3; w++) {
            struct fixture f;
            fixture_open(&f, variants[v].name, variants[v].options);
            struct tensor alone = run_chunked(&f, ways[w].kind, ways[w].form, f.length);
            struct tensor together = hidden_make(&f);
            struct session sessions[16];
            int32_t pages[16][2];
            int64_t done[16] = {0};
            struct layer_cache *caches = make_caches(&f, ways[w].kind, (2 * f.sequences + 1) * ATTENTION_BLOCK);
            for (int64_t s = 0; s < f.sequences; s++) {
                pages[s][0] = (int32_t)(2 * f.sequences - s);
                pages[s][1] = (int32_t)s;
                sessions[s] = (struct session){.caches = caches, .pages = pages[s]};
            }
            for (int64_t turn = 0;; turn++) {
                struct piece pieces[16];
                int64_t count = 0;
                for (int64_t s = f.sequences - 1; s >= 0; s--) {
                    int64_t want = 1 + (s * 5 + turn * 3) % 9, left = f.length - done[s];
                    want = want < left ? want : left;
                    if (want > 0) {
                        pieces[count++] = (struct piece){s, done[s], want};
                        done[s] += want;
                    }
                }
                if (count == 0) {
                    break;
                }
                run_pieces(&f, &together, -1, NULL, pieces, count, sessions, ways[w].form);
            }
            check_same(&alone, &together);
            fixture_close(&f);
        }
    }
}

static void test_threads_and_instruction_sets(void **state) {
    (void)state;
    static const int threads[] = {0, 1, 2, 3, 7};
    for (size_t v = 0; v < VARIANTS; v++) {
        struct fixture reference;
        struct fixture_options options = *variants[v].options;
        options.isa = ISA_SCALAR;
        fixture_open(&reference, variants[v].name, &options);
        struct tensor expanded = fixture_hidden(&reference, reference.model.compute);
        struct tensor expected_logits = fixture_logits(&reference, &expanded);
        struct tensor absorbed = run_chunked(&reference, CACHE_LATENT, ATTENTION_ABSORBED, 9);
        for (int t = 0; t < 5; t++) {
            struct fixture f;
            options.threads = threads[t];
            options.isa = ISA_BEST;
            fixture_open(&f, variants[v].name, &options);
            struct tensor hidden = fixture_hidden(&f, f.model.compute), logits = fixture_logits(&f, &hidden);
            check_same(&expected_logits, &logits);
            hidden = run_chunked(&f, CACHE_LATENT, ATTENTION_ABSORBED, 9);
            check_same(&absorbed, &hidden);
            fixture_close(&f);
        }
        fixture_close(&reference);
    }
}

// The loss that training reports is the sum over the logits that inference gives: the same log-probabilities, bit for
// bit.
static void test_training_is_inference(void **state) {
    (void)state;
    for (size_t v = 0; v < VARIANTS; v++) {
        struct fixture f;
        fixture_open(&f, variants[v].name, variants[v].options);
        struct tensor hidden = run_chunked(&f, CACHE_EXPANDED, ATTENTION_EXPANDED, 3),
                      logits = fixture_logits(&f, &hidden);
        int32_t targets[1024];
        float loss[1024];
        double sum = 0;
        for (int64_t i = 0; i < f.sequences * f.length; i++) {
            targets[i] = golden_id(&f, i / f.length, i % f.length + 1);
        }
        op_cross_entropy(&f.op, loss, NULL, &logits, targets, 1.0f);
        for (int64_t i = 0; i < f.sequences * f.length; i++) {
            sum += (double)loss[i];
        }
        for (int backward = 0; backward < 2; backward++) {
            struct micro_batch_result result;
            struct micro_batch micro = {.sequences = f.sequences, .length = f.length, .ids = f.ids};
            model_forward(&f.op, &result, f.slot, &f.model, backward ? &f.gradients : NULL, &micro, &f.weights, NULL);
            assert_memory_equal(&result.main_loss, &sum, sizeof sum);
        }
        fixture_close(&f);
    }
}

// hidden may be F32 whatever the activations are: the values are the same.
static void test_hidden_formats(void **state) {
    (void)state;
    struct fixture f;
    fixture_open(&f, "v3_ragged", &bf16);
    struct tensor narrow = fixture_hidden(&f, FORMAT_BF16), wide = fixture_hidden(&f, FORMAT_F32);
    struct tensor a = fixture_logits(&f, &narrow), b = fixture_logits(&f, &wide);
    check_same(&a, &b);
    fixture_close(&f);
}

static void test_no_allocation_after_warm_up(void **state) {
    (void)state;
    struct fixture f;
    fixture_open(&f, "v3_mtp2", &bf16);
    struct session session = {.caches = make_caches(&f, CACHE_LATENT, f.length)};
    struct tensor hidden = hidden_make(&f);
    for (int64_t at = 0; at < f.length; at++) {
        struct piece piece = {0, at, 1};
        memory_guard(at > 2);
        run_pieces(&f, &hidden, -1, NULL, &piece, 1, &session, ATTENTION_ABSORBED);
        memory_guard(false);
        arena_reset(&f.scratch);
    }
    fixture_close(&f);
}

// What holds on every instruction set holds within AMX, whose order of sums is another.
static void test_amx(void **state) {
    if (fixture_amx(true)) {
        test_expanded_chunks(state);
        test_absorbed_chunks(state);
        test_batched_pages(state);
        test_training_is_inference(state);
        fixture_amx(false);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_amx),
        cmocka_unit_test(test_logits_against_transformers),
        cmocka_unit_test(test_mtp_logits),
        cmocka_unit_test(test_absorbed_is_expanded),
        cmocka_unit_test(test_expanded_chunks),
        cmocka_unit_test(test_absorbed_chunks),
        cmocka_unit_test(test_batched_pages),
        cmocka_unit_test(test_threads_and_instruction_sets),
        cmocka_unit_test(test_training_is_inference),
        cmocka_unit_test(test_hidden_formats),
        cmocka_unit_test(test_no_allocation_after_warm_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
