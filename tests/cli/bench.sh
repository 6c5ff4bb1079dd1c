#!/usr/bin/env bash
# `minke bench`: every subject runs on a tiny model, and each line of --json is what scripts expect. No speed is judged.
set -u
. tests/cli/check.sh
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
. tests/cli/tiny_config.sh
tiny_config >"$work/config.json"
number='[0-9.]+(e[-+]?[0-9]+)?'
line="^\\{\"name\":\"[a-z0-9_.]+\",\"value\":$number,\"unit\":\"(GFLOP/s|GB/s|tokens/s|s)\",\"limit\":$number,\"fraction\":$number,\"threads\":[12],\"isa\":\"(scalar|avx2|avx512|amx)\"\\}\$"
names() {
    sed 's/^{"name":"\([^"]*\)".*/\1/' "$1" | sort -u | tr '\n' ' '
}
sound() {   # file: every line is well formed, nothing is zero, and value is limit times fraction
    [ -s "$1" ] && ! grep -q -v -E "$line" "$1" &&
        sed 's/.*"value":\([^,]*\),.*"limit":\([^,]*\),"fraction":\([^,]*\),.*/\1 \2 \3/' "$1" |
        awk '$1 <= 0 || $2 <= 0 || ($1 / $2 - $3) ^ 2 > 1e-6 { bad = 1 } END { exit bad }'
}

"$MINKE" bench peak --seconds 0.01 --threads 2 --json >"$work/peak"
[ $? -eq 0 ] && sound "$work/peak" && [ "$(names "$work/peak")" = "peak.bf16 peak.copy peak.f32 peak.read " ]
check "peaks" $?
[ "$(grep -c '"threads":2' "$work/peak")" -eq 4 ]
check "--threads measures those threads alone" $?

"$MINKE" bench gemm --shape 70x130x200 --seconds 0.002 --threads 1 --json >"$work/gemm"
[ $? -eq 0 ] && sound "$work/gemm" && grep -q '"gemm.bf16.70x130x200"' "$work/gemm" &&
    grep -q '"gemm.fp8xfp8.dgrad.70x130x200"' "$work/gemm" && [ "$(grep -c 'gemm' "$work/gemm")" -eq 11 ]
check "products of a given shape" $?

"$MINKE" bench attention ops --length 100 --seconds 0.002 --threads 2 --json >"$work/ops"
[ $? -eq 0 ] && sound "$work/ops" && grep -q '"attention.backward.bf16.192x128"' "$work/ops" && grep -q '"ops.adamw"' "$work/ops"
check "attention and the other operations" $?

"$MINKE" bench train prefill decode --config "$work/config.json" --batch 2 --length 32 --depth 40 --seconds 0.01 \
    --threads 2 --json >"$work/model"
[ $? -eq 0 ] && sound "$work/model"
check "a model runs" $?
[ "$(names "$work/model")" = "decode.1 decode.1.fp8 decode.1.int4 decode.1.int8 decode.32 decode.32.fp8 decode.32.int4 decode.32.int8 decode.8 decode.8.fp8 decode.8.int4 decode.8.int8 peak.bf16 peak.copy peak.f32 peak.read prefill.32 prefill.32.fp8 prefill.32.int4 prefill.32.int8 train.step train.step.attention train.step.flops train.step.fp32 train.step.fp32.attention train.step.fp32.flops train.step.fp32.products train.step.fp32.rest train.step.fp8 train.step.fp8.attention train.step.fp8.flops train.step.fp8.products train.step.fp8.rest train.step.products train.step.rest " ]
check "names of the model's measurements" $?

"$MINKE" bench train --config "$work/config.json" --batch 1 --length 16 --seconds 0.01 --threads 2 >"$work/table"
[ $? -eq 0 ] && grep -q '^  peak.f32 .* 100.0% #' "$work/table" && grep -q 'forward and loss [0-9]* %, backward' "$work/table"
check "the table" $?

"$MINKE" bench peak --isa scalar --seconds 0.01 --threads 1 --json >"$work/scalar"
[ $? -eq 0 ] && sound "$work/scalar" && [ "$(grep -c '"isa":"scalar"' "$work/scalar")" -eq 4 ]
check "--isa scalar" $?

"$MINKE" bench mtp --config "$work/config.json" --batch 2 --seconds 0.01 --threads 2 --json >"$work/mtp"
[ $? -eq 0 ] && [ "$(names "$work/mtp")" = "mtp.greedy.2.adaptive mtp.greedy.2.drafted mtp.greedy.2.gain mtp.greedy.2.plain mtp.sampled.2.adaptive mtp.sampled.2.drafted mtp.sampled.2.gain mtp.sampled.2.plain peak.bf16 peak.copy peak.f32 peak.read " ]
check "drafting" $?
sed 's/"vocab_size": 60/"vocab_size": 300/' "$work/config.json" >"$work/words.json"
"$MINKE" bench serve --config "$work/words.json" --clients 3 --length 20 --tokens 8 --seconds 0.01 --threads 2 --json >"$work/serve"
[ $? -eq 0 ] && grep -q '"name":"serve.3","value":[1-9][0-9.e+]*,"unit":"tokens/s","limit":[1-9]' "$work/serve" &&
    grep -q '"name":"serve.3.first.p99","value":[0-9.e+-]*,"unit":"ms"' "$work/serve" && grep -q 'serve.3.cached' "$work/serve"
check "serving" $?
"$MINKE" bench mtp --model "$work/nothing" --seconds 0.01 >/dev/null 2>"$work/error"
[ $? -eq 1 ] && grep -q 'nothing' "$work/error"
check "a model directory that is not there" $?

"$MINKE" bench speed 2>"$work/error"
[ $? -eq 2 ] && grep -q 'unknown subject "speed": expected peak' "$work/error"
check "an unknown subject" $?
"$MINKE" bench gemm --shape 4x5 2>"$work/error"
[ $? -eq 2 ] && grep -q 'expected MxNxK' "$work/error"
check "a malformed shape" $?
"$MINKE" bench train --config "$work/missing.json" 2>"$work/error"
[ $? -eq 1 ] && grep -q 'missing.json' "$work/error"
check "a configuration that is not there" $?
exit $failed
