# Sourced by tests that need a model with a tokenizer: small_model [CONTEXT] makes a small random one in the folder "model".
small_model() {
    for i in $(seq 1 400); do
        echo "Line $i: the quick brown fox jumps over the lazy dog, $((i * i)) times; Wörter und Zeichen."
    done > text
    cat > config.json <<JSON
{"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 512, "hidden_size": 64,
 "num_hidden_layers": 2, "first_k_dense_replace": 1, "moe_layer_freq": 1, "intermediate_size": 96, "moe_intermediate_size": 32,
 "num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 16,
 "qk_rope_head_dim": 8, "v_head_dim": 16, "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 2,
 "topk_group": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": true, "routed_scaling_factor": 2.5,
 "num_nextn_predict_layers": 1, "max_position_embeddings": ${1:-2048}, "rope_theta": 10000.0, "rope_scaling": null, "rms_norm_eps": 1e-6,
 "hidden_act": "silu", "attention_bias": false, "tie_word_embeddings": false, "initializer_range": 0.2, "bos_token_id": 0,
 "eos_token_id": 1, "torch_dtype": "bfloat16"}
JSON
    "$MINKE" prepare data text --train-tokenizer 512 --document-bytes 2000 --quiet &&
        "$MINKE" init config.json model --std 0.2 --quiet && cp data/tokenizer.json data/tokenizer_config.json model/
}

# Starts a server in the background with the given options: sets server (its process) and url; its messages go to the
# file "messages".
start_server() {
    rm -f address
    "$MINKE" serve model --port 0 "$@" >address 2>messages &
    server=$!
    for _ in $(seq 1 300); do
        [ -s address ] && break
        kill -0 "$server" 2>/dev/null || return 1
        sleep 0.1
    done
    url=$(cat address)
    [ -n "$url" ]
}
