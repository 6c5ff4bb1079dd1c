#!/usr/bin/env bash
# Keeps what fuzzers have found: fuzz_keep.sh BUILD [NAME...]
#
# Of the inputs in BUILD/fuzz/<name>.corpus and tests/fuzz/corpus/<name> the fewest and shortest that reach the same edges
# become tests/fuzz/corpus/<name>. Files whose name begins with "found-" are kept as they are: inputs that once failed.
set -eu
build=$1
shift
[ $# -gt 0 ] || set -- $(find "$build" -maxdepth 1 -name 'fuzz_*' -type f | sed 's/.*fuzz_//' | sort)
for name in "$@"; do
    kept=tests/fuzz/corpus/$name
    all=$build/fuzz/$name.all
    rm -rf "$all" "$all.few"
    mkdir -p "$all" "$all.few" "$kept"
    find "$kept" "$build/fuzz/$name.corpus" -type f ! -name 'found-*' -size -16k -exec cp {} "$all" \;
    # -use_counters=0: how often an edge is taken does not matter, which keeps a tenth of the files.
    nice -n 10 "$build/fuzz_$name" -merge=1 -use_counters=0 -timeout=600 -rss_limit_mb=4096 "$all.few" "$all" \
        >"$build/fuzz/$name.merge" 2>&1 </dev/null
    find "$kept" -type f ! -name 'found-*' -delete
    find "$all.few" -type f -exec cp {} "$kept" \;
    rm -rf "$all" "$all.few"
    printf '%-16s %5d inputs, %7d bytes\n' "$name" "$(find "$kept" -type f | wc -l)" \
        "$(find "$kept" -type f -exec cat {} + | wc -c)"
done
