// Before a loop over an array of registers: unrolled entirely, the array stays in registers. (GCC: up to 32 rounds.)
#ifndef MINKE_OP_CPU_UNROLL_H
#define MINKE_OP_CPU_UNROLL_H

#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

#endif
