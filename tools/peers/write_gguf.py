#!/usr/bin/env python3
"""A Hugging Face directory of the DeepSeek-V3 family as one GGUF file, to measure other engines on the same weights.

Main layers only (no MTP module), matrices in BF16 as they are, vectors and routers in F32, no tokenizer: the engines
are given token ids. The file is written front to back; a tensor of experts is gathered from the mapped shards.

    tools/peers/write_gguf.py MODEL_DIR model.gguf --for llama.cpp
    tools/peers/write_gguf.py MODEL_DIR model.gguf --for ik_llama.cpp

The two engines name the same architecture (deepseek2) and differ in the second half of latent attention: llama.cpp reads
kv_b_proj split by head into attn_k_b (transposed) and attn_v_b and is told of one key-value head of 576 values;
ik_llama.cpp reads kv_b_proj as it is and derives the split itself. Needs numpy.
"""
import argparse
import json
import mmap
import os
import struct
import sys

import numpy

ALIGNMENT = 32
F32, BF16 = 0, 30                      # tensor types of the format
UINT32, FLOAT32, BOOL, STRING = 4, 6, 7, 8   # types of a metadata value
SIGMOID = 2                            # expert_gating_func


def fail(text):
    sys.exit(f"write_gguf: {text}")


class Directory:
    """Tensors of a directory by name, as arrays over the mapped shards; BF16 as uint16."""

    def __init__(self, path):
        with open(os.path.join(path, "config.json")) as file:
            self.config = json.load(file)
        self.tensors = {}
        for name in sorted(os.listdir(path)):
            if name.endswith(".safetensors"):
                self.map_shard(os.path.join(path, name))

    def map_shard(self, path):
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        size, = struct.unpack_from("<Q", data)
        for name, entry in json.loads(data[8:8 + size]).items():
            if name != "__metadata__":
                self.tensors[name] = (data, 8 + size + entry["data_offsets"][0], entry["dtype"], entry["shape"])

    def read(self, name):
        if name not in self.tensors:
            fail(f"no tensor {name}")
        data, offset, dtype, shape = self.tensors[name]
        if dtype not in ("BF16", "F32"):
            fail(f"{name} is {dtype}; convert the directory to BF16 first")
        kind = "<u2" if dtype == "BF16" else "<f4"
        return numpy.frombuffer(data, kind, int(numpy.prod(shape)), offset).reshape(shape)


def as_f32(array):
    if array.dtype == numpy.uint16:
        return (array.astype(numpy.uint32) << 16).view(numpy.float32)
    return array


def as_bf16(array):
    if array.dtype != numpy.uint16:
        fail("a matrix in F32: convert the directory to BF16 first")
    return array


def metadata(config, engine):
    if config.get("rope_scaling"):
        fail("rope_scaling is not supported")
    nope, rope, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    latent, heads = config["kv_lora_rank"], config["num_attention_heads"]
    one_head = engine == "llama.cpp"
    yield "general.architecture", STRING, "deepseek2"
    yield "general.name", STRING, "random" if "_name_or_path" not in config else config["_name_or_path"]
    yield "general.file_type", UINT32, 32
    yield "tokenizer.ggml.model", STRING, "no_vocab"
    fields = [
        ("block_count", UINT32, config["num_hidden_layers"]),
        ("context_length", UINT32, config["max_position_embeddings"]),
        ("embedding_length", UINT32, config["hidden_size"]),
        ("feed_forward_length", UINT32, config["intermediate_size"]),
        ("vocab_size", UINT32, config["vocab_size"]),
        ("leading_dense_block_count", UINT32, config["first_k_dense_replace"]),
        ("attention.head_count", UINT32, heads),
        ("attention.head_count_kv", UINT32, 1 if one_head else heads),
        ("attention.layer_norm_rms_epsilon", FLOAT32, config["rms_norm_eps"]),
        ("attention.q_lora_rank", UINT32, config["q_lora_rank"]),
        ("attention.kv_lora_rank", UINT32, latent),
        ("attention.key_length", UINT32, latent + rope if one_head else nope + rope),
        ("attention.value_length", UINT32, latent if one_head else value),
        ("attention.key_length_mla", UINT32, nope + rope),
        ("attention.value_length_mla", UINT32, value),
        ("rope.dimension_count", UINT32, rope),
        ("rope.freq_base", FLOAT32, config["rope_theta"]),
        ("expert_count", UINT32, config["n_routed_experts"]),
        ("expert_used_count", UINT32, config["num_experts_per_tok"]),
        ("expert_shared_count", UINT32, config["n_shared_experts"]),
        ("expert_feed_forward_length", UINT32, config["moe_intermediate_size"]),
        ("expert_weights_scale", FLOAT32, config["routed_scaling_factor"]),
        ("expert_weights_norm", BOOL, config["norm_topk_prob"]),
        ("expert_gating_func", UINT32, SIGMOID),
    ]
    if config["n_group"] > 1:
        fields += [("expert_group_count", UINT32, config["n_group"]),
                   ("expert_group_used_count", UINT32, config["topk_group"])]
    for name, kind, number in fields:
        yield "deepseek2." + name, kind, number


def tensor_list(directory, engine):
    """(name, type, shape, function that makes the array) of every tensor, in the order of the file."""
    config, read = directory.config, directory.read
    hidden, latent, heads = config["hidden_size"], config["kv_lora_rank"], config["num_attention_heads"]
    nope, value, experts = config["qk_nope_head_dim"], config["v_head_dim"], config["n_routed_experts"]
    inner = config["moe_intermediate_size"]
    listed = []

    def matrix(name, source, shape=None, change=None):
        make = (lambda: as_bf16(read(source))) if change is None else (lambda: change(as_bf16(read(source))))
        listed.append((name, BF16, shape or read(source).shape, make))

    def vector(name, source):
        listed.append((name, F32, read(source).shape, lambda: as_f32(read(source))))

    def expert_matrices(name, prefix, projection, shape):
        sources = [f"{prefix}{expert}.{projection}.weight" for expert in range(experts)]
        listed.append((name, BF16, (experts, *shape), lambda: numpy.stack([as_bf16(read(s)) for s in sources])))

    def by_head(array):
        return array.reshape(heads, nope + value, latent)

    matrix("token_embd.weight", "model.embed_tokens.weight")
    vector("output_norm.weight", "model.norm.weight")
    matrix("output.weight", "lm_head.weight")
    for layer in range(config["num_hidden_layers"]):
        to, source = f"blk.{layer}.", f"model.layers.{layer}."
        attention, mlp = source + "self_attn.", source + "mlp."
        vector(to + "attn_norm.weight", source + "input_layernorm.weight")
        vector(to + "ffn_norm.weight", source + "post_attention_layernorm.weight")
        vector(to + "attn_q_a_norm.weight", attention + "q_a_layernorm.weight")
        vector(to + "attn_kv_a_norm.weight", attention + "kv_a_layernorm.weight")
        matrix(to + "attn_q_a.weight", attention + "q_a_proj.weight")
        matrix(to + "attn_q_b.weight", attention + "q_b_proj.weight")
        matrix(to + "attn_kv_a_mqa.weight", attention + "kv_a_proj_with_mqa.weight")
        matrix(to + "attn_output.weight", attention + "o_proj.weight")
        if engine == "llama.cpp":
            matrix(to + "attn_k_b.weight", attention + "kv_b_proj.weight", (heads, latent, nope),
                   lambda array: by_head(array)[:, :nope].swapaxes(1, 2))
            matrix(to + "attn_v_b.weight", attention + "kv_b_proj.weight", (heads, value, latent),
                   lambda array: by_head(array)[:, nope:])
        else:
            matrix(to + "attn_kv_b.weight", attention + "kv_b_proj.weight")
        if layer < config["first_k_dense_replace"]:
            for kind in ("gate", "up", "down"):
                matrix(f"{to}ffn_{kind}.weight", f"{mlp}{kind}_proj.weight")
            continue
        vector(to + "ffn_gate_inp.weight", mlp + "gate.weight")
        vector(to + "exp_probs_b.bias", mlp + "gate.e_score_correction_bias")
        for kind in ("gate", "up", "down"):
            shape = (hidden, inner) if kind == "down" else (inner, hidden)
            expert_matrices(f"{to}ffn_{kind}_exps.weight", mlp + "experts.", kind + "_proj", shape)
            matrix(f"{to}ffn_{kind}_shexp.weight", f"{mlp}shared_experts.{kind}_proj.weight")
    return listed


def packed_string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def packed_value(kind, number):
    if kind == STRING:
        return packed_string(number)
    return struct.pack({UINT32: "<I", FLOAT32: "<f", BOOL: "<?"}[kind], number)


def padded(size):
    return -(-size // ALIGNMENT) * ALIGNMENT


def write(path, pairs, tensors):
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    for key, kind, number in pairs:
        head += packed_string(key) + struct.pack("<I", kind) + packed_value(kind, number)
    offset = 0
    for name, kind, shape, _ in tensors:
        sizes = list(reversed(shape))   # the fastest dimension first
        head += packed_string(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)
        offset += padded(int(numpy.prod(shape)) * (2 if kind == BF16 else 4))
    with open(path, "wb") as file:
        file.write(head.ljust(padded(len(head)), b"\0"))
        for name, _, shape, make in tensors:
            array = numpy.ascontiguousarray(make())
            if array.shape != tuple(shape):
                fail(f"{name}: found {array.shape}, expected {tuple(shape)}")
            file.write(array.tobytes().ljust(padded(array.nbytes), b"\0"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directory")
    parser.add_argument("output")
    parser.add_argument("--for", dest="engine", choices=["llama.cpp", "ik_llama.cpp"], default="llama.cpp")
    options = parser.parse_args()
    directory = Directory(options.directory)
    write(options.output, list(metadata(directory.config, options.engine)), tensor_list(directory, options.engine))


if __name__ == "__main__":
    main()
