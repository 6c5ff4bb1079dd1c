#!/usr/bin/env python3
"""Constrained decoding against an independent validator (pip: jsonschema, rfc3339-validator for the formats).

    constrain.py PROGRAM TOKENIZER_DIR [--schemas N] [--seed S]

PROGRAM is tests/oracle/serve/constrain.c, built with build/libminke.a (see there). For random schemas of the supported
keywords: every document that a random walk over the masks writes must be valid; every random valid document, written in
the order of the properties, must be allowed token by token; spoiled documents that the validator refuses must not be.
"""
import argparse
import json
import random
import re
import subprocess
import sys

import jsonschema

ap = argparse.ArgumentParser()
ap.add_argument("program")
ap.add_argument("tokenizer")
ap.add_argument("--schemas", type=int, default=300)
ap.add_argument("--seed", type=int, default=1)
args = ap.parse_args()
R = random.Random(args.seed)

WORDS = ["a", "b", "name", "na", "naïve", "x y", "日本", "q\"uote", "back\\slash", "type", "value", "é", "tab\t", "😀"]
PATTERNS = [("^[a-z]{2,5}$", ["ab", "hello"]), ("\\d{3}", ["a123b", "999"]), ("^(foo|bar)+$", ["foo", "barfoo"]),
            ("^[^\\s\"]+@x\\.y$", ["a@x.y"]), ("^\\w+( \\w+)*$", ["ab cd", "z"]), ("^.{0,3}$", ["", "日本語", "\"\\a"]),
            ("a|b$", ["xxa", "b", "cab"]), ("^[À-ÿ一-龥]*$", ["é", "中文"]), ("^A(?:b|c)?$", ["A", "Ab"])]
FORMATS = {"date": ["2024-02-29", "1999-12-31"], "time": ["12:00:00Z", "23:59:59.5+02:00"], "uuid":
           ["123e4567-e89b-12d3-a456-426614174000"], "date-time": ["2020-01-31T00:00:00Z"], "ipv4": ["1.2.3.255"],
           "ipv6": ["::1", "1:2:3:4:5:6:7:8", "fe80::1:2"], "email": ["a.b@c.de"], "hostname": ["a-b.example"],
           "duration": ["P1DT2H", "PT5S", "P3W"], "uri": ["https://example.org/a?b=c#d"]}


def scalar_schema():
    k = R.randrange(11)
    if k == 0:
        return {"type": "string"}, lambda: R.choice(WORDS) + R.choice(WORDS)
    if k == 1:
        low, more = R.randrange(4), R.randrange(4)
        return ({"type": "string", "minLength": low, "maxLength": low + more},
                lambda: "".join(R.choice("aé日😀\"\\\n ") for _ in range(low + R.randint(0, more))))
    if k == 2:
        pattern, good = R.choice(PATTERNS)
        return {"type": "string", "pattern": pattern}, lambda: R.choice(good)
    if k == 3:
        low = R.randint(-2000, 2000)
        high = low + R.randrange(3000)
        s = {"type": "integer", "minimum": low}
        if R.random() < 0.7:
            s["maximum"] = high
        return s, lambda: R.randint(low, high)
    if k == 4:
        return {"type": "integer"}, lambda: R.choice([0, -1, 7, 123456789012, R.randint(-10**9, 10**9)])
    if k == 5:
        low = R.choice([-100, -1.5, 0, 0.001, 3, 99.99]) * R.choice([1, 1, 1000])
        high = low + R.choice([0.5, 1, 10.25, 1000])
        s = {"type": "number", R.choice(["minimum", "exclusiveMinimum"]): low,
             R.choice(["maximum", "exclusiveMaximum"]): high}
        return s, lambda: round(low + (high - low) * R.uniform(0.1, 0.9), R.choice([4, 6, 10]))
    if k == 6:
        return {"type": "number"}, lambda: R.choice([0, 1.5, -2e-7, 1e22, R.gauss(0, 1e5), 3, 1e-300])
    if k == 7:
        return {"type": R.choice(["boolean", ["boolean", "null"]])}, lambda: R.random() < 0.5
    if k == 8:
        values = R.sample(WORDS + [1, 2.5, None, True, ["x", {"y": 1}], {}], 4)
        return {"enum": values}, lambda: R.choice(values)
    if k == 9:
        name = R.choice(list(FORMATS))
        return {"type": "string", "format": name}, lambda: R.choice(FORMATS[name])
    m = R.choice([2, 3, 7, 10, 250])
    return {"type": "integer", "multipleOf": m, "minimum": -5000}, lambda: m * R.randint(-5000 // m + 1, 9999)


def any_value(depth=0):
    k = R.randrange(7 if depth < 3 else 5)
    if k == 5:
        return [any_value(depth + 1) for _ in range(R.randrange(3))]
    if k == 6:
        return {R.choice(WORDS) + str(i): any_value(depth + 1) for i in range(R.randrange(3))}
    return [None, True, 12, -0.5, "s\n" + R.choice(WORDS)][k]


def schema(depth=0):
    """A schema, and a function that makes valid values of it."""
    k = R.random()
    if depth > 3 or k < 0.35:
        return scalar_schema()
    if k < 0.65:
        names = R.sample(WORDS, R.randrange(0, 6))
        subs = {n: schema(depth + 1) for n in names}
        required = [n for n in names if R.random() < 0.5]
        s = {"type": "object", "properties": {n: subs[n][0] for n in names}, "required": required}
        extra = R.choice([False, False, None, "schema"])
        extra_make = any_value
        if extra is False:
            s["additionalProperties"] = False
        elif extra == "schema":
            s["additionalProperties"], extra_make = scalar_schema()
        elif R.random() < 0.3:
            del s["type"]

        def make():
            value = {n: subs[n][1]() for n in names if n in required or R.random() < 0.5}
            if extra is not False and R.random() < 0.5:
                for i in range(R.randrange(3)):
                    value["Extra" + str(i)] = extra_make()
                if R.random() < 0.3 and "nam" not in names:
                    value["nam"] = extra_make()
            return value
        return s, make
    if k < 0.8:
        sub = schema(depth + 1)
        low = R.randrange(3)
        high = low + R.randrange(4)
        s = {"type": "array", "items": sub[0], "minItems": low}
        prefix = [schema(depth + 2) for _ in range(R.randrange(3))] if R.random() < 0.3 else []
        if prefix:
            s["prefixItems"] = [p[0] for p in prefix]
            s["minItems"] = low = len(prefix)
            high = low + 3
        if R.random() < 0.6:
            s["maxItems"] = high
        return s, lambda: [prefix[i][1]() if i < len(prefix) else sub[1]() for i in range(R.randint(low, high))]
    if k < 0.92:
        subs = [schema(depth + 1) for _ in range(R.randint(1, 3))]
        return {"anyOf": [s[0] for s in subs]}, lambda: R.choice(subs)[1]()
    if k < 0.96:
        a, b = schema(depth + 1), scalar_schema()
        s = {"allOf": [{"type": "object", "properties": {"p": a[0]}, "required": ["p"]},
                       {"properties": {"q": b[0]}, "description": "second"}]}
        return s, lambda: {"p": a[1](), **({"q": b[1]()} if R.random() < 0.5 else {})}
    return {}, any_value


def with_tree(s, make):
    """Wraps a schema in a recursive one."""
    whole = {"$defs": {"tree": {"type": "object", "properties": {"leaf": s, "down": {
        "type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 3}, "next": {
            "anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}}, "required": ["leaf"], "additionalProperties":
        False}}, "$ref": "#/$defs/tree", "title": "t"}

    def grow(depth=0):
        value = {"leaf": make()}
        if depth < 3 and R.random() < 0.5:
            value["down"] = [grow(depth + 1) for _ in range(R.randrange(3))]
        if depth < 3 and R.random() < 0.5:
            value["next"] = grow(depth + 1) if R.random() < 0.6 else None
        return value
    return whole, grow


def write(value):
    style = R.randrange(3)
    if style == 0:
        return json.dumps(value, ensure_ascii=False)
    if style == 1:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return json.dumps(value, ensure_ascii=False, indent=R.choice([1, 2, 4]))


def spoil(text):
    k = R.randrange(5)
    at = R.randrange(len(text) + 1)
    if k == 0:
        return text[:at] + R.choice("{}[],:\"0-a") + text[at:]
    if k == 1:
        return text[:at] + text[at + 1:]
    if k == 2:
        return text[:at]
    if k == 3:
        return re.sub(r"\d", lambda m: str(R.randrange(10)), text, count=3)
    return text.replace("\"", "\"a", 2)


def refuse_constant(name):
    raise ValueError(name)


def is_valid(validator, text):
    try:
        value = json.loads(text, parse_constant=refuse_constant)
        return validator.is_valid(value)
    except ValueError:
        return False


process = subprocess.Popen([args.program, args.tokenizer], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                           bufsize=1)
walks = texts = spoiled = bad = unsupported = masks = 0
longest = total = 0.0
for number in range(args.schemas):
    s, make = schema()
    if R.random() < 0.2:
        s, make = with_tree(s, make)
    validator = jsonschema.Draft202012Validator(s, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    good = [v for v in (make() for _ in range(6)) if validator.is_valid(v)]
    documents = [write(v) for v in good]
    wrong = [t for t in (spoil(d) for d in documents for _ in range(3)) if not is_valid(validator, t)]
    job = {"request": {"response_format": {"type": "json_schema", "json_schema": {"name": "t", "schema": s}}},
           "walks": 6, "seed": args.seed * 100000 + number * 10, "texts": documents + wrong}
    process.stdin.write(json.dumps(job) + "\n")
    answer = json.loads(process.stdout.readline())
    if "error" in answer:
        unsupported += 1
        print("ERROR", answer["error"], json.dumps(s)[:500])
        continue
    for text in answer["walks"]:
        walks += 1
        if not isinstance(text, str):
            if text["end"] != "TOO LONG":
                bad += 1
                print("WALK", text, json.dumps(s))
        elif not is_valid(validator, text):
            bad += 1
            print("INVALID", repr(text), json.dumps(s))
            print("   ", [e.message[:200] for e in validator.iter_errors(json.loads(text))][:3])
    for text, refused in zip(documents + wrong, answer["texts"]):
        if text in documents:
            texts += 1
            if refused:
                bad += 1
                print("REFUSED", repr(text), refused, json.dumps(s))
        else:
            spoiled += 1
            if not refused:
                bad += 1
                print("ACCEPTED", repr(text), json.dumps(s))
    masks += answer["masks"]
    total += answer["mask_mean_us"] * answer["masks"]
    longest = max(longest, answer["mask_max_us"])
process.stdin.close()
process.wait()
print(f"{args.schemas} schemas ({unsupported} not compiled), {walks} walks, {texts} valid documents, {spoiled} spoiled "
      f"ones: {bad} wrong. {masks} masks: mean {total / max(masks, 1):.1f} us, longest {longest:.0f} us")
sys.exit(bad > 0 or unsupported > 0)
