// Router: selection against a naive one in double, ties, masks, NaN; gradients by finite differences; the balance loss.
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "support/op_fixture.h"
#include "support/test.h"

struct routing {
    struct tensor logits, dweight, score, expert;
    struct router_rule rule;
    float *bias, *dshare;
    int64_t tokens, sequence_length;
};

static const struct router_rule rules[] = {
    {.experts = 256,
     .top_k = 8,
     .groups = 8,
     .top_groups = 4,
     .score = ROUTER_SIGMOID,
     .method = ROUTER_GROUP_TOP2,
     .normalize = true,
     .scaling = 2.5f},
    {.experts = 160,
     .top_k = 6,
     .groups = 8,
     .top_groups = 3,
     .score = ROUTER_SOFTMAX,
     .method = ROUTER_GROUP_MAX,
     .scaling = 16.0f},
    {.experts = 64,
     .top_k = 6,
     .groups = 1,
     .top_groups = 1,
     .score = ROUTER_SOFTMAX,
     .method = ROUTER_GREEDY,
     .scaling = 1.0f},
    {.experts = 9,
     .top_k = 3,
     .groups = 3,
     .top_groups = 1,
     .score = ROUTER_SIGMOID,
     .method = ROUTER_GROUP_TOP2,
     .normalize = true,
     .scaling = 1.5f},
    {.experts = 8,
     .top_k = 8,
     .groups = 8,
     .top_groups = 8,
     .score = ROUTER_SIGMOID,
     .method = ROUTER_GROUP_TOP2,
     .normalize = true,
     .scaling = 1.0f},
    {.experts = 1,
     .top_k = 1,
     .groups = 1,
     .top_groups = 1,
     .score = ROUTER_SOFTMAX,
     .method = ROUTER_GREEDY,
     .scaling = 1.0f},
    {.experts = 37,
     .top_k = 5,
     .groups = 1,
     .top_groups = 1,
     .score = ROUTER_SIGMOID,
     .method = ROUTER_GROUP_TOP2,
     .normalize = true,
     .scaling = 2.0f},
};
enum { RULES = sizeof rules / sizeof *rules };

static struct routing routing_new(const struct router_rule *rule, int64_t tokens, bool biased, int edges) {
    struct routing r = {.rule = *rule, .tokens = tokens, .sequence_length = tokens};
    r.logits = tensor_new_2d(FORMAT_F32, tokens, rule->experts);
    r.dweight = tensor_new_2d(FORMAT_F32, tokens, rule->top_k);
    struct tensor bias = tensor_new_1d(FORMAT_F32, rule->experts);
    if (edges > 0) {
        fill_edges(&r.logits, 3.0f, 1, edges);
        fill_edges(&bias, 0.5f, 2, edges);
    } else {
        fill_uniform(&r.logits, 3.0f, 1);
        fill_uniform(&bias, 0.5f, 2);
    }
    fill_uniform(&r.dweight, 1.0f, 3);
    if (biased) {
        r.bias = bias.data;
    } else {
        tensor_free(&bias);
    }
    return r;
}

static void routing_free(struct routing *r) {
    tensor_free(&r->logits);
    tensor_free(&r->dweight);
    tensor_free(&r->score);
    tensor_free(&r->expert);
    memory_free(r->bias);
    memory_free(r->dshare);
}

// score, expert (i32), weight
static void outputs_new(struct tensor outputs[3], const struct routing *r) {
    outputs[0] = tensor_new_2d(FORMAT_F32, r->tokens, r->rule.experts);
    outputs[1] = tensor_new_2d(FORMAT_I32, r->tokens, r->rule.top_k);
    outputs[2] = tensor_new_2d(FORMAT_F32, r->tokens, r->rule.top_k);
}

static void run(struct op_context *op, struct tensor *outputs, void *argument) {
    struct routing *r = argument;
    op_router(op, outputs[0].data, outputs[1].data, outputs[2].data, &r->logits, r->bias, &r->rule);
}

static void run_backward(struct op_context *op, struct tensor *outputs, void *argument) {
    struct routing *r = argument;
    op_router_backward(op, &outputs[0], r->dweight.data, r->score.data, r->expert.data, &r->rule, r->dshare,
                       r->sequence_length);
}

static void naive_scores(double *score, const double *logits, const struct router_rule *rule) {
    double largest = -INFINITY, sum = 0;
    for (int64_t e = 0; e < rule->experts; e++) {
        largest = fmax(largest, logits[e]);
    }
    for (int64_t e = 0; e < rule->experts; e++) {
        score[e] = rule->score == ROUTER_SIGMOID ? 1 / (1 + exp(-logits[e])) : exp(logits[e] - largest);
        sum += score[e];
    }
    for (int64_t e = 0; e < rule->experts && rule->score == ROUTER_SOFTMAX; e++) {
        score[e] /= sum;
    }
}

// Is a ranked before b? The larger first, then the lower index.
static bool before(const double *value, int64_t a, int64_t b) {
    return value[a] > value[b] || (value[a] == value[b] && a < b);
}

static int64_t rank_of(const double *value, int64_t n, int64_t i) {
    int64_t rank = 0;
    for (int64_t j = 0; j < n; j++) {
        rank += before(value, j, i);
    }
    return rank;
}

// Steps 3-8 of the specification with ranks instead of repeated search; chosen[experts].
static void naive_choice(bool *chosen, const double *score, const float *bias, const struct router_rule *rule) {
    double choice[256], group[256];
    int64_t groups = rule->method == ROUTER_GREEDY ? 1 : rule->groups, width = rule->experts / groups;
    for (int64_t e = 0; e < rule->experts; e++) {
        choice[e] = (double)((float)score[e] + (bias != NULL ? bias[e] : 0.0f));
    }
    for (int64_t g = 0; g < groups; g++) {
        group[g] = 0;
        for (int64_t e = 0; e < width; e++) {
            int64_t rank = rank_of(choice + g * width, width, e);
            if (rank == 0 || (rank == 1 && rule->method == ROUTER_GROUP_TOP2)) {
                group[g] = (double)((float)group[g] + (float)choice[g * width + e]);
            }
        }
    }
    for (int64_t e = 0; e < rule->experts && rule->method != ROUTER_GREEDY; e++) {
        if (rank_of(group, groups, e / width) >= rule->top_groups) {
            choice[e] = -INFINITY;
        }
    }
    for (int64_t e = 0; e < rule->experts; e++) {
        chosen[e] = rank_of(choice, rule->experts, e) < rule->top_k;
    }
}

static void test_selection_and_weights(void **state) {
    (void)state;
    for (int k = 0; k < RULES; k++) {
        for (int biased = 0; biased < 2; biased++) {
            struct routing r = routing_new(&rules[k], 70, biased == 1, 0);
            struct tensor outputs[3];
            outputs_new(outputs, &r);
            assert_same_everywhere(run, outputs, 3, &r);
            for (int64_t t = 0; t < r.tokens; t++) {
                double logits[256], score[256], rounded[256], sum = 0;
                bool chosen[256];
                int64_t next = 0;
                for (int64_t e = 0; e < r.rule.experts; e++) {
                    logits[e] = (double)element_get(&r.logits, t * r.rule.experts + e);
                }
                naive_scores(score, logits, &r.rule);
                for (int64_t e = 0; e < r.rule.experts; e++) {
                    rounded[e] = (double)element_get(&outputs[0], t * r.rule.experts + e);
                    assert_true(fabs(rounded[e] - score[e]) < 1e-6 * score[e]);
                }
                naive_choice(chosen, rounded, r.bias, &r.rule);
                for (int64_t e = 0; e < r.rule.experts; e++) {
                    if (chosen[e]) {
                        assert_int_equal(((const int32_t *)outputs[1].data)[t * r.rule.top_k + next], e);
                        next++;
                        sum += score[e];
                    }
                }
                assert_int_equal(next, r.rule.top_k);
                for (int64_t i = 0; i < r.rule.top_k; i++) {
                    int32_t e = ((const int32_t *)outputs[1].data)[t * r.rule.top_k + i];
                    double expected = score[e] / (r.rule.normalize ? sum + 1e-20 : 1) * (double)r.rule.scaling;
                    assert_true(fabs((double)element_get(&outputs[2], t * r.rule.top_k + i) - expected) <
                                2e-6 * expected);
                }
            }
            for (int i = 0; i < 3; i++) {
                tensor_free(&outputs[i]);
            }
            routing_free(&r);
        }
    }
}

// All equal: the lowest ids. A strongly negative bias: an excluded group still does not come in.
static void test_ties_and_negative_choices(void **state) {
    (void)state;
    for (int k = 0; k < RULES; k++) {
        struct routing r = routing_new(&rules[k], 1, true, 0);
        memset(r.logits.data, 0, (size_t)tensor_bytes(&r.logits));
        for (int64_t e = 0; e < r.rule.experts; e++) {
            r.bias[e] = -100.0f;
        }
        struct tensor outputs[3];
        outputs_new(outputs, &r);
        assert_same_everywhere(run, outputs, 3, &r);
        for (int64_t i = 0; i < r.rule.top_k; i++) {
            assert_int_equal(((const int32_t *)outputs[1].data)[i], i);
        }
        for (int i = 0; i < 3; i++) {
            tensor_free(&outputs[i]);
        }
        routing_free(&r);
    }
    struct routing r = routing_new(&rules[3], 1, true, 0);   // 9 experts, 3 groups, keep 1, choose 3
    memset(r.logits.data, 0, (size_t)tensor_bytes(&r.logits));
    static const float bias[] = {-9, -1, -7, -3, -3, -3, -2, -5, -4};   // two largest: -8, -6, -6 (score 0.5 each)
    memcpy(r.bias, bias, sizeof bias);
    struct tensor outputs[3];
    outputs_new(outputs, &r);
    assert_same_everywhere(run, outputs, 3, &r);
    for (int32_t i = 0; i < 3; i++) {
        assert_int_equal(((const int32_t *)outputs[1].data)[i], 3 + i);
    }
    for (int i = 0; i < 3; i++) {
        tensor_free(&outputs[i]);
    }
    routing_free(&r);
}

static void test_edges(void **state) {
    (void)state;
    for (int k = 0; k < RULES; k++) {
        for (int rarity = 1; rarity <= 27; rarity *= 3) {
            struct routing r = routing_new(&rules[k], 90, true, rarity);
            struct tensor outputs[3], dlogits = tensor_new_2d(FORMAT_F32, r.tokens, r.rule.experts);
            int64_t groups = r.rule.method == ROUTER_GREEDY ? 1 : r.rule.groups, width = r.rule.experts / groups;
            outputs_new(outputs, &r);
            assert_same_everywhere(run, outputs, 3, &r);
            for (int64_t t = 0; t < r.tokens; t++) {
                const int32_t *expert = (const int32_t *)outputs[1].data + t * r.rule.top_k;
                int64_t used = 0;
                for (int64_t i = 0; i < r.rule.top_k; i++) {
                    assert_true(expert[i] >= 0 && expert[i] < r.rule.experts && (i == 0 || expert[i] > expert[i - 1]));
                    used += i == 0 || expert[i] / width != expert[i - 1] / width;
                }
                assert_true(r.rule.method == ROUTER_GREEDY || used <= r.rule.top_groups);
            }
            r.score = outputs[0];
            r.expert = outputs[1];
            assert_same_everywhere(run_backward, &dlogits, 1, &r);
            tensor_free(&outputs[2]);
            tensor_free(&dlogits);
            routing_free(&r);
        }
    }
}

// sum_k dweight_k weight_k + sum_e dshare_e s'_e for a fixed choice of experts.
static double loss(const struct routing *r, int64_t t, const double *logits) {
    double score[256], chosen = 0, all = 0, total = 0;
    const int32_t *expert = (const int32_t *)r->expert.data + t * r->rule.top_k;
    naive_scores(score, logits, &r->rule);
    for (int64_t i = 0; i < r->rule.top_k; i++) {
        chosen += score[expert[i]];
    }
    for (int64_t i = 0; i < r->rule.top_k; i++) {
        total += (double)element_get(&r->dweight, t * r->rule.top_k + i) * score[expert[i]] /
                 (r->rule.normalize ? chosen : 1) * (double)r->rule.scaling;
    }
    for (int64_t e = 0; e < r->rule.experts; e++) {
        all += score[e];
    }
    for (int64_t e = 0; e < r->rule.experts && r->dshare != NULL; e++) {
        total += (double)r->dshare[t / r->sequence_length * r->rule.experts + e] * score[e] /
                 (r->rule.score == ROUTER_SIGMOID ? all : 1);
    }
    return total;
}

static void test_gradient(void **state) {
    (void)state;
    for (int k = 0; k < RULES; k++) {
        for (int shared = 0; shared < 2; shared++) {
            struct routing r = routing_new(&rules[k], 6, true, 0);
            struct tensor outputs[3], dlogits = tensor_new_2d(FORMAT_F32, r.tokens, r.rule.experts);
            int64_t experts = r.rule.experts;
            outputs_new(outputs, &r);
            assert_same_everywhere(run, outputs, 3, &r);
            r.score = outputs[0];
            r.expert = outputs[1];
            r.sequence_length = 2;
            if (shared) {
                r.dshare = array_new(3 * experts, sizeof(float));
                for (int64_t i = 0; i < 3 * experts; i++) {
                    r.dshare[i] = rng_uniform(1, 2, (uint64_t)i);
                }
            }
            assert_same_everywhere(run_backward, &dlogits, 1, &r);
            double *expected = array_new(r.tokens * experts, sizeof *expected);
            for (int64_t i = 0; i < r.tokens * experts; i++) {
                double logits[256], step = 1e-5;
                for (int64_t e = 0; e < experts; e++) {
                    logits[e] = (double)element_get(&r.logits, i / experts * experts + e);
                }
                logits[i % experts] += step;
                expected[i] = loss(&r, i / experts, logits);
                logits[i % experts] -= 2 * step;
                expected[i] = (expected[i] - loss(&r, i / experts, logits)) / (2 * step);
            }
            if (experts > 1) {   // one expert's weight is constant
                assert_true(relative_error(&dlogits, expected) < 2e-6);
            }
            memory_free(expected);
            tensor_free(&outputs[2]);
            tensor_free(&dlogits);
            routing_free(&r);
        }
    }
}

struct balance {
    struct tensor score;
    struct router_rule rule;
    int64_t sequences, sequence_length;
};

static void run_balance(struct op_context *op, struct tensor *outputs, void *argument) {
    struct balance *b = argument;
    op_balance_loss(op, outputs[0].data, outputs[1].data, b->score.data, b->sequences, b->sequence_length, &b->rule);
}

static void test_balance_loss(void **state) {
    (void)state;
    for (int k = 0; k < RULES; k++) {
        struct balance b = {.rule = rules[k], .sequences = 3, .sequence_length = 41};
        int64_t experts = b.rule.experts, tokens = b.sequences * b.sequence_length;
        b.score = tensor_new_2d(FORMAT_F32, tokens, experts);
        for (int64_t i = 0; i < tokens * experts; i++) {   // coarse, so that there are ties
            element_set(&b.score, i, (float)(1 + rng_below(3, 4, (uint64_t)i, 20)) / 32.0f);
        }
        struct tensor outputs[] = {tensor_new_1d(FORMAT_F32, b.sequences),
                                   tensor_new_2d(FORMAT_F32, b.sequences, experts)};
        assert_same_everywhere(run_balance, outputs, 2, &b);
        for (int64_t s = 0; s < b.sequences; s++) {
            double f[256] = {0}, share[256] = {0}, total = 0;
            for (int64_t t = s * b.sequence_length; t < (s + 1) * b.sequence_length; t++) {
                double score[256], sum = 0;
                for (int64_t e = 0; e < experts; e++) {
                    score[e] = (double)element_get(&b.score, t * experts + e);
                    sum += score[e];
                }
                for (int64_t e = 0; e < experts; e++) {
                    f[e] += rank_of(score, experts, e) < b.rule.top_k;
                    share[e] += score[e] / (b.rule.score == ROUTER_SIGMOID ? sum : 1) / (double)b.sequence_length;
                }
            }
            for (int64_t e = 0; e < experts; e++) {
                f[e] *= (double)experts / (double)(b.rule.top_k * b.sequence_length);
                total += f[e] * share[e];
                assert_true(fabs((double)element_get(&outputs[1], s * experts + e) - f[e]) < 1e-6 * (f[e] + 1));
            }
            assert_true(fabs((double)element_get(&outputs[0], s) - total) < 2e-6 * total);
        }
        fill_edges(&b.score, 1.0f, 8, 3);
        assert_same_everywhere(run_balance, outputs, 2, &b);
        tensor_free(&b.score);
        tensor_free(&outputs[0]);
        tensor_free(&outputs[1]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_selection_and_weights),
        cmocka_unit_test(test_ties_and_negative_choices),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_gradient),
        cmocka_unit_test(test_balance_loss),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
