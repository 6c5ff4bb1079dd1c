#!/usr/bin/env bash
# `minke init`: files of a new model, the same bytes for the same seed and any number of threads, refusals.
set -u
. tests/cli/check.sh
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
. tests/cli/tiny_config.sh
tiny_config >"$work/config.json"

"$MINKE" init "$work/config.json" "$work/one" --seed 3 --quiet --threads 1
check "a model is written" $?
[ "$(ls "$work/one" | tr '\n' ' ')" = "config.json generation_config.json model.safetensors " ]
check "its files" $?
"$MINKE" init "$work/config.json" "$work/three" --seed 3 --quiet --threads 3 && diff -r "$work/one" "$work/three"
check "the same bytes with another number of threads" $?
"$MINKE" init "$work/one" "$work/other" --seed 4 --quiet && ! cmp -s "$work/one/model.safetensors" "$work/other/model.safetensors"
check "another seed gives other bytes; a directory serves as configuration" $?
for dtype in bf16 f32 fp8; do
    "$MINKE" init "$work/config.json" "$work/$dtype" --dtype $dtype --std 0.006 --quiet &&
        "$MINKE" info "$work/$dtype" >"$work/info" && grep -q "^files          complete" "$work/info"
    check "--dtype $dtype gives a complete model" $?
done
grep -q '"initializer_range": 0.006' "$work/fp8/config.json" && grep -q '"quant_method": "fp8"' "$work/fp8/config.json"
check "config.json says what was done" $?

message=$("$MINKE" init "$work/config.json" "$work/one" 2>&1)
[ $? -eq 1 ] && [ "$message" = "minke: error: $work/one: expected an empty or new directory, found 3 files (the first is config.json)" ]
check "a directory in use is refused" $?
message=$("$MINKE" init "$work/none.json" "$work/new" 2>&1)
[ $? -eq 1 ] && [ "$message" = "minke: error: $work/none.json: cannot open: No such file or directory" ] && [ ! -e "$work/new" ]
check "a missing configuration is named" $?
exit $failed
