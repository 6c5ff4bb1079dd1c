// The constants of math_exp and math_log, for base/math.c and its vector versions in op/cpu/avx2 and op/cpu/avx512.
//
// A vector version repeats these steps lane by lane, each an IEEE single operation, fmaf, or an integer operation:
//
//   exp(x)   shifted = fmaf(x, EXP_LOG2E, EXP_SHIFTER)         rounds x / ln 2 to the nearest integer n, ties to even
//            n = shifted - EXP_SHIFTER
//            r = fmaf(n, -EXP_LN2_HIGH, x);  r = fmaf(n, -EXP_LN2_LOW, r)                          |r| <= 0.3466
//            q = EXP_Q4;  q = fmaf(q, r, EXP_Q3);  ... EXP_Q2, EXP_Q1, EXP_Q0
//            p = fmaf(q, r, 1);  p = fmaf(p, r, 1)                exp(r) = 1 + r (1 + r q(r))
//            bits(p) + (bits(shifted) << 23) as 32-bit integers: times 2^n; the shifter's own bits leave on the left
//            then, in this order: x >= EXP_OVERFLOW gives +inf, x <= EXP_UNDERFLOW gives +0, NaN gives EXP_LOG_NAN_BITS
//
//   log(x)   e = (int)(bits(x) - LOG_SQRT_HALF_BITS) >> 23     arithmetic shift: x = m * 2^e, m from sqrt(1/2)
//            f = float(bits(x) - (e << 23)) - 1
//            p = LOG_P8;  p = fmaf(p, f, LOG_P7);  ... LOG_P0
//            s = f * f;  y = fmaf(s * f, p, s * -0.5f)          log(1 + f) = f + y
//            h = e * LOG_LN2_HIGH (exact);  sum = h + f;  rest = f - (sum - h)
//            sum + (fmaf(e, LOG_LN2_LOW, y) + rest)
//            then, in this order: bits(x) below 0x00800000 as signed integers (zero, subnormal, negative) gives NaN;
//            bits(x) & 0x7fffffff below 0x00800000 (zero or subnormal of either sign) gives -inf;
//            x = +inf gives +inf; NaN gives NaN; each NaN is EXP_LOG_NAN_BITS
//
// Coefficients: Remez exchange in 40 digits for the relative error of the function, then rounded to single
// (tools/math_coefficients.py): q(r) = (exp(r) - 1 - r) / r^2 on |r| <= ln(2)/2, error 3.2e-9;
// p(f) = (log(1 + f) - f + f^2/2) / f^3 on [sqrt(1/2) - 1, sqrt(2) - 1], error 7.3e-10.
#ifndef MINKE_BASE_MATH_CONSTANTS_H
#define MINKE_BASE_MATH_CONSTANTS_H

#define EXP_LOG2E 0x1.715476p+0f
#define EXP_SHIFTER 0x1.8p+23f
#define EXP_LN2_HIGH 0x1.62e430p-1f
#define EXP_LN2_LOW -0x1.05c610p-29f
#define EXP_OVERFLOW 88.72284f     // 0x42b17218: the smallest x whose exp is above the largest float
#define EXP_UNDERFLOW -87.33654f   // 0xc2aeac4f
#define EXP_Q0 0x1.000000p-1f
#define EXP_Q1 0x1.55548ep-3f
#define EXP_Q2 0x1.55545ep-5f
#define EXP_Q3 0x1.123b56p-7f
#define EXP_Q4 0x1.6db426p-10f

#define LOG_SQRT_HALF_BITS 0x3f3504f3   // sqrt(1/2)
#define LOG_LN2_HIGH 0x1.62e000p-1f     // 12 significant bits: exact for every exponent
#define LOG_LN2_LOW 0x1.0bfbe8p-15f
#define LOG_P0 0x1.555546p-2f
#define LOG_P1 -0x1.ffffeep-3f
#define LOG_P2 0x1.99a546p-3f
#define LOG_P3 -0x1.5562e2p-3f
#define LOG_P4 0x1.2332c2p-3f
#define LOG_P5 -0x1.fb436cp-4f
#define LOG_P6 0x1.e650bap-4f
#define LOG_P7 -0x1.e2e844p-4f
#define LOG_P8 0x1.1b40dap-4f

#define EXP_LOG_NAN_BITS 0x7fc00000

// Of the functions in double precision (base/math.c; op/cpu/avx512/random.c repeats their steps).
#define HALF_PI_HIGH 0x1.921fb54442d18p+0
#define HALF_PI_MIDDLE 0x1.1a62633145c07p-54
#define HALF_PI_LOW -0x1.f1976b7ed8fbcp-110
#define TWO_OVER_PI 0x1.45f306dc9c883p-1
#define LN2_HIGH 0x1.62e42fefa3800p-1   // 42 bits: exact for every exponent
#define LN2_LOW 0x1.ef35793c76730p-45
#define LOG_DOUBLE_SQRT_HALF_BITS 0x3fe6a09e667f3bcd

#endif
