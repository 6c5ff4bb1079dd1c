#!/usr/bin/env python3
"""Writes the first inputs of the fuzzers: make_seeds.py FOLDER -> FOLDER/<fuzzer>/<name>. Run in the root of the checkout.

tests/fuzz/corpus holds what has grown out of them, minimised (docs/testing.md)."""
import json
import os
import struct
import sys

ROOT = sys.argv[1]
CALLS, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, CALL_END, SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"


def seed(fuzzer, name, data):
    """One input; those of http begin with the place of a cut."""
    if fuzzer == "http":
        data = b"\5" + data.encode()
    os.makedirs(f"{ROOT}/{fuzzer}", exist_ok=True)
    with open(f"{ROOT}/{fuzzer}/{name}", "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode())


def parts(*texts):
    return b"\0".join(t if isinstance(t, bytes) else t.encode() for t in texts)


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


# ---- files ----

def header(tensors, metadata=None):
    entries, at = {}, 0
    if metadata:
        entries["__metadata__"] = metadata
    for name, dtype, bits, shape in tensors:
        count = bits
        for n in shape:
            count *= n
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + count // 8]}
        at += count // 8
    return compact(entries), at


def safetensors():
    cases = {
        "empty": ([], None),
        "plain": ([("a", "F32", 32, [2, 3]), ("b", "BF16", 16, [4])], {"format": "pt"}),
        "fp8": ([("w", "F8_E4M3", 8, [130, 2]), ("w_scale_inv", "F32", 32, [2, 1])], None),
        "odd": ([("scalar", "I64", 64, []), ("none", "F16", 16, [0, 5]), ("bit4", "F4", 4, [2, 3]), ("b", "BOOL", 8, [1, 1, 1, 1])],
                None),
    }
    for name, (tensors, metadata) in cases.items():
        text, size = header(tensors, metadata)
        seed("safetensors", name, struct.pack("<Q", len(text)) + text.encode() + bytes(size))
    text = '{ "\\u0061\\ud83d\\ude00\\n" : {"shape":[1],"dtype":"U8","data_offsets":[0,1]} , "__metadata__":{} } '
    seed("safetensors", "escapes", struct.pack("<Q", len(text)) + text.encode() + b"x")

    a, _ = header([("w", "F8_E4M3", 8, [130, 2]), ("x", "F32", 32, [2])])
    b, _ = header([("w_scale_inv", "F32", 32, [2, 1]), ("y", "BF16", 16, [3])])
    index = {"metadata": {"total_size": 282}, "weight_map": {"w": "a.safetensors", "x": "a.safetensors",
                                                            "w_scale_inv": "b.safetensors", "y": "b.safetensors"}}
    seed("checkpoint", "two", parts(compact(index), a, b))
    index["weight_map"] = {"w": "a.safetensors", "w_scale_inv": "a.safetensors", "z": "a.safetensors"}
    a, _ = header([("w", "F8_E4M3", 8, [4, 4]), ("w_scale_inv", "F32", 32, [1, 1]), ("z", "I32", 32, [2])])
    seed("checkpoint", "one", parts(compact(index), a, "{}"))
    index["metadata"] = {"deep": [[{"a": [1, -2.5e3, True, False, None, "x\\u00e9"]}]]}
    seed("checkpoint", "missing", parts(compact(index), "{}", "{}"))
    seed("checkpoint", "outside", parts(compact({"weight_map": {"w": "../a.safetensors"}}), a, b))


def config():
    for case in sorted(os.listdir("tests/golden/model")):
        path = f"tests/golden/model/{case}/config.json"
        if os.path.exists(path):
            seed("config", case, compact(json.load(open(path))))
    value = json.load(open("tests/golden/model/v3_yarn/config.json"))
    value["rope_parameters"] = dict(value.pop("rope_scaling") or {}, rope_theta=10000.0, rope_type="yarn")
    value["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128],
                                    "scale_fmt": "ue8m0", "activation_scheme": "dynamic"}
    value["model_type"] = "kimi_k2"
    seed("config", "kimi", compact(value))
    value["n_routed_experts"] = None
    value["tie_word_embeddings"] = True
    value["eos_token_id"] = [1, 2]
    seed("config", "dense", compact(value))


def run_config():
    for name in sorted(os.listdir("examples")):
        if name.endswith(".ini"):
            seed("run_config", name, open(f"examples/{name}").read())
    seed("run_config", "overrides", parts("[model]\nconfig = c.json\n[data]\npath = d\n[train]\nsteps = 2K\nsequence_length=64\n"
                                          "batch=8\nmicro_batch = 4\n[schedule]\nwarmup = 10%\ndecay_start=70%\n"
                                          "decay_end = 1.5K steps\n", "train.tokens=1.5M", "schedule.learning_rate=1e-3",
                                          "train.precision=fp8", "schedule.gamma_end=never", "train.steps=100"))


# ---- tokenizers ----

def alphabet():
    """The character of each byte in byte-level BPE."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    characters = {b: chr(b) for b in plain}
    characters.update({b: chr(256 + i) for i, b in enumerate(others)})
    return characters


def tokenizer():
    split = {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}"}, "behavior": "Isolated", "invert": False},
        {"type": "Split", "pattern": {"Regex": "[a-z]+| ?[^\\s]+|\\s+"}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    golden = json.load(open("tests/golden/text/small/tokenizer.json"))
    added = [{"id": 300, "content": "<｜User｜>", "special": False, "normalized": True, "lstrip": False, "rstrip": False,
              "single_word": False},
             {"id": 301, "content": "<｜Assistant｜>", "special": True, "lstrip": True, "rstrip": True},
             {"id": 302, "content": "<｜begin▁of▁sentence｜>", "special": True}]
    names = ["<｜end▁of▁sentence｜>", CALLS, CALLS_END, CALL, CALL_END, SEPARATOR, "<think>", "</think>", "<｜fim▁begin｜>",
             "<｜fim▁hole｜>", "<｜fim▁end｜>"] + [f"<｜tool▁output{s}▁{e}｜>" for s in ("", "s") for e in ("begin", "end")]
    added += [{"id": 303 + i, "content": name} for i, name in enumerate(names)]
    vocabulary = {"he": 256, "ll": 257, "hell": 258, "Ġw": 259, "or": 260, "Ãł": 261}
    merges = ["h e", "l l", "he ll", "Ġ w", ["o", "r"]]
    config_text = compact({"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": {"content": "<｜Assistant｜>"},
                           "add_bos_token": True, "chat_template": "'<｜User｜>' '<｜Assistant｜>' <｜tool▁calls▁begin｜>"})
    text = "hello world 12345\n<｜User｜> 你好 <｜Assistant｜>\t  end"
    # mode 1: parts around the 256 bytes; mode 0: the whole file
    seed("tokenizer", "split", b"\1" + parts(compact(vocabulary), compact(merges), compact(added), compact(split), "null", config_text,
                                            text))
    seed("tokenizer", "bytelevel", b"\1" + parts(compact(vocabulary), compact(merges), compact(added), compact(byte_level),
                                                compact({"type": "TemplateProcessing", "single": [
                                                    {"SpecialToken": {"id": "<｜begin▁of▁sentence｜>", "type_id": 0}}]}),
                                                config_text, text))
    for i, mark in enumerate(["", "+ '<｜Assistant｜>'", "'</think>' in", "'</think>' in <｜Assistant｜><think>",
                              "'</think>' in + '<｜Assistant｜>'", "set thinking"]):
        style = compact({"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>",
                         "chat_template": f"<｜User｜> <｜Assistant｜> {CALLS} {mark}"})
        seed("tokenizer", f"style{i}", b"\1" + parts(compact(vocabulary), compact(merges), compact(added).replace("\"lstrip\":true,"
             "\"rstrip\":true", "\"normalized\":false"), compact(byte_level), "null", style, "hello <think>a</think>b\\u0041 <｜User｜>"))
    seed("tokenizer", "ignore", b"\3" + parts(compact(vocabulary), "[]", "[]", compact(golden["pre_tokenizer"]), "null", "{}", text))
    seed("tokenizer", "template", b"\1" + parts(compact(vocabulary), compact(merges), compact(added), compact(byte_level),
                                               "null", compact({"chat_template": [{"name": "default", "template": "x"}]}), text))
    characters = alphabet()
    whole = {"version": "1.0", "added_tokens": added, "normalizer": None, "pre_tokenizer": split, "post_processor": None,
             "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": {characters[b]: b for b in range(256)}, "merges": []}}
    seed("tokenizer", "whole", b"\0" + parts(compact(whole), "{}", text))


# ---- the server's texts ----

def answers():
    call = f"{CALL}function{SEPARATOR}get_weather\n```json\n{{\"city\": \"Oslo\"}}\n```{CALL_END}"
    call_31 = f"{CALL}get_weather{SEPARATOR}{{\"city\": \"Oslo\"}}{CALL_END}"
    texts = {
        "plain": "Hello there.", "calls": f"Sure.{CALLS}{call}\n{call}{CALLS_END}", "v31": f"{CALLS}{call_31}{call_31}{CALLS_END}",
        "think": "<think>\nhm\n</think>\n\nAnswer.", "cut": f"{CALLS}{CALL}function{SEPARATOR}f\n```json\n{{\"a\"",
        "forgiven": f"{CALLS}{CALL}function{SEPARATOR}f\n{{}}{CALLS_END}tail", "nested": f"{CALLS}{CALL}f{SEPARATOR}f\n```json\n{{{call}",
        "empty": f"{CALLS}{CALL}function{SEPARATOR}\n```{CALL_END}", "bare": f"{CALL}function{SEPARATOR}now{CALL_END}",
        "name": f"{CALLS}{CALL}function{SEPARATOR}now{CALL_END}{CALLS_END}", "text": f"{CALLS}x{CALLS}{call}",
        "blank": f"{CALLS}\n {call}\n {CALLS_END}", "fence": f"{CALLS}{CALL}function{SEPARATOR}f\n```\n[]\n```\n{CALL_END}",
    }
    for name, text in texts.items():
        for style in (1, 5, 9, 130):
            seed("answer_parser", f"{name}{style}", bytes([style, 3]) + text.encode())
    for style in range(18):
        seed("calls", f"style{style}", bytes([style, 5, style]) + parts("I think.", "Let me look.", "get_weather", '{"city":"Oslo"}',
                                                                       "now", "{}", "add", '{"a":[1,2],"b":"</think>"}'))
    seed("stop", "two", b"\2\7" + parts("END", "\n\n", "some text EN and\nthen\n\nmore END"))
    seed("stop", "repeat", b"\3\1" + parts("aaab", "ab", "ba", "aaaaabaab"))


PATTERNS = ["^[a-z]+$", "\\d{3}-\\d{4}", "^(foo|bar)?baz*$", "[^\\s\\w]|\\u0041\\x42\\cJ", "^\\S+@\\S+\\.\\S+$", "(?:a{2,3}){1,2}b+?", ".*x.{0,3}$",
            "^[\\u{1F600}-\\u{1F64F}é-ü]+$", "^$", "a|^b|c$", "[\\]\\-^a]", "(?=a)", "\\bword\\b", "^\"\\\\/\\t$", "^.{2,5}$", "[]", "[^]"]


def patterns():
    for i, pattern in enumerate(PATTERNS):
        seed("pattern", f"p{i}", parts(pattern, "foo 123-4567 bar@x.yz"))


SCHEMAS = [
    {"type": "object", "properties": {"a": {"type": "integer", "minimum": -5, "maximum": 120}, "b": {"type": "string", "minLength": 1,
     "maxLength": 4}}, "required": ["a"], "additionalProperties": False},
    {"type": "array", "items": {"enum": [1, "x", None, [1], {"k": 2.5}]}, "minItems": 1, "maxItems": 3},
    {"anyOf": [{"type": "string", "pattern": "^[ab]{2}$"}, {"type": "number", "exclusiveMinimum": 0.5, "multipleOf": 0.25}, {"type": "null"}]},
    {"$defs": {"tree": {"type": "object", "properties": {"v": {"type": "boolean"}, "next": {"$ref": "#/$defs/tree"}}}}, "$ref":
     "#/$defs/tree"},
    {"type": "string", "format": "date-time"}, {"type": "string", "format": "uuid"}, {"type": "string", "format": "ipv6"},
    {"type": "string", "format": "email"}, {"type": "string", "format": "duration"}, {"type": "string", "format": "uri"},
    {"type": "string", "format": "hostname"}, {"type": "string", "format": "ipv4"}, {"type": "string", "format": "time"},
    {"type": "string", "format": "date"},
    {"allOf": [{"properties": {"x": {"type": "integer"}}, "required": ["x"]}, {"properties": {"x": {"minimum": 3}, "y": True}}]},
    {"prefixItems": [{"const": "a"}, {"type": "integer"}], "items": False, "minItems": 2}, True, False, {}, {"type": ["string", "null"]},
    {"type": "integer", "multipleOf": 7, "minimum": -50, "maximum": 50}, {"type": "number", "minimum": -1.5, "maximum": 2.25},
    {"oneOf": [{"type": "integer"}, {"type": "object"}], "title": "t", "nullable": True},
    {"type": "object", "additionalProperties": {"type": "string", "maxLength": 2}, "required": ["q"]},
    {"type": "number", "multipleOf": 0.01}, {"type": "integer", "exclusiveMaximum": 1000, "exclusiveMinimum": 994},
    {"definitions": {"a": {"anyOf": [{"$ref": "#/definitions/a"}, {"const": 1}]}}, "$ref": "#/definitions/a"},
    {"enum": ["é", "\n", "\u2028", "a\"b", "", 1e300, -0.0, 12345678901234567]},
]
VALUES = ['{"a":3,"b":"xy"}', '["x",1]', '"ab"', '{"v":true,"next":{"v":false}}', "null", "-5", "1.5e3", '"\\u00e9"', "[ 1 , 2 ]"]


def schemas():
    for i, schema in enumerate(SCHEMAS):
        seed("schema", f"s{i}", parts(json.dumps(schema), VALUES[i % len(VALUES)]))
    tools = [{"type": "function", "function": {"name": "f", "strict": True, "parameters": SCHEMAS[0]}},
             {"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": {"type": "object"}}},
             {"type": "function", "function": {"name": "now"}}]
    for style in range(6):
        for choice in range(4):
            seed("tools", f"t{style}{choice}", bytes([style + 6 * choice, style]) + parts(json.dumps(tools), "f",
                 json.dumps({"type": "json_object"} if choice == 0 else {"type": "text"})))
    seed("tools", "schema", bytes([5, 1]) + parts(json.dumps(tools[1:]), "", json.dumps({"type": "json_schema", "json_schema": {
        "name": "x", "schema": SCHEMAS[0]}})))


# ---- requests: endpoint, style, then the body ----

def requests():
    user = {"role": "user", "content": "Hi"}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}
    chats = {
        "plain": {"messages": [user]},
        "many": {"model": "deepseek-reasoner", "messages": [{"role": "system", "content": "Be kind."}, user, {"role": "assistant",
                 "content": "Hello"}, user], "n": 2, "temperature": 1, "top_p": 0.5, "top_k": 5, "min_p": 0.1, "seed": 7,
                 "frequency_penalty": 1, "presence_penalty": -1, "repetition_penalty": 1.5, "logprobs": True, "top_logprobs": 3,
                 "stop": ["a", "the "], "logit_bias": {"5": 3, "6": -100}, "stream": True, "stream_options": {"include_usage": True}},
        "parts": {"messages": [{"role": "developer", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}, user]},
        "tools": {"messages": [user, {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {
                  "name": "f", "arguments": "{}"}}]}, {"role": "tool", "tool_call_id": "1", "content": "42"}], "tools": [tool],
                  "tool_choice": "auto"},
        "required": {"messages": [user], "tools": [tool], "tool_choice": "required", "parallel_tool_calls": False},
        "named": {"messages": [user], "tools": [tool], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        "schema": {"messages": [user], "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMAS[0]}}},
        "object": {"messages": [user], "response_format": {"type": "json_object"}, "max_completion_tokens": 5},
        "thinking": {"messages": [user], "thinking": {"type": "enabled"}, "chat_template_kwargs": {"thinking": False},
                     "reasoning_effort": "low"},
        "refused": {"messages": [user], "functions": []},
        "end": {"messages": [user], "ignore_eos": True, "user": "x", "best_of": 1},
    }
    for name, body in chats.items():
        for style in range(6):
            seed("request", f"chat_{name}{style}", bytes([0, style]) + compact(body).encode())
    texts = {
        "plain": {"prompt": "Once upon", "max_tokens": 4},
        "many": {"prompt": ["one", "two"], "n": 2, "echo": True, "logprobs": 2, "stream": True, "seed": 3},
        "ids": {"prompt": [1, 2, 3], "echo": True, "max_tokens": 0, "logprobs": 1, "temperature": 0},
        "lists": {"prompt": [[1, 2], [3]], "logprobs": 0}, "fim": {"prompt": "def f(", "suffix": "return x", "max_tokens": 3},
        "schema": {"prompt": "x", "response_format": {"type": "json_object"}, "add_special_tokens": False},
    }
    for name, body in texts.items():
        seed("request", f"text_{name}", bytes([1, 1]) + compact(body).encode())
    for name, body in {"prompt": {"prompt": "héllo <｜User｜>", "return_token_strs": True}, "content": {"content": "x", "add_special": True},
                       "messages": {"messages": [user], "add_generation_prompt": False}}.items():
        seed("request", f"tokenize_{name}", bytes([2, 1]) + compact(body).encode())
    seed("request", "detokenize", bytes([3, 1]) + compact({"tokens": [1, 2, 300, 5]}).encode())

    def http(method, path, body="", head=""):
        return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(body.encode())}\r\n\r\n{body}"
    key = "Authorization: Bearer secret\r\nConnection: close\r\n"
    chat = compact(dict(chats["plain"], max_tokens=2))
    seed("http", "chat", http("POST", "/v1/chat/completions", chat, key))
    seed("http", "stream", http("POST", "/v1/chat/completions", compact(dict(chats["many"], max_tokens=2)), key))
    seed("http", "completions", http("POST", "/beta/completions", compact(texts["fim"]), key))
    seed("http", "nokey", http("POST", "/v1/completions", compact(texts["plain"])))
    seed("http", "badkey", http("GET", "/v1/models", "", "Authorization: Bearer secreu\r\n"))
    for i, path in enumerate(["/health", "/metrics", "/", "/page/app.js", "/engine", "/v1/models", "/v1/models/fuzz", "/tokenizer_info",
                              "/nothing", "/../x%0a%00", "/page/../x"]):
        seed("http", f"get{i}", http("GET", path, "", key))
    seed("http", "options", http("OPTIONS", "/v1/chat/completions", "", "Origin: http://x\r\n"))
    seed("http", "etag", http("HEAD", "/page/app.js", "", "If-None-Match: \"x\"\r\n"))
    seed("http", "chunked", "POST /tokenize HTTP/1.1\r\nHost: x\r\n" + key + "Transfer-Encoding: chunked\r\n\r\n5\r\n{\"pro\r\n9\r\nmpt\":\"a\"}\r\n"
         "0\r\n\r\n")
    seed("http", "expect", http("POST", "/detokenize", '{"tokens":[1]}', key + "Expect: 100-continue\r\n"))
    seed("http", "two", http("GET", "/health") + http("GET", "/health"))
    seed("http", "large", http("POST", "/tokenize", "x" * 5000, key))
    seed("http", "wrong", http("PUT", "/tokenize", "x", key))
    seed("http", "half", http("POST", "/tokenize", "{}", key)[:-1])


safetensors()
config()
run_config()
tokenizer()
answers()
patterns()
schemas()
requests()
