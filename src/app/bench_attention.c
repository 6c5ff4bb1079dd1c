// Causal attention over one sequence, forward and backward, keys and values lying as kv_b_proj writes them. Operations
// counted: two products forward (scores, values), twice that backward; the recomputed scores do not count.
#include <stdio.h>

#include "app/bench.h"
#include "tensor/formats.h"

#define DEFAULT_LENGTH 2048

struct attention_set {
    struct tensor q, kv, k_rope, out, dq, dkv, dk_rope, dout;
    float *lse;
};

struct attention_case {
    enum format format;
    int64_t heads, nope, rope, value, length;
    float scale;
    struct attention_span span;
    struct attention_set *sets;
    int64_t set_count;
};

// Keys and values inside kv [length, heads, nope + value].
static void split(struct tensor *k_nope, struct tensor *v, const struct tensor *kv, const struct attention_case *c) {
    *k_nope = tensor_slice(kv, 2, 0, c->nope);
    *v = tensor_slice(kv, 2, c->nope, c->value);
}

static void run_forward(void *argument, struct op_context *op, int64_t round) {
    struct attention_case *c = argument;
    struct attention_set *set = &c->sets[round % c->set_count];
    struct tensor k_nope, v;
    split(&k_nope, &v, &set->kv, c);
    op_attention(op, &set->out, set->lse, &set->q, &k_nope, &set->k_rope, &v, &c->span, 1, c->scale);
}

static void run_backward(void *argument, struct op_context *op, int64_t round) {
    struct attention_case *c = argument;
    struct attention_set *set = &c->sets[round % c->set_count];
    struct tensor k_nope, v, dk_nope, dv;
    split(&k_nope, &v, &set->kv, c);
    split(&dk_nope, &dv, &set->dkv, c);
    op_attention_backward(op, &set->dq, &dk_nope, &set->dk_rope, &dv, &set->dout, &set->out, set->lse, &set->q, &k_nope,
                          &set->k_rope, &v, &c->span, 1, c->scale);
}

static int make_sets(struct bench *bench, struct attention_case *c, struct error *error) {
    int64_t length = c->length, heads = c->heads;
    int64_t bytes = 2 * (bench_tensor_bytes(c->format, length, heads * (c->nope + c->rope)) +
                         bench_tensor_bytes(c->format, length, heads * (c->nope + c->value)) +
                         bench_tensor_bytes(c->format, length, c->rope) +
                         bench_tensor_bytes(c->format, length, heads * c->value)) +
                    bench_tensor_bytes(FORMAT_F32, length, heads);
    int code = bench_sets(bench, &c->set_count, bytes, error);
    if (code == 0) {
        code = arena_reserve(&bench->arena, (size_t)c->set_count * sizeof *c->sets, error);
    }
    if (code != 0) {
        return code;
    }
    c->sets = arena_allocate(&bench->arena, (size_t)c->set_count, sizeof *c->sets);
    for (int64_t i = 0; i < c->set_count; i++) {
        struct attention_set *set = &c->sets[i];
        set->q = bench_tensor(bench, c->format, 3, (int64_t[]){length, heads, c->nope + c->rope});
        set->dq = bench_tensor(bench, c->format, 3, (int64_t[]){length, heads, c->nope + c->rope});
        set->kv = bench_tensor(bench, c->format, 3, (int64_t[]){length, heads, c->nope + c->value});
        set->dkv = bench_tensor(bench, c->format, 3, (int64_t[]){length, heads, c->nope + c->value});
        set->k_rope = bench_tensor(bench, c->format, 3, (int64_t[]){length, 1, c->rope});
        set->dk_rope = bench_tensor(bench, c->format, 3, (int64_t[]){length, 1, c->rope});
        set->out = bench_tensor(bench, c->format, 3, (int64_t[]){length, heads, c->value});
        set->dout = bench_tensor(bench, c->format, 3, (int64_t[]){length, heads, c->value});
        set->lse = bench_matrix(bench, FORMAT_F32, length, heads).data;
    }
    return 0;
}

static int attention(struct bench *bench, struct attention_case c, struct error *error) {
    c.length = bench->options.length > 0 ? bench->options.length : DEFAULT_LENGTH;
    c.span = (struct attention_span){.count = c.length};
    c.scale = 1.0f / __builtin_sqrtf((float)(c.nope + c.rope));
    int code = make_sets(bench, &c, error);
    if (code != 0) {
        return code;
    }
    double pairs = (double)c.length * (double)(c.length + 1) / 2.0;
    double work = 2.0 * pairs * (double)(c.heads * (c.nope + c.rope + c.value)) / 1e9;
    struct bench_case measured = {.unit = "GFLOP/s",
                                  .amount = work,
                                  .work = work,
                                  .limit = c.format == FORMAT_F32 ? LIMIT_F32 : LIMIT_VECTORS,
                                  .team = TEAM_ALL,
                                  .run = run_forward,
                                  .argument = &c};
    const char *format = format_info(c.format)->name;
    snprintf(measured.name, sizeof measured.name, "attention.forward.%s.%dx%d", format, (int)(c.nope + c.rope),
             (int)c.value);
    bench_measure(bench, &measured);
    for (int64_t i = 0; i < c.set_count; i++) {
        run_forward(&c, &bench->op[TEAM_ALL], i);   // out and lse that the gradient can be taken of
    }
    snprintf(measured.name, sizeof measured.name, "attention.backward.%s.%dx%d", format, (int)(c.nope + c.rope),
             (int)c.value);
    measured.amount = measured.work = 2.0 * work;
    measured.run = run_backward;
    bench_measure(bench, &measured);
    return 0;
}

int bench_attention(struct bench *bench, struct error *error) {
    static const enum format formats[] = {FORMAT_BF16, FORMAT_F32};
    bench_print_heading(bench, "causal attention, key x value width");
    int code = 0;
    for (int f = 0; f < 2 && code == 0; f++) {
        struct attention_case large = {.format = formats[f], .heads = 8, .nope = 128, .rope = 64, .value = 128};
        struct attention_case small = {.format = formats[f], .heads = 8, .nope = 64, .rope = 32, .value = 64};
        code = attention(bench, large, error);
        code = code == 0 ? attention(bench, small, error) : code;
    }
    return code;
}
