// The table of CPU kernels: innermost loops that differ between instruction sets. The scalar versions fill a table and
// are the specification; AVX2 overrides some entries, AVX-512 some of those, always with the same bits (tests/op
// compares).
//
// To add a kernel: an entry here (or in the op's own header, as linear.h does), its scalar version in op/cpu/<op>.c,
// faster ones in op/cpu/avx2/<op>.c and op/cpu/avx512/<op>.c. To add a file of kernels: one init function for each
// instruction set that it serves, declared below and named in the list of kernels.c.
#ifndef MINKE_OP_CPU_KERNELS_H
#define MINKE_OP_CPU_KERNELS_H

#include "op/cpu/attention.h"
#include "op/cpu/latent_block.h"
#include "op/cpu/linear.h"
#include "op/cpu/peak.h"
#include "op/cpu/quantize.h"
#include "op/cpu/random.h"
#include "op/cpu/row_kernels.h"
#include "op/ops.h"

struct cpu_kernels {
    enum isa isa;
    struct linear_kernels linear;
    struct peak_kernels peak;
    struct row_kernels row;
    struct quantize_kernels quantize;
    struct random_kernels random;
    struct latent_kernels latent;
    struct attention_kernels attention_f32, attention_bf16;   // by the format of q, k and v
};

// The table for `isa` (never ISA_BEST), whether or not this CPU can run it.
const struct cpu_kernels *cpu_kernels_get(enum isa isa);
// The best instruction set this CPU and operating system can run; ISA_AMX, which has another order of sums, is never
// it.
enum isa cpu_isa_best(void);
// NULL if ISA_AMX can run, which this process asks the operating system for; or what is missing.
const char *cpu_amx_missing(void);

// Init functions, one for each file of kernels: each sets its own entries of the table.
void kernels_scalar_linear(struct cpu_kernels *kernels);
void kernels_scalar_linear_int(struct cpu_kernels *kernels);   // after linear
void kernels_scalar_peak(struct cpu_kernels *kernels);
void kernels_scalar_rms_norm(struct cpu_kernels *kernels);
void kernels_scalar_rope(struct cpu_kernels *kernels);
void kernels_scalar_attention(struct cpu_kernels *kernels);
void kernels_scalar_swiglu(struct cpu_kernels *kernels);
void kernels_scalar_router(struct cpu_kernels *kernels);
void kernels_scalar_rows(struct cpu_kernels *kernels);
void kernels_scalar_cross_entropy(struct cpu_kernels *kernels);
void kernels_scalar_adamw(struct cpu_kernels *kernels);
void kernels_scalar_reduce(struct cpu_kernels *kernels);
void kernels_scalar_quantize(struct cpu_kernels *kernels);
void kernels_scalar_random(struct cpu_kernels *kernels);
void kernels_scalar_latent(struct cpu_kernels *kernels);
void kernels_avx2_linear(struct cpu_kernels *kernels);
void kernels_avx2_linear_int(struct cpu_kernels *kernels);   // after linear
void kernels_avx2_quantize(struct cpu_kernels *kernels);
void kernels_avx2_latent(struct cpu_kernels *kernels);
void kernels_avx2_row(struct cpu_kernels *kernels);
void kernels_avx2_attention(struct cpu_kernels *kernels);
void kernels_avx2_peak(struct cpu_kernels *kernels);
void kernels_avx512_linear(struct cpu_kernels *kernels);
// How an AVX-512 table multiplies packed pairs of BF16, with the same bits: by vdpbf16ps, or `wide` by multiply-adds of
// what they hold, which is faster on some CPUs. The last of the init functions decides; tests take both.
void kernels_avx512_pairs(struct cpu_kernels *kernels, bool wide);
void kernels_avx512_pairs_choose(struct cpu_kernels *kernels);
void kernels_avx512_attention_pairs(struct cpu_kernels *kernels, bool wide);   // their parts of it
void kernels_avx512_linear_int_pairs(struct cpu_kernels *kernels, bool wide);
void kernels_avx512_linear_mapped_pairs(struct cpu_kernels *kernels, bool wide);
void kernels_avx512_attention_rows_pairs(struct cpu_kernels *kernels, bool wide);
void kernels_avx512_attention_scores_pairs(struct cpu_kernels *kernels, bool wide);
void kernels_avx512_linear_panels_pairs(struct cpu_kernels *kernels, bool wide);
void kernels_avx512_linear_int(struct cpu_kernels *kernels);      // after linear
void kernels_avx512_linear_panels(struct cpu_kernels *kernels);   // after linear
void kernels_avx512_peak(struct cpu_kernels *kernels);
void kernels_avx512_quantize(struct cpu_kernels *kernels);
void kernels_avx512_latent(struct cpu_kernels *kernels);
void kernels_avx512_row(struct cpu_kernels *kernels);
void kernels_avx512_random(struct cpu_kernels *kernels);
void kernels_avx512_attention(struct cpu_kernels *kernels);
void kernels_avx512_attention_rows(struct cpu_kernels *kernels);   // after attention
void kernels_amx_linear(struct cpu_kernels *kernels);
void kernels_amx_peak(struct cpu_kernels *kernels);

#endif
