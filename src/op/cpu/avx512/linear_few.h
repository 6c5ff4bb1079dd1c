// What the kernels of few rows share whose side b needs no turning: weights in panels (linear_panels.c) and integers
// (linear_int.c). Lanes are columns, in groups of 16; a row is broadcast.
//
// A pair is one vdpbf16ps, or two fused multiply-adds of its halves widened to F32: the same two steps of the same
// chain. Which is faster depends on the processor (kernels_avx512_pairs).
#ifndef MINKE_OP_CPU_AVX512_LINEAR_FEW_H
#define MINKE_OP_CPU_AVX512_LINEAR_FEW_H

#include "op/cpu/avx512/linear_load.h"
#include "tensor/panels.h"

#define FEW_ROWS LINEAR_MAX_MAPPED
#define FEW_GROUPS 8   // most groups of columns at a time

// As e4m3_table, for codes in the order of bits of a panel.
extern uint8_t panel_high[128], panel_low[128];

INLINE struct e4m3_table panel_table_load(void) {
    struct e4m3_table table = {{_mm512_loadu_si512(panel_high), _mm512_loadu_si512(panel_high + 64)},
                               {_mm512_loadu_si512(panel_low), _mm512_loadu_si512(panel_low + 64)}};
    return table;
}

// Panels side by side, each read front to back: more streams than one keep more of memory busy.
struct reader {
    const char *from, *end;   // in the first panel
    int64_t jump;             // from `end` to the panel that is read next
    int64_t bytes;            // of a panel
};

// The panel that column `first` of the tile is the first of.
INLINE const char *tile_panel(const struct linear_tile *tile, int64_t first, int64_t bytes) {
    return tile->mapped->data + (tile->column + first) / PANEL_ROWS * bytes;
}

INLINE struct reader reader_make(const struct linear_tile *tile, const enum format format, const int first,
                                 const int panels) {
    const bool last = first + panels * PANEL_ROWS >= tile->columns;
    const int64_t bytes = panel_bytes(format, tile->depth);
    const char *panel = tile_panel(tile, first, bytes);
    struct reader reader = {panel + panel_marks_bytes(format, tile->depth), panel + bytes, .bytes = bytes};
    reader.jump = last && tile->next != NULL ? tile->next - reader.end : (panels - 1) * bytes;
    return reader;
}

// The two-source permutation that overwrites its index (see linear_mapped.c).
INLINE __m512i permute_bytes(__m512i index, __m512i first, __m512i second) {
    __asm__("vpermi2b %2, %1, %0" : "+v"(index) : "v"(first), "v"(second));
    return index;
}

// All rows by one unit of a chunk.
INLINE void multiply_unit(__m512 sum[FEW_GROUPS][FEW_ROWS], const uint32_t *a, const struct halves *halves,
                          const int unit, const int rows, const int groups, const enum method method,
                          const __m512i pair[FEW_GROUPS]) {
    if (method == METHOD_PAIRS) {
        UNROLL
        for (int i = 0; i < rows; i++) {
            __m512i x = _mm512_set1_epi32((int)a[i * LINEAR_CHUNK + unit]);
            UNROLL
            for (int g = 0; g < groups; g++) {
                sum[g][i] = multiply_add(UNIT_PAIR, sum[g][i], x, pair[g]);
                __asm__("" : "+v"(sum[g][i]));   // here, not at the end of the loop
            }
        }
        return;
    }
    UNROLL
    for (int half = 0; half < 2; half++) {
        const float *x = (half == 0 ? halves->even : halves->odd) + unit;
        __m512 b[FEW_GROUPS];
        UNROLL
        for (int g = 0; g < groups; g++) {
            b[g] = _mm512_castsi512_ps(half == 0 ? _mm512_and_si512(pair[g], _mm512_set1_epi32((int)0xffff0000u))
                                                 : _mm512_slli_epi32(pair[g], 16));
        }
        UNROLL
        for (int i = 0; i < rows; i++) {
            __m512 factor = _mm512_set1_ps(x[i * LINEAR_CHUNK]);
            UNROLL
            for (int g = 0; g < groups; g++) {
                sum[g][i] = _mm512_fmadd_ps(factor, b[g], sum[g][i]);
                __asm__("" : "+v"(sum[g][i]));
            }
        }
    }
}

#endif
