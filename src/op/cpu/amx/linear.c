// AMX kernels of products of BF16 or E4M3 pairs: up to 32 x 32 outputs of packed operands (linear_blocks.c has the
// order of sums). Packed operands are tiles as they lie: a chunk of 16 units of a panel is 64 bytes of each of its
// rows, 16 units of side b are two tiles side by side. Both sides have the even k of a pair in the high half, where the
// instruction looks for the odd one, so its two chains change places; their sum does not mind.
#include <string.h>

#include "op/cpu/amx/linear_amx.h"
#include "op/cpu/amx/tiles.h"
#include "op/cpu/avx512/linear_load.h"
#include "op/cpu/kernels.h"

#define ROWS 32
#define COLUMNS 32
#define MOST_PANELS 8   // of 32 columns of a task: 1024 units of them take half of an L2 cache of 2 MiB

// ---- Packing --------------------------------------------------------------------------------------------------------

// Panels have twice the rows that the kernel of AVX-512 packs at once.
void amx_pack_rows(const struct linear_strip *strip) {
    const struct linear_kernels *const avx512 = &cpu_kernels_get(ISA_AVX512)->linear;
    struct linear_strip half = *strip;
    for (int begin = 0; begin < strip->rows; begin += VECTOR) {
        half.out = strip->out + begin * LINEAR_CHUNK;
        half.row = strip->row + begin;
        half.rows = strip->rows - begin < VECTOR ? strip->rows - begin : VECTOR;
        avx512->pack_rows(&half);
    }
}

// ---- Tiles of packed operands ---------------------------------------------------------------------------------------

// One block of k: all registers of c advance. `low`, `right`: there are more than 16 rows, columns.
INLINE void step(const uint32_t *a, const uint32_t *b, const bool low, const bool right) {
    _tile_loadd(6, b, 2 * TILE_BYTES);
    _tile_loadd(4, a, TILE_BYTES);
    if (right) {
        _tile_loadd(7, b + TILE, 2 * TILE_BYTES);
    }
    if (low) {
        _tile_loadd(5, a + TILE * LINEAR_CHUNK, TILE_BYTES);
    }
    _tile_dpbf16ps(0, 4, 6);
    if (right) {
        _tile_dpbf16ps(1, 4, 7);
    }
    if (low && right) {
        _tile_dpbf16ps(3, 5, 7);
    }
    if (low) {
        _tile_dpbf16ps(2, 5, 6);
    }
}

// A last block of fewer units, copied and filled up with products of -0, which change no chain.
INLINE void step_rest(const uint32_t *a, const uint32_t *b, int64_t units, const int rows, const bool low,
                      const bool right) {
    _Alignas(64) uint32_t a_copy[ROWS * LINEAR_CHUNK], b_copy[LINEAR_CHUNK * COLUMNS];
    const __mmask16 mask = lanes_mask(units);
    for (int i = 0; i < rows; i++) {
        __m512i row = _mm512_loadu_si512(a + i * LINEAR_CHUNK);
        _mm512_store_si512(a_copy + i * LINEAR_CHUNK, _mm512_mask_mov_epi32(_mm512_set1_epi32(AMX_ZERO), mask, row));
    }
    memcpy(b_copy, b, (size_t)units * COLUMNS * sizeof *b);
    memset(b_copy + units * COLUMNS, 0, (size_t)(LINEAR_CHUNK - units) * COLUMNS * sizeof *b);
    memory_settle();
    step(a_copy, b_copy, low, right);
}

INLINE void zero_c(const bool low, const bool right) {
    _tile_zero(0);
    if (right) {
        _tile_zero(1);
    }
    if (low) {
        _tile_zero(2);
        if (right) {
            _tile_zero(3);
        }
    }
}

INLINE void load_c(const float *c, int64_t stride, const bool low, const bool right) {
    const int64_t bytes = 4 * stride;
    memory_settle();
    _tile_loadd(0, c, bytes);
    if (right) {
        _tile_loadd(1, c + TILE, bytes);
    }
    if (low) {
        _tile_loadd(2, c + TILE * stride, bytes);
        if (right) {
            _tile_loadd(3, c + TILE * stride + TILE, bytes);
        }
    }
}

INLINE void store_c(float *c, int64_t stride, const bool low, const bool right) {
    const int64_t bytes = 4 * stride;
    _tile_stored(0, c, bytes);
    if (right) {
        _tile_stored(1, c + TILE, bytes);
    }
    if (low) {
        _tile_stored(2, c + TILE * stride, bytes);
        if (right) {
            _tile_stored(3, c + TILE * stride + TILE, bytes);
        }
    }
}

// Lines to be asked for, a share of them at each step.
struct read_ahead {
    const char *from;
    int64_t lines;   // of a step; 0: none
};

INLINE struct read_ahead read_ahead_make(const struct linear_tile *tile) {
    const int64_t steps = (tile->units + LINEAR_CHUNK - 1) / LINEAR_CHUNK;
    return (struct read_ahead){(const char *)tile->ahead, (tile->ahead_lines + steps - 1) / steps};
}

INLINE void multiply(const uint32_t *a, const uint32_t *b, int64_t units, const int rows, struct read_ahead *ahead,
                     const bool low, const bool right) {
    for (int64_t chunk = units / LINEAR_CHUNK; chunk > 0; chunk--) {
        for (int64_t line = 0; line < ahead->lines; line++, ahead->from += TILE_BYTES) {
            _mm_prefetch(ahead->from, _MM_HINT_T1);
        }
        step(a, b, low, right);
        a += rows * LINEAR_CHUNK;
        b += LINEAR_CHUNK * COLUMNS;
    }
    if (units % LINEAR_CHUNK != 0) {
        step_rest(a, b, units % LINEAR_CHUNK, rows, low, right);
    }
}

INLINE void tile_any(const struct linear_tile *tile, const bool low, const bool right) {
    if (tile->add) {
        load_c(tile->c, tile->c_stride, low, right);
    } else {
        zero_c(low, right);
    }
    struct read_ahead ahead = read_ahead_make(tile);
    multiply(tile->a, tile->b, tile->units, tile->rows, &ahead, low, right);
    store_c(tile->c, tile->c_stride, low, right);
}

// c = fma(sum, row_scale * column_scale, c) of one block of scales.
INLINE void promote(const struct linear_tile *tile, const float *sum, int64_t block, const bool right) {
    const float *row_scale = tile->row_scale + block * LINEAR_MAX_ROWS;
    const float *column_scale = tile->column_scale + block * LINEAR_MAX_COLUMNS;
    const __m512 scale[2] = {_mm512_loadu_ps(column_scale), _mm512_loadu_ps(column_scale + TILE)};
    const bool start = block == 0 && !tile->add;
    for (int i = 0; i < tile->rows; i++) {
        const __m512 factor = _mm512_set1_ps(row_scale[i]);
        float *c = tile->c + i * tile->c_stride;
        for (int j = 0; j < (right ? 2 : 1); j++) {
            __m512 total = start ? _mm512_setzero_ps() : _mm512_loadu_ps(c + j * TILE);
            __m512 chain = _mm512_load_ps(sum + i * COLUMNS + j * TILE);
            _mm512_storeu_ps(c + j * TILE, _mm512_fmadd_ps(chain, _mm512_mul_ps(factor, scale[j]), total));
        }
    }
}

INLINE void tile_scaled(const struct linear_tile *tile, const bool low, const bool right) {
    _Alignas(64) float sum[ROWS * COLUMNS];
    const int64_t block = tile->scale_depth / 2;
    struct read_ahead ahead = read_ahead_make(tile);
    for (int64_t begin = 0; begin < tile->units; begin += block) {
        int64_t units = tile->units - begin < block ? tile->units - begin : block;
        zero_c(low, right);
        multiply(tile->a + begin * tile->rows, tile->b + begin * COLUMNS, units, tile->rows, &ahead, low, right);
        store_c(sum, COLUMNS, low, right);
        promote(tile, sum, begin / block, right);
    }
}

static void tile_packed(const struct linear_tile *tile) {
    const bool low = tile->rows > TILE, right = tile->columns > TILE, scaled = tile->row_scale != NULL;
    tiles_configure(tile->rows, right ? COLUMNS : TILE);   // columns are computed in halves
    if (low && right) {
        scaled ? tile_scaled(tile, true, true) : tile_any(tile, true, true);
    } else if (low) {
        scaled ? tile_scaled(tile, true, false) : tile_any(tile, true, false);
    } else if (right) {
        scaled ? tile_scaled(tile, false, true) : tile_any(tile, false, true);
    } else {
        scaled ? tile_scaled(tile, false, false) : tile_any(tile, false, false);
    }
}

void kernels_amx_linear(struct cpu_kernels *kernels) {
    amx_panels_init();
    kernels->linear.blocks = (struct linear_blocks){.tile_rows = ROWS,
                                                    .most_panels = MOST_PANELS,
                                                    .pack_rows = amx_pack_rows,
                                                    .tile = tile_packed,
                                                    .pack_few = amx_pack_few,
                                                    .tile_few = amx_tile_few,
                                                    .tile_panel = amx_tile_panel,
                                                    .release = tiles_release};
}
