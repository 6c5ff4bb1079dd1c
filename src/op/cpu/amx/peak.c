// AMX peak loop (op/cpu/peak.h).
#include "op/cpu/kernels.h"

#include "op/cpu/amx/tiles.h"

static double multiply_add_pairs(int64_t rounds) {
    tiles_configure(2 * TILE, 2 * TILE);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
    for (int64_t round = 0; round < rounds; round++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    tiles_release();
    return 4 * 2.0 * TILE * TILE * 2 * TILE * (double)rounds;
}

void kernels_amx_peak(struct cpu_kernels *kernels) {
    kernels->peak.multiply_add_pairs = multiply_add_pairs;
}
