// AVX-512 kernels of products of few rows, which read b where it lies: matrix-vector at the speed of memory. Whole
// cache lines of BF16 or E4M3 with contiguous k take the fast way (tile_lines), everything else step_mapped.
#include <stddef.h>

#include "op/cpu/avx512/linear_load.h"
#include "op/cpu/kernels.h"
#include "tensor/formats.h"

#define COLUMNS 32
#define TWO_GROUPS 4   // most rows of a tile of two groups of columns: their sums stay in registers
#define COPY_CONFLICT 2048
#define CONFLICT 1024   // rows a multiple of so many bytes apart throw each other out of the first cache level

// ---- Whole lines of b, k contiguous ---------------------------------------------------------------------------------

// A step takes a cache line of each of 16 rows of b (32 k of BF16, 64 of E4M3) and turns rows into lanes, half a line
// at a time, so that everything stays in registers. Part of that turning is done by loading parts of lines into parts
// of registers: shuffles, not multiplications, bound these loops. A chain of vdpbf16ps takes six cycles for each link;
// one or two rows are too few chains to fill them, so then two groups of 16 columns take turns.

#define LINE 64
#define MOST_ROWS 16

struct line_index {
    __m512i low, high;   // BF16: words of the first, last two pairs of two rows, the two of a pair exchanged
                         // E4M3: bytes of the first, last eight codes of two rows, see turn_codes
};

INLINE struct line_index line_index_make(enum format format) {
    struct line_index index = {0};
    if (format == FORMAT_BF16) {
        uint16_t words[32];
        for (int i = 0; i < 32; i++) {
            int lane = i / 8, word = i % 8;   // row (word / 2) % 2, pair word / 4, its upper word first
            words[i] = (uint16_t)(lane * 8 + word / 4 * 2 + 1 - word % 2 + word / 2 % 2 * 32);
        }
        index.low = _mm512_loadu_si512(words);
        index.high = _mm512_add_epi16(index.low, _mm512_set1_epi16(4));
    } else {
        uint8_t bytes[LINE];
        for (int i = 0; i < LINE; i++) {
            int lane = i / 16, half = i / 4 % 4, byte = i % 4;   // two codes of row byte / 2, the second one first
            bytes[i] = (uint8_t)(lane * 16 + half * 2 + 1 - byte % 2 + byte / 2 * LINE);
        }
        index.low = _mm512_loadu_si512(bytes);
        index.high = _mm512_add_epi8(index.low, _mm512_set1_epi8(8));
    }
    return index;
}

// Four rows' 8 words in each lane -> u[j]: the j-th two of each of the 16 rows, exchanged.
INLINE void turn_words(__m512i u[4], const __m512i v[4], const struct line_index *index) {
    __m512i t[4];
    UNROLL
    for (int i = 0; i < 4; i += 2) {
        t[i] = _mm512_permutex2var_epi16(v[i], index->low, v[i + 1]);
        t[i + 1] = _mm512_permutex2var_epi16(v[i], index->high, v[i + 1]);
    }
    u[0] = _mm512_unpacklo_epi64(t[0], t[2]);
    u[1] = _mm512_unpackhi_epi64(t[0], t[2]);
    u[2] = _mm512_unpacklo_epi64(t[1], t[3]);
    u[3] = _mm512_unpackhi_epi64(t[1], t[3]);
}

// One unit of `rows` rows of a against b[group]. The products are pinned to their place: GCC would put off whole chains
// to the end of the loop, and keep all that they wait for on the stack.
INLINE void multiply_unit(__m512 sum[2][MOST_ROWS], const uint32_t *a, const int rows, const int groups,
                          const __m512i b[2]) {
    UNROLL
    for (int i = 0; i < rows; i++) {
        __m512i x = _mm512_set1_epi32((int)a[i * LINEAR_CHUNK]);
        UNROLL
        for (int g = 0; g < groups; g++) {
            sum[g][i] = multiply_add(UNIT_PAIR, sum[g][i], x, b[g]);
            __asm__("" : "+v"(sum[g][i]));
        }
    }
}

// The same unit by multiply-adds. The earlier k of a word of b is its lower half, as in memory.
INLINE void multiply_halves(__m512 sum[2][MOST_ROWS], const struct halves *a, const int unit, const int rows,
                            const int groups, const __m512i b[2]) {
    UNROLL
    for (int half = 0; half < 2; half++) {
        const float *x = (half == 0 ? a->even : a->odd) + unit;
        __m512 value[2];
        UNROLL
        for (int g = 0; g < groups; g++) {
            value[g] = _mm512_castsi512_ps(half == 0 ? _mm512_slli_epi32(b[g], 16)
                                                     : _mm512_and_si512(b[g], _mm512_set1_epi32((int)0xffff0000u)));
        }
        UNROLL
        for (int i = 0; i < rows; i++) {
            __m512 factor = _mm512_set1_ps(x[i * LINEAR_CHUNK]);
            UNROLL
            for (int g = 0; g < groups; g++) {
                __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum[g][i]) : "v"(factor), "v"(value[g]));
            }
        }
    }
}

// The two-source permutation that overwrites its index. The compiler prefers the form that overwrites a table, which
// hinders the multiplications beside it.
INLINE __m512i permute_bytes(__m512i index, __m512i first, __m512i second) {
    __asm__("vpermi2b %2, %1, %0" : "+v"(index) : "v"(first), "v"(second));
    return index;
}

// Four rows' 16 codes in each lane -> u[j]: the j-th four codes of each of the 16 rows, in each lane the first two of
// its four rows, then the last two; of two, the second one first.
INLINE void turn_codes(__m512i u[4], const __m512i v[4], const struct line_index *index) {
    __m512i low[2], high[2];
    UNROLL
    for (int i = 0; i < 2; i++) {
        low[i] = permute_bytes(index->low, v[2 * i], v[2 * i + 1]);
        high[i] = permute_bytes(index->high, v[2 * i], v[2 * i + 1]);
    }
    u[0] = _mm512_unpacklo_epi32(low[0], low[1]);
    u[1] = _mm512_unpackhi_epi32(low[0], low[1]);
    u[2] = _mm512_unpacklo_epi32(high[0], high[1]);
    u[3] = _mm512_unpackhi_epi32(high[0], high[1]);
}

// Those -> the pairs of the first two and of the last two.
INLINE void widen_codes(__m512i pair[2], __m512i codes, const struct e4m3_table *table) {
    __m512i high = permute_bytes(codes, table->high[0], table->high[1]);
    __m512i low = permute_bytes(codes, table->low[0], table->low[1]);
    high = _mm512_ternarylogic_epi32(high, codes, _mm512_set1_epi8((char)0x80), 0xf8);   // high | (codes & sign)
    pair[0] = _mm512_unpacklo_epi8(low, high);
    pair[1] = _mm512_unpackhi_epi8(low, high);
    __asm__("" : "+v"(pair[0]), "+v"(pair[1]));
}

// One line of `groups` times 16 rows of BF16 b from `from` on; a at the first of its units.
INLINE void step_words(__m512 sum[2][MOST_ROWS], const uint32_t *a, const int rows, const int groups,
                       const enum method method, const struct line_index *index, const char *from,
                       const struct row_strides *strides) {
    struct halves halves;
    if (method == METHOD_HALVES) {
        split_rows(&halves, a, rows);
        // Broadcast from memory, not by shuffles of the vectors that the compiler saw stored.
        __asm__("" : "+m"(halves));
    }
    UNROLL
    for (int half = 0; half < 2; half++) {
        __m512i v[2][2][4], u[2][4];
        UNROLL
        for (int g = 0; g < groups; g++) {
            load_half_lines(v[g], from + g * VECTOR * strides->one, strides, half * LINE / 2);
        }
        UNROLL
        for (int c = 0; c < 2; c++) {
            UNROLL
            for (int g = 0; g < groups; g++) {
                if (method == METHOD_HALVES) {
                    turn_plain_words(u[g], v[g][c]);
                } else {
                    turn_words(u[g], v[g][c], index);
                }
            }
            UNROLL
            for (int j = 0; j < 4; j++) {
                const int unit = (2 * half + c) * 4 + j;
                const __m512i b[2] = {u[0][j], u[groups - 1][j]};
                if (method == METHOD_HALVES) {
                    multiply_halves(sum, &halves, unit, rows, groups, b);
                } else {
                    multiply_unit(sum, a + unit, rows, groups, b);
                }
            }
        }
    }
}

// The same of E4M3, whose line has two chunks of units. Codes are widened one step ahead of the products that need
// them.
INLINE void step_codes(__m512 sum[2][MOST_ROWS], const uint32_t *a, int64_t chunk_stride, const int rows,
                       const int groups, const struct e4m3_table *table, const struct line_index *index,
                       const char *from, const struct row_strides *strides) {
    __m512i v[2][2][4], u[2][4], pair[2][2][2];
    UNROLL
    for (int step = 0; step <= VECTOR; step++) {
        UNROLL
        for (int g = 0; g < groups && step < VECTOR; g++) {
            if (step % 8 == 0) {
                load_half_lines(v[g], from + g * VECTOR * strides->one, strides, step * 4);
            }
            if (step % 4 == 0) {
                turn_codes(u[g], v[g][step / 4 % 2], index);
            }
            widen_codes(pair[step % 2][g], u[g][step % 4], table);
        }
        if (step > 0) {
            const int unit = 2 * (step - 1);
            __m512i(*const ready)[2] = pair[(step - 1) % 2];
            UNROLL
            for (int i = 0; i < 2; i++) {
                multiply_unit(sum, a + unit / LINEAR_CHUNK * chunk_stride + unit % LINEAR_CHUNK + i, rows, groups,
                              (__m512i[2]){ready[0][i], ready[groups - 1][i]});
            }
        }
    }
}

// Asks for lines a block of BLOCK_BYTES of every row before they are needed, into the second cache level, and row by
// row: sixteen or more rows side by side are more streams than the hardware follows, and memory gives neighbours
// sooner. Behind the last block comes the first one of the rows that the tile's caller reads next.
#define BLOCK_BYTES 1024
struct read_ahead {
    const char *block, *end;   // first row of the present block; end of that row, of all its blocks
    const char *next;          // first of the rows read next, or NULL
    int64_t row_bytes, row_length, offset;
    int row, rows;   // rows 0: there is nothing more to ask for
};

INLINE void read_ahead_block(struct read_ahead *ahead) {
    ahead->row = 0;
    ahead->offset = 0;
    ahead->block += BLOCK_BYTES;
    if (ahead->block >= ahead->end && ahead->next == NULL) {
        ahead->rows = 0;
    } else if (ahead->block >= ahead->end) {
        ahead->block = ahead->next;
        ahead->end = ahead->block + (ahead->row_length < BLOCK_BYTES ? ahead->row_length : BLOCK_BYTES);
        ahead->next = NULL;
    }
}

INLINE void read_ahead_lines(struct read_ahead *ahead, const int pairs) {
    for (int i = 0; i < pairs && ahead->rows > 0; i++) {
        const char *line = ahead->block + ahead->row * ahead->row_bytes + ahead->offset;
        _mm_prefetch(line, _MM_HINT_T1);
        _mm_prefetch(line + LINE, _MM_HINT_T1);
        ahead->offset += 2 * LINE;
        if (ahead->offset >= BLOCK_BYTES || ahead->block + ahead->offset >= ahead->end) {
            ahead->offset = 0;
            if (++ahead->row == ahead->rows) {
                read_ahead_block(ahead);
            }
        }
    }
}

// Rows of E4M3 whose lines fall into few sets of the first cache level are copied from there line by line: each is
// needed twice, and would be gone by then.
INLINE void copy_lines(char *copy, const char *from, const struct row_strides *strides) {
    const char *const base[2] = {from, from + 8 * strides->one};
    UNROLL
    for (int i = 0; i < VECTOR; i++) {
        _mm512_store_si512(copy + i * LINE, _mm512_loadu_si512(row_address(base, strides, i)));
    }
}

INLINE void promote(__m512 *sum, float *c, int64_t c_stride, const int rows, __m512 scale, bool start) {
    UNROLL
    for (int i = 0; i < rows; i++) {
        __m512 total = start ? _mm512_setzero_ps() : _mm512_loadu_ps(c + i * c_stride);
        _mm512_storeu_ps(c + i * c_stride, _mm512_fmadd_ps(sum[i], scale, total));
        sum[i] = _mm512_setzero_ps();
    }
}

// All whole lines of `groups` times 16 columns from `column` on (E4M3: whole blocks of 128). Returns the k that are
// done; sums are in c.
INLINE int64_t tile_lines(const struct linear_tile *tile, const int rows, const int groups, const enum format format,
                          const enum method method) {
    const struct linear_operand *b = tile->mapped;
    const int64_t bytes = format == FORMAT_BF16 ? 2 : 1, row_bytes = b->row_stride * bytes;
    const int64_t line_k = LINE / bytes, units = line_k / 2, chunk_stride = tile->rows * LINEAR_CHUNK;
    const int64_t whole = format == FORMAT_BF16 ? tile->depth / line_k * line_k : tile->depth / BLOCK_SIZE * BLOCK_SIZE;
    const struct row_strides strides = row_strides_make(row_bytes);
    const char *from = b->data + tile->column * row_bytes;
    struct read_ahead ahead = {.block = from,
                               .end = from + tile->depth * bytes,
                               .next = tile->next,
                               .row_bytes = row_bytes,
                               .row_length = tile->depth * bytes,
                               .rows = groups * VECTOR};
    read_ahead_block(&ahead);
    const struct e4m3_table table = e4m3_table_load();
    const struct line_index index = line_index_make(format);
    const uint32_t *a = tile->a;
    const bool copied = format != FORMAT_BF16 && row_bytes % COPY_CONFLICT == 0;
    const struct row_strides line_strides = row_strides_make(copied ? LINE : row_bytes);
    _Alignas(LINE) char copy[2 * VECTOR * LINE];
    __m512 sum[2][MOST_ROWS];
    UNROLL
    for (int g = 0; g < groups; g++) {
        UNROLL
        for (int i = 0; i < rows; i++) {
            bool load = format == FORMAT_BF16 && tile->add;
            sum[g][i] = load ? _mm512_loadu_ps(tile->c + i * tile->c_stride + g * VECTOR) : _mm512_setzero_ps();
        }
    }
    for (int64_t k = 0; k < whole; k += line_k, a += units / LINEAR_CHUNK * chunk_stride) {
        read_ahead_lines(&ahead, groups * VECTOR / 2);
        if (format == FORMAT_BF16) {
            step_words(sum, a, rows, groups, method, &index, from, &strides);
        } else {
            UNROLL
            for (int g = 0; copied && g < groups; g++) {
                copy_lines(copy + g * VECTOR * LINE, from + g * VECTOR * row_bytes, &strides);
            }
            step_codes(sum, a, chunk_stride, rows, groups, &table, &index, copied ? copy : from, &line_strides);
        }
        from += LINE;
        if (format != FORMAT_BF16 && k % BLOCK_SIZE != 0) {
            __m512 scale = _mm512_set1_ps(tile->scale[k / BLOCK_SIZE]);
            UNROLL
            for (int g = 0; g < groups; g++) {
                promote(sum[g], tile->c + g * VECTOR, tile->c_stride, rows, scale, k < BLOCK_SIZE && !tile->add);
            }
        }
    }
    if (format == FORMAT_BF16) {
        UNROLL
        for (int g = 0; g < groups; g++) {
            UNROLL
            for (int i = 0; i < rows; i++) {
                _mm512_storeu_ps(tile->c + i * tile->c_stride + g * VECTOR, sum[g][i]);
            }
        }
    }
    return whole;
}

// ---- Columns of b contiguous (a transposed weight, the values of attention)
// ------------------------------------------

// Two groups of 16 columns of BF16: two k interleave to two vectors of pairs, without turning anything.
INLINE void tile_interleaved(const struct linear_tile *tile, const int rows) {
    const struct linear_operand *b = tile->mapped;
    const int64_t bytes = 2 * b->k_stride;
    const char *from = b->data + 2 * tile->column;
    const uint32_t *a = tile->a;
    uint16_t words[32];   // k + 1, k of columns 0 to 15
    for (int i = 0; i < 32; i++) {
        words[i] = (uint16_t)(i / 2 + (i % 2 == 0 ? 0 : 32));
    }
    const __m512i first = _mm512_loadu_si512(words), second = _mm512_add_epi16(first, _mm512_set1_epi16(VECTOR));
    __m512 sum[2][MOST_ROWS];
    UNROLL
    for (int g = 0; g < 2; g++) {
        UNROLL
        for (int i = 0; i < rows; i++) {
            sum[g][i] = tile->add ? _mm512_loadu_ps(tile->c + i * tile->c_stride + g * VECTOR) : _mm512_setzero_ps();
        }
    }
    for (int64_t unit = 0; unit < tile->units; unit++, from += 2 * bytes) {
        __m512i k0 = _mm512_loadu_si512(from);
        __m512i k1 = 2 * unit + 1 < tile->depth ? _mm512_loadu_si512(from + bytes) : _mm512_setzero_si512();
        __m512i pair[2] = {_mm512_permutex2var_epi16(k1, first, k0), _mm512_permutex2var_epi16(k1, second, k0)};
        multiply_unit(sum, a + unit / LINEAR_CHUNK * rows * LINEAR_CHUNK + unit % LINEAR_CHUNK, rows, 2, pair);
    }
    UNROLL
    for (int g = 0; g < 2; g++) {
        UNROLL
        for (int i = 0; i < rows; i++) {
            _mm512_storeu_ps(tile->c + i * tile->c_stride + g * VECTOR, sum[g][i]);
        }
    }
}

#define INTERLEAVED(rows)                                            \
    static void interleaved_##rows(const struct linear_tile *tile) { \
        tile_interleaved(tile, rows);                                \
    }
INTERLEAVED(1)
INTERLEAVED(2)
INTERLEAVED(3)
INTERLEAVED(4)
INTERLEAVED(5)
INTERLEAVED(6)
INTERLEAVED(7)
INTERLEAVED(8)
static void (*const interleaved[])(const struct linear_tile *tile) = {NULL,          interleaved_1, interleaved_2,
                                                                      interleaved_3, interleaved_4, interleaved_5,
                                                                      interleaved_6, interleaved_7, interleaved_8};

// ---- Everything else: 16 columns, any format and layout -------------------------------------------------------------

// Up to 16 units of 16 columns (`count` k; fewer columns for the last tile).
INLINE void step_mapped(__m512 sum[LINEAR_MAX_MAPPED], const uint32_t *a, const int rows,
                        const struct linear_tile *tile, const enum format format, const enum linear_unit unit,
                        const bool along_k, const struct e4m3_table *table, int64_t k) {
    const int width = unit == UNIT_PAIR ? 2 : 1;
    int64_t count = tile->depth - k;
    __m512i v[VECTOR];
    if (count >= VECTOR * width && tile->columns == VECTOR) {
        load_block(v, format, unit, along_k, false, table, tile->mapped, tile->column, VECTOR, k, VECTOR * width);
    } else {
        count = count < VECTOR * width ? count : VECTOR * width;
        load_block(v, format, unit, along_k, false, table, tile->mapped, tile->column, tile->columns, k, count);
    }
    if (count > (VECTOR - 1) * width) {
        UNROLL
        for (int u = 0; u < VECTOR; u++) {
            UNROLL
            for (int i = 0; i < rows; i++) {
                sum[i] = multiply_add(unit, sum[i], _mm512_set1_epi32((int)a[i * LINEAR_CHUNK + u]), v[u]);
            }
        }
        return;
    }
    UNROLL
    for (int u = 0; u < VECTOR; u++) {
        if (u * width < count) {
            UNROLL
            for (int i = 0; i < rows; i++) {
                sum[i] = multiply_add(unit, sum[i], _mm512_set1_epi32((int)a[i * LINEAR_CHUNK + u]), v[u]);
            }
        }
    }
}

// Rows are computed as 1, 2, 4 or 8: those beyond tile->rows read what follows in a and end in rows of c that nobody
// reads.
INLINE void tile_any(const struct linear_tile *tile, int64_t chunk_stride, const int rows, const enum format format,
                     const enum linear_unit unit, const bool along_k) {
    const int64_t width = unit == UNIT_PAIR ? 2 : 1;
    const bool scaled = format == FORMAT_E4M3_BLOCK;
    const struct e4m3_table table = e4m3_table_load();
    const uint32_t *a = tile->a;
    __m512 sum[LINEAR_MAX_MAPPED];
    UNROLL
    for (int i = 0; i < rows; i++) {
        sum[i] = !scaled && tile->add ? _mm512_loadu_ps(tile->c + i * tile->c_stride) : _mm512_setzero_ps();
    }
    for (int64_t k = 0; k < tile->depth; k += VECTOR * width, a += chunk_stride) {
        step_mapped(sum, a, rows, tile, format, unit, along_k, &table, k);
        int64_t next = k + VECTOR * width;
        if (scaled && (next % BLOCK_SIZE == 0 || next >= tile->depth)) {
            promote(sum, tile->c, tile->c_stride, rows, _mm512_set1_ps(tile->scale[k / BLOCK_SIZE]),
                    k < BLOCK_SIZE && !tile->add);
        }
    }
    if (!scaled) {
        UNROLL
        for (int i = 0; i < rows; i++) {
            _mm512_storeu_ps(tile->c + i * tile->c_stride, sum[i]);
        }
    }
}

INLINE void tile_rows(const struct linear_tile *tile, int64_t chunk_stride, const enum format format,
                      const enum linear_unit unit, const bool along_k) {
    if (tile->rows == 1) {
        tile_any(tile, chunk_stride, 1, format, unit, along_k);
    } else if (tile->rows == 2) {
        tile_any(tile, chunk_stride, 2, format, unit, along_k);
    } else if (tile->rows <= 4) {
        tile_any(tile, chunk_stride, 4, format, unit, along_k);
    } else {
        tile_any(tile, chunk_stride, 8, format, unit, along_k);
    }
}

#define MAPPED(name, format, unit)                                                           \
    static void mapped_##name##_k(const struct linear_tile *tile, int64_t chunk_stride) {    \
        tile_rows(tile, chunk_stride, format, unit, true);                                   \
    }                                                                                        \
    static void mapped_##name##_rows(const struct linear_tile *tile, int64_t chunk_stride) { \
        tile_rows(tile, chunk_stride, format, unit, false);                                  \
    }
MAPPED(f32, FORMAT_F32, UNIT_F32)
MAPPED(bf16, FORMAT_BF16, UNIT_F32)
MAPPED(e4m3, FORMAT_E4M3_BLOCK, UNIT_F32)
MAPPED(bf16_pair, FORMAT_BF16, UNIT_PAIR)
MAPPED(e4m3_pair, FORMAT_E4M3_BLOCK, UNIT_PAIR)

static void tile_part(const struct linear_tile *tile, int64_t chunk_stride) {
    const bool along_k = tile->mapped->k_stride == 1;
    if (tile->unit == UNIT_PAIR && tile->mapped->format == FORMAT_BF16) {
        (along_k ? mapped_bf16_pair_k : mapped_bf16_pair_rows)(tile, chunk_stride);
    } else if (tile->unit == UNIT_PAIR) {
        (along_k ? mapped_e4m3_pair_k : mapped_e4m3_pair_rows)(tile, chunk_stride);
    } else if (tile->mapped->format == FORMAT_F32) {
        (along_k ? mapped_f32_k : mapped_f32_rows)(tile, chunk_stride);
    } else if (tile->mapped->format == FORMAT_BF16) {
        (along_k ? mapped_bf16_k : mapped_bf16_rows)(tile, chunk_stride);
    } else {
        (along_k ? mapped_e4m3_k : mapped_e4m3_rows)(tile, chunk_stride);
    }
}

// ---- Choosing -------------------------------------------------------------------------------------------------------

#define LINES(rows, groups)                                                       \
    static int64_t lines_bf16_##rows##_##groups(const struct linear_tile *tile) { \
        return tile_lines(tile, rows, groups, FORMAT_BF16, METHOD_PAIRS);         \
    }                                                                             \
    static int64_t lines_e4m3_##rows##_##groups(const struct linear_tile *tile) { \
        return tile_lines(tile, rows, groups, FORMAT_E4M3_BLOCK, METHOD_PAIRS);   \
    }
#define HALVES(rows, groups)                                                  \
    static int64_t halves_##rows##_##groups(const struct linear_tile *tile) { \
        return tile_lines(tile, rows, groups, FORMAT_BF16, METHOD_HALVES);    \
    }
// The layout tool never settles on these lists.
// clang-format off
#define EACH_ROWS(X, groups) \
    X(1, groups) X(2, groups) X(3, groups) X(4, groups) X(5, groups) X(6, groups) X(7, groups) X(8, groups) \
    X(9, groups) X(10, groups) X(11, groups) X(12, groups) X(13, groups) X(14, groups) X(15, groups) X(16, groups)
EACH_ROWS(LINES, 1)
LINES(1, 2) LINES(2, 2) LINES(3, 2) LINES(4, 2)
#define BF16_ENTRY(rows, groups) [rows] = lines_bf16_##rows##_##groups,
#define E4M3_ENTRY(rows, groups) [rows] = lines_e4m3_##rows##_##groups,
static int64_t (*const lines[2][2][MOST_ROWS + 1])(const struct linear_tile *tile) = {
    {{EACH_ROWS(BF16_ENTRY, 1)}, {BF16_ENTRY(1, 2) BF16_ENTRY(2, 2) BF16_ENTRY(3, 2) BF16_ENTRY(4, 2)}},
    {{EACH_ROWS(E4M3_ENTRY, 1)}, {E4M3_ENTRY(1, 2) E4M3_ENTRY(2, 2) E4M3_ENTRY(3, 2) E4M3_ENTRY(4, 2)}}};
HALVES(1, 2) HALVES(2, 2) HALVES(3, 2) HALVES(4, 2)
HALVES(1, 1) HALVES(2, 1) HALVES(3, 1) HALVES(4, 1) HALVES(5, 1) HALVES(6, 1) HALVES(7, 1) HALVES(8, 1)
#define HALVES_ENTRY(rows, groups) [rows] = halves_##rows##_##groups,
static int64_t (*const halves_lines[2][LINEAR_MAX_MAPPED + 1])(const struct linear_tile *tile) = {
    {HALVES_ENTRY(1, 1) HALVES_ENTRY(2, 1) HALVES_ENTRY(3, 1) HALVES_ENTRY(4, 1)
     HALVES_ENTRY(5, 1) HALVES_ENTRY(6, 1) HALVES_ENTRY(7, 1) HALVES_ENTRY(8, 1)},
    {HALVES_ENTRY(1, 2) HALVES_ENTRY(2, 2) HALVES_ENTRY(3, 2) HALVES_ENTRY(4, 2)}};
// clang-format on

// BF16 by halves: all but more rows than their sums leave registers for.
static bool is_halves(const struct linear_tile *tile, const enum method method) {
    return method == METHOD_HALVES && tile->mapped->format == FORMAT_BF16 && tile->rows <= LINEAR_MAX_MAPPED;
}

static int columns_at_once(const struct linear_tile *tile, const enum method method) {
    const bool bf16 = tile->mapped->format == FORMAT_BF16;
    if (bf16 && !is_halves(tile, method) && (tile->rows > 1 || 2 * tile->mapped->row_stride % CONFLICT == 0)) {
        return VECTOR;
    }
    return tile->rows <= TWO_GROUPS ? COLUMNS : VECTOR;
}

// What is left at the end of the rows, or has no lines at all.
static void tile_rest(const struct linear_tile *tile) {
    for (int column = 0; column < tile->columns; column += VECTOR) {
        for (int row = 0; row < tile->rows; row += LINEAR_MAX_MAPPED) {
            struct linear_tile part = *tile;
            part.c += row * tile->c_stride + column;
            part.a += row * LINEAR_CHUNK;
            part.column += column;
            part.columns = tile->columns - column < VECTOR ? tile->columns - column : VECTOR;
            part.rows = tile->rows - row < LINEAR_MAX_MAPPED ? tile->rows - row : LINEAR_MAX_MAPPED;
            tile_part(&part, tile->rows * LINEAR_CHUNK);
        }
    }
}

static void tile_columns(struct linear_tile part, const enum method method) {
    struct linear_operand rest = *part.mapped;
    if (part.columns % VECTOR == 0 && part.unit == UNIT_PAIR && rest.k_stride == 1) {
        const bool bf16 = rest.format == FORMAT_BF16;
        const int groups = part.columns / VECTOR - 1;
        int64_t done = is_halves(&part, method) ? halves_lines[groups][part.rows](&part)
                                                : lines[!bf16][groups][part.rows](&part);
        rest.data += done * (bf16 ? 2 : 1);
        part.mapped = &rest;
        part.a += done / 2 * part.rows;
        part.scale = bf16 ? NULL : part.scale + done / BLOCK_SIZE;
        part.depth -= done;
        part.add = part.add || done > 0;
    }
    if (part.depth > 0) {
        tile_rest(&part);
    }
}

static void tile_mapped(const struct linear_tile *tile, const enum method method) {
    const struct linear_operand *b = tile->mapped;
    if (tile->unit == UNIT_PAIR && b->format == FORMAT_BF16 && b->row_stride == 1 && b->k_stride != 1 &&
        tile->columns == COLUMNS && tile->rows <= LINEAR_MAX_MAPPED) {
        interleaved[tile->rows](tile);
        return;
    }
    const int step = tile->columns == COLUMNS ? columns_at_once(tile, method) : VECTOR;
    for (int first = 0; first < tile->columns; first += step) {
        struct linear_tile part = *tile;
        part.c += first;
        part.column += first;
        part.columns = tile->columns - first < step ? tile->columns - first : step;
        if (first + step < tile->columns && b->k_stride == 1) {
            int64_t bytes = b->format == FORMAT_BF16 ? 2 : b->format == FORMAT_F32 ? 4 : 1;
            part.next = b->data + (part.column + step) * b->row_stride * bytes;
        }
        tile_columns(part, method);
    }
}

static void tile_mapped_pairs(const struct linear_tile *tile) {
    tile_mapped(tile, METHOD_PAIRS);
}

static void tile_mapped_halves(const struct linear_tile *tile) {
    tile_mapped(tile, METHOD_HALVES);
}

void kernels_avx512_linear_mapped_pairs(struct cpu_kernels *kernels, bool wide) {
    kernels->linear.tile_mapped = wide ? tile_mapped_halves : tile_mapped_pairs;
}

void kernels_avx512_linear_mapped(struct cpu_kernels *kernels) {
    kernels->linear.mapped_columns = COLUMNS;
    kernels->linear.mapped_pairs = MOST_ROWS;
    kernels_avx512_linear_mapped_pairs(kernels, false);
}
