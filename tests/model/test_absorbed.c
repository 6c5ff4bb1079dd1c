// absorbed_prepare: W_UK and W_UV in panels give the bits that they give as views of kv_b_proj, for any number of
// tokens, BF16 and E4M3, on every instruction set that takes panels.
#include "model/absorbed.h"

#include <string.h>

#include "base/memory.h"
#include "op/cpu/kernels.h"
#include "support/op_fixture.h"
#include "support/test.h"
#include "tensor/formats.h"
#include "tensor/panels.h"

static struct model_config config_of(int64_t heads, int64_t nope, int64_t value, int64_t latent) {
    return (struct model_config){.num_attention_heads = heads,
                                 .qk_nope_head_dim = nope,
                                 .v_head_dim = value,
                                 .kv_lora_rank = latent,
                                 .num_hidden_layers = 1};
}

static struct tensor draw_weight(enum format format, int64_t rows, int64_t columns) {
    if (format == FORMAT_BF16) {
        struct tensor weight = tensor_new_2d(format, rows, columns);
        fill_edges(&weight, 1.0f, (uint64_t)rows, 500);
        return weight;
    }
    struct tensor weight = tensor_2d(format, array_new(rows * columns, 1), rows, columns);
    int64_t blocks = (rows + BLOCK_SIZE - 1) / BLOCK_SIZE * weight.scale_stride;
    weight.scale = array_new(blocks, sizeof *weight.scale);
    for (int64_t i = 0; i < rows * columns; i++) {
        ((uint8_t *)weight.data)[i] = (uint8_t)(i * 37 % 251 % 127 + i % 2 * 128);
    }
    for (int64_t i = 0; i < blocks; i++) {
        weight.scale[i] = 0.0137f * (float)(i + 1);
    }
    return weight;
}

struct products {
    struct mla_params params;
    struct tensor queries, context, absorbed, out;   // [T, H, dn], [T, H, latent] and what comes of them
    int64_t heads, nope, value, latent;
};

static void products_open(struct products *p, const struct model_config *config, int64_t tokens) {
    *p = (struct products){.heads = config->num_attention_heads,
                           .nope = config->qk_nope_head_dim,
                           .value = config->v_head_dim,
                           .latent = config->kv_lora_rank};
    p->queries = tensor_new_3d(FORMAT_BF16, tokens, p->heads, p->nope);
    p->context = tensor_new_3d(FORMAT_BF16, tokens, p->heads, p->latent);
    p->absorbed = tensor_new_3d(FORMAT_BF16, tokens, p->heads, p->latent);
    p->out = tensor_new_3d(FORMAT_BF16, tokens, p->heads, p->value);
    fill_edges(&p->queries, 1.0f, 1, 300);
    fill_uniform(&p->context, 1.0f, 2);
}

static void products_close(struct products *p) {
    tensor_free(&p->queries);
    tensor_free(&p->context);
    tensor_free(&p->absorbed);
    tensor_free(&p->out);
}

// As attend_absorbed takes them where there are no panels.
static void multiply_rows(struct op_context *op, struct products *p) {
    const struct tensor *kv_b = tensor_present(&p->params.kv_b_dense) ? &p->params.kv_b_dense : &p->params.kv_b_proj;
    struct tensor heads = tensor_reshape(kv_b, 3, (int64_t[]){p->heads, p->nope + p->value, p->latent});
    struct tensor key = tensor_slice(&heads, 1, 0, p->nope), value = tensor_slice(&heads, 1, p->nope, p->value);
    struct tensor transposed = tensor_transpose(&key, 1, 2);
    op_linear_heads(op, &p->absorbed, &p->queries, &transposed);
    op_linear_heads(op, &p->out, &p->context, &value);
}

static void multiply_panels(struct op_context *op, struct products *p) {
    op_linear_heads(op, &p->absorbed, &p->queries, &p->params.absorbed_key);
    op_linear_heads(op, &p->out, &p->context, &p->params.absorbed_value);
}

static void check_same(struct op_context *op, struct products *p, const char *name) {
    struct tensor absorbed = tensor_clone(&p->absorbed), out = tensor_clone(&p->out);
    memset(p->absorbed.data, 0x55, (size_t)tensor_bytes(&p->absorbed));
    memset(p->out.data, 0x55, (size_t)tensor_bytes(&p->out));
    multiply_panels(op, p);
    if (!same_bits(&absorbed, &p->absorbed) || !same_bits(&out, &p->out)) {
        fail_msg("%lld tokens, %s: not the bits of the weights in rows", (long long)p->queries.shape[0], name);
    }
    tensor_free(&absorbed);
    tensor_free(&out);
}

// One table: prepared both ways, the products are the same.
static void check_table(enum isa isa, int threads, enum format format, const struct model_config *config,
                        int64_t tokens) {
    struct op_fixture fixture;
    struct arena arena;
    struct products p;
    op_fixture_open(&fixture, isa, threads);
    arena_init(&arena, "weights");
    products_open(&p, config, tokens);
    p.params.kv_b_proj = draw_weight(format, p.heads * (p.nope + p.value), p.latent);
    if (op_interleaves(&fixture.op)) {
        absorbed_prepare(&fixture.op, &p.params, config, FORMAT_BF16, true, &arena);
        assert_true(tensor_present(&p.params.absorbed_key) && !tensor_present(&p.params.kv_b_dense));
        assert_true(panels_bytes(&p.params.absorbed_key) + panels_bytes(&p.params.absorbed_value) ==
                    absorbed_bytes(config));
        absorbed_prepare(&fixture.op, &p.params, config, FORMAT_BF16, false, &arena);
        multiply_rows(&fixture.op, &p);
        check_same(&fixture.op, &p, isa_name(isa));
        struct cpu_kernels other;
        if (op_other_pairs(&fixture.op, &other)) {
            check_same(&fixture.op, &p, "the other instructions");
        }
    }
    assert_int_equal(fixture.arena.used, 0);
    memory_free(p.params.kv_b_proj.data);
    if (format != FORMAT_BF16) {
        memory_free(p.params.kv_b_proj.scale);
    }
    products_close(&p);
    arena_destroy(&arena);
    op_fixture_close(&fixture);
}

static void test_same_bits(void **state) {
    static const int64_t tokens[] = {1, 2, 5, 8, 9, 16, 17, 33};
    static const struct {
        int64_t heads, nope, value, latent;
    } sizes[] = {{3, 128, 64, 160}, {5, 33, 32, 32}, {2, 64, 128, 512}};
    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        struct model_config config = config_of(sizes[s].heads, sizes[s].nope, sizes[s].value, sizes[s].latent);
        for (size_t t = 0; t < sizeof tokens / sizeof *tokens; t++) {
            for (enum isa isa = ISA_SCALAR; isa <= ISA_AMX; isa++) {
                for (int threads = 1; threads <= 3 && isa_available(isa); threads += 2) {
                    check_table(isa, threads, FORMAT_BF16, &config, tokens[t]);
                    check_table(isa, threads, FORMAT_E4M3_BLOCK, &config, tokens[t]);
                }
            }
        }
    }
}

// Heads that end inside a panel keep their rows.
static void test_not_served(void **state) {
    (void)state;
    struct op_fixture fixture;
    struct arena arena;
    op_fixture_open(&fixture, ISA_BEST, 1);
    arena_init(&arena, "weights");
    for (int f = 0; f < 2; f++) {
        const enum format format = f == 0 ? FORMAT_BF16 : FORMAT_E4M3_BLOCK;
        struct model_config config = config_of(2, 16, f == 0 ? 48 : 32, f == 0 ? 64 : 48);
        struct mla_params params = {
            .kv_b_proj = draw_weight(format, 2 * (16 + config.v_head_dim), config.kv_lora_rank)};
        absorbed_prepare(&fixture.op, &params, &config, FORMAT_BF16, true, &arena);
        assert_false(tensor_present(&params.absorbed_key) || tensor_present(&params.absorbed_value));
        assert_int_equal(tensor_present(&params.kv_b_dense), format == FORMAT_E4M3_BLOCK);
        assert_int_equal(absorbed_bytes(&config), 0);
        memory_free(params.kv_b_proj.data);
        memory_free(format == FORMAT_BF16 ? NULL : params.kv_b_proj.scale);
    }
    arena_destroy(&arena);
    op_fixture_close(&fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_bits), cmocka_unit_test(test_not_served)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
