#!/usr/bin/env bash
# generate, chat, logits and perplexity on a small random model with a tokenizer trained here.
set -u
. tests/cli/check.sh
. tests/cli/small_model.sh
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1

small_model 256
check "a small model with a tokenizer" $?

first=$("$MINKE" generate model -p "The quick" -n 24 --temp 1 --seed 5 --ignore-eos --quiet)
[ -n "$first" ] && [ "$("$MINKE" generate model -p "The quick" -n 24 --temp 1 --seed 5 --ignore-eos --quiet --threads 3)" = "$first" ]
check "the same seed gives the same text on any number of threads" $?
[ "$("$MINKE" generate model -p "The quick" -n 24 --temp 1 --seed 5 --ignore-eos --quiet --isa scalar)" = "$first" ]
check "and on any instruction set" $?
[ "$("$MINKE" generate model -p "The quick" -n 24 --temp 1 --seed 6 --ignore-eos --quiet)" != "$first" ]
check "another seed gives another text" $?
[ "$("$MINKE" generate model -p "The quick" -n 24 --temp 1 --seed 5 --ignore-eos --quiet --no-mtp)" = "$first" ]
check "drafts of the MTP head do not change the text" $?
greedy=$("$MINKE" generate model -p "The quick" -n 24 --temp 0 --ignore-eos --quiet)
[ -n "$greedy" ] && [ "$("$MINKE" generate model -p "The quick" -n 24 --temp 1 --top-k 1 --ignore-eos --quiet)" = "$greedy" ] &&
    [ "$("$MINKE" generate model -p "The quick" -n 24 --temp 1 --min-p 1 --ignore-eos --quiet)" = "$greedy" ]
check "top-k 1 and min-p 1 are greedy" $?
[ "$("$MINKE" generate model -p "The quick" -n 24 --temp 0 --presence-penalty 50 --ignore-eos --quiet)" != "$greedy" ]
check "a penalty changes the text" $?
printf 'The quick' > prompt
[ "$("$MINKE" generate model --prompt-file prompt -n 24 --temp 1 --seed 5 --ignore-eos --quiet)" = "$first" ]
check "a prompt from a file" $?
"$MINKE" generate model -p "The quick" -n 100000 --ignore-eos --quiet 2>message >/dev/null
[ $? -eq 0 ] && grep -q "the context of 256 tokens is full" message && [ "$(wc -l < message)" -eq 1 ]
check "a text ends where the context does, and says so" $?

"$MINKE" tokenize model < prompt > ids
"$MINKE" logits model --ids-file ids -o a.npy --quiet && "$MINKE" logits model --ids "$(tr -d '[]' < ids)" -o b.npy --quiet && cmp a.npy b.npy
check "logits from a file and from the command line" $?
tokens=$(tr ',' '\n' < ids | wc -l)
[ "$(stat -c %s a.npy)" -eq $((128 + tokens * 512 * 4)) ]
check "logits: one row of the vocabulary for every token" $?
"$MINKE" logits model --ids-file ids -o mtp.npy --mtp --quiet && [ "$(stat -c %s mtp.npy)" -eq $((128 + (tokens - 1) * 512 * 4)) ]
check "MTP logits: a row less" $?
for weights in int8 int4; do
    "$MINKE" logits model --ids-file ids -o $weights.npy --weights $weights --threads 1 --quiet &&
        "$MINKE" logits model --ids-file ids -o again.npy --weights $weights --threads 3 --isa scalar --quiet &&
        cmp $weights.npy again.npy && ! cmp -s $weights.npy a.npy
    check "--weights $weights: other logits, the same bits with other threads and instructions" $?
done
"$MINKE" logits model --ids-file ids -o mapped.npy --weights mapped --quiet && cmp mapped.npy a.npy
check "--weights mapped: the bits of interleaved weights" $?
"$MINKE" logits model --ids-file ids -o absorbed.npy --attention absorbed --quiet &&
    "$MINKE" logits model --ids-file ids -o fp8.npy --cache-format fp8 --threads 1 --quiet &&
    "$MINKE" logits model --ids-file ids -o again.npy --cache-format fp8 --threads 3 --isa scalar --quiet &&
    ! cmp -s absorbed.npy fp8.npy && cmp fp8.npy again.npy
check "--cache-format fp8: other logits, the same bits with other threads and instructions" $?
fp8=$("$MINKE" generate model -p "The quick" -n 24 --temp 1 --seed 5 --ignore-eos --quiet --cache-format fp8)
[ -n "$fp8" ] && [ "$("$MINKE" generate model -p "The quick" -n 24 --temp 1 --seed 5 --ignore-eos --quiet --cache-format fp8 --no-mtp)" = "$fp8" ]
check "drafts do not change the text over an FP8 cache" $?
"$MINKE" logits model --ids 1,2 -o c.npy --cache-format fp8 --attention expanded 2>message
[ $? -eq 1 ] && grep -q "attention cache fp8.*found expanded" message && [ "$(wc -l < message)" -eq 1 ]
check "an FP8 cache of keys and values: one clear line" $?
"$MINKE" logits model --ids 1,2 -o c.npy --weights int5 2>message
[ $? -eq 2 ] && grep -q 'weights: found "int5", expected one of stored|mapped|int8|int4' message
check "--weights of an unknown kind" $?
"$MINKE" logits model --ids 1,2,9999 -o c.npy 2>message
[ $? -ne 0 ] && grep -q "expected an id in 0..511, found 9999" message && [ ! -e c.npy ] && [ -z "$(ls | grep 'c.npy')" ]
check "an id out of range: one clear line, no file" $?
"$MINKE" logits model --ids 1,x -o c.npy 2>message
[ $? -ne 0 ] && grep -q 'id 1: expected a number' message
check "a list of ids that is none" $?
"$MINKE" logits model --ids 1,2 -o /nowhere/c.npy 2>message
[ $? -ne 0 ] && grep -q '/nowhere/c.npy' message
check "an output that cannot be written" $?

head -c 3000 text > short
"$MINKE" perplexity model short --json --quiet > whole && grep -q '"bytes":3000' whole
check "perplexity" $?
"$MINKE" perplexity model short --json --quiet --context 64 --stride 32 > windows && grep -q '"bytes":3000' windows
check "perplexity by windows scores every byte" $?
"$MINKE" perplexity model short --json --quiet --attention auto > again && cmp whole again
check "perplexity over a plain cache of latents: the same" $?
"$MINKE" perplexity model short --json --quiet --cache-format fp8 > again && grep -q '"bytes":3000' again && ! cmp -s whole again
check "perplexity over an FP8 cache" $?
: > empty
"$MINKE" perplexity model empty 2>message
[ $? -ne 0 ] && grep -q 'empty' message && [ "$(wc -l < message)" -eq 1 ]
check "perplexity of an empty file: one clear line" $?

printf 'hello\nand again\\\nin two lines\n/regenerate\n/undo\n/stats\n/quit\n' | "$MINKE" chat model -n 12 --temp 1 --seed 3 --quiet > chat 2>message
[ $? -eq 0 ] && [ ! -s message ] && grep -q 'of 256 tokens, 2 messages' chat
check "a conversation from a pipe" $?
"$MINKE" chat model --context 32 < text > /dev/null 2>message
[ $? -ne 0 ] && grep -q 'context holds 32' message
check "a conversation that outgrows its context" $?
"$MINKE" generate no_such_model -p x 2>message
[ $? -ne 0 ] && [ "$(wc -l < message)" -eq 1 ] && grep -q no_such_model message
check "a missing model: one clear line" $?

# The first answer is there, so the weights are mapped; then the file shrinks under them.
cp -r model shrinking
: > answers
{
    echo hello
    for _ in $(seq 1 200); do
        [ -s answers ] && break
        sleep 0.05
    done
    truncate -s 5000 shrinking/model.safetensors
    echo again
} | "$MINKE" chat shrinking -n 4 --quiet > answers 2>message
[ $? -eq 1 ] && [ "$(wc -l < message)" -eq 1 ] && grep -q 'shrinking/model.safetensors: cannot be read' message
check "weights that are truncated while in use: one clear line" $?

"$MINKE" generate model -p "The quick" -n 24 --temp 1 --seed 5 --ignore-eos --quiet --ram 100M > limited && [ "$(cat limited)" = "$first" ]
check "a memory limit gives the same text" $?
exit $failed
