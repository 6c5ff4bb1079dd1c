// Elementary functions of the forward and backward pass. Not libm: its results differ between versions and CPUs, and a
// vector version must give the same bits as this scalar one. Every function is a fixed sequence of IEEE single
// operations and fmaf; op/cpu/avx2 and op/cpu/avx512 repeat the same sequence lane by lane (tests compare all 2^32
// inputs of each).
#ifndef MINKE_BASE_MATH_H
#define MINKE_BASE_MATH_H

// exp(x): <= 1 ulp for |x| <= 87; x <= -87.33654 gives 0 (results below the smallest normal are flushed), x >= 88.72284
// gives +inf, NaN gives NaN.
float math_exp(float x);
// ln(x): <= 1 ulp for normal x > 0; x = 0 (or subnormal, DAZ) gives -inf, x < 0 gives NaN.
float math_log(float x);
// 1 / (1 + exp(-x)) and x * sigmoid(x), from math_exp and one division.
float math_sigmoid(float x);
float math_silu(float x);
// For tables (RoPE) and Box-Muller: double precision, own range reduction and polynomials, |x| <= 1e9.
void math_sincos(double x, double *sine, double *cosine);
double math_log_double(double x);
double math_exp_double(double x);
double math_pow_double(double base, double exponent);   // base > 0

#endif
