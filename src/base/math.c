// exp, log, sigmoid, silu in single precision, the reference that the vector versions repeat bit by bit, and the double
// functions for tables. The steps of the single ones are written out in base/math_constants.h.
//
// Accuracy (tests/base/test_math.c, all inputs): exp and log below 1 ulp.
#include "base/math.h"

#include <stdint.h>
#include <string.h>

#include "base/math_constants.h"

static uint32_t float_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float bits_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static double bits_double(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint64_t double_bits(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

float math_exp(float x) {
    float shifted = __builtin_fmaf(x, EXP_LOG2E, EXP_SHIFTER);
    float n = shifted - EXP_SHIFTER;
    float r = __builtin_fmaf(n, -EXP_LN2_HIGH, x);
    r = __builtin_fmaf(n, -EXP_LN2_LOW, r);
    float q = EXP_Q4;
    q = __builtin_fmaf(q, r, EXP_Q3);
    q = __builtin_fmaf(q, r, EXP_Q2);
    q = __builtin_fmaf(q, r, EXP_Q1);
    q = __builtin_fmaf(q, r, EXP_Q0);
    float p = __builtin_fmaf(q, r, 1.0f);
    p = __builtin_fmaf(p, r, 1.0f);
    float result = bits_float(float_bits(p) + (float_bits(shifted) << 23));
    result = x >= EXP_OVERFLOW ? __builtin_inff() : result;
    result = x <= EXP_UNDERFLOW ? 0.0f : result;
    return x != x ? bits_float(EXP_LOG_NAN_BITS) : result;
}

float math_log(float x) {
    uint32_t bits = float_bits(x);
    int32_t exponent = (int32_t)(bits - LOG_SQRT_HALF_BITS) >> 23;
    float f = bits_float(bits - ((uint32_t)exponent << 23)) - 1.0f;
    float e = (float)exponent;
    float p = LOG_P8;
    p = __builtin_fmaf(p, f, LOG_P7);
    p = __builtin_fmaf(p, f, LOG_P6);
    p = __builtin_fmaf(p, f, LOG_P5);
    p = __builtin_fmaf(p, f, LOG_P4);
    p = __builtin_fmaf(p, f, LOG_P3);
    p = __builtin_fmaf(p, f, LOG_P2);
    p = __builtin_fmaf(p, f, LOG_P1);
    p = __builtin_fmaf(p, f, LOG_P0);
    float s = f * f;
    float y = __builtin_fmaf(s * f, p, s * -0.5f);
    float high = e * LOG_LN2_HIGH;
    float sum = high + f;
    float rest = f - (sum - high);
    float result = sum + (__builtin_fmaf(e, LOG_LN2_LOW, y) + rest);
    result = (int32_t)bits < 0x00800000 ? bits_float(EXP_LOG_NAN_BITS) : result;
    result = (bits & 0x7fffffffu) < 0x00800000u ? -__builtin_inff() : result;
    result = bits == 0x7f800000u ? __builtin_inff() : result;
    return (bits & 0x7fffffffu) > 0x7f800000u ? bits_float(EXP_LOG_NAN_BITS) : result;
}

float math_sigmoid(float x) {
    return 1.0f / (1.0f + math_exp(-x));
}

float math_silu(float x) {
    return x * math_sigmoid(x);
}

// pi/2 = HALF_PI_HIGH + MIDDLE + LOW, each the nearest double to what is left. With |n| < 2^30 the first step below is
// exact: x and n * HIGH are multiples of 2^-53 and their difference is below 1. Taylor series on |r| <= pi/4, r + tail
// the reduced angle: the first term left out is below 2^-60 of the result.
static double sine_kernel(double r, double tail) {
    double s = r * r;
    double p = 1.0 / 355687428096000.0;   // 1/17!, then 1/15!, ... 1/3! with alternating signs
    p = __builtin_fma(p, s, -1.0 / 1307674368000.0);
    p = __builtin_fma(p, s, 1.0 / 6227020800.0);
    p = __builtin_fma(p, s, -1.0 / 39916800.0);
    p = __builtin_fma(p, s, 1.0 / 362880.0);
    p = __builtin_fma(p, s, -1.0 / 5040.0);
    p = __builtin_fma(p, s, 1.0 / 120.0);
    p = __builtin_fma(p, s, -1.0 / 6.0);
    return r + __builtin_fma(r * s, p, tail * (1.0 - 0.5 * s));
}

static double cosine_kernel(double r, double tail) {
    double s = r * r;
    double p = 1.0 / 6402373705728000.0;   // 1/18!, then 1/16!, ... 1/4!
    p = __builtin_fma(-p, s, 1.0 / 20922789888000.0);
    p = __builtin_fma(p, s, -1.0 / 87178291200.0);
    p = __builtin_fma(p, s, 1.0 / 479001600.0);
    p = __builtin_fma(p, s, -1.0 / 3628800.0);
    p = __builtin_fma(p, s, 1.0 / 40320.0);
    p = __builtin_fma(p, s, -1.0 / 720.0);
    p = __builtin_fma(p, s, 1.0 / 24.0);
    double half = 0.5 * s;
    double head = 1.0 - half;
    // (1 - head) - half is what the rounding of head has lost.
    return head + (((1.0 - head) - half) + __builtin_fma(s * s, p, -r * tail));
}

void math_sincos(double x, double *sine, double *cosine) {
    double shifted = __builtin_fma(x, TWO_OVER_PI, 0x1.8p+52);
    double n = shifted - 0x1.8p+52;
    unsigned quadrant = (unsigned)double_bits(shifted) & 3;
    double first = __builtin_fma(n, -HALF_PI_HIGH, x);
    double product = n * HALF_PI_MIDDLE;
    double product_tail = __builtin_fma(n, HALF_PI_MIDDLE, -product);
    double r = first - product;
    double tail = (first - r) - product - product_tail - n * HALF_PI_LOW;
    double s = sine_kernel(r, tail), c = cosine_kernel(r, tail);
    double values[4] = {s, c, -s, -c};
    *sine = values[quadrant];
    *cosine = values[(quadrant + 1) & 3];
}

double math_log_double(double x) {
    if (!(x > 0) || x == __builtin_inf()) {
        return x == 0 ? -__builtin_inf() : x > 0 ? x : __builtin_nan("");
    }
    int shift = 0;
    if (x < 0x1p-1022) {   // subnormal (zero already where DAZ is on)
        x *= 0x1p54;
        shift = -54;
    }
    uint64_t bits = double_bits(x);
    int64_t exponent = (int64_t)(bits - LOG_DOUBLE_SQRT_HALF_BITS) >> 52;
    double f = bits_double(bits - ((uint64_t)exponent << 52)) - 1.0;
    double e = (double)(exponent + shift);
    // log(1 + f) = 2 atanh(s) = 2 s + 2 s^3/3 + 2 s^5/5 + ..., s = f / (2 + f), |s| <= 0.1716; 2 s = f - s f.
    double s = f / (2.0 + f), z = s * s;
    double p = 2.0 / 23.0;
    for (int k = 21; k >= 3; k -= 2) {
        p = __builtin_fma(p, z, 2.0 / k);
    }
    // With h = f^2/2: 2 s = f - h + s h, which keeps the large part, f - h, free of the division's rounding.
    double half = 0.5 * f * f;
    double rest = __builtin_fma(s, half + z * p, e * LN2_LOW);
    return __builtin_fma(e, LN2_HIGH, f - (half - rest));
}

double math_exp_double(double x) {
    if (x != x) {
        return x;
    }
    if (x > 709.782712893384) {
        return __builtin_inf();
    }
    if (x < -708.3964185322641) {   // below the smallest normal
        return 0;
    }
    double shifted = __builtin_fma(x, 0x1.71547652b82fep+0, 0x1.8p+52);
    double n = shifted - 0x1.8p+52;
    double r = __builtin_fma(n, -LN2_HIGH, x);
    r = __builtin_fma(n, -LN2_LOW, r);
    double p = 1.0 / 87178291200.0;   // 1/14!
    double factorial[] = {6227020800.0, 479001600.0, 39916800.0, 3628800.0, 362880.0, 40320.0,
                          5040.0,       720.0,       120.0,      24.0,      6.0,      2.0};
    for (int i = 0; i < 12; i++) {
        p = __builtin_fma(p, r, 1.0 / factorial[i]);
    }
    p = __builtin_fma(r * r, p, r) + 1.0;
    // Two steps, so that 2^1024 * 0.99 is representable on the way.
    int64_t exponent = (int64_t)n, first = exponent / 2;
    double scale = bits_double((uint64_t)(first + 1023) << 52);
    return p * scale * bits_double((uint64_t)(exponent - first + 1023) << 52);
}

double math_pow_double(double base, double exponent) {
    return math_exp_double(exponent * math_log_double(base));
}
