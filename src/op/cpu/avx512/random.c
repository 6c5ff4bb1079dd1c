// AVX-512 random numbers (op/cpu/random.h): eight lanes of base/rng.c's Philox, and of math_log_double and math_sincos
// of base/math.c, step by step, so that every bit is the same.
#include "op/cpu/random.h"

#include <immintrin.h>

#include "base/math_constants.h"
#include "base/rng.h"
#include "op/cpu/kernels.h"

static inline __m512d constant(double value) {
    return _mm512_set1_pd(value);
}

// Words 0, 1 and 2, 3 of a block as 64-bit numbers. The words stand in the low halves of 64-bit lanes; what gathers in
// the high halves is neither multiplied nor kept.
static inline void philox(__m512i *low, __m512i *high, uint64_t seed, uint64_t stream, __m512i counter) {
    __m512i word0 = counter, word1 = _mm512_srli_epi64(counter, 32);
    __m512i word2 = _mm512_set1_epi64((long long)stream), word3 = _mm512_set1_epi64((long long)(stream >> 32));
    const __m512i even_factor = _mm512_set1_epi64(RNG_FACTOR_EVEN), odd_factor = _mm512_set1_epi64(RNG_FACTOR_ODD);
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    for (int round = 0; round < RNG_ROUNDS; round++) {
        __m512i even = _mm512_mul_epu32(even_factor, word0), odd = _mm512_mul_epu32(odd_factor, word2);
        word0 = _mm512_xor_si512(_mm512_xor_si512(_mm512_srli_epi64(odd, 32), word1), _mm512_set1_epi64(key[0]));
        word2 = _mm512_xor_si512(_mm512_xor_si512(_mm512_srli_epi64(even, 32), word3), _mm512_set1_epi64(key[1]));
        word1 = odd;
        word3 = even;
        key[0] += RNG_KEY_STEP_LOW;
        key[1] += RNG_KEY_STEP_HIGH;
    }
    const __m512i mask = _mm512_set1_epi64(0xffffffff);
    *low = _mm512_or_si512(_mm512_slli_epi64(word1, 32), _mm512_and_si512(word0, mask));
    *high = _mm512_or_si512(_mm512_slli_epi64(word3, 32), _mm512_and_si512(word2, mask));
}

// ln(x) for x in [2^-53, 1].
static inline __m512d log_lanes(__m512d x) {
    __m512i bits = _mm512_castpd_si512(x);
    __m512i exponent = _mm512_srai_epi64(_mm512_sub_epi64(bits, _mm512_set1_epi64(LOG_DOUBLE_SQRT_HALF_BITS)), 52);
    __m512d f = _mm512_sub_pd(_mm512_castsi512_pd(_mm512_sub_epi64(bits, _mm512_slli_epi64(exponent, 52))),
                              constant(1.0));
    __m512d e = _mm512_cvtepi64_pd(exponent);
    __m512d s = _mm512_div_pd(f, _mm512_add_pd(constant(2.0), f)), z = _mm512_mul_pd(s, s);
    __m512d p = constant(2.0 / 23.0);
    for (int k = 21; k >= 3; k -= 2) {
        p = _mm512_fmadd_pd(p, z, constant(2.0 / k));
    }
    __m512d half = _mm512_mul_pd(_mm512_mul_pd(constant(0.5), f), f);
    __m512d rest = _mm512_fmadd_pd(s, _mm512_add_pd(half, _mm512_mul_pd(z, p)), _mm512_mul_pd(e, constant(LN2_LOW)));
    return _mm512_fmadd_pd(e, constant(LN2_HIGH), _mm512_sub_pd(f, _mm512_sub_pd(half, rest)));
}

static inline __m512d sine_lanes(__m512d r, __m512d tail) {
    static const double terms[] = {-1.0 / 1307674368000.0, 1.0 / 6227020800.0, -1.0 / 39916800.0, 1.0 / 362880.0,
                                   -1.0 / 5040.0,          1.0 / 120.0,        -1.0 / 6.0};
    __m512d s = _mm512_mul_pd(r, r), p = constant(1.0 / 355687428096000.0);
    for (int i = 0; i < 7; i++) {
        p = _mm512_fmadd_pd(p, s, constant(terms[i]));
    }
    __m512d slope = _mm512_mul_pd(tail, _mm512_sub_pd(constant(1.0), _mm512_mul_pd(constant(0.5), s)));
    return _mm512_add_pd(r, _mm512_fmadd_pd(_mm512_mul_pd(r, s), p, slope));
}

static inline __m512d cosine_lanes(__m512d r, __m512d tail) {
    static const double terms[] = {-1.0 / 87178291200.0, 1.0 / 479001600.0, -1.0 / 3628800.0,
                                   1.0 / 40320.0,        -1.0 / 720.0,      1.0 / 24.0};
    __m512d s = _mm512_mul_pd(r, r);
    __m512d p = _mm512_fnmadd_pd(constant(1.0 / 6402373705728000.0), s, constant(1.0 / 20922789888000.0));
    for (int i = 0; i < 6; i++) {
        p = _mm512_fmadd_pd(p, s, constant(terms[i]));
    }
    __m512d half = _mm512_mul_pd(constant(0.5), s), head = _mm512_sub_pd(constant(1.0), half);
    __m512d lost = _mm512_sub_pd(_mm512_sub_pd(constant(1.0), head), half);
    __m512d bend = _mm512_fmadd_pd(_mm512_mul_pd(s, s), p, _mm512_mul_pd(_mm512_sub_pd(constant(-0.0), r), tail));
    return _mm512_add_pd(head, _mm512_add_pd(lost, bend));
}

// cos(x) for x in [0, 2 pi).
static inline __m512d cos_lanes(__m512d x) {
    __m512d shifter = constant(0x1.8p+52);
    __m512d shifted = _mm512_fmadd_pd(x, constant(TWO_OVER_PI), shifter), n = _mm512_sub_pd(shifted, shifter);
    // Quarter turns from here: 0 sine, 1 cosine, 2 and 3 their negatives.
    __m512i turn = _mm512_add_epi64(_mm512_castpd_si512(shifted), _mm512_set1_epi64(1));
    __m512d first = _mm512_fmadd_pd(n, constant(-HALF_PI_HIGH), x);
    __m512d product = _mm512_mul_pd(n, constant(HALF_PI_MIDDLE));
    __m512d product_tail = _mm512_fmsub_pd(n, constant(HALF_PI_MIDDLE), product);
    __m512d r = _mm512_sub_pd(first, product);
    __m512d tail = _mm512_sub_pd(_mm512_sub_pd(_mm512_sub_pd(first, r), product), product_tail);
    tail = _mm512_sub_pd(tail, _mm512_mul_pd(n, constant(HALF_PI_LOW)));
    __mmask8 odd = _mm512_test_epi64_mask(turn, _mm512_set1_epi64(1));
    __m512d value = _mm512_mask_blend_pd(odd, sine_lanes(r, tail), cosine_lanes(r, tail));
    __m512i sign = _mm512_slli_epi64(_mm512_and_si512(turn, _mm512_set1_epi64(2)), 62);
    return _mm512_castsi512_pd(_mm512_xor_si512(_mm512_castpd_si512(value), sign));
}

static inline __m256 normal_lanes(uint64_t seed, uint64_t stream, __m512i counter) {
    __m512i low, high;
    philox(&low, &high, seed, stream, counter);
    __m512d radius = _mm512_cvtepu64_pd(_mm512_srli_epi64(low, 11));
    radius = _mm512_mul_pd(_mm512_add_pd(radius, constant(1.0)), constant(0x1p-53));
    __m512d angle = _mm512_mul_pd(_mm512_cvtepu64_pd(_mm512_srli_epi64(high, 11)), constant(0x1p-53));
    angle = _mm512_mul_pd(angle, constant(RNG_TURN));
    __m512d length = _mm512_sqrt_pd(_mm512_mul_pd(constant(-2.0), log_lanes(radius)));
    return _mm512_cvtpd_ps(_mm512_mul_pd(length, cos_lanes(angle)));
}

static void normal(float *out, uint64_t seed, uint64_t stream, uint64_t first, int64_t count) {
    const __m512i steps = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
    for (int64_t i = 0; i < count; i += 8) {
        __m512i counter = _mm512_add_epi64(_mm512_set1_epi64((long long)(first + (uint64_t)i)), steps);
        __mmask8 mask = (__mmask8)(count - i >= 8 ? 0xffu : (1u << (unsigned)(count - i)) - 1u);
        _mm256_mask_storeu_ps(out + i, mask, normal_lanes(seed, stream, counter));
    }
}

void kernels_avx512_random(struct cpu_kernels *kernels) {
    kernels->random.normal = normal;
}
