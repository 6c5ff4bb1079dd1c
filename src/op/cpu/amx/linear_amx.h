// What the AMX kernels of products share.
#ifndef MINKE_OP_CPU_AMX_LINEAR_AMX_H
#define MINKE_OP_CPU_AMX_LINEAR_AMX_H

#include "op/cpu/linear.h"

#define AMX_ZERO ((int)0x80008000u)   // a unit of side a whose products with zeros are -0

void amx_pack_rows(const struct linear_strip *strip);
void amx_pack_few(const struct linear_strip *strip);
void amx_tile_few(const struct linear_tile *tile);
void amx_tile_panel(const struct linear_tile *tile);
void amx_panels_init(void);   // after the tables of AVX-512

#endif
