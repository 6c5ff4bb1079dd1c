#!/usr/bin/env python3
"""Makes the tokenizer's golden files in this folder. Run from the repository root after `make`:

    python3 tests/golden/text/make_golden.py

  train.txt            text for training (documents.py, seed 11)
  small/               the tokenizer that Minke's trainer makes of it, 700 tokens
  encode.json          texts and the ids that Hugging Face tokenizers gives for them with small/
  variants.json        changes of tokenizer.json (pre-tokenizers, ignore_merges, flags of added tokens), texts, ids
Texts are in hexadecimal. Needs gcc and the Python package tokenizers.
"""
import json
import os
import subprocess
import sys
import tempfile

import tokenizers

here = os.path.dirname(os.path.abspath(__file__))
root = os.path.join(here, "..", "..", "..")
sys.path.insert(0, here)
import documents  # noqa: E402

LATIN_GREEK_CYRILLIC = "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓͰ-ͳΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-Ֆ"


def split(pattern, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": "Isolated", "invert": False}


def sequence(*stages):
    return {"type": "Sequence", "pretokenizers": list(stages)}


def byte_level(use_regex):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


VARIANTS = {
    "DeepSeek-V2": {"pre_tokenizer": sequence(
        split("[\r\n]"), split("\\s?[" + LATIN_GREEK_CYRILLIC + "]+"), split("\\s?[!-/:-~！-／：-～‘-‟　-。]+"), split("\\s+$"),
        split("[一-龥ࠀ-一가-퟿]+"), {"type": "Digits", "individual_digits": True}, byte_level(False))},
    "GPT-2": {"pre_tokenizer": byte_level(True)},
    "GPT-4": {"pre_tokenizer": sequence(
        split("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
              "\\s+(?!\\S)|\\s+"), byte_level(False))},
    "digit runs": {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": False}, byte_level(False))},
    "string": {"pre_tokenizer": sequence(split(" a.", "String"), split("^.|\\n*", "Regex"), byte_level(False))},
    "ignore merges": {"ignore_merges": True},
    "strip": {"flags": {"<｜User｜>": {"lstrip": True}, "<｜Assistant｜>": {"rstrip": True}, "<|EOT|>": {"lstrip": True, "rstrip": True},
                        "<think>": {"normalized": False}}},
}


def encode_all(tokenizer, texts):
    return [{"text": text.encode().hex(), "ids": tokenizer.encode(text, add_special_tokens=False).ids} for text in texts]


def lines(name, cases):
    with open(os.path.join(here, name), "w", encoding="utf-8") as out:
        out.write("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in cases) + "\n]\n")


def main():
    train = os.path.join(here, "train.txt")
    with open(train, "wb") as out:
        out.write("".join(documents.documents(11, 40000)).encode())
    with tempfile.TemporaryDirectory() as folder:
        binary = os.path.join(folder, "train")
        subprocess.check_call(["gcc", "-O2", "-std=c17", "-D_GNU_SOURCE", "-I" + os.path.join(root, "src"),
                               os.path.join(root, "tests", "oracle", "text", "train.c"), os.path.join(root, "build", "libminke.a"),
                               "-o", binary, "-ljansson", "-lpcre2-8", "-lxxhash", "-lm", "-pthread"])
        subprocess.check_call([binary, "700", os.path.join(here, "small"), train])
    path = os.path.join(here, "small", "tokenizer.json")
    texts = [text[:1500] for text in documents.documents(12, 60000)][:30]
    lines("encode.json", encode_all(tokenizers.Tokenizer.from_file(path), texts))
    texts = [text[:300] for text in documents.documents(13, 40000)][:14] + ["a <｜User｜> \n<｜Assistant｜>  x<|EOT|>\u3000 \u180e<|EOT|> <think> é"]
    source = json.load(open(path, encoding="utf-8"))
    cases = []
    for name, change in VARIANTS.items():
        changed = json.loads(json.dumps(source))
        if "pre_tokenizer" in change:
            changed["pre_tokenizer"] = change["pre_tokenizer"]
        changed["model"]["ignore_merges"] = change.get("ignore_merges", False)
        for token in changed["added_tokens"]:
            token.update(change.get("flags", {}).get(token["content"], {}))
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(changed))
        cases.append({"name": name, "pre_tokenizer": changed["pre_tokenizer"], "ignore_merges": changed["model"]["ignore_merges"],
                      "added_tokens": changed["added_tokens"], "cases": encode_all(tokenizer, texts)})
    lines("variants.json", cases)


if __name__ == "__main__":
    main()
