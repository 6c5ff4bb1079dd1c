#!/usr/bin/env python3
"""Makes tests/golden/text/chat.json: conversations and the prompts that the Jinja templates give for them.

    python3 tests/oracle/text/chat.py TEMPLATES_DIR > tests/golden/text/chat.json

TEMPLATES_DIR holds the published templates as <style>.jinja (v3, v3-0324, r1, r1-think, r1-0528, v3.1); they are not part of
this repository. The template that we write ourselves into trained tokenizers (src/text/chat_jinja.c) is rendered beside
v3-0324 and must agree. Rendering is done as transformers does it. Needs jinja2.
"""
import json
import os
import random
import re
import sys

from jinja2.sandbox import ImmutableSandboxedEnvironment

here = os.path.dirname(os.path.abspath(__file__))


def own_template():
    source = open(os.path.join(here, "..", "..", "..", "src", "text", "chat_jinja.c"), encoding="utf-8").read()
    literals = re.findall(r'^    "(.*)"', source, re.M)
    return "".join(json.loads('"%s"' % literal) for literal in literals)


def conversation(rng):
    messages = []
    for _ in range(rng.choice([0, 0, 1, 1, 2])):
        messages.append({"role": "system", "content": rng.choice(["You are a helpful assistant", "今天是星期一。", "Be brief."])})
    for turn in range(rng.randint(1, 3)):
        messages.append({"role": "user", "content": rng.choice(["Who are you?", "1+1=?", "Weather in\nParis?", " 你好 ", ""])})
        for _ in range(rng.choice([0, 0, 0, 1, 2])):
            calls = [{"type": "function", "function": {"name": rng.choice(["get_weather", "search"]),
                                                       "arguments": rng.choice(['{"city": "Paris"}', "{}", '{"q":"a b"}'])}}
                     for _ in range(rng.randint(1, 3))]
            messages.append({"role": "assistant", "content": rng.choice([None, None, "Let me look."]), "tool_calls": calls})
            for _ in calls:
                messages.append({"role": "tool", "content": rng.choice(["rain", '{"t": 21}', "none\n"])})
        if rng.random() < 0.8 or turn == 0:
            answer = rng.choice(["I am DeepSeek", "<think>Hmm</think>I am DeepSeek", "a</think>b</think>c", "2.", "\n\nYes"])
            messages.append({"role": "assistant", "content": answer})
            if rng.random() < 0.2:
                messages[-1]["prefix"] = True
    if rng.random() < 0.6:
        messages.append({"role": "user", "content": "And now?"})
    return messages


def main():
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    rng = random.Random(7)
    cases = []
    own = environment.from_string(own_template())
    for style in ["v3", "v3-0324", "r1", "r1-think", "r1-0528", "v3.1"]:
        text = open(os.path.join(sys.argv[1], style + ".jinja"), encoding="utf-8").read()
        template = environment.from_string(text)
        for _ in range(8):
            messages = conversation(rng)
            if style == "v3":   # it renders either the content or the calls
                for message in messages:
                    if message.get("tool_calls") and rng.random() < 0.8:
                        message["content"] = None
            options = {"add_generation_prompt": rng.random() < 0.5}
            if style == "v3.1":
                options["thinking"] = rng.random() < 0.5
            expected = template.render(messages=messages, bos_token="<｜begin▁of▁sentence｜>", **options)
            if style == "v3-0324":
                found = own.render(messages=messages, bos_token="<｜begin▁of▁sentence｜>", **options)
                if found != expected:
                    sys.exit("our template gives\n%s\ninstead of\n%s" % (found, expected))
            cases.append({"style": style, "messages": messages, "options": options, "expected": expected})
    print("[")
    print(",\n".join(json.dumps(case, ensure_ascii=False) for case in cases))
    print("]")


if __name__ == "__main__":
    main()
