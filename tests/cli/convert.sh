#!/usr/bin/env bash
# `minke convert`: formats there and back, byte identity, companions, unknown keys, refusals.
set -u
. tests/cli/check.sh
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
. tests/cli/tiny_config.sh
tiny_config >"$work/config.json"
"$MINKE" init "$work/config.json" "$work/bf16" --quiet || exit 1
echo '{"version":"1.0"}' >"$work/bf16/tokenizer.json"
sed -i 's/^{/{\n  "house_style": {"unknown": [1e-06, true]},/' "$work/bf16/config.json"

"$MINKE" convert "$work/bf16" "$work/fp8" --dtype fp8 --shard-size 60K --quiet
check "bf16 to fp8" $?
[ -e "$work/fp8/model.safetensors.index.json" ] && cmp -s "$work/bf16/tokenizer.json" "$work/fp8/tokenizer.json"
check "shards and companions" $?
tr -d ' \n' <"$work/fp8/config.json" | grep -q '"house_style":{"unknown":\[1e-0*6,true\]}'
check "unknown keys are kept" $?
"$MINKE" convert "$work/fp8" "$work/fp8-again" --dtype fp8 --shard-size 60K --threads 3 --quiet && diff -r "$work/fp8" "$work/fp8-again"
check "fp8 to fp8 is the same directory" $?
"$MINKE" convert "$work/fp8" "$work/f32" --dtype f32 --quiet && "$MINKE" convert "$work/fp8" "$work/b1" --dtype bf16 --quiet &&
    "$MINKE" convert "$work/f32" "$work/b2" --dtype bf16 --quiet && diff -r "$work/b1" "$work/b2"
check "fp8 to bf16, directly and through f32" $?
! grep -q quantization_config "$work/b1/config.json"
check "quantization_config goes" $?
"$MINKE" convert "$work/bf16" "$work/ue8m0" --dtype fp8 --scale-format ue8m0 --quiet && grep -q '"scale_fmt": "ue8m0"' "$work/ue8m0/config.json"
check "power-of-two scales" $?

refused() {   # description, expected message, arguments...
    local what=$1 expected=$2 message status
    shift 2
    message=$("$MINKE" convert "$@" --quiet 2>&1)
    status=$?
    [ $status -ne 0 ] && [ "$message" = "minke: error: $expected" ]
    check "$what" $?
}
refused "source = destination" "$work/bf16: source and destination are the same directory" "$work/bf16" "$work/bf16/" --dtype fp8
refused "destination in use" "$work/f32: expected an empty or new directory, found 4 files (the first is config.json)" "$work/bf16" "$work/f32" --dtype fp8
refused "scales that are there" "$work/fp8: holds FP8 weights with float scales already; convert to bf16 first for others" "$work/fp8" "$work/new" --dtype fp8 --scale-format ue8m0
refused "no format" "convert: --dtype: expected bf16, fp8 or f32, found nothing" "$work/bf16" "$work/new"
refused "odd shard size" "convert: --shard-size: expected a size such as 500M or 16G, found \"5X\"" "$work/bf16" "$work/new" --dtype fp8 --shard-size 5X
[ ! -e "$work/new" ]
check "nothing was created" $?

# A real full disk, where this user may mount one.
mkdir "$work/disk"
if mount -t tmpfs -o size=64k minke-test "$work/disk" 2>/dev/null; then
    message=$("$MINKE" convert "$work/bf16" "$work/disk/out" --dtype f32 --quiet 2>&1)
    [ $? -eq 1 ] && [ "$(printf '%s\n' "$message" | wc -l)" -eq 1 ] && printf '%s' "$message" | grep -q 'No space left on device'
    check "a full disk gives one line" $?
    [ -z "$(ls -A "$work/disk")" ]
    check "and leaves nothing" $?
    umount "$work/disk"
fi
exit $failed
