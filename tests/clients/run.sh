#!/usr/bin/env bash
# Unmodified clients against minke serve on a small random model: the official openai packages for Python and Node, and
# lm-evaluation-harness. Their packages are installed into build/clients (needs a network, python3 and node).
set -u
. tests/cli/small_model.sh
MINKE=$(realpath "$MINKE")
here=$(realpath tests/clients)
packages=$PWD/build/clients
mkdir -p "$packages"
if [ ! -x "$packages/python/bin/lm_eval" ]; then
    python3 -m venv --system-site-packages "$packages/python" && "$packages/python/bin/pip" install --quiet openai 'lm_eval[api]' || exit 1
fi
if [ ! -d "$packages/node/node_modules/openai" ]; then
    mkdir -p "$packages/node" && (cd "$packages/node" && npm install --silent openai) || exit 1
fi
folder=$(mktemp -d)
server=
trap '[ -n "$server" ] && kill -9 $server 2>/dev/null; rm -rf "$folder"' EXIT
cd "$folder" || exit 1
small_model && start_server --log none || exit 1
failed=0
"$packages/python/bin/python" "$here/openai_client.py" "$url" || failed=1
cp "$here/openai_client.mjs" "$packages/node/" && node "$packages/node/openai_client.mjs" "$url" || failed=1
"$packages/python/bin/python" "$here/lm_eval_client.py" "$url" model "$MINKE" || failed=1
kill -TERM "$server"
wait "$server" || failed=1
server=
[ $failed -eq 0 ] && echo "clients: no complaints"
exit $failed
