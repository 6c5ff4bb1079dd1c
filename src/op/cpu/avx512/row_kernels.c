// AVX-512 versions of the row kernels: the sequences of the scalar ones (rms_norm.c, rope.c, swiglu.c, cross_entropy.c,
// router.c, rows.c, adamw.c, reduce.c in the folder above), 16 elements at a time. The 16 lanes of a sum are the 16
// lanes of a register; elements beyond the end of a row are loaded as zeros, which is the padding that the reference
// spells out.
#include <math.h>
#include <string.h>

#include "op/cpu/avx512/vector_math.h"
#include "op/cpu/kernels.h"

static float sum_squares(struct row x, int64_t n) {
    __m512 lanes = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += LANES) {
        __m512 value = row_load_vector(x, i, lanes_mask(n - i));
        lanes = _mm512_fmadd_ps(value, value, lanes);
    }
    return lanes_sum(lanes);
}

static float dot(struct row a, struct row b, int64_t n) {
    __m512 lanes = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += LANES) {
        __mmask16 mask = lanes_mask(n - i);
        lanes = _mm512_fmadd_ps(row_load_vector(a, i, mask), row_load_vector(b, i, mask), lanes);
    }
    return lanes_sum(lanes);
}

static bool all_finite(const float *x, int64_t n) {
    __m512i exponent = _mm512_set1_epi32(0x7f800000);
    __mmask16 bad = 0;
    for (int64_t i = 0; i < n; i += LANES) {
        __m512i bits = _mm512_maskz_loadu_epi32(lanes_mask(n - i), x + i);
        bad = (__mmask16)(bad | _mm512_cmpeq_epi32_mask(_mm512_and_si512(bits, exponent), exponent));
    }
    return bad == 0;
}

static void rms_norm(struct row y, struct row x, struct row w, float rstd, int64_t n) {
    __m512 factor = _mm512_set1_ps(rstd);
    for (int64_t i = 0; i < n; i += LANES) {
        __mmask16 mask = lanes_mask(n - i);
        __m512 normal = _mm512_mul_ps(row_load_vector(x, i, mask), factor);
        row_store_vector(y, i, _mm512_mul_ps(row_load_vector(w, i, mask), normal), mask);
    }
}

static float rms_norm_dot(struct row dy, struct row x, struct row w, int64_t n) {
    __m512 lanes = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += LANES) {
        __mmask16 mask = lanes_mask(n - i);
        __m512 g = _mm512_mul_ps(row_load_vector(w, i, mask), row_load_vector(dy, i, mask));
        lanes = _mm512_fmadd_ps(g, row_load_vector(x, i, mask), lanes);
    }
    return lanes_sum(lanes);
}

static void rms_norm_backward(struct row dx, enum op_mode mode, struct row dy, struct row x, struct row w, float rstd,
                              float k, int64_t n) {
    __m512 factor = _mm512_set1_ps(rstd), minus_k = _mm512_set1_ps(-k);
    for (int64_t i = 0; i < n; i += LANES) {
        __mmask16 mask = lanes_mask(n - i);
        __m512 g = _mm512_mul_ps(row_load_vector(w, i, mask), row_load_vector(dy, i, mask));
        __m512 value = _mm512_mul_ps(factor, _mm512_fmadd_ps(minus_k, row_load_vector(x, i, mask), g));
        if (mode == OP_ADD) {
            value = _mm512_add_ps(row_load_vector(dx, i, mask), value);
        }
        row_store_vector(dx, i, value, mask);
    }
}

static void rms_norm_weight(float *dw, struct row dy, struct row x, float rstd, int64_t n) {
    __m512 factor = _mm512_set1_ps(rstd);
    for (int64_t i = 0; i < n; i += LANES) {
        __mmask16 mask = lanes_mask(n - i);
        __m512 normal = _mm512_mul_ps(row_load_vector(x, i, mask), factor);
        __m512 sum = _mm512_fmadd_ps(row_load_vector(dy, i, mask), normal, _mm512_maskz_loadu_ps(mask, dw + i));
        _mm512_mask_storeu_ps(dw + i, mask, sum);
    }
}

// Eight pairs at a time: x0*c - (x1*s) in even lanes, x1*c + (x0*s) in odd ones.
static void rope(struct row x, const float *table, float sign, int64_t pairs) {
    for (int64_t i = 0; i < 2 * pairs; i += LANES) {
        __mmask16 mask = lanes_mask(2 * pairs - i);
        __m512 angles = _mm512_maskz_loadu_ps(mask, table + i), value = row_load_vector(x, i, mask);
        __m512 c = _mm512_moveldup_ps(angles), s = _mm512_mul_ps(_mm512_movehdup_ps(angles), _mm512_set1_ps(sign));
        __m512 swapped = _mm512_permute_ps(value, 0xb1);
        row_store_vector(x, i, _mm512_fmaddsub_ps(value, c, _mm512_mul_ps(swapped, s)), mask);
    }
}

static void swiglu(struct row y, struct row gate, struct row up, float weight, int64_t n) {
    __m512 factor = _mm512_set1_ps(weight);
    for (int64_t i = 0; i < n; i += LANES) {
        __mmask16 mask = lanes_mask(n - i);
        __m512 g = row_load_vector(gate, i, mask);
        __m512 s = _mm512_mul_ps(g, vector_sigmoid(g));
        row_store_vector(y, i, _mm512_mul_ps(factor, _mm512_mul_ps(s, row_load_vector(up, i, mask))), mask);
    }
}

static float swiglu_backward(struct row dgate, struct row dup, struct row dy, struct row gate, struct row up,
                             float weight, int64_t n) {
    __m512 factor = _mm512_set1_ps(weight), one = _mm512_set1_ps(1.0f), lanes = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += LANES) {
        __mmask16 mask = lanes_mask(n - i);
        __m512 g = row_load_vector(gate, i, mask), u = row_load_vector(up, i, mask), d = row_load_vector(dy, i, mask);
        __m512 r = vector_sigmoid(g), s = _mm512_mul_ps(g, r), e = _mm512_mul_ps(factor, d);
        lanes = _mm512_fmadd_ps(d, _mm512_mul_ps(s, u), lanes);
        __m512 slope = _mm512_mul_ps(r, _mm512_fmadd_ps(g, _mm512_sub_ps(one, r), one));
        row_store_vector(dgate, i, _mm512_mul_ps(_mm512_mul_ps(e, u), slope), mask);
        row_store_vector(dup, i, _mm512_mul_ps(e, s), mask);
    }
    return lanes_sum(lanes);
}

static float maximum(const float *x, int64_t n) {
    __m512 lowest = _mm512_set1_ps(-INFINITY), lanes = lowest;
    for (int64_t i = 0; i < n; i += LANES) {
        lanes = _mm512_max_ps(_mm512_mask_loadu_ps(lowest, lanes_mask(n - i), x + i),
                              lanes);   // of a NaN: the second operand
    }
    return lanes_maximum(lanes);
}

static float exp_sum(float *y, const float *x, float maximum_value, int64_t n) {
    __m512 shift = _mm512_set1_ps(maximum_value), lanes = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += LANES) {
        __mmask16 mask = lanes_mask(n - i);
        __m512 value = vector_exp(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), shift));
        lanes = _mm512_mask_add_ps(lanes, mask, lanes, value);
        if (y != NULL) {
            _mm512_mask_storeu_ps(y + i, mask, value);
        }
    }
    return lanes_sum(lanes);
}

static void softmax_gradient(struct row y, const float *x, float maximum_value, float inverse, float scale, int64_t n) {
    __m512 shift = _mm512_set1_ps(maximum_value), normal = _mm512_set1_ps(inverse), factor = _mm512_set1_ps(scale);
    for (int64_t i = 0; i < n; i += LANES) {
        __mmask16 mask = lanes_mask(n - i);
        __m512 value = vector_exp(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), shift));
        row_store_vector(y, i, _mm512_mul_ps(factor, _mm512_mul_ps(value, normal)), mask);
    }
}

static void sigmoid(float *y, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) {
        __mmask16 mask = lanes_mask(n - i);
        _mm512_mask_storeu_ps(y + i, mask, vector_sigmoid(_mm512_maskz_loadu_ps(mask, x + i)));
    }
}

static void copy(struct row y, struct row x, int64_t n) {
    if (y.format == x.format) {
        memmove(y.data, x.data, (size_t)n * (y.format == FORMAT_BF16 ? 2 : 4));
        return;
    }
    for (int64_t i = 0; i < n; i += LANES) {
        __mmask16 mask = lanes_mask(n - i);
        __m512 value = row_load_vector(x, i, mask);
        if (y.format == FORMAT_BF16) {
            _mm256_mask_storeu_epi16((uint16_t *)y.data + i, mask, bf16_narrow_any(value));
        } else {
            _mm512_mask_storeu_ps((float *)y.data + i, mask, value);
        }
    }
}

static void accumulate(float *y, struct row x, float weight, int64_t n) {
    __m512 factor = _mm512_set1_ps(weight);
    for (int64_t i = 0; i < n; i += LANES) {
        __mmask16 mask = lanes_mask(n - i);
        __m512 sum = _mm512_fmadd_ps(factor, row_load_vector(x, i, mask), _mm512_maskz_loadu_ps(mask, y + i));
        _mm512_mask_storeu_ps(y + i, mask, sum);
    }
}

static void adamw(float *master, struct row m, struct row v, struct row weight, const float *gradient,
                  const struct adamw_step *step, int64_t n) {
    __m512 beta1 = _mm512_set1_ps(step->beta1), rest1 = _mm512_set1_ps(1.0f - step->beta1);
    __m512 beta2 = _mm512_set1_ps(step->beta2), rest2 = _mm512_set1_ps(1.0f - step->beta2);
    __m512 correction1 = _mm512_set1_ps(step->correction1), correction2 = _mm512_set1_ps(step->correction2);
    __m512 scale = _mm512_set1_ps(step->gradient_scale), epsilon = _mm512_set1_ps(step->epsilon);
    __m512 decay = _mm512_set1_ps(step->weight_decay), rate = _mm512_set1_ps(-step->learning_rate);
    for (int64_t i = 0; i < n; i += LANES) {
        __mmask16 mask = lanes_mask(n - i);
        __m512 g = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, gradient + i), scale);
        __m512 first = _mm512_fmadd_ps(beta1, row_load_vector(m, i, mask), _mm512_mul_ps(rest1, g));
        __m512 second = _mm512_fmadd_ps(beta2, row_load_vector(v, i, mask), _mm512_mul_ps(_mm512_mul_ps(rest2, g), g));
        __m512 root = _mm512_add_ps(_mm512_sqrt_ps(_mm512_div_ps(second, correction2)), epsilon);
        __m512 ratio = _mm512_div_ps(_mm512_div_ps(first, correction1), root);
        __m512 w = _mm512_maskz_loadu_ps(mask, master + i);
        w = _mm512_fmadd_ps(rate, _mm512_fmadd_ps(decay, w, ratio), w);
        row_store_vector(m, i, first, mask);
        row_store_vector(v, i, second, mask);
        _mm512_mask_storeu_ps(master + i, mask, w);
        if (weight.data != NULL) {
            row_store_vector(weight, i, w, mask);
        }
    }
}

static void ema(float *average, const float *master, float decay, int64_t n) {
    __m512 keep = _mm512_set1_ps(decay), rest = _mm512_set1_ps(1.0f - decay);
    for (int64_t i = 0; i < n; i += LANES) {
        __mmask16 mask = lanes_mask(n - i);
        __m512 part = _mm512_mul_ps(rest, _mm512_maskz_loadu_ps(mask, master + i));
        _mm512_mask_storeu_ps(average + i, mask, _mm512_fmadd_ps(keep, _mm512_maskz_loadu_ps(mask, average + i), part));
    }
}

void kernels_avx512_row(struct cpu_kernels *kernels) {
    kernels->row = (struct row_kernels){
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
}
