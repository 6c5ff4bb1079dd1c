#!/bin/sh
# Builds tools/peers/speed.c with llama.cpp or ik_llama.cpp, and writes the model files that measure.sh reads.
#
#   tools/peers/build.sh program llama.cpp SOURCES BUILD speed-lc        CMake, Release, -march=native, OpenMP
#   tools/peers/build.sh program ik_llama.cpp SOURCES BUILD speed-ik
#   tools/peers/build.sh models MODEL_DIR MODELS speed-lc speed-ik       BF16, Q8_0 and Q4_0 of both
#
# ik_llama.cpp takes half an hour of processor time to compile. Its attention kernels and graphs of other models may be left
# out: name the objects wanted in OBJECTS, the rest then stays undefined in the program.
set -e
here=$(dirname "$0")

# llama.cpp without AMX: on a processor that has it, its absorbed attention meets weights in AMX buffers, which it cannot plan
# ("*cur_backend_id != -1"), and with those weights in BF16 its AMX products of Q8_0 and Q4_0 crash (version of August 2026).
program() {   # ENGINE SOURCES BUILD OUT
    define= flags="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
    [ "$1" = ik_llama.cpp ] && define=-DIK_LLAMA flags=
    cmake -S "$2" -B "$3" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DGGML_OPENMP=ON -DBUILD_SHARED_LIBS=OFF \
        -DLLAMA_CURL=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF \
        -DCMAKE_C_FLAGS="$flags" -DCMAKE_CXX_FLAGS="$flags" > /dev/null
    gcc -std=c17 -O2 -D_POSIX_C_SOURCE=200809L $define -I"$2/include" -I"$2/ggml/include" -c "$here/speed.c" -o "$3/speed.o"
    if [ -n "$OBJECTS" ]; then
        (cd "$3" && ninja $OBJECTS && gcc -no-pie -o speed speed.o $OBJECTS -Wl,--unresolved-symbols=ignore-all \
            -lstdc++ -lgomp -lm -lpthread -ldl)
    else
        ninja -C "$3" llama
        (cd "$3" && gcc -o speed speed.o -Wl,--start-group $(find . -name '*.a') -Wl,--end-group \
            -lstdc++ -lgomp -lm -lpthread -ldl)
    fi
    cp "$3/speed" "$4"
}

models() {   # MODEL_DIR MODELS SPEED_LC SPEED_IK
    mkdir -p "$2"
    for engine in llama.cpp ik_llama.cpp; do
        program=$3
        [ $engine = ik_llama.cpp ] && program=$4
        python3 "$here/write_gguf.py" "$1" "$2/$engine.16.gguf" --for $engine
        "$program" "$2/$engine.16.gguf" quantize "$2/$engine.8.gguf" 7
        "$program" "$2/$engine.16.gguf" quantize "$2/$engine.4.gguf" 2
    done
}

"$@"
