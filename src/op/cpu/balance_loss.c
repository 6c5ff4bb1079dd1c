// Sequence-wise balance loss (spec 4.4, eq. 17-20) of score [sequences * T, E]:
//
//   f_e = E / (K * T) * (tokens whose plain top-K holds e)      P_e = (1/T) * sum over t of s'_e,t      loss = sum over
//   e of f_e * P_e s' = s / sum(s) for sigmoid scores, s itself for softmax ones
//
// The top-K is by score alone (no bias, no groups; ties to the lowest index, NaN as -inf). P sums tokens ascending, the
// loss sums experts by lanes.
#include <math.h>
#include <string.h>

#include "base/arena.h"
#include "op/cpu/cpu_ops.h"
#include "op/cpu/kernels.h"

#define TOKENS_PER_TASK 32
#define EXPERTS_PER_TASK 32

struct balance_job {
    const struct router_rule *rule;
    const float *score;
    float *divisor;     // [tokens] sum of a token's scores
    uint8_t *top;       // [tokens, E] 1 where the expert is in the token's top-K
    float *f, *share;   // [sequences, E]
    struct row_split split;
    int64_t sequence_length, blocks;   // blocks of experts per sequence
};

static void balance_token_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct balance_job *job = argument;
    int64_t experts = job->rule->experts;
    for (int64_t t = row_split_begin(&job->split, task); t < row_split_end(&job->split, task); t++) {
        const float *score = job->score + t * experts;
        uint8_t *top = job->top + t * experts;
        float lane[SUM_LANES] = {0};
        for (int64_t e = 0; e < experts; e++) {
            lane[e % SUM_LANES] += score[e];
        }
        job->divisor[t] = job->rule->score == ROUTER_SIGMOID ? lane_tree(lane) : 1.0f;
        memset(top, 0, (size_t)experts);
        for (int64_t k = 0; k < job->rule->top_k; k++) {
            int64_t best = -1;
            float best_value = -INFINITY;
            for (int64_t e = 0; e < experts; e++) {
                float value = score[e] == score[e] ? score[e] : -INFINITY;
                if (!top[e] && (best < 0 || value > best_value)) {
                    best = e;
                    best_value = value;
                }
            }
            top[best] = 1;
        }
    }
}

static void balance_expert_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct balance_job *job = argument;
    int64_t experts = job->rule->experts, tokens = job->sequence_length;
    int64_t sequence = task / job->blocks, begin = task % job->blocks * EXPERTS_PER_TASK;
    int64_t n = experts - begin < EXPERTS_PER_TASK ? experts - begin : EXPERTS_PER_TASK;
    int32_t count[EXPERTS_PER_TASK] = {0};
    float sum[EXPERTS_PER_TASK] = {0};
    for (int64_t t = sequence * tokens; t < (sequence + 1) * tokens; t++) {
        for (int64_t e = 0; e < n; e++) {
            count[e] += job->top[t * experts + begin + e];
            sum[e] += job->score[t * experts + begin + e] / job->divisor[t];
        }
    }
    float factor = (float)experts / ((float)job->rule->top_k * (float)tokens);
    for (int64_t e = 0; e < n; e++) {
        job->f[sequence * experts + begin + e] = factor * (float)count[e];
        job->share[sequence * experts + begin + e] = sum[e] / (float)tokens;
    }
}

void cpu_balance_loss(struct op_context *op, float *loss, float *f, const float *score, int64_t sequences,
                      int64_t sequence_length, const struct router_rule *rule) {
    int64_t experts = rule->experts, tokens = sequences * sequence_length;
    struct arena_mark mark = arena_mark(op->scratch);
    struct balance_job job = {.rule = rule, .score = score, .f = f, .sequence_length = sequence_length};
    job.divisor = arena_allocate(op->scratch, (size_t)tokens, sizeof(float));
    job.top = arena_allocate(op->scratch, (size_t)(tokens * experts), 1);
    job.share = arena_allocate(op->scratch, (size_t)(sequences * experts), sizeof(float));
    job.split = (struct row_split){
        .rows = tokens, .chunk = TOKENS_PER_TASK, .tasks = (tokens + TOKENS_PER_TASK - 1) / TOKENS_PER_TASK};
    pool_run(op->pool, job.split.tasks, balance_token_task, &job);
    job.blocks = (experts + EXPERTS_PER_TASK - 1) / EXPERTS_PER_TASK;
    pool_run(op->pool, sequences * job.blocks, balance_expert_task, &job);
    for (int64_t s = 0; s < sequences; s++) {
        float lane[SUM_LANES] = {0};
        for (int64_t e = 0; e < experts; e++) {
            lane[e % SUM_LANES] = fmaf(f[s * experts + e], job.share[s * experts + e], lane[e % SUM_LANES]);
        }
        loss[s] = lane_tree(lane);
    }
    arena_release(op->scratch, mark);
}
