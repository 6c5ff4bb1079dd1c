"""The official openai package for Python against a running server: openai_client.py URL"""
import json
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0)
model = client.models.list().data[0].id
hello = [{"role": "user", "content": "Hello"}]

# Chat, whole and as a stream: the same text.
whole = client.chat.completions.create(model=model, messages=hello, max_tokens=20, temperature=1, seed=5, logprobs=True, top_logprobs=3)
assert whole.choices[0].message.role == "assistant" and whole.choices[0].finish_reason in ("stop", "length")
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
assert whole.usage.prompt_tokens_details.cached_tokens >= 0
content = whole.choices[0].logprobs.content
assert len(content) == 20 and len(content[0].top_logprobs) == 3 and content[0].logprob <= 0 and content[0].bytes
pieces, last = [], None
for chunk in client.chat.completions.create(model=model, messages=hello, max_tokens=20, temperature=1, seed=5, stream=True,
                                            stream_options={"include_usage": True}):
    if chunk.choices:
        pieces.append(chunk.choices[0].delta.content or "")
    last = chunk
assert "".join(pieces) == whole.choices[0].message.content
assert last.choices == [] and last.usage.completion_tokens == 20
print("ok python: chat")

several = client.chat.completions.create(model=model, messages=hello, max_tokens=5, temperature=1, n=3, seed=1)
assert sorted(choice.index for choice in several.choices) == [0, 1, 2]
print("ok python: several answers")

# Completions, log-probabilities, echo.
text = client.completions.create(model=model, prompt="The quick brown", max_tokens=6, logprobs=2, echo=True, temperature=0)
values = text.choices[0].logprobs
assert text.choices[0].text.startswith("The quick brown")
assert values.token_logprobs[0] is None and all(value <= 0 for value in values.token_logprobs[1:])
assert len(values.tokens) == len(values.token_logprobs) == len(values.top_logprobs) == len(values.text_offset)
streamed = "".join(chunk.choices[0].text for chunk in client.completions.create(
    model=model, prompt="The quick brown", max_tokens=6, temperature=0, stream=True))
assert "The quick brown" + streamed == text.choices[0].text
stopped = client.completions.create(model=model, prompt="x", max_tokens=9, logit_bias={"80": 100}, stop=["a", "b", "c", "d", "nnn"])
assert stopped.choices[0].text == "" and stopped.choices[0].finish_reason == "stop"
print("ok python: completions")

# Structured output and tools.
schema = {"type": "object", "properties": {"sure": {"type": "boolean"}, "mood": {"enum": ["good", "bad"]}},
          "required": ["sure", "mood"], "additionalProperties": False}
answer = client.chat.completions.create(
    model=model, messages=hello, max_tokens=120, temperature=1, seed=3,
    response_format={"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}})
value = json.loads(answer.choices[0].message.content)
assert set(value) == {"sure", "mood"} and value["mood"] in ("good", "bad") and isinstance(value["sure"], bool)
tools = [{"type": "function", "function": {"name": "flip", "description": "Flips a switch", "strict": True, "parameters": {
    "type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": False}}}]
called = client.chat.completions.create(model=model, messages=hello, tools=tools, max_tokens=100, temperature=1, seed=4,
                                        tool_choice={"type": "function", "function": {"name": "flip"}})
assert called.choices[0].finish_reason == "tool_calls", called
call = called.choices[0].message.tool_calls[0]
assert call.function.name == "flip" and isinstance(json.loads(call.function.arguments)["on"], bool) and call.id
arguments, name = "", None
for chunk in client.chat.completions.create(model=model, messages=hello, tools=tools, max_tokens=100, temperature=1, seed=4,
                                            tool_choice="required", parallel_tool_calls=False, stream=True):
    for delta in (chunk.choices[0].delta.tool_calls or []):
        assert delta.index == 0
        name = delta.function.name or name
        arguments += delta.function.arguments or ""
assert name == "flip" and isinstance(json.loads(arguments)["on"], bool)
again = client.chat.completions.create(model=model, max_tokens=3, tools=tools, messages=hello + [
    {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
    {"role": "tool", "tool_call_id": call.id, "content": "done"}])
assert again.choices[0].message is not None
print("ok python: schema and tools")

# Errors are those of the package.
for wanted, arguments in [(openai.BadRequestError, {"model": model, "messages": []}),
                          (openai.BadRequestError, {"model": model, "messages": hello, "temperature": -1}),
                          (openai.NotFoundError, {"model": "gpt-9", "messages": hello})]:
    try:
        client.chat.completions.create(**arguments)
        raise SystemExit("no error")
    except wanted as error:
        assert error.body["message"] and "type" in error.body, error.body
print("ok python: errors")
