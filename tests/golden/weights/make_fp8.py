#!/usr/bin/env python3
"""Writes fp8.safetensors beside this script: what numpy, ml_dtypes and torch say about FP8 weights (numpy, ml_dtypes, torch, safetensors).

  e4m3_of_bf16      U8 [65536]         element i = E4M3 byte of the BF16 value with bits i, saturating at +-448
  source            BF16 [131, 133]    random magnitudes from 1e-9 to 1e4, one block zero, some exact ties
  float.weight      F8_E4M3, and float.weight_scale_inv F32 [2, 2]: scale = amax / 448
  ue8m0.weight      the same with scales rounded up to a power of two
  float.cast        BF16: element * scale in F32, rounded once (what the published fp8_cast_bf16.py computes)
  ue8m0.cast
"""
import os
import ml_dtypes
import numpy as np
import torch
from safetensors.torch import save_file

BLOCK = 128


def e4m3(values):
    return np.clip(values, -448.0, 448.0).astype(ml_dtypes.float8_e4m3fn)


def quantize(source, power_of_two):
    rows, columns = source.shape
    padded = np.zeros((-(-rows // BLOCK) * BLOCK, -(-columns // BLOCK) * BLOCK), np.float32)
    padded[:rows, :columns] = source
    blocks = padded.reshape(padded.shape[0] // BLOCK, BLOCK, padded.shape[1] // BLOCK, BLOCK)
    scale = np.maximum(np.abs(blocks).max(axis=(1, 3)), np.float32(1e-4)) / np.float32(448)
    if power_of_two:
        bits = scale.view(np.uint32)
        exponent = np.clip(((bits >> 23) & 0xFF) + ((bits & 0x7FFFFF) != 0), 1, 254).astype(np.uint32)
        scale = (exponent << 23).view(np.float32)
    quantized = e4m3(blocks / scale[:, None, :, None])
    cast = (quantized.astype(np.float32) * scale[:, None, :, None]).reshape(padded.shape)[:rows, :columns]
    return quantized.reshape(padded.shape)[:rows, :columns], scale, cast


def to_torch(array, dtype):
    raw = np.ascontiguousarray(array).view(np.uint8).copy()
    return torch.from_numpy(raw).view(dtype).reshape(array.shape)


def main():
    out = {}
    every = np.arange(65536, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)
    out["e4m3_of_bf16"] = torch.from_numpy(e4m3(every).view(np.uint8).copy())
    rng = np.random.Generator(np.random.PCG64(20241226))
    source = rng.standard_normal((131, 133)) * 10.0 ** rng.uniform(-9, 4, (131, 133))
    source[128:, 128:] = 0.0
    source[:128, 128:] = rng.standard_normal((128, 5)) * 1e-7
    source[:16, :16] = np.arange(256).reshape(16, 16) * 448.0 / 256.0
    source = source.astype(ml_dtypes.bfloat16)
    out["source"] = to_torch(source, torch.bfloat16)
    for name, power_of_two in (("float", False), ("ue8m0", True)):
        quantized, scale, cast = quantize(source.astype(np.float32), power_of_two)
        out[name + ".weight"] = to_torch(quantized, torch.float8_e4m3fn)
        out[name + ".weight_scale_inv"] = torch.from_numpy(scale.copy())
        out[name + ".cast"] = to_torch(cast.astype(ml_dtypes.bfloat16), torch.bfloat16)
        # The same cast by torch alone.
        expanded = out[name + ".weight_scale_inv"].repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[:131, :133]
        again = (out[name + ".weight"].to(torch.float32) * expanded).to(torch.bfloat16)
        assert torch.equal(again.view(torch.int16), out[name + ".cast"].view(torch.int16))
    save_file(out, os.path.join(os.path.dirname(os.path.abspath(__file__)), "fp8.safetensors"), {"format": "pt"})


if __name__ == "__main__":
    main()
