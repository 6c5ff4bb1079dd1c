// AVX2 kernels of the matrix products. All operands become F32 units; tiles are up to 6 rows x 16 columns: 12
// accumulators, two vectors of b and one broadcast of a in 16 registers.
#include <immintrin.h>
#include <stddef.h>
#include <string.h>

#include "op/cpu/kernels.h"
#include "op/cpu/unroll.h"
#include "tensor/formats.h"

#define ROWS 6
#define COLUMNS 16
#define VECTOR 8

#define INLINE static inline __attribute__((always_inline))

static float e4m3_values[256];

// ---- Loading and transposing ----------------------------------------------------------------------------------------

INLINE int64_t element_bytes(enum format format) {
    return format == FORMAT_F32 ? 4 : format == FORMAT_BF16 ? 2 : 1;
}

// Eight consecutive elements, widened.
INLINE __m256 load_eight(enum format format, const char *from) {
    if (format == FORMAT_F32) {
        return _mm256_loadu_ps((const float *)(const void *)from);
    }
    if (format == FORMAT_BF16) {
        __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)from));
        return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
    }
    __m256i codes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)from));
    return _mm256_i32gather_ps(e4m3_values, codes, 4);
}

// The first `count` of them; the rest are zeros and their memory is not touched. A panel of 6 rows that are contiguous
// takes this way all the time.
INLINE __m256 load_some(enum format format, const char *from, int64_t count) {
    static const int32_t masks[2 * VECTOR] = {-1, -1, -1, -1, -1, -1, -1, -1};
    if (count >= VECTOR) {
        return load_eight(format, from);
    }
    if (format == FORMAT_F32) {
        __m256i mask = _mm256_loadu_si256((const __m256i *)(const void *)(masks + VECTOR - (count > 0 ? count : 0)));
        return _mm256_maskload_ps((const float *)(const void *)from, mask);
    }
    if (format == FORMAT_BF16 && count > 0 && count % 2 == 0) {
        __m128i mask = _mm_loadu_si128((const __m128i *)(const void *)(masks + VECTOR - count / 2));
        __m256i words = _mm256_cvtepu16_epi32(_mm_maskload_epi32((const int *)(const void *)from, mask));
        return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
    }
    char copy[VECTOR * 4] = {0};
    if (count > 0) {
        memcpy(copy, from, (size_t)(count * element_bytes(format)));
    }
    return load_eight(format, copy);
}

// v[i] lane j -> v[j] lane i.
INLINE void transpose(__m256 v[VECTOR]) {
    __m256 t[VECTOR], s[VECTOR];
    UNROLL
    for (int i = 0; i < VECTOR; i += 2) {
        t[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
    }
    UNROLL
    for (int i = 0; i < VECTOR; i += 4) {
        s[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        s[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        s[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        s[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_permute2f128_ps(s[i], s[4 + i], 0x20);
        v[4 + i] = _mm256_permute2f128_ps(s[i], s[4 + i], 0x31);
    }
}

// A block of up to 8 rows x 8 units. `by_row`: v[i] = units of row i; else v[i] = rows of unit i. What is missing is
// zero.
INLINE void load_block(__m256 v[VECTOR], enum format format, bool along_k, bool by_row,
                       const struct linear_operand *source, int64_t row, int64_t rows, int64_t k, int64_t count) {
    const int64_t row_bytes = source->row_stride * element_bytes(format),
                  k_bytes = source->k_stride * element_bytes(format);
    const char *from = source->data + row * row_bytes + k * k_bytes;
    const int64_t vectors = along_k ? rows : count, inside = along_k ? count : rows,
                  stride = along_k ? row_bytes : k_bytes;
    if (vectors >= VECTOR && inside >= VECTOR) {
        UNROLL
        for (int i = 0; i < VECTOR; i++) {
            v[i] = load_eight(format, from + i * stride);
        }
    } else {
        UNROLL
        for (int i = 0; i < VECTOR; i++) {
            v[i] = i < vectors ? load_some(format, from + i * stride, inside) : _mm256_setzero_ps();
        }
    }
    if (along_k != by_row) {
        transpose(v);
    }
}

// ---- Packing --------------------------------------------------------------------------------------------------------

// Panels have up to 16 rows and chunks 16 units: up to two blocks each way.
INLINE void pack_strip(const struct linear_strip *strip, enum format format, bool along_k, bool as_rows) {
    for (int64_t row = 0; row < strip->rows; row += VECTOR) {
        int64_t rows = strip->rows - row < VECTOR ? strip->rows - row : VECTOR, unit = 0;
        for (int64_t k = strip->k_begin; k < strip->k_end; k += VECTOR, unit += VECTOR) {
            int64_t count = strip->k_end - k < VECTOR ? strip->k_end - k : VECTOR;
            __m256 v[VECTOR];
            load_block(v, format, along_k, as_rows, strip->source, strip->row + row, rows, k, count);
            uint32_t *out = as_rows ? strip->out + unit / LINEAR_CHUNK * strip->chunk_stride + row * LINEAR_CHUNK +
                                          unit % LINEAR_CHUNK
                                    : strip->out + unit * strip->unit_stride + row;
            int64_t stride = as_rows ? LINEAR_CHUNK : strip->unit_stride, vectors = as_rows ? rows : count;
            UNROLL
            for (int i = 0; i < VECTOR; i++) {
                if (i < vectors) {
                    _mm256_store_ps((float *)(void *)(out + i * stride), v[i]);
                }
            }
        }
    }
}

INLINE void pack_any(const struct linear_strip *strip, bool as_rows) {
    const enum format format = strip->source->format;
    if (strip->source->k_stride == 1 && format == FORMAT_F32) {
        pack_strip(strip, FORMAT_F32, true, as_rows);
    } else if (strip->source->k_stride == 1 && format == FORMAT_BF16) {
        pack_strip(strip, FORMAT_BF16, true, as_rows);
    } else if (strip->source->k_stride == 1) {
        pack_strip(strip, FORMAT_E4M3_BLOCK, true, as_rows);
    } else if (strip->source->row_stride == 1 && format == FORMAT_F32) {
        pack_strip(strip, FORMAT_F32, false, as_rows);
    } else if (strip->source->row_stride == 1 && format == FORMAT_BF16) {
        pack_strip(strip, FORMAT_BF16, false, as_rows);
    } else if (strip->source->row_stride == 1) {
        pack_strip(strip, FORMAT_E4M3_BLOCK, false, as_rows);
    } else if (as_rows) {
        linear_pack_rows_scalar(strip);
    } else {
        linear_pack_columns_scalar(strip);
    }
}

static void pack_rows(const struct linear_strip *strip) {
    pack_any(strip, true);
}

static void pack_columns(const struct linear_strip *strip) {
    pack_any(strip, false);
}

// ---- Tiles of packed operands ---------------------------------------------------------------------------------------

// One unit: all accumulators advance by one product.
INLINE void step(__m256 sum[ROWS][2], const float *a, const float *b, const int rows, const int vectors) {
    __m256 b0 = _mm256_load_ps(b), b1 = vectors > 1 ? _mm256_load_ps(b + VECTOR) : b0;
    UNROLL
    for (int i = 0; i < rows; i++) {
        __m256 x = _mm256_broadcast_ss(a + i * LINEAR_CHUNK);
        sum[i][0] = _mm256_fmadd_ps(x, b0, sum[i][0]);
        if (vectors > 1) {
            sum[i][1] = _mm256_fmadd_ps(x, b1, sum[i][1]);
        }
    }
}

INLINE void tile_any(const struct linear_tile *tile, const int rows, const int vectors) {
    const float *a = (const float *)(const void *)tile->a, *b = (const float *)(const void *)tile->b;
    float *const c = tile->c;
    const int64_t stride = tile->c_stride;
    const bool scaled = tile->row_scale != NULL;
    const int64_t block = scaled ? tile->scale_depth : tile->units, chunks = tile->units / LINEAR_CHUNK;
    const int64_t ask = chunks == 0 ? 0 : (tile->ahead_lines + chunks - 1) / chunks;
    const uint32_t *ahead = tile->ahead, *const ahead_end = ahead + tile->ahead_lines * LINEAR_CHUNK;
    for (int64_t begin = 0; begin < tile->units; begin += block) {
        __m256 sum[ROWS][2];
        bool load = !scaled && tile->add;
        UNROLL
        for (int i = 0; i < rows; i++) {
            UNROLL
            for (int j = 0; j < vectors; j++) {
                sum[i][j] = load ? _mm256_loadu_ps(c + i * stride + j * VECTOR) : _mm256_setzero_ps();
            }
        }
        int64_t units = tile->units - begin < block ? tile->units - begin : block;
        for (int64_t chunk = units / LINEAR_CHUNK; chunk > 0; chunk--) {
            for (int64_t line = 0; line < ask && ahead < ahead_end; line++, ahead += LINEAR_CHUNK) {
                _mm_prefetch((const char *)ahead, _MM_HINT_T1);
            }
            for (int part = 0; part < LINEAR_CHUNK; part += 4) {
                UNROLL
                for (int i = 0; i < 4; i++) {
                    step(sum, a + i, b + i * COLUMNS, rows, vectors);
                }
                a += 4;
                b += 4 * COLUMNS;
            }
            a += (rows - 1) * LINEAR_CHUNK;
        }
        for (int64_t rest = units % LINEAR_CHUNK; rest > 0; rest--) {
            step(sum, a, b, rows, vectors);
            a++;
            b += COLUMNS;
        }
        if (scaled) {
            const float *row_scale = tile->row_scale + begin / block * LINEAR_MAX_ROWS;
            const float *column_scale = tile->column_scale + begin / block * LINEAR_MAX_COLUMNS;
            bool start = begin == 0 && !tile->add;
            UNROLL
            for (int i = 0; i < rows; i++) {
                __m256 factor = _mm256_set1_ps(row_scale[i]);
                UNROLL
                for (int j = 0; j < vectors; j++) {
                    __m256 scale = _mm256_mul_ps(factor, _mm256_loadu_ps(column_scale + j * VECTOR));
                    __m256 total = start ? _mm256_setzero_ps() : _mm256_loadu_ps(c + i * stride + j * VECTOR);
                    sum[i][j] = _mm256_fmadd_ps(sum[i][j], scale, total);
                }
            }
        }
        UNROLL
        for (int i = 0; i < rows; i++) {
            UNROLL
            for (int j = 0; j < vectors; j++) {
                _mm256_storeu_ps(c + i * stride + j * VECTOR, sum[i][j]);
            }
        }
    }
}

#define TILE(rows)                                                \
    static void tile_##rows##_1(const struct linear_tile *tile) { \
        tile_any(tile, rows, 1);                                  \
    }                                                             \
    static void tile_##rows##_2(const struct linear_tile *tile) { \
        tile_any(tile, rows, 2);                                  \
    }
TILE(1)
TILE(2)
TILE(3)
TILE(4)
TILE(5)
TILE(6)

static void (*const tiles[ROWS + 1][2])(const struct linear_tile *tile) = {
    {NULL, NULL},         {tile_1_1, tile_1_2}, {tile_2_1, tile_2_2}, {tile_3_1, tile_3_2},
    {tile_4_1, tile_4_2}, {tile_5_1, tile_5_2}, {tile_6_1, tile_6_2},
};

static void tile_packed(const struct linear_tile *tile) {
    tiles[tile->rows][tile->columns > VECTOR](tile);
}

// ---- Tiles that read b where it lies: 8 columns, few rows -----------------------------------------------------------

// Rows are computed as 1, 2, 4 or 8: those beyond tile->rows read what follows in a and end in rows of c that nobody
// reads.
INLINE void tile_mapped_any(const struct linear_tile *tile, const int rows, const enum format format,
                            const bool along_k) {
    const float *a = (const float *)(const void *)tile->a;
    const bool scaled = format == FORMAT_E4M3_BLOCK;
    float *const c = tile->c;
    __m256 sum[LINEAR_MAX_MAPPED];
    UNROLL
    for (int i = 0; i < rows; i++) {
        sum[i] = !scaled && tile->add ? _mm256_loadu_ps(c + i * tile->c_stride) : _mm256_setzero_ps();
    }
    for (int64_t k = 0; k < tile->depth; k += VECTOR) {
        int64_t count = tile->depth - k < VECTOR ? tile->depth - k : VECTOR;
        __m256 v[VECTOR];
        load_block(v, format, along_k, false, tile->mapped, tile->column, tile->columns, k, count);
        UNROLL
        for (int u = 0; u < VECTOR; u++) {
            if (u < count) {
                UNROLL
                for (int i = 0; i < rows; i++) {
                    sum[i] = _mm256_fmadd_ps(_mm256_broadcast_ss(a + i * LINEAR_CHUNK + u), v[u], sum[i]);
                }
            }
        }
        a += k % LINEAR_CHUNK == 0 ? VECTOR : tile->rows * LINEAR_CHUNK - VECTOR;
        if (scaled && (k % BLOCK_SIZE == BLOCK_SIZE - VECTOR || k + VECTOR >= tile->depth)) {
            __m256 scale = _mm256_set1_ps(tile->scale[k / BLOCK_SIZE]);
            UNROLL
            for (int i = 0; i < rows; i++) {
                float *to = c + i * tile->c_stride;
                __m256 total = k < BLOCK_SIZE && !tile->add ? _mm256_setzero_ps() : _mm256_loadu_ps(to);
                _mm256_storeu_ps(to, _mm256_fmadd_ps(sum[i], scale, total));
                sum[i] = _mm256_setzero_ps();
            }
        }
    }
    if (!scaled) {
        UNROLL
        for (int i = 0; i < rows; i++) {
            _mm256_storeu_ps(c + i * tile->c_stride, sum[i]);
        }
    }
}

INLINE void tile_mapped_rows(const struct linear_tile *tile, const enum format format, const bool along_k) {
    if (tile->rows == 1) {
        tile_mapped_any(tile, 1, format, along_k);
    } else if (tile->rows == 2) {
        tile_mapped_any(tile, 2, format, along_k);
    } else if (tile->rows <= 4) {
        tile_mapped_any(tile, 4, format, along_k);
    } else {
        tile_mapped_any(tile, 8, format, along_k);
    }
}

static void tile_mapped(const struct linear_tile *tile) {
    const enum format format = tile->mapped->format;
    if (tile->mapped->k_stride == 1 && format == FORMAT_F32) {
        tile_mapped_rows(tile, FORMAT_F32, true);
    } else if (tile->mapped->k_stride == 1 && format == FORMAT_BF16) {
        tile_mapped_rows(tile, FORMAT_BF16, true);
    } else if (tile->mapped->k_stride == 1) {
        tile_mapped_rows(tile, FORMAT_E4M3_BLOCK, true);
    } else if (format == FORMAT_F32) {
        tile_mapped_rows(tile, FORMAT_F32, false);
    } else if (format == FORMAT_BF16) {
        tile_mapped_rows(tile, FORMAT_BF16, false);
    } else {
        tile_mapped_rows(tile, FORMAT_E4M3_BLOCK, false);
    }
}

void kernels_avx2_linear(struct cpu_kernels *kernels) {
    for (int code = 0; code < 256; code++) {
        e4m3_values[code] = e4m3_widen((uint8_t)code);
    }
    struct linear_kernels *linear = &kernels->linear;
    linear->tile_rows = ROWS;
    linear->tile_columns = COLUMNS;
    linear->mapped_columns = VECTOR;
    linear->pack_rows = pack_rows;
    linear->pack_columns = pack_columns;
    linear->tile = tile_packed;
    linear->tile_mapped = tile_mapped;
}
