// AVX-512 kernels of the matrix products: F32 by fused multiply-add, BF16 pairs by vdpbf16ps (two FP32 FMAs, the high
// halves first, flushing subnormals: the same chain as the scalar kernels').
//
// Tiles are up to 14 rows x 32 columns: 28 accumulators, two vectors of b and one broadcast of a fill the 32 registers.
#include <immintrin.h>
#include <stddef.h>
#include <string.h>

#include "base/error.h"
#include "op/cpu/kernels.h"
#include "tensor/formats.h"

#define ROWS 14
#define COLUMNS 32
#define VECTOR 16

#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define INLINE static inline __attribute__((always_inline))

// ---- Loading 16 units of an operand ---------------------------------------------------------------------------------

// Upper and lower byte of the BF16 value of every E4M3 magnitude.
struct e4m3_table {
    __m512i high[2], low[2];
};
static uint8_t e4m3_high[128], e4m3_low[128];
// For each 32-bit lane of four codes, whose upper and lower bytes are two vectors: the bytes of the pair of the first
// two codes, lowest first: low and high byte of the second BF16, then of the first (64 and more: lower bytes).
static uint8_t e4m3_pair[64];

INLINE struct e4m3_table e4m3_table_load(void) {
    struct e4m3_table table = {{_mm512_loadu_si512(e4m3_high), _mm512_loadu_si512(e4m3_high + 64)},
                               {_mm512_loadu_si512(e4m3_low), _mm512_loadu_si512(e4m3_low + 64)}};
    return table;
}

// One E4M3 in the low byte of each 16-bit lane -> BF16.
INLINE __m512i e4m3_to_bf16(const struct e4m3_table *table, __m512i bytes) {
    __m512i high = _mm512_permutex2var_epi8(table->high[0], bytes, table->high[1]);
    __m512i low = _mm512_permutex2var_epi8(table->low[0], bytes, table->low[1]);
    // The index 0 of the upper byte gives 0 for a magnitude of 0, so that only the low byte of each lane counts.
    __m512i word = _mm512_or_si512(_mm512_slli_epi16(high, 8), low);
    return _mm512_or_si512(word, _mm512_slli_epi16(_mm512_and_si512(bytes, _mm512_set1_epi16(0x80)), 8));
}

// Units k .. of one row, k contiguous; `count` k are there (any number >= 1 beyond which zeros are read).
INLINE __m512i load_along_k(enum format format, enum linear_unit unit, const struct e4m3_table *table, const char *from,
                            int64_t count) {
    if (unit == UNIT_PAIR) {
        __mmask32 mask = count >= 32 ? 0xffffffffu : (1u << count) - 1u;
        __m512i words;
        if (format == FORMAT_BF16) {
            words = count >= 32 ? _mm512_loadu_si512(from) : _mm512_maskz_loadu_epi16(mask, from);
        } else {
            words = e4m3_to_bf16(table, _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(mask, from)));
        }
        return _mm512_rol_epi32(words, 16);
    }
    __mmask16 mask = (__mmask16)(count >= 16 ? 0xffffu : (1u << count) - 1u);
    if (format == FORMAT_F32) {
        return _mm512_maskz_loadu_epi32(mask, from);
    }
    if (format == FORMAT_BF16) {
        return _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from)), 16);
    }
    __m512i words = e4m3_to_bf16(table, _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, from)));
    return _mm512_slli_epi32(words, 16);
}

// 16 rows of one k as BF16 in the low half of each 32-bit lane, rows contiguous.
INLINE __m512i load_words_along_rows(enum format format, const struct e4m3_table *table, const char *from,
                                     __mmask16 mask) {
    if (format == FORMAT_BF16) {
        return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
    }
    __m512i words = e4m3_to_bf16(table, _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, from)));
    return words;
}

// 16 rows of one unit, rows contiguous. `second`: the second k of the pair exists.
INLINE __m512i load_along_rows(enum format format, enum linear_unit unit, const struct e4m3_table *table,
                               const char *from, int64_t k_bytes, bool second, __mmask16 mask) {
    if (unit == UNIT_F32 && format == FORMAT_F32) {
        return _mm512_maskz_loadu_epi32(mask, from);
    }
    __m512i words = _mm512_slli_epi32(load_words_along_rows(format, table, from, mask), 16);
    if (unit == UNIT_PAIR && second) {
        words = _mm512_or_si512(words, load_words_along_rows(format, table, from + k_bytes, mask));
    }
    return words;
}

// v[i] lane j -> v[j] lane i.
INLINE void transpose(__m512i v[VECTOR]) {
    __m512i t[VECTOR];
    UNROLL
    for (int i = 0; i < VECTOR; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    UNROLL
    for (int i = 0; i < VECTOR; i += 4) {
        v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    UNROLL
    for (int i = 0; i < 4; i++) {   // lane group L of v[4j + i]: rows 4j .. 4j+3 of column 4L + i
        __m512i even0 = _mm512_shuffle_i32x4(v[i], v[4 + i], 0x88), odd0 = _mm512_shuffle_i32x4(v[i], v[4 + i], 0xdd);
        __m512i even1 = _mm512_shuffle_i32x4(v[8 + i], v[12 + i], 0x88);
        __m512i odd1 = _mm512_shuffle_i32x4(v[8 + i], v[12 + i], 0xdd);
        v[i] = _mm512_shuffle_i32x4(even0, even1, 0x88);
        v[8 + i] = _mm512_shuffle_i32x4(even0, even1, 0xdd);
        v[4 + i] = _mm512_shuffle_i32x4(odd0, odd1, 0x88);
        v[12 + i] = _mm512_shuffle_i32x4(odd0, odd1, 0xdd);
    }
}

// A block of up to 16 rows x 16 units. `by_row`: v[i] = units of row i; else v[i] = rows of unit i. Missing rows and
// units are zero.
INLINE void load_block(__m512i v[VECTOR], enum format format, enum linear_unit unit, bool along_k, bool by_row,
                       const struct e4m3_table *table, const struct linear_operand *source, int64_t row, int rows,
                       int64_t k, int64_t count) {
    const int64_t bytes = format == FORMAT_F32 ? 4 : format == FORMAT_BF16 ? 2 : 1;
    const int64_t row_bytes = source->row_stride * bytes, k_bytes = source->k_stride * bytes;
    const char *from = source->data + row * row_bytes + k * k_bytes;
    if (along_k) {
        if (rows == VECTOR) {
            UNROLL
            for (int i = 0; i < VECTOR; i++) {
                v[i] = load_along_k(format, unit, table, from + i * row_bytes, count);
            }
        } else {
            UNROLL
            for (int i = 0; i < VECTOR; i++) {
                v[i] = i < rows ? load_along_k(format, unit, table, from + i * row_bytes, count)
                                : _mm512_setzero_si512();
            }
        }
    } else {
        const int step = unit == UNIT_PAIR ? 2 : 1;
        __mmask16 mask = (__mmask16)(rows >= VECTOR ? 0xffffu : (1u << rows) - 1u);
        UNROLL
        for (int i = 0; i < VECTOR; i++) {
            v[i] = i * step < count ? load_along_rows(format, unit, table, from + i * step * k_bytes, k_bytes,
                                                      i * step + 1 < count, mask)
                                    : _mm512_setzero_si512();
        }
    }
    if (along_k != by_row) {
        transpose(v);
    }
}

// ---- Packing --------------------------------------------------------------------------------------------------------

INLINE void pack_strip(const struct linear_strip *strip, enum format format, enum linear_unit unit, bool along_k,
                       bool as_rows) {
    const int step = unit == UNIT_PAIR ? 2 : 1;
    const struct e4m3_table table = e4m3_table_load();
    int64_t chunk = 0;
    for (int64_t k = strip->k_begin; k < strip->k_end; k += VECTOR * step, chunk++) {
        int64_t count = strip->k_end - k;
        __m512i v[VECTOR];
        if (count >= VECTOR * step) {
            load_block(v, format, unit, along_k, as_rows, &table, strip->source, strip->row, strip->rows, k,
                       VECTOR * step);
        } else {
            load_block(v, format, unit, along_k, as_rows, &table, strip->source, strip->row, strip->rows, k, count);
        }
        uint32_t *out = strip->out + (as_rows ? chunk * strip->chunk_stride : chunk * VECTOR * strip->unit_stride);
        int64_t stride = as_rows ? LINEAR_CHUNK : strip->unit_stride;
        int64_t vectors = as_rows ? strip->rows : (count + step - 1) / step;
        if (vectors >= VECTOR) {
            UNROLL
            for (int i = 0; i < VECTOR; i++) {
                _mm512_store_si512(out + i * stride, v[i]);
            }
        } else {
            UNROLL
            for (int i = 0; i < VECTOR; i++) {
                if (i < vectors) {
                    _mm512_store_si512(out + i * stride, v[i]);
                }
            }
        }
    }
    if (as_rows && unit == UNIT_PAIR && (strip->k_end - strip->k_begin) % 2 != 0) {
        int64_t last = (strip->k_end - strip->k_begin) / 2;
        uint32_t *out = strip->out + last / LINEAR_CHUNK * strip->chunk_stride + last % LINEAR_CHUNK;
        for (int i = 0; i < strip->rows; i++) {
            out[i * LINEAR_CHUNK] |= 0x8000u;
        }
    }
}

INLINE void pack_any(const struct linear_strip *strip, bool as_rows) {
    const struct linear_operand *source = strip->source;
    const enum format format = source->format;
    const enum linear_unit unit = strip->unit;
    if (source->k_stride == 1 && unit == UNIT_PAIR && format == FORMAT_BF16) {
        pack_strip(strip, FORMAT_BF16, UNIT_PAIR, true, as_rows);
    } else if (source->k_stride == 1 && unit == UNIT_PAIR) {
        pack_strip(strip, FORMAT_E4M3_BLOCK, UNIT_PAIR, true, as_rows);
    } else if (source->k_stride == 1 && format == FORMAT_F32) {
        pack_strip(strip, FORMAT_F32, UNIT_F32, true, as_rows);
    } else if (source->k_stride == 1 && format == FORMAT_BF16) {
        pack_strip(strip, FORMAT_BF16, UNIT_F32, true, as_rows);
    } else if (source->k_stride == 1) {
        pack_strip(strip, FORMAT_E4M3_BLOCK, UNIT_F32, true, as_rows);
    } else if (source->row_stride == 1 && unit == UNIT_PAIR && format == FORMAT_BF16) {
        pack_strip(strip, FORMAT_BF16, UNIT_PAIR, false, as_rows);
    } else if (source->row_stride == 1 && unit == UNIT_PAIR) {
        pack_strip(strip, FORMAT_E4M3_BLOCK, UNIT_PAIR, false, as_rows);
    } else if (source->row_stride == 1 && format == FORMAT_F32) {
        pack_strip(strip, FORMAT_F32, UNIT_F32, false, as_rows);
    } else if (source->row_stride == 1 && format == FORMAT_BF16) {
        pack_strip(strip, FORMAT_BF16, UNIT_F32, false, as_rows);
    } else if (source->row_stride == 1) {
        pack_strip(strip, FORMAT_E4M3_BLOCK, UNIT_F32, false, as_rows);
    } else if (as_rows) {
        linear_pack_rows_scalar(strip);
    } else {
        linear_pack_columns_scalar(strip);
    }
}

static void pack_rows(const struct linear_strip *strip) {
    pack_any(strip, true);
}

// 32 columns of one k as BF16.
INLINE __m512i load_panel(enum format format, const struct e4m3_table *table, const char *from) {
    return format == FORMAT_BF16
               ? _mm512_loadu_si512(from)
               : e4m3_to_bf16(table, _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)from)));
}

// A whole panel of BF16 or E4M3 whose columns are contiguous: two rows of k interleave to one row of units.
INLINE void pack_columns_interleaved(const struct linear_strip *strip, enum format format) {
    const struct linear_operand *source = strip->source;
    const struct e4m3_table table = e4m3_table_load();
    const int64_t width = format == FORMAT_BF16 ? 2 : 1;
    int16_t index[2 * VECTOR];   // of the words k + 1, k of columns 0 to 15
    for (int i = 0; i < VECTOR; i++) {
        index[2 * i] = (int16_t)i;
        index[2 * i + 1] = (int16_t)(i + 2 * VECTOR);
    }
    const __m512i first = _mm512_loadu_si512(index), second = _mm512_add_epi16(first, _mm512_set1_epi16(VECTOR));
    const char *from = source->data + width * (strip->row + strip->k_begin * source->k_stride);
    const int64_t bytes = width * source->k_stride;
    uint32_t *out = strip->out;
    for (int64_t k = strip->k_begin; k < strip->k_end; k += 2) {
        __m512i k0 = load_panel(format, &table, from);
        __m512i k1 = k + 1 < strip->k_end ? load_panel(format, &table, from + bytes) : _mm512_setzero_si512();
        _mm512_store_si512(out, _mm512_permutex2var_epi16(k1, first, k0));
        _mm512_store_si512(out + VECTOR, _mm512_permutex2var_epi16(k1, second, k0));
        from += 2 * bytes;
        out += strip->unit_stride;
    }
}

// The same for F32: already rows of units.
static void pack_columns_copied(const struct linear_strip *strip) {
    const struct linear_operand *source = strip->source;
    const char *from = source->data + 4 * (strip->row + strip->k_begin * source->k_stride);
    uint32_t *out = strip->out;
    for (int64_t k = strip->k_begin; k < strip->k_end; k++) {
        __m512i low = _mm512_loadu_si512(from), high = _mm512_loadu_si512(from + 64);
        _mm512_store_si512(out, low);
        _mm512_store_si512(out + VECTOR, high);
        from += 4 * source->k_stride;
        out += strip->unit_stride;
    }
}

static void pack_columns(const struct linear_strip *strip) {
    if (strip->rows == COLUMNS && strip->source->row_stride == 1 && strip->source->k_stride != 1) {
        if (strip->source->format == FORMAT_BF16 && strip->unit == UNIT_PAIR) {
            pack_columns_interleaved(strip, FORMAT_BF16);
            return;
        }
        if (strip->source->format != FORMAT_F32 && strip->unit == UNIT_PAIR) {
            pack_columns_interleaved(strip, FORMAT_E4M3_BLOCK);
            return;
        }
        if (strip->source->format == FORMAT_F32) {
            pack_columns_copied(strip);
            return;
        }
    }
    struct linear_strip half = *strip;
    for (int begin = 0; begin < strip->rows; begin += VECTOR) {
        half.out = strip->out + begin;
        half.row = strip->row + begin;
        half.rows = strip->rows - begin < VECTOR ? strip->rows - begin : VECTOR;
        pack_any(&half, false);
    }
}

// ---- Tiles of packed operands ---------------------------------------------------------------------------------------

INLINE __m512 multiply_add(enum linear_unit unit, __m512 sum, __m512i a, __m512i b) {
    return unit == UNIT_PAIR ? _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b)
                             : _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
}

// One unit: all accumulators advance by one (pair) product.
INLINE void step(__m512 sum[ROWS][2], const uint32_t *a, const uint32_t *b, const int rows, const int vectors,
                 enum linear_unit unit) {
    __m512i b0 = _mm512_load_si512(b), b1 = vectors > 1 ? _mm512_load_si512(b + VECTOR) : b0;
    UNROLL
    for (int i = 0; i < rows; i++) {
        __m512i x = _mm512_set1_epi32((int)a[i * LINEAR_CHUNK]);
        sum[i][0] = multiply_add(unit, sum[i][0], x, b0);
        if (vectors > 1) {
            sum[i][1] = multiply_add(unit, sum[i][1], x, b1);
        }
    }
}

INLINE void tile_any(const struct linear_tile *tile, const int rows, const int vectors, const enum linear_unit unit) {
    const uint32_t *a = tile->a, *b = tile->b;
    float *const c = tile->c;
    const int64_t stride = tile->c_stride;
    const bool scaled = tile->row_scale != NULL;
    const int64_t block = scaled ? (unit == UNIT_PAIR ? tile->scale_depth / 2 : tile->scale_depth) : tile->units;
    for (int64_t begin = 0; begin < tile->units; begin += block) {
        __m512 sum[ROWS][2];
        bool load = !scaled && tile->add;
        UNROLL
        for (int i = 0; i < rows; i++) {
            UNROLL
            for (int j = 0; j < vectors; j++) {
                sum[i][j] = load ? _mm512_loadu_ps(c + i * stride + j * VECTOR) : _mm512_setzero_ps();
            }
        }
        int64_t units = tile->units - begin < block ? tile->units - begin : block;
        for (int64_t chunk = units / LINEAR_CHUNK; chunk > 0; chunk--) {
            for (int part = 0; part < LINEAR_CHUNK; part += 4) {
                UNROLL
                for (int i = 0; i < 4; i++) {
                    step(sum, a + i, b + i * COLUMNS, rows, vectors, unit);
                }
                a += 4;
                b += 4 * COLUMNS;
            }
            a += (rows - 1) * LINEAR_CHUNK;
        }
        for (int64_t rest = units % LINEAR_CHUNK; rest > 0; rest--) {
            step(sum, a, b, rows, vectors, unit);
            a++;
            b += COLUMNS;
        }
        if (scaled) {
            const float *row_scale = tile->row_scale + begin / block * LINEAR_MAX_ROWS;
            const float *column_scale = tile->column_scale + begin / block * LINEAR_MAX_COLUMNS;
            bool start = begin == 0 && !tile->add;
            UNROLL
            for (int i = 0; i < rows; i++) {
                __m512 factor = _mm512_set1_ps(row_scale[i]);
                UNROLL
                for (int j = 0; j < vectors; j++) {
                    __m512 scale = _mm512_mul_ps(factor, _mm512_loadu_ps(column_scale + j * VECTOR));
                    __m512 total = start ? _mm512_setzero_ps() : _mm512_loadu_ps(c + i * stride + j * VECTOR);
                    sum[i][j] = _mm512_fmadd_ps(sum[i][j], scale, total);
                }
            }
        }
        UNROLL
        for (int i = 0; i < rows; i++) {
            UNROLL
            for (int j = 0; j < vectors; j++) {
                _mm512_storeu_ps(c + i * stride + j * VECTOR, sum[i][j]);
            }
        }
    }
}

#define TILE(unit, rows)                                                   \
    static void tile_##unit##_##rows##_1(const struct linear_tile *tile) { \
        tile_any(tile, rows, 1, UNIT_##unit);                              \
    }                                                                      \
    static void tile_##unit##_##rows##_2(const struct linear_tile *tile) { \
        tile_any(tile, rows, 2, UNIT_##unit);                              \
    }
// The layout tool never settles on this list.
// clang-format off
#define ALL_ROWS(X, unit) \
    X(unit, 1) X(unit, 2) X(unit, 3) X(unit, 4) X(unit, 5) X(unit, 6) X(unit, 7) \
    X(unit, 8) X(unit, 9) X(unit, 10) X(unit, 11) X(unit, 12) X(unit, 13) X(unit, 14)
// clang-format on
ALL_ROWS(TILE, F32)
ALL_ROWS(TILE, PAIR)

#define ENTRY(unit, rows) [UNIT_##unit][rows] = {tile_##unit##_##rows##_1, tile_##unit##_##rows##_2},
static void (*const tiles[2][ROWS + 1][2])(const struct linear_tile *tile) = {ALL_ROWS(ENTRY, F32)
                                                                                  ALL_ROWS(ENTRY, PAIR)};

static void tile_packed(const struct linear_tile *tile) {
    tiles[tile->unit][tile->rows][tile->columns > VECTOR](tile);
}

// ---- Tiles that read b where it lies: 16 columns, few rows ----------------------------------------------------------

// Asks for the cache lines that 16 rows will need PREFETCH_BYTES later; past the end of the rows, those of the next 16
// rows. Sixteen rows are more streams than hardware prefetchers follow. Into the second cache level: rows a power of
// two apart would throw each other out of the first.
#define PREFETCH_BYTES 1024
INLINE void prefetch_rows(const struct linear_tile *tile, enum format format, int64_t k) {
    const int64_t bytes = format == FORMAT_F32 ? 4 : format == FORMAT_BF16 ? 2 : 1;
    const int64_t row_bytes = tile->mapped->row_stride * bytes, length = tile->depth * bytes;
    int64_t column = tile->column, offset = k * bytes + PREFETCH_BYTES;
    if (offset >= length) {
        column += VECTOR;
        offset -= length;
    }
    const char *from = tile->mapped->data + column * row_bytes + offset;
    UNROLL
    for (int i = 0; i < VECTOR; i++) {
        _mm_prefetch(from + i * row_bytes, _MM_HINT_T1);
    }
}

// 64 k of 16 rows of E4M3, k contiguous, as 32 vectors of pairs: four codes travel in a lane through the transposition
// and become two pairs afterwards. Advances the sums of `rows` rows of a.
INLINE void step_e4m3(__m512 sum[LINEAR_MAX_MAPPED], const uint32_t *a, int64_t chunk_stride, const int rows,
                      const struct e4m3_table *table, const char *from, int64_t row_bytes) {
    const __m512i first = _mm512_loadu_si512(e4m3_pair), second = _mm512_add_epi8(first, _mm512_set1_epi8(2));
    const __m512i sign = _mm512_set1_epi8((char)0x80);
    __m512i v[VECTOR];
    UNROLL
    for (int i = 0; i < VECTOR; i++) {
        v[i] = _mm512_loadu_si512(from + i * row_bytes);
    }
    transpose(v);
    UNROLL
    for (int u = 0; u < VECTOR; u++) {
        __m512i high = _mm512_permutex2var_epi8(table->high[0], v[u], table->high[1]);
        __m512i low = _mm512_permutex2var_epi8(table->low[0], v[u], table->low[1]);
        high = _mm512_ternarylogic_epi32(high, v[u], sign, 0xf8);   // high | (v & sign)
        __m512i pair0 = _mm512_permutex2var_epi8(high, first, low), pair1 = _mm512_permutex2var_epi8(high, second, low);
        const uint32_t *x = a + 2 * u / LINEAR_CHUNK * chunk_stride + 2 * u % LINEAR_CHUNK;
        UNROLL
        for (int i = 0; i < rows; i++) {
            sum[i] = multiply_add(UNIT_PAIR, sum[i], _mm512_set1_epi32((int)x[i * LINEAR_CHUNK]), pair0);
            sum[i] = multiply_add(UNIT_PAIR, sum[i], _mm512_set1_epi32((int)x[i * LINEAR_CHUNK + 1]), pair1);
        }
    }
}

// Up to 16 units of 16 columns (`count` k; fewer columns for the last tile).
INLINE void step_mapped(__m512 sum[LINEAR_MAX_MAPPED], const uint32_t *a, const int rows,
                        const struct linear_tile *tile, const enum format format, const enum linear_unit unit,
                        const bool along_k, const struct e4m3_table *table, int64_t k) {
    const int width = unit == UNIT_PAIR ? 2 : 1;
    int64_t count = tile->depth - k;
    __m512i v[VECTOR];
    if (count >= VECTOR * width && tile->columns == VECTOR) {
        load_block(v, format, unit, along_k, false, table, tile->mapped, tile->column, VECTOR, k, VECTOR * width);
    } else {
        count = count < VECTOR * width ? count : VECTOR * width;
        load_block(v, format, unit, along_k, false, table, tile->mapped, tile->column, tile->columns, k, count);
    }
    if (count > (VECTOR - 1) * width) {
        UNROLL
        for (int u = 0; u < VECTOR; u++) {
            UNROLL
            for (int i = 0; i < rows; i++) {
                sum[i] = multiply_add(unit, sum[i], _mm512_set1_epi32((int)a[i * LINEAR_CHUNK + u]), v[u]);
            }
        }
        return;
    }
    UNROLL
    for (int u = 0; u < VECTOR; u++) {
        if (u * width < count) {
            UNROLL
            for (int i = 0; i < rows; i++) {
                sum[i] = multiply_add(unit, sum[i], _mm512_set1_epi32((int)a[i * LINEAR_CHUNK + u]), v[u]);
            }
        }
    }
}

// Rows are computed as 1, 2, 4 or 8: those beyond tile->rows read what follows in a and end in rows of c that nobody
// reads.
INLINE void tile_mapped_any(const struct linear_tile *tile, const int rows, const enum format format,
                            const enum linear_unit unit, const bool along_k) {
    const int64_t width = unit == UNIT_PAIR ? 2 : 1, chunk_stride = tile->rows * LINEAR_CHUNK;
    const bool scaled = format == FORMAT_E4M3_BLOCK,
               wide = scaled && unit == UNIT_PAIR && along_k && tile->columns == VECTOR;
    const struct e4m3_table table = e4m3_table_load();
    const uint32_t *a = tile->a;
    float *const c = tile->c;
    __m512 sum[LINEAR_MAX_MAPPED];
    UNROLL
    for (int i = 0; i < rows; i++) {
        sum[i] = !scaled && tile->add ? _mm512_loadu_ps(c + i * tile->c_stride) : _mm512_setzero_ps();
    }
    int64_t chunks;
    for (int64_t k = 0; k < tile->depth; k += chunks * VECTOR * width, a += chunks * chunk_stride) {
        if (wide && tile->depth - k >= 4 * VECTOR) {
            const int64_t row_bytes = tile->mapped->row_stride;
            prefetch_rows(tile, format, k);
            step_e4m3(sum, a, chunk_stride, rows, &table, tile->mapped->data + tile->column * row_bytes + k, row_bytes);
            chunks = 2;
        } else {
            if (along_k) {
                prefetch_rows(tile, format, k);
            }
            step_mapped(sum, a, rows, tile, format, unit, along_k, &table, k);
            chunks = 1;
        }
        int64_t next = k + chunks * VECTOR * width;
        if (scaled && (next % BLOCK_SIZE == 0 || next >= tile->depth)) {
            __m512 scale = _mm512_set1_ps(tile->scale[k / BLOCK_SIZE]);
            UNROLL
            for (int i = 0; i < rows; i++) {
                float *to = c + i * tile->c_stride;
                __m512 total = k < BLOCK_SIZE && !tile->add ? _mm512_setzero_ps() : _mm512_loadu_ps(to);
                _mm512_storeu_ps(to, _mm512_fmadd_ps(sum[i], scale, total));
                sum[i] = _mm512_setzero_ps();
            }
        }
    }
    if (!scaled) {
        UNROLL
        for (int i = 0; i < rows; i++) {
            _mm512_storeu_ps(c + i * tile->c_stride, sum[i]);
        }
    }
}

INLINE void tile_mapped_rows(const struct linear_tile *tile, const enum format format, const enum linear_unit unit,
                             const bool along_k) {
    if (tile->rows == 1) {
        tile_mapped_any(tile, 1, format, unit, along_k);
    } else if (tile->rows == 2) {
        tile_mapped_any(tile, 2, format, unit, along_k);
    } else if (tile->rows <= 4) {
        tile_mapped_any(tile, 4, format, unit, along_k);
    } else {
        tile_mapped_any(tile, 8, format, unit, along_k);
    }
}

#define MAPPED(name, format, unit)                                     \
    static void mapped_##name##_k(const struct linear_tile *tile) {    \
        tile_mapped_rows(tile, format, unit, true);                    \
    }                                                                  \
    static void mapped_##name##_rows(const struct linear_tile *tile) { \
        tile_mapped_rows(tile, format, unit, false);                   \
    }
MAPPED(f32, FORMAT_F32, UNIT_F32)
MAPPED(bf16, FORMAT_BF16, UNIT_F32)
MAPPED(e4m3, FORMAT_E4M3_BLOCK, UNIT_F32)
MAPPED(bf16_pair, FORMAT_BF16, UNIT_PAIR)
MAPPED(e4m3_pair, FORMAT_E4M3_BLOCK, UNIT_PAIR)

static void tile_mapped(const struct linear_tile *tile) {
    const bool along_k = tile->mapped->k_stride == 1;
    if (tile->unit == UNIT_PAIR && tile->mapped->format == FORMAT_BF16) {
        (along_k ? mapped_bf16_pair_k : mapped_bf16_pair_rows)(tile);
    } else if (tile->unit == UNIT_PAIR) {
        (along_k ? mapped_e4m3_pair_k : mapped_e4m3_pair_rows)(tile);
    } else if (tile->mapped->format == FORMAT_F32) {
        (along_k ? mapped_f32_k : mapped_f32_rows)(tile);
    } else if (tile->mapped->format == FORMAT_BF16) {
        (along_k ? mapped_bf16_k : mapped_bf16_rows)(tile);
    } else {
        (along_k ? mapped_e4m3_k : mapped_e4m3_rows)(tile);
    }
}

static void narrow(uint16_t *out, const float *in, int64_t count) {
    for (int64_t i = 0; i < count; i += VECTOR) {
        __mmask16 mask = (__mmask16)(count - i >= VECTOR ? 0xffffu : (1u << (count - i)) - 1u);
        __m256bh words = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, in + i));
        _mm256_mask_storeu_epi16(out + i, mask, (__m256i)words);
    }
}

void kernels_avx512_linear(struct cpu_kernels *kernels) {
    for (int magnitude = 0; magnitude < 128; magnitude++) {
        uint16_t word = bf16_narrow(e4m3_widen((uint8_t)magnitude));
        e4m3_high[magnitude] = (uint8_t)(word >> 8);
        e4m3_low[magnitude] = (uint8_t)word;
    }
    for (int i = 0; i < 64; i += 4) {
        e4m3_pair[i] = (uint8_t)(64 + i + 1);
        e4m3_pair[i + 1] = (uint8_t)(i + 1);
        e4m3_pair[i + 2] = (uint8_t)(64 + i);
        e4m3_pair[i + 3] = (uint8_t)i;
    }
    struct linear_kernels *linear = &kernels->linear;
    linear->pairs = true;
    linear->tile_rows = ROWS;
    linear->tile_columns = COLUMNS;
    linear->pack_rows = pack_rows;
    linear->pack_columns = pack_columns;
    linear->tile = tile_packed;
    linear->mapped_columns = VECTOR;
    linear->tile_mapped = tile_mapped;
    linear->narrow = narrow;
}
