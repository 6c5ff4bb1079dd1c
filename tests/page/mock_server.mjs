// A server that answers as `minke serve` does, for the tests of the page: its files, a scripted model, hostile answers.
// What it answers is chosen by the first word of the last message (table ANSWERS). Alone: node mock_server.mjs PORT
import { createServer } from "node:http";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { HOSTILE, SHOWCASE, SHOWCASE_REASONING } from "./answers.mjs";

const SOURCES = new URL("../../src/serve/", import.meta.url);
const TYPES = {
  html: "text/html; charset=utf-8",
  css: "text/css; charset=utf-8",
  js: "text/javascript; charset=utf-8",
  svg: "image/svg+xml",
};

// The headers that the real server sends with the page: read from page.c, so that the policy under test is the real one.
function pageHeaders() {
  const source = readFileSync(new URL("page.c", SOURCES), "utf8")
    .split("page_headers[PAGE_HEADERS] = {")[1]
    .split("\n};")[0];
  const entries = [...source.matchAll(/\{("[^{}]*")\}/gs)].map((match) => {
    return [...match[1].matchAll(/"([^"]*)"(,?)/g)].reduce(
      ([name, value], [, text, comma], i) => {
        return i === 0 && comma ? [text, value] : [name, value + text];
      },
      ["", ""],
    );
  });
  return Object.fromEntries(entries);
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const pieces = (text, size = 4) =>
  Array.from({ length: Math.ceil(text.length / size) }, (_, i) => text.slice(i * size, i * size + size));
const content = (text, size) => pieces(text, size).map((piece) => ({ content: piece }));
const reasoning = (text) => pieces(text).map((piece) => ({ reasoning_content: piece }));

// First word -> {deltas, delay between them in ms, finish, ...}.
const ANSWERS = {
  hostile: () => ({ deltas: content(HOSTILE, 7) }),
  showcase: () => ({ deltas: [...reasoning(SHOWCASE_REASONING), ...content(SHOWCASE)], delay: 4 }),
  think: () => ({
    deltas: [...reasoning("First I *think*.\n\nThen more."), ...content("**Done** thinking.")],
    delay: 20,
  }),
  slow: () => ({ deltas: content("word ".repeat(2000), 5), delay: 20 }),
  long: () => ({ deltas: content(`${"A paragraph of *some* length with `code`. ".repeat(6)}\n\n`.repeat(120), 24) }),
  code: () => ({ deltas: content("```c\n" + "int line;   // of a long listing\n".repeat(3000) + "```\n", 60) }),
  list: () => ({ deltas: content("- an *item* of a `long` list\n".repeat(1000), 29) }),
  babble: () => ({ deltas: content("words without an end ".repeat(5000), 60) }),
  emoji: () => ({ deltas: content("whale 🐋 family 👨‍👩‍👧 flag 🇩🇪 é ü 中文", 2), bytes: 1 }),
  error: () => ({
    deltas: content("Half an ans"),
    fail: { message: "the cache is <b>full</b>", type: "server_error", code: 500 },
  }),
  drop: () => ({ deltas: content("Cut off"), drop: true }),
  refuse: () => ({ status: 400, fail: { message: "temperature: expected 0..2, found 9" } }),
  limit: () => ({ deltas: content("to the limit"), finish: "length" }),
  silent: () => ({ deltas: content("after a pause"), before: 700 }),
  tools: () => ({
    deltas: [
      { content: "Let me look." },
      { tool_calls: [{ index: 0, id: "c1", type: "function", function: { name: "weather", arguments: "" } }] },
      { tool_calls: [{ index: 0, function: { arguments: '{"city":' } }] },
      { tool_calls: [{ index: 0, function: { arguments: '"Oslo"}' } }] },
      {
        tool_calls: [
          { index: 1, id: "c2", type: "function", function: { name: "<img src=x onerror=alert(1)>", arguments: "{" } },
        ],
      },
    ],
    finish: "tool_calls",
  }),
};

function scriptFor(text) {
  const script = ANSWERS[text.trim().split(/\s/)[0].toLowerCase()];
  return script ? script() : { deltas: content(`You said: ${text}`), delay: 3 };
}

// State of a mock: what was asked, what was cancelled, and how it shall behave.
export async function startMock({ key = null, chatStyle = "v3", port = 0 } = {}) {
  const mock = {
    key,
    chatStyle,
    requests: [],
    cancelled: 0,
    running: 0,
    answered: 0,
    speed: 0,
    silent: false,
    fresh: Date.now(),
  };
  const headers = pageHeaders();
  const server = createServer((request, response) => {
    handle(mock, headers, request, response).catch((error) => response.destroy(error));
  });
  await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  mock.url = `http://127.0.0.1:${server.address().port}/`;
  mock.close = () => (server.closeAllConnections(), new Promise((resolve) => server.close(resolve)));
  return mock;
}

async function handle(mock, headers, request, response) {
  const path = request.url.split("?")[0];
  if (request.method === "GET" && (path === "/" || path.startsWith("/page/"))) return sendFile(headers, path, response);
  if (mock.key !== null && request.headers.authorization !== `Bearer ${mock.key}`) {
    return sendJson(response, 401, { error: { message: "wrong API key", type: "authentication_error" } });
  }
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = chunks.length > 0 ? JSON.parse(Buffer.concat(chunks).toString()) : null;
  if (path === "/engine") return sendJson(response, 200, engineSnapshot(mock));
  if (path === "/v1/models") return sendJson(response, 200, { object: "list", data: [{ id: MODEL, object: "model" }] });
  if (path === "/tokenize") return sendJson(response, 200, { count: Math.ceil(body.prompt.length / 4) });
  if (path === "/v1/completions") return sendText(mock, body, response);
  if (path === "/v1/chat/completions") return sendAnswer(mock, body, response);
  return sendJson(response, 404, { error: { message: `no ${path}` } });
}

function sendJson(response, status, value) {
  response.writeHead(status, { "Content-Type": "application/json" });
  response.end(JSON.stringify(value));
}

function sendFile(headers, path, response) {
  const name = path === "/" ? "index.html" : path.slice("/page/".length);
  if (!/^[a-z]+\.(html|css|js|svg)$/.test(name)) return sendJson(response, 404, {});
  const bytes = readFileSync(new URL(`page/${name}`, SOURCES));
  response.writeHead(200, { ...headers, "Content-Type": TYPES[name.split(".")[1]] });
  response.end(bytes);
}

// ---- Answers

async function sendAnswer(mock, body, response) {
  mock.requests.push(body);
  const script = scriptFor(body.messages.at(-1).content);
  if (script.status) return sendJson(response, script.status, { error: script.fail });
  response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-cache" });
  response.write(": keep-alive\n\n");
  mock.running++;
  let open = true;
  response.on("close", () => {
    open = false;
    mock.running--;
    if (!response.writableEnded && !script.drop) mock.cancelled++;
  });
  await pause(script.before ?? 30);
  for (const delta of script.deltas) {
    if (!open) return;
    await writeEvent(response, chunkOf(body, { delta }), script.bytes);
    mock.answered++;
    if (script.delay) await pause(script.delay);
  }
  if (script.drop) return pause(200).then(() => response.destroy());
  if (script.fail) await writeEvent(response, { error: script.fail });
  else await endAnswer(response, body, script);
  response.end();
}

// The continuation of a text: its last word, three times.
function sendText(mock, body, response) {
  mock.requests.push(body);
  const word = ` ${body.prompt.split(" ").at(-1)}`;
  response.writeHead(200, { "Content-Type": "text/event-stream" });
  const choices = [{ text: word }, { text: word }, { text: word, finish_reason: "length" }];
  for (const choice of choices) response.write(`data: ${JSON.stringify({ choices: [{ index: 0, ...choice }] })}\n\n`);
  response.end("data: [DONE]\n\n");
}

async function endAnswer(response, body, script) {
  await writeEvent(response, chunkOf(body, { delta: {}, finish_reason: script.finish ?? "stop" }));
  if (body.stream_options?.include_usage) {
    const usage = {
      prompt_tokens: 1024,
      completion_tokens: script.deltas.length,
      prompt_tokens_details: { cached_tokens: 1000 },
    };
    await writeEvent(response, { id: "x", object: "chat.completion.chunk", choices: [], usage });
  }
  response.write("data: [DONE]\n\n");
}

const chunkOf = (body, choice) => ({
  id: "x",
  object: "chat.completion.chunk",
  model: body.model,
  choices: [{ index: 0, ...choice }],
});

// `bytes`: so many in each write, which cuts characters and line ends apart.
async function writeEvent(response, value, bytes) {
  const data = Buffer.from(`data: ${JSON.stringify(value)}\n\n`);
  if (!bytes) {
    if (!response.write(data)) await drained(response);
    return;
  }
  for (let at = 0; at < data.length; at += bytes) {
    response.write(data.subarray(at, at + bytes));
    await new Promise(setImmediate);
  }
}

// Until the reader has taken what was written, or is gone.
function drained(response) {
  return new Promise((resolve) => {
    const end = () => {
      response.off("drain", end).off("close", end);
      resolve();
    };
    response.on("drain", end).on("close", end);
  });
}

// ---- /engine

const MODEL = "story-11b";
const LAYERS = 26;
const EXPERTS = 64;

// Popularity of an expert: a fixed pattern with a few busy and a few idle ones.
function popularity(layer, expert) {
  const noise = Math.abs(Math.sin(layer * 12.9898 + expert * 78.233) * 43758.5453) % 1;
  return noise < 0.02 ? 0 : 0.75 + noise * 0.5 + (noise > 0.98 ? 1.6 : 0);
}

function engineSnapshot(mock) {
  const seconds = (Date.now() - mock.fresh) / 1000;
  const tokens = 4000 + mock.answered;
  const load = Array.from({ length: LAYERS }, (_, layer) => {
    return Array.from({ length: EXPERTS }, (_, expert) => Math.round(popularity(layer, expert) * tokens * 0.125));
  });
  const speed = mock.running > 0 ? 24 + 5 * Math.sin(seconds / 3) : 0;
  return {
    model: MODEL,
    version: "0.1.0",
    context: 163840,
    chat_style: mock.chatStyle,
    sampling: { temperature: 0.6, top_p: 0.949999988079071, top_k: 0, min_p: 0 },
    waiting: mock.running > 2 ? mock.running - 2 : 0,
    running: Math.min(mock.running, 2),
    cache_tokens_used: mock.silent ? 0 : 11204,
    cache_tokens_total: 32768,
    tokens_per_second: speed,
    prompt_tokens_per_second: mock.running > 0 ? 412 : 0,
    requests: mock.requests.length,
    prompt_tokens: 18230,
    cached_tokens: 14100,
    answer_tokens: tokens,
    preemptions: 0,
    drafted: mock.silent ? [0] : [3120, 2610],
    accepted: mock.silent ? [0] : [2684, 1801],
    expert_load: mock.silent ? [] : load,
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const mock = await startMock({ port: Number(process.argv[2] ?? 8080), chatStyle: "v3_1" });
  console.log(mock.url);
}
