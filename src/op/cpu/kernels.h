// The table of CPU kernels: innermost loops that differ between instruction sets. The scalar versions fill a table and
// are the specification; AVX2 overrides some entries, AVX-512 some of those, always with the same bits (tests/op compares).
//
// To add a kernel: an entry here (or in the op's own header, as linear.h does), its scalar version in op/cpu/<op>.c, faster ones in
// op/cpu/avx2/<op>.c and op/cpu/avx512/<op>.c. To add a file of kernels: one init function for each instruction set that it
// serves, declared below and named in the list of kernels.c.
#ifndef MINKE_OP_CPU_KERNELS_H
#define MINKE_OP_CPU_KERNELS_H

#include "op/cpu/linear.h"
#include "op/ops.h"

struct cpu_kernels {
    enum isa isa;
    struct linear_kernels linear;
};

// The table for `isa` (never ISA_BEST), whether or not this CPU can run it.
const struct cpu_kernels *cpu_kernels_get(enum isa isa);
// The best instruction set this CPU and operating system can run.
enum isa cpu_isa_best(void);

// Init functions, one for each file of kernels: each sets its own entries of the table.
void kernels_scalar_linear(struct cpu_kernels *kernels);
void kernels_avx2_linear(struct cpu_kernels *kernels);
void kernels_avx512_linear(struct cpu_kernels *kernels);

#endif
