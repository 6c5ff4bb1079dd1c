// Loading blocks of an operand of a matrix product into AVX-512 registers: any format, 16 rows by 16 units, either way
// round. Shared by the kernels that pack (linear.c), those that read b where it lies (linear_mapped.c), and attention's
// that read keys so (attention_scores.c).
#ifndef MINKE_OP_CPU_AVX512_LINEAR_LOAD_H
#define MINKE_OP_CPU_AVX512_LINEAR_LOAD_H

#include <immintrin.h>

#include "op/cpu/avx512/lanes.h"
#include "op/cpu/linear.h"

#define VECTOR 16

#define INLINE static inline __attribute__((always_inline))

// Upper and lower byte of the BF16 value of every E4M3 magnitude.
struct e4m3_table {
    __m512i high[2], low[2];
};
extern uint8_t e4m3_high[128], e4m3_low[128];

INLINE struct e4m3_table e4m3_table_load(void) {
    struct e4m3_table table = {{_mm512_loadu_si512(e4m3_high), _mm512_loadu_si512(e4m3_high + 64)},
                               {_mm512_loadu_si512(e4m3_low), _mm512_loadu_si512(e4m3_low + 64)}};
    return table;
}

// One E4M3 in the low byte of each 16-bit lane -> BF16.
INLINE __m512i e4m3_to_bf16(const struct e4m3_table *table, __m512i bytes) {
    __m512i high = _mm512_permutex2var_epi8(table->high[0], bytes, table->high[1]);
    __m512i low = _mm512_permutex2var_epi8(table->low[0], bytes, table->low[1]);
    // The index 0 of the upper byte gives 0 for a magnitude of 0, so that only the low byte of each lane counts.
    __m512i word = _mm512_or_si512(_mm512_slli_epi16(high, 8), low);
    return _mm512_or_si512(word, _mm512_slli_epi16(_mm512_and_si512(bytes, _mm512_set1_epi16(0x80)), 8));
}

// Units k .. of one row, k contiguous; `count` k are there (any number >= 1 beyond which zeros are read).
INLINE __m512i load_along_k(enum format format, enum linear_unit unit, const struct e4m3_table *table, const char *from,
                            int64_t count) {
    if (unit == UNIT_PAIR) {
        __mmask32 mask = count >= 32 ? 0xffffffffu : (1u << count) - 1u;
        __m512i words;
        if (format == FORMAT_BF16) {
            words = count >= 32 ? _mm512_loadu_si512(from) : _mm512_maskz_loadu_epi16(mask, from);
        } else {
            words = e4m3_to_bf16(table, _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(mask, from)));
        }
        return _mm512_rol_epi32(words, 16);
    }
    __mmask16 mask = (__mmask16)(count >= 16 ? 0xffffu : (1u << count) - 1u);
    if (format == FORMAT_F32) {
        return _mm512_maskz_loadu_epi32(mask, from);
    }
    if (format == FORMAT_BF16) {
        return _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from)), 16);
    }
    __m512i words = e4m3_to_bf16(table, _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, from)));
    return _mm512_slli_epi32(words, 16);
}

// 16 rows of one k as BF16 in the low half of each 32-bit lane, rows contiguous.
INLINE __m512i load_words_along_rows(enum format format, const struct e4m3_table *table, const char *from,
                                     __mmask16 mask) {
    if (format == FORMAT_BF16) {
        return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
    }
    __m512i words = e4m3_to_bf16(table, _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, from)));
    return words;
}

// 16 rows of one unit, rows contiguous. `second`: the second k of the pair exists.
INLINE __m512i load_along_rows(enum format format, enum linear_unit unit, const struct e4m3_table *table,
                               const char *from, int64_t k_bytes, bool second, __mmask16 mask) {
    if (unit == UNIT_F32 && format == FORMAT_F32) {
        return _mm512_maskz_loadu_epi32(mask, from);
    }
    __m512i words = _mm512_slli_epi32(load_words_along_rows(format, table, from, mask), 16);
    if (unit == UNIT_PAIR && second) {
        words = _mm512_or_si512(words, load_words_along_rows(format, table, from + k_bytes, mask));
    }
    return words;
}

// A block of up to 16 rows x 16 units. `by_row`: v[i] = units of row i; else v[i] = rows of unit i. Missing rows and
// units are zero.
INLINE void load_block(__m512i v[VECTOR], enum format format, enum linear_unit unit, bool along_k, bool by_row,
                       const struct e4m3_table *table, const struct linear_operand *source, int64_t row, int rows,
                       int64_t k, int64_t count) {
    const int64_t bytes = format == FORMAT_F32 ? 4 : format == FORMAT_BF16 ? 2 : 1;
    const int64_t row_bytes = source->row_stride * bytes, k_bytes = source->k_stride * bytes;
    const char *from = source->data + row * row_bytes + k * k_bytes;
    if (along_k) {
        if (rows == VECTOR) {
            UNROLL
            for (int i = 0; i < VECTOR; i++) {
                v[i] = load_along_k(format, unit, table, from + i * row_bytes, count);
            }
        } else {
            UNROLL
            for (int i = 0; i < VECTOR; i++) {
                v[i] = i < rows ? load_along_k(format, unit, table, from + i * row_bytes, count)
                                : _mm512_setzero_si512();
            }
        }
    } else {
        const int step = unit == UNIT_PAIR ? 2 : 1;
        __mmask16 mask = (__mmask16)(rows >= VECTOR ? 0xffffu : (1u << rows) - 1u);
        UNROLL
        for (int i = 0; i < VECTOR; i++) {
            v[i] = i * step < count ? load_along_rows(format, unit, table, from + i * step * k_bytes, k_bytes,
                                                      i * step + 1 < count, mask)
                                    : _mm512_setzero_si512();
        }
    }
    if (along_k != by_row) {
        transpose(v);
    }
}

INLINE __m512 multiply_add(enum linear_unit unit, __m512 sum, __m512i a, __m512i b) {
    return unit == UNIT_PAIR ? _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b)
                             : _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
}

// sum += a * b in the form that overwrites its sum. The compiler likes to overwrite a factor instead; with all
// registers in use it then moves sums about, and to the stack.
INLINE void accumulate(__m512 *sum, __m512 a, __m512 b) {
    __asm__("vfmadd231ps %2, %1, %0" : "+v"(*sum) : "v"(a), "v"(b));
}

// How pairs of few rows are multiplied: as they are, or their halves by two multiply-adds (kernels_avx512_pairs).
enum method { METHOD_PAIRS, METHOD_HALVES };

struct halves {
    _Alignas(64) float even[LINEAR_MAX_MAPPED * LINEAR_CHUNK], odd[LINEAR_MAX_MAPPED * LINEAR_CHUNK];
};

// A chunk of rows of a: its words as two F32 each.
INLINE void split_rows(struct halves *halves, const uint32_t *a, const int rows) {
    UNROLL
    for (int i = 0; i < rows; i++) {
        __m512i words = _mm512_loadu_si512(a + i * LINEAR_CHUNK);
        __m512i even = _mm512_and_si512(words, _mm512_set1_epi32((int)0xffff0000u));
        _mm512_store_ps(halves->even + i * LINEAR_CHUNK, _mm512_castsi512_ps(even));
        _mm512_store_ps(halves->odd + i * LINEAR_CHUNK, _mm512_castsi512_ps(_mm512_slli_epi32(words, 16)));
    }
}

// ---- Parts of cache lines of 16 rows, turned ------------------------------------------------------------------------

// Addresses of 16 rows from two bases and four strides, as address modes of the machine: left alone, the compiler keeps
// a pointer for each row, which is more than there are registers.
struct row_strides {
    int64_t one, three, five, seven;
};
INLINE struct row_strides row_strides_make(int64_t bytes) {
    struct row_strides s = {bytes, 3 * bytes, 5 * bytes, 7 * bytes};
    __asm__("" : "+r"(s.one), "+r"(s.three), "+r"(s.five), "+r"(s.seven));   // not to be derived from each other
    return s;
}
INLINE const char *row_address(const char *const base[2], const struct row_strides *s, int row) {
    const char *from = base[row / 8];
    switch (row % 8) {
    case 0:
        return from;
    case 1:
        return from + s->one;
    case 2:
        return from + 2 * s->one;
    case 3:
        return from + s->three;
    case 4:
        return from + 4 * s->one;
    case 5:
        return from + s->five;
    case 6:
        return from + 2 * s->three;
    default:
        return from + s->seven;
    }
}

// 32 bytes of each of 16 rows. v[c][i] holds chunk c of 16 bytes: its 128-bit lane L is that of row 4 L + i.
INLINE void load_half_lines(__m512i v[2][4], const char *from, const struct row_strides *s, int offset) {
    const char *const base[2] = {from, from + 8 * s->one};
    UNROLL
    for (int i = 0; i < 4; i++) {
        __m512i pair[2];
        UNROLL
        for (int j = 0; j < 2; j++) {
            const char *first = row_address(base, s, 8 * j + i) + offset;
            const char *second = row_address(base, s, 8 * j + 4 + i) + offset;
            __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)first);
            __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)second);
            pair[j] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
        }
        v[0][i] = _mm512_shuffle_i32x4(pair[0], pair[1], 0x88);
        v[1][i] = _mm512_shuffle_i32x4(pair[0], pair[1], 0xdd);
    }
}

// Four rows' words as they lie -> u[j]: the j-th word of each of the 16 rows.
INLINE void turn_plain_words(__m512i u[4], const __m512i v[4]) {
    __m512i low[2] = {_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpacklo_epi32(v[2], v[3])};
    __m512i high[2] = {_mm512_unpackhi_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[2], v[3])};
    u[0] = _mm512_unpacklo_epi64(low[0], low[1]);
    u[1] = _mm512_unpackhi_epi64(low[0], low[1]);
    u[2] = _mm512_unpacklo_epi64(high[0], high[1]);
    u[3] = _mm512_unpackhi_epi64(high[0], high[1]);
}

struct cpu_kernels;
void kernels_avx512_linear_mapped(struct cpu_kernels *kernels);

#endif
