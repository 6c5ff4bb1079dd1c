# Sourced by the tests: a configuration of a few thousand parameters with every kind of tensor.
tiny_config() {
    cat <<'JSON'
{
  "model_type": "deepseek_v3", "vocab_size": 60, "hidden_size": 136, "num_hidden_layers": 3, "first_k_dense_replace": 1,
  "intermediate_size": 144, "moe_intermediate_size": 24, "num_attention_heads": 2, "q_lora_rank": 20, "kv_lora_rank": 16,
  "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 10, "n_routed_experts": 6, "n_shared_experts": 1,
  "num_experts_per_tok": 2, "n_group": 3, "topk_group": 2, "num_nextn_predict_layers": 1, "routed_scaling_factor": 2.5,
  "max_position_embeddings": 64, "rope_theta": 10000, "house_style": {"unknown": [1e-06, true]}
}
JSON
}
