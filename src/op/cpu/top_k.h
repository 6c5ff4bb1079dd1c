// The k largest of n values: ties go to the lower index, NaN counts as -inf.
#ifndef MINKE_OP_CPU_TOP_K_H
#define MINKE_OP_CPU_TOP_K_H

#include <math.h>
#include <stdint.h>

static inline float without_nan(float value) {
    return value == value ? value : -INFINITY;
}

// Offers element `index`, in ascending order of indices, to the list of the `count` best so far (largest first, at most
// k) and returns the new length. An element that ties with a listed one comes after it, so the lower index stays.
static inline int64_t top_k_offer(int32_t *list, int64_t count, int64_t k, const float *value, int64_t index) {
    float offered = without_nan(value[index]);
    if (count == k) {
        if (!(offered > without_nan(value[list[k - 1]]))) {
            return count;
        }
        count--;
    }
    int64_t at = count;
    for (; at > 0 && offered > without_nan(value[list[at - 1]]); at--) {
        list[at] = list[at - 1];
    }
    list[at] = (int32_t)index;
    return count + 1;
}

// Indices ascending.
static inline void top_k_sort(int32_t *list, int64_t count) {
    for (int64_t i = 1; i < count; i++) {
        int32_t index = list[i];
        int64_t at = i;
        for (; at > 0 && list[at - 1] > index; at--) {
            list[at] = list[at - 1];
        }
        list[at] = index;
    }
}

#endif
