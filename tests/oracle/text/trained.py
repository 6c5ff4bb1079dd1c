#!/usr/bin/env python3
"""Trains tokenizers with Minke and opens them in Hugging Face tokenizers and transformers. Run by hand from the repository
root after `make`:

    python3 tests/oracle/text/trained.py FILES... [--vocabulary 276 1000 32000]

Checks for each size: ids of generated text equal (as compare.py does), AutoTokenizer gives the same ids, special tokens and
chat prompt, and the files have exactly the vocabulary asked for. Needs the packages tokenizers, transformers and jinja2.
"""
import argparse
import os
import subprocess
import sys
import tempfile

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, here)
import compare  # noqa: E402
import documents  # noqa: E402
import tokenizers  # noqa: E402
import transformers  # noqa: E402


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+")
    parser.add_argument("--vocabulary", nargs="*", type=int, default=[276, 1000, 32000])
    options = parser.parse_args()
    failed = False

    def report(what, good):
        nonlocal failed
        failed |= not good
        print(("ok      " if good else "NOT OK  ") + what)

    texts = list(documents.documents(21, 300000))
    with tempfile.TemporaryDirectory() as folder:
        trainer, encoder = compare.driver_build(folder, "train"), compare.driver_build(folder, "encode")
        for size in options.vocabulary:
            model = os.path.join(folder, "model%d" % size)
            print("        " + subprocess.check_output([trainer, str(size), model] + options.files, text=True).strip())
            theirs = tokenizers.Tokenizer.from_file(os.path.join(model, "tokenizer.json"))
            report("%d: vocabulary size" % size, theirs.get_vocab_size(with_added_tokens=True) == size)
            found, _, _, round_trip = compare.ours(encoder, folder, model, [text.encode() for text in texts], 1)
            report("%d: ids equal, text comes back" % size,
                   round_trip and found == [theirs.encode(text, add_special_tokens=False).ids for text in texts])
            auto = transformers.AutoTokenizer.from_pretrained(model)
            report("%d: AutoTokenizer gives the same ids" % size,
                   found == [auto(text, add_special_tokens=False).input_ids for text in texts])
            report("%d: AutoTokenizer decodes" % size, all(auto.decode(ids) == text for ids, text in zip(found, texts)))
            report("%d: AutoTokenizer knows the special tokens" % size,
                   (len(auto), auto.bos_token_id, auto.eos_token_id, auto.pad_token_id) == (size, 0, 1, 2))
            prompt = auto.apply_chat_template([{"role": "system", "content": "S"}, {"role": "user", "content": "hi"}], tokenize=False)
            report("%d: AutoTokenizer renders the chat template" % size, prompt == "<｜begin▁of▁sentence｜>S<｜User｜>hi<｜Assistant｜>")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
