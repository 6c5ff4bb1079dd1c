// AVX2 versions of the attention kernels (op/cpu/attention.h): one F32 term per word. BF16 operands are widened when
// they are packed; p and ds are rounded to BF16 and widened again.
#include <math.h>

#include "op/cpu/attention.h"
#include "op/cpu/avx2/lanes.h"
#include "op/cpu/kernels.h"
#include "op/cpu/unroll.h"

#define FOLD static inline __attribute__((always_inline))
#define VECTORS (KEY_ROWS / SUM_LANES)

// Eight elements of a row of which `left` are left, zeros behind its end.
FOLD __m256 load_eight(struct row row, int64_t i, int64_t left) {
    if (row.format == FORMAT_F32) {
        const float *x = (const float *)row.data + i;
        return left >= 8 ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, lanes_mask(left, 0));
    }
    uint16_t end[8] = {0};
    const uint16_t *x = (const uint16_t *)row.data + i;
    for (int64_t l = 0; left < 8 && l < left; l++) {
        end[l] = x[l];
    }
    return bf16_widen_vector(_mm_loadu_si128((const __m128i *)(const void *)(left < 8 ? end : x)));
}

// 8 x 8: row r, column c -> row c, column r. Interleaves pairs, then quadruples, then halves of registers.
FOLD void transpose(__m256 v[8]) {
    __m256 t[8];
    UNROLL
    for (int i = 0; i < 8; i += 4) {
        __m256 a = _mm256_unpacklo_ps(v[i], v[i + 1]), b = _mm256_unpackhi_ps(v[i], v[i + 1]);
        __m256 c = _mm256_unpacklo_ps(v[i + 2], v[i + 3]), d = _mm256_unpackhi_ps(v[i + 2], v[i + 3]);
        t[i] = _mm256_shuffle_ps(a, c, 0x44);
        t[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
        t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
        t[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x20);
        v[i + 4] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x31);
    }
}

static void pack_lanes(uint32_t *lanes, struct row first, int64_t stride, int64_t width, int64_t count) {
    for (int64_t j = 0; j < KEY_ROWS; j += 8) {
        for (int64_t w = 0; w < width; w += 8) {
            __m256 v[8];
            UNROLL
            for (int r = 0; r < 8; r++) {
                v[r] = j + r < count ? load_eight(row_advance(first, (j + r) * stride), w, width - w)
                                     : _mm256_setzero_ps();
            }
            transpose(v);
            UNROLL
            for (int r = 0; r < 8; r++) {
                if (w + r < width) {
                    _mm256_storeu_ps((float *)lanes + (w + r) * KEY_ROWS + j, v[r]);
                }
            }
        }
    }
}

static void pack_rows(uint32_t *packed, int64_t packed_stride, struct row first, int64_t stride, int64_t width,
                      int64_t count) {
    for (int64_t j = 0; j < count; j++) {
        struct row row = row_advance(first, j * stride);
        for (int64_t c = 0; c < width; c += SUM_LANES) {
            lanes_store_floats((float *)packed + j * packed_stride, c, width - c, lanes_load(row, c, width - c));
        }
    }
}

// The chains of `rows` rows and 16 columns over `terms` terms, from sum or from zero: sum[r][0..15] += a[r][i] *
// b[i][0..15].
FOLD void chain_tile(float *sum, int64_t sum_stride, const float *a, int64_t row_stride, int64_t term_stride,
                     const float *b, int64_t b_stride, int64_t terms, int rows, bool from_zero) {
    struct lanes chain[6];
    UNROLL
    for (int r = 0; r < rows; r++) {
        chain[r] = from_zero ? lanes_set(0.0f) : lanes_load_floats(sum + r * sum_stride, 0, SUM_LANES);
    }
    for (int64_t i = 0; i < terms; i++) {
        struct lanes column = lanes_load_floats(b + i * b_stride, 0, SUM_LANES);
        UNROLL
        for (int r = 0; r < rows; r++) {
            chain[r] = lanes_multiply_add(lanes_set(a[r * row_stride + i * term_stride]), column, chain[r]);
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        lanes_store_floats(sum + r * sum_stride, 0, SUM_LANES, chain[r]);
    }
}

FOLD void chain_strip(float *sum, int64_t sum_stride, const float *a, int64_t row_stride, int64_t term_stride,
                      const float *b, int64_t b_stride, int64_t terms, int64_t rows, bool from_zero) {
    int64_t r = 0;
    for (; r + 6 <= rows; r += 6) {
        chain_tile(sum + r * sum_stride, sum_stride, a + r * row_stride, row_stride, term_stride, b, b_stride, terms, 6,
                   from_zero);
    }
    for (; r + 2 <= rows; r += 2) {
        chain_tile(sum + r * sum_stride, sum_stride, a + r * row_stride, row_stride, term_stride, b, b_stride, terms, 2,
                   from_zero);
    }
    if (r < rows) {
        chain_tile(sum + r * sum_stride, sum_stride, a + r * row_stride, row_stride, term_stride, b, b_stride, terms, 1,
                   from_zero);
    }
}

static void scores(float *score, const uint32_t *queries, const uint32_t *lanes, int64_t rows, int64_t words,
                   int64_t keys) {
    for (int64_t j = 0; j < keys; j += SUM_LANES) {
        chain_strip(score + j, KEY_ROWS, (const float *)queries, words, 1, (const float *)lanes + j, KEY_ROWS, words,
                    rows, true);
    }
}

static void accumulate(float *sum, const uint32_t *factor, int64_t row_stride, int64_t word_stride,
                       const uint32_t *packed, int64_t width, int64_t rows, int64_t terms) {
    for (int64_t c = 0; c < width; c += SUM_LANES) {
        chain_strip(sum + c, width, (const float *)factor, row_stride, word_stride, (const float *)packed + c, width,
                    terms, rows, false);
    }
}

FOLD struct lanes rounded(struct lanes a, bool bf16) {
    if (!bf16) {
        return a;
    }
    return lanes_make(bf16_widen_vector(bf16_narrow_vector(a.low)), bf16_widen_vector(bf16_narrow_vector(a.high)));
}

FOLD float softmax(float *factor, float *maximum, float *sum, const float *score, int64_t visible, float scale,
                   bool bf16) {
    struct lanes value[VECTORS], largest_lanes = lanes_set(-INFINITY), total = lanes_set(0.0f);
    UNROLL
    for (int v = 0; v < VECTORS; v++) {
        value[v] = lanes_multiply(lanes_load_floats(score, v * SUM_LANES, SUM_LANES), lanes_set(scale));
        largest_lanes = lanes_larger(lanes_fill(value[v], visible - v * SUM_LANES, -INFINITY), largest_lanes);
    }
    float before = *maximum, largest = lanes_largest(largest_lanes);
    largest = largest > before ? largest : before;
    UNROLL
    for (int v = 0; v < VECTORS; v++) {
        struct lanes p = lanes_exp(lanes_subtract(value[v], lanes_set(largest)));
        p = lanes_fill(p, visible - v * SUM_LANES, 0.0f);
        total = lanes_add(total, p);
        lanes_store_floats(factor, v * SUM_LANES, SUM_LANES, rounded(p, bf16));
    }
    float correction = _mm256_cvtss_f32(vector_exp(_mm256_set1_ps(before - largest)));
    *maximum = largest;
    *sum = fmaf(*sum, correction, lanes_sum(total));
    return correction;
}

FOLD void gradient(float *p_columns, float *ds_columns, const float *score, const float *dp, const float *lse,
                   const float *delta, int64_t rows, bool diagonal, float scale, bool bf16) {
    struct lanes factor = lanes_set(scale);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < KEY_ROWS; j += SUM_LANES) {
            int64_t at = i * KEY_ROWS + j, visible = diagonal ? i + 1 - j : SUM_LANES;
            struct lanes s = lanes_multiply(lanes_load_floats(score, at, SUM_LANES), factor);
            struct lanes p = lanes_exp(lanes_subtract(s, lanes_set(lse[i])));
            struct lanes slope = lanes_subtract(lanes_load_floats(dp, at, SUM_LANES), lanes_set(delta[i]));
            struct lanes ds = lanes_multiply(lanes_multiply(p, slope), factor);
            lanes_store_floats(p_columns, at, SUM_LANES, lanes_fill(rounded(p, bf16), visible, 0.0f));
            lanes_store_floats(ds_columns, at, SUM_LANES, lanes_fill(rounded(ds, bf16), visible, 0.0f));
        }
    }
}

static void scale_row(float *y, float factor, int64_t n) {
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        lanes_store_floats(y, i, n - i, lanes_multiply(lanes_load_floats(y, i, n - i), lanes_set(factor)));
    }
}

static void fold(float *y, float kept, const float *x, float added, int64_t n) {
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        struct lanes value = lanes_multiply(lanes_load_floats(x, i, n - i), lanes_set(added));
        lanes_store_floats(y, i, n - i, lanes_multiply_add(lanes_load_floats(y, i, n - i), lanes_set(kept), value));
    }
}

static void finish(struct row y, const float *x, float divisor, int64_t n) {
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        struct lanes value = lanes_divide(lanes_load_floats(x, i, n - i), lanes_set(divisor));
        lanes_store(y, i, n - i, lanes_add(value, lanes_set(0.0f)));
    }
}

static float softmax_f32(uint32_t *factor, float *maximum, float *sum, const float *score, int64_t visible,
                         float scale) {
    return softmax((float *)factor, maximum, sum, score, visible, scale, false);
}

static float softmax_bf16(uint32_t *factor, float *maximum, float *sum, const float *score, int64_t visible,
                          float scale) {
    return softmax((float *)factor, maximum, sum, score, visible, scale, true);
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

void kernels_avx2_attention(struct cpu_kernels *kernels) {
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
