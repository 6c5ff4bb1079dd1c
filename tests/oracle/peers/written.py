#!/usr/bin/env python3
"""Checks the files of tools/peers/write_gguf.py with the gguf package's reader (not part of the test suite).

  written.py [--minke build/minke]        needs gguf, numpy, safetensors, torch

A small directory of `minke init` is written in both layouts. Every tensor that the reader finds must hold the bytes of its source
(experts stacked, kv_b_proj split by head for llama.cpp), none may be missing, and the metadata must say what config.json says.
"""
import argparse
import glob
import json
import os
import subprocess
import sys
import tempfile

import numpy
import torch
from gguf import GGUFReader
from safetensors import safe_open

ROOT = os.path.dirname(os.path.abspath(__file__)) + "/../../.."
CONFIG = dict(model_type="deepseek_v3", vocab_size=300, hidden_size=160, num_hidden_layers=3, first_k_dense_replace=1,
              intermediate_size=200, moe_intermediate_size=72, num_attention_heads=4, q_lora_rank=48, kv_lora_rank=40,
              qk_nope_head_dim=24, qk_rope_head_dim=16, v_head_dim=20, n_routed_experts=8, n_shared_experts=1,
              num_experts_per_tok=2, n_group=4, topk_group=2, num_nextn_predict_layers=1, max_position_embeddings=512,
              rope_theta=10000.0)
PARTS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q_a": "self_attn.q_a_proj",
         "attn_q_a_norm": "self_attn.q_a_layernorm", "attn_q_b": "self_attn.q_b_proj",
         "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa", "attn_kv_a_norm": "self_attn.kv_a_layernorm",
         "attn_kv_b": "self_attn.kv_b_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
         "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "ffn_gate_inp": "mlp.gate",
         "ffn_gate_shexp": "mlp.shared_experts.gate_proj", "ffn_up_shexp": "mlp.shared_experts.up_proj",
         "ffn_down_shexp": "mlp.shared_experts.down_proj"}
TOP = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
       "output.weight": "lm_head.weight"}


def expected(name, source, config):
    """The tensor of a name of the GGUF file, made from the source in a way of its own."""
    if name in TOP:
        return source[TOP[name]]
    _, layer, rest = name.split(".", 2)
    prefix = f"model.layers.{layer}."
    if rest == "exp_probs_b.bias":
        return source[prefix + "mlp.gate.e_score_correction_bias"]
    part = rest.removesuffix(".weight")
    if part.endswith("_exps"):
        kind = part.split("_")[1]
        return torch.stack([source[f"{prefix}mlp.experts.{e}.{kind}_proj.weight"] for e in range(config["n_routed_experts"])])
    if part in ("attn_k_b", "attn_v_b"):
        nope, value = config["qk_nope_head_dim"], config["v_head_dim"]
        heads = source[prefix + "self_attn.kv_b_proj.weight"].split(nope + value)
        return torch.stack([head[:nope].T if part == "attn_k_b" else head[nope:] for head in heads])
    return source[prefix + PARTS[part] + ".weight"]


def check(condition, text):
    if not condition:
        sys.exit("written.py: " + text)


def check_file(path, source, config, engine):
    reader = GGUFReader(path)
    used = 0
    for tensor in reader.tensors:
        want = expected(tensor.name, source, config)
        matrix = want.dim() > 1 and "ffn_gate_inp" not in tensor.name
        want = want.to(torch.bfloat16 if matrix else torch.float32).contiguous()
        check(tensor.tensor_type.name == ("BF16" if matrix else "F32"), f"{tensor.name} is {tensor.tensor_type.name}")
        check(list(reversed(tensor.shape.tolist())) == list(want.shape), f"{tensor.name} has shape {tensor.shape}")
        bytes_of = want.view(torch.int16 if matrix else torch.int32).numpy().tobytes()
        check(numpy.ascontiguousarray(tensor.data).tobytes() == bytes_of, f"{tensor.name} differs")
        used += want.numel()
    unused = sum(t.numel() for n, t in source.items() if n.startswith(f"model.layers.{config['num_hidden_layers']}."))
    check(used + unused == sum(t.numel() for t in source.values()), f"{used} values of the source are in the file")
    keys = {"attention.head_count": config["num_attention_heads"], "expert_used_count": config["num_experts_per_tok"],
            "attention.head_count_kv": 1 if engine == "llama.cpp" else config["num_attention_heads"],
            "attention.key_length": config["qk_rope_head_dim"] + config["kv_lora_rank" if engine == "llama.cpp" else "qk_nope_head_dim"],
            "expert_group_used_count": config["topk_group"], "expert_gating_func": 2}
    for key, value in keys.items():
        found = reader.fields["deepseek2." + key].contents()
        check(found == value, f"{key}: found {found}, expected {value}")
    print(f"{engine}: {len(reader.tensors)} tensors, ok")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minke", default=ROOT + "/build/minke")
    minke = parser.parse_args().minke
    with tempfile.TemporaryDirectory() as scratch:
        with open(scratch + "/config.json", "w") as file:
            json.dump(CONFIG, file)
        subprocess.run([minke, "init", scratch + "/config.json", scratch + "/model", "--dtype", "bf16", "--quiet"], check=True)
        with open(scratch + "/model/config.json") as file:
            config = json.load(file)
        source = {}
        for path in glob.glob(scratch + "/model/*.safetensors"):
            with safe_open(path, "pt") as shard:
                source.update({name: shard.get_tensor(name) for name in shard.keys()})
        for engine in ("llama.cpp", "ik_llama.cpp"):
            path = f"{scratch}/{engine}.gguf"
            subprocess.run([sys.executable, ROOT + "/tools/peers/write_gguf.py", scratch + "/model", path, "--for", engine], check=True)
            check_file(path, source, config, engine)


if __name__ == "__main__":
    main()
