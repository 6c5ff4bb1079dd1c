// AVX-512 kernel of the scores of few query rows (decoding), keys read where they lie, by multiply-adds: for CPUs whose
// vdpbf16ps is slow (scores_rows in op/cpu/attention.h).
//
// Keys have to become lanes, which binds the one port that shuffles; products bind two. Turning a piece of keys into a
// buffer in the first cache level, widened on the way, and multiplying from there leaves registers for 16 chains, as
// many as multiply-adds need to follow one another: 4 rows x 64 keys, or 8 x 32.
#include "op/cpu/avx512/attention_ask.h"
#include "op/cpu/avx512/linear_load.h"
#include "op/cpu/kernels.h"

#define LINE 64
#define LINE_TERMS SCORE_TERMS   // elements of a cache line of a key
#define PIECE_LINES 2            // of each key that are turned at a time
#define MOST_GROUPS 4            // of 16 keys at a time
#define WIDE_ROWS 4              // most rows that leave registers for so many

// The earlier term of a word of a query is its upper half.
static void widen_queries(float *terms, const uint32_t *queries, int64_t stride, int64_t words, int64_t rows) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(VECTOR / 2));
    for (int64_t word = 0; word < words; word += VECTOR) {
        for (int64_t row = 0; row < rows; row++, terms += LINE_TERMS) {
            __m512i pair = _mm512_loadu_si512(queries + row * stride + word);
            __m512i odd = _mm512_slli_epi32(pair, 16);
            pair = _mm512_and_si512(pair, _mm512_set1_epi32((int)0xffff0000u));
            _mm512_storeu_si512(terms, _mm512_permutex2var_epi32(pair, low, odd));
            _mm512_storeu_si512(terms + VECTOR, _mm512_permutex2var_epi32(pair, high, odd));
        }
    }
}

// A line of each of 16 keys -> its terms, keys in lanes, `width` floats apart.
INLINE void turn_line(float *out, const char *from, const struct row_strides *strides, const int width) {
    UNROLL
    for (int half = 0; half < 2; half++) {
        __m512i v[2][4];
        load_half_lines(v, from, strides, half * LINE_TERMS);
        UNROLL
        for (int c = 0; c < 2; c++) {
            __m512i word[4];
            turn_plain_words(word, v[c]);
            UNROLL
            for (int j = 0; j < 4; j++) {
                float *const to = out + 2 * ((2 * half + c) * 4 + j) * width;
                _mm512_store_si512(to, _mm512_slli_epi32(word[j], 16));
                _mm512_store_si512(to + width, _mm512_and_si512(word[j], _mm512_set1_epi32((int)0xffff0000u)));
            }
        }
    }
}

// `lines` lines of 16 `groups` keys.
INLINE void turn_keys(float *out, const char *from, int64_t row_bytes, const int lines, const int groups) {
    const struct row_strides strides = row_strides_make(row_bytes);
    for (int group = 0; group < groups; group++) {
        for (int line = 0; line < lines; line++) {
            turn_line(out + line * LINE_TERMS * groups * VECTOR + group * VECTOR,
                      from + group * VECTOR * row_bytes + line * LINE_TERMS * 2, &strides, groups * VECTOR);
        }
    }
}

// Keys that will be turned next, asked for into the first cache level.
struct next_piece {
    const char *from;
    int64_t row_bytes;
};

// Lines of keys that were turned: continues score[rows][KEY_ROWS] at `groups` times 16 keys.
INLINE void multiply_lines(float *score, const float *terms, const float *keys, struct key_lines *ahead,
                           const struct next_piece *next, const int lines, const int rows, const int groups) {
    __m512 sum[MOST_GROUPS][LINEAR_MAX_MAPPED];
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int g = 0; g < groups; g++) {
            sum[g][i] = _mm512_loadu_ps(score + i * KEY_ROWS + g * VECTOR);
        }
    }
    for (int line = 0; line < lines; line++, terms += rows * LINE_TERMS) {
        for (int t = 0; t < LINE_TERMS; t++, keys += groups * VECTOR) {
            ask_ahead(ahead, rows, t);
            UNROLL
            for (int part = 0; part < (groups + 1) / 2; part++) {
                _mm_prefetch(next->from + (part * LINE_TERMS + t) * next->row_bytes + line * LINE, _MM_HINT_T0);
            }
            __m512 key[MOST_GROUPS];
            UNROLL
            for (int g = 0; g < groups; g++) {
                key[g] = _mm512_load_ps(keys + g * VECTOR);
            }
            UNROLL
            for (int i = 0; i < rows; i++) {
                __m512 factor = _mm512_set1_ps(terms[i * LINE_TERMS + t]);
                UNROLL
                for (int g = 0; g < groups; g++) {
                    accumulate(&sum[g][i], factor, key[g]);
                }
            }
        }
    }
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int g = 0; g < groups; g++) {
            _mm512_storeu_ps(score + i * KEY_ROWS + g * VECTOR, sum[g][i]);
        }
    }
}

INLINE void score_groups(float *score, const float *terms, const char *from, int64_t row_bytes, int64_t width,
                         struct key_lines *ahead, const int rows, const int groups) {
    _Alignas(64) float keys[PIECE_LINES * LINE_TERMS * MOST_GROUPS * VECTOR];
    int64_t lines = width / LINE_TERMS;
    for (; lines >= PIECE_LINES; lines -= PIECE_LINES) {
        turn_keys(keys, from, row_bytes, PIECE_LINES, groups);
        const struct next_piece next = {from + PIECE_LINES * LINE_TERMS * 2, row_bytes};
        multiply_lines(score, terms, keys, ahead, &next, PIECE_LINES, rows, groups);
        terms += PIECE_LINES * rows * LINE_TERMS;
        from += PIECE_LINES * LINE_TERMS * 2;
    }
    if (lines > 0) {
        turn_keys(keys, from, row_bytes, 1, groups);
        const struct next_piece next = {from, row_bytes};
        multiply_lines(score, terms, keys, ahead, &next, 1, rows, groups);
    }
}

INLINE void score_rows(float *score, const float *terms, const char *from, int64_t row_bytes, int64_t width,
                       int64_t keys, struct key_lines *next, const int rows) {
    const int wide = rows <= WIDE_ROWS ? MOST_GROUPS : 2;
    int64_t key = 0;
    for (; key + wide * VECTOR <= keys; key += wide * VECTOR) {
        score_groups(score + key, terms, from + key * row_bytes, row_bytes, width, next, rows, wide);
    }
    for (; key < keys; key += VECTOR) {
        score_groups(score + key, terms, from + key * row_bytes, row_bytes, width, next, rows, 1);
    }
}

#define ROWS(rows)                                                                                                 \
    static void score_##rows(float *score, const float *terms, const char *from, int64_t row_bytes, int64_t width, \
                             int64_t keys, struct key_lines *next) {                                               \
        score_rows(score, terms, from, row_bytes, width, keys, next, rows);                                        \
    }
ROWS(1)
ROWS(2)
ROWS(3)
ROWS(4)
ROWS(5)
ROWS(6)
ROWS(7)
ROWS(8)
static void (*const table[LINEAR_MAX_MAPPED + 1])(float *score, const float *terms, const char *from, int64_t row_bytes,
                                                  int64_t width, int64_t keys, struct key_lines *next) = {
    NULL, score_1, score_2, score_3, score_4, score_5, score_6, score_7, score_8};

static void scores_rows(float *score, const float *terms, struct row first, int64_t stride, int64_t width, int64_t rows,
                        int64_t keys, bool add, struct key_lines *next) {
    for (int64_t row = 0; row < rows && !add; row++) {
        for (int64_t key = 0; key < keys; key += VECTOR) {
            _mm512_storeu_ps(score + row * KEY_ROWS + key, _mm512_setzero_ps());
        }
    }
    if (width > 0) {
        table[rows](score, terms, first.data, 2 * stride, width, keys, next);
    }
}

void kernels_avx512_attention_scores_pairs(struct cpu_kernels *kernels, bool wide) {
    kernels->attention_bf16.scores_rows = wide ? scores_rows : NULL;
    kernels->attention_bf16.widen_queries = wide ? widen_queries : NULL;
}
