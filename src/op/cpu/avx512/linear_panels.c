// AVX-512 kernels of products with weights in panels (tensor/panels.h): few rows read a panel front to back, nothing is
// turned; many rows take the packed way, for which a panel of BF16 is ready and one of codes is widened.
#include <string.h>

#include "op/cpu/avx512/linear_few.h"
#include "op/cpu/kernels.h"
#include "tensor/formats.h"
#include "tensor/panels.h"

#define ROWS_OF_TWO 4    // most rows of two panels at a time: their sums stay in registers,
#define ROWS_OF_FOUR 1   // and of four, of codes as F32
#define GROUPS 2         // of 16 columns in a panel
#define MOST_PANELS 4
#define LINE 64
#define STEP 4   // units of codes at a time

// Bytes of a panel that are asked for before their turn, into the second cache level.
#define AHEAD(panels) ((panels) > 2 ? 1024 : 4096)

uint8_t panel_high[128], panel_low[128];

// ---- Reading --------------------------------------------------------------------------------------------------------

INLINE void ask_ahead(const struct reader *reader, const int panels, const int lines) {
    const char *line = reader->from + AHEAD(panels);
    line += line < reader->end ? 0 : reader->jump;
    UNROLL
    for (int panel = 0; panel < panels; panel++, line += reader->bytes) {
        UNROLL
        for (int i = 0; i < lines; i++) {
            _mm_prefetch(line + i * LINE, _MM_HINT_T1);
        }
    }
}

// ---- Pairs ----------------------------------------------------------------------------------------------------------

// Upper and lower bytes of the BF16 values of codes.
INLINE void look_up(__m512i *high, __m512i *low, __m512i codes, const struct e4m3_table *table) {
    *low = permute_bytes(codes, table->low[0], table->low[1]);
    *high = _mm512_ternarylogic_epi32(permute_bytes(codes, table->high[0], table->high[1]), codes,
                                      _mm512_set1_epi8((char)0x80), 0xf8);   // high | (codes & sign)
}

// A unit of a panel as words of two BF16.
INLINE void load_unit(__m512i pair[GROUPS], const enum format format, const struct e4m3_table *table,
                      const char *from) {
    if (format == FORMAT_BF16) {
        pair[0] = _mm512_loadu_si512(from);
        pair[1] = _mm512_loadu_si512(from + LINE);
        return;
    }
    __m512i high, low;
    look_up(&high, &low, _mm512_loadu_si512(from), table);
    pair[0] = _mm512_unpacklo_epi8(low, high);
    pair[1] = _mm512_unpackhi_epi8(low, high);
}

INLINE void load_units(__m512i pair[FEW_GROUPS], const struct reader *reader, const int64_t offset, const int panels,
                       const enum format format, const struct e4m3_table *table) {
    UNROLL
    for (int panel = 0; panel < panels; panel++) {
        load_unit(pair + panel * GROUPS, format, table, reader->from + offset + panel * reader->bytes);
    }
}

// `units` units of all rows, chunk by chunk. Returns where the next units of a are.
INLINE const uint32_t *multiply_chunks(__m512 sum[][FEW_ROWS], const uint32_t *a, struct reader *reader, int64_t units,
                                       const enum format format, const enum method method, const int rows,
                                       const int panels, const struct e4m3_table *table) {
    const int bytes = format == FORMAT_BF16 ? 4 * PANEL_ROWS : 2 * PANEL_ROWS;
    __m512i pair[FEW_GROUPS];
    struct halves halves;
    for (; units >= LINEAR_CHUNK; units -= LINEAR_CHUNK, a += rows * LINEAR_CHUNK) {
        if (method == METHOD_HALVES) {
            split_rows(&halves, a, rows);
        }
        for (int part = 0; part < LINEAR_CHUNK; part += 4) {
            ask_ahead(reader, panels, 4 * bytes / LINE);
            UNROLL
            for (int i = 0; i < 4; i++) {
                load_units(pair, reader, i * bytes, panels, format, table);
                multiply_unit(sum, a, &halves, part + i, rows, panels * GROUPS, method, pair);
            }
            reader->from += 4 * bytes;
        }
    }
    if (units > 0 && method == METHOD_HALVES) {
        split_rows(&halves, a, rows);
    }
    for (int unit = 0; unit < units; unit++, reader->from += bytes) {
        load_units(pair, reader, 0, panels, format, table);
        multiply_unit(sum, a, &halves, unit, rows, panels * GROUPS, method, pair);
    }
    return a;
}

// Columns of a tile from `first` on: one panel or two.
INLINE void tile_any(const struct linear_tile *tile, int first, const enum format format, const enum method method,
                     const int rows, const int panels) {
    const int64_t block = BLOCK_SIZE / 2;
    const bool scaled = format != FORMAT_BF16;
    const struct e4m3_table table = panel_table_load();
    const int groups = panels * GROUPS;
    const uint32_t *a = tile->a;
    struct reader reader = reader_make(tile, format, first, panels);
    __m512 sum[FEW_GROUPS][FEW_ROWS];
    for (int64_t begin = 0; begin < tile->units; begin += scaled ? block : tile->units) {
        const int64_t left = tile->units - begin;
        const bool start = begin == 0 && !tile->add;
        float *const c = tile->c + first;
        UNROLL
        for (int g = 0; g < groups; g++) {
            UNROLL
            for (int i = 0; i < rows; i++) {
                sum[g][i] = scaled || start ? _mm512_setzero_ps()
                                            : _mm512_loadu_ps(c + i * tile->c_stride + g * VECTOR);
            }
        }
        a = multiply_chunks(sum, a, &reader, scaled && left > block ? block : left, format, method, rows, panels,
                            &table);
        __m512 scale = _mm512_set1_ps(scaled ? tile->scale[begin / block] : 1.0f);
        UNROLL
        for (int g = 0; g < groups; g++) {
            UNROLL
            for (int i = 0; i < rows; i++) {
                float *to = c + i * tile->c_stride + g * VECTOR;
                if (scaled) {
                    sum[g][i] = _mm512_fmadd_ps(sum[g][i], scale, start ? _mm512_setzero_ps() : _mm512_loadu_ps(to));
                }
                _mm512_storeu_ps(to, sum[g][i]);
            }
        }
    }
}

// ---- Codes as F32 ---------------------------------------------------------------------------------------------------
//
// Where pairs are multiplied by halves, codes need not become pairs. A lane of four codes holds k + 1 and k of an even
// row of the panel, then of the odd row; two windows on a code, under a mask, beside a constant, are the F32 of its
// 1.m times a power of two. The constant, which must not carry, makes it 2^-8 times too small: rows of a, where they
// are split, get that factor. Sums are in the order of lanes, even rows and odd rows, until they are stored.

#define FACTOR 0x1p8f
#define WILD 0x7b80   // BF16 of 2^120: what the factor could make infinite

// Whether rows of a have elements that the factor could make infinite, or that are so already.
INLINE bool is_wild(const struct linear_tile *tile, const int rows) {
    __m512i most = _mm512_setzero_si512();
    for (int64_t word = 0; word < (tile->units + LINEAR_CHUNK - 1) / LINEAR_CHUNK * rows * LINEAR_CHUNK;
         word += VECTOR) {
        __m512i pair = _mm512_loadu_si512(tile->a + word);
        most = _mm512_max_epu16(most, _mm512_and_si512(pair, _mm512_set1_epi16(0x7fff)));
    }
    return _mm512_cmpge_epu16_mask(most, _mm512_set1_epi16(WILD)) != 0;
}

INLINE void split_and_scale(struct halves *halves, const uint32_t *a, const int rows) {
    split_rows(halves, a, rows);
    UNROLL
    for (int i = 0; i < rows * LINEAR_CHUNK; i += VECTOR) {
        __m512 even = _mm512_load_ps(halves->even + i), odd = _mm512_load_ps(halves->odd + i);
        _mm512_store_ps(halves->even + i, _mm512_mul_ps(even, _mm512_set1_ps(FACTOR)));
        _mm512_store_ps(halves->odd + i, _mm512_mul_ps(odd, _mm512_set1_ps(FACTOR)));
    }
}

// windows[j]: from lanes of four codes dwords of which byte 3 is code j, and byte 2 the same moved up by one bit.
struct code_constants {
    __m512i windows[4], fields, exponent;
};

INLINE struct code_constants code_constants_make(void) {
    struct code_constants constants = {.fields = _mm512_set1_epi32((int)0x87f00000u),
                                       .exponent = _mm512_set1_epi32(0x38000000)};
    UNROLL
    for (int byte = 0; byte < 4; byte++) {
        const int bit = 8 * byte;
        const uint64_t low = (uint64_t)bit << 24 | (uint64_t)((bit + 63) % 64) << 16;
        const uint64_t high = (uint64_t)(bit + 32) << 24 | (uint64_t)(bit + 31) << 16;
        constants.windows[byte] = _mm512_set1_epi64((long long)(high << 32 | low));
        __asm__("" : "+v"(constants.windows[byte]));
    }
    __asm__("" : "+v"(constants.fields), "+v"(constants.exponent));   // not to be made anew in the loop
    return constants;
}

// Code `byte` of each lane: sign, exponent of 112 or more, mantissa. `marked`: there may be exponents of 0, for which
// that is 2^-15 (1 + m / 8), not 2^-14 m / 8, and of the difference of equals the sign is lost.
INLINE __m512 code_floats(const struct code_constants *constants, __m512i codes, const int byte, const bool marked) {
    __m512i word = _mm512_multishift_epi64_epi8(constants->windows[byte], codes);
    // word & fields | exponent
    __m512 value = _mm512_castsi512_ps(_mm512_ternarylogic_epi32(word, constants->fields, constants->exponent, 0xea));
    if (marked) {
        __mmask16 small = _mm512_testn_epi32_mask(word, _mm512_set1_epi32(0x07800000));
        __m512 one = _mm512_and_ps(value, _mm512_castsi512_ps(_mm512_set1_epi32((int)0xff800000u)));
        value = _mm512_mask_sub_ps(value, small, value, one);
        value = _mm512_mask_add_ps(value, small, value, value);
        const __m512i sign = _mm512_set1_epi32((int)0x80000000u);
        value = _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(value), word, sign, 0xf8));
    }
    return value;
}

// STEP units by all rows.
INLINE void multiply_step(__m512 sum[][FEW_ROWS], const struct code_constants *constants, const struct halves *halves,
                          const int unit, const int rows, const int panels, const struct reader *reader,
                          const bool marked) {
    UNROLL
    for (int i = 0; i < 2 * STEP; i++) {
        const float *x = (i % 2 == 0 ? halves->even : halves->odd) + unit + i / 2;
        __m512 b[MOST_PANELS * GROUPS];
        UNROLL
        for (int panel = 0; panel < panels; panel++) {
            __m512i codes = _mm512_loadu_si512(reader->from + panel * reader->bytes + i / 2 * 2 * PANEL_ROWS);
            b[GROUPS * panel] = code_floats(constants, codes, 1 - i % 2, marked);
            b[GROUPS * panel + 1] = code_floats(constants, codes, 3 - i % 2, marked);
        }
        UNROLL
        for (int row = 0; row < rows; row++) {
            __m512 element = _mm512_set1_ps(x[row * LINEAR_CHUNK]);
            UNROLL
            for (int g = 0; g < panels * GROUPS; g++) {
                accumulate(&sum[g][row], element, b[g]);
            }
        }
    }
}

INLINE void copy_sums(__m512 to[][FEW_ROWS], __m512 from[][FEW_ROWS], const int rows, const int panels) {
    UNROLL
    for (int i = 0; i < panels * GROUPS * rows; i++) {
        to[i / rows][i % rows] = from[i / rows][i % rows];
    }
}

// STEP units, some of them marked. Calls: with the sums in memory here, they stay in registers elsewhere.
#define MARKED(rows, panels)                                                                          \
    static __attribute__((noinline)) void marked_##rows##_##panels(                                   \
        __m512(*sum)[FEW_ROWS], const struct halves *halves, int unit, const struct reader *reader) { \
        const struct code_constants constants = code_constants_make();                                \
        __m512 inside[MOST_PANELS * GROUPS][FEW_ROWS];                                                \
        copy_sums(inside, sum, rows, panels);                                                         \
        multiply_step(inside, &constants, halves, unit, rows, panels, reader, true);                  \
        copy_sums(sum, inside, rows, panels);                                                         \
    }
MARKED(1, 1)
MARKED(1, 2)
MARKED(1, 4)
MARKED(2, 1)
MARKED(2, 2)
MARKED(3, 1)
MARKED(3, 2)
MARKED(4, 1)
MARKED(4, 2)
MARKED(5, 1)
MARKED(6, 1)
MARKED(7, 1)
MARKED(8, 1)

typedef void marked_step(__m512 (*sum)[FEW_ROWS], const struct halves *halves, int unit, const struct reader *reader);
static marked_step *const marked_steps[FEW_ROWS + 1][MOST_PANELS + 1] = {
    {NULL},
    {NULL, marked_1_1, marked_1_2, NULL, marked_1_4},
    {NULL, marked_2_1, marked_2_2},
    {NULL, marked_3_1, marked_3_2},
    {NULL, marked_4_1, marked_4_2},
    {NULL, marked_5_1},
    {NULL, marked_6_1},
    {NULL, marked_7_1},
    {NULL, marked_8_1}};

// Fewer units than a step, of any kind.
static __attribute__((noinline)) void multiply_rest(__m512 (*sum)[FEW_ROWS], const struct halves *halves, int unit,
                                                    int units, int rows, int panels, const struct reader *reader) {
    const struct code_constants constants = code_constants_make();
    for (int i = 0; i < units * panels; i++) {
        const int panel = i % panels, at = i / panels;
        __m512i codes = _mm512_loadu_si512(reader->from + panel * reader->bytes + at * 2 * PANEL_ROWS);
        UNROLL
        for (int half = 0; half < 2; half++) {
            const float *x = (half == 0 ? halves->even : halves->odd) + unit + at;
            __m512 even = code_floats(&constants, codes, 1 - half, true);
            __m512 odd = code_floats(&constants, codes, 3 - half, true);
            for (int row = 0; row < rows; row++) {
                __m512 element = _mm512_set1_ps(x[row * LINEAR_CHUNK]);
                accumulate(&sum[GROUPS * panel][row], element, even);
                accumulate(&sum[GROUPS * panel + 1][row], element, odd);
            }
        }
    }
}

INLINE void multiply_units(__m512 sum[][FEW_ROWS], const struct code_constants *constants, const struct halves *halves,
                           const int unit, const int units, const int rows, const int panels,
                           const struct reader *reader, const bool marked) {
    if (!marked && units == STEP) {
        multiply_step(sum, constants, halves, unit, rows, panels, reader, false);
        return;
    }
    __m512 copy[MOST_PANELS * GROUPS][FEW_ROWS];
    copy_sums(copy, sum, rows, panels);
    if (units == STEP) {
        marked_steps[rows][panels](copy, halves, unit, reader);
    } else {
        multiply_rest(copy, halves, unit, units, rows, panels, reader);
    }
    copy_sums(sum, copy, rows, panels);
}

// c of a panel: sums of a block of k, in the order of lanes, times their scale.
INLINE void add_scaled(float *c, const int64_t stride, __m512 sum[GROUPS][FEW_ROWS], const int rows, const __m512 scale,
                       const bool start) {
    const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(2));
    UNROLL
    for (int i = 0; i < rows; i++) {
        float *to = c + i * stride;
        __m512 low = _mm512_permutex2var_ps(sum[0][i], first, sum[1][i]);
        __m512 high = _mm512_permutex2var_ps(sum[0][i], second, sum[1][i]);
        _mm512_storeu_ps(to, _mm512_fmadd_ps(low, scale, start ? _mm512_setzero_ps() : _mm512_loadu_ps(to)));
        to += VECTOR;
        _mm512_storeu_ps(to, _mm512_fmadd_ps(high, scale, start ? _mm512_setzero_ps() : _mm512_loadu_ps(to)));
    }
}

// Columns of a tile from `first` on: one, two or four panels without NaN.
INLINE void tile_codes(const struct linear_tile *tile, int first, const int rows, const int panels) {
    const int64_t block = BLOCK_SIZE / 2, bytes = panel_bytes(FORMAT_E4M3_BLOCK, tile->depth);
    const uint8_t *marks = (const uint8_t *)tile_panel(tile, first, bytes);
    const uint32_t *a = tile->a;
    const struct code_constants constants = code_constants_make();
    struct reader reader = reader_make(tile, FORMAT_E4M3_BLOCK, first, panels);
    struct halves halves;
    for (int64_t begin = 0; begin < tile->units; begin += block) {
        const int64_t block_end = tile->units - begin < block ? tile->units : begin + block;
        __m512 sum[MOST_PANELS * GROUPS][FEW_ROWS];
        UNROLL
        for (int g = 0; g < panels * GROUPS; g++) {
            UNROLL
            for (int i = 0; i < rows; i++) {
                sum[g][i] = _mm512_setzero_ps();
            }
        }
        for (int64_t chunk = begin; chunk < block_end; chunk += LINEAR_CHUNK, a += rows * LINEAR_CHUNK, marks++) {
            const int units = block_end - chunk < LINEAR_CHUNK ? (int)(block_end - chunk) : LINEAR_CHUNK;
            split_and_scale(&halves, a, rows);
            unsigned marked = marks[0];
            UNROLL
            for (int panel = 1; panel < panels; panel++) {
                marked |= marks[panel * bytes];
            }
            for (int unit = 0; unit < units; unit += STEP, marked >>= 1, reader.from += STEP * 2 * PANEL_ROWS) {
                ask_ahead(&reader, panels, STEP * 2 * PANEL_ROWS / LINE);
                multiply_units(sum, &constants, &halves, unit, units - unit < STEP ? units - unit : STEP, rows, panels,
                               &reader, (marked & 1) != 0);
            }
        }
        const __m512 scale = _mm512_set1_ps(tile->scale[begin / block]);
        UNROLL
        for (int panel = 0; panel < panels; panel++) {
            add_scaled(tile->c + first + panel * PANEL_ROWS, tile->c_stride, sum + panel * GROUPS, rows, scale,
                       begin == 0 && !tile->add);
        }
    }
}

// ---- Tiles ----------------------------------------------------------------------------------------------------------

// Few rows are few chains, which wait for themselves: several panels side by side are as many times more.
INLINE void tile_panels(const struct linear_tile *tile, const enum format format, const enum method method,
                        const int rows) {
    int first = 0;
    for (; rows <= ROWS_OF_TWO && tile->columns - first > PANEL_ROWS; first += 2 * PANEL_ROWS) {
        tile_any(tile, first, format, method, rows, 2);
    }
    for (; first < tile->columns; first += PANEL_ROWS) {
        tile_any(tile, first, format, method, rows, 1);
    }
}

// Whether one of the panels of a tile has a NaN.
INLINE bool has_nan(const struct linear_tile *tile) {
    const int64_t bytes = panel_bytes(FORMAT_E4M3_BLOCK, tile->depth);
    char any = 0;
    for (int first = 0; first < tile->columns; first += PANEL_ROWS) {
        any |= tile_panel(tile, first, bytes)[panel_chunks(tile->depth)];
    }
    return any != 0;
}

INLINE void tile_float_panels(const struct linear_tile *tile, const int rows) {
    if (is_wild(tile, rows) || has_nan(tile)) {
        tile_panels(tile, FORMAT_E4M3_BLOCK, METHOD_HALVES, rows);
        return;
    }
    int first = 0;
    for (; rows <= ROWS_OF_FOUR && tile->columns - first > 3 * PANEL_ROWS; first += 4 * PANEL_ROWS) {
        tile_codes(tile, first, rows, 4);
    }
    for (; rows <= ROWS_OF_TWO && tile->columns - first > PANEL_ROWS; first += 2 * PANEL_ROWS) {
        tile_codes(tile, first, rows, 2);
    }
    for (; first < tile->columns; first += PANEL_ROWS) {
        tile_codes(tile, first, rows, 1);
    }
}

#define TILE(rows)                                                        \
    static void tile_bf16_pairs_##rows(const struct linear_tile *tile) {  \
        tile_panels(tile, FORMAT_BF16, METHOD_PAIRS, rows);               \
    }                                                                     \
    static void tile_bf16_halves_##rows(const struct linear_tile *tile) { \
        tile_panels(tile, FORMAT_BF16, METHOD_HALVES, rows);              \
    }                                                                     \
    static void tile_e4m3_pairs_##rows(const struct linear_tile *tile) {  \
        tile_panels(tile, FORMAT_E4M3_BLOCK, METHOD_PAIRS, rows);         \
    }                                                                     \
    static void tile_e4m3_floats_##rows(const struct linear_tile *tile) { \
        tile_float_panels(tile, rows);                                    \
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
static void (*const tiles[2][2][FEW_ROWS + 1])(const struct linear_tile *tile) = {
    {ENTRY(tile_bf16_pairs), ENTRY(tile_e4m3_pairs)}, {ENTRY(tile_bf16_halves), ENTRY(tile_e4m3_floats)}};

static void tile_pairs(const struct linear_tile *tile) {
    tiles[METHOD_PAIRS][tile->mapped->format != FORMAT_BF16][tile->rows](tile);
}

static void tile_halves(const struct linear_tile *tile) {
    tiles[METHOD_HALVES][tile->mapped->format != FORMAT_BF16][tile->rows](tile);
}

// ---- Packing --------------------------------------------------------------------------------------------------------

INLINE void widen_units(uint32_t *out, const uint8_t *codes, int64_t units, const enum linear_unit unit) {
    const struct e4m3_table table = panel_table_load();
    const int64_t step = unit == UNIT_PAIR ? 1 : 2;
    for (; units > 0; units -= step, codes += 2 * PANEL_ROWS, out += step * PANEL_ROWS) {
        __m512i pair[GROUPS];
        load_unit(pair, FORMAT_E4M3_BLOCK, &table, (const char *)codes);
        UNROLL
        for (int g = 0; g < GROUPS; g++) {
            if (unit == UNIT_PAIR) {
                _mm512_store_si512(out + g * VECTOR, pair[g]);
                continue;
            }
            __m512i even = _mm512_and_si512(pair[g], _mm512_set1_epi32((int)0xffff0000u));
            _mm512_store_si512(out + g * VECTOR, even);
            if (units > 1) {
                _mm512_store_si512(out + PANEL_ROWS + g * VECTOR, _mm512_slli_epi32(pair[g], 16));
            }
        }
    }
}

static void widen_panel(uint32_t *out, const uint8_t *codes, int64_t units, enum linear_unit unit) {
    if (unit == UNIT_PAIR) {
        widen_units(out, codes, units, UNIT_PAIR);
    } else {
        widen_units(out, codes, units, UNIT_F32);
    }
}

// ---- Filling --------------------------------------------------------------------------------------------------------

// A line of each of 16 rows -> one word of all rows in each vector.
INLINE void load_lines(__m512i v[VECTOR], const char *from, int64_t row_bytes, int64_t rows, __mmask64 mask) {
    UNROLL
    for (int i = 0; i < VECTOR; i++) {
        v[i] = i < rows ? _mm512_maskz_loadu_epi8(mask, from + i * row_bytes) : _mm512_setzero_si512();
    }
    transpose(v);
}

// A unit of a panel, in the order of bits that codes have there, and its marks.
INLINE void store_codes(char *to, uint8_t *marks, int64_t chunks, int64_t unit, __m512i codes) {
    const __m512i high = _mm512_set1_epi8(0x78), low = _mm512_set1_epi8(0x07), magnitude = _mm512_set1_epi8(0x7f);
    __m512i moved = _mm512_and_si512(_mm512_slli_epi16(codes, 3), high);
    moved = _mm512_ternarylogic_epi32(moved, _mm512_srli_epi16(codes, 4), low, 0xf8);      // | (codes >> 4 & low)
    moved = _mm512_ternarylogic_epi32(moved, codes, _mm512_set1_epi8((char)0x80), 0xf8);   // | sign
    _mm512_storeu_si512(to, moved);
    bool marked = _mm512_testn_epi8_mask(codes, high) != 0;
    marks[unit / PANEL_CHUNK] |= (uint8_t)(marked << unit % PANEL_CHUNK / PANEL_MARKED);
    marks[chunks] |= _mm512_cmpeq_epi8_mask(_mm512_and_si512(codes, magnitude), magnitude) != 0;
}

static void fill_panel(struct tensor *out, const struct tensor *source, int64_t panel) {
    const bool bf16 = source->format == FORMAT_BF16;
    const int64_t depth_bytes = source->shape[1] * (bf16 ? 2 : 1), row_bytes = source->stride[0] * (bf16 ? 2 : 1);
    const int64_t units = (source->shape[1] + 1) / 2, rows = source->shape[0] - panel * PANEL_ROWS;
    const int64_t chunks = panel_chunks(source->shape[1]);
    const char *from = (const char *)source->data + panel * PANEL_ROWS * row_bytes;
    const int64_t marks_bytes = panel_marks_bytes((enum format)source->format, source->shape[1]);
    char *begin = (char *)out->data + panel * panel_bytes((enum format)source->format, source->shape[1]);
    char *to = begin + marks_bytes;
    uint8_t *marks = (uint8_t *)begin;
    memset(marks, 0, (size_t)marks_bytes);
    // Of four rows' words: k + 1, k, k + 3, k + 2 -> first the two pairs of all rows, then the others.
    const __m512i turn = _mm512_broadcast_i32x4(_mm_setr_epi8(1, 0, 5, 4, 9, 8, 13, 12, 3, 2, 7, 6, 11, 10, 15, 14));
    for (int64_t byte = 0, unit = 0; byte < depth_bytes; byte += LINE) {
        const int64_t left = depth_bytes - byte;
        const __mmask64 mask = left >= LINE ? ~(__mmask64)0 : ((__mmask64)1 << left) - 1;
        __m512i v[GROUPS][VECTOR];
        load_lines(v[0], from + byte, row_bytes, rows, mask);
        load_lines(v[1], from + byte + VECTOR * row_bytes, row_bytes, rows - VECTOR, mask);
        for (int i = 0; i < VECTOR && unit < units; i++) {
            if (bf16) {
                _mm512_storeu_si512(to, _mm512_rol_epi32(v[0][i], 16));
                _mm512_storeu_si512(to + LINE, _mm512_rol_epi32(v[1][i], 16));
                unit++;
            } else {
                __m512i first = _mm512_shuffle_epi8(v[0][i], turn), second = _mm512_shuffle_epi8(v[1][i], turn);
                store_codes(to, marks, chunks, unit, _mm512_unpacklo_epi64(first, second));
                if (unit + 1 < units) {
                    store_codes(to + LINE, marks, chunks, unit + 1, _mm512_unpackhi_epi64(first, second));
                }
                unit += 2;
            }
            to += 2 * LINE;
        }
    }
}

void kernels_avx512_linear_panels_pairs(struct cpu_kernels *kernels, bool wide) {
    kernels->linear.tile_panel = wide ? tile_halves : tile_pairs;
}

void kernels_avx512_linear_panels(struct cpu_kernels *kernels) {
    for (int i = 0; i < 128; i++) {
        panel_high[i] = e4m3_high[panel_code_back((uint8_t)i)];
        panel_low[i] = e4m3_low[panel_code_back((uint8_t)i)];
    }
    kernels->linear.panel_rows = FEW_ROWS;
    kernels->linear.widen_panel = widen_panel;
    kernels->linear.fill_panel = fill_panel;
    kernels_avx512_linear_panels_pairs(kernels, false);
}
