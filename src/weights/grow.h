// Arrays that grow by doubling.
#ifndef MINKE_WEIGHTS_GROW_H
#define MINKE_WEIGHTS_GROW_H

#include <stdint.h>

#include "base/error.h"
#include "base/memory.h"

// Makes room for at least `needed` elements of `size` bytes in *array (NULL at first); new elements are not
// initialised.
static inline int array_grow(void **array, int64_t *capacity, int64_t needed, size_t size, const char *what,
                             struct error *error) {
    if (needed <= *capacity) {
        return 0;
    }
    int64_t wanted = *capacity > needed / 2 ? 2 * *capacity : needed;
    wanted = wanted < 16 ? 16 : wanted;
    void *grown = memory_resize(*array, (size_t)wanted, size, what, error);
    if (grown == NULL) {
        return ERROR_MEMORY;
    }
    *array = grown;
    *capacity = wanted;
    return 0;
}

#endif
