// The order of sums of products of BF16 or E4M3 pairs on matrix units (AMX), which is not the order of all other
// kernels: the specification of op/cpu/amx, and the one exception to "the same bits on every instruction set".
#include <math.h>

#include "op/cpu/linear.h"

// A block of LINEAR_BLOCK k, counted from k = 0 of the product, is two chains of fused multiply-adds from +0, one over
// its even k and one over its odd k, both ascending; their sum is added to the accumulator. A last block that is
// shorter has shorter chains.
float linear_block_chain(float sum, const float *a, int64_t a_stride, const float *b, int64_t b_stride, int64_t depth) {
    for (int64_t begin = 0; begin < depth; begin += LINEAR_BLOCK) {
        int64_t end = begin + LINEAR_BLOCK < depth ? begin + LINEAR_BLOCK : depth;
        float chain[2] = {0.0f, 0.0f};
        for (int64_t k = begin; k < end; k++) {
            chain[k % 2] = fmaf(a[k * a_stride], b[k * b_stride], chain[k % 2]);
        }
        sum += chain[0] + chain[1];
    }
    return sum;
}
