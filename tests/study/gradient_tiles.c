// Output gradients of a trained model, quantised to E4M3 in tiles (of one token for dx, of one column for dw) and in
// 128 x 128 blocks: how far dx and dw of its Linears then are from those of the BF16 gradients (report B.2; the tables
// and the picture of docs/numerics-fp8.md).
//
//   build/tests/study/gradient_tiles MODEL_DIR TEXT [SEQUENCES [BITS]]   two tables: deciles of tokens; layers
//
// One real forward and backward pass in BF16 over SEQUENCES x 256 tokens of TEXT. Only the output gradient is
// quantised; weights and inputs stay BF16, so that the distance is the gradient's error alone. The loss is the mean
// over the tokens, as in training, times 2^BITS (0): a scale is never below 1e-4 / 448, which small gradients meet.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "minke.h"
#include "model/block.h"
#include "model/embedding.h"
#include "model/load.h"
#include "model/loss.h"
#include "model/model.h"
#include "model/pass.h"
#include "tensor/formats.h"

enum { LENGTH = 256, DECILES = 10, LINEARS = 6 };
static const char *const linear_names[LINEARS] = {"o_proj", "q_b_proj", "kv_b_proj", "kv_a_proj", "ffn.up", "ffn.down"};

// Relative errors of one Linear: in tiles and in blocks.
struct errors {
    double dx[2], dw[2], token[2];   // of the whole; mean over tokens
    double decile[DECILES][2];       // mean over the tokens of a decile of the gradient's magnitude
    double size[DECILES];            // mean magnitude of a decile beside the mean of all
    double lost[2];                  // share of the elements that become zero
};

struct study {
    struct op_context op;
    struct pool *pool;
    struct arena arena, scratch, keep;
    struct checkpoint *checkpoint;
    struct model model;
    struct model_params gradients;
    struct block_saved *saved;
    struct block_kept *kept;
    struct pass pass;
    struct token_batch batch;
    struct recompute recompute;
    int32_t *targets;
    int bits;
};

// ---- The pass -------------------------------------------------------------------------------------------------------

static void require(int code, const char *text) {
    if (code != 0) {
        fprintf(stderr, "gradient_tiles: %s\n", text);
        exit(1);
    }
}

static void open_model(struct study *study, const char *directory) {
    struct error error = {0};
    arena_init(&study->arena, "model");
    arena_init(&study->scratch, "workspace");
    arena_init(&study->keep, "activations");
    require(pool_create(&study->pool, 0, &error), error.text);
    require(op_context_init(&study->op, ISA_BEST, study->pool, &study->scratch, &error), error.text);
    struct model *model = &study->model;
    model->compute = FORMAT_BF16;
    require(model_config_read(&model->config, directory, &error), error.text);
    require(checkpoint_open(&study->checkpoint, directory, &error), error.text);
    require(model_map(&model->params, &model->config, study->checkpoint, &study->arena, &error), error.text);
    model_prepare(model, LENGTH, &study->arena);
    params_create(&study->gradients, &model->config, &study->arena);
    require(params_allocate(&study->gradients, &model->config, FORMAT_F32, true, true, &study->arena, &error),
            error.text);
    size_t layers = (size_t)model->config.num_hidden_layers;
    study->saved = arena_allocate_zero(&study->arena, layers, sizeof *study->saved);
    study->kept = arena_allocate_zero(&study->arena, layers, sizeof *study->kept);
}

static void read_text(struct study *study, const char *directory, const char *path, int64_t sequences) {
    struct minke_error failure = {0};
    struct minke_tokenizer *tokenizer = NULL;
    int32_t *ids = NULL;
    int64_t count = 0, tokens = sequences * LENGTH;
    size_t most = (size_t)tokens * 16;
    char *text = arena_allocate(&study->arena, most, 1);
    FILE *file = fopen(path, "rb");
    require(file == NULL, path);
    size_t size = fread(text, 1, most, file);
    fclose(file);
    require(minke_tokenizer_open(&tokenizer, directory, &failure), failure.text);
    require(minke_encode(&ids, &count, tokenizer, text, size, MINKE_ENCODE_PLAIN, &failure), failure.text);
    require(count <= tokens, "the text is too short");
    int32_t *all = arena_allocate(&study->arena, (size_t)tokens, sizeof *all), *positions;
    study->targets = arena_allocate(&study->arena, (size_t)tokens, sizeof *study->targets);
    positions = arena_allocate(&study->arena, (size_t)tokens, sizeof *positions);
    struct attention_span *spans = arena_allocate(&study->arena, (size_t)sequences, sizeof *spans);
    for (int64_t i = 0; i < tokens; i++) {
        all[i] = ids[i];
        study->targets[i] = ids[i + 1];
        positions[i] = (int32_t)(i % LENGTH);
    }
    for (int64_t s = 0; s < sequences; s++) {
        spans[s] = (struct attention_span){.query_row = s * LENGTH, .count = LENGTH, .key_row = s * LENGTH};
    }
    study->batch = (struct token_batch){.tokens = tokens,
                                        .ids = all,
                                        .positions = positions,
                                        .spans = spans,
                                        .span_count = sequences,
                                        .sequence_length = LENGTH,
                                        .form = ATTENTION_EXPANDED};
    minke_free(ids);
    minke_tokenizer_close(tokenizer);
}

// Leaves what every Linear keeps for its weight gradient in study->kept.
static double run_pass(struct study *study) {
    struct model *model = &study->model;
    struct op_context *op = &study->op;
    const struct model_params *params = &model->params;
    int64_t tokens = study->batch.tokens, width = model->config.hidden_size, layers = model->config.num_hidden_layers;
    struct pass *pass = &study->pass;
    *pass = (struct pass){.op = op,
                          .config = &model->config,
                          .batch = &study->batch,
                          .rope_table = &model->rope_table,
                          .recompute = &study->recompute,
                          .dispatch = model->dispatch,
                          .expert_map = &model->expert_map,
                          .keep = &study->keep,
                          .compute = FORMAT_BF16,
                          .training = true};
    struct tensor h = matrix_allocate(&study->arena, FORMAT_F32, tokens, width);
    struct tensor dh = matrix_allocate(&study->arena, FORMAT_F32, tokens, width);
    float *rstd = floats_allocate(&study->arena, tokens);
    double loss = 0;
    struct loss_head head = {.hidden = matrix_allocate(&study->arena, FORMAT_BF16, tokens, width),
                             .dhidden = matrix_allocate(&study->arena, FORMAT_F32, tokens, width),
                             .targets = study->targets,
                             .scale = ldexpf(1.0f / (float)tokens, study->bits),
                             .loss = &loss};
    embedding_forward(op, &h, study->batch.ids, &params->embed_tokens);
    for (int64_t l = 0; l < layers; l++) {
        block_forward(pass, &h, &params->layers[l], NULL, &study->saved[l]);
    }
    op_rms_norm(op, &head.hidden, rstd, &h, &params->norm, (float)model->config.rms_norm_eps);
    loss_forward_backward(op, &head, 1, NULL, OP_ADD, &params->lm_head, study->batch.span_count, LENGTH);
    op_rms_norm_backward(op, &dh, OP_SET, &study->gradients.norm, &head.dhidden, &h, &params->norm, rstd);
    for (int64_t l = layers - 1; l >= 0; l--) {
        block_backward_input(pass, &dh, &study->kept[l], &study->gradients.layers[l], &params->layers[l],
                             &study->saved[l]);
    }
    return loss / (double)tokens;
}

// ---- Errors ---------------------------------------------------------------------------------------------------------

static struct tensor scaled_matrix(struct arena *arena, enum format format, int64_t rows, int64_t columns) {
    struct tensor codes = tensor_2d(format, arena_allocate(arena, (size_t)(rows * columns), 1), rows, columns);
    int64_t edge = tensor_scale_edge(format, 0), count = (rows + edge - 1) / edge * codes.scale_stride;
    codes.scale = arena_allocate(arena, (size_t)count, sizeof(float));
    return codes;
}

// What dy is after quantisation, as F32; *lost: the share of its elements that became zero.
static struct tensor through_codes(struct study *study, const struct tensor *dy, enum format format, double *lost) {
    struct tensor codes = scaled_matrix(&study->scratch, format, dy->shape[0], dy->shape[1]);
    struct tensor values = matrix_allocate(&study->scratch, FORMAT_F32, dy->shape[0], dy->shape[1]);
    struct tensor before = matrix_allocate(&study->scratch, FORMAT_F32, dy->shape[0], dy->shape[1]);
    if (format == FORMAT_E4M3_TILE) {
        op_quantize_rows(&study->op, &codes, dy, false);
    } else if (format == FORMAT_E4M3_COLUMN) {
        op_quantize_columns(&study->op, &codes, dy, NULL, 1, false);
    } else {
        op_quantize_blocks(&study->op, &codes, dy, false);
    }
    op_copy(&study->op, &before, dy);
    int64_t zeros = 0, count = tensor_elements(dy);
    for (int64_t i = 0; i < dy->shape[0]; i++) {
        format_info(format)->widen((float *)values.data + i * dy->shape[1], &codes, i, 0, dy->shape[1]);
    }
    for (int64_t i = 0; i < count; i++) {
        zeros += ((const float *)values.data)[i] == 0.0f && ((const float *)before.data)[i] != 0.0f;
    }
    *lost = (double)zeros / (double)count;
    return values;
}

static double row_norm(const struct tensor *x, const struct tensor *less, int64_t row) {
    double sum = 0;
    const float *a = (const float *)x->data + row * x->shape[1];
    const float *b = less != NULL ? (const float *)less->data + row * x->shape[1] : NULL;
    for (int64_t j = 0; j < x->shape[1]; j++) {
        double d = (double)a[j] - (b != NULL ? (double)b[j] : 0.0);
        sum += d * d;
    }
    return sqrt(sum);
}

// Of the whole: |found - expected| / |expected|.
static double distance(const struct tensor *found, const struct tensor *expected) {
    double difference = 0, whole = 0;
    for (int64_t i = 0; i < found->shape[0]; i++) {
        difference += pow(row_norm(found, expected, i), 2);
        whole += pow(row_norm(expected, NULL, i), 2);
    }
    return sqrt(difference / whole);
}

struct ranked {
    double size;
    int64_t row;
};

static int by_size(const void *a, const void *b) {
    double x = ((const struct ranked *)a)->size, y = ((const struct ranked *)b)->size;
    return (x > y) - (x < y);
}

static void token_errors(struct errors *errors, struct study *study, const struct tensor *dx,
                         const struct tensor *expected, const struct tensor *dy) {
    int64_t tokens = dy->shape[0];
    struct tensor wide = matrix_allocate(&study->scratch, FORMAT_F32, tokens, dy->shape[1]);
    struct ranked *ranked = arena_allocate(&study->scratch, (size_t)tokens, sizeof *ranked);
    double all = 0;
    op_copy(&study->op, &wide, dy);
    for (int64_t i = 0; i < tokens; i++) {
        ranked[i] = (struct ranked){row_norm(&wide, NULL, i), i};
        all += ranked[i].size / (double)tokens;
    }
    qsort(ranked, (size_t)tokens, sizeof *ranked, by_size);
    for (int64_t i = 0; i < tokens; i++) {
        int64_t decile = i * DECILES / tokens, row = ranked[i].row;
        double share = (double)((decile + 1) * tokens / DECILES - decile * tokens / DECILES);
        double norm = row_norm(expected, NULL, row);
        errors->size[decile] += ranked[i].size / all / share;
        for (int way = 0; way < 2 && norm > 0; way++) {
            double error = row_norm(&dx[way], expected, row) / norm;
            errors->token[way] += error / (double)tokens;
            errors->decile[decile][way] += error / share;
        }
    }
}

static struct errors measure(struct study *study, const struct linear_kept *kept, const struct tensor *w) {
    struct errors errors = {0};
    struct arena_mark mark = arena_mark(&study->scratch);
    struct op_context *op = &study->op;
    double unused;
    struct tensor dx[3], dw[3],
        ways[2] = {through_codes(study, &kept->dy, FORMAT_E4M3_TILE, &errors.lost[0]),
                   through_codes(study, &kept->dy, FORMAT_E4M3_BLOCK, &errors.lost[1])};
    for (int i = 0; i < 3; i++) {   // unquantised, tiles, blocks
        dx[i] = matrix_allocate(&study->scratch, FORMAT_F32, kept->dy.shape[0], w->shape[1]);
        dw[i] = matrix_allocate(&study->scratch, FORMAT_F32, w->shape[0], w->shape[1]);
        op_zero(op, &dw[i]);
        struct tensor wide = matrix_allocate(&study->scratch, FORMAT_F32, kept->dy.shape[0], kept->dy.shape[1]);
        op_copy(op, &wide, &kept->dy);
        op_linear_backward_input(op, &dx[i], i == 0 ? &wide : &ways[i - 1], w, OP_SET);
        struct tensor columns_of_dy = i == 1   ? through_codes(study, &kept->dy, FORMAT_E4M3_COLUMN, &unused)
                                      : i == 0 ? wide
                                               : ways[1];
        op_linear_backward_weight(op, &dw[i], &columns_of_dy, &kept->x, OP_ADD);
    }
    for (int way = 0; way < 2; way++) {
        errors.dx[way] = distance(&dx[way + 1], &dx[0]);
        errors.dw[way] = distance(&dw[way + 1], &dw[0]);
    }
    token_errors(&errors, study, dx + 1, &dx[0], &kept->dy);
    arena_release(&study->scratch, mark);
    return errors;
}

static struct errors measure_linear(struct study *study, int64_t layer, int linear) {
    const struct block_kept *kept = &study->kept[layer];
    const struct block_params *params = &study->model.params.layers[layer];
    const struct ffn_kept *ffn = params->is_moe ? &kept->moe.shared : &kept->mlp;
    const struct mlp_params *mlp = params->is_moe ? &params->moe.shared_experts : &params->mlp;
    const struct linear_kept *all[LINEARS] = {
        &kept->attention.o, &kept->attention.q_b, &kept->attention.kv_b, &kept->attention.kv_a, &ffn->up, &ffn->down};
    const struct mla_params *mla = &params->self_attn;
    const struct tensor *weights[LINEARS] = {&mla->o_proj,  &mla->q_b_proj, &mla->kv_b_proj, &mla->kv_a_proj_with_mqa,
                                             &mlp->up_proj, &mlp->down_proj};
    return measure(study, all[linear], weights[linear]);
}

// ---- Tables ---------------------------------------------------------------------------------------------------------

int main(int argc, char **argv) {
    static struct study study;
    int64_t sequences = argc > 3 ? strtoll(argv[3], NULL, 10) : 8;
    study.bits = argc > 4 ? (int)strtol(argv[4], NULL, 10) : 0;
    if (argc < 3 || sequences < 1 || sequences > 256 || study.bits < 0 || study.bits > 40) {
        fprintf(stderr, "usage: gradient_tiles MODEL_DIR TEXT [SEQUENCES [BITS]]\n");
        return 2;
    }
    open_model(&study, argv[1]);
    read_text(&study, argv[1], argv[2], sequences);
    double loss = run_pass(&study);
    int64_t layers = study.model.config.num_hidden_layers;
    struct errors *errors = arena_allocate(&study.arena, (size_t)(layers * LINEARS), sizeof *errors);
    for (int64_t i = 0; i < layers * LINEARS; i++) {
        errors[i] = measure_linear(&study, i / LINEARS, (int)(i % LINEARS));
    }
    printf("# %lld tokens, loss %.3f, gradients times 2^%d; errors in per cent, means over %lld layers\n",
           (long long)study.batch.tokens, loss, study.bits, (long long)layers);
    printf(
        "# decile of tokens, then for each of o_proj q_b kv_b kv_a up down: magnitude beside the mean, error of dx in "
        "tiles, in blocks\n");
    for (int d = 0; d < DECILES; d++) {
        printf("%d", d + 1);
        for (int linear = 0; linear < LINEARS; linear++) {
            double sums[3] = {0};
            for (int64_t l = 0; l < layers; l++) {
                const struct errors *e = &errors[l * LINEARS + linear];
                sums[0] += e->size[d] / (double)layers;
                sums[1] += 100 * e->decile[d][0] / (double)layers;
                sums[2] += 100 * e->decile[d][1] / (double)layers;
            }
            printf("\t%.3f\t%.2f\t%.2f", sums[0], sums[1], sums[2]);
        }
        printf("\n");
    }
    printf("\n\n# layer, Linear; tiles and blocks of: dx, dx of a token (mean), dx of the smallest tenth, dw, elements "
           "lost\n");
    for (int64_t i = 0; i < layers * LINEARS; i++) {
        const struct errors *e = &errors[i];
        printf("%lld\t%s\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\n", (long long)(i / LINEARS),
               linear_names[i % LINEARS], 100 * e->dx[0], 100 * e->dx[1], 100 * e->token[0], 100 * e->token[1],
               100 * e->decile[0][0], 100 * e->decile[0][1], 100 * e->dw[0], 100 * e->dw[1], 100 * e->lost[0],
               100 * e->lost[1]);
    }
    checkpoint_close(study.checkpoint);
    pool_destroy(study.pool);
    arena_destroy(&study.keep);
    arena_destroy(&study.scratch);
    arena_destroy(&study.arena);
    return 0;
}
