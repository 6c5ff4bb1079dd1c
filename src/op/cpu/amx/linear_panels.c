// AMX kernels of products of up to 32 rows with weights in panels (tensor/panels.h), which are read front to back: 16
// units of a panel are two tiles of side b as they lie, rows of a are packed as for any product. E4M3 is widened one
// step before its products: a tile that is loaded from what was stored just before waits for it.
#include <string.h>

#include "op/cpu/amx/linear_amx.h"
#include "op/cpu/amx/tiles.h"
#include "op/cpu/avx512/linear_few.h"
#include "tensor/formats.h"
#include "tensor/panels.h"

#define ROWS LINEAR_MOST_MAPPED
#define MOST_PANELS 2   // at a time: up to 16 rows have registers for both
#define AHEAD 4096      // bytes of a panel that are asked for before their turn, into the second level
#define SUM_COLUMNS (MOST_PANELS * PANEL_ROWS)
#define UNIT_BYTES (4 * PANEL_ROWS)    // of a unit of BF16
#define CODES_BYTES (2 * PANEL_ROWS)   // of E4M3
#define STEP_BYTES (LINEAR_CHUNK * UNIT_BYTES)
#define STEPS (BLOCK_SIZE / LINEAR_BLOCK)   // that share a scale

// How much of the registers is in use: `low`, more than 16 rows; else one panel or two side by side.
struct shape {
    bool low;
    int panels;
};

INLINE bool four_tiles(const struct shape shape) {
    return shape.low || shape.panels > 1;
}

// What is to be asked for now, in the first panel.
INLINE const char *ahead(const struct reader *reader) {
    const char *line = reader->from + AHEAD;
    return line + (line < reader->end ? 0 : reader->jump);
}

INLINE void ask_ahead(const struct reader *reader, const int panels, const int bytes) {
    const char *line = ahead(reader);
    for (int panel = 0; panel < panels; panel++, line += reader->bytes) {
        for (int byte = 0; byte < bytes; byte += TILE_BYTES) {
            _mm_prefetch(line + byte, _MM_HINT_T1);
        }
    }
}

// Upper bytes of the BF16 values of codes, and lower ones. Of the upper three bits of the exponent the lower byte
// depends only in that all may be zero (that of a NaN is another than elsewhere): 64 entries serve, and one instruction
// in place of three.
struct code_table {
    __m512i high[2], low;
};

static uint8_t low_bytes[64];   // index: the lowest bit of the exponent, mantissa, its highest bit, one of the others

INLINE struct code_table code_table_load(void) {
    struct e4m3_table table = panel_table_load();
    return (struct code_table){{table.high[0], table.high[1]}, _mm512_loadu_si512(low_bytes)};
}

// A unit of codes as BF16.
INLINE void widen_unit(char *to, const char *from, const struct code_table *table) {
    const __m512i bit = _mm512_set1_epi8(0x01), sign = _mm512_set1_epi8((char)0x80);
    __m512i codes = _mm512_loadu_si512(from);
    __m512i half = _mm512_srli_epi16(codes, 1);
    __m512i index = _mm512_ternarylogic_epi32(half, codes, bit, 0xf8);   // half | (codes & bit)
    __m512i high = permute_bytes(codes, table->high[0], table->high[1]);
    __m512i low = _mm512_permutexvar_epi8(index, table->low);
    high = _mm512_ternarylogic_epi32(high, codes, sign, 0xf8);   // high | (codes & sign)
    _mm512_store_si512(to, _mm512_unpacklo_epi8(low, high));
    _mm512_store_si512(to + TILE_BYTES, _mm512_unpackhi_epi8(low, high));
}

// `ask`: as many lines that are asked for meanwhile, one with each unit: more at once would hold up other loads.
INLINE void widen(char *to, const char *from, const char *ask, const int units, const struct code_table *table) {
#pragma GCC unroll 4   // all at once, GCC would move instructions of one unit into another: a fifth slower
    for (int unit = 0; unit < units; unit++) {
        _mm_prefetch(ask + unit * CODES_BYTES, _MM_HINT_T1);
        widen_unit(to + unit * UNIT_BYTES, from + unit * CODES_BYTES, table);
    }
}

// ---- Registers ------------------------------------------------------------------------------------------------------

INLINE void zero_c(const struct shape shape) {
    _tile_zero(0);
    _tile_zero(1);
    if (four_tiles(shape)) {
        _tile_zero(2);
        _tile_zero(3);
    }
}

// The third and fourth tile stand below the others, or beside them.
INLINE void load_c(const float *c, int64_t stride, const struct shape shape) {
    const float *more = c + (shape.low ? TILE * stride : PANEL_ROWS);
    memory_settle();
    _tile_loadd(0, c, 4 * stride);
    _tile_loadd(1, c + TILE, 4 * stride);
    if (four_tiles(shape)) {
        _tile_loadd(2, more, 4 * stride);
        _tile_loadd(3, more + TILE, 4 * stride);
    }
}

INLINE void store_c(float *c, int64_t stride, const struct shape shape) {
    float *more = c + (shape.low ? TILE * stride : PANEL_ROWS);
    _tile_stored(0, c, 4 * stride);
    _tile_stored(1, c + TILE, 4 * stride);
    if (four_tiles(shape)) {
        _tile_stored(2, more, 4 * stride);
        _tile_stored(3, more + TILE, 4 * stride);
    }
    memory_settle();
}

// One block of k in two parts: the first of 16 rows by one panel, the second of what else there is, whose panel begins
// `stride` bytes behind the first.
INLINE void first_part(const uint32_t *a, const char *b) {
    _tile_loadd(4, a, TILE_BYTES);
    _tile_loadd(6, b, UNIT_BYTES);
    _tile_loadd(7, b + TILE_BYTES, UNIT_BYTES);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
}

INLINE void second_part(const uint32_t *a, const char *b, int64_t stride, const struct shape shape) {
    if (shape.low) {
        _tile_loadd(5, a + TILE * LINEAR_CHUNK, TILE_BYTES);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    } else if (shape.panels > 1) {
        _tile_loadd(5, b + stride, UNIT_BYTES);
        _tile_loadd(6, b + stride + TILE_BYTES, UNIT_BYTES);
        _tile_dpbf16ps(2, 4, 5);
        _tile_dpbf16ps(3, 4, 6);
    }
}

// A last block of fewer units, copied and filled up with products of -0, which change no chain.
INLINE void step_rest(const uint32_t *a, const struct reader *reader, int64_t units, const int rows,
                      const enum format format, const struct shape shape, const struct code_table *table) {
    _Alignas(64) uint32_t a_copy[ROWS * LINEAR_CHUNK];
    _Alignas(64) char b_copy[MOST_PANELS][STEP_BYTES];
    const __mmask16 mask = lanes_mask(units);
    for (int i = 0; i < rows; i++) {
        __m512i row = _mm512_loadu_si512(a + i * LINEAR_CHUNK);
        _mm512_store_si512(a_copy + i * LINEAR_CHUNK, _mm512_mask_mov_epi32(_mm512_set1_epi32(AMX_ZERO), mask, row));
    }
    memset(b_copy, 0, sizeof b_copy);
    for (int panel = 0; panel < shape.panels; panel++) {
        const char *from = reader->from + panel * reader->bytes;
        if (format == FORMAT_BF16) {
            memcpy(b_copy[panel], from, (size_t)units * UNIT_BYTES);
        } else {
            widen(b_copy[panel], from, ahead(reader) + panel * reader->bytes, (int)units, table);
        }
    }
    memory_settle();
    first_part(a_copy, b_copy[0]);
    second_part(a_copy, b_copy[0], STEP_BYTES, shape);
    memory_settle();
}

// ---- BF16 -----------------------------------------------------------------------------------------------------------

INLINE void tile_words(const struct linear_tile *tile, float *c, struct reader *reader, const struct shape shape) {
    const uint32_t *a = tile->a;
    if (tile->add) {
        load_c(c, tile->c_stride, shape);
    } else {
        zero_c(shape);
    }
    for (int64_t step = tile->units / LINEAR_CHUNK; step > 0; step--) {
        ask_ahead(reader, shape.panels, STEP_BYTES);
        first_part(a, reader->from);
        second_part(a, reader->from, reader->bytes, shape);
        a += tile->rows * LINEAR_CHUNK;
        reader->from += STEP_BYTES;
    }
    if (tile->units % LINEAR_CHUNK != 0) {
        step_rest(a, reader, tile->units % LINEAR_CHUNK, tile->rows, FORMAT_BF16, shape, NULL);
    }
    store_c(c, tile->c_stride, shape);
}

// ---- E4M3 -----------------------------------------------------------------------------------------------------------

// c = fma(sum, scale, c), where c is +0 at the start.
INLINE void promote(float *c, int64_t stride, const float *sum, float scale, const bool start, const int rows,
                    const int columns) {
    const __m512 factor = _mm512_set1_ps(scale);
    for (int i = 0; i < rows; i++, c += stride, sum += SUM_COLUMNS) {
        UNROLL
        for (int j = 0; j < columns; j += TILE) {
            __m512 total = start ? _mm512_setzero_ps() : _mm512_loadu_ps(c + j);
            _mm512_storeu_ps(c + j, _mm512_fmadd_ps(_mm512_load_ps(sum + j), factor, total));
        }
    }
}

// Codes as BF16: of the step at hand and of the next, or the other way round.
struct stage {
    _Alignas(64) char copy[2][MOST_PANELS][STEP_BYTES];
};

// Block number `step` of k, which has been widened. If there are `more`, the next one is meanwhile.
INLINE void step_codes(const uint32_t *a, struct stage *stage, int64_t step, const struct reader *reader,
                       const bool more, const struct shape shape, const struct code_table *table) {
    const char *b = stage->copy[step % 2][0], *from = reader->from + LINEAR_CHUNK * CODES_BYTES;
    const char *ask = ahead(reader);
    char *to = stage->copy[(step + 1) % 2][0];
    const int units = shape.low ? LINEAR_CHUNK / 2 : LINEAR_CHUNK;
    if (more) {
        widen(to, from, ask, units, table);
    } else {
        ask_ahead(reader, shape.panels, LINEAR_CHUNK * CODES_BYTES);
    }
    memory_settle();
    first_part(a, b);
    memory_settle();
    if (more && shape.low) {
        widen(to + units * UNIT_BYTES, from + units * CODES_BYTES, ask + units * CODES_BYTES, units, table);
    } else if (more && shape.panels > 1) {
        widen(to + STEP_BYTES, from + reader->bytes, ask + reader->bytes, units, table);
    }
    memory_settle();
    second_part(a, b, STEP_BYTES, shape);
    memory_settle();
}

INLINE void tile_codes(const struct linear_tile *tile, float *c, struct reader *reader, const struct shape shape) {
    _Alignas(64) float sum[ROWS * SUM_COLUMNS];
    struct stage stage;
    const struct code_table table = code_table_load();
    const int64_t whole = tile->units / LINEAR_CHUNK, rest = tile->units % LINEAR_CHUNK, steps = whole + (rest > 0);
    const uint32_t *a = tile->a;
    for (int panel = 0; panel < shape.panels && whole > 0; panel++) {
        widen(stage.copy[0][panel], reader->from + panel * reader->bytes, ahead(reader) + panel * reader->bytes,
              LINEAR_CHUNK, &table);
    }
    zero_c(shape);
    for (int64_t step = 0; step < steps; step++) {
        if (step == whole) {
            step_rest(a, reader, rest, tile->rows, FORMAT_E4M3_BLOCK, shape, &table);
        } else {
            step_codes(a, &stage, step, reader, step + 1 < whole, shape, &table);
        }
        if (step % STEPS == STEPS - 1 || step + 1 == steps) {
            store_c(sum, SUM_COLUMNS, shape);
            zero_c(shape);
            promote(c, tile->c_stride, sum, tile->scale[step / STEPS], step < STEPS && !tile->add, tile->rows,
                    shape.panels * PANEL_ROWS);
        }
        a += tile->rows * LINEAR_CHUNK;
        reader->from += LINEAR_CHUNK * CODES_BYTES;
    }
}

// ---- Tiles ----------------------------------------------------------------------------------------------------------

// Columns of a tile from `first` on: one panel or two.
INLINE void tile_any(const struct linear_tile *tile, int first, const enum format format, const struct shape shape) {
    struct reader reader = reader_make(tile, format, first, shape.panels);
    if (format == FORMAT_BF16) {
        tile_words(tile, tile->c + first, &reader, shape);
    } else {
        tile_codes(tile, tile->c + first, &reader, shape);
    }
}

INLINE void tile_panels(const struct linear_tile *tile, const enum format format) {
    const bool low = tile->rows > TILE;
    int first = 0;
    tiles_configure(tile->rows, low ? PANEL_ROWS : MOST_PANELS * PANEL_ROWS);
    for (; !low && tile->columns - first > PANEL_ROWS; first += MOST_PANELS * PANEL_ROWS) {
        tile_any(tile, first, format, (struct shape){.low = false, .panels = MOST_PANELS});
    }
    for (; first < tile->columns; first += PANEL_ROWS) {
        if (low) {
            tile_any(tile, first, format, (struct shape){.low = true, .panels = 1});
        } else {
            tile_any(tile, first, format, (struct shape){.low = false, .panels = 1});
        }
    }
}

void amx_tile_panel(const struct linear_tile *tile) {
    if (tile->mapped->format == FORMAT_BF16) {
        tile_panels(tile, FORMAT_BF16);
    } else {
        tile_panels(tile, FORMAT_E4M3_BLOCK);
    }
}

void amx_panels_init(void) {
    for (int i = 0; i < 64; i++) {
        low_bytes[i] = panel_low[i >> 2 << 3 | (i & 2) << 1 | (i & 1)];
    }
}
