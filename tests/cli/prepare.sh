#!/usr/bin/env bash
# `minke prepare` from outside: text in, dataset out; options, mistakes, signals, and nothing half-written.
set -u
. tests/cli/check.sh
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

# Runs prepare, which must fail with one line that contains $1.
refuse() {   # fragment, arguments...
    local fragment=$1 message status
    shift
    message=$("$MINKE" prepare "$@" --quiet 2>&1 >/dev/null)
    status=$?
    [ $status -ne 0 ] && [ "$(printf '%s\n' "$message" | wc -l)" -eq 1 ] &&
        case $message in "minke: error: "*"$fragment"*) true ;; *) printf '%s\n' "$message" && false ;; esac
    check "refuses: $fragment" $?
}

mkdir books
for i in $(seq 1 300); do
    printf 'Chapter %d.\n\nCall me number %d. Some years ago I went to sea.\n\n' "$i" $((i * i)) >>books/moby.txt
done
printf '{"text": "first line"}\n{"text": "second line"}\n{"text": "first line"}\n' >books/lines.jsonl

"$MINKE" prepare out --quiet --train-tokenizer 400 --document-bytes 200 --validation-text books >summary 2>errors
check "text, JSON lines and a folder become a dataset" $?
[ ! -s errors ] && grep -q '^  training .* documents' summary && grep -q '^  left out .* 1 duplicates' summary
check "the summary names documents and duplicates, and nothing goes to stderr" $?
[ -f out/dataset.json ] && [ -f out/tokenizer.json ] && [ -f out/tokenizer_config.json ] && [ -s out/validation.txt ]
check "the folder has description, tokenizer and the held-out text" $?
"$MINKE" prepare out --verify | grep -q 'every checksum agrees'
check "--verify agrees" $?

for threads in 1 2 5; do
    "$MINKE" prepare "out-$threads" --quiet --threads $threads --train-tokenizer 400 --document-bytes 200 \
        --validation-text books >/dev/null
    diff -r out "out-$threads"
    check "the same bytes with $threads threads" $?
done

"$MINKE" prepare piped --quiet --tokenizer out --document-bytes 200 --validation-text - <books/moby.txt >/dev/null &&
    [ ! -e piped/standard-input ]
check "standard input is read, and its copy removed" $?
"$MINKE" prepare named --quiet --tokenizer out/tokenizer.json --document-bytes 200 --validation-text books/moby.txt >/dev/null &&
    diff -r piped named
check "a tokenizer named by its file, and the same dataset from a file" $?
printf 'one\ftwo\f\f three' >pages.txt
"$MINKE" prepare pages --quiet --tokenizer out --validation 0 --split-on '\f' pages.txt 2>/dev/null | grep -q 'training  *3 documents'
check "--split-on understands \\f" $?
"$MINKE" prepare both --quiet --train-tokenizer 300 --tokenizer trained books >/dev/null &&
    cmp both/tokenizer.json trained/tokenizer.json
check "a trained tokenizer is also written where --tokenizer says" $?
"$MINKE" prepare out --quiet --overwrite --tokenizer trained --validation-files books/lines.jsonl books/moby.txt | grep -q 'validation  *2 documents'
check "--overwrite and --validation-files" $?
"$MINKE" prepare invalid --quiet --tokenizer out <(printf 'x') >/dev/null 2>errors
[ $? -ne 0 ] && grep -q 'found a special file' errors
check "a pipe as a file is refused" $?

printf 'bad \377 byte' >bad.txt
"$MINKE" prepare replaced --quiet --tokenizer trained --validation 0 bad.txt >/dev/null
check "ill-formed UTF-8 is replaced" $?
refuse 'bad.txt: document at byte 0: ill-formed UTF-8: found byte 0xff' x --tokenizer trained --ill-formed refuse bad.txt
refuse 'no FILES' x --tokenizer trained
refuse 'no tokenizer' x books
refuse 'nothing.txt: cannot open' x --tokenizer trained nothing.txt
refuse 'nowhere' x --tokenizer nowhere books
refuse 'exclude each other' x --tokenizer trained --validation 0.1 --validation-bytes 9 books
refuse '--split-on: found "\q"' x --tokenizer trained --split-on '\q' books
refuse 'the folder exists and is not empty' out --tokenizer trained books
refuse 'found 10, expected' x --train-tokenizer 10 books
printf '\n' >empty.txt
refuse 'the corpus is empty' x --tokenizer trained empty.txt
printf '{"text": 1}\n' >bad.jsonl
refuse 'bad.jsonl: line 1: key "text": expected a string, found an integer' x --tokenizer trained bad.jsonl
if [ "$(id -u)" -ne 0 ]; then
    touch secret.txt && chmod 000 secret.txt
    refuse 'secret.txt: cannot open: Permission denied' x --tokenizer trained secret.txt
fi

# A file that cannot grow stands for a full disk: the limit is 8 KB, a shard needs more.
(
    trap '' XFSZ
    ulimit -f 8
    "$MINKE" prepare full --quiet --tokenizer trained --document-bytes 200 books/moby.txt >/dev/null 2>errors
)
[ $? -ne 0 ] && [ "$(wc -l <errors)" -eq 1 ] && grep -q 'full.tmp-.*: cannot write' errors
check "a write that fails gives one line that names the file" $?

# Flip one byte of a shard: --verify names the file.
printf '\377' | dd of=named/validation-00001.safetensors bs=1 seek=100 conv=notrunc 2>/dev/null
"$MINKE" prepare named --verify >/dev/null 2>errors
[ $? -ne 0 ] && grep -q 'validation-00001.safetensors' errors
check "--verify finds a changed byte" $?

# An interrupt in the middle leaves nothing. Standard input that does not end keeps it waiting.
mkfifo endless
"$MINKE" prepare killed --quiet --tokenizer trained - <endless >/dev/null 2>errors &
pid=$!
exec 9>endless
for _ in $(seq 1 100); do
    ls -d killed.tmp-* >/dev/null 2>&1 && break
    sleep 0.05
done
printf 'text' >&9
kill -TERM $pid
wait $pid
[ $? -eq 130 ] && grep -q 'interrupted' errors
status=$?
exec 9>&-
[ $status -eq 0 ]
check "SIGTERM ends it with a message" $?

[ -z "$(ls -d ./*.tmp-* ./*.old-* x full killed 2>/dev/null)" ]
check "nothing half-written remains" $?
exit $failed
