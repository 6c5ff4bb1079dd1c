// Token embedding; see embedding.h.
#include "model/embedding.h"

void embedding_forward(struct op_context *op, struct tensor *h, const int32_t *ids, const struct tensor *table) {
    op_embedding(op, h, ids, table);
}

void embedding_backward(struct op_context *op, struct tensor *dtable, const struct embedding_use *uses,
                        int64_t use_count, int64_t first, int64_t length) {
    for (int64_t u = 0; u < use_count; u++) {
        struct tensor rows = tensor_slice(&uses[u].dh, 0, first, length);
        op_embedding_backward(op, dtable, &rows, uses[u].ids + first);
    }
}
