// The innermost loops of every operation but the matrix products and attention: one row (or a run of consecutive
// elements) each. A table per instruction set; the scalar functions (in the file of their operation) are the
// specification and the others give the same bits, except that the payload and sign of a NaN are not defined.
//
// "Lanes": a sum over i goes into 16 partial sums, element i into lane i mod 16, ascending, the row padded with zeros
// to a multiple of 16; then lane_tree. Products named a*b + c are one fused multiply-add, everything else rounds after
// each operation.
#ifndef MINKE_OP_CPU_ROW_KERNELS_H
#define MINKE_OP_CPU_ROW_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "op/ops.h"
#include "tensor/formats.h"

#define SUM_LANES 16

// Consecutive elements in memory, F32 or BF16.
struct row {
    void *data;   // NULL: absent
    enum format format;
};

struct row_kernels {
    float (*sum_squares)(struct row x, int64_t n);         // lanes of x*x + lane
    float (*dot)(struct row a, struct row b, int64_t n);   // lanes of a*b + lane

    // rms_norm.c
    void (*rms_norm)(struct row y, struct row x, struct row w, float rstd, int64_t n);
    float (*rms_norm_dot)(struct row dy, struct row x, struct row w, int64_t n);
    void (*rms_norm_backward)(struct row dx, enum op_mode mode, struct row dy, struct row x, struct row w, float rstd,
                              float k, int64_t n);
    void (*rms_norm_weight)(float *dw, struct row dy, struct row x, float rstd, int64_t n);

    // rope.c: table[pairs][2] = cos, sin; sign is 1 or -1 (inverse)
    void (*rope)(struct row x, const float *table, float sign, int64_t pairs);

    // swiglu.c
    void (*swiglu)(struct row y, struct row gate, struct row up, float weight, int64_t n);
    // y (may be absent) is the forward's; lane[SUM_LANES]: the partial sums of dweight, which it continues.
    void (*swiglu_backward)(struct row dgate, struct row dup, struct row y, float *lane, struct row dy, struct row gate,
                            struct row up, float weight, int64_t n);

    // cross_entropy.c, also used by the router's softmax
    float (*maximum)(const float *x, int64_t n);   // NaN skipped; -inf if nothing is larger
    float (*exp_sum)(float *y, const float *x, float maximum,
                     int64_t n);   // lanes of exp(x - maximum); y (may be NULL) keeps them
    void (*softmax_gradient)(struct row y, const float *x, float maximum, float inverse, float scale, int64_t n);

    // router.c
    void (*sigmoid)(float *y, const float *x, int64_t n);

    // rows.c
    void (*copy)(struct row y, struct row x, int64_t n);                   // y = x
    void (*accumulate)(float *y, struct row x, float weight, int64_t n);   // y = weight*x + y

    // adamw.c, reduce.c
    void (*adamw)(float *master, struct row m, struct row v, struct row weight, const float *gradient,
                  const struct adamw_step *step, int64_t n);
    void (*ema)(float *average, const float *master, float decay, int64_t n);
    bool (*all_finite)(const float *x, int64_t n);
};

// Sum of 16 lanes: lane l + lane l+8, then +4, +2, +1.
static inline float lane_tree(const float lane[SUM_LANES]) {
    float half[8];
    for (int l = 0; l < 8; l++) {
        half[l] = lane[l] + lane[l + 8];
    }
    for (int l = 0; l < 4; l++) {
        half[l] = half[l] + half[l + 4];
    }
    return (half[0] + half[2]) + (half[1] + half[3]);
}

static inline float row_load(struct row row, int64_t i) {
    return row.format == FORMAT_BF16 ? bf16_widen(((const uint16_t *)row.data)[i]) : ((const float *)row.data)[i];
}
static inline void row_store(struct row row, int64_t i, float value) {
    if (row.format == FORMAT_BF16) {
        ((uint16_t *)row.data)[i] = bf16_narrow(value);
    } else {
        ((float *)row.data)[i] = value;
    }
}
// The same row, `elements` further on.
static inline struct row row_advance(struct row row, int64_t elements) {
    if (row.data != NULL) {
        row.data = (char *)row.data + elements * (row.format == FORMAT_BF16 ? 2 : 4);
    }
    return row;
}

#endif
