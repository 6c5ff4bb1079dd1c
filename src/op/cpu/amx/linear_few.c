// AMX kernels of products of up to 32 rows whose weights, BF16 or E4M3 blocks with contiguous k, are read where they
// lie: 16 rows of them are a tile as they are (E4M3: after widening), the other operand is packed as columns.
#include <string.h>

#include "op/cpu/amx/linear_amx.h"
#include "op/cpu/amx/tiles.h"
#include "op/cpu/avx512/linear_load.h"
#include "op/cpu/kernels.h"
#include "tensor/formats.h"

#define ROWS 32      // of a, here the columns of a register
#define COLUMNS 32   // of the product, here the rows of a register
#define BLOCK_UNITS (BLOCK_SIZE / 2)

// Side a as [chunk][unit][row], a pair's words in the order of memory; units without k as AMX_ZERO.
void amx_pack_few(const struct linear_strip *strip) {
    amx_pack_rows(strip);
    const int rows = strip->rows;
    const int64_t units = (strip->k_end - strip->k_begin + 1) / 2;
    for (int64_t first = 0; first < units; first += LINEAR_CHUNK) {
        _Alignas(64) uint32_t copy[ROWS * LINEAR_CHUNK];
        uint32_t *out = strip->out + first / LINEAR_CHUNK * strip->chunk_stride;
        const __mmask16 mask = lanes_mask(units - first);
        memcpy(copy, out, (size_t)rows * LINEAR_CHUNK * sizeof *copy);
        for (int begin = 0; begin < rows; begin += TILE) {
            const __mmask16 lanes = lanes_mask(rows - begin);
            __m512i v[VECTOR];
            UNROLL
            for (int i = 0; i < VECTOR; i++) {
                v[i] = begin + i < rows ? _mm512_load_si512(copy + (begin + i) * LINEAR_CHUNK) : _mm512_setzero_si512();
                v[i] = _mm512_rol_epi32(_mm512_mask_mov_epi32(_mm512_set1_epi32(AMX_ZERO), mask, v[i]), 16);
            }
            transpose(v);
            UNROLL
            for (int i = 0; i < VECTOR; i++) {
                _mm512_mask_storeu_epi32(out + i * rows + begin, lanes, v[i]);
            }
        }
    }
}

// ---- Products -------------------------------------------------------------------------------------------------------

// Weights at hand: rows `stride` bytes apart.
struct weights {
    const char *from;
    int64_t stride;
};

// One block of k. `low`: more than 16 columns of the product; `right`: more than 16 rows of a, `row_bytes` each unit.
INLINE void step(const struct weights *w, const uint32_t *a, int64_t row_bytes, const bool low, const bool right) {
    _tile_loadd(6, a, row_bytes);
    _tile_loadd(4, w->from, w->stride);
    _tile_dpbf16ps(0, 4, 6);
    if (low) {
        _tile_loadd(5, w->from + TILE * w->stride, w->stride);
        _tile_dpbf16ps(2, 5, 6);
    }
    if (right) {
        _tile_loadd(7, a + TILE, row_bytes);
        _tile_dpbf16ps(1, 4, 7);
        if (low) {
            _tile_dpbf16ps(3, 5, 7);
        }
    }
}

// `count` k of `columns` rows of weights as BF16 in rows of TILE_BYTES; zeros behind them.
INLINE void widen(char *copy, const struct linear_operand *b, const char *from, int64_t row_bytes, int columns,
                  int64_t count) {
    const struct e4m3_table table = e4m3_table_load();
    const __mmask32 mask = count >= 2 * TILE ? 0xffffffffu : (1u << count) - 1u;
    for (int i = 0; i < columns; i++, from += row_bytes) {
        __m512i words = b->format == FORMAT_BF16
                            ? _mm512_maskz_loadu_epi16(mask, from)
                            : e4m3_to_bf16(&table, _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(mask, from)));
        _mm512_store_si512(copy + i * TILE_BYTES, words);
    }
    memory_settle();
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

// Sums of the registers as [column][row].
INLINE void store_sums(float *sum, const bool low, const bool right) {
    const int64_t bytes = 4 * ROWS;
    _tile_stored(0, sum, bytes);
    if (right) {
        _tile_stored(1, sum + TILE, bytes);
    }
    if (low) {
        _tile_stored(2, sum + TILE * ROWS, bytes);
        if (right) {
            _tile_stored(3, sum + TILE * ROWS + TILE, bytes);
        }
    }
}

INLINE void load_sums(const float *sum, const bool low, const bool right) {
    const int64_t bytes = 4 * ROWS;
    memory_settle();
    _tile_loadd(0, sum, bytes);
    if (right) {
        _tile_loadd(1, sum + TILE, bytes);
    }
    if (low) {
        _tile_loadd(2, sum + TILE * ROWS, bytes);
        if (right) {
            _tile_loadd(3, sum + TILE * ROWS + TILE, bytes);
        }
    }
}

// [column][row] -> c[row][column], or back.
INLINE void turn_out(const struct linear_tile *tile, const float *sum) {
    for (int column = 0; column < tile->columns; column += TILE) {
        const __mmask16 mask = lanes_mask(tile->columns - column);
        for (int row = 0; row < tile->rows; row += TILE) {
            __m512i v[VECTOR];
            UNROLL
            for (int i = 0; i < VECTOR; i++) {
                v[i] = _mm512_load_si512(sum + (column + i) * ROWS + row);
            }
            transpose(v);
            UNROLL
            for (int i = 0; i < VECTOR; i++) {
                if (row + i < tile->rows) {
                    _mm512_mask_storeu_epi32(tile->c + (row + i) * tile->c_stride + column, mask, v[i]);
                }
            }
        }
    }
}

INLINE void turn_in(const struct linear_tile *tile, float *sum) {
    for (int column = 0; column < tile->columns; column += TILE) {
        const __mmask16 mask = lanes_mask(tile->columns - column);
        for (int row = 0; row < tile->rows; row += TILE) {
            __m512i v[VECTOR];
            UNROLL
            for (int i = 0; i < VECTOR; i++) {
                v[i] = row + i < tile->rows
                           ? _mm512_maskz_loadu_epi32(mask, tile->c + (row + i) * tile->c_stride + column)
                           : _mm512_setzero_si512();
            }
            transpose(v);
            UNROLL
            for (int i = 0; i < VECTOR; i++) {
                _mm512_store_si512(sum + (column + i) * ROWS + row, v[i]);
            }
        }
    }
}

// total = fma(sum, scale, total), all of it: what is beyond rows and columns is not read.
INLINE void promote(float *total, const float *sum, float scale, int columns, const bool right) {
    const __m512 factor = _mm512_set1_ps(scale);
    for (int i = 0; i < columns; i++) {
        UNROLL
        for (int j = 0; j < (right ? 2 : 1); j++) {
            float *t = total + i * ROWS + j * TILE;
            _mm512_store_ps(t, _mm512_fmadd_ps(_mm512_load_ps(sum + i * ROWS + j * TILE), factor, _mm512_load_ps(t)));
        }
    }
}

INLINE void few_any(const struct linear_tile *tile, const enum format format, const bool low, const bool right) {
    _Alignas(64) float sum[COLUMNS * ROWS], total[COLUMNS * ROWS];
    _Alignas(64) char copy[COLUMNS * TILE_BYTES];
    const struct linear_operand *b = tile->mapped;
    const bool bf16 = format == FORMAT_BF16;
    const int64_t bytes = bf16 ? 2 : 1, row_bytes = b->row_stride * bytes, a_bytes = 4 * tile->rows;
    const char *from = b->data + tile->column * row_bytes;
    const struct weights widened = {copy, TILE_BYTES};
    float *start = bf16 ? sum : total;
    if (tile->add) {
        turn_in(tile, start);
    } else if (!bf16) {
        memset(total, 0, sizeof total);
    }
    if (bf16 && tile->add) {
        load_sums(sum, low, right);
    } else {
        zero_c(low, right);
    }
    const uint32_t *a = tile->a;
    for (int64_t k = 0; k < tile->depth; k += LINEAR_BLOCK, a += LINEAR_CHUNK * tile->rows) {
        int64_t count = tile->depth - k;
        if (bf16 && count >= LINEAR_BLOCK) {
            struct weights present = {from + 2 * k, row_bytes};
            step(&present, a, a_bytes, low, right);
        } else {
            widen(copy, b, from + bytes * k, row_bytes, tile->columns, count);
            step(&widened, a, a_bytes, low, right);
        }
        if (!bf16 && ((k + LINEAR_BLOCK) % BLOCK_SIZE == 0 || count <= LINEAR_BLOCK)) {
            store_sums(sum, low, right);
            promote(total, sum, tile->scale[k / BLOCK_SIZE], tile->columns, right);
            zero_c(low, right);
        }
    }
    if (bf16) {
        store_sums(sum, low, right);
    }
    turn_out(tile, start);
}

void amx_tile_few(const struct linear_tile *tile) {
    const bool low = tile->columns > TILE, right = tile->rows > TILE, bf16 = tile->mapped->format == FORMAT_BF16;
    tiles_configure(tile->columns, tile->rows);
    if (low && right) {
        bf16 ? few_any(tile, FORMAT_BF16, true, true) : few_any(tile, FORMAT_E4M3_BLOCK, true, true);
    } else if (low) {
        bf16 ? few_any(tile, FORMAT_BF16, true, false) : few_any(tile, FORMAT_E4M3_BLOCK, true, false);
    } else if (right) {
        bf16 ? few_any(tile, FORMAT_BF16, false, true) : few_any(tile, FORMAT_E4M3_BLOCK, false, true);
    } else {
        bf16 ? few_any(tile, FORMAT_BF16, false, false) : few_any(tile, FORMAT_E4M3_BLOCK, false, false);
    }
}
