// Configuration of the tile registers (op/cpu/amx/tiles.h).
#include "op/cpu/amx/tiles.h"

#include <string.h>

struct tiles_layout {   // of LDTILECFG
    uint8_t palette, start_row, zero[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
_Static_assert(sizeof(struct tiles_layout) == 64, "the layout of LDTILECFG has 64 bytes");

static _Thread_local int present_rows, present_columns;   // 0: not configured

static int part(int size, int index) {
    int rest = size - TILE * index;
    return rest < 0 ? 0 : rest < TILE ? rest : TILE;
}

static void set(struct tiles_layout *layout, int tile, int rows, int words) {
    const int used = rows > 0 && words > 0;   // a register has rows and columns, or neither
    layout->rows[tile] = (uint8_t)(used ? rows : 0);
    layout->row_bytes[tile] = (uint16_t)(used ? 4 * words : 0);
}

void tiles_configure(int rows, int columns) {
    if (rows == present_rows && columns == present_columns) {
        return;
    }
    struct tiles_layout layout;
    memset(&layout, 0, sizeof layout);
    layout.palette = 1;
    for (int i = 0; columns > 2 * TILE && i < 4; i++) {
        set(&layout, i, rows, TILE);
        set(&layout, 4 + i, i == 0 ? rows : TILE, TILE);
    }
    for (int i = 0; columns <= 2 * TILE && i < 2; i++) {
        for (int j = 0; j < 2; j++) {
            set(&layout, 2 * i + j, part(rows, i), part(columns, j));
        }
        set(&layout, 4 + i, part(rows, i), TILE);
        set(&layout, 6 + i, TILE, part(columns, i));
    }
    memory_settle();
    _tile_loadconfig(&layout);
    present_rows = rows;
    present_columns = columns;
}

void tiles_release(void) {
    if (present_rows != 0) {
        _tile_release();
        present_rows = 0;
        present_columns = 0;
    }
}
