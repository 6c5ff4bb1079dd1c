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

// 64 E4M3 codes -> BF16 of the first and the last 32. Bytes of both halves of a register change places first, so that
// putting bytes together, which works in quarters of registers, leaves codes in order.
INLINE void widen_codes(__m512i words[2], __m512i codes, __m512i order, const struct e4m3_table *table) {
    codes = _mm512_permutexvar_epi64(order, codes);
    __m512i high = _mm512_permutex2var_epi8(table->high[0], codes, table->high[1]);
    __m512i low = _mm512_permutex2var_epi8(table->low[0], codes, table->low[1]);
    high = _mm512_ternarylogic_epi32(high, codes, _mm512_set1_epi8((char)0x80), 0xf8);   // high | (codes & sign)
    words[0] = _mm512_unpacklo_epi8(low, high);
    words[1] = _mm512_unpackhi_epi8(low, high);
}

// A line of each of `columns` rows of weights as BF16 tiles: 64 E4M3, or 32 BF16 of which `count` are there (E4M3:
// likewise); zeros behind them.
INLINE void widen(char copy[2][COLUMNS * TILE_BYTES], const enum format format, const char *from, int64_t row_bytes,
                  int columns, int64_t count) {
    const struct e4m3_table table = e4m3_table_load();
    const __m512i order = _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0);
    const __mmask64 bytes = count >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << count) - 1;
    for (int i = 0; i < columns; i++, from += row_bytes) {
        __m512i words[2];
        if (format == FORMAT_BF16) {
            words[0] = _mm512_maskz_loadu_epi16((__mmask32)bytes, from);
        } else {
            widen_codes(words, _mm512_maskz_loadu_epi8(bytes, from), order, &table);
            _mm512_store_si512(copy[1] + i * TILE_BYTES, words[1]);
        }
        _mm512_store_si512(copy[0] + i * TILE_BYTES, words[0]);
    }
    memory_settle();
}

// Lines of weights are asked for a block of 1 KiB of every row before they are needed, row by row: more rows side by
// side than the hardware follows. Behind the last block comes the first one of the rows that are read next.
#define BLOCK_BYTES 1024
#define BLOCK_LINES (BLOCK_BYTES / TILE_BYTES)
struct read_ahead {
    const char *from, *next;   // next: or NULL
    int64_t row_bytes, length;
    int rows;
};

INLINE void read_ahead(const struct read_ahead *ahead, int64_t offset) {
    const int64_t line = offset % BLOCK_BYTES / TILE_BYTES, left = ahead->length - (offset - offset % BLOCK_BYTES);
    const int64_t lines = left < BLOCK_BYTES ? (left + TILE_BYTES - 1) / TILE_BYTES : BLOCK_LINES;
    const int64_t each = (ahead->rows + lines - 1) / lines, first = line * each;
    const char *block = left > BLOCK_BYTES ? ahead->from + offset - offset % BLOCK_BYTES + BLOCK_BYTES : ahead->next;
    const int64_t bytes = left > BLOCK_BYTES ? left - BLOCK_BYTES : ahead->length;
    for (int64_t row = first; block != NULL && row < first + each && row < ahead->rows; row++) {
        for (int64_t byte = 0; byte < BLOCK_BYTES && byte < bytes; byte += TILE_BYTES) {
            _mm_prefetch(block + row * ahead->row_bytes + byte, _MM_HINT_T1);
        }
    }
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
    for (int i = 0; i < columns * ROWS; i += ROWS) {
        _mm512_store_ps(total + i, _mm512_fmadd_ps(_mm512_load_ps(sum + i), factor, _mm512_load_ps(total + i)));
        if (right) {
            __m512 second = _mm512_fmadd_ps(_mm512_load_ps(sum + i + TILE), factor, _mm512_load_ps(total + i + TILE));
            _mm512_store_ps(total + i + TILE, second);
        }
    }
}

INLINE void few_words(const struct linear_tile *tile, const bool low, const bool right) {
    _Alignas(64) float sum[COLUMNS * ROWS];
    _Alignas(64) char copy[2][COLUMNS * TILE_BYTES];
    const int64_t row_bytes = 2 * tile->mapped->row_stride, a_bytes = 4 * tile->rows;
    struct weights w = {tile->mapped->data + tile->column * row_bytes, row_bytes};
    const struct read_ahead ahead = {w.from, tile->next, row_bytes, 2 * tile->depth, tile->columns};
    const uint32_t *a = tile->a;
    if (tile->add) {
        turn_in(tile, sum);
        load_sums(sum, low, right);
    } else {
        zero_c(low, right);
    }
    for (int64_t k = 0; k + LINEAR_BLOCK <= tile->depth; k += LINEAR_BLOCK) {
        read_ahead(&ahead, 2 * k);
        step(&w, a, a_bytes, low, right);
        w.from += TILE_BYTES;
        a += LINEAR_CHUNK * tile->rows;
    }
    if (tile->depth % LINEAR_BLOCK != 0) {
        widen(copy, FORMAT_BF16, w.from, row_bytes, tile->columns, tile->depth % LINEAR_BLOCK);
        step(&(struct weights){copy[0], TILE_BYTES}, a, a_bytes, low, right);
    }
    store_sums(sum, low, right);
    turn_out(tile, sum);
}

INLINE void few_codes(const struct linear_tile *tile, const bool low, const bool right) {
    _Alignas(64) float sum[COLUMNS * ROWS], total[COLUMNS * ROWS];
    _Alignas(64) char copy[2][COLUMNS * TILE_BYTES];
    const struct linear_operand *b = tile->mapped;
    const char *from = b->data + tile->column * b->row_stride;
    const struct read_ahead ahead = {from, tile->next, b->row_stride, tile->depth, tile->columns};
    const int64_t a_bytes = 4 * tile->rows, a_step = LINEAR_CHUNK * tile->rows;
    const uint32_t *a = tile->a;
    if (tile->add) {
        turn_in(tile, total);
    } else {
        memset(total, 0, sizeof total);
    }
    zero_c(low, right);
    for (int64_t k = 0; k < tile->depth; k += 2 * LINEAR_BLOCK, a += 2 * a_step) {
        const int64_t left = tile->depth - k;
        read_ahead(&ahead, k);
        widen(copy, FORMAT_E4M3_BLOCK, from + k, b->row_stride, tile->columns, left);
        step(&(struct weights){copy[0], TILE_BYTES}, a, a_bytes, low, right);
        if (left > LINEAR_BLOCK) {
            step(&(struct weights){copy[1], TILE_BYTES}, a + a_step, a_bytes, low, right);
        }
        if ((k + 2 * LINEAR_BLOCK) % BLOCK_SIZE == 0 || left <= 2 * LINEAR_BLOCK) {
            store_sums(sum, low, right);
            promote(total, sum, tile->scale[k / BLOCK_SIZE], tile->columns, right);
            zero_c(low, right);
        }
    }
    turn_out(tile, total);
}

void amx_tile_few(const struct linear_tile *tile) {
    const bool low = tile->columns > TILE, right = tile->rows > TILE, bf16 = tile->mapped->format == FORMAT_BF16;
    tiles_configure(tile->columns, tile->rows);
    if (low && right) {
        bf16 ? few_words(tile, true, true) : few_codes(tile, true, true);
    } else if (low) {
        bf16 ? few_words(tile, true, false) : few_codes(tile, true, false);
    } else if (right) {
        bf16 ? few_words(tile, false, true) : few_codes(tile, false, true);
    } else {
        bf16 ? few_words(tile, false, false) : few_codes(tile, false, false);
    }
}
