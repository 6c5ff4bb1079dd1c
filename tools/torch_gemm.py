#!/usr/bin/env python3
"""Matrix products in PyTorch (MKL and oneDNN), to put beside `minke bench gemm`.

GFLOP/s of c = a b^T for the shapes that `minke bench gemm` measures; operands rotate over 256 MB, median of five rounds.
MKL_ENABLE_INSTRUCTIONS=AVX2 and ONEDNN_MAX_CPU_ISA=AVX2 (or AVX512_CORE_BF16: no AMX) choose the instruction set.

    tools/torch_gemm.py --threads 2 --dtype f32 bf16
"""
import argparse
import os
import statistics
import time

import torch

TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
SHAPES = ["2048x2048x2048", "64x512x1024", "128x512x1024", "256x512x1024", "64x2048x7168", "128x2048x7168", "256x2048x7168"]


def seconds(rows, columns, inner, dtype):
    """Of one product: the median round over operands that fill 256 MB together."""
    count = max(2, (256 << 20) // ((rows + columns) * inner * dtype.itemsize))
    a = [torch.randn(rows, inner).to(dtype) for _ in range(count)]
    b = [torch.randn(columns, inner).to(dtype) for _ in range(count)]
    rounds = []
    for _ in range(6):
        begin = time.perf_counter()
        for left, right in zip(a, b):
            left @ right.t()
        rounds.append((time.perf_counter() - begin) / count)
    return statistics.median(rounds[1:])


def main():
    parser = argparse.ArgumentParser(description="matrix products in PyTorch")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dtype", nargs="+", choices=TYPES, default=list(TYPES))
    parser.add_argument("--shape", nargs="+", default=SHAPES, help="rows x columns x inner: 256x512x1024")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"PyTorch {torch.__version__}, {options.threads} threads")
    for dtype in options.dtype:
        for shape in options.shape:
            rows, columns, inner = (int(part) for part in shape.split("x"))
            rate = 2 * rows * columns * inner / seconds(rows, columns, inner, TYPES[dtype]) / 1e9
            print(f"{dtype:5} {shape:15} {rate:8.1f} GFLOP/s", flush=True)


if __name__ == "__main__":
    main()
