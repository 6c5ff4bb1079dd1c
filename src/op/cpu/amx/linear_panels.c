// AMX kernels of products of up to 32 rows with weights in panels (tensor/panels.h), which are read front to back: 16
// units of a panel are two tiles of side b as they lie (E4M3: after widening), rows of a are packed as for any product.
#include <string.h>

#include "op/cpu/amx/linear_amx.h"
#include "op/cpu/amx/tiles.h"
#include "op/cpu/avx512/linear_few.h"
#include "tensor/formats.h"
#include "tensor/panels.h"

#define ROWS LINEAR_MOST_MAPPED
#define MOST_PANELS 2   // at a time: up to 16 rows have registers for both
#define AHEAD 4096      // bytes of a panel that are asked for before their turn, into the second cache level
#define UNIT_BYTES (4 * PANEL_ROWS)   // of a unit of BF16

// Up to two panels, each read front to back.
struct reader {
    const char *from, *end;   // in the first panel
    int64_t jump;             // from `end` to the panel that is read next
    int64_t bytes;            // of a panel
};

INLINE void ask_ahead(const struct reader *reader, const int panels, const int lines) {
    const char *line = reader->from + AHEAD;
    line += line < reader->end ? 0 : reader->jump;
    for (int panel = 0; panel < panels; panel++, line += reader->bytes) {
        for (int i = 0; i < lines; i++) {
            _mm_prefetch(line + i * TILE_BYTES, _MM_HINT_T1);
        }
    }
}

// `units` units of codes as BF16.
INLINE void widen(char *to, const char *from, const int64_t units, const struct e4m3_table *table) {
    for (int64_t unit = 0; unit < units; unit++) {
        __m512i codes = _mm512_loadu_si512(from + unit * 2 * PANEL_ROWS);
        __m512i high = permute_bytes(codes, table->high[0], table->high[1]);
        __m512i low = permute_bytes(codes, table->low[0], table->low[1]);
        high = _mm512_ternarylogic_epi32(high, codes, _mm512_set1_epi8((char)0x80), 0xf8);   // high | (codes & sign)
        _mm512_store_si512(to + unit * UNIT_BYTES, _mm512_unpacklo_epi8(low, high));
        _mm512_store_si512(to + unit * UNIT_BYTES + TILE_BYTES, _mm512_unpackhi_epi8(low, high));
    }
}

// One block of k of up to 16 rows by up to two panels, `stride` bytes apart. C: tile 2 p + h is half h of panel p.
INLINE void step_wide(const uint32_t *a, const char *b, int64_t stride, const int panels) {
    _tile_loadd(4, a, TILE_BYTES);
    _tile_loadd(5, b, UNIT_BYTES);
    _tile_loadd(6, b + TILE_BYTES, UNIT_BYTES);
    _tile_dpbf16ps(0, 4, 5);
    _tile_dpbf16ps(1, 4, 6);
    if (panels > 1) {
        _tile_loadd(7, b + stride, UNIT_BYTES);
        _tile_loadd(5, b + stride + TILE_BYTES, UNIT_BYTES);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 4, 5);
    }
}

// The same of 17 to 32 rows by one panel. C: tile 2 r + h is half h of rows 16 r and following.
INLINE void step_low(const uint32_t *a, const char *b) {
    _tile_loadd(4, a, TILE_BYTES);
    _tile_loadd(6, b, UNIT_BYTES);
    _tile_loadd(7, b + TILE_BYTES, UNIT_BYTES);
    _tile_loadd(5, a + TILE * LINEAR_CHUNK, TILE_BYTES);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

INLINE void step(const uint32_t *a, const char *b, int64_t stride, const bool low, const int panels) {
    if (low) {
        step_low(a, b);
    } else {
        step_wide(a, b, stride, panels);
    }
}

INLINE void zero_c(const bool four) {
    _tile_zero(0);
    _tile_zero(1);
    if (four) {
        _tile_zero(2);
        _tile_zero(3);
    }
}

// The third and fourth tile stand below the others, or beside them.
INLINE void load_c(const float *c, int64_t stride, const bool low, const int panels) {
    const float *more = c + (low ? TILE * stride : PANEL_ROWS);
    memory_settle();
    _tile_loadd(0, c, 4 * stride);
    _tile_loadd(1, c + TILE, 4 * stride);
    if (low || panels > 1) {
        _tile_loadd(2, more, 4 * stride);
        _tile_loadd(3, more + TILE, 4 * stride);
    }
}

INLINE void store_c(float *c, int64_t stride, const bool low, const int panels) {
    float *more = c + (low ? TILE * stride : PANEL_ROWS);
    _tile_stored(0, c, 4 * stride);
    _tile_stored(1, c + TILE, 4 * stride);
    if (low || panels > 1) {
        _tile_stored(2, more, 4 * stride);
        _tile_stored(3, more + TILE, 4 * stride);
    }
    memory_settle();
}

// A last block of fewer units, copied and filled up with products of -0, which change no chain.
INLINE void step_rest(const uint32_t *a, const struct reader *reader, int64_t units, const int rows,
                      const enum format format, const bool low, const int panels, const struct e4m3_table *table) {
    _Alignas(64) uint32_t a_copy[ROWS * LINEAR_CHUNK];
    _Alignas(64) char b_copy[MOST_PANELS][LINEAR_CHUNK * UNIT_BYTES];
    const __mmask16 mask = lanes_mask(units);
    for (int i = 0; i < rows; i++) {
        __m512i row = _mm512_loadu_si512(a + i * LINEAR_CHUNK);
        _mm512_store_si512(a_copy + i * LINEAR_CHUNK, _mm512_mask_mov_epi32(_mm512_set1_epi32(AMX_ZERO), mask, row));
    }
    memset(b_copy, 0, sizeof b_copy);
    for (int panel = 0; panel < panels; panel++) {
        const char *from = reader->from + panel * reader->bytes;
        if (format == FORMAT_BF16) {
            memcpy(b_copy[panel], from, (size_t)units * UNIT_BYTES);
        } else {
            widen(b_copy[panel], from, units, table);
        }
    }
    memory_settle();
    step(a_copy, b_copy[0], sizeof b_copy[0], low, panels);
    memory_settle();
}

// `units` units of all rows, chunk by chunk. Returns where the next units of a are.
INLINE const uint32_t *multiply_chunks(const uint32_t *a, struct reader *reader, int64_t units, const int rows,
                                       const enum format format, const bool low, const int panels,
                                       const struct e4m3_table *table) {
    _Alignas(64) char copy[MOST_PANELS][LINEAR_CHUNK * UNIT_BYTES];
    const int bytes = LINEAR_CHUNK * (format == FORMAT_BF16 ? 4 : 2) * PANEL_ROWS;
    for (; units >= LINEAR_CHUNK; units -= LINEAR_CHUNK, a += rows * LINEAR_CHUNK, reader->from += bytes) {
        ask_ahead(reader, panels, bytes / TILE_BYTES);
        if (format == FORMAT_BF16) {
            step(a, reader->from, reader->bytes, low, panels);
            continue;
        }
        for (int panel = 0; panel < panels; panel++) {
            widen(copy[panel], reader->from + panel * reader->bytes, LINEAR_CHUNK, table);
        }
        memory_settle();
        step(a, copy[0], sizeof copy[0], low, panels);
        memory_settle();
    }
    if (units > 0) {
        step_rest(a, reader, units, rows, format, low, panels, table);
    }
    return a;
}

// c = fma(sum, scale, c), where c is +0 at the start.
INLINE void promote(float *c, int64_t stride, const float *sum, float scale, const bool start, const int rows,
                    const int columns) {
    const __m512 factor = _mm512_set1_ps(scale);
    for (int i = 0; i < rows; i++, c += stride, sum += LINEAR_WIDE) {
        UNROLL
        for (int j = 0; j < columns; j += TILE) {
            __m512 total = start ? _mm512_setzero_ps() : _mm512_loadu_ps(c + j);
            _mm512_storeu_ps(c + j, _mm512_fmadd_ps(_mm512_load_ps(sum + j), factor, total));
        }
    }
}

// Columns of a tile from `first` on: one panel or two.
INLINE void tile_any(const struct linear_tile *tile, int first, const enum format format, const bool low,
                     const int panels) {
    _Alignas(64) float sum[ROWS * LINEAR_WIDE];
    const struct e4m3_table table = e4m3_table_load();
    const int64_t bytes = panel_bytes(format, tile->depth), block = BLOCK_SIZE / 2;
    const bool last = first + panels * PANEL_ROWS >= tile->columns;
    struct reader reader = {.from = tile->mapped->data + (tile->column + first) / PANEL_ROWS * bytes, .bytes = bytes};
    reader.end = reader.from + bytes;
    reader.jump = last && tile->next != NULL ? tile->next - reader.end : (panels - 1) * bytes;
    float *const c = tile->c + first;
    const uint32_t *a = tile->a;
    if (format == FORMAT_BF16) {
        if (tile->add) {
            load_c(c, tile->c_stride, low, panels);
        } else {
            zero_c(low || panels > 1);
        }
        multiply_chunks(a, &reader, tile->units, tile->rows, format, low, panels, &table);
        store_c(c, tile->c_stride, low, panels);
        return;
    }
    for (int64_t begin = 0; begin < tile->units; begin += block) {
        const int64_t left = tile->units - begin;
        zero_c(low || panels > 1);
        a = multiply_chunks(a, &reader, left > block ? block : left, tile->rows, format, low, panels, &table);
        store_c(sum, LINEAR_WIDE, low, panels);
        promote(c, tile->c_stride, sum, tile->scale[begin / block], begin == 0 && !tile->add, tile->rows,
                panels * PANEL_ROWS);
    }
}

INLINE void tile_panels(const struct linear_tile *tile, const enum format format) {
    const bool low = tile->rows > TILE;
    int first = 0;
    tiles_configure(tile->rows, low ? PANEL_ROWS : MOST_PANELS * PANEL_ROWS);
    for (; !low && tile->columns - first > PANEL_ROWS; first += MOST_PANELS * PANEL_ROWS) {
        tile_any(tile, first, format, false, MOST_PANELS);
    }
    for (; first < tile->columns; first += PANEL_ROWS) {
        if (low) {
            tile_any(tile, first, format, true, 1);
        } else {
            tile_any(tile, first, format, false, 1);
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
