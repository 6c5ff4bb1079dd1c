#!/usr/bin/env bash
# Many clients at once on a small random model (tests/load/load.c). CLIENTS and SECONDS_OF_LOAD: `make test-load` has
# 200 clients for ten minutes.
set -u
. tests/cli/check.sh
. tests/cli/small_model.sh
MINKE=$(realpath "$MINKE")
load=$(dirname "$MINKE")/tests/load/load
folder=$(mktemp -d)
server=
trap '[ -n "$server" ] && kill -9 $server 2>/dev/null; rm -rf "$folder"' EXIT
cd "$folder" || exit 1
# An address sanitizer keeps what was freed, 256 MB of it by default, which would look like a leak here.
export ASAN_OPTIONS=quarantine_size_mb=4${ASAN_OPTIONS:+:$ASAN_OPTIONS}
small_model && start_server --log none --cache 8192
check "a server" $?
memory() { sed -n 's/^VmRSS:[[:space:]]*\([0-9]*\) kB/\1/p' "/proc/$server/status"; }
"$load" "${url##*:}" 4 2 > warm
check "a few clients" $?
before=$(memory)
"$load" "${url##*:}" "${CLIENTS:-20}" "${SECONDS_OF_LOAD:-10}" > counts
check "many clients: no answer wrong or lost, nothing hostile let in" $?
cat counts
after=$(memory)
# Threads' arenas and tables of connections grow with the first load; a leak would grow with every request.
[ "$after" -lt $((before + before / 2 + 65536)) ]
check "memory: $before kB before, $after kB after" $?
sleep 1
curl -s "$url/engine" | grep -q '"waiting":0,"running":0'
check "nothing is left running" $?
kill -TERM "$server"
wait "$server"
check "the server ends well" $?
server=
exit $failed
