// AVX-512 kernels of products with integer weights (tensor/int_groups.h). Codes become BF16, in which they are exact,
// by looking them up: the table of vpermw has 32 entries and its index is the low 5 bits of a 16-bit lane, so a table
// of 16 values twice over takes a nibble out of a lane of four without masking.
#include <immintrin.h>
#include <stdint.h>

#include "op/cpu/kernels.h"
#include "op/cpu/unroll.h"
#include "tensor/formats.h"
#include "tensor/int_groups.h"

#define VECTOR INT_TILE_ROWS
#define MAX_PAIRS 4   // of a slab

#define INLINE static inline __attribute__((always_inline))

static uint16_t int4_values[32];
static uint8_t int8_high[128], int8_low[128];   // bytes of the BF16 value of every magnitude

struct table {
    __m512i high[2], low[2];   // int8
    __m512i values;            // int4
};

INLINE struct table table_load(void) {
    struct table table = {{_mm512_loadu_si512(int8_high), _mm512_loadu_si512(int8_high + 64)},
                          {_mm512_loadu_si512(int8_low), _mm512_loadu_si512(int8_low + 64)},
                          _mm512_loadu_si512(int4_values)};
    return table;
}

// The pairs of a slab: BF16 of the even k in the upper half of each lane, of the next in the lower.
INLINE void slab_pairs(__m512i pair[MAX_PAIRS], const struct table *table, const uint8_t *slab,
                       const enum format format) {
    __m512i codes = _mm512_loadu_si512(slab);
    if (format == FORMAT_INT4) {
        pair[0] = _mm512_permutexvar_epi16(codes, table->values);
        pair[1] = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 4), table->values);
        pair[2] = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 8), table->values);
        pair[3] = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 12), table->values);
        return;
    }
    const __m512i sign = _mm512_set1_epi8((char)0x80), upper = _mm512_set1_epi16((short)0xff00);
    __m512i magnitude = _mm512_abs_epi8(codes);
    __m512i high = _mm512_permutex2var_epi8(table->high[0], magnitude, table->high[1]);
    __m512i low = _mm512_permutex2var_epi8(table->low[0], magnitude, table->low[1]);
    high = _mm512_ternarylogic_epi32(high, codes, sign, 0xf8);   // high | (codes & sign)
    // upper ? first : second
    pair[0] = _mm512_ternarylogic_epi32(upper, _mm512_slli_epi16(high, 8), low, 0xca);
    pair[1] = _mm512_ternarylogic_epi32(upper, high, _mm512_srli_epi16(low, 8), 0xca);
}

INLINE __m512 load_scales(const uint16_t *scales) {
    __m256i words = _mm256_loadu_si256((const __m256i *)(const void *)scales);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16));
}

// Code j of a slab as F32.
INLINE __m512 slab_code(const uint8_t *slab, const enum format format, const int j) {
    const int width = format == FORMAT_INT4 ? 4 : 8, shift = 16 * (1 - j % 2) + width * (j / 2);
    __m512i lanes = _mm512_slli_epi32(_mm512_loadu_si512(slab), (unsigned)(32 - width - shift));
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(lanes, (unsigned)(32 - width)));
}

// ---- Packing --------------------------------------------------------------------------------------------------------

INLINE void pack_pairs(uint32_t *out, const struct linear_strip *strip, const uint8_t *slab, const enum format format) {
    const int pairs = (int)int_slab_depth(format) / 2;
    const struct table table = table_load();
    for (int64_t k = strip->k_begin; k < strip->k_end; k += 2 * pairs, slab += INT_SLAB_BYTES) {
        __m512i pair[MAX_PAIRS];
        slab_pairs(pair, &table, slab, format);
        UNROLL
        for (int i = 0; i < pairs; i++) {
            if (k + 2 * i < strip->k_end) {
                _mm512_store_si512(out, pair[i]);
                out += strip->unit_stride;
            }
        }
    }
}

INLINE void pack_singles(uint32_t *out, const struct linear_strip *strip, const uint8_t *slab,
                         const enum format format) {
    const int depth = (int)int_slab_depth(format);
    for (int64_t k = strip->k_begin; k < strip->k_end; k += depth, slab += INT_SLAB_BYTES) {
        UNROLL
        for (int j = 0; j < depth; j++) {
            if (k + j < strip->k_end) {
                _mm512_store_ps((float *)(void *)out, slab_code(slab, format, j));
                out += strip->unit_stride;
            }
        }
    }
}

INLINE void pack_tiles(const struct linear_strip *strip, const enum format format) {
    const struct tensor *weight = strip->source->integers;
    const int64_t offset = strip->k_begin / int_slab_depth(format) * INT_SLAB_BYTES;
    for (int64_t first = 0; first < strip->rows; first += VECTOR) {
        const uint8_t *slab = int_codes(weight, (strip->row + first) / VECTOR) + offset;
        if (strip->unit == UNIT_PAIR) {
            pack_pairs(strip->out + first, strip, slab, format);
        } else {
            pack_singles(strip->out + first, strip, slab, format);
        }
    }
}

static void pack_columns_int(const struct linear_strip *strip) {
    if (strip->source->format == FORMAT_INT4) {
        pack_tiles(strip, FORMAT_INT4);
    } else {
        pack_tiles(strip, FORMAT_INT8);
    }
}

// ---- Few rows -------------------------------------------------------------------------------------------------------

// Asks for codes that are due so many bytes later: tiles follow one another in memory.
#define PREFETCH_BYTES 2048

// One group: sum[i] = chain of row i of a with the codes. `units`: as many as the group has.
INLINE void group_chain(__m512 sum[LINEAR_MAX_MAPPED], const uint32_t *a, const uint8_t *slab,
                        const struct table *table, const enum format format, const int rows, const int64_t units,
                        const bool whole) {
    const int pairs = (int)int_slab_depth(format) / 2;
    UNROLL
    for (int i = 0; i < rows; i++) {
        sum[i] = _mm512_setzero_ps();
    }
    for (int64_t unit = 0; unit < units; unit += pairs, slab += INT_SLAB_BYTES) {
        const uint32_t *x = a + unit / LINEAR_CHUNK * LINEAR_CHUNK * rows + unit % LINEAR_CHUNK;
        __m512i pair[MAX_PAIRS];
        _mm_prefetch((const char *)slab + PREFETCH_BYTES, _MM_HINT_T0);
        slab_pairs(pair, table, slab, format);
        UNROLL
        for (int j = 0; j < pairs; j++) {
            if (whole || unit + j < units) {
                UNROLL
                for (int i = 0; i < rows; i++) {
                    __m512i value = _mm512_set1_epi32((int)x[i * LINEAR_CHUNK + j]);
                    sum[i] = _mm512_dpbf16_ps(sum[i], (__m512bh)value, (__m512bh)pair[j]);
                }
            }
        }
    }
}

INLINE void tile_pairs(const struct linear_tile *tile, const enum format format, const int rows) {
    const struct tensor *weight = tile->mapped->integers;
    const struct table table = table_load();
    const int64_t group = int_group(format), group_units = group / 2;
    const int64_t slabs = group / int_slab_depth(format);
    const uint8_t *slab = int_codes(weight, tile->column / VECTOR);
    const uint16_t *scales = int_scales(weight, tile->column / VECTOR);
    const uint32_t *a = tile->a;
    __m512 total[LINEAR_MAX_MAPPED], sum[LINEAR_MAX_MAPPED];
    UNROLL
    for (int i = 0; i < rows; i++) {
        total[i] = tile->add ? _mm512_loadu_ps(tile->c + i * tile->c_stride) : _mm512_setzero_ps();
    }
    for (int64_t k = 0; k < tile->depth; k += group, scales += VECTOR) {
        int64_t left = tile->depth - k;
        if (left >= group) {
            group_chain(sum, a, slab, &table, format, rows, group_units, true);
        } else {
            group_chain(sum, a, slab, &table, format, rows, (left + 1) / 2, false);
        }
        __m512 scale = load_scales(scales);
        UNROLL
        for (int i = 0; i < rows; i++) {
            total[i] = _mm512_fmadd_ps(sum[i], scale, total[i]);
        }
        a += group_units * rows;
        slab += slabs * INT_SLAB_BYTES;
    }
    UNROLL
    for (int i = 0; i < rows; i++) {
        _mm512_storeu_ps(tile->c + i * tile->c_stride, total[i]);
    }
}

// F32 activations: any number of rows, one after another.
INLINE void tile_singles(const struct linear_tile *tile, const enum format format) {
    const struct tensor *weight = tile->mapped->integers;
    const int64_t group = int_group(format), depth = int_slab_depth(format);
    const uint8_t *codes = int_codes(weight, tile->column / VECTOR);
    for (int i = 0; i < tile->rows; i++) {
        float *c = tile->c + i * tile->c_stride;
        const uint16_t *scales = int_scales(weight, tile->column / VECTOR);
        __m512 total = tile->add ? _mm512_loadu_ps(c) : _mm512_setzero_ps();
        for (int64_t begin = 0; begin < tile->depth; begin += group, scales += VECTOR) {
            int64_t end = begin + group < tile->depth ? begin + group : tile->depth;
            __m512 sum = _mm512_setzero_ps();
            for (int64_t k = begin; k < end; k += depth) {
                const uint32_t *x = tile->a + (k / LINEAR_CHUNK * tile->rows + i) * LINEAR_CHUNK + k % LINEAR_CHUNK;
                UNROLL
                for (int j = 0; j < (int)depth; j++) {
                    if (k + j < end) {
                        __m512 code = slab_code(codes + k / depth * INT_SLAB_BYTES, format, j);
                        sum = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_set1_epi32((int)x[j])), code, sum);
                    }
                }
            }
            total = _mm512_fmadd_ps(sum, load_scales(scales), total);
        }
        _mm512_storeu_ps(c, total);
    }
}

#define TILE(rows)                                                 \
    static void tile_int4_##rows(const struct linear_tile *tile) { \
        tile_pairs(tile, FORMAT_INT4, rows);                       \
    }                                                              \
    static void tile_int8_##rows(const struct linear_tile *tile) { \
        tile_pairs(tile, FORMAT_INT8, rows);                       \
    }
TILE(1)
TILE(2)
TILE(3)
TILE(4)
TILE(5)
TILE(6)
TILE(7)
TILE(8)

static void tile_int(const struct linear_tile *tile) {
    static void (*const tiles[2][LINEAR_MAX_MAPPED + 1])(const struct linear_tile *) = {
        {NULL, tile_int8_1, tile_int8_2, tile_int8_3, tile_int8_4, tile_int8_5, tile_int8_6, tile_int8_7, tile_int8_8},
        {NULL, tile_int4_1, tile_int4_2, tile_int4_3, tile_int4_4, tile_int4_5, tile_int4_6, tile_int4_7, tile_int4_8},
    };
    bool int4 = tile->mapped->format == FORMAT_INT4;
    if (tile->unit == UNIT_PAIR) {
        tiles[int4][tile->rows](tile);
    } else if (int4) {
        tile_singles(tile, FORMAT_INT4);
    } else {
        tile_singles(tile, FORMAT_INT8);
    }
}

void kernels_avx512_linear_int(struct cpu_kernels *kernels) {
    for (int code = 0; code < 32; code++) {
        int4_values[code] = bf16_narrow((float)(((code & 15) ^ 8) - 8));
    }
    for (int magnitude = 0; magnitude < 128; magnitude++) {
        uint16_t word = bf16_narrow((float)magnitude);
        int8_high[magnitude] = (uint8_t)(word >> 8);
        int8_low[magnitude] = (uint8_t)word;
    }
    kernels->linear.pack_columns_int = pack_columns_int;
    kernels->linear.tile_int = tile_int;
}
