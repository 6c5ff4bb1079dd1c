// AVX-512 kernels of the matrix products: F32 by fused multiply-add, BF16 pairs by vdpbf16ps (two FP32 FMAs, the high
// halves first, flushing subnormals: the same chain as the scalar kernels').
//
// Tiles are up to 14 rows x 32 columns: 28 accumulators, two vectors of b and one broadcast of a fill the 32 registers.
#include "op/cpu/avx512/linear_load.h"
#include "op/cpu/kernels.h"
#include "tensor/formats.h"

#define ROWS 14
#define COLUMNS 32

// ---- Tables of E4M3 -------------------------------------------------------------------------------------------------

uint8_t e4m3_high[128], e4m3_low[128];

// ---- Packing --------------------------------------------------------------------------------------------------------

INLINE void pack_strip(const struct linear_strip *strip, enum format format, enum linear_unit unit, bool along_k,
                       bool as_rows) {
    const int step = unit == UNIT_PAIR ? 2 : 1;
    const struct e4m3_table table = e4m3_table_load();
    int64_t chunk = 0;
    for (int64_t k = strip->k_begin; k < strip->k_end; k += VECTOR * step, chunk++) {
        int64_t count = strip->k_end - k;
        __m512i v[VECTOR];
        if (count >= VECTOR * step) {
            load_block(v, format, unit, along_k, as_rows, &table, strip->source, strip->row, strip->rows, k,
                       VECTOR * step);
        } else {
            load_block(v, format, unit, along_k, as_rows, &table, strip->source, strip->row, strip->rows, k, count);
        }
        uint32_t *out = strip->out + (as_rows ? chunk * strip->chunk_stride : chunk * VECTOR * strip->unit_stride);
        int64_t stride = as_rows ? LINEAR_CHUNK : strip->unit_stride;
        int64_t vectors = as_rows ? strip->rows : (count + step - 1) / step;
        if (vectors >= VECTOR) {
            UNROLL
            for (int i = 0; i < VECTOR; i++) {
                _mm512_store_si512(out + i * stride, v[i]);
            }
        } else {
            UNROLL
            for (int i = 0; i < VECTOR; i++) {
                if (i < vectors) {
                    _mm512_store_si512(out + i * stride, v[i]);
                }
            }
        }
    }
    if (as_rows && unit == UNIT_PAIR && (strip->k_end - strip->k_begin) % 2 != 0) {
        int64_t last = (strip->k_end - strip->k_begin) / 2;
        uint32_t *out = strip->out + last / LINEAR_CHUNK * strip->chunk_stride + last % LINEAR_CHUNK;
        for (int i = 0; i < strip->rows; i++) {
            out[i * LINEAR_CHUNK] |= 0x8000u;
        }
    }
}

INLINE void pack_any(const struct linear_strip *strip, bool as_rows) {
    const struct linear_operand *source = strip->source;
    const enum format format = source->format;
    const enum linear_unit unit = strip->unit;
    if (source->k_stride == 1 && unit == UNIT_PAIR && format == FORMAT_BF16) {
        pack_strip(strip, FORMAT_BF16, UNIT_PAIR, true, as_rows);
    } else if (source->k_stride == 1 && unit == UNIT_PAIR) {
        pack_strip(strip, FORMAT_E4M3_BLOCK, UNIT_PAIR, true, as_rows);
    } else if (source->k_stride == 1 && format == FORMAT_F32) {
        pack_strip(strip, FORMAT_F32, UNIT_F32, true, as_rows);
    } else if (source->k_stride == 1 && format == FORMAT_BF16) {
        pack_strip(strip, FORMAT_BF16, UNIT_F32, true, as_rows);
    } else if (source->k_stride == 1) {
        pack_strip(strip, FORMAT_E4M3_BLOCK, UNIT_F32, true, as_rows);
    } else if (source->row_stride == 1 && unit == UNIT_PAIR && format == FORMAT_BF16) {
        pack_strip(strip, FORMAT_BF16, UNIT_PAIR, false, as_rows);
    } else if (source->row_stride == 1 && unit == UNIT_PAIR) {
        pack_strip(strip, FORMAT_E4M3_BLOCK, UNIT_PAIR, false, as_rows);
    } else if (source->row_stride == 1 && format == FORMAT_F32) {
        pack_strip(strip, FORMAT_F32, UNIT_F32, false, as_rows);
    } else if (source->row_stride == 1 && format == FORMAT_BF16) {
        pack_strip(strip, FORMAT_BF16, UNIT_F32, false, as_rows);
    } else if (source->row_stride == 1) {
        pack_strip(strip, FORMAT_E4M3_BLOCK, UNIT_F32, false, as_rows);
    } else if (as_rows) {
        linear_pack_rows_scalar(strip);
    } else {
        linear_pack_columns_scalar(strip);
    }
}

static void pack_rows(const struct linear_strip *strip) {
    pack_any(strip, true);
}

// 32 columns of one k as BF16.
INLINE __m512i load_panel(enum format format, const struct e4m3_table *table, const char *from) {
    return format == FORMAT_BF16
               ? _mm512_loadu_si512(from)
               : e4m3_to_bf16(table, _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)from)));
}

// A whole panel of BF16 or E4M3 whose columns are contiguous: two rows of k interleave to one row of units.
INLINE void pack_columns_interleaved(const struct linear_strip *strip, enum format format) {
    const struct linear_operand *source = strip->source;
    const struct e4m3_table table = e4m3_table_load();
    const int64_t width = format == FORMAT_BF16 ? 2 : 1;
    int16_t index[2 * VECTOR];   // of the words k + 1, k of columns 0 to 15
    for (int i = 0; i < VECTOR; i++) {
        index[2 * i] = (int16_t)i;
        index[2 * i + 1] = (int16_t)(i + 2 * VECTOR);
    }
    const __m512i first = _mm512_loadu_si512(index), second = _mm512_add_epi16(first, _mm512_set1_epi16(VECTOR));
    const char *from = source->data + width * (strip->row + strip->k_begin * source->k_stride);
    const int64_t bytes = width * source->k_stride;
    uint32_t *out = strip->out;
    for (int64_t k = strip->k_begin; k < strip->k_end; k += 2) {
        __m512i k0 = load_panel(format, &table, from);
        __m512i k1 = k + 1 < strip->k_end ? load_panel(format, &table, from + bytes) : _mm512_setzero_si512();
        _mm512_store_si512(out, _mm512_permutex2var_epi16(k1, first, k0));
        _mm512_store_si512(out + VECTOR, _mm512_permutex2var_epi16(k1, second, k0));
        from += 2 * bytes;
        out += strip->unit_stride;
    }
}

// The same for F32: already rows of units.
static void pack_columns_copied(const struct linear_strip *strip) {
    const struct linear_operand *source = strip->source;
    const char *from = source->data + 4 * (strip->row + strip->k_begin * source->k_stride);
    uint32_t *out = strip->out;
    for (int64_t k = strip->k_begin; k < strip->k_end; k++) {
        __m512i low = _mm512_loadu_si512(from), high = _mm512_loadu_si512(from + 64);
        _mm512_store_si512(out, low);
        _mm512_store_si512(out + VECTOR, high);
        from += 4 * source->k_stride;
        out += strip->unit_stride;
    }
}

static void pack_columns(const struct linear_strip *strip) {
    if (strip->rows == COLUMNS && strip->source->row_stride == 1 && strip->source->k_stride != 1) {
        if (strip->source->format == FORMAT_BF16 && strip->unit == UNIT_PAIR) {
            pack_columns_interleaved(strip, FORMAT_BF16);
            return;
        }
        if (strip->source->format != FORMAT_F32 && strip->unit == UNIT_PAIR) {
            pack_columns_interleaved(strip, FORMAT_E4M3_BLOCK);
            return;
        }
        if (strip->source->format == FORMAT_F32) {
            pack_columns_copied(strip);
            return;
        }
    }
    struct linear_strip half = *strip;
    for (int begin = 0; begin < strip->rows; begin += VECTOR) {
        half.out = strip->out + begin;
        half.row = strip->row + begin;
        half.rows = strip->rows - begin < VECTOR ? strip->rows - begin : VECTOR;
        pack_any(&half, false);
    }
}

// ---- Tiles of packed operands ---------------------------------------------------------------------------------------

// One unit: all accumulators advance by one (pair) product.
INLINE void step(__m512 sum[ROWS][2], const uint32_t *a, const uint32_t *b, const int rows, const int vectors,
                 enum linear_unit unit) {
    __m512i y[2] = {_mm512_load_si512(b), vectors > 1 ? _mm512_load_si512(b + VECTOR) : _mm512_setzero_si512()};
    UNROLL
    for (int i = 0; i < rows; i++) {
        __m512i x = _mm512_set1_epi32((int)a[i * LINEAR_CHUNK]);
        UNROLL
        for (int j = 0; j < vectors; j++) {
            if (unit == UNIT_F32) {
                accumulate(&sum[i][j], _mm512_castsi512_ps(x), _mm512_castsi512_ps(y[j]));
            } else {
                sum[i][j] = multiply_add(unit, sum[i][j], x, y[j]);
            }
        }
    }
}

// One unit of pairs, as two multiply-adds: the halves of b widen on their way from memory, a is F32.
INLINE void step_wide(__m512 sum[ROWS][2], const uint32_t *a, const uint32_t *b, const int rows, const int vectors) {
    UNROLL
    for (int half = 0; half < 2; half++) {
        __m512i x[2];
        UNROLL
        for (int j = 0; j < vectors; j++) {
            x[j] = half == 0 ? _mm512_maskz_loadu_epi16(0xaaaaaaaau, b + j * VECTOR)
                             : _mm512_slli_epi32(_mm512_load_si512(b + j * VECTOR), 16);
        }
        UNROLL
        for (int i = 0; i < rows; i++) {
            __m512 factor = _mm512_castsi512_ps(_mm512_set1_epi32((int)a[i * LINEAR_CHUNK + half]));
            UNROLL
            for (int j = 0; j < vectors; j++) {
                accumulate(&sum[i][j], factor, _mm512_castsi512_ps(x[j]));
            }
        }
    }
}

// Units that lie together in one chunk of a.
INLINE int64_t chunk_units(const enum linear_unit unit) {
    return unit == UNIT_WIDE ? LINEAR_CHUNK / 2 : LINEAR_CHUNK;
}

INLINE void advance(__m512 sum[ROWS][2], const uint32_t *a, const uint32_t *b, const int rows, const int vectors,
                    const enum linear_unit unit) {
    if (unit == UNIT_WIDE) {
        step_wide(sum, a, b, rows, vectors);
    } else {
        step(sum, a, b, rows, vectors, unit);
    }
}

INLINE void tile_any(const struct linear_tile *tile, const int rows, const int vectors, const enum linear_unit unit) {
    const uint32_t *a = tile->a, *b = tile->b;
    float *const c = tile->c;
    const int64_t stride = tile->c_stride;
    const bool scaled = tile->row_scale != NULL;
    const int64_t block = scaled ? (unit == UNIT_F32 ? tile->scale_depth : tile->scale_depth / 2) : tile->units;
    const int64_t together = chunk_units(unit), width = LINEAR_CHUNK / together, chunks = tile->units / together;
    const int64_t ask = tile->ahead_lines == 0 ? 0 : chunks == 0 ? 0 : (tile->ahead_lines + chunks - 1) / chunks;
    const uint32_t *ahead = tile->ahead;
    for (int64_t begin = 0; begin < tile->units; begin += block) {
        __m512 sum[ROWS][2];
        bool load = !scaled && tile->add;
        UNROLL
        for (int i = 0; i < rows; i++) {
            UNROLL
            for (int j = 0; j < vectors; j++) {
                sum[i][j] = load ? _mm512_loadu_ps(c + i * stride + j * VECTOR) : _mm512_setzero_ps();
            }
        }
        int64_t units = tile->units - begin < block ? tile->units - begin : block;
        for (int64_t chunk = units / together; chunk > 0; chunk--) {
            for (int64_t line = 0; line < ask; line++, ahead += LINEAR_CHUNK) {
                _mm_prefetch(ahead, _MM_HINT_T1);
            }
            for (int part = 0; part < LINEAR_CHUNK; part += 4) {
                const int once = unit == UNIT_WIDE ? 2 : 4;
                UNROLL
                for (int i = 0; i < once; i++) {
                    advance(sum, a + i * width, b + i * COLUMNS, rows, vectors, unit);
                }
                a += 4;
                b += once * COLUMNS;
            }
            a += (rows - 1) * LINEAR_CHUNK;
        }
        for (int64_t rest = units % together; rest > 0; rest--) {
            advance(sum, a, b, rows, vectors, unit);
            a += width;
            b += COLUMNS;
        }
        if (scaled) {
            const float *row_scale = tile->row_scale + begin / block * LINEAR_MAX_ROWS;
            const float *column_scale = tile->column_scale + begin / block * LINEAR_MAX_COLUMNS;
            bool start = begin == 0 && !tile->add;
            UNROLL
            for (int i = 0; i < rows; i++) {
                __m512 factor = _mm512_set1_ps(row_scale[i]);
                UNROLL
                for (int j = 0; j < vectors; j++) {
                    __m512 scale = _mm512_mul_ps(factor, _mm512_loadu_ps(column_scale + j * VECTOR));
                    __m512 total = start ? _mm512_setzero_ps() : _mm512_loadu_ps(c + i * stride + j * VECTOR);
                    sum[i][j] = _mm512_fmadd_ps(sum[i][j], scale, total);
                }
            }
        }
        UNROLL
        for (int i = 0; i < rows; i++) {
            UNROLL
            for (int j = 0; j < vectors; j++) {
                _mm512_storeu_ps(c + i * stride + j * VECTOR, sum[i][j]);
            }
        }
    }
}

#define TILE(unit, rows)                                                   \
    static void tile_##unit##_##rows##_1(const struct linear_tile *tile) { \
        tile_any(tile, rows, 1, UNIT_##unit);                              \
    }                                                                      \
    static void tile_##unit##_##rows##_2(const struct linear_tile *tile) { \
        tile_any(tile, rows, 2, UNIT_##unit);                              \
    }
// The layout tool never settles on this list.
// clang-format off
#define ALL_ROWS(X, unit) \
    X(unit, 1) X(unit, 2) X(unit, 3) X(unit, 4) X(unit, 5) X(unit, 6) X(unit, 7) \
    X(unit, 8) X(unit, 9) X(unit, 10) X(unit, 11) X(unit, 12) X(unit, 13) X(unit, 14)
// clang-format on
ALL_ROWS(TILE, F32)
ALL_ROWS(TILE, PAIR)
ALL_ROWS(TILE, WIDE)

#define ENTRY(unit, rows) [UNIT_##unit][rows] = {tile_##unit##_##rows##_1, tile_##unit##_##rows##_2},
static void (*const tiles[3][ROWS + 1][2])(const struct linear_tile *tile) = {ALL_ROWS(ENTRY, F32) ALL_ROWS(ENTRY, PAIR)
                                                                                  ALL_ROWS(ENTRY, WIDE)};

static void tile_packed(const struct linear_tile *tile) {
    tiles[tile->unit][tile->rows][tile->columns > VECTOR](tile);
}

static void narrow(uint16_t *out, const float *in, int64_t count) {
    for (int64_t i = 0; i < count; i += VECTOR) {
        __mmask16 mask = (__mmask16)(count - i >= VECTOR ? 0xffffu : (1u << (count - i)) - 1u);
        __m256bh words = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, in + i));
        _mm256_mask_storeu_epi16(out + i, mask, (__m256i)words);
    }
}

// Whether two multiply-adds are clearly faster than a vdpbf16ps. The least of several turns of about a microsecond
// each: what else the machine does only adds to some of them.
#define TURNS 16
#define TURN_ROUNDS 100
static bool pairs_are_slow(const struct cpu_kernels *kernels) {
    if (cpu_isa_best() < ISA_AVX512) {
        return false;
    }
    unsigned long long least[2] = {~0ULL, ~0ULL};
    for (int turn = 0; turn < 2 * TURNS; turn++) {
        unsigned long long began = __rdtsc();
        if (turn % 2 == 0) {
            kernels->peak.multiply_add(2 * TURN_ROUNDS);   // as many operations as the other
        } else {
            kernels->peak.multiply_add_pairs(TURN_ROUNDS);
        }
        unsigned long long ticks = __rdtsc() - began;
        least[turn % 2] = ticks < least[turn % 2] ? ticks : least[turn % 2];
    }
    return least[0] + least[0] / 4 < least[1];
}

void kernels_avx512_linear(struct cpu_kernels *kernels) {
    for (int magnitude = 0; magnitude < 128; magnitude++) {
        uint16_t word = bf16_narrow(e4m3_widen((uint8_t)magnitude));
        e4m3_high[magnitude] = (uint8_t)(word >> 8);
        e4m3_low[magnitude] = (uint8_t)word;
    }
    struct linear_kernels *linear = &kernels->linear;
    linear->pairs = true;
    linear->tile_rows = ROWS;
    linear->tile_columns = COLUMNS;
    linear->pack_rows = pack_rows;
    linear->pack_columns = pack_columns;
    linear->tile = tile_packed;
    kernels_avx512_linear_mapped(kernels);
    linear->narrow = narrow;
}

void kernels_avx512_pairs(struct cpu_kernels *kernels, bool wide) {
    kernels->linear.wide = wide;
    kernels_avx512_attention_pairs(kernels, wide);
    kernels_avx512_attention_rows_pairs(kernels, wide);
    kernels_avx512_attention_scores_pairs(kernels, wide);
    kernels_avx512_linear_mapped_pairs(kernels, wide);
    kernels_avx512_linear_int_pairs(kernels, wide);
    kernels_avx512_linear_panels_pairs(kernels, wide);
}

void kernels_avx512_pairs_choose(struct cpu_kernels *kernels) {
    kernels_avx512_pairs(kernels, pairs_are_slow(kernels));
}
