#!/usr/bin/env python3
"""Checks directories that Minke writes against transformers, the safetensors library and torch (not part of the test suite).

  directories.py [--minke build/minke]        needs torch, transformers, safetensors

1. `minke init` of several family members loads in transformers without missing or mismatched tensors, and the configuration that
   transformers sees is the one we meant.
2. An FP8 directory of ours opens in the safetensors library; casting it with torch as the published fp8_cast_bf16.py does gives the
   bytes of `minke convert --dtype bf16`.
3. A directory that transformers saved (its config.json in the style of version 5) is read by `minke info` and converted.
"""
import argparse
import glob
import json
import os
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors import safe_open

V3 = dict(model_type="deepseek_v3", vocab_size=300, hidden_size=160, num_hidden_layers=3, first_k_dense_replace=1,
          intermediate_size=200, moe_intermediate_size=72, num_attention_heads=4, q_lora_rank=48, kv_lora_rank=40,
          qk_nope_head_dim=24, qk_rope_head_dim=16, v_head_dim=20, n_routed_experts=8, n_shared_experts=1,
          num_experts_per_tok=2, n_group=4, topk_group=2, num_nextn_predict_layers=1, max_position_embeddings=512,
          rope_theta=10000.0)
YARN = dict(type="yarn", factor=4, beta_fast=32, beta_slow=1, mscale=1.0, mscale_all_dim=1.0,
            original_max_position_embeddings=128)
CASES = {
    "v3": V3,
    "v3-yarn": dict(V3, rope_scaling=YARN),
    "moonlight": dict(V3, q_lora_rank=None, n_group=1, topk_group=1, n_shared_experts=2, num_nextn_predict_layers=0),
    "tied": dict(V3, tie_word_embeddings=True, num_nextn_predict_layers=0),
    "v2-lite": dict(V3, model_type="deepseek_v2", q_lora_rank=None, topk_method="greedy", scoring_func="softmax",
                    norm_topk_prob=False, routed_scaling_factor=1.0, num_nextn_predict_layers=0, n_group=1, topk_group=1,
                    bos_token_id=0, eos_token_id=1, rope_scaling=dict(YARN, mscale=0.707, mscale_all_dim=0.707)),
    "v2": dict(V3, model_type="deepseek_v2", topk_method="group_limited_greedy", scoring_func="softmax", norm_topk_prob=False,
               routed_scaling_factor=16.0, num_nextn_predict_layers=0, bos_token_id=0, eos_token_id=1),
}


def run(*arguments):
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)


def tensors(directory):
    out = {}
    for path in sorted(glob.glob(directory + "/*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                out[name] = file.get_tensor(name)
    return out


def load(directory):
    model, report = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"], report
    layers = model.config.num_hidden_layers
    assert all(name.startswith(f"model.layers.{layers}.") for name in report["unexpected_keys"]), report["unexpected_keys"]
    return model


def check_init(minke, work, name, config):
    source, target = f"{work}/{name}.json", f"{work}/{name}"
    json.dump(config, open(source, "w"))
    run(minke, "init", source, target, "--dtype", "f32", "--quiet")
    model = load(target)
    for key, value in config.items():
        if key in ("rope_scaling", "rope_theta", "scoring_func", "bos_token_id", "eos_token_id"):
            continue
        seen = getattr(model.config, key, "absent")
        assert seen == value or seen == "absent", (name, key, seen, value)
    rope = model.config.rope_parameters
    assert rope["rope_theta"] == 10000.0
    for key, value in config.get("rope_scaling", {}).items():
        assert rope["rope_type" if key == "type" else key] == value, (name, key, rope)
    with torch.no_grad():
        logits = model(torch.arange(20)[None]).logits
    assert torch.isfinite(logits).all()
    print(f"ok {name}: loads in transformers {transformers.__version__}")
    return model


def check_fp8(minke, work):
    run(minke, "convert", f"{work}/v3", f"{work}/fp8", "--dtype", "fp8", "--shard-size", "200K", "--quiet")
    run(minke, "convert", f"{work}/fp8", f"{work}/bf16", "--dtype", "bf16", "--quiet")
    fp8, bf16, cast = tensors(f"{work}/fp8"), tensors(f"{work}/bf16"), 0
    for name, tensor in fp8.items():
        if name.endswith("_scale_inv"):
            continue
        expected = tensor
        if tensor.dtype == torch.float8_e4m3fn:
            scale = fp8[name + "_scale_inv"]
            scale = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[:tensor.shape[0], :tensor.shape[1]]
            expected = (tensor.to(torch.float32) * scale).to(torch.bfloat16)
            cast += 1
        assert torch.equal(bf16[name].view(torch.uint8), expected.view(torch.uint8)), name
    assert cast > 50
    load(f"{work}/bf16")
    print(f"ok fp8: {cast} tensors cast to the same bytes; the result loads")


def check_saved_by_transformers(minke, work, model, name):
    target = f"{work}/{name}-saved"
    model.save_pretrained(target)
    # transformers drops the MTP layer but goes on announcing it: info says so and does not fail.
    report = subprocess.run([minke, "info", target], check=True, stdout=subprocess.PIPE).stdout.decode()
    assert "files          complete" in report, report
    run(minke, "convert", target, f"{work}/{name}-again", "--dtype", "f32", "--quiet")
    again = load(f"{work}/{name}-again")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, again(ids).logits)
    print(f"ok {name}: saved by transformers, read and converted")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minke", default="build/minke")
    minke = os.path.abspath(parser.parse_args().minke)
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as work:
        models = {name: check_init(minke, work, name, config) for name, config in CASES.items()}
        check_fp8(minke, work)
        for name in ("v3-yarn", "moonlight", "v2-lite", "tied"):
            check_saved_by_transformers(minke, work, models[name], name)


if __name__ == "__main__":
    sys.exit(main())
