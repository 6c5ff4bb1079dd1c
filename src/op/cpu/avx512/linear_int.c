// AVX-512 kernels of products with integer weights (tensor/int_groups.h). Codes become BF16, in which they are exact,
// by looking them up: the table of vpermw has 32 entries and its index is the low 5 bits of a 16-bit lane, so a table
// of 16 values twice over takes a nibble out of a lane of four without masking.
#include "op/cpu/avx512/linear_few.h"
#include "op/cpu/kernels.h"
#include "tensor/formats.h"
#include "tensor/int_groups.h"

#define MAX_PAIRS 4   // of a slab

static uint16_t int4_values[32];
static uint8_t int8_high[128], int8_low[128];   // bytes of the BF16 value of every magnitude

struct table {
    __m512i high[2], low[2];   // int8
    __m512i values;            // int4
    __m512 floats;             // the same as F32
};

INLINE struct table table_load(void) {
    struct table table = {{_mm512_loadu_si512(int8_high), _mm512_loadu_si512(int8_high + 64)},
                          {_mm512_loadu_si512(int8_low), _mm512_loadu_si512(int8_low + 64)},
                          _mm512_loadu_si512(int4_values),
                          _mm512_castsi512_ps(_mm512_slli_epi32(
                              _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)int4_values)), 16))};
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

// Codes of a tile that are asked for so many bytes before their turn.
#define AHEAD 2048

// Tiles side by side: chains of few rows wait for themselves.
struct tiles {
    const uint8_t *slab, *end;   // in the first
    const uint8_t *next;         // as if the tiles that follow began at `end`
    int64_t bytes;               // of a tile
};

INLINE void next_slabs(__m512i pair[MAX_PAIRS][FEW_GROUPS], struct tiles *at, const struct table *table,
                       const enum format format, const int tiles) {
    const uint8_t *ahead = (at->slab + AHEAD < at->end ? at->slab : at->next) + AHEAD;
    UNROLL
    for (int t = 0; t < tiles; t++) {
        __m512i one[MAX_PAIRS];
        _mm_prefetch((const char *)ahead + t * at->bytes, _MM_HINT_T0);
        slab_pairs(one, table, at->slab + t * at->bytes, format);
        UNROLL
        for (int j = 0; j < (int)int_slab_depth(format) / 2; j++) {
            pair[j][t] = one[j];
        }
    }
    at->slab += INT_SLAB_BYTES;
}

// Code j of each lane of a slab as F32, without the detour over pairs. `lanes` is moved along as j ascends.
//   int4   code 2 i + 1 stands at bit 4 i, code 2 i at bit 16 + 4 i: after a shift by 4 i one look-up for each, which
//          takes as many low bits of its index as its table is long (of which that of the upper halves clears the lower)
//   int8   a code put into the mantissa of 2^23 or 2^15, its sign bit turned: 2^23 + 128 + code; two codes for a shift
INLINE __m512 next_code(__m512i *lanes, const struct table *table, const enum format format, const int j) {
    if (format == FORMAT_INT4) {
        if (j % 2 == 0) {
            *lanes = j == 0 ? *lanes : _mm512_srli_epi32(*lanes, 4);
            return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaau, *lanes, table->values));
        }
        return _mm512_permutexvar_ps(*lanes, table->floats);
    }
    const __m512i from = j % 2 == 0 ? _mm512_srli_epi32(*lanes, 16) : *lanes;
    const float base = j < 2 ? 0x1p23f : 0x1p15f;
    const __m512i field = _mm512_set1_epi32(j < 2 ? 0xff : 0xff00);
    const __m512i number = _mm512_castps_si512(_mm512_set1_ps(base + 128.0f));
    __m512i sum = _mm512_ternarylogic_epi32(from, field, number, 0x6a);   // (from & field) ^ number
    return _mm512_sub_ps(_mm512_castsi512_ps(sum), _mm512_set1_ps(base + 128.0f));
}

INLINE void multiply_slabs(__m512 sum[FEW_GROUPS][FEW_ROWS], const struct halves *halves, struct tiles *at,
                           const struct table *table, const enum format format, const int rows, const int tiles,
                           const int unit, const int units) {
    const uint8_t *ahead = (at->slab + AHEAD < at->end ? at->slab : at->next) + AHEAD;
    __m512i lanes[FEW_GROUPS];
    UNROLL
    for (int t = 0; t < tiles; t++) {
        _mm_prefetch((const char *)ahead + t * at->bytes, _MM_HINT_T0);
        lanes[t] = _mm512_loadu_si512(at->slab + t * at->bytes);
    }
    UNROLL
    for (int j = 0; j < (int)int_slab_depth(format); j++) {
        if (j >= 2 * units) {
            break;
        }
        const float *x = (j % 2 == 0 ? halves->even : halves->odd) + unit + j / 2;
        __m512 code[FEW_GROUPS];
        UNROLL
        for (int t = 0; t < tiles; t++) {
            code[t] = next_code(&lanes[t], table, format, j);
        }
        UNROLL
        for (int i = 0; i < rows; i++) {
            __m512 factor = _mm512_set1_ps(x[i * LINEAR_CHUNK]);
            UNROLL
            for (int t = 0; t < tiles; t++) {
                sum[t][i] = _mm512_fmadd_ps(factor, code[t], sum[t][i]);
                __asm__("" : "+v"(sum[t][i]));
            }
        }
    }
    at->slab += INT_SLAB_BYTES;
}

// One group: sum[t][i] = chain of row i of a with the codes of tile t. `units`: as many as the group has.
INLINE void group_chain(__m512 sum[FEW_GROUPS][FEW_ROWS], const uint32_t *a, struct tiles *at,
                        const struct table *table, const enum format format, const enum method method, const int rows,
                        const int tiles, int64_t units, const bool whole) {
    const int pairs = (int)int_slab_depth(format) / 2;
    struct halves halves;
    UNROLL
    for (int t = 0; t < tiles; t++) {
        UNROLL
        for (int i = 0; i < rows; i++) {
            sum[t][i] = _mm512_setzero_ps();
        }
    }
    for (; units > 0; units -= LINEAR_CHUNK, a += rows * LINEAR_CHUNK) {
        if (method == METHOD_HALVES) {
            split_rows(&halves, a, rows);
        }
        for (int unit = 0; unit < LINEAR_CHUNK && (whole || unit < units); unit += pairs) {
            if (method == METHOD_HALVES) {
                multiply_slabs(sum, &halves, at, table, format, rows, tiles, unit, whole ? pairs : (int)units - unit);
                continue;
            }
            __m512i pair[MAX_PAIRS][FEW_GROUPS];
            next_slabs(pair, at, table, format, tiles);
            UNROLL
            for (int j = 0; j < pairs; j++) {
                if (whole || unit + j < units) {
                    multiply_unit(sum, a, &halves, unit + j, rows, tiles, method, pair[j]);
                }
            }
        }
    }
}

// `tiles` tiles of columns from `first` on.
INLINE void tile_some(const struct linear_tile *tile, const int first, const enum format format,
                      const enum method method, const int rows, const int tiles) {
    const struct tensor *weight = tile->mapped->integers;
    const struct table table = table_load();
    const int64_t group = int_group(format), column = (tile->column + first) / VECTOR;
    const int64_t scale_stride = int_groups(weight) * VECTOR;
    const uint16_t *scales = int_scales(weight, column);
    const uint32_t *a = tile->a;
    struct tiles at = {.slab = int_codes(weight, column), .bytes = int_tile_bytes(weight)};
    at.end = at.slab + at.bytes;
    at.next = first + tiles * VECTOR >= tile->columns && tile->next != NULL ? (const uint8_t *)tile->next - at.bytes
                                                                            : at.slab + (tiles - 1) * at.bytes;
    for (int64_t k = 0; k < tile->depth; k += group, scales += VECTOR, a += group / 2 * rows) {
        const int64_t left = tile->depth - k;
        const bool start = k == 0 && !tile->add;
        __m512 sum[FEW_GROUPS][FEW_ROWS];
        if (left >= group) {
            group_chain(sum, a, &at, &table, format, method, rows, tiles, group / 2, true);
        } else {
            group_chain(sum, a, &at, &table, format, method, rows, tiles, (left + 1) / 2, false);
        }
        UNROLL
        for (int t = 0; t < tiles; t++) {
            __m512 scale = load_scales(scales + t * scale_stride);
            UNROLL
            for (int i = 0; i < rows; i++) {
                float *c = tile->c + i * tile->c_stride + first + t * VECTOR;
                __m512 total = start ? _mm512_setzero_ps() : _mm512_loadu_ps(c);
                _mm512_storeu_ps(c, _mm512_fmadd_ps(sum[t][i], scale, total));
            }
        }
    }
}

// One row of int4: tile after tile, the total in a register. Measured faster from memory than tiles side by side.
INLINE void tile_row_int4(const struct linear_tile *tile, const int first) {
    const struct tensor *weight = tile->mapped->integers;
    const struct table table = table_load();
    const uint8_t *slab = int_codes(weight, (tile->column + first) / VECTOR);
    const uint16_t *scales = int_scales(weight, (tile->column + first) / VECTOR);
    const uint32_t *a = tile->a;
    __m512 total = tile->add ? _mm512_loadu_ps(tile->c + first) : _mm512_setzero_ps();
    for (int64_t left = (tile->depth + 1) / 2; left > 0; left -= LINEAR_CHUNK, a += LINEAR_CHUNK, scales += VECTOR) {
        __m512 sum = _mm512_setzero_ps();
        for (int unit = 0; unit < LINEAR_CHUNK && unit < left; unit += MAX_PAIRS, slab += INT_SLAB_BYTES) {
            __m512i pair[MAX_PAIRS];
            _mm_prefetch((const char *)slab + AHEAD, _MM_HINT_T0);
            slab_pairs(pair, &table, slab, FORMAT_INT4);
            UNROLL
            for (int j = 0; j < MAX_PAIRS; j++) {
                if (unit + j < left) {
                    sum = multiply_add(UNIT_PAIR, sum, _mm512_set1_epi32((int)a[unit + j]), pair[j]);
                }
            }
        }
        total = _mm512_fmadd_ps(sum, load_scales(scales), total);
    }
    _mm512_storeu_ps(tile->c + first, total);
}

// As many tiles at a time as leave the sums in registers.
INLINE void tile_pairs(const struct linear_tile *tile, const enum format format, const enum method method,
                       const int rows) {
    int first = 0;
    for (; method == METHOD_PAIRS && format == FORMAT_INT4 && rows == 1 && first < tile->columns; first += VECTOR) {
        tile_row_int4(tile, first);
    }
    for (; method == METHOD_HALVES && rows <= 4 && tile->columns - first > 3 * VECTOR; first += 4 * VECTOR) {
        tile_some(tile, first, format, method, rows, 4);
    }
    for (; (rows <= 4 || method == METHOD_HALVES) && tile->columns - first > VECTOR; first += 2 * VECTOR) {
        tile_some(tile, first, format, method, rows, 2);
    }
    for (; first < tile->columns; first += VECTOR) {
        tile_some(tile, first, format, method, rows, 1);
    }
}

// F32 activations: any number of rows, one after another.
INLINE void tile_singles(const struct linear_tile *tile, const int first, const enum format format) {
    const struct tensor *weight = tile->mapped->integers;
    const int64_t group = int_group(format), depth = int_slab_depth(format);
    const uint8_t *codes = int_codes(weight, (tile->column + first) / VECTOR);
    for (int i = 0; i < tile->rows; i++) {
        float *c = tile->c + i * tile->c_stride + first;
        const uint16_t *scales = int_scales(weight, (tile->column + first) / VECTOR);
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

#define TILE(rows)                                                        \
    static void tile_int8_pairs_##rows(const struct linear_tile *tile) {  \
        tile_pairs(tile, FORMAT_INT8, METHOD_PAIRS, rows);                \
    }                                                                     \
    static void tile_int8_halves_##rows(const struct linear_tile *tile) { \
        tile_pairs(tile, FORMAT_INT8, METHOD_HALVES, rows);               \
    }                                                                     \
    static void tile_int4_pairs_##rows(const struct linear_tile *tile) {  \
        tile_pairs(tile, FORMAT_INT4, METHOD_PAIRS, rows);                \
    }                                                                     \
    static void tile_int4_halves_##rows(const struct linear_tile *tile) { \
        tile_pairs(tile, FORMAT_INT4, METHOD_HALVES, rows);               \
    }
TILE(1)
TILE(2)
TILE(3)
TILE(4)
TILE(5)
TILE(6)
TILE(7)
TILE(8)

#define ENTRY(name) \
    { NULL, name##_1, name##_2, name##_3, name##_4, name##_5, name##_6, name##_7, name##_8 }
static void (*const tiles_of[2][2][FEW_ROWS + 1])(const struct linear_tile *tile) = {
    {ENTRY(tile_int8_pairs), ENTRY(tile_int4_pairs)}, {ENTRY(tile_int8_halves), ENTRY(tile_int4_halves)}};

static void tile_int(const struct linear_tile *tile, enum method method) {
    bool int4 = tile->mapped->format == FORMAT_INT4;
    if (tile->unit == UNIT_PAIR) {
        tiles_of[method][int4][tile->rows](tile);
        return;
    }
    for (int first = 0; first < tile->columns; first += VECTOR) {
        if (int4) {
            tile_singles(tile, first, FORMAT_INT4);
        } else {
            tile_singles(tile, first, FORMAT_INT8);
        }
    }
}

static void tile_int_pairs(const struct linear_tile *tile) {
    tile_int(tile, METHOD_PAIRS);
}

static void tile_int_halves(const struct linear_tile *tile) {
    tile_int(tile, METHOD_HALVES);
}

void kernels_avx512_linear_int_pairs(struct cpu_kernels *kernels, bool wide) {
    kernels->linear.tile_int = wide ? tile_int_halves : tile_int_pairs;
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
    kernels_avx512_linear_int_pairs(kernels, false);
}
