#!/usr/bin/env python3
"""Prints the constants of tests/tensor/test_formats.c: FNV-1a hashes of conversions done by ml_dtypes.

all BF16 -> E4M3: saturating, as the quantiser clamps (ml_dtypes gives NaN above 464); all E4M3 -> F32 bits.
"""
import ml_dtypes
import numpy as np


def fnv1a(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


words = np.arange(65536, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)
with np.errstate(invalid="ignore"):
    codes = np.clip(words, -448.0, 448.0).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
codes = np.where(np.isnan(words), np.where(np.signbit(words), 0xFF, 0x7F), codes).astype(np.uint8)
values = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32).view(np.uint32)
values[[0x7F, 0xFF]] = [0x7FC00000, 0xFFC00000]
print(f"bf16 to e4m3: 0x{fnv1a(codes.tobytes()):016x}")
print(f"e4m3 to f32:  0x{fnv1a(values.astype('<u4').tobytes()):016x}")
