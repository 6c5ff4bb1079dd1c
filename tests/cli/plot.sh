#!/usr/bin/env bash
# `minke plot`: pictures of runs, of runs with little in them, and what it says when it cannot draw.
set -u
. tests/cli/check.sh
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
refuse() {   # fragment, arguments...
    local fragment=$1 message status
    shift
    message=$("$MINKE" plot "$@" 2>&1 >/dev/null)
    status=$?
    [ $status -ne 0 ] && [ "$(printf '%s\n' "$message" | wc -l)" -eq 1 ] &&
        case $message in "minke: error: "*"$fragment"*) true ;; *) printf '%s\n' "$message" && false ;; esac
    check "refuses: $fragment" $?
}
is_png() {
    [ "$(head -c 8 "$1" | od -An -tx1 | tr -d ' \n')" = 89504e470d0a1a0a ] && [ "$(wc -c <"$1")" -gt 5000 ]
}

# A run of N steps with everything in it.
make_run() {   # folder, steps
    mkdir -p "$1"
    awk -v steps="$2" 'BEGIN {
        for (s = 1; s <= steps; s++) {
            printf "{\"step\": %d, \"tokens\": %d, \"seconds\": 0.5, \"tokens_per_second\": 4096, ", s, 2048 * s
            printf "\"loss\": %f, \"main_loss\": %f, \"mtp_loss\": [%f, null], \"balance_loss\": 1.0, ", 4 + 5 / s, 3 + 5 / s, 3.5 + 5 / s
            printf "\"learning_rate\": %g, \"gradient_norm\": %f, \"max_violation\": %f, ", 0.001 * s / steps, 1 + 1 / s, 1 / s
            printf "\"max_violation_layers\": [%f, 0], \"bias_range\": [[%f, %f], [null, null]], ", 1 / s, -0.001 * s, 0.002 * s
            printf "\"expert_load\": [[%d, 100, 100, 50], [90, 110, 100, 100]]", 100 + 100 / s
            if (s % 10 == 0) printf ", \"validation_loss\": %f, \"validation_bits_per_byte\": %f", 3 + 5 / s, 1.2 + 2 / s
            print "}"
        }
    }' >"$1/metrics.jsonl"
}

make_run run 200
make_run "other's_run \$HOME" 20
mkdir least torn nulls empty bad
printf '{"step": 1, "loss": 2.5}\n' >least/metrics.jsonl
{ cat run/metrics.jsonl; printf '{"step": 201, "los'; } >torn/metrics.jsonl
printf '{"step": 1, "loss": null, "expert_load": [], "bias_range": null}\n{}\n{"loss": "x", "mtp_loss": []}\n' >nulls/metrics.jsonl
: >empty/metrics.jsonl
{ echo '{"step": 1}'; echo '{"step": '; echo '{"step": 3}'; } >bad/metrics.jsonl

refuse 'nothing/metrics.jsonl: cannot open' nothing
refuse 'empty/metrics.jsonl: no lines' empty
refuse 'bad/metrics.jsonl: line 2' bad
refuse 'RUN_DIR'
refuse 'found 7 runs, expected at most 6' run run run run run run run
refuse 'png' run --format jpg
message=$(PATH=/nonexistent "$MINKE" plot run 2>&1)
[ $? -eq 1 ] && [ "$message" = "minke: error: gnuplot is not installed; Debian has it in the package gnuplot-nox" ]
check "refuses: gnuplot is not installed" $?

if ! command -v gnuplot >/dev/null; then
    echo "ok pictures (skipped: no gnuplot)"
    exit $failed
fi
[ "$("$MINKE" plot run 2>errors)" = run/run.png ] && is_png run/run.png && [ ! -s errors ]
check "a run becomes a PNG, and its name is printed" $?
"$MINKE" plot run -o pictures/svg --format svg >/dev/null && grep -q '<svg' pictures/svg/run.svg && grep -q 'Validation, bits per byte' pictures/svg/run.svg
check "or an SVG in another folder, with its headings" $?
"$MINKE" plot run "other's_run \$HOME" least -o . --format svg >/dev/null && grep -q "other's_run \$HOME\|other&apos;s_run \$HOME\|other&#39;s_run \$HOME" compare.svg
check "several runs share a picture, under whatever names" $?
make_run half 100
sed 's/"main_loss": \([0-9.]*\)/"main_loss": 10.0/' half/metrics.jsonl >half/new && mkdir tenth && sed 's/10\.0,/10.1,/' half/new >tenth/metrics.jsonl && mv half/new half/metrics.jsonl
found=$("$MINKE" plot half tenth run -o . --format svg | head -1)
[ "$found" = "tenth against half, steps 51 to 100: training loss +1.0000 % (mean; of one step 1.0000 %, deviation 0.0000, largest 1.0000), last validation +0.0000 %" ]
check "losses are compared over the second half: $found" $?
for sparse in least torn nulls; do
    "$MINKE" plot $sparse >/dev/null 2>errors && is_png $sparse/run.png && [ ! -s errors ]
    check "a picture of a run with $sparse values" $?
done
first=$(md5sum <run/run.png)
"$MINKE" plot run >/dev/null && [ "$(md5sum <run/run.png)" = "$first" ]
check "the same run gives the same picture" $?
if [ "$(id -u)" -ne 0 ]; then
    mkdir closed && chmod 555 closed
    refuse 'closed/.plot.tmp' run -o closed
fi
touch file
refuse 'file' run -o file
( trap '' XFSZ; ulimit -f 4; "$MINKE" plot run >/dev/null 2>errors )
[ $? -ne 0 ] && is_png run/run.png
check "a write that fails leaves the old picture" $?
[ -z "$(find . -name '*.tmp-*')" ]
check "nothing half-written remains" $?
exit $failed
