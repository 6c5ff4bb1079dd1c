#!/bin/sh
# Installs the Debian packages that Minke needs: scripts/deps.sh [GROUP...]   (default: build test)
#
#   build    compiler and libraries          test     what the tests link against
#   demo     corpora, pictures, rivals       check    `make check`
#   page     a browser and what drives it, for `make test-page`
#   fuzz     clang with libFuzzer and its sanitizers, for `make fuzz`
#   run      only what an installed minke needs at run time
#   oracles  Python packages that made the golden files of tests/golden, in build/oracles (never needed by `make test`)
#
# As root it installs what is missing; otherwise it prints the command and fails. Quick when nothing is missing.
set -eu

build="gcc libc6-dev make pkg-config libjansson-dev libpcre2-dev libmicrohttpd-dev libedit-dev libxxhash-dev libinih-dev"
test="libcmocka-dev curl gnuplot-nox"
check="clang-format cppcheck perl"
demo="bible-kjv bible-kjv-text jargon-text gnuplot-nox xz-utils bzip2"
page="chromium nodejs fonts-inter"
fuzz="clang libclang-rt-14-dev"
run="libjansson4 libpcre2-8-0 libmicrohttpd12 libedit2 libxxhash0 libinih1 gnuplot-nox"
oracles="python3 python3-venv"

[ $# -gt 0 ] || set -- build test
wanted=""
with_oracles=no
for group in "$@"; do
    case $group in
    build) wanted="$wanted $build" ;;
    test) wanted="$wanted $test" ;;
    check) wanted="$wanted $check" ;;
    demo) wanted="$wanted $demo" ;;
    page) wanted="$wanted $page" ;;
    fuzz) wanted="$wanted $fuzz" ;;
    run) wanted="$wanted $run" ;;
    oracles) wanted="$wanted $oracles" with_oracles=yes ;;
    *)
        echo "deps.sh: unknown group \"$group\", expected build, test, check, demo, page, fuzz, run or oracles" >&2
        exit 2
        ;;
    esac
done

if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "deps.sh: this is not a Debian system; the packages wanted are called there:$wanted" >&2
    exit 0
fi

missing=""
for package in $wanted; do
    status=$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null || true)
    case $status in
    ii*) ;;
    *) missing="$missing $package" ;;
    esac
done

if [ -n "$missing" ]; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "deps.sh: missing packages; please run:" >&2
        echo "    sudo apt-get install -y --no-install-recommends$missing" >&2
        exit 1
    fi
    echo "deps.sh: installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    # The lists of a fresh machine are empty, those of an old one name files that are gone: update when needed.
    # shellcheck disable=SC2086
    apt-get install -y -q --no-install-recommends $missing >/dev/null 2>&1 || {
        apt-get update -q >/dev/null
        apt-get install -y -q --no-install-recommends $missing >/dev/null
    }
fi

if [ $with_oracles = yes ] && [ ! -x build/oracles/bin/python ]; then
    python3 -m venv build/oracles
    build/oracles/bin/pip install --quiet torch transformers tokenizers safetensors numpy ml_dtypes
fi
