#!/usr/bin/env bash
# Runs test programs (cmocka; given as arguments) and the shell tests tests/cli/*.sh, each in its own process with a
# time limit. Prints the whole output of what failed and ends with one line "N passed, N failed" (single tests, summed).
#
# A program that crashes, times out or reports nothing counts as one failed test more. A shell test prints lines
# "ok <what>" and "not ok <what>"; it finds the program under test in the environment variable MINKE.
set -u
limit=${TEST_SECONDS:-300}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
passed=0
failed=0

report_failure() {   # name, reason: the output in $work/out follows
    printf '=== %s: %s\n' "$1" "$2"
    cat "$work/out"
    printf '=== end of %s\n' "$1"
}

# Adds the counts of one program. Arguments: name, exit status, tests passed, tests failed.
account() {
    local name=$1 status=$2 good=$3 bad=$4
    if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
        bad=$((bad + 1))
        report_failure "$name" "stopped after $limit seconds"
    elif [ "$bad" -gt 0 ]; then
        report_failure "$name" "$bad failed"
    elif [ "$status" -ne 0 ]; then
        bad=1
        report_failure "$name" "exit status $status"
    elif [ $((good + bad)) -eq 0 ]; then
        bad=1
        report_failure "$name" "no test was run"
    fi
    passed=$((passed + good))
    failed=$((failed + bad))
}

count() {   # lines of $work/out that match
    grep -c -E "$1" "$work/out" || true
}

for program in "$@"; do
    timeout -k 10 "$limit" "$program" >"$work/out" 2>&1 </dev/null
    status=$?
    listed=$(sed -n 's/^\[  FAILED  \] \([0-9]*\) test(s), listed below.*/\1/p' "$work/out" | awk '{ sum += $1 } END { print sum + 0 }')
    account "$program" "$status" "$(count '^\[       OK \] ')" "$listed"
done

if [ -n "${MINKE:-}" ]; then
    MINKE=$(realpath "$MINKE")
    export MINKE
    for script in tests/cli/*.sh; do
        [ -x "$script" ] || continue
        timeout -k 10 "$limit" "$script" >"$work/out" 2>&1 </dev/null
        account "$script" $? "$(count '^ok ')" "$(count '^not ok ')"
    done
fi

printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
