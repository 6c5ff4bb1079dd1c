#!/usr/bin/env bash
# Spoilt model directories and configurations: one line on stderr that names the file, the key, what was found and expected; exit
# status 1; nothing written.
set -u
. tests/cli/check.sh
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
. tests/cli/tiny_config.sh
tiny_config >"$work/config.json"
"$MINKE" init "$work/config.json" "$work/good" --quiet || exit 1
"$MINKE" convert "$work/good" "$work/good8" --dtype fp8 --quiet || exit 1
"$MINKE" convert "$work/good" "$work/parts" --dtype fp8 --shard-size 60K --quiet || exit 1

# Exactly one line, with every one of the given pieces, exit status 1, and no output directory.
one_line() {   # description, message, status, pieces...
    local what=$1 message=$2 status=$3 piece good=0
    shift 3
    [ "$status" -eq 1 ] && [ "$(printf '%s\n' "$message" | wc -l)" -eq 1 ] || good=1
    case $message in "minke: error: "*) ;; *) good=1 ;; esac
    for piece in "$@"; do
        case $message in *"$piece"*) ;; *) good=1 ;; esac
    done
    [ ! -e "$work/out" ] || good=1
    check "$what" $good
    [ $good -eq 0 ] || printf '  status %s: %s\n' "$status" "$message"
    rm -rf "$work/out"
}

spoilt() {   # description, source directory, pieces...: converting it fails
    local what=$1 source=$2 message
    shift 2
    message=$("$MINKE" convert "$source" "$work/out" --dtype bf16 --quiet 2>&1)
    one_line "$what" "$message" $? "$@"
}
fresh() {   # a copy to spoil
    rm -rf "$work/bad"
    cp -r "$work/$1" "$work/bad"
}
file=$work/bad/model.safetensors

fresh good
head -c 5 "$work/good/model.safetensors" >"$file"
spoilt "five bytes" "$work/bad" model.safetensors "only 5 bytes"
head -c 400 "$work/good/model.safetensors" >"$file"
spoilt "cut in the header" "$work/bad" model.safetensors "truncated"
head -c 200000 "$work/good/model.safetensors" >"$file"
spoilt "cut in the data" "$work/bad" model.safetensors "truncated" data_offsets
{ cat "$work/good/model.safetensors"; echo; } >"$file"
spoilt "a byte too many" "$work/bad" model.safetensors "1 bytes follow the last tensor"
{ printf '\377\377\377\177\0\0\0\0'; cat "$work/good/model.safetensors"; } >"$file"
spoilt "a huge header" "$work/bad" model.safetensors "at most 100000000 bytes" 2147483647
echo 'version https://git-lfs.github.com/spec/v1' >"$file"
spoilt "a pointer file" "$work/bad" model.safetensors "expected a header"
sed 's/"dtype":"BF16"/"dtype":"BF17"/' "$work/good/model.safetensors" >"$file"
spoilt "an unknown dtype" "$work/bad" model.safetensors 'model.embed_tokens.weight' 'unknown dtype "BF17"'
sed 's/\[60,136\]/[61,136]/' "$work/good/model.safetensors" >"$file"
spoilt "shape against size" "$work/bad" model.safetensors 'model.embed_tokens.weight' "need 16592 bytes, data_offsets give 16320"
sed 's/"model.layers.0.input_layernorm.weight"/"model.layers.1.input_layernorm.weight"/' "$work/good/model.safetensors" >"$file"
spoilt "a tensor twice" "$work/bad" model.safetensors 'duplicate tensor "model.layers.1.input_layernorm.weight"'
sed 's/data_offsets":\[0,16320\]/data_offsets":[2,16322]/' "$work/good/model.safetensors" >"$file"
spoilt "a gap" "$work/bad" model.safetensors "begins at data byte"
rm -f "$file"
mkdir "$file"
spoilt "a directory in place of the file" "$work/bad" model.safetensors "found a directory"
rm -rf "$file"
spoilt "no weights" "$work/bad" "found neither model.safetensors nor model.safetensors.index.json"

fresh good8
sed 's/"model.layers.0.self_attn.o_proj.weight_scale_inv"/"model.layers.0.self_attn.o_proj.weight_scale_INV"/' "$work/good8/model.safetensors" >"$file"
spoilt "a missing scale" "$work/bad" model.safetensors 'FP8 tensor "model.layers.0.self_attn.o_proj.weight": its scale "model.layers.0.self_attn.o_proj.weight_scale_inv" is missing'
sed 's/\("model.layers.0.self_attn.o_proj.weight_scale_inv":{"dtype":"F32","shape":\)\[2,1\]/\1[1,2]/' "$work/good8/model.safetensors" >"$file"
spoilt "a wrong scale" "$work/bad" model.safetensors o_proj.weight_scale_inv "expected F32 shape [2, 1], found F32 shape [1, 2]"

fresh parts
index=$work/bad/model.safetensors.index.json
echo '{' >"$index"
spoilt "half an index" "$work/bad" model.safetensors.index.json "expected a string, found the end"
sed 's/"model-00001-of/"..\/model-00001-of/' "$work/parts/model.safetensors.index.json" >"$index"
spoilt "an index that points elsewhere" "$work/bad" model.safetensors.index.json "expected the name of a .safetensors file beside it"
sed 's/"model.norm.weight"/"model.norm.height"/' "$work/parts/model.safetensors.index.json" >"$index"
spoilt "an index with other names" "$work/bad" model.safetensors.index.json '"model.norm.height" is not in'
fresh parts
rm "$work/bad/"model-00001-of-*
spoilt "a missing shard" "$work/bad" model-00001-of "cannot open"

# Configurations.
configured() {   # description, sed expression, pieces...: init and info refuse it alike
    local what=$1 expression=$2 message
    shift 2
    sed "$expression" "$work/config.json" >"$work/config_bad.json"
    message=$("$MINKE" init "$work/config_bad.json" "$work/out" --quiet 2>&1)
    one_line "init: $what" "$message" $? config_bad.json "$@"
    message=$("$MINKE" info "$work/config_bad.json" 2>&1)
    one_line "info: $what" "$message" $? config_bad.json "$@"
}
configured "no JSON" 's/^{/(/' "line 1"
configured "a missing key" 's/"hidden_size": 136, //' 'key "hidden_size": expected an integer, found nothing'
configured "a wrong type" 's/"vocab_size": 60/"vocab_size": "60"/' 'key "vocab_size": expected an integer, found a string'
configured "a key twice" 's/"vocab_size": 60/"vocab_size": 60, "vocab_size": 61/' "vocab_size"
configured "another architecture" 's/deepseek_v3/llama/' 'key "model_type"' 'found "llama"'
configured "too many experts a token" 's/"num_experts_per_tok": 2/"num_experts_per_tok": 7/' 'key "num_experts_per_tok": expected at most n_routed_experts = 6, found 7'
configured "groups that do not divide" 's/"n_group": 3/"n_group": 4/' 'key "n_group": expected a divisor of n_routed_experts = 6, found 4'
configured "odd rotary size" 's/"qk_rope_head_dim": 8/"qk_rope_head_dim": 7/' 'key "qk_rope_head_dim": expected an even number, found 7'
configured "too large" 's/"vocab_size": 60/"vocab_size": 99999999999/' 'key "vocab_size"' 99999999999
configured "an unknown rope" 's/"rope_theta": 10000/"rope_scaling": {"type": "spiral"}/' 'key "rope_type": expected "yarn" or "default", found "spiral"'
configured "an unknown gate" 's/"n_group": 3/"scoring_func": "tanh", "n_group": 3/' 'key "scoring_func"' 'found "tanh"'
configured "a bias" 's/"n_group": 3/"attention_bias": true, "n_group": 3/' 'key "attention_bias": expected false, found true'
: >"$work/config_bad.json"
message=$("$MINKE" info "$work/config_bad.json" 2>&1)
one_line "an empty configuration" "$message" $? config_bad.json
exit $failed
