// Output head and cross-entropy; see loss.h.
#include "model/loss.h"

#include "model/pass.h"

static void chunk(struct op_context *op, struct loss_head *head, struct tensor *dlm_head, const struct tensor *lm_head,
                  int64_t first, int64_t rows) {
    struct arena_mark mark = arena_mark(op->scratch);
    struct tensor hidden = tensor_slice(&head->hidden, 0, first, rows);
    struct tensor logits = matrix_allocate(op->scratch, FORMAT_F32, rows, lm_head->shape[0]);
    float *loss = floats_allocate(op->scratch, rows);
    op_linear(op, &logits, &hidden, lm_head, OP_SET);
    if (dlm_head) {
        struct tensor dlogits = hidden.format == FORMAT_F32
                                    ? logits
                                    : matrix_allocate(op->scratch, hidden.format, rows, lm_head->shape[0]);
        op_cross_entropy(op, loss, &dlogits, &logits, head->targets + first, head->scale);
        struct tensor dhidden = tensor_slice(&head->dhidden, 0, first, rows);
        op_linear_backward_input(op, &dhidden, &dlogits, lm_head, OP_SET);
        op_linear_backward_weight(op, dlm_head, &dlogits, &hidden);
    } else {
        op_cross_entropy(op, loss, NULL, &logits, head->targets + first, head->scale);
    }
    for (int64_t i = 0; i < rows; i++) {
        *head->loss += (double)loss[i];
    }
    arena_release(op->scratch, mark);
}

void loss_forward_backward(struct op_context *op, struct loss_head *heads, int64_t head_count, struct tensor *dlm_head,
                           const struct tensor *lm_head, int64_t sequences, int64_t length) {
    for (int64_t s = 0; s < sequences; s++) {
        for (int64_t k = 0; k < head_count; k++) {
            for (int64_t row = 0; row < length; row += LOSS_ROWS) {
                int64_t rows = length - row < LOSS_ROWS ? length - row : LOSS_ROWS;
                chunk(op, &heads[k], dlm_head, lm_head, s * length + row, rows);
            }
        }
    }
}
