// Scalar reference of the attention kernels (attention.h), one F32 term per word. BF16 operands are widened when they
// are packed; p and ds are then rounded to BF16 and widened again.
#include <math.h>
#include <string.h>

#include "base/math.h"
#include "op/cpu/attention.h"
#include "op/cpu/kernels.h"

static void pack_lanes(uint32_t *lanes, struct row first, int64_t stride, int64_t width, int64_t count) {
    float *to = (float *)lanes;
    for (int64_t j = 0; j < KEY_ROWS; j++) {
        struct row row = row_advance(first, j < count ? j * stride : 0);
        for (int64_t i = 0; i < width; i++) {
            to[i * KEY_ROWS + j] = j < count ? row_load(row, i) : 0.0f;
        }
    }
}

static void pack_rows(uint32_t *packed, int64_t packed_stride, struct row first, int64_t stride, int64_t width,
                      int64_t count) {
    for (int64_t j = 0; j < count; j++) {
        struct row row = row_advance(first, j * stride);
        float *to = (float *)packed + j * packed_stride;
        for (int64_t i = 0; i < width; i++) {
            to[i] = row_load(row, i);
        }
    }
}

static void scores(float *score, const uint32_t *queries, const uint32_t *lanes, int64_t rows, int64_t words,
                   int64_t keys) {
    const float *q = (const float *)queries, *k = (const float *)lanes;
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t j = 0; j < keys; j++) {
            float chain = 0.0f;
            for (int64_t i = 0; i < words; i++) {
                chain = fmaf(q[r * words + i], k[i * KEY_ROWS + j], chain);
            }
            score[r * KEY_ROWS + j] = chain;
        }
    }
}

static void accumulate(float *sum, const uint32_t *factor, int64_t row_stride, int64_t word_stride,
                       const uint32_t *packed, int64_t width, int64_t rows, int64_t terms) {
    const float *a = (const float *)factor, *b = (const float *)packed;
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < terms; i++) {
            float value = a[r * row_stride + i * word_stride];
            for (int64_t c = 0; c < width; c++) {
                sum[r * width + c] = fmaf(value, b[i * width + c], sum[r * width + c]);
            }
        }
    }
}

static float rounded(float value, bool bf16) {
    return bf16 ? bf16_widen(bf16_narrow(value)) : value;
}

static float softmax(float *p, float *maximum, float *sum, const float *score, int64_t visible, float scale,
                     bool bf16) {
    float lane[SUM_LANES], before = *maximum, largest = before;
    for (int64_t j = 0; j < visible; j++) {
        float value = score[j] * scale;
        largest = value > largest ? value : largest;
    }
    memset(lane, 0, sizeof lane);
    for (int64_t j = 0; j < KEY_ROWS; j++) {
        float value = j < visible ? math_exp(score[j] * scale - largest) : 0.0f;
        lane[j % SUM_LANES] += value;
        p[j] = rounded(value, bf16);
    }
    float correction = math_exp(before - largest);
    *maximum = largest;
    *sum = fmaf(*sum, correction, lane_tree(lane));
    return correction;
}

static float softmax_f32(uint32_t *factor, float *maximum, float *sum, const float *score, int64_t visible,
                         float scale) {
    return softmax((float *)factor, maximum, sum, score, visible, scale, false);
}

static float softmax_bf16(uint32_t *factor, float *maximum, float *sum, const float *score, int64_t visible,
                          float scale) {
    return softmax((float *)factor, maximum, sum, score, visible, scale, true);
}

static void gradient(float *p, float *ds, const float *score, const float *dp, const float *lse, const float *delta,
                     int64_t rows, bool diagonal, float scale, bool bf16) {
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < KEY_ROWS; j++) {
            bool visible = !diagonal || j <= i;
            float value = math_exp(score[i * KEY_ROWS + j] * scale - lse[i]);
            float slope = value * (dp[i * KEY_ROWS + j] - delta[i]) * scale;
            p[i * KEY_ROWS + j] = visible ? rounded(value, bf16) : 0.0f;
            ds[i * KEY_ROWS + j] = visible ? rounded(slope, bf16) : 0.0f;
        }
    }
}

static void gradient_f32(uint32_t *p_columns, uint32_t *ds_columns, uint32_t *ds_rows, const float *score,
                         const float *dp, const float *lse, const float *delta, int64_t rows, bool diagonal,
                         float scale) {
    (void)ds_rows;   // the same array as ds_columns
    gradient((float *)p_columns, (float *)ds_columns, score, dp, lse, delta, rows, diagonal, scale, false);
}

static void gradient_bf16(uint32_t *p_columns, uint32_t *ds_columns, uint32_t *ds_rows, const float *score,
                          const float *dp, const float *lse, const float *delta, int64_t rows, bool diagonal,
                          float scale) {
    (void)ds_rows;
    gradient((float *)p_columns, (float *)ds_columns, score, dp, lse, delta, rows, diagonal, scale, true);
}

static void scale_row(float *y, float factor, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        y[i] *= factor;
    }
}

static void fold(float *y, float kept, const float *x, float added, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        y[i] = fmaf(y[i], kept, x[i] * added);
    }
}

static void finish(struct row y, const float *x, float divisor, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        row_store(y, i, x[i] / divisor + 0.0f);
    }
}

void kernels_scalar_attention(struct cpu_kernels *kernels) {
    struct attention_kernels table = {
        .step = 1,
        .pack_lanes = pack_lanes,
        .pack_rows = pack_rows,
        .pack_queries = pack_rows,
        .scores = scores,
        .accumulate = accumulate,
        .softmax = softmax_f32,
        .gradient = gradient_f32,
        .scale = scale_row,
        .fold = fold,
        .finish = finish,
    };
    kernels->attention_f32 = table;
    table.softmax = softmax_bf16;
    table.gradient = gradient_bf16;
    kernels->attention_bf16 = table;
}
