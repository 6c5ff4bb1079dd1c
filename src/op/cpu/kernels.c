// What this CPU can run, and the kernel table of each instruction set.
#include "op/cpu/kernels.h"

#include <pthread.h>
#include <stddef.h>

typedef void kernels_init(struct cpu_kernels *kernels);   // a function type, for the lists below

// Applied in this order: a table of AVX2 has the scalar entries first, AVX-512 both, AMX all. One entry for each file
// of kernels.
static kernels_init *const scalar_list[] = {
    kernels_scalar_linear,   kernels_scalar_linear_int,    kernels_scalar_peak,   kernels_scalar_rms_norm,
    kernels_scalar_rope,     kernels_scalar_attention,     kernels_scalar_swiglu, kernels_scalar_router,
    kernels_scalar_rows,     kernels_scalar_cross_entropy, kernels_scalar_adamw,  kernels_scalar_reduce,
    kernels_scalar_quantize, kernels_scalar_random,        kernels_scalar_latent, NULL,
};
static kernels_init *const avx2_list[] = {
    kernels_avx2_linear, kernels_avx2_linear_int, kernels_avx2_row,  kernels_avx2_quantize,
    kernels_avx2_latent, kernels_avx2_attention,  kernels_avx2_peak, NULL,
};
static kernels_init *const avx512_list[] = {
    kernels_avx512_linear,    kernels_avx512_linear_int,   kernels_avx512_linear_panels,
    kernels_avx512_peak,      kernels_avx512_row,          kernels_avx512_quantize,
    kernels_avx512_attention, kernels_avx512_latent,       kernels_avx512_attention_rows,
    kernels_avx512_random,    kernels_avx512_pairs_choose, NULL,
};
static kernels_init *const amx_list[] = {kernels_amx_linear, kernels_amx_peak, NULL};
static kernels_init *const *const lists[ISA_BEST] = {
    [ISA_SCALAR] = scalar_list,
    [ISA_AVX2] = avx2_list,
    [ISA_AVX512] = avx512_list,
    [ISA_AMX] = amx_list,
};

static struct cpu_kernels tables[ISA_BEST];   // written once, by tables_fill
static pthread_once_t tables_filled = PTHREAD_ONCE_INIT;

static void tables_fill(void) {
    for (int isa = ISA_SCALAR; isa < ISA_BEST; isa++) {
        for (int level = ISA_SCALAR; level <= isa; level++) {
            for (kernels_init *const *init = lists[level]; *init != NULL; init++) {
                (*init)(&tables[isa]);
            }
        }
        tables[isa].isa = (enum isa)isa;
    }
}

const struct cpu_kernels *cpu_kernels_get(enum isa isa) {
    CHECK((unsigned)isa < ISA_BEST, "instruction set %d", (int)isa);
    CHECK(pthread_once(&tables_filled, tables_fill) == 0, "pthread_once");
    return &tables[isa];
}

// The compiler may use every extension it is told of in a folder (Makefile, ISA), so all of them must be there. The
// built-in also asks the operating system whether it saves the wide registers.
enum isa cpu_isa_best(void) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi2")) {
        return ISA_SCALAR;
    }
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl") ||
        !__builtin_cpu_supports("avx512vbmi") || !__builtin_cpu_supports("avx512vbmi2") ||
        !__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512vnni")) {
        return ISA_AVX2;
    }
    return ISA_AVX512;
}

const char *isa_name(enum isa isa) {
    switch (isa) {
    case ISA_SCALAR:
        return "scalar";
    case ISA_AVX2:
        return "avx2";
    case ISA_AVX512:
        return "avx512";
    case ISA_AMX:
        return "amx";
    case ISA_BEST:
        return "best";
    }
    return "unknown";
}

int op_context_init(struct op_context *op, enum isa isa, struct pool *pool, struct arena *scratch,
                    struct error *error) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("fma")) {
        return error_set(error, ERROR_ARGUMENT, "this CPU has no fused multiply-add (FMA): x86-64-v3 is needed");
    }
    enum isa best = cpu_isa_best();
    if (isa == ISA_BEST) {
        isa = best;
    }
    if ((unsigned)isa >= ISA_BEST) {
        return error_set(error, ERROR_ARGUMENT, "unknown instruction set %d", (int)isa);
    }
    if (isa == ISA_AMX) {
        const char *missing = cpu_amx_missing();
        if (missing != NULL) {
            return error_set(error, ERROR_ARGUMENT, "cannot run amx: %s", missing);
        }
    } else if (isa > best) {
        return error_set(error, ERROR_ARGUMENT, "this CPU cannot run %s, the best it has is %s", isa_name(isa),
                         isa_name(best));
    }
    *op = (struct op_context){.kernels = cpu_kernels_get(isa), .pool = pool, .scratch = scratch, .isa = isa};
    return 0;
}

int op_context_error(struct op_context *op, struct error *error) {
    int code = op->error.code;
    if (code != 0) {
        error_set(error, code, "%s", op->error.text);
        error_clear(&op->error);
    }
    return code;
}
