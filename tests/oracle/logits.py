#!/usr/bin/env python3
"""Compares `minke logits --compute f32` with Hugging Face transformers on model directories (needs torch and transformers).

  tests/oracle/logits.py build/minke MODEL_DIR [MODEL_DIR ...] [--tokens N] [--tolerance X]

FP8 directories are compared through `minke convert --dtype f32`, as transformers has no FP8 on CPUs.
"""
import argparse, json, os, subprocess, sys, tempfile
import numpy as np
import torch
import transformers


def reference(directory, ids):
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float().numpy()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("minke")
    parser.add_argument("directories", nargs="+")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    options = parser.parse_args()
    failed = 0
    for directory in options.directories:
        config = json.load(open(os.path.join(directory, "config.json")))
        generator = np.random.default_rng(7)
        ids = [int(i) for i in generator.integers(0, config["vocab_size"], options.tokens)]
        with tempfile.TemporaryDirectory() as scratch:
            source = directory
            if "quantization_config" in config:
                source = os.path.join(scratch, "f32")
                subprocess.run([options.minke, "convert", directory, source, "--dtype", "f32"], check=True)
            expected = reference(source, ids)
            for attention in ("expanded", "absorbed"):
                output = os.path.join(scratch, "logits.npy")
                subprocess.run([options.minke, "logits", source, "--ids", ",".join(map(str, ids)), "-o", output, "--compute", "f32",
                                "--attention", attention, "--quiet"], check=True)
                found = np.load(output)
                error = float(np.abs(found - expected).max())
                good = found.shape == expected.shape and error < options.tolerance
                failed += not good
                print(f"{'ok' if good else 'not ok'} {directory} {attention}: max abs difference {error:.2e} "
                      f"(logits up to {np.abs(expected).max():.2f})")
    sys.exit(failed != 0)


if __name__ == "__main__":
    main()
