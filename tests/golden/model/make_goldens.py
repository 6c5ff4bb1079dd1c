#!/usr/bin/env python3
"""Golden data of the model tests: random tiny checkpoints with logits, losses and the gradient of every parameter.

    python3 tests/golden/model/make_goldens.py        (torch 2.13, transformers 5.23, safetensors; writes beside itself)

For each case a folder with config.json and model.safetensors (official names, F32), and golden.safetensors:
  ids [sequences, length + 1 + D] i32, logits [rows, V], mtp_logits.K [rows, V], scales [3] = main, mtp, balance as in struct loss_weights,
  losses [1 + D + 1] = sums of -log p (main, each depth) and of the balance loss without its factor, grad.<parameter> each.

Two oracles: `Reference` below, written from the specification in float64 (it also has MTP, the balance loss and, by autograd, the gradients), and
transformers' DeepseekV3ForCausalLM / DeepseekV2ForCausalLM in float32, whose logits it must equal. Known deviations of older transformers (V2 without
YaRN's m^2 in the softmax scale, V3 masking excluded groups with 0.0) would show as a failed comparison; 5.23 has neither.
"""
import json
import math
import os
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))

V3 = dict(architectures=["DeepseekV3ForCausalLM"], model_type="deepseek_v3", vocab_size=48, hidden_size=32, intermediate_size=40,
          moe_intermediate_size=8, num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=3, n_shared_experts=1,
          n_routed_experts=8, routed_scaling_factor=2.5, kv_lora_rank=16, q_lora_rank=24, qk_rope_head_dim=4, v_head_dim=8,
          qk_nope_head_dim=8, topk_method="noaux_tc", n_group=4, topk_group=2, num_experts_per_tok=3, moe_layer_freq=1,
          first_k_dense_replace=1, norm_topk_prob=True, scoring_func="sigmoid", num_nextn_predict_layers=0, hidden_act="silu",
          max_position_embeddings=128, initializer_range=0.02, rms_norm_eps=1e-6, use_cache=True, bos_token_id=0, eos_token_id=1,
          tie_word_embeddings=False, rope_theta=10000.0, rope_scaling=None, attention_bias=False, attention_dropout=0.0,
          torch_dtype="float32")
V2 = dict(V3, architectures=["DeepseekV2ForCausalLM"], model_type="deepseek_v2", topk_method="greedy", scoring_func="softmax",
          norm_topk_prob=False, routed_scaling_factor=1.0, n_group=1, topk_group=1, n_shared_experts=2, num_attention_heads=4,
          num_key_value_heads=4, v_head_dim=6, head_dim=4, mlp_bias=False)
YARN = dict(type="yarn", factor=4.0, mscale=1.0, mscale_all_dim=0.7, beta_fast=32, beta_slow=1, original_max_position_embeddings=32)

# name: (config, sequences, length)
CASES = {
    "v3_groups": (dict(V3), 2, 12),
    "v3_one_group": (dict(V3, n_group=1, topk_group=1, num_hidden_layers=2, num_nextn_predict_layers=1), 2, 12),
    "v3_no_q_lora": (dict(V3, q_lora_rank=None, rms_norm_eps=1e-3), 2, 12),
    "v2_lite": (dict(V2, q_lora_rank=None, qk_rope_head_dim=8, head_dim=8,
                     rope_scaling=dict(YARN, mscale=0.707, mscale_all_dim=0.707)), 2, 12),
    "v3_yarn": (dict(V3, qk_rope_head_dim=16, num_hidden_layers=2, rope_scaling=YARN), 1, 48),
    "v3_ragged": (dict(V3, hidden_size=37, intermediate_size=29, moe_intermediate_size=11, q_lora_rank=21, kv_lora_rank=19,
                       qk_nope_head_dim=7, qk_rope_head_dim=6, v_head_dim=5, vocab_size=53, n_routed_experts=7, n_group=1,
                       topk_group=1, num_hidden_layers=2), 2, 70),
    "v2_group_limited": (dict(V2, topk_method="group_limited_greedy", n_group=4, topk_group=2, routed_scaling_factor=4.0,
                              tie_word_embeddings=True), 2, 12),
    "v3_mtp2": (dict(V3, num_nextn_predict_layers=2, num_hidden_layers=2, n_routed_experts=4, n_group=2, topk_group=1,
                     num_experts_per_tok=2, n_shared_experts=0), 4, 12),
}


def is_moe(c, layer):
    return c["n_routed_experts"] and (layer >= c["num_hidden_layers"] or
                                      (layer >= c["first_k_dense_replace"] and layer % c["moe_layer_freq"] == 0))


def make_weights(c, seed):
    g = torch.Generator().manual_seed(seed)
    w = {}
    d, h = c["hidden_size"], c["num_attention_heads"]
    qk, kv = c["qk_nope_head_dim"] + c["qk_rope_head_dim"], c["qk_nope_head_dim"] + c["v_head_dim"]

    def matrix(name, rows, columns, gain=1.0):
        w[name] = gain * torch.randn(rows, columns, generator=g) / math.sqrt(columns)

    def norm(name, size):
        w[name] = 1 + 0.2 * torch.randn(size, generator=g)

    def mlp(name, width):
        matrix(name + "gate_proj.weight", width, d)
        matrix(name + "up_proj.weight", width, d)
        matrix(name + "down_proj.weight", d, width)

    w["model.embed_tokens.weight"] = torch.randn(c["vocab_size"], d, generator=g) * (0.2 if c["tie_word_embeddings"] else 1.0)
    for layer in range(c["num_hidden_layers"] + c["num_nextn_predict_layers"]):
        p = f"model.layers.{layer}."
        a = p + "self_attn."
        if layer >= c["num_hidden_layers"]:
            for n in ("enorm", "hnorm", "shared_head.norm"):
                norm(p + n + ".weight", d)
            matrix(p + "eh_proj.weight", d, 2 * d)
        norm(p + "input_layernorm.weight", d)
        norm(p + "post_attention_layernorm.weight", d)
        if c["q_lora_rank"]:
            matrix(a + "q_a_proj.weight", c["q_lora_rank"], d)
            norm(a + "q_a_layernorm.weight", c["q_lora_rank"])
            matrix(a + "q_b_proj.weight", h * qk, c["q_lora_rank"], 2.0)
        else:
            matrix(a + "q_proj.weight", h * qk, d, 2.0)
        matrix(a + "kv_a_proj_with_mqa.weight", c["kv_lora_rank"] + c["qk_rope_head_dim"], d)
        norm(a + "kv_a_layernorm.weight", c["kv_lora_rank"])
        matrix(a + "kv_b_proj.weight", h * kv, c["kv_lora_rank"])
        matrix(a + "o_proj.weight", d, h * c["v_head_dim"])
        if is_moe(c, layer):
            matrix(p + "mlp.gate.weight", c["n_routed_experts"], d, 1.5)
            if c["topk_method"] == "noaux_tc":
                # Well below zero, so that masking with 0.0 instead of -inf would show.
                w[p + "mlp.gate.e_score_correction_bias"] = -1 + 0.2 * torch.randn(c["n_routed_experts"], generator=g)
            for e in range(c["n_routed_experts"]):
                mlp(f"{p}mlp.experts.{e}.", c["moe_intermediate_size"])
            if c["n_shared_experts"]:
                mlp(p + "mlp.shared_experts.", c["n_shared_experts"] * c["moe_intermediate_size"])
        else:
            mlp(p + "mlp.", c["intermediate_size"])
    norm("model.norm.weight", d)
    if not c["tie_word_embeddings"]:
        matrix("lm_head.weight", c["vocab_size"], d)
    return w


class Reference:
    """The model by the specification's sections 1-5, in float64."""

    def __init__(self, c, weights):
        self.c = c
        self.w = {k: v.double().requires_grad_(not k.endswith("bias")) for k, v in weights.items()}
        self.balance = torch.zeros((), dtype=torch.float64)
        self.margin = math.inf     # smallest gap between a chosen and a refused score: the test data must not hang on rounding

    def norm(self, x, name, eps):
        return self.w[name] * x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)

    def linear(self, x, name):
        return x @ self.w[name].T

    def mlp(self, x, p):
        gate = self.linear(x, p + "gate_proj.weight")
        return self.linear(gate * torch.sigmoid(gate) * self.linear(x, p + "up_proj.weight"), p + "down_proj.weight")

    def frequencies(self):
        c, dim = self.c, self.c["qk_rope_head_dim"]
        theta = c["rope_theta"] ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        y = c["rope_scaling"]
        if not y:
            return theta, 1.0, 1.0

        def corr(r):
            return dim * math.log(y["original_max_position_embeddings"] / (r * 2 * math.pi)) / (2 * math.log(c["rope_theta"]))

        def mscale(m):
            return 0.1 * m * math.log(y["factor"]) + 1
        low, high = max(math.floor(corr(y["beta_fast"])), 0), min(math.ceil(corr(y["beta_slow"])), dim - 1)
        if low == high:
            high += 0.001
        ramp = ((torch.arange(dim // 2, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)
        return (theta / y["factor"] * ramp + theta * (1 - ramp), mscale(y["mscale"]) / mscale(y["mscale_all_dim"]),
                mscale(y["mscale_all_dim"]) ** 2)

    def rope(self, x):             # [S, T, heads, dim], interleaved pairs
        f, amplitude, _ = self.frequencies()
        angle = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * f
        cos, sin = (amplitude * angle.cos())[None, :, None], (amplitude * angle.sin())[None, :, None]
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)

    def attention(self, x, p):
        c = self.c
        s, t, _ = x.shape
        h, dn, dr, dv = (c[k] for k in ("num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
        if c["q_lora_rank"]:
            q = self.norm(self.linear(x, p + "q_a_proj.weight"), p + "q_a_layernorm.weight", 1e-6)
            q = self.linear(q, p + "q_b_proj.weight")
        else:
            q = self.linear(x, p + "q_proj.weight")
        q = q.view(s, t, h, dn + dr)
        latent, key = self.linear(x, p + "kv_a_proj_with_mqa.weight").split([c["kv_lora_rank"], dr], -1)
        kv = self.linear(self.norm(latent, p + "kv_a_layernorm.weight", 1e-6), p + "kv_b_proj.weight").view(s, t, h, dn + dv)
        key = self.rope(key[:, :, None])
        q = torch.cat([q[..., :dn], self.rope(q[..., dn:])], -1)
        k = torch.cat([kv[..., :dn], key.expand(-1, -1, h, -1)], -1)
        scores = torch.einsum("sihd,sjhd->shij", q, k) * (dn + dr) ** -0.5 * self.frequencies()[2]
        scores = scores.masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), -math.inf)
        o = torch.einsum("shij,sjhd->sihd", scores.softmax(-1), kv[..., dn:])
        return self.linear(o.flatten(2), p + "o_proj.weight")

    def choose(self, values, k):
        top = values.sort(dim=-1, descending=True, stable=True)
        if k < values.shape[-1]:
            self.margin = min(self.margin, (top.values[..., k - 1] - top.values[..., k]).min().item())
        return top.indices[..., :k]

    def moe(self, x, p):
        c = self.c
        s, t, d = x.shape
        experts, k = c["n_routed_experts"], c["num_experts_per_tok"]
        logits = self.linear(x, p + "gate.weight")
        score = logits.sigmoid() if c["scoring_func"] == "sigmoid" else logits.softmax(-1)
        choice = score.detach()
        if c["topk_method"] == "noaux_tc":
            choice = choice + self.w[p + "gate.e_score_correction_bias"]
        if c["topk_method"] != "greedy" and c["n_group"] > 1:
            groups = choice.view(s, t, c["n_group"], -1)
            strength = groups.topk(2, -1).values.sum(-1) if c["topk_method"] == "noaux_tc" else groups.amax(-1)
            keep = torch.zeros_like(strength).scatter(-1, self.choose(strength, c["topk_group"]), 1.0)
            choice = groups.masked_fill(keep[..., None] == 0, -math.inf).flatten(2)
        index = self.choose(choice, k)
        weight = score.gather(-1, index)
        if c["norm_topk_prob"]:
            weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
        weight = weight * c["routed_scaling_factor"]
        gates = torch.zeros_like(score).scatter(-1, index, weight)
        y = sum(gates[..., e:e + 1] * self.mlp(x, f"{p}experts.{e}.") for e in range(experts))
        if c["n_shared_experts"]:
            y = y + self.mlp(x, p + "shared_experts.")
        chosen = torch.zeros_like(score).scatter(-1, self.choose(score.detach(), k), 1.0)
        f = chosen.sum(1) * experts / (k * t)
        share = score / score.sum(-1, keepdim=True) if c["scoring_func"] == "sigmoid" else score
        self.balance = self.balance + (f * share.mean(1)).sum()
        return y

    def block(self, h, layer):
        p, eps = f"model.layers.{layer}.", self.c["rms_norm_eps"]
        h = h + self.attention(self.norm(h, p + "input_layernorm.weight", eps), p + "self_attn.")
        x = self.norm(h, p + "post_attention_layernorm.weight", eps)
        return h + (self.moe(x, p + "mlp.") if is_moe(self.c, layer) else self.mlp(x, p + "mlp."))

    def head(self, hidden):
        return self.linear(hidden, "model.embed_tokens.weight" if self.c["tie_word_embeddings"] else "lm_head.weight")

    def forward(self, ids):        # ids [S, length + 1 + D] -> logits of the main model and of each depth
        c, depths, eps = self.c, self.c["num_nextn_predict_layers"], self.c["rms_norm_eps"]
        length = ids.shape[1] - 1 - depths
        embedding = self.w["model.embed_tokens.weight"]
        h = embedding[ids[:, :length]]
        for layer in range(c["num_hidden_layers"]):
            h = self.block(h, layer)
        hidden = self.norm(h, "model.norm.weight", eps)
        logits = [self.head(hidden)]
        for k in range(1, depths + 1):
            layer = c["num_hidden_layers"] + k - 1
            p = f"model.layers.{layer}."
            e = self.norm(embedding[ids[:, k:k + length]], p + "enorm.weight", eps)
            h = self.linear(torch.cat([e, self.norm(hidden, p + "hnorm.weight", eps)], -1), p + "eh_proj.weight")
            hidden = self.norm(self.block(h, layer), p + "shared_head.norm.weight", eps)
            logits.append(self.head(hidden))
        return logits


def transformers_logits(folder, ids):
    import transformers
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                              experts_implementation="eager")
    model.eval()
    with torch.no_grad():
        return model(ids.long(), use_cache=False).logits


def make_case(name, c, sequences, length):
    folder = os.path.join(HERE, name)
    os.makedirs(folder, exist_ok=True)
    depths = c["num_nextn_predict_layers"]
    for seed in range(1, 50):
        ids = torch.randint(0, c["vocab_size"], (sequences, length + 1 + depths), generator=torch.Generator().manual_seed(seed))
        weights = make_weights(c, seed)
        reference = Reference(c, weights)
        logits = reference.forward(ids)
        if reference.margin > 5e-4:
            break
    else:
        sys.exit(f"{name}: every seed has near-ties in routing")
    losses = [F.cross_entropy(v.flatten(0, 1), ids[:, k + 1:k + 1 + length].flatten(), reduction="sum") for k, v in enumerate(logits)]
    targets = sequences * length
    scales = [1 / targets, 0.3 / max(depths, 1) / targets, 0.05 / sequences]
    total = scales[0] * losses[0] + scales[1] * sum(losses[1:]) + scales[2] * reference.balance
    total.backward()

    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(c, f, indent=1)
        f.write("\n")
    save_file(weights, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    theirs = transformers_logits(folder, ids[:, :length])
    difference = (theirs.double() - logits[0]).abs().max().item()
    if difference > 2e-5:
        sys.exit(f"{name}: transformers differs by {difference}")
    golden = {"ids": ids.int(), "logits": logits[0].float().flatten(0, 1), "scales": torch.tensor(scales),
              "losses": torch.tensor([v.item() for v in losses] + [reference.balance.item()])}
    for k, v in enumerate(logits[1:], 1):
        golden[f"mtp_logits.{k}"] = v.float().flatten(0, 1)
    for key, w in reference.w.items():
        if w.requires_grad:
            golden["grad." + key] = (torch.zeros_like(w) if w.grad is None else w.grad).float()
    golden = {k: v.detach().contiguous() for k, v in golden.items()}
    save_file(golden, os.path.join(folder, "golden.safetensors"))
    print(f"{name}: {sum(v.numel() for v in weights.values())} parameters, seed {seed}, margin {reference.margin:.1e}, "
          f"transformers differs by {difference:.1e}, logits up to {logits[0].abs().max():.1f}, losses {golden['losses'].tolist()}")


if __name__ == "__main__":
    torch.manual_seed(0)
    for case, (case_config, case_sequences, case_length) in CASES.items():
        if len(sys.argv) < 2 or case in sys.argv[1:]:
            make_case(case, case_config, case_sequences, case_length)
