// The tile registers of AMX. C in 0 to 3, A in 4 and 5, B in 6 and 7: c[i][j] += a[i] x b[j], 16 rows and 16 columns
// each. Up to 16 rows by more than 32 columns: C in 0 to 3, side by side, A in 4, B in 5 to 7.
#ifndef MINKE_OP_CPU_AMX_TILES_H
#define MINKE_OP_CPU_AMX_TILES_H

#include <immintrin.h>
#include <stdint.h>

#define TILE 16         // rows of a tile, and words of one of its rows
#define TILE_BYTES 64   // of such a row

// The intrinsics do not tell the compiler that they read memory: what was written has to be there.
static inline __attribute__((always_inline)) void memory_settle(void) {
    __asm__ volatile("" ::: "memory");
}

// Configures the registers of this thread for `rows` rows of a and `columns` words of a row of b, 1 to 32 each, or for
// 1 to 16 rows by 64 columns. Lasts until tiles_release; asking again for the same costs nothing.
void tiles_configure(int rows, int columns);
void tiles_release(void);

#endif
