#!/usr/bin/env bash
# Runs fuzzers: fuzz.sh BUILD SECONDS NAME...   (make fuzz)
#
# Two at a time, in slices of five minutes, until each has had SECONDS of CPU time (on a busy machine a minute of the
# clock says little). What was run before counts, as long as the program has not changed: an interrupted run is
# continued by the same command. BUILD/fuzz/ holds
#   <name>.corpus/     inputs that reach something new; starts from tests/fuzz/corpus/<name>
#   <name>.findings/   inputs that crash, leak, take too long or break a CHECK; such a fuzzer stops, the others go on
#   <name>.log         libFuzzer's own output
#   results.tsv        one line a slice: name, program, CPU seconds, executions, edges covered, features, inputs, findings
# Prints the table of results. Exit status 1 if there is a finding.
set -u
build=$1
wanted=$2
shift 2
slice=${FUZZ_SLICE:-300}
jobs=${FUZZ_JOBS:-2}
state=$build/fuzz
results=$state/results.tsv
mkdir -p "$state"
touch "$results"

fingerprint() { md5sum <"$build/fuzz_$1" | cut -c1-12; }

sum() {   # name, fingerprint, column
    awk -F'\t' -v name="$1" -v print_of="$2" -v column="$3" \
        '$1 == name && $2 == print_of { total += $column } END { print total + 0 }' "$results"
}

run_slice() {   # name, fingerprint, seconds
    local name=$1 program=$2 seconds=$3 corpus=$state/$1.corpus findings=$state/$1.findings options=() last
    mkdir -p "$corpus" "$findings"
    [ -f "tests/fuzz/dictionary/$name.dict" ] && options+=("-dict=tests/fuzz/dictionary/$name.dict")
    # A long wall-clock limit: every input has a limit of CPU time (tests/fuzz/fuzz.c), and the machine may stop us.
    local TIMEFORMAT='%U %S'
    { time nice -n "${FUZZ_NICE:-10}" "$build/fuzz_$name" -max_total_time="$seconds" -timeout=600 -report_slow_units=3600 -rss_limit_mb=4096 \
        -malloc_limit_mb=2048 -max_len=8192 -reload=0 -print_final_stats=1 -artifact_prefix="$findings/" \
        "${options[@]}" "$corpus" "tests/fuzz/corpus/$name" >"$state/slice.$name" 2>&1 </dev/null; } 2>"$state/time.$name"
    local status=$? used
    used=$(awk '{ print int($1 + $2) + 1 }' "$state/time.$name")
    cat "$state/slice.$name" >>"$state/$name.log"
    last=$(grep -o 'cov: [0-9]* ft: [0-9]*' "$state/slice.$name" | tail -1)
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$state/slice.$name")
    printf '%s\t%s\t%d\t%d\t%s\t%s\t%d\t%d\n' "$name" "$program" "$used" "${executions:-0}" \
        "$(cut -d' ' -f2 <<<"${last:-0 0 0 0}")" "$(cut -d' ' -f4 <<<"${last:-0 0 0 0}")" \
        "$(find "$corpus" -type f | wc -l)" "$((status != 0))" >>"$results"
    rm -f "$state/slice.$name" "$state/time.$name"
    return "$status"
}

run_fuzzer() {   # name
    local name=$1 program done_seconds left
    program=$(fingerprint "$name")
    while :; do
        done_seconds=$(sum "$name" "$program" 3)
        left=$((wanted - done_seconds))
        [ "$(sum "$name" "$program" 8)" -gt 0 ] && return 1
        [ "$left" -le 0 ] && return 0
        run_slice "$name" "$program" $((left < slice ? left : slice)) || return 1
    done
}

table() {
    printf '%-16s %9s %12s %8s %9s %7s %9s\n' fuzzer seconds executions edges features inputs findings
    for name in "$@"; do
        program=$(fingerprint "$name")
        awk -F'\t' -v name="$name" -v print_of="$program" '
            $1 == name && $2 == print_of { seconds += $3; runs += $4; edges = $5; features = $6; inputs = $7; bad += $8 }
            END { printf "%-16s %9d %12d %8d %9d %7d %9d\n", name, seconds, runs, edges, features, inputs, bad }' "$results"
    done
}

for name in "$@"; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do
        wait -n
    done
    run_fuzzer "$name" &
done
wait
table "$@"
bad=0
for name in "$@"; do
    bad=$((bad + $(sum "$name" "$(fingerprint "$name")" 8)))
done
[ "$bad" -eq 0 ] || { find "$state" -path '*.findings/*' -type f; exit 1; }
