#!/usr/bin/env bash
# `minke info`: what it shows of a model, of a configuration alone, and of incomplete directories.
set -u
. tests/cli/check.sh
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
. tests/cli/tiny_config.sh
tiny_config >"$work/config.json"
"$MINKE" init "$work/config.json" "$work/model" --quiet || exit 1
"$MINKE" convert "$work/model" "$work/fp8" --dtype fp8 --shard-size 60K --quiet || exit 1

"$MINKE" info "$work/fp8" >"$work/out"
[ $? -eq 0 ] && grep -q '^  layers       3 (1 dense, 2 mixture of experts) + 1 multi-token prediction$' "$work/out" &&
    grep -q '^  experts      6 routed of width 24, 2 a token, + 1 shared; sigmoid, noaux_tc, 2 of 3 groups, times 2.5$' "$work/out" &&
    grep -q '^  F8_E4M3 ' "$work/out" && grep -q '^files          complete' "$work/out"
check "a sound model" $?

# Counts of the table and of the files agree: elements without scales are parameters.
"$MINKE" info "$work/fp8" --json >"$work/json" && "$MINKE" info "$work/model" --json >"$work/json2"
python=$(sed -n 's/.*"total":\([0-9]*\),"active":\([0-9]*\).*"mtp":\([0-9]*\).*/\1 \2 \3/p' "$work/json")
set -- $python
bf16=$(sed -n 's/.*"BF16":{"tensors":[0-9]*,"elements":\([0-9]*\).*/\1/p' "$work/json2")
f32=$(sed -n 's/.*"F32":{"tensors":[0-9]*,"elements":\([0-9]*\).*/\1/p' "$work/json2")
[ $(($1 + $3)) -eq $((bf16 + f32)) ] && [ "$2" -lt "$1" ] && grep -q '"complete":true' "$work/json"
check "--json: parameters equal the elements in the files" $?
[ "$(wc -l <"$work/json")" -eq 1 ]
check "--json: one line" $?

"$MINKE" info "$work/config.json" >"$work/out" && grep -q '^parameters' "$work/out" && ! grep -q '^files' "$work/out"
check "a config.json alone" $?
mkdir "$work/empty" && cp "$work/config.json" "$work/empty"
"$MINKE" info "$work/empty" >"$work/out"
[ $? -eq 1 ] && grep -q '^files          INCOMPLETE: no weights' "$work/out" &&
    grep -q "found neither model.safetensors nor model.safetensors.index.json" "$work/out"
check "a directory without weights" $?

shard=$(ls "$work/fp8" | grep -m1 'model-00002-of')
mv "$work/fp8/$shard" "$work/$shard"
"$MINKE" info "$work/fp8" >"$work/out"
[ $? -eq 1 ] && grep -q 'INCOMPLETE: .*, 1 of [0-9]* files unreadable' "$work/out" && grep -q "$shard: cannot open" "$work/out"
check "a missing shard" $?
"$MINKE" info "$work/fp8" --json | grep -q '"complete":false'
check "a missing shard in JSON" $?
head -c 1000 "$work/$shard" >"$work/fp8/$shard"
"$MINKE" info "$work/fp8" >"$work/out"
[ $? -eq 1 ] && grep -q "$shard: .*truncated" "$work/out"
check "a truncated shard" $?

# What training takes, by kind: the kinds make up the whole, and FP8 keeps fewer activations than BF16.
cat >"$work/run.ini" <<'END'
[model]
config = config.json
[data]
path = data
[train]
out = run
sequence_length = 16
batch = 8
micro_batch = 4
steps = 10
END
plan() { sed "s/steps/precision = $1\nsteps/" "$work/run.ini" >"$work/$1.ini" && "$MINKE" info "$work/config.json" --train "$work/$1.ini" --json | grep -o '"train":{.*}' | tr -d '"{}' | sed 's/train://' | tr ':,' ' \n'; }
plan bf16 >"$work/bf16.plan" && plan fp8 >"$work/fp8.plan" &&
    awk '{ v[$1] = $2 } END { sum = v["weights"] + v["masters"] + v["moments"] + v["average"] + v["gradients"] + v["activations"] + v["workspace"] + v["saving"]
        exit !(v["masters"] > 0 && v["total"] >= sum && v["saved"] <= v["activations"] && v["masters"] >= 2 * v["weights"] * 0.9) }' "$work/bf16.plan" &&
    [ "$(awk '$1 == "saved" { print $2 }' "$work/fp8.plan")" -lt "$(awk '$1 == "saved" { print $2 }' "$work/bf16.plan")" ]
check "the memory of training, by kind" $?
"$MINKE" info "$work/config.json" --train "$work/bf16.ini" | grep -q '^training       bf16, micro-batch of 4 x 16 tokens'
check "the same for people" $?
"$MINKE" info "$work/config.json" --train "$work/nothing.ini" 2>&1 | grep -q 'nothing.ini'
check "a configuration that is not there" $?

# The layer that config.json announces is not there: said, but no error.
sed 's/"num_nextn_predict_layers": 1/"num_nextn_predict_layers": 0/' "$work/config.json" >"$work/plain.json"
"$MINKE" init "$work/plain.json" "$work/plain" --quiet && sed -i 's/"num_nextn_predict_layers": 0/"num_nextn_predict_layers": 1/' "$work/plain/config.json"
"$MINKE" info "$work/plain" >"$work/out" && grep -q 'the multi-token prediction layer that config.json announces is not in the files' "$work/out"
check "missing MTP layer" $?
exit $failed
