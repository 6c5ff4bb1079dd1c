// A block cut into attention, dispatch, experts and combine: two micro-batches whose parts run in turn give the bits of
// one after the other, forward and backward.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../support/model_fixture.h"
#include "base/rng.h"
#include "model/block.h"

#define TOKENS 8

static struct tensor random_matrix(struct arena *arena, int64_t rows, int64_t columns, uint64_t seed) {
    float *data = arena_allocate(arena, (size_t)(rows * columns), sizeof *data);
    for (int64_t i = 0; i < rows * columns; i++) {
        data[i] = rng_normal(13, seed, (uint64_t)i);
    }
    return tensor_2d(FORMAT_F32, data, rows, columns);
}

struct lane {   // one micro-batch on its way through the block
    struct pass pass;
    struct tensor h, dh;
    struct block_saved saved;
    struct block_kept kept;
    struct block_transit forward, backward;
};

struct bench {
    struct fixture f;
    const struct block_params *params;
    struct block_params *dparams;
    int32_t positions[TOKENS];
    struct attention_span span;
    struct token_batch batch;
    double balance;
    struct lane lanes[2];
};

static void bench_open(struct bench *bench, int64_t layer, enum format compute, const struct recompute *recompute) {
    *bench = (struct bench){0};
    struct fixture_options options = {.compute = compute, .weights = compute, .threads = 2, .isa = ISA_BEST};
    fixture_open(&bench->f, "v3_groups", &options);
    bench->params = &bench->f.model.params.layers[layer];
    bench->dparams = &bench->f.gradients.layers[layer];
    for (int32_t i = 0; i < TOKENS; i++) {
        bench->positions[i] = i;
    }
    bench->span = (struct attention_span){.count = TOKENS};
    bench->batch = (struct token_batch){.tokens = TOKENS,
                                        .positions = bench->positions,
                                        .spans = &bench->span,
                                        .span_count = 1,
                                        .sequence_length = TOKENS};
    for (int i = 0; i < 2; i++) {
        struct lane *lane = &bench->lanes[i];
        lane->pass = (struct pass){
            .op = &bench->f.op,
            .config = &bench->f.model.config,
            .batch = &bench->batch,
            .rope_table = &bench->f.model.rope_table,
            .recompute = recompute,
            .dispatch = &dispatch_local,
            .expert_map = &bench->f.model.expert_map,
            .keep = &bench->f.arena,
            .compute = compute,
            .training = true,
            .balance_scale = 0.5f,
            .balance_loss = &bench->balance,
        };
        lane->h = random_matrix(&bench->f.arena, TOKENS, bench->f.model.config.hidden_size, (uint64_t)i);
        lane->dh = random_matrix(&bench->f.arena, TOKENS, bench->f.model.config.hidden_size, (uint64_t)(i + 2));
    }
}

static void in_order(struct bench *b) {
    for (int i = 0; i < 2; i++) {
        struct lane *lane = &b->lanes[i];
        block_forward(&lane->pass, &lane->h, b->params, NULL, &lane->saved);
    }
    for (int i = 0; i < 2; i++) {
        struct lane *lane = &b->lanes[i];
        block_backward_input(&lane->pass, &lane->dh, &lane->kept, b->dparams, b->params, &lane->saved);
        block_backward_weight(&b->f.op, b->dparams, &lane->kept, OP_ADD);
    }
}

// Each part of lane 0 stands beside another part of lane 1. B of both comes before any W; norm gradients see lane 0
// first in both halves, as in order.
static void in_turn(struct bench *b) {
    struct lane *x = &b->lanes[0], *y = &b->lanes[1];
    block_attention_forward(&x->pass, &x->h, b->params, NULL, &x->saved);
    block_dispatch_forward(&x->pass, &x->forward, &x->h, b->params, &x->saved);
    block_attention_forward(&y->pass, &y->h, b->params, NULL, &y->saved);
    block_experts_forward(&x->pass, &x->forward, b->params, &x->saved);
    block_dispatch_forward(&y->pass, &y->forward, &y->h, b->params, &y->saved);
    block_combine_forward(&x->pass, &x->h, &x->forward, b->params, &x->saved);
    block_experts_forward(&y->pass, &y->forward, b->params, &y->saved);
    block_combine_forward(&y->pass, &y->h, &y->forward, b->params, &y->saved);

    block_combine_backward(&x->pass, &x->backward, &x->kept, &x->dh, b->params, &x->saved);
    block_combine_backward(&y->pass, &y->backward, &y->kept, &y->dh, b->params, &y->saved);
    block_experts_backward(&x->pass, &x->backward, &x->kept, b->params, &x->saved);
    block_dispatch_backward(&x->pass, &x->dh, &x->backward, &x->kept, b->dparams, b->params, &x->saved);
    block_experts_backward(&y->pass, &y->backward, &y->kept, b->params, &y->saved);
    block_attention_backward(&x->pass, &x->dh, &x->kept, b->dparams, b->params, &x->saved);
    block_dispatch_backward(&y->pass, &y->dh, &y->backward, &y->kept, b->dparams, b->params, &y->saved);
    block_attention_backward(&y->pass, &y->dh, &y->kept, b->dparams, b->params, &y->saved);
    block_backward_weight(&b->f.op, b->dparams, &x->kept, OP_ADD);
    block_backward_weight(&b->f.op, b->dparams, &y->kept, OP_ADD);
}

static void test_cuts(void **state) {
    (void)state;
    static const enum format formats[] = {FORMAT_F32, FORMAT_BF16};
    for (int64_t layer = 0; layer < 2; layer++) {   // layer 0 is dense, layer 1 MoE
        for (int i = 0; i < 4; i++) {
            struct recompute recompute = {i & 2, i & 2, i & 2};
            struct bench a, b;
            int64_t count;
            bench_open(&a, layer, formats[i & 1], &recompute);
            bench_open(&b, layer, formats[i & 1], &recompute);
            assert_int_equal(a.params->is_moe, layer == 1);
            in_order(&a);
            in_turn(&b);
            for (int l = 0; l < 2; l++) {
                size_t bytes = (size_t)tensor_bytes(&a.lanes[l].h);
                assert_memory_equal(a.lanes[l].h.data, b.lanes[l].h.data, bytes);
                assert_memory_equal(a.lanes[l].dh.data, b.lanes[l].dh.data, bytes);
            }
            const float *x = fixture_gradients_copy(&a.f, &count), *y = fixture_gradients_copy(&b.f, &count);
            assert_memory_equal(x, y, (size_t)count * sizeof(float));
            fixture_close(&a.f);
            fixture_close(&b.f);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cuts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
