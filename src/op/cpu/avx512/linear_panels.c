// AVX-512 kernels of products with weights in panels (tensor/panels.h): few rows read a panel front to back, nothing is
// turned; many rows take the packed way, for which a panel of BF16 is ready and one of codes is widened.
#include "op/cpu/avx512/linear_few.h"
#include "op/cpu/kernels.h"
#include "tensor/formats.h"
#include "tensor/panels.h"

#define ROWS_OF_TWO 4   // most rows of two panels at a time: their sums stay in registers
#define GROUPS 2        // of 16 columns in a panel
#define AHEAD 4096      // bytes of a panel that are asked for before their turn, into the second cache level
#define LINE 64

// A unit of a panel as words of two BF16.
INLINE void load_unit(__m512i pair[GROUPS], const enum format format, const struct e4m3_table *table,
                      const char *from) {
    if (format == FORMAT_BF16) {
        pair[0] = _mm512_loadu_si512(from);
        pair[1] = _mm512_loadu_si512(from + LINE);
        return;
    }
    __m512i codes = _mm512_loadu_si512(from);
    __m512i high = permute_bytes(codes, table->high[0], table->high[1]);
    __m512i low = permute_bytes(codes, table->low[0], table->low[1]);
    high = _mm512_ternarylogic_epi32(high, codes, _mm512_set1_epi8((char)0x80), 0xf8);   // high | (codes & sign)
    pair[0] = _mm512_unpacklo_epi8(low, high);
    pair[1] = _mm512_unpackhi_epi8(low, high);
}

// One panel, or two of which each is read front to back.
struct reader {
    const char *from, *end;   // in the first panel
    int64_t jump;             // from `end` to the panel that is read next
    int64_t bytes;            // of a panel
};

INLINE void ask_ahead(const struct reader *reader, const int panels, const int lines) {
    const char *line = reader->from + AHEAD;
    line += line < reader->end ? 0 : reader->jump;
    UNROLL
    for (int panel = 0; panel < panels; panel++, line += reader->bytes) {
        UNROLL
        for (int i = 0; i < lines; i++) {
            _mm_prefetch(line + i * LINE, _MM_HINT_T1);
        }
    }
}

INLINE void load_units(__m512i pair[FEW_GROUPS], const struct reader *reader, const int64_t offset, const int panels,
                       const enum format format, const struct e4m3_table *table) {
    UNROLL
    for (int panel = 0; panel < panels; panel++) {
        load_unit(pair + panel * GROUPS, format, table, reader->from + offset + panel * reader->bytes);
    }
}

// `units` units of all rows, chunk by chunk. Returns where the next units of a are.
INLINE const uint32_t *multiply_chunks(__m512 sum[FEW_GROUPS][FEW_ROWS], const uint32_t *a, struct reader *reader,
                                       int64_t units, const enum format format, const enum method method,
                                       const int rows, const int panels, const struct e4m3_table *table) {
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
                multiply_unit(sum, a, &halves, part + i, rows, panels * GROUPS, method, format != FORMAT_BF16, pair);
            }
            reader->from += 4 * bytes;
        }
    }
    if (units > 0 && method == METHOD_HALVES) {
        split_rows(&halves, a, rows);
    }
    for (int unit = 0; unit < units; unit++, reader->from += bytes) {
        load_units(pair, reader, 0, panels, format, table);
        multiply_unit(sum, a, &halves, unit, rows, panels * GROUPS, method, format != FORMAT_BF16, pair);
    }
    return a;
}

// Columns of a tile from `first` on: one panel or two.
INLINE void tile_any(const struct linear_tile *tile, int first, const enum format format, const enum method method,
                     const int rows, const int panels) {
    const int64_t bytes = panel_bytes(format, tile->depth), block = BLOCK_SIZE / 2;
    const bool scaled = format != FORMAT_BF16, last = first + panels * PANEL_ROWS >= tile->columns;
    const struct e4m3_table table = e4m3_table_load();
    const int groups = panels * GROUPS;
    const uint32_t *a = tile->a;
    struct reader reader = {.from = tile->mapped->data + (tile->column + first) / PANEL_ROWS * bytes, .bytes = bytes};
    reader.end = reader.from + bytes;
    reader.jump = last && tile->next != NULL ? tile->next - reader.end : (panels - 1) * bytes;
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

// Few rows are few chains, which wait for themselves: two panels side by side are twice as many.
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
    static void tile_e4m3_halves_##rows(const struct linear_tile *tile) { \
        tile_panels(tile, FORMAT_E4M3_BLOCK, METHOD_HALVES, rows);        \
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
    {ENTRY(tile_bf16_pairs), ENTRY(tile_e4m3_pairs)}, {ENTRY(tile_bf16_halves), ENTRY(tile_e4m3_halves)}};

static void tile_pairs(const struct linear_tile *tile) {
    tiles[METHOD_PAIRS][tile->mapped->format != FORMAT_BF16][tile->rows](tile);
}

static void tile_halves(const struct linear_tile *tile) {
    tiles[METHOD_HALVES][tile->mapped->format != FORMAT_BF16][tile->rows](tile);
}

INLINE void widen_units(uint32_t *out, const uint8_t *codes, int64_t units, const enum linear_unit unit) {
    const struct e4m3_table table = e4m3_table_load();
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

static void fill_panel(struct tensor *out, const struct tensor *source, int64_t panel) {
    const bool bf16 = source->format == FORMAT_BF16;
    const int64_t depth_bytes = source->shape[1] * (bf16 ? 2 : 1), row_bytes = source->stride[0] * (bf16 ? 2 : 1);
    const int64_t units = (source->shape[1] + 1) / 2, rows = source->shape[0] - panel * PANEL_ROWS;
    const char *from = (const char *)source->data + panel * PANEL_ROWS * row_bytes;
    char *to = (char *)out->data + panel * panel_bytes((enum format)source->format, source->shape[1]);
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
                _mm512_storeu_si512(to, _mm512_unpacklo_epi64(first, second));
                if (unit + 1 < units) {
                    _mm512_storeu_si512(to + LINE, _mm512_unpackhi_epi64(first, second));
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
    kernels->linear.panel_rows = FEW_ROWS;
    kernels->linear.widen_panel = widen_panel;
    kernels->linear.fill_panel = fill_panel;
    kernels_avx512_linear_panels_pairs(kernels, false);
}
