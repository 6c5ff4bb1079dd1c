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
    struct table table = {
        {_mm512_loadu_si512(int8_high), _mm512_loadu_si512(int8_high + 64)},
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

// Code j of each lane of a slab as F32, without the detour over pairs. `lanes` is moved along as j ascends.
//   int4   code 2 i + 1 stands at bit 4 i, code 2 i at bit 16 + 4 i: after a shift by 4 i one look-up for each, which
//          takes as many low bits of its index as its table is long (that of the upper halves clears the lower)
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

// ---- Packing --------------------------------------------------------------------------------------------------------

// Where the slab with k of tile `tile` begins.
INLINE const uint8_t *slab_at(const struct tensor *weight, const enum format format, int64_t tile, int64_t k) {
    return int_slabs(weight, tile, k / int_group(format)) +
           k % int_group(format) / int_slab_depth(format) * int_slab_stride(weight, tile);
}

// A slab of a tile as units, `left` k of it.
INLINE void pack_slab(uint32_t *out, const int64_t stride, const uint8_t *slab, const struct table *table,
                      const enum format format, const enum linear_unit unit, const int64_t left) {
    const int depth = (int)int_slab_depth(format);
    if (unit == UNIT_PAIR) {
        __m512i pair[MAX_PAIRS];
        slab_pairs(pair, table, slab, format);
        UNROLL
        for (int i = 0; i < depth / 2; i++) {
            if (2 * i < left) {
                _mm512_store_si512(out + i * stride, pair[i]);
            }
        }
        return;
    }
    __m512i lanes = _mm512_loadu_si512(slab);
    UNROLL
    for (int j = 0; j < depth; j++) {
        __m512 code = next_code(&lanes, table, format, j);
        if (j < left) {
            _mm512_store_ps((float *)(void *)(out + j * stride), code);
        }
    }
}

// Columns of a block: its slabs are read front to back, group by group.
INLINE void pack_block(const struct linear_strip *strip, const enum format format, const enum linear_unit unit,
                       const int tiles) {
    const struct tensor *weight = strip->source->integers;
    const struct table table = table_load();
    const int64_t group = int_group(format), depth = int_slab_depth(format), stride = strip->unit_stride;
    const int64_t first = strip->row / VECTOR, slab_bytes = int_slab_stride(weight, first);
    const int64_t units = unit == UNIT_PAIR ? depth / 2 : depth;
    uint32_t *out = strip->out;
    for (int64_t k = strip->k_begin, end; k < strip->k_end; k = end) {
        const uint8_t *slab = slab_at(weight, format, first, k);
        end = k / group * group + group;
        end = end < strip->k_end ? end : strip->k_end;
        for (int64_t left = end - k; left > 0; left -= depth, slab += slab_bytes, out += units * stride) {
            UNROLL
            for (int t = 0; t < tiles; t++) {
                if (left >= depth) {
                    pack_slab(out + t * VECTOR, stride, slab + t * INT_SLAB_BYTES, &table, format, unit, depth);
                } else {
                    pack_slab(out + t * VECTOR, stride, slab + t * INT_SLAB_BYTES, &table, format, unit, left);
                }
            }
        }
    }
}

INLINE void pack_units(const struct linear_strip *strip, const enum format format, const enum linear_unit unit) {
    if (strip->rows > VECTOR) {
        pack_block(strip, format, unit, 2);
    } else {
        pack_block(strip, format, unit, 1);
    }
}

INLINE void pack_tiles(const struct linear_strip *strip, const enum format format) {
    if (strip->unit == UNIT_PAIR) {
        pack_units(strip, format, UNIT_PAIR);
    } else {
        pack_units(strip, format, UNIT_F32);
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

#define AHEAD(tiles) ((tiles) > 4 ? 1024 : 2048)   // bytes of a block that are asked for before their turn
#define MOST_UNITS (INT8_GROUP / 2)                // of a group
#define MOST_TILES(rows) ((rows) == 1 ? 8 : (rows) <= 4 ? 4 : 2)   // side by side: their sums stay in registers
#define MOST_TILES_OF_PAIRS(rows) ((rows) <= 2 ? 4 : 2)

// Blocks side by side, each read front to back: more streams than one keep more of memory busy.
struct stream {
    const uint8_t *at, *end;   // in the first
    int64_t jump;              // from `end` to the block that is read next
    int64_t stride;            // of slabs
    int64_t bytes;             // of a block
};

// Of tile t beside the first one of a block.
INLINE int64_t tile_offset(const struct stream *stream, const int t, const int64_t bytes) {
    return t / INT_BLOCK_TILES * stream->bytes + t % INT_BLOCK_TILES * bytes;
}

// Rows of a over one group, halves of their units as F32, in the order of a.
struct group_halves {
    _Alignas(64) float even[FEW_ROWS * MOST_UNITS], odd[FEW_ROWS * MOST_UNITS];
};

INLINE void split_group(struct group_halves *halves, const uint32_t *a, const int64_t words) {
    for (int64_t i = 0; i < words; i += VECTOR) {
        __m512i pair = _mm512_loadu_si512(a + i);
        __m512i even = _mm512_and_si512(pair, _mm512_set1_epi32((int)0xffff0000u));
        _mm512_store_ps(halves->even + i, _mm512_castsi512_ps(even));
        _mm512_store_ps(halves->odd + i, _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16)));
    }
}

INLINE void ask_ahead(const struct stream *stream, const uint8_t *from, const int tiles) {
    const uint8_t *line = from + AHEAD(tiles);
    line += line < stream->end ? 0 : stream->jump;
    UNROLL
    for (int t = 0; t < tiles; t++) {
        _mm_prefetch((const char *)line + tile_offset(stream, t, INT_SLAB_BYTES), _MM_HINT_T1);
    }
}

// The slabs of k of `tiles` tiles; `x`, `y`: even and odd k of row 0. `units`: pairs of k that there are.
INLINE void multiply_halves(__m512 sum[FEW_GROUPS][FEW_ROWS], const float *x, const float *y,
                            const struct stream *stream, const uint8_t *slab, const struct table *table,
                            const enum format format, const int rows, const int tiles, const int64_t units) {
    __m512i lanes[FEW_GROUPS];
    UNROLL
    for (int t = 0; t < tiles; t++) {
        lanes[t] = _mm512_loadu_si512(slab + tile_offset(stream, t, INT_SLAB_BYTES));
    }
    UNROLL
    for (int j = 0; j < (int)int_slab_depth(format); j++) {
        __m512 code[FEW_GROUPS];
        UNROLL
        for (int t = 0; t < tiles; t++) {
            code[t] = next_code(&lanes[t], table, format, j);
        }
        UNROLL
        for (int i = 0; i < rows; i++) {
            if (j >= 2 * units) {
                continue;
            }
            __m512 factor = _mm512_set1_ps((j % 2 == 0 ? x : y)[i * LINEAR_CHUNK + j / 2]);
            UNROLL
            for (int t = 0; t < tiles; t++) {
                sum[t][i] = _mm512_fmadd_ps(factor, code[t], sum[t][i]);
                __asm__("" : "+v"(sum[t][i]));   // here, not at the end of the loop
            }
        }
    }
}

// The same by pairs; `a`: the units of row 0.
INLINE void multiply_pairs(__m512 sum[FEW_GROUPS][FEW_ROWS], const uint32_t *a, const struct stream *stream,
                           const uint8_t *slab, const struct table *table, const enum format format, const int rows,
                           const int tiles, const int64_t units) {
    __m512i pair[FEW_GROUPS][MAX_PAIRS];
    UNROLL
    for (int t = 0; t < tiles; t++) {
        slab_pairs(pair[t], table, slab + tile_offset(stream, t, INT_SLAB_BYTES), format);
    }
    UNROLL
    for (int j = 0; j < (int)int_slab_depth(format) / 2; j++) {
        UNROLL
        for (int i = 0; i < rows; i++) {
            if (j >= units) {
                continue;
            }
            __m512i factor = _mm512_set1_epi32((int)a[i * LINEAR_CHUNK + j]);
            UNROLL
            for (int t = 0; t < tiles; t++) {
                sum[t][i] = multiply_add(UNIT_PAIR, sum[t][i], factor, pair[t][j]);
                __asm__("" : "+v"(sum[t][i]));
            }
        }
    }
}

// One group of `tiles` tiles: sum[t][i] = chain of row i of a with the codes of tile t. `units`: as many as it has.
INLINE void group_chain(__m512 sum[FEW_GROUPS][FEW_ROWS], const uint32_t *a, const struct group_halves *halves,
                        const struct stream *stream, const uint8_t *slab, const struct table *table,
                        const enum format format, const enum method method, const int rows, const int tiles,
                        int64_t units, const bool whole) {
    const int pairs = (int)int_slab_depth(format) / 2;
    UNROLL
    for (int t = 0; t < tiles; t++) {
        UNROLL
        for (int i = 0; i < rows; i++) {
            sum[t][i] = _mm512_setzero_ps();
        }
    }
    for (int64_t place = 0; units > 0; units -= LINEAR_CHUNK, place += rows * LINEAR_CHUNK) {
        for (int unit = 0; unit < LINEAR_CHUNK && (whole || unit < units); unit += pairs, slab += stream->stride) {
            const int64_t left = whole ? pairs : units - unit;
            ask_ahead(stream, slab, tiles);
            if (method == METHOD_HALVES) {
                multiply_halves(sum, halves->even + place + unit, halves->odd + place + unit, stream, slab, table,
                                format, rows, tiles, left);
            } else {
                multiply_pairs(sum, a + place + unit, stream, slab, table, format, rows, tiles, left);
            }
        }
    }
}

// Tiles [place, place + tiles) from stream->at on, columns of c from `c` on.
INLINE void multiply_group(const struct linear_tile *tile, float *c, const uint32_t *a,
                           const struct group_halves *halves, const struct stream *stream, const struct table *table,
                           const enum format format, const enum method method, const int rows, const int64_t place,
                           const int tiles, const int64_t units, const bool start) {
    const int64_t scale_bytes = VECTOR * (int64_t)sizeof(uint16_t), block = place / INT_BLOCK_TILES * stream->bytes;
    const uint8_t *scales = stream->at + block + place % INT_BLOCK_TILES * scale_bytes;
    const uint8_t *slab = stream->at + block + stream->stride / INT_SLAB_BYTES * scale_bytes +
                          place % INT_BLOCK_TILES * INT_SLAB_BYTES;
    __m512 sum[FEW_GROUPS][FEW_ROWS];
    if (units == int_group(format) / 2) {
        group_chain(sum, a, halves, stream, slab, table, format, method, rows, tiles, int_group(format) / 2, true);
    } else {
        group_chain(sum, a, halves, stream, slab, table, format, method, rows, tiles, units, false);
    }
    UNROLL
    for (int t = 0; t < tiles; t++) {
        __m512 scale = load_scales((const uint16_t *)(const void *)(scales + tile_offset(stream, t, scale_bytes)));
        UNROLL
        for (int i = 0; i < rows; i++) {
            float *to = c + i * tile->c_stride + (place + t) * VECTOR;
            __m512 total = start ? _mm512_setzero_ps() : _mm512_loadu_ps(to);
            _mm512_storeu_ps(to, _mm512_fmadd_ps(sum[t][i], scale, total));
        }
    }
}

// Tiles [first, first + tiles), all in blocks of `width` tiles, group by group: as many tiles at a time as leave the
// sums in registers.
INLINE void tile_blocks(const struct linear_tile *tile, const enum format format, const enum method method,
                        const int rows, const int64_t first, const int64_t tiles, const int64_t width) {
    const struct tensor *weight = tile->mapped->integers;
    const struct table table = table_load();
    const int most = method == METHOD_HALVES ? MOST_TILES(rows) : MOST_TILES_OF_PAIRS(rows);
    const int64_t group = int_group(format), group_bytes = int_group_bytes(format, width);
    const bool last = (first + tiles) * VECTOR >= tile->columns;
    float *const c = tile->c + first * VECTOR;
    const uint32_t *a = tile->a;
    struct stream stream = {.at = (const uint8_t *)int_scales(weight, tile->column / VECTOR + first, 0),
                            .stride = width * INT_SLAB_BYTES,
                            .bytes = int_block_bytes(weight, width)};
    stream.end = stream.at + stream.bytes;
    stream.jump = last && tile->next != NULL ? (const uint8_t *)tile->next - stream.end
                                             : (tiles / width - 1) * stream.bytes;
    struct group_halves halves;
    for (int64_t k = 0; k < tile->depth; k += group, a += group / 2 * rows, stream.at += group_bytes) {
        const int64_t units = tile->depth - k < group ? (tile->depth - k + 1) / 2 : group / 2;
        const bool start = k == 0 && !tile->add;
        if (method == METHOD_HALVES) {
            split_group(&halves, a, (units + LINEAR_CHUNK - 1) / LINEAR_CHUNK * LINEAR_CHUNK * rows);
        }
        int64_t place = 0;
        for (; most >= 8 && place + 8 <= tiles; place += 8) {
            multiply_group(tile, c, a, &halves, &stream, &table, format, method, rows, place, 8, units, start);
        }
        for (; most >= 4 && place + 4 <= tiles; place += 4) {
            multiply_group(tile, c, a, &halves, &stream, &table, format, method, rows, place, 4, units, start);
        }
        for (; place + 2 <= tiles; place += 2) {
            multiply_group(tile, c, a, &halves, &stream, &table, format, method, rows, place, 2, units, start);
        }
        for (; place < tiles; place++) {
            multiply_group(tile, c, a, &halves, &stream, &table, format, method, rows, place, 1, units, start);
        }
    }
}

// Whole blocks, then one that has fewer tiles.
INLINE void tile_block(const struct linear_tile *tile, const enum format format, const enum method method,
                       const int rows) {
    const int64_t tiles = (tile->columns + VECTOR - 1) / VECTOR, whole = tiles / INT_BLOCK_TILES * INT_BLOCK_TILES;
    if (whole > 0) {
        tile_blocks(tile, format, method, rows, 0, whole, INT_BLOCK_TILES);
    }
    if (whole < tiles) {
        tile_blocks(tile, format, method, rows, whole, tiles - whole, tiles - whole);
    }
}

// F32 activations: any number of rows, one after another.
INLINE void tile_singles(const struct linear_tile *tile, const int first, const enum format format) {
    const struct tensor *weight = tile->mapped->integers;
    const int64_t group = int_group(format), depth = int_slab_depth(format);
    const int64_t number = (tile->column + first) / VECTOR;
    for (int i = 0; i < tile->rows; i++) {
        float *c = tile->c + i * tile->c_stride + first;
        __m512 total = tile->add ? _mm512_loadu_ps(c) : _mm512_setzero_ps();
        for (int64_t begin = 0; begin < tile->depth; begin += group) {
            int64_t end = begin + group < tile->depth ? begin + group : tile->depth;
            __m512 sum = _mm512_setzero_ps();
            for (int64_t k = begin; k < end; k += depth) {
                const uint32_t *x = tile->a + (k / LINEAR_CHUNK * tile->rows + i) * LINEAR_CHUNK + k % LINEAR_CHUNK;
                UNROLL
                for (int j = 0; j < (int)depth; j++) {
                    if (k + j < end) {
                        __m512 code = slab_code(slab_at(weight, format, number, k), format, j);
                        sum = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_set1_epi32((int)x[j])), code, sum);
                    }
                }
            }
            total = _mm512_fmadd_ps(sum, load_scales(int_scales(weight, number, begin / group)), total);
        }
        _mm512_storeu_ps(c, total);
    }
}

#define TILE(rows)                                                        \
    static void tile_int8_pairs_##rows(const struct linear_tile *tile) {  \
        tile_block(tile, FORMAT_INT8, METHOD_PAIRS, rows);                \
    }                                                                     \
    static void tile_int8_halves_##rows(const struct linear_tile *tile) { \
        tile_block(tile, FORMAT_INT8, METHOD_HALVES, rows);               \
    }                                                                     \
    static void tile_int4_pairs_##rows(const struct linear_tile *tile) {  \
        tile_block(tile, FORMAT_INT4, METHOD_PAIRS, rows);                \
    }                                                                     \
    static void tile_int4_halves_##rows(const struct linear_tile *tile) { \
        tile_block(tile, FORMAT_INT4, METHOD_HALVES, rows);               \
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
