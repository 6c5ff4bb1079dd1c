"""lm-evaluation-harness through local-completions, with no extra flags: lm_eval_client.py URL MODEL_DIR MINKE

A small multiple-choice task is run by its command line; every log-likelihood must be the one that `minke logits` gives.
"""
import glob
import json
import os
import subprocess
import sys

import numpy

url, directory, minke = sys.argv[1:4]
os.makedirs("task", exist_ok=True)
with open("task/data.jsonl", "w") as out:
    for i in range(8):
        out.write(json.dumps({"question": f"Line {i}: the quick brown fox", "choices": [" jumps over", " times; Zeichen", " dog, W\u00f6rter"],
                              "answer": i % 3}) + "\n")
with open("task/small_choice.yaml", "w") as out:
    out.write(f"""task: small_choice
dataset_path: json
dataset_kwargs:
  data_files:
    test: {os.path.abspath("task/data.jsonl")}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
target_delimiter: ""
metric_list:
  - metric: acc
""")
command = [os.path.join(os.path.dirname(sys.executable), "lm_eval"), "run", "--model", "local-completions", "--model_args",
           f"model=model,base_url={url}/v1/completions", "--tasks", "small_choice", "--include_path", "task", "--log_samples",
           "--output_path", "results"]
result = subprocess.run(command, capture_output=True, text=True)
if result.returncode != 0:
    sys.exit(result.stdout[-3000:] + result.stderr[-3000:])


def encode(text):
    lines = subprocess.run([minke, "tokenize", directory], input=text + "\n", capture_output=True, text=True, check=True)
    return json.loads(lines.stdout)


def likelihood(context, continuation):
    """As the harness splits it: the continuation begins where the context's own ids end."""
    whole, begin = encode(context + continuation), len(encode(context))
    subprocess.run([minke, "logits", directory, "--ids", ",".join(map(str, whole)), "-o", "logits.npy", "--quiet"], check=True)
    logits = numpy.load("logits.npy").astype(numpy.float64)
    rows = logits - numpy.log(numpy.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True)) - logits.max(-1, keepdims=True)
    values = [rows[i - 1, whole[i]] for i in range(begin, len(whole))]
    greedy = all(int(rows[i - 1].argmax()) == whole[i] for i in range(begin, len(whole)))
    return sum(values), greedy


compared, worst = 0, 0.0
for name in glob.glob("results/**/samples_small_choice*.jsonl", recursive=True):
    for line in open(name):
        sample = json.loads(line)
        for response, request in zip(sample["resps"], sample["arguments"].values()):
            value, greedy = response[0]
            wanted, wanted_greedy = likelihood(request["arg_0"], request["arg_1"])
            worst = max(worst, abs(float(value) - wanted))
            assert str(greedy) == str(wanted_greedy)
            compared += 1
assert compared == 24, compared
assert worst < 1e-5, worst
print(f"ok lm-eval: {compared} log-likelihoods, largest difference to minke logits {worst:.2g}")
