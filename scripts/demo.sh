#!/usr/bin/env bash
# `make demo`: from public-domain text to a small trained DeepSeek-V3 that writes, in a few minutes on two cores.
# Everything it makes lies in the folder demo/; the model, its data and its picture can be used afterwards.
#
# The validation text is made of whole documents (chapters, groups of entries) chosen by their hash. Neither the model nor the
# tokenizer sees them. Its bits per byte are set beside those of xz and bzip2 on the same file.
set -eu
minke=${MINKE:-build/minke}
demo=demo
sources="bible jargon moby"   # moby only where npm can fetch it
started=$SECONDS

step() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || step() { printf '\n%s\n' "$*"; }

# Bits per byte of a file as a command compresses it.
compressed_bits() {
    local file=$1 size compressed
    shift
    size=$(wc -c <"$file")
    compressed=$("$@" <"$file" | wc -c)
    awk -v compressed="$compressed" -v size="$size" 'BEGIN { printf "%.3f", 8 * compressed / size }'
}

step "1. Corpus"
# shellcheck disable=SC2086
scripts/corpus.sh $demo/corpus $sources
inputs=()
for name in $sources; do
    [ ! -d "$demo/corpus/$name" ] || inputs+=("$demo/corpus/$name")
done

step "2. Tokenizer and token shards"
"$minke" prepare $demo/data --overwrite --train-tokenizer 4096 --document-bytes 0 --validation-bytes 270000 \
    --validation-text "${inputs[@]}"
held_out=$demo/data/validation.txt
xz=$(compressed_bits $held_out xz -9 -c)
bzip2=$(compressed_bits $held_out bzip2 -9 -c)

step "3. Training"
rm -rf $demo/run   # of an earlier demo
training=$SECONDS
"$minke" train examples/demo.ini
training=$((SECONDS - training))
model=$demo/run/checkpoints/latest

step "4. What it learned"
"$minke" plot $demo/run
for prompt in "And it came to pass" "The whale" "A hacker is"; do
    printf '\n'
    "$minke" generate "$model" --quiet --echo -p "$prompt" -n 60 --temp 0.7 --top-p 0.9 --seed 1
    printf '\n'
done

step "5. Held-out text, bits per byte"
bits=$("$minke" perplexity "$model" $held_out --json | sed 's/.*"bits_per_byte": *\([0-9.]*\).*/\1/')
printf '  %-44s %s\n' "minke, $training seconds of training" "$(printf '%.3f' "$bits")" "bzip2 -9" "$bzip2" "xz -9" "$xz"
awk -v bits="$bits" -v xz="$xz" -v bzip2="$bzip2" -v size="$(wc -c <$held_out)" 'BEGIN {
    beaten = (bits < xz) + (bits < bzip2)
    printf "The model %s on %d bytes that neither it nor its tokenizer has seen.\n",
        beaten == 2 ? "beats both" : beaten == 1 ? "beats one of them, not both," : "beats neither", size
}'
printf '\nThe model is %s, the picture %s; talk to it with\n' "$model" "$demo/run/run.png"
printf '    %s generate %s -p "In the beginning" -n 200 --temp 0.8\n' "$minke" "$model"
printf 'All of it took %d seconds.\n' $((SECONDS - started))
