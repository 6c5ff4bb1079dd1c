// The official openai package for Node against a running server: node openai_client.mjs URL
import assert from "node:assert";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: "none", maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
const messages = [{ role: "user", content: "Hello" }];

const whole = await client.chat.completions.create({ model, messages, max_tokens: 20, temperature: 1, seed: 5 });
let text = "", usage = null;
for await (const chunk of await client.chat.completions.create({
    model, messages, max_tokens: 20, temperature: 1, seed: 5, stream: true, stream_options: { include_usage: true },
})) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
}
assert.equal(text, whole.choices[0].message.content);
assert.equal(usage.completion_tokens, 20);
console.log("ok node: chat");

const tools = [{ type: "function", function: { name: "flip", strict: true, parameters: {
    type: "object", properties: { on: { type: "boolean" } }, required: ["on"], additionalProperties: false } } }];
const runner = client.chat.completions.stream({ model, messages, tools, tool_choice: "required", max_tokens: 100,
    parallel_tool_calls: false, temperature: 1, seed: 4 });
const final = await runner.finalChatCompletion();
assert.equal(final.choices[0].finish_reason, "tool_calls");
assert.equal(typeof JSON.parse(final.choices[0].message.tool_calls[0].function.arguments).on, "boolean");
console.log("ok node: tools, streamed");

const json = await client.chat.completions.create({ model, messages, max_tokens: 100, temperature: 1, seed: 3,
    response_format: { type: "json_schema", json_schema: { name: "a", schema: { enum: ["yes", "no"] } } } });
assert.ok(["yes", "no"].includes(JSON.parse(json.choices[0].message.content)));
const completion = await client.completions.create({ model, prompt: "The quick", max_tokens: 4, logprobs: 1 });
assert.equal(completion.choices[0].logprobs.tokens.length, 4);
await assert.rejects(client.chat.completions.create({ model, messages: [{ role: "robot", content: "x" }] }),
    (error) => error instanceof OpenAI.BadRequestError && error.param === "messages[0].role");
console.log("ok node: schema, completions, errors");

// A client that aborts: the server must go on.
const stream = await client.chat.completions.create({ model, messages, max_tokens: 200, stream: true });
for await (const chunk of stream) {
    stream.controller.abort();
    break;
}
assert.ok((await client.models.list()).data.length > 0);
console.log("ok node: abort");
