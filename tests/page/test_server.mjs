// The page on the real server with a tiny random model: node test_server.mjs MINKE   (MINKE: the program, e.g. build/minke)
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { openBrowser } from "./browser.mjs";
import { test, finish } from "./report.mjs";

const MINKE = process.argv[2] ?? "build/minke";
const TOKENIZER = fileURLToPath(new URL("../golden/text/small/", import.meta.url));
const CONTEXT = 65536;
const CONFIG = {
  model_type: "deepseek_v3",
  vocab_size: 704,
  hidden_size: 64,
  num_hidden_layers: 3,
  first_k_dense_replace: 1,
  intermediate_size: 96,
  moe_intermediate_size: 32,
  num_attention_heads: 2,
  q_lora_rank: 16,
  kv_lora_rank: 16,
  qk_nope_head_dim: 16,
  qk_rope_head_dim: 16,
  v_head_dim: 16,
  n_routed_experts: 8,
  n_shared_experts: 1,
  num_experts_per_tok: 2,
  n_group: 2,
  topk_group: 1,
  num_nextn_predict_layers: 1,
  routed_scaling_factor: 2.5,
  max_position_embeddings: CONTEXT,
  rope_theta: 10000,
};

const folder = mkdtempSync(join(tmpdir(), "minke-server-"));

function makeModel() {
  writeFileSync(join(folder, "config.json"), JSON.stringify(CONFIG));
  const model = join(folder, "tiny-whale");
  const run = spawnSync(MINKE, ["init", join(folder, "config.json"), model, "--seed", "2"], { encoding: "utf8" });
  assert.equal(run.status, 0, run.stderr);
  cpSync(TOKENIZER, model, { recursive: true });
  return model;
}

// Starts the server; its first line of output is its address.
async function startServer(model, ...options) {
  const child = spawn(MINKE, ["serve", model, "--port", "0", "--threads", "1", "--log", "none", ...options], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  let complaints = "";
  child.stderr.on("data", (chunk) => (complaints += chunk));
  const address = await new Promise((resolve, reject) => {
    let line = "";
    child.stdout.on("data", (chunk) => {
      line += chunk;
      if (line.includes("\n")) resolve(line.trim());
    });
    child.on("exit", (status) => reject(new Error(`the server ended with status ${status}: ${complaints}`)));
  });
  const ended = new Promise((resolve) => child.on("exit", resolve));
  const stop = async () => {
    child.kill("SIGTERM");
    return ended;
  };
  return { url: `${address.replace(/\/$/, "")}/`, stop };
}

const IDLE = `document.querySelector(".answer") !== null && !document.querySelector(".growing")`;
const ANSWER = `([...document.querySelectorAll(".answer > .markdown")].at(-1)?.textContent ?? "")`;
const STATS = `([...document.querySelectorAll(".answer .stats")].at(-1)?.textContent ?? "")`;

async function ask(page, text, wait = true) {
  await page.click("#message");
  await page.type(text);
  await page.press("Enter");
  if (wait) await page.until(IDLE, 60000);
}

async function setField(page, id, value) {
  await page.click("#tab-settings");
  await page.click(`#setting-${id}`);
  await page.evaluate(`document.querySelector("#setting-${id}").select()`);
  await page.type(value);
  await page.click("#tab-engine");
}

// Until the server itself says so.
async function untilEngine(url, condition) {
  for (let i = 0; i < 200; i++) {
    const engine = await (await fetch(`${url}engine`)).json();
    if (condition(engine)) return engine;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error("waited in vain for the engine");
}

let browser;
let model;
let server;

test("the files of the page: types, policy, revalidation", async () => {
  const first = await fetch(server.url);
  assert.equal(first.status, 200);
  assert.equal(first.headers.get("content-type"), "text/html; charset=utf-8");
  assert.match(first.headers.get("content-security-policy"), /^default-src 'none'; script-src 'self';/);
  assert.equal(first.headers.get("x-content-type-options"), "nosniff");
  const etag = first.headers.get("etag");
  assert.match(etag, /^"[0-9a-f]{16}"$/);
  await first.text();
  const again = await fetch(server.url, { headers: { "If-None-Match": etag } });
  assert.equal(again.status, 304);
  const script = await fetch(`${server.url}page/app.js`);
  assert.equal(script.headers.get("content-type"), "text/javascript; charset=utf-8");
  await script.text();
  const head = await fetch(`${server.url}page/style.css`, { method: "HEAD" });
  assert.equal(head.status, 200);
  assert.equal((await fetch(`${server.url}page/none.js`)).status, 404);
});

test("chat: answers, limits, seeds, statistics, a second turn from the cache", async () => {
  const page = await browser.newPage();
  await page.open(server.url);
  await page.until(`document.querySelector("#model").textContent === "tiny-whale"`);
  await setField(page, "maxTokens", "40");
  await setField(page, "temperature", "1");
  await setField(page, "seed", "7");
  await page.click("#message");
  // Longer than a page of the cache, so that the second turn finds it there.
  await page.type("Tell me about whales, please. ".repeat(40));
  await page.until(`/^[1-9][0-9]* tokens$/.test(document.querySelector("#token-count").textContent)`);
  await page.press("Enter");
  await page.until(IDLE);
  assert.match(await page.evaluate(STATS), /^40 tokens.*tokens\/s.*first after .*ended at the token limit $/);
  const first = await page.evaluate(ANSWER);
  await page.click("[aria-label='Answer again']");
  await page.until(IDLE);
  assert.equal(await page.evaluate(ANSWER), first);
  await ask(page, "And dolphins?");
  assert.match(await page.evaluate(STATS), /[1-9][0-9]* of [0-9]+ prompt tokens cached/);
  await page.until(`Number(document.querySelector("#answer-tokens").textContent) >= 120`);
  await page.until(
    `document.querySelector("#heatmap canvas").getAttribute("aria-label").startsWith("Expert load, 3 layers of 8 experts. Busiest")`,
  );
  assert.deepEqual(page.troubles, []);
  await page.close();
});

test("Esc cancels the request in the engine", async () => {
  const page = await browser.newPage();
  await page.open(server.url);
  await page.until(`document.querySelector("#model").textContent !== ""`);
  // The likeliest tokens of this random model repeat without end.
  await setField(page, "temperature", "0");
  await ask(page, "Go on and on.", false);
  await page.until(`${ANSWER}.length > 100`);
  await page.press("Escape");
  const engine = await untilEngine(server.url, (one) => one.running === 0);
  assert.ok(engine.answer_tokens < CONTEXT - 100, `${engine.answer_tokens} tokens`);
  await page.until(IDLE);
  assert.match(await page.evaluate(STATS), /stopped $/);
  assert.deepEqual(page.troubles, []);
  await page.close();
});

test("the server's refusals are shown", async () => {
  const page = await browser.newPage();
  await page.open(server.url);
  await page.until(`document.querySelector("#model").textContent !== ""`);
  await setField(page, "maxTokens", "10");
  await ask(page, "word ".repeat(CONTEXT));
  assert.match(await page.evaluate(`document.querySelector(".failure").textContent`), /[0-9]/);
  await page.close();
});

test("a model without a chat template continues the text", async () => {
  const plain = join(folder, "plain-whale");
  cpSync(model, plain, { recursive: true });
  // A template that Minke does not know is as good as none.
  const config = JSON.parse(readFileSync(join(plain, "tokenizer_config.json"), "utf8"));
  writeFileSync(join(plain, "tokenizer_config.json"), JSON.stringify({ ...config, chat_template: "{{ messages }}" }));
  const other = await startServer(plain);
  const page = await browser.newPage();
  try {
    await page.open(other.url);
    await page.until(`document.querySelector(".welcome p")?.textContent.includes("continues your text")`);
    await setField(page, "maxTokens", "20");
    await ask(page, "The whale");
    assert.match(await page.evaluate(STATS), /^20 tokens/);
    assert.deepEqual(page.troubles, []);
  } finally {
    await page.close();
    assert.equal(await other.stop(), 0);
  }
});

test("the key", async () => {
  const keys = join(folder, "keys");
  writeFileSync(keys, "right-key-0123456789\n");
  const guarded = await startServer(model, "--api-key-file", keys);
  const page = await browser.newPage();
  try {
    await page.open(guarded.url);
    await page.until(`document.querySelector("#key-dialog").open`);
    await page.type("wrong-key-0123456789");
    await page.press("Enter");
    await page.until(`document.querySelector("#key-text").textContent.includes("not accept")`);
    await page.type("right-key-0123456789");
    await page.press("Enter");
    await page.until(`document.querySelector("#model").textContent === "tiny-whale"`);
    await setField(page, "maxTokens", "5");
    await ask(page, "hello");
    assert.match(await page.evaluate(STATS), /^5 tokens/);
  } finally {
    await page.close();
    assert.equal(await guarded.stop(), 0);
  }
});

try {
  model = makeModel();
  server = await startServer(model);
  browser = await openBrowser();
  await finish();
  assert.equal(await server.stop(), 0);
} finally {
  await browser?.close();
  await server?.stop();
  rmSync(folder, { recursive: true, force: true });
}
