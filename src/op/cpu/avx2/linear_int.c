// AVX2 kernels of products with integer weights (tensor/int_groups.h): eight columns at a time, a code at a time as
// F32.
#include <immintrin.h>
#include <stdint.h>

#include "op/cpu/kernels.h"
#include "op/cpu/unroll.h"
#include "tensor/formats.h"
#include "tensor/int_groups.h"

#define VECTOR 8
#define HALF_SLAB (INT_SLAB_BYTES / 2)

#define INLINE static inline __attribute__((always_inline))

// Code j of eight lanes as F32.
INLINE __m256 lane_codes(const uint8_t *lanes, const enum format format, const int j) {
    const int width = format == FORMAT_INT4 ? 4 : 8, shift = 16 * (1 - j % 2) + width * (j / 2);
    __m256i bits = _mm256_loadu_si256((const __m256i *)(const void *)lanes);
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(bits, 32 - width - shift), 32 - width));
}

INLINE __m256 load_scales(const uint16_t *scales) {
    __m128i words = _mm_loadu_si128((const __m128i *)(const void *)scales);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(words), 16));
}

INLINE void pack_lanes(const struct linear_strip *strip, const enum format format) {
    const int depth = (int)int_slab_depth(format);
    const struct tensor *weight = strip->source->integers;
    for (int64_t first = 0; first < strip->rows; first += VECTOR) {
        const int64_t row = strip->row + first;
        const int64_t tile = row / INT_TILE_ROWS, stride = int_slab_stride(weight, tile), group = int_group(format);
        float *out = (float *)(void *)(strip->out + first);
        for (int64_t k = strip->k_begin; k < strip->k_end; k += depth) {
            const uint8_t *lanes = int_slabs(weight, tile, k / group) + k % group / depth * stride +
                                   row % INT_TILE_ROWS / VECTOR * HALF_SLAB;
            UNROLL
            for (int j = 0; j < depth; j++) {
                if (k + j < strip->k_end) {
                    _mm256_storeu_ps(out, lane_codes(lanes, format, j));
                    out += strip->unit_stride;
                }
            }
        }
    }
}

static void pack_columns_int(const struct linear_strip *strip) {
    if (strip->source->format == FORMAT_INT4) {
        pack_lanes(strip, FORMAT_INT4);
    } else {
        pack_lanes(strip, FORMAT_INT8);
    }
}

// `rows` rows of a, columns 8 half .. 8 half + 7 of the tile.
INLINE void tile_half(const struct linear_tile *tile, const enum format format, const int rows, int64_t half) {
    const struct tensor *weight = tile->mapped->integers;
    const int depth = (int)int_slab_depth(format);
    const int64_t group = int_group(format), tile_number = (tile->column + half * VECTOR) / INT_TILE_ROWS;
    const int64_t stride = int_slab_stride(weight, tile_number);
    float *const c = tile->c + half * VECTOR;
    __m256 total[LINEAR_MAX_MAPPED], sum[LINEAR_MAX_MAPPED];
    UNROLL
    for (int i = 0; i < rows; i++) {
        total[i] = tile->add ? _mm256_loadu_ps(c + i * tile->c_stride) : _mm256_setzero_ps();
    }
    for (int64_t begin = 0; begin < tile->depth; begin += group) {
        const uint8_t *lanes = int_slabs(weight, tile_number, begin / group) + half % 2 * HALF_SLAB;
        int64_t end = begin + group < tile->depth ? begin + group : tile->depth;
        UNROLL
        for (int i = 0; i < rows; i++) {
            sum[i] = _mm256_setzero_ps();
        }
        for (int64_t k = begin; k < end; k += depth, lanes += stride) {
            const float *x = (const float *)(const void *)tile->a + k / LINEAR_CHUNK * LINEAR_CHUNK * tile->rows +
                             k % LINEAR_CHUNK;
            UNROLL
            for (int j = 0; j < depth; j++) {
                if (k + j < end) {
                    __m256 code = lane_codes(lanes, format, j);
                    UNROLL
                    for (int i = 0; i < rows; i++) {
                        sum[i] = _mm256_fmadd_ps(_mm256_broadcast_ss(x + i * LINEAR_CHUNK + j), code, sum[i]);
                    }
                }
            }
        }
        __m256 scale = load_scales(int_scales(weight, tile_number, begin / group) + half % 2 * VECTOR);
        UNROLL
        for (int i = 0; i < rows; i++) {
            total[i] = _mm256_fmadd_ps(sum[i], scale, total[i]);
        }
    }
    UNROLL
    for (int i = 0; i < rows; i++) {
        _mm256_storeu_ps(c + i * tile->c_stride, total[i]);
    }
}

// Rows are computed as 1, 2, 4 or 8: those beyond tile->rows read what follows in a and end in rows of c that nobody
// reads.
INLINE void tile_format(const struct linear_tile *tile, const enum format format) {
    for (int64_t half = 0; half * VECTOR < tile->columns; half++) {
        if (tile->rows == 1) {
            tile_half(tile, format, 1, half);
        } else if (tile->rows == 2) {
            tile_half(tile, format, 2, half);
        } else if (tile->rows <= 4) {
            tile_half(tile, format, 4, half);
        } else {
            tile_half(tile, format, 8, half);
        }
    }
}

static void tile_int(const struct linear_tile *tile) {
    if (tile->mapped->format == FORMAT_INT4) {
        tile_format(tile, FORMAT_INT4);
    } else {
        tile_format(tile, FORMAT_INT8);
    }
}

void kernels_avx2_linear_int(struct cpu_kernels *kernels) {
    kernels->linear.pack_columns_int = pack_columns_int;
    kernels->linear.tile_int = tile_int;
}
