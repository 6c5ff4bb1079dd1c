// Takes the time of an operation when its context asks for it (struct op_times).
#ifndef MINKE_OP_OP_TIMES_H
#define MINKE_OP_OP_TIMES_H

#include <stddef.h>

#include "base/log.h"
#include "op/ops.h"

static inline double op_times_begin(const struct op_context *op) {
    return op->times != NULL ? clock_seconds() : 0.0;
}

static inline void op_times_end(struct op_context *op, enum op_kind kind, double began) {
    if (op->times != NULL) {
        op->times->seconds[kind] += clock_seconds() - began;
    }
}

#endif
