#!/usr/bin/env bash
# minke train from outside: text -> data -> a model that generates; signals and --resume; messages and exit status.
set -u
. tests/cli/check.sh
# A trainer fsyncs a lot: in memory where there is such a folder.
if [ -w /dev/shm ]; then TMPDIR=${TMPDIR:-/dev/shm}; export TMPDIR; fi
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

cat >"$work/config.json" <<'JSON'
{"model_type": "deepseek_v3", "vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 2, "first_k_dense_replace": 1,
 "moe_layer_freq": 1, "intermediate_size": 64, "moe_intermediate_size": 16, "num_attention_heads": 2,
 "num_key_value_heads": 2, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
 "v_head_dim": 8, "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1,
 "scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": true, "routed_scaling_factor": 2.5,
 "num_nextn_predict_layers": 1, "max_position_embeddings": 256, "rms_norm_eps": 1e-06, "rope_theta": 10000.0,
 "rope_scaling": null, "initializer_range": 0.02, "bos_token_id": 0, "eos_token_id": 1, "hidden_act": "silu",
 "attention_bias": false, "tie_word_embeddings": false, "torch_dtype": "bfloat16"}
JSON
cat >"$work/run.ini" <<INI
[model]
config = $work/config.json
[data]
path = $work/data
fim_rate = 0.3
split_rate = 0.5
[train]
steps = 12
sequence_length = 64
batch = 4
micro_batch = 2
[checkpoint]
every = 5
INI
# The project's own headers are the text.
"$MINKE" prepare "$work/data" --train-tokenizer 512 --validation 0.1 --document-bytes 4000 src/base/ src/op/ops.h --quiet >"$work/log" 2>&1
check "prepare" $? || cat "$work/log"

"$MINKE" train "$work/run.ini" --out "$work/whole" --threads 1 >"$work/log" 2>&1
check "train" $?
grep -q 'memory: weights .* together' "$work/log" && grep -q 'memory after the first step: heap .* planned' "$work/log" &&
    grep -q 'memory of the process: .* at most, of .* planned and .* before' "$work/log"
check "memory is reported" $?
[ "$(wc -l <"$work/whole/metrics.jsonl")" -eq 12 ]
check "a line of metrics a step" $?
tail -n 1 "$work/whole/metrics.jsonl" | grep -q '"validation_bits_per_byte": [0-9]'
check "the last step is validated" $?
[ "$(readlink "$work/whole/checkpoints/latest")" = step-00000012 ]
check "latest points at the last step" $?
"$MINKE" generate "$work/whole/checkpoints/latest" -p "int " -n 8 >"$work/text" 2>"$work/log"
check "the checkpoint generates" $?
"$MINKE" train "$work/whole/run.ini" --out "$work/again" >/dev/null 2>&1 &&
    cmp "$work/whole/checkpoints/latest/trainer/manifest.json" "$work/again/checkpoints/latest/trainer/manifest.json"
check "run.ini of the run folder repeats the run" $?

# A signal while a long run is under way; then the rest of a shorter one must be refused and the same one must go on.
for signal in INT TERM; do
    rm -rf "$work/part"
    "$MINKE" train "$work/run.ini" --out "$work/part" train.steps=100000 checkpoint.every=0 schedule.warmup='1 steps' \
        schedule.decay_start=never schedule.tail_start=never schedule.gamma_end=never schedule.lambda_switch=never \
        >"$work/log" 2>&1 &
    trainer=$!
    for _ in $(seq 600); do
        [ -s "$work/part/metrics.jsonl" ] && break
        sleep 0.1
    done
    kill -s "$signal" "$trainer"
    wait "$trainer"
    status=$?
    [ "$status" -eq $((128 + $(kill -l "$signal"))) ]
    check "SIG$signal leaves with its own status" $?
    grep -q 'stopped by a signal after step' "$work/log"
    check "SIG$signal is reported" $?
    steps=$(tail -n 1 "$work/part/metrics.jsonl" | sed 's/{"step": \([0-9]*\),.*/\1/')
    [ "$(readlink "$work/part/checkpoints/latest")" = "$(printf 'step-%08d' "$steps")" ]
    check "SIG$signal writes a checkpoint of the last step" $?
done
"$MINKE" train "$work/run.ini" --out "$work/part" --resume train.steps=$((steps + 2)) checkpoint.every=0 \
    schedule.warmup='1 steps' schedule.decay_start=never schedule.tail_start=never \
    schedule.gamma_end=never schedule.lambda_switch=never >"$work/log" 2>&1 || cat "$work/log"
[ "$(wc -l <"$work/part/metrics.jsonl")" -eq $((steps + 2)) ]
check "the run goes on where it stopped" $?

expect() {   # description, exit status, piece of the one line, arguments...
    local what=$1 status=$2 piece=$3
    shift 3
    message=$("$MINKE" train "$@" 2>&1 >/dev/null)
    local found=$?
    [ "$found" -eq "$status" ] && [ "$(printf '%s\n' "$message" | wc -l)" -eq 1 ] && [[ $message == *"$piece"* ]]
    local good=$?
    [ "$good" -eq 0 ] || printf '%s: status %d: %s\n' "$what" "$found" "$message"
    check "$what" "$good"
}
expect "an occupied folder is refused" 1 "--resume goes on with it" "$work/run.ini" --out "$work/whole"
expect "a changed key is refused" 1 "train.batch may not change on --resume: the checkpoint has 4, this run 8" \
    "$work/run.ini" --out "$work/whole" --resume train.batch=8
expect "an unknown key is refused" 2 'unknown key "train.batsh"; the nearest is "train.batch"' "$work/run.ini" train.batsh=3
expect "a missing file is named" 2 "nowhere.ini" "$work/nowhere.ini"
expect "missing data is named" 1 "$work/none/dataset.json" "$work/run.ini" --out "$work/new" data.path="$work/none"
[ ! -e "$work/new" ]
check "and no run folder is begun" $?
"$MINKE" train "$work/run.ini" --out "$work/fp8" train.precision=fp8 checkpoint.dtype=fp8 >"$work/fp8.log" 2>&1
check "trains in fp8" $?
grep -q '"quant_method": *"fp8"' "$work/fp8/checkpoints/latest/config.json" &&
    "$MINKE" generate "$work/fp8/checkpoints/latest" -p "int " -n 8 >"$work/fp8.txt" 2>>"$work/fp8.log"
check "and the FP8 model generates" $?
expect "no argument" 2 "RUN.ini is missing"
"$MINKE" train --help-config >"$work/reference.ini"
check "--help-config" $?
expect "the reference is a valid file" 2 "model.config: expected a path" "$work/reference.ini"
exit "$failed"
