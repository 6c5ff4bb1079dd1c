// The router of DeepSeekMoE (spec 4.2), its gradient, and the sequence-wise balance loss (spec 4.4). One token at a
// time; a token is scored, its groups and experts are chosen, and its weights are computed by one task.
//
// Order of sums: softmax denominators and sums over all experts by lanes (row_kernels.h); sums over a token's chosen
// experts ascending by expert id; sums over tokens ascending. A NaN counts as -inf when experts are chosen, so it never
// picks anything out of range, and an expert of a group that was not kept is never chosen.
#include <math.h>
#include <string.h>

#include "base/arena.h"
#include "base/math.h"
#include "op/cpu/cpu_ops.h"
#include "op/cpu/kernels.h"

#define TOKENS_PER_TASK 32
#define NORMALIZE_EPSILON 1e-20f   // norm_topk_prob divides by sum + this

static void sigmoid_scalar(float *y, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        y[i] = math_sigmoid(x[i]);
    }
}

void kernels_scalar_router(struct cpu_kernels *kernels) {
    kernels->row.sigmoid = sigmoid_scalar;
}

// Lanes of lane + a[i]*b[i] (fused), or of lane + a[i] when b is NULL.
static float lane_sum(const float *a, const float *b, int64_t n) {
    float lane[SUM_LANES] = {0};
    for (int64_t i = 0; i < n; i++) {
        lane[i % SUM_LANES] = fmaf(a[i], b != NULL ? b[i] : 1.0f, lane[i % SUM_LANES]);
    }
    return lane_tree(lane);
}

// Per worker: room for one token.
struct router_area {
    float *choice;     // [E] score + bias, NaN as -inf
    float *group;      // [groups]
    bool *kept;        // [groups]
    bool *taken;       // [E]
    float *gradient;   // [E]
};

struct router_job {
    const struct row_kernels *kernels;
    const struct router_rule *rule;
    struct row_split split;
    struct router_area *area;   // per worker
    const struct tensor *logits, *dlogits;
    const float *bias, *score_in, *dweight, *dshare;
    const int32_t *expert_in;
    float *score, *weight;
    int32_t *expert;
    int64_t sequence_length;
};

static struct router_area *router_areas(struct op_context *op, const struct router_rule *rule) {
    int workers = pool_threads(op->pool);
    struct router_area *area = arena_allocate(op->scratch, (size_t)workers, sizeof *area);
    size_t experts = (size_t)rule->experts, groups = (size_t)rule->groups;
    for (int i = 0; i < workers; i++) {
        area[i].choice = arena_allocate(op->scratch, experts, sizeof(float));
        area[i].gradient = arena_allocate(op->scratch, experts, sizeof(float));
        area[i].group = arena_allocate(op->scratch, groups, sizeof(float));
        area[i].kept = arena_allocate(op->scratch, groups, sizeof(bool));
        area[i].taken = arena_allocate(op->scratch, experts, sizeof(bool));
    }
    return area;
}

static struct row_split token_split(int64_t tokens) {
    return (struct row_split){
        .rows = tokens, .chunk = TOKENS_PER_TASK, .tasks = (tokens + TOKENS_PER_TASK - 1) / TOKENS_PER_TASK};
}

static float without_nan(float value) {
    return value == value ? value : -INFINITY;
}

// Marks the `keep` largest of value[n], ties to the lowest index. value must be free of NaN.
static void mark_largest(bool *mark, const float *value, int64_t n, int64_t keep) {
    memset(mark, 0, (size_t)n * sizeof *mark);
    for (int64_t k = 0; k < keep; k++) {
        int64_t best = -1;
        for (int64_t i = 0; i < n; i++) {
            if (!mark[i] && (best < 0 || value[i] > value[best])) {
                best = i;
            }
        }
        mark[best] = true;
    }
}

// The value by which a group is ranked: its largest choice, or the sum of its two largest.
static float group_value(const float *choice, int64_t n, enum router_method method) {
    float first = -INFINITY, second = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        if (choice[i] > first) {
            second = first;
            first = choice[i];
        } else if (choice[i] > second) {
            second = choice[i];
        }
    }
    return method == ROUTER_GROUP_MAX || n == 1 ? first : without_nan(first + second);
}

// The top_k experts of one token, ascending.
static void router_choose(int32_t *expert, struct router_area *area, const float *score, const float *bias,
                          const struct router_rule *rule) {
    int64_t experts = rule->experts, groups = rule->method == ROUTER_GREEDY ? 1 : rule->groups,
            width = experts / groups;
    int64_t keep = rule->method == ROUTER_GREEDY ? 1 : rule->top_groups;
    for (int64_t e = 0; e < experts; e++) {
        area->choice[e] = without_nan(bias != NULL ? score[e] + bias[e] : score[e]);
    }
    if (keep < groups) {
        for (int64_t g = 0; g < groups; g++) {
            area->group[g] = group_value(area->choice + g * width, width, rule->method);
        }
        mark_largest(area->kept, area->group, groups, keep);
    } else {
        memset(area->kept, true, (size_t)groups * sizeof *area->kept);
    }
    memset(area->taken, 0, (size_t)experts * sizeof *area->taken);
    for (int64_t k = 0; k < rule->top_k; k++) {
        int64_t best = -1;
        for (int64_t g = 0; g < groups; g++) {
            for (int64_t e = g * width; area->kept[g] && e < (g + 1) * width; e++) {
                if (!area->taken[e] && (best < 0 || area->choice[e] > area->choice[best])) {
                    best = e;
                }
            }
        }
        area->taken[best] = true;
    }
    for (int64_t e = 0, k = 0; e < experts; e++) {
        if (area->taken[e]) {
            expert[k++] = (int32_t)e;
        }
    }
}

static void router_score(const struct router_job *job, float *score, const float *logits) {
    int64_t experts = job->rule->experts;
    if (job->rule->score == ROUTER_SIGMOID) {
        job->kernels->sigmoid(score, logits, experts);
        return;
    }
    float sum = job->kernels->exp_sum(score, logits, job->kernels->maximum(logits, experts), experts);
    for (int64_t e = 0; e < experts; e++) {
        score[e] = score[e] / sum;
    }
}

// Sum of the chosen scores plus epsilon, or 1 when weights are not normalised.
static float router_divisor(const float *score, const int32_t *expert, const struct router_rule *rule) {
    float sum = 0.0f;
    for (int64_t k = 0; k < rule->top_k; k++) {
        sum += score[expert[k]];
    }
    return rule->normalize ? sum + NORMALIZE_EPSILON : 1.0f;
}

static void router_task(void *argument, int64_t task, int worker) {
    const struct router_job *job = argument;
    const struct router_rule *rule = job->rule;
    for (int64_t t = row_split_begin(&job->split, task); t < row_split_end(&job->split, task); t++) {
        float *score = job->score + t * rule->experts, *weight = job->weight + t * rule->top_k;
        int32_t *expert = job->expert + t * rule->top_k;
        router_score(job, score, float_row(job->logits, t));
        router_choose(expert, &job->area[worker], score, job->bias, rule);
        float divisor = router_divisor(score, expert, rule);
        for (int64_t k = 0; k < rule->top_k; k++) {
            weight[k] = score[expert[k]] / divisor * rule->scaling;
        }
    }
}

void cpu_router(struct op_context *op, float *score, int32_t *expert, float *weight, const struct tensor *logits,
                const float *bias, const struct router_rule *rule) {
    struct arena_mark mark = arena_mark(op->scratch);
    struct router_job job = {.kernels = &op->kernels->row,
                             .rule = rule,
                             .split = token_split(logits->shape[0]),
                             .area = router_areas(op, rule),
                             .logits = logits,
                             .bias = bias,
                             .score = score,
                             .weight = weight,
                             .expert = expert};
    pool_run(op->pool, job.split.tasks, router_task, &job);
    arena_release(op->scratch, mark);
}

// weight_k = scaling * s_k / D with D = sum s + epsilon:  ds_k = scaling * (dweight_k - sum_j dweight_j s_j / D) / D.
// s'_e = s_e / sum(s):  ds_e += (dshare_e - sum_j dshare_j s'_j) / sum(s); softmax scores are s' already: ds_e +=
// dshare_e.
static void router_score_gradient(float *ds, const struct router_job *job, int64_t t) {
    const struct router_rule *rule = job->rule;
    int64_t experts = rule->experts;
    const float *score = job->score_in + t * experts, *dweight = job->dweight + t * rule->top_k;
    const int32_t *expert = job->expert_in + t * rule->top_k;
    if (job->dshare == NULL) {
        memset(ds, 0, (size_t)experts * sizeof *ds);
    } else {
        const float *dshare = job->dshare + t / job->sequence_length * experts;
        float sum = 1.0f, mean = 0.0f;
        if (rule->score == ROUTER_SIGMOID) {
            sum = lane_sum(score, NULL, experts);
            mean = lane_sum(dshare, score, experts) / sum;
        }
        for (int64_t e = 0; e < experts; e++) {
            ds[e] = (dshare[e] - mean) / sum;
        }
    }
    float divisor = router_divisor(score, expert, rule), dot = 0.0f;
    for (int64_t k = 0; rule->normalize && k < rule->top_k; k++) {
        dot = fmaf(dweight[k], score[expert[k]], dot);
    }
    for (int64_t k = 0; k < rule->top_k; k++) {
        ds[expert[k]] += rule->scaling * (dweight[k] - dot / divisor) / divisor;
    }
}

static void router_backward_task(void *argument, int64_t task, int worker) {
    const struct router_job *job = argument;
    int64_t experts = job->rule->experts;
    float *ds = job->area[worker].gradient;
    for (int64_t t = row_split_begin(&job->split, task); t < row_split_end(&job->split, task); t++) {
        const float *score = job->score_in + t * experts;
        float *dlogits = float_row(job->dlogits, t);
        router_score_gradient(ds, job, t);
        float mean = job->rule->score == ROUTER_SOFTMAX ? lane_sum(ds, score, experts) : 0.0f;
        for (int64_t e = 0; e < experts; e++) {
            dlogits[e] = job->rule->score == ROUTER_SOFTMAX ? score[e] * (ds[e] - mean)
                                                            : ds[e] * (score[e] * (1.0f - score[e]));
        }
    }
}

void cpu_router_backward(struct op_context *op, struct tensor *dlogits, const float *dweight, const float *score,
                         const int32_t *expert, const struct router_rule *rule, const float *dshare,
                         int64_t sequence_length) {
    struct arena_mark mark = arena_mark(op->scratch);
    struct router_job job = {.kernels = &op->kernels->row,
                             .rule = rule,
                             .split = token_split(dlogits->shape[0]),
                             .area = router_areas(op, rule),
                             .dlogits = dlogits,
                             .dweight = dweight,
                             .score_in = score,
                             .expert_in = expert,
                             .dshare = dshare,
                             .sequence_length = sequence_length};
    pool_run(op->pool, job.split.tasks, router_backward_task, &job);
    arena_release(op->scratch, mark);
}
