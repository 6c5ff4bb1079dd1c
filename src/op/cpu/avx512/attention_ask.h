// How the kernels of attention of few rows ask for the next block of keys while they multiply.
#ifndef MINKE_OP_CPU_AVX512_ATTENTION_ASK_H
#define MINKE_OP_CPU_AVX512_ATTENTION_ASK_H

#include <immintrin.h>

#include "op/cpu/attention.h"
#include "op/cpu/cpu_ops.h"

// What belongs to term number `term`, into the second cache level. A line on its way occupies a fill buffer of the
// first level, of which there are about 16, and loads wait when all are taken: so lines are spread as evenly over all
// terms of scores and values as the number of terms of a block allows.
static inline __attribute__((always_inline)) void ask_ahead(struct key_lines *next, const int rows,
                                                            const int64_t term) {
    const int lines = rows > 4 ? term % 2 == 0 : rows > 2 ? 1 : 2;
    for (int i = 0; i < lines && next->count > 0; i++, next->from += MEMORY_LINE, next->count--) {
        _mm_prefetch(next->from, _MM_HINT_T1);
    }
}

#endif
