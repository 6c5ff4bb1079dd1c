#!/usr/bin/env bash
# minke tokenize: lines to ids and back, long lines, bytes of every kind, mistakes.
set -u
cd "$(dirname "$0")/../.." || exit 1
minke=${MINKE:-build/minke}
small=tests/golden/text/small
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

check() {   # what, condition as a command
    local what=$1
    shift
    if "$@"; then printf 'ok %s\n' "$what"; else printf 'not ok %s\n' "$what"; fi
}

printf 'a\n\n<think>!' >"$work/text"
"$minke" tokenize "$small" <"$work/text" >"$work/ids"
check "one array a line, also for an empty line and a last line without line feed" test "$(cat "$work/ids")" = "$(printf '[67]\n[]\n[698, 3]')"
"$minke" tokenize "$small/tokenizer.json" --decode <"$work/ids" >"$work/back"
check "--decode gives the lines back" cmp -s "$work/back" <(cat "$work/text"; echo)

# Bytes of every kind (without line feeds), one line of a megabyte.
{ head -c 300000 /dev/urandom | tr -d '\n'; echo; head -c 1000000 /dev/zero | tr '\0' 'x'; echo; cat tests/golden/text/train.txt; } >"$work/noise"
"$minke" tokenize "$small" <"$work/noise" | "$minke" tokenize "$small" --decode >"$work/back"
[ -n "$(tail -c 1 "$work/noise")" ] && echo >>"$work/noise"
check "any bytes and any length come back" cmp -s "$work/noise" "$work/back"

refused() {   # expected fragment; the command's stderr is in $work/error
    [ "$status" -eq 1 ] && [ "$(wc -l <"$work/error")" -eq 1 ] && grep -qF -- "$1" "$work/error"
}
attempt() {
    "$minke" tokenize "$@" >"$work/out" 2>"$work/error"
    status=$?
}
attempt "$work/none" </dev/null
check "a missing file is named" refused "$work/none"
printf '[3]\n[3, 700]\n' | { attempt "$small" --decode; check "an id out of range is named" refused 'line 2: token id 700'; }
check "what came before a mistake is written, whole lines only" test "$(cat "$work/out")" = '!'
printf '[3' | { attempt "$small" --decode; check "an open array is refused" refused 'line 1'; }
printf '[3] x\n' | { attempt "$small" --decode; check "text behind an array is refused" refused 'line 1'; }
printf '["a"]\n' | { attempt "$small" --decode; check "a string is no id" refused 'expected an integer'; }
printf '[99999999999]\n' | { attempt "$small" --decode; check "a huge id is refused" refused 'out of range'; }
printf 'a\n' | { attempt "$small" >/dev/null; check "success is status 0" test "$status" -eq 0; }
