#!/usr/bin/env bash
# A memory limit: a model of twice the limit, with a cold page cache, gives the logits that it gives without. The limit is
# a memory cgroup where one can be made below our own (page cache counts there, and too much of it is no failure, too much
# memory is); elsewhere the peak of the resident set and what the page cache holds of the weights are compared with it.
#
# MINKE=build/minke tests/cli/ram.sh MODEL_DIR SIZE compares a model directory of one's own.
set -u
. tests/cli/check.sh
folder=$(mktemp -d -p "${TMPDIR:-/tmp}")
group=
leave() {
    [ -n "$group" ] && rmdir "$group"
    rm -rf "$folder"
}
trap leave EXIT

# A child of our own memory cgroup, version 1 or 2: *group and *limit_file, or group stays empty.
make_group() {
    local own
    own=$(awk -F: '$2 ~ /(^|,)memory(,|$)/ { print "/sys/fs/cgroup/memory" $3 }' /proc/self/cgroup)
    limit_file=memory.limit_in_bytes
    peak_file=memory.max_usage_in_bytes
    if [ -z "$own" ]; then
        own=$(awk -F: '$1 == 0 { print "/sys/fs/cgroup" $3 }' /proc/self/cgroup)
        limit_file=memory.max
        peak_file=memory.peak
    fi
    group=$own/minke-ram-$$
    mkdir "$group" 2>/dev/null || group=
    if [ -n "$group" ] && ! [ -w "$group/$limit_file" ]; then
        rmdir "$group"
        group=
    fi
}

# Runs a command within $limit bytes.
limited() {
    if [ -n "$group" ]; then
        echo "$limit" > "$group/$limit_file" || return 1
        (echo "$BASHPID" > "$group/cgroup.procs" && exec "$@")
    else
        "$@"
    fi
}

drop_page_cache() {   # of the weights, without privileges
    sync "$1"/*.safetensors
    for file in "$1"/*.safetensors; do
        dd if="$file" iflag=nocache count=0 status=none
    done
}

cached_bytes() {   # of the weights, in the page cache
    fincore --bytes --noheadings --output RES "$1"/*.safetensors | awk '{ sum += $1 } END { printf "%d", sum }'
}

# Without a cgroup: what the program says its peak was, and what lies in the page cache, both against the limit.
within_limit() {
    [ -n "$group" ] && return 0
    local peak
    peak=$(sed -n 's/.*memory: limit .* GiB, peak \([0-9.]*\);.*/\1/p' "$2")
    awk -v peak="$peak" -v cached="$(cached_bytes "$1")" -v limit="$limit" \
        'BEGIN { exit !(peak != "" && peak * 1073741824 + cached <= limit + 10737418) }'
}

compare() {   # model, limit as --ram takes it, ids
    drop_page_cache "$1"
    limited "$MINKE" logits "$1" --ids "$3" -o "$folder/streamed.npy" --ram "$2" 2>"$folder/message"
    check "logits within a limit of $2" $?
    if ! $shadowed; then
        within_limit "$1" "$folder/message"
        check "the limit holds ($measure)" $?
    fi
    grep 'memory:\|experts:' "$folder/message"
    [ -n "$group" ] && [ -r "$group/$peak_file" ] && echo "peak of the cgroup: $(cat "$group/$peak_file") bytes of $limit"
    "$MINKE" logits "$1" --ids "$3" -o "$folder/mapped.npy" --quiet
    cmp "$folder/streamed.npy" "$folder/mapped.npy"
    check "the same logits as without a limit" $?
}

# A thread sanitizer's own memory is several times the limit: with it only the results are compared.
shadowed=false
nm "$MINKE" | grep -q __tsan_init && shadowed=true
$shadowed || make_group
measure="resident set and page cache"
[ -n "$group" ] && measure="memory cgroup"
if [ $# -eq 2 ]; then
    limit=$(numfmt --from=iec "$2")
    echo "$(cat "$1"/*.safetensors | wc -c) bytes of weights, a limit of $limit"
    compare "$1" "$2" "$(seq -s, 1 40)"
    exit $failed
fi

cd "$folder" || exit 1
cat > config.json <<'JSON'
{"model_type": "deepseek_v3", "vocab_size": 300, "hidden_size": 256, "num_hidden_layers": 4, "first_k_dense_replace": 1,
 "intermediate_size": 512, "moe_intermediate_size": 256, "num_attention_heads": 4, "q_lora_rank": 64, "kv_lora_rank": 64,
 "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32, "n_routed_experts": 80, "n_shared_experts": 1,
 "num_experts_per_tok": 4, "n_group": 4, "topk_group": 2, "num_nextn_predict_layers": 0, "routed_scaling_factor": 2.5,
 "max_position_embeddings": 256, "rope_theta": 10000}
JSON
"$MINKE" init config.json model --quiet
check "a model" $?
limit=$((48 * 1024 * 1024))
[ "$(cat model/*.safetensors | wc -c)" -ge $((2 * limit - limit / 10)) ]
check "of twice the limit" $?
compare model 48M "$(seq -s, 1 150)"

limited "$MINKE" logits model --ids 1,2,3 -o sampled.npy --ram 48M --attention absorbed --quiet --threads 3 &&
    "$MINKE" logits model --ids 1,2,3 -o mapped.npy --attention absorbed --quiet && cmp sampled.npy mapped.npy
check "the same in absorbed form with three threads" $?
"$MINKE" logits model --ids 1,2 -o a.npy --ram 20M 2>message
[ $? -ne 0 ] && [ "$(wc -l < message)" -eq 1 ] && grep -q 'at least 0.0[0-9]* GiB are needed' message
check "a limit too small: one line that says what is needed" $?
for bad in 16X G -1 0 "" 1e400; do
    "$MINKE" logits model --ids 1,2 -o a.npy --ram "$bad" 2>message
    [ $? -ne 0 ] && [ "$(wc -l < message)" -eq 1 ] && grep -q -- '--ram: expected a size' message
    check "--ram \"$bad\" is no size" $?
done
for good in 3G 3GiB 3072M 3GB 0.5T; do
    "$MINKE" logits model --ids 1,2 -o a.npy --ram "$good" --quiet
    check "--ram $good is one" $?
done
exit $failed
