#!/usr/bin/env python3
"""A training step of the same model in PyTorch, to put beside `minke bench train`.

config.json -> tokens/s and GFLOP/s, counted as minke bench counts them (BENCHMARKS.md). Latent attention without
query compression or with it, sigmoid or softmax routing with groups, shared experts, MTP modules, AdamW. Random
tokens and weights: speed only. BF16 means autocast over F32 weights.

    tools/torch_train.py config.json --batch 8 --length 256 --threads 2 --precision bf16

glibc's allocator returns large blocks to the kernel after each use and pays for new pages in every operation; unless
--untuned is given, the program starts itself again with MALLOC_* variables that stop this.
"""
import argparse
import json
import os
import statistics
import sys
import time

TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_TOP_PAD_": "268435456"}


def arguments():
    parser = argparse.ArgumentParser(description="PyTorch training step of a config.json")
    parser.add_argument("config")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--steps", type=int, default=7, help="timed steps, after two that are not")
    parser.add_argument("--untuned", action="store_true", help="leave the allocator as it is")
    return parser.parse_args()


options = arguments()
if not options.untuned and any(os.environ.get(key) != value for key, value in TUNED.items()):
    os.execve(sys.executable, [sys.executable] + sys.argv, {**os.environ, **TUNED})

import torch
from torch import nn
from torch.nn import functional as F

with open(options.config) as file:
    config = argparse.Namespace(**json.load(file))
torch.set_num_threads(options.threads)
torch.manual_seed(1)


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x.float(), self.weight.shape, self.weight, config.rms_norm_eps)


class Rotation:
    """Interleaved pairs; plain frequencies (scaling of long contexts does not change the speed)."""

    def __init__(self, length):
        pairs = torch.arange(0, config.qk_rope_head_dim, 2) / config.qk_rope_head_dim
        angles = torch.outer(torch.arange(length).float(), config.rope_theta ** -pairs)
        self.cosine, self.sine = angles.cos()[:, None], angles.sin()[:, None]

    def __call__(self, x):   # [batch, length, heads, rope]
        even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        turned = (even * self.cosine - odd * self.sine, even * self.sine + odd * self.cosine)
        return torch.stack(turned, -1).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        heads, width = config.num_attention_heads, config.hidden_size
        self.key = config.qk_nope_head_dim + config.qk_rope_head_dim
        if config.q_lora_rank:
            self.query = nn.Sequential(linear(width, config.q_lora_rank), Norm(config.q_lora_rank),
                                       linear(config.q_lora_rank, heads * self.key))
        else:
            self.query = linear(width, heads * self.key)
        self.latent = linear(width, config.kv_lora_rank + config.qk_rope_head_dim)
        self.latent_norm = Norm(config.kv_lora_rank)
        self.expand = linear(config.kv_lora_rank, heads * (config.qk_nope_head_dim + config.v_head_dim))
        self.output = linear(heads * config.v_head_dim, width)

    def forward(self, x, rotate):
        heads = config.num_attention_heads
        query = self.query(x).unflatten(-1, (heads, self.key))
        query_nope, query_rope = query.split([config.qk_nope_head_dim, config.qk_rope_head_dim], -1)
        latent, key_rope = self.latent(x).split([config.kv_lora_rank, config.qk_rope_head_dim], -1)
        expanded = self.expand(self.latent_norm(latent)).unflatten(-1, (heads, -1))
        key_nope, value = expanded.split([config.qk_nope_head_dim, config.v_head_dim], -1)
        key_rope = rotate(key_rope[:, :, None]).expand(-1, -1, heads, -1)
        query = torch.cat((query_nope, rotate(query_rope)), -1).transpose(1, 2)
        key = torch.cat((key_nope, key_rope), -1).transpose(1, 2)
        out = F.scaled_dot_product_attention(query, key, value.transpose(1, 2), is_causal=True)
        return self.output(out.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.gate, self.up = linear(config.hidden_size, inner), linear(config.hidden_size, inner)
        self.down = linear(inner, config.hidden_size)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.router = linear(config.hidden_size, config.n_routed_experts)
        self.experts = nn.ModuleList(FeedForward(config.moe_intermediate_size) for _ in range(config.n_routed_experts))
        self.shared = FeedForward(config.moe_intermediate_size * config.n_shared_experts)

    def choose(self, x):
        with torch.autocast("cpu", enabled=False):
            score = F.linear(x.float(), self.router.weight)
        score = score.sigmoid() if config.scoring_func == "sigmoid" else score.softmax(-1)
        eligible = score.detach()
        if config.n_group > 1:
            grouped = eligible.unflatten(-1, (config.n_group, -1))
            best = grouped.topk(2, -1).values.sum(-1).topk(config.topk_group, -1).indices
            kept = torch.zeros(grouped.shape[:2], dtype=torch.bool).scatter_(1, best, True)
            eligible = grouped.masked_fill(~kept[..., None], -1.0).flatten(-2)
        expert = eligible.topk(config.num_experts_per_tok, -1).indices
        weight = score.gather(1, expert)
        if config.norm_topk_prob:
            weight = weight / weight.sum(-1, keepdim=True)
        return expert, weight * config.routed_scaling_factor

    def forward(self, x):
        shape, x = x.shape, x.flatten(0, 1)
        expert, weight = self.choose(x)
        order = expert.flatten().argsort(stable=True)
        token = order // config.num_experts_per_tok
        counts = torch.bincount(expert.flatten(), minlength=config.n_routed_experts).tolist()
        pieces = x[token].split(counts)
        routed = torch.cat([run(piece) for run, piece in zip(self.experts, pieces) if len(piece) > 0]).float()
        out = self.shared(x).float().index_add(0, token, routed * weight.flatten()[order, None])
        return out.view(shape)


class Block(nn.Module):
    def __init__(self, routed):
        super().__init__()
        self.attention_norm, self.ffn_norm = Norm(config.hidden_size), Norm(config.hidden_size)
        self.attention = Attention()
        self.ffn = Experts() if routed else FeedForward(config.intermediate_size)

    def forward(self, x, rotate):
        x = x + self.attention(self.attention_norm(x), rotate)
        return x + self.ffn(self.ffn_norm(x))


class Prediction(nn.Module):
    def __init__(self):
        super().__init__()
        width = config.hidden_size
        self.embedding_norm, self.hidden_norm, self.norm = Norm(width), Norm(width), Norm(width)
        self.join = linear(2 * width, width)
        self.block = Block(True)

    def forward(self, hidden, embedding, rotate):
        joined = self.join(torch.cat((self.embedding_norm(embedding), self.hidden_norm(hidden)), -1))
        return self.norm(self.block(joined.float(), rotate))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(i >= config.first_k_dense_replace) for i in range(config.num_hidden_layers))
        self.norm = Norm(config.hidden_size)
        self.head = linear(config.hidden_size, config.vocab_size)
        self.predictions = nn.ModuleList(Prediction() for _ in range(config.num_nextn_predict_layers))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def loss(self, hidden, ids, shift):
        target = ids[:, shift:shift + options.length].flatten()
        return F.cross_entropy(self.head(hidden).float().flatten(0, 1), target)

    def forward(self, ids, rotate):
        hidden = self.embedding(ids[:, :options.length])
        for block in self.blocks:
            hidden = block(hidden, rotate)
        hidden = self.norm(hidden)
        loss = self.loss(hidden, ids, 1)
        for depth, prediction in enumerate(self.predictions, 1):
            embedding = self.embedding(ids[:, depth:depth + options.length])
            hidden = prediction(hidden, embedding, rotate)
            loss = loss + 0.3 / len(self.predictions) * self.loss(hidden, ids, depth + 1)
        return loss


def step_operations(model):
    """6 x active matmul parameters x tokens + causal attention, two products forward and four backward."""
    depths, length = config.num_nextn_predict_layers, options.length
    active = (1 + depths) * model.head.weight.numel()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and not name.startswith(("embedding", "head")):
            share = config.num_experts_per_tok / config.n_routed_experts if ".experts." in name else 1
            active += parameter.numel() * share
    width = config.num_attention_heads * (config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim)
    pairs = (config.num_hidden_layers + depths) * options.batch * length * (length + 1) / 2
    return active, 6 * active * options.batch * length + 3 * 2 * pairs * width


def main():
    model, rotate = Model(), Rotation(options.length)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    active, operations = step_operations(model)
    seconds = []
    for step in range(options.steps + 2):
        ids = torch.randint(0, config.vocab_size, (options.batch, options.length + 1 + config.num_nextn_predict_layers))
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=False)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.precision == "bf16"):
            loss = model(ids, rotate)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - began)
    seconds = seconds[2:]
    middle = statistics.median(seconds)
    print(f"torch {torch.__version__} {options.precision}, {options.threads} threads, {options.batch} x {options.length} tokens, "
          f"{active / 1e6:.1f} M active matmul parameters, {operations / 1e9:.1f} GFLOP a step")
    print(f"{middle:.3f} s a step (spread {(max(seconds) - min(seconds)) / middle:.1%}), "
          f"{options.batch * options.length / middle:.0f} tokens/s, {operations / 1e9 / middle:.1f} GFLOP/s")


main()
