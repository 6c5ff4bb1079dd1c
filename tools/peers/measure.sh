#!/bin/sh
# Minke beside llama.cpp and ik_llama.cpp on the same weights, in turn, in the same minutes; prints a table in Markdown.
#
#   MINKE=build/minke CONFIG=S.json LLAMA_CPP=speed-lc IK_LLAMA_CPP=speed-ik MODELS=dir \
#       tools/peers/measure.sh OUT [ROUNDS] [short|deep]
#
# LLAMA_CPP and IK_LLAMA_CPP are the programs of tools/peers/build.sh, MODELS holds the files of its `models` step. RUN may name a
# command that every measurement is started with (one that keeps the machine idle), THREADS their number (2), ISA what Minke is
# told with --isa. Raw output is kept in OUT, and added to.
# Three rounds of the short part take about six minutes, the deep part about five.
set -e
threads=${THREADS:-2}
out=$1 rounds=${2:-3} parts=${3:-short deep}
here=$(dirname "$0")
mkdir -p "$out"
sed 's/"max_position_embeddings": *[0-9]*/"max_position_embeddings": 16384/' "$CONFIG" > "$out/config.json"

minke() {   # FORMAT DEPTH NAME
    subjects=decode
    [ "$2" = 64 ] && subjects="prefill decode"
    for subject in $subjects; do
        echo "# $(date +%T) $1" >> "$out/minke.$3.txt"
        $RUN "$MINKE" bench peak "$subject" --config "$out/config.json" --threads "$threads" --weights "$1" --length 512 \
            --depth "$2" ${ISA:+--isa "$ISA"} --seconds 0.4 --json >> "$out/minke.$3.txt" || echo "# incomplete" >> "$out/minke.$3.txt"
    done
}

peer() {   # llama.cpp|ik_llama.cpp NAME ARGUMENT...
    engine=$1 name=$2
    shift 2
    program=$LLAMA_CPP options=
    [ "$engine" = ik_llama.cpp ] && program=$IK_LLAMA_CPP options=repack=1   # rows interleaved at load: faster in all formats
    echo "# $(date +%T) $*" >> "$out/$engine.$name.txt"
    $RUN "$program" "$@" threads="$threads" $options 2>> "$out/$engine.log" >> "$out/$engine.$name.txt" ||
        echo "# incomplete" >> "$out/$engine.$name.txt"
}

file() {   # llama.cpp|ik_llama.cpp BITS
    echo "$MODELS/$1.$2.gguf"
}

short() {
    for round in $(seq "$rounds"); do
        for bits in 16 8 4; do
            for engine in llama.cpp ik_llama.cpp; do
                peer $engine $bits "$(file $engine $bits)" short 512 128
            done
            case $bits in
                16) minke bf16 64 16 ;;
                8) minke fp8 64 8f && minke int8 64 8 ;;
                4) minke int4 64 4 ;;
            esac
        done
    done
}

deep() {
    for bits in 16 8; do
        for engine in llama.cpp ik_llama.cpp; do
            peer $engine $bits "$(file $engine $bits)" decode 2048,8192 24
        done
    done
    for depth in 2048 8192; do
        minke bf16 $depth 16@$depth
        minke fp8 $depth 8f@$depth
        minke int8 $depth 8@$depth
        minke int4 $depth 4@$depth
    done
}

for part in $parts; do
    $part
done
python3 "$here/table.py" "$out"
