// The row kernels (row_kernels.h) on 16 lanes, for the instruction sets that have vectors: avx2/row_kernels.c and
// avx512/row_kernels.c each include this once, after their lanes.h, which defines `struct lanes` (16 floats in
// registers) and the operations on it.
//
// The sequences are those of the scalar kernels (rms_norm.c, rope.c, swiglu.c, cross_entropy.c, router.c, rows.c,
// adamw.c, reduce.c). The 16 lanes of a sum are the 16 lanes here; elements beyond the end of a row are loaded as
// zeros, the padding that the reference spells out.
#ifndef MINKE_OP_CPU_LANES_KERNELS_H
#define MINKE_OP_CPU_LANES_KERNELS_H

#include <math.h>
#include <string.h>

#include "op/cpu/kernels.h"

static float sum_squares(struct row x, int64_t n) {
    struct lanes sum = lanes_set(0.0f);
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        struct lanes value = lanes_load(x, i, n - i);
        sum = lanes_multiply_add(value, value, sum);
    }
    return lanes_sum(sum);
}

static float dot(struct row a, struct row b, int64_t n) {
    struct lanes sum = lanes_set(0.0f);
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        sum = lanes_multiply_add(lanes_load(a, i, n - i), lanes_load(b, i, n - i), sum);
    }
    return lanes_sum(sum);
}

static bool all_finite(const float *x, int64_t n) {
    bool finite = true;
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        finite = finite && lanes_finite(lanes_load_floats(x, i, n - i));
    }
    return finite;
}

static void rms_norm(struct row y, struct row x, struct row w, float rstd, int64_t n) {
    struct lanes factor = lanes_set(rstd);
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        struct lanes normal = lanes_multiply(lanes_load(x, i, n - i), factor);
        lanes_store(y, i, n - i, lanes_multiply(lanes_load(w, i, n - i), normal));
    }
}

static float rms_norm_dot(struct row dy, struct row x, struct row w, int64_t n) {
    struct lanes sum = lanes_set(0.0f);
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        struct lanes g = lanes_multiply(lanes_load(w, i, n - i), lanes_load(dy, i, n - i));
        sum = lanes_multiply_add(g, lanes_load(x, i, n - i), sum);
    }
    return lanes_sum(sum);
}

static void rms_norm_backward(struct row dx, enum op_mode mode, struct row dy, struct row x, struct row w, float rstd,
                              float k, int64_t n) {
    struct lanes factor = lanes_set(rstd), minus_k = lanes_set(-k);
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        struct lanes g = lanes_multiply(lanes_load(w, i, n - i), lanes_load(dy, i, n - i));
        struct lanes value = lanes_multiply(factor, lanes_multiply_add(minus_k, lanes_load(x, i, n - i), g));
        if (mode == OP_ADD) {
            value = lanes_add(lanes_load(dx, i, n - i), value);
        }
        lanes_store(dx, i, n - i, value);
    }
}

static void rms_norm_weight(float *dw, struct row dy, struct row x, float rstd, int64_t n) {
    struct lanes factor = lanes_set(rstd);
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        struct lanes normal = lanes_multiply(lanes_load(x, i, n - i), factor);
        struct lanes sum = lanes_multiply_add(lanes_load(dy, i, n - i), normal, lanes_load_floats(dw, i, n - i));
        lanes_store_floats(dw, i, n - i, sum);
    }
}

// Eight pairs at a time: x0*c - (x1*s) in even lanes, x1*c + (x0*s) in odd ones.
static void rope(struct row x, const float *table, float sign, int64_t pairs) {
    for (int64_t i = 0; i < 2 * pairs; i += SUM_LANES) {
        int64_t left = 2 * pairs - i;
        struct lanes angles = lanes_load_floats(table, i, left), value = lanes_load(x, i, left);
        struct lanes s = lanes_multiply(lanes_copy_odd(angles), lanes_set(sign));
        struct lanes crossed = lanes_multiply(lanes_swap_pairs(value), s);
        lanes_store(x, i, left, lanes_multiply_subtract_add(value, lanes_copy_even(angles), crossed));
    }
}

static void swiglu(struct row y, struct row gate, struct row up, float weight, int64_t n) {
    struct lanes factor = lanes_set(weight);
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        struct lanes g = lanes_load(gate, i, n - i);
        struct lanes s = lanes_multiply(g, lanes_sigmoid(g));
        lanes_store(y, i, n - i, lanes_multiply(factor, lanes_multiply(s, lanes_load(up, i, n - i))));
    }
}

static void swiglu_backward(struct row dgate, struct row dup, struct row y, float *lane, struct row dy, struct row gate,
                            struct row up, float weight, int64_t n) {
    struct lanes factor = lanes_set(weight), one = lanes_set(1.0f), sum = lanes_load_floats(lane, 0, SUM_LANES);
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        struct lanes g = lanes_load(gate, i, n - i), u = lanes_load(up, i, n - i), d = lanes_load(dy, i, n - i);
        struct lanes r = lanes_sigmoid(g), s = lanes_multiply(g, r), e = lanes_multiply(factor, d);
        struct lanes hidden = lanes_multiply(s, u);
        sum = lanes_multiply_add(d, hidden, sum);
        struct lanes slope = lanes_multiply(r, lanes_multiply_add(g, lanes_subtract(one, r), one));
        lanes_store(dgate, i, n - i, lanes_multiply(lanes_multiply(e, u), slope));
        lanes_store(dup, i, n - i, lanes_multiply(e, s));
        if (y.data != NULL) {
            lanes_store(y, i, n - i, lanes_multiply(factor, hidden));
        }
    }
    lanes_store_floats(lane, 0, SUM_LANES, sum);
}

static float maximum(const float *x, int64_t n) {
    struct lanes largest = lanes_set(-INFINITY);
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        struct lanes value = lanes_load_floats(x, i, n - i);
        if (n - i < SUM_LANES) {
            value = lanes_fill(value, n - i, -INFINITY);
        }
        largest = lanes_larger(value, largest);
    }
    return lanes_largest(largest);
}

static float exp_sum(float *y, const float *x, float maximum_value, int64_t n) {
    struct lanes shift = lanes_set(maximum_value), sum = lanes_set(0.0f);
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        struct lanes value = lanes_exp(lanes_subtract(lanes_load_floats(x, i, n - i), shift));
        if (n - i < SUM_LANES) {
            value = lanes_fill(value, n - i, 0.0f);
        }
        sum = lanes_add(sum, value);
        if (y != NULL) {
            lanes_store_floats(y, i, n - i, value);
        }
    }
    return lanes_sum(sum);
}

static void softmax_gradient(struct row y, const float *x, float maximum_value, float inverse, float scale, int64_t n) {
    struct lanes shift = lanes_set(maximum_value), normal = lanes_set(inverse), factor = lanes_set(scale);
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        struct lanes value = lanes_exp(lanes_subtract(lanes_load_floats(x, i, n - i), shift));
        lanes_store(y, i, n - i, lanes_multiply(factor, lanes_multiply(value, normal)));
    }
}

static void sigmoid(float *y, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        lanes_store_floats(y, i, n - i, lanes_sigmoid(lanes_load_floats(x, i, n - i)));
    }
}

static void copy(struct row y, struct row x, int64_t n) {
    if (y.format == x.format) {
        memmove(y.data, x.data, (size_t)n * (y.format == FORMAT_BF16 ? 2 : 4));
        return;
    }
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        lanes_store_any(y, i, n - i, lanes_load(x, i, n - i));
    }
}

static void accumulate(float *y, struct row x, float weight, int64_t n) {
    struct lanes factor = lanes_set(weight);
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        struct lanes sum = lanes_multiply_add(factor, lanes_load(x, i, n - i), lanes_load_floats(y, i, n - i));
        lanes_store_floats(y, i, n - i, sum);
    }
}

static void adamw(float *master, struct row m, struct row v, struct row weight, const float *gradient,
                  const struct adamw_step *step, int64_t n) {
    struct lanes beta1 = lanes_set(step->beta1), rest1 = lanes_set(1.0f - step->beta1);
    struct lanes beta2 = lanes_set(step->beta2), rest2 = lanes_set(1.0f - step->beta2);
    struct lanes correction1 = lanes_set(step->correction1), correction2 = lanes_set(step->correction2);
    struct lanes scale = lanes_set(step->gradient_scale), epsilon = lanes_set(step->epsilon);
    struct lanes decay = lanes_set(step->weight_decay), rate = lanes_set(-step->learning_rate);
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        int64_t left = n - i;
        struct lanes g = lanes_multiply(lanes_load_floats(gradient, i, left), scale);
        struct lanes first = lanes_multiply_add(beta1, lanes_load(m, i, left), lanes_multiply(rest1, g));
        struct lanes square = lanes_multiply(lanes_multiply(rest2, g), g);
        struct lanes second = lanes_multiply_add(beta2, lanes_load(v, i, left), square);
        struct lanes root = lanes_add(lanes_square_root(lanes_divide(second, correction2)), epsilon);
        struct lanes ratio = lanes_divide(lanes_divide(first, correction1), root);
        struct lanes w = lanes_load_floats(master, i, left);
        w = lanes_multiply_add(rate, lanes_multiply_add(decay, w, ratio), w);
        lanes_store(m, i, left, first);
        lanes_store(v, i, left, second);
        lanes_store_floats(master, i, left, w);
        if (weight.data != NULL) {
            lanes_store(weight, i, left, w);
        }
    }
}

static void ema(float *average, const float *master, float decay, int64_t n) {
    struct lanes keep = lanes_set(decay), rest = lanes_set(1.0f - decay);
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        struct lanes part = lanes_multiply(rest, lanes_load_floats(master, i, n - i));
        lanes_store_floats(average, i, n - i, lanes_multiply_add(keep, lanes_load_floats(average, i, n - i), part));
    }
}

static const struct row_kernels lanes_kernels = {
    .sum_squares = sum_squares,
    .dot = dot,
    .rms_norm = rms_norm,
    .rms_norm_dot = rms_norm_dot,
    .rms_norm_backward = rms_norm_backward,
    .rms_norm_weight = rms_norm_weight,
    .rope = rope,
    .swiglu = swiglu,
    .swiglu_backward = swiglu_backward,
    .maximum = maximum,
    .exp_sum = exp_sum,
    .softmax_gradient = softmax_gradient,
    .sigmoid = sigmoid,
    .copy = copy,
    .accumulate = accumulate,
    .adamw = adamw,
    .ema = ema,
    .all_finite = all_finite,
};

#endif
