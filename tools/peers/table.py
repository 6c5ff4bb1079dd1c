#!/usr/bin/env python3
"""The raw output of tools/peers/measure.sh as a table in Markdown: medians over the rounds, tokens/s.

    tools/peers/table.py OUT
"""
import json
import os
import statistics
import sys

COLUMNS = ["prefill.512", "decode.1@0", "decode.1@2048", "decode.1@8192", "decode.8", "decode.32"]
ROWS = [("llama.cpp BF16", "llama.cpp.16"), ("ik_llama.cpp BF16", "ik_llama.cpp.16"), ("Minke BF16", "minke.16"),
        ("llama.cpp 8 bits", "llama.cpp.8"), ("ik_llama.cpp 8 bits", "ik_llama.cpp.8"), ("Minke FP8", "minke.8f"),
        ("Minke int8", "minke.8"), ("llama.cpp 4 bits", "llama.cpp.4"), ("ik_llama.cpp 4 bits", "ik_llama.cpp.4"),
        ("Minke int4", "minke.4")]


def lines(path):
    if os.path.exists(path):
        with open(path) as file:
            yield from (line for line in file if not line.startswith("#"))


def values(directory, name):
    """Column -> measured values; and the read bandwidths that Minke measured beside them."""
    found, reads = {}, []
    if not name.startswith("minke"):
        for line in lines(f"{directory}/{name}.txt"):
            words = line.split()
            if len(words) == 4 and words[0] in COLUMNS:   # a program that aborts may leave a debugger's words
                found.setdefault(words[0], []).append(float(words[1]))
        return found, reads
    for depth in ("", "@2048", "@8192"):
        for line in lines(f"{directory}/{name}{depth}.txt"):
            case = json.loads(line)
            if case["name"] == "peak.read":
                reads.append(case["value"])
            part = case["name"].split(".")
            if part[0] == "decode" and part[1] == "1":
                found.setdefault("decode.1" + (depth or "@0"), []).append(case["value"])
            elif part[0] in ("decode", "prefill") and depth == "":
                found.setdefault(".".join(part[:2]), []).append(case["value"])
    return found, reads


def main():
    directory, reads = sys.argv[1], []
    print("| | prefill 512 | decode | at depth 2048 | 8192 | 8 sequences | 32 |")
    print("|---|---|---|---|---|---|---|")
    for label, name in ROWS:
        found, read = values(directory, name)
        reads += read
        cells = [f"{statistics.median(found[c]):.{0 if c == COLUMNS[0] else 1}f}" if c in found else "" for c in COLUMNS]
        print(f"| {label} | " + " | ".join(cells) + " |")
    if reads:
        print(f"\nRead bandwidth beside them: median {statistics.median(reads):.1f}, {min(reads):.1f} to {max(reads):.1f} GB/s.")


if __name__ == "__main__":
    main()
