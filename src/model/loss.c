// Output head and cross-entropy; see loss.h.
#include "model/loss.h"

#include "model/pass.h"

// LOSS_ROWS rows of one head: its loss, and what of its gradients is wanted.
static void chunk(struct op_context *op, const struct loss_head *head, struct tensor *dhidden, struct tensor *dlm_head,
                  enum op_mode mode, double *loss_sum, const struct tensor *lm_head, int64_t first, int64_t rows) {
    struct arena_mark mark = arena_mark(op->scratch);
    struct tensor hidden = tensor_slice(&head->hidden, 0, first, rows);
    struct tensor logits = matrix_allocate(op->scratch, FORMAT_F32, rows, lm_head->shape[0]), dlogits = logits;
    float *loss = floats_allocate(op->scratch, rows);
    bool gradient = dhidden || dlm_head;
    if (gradient && hidden.format != FORMAT_F32) {
        dlogits = matrix_allocate(op->scratch, hidden.format, rows, lm_head->shape[0]);
    }
    op_linear(op, &logits, &hidden, lm_head, OP_SET);
    op_cross_entropy(op, loss, gradient ? &dlogits : NULL, &logits, head->targets + first, head->scale);
    if (dhidden) {
        struct tensor part = tensor_slice(dhidden, 0, first, rows);
        op_linear_backward_input(op, &part, &dlogits, lm_head, OP_SET);
    }
    if (dlm_head) {
        op_linear_backward_weight(op, dlm_head, &dlogits, &hidden, mode);
    }
    for (int64_t i = 0; i < rows && loss_sum; i++) {
        *loss_sum += (double)loss[i];
    }
    arena_release(op->scratch, mark);
}

static int64_t chunk_rows(int64_t left) {
    return left < LOSS_ROWS ? left : LOSS_ROWS;
}

void loss_forward_backward(struct op_context *op, const struct loss_head *heads, int64_t head_count,
                           struct tensor *dlm_head, enum op_mode mode, const struct tensor *lm_head, int64_t sequences,
                           int64_t length) {
    for (int64_t s = 0; s < sequences; s++) {
        for (int64_t k = 0; k < head_count; k++) {
            struct tensor dhidden = heads[k].dhidden;
            for (int64_t row = 0; row < length; row += LOSS_ROWS) {
                chunk(op, &heads[k], tensor_present(&dhidden) ? &dhidden : NULL, dlm_head, mode, heads[k].loss, lm_head,
                      s * length + row, chunk_rows(length - row));
                mode = OP_ADD;
            }
        }
    }
}

void loss_backward_weight(struct op_context *op, const struct loss_head *heads, int64_t head_count,
                          struct tensor *dlm_head, const struct tensor *lm_head, int64_t first, int64_t length) {
    for (int64_t k = 0; k < head_count; k++) {
        for (int64_t row = 0; row < length; row += LOSS_ROWS) {
            chunk(op, &heads[k], NULL, dlm_head, OP_ADD, NULL, lm_head, first + row, chunk_rows(length - row));
        }
    }
}
