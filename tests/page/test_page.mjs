// The page in headless Chromium, against the scripted server: what a reader does with keyboard and mouse, and what
// hostile text may not do. The last step writes docs/page.png.  node test_page.mjs [PICTURE]
import assert from "node:assert/strict";
import { openBrowser, ALT, SHIFT } from "./browser.mjs";
import { startMock } from "./mock_server.mjs";
import { test, finish } from "./report.mjs";

const PICTURE = process.argv[2];
const ONLY = process.argv[3]; // part of the name of the tests to run
const IDLE = `!document.querySelector(".growing")`;
const LAST_ANSWER = `([...document.querySelectorAll(".answer > .markdown")].at(-1)?.textContent ?? "")`;
const browser = await openBrowser();

// A test with a page and a server of its own; afterwards nothing may have gone wrong in the console, and nothing may
// have been asked of anybody else. `expected`: patterns of the complaints that belong to the test.
function pageTest(name, options, run) {
  if (ONLY && !name.includes(ONLY)) return;
  test(name, async () => {
    const mock = await startMock(options);
    const page = await browser.newPage(options);
    try {
      if (options.script) await page.send("Page.addScriptToEvaluateOnNewDocument", { source: options.script });
      await page.open(mock.url);
      if (!options.key) await page.until(`document.querySelector("#model").textContent !== ""`);
      await run(page, mock);
      const troubles = page.troubles.filter((line) => !(options.expected ?? []).some((pattern) => pattern.test(line)));
      assert.deepEqual(troubles, []);
      const foreign = page.addresses.filter((address) => !address.startsWith(mock.url) && !address.startsWith("blob:"));
      assert.deepEqual(foreign, []);
    } finally {
      await page.close();
      await mock.close();
    }
  });
}

async function ask(page, text, wait = true) {
  await page.click("#message");
  await page.type(text);
  await page.press("Enter");
  if (wait) await answered(page);
}

async function answered(page) {
  await page.until(`document.querySelector(".answer") !== null && ${IDLE}`);
}

const count = (page, selector) => page.evaluate(`document.querySelectorAll(${JSON.stringify(selector)}).length`);
const text = (page, selector) =>
  page.evaluate(`document.querySelector(${JSON.stringify(selector)})?.textContent ?? null`);
const answer = (page) => page.evaluate(LAST_ANSWER);
const stored = (page) =>
  page.evaluate(`Object.keys(localStorage).filter((key) => key.startsWith("minke.conversation."))
  .map((key) => JSON.parse(localStorage[key]))`);

// ---- Asking

pageTest("Enter sends, Shift+Enter starts a line, the answer streams in and is counted", {}, async (page, mock) => {
  await page.click("#message");
  assert.equal(await page.evaluate(`document.querySelector("#send").disabled`), true);
  await page.type("Hello");
  await page.press("Enter", SHIFT);
  await page.type("there");
  assert.equal(await page.evaluate(`document.querySelector("#message").value`), "Hello\nthere");
  await page.until(`document.querySelector("#token-count").textContent === "3 tokens"`);
  await page.press("Enter");
  await answered(page);
  assert.equal(await answer(page), "You said: Hellothere");
  assert.equal(await text(page, ".bubble"), "Hello\nthere");
  assert.equal(await page.evaluate(`document.querySelector("#message").value`), "");
  const [request] = mock.requests;
  assert.deepEqual(request.messages, [{ role: "user", content: "Hello\nthere" }]);
  assert.deepEqual(request.stream_options, { include_usage: true });
  assert.equal(request.stream, true);
  assert.equal(request.temperature, undefined);
  assert.equal(request.chat_template_kwargs, undefined);
  const stats = await text(page, ".stats");
  assert.match(stats, /^6 tokens.*tokens\/s.*first after .* s.*1,000 of 1,024 prompt tokens cached $/);
  assert.equal(await text(page, "#title"), "Hello");
  assert.equal(await text(page, "#announcer"), "The answer is complete");
});

pageTest("a conversation goes on: earlier messages are sent, reasoning is not", {}, async (page, mock) => {
  await ask(page, "think about it");
  assert.equal(await answer(page), "Done thinking.");
  assert.match(await text(page, ".reasoning summary"), /^Thought for [0-9.]+ s$/);
  assert.equal(await page.evaluate(`document.querySelector(".reasoning").open`), false);
  await page.click(".reasoning summary");
  assert.equal(await page.evaluate(`document.querySelector(".reasoning em").textContent`), "think");
  await ask(page, "again");
  assert.equal(await page.evaluate(`document.querySelector(".reasoning").open`), true);
  assert.deepEqual(mock.requests[1].messages, [
    { role: "user", content: "think about it" },
    { role: "assistant", content: "**Done** thinking." },
    { role: "user", content: "again" },
  ]);
});

pageTest("a model without a chat template continues the text", { chatStyle: null }, async (page, mock) => {
  assert.match(await text(page, ".welcome p"), /continues your text/);
  await ask(page, "the old whale");
  assert.equal(await answer(page), "whale whale whale");
  await ask(page, " sang");
  assert.equal(mock.requests[1].prompt, "the old whale whale whale whale sang");
  assert.equal(mock.requests[1].max_tokens, 512);
  assert.equal(mock.requests[1].messages, undefined);
});

pageTest("reasoning is open while it is written", {}, async (page) => {
  await ask(page, "think", false);
  await page.until(
    `document.querySelector(".reasoning")?.open && document.querySelector(".reasoning summary").textContent === "Thinking"`,
  );
  await answered(page);
});

pageTest("Esc stops, and the server hears of it", {}, async (page, mock) => {
  await ask(page, "slow please", false);
  await page.until(`${LAST_ANSWER}.length > 30`);
  assert.equal(await page.evaluate(`document.querySelector("#send").getAttribute("aria-label")`), "Stop");
  await page.press("Escape");
  await answered(page);
  assert.match(await text(page, ".stats"), /^~.*stopped $/);
  const length = (await answer(page)).length;
  assert.ok(length > 30 && length < 9000, `${length} characters`);
  for (let i = 0; mock.cancelled === 0 && i < 100; i++) await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(mock.cancelled, 1);
  assert.equal((await stored(page))[0].messages[1].content.trim(), (await answer(page)).trim());
});

pageTest("the button stops too, and then sends again", {}, async (page, mock) => {
  await ask(page, "slow please", false);
  await page.until(`${LAST_ANSWER}.length > 10`);
  await page.click("#send");
  await answered(page);
  await page.click("#message");
  await page.type("next");
  await page.click("#send");
  await page.until(`${LAST_ANSWER} === "You said: next"`);
  assert.equal(mock.requests.length, 2);
});

pageTest("answer again, and edit a question", {}, async (page, mock) => {
  await ask(page, "one");
  await ask(page, "two");
  await page.click(".answer:last-child [aria-label='Answer again']");
  await answered(page);
  assert.deepEqual(mock.requests[2], mock.requests[1]);
  await page.moveTo(".user .bubble");
  await page.click(".user [aria-label='Edit and ask again']");
  assert.equal(await page.evaluate(`document.activeElement.value`), "one");
  await page.type(" more");
  await page.press("Enter");
  await page.until(`${LAST_ANSWER} === "You said: one more"`);
  assert.equal(await count(page, ".message"), 2);
  assert.deepEqual(mock.requests[3].messages, [{ role: "user", content: "one more" }]);
  await page.click(".user [aria-label='Edit and ask again']");
  await page.press("Escape");
  assert.equal(await text(page, ".bubble"), "one more");
});

pageTest("characters that packets cut stay whole", {}, async (page) => {
  await ask(page, "emoji");
  assert.equal(await answer(page), "whale 🐋 family 👨‍👩‍👧 flag 🇩🇪 é ü 中文");
});

pageTest("tool calls are shown, as text", {}, async (page) => {
  await ask(page, "tools");
  assert.equal(await count(page, ".call"), 2);
  assert.equal(await text(page, ".call code"), '{\n  "city": "Oslo"\n}');
  assert.match(await text(page, ".call:last-child figcaption"), /<img src=x/);
  assert.match(await text(page, ".stats"), /asks for a tool/);
});

pageTest("a limit is named", {}, async (page) => {
  await ask(page, "limit");
  assert.match(await text(page, ".stats"), /ended at the token limit/);
});

// ---- Trouble

pageTest("an error in mid-stream keeps what was written and says what happened", {}, async (page) => {
  await ask(page, "error");
  assert.equal(await answer(page), "Half an ans");
  assert.equal(await text(page, ".failure"), "the cache is <b>full</b>");
});

pageTest(
  "a cut connection and a refused request",
  { expected: [/400 \(Bad Request\)/, /ERR_INCOMPLETE_CHUNKED/] },
  async (page) => {
    await ask(page, "drop");
    assert.equal(await answer(page), "Cut off");
    assert.match(await text(page, ".failure"), /connection/);
    await page.click("#new-conversation");
    await ask(page, "refuse");
    assert.equal(await text(page, ".failure"), "temperature: expected 0..2, found 9");
  },
);

pageTest("a server that goes away is named, and found again", { expected: [/ERR_/] }, async (page, mock) => {
  const port = Number(new URL(mock.url).port);
  await mock.close();
  await ask(page, "anyone?");
  assert.equal(await text(page, ".failure"), "The server cannot be reached.");
  await page.until(`!document.querySelector("#engine-state").hidden`);
  const again = await startMock({ port });
  try {
    await page.click("[aria-label='Answer again']");
    await page.until(`${LAST_ANSWER} === "You said: anyone?"`);
    await page.until(`document.querySelector("#engine-state").hidden`);
  } finally {
    await again.close();
  }
});

pageTest(
  "the key is asked for, kept in the session, and used",
  { key: "secret", expected: [/401/] },
  async (page, mock) => {
    await page.until(`document.querySelector("#key-dialog").open`);
    await page.type("wrong");
    await page.press("Enter");
    await page.until(
      `document.querySelector("#key-dialog").open && document.querySelector("#key-text").textContent.includes("not accept")`,
    );
    await page.type("secret");
    await page.press("Enter");
    await page.until(`document.querySelector("#model").textContent !== ""`);
    await ask(page, "hi");
    assert.equal(await answer(page), "You said: hi");
    assert.equal(await page.evaluate(`sessionStorage["minke.api-key"]`), "secret");
    assert.ok(!(await page.evaluate(`JSON.stringify({ ...localStorage })`)).includes("secret"));
    mock.key = "changed";
    await page.until(`document.querySelector("#key-dialog").open`);
    await page.press("Escape");
    await ask(page, "and now");
    await page.until(`document.querySelector("#key-dialog").open`);
    await page.type("changed");
    await page.press("Enter");
    await page.until(`${LAST_ANSWER} === "You said: and now"`);
  },
);

// ---- Hostile text

pageTest("hostile text stays text", {}, async (page) => {
  await page.evaluate(
    `document.addEventListener("securitypolicyviolation", (event) => console.error(event.violatedDirective))`,
  );
  await ask(page, "hostile");
  assert.equal(await page.evaluate("window.hacked"), undefined);
  const tags = await page.evaluate(
    `[...new Set([...document.querySelectorAll(".markdown *")].map((node) => node.localName))]`,
  );
  const allowed = [
    "p",
    "br",
    "a",
    "svg",
    "use",
    "figure",
    "figcaption",
    "span",
    "button",
    "pre",
    "code",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "h2",
    "h3",
    "blockquote",
    "ul",
    "ol",
    "li",
    "div",
    "em",
    "strong",
    "del",
    "hr",
  ];
  assert.deepEqual(
    tags.filter((tag) => !allowed.includes(tag)),
    [],
  );
  const hrefs = await page.evaluate(`[...document.querySelectorAll(".markdown a")].map((node) => node.href)`);
  assert.deepEqual(hrefs, ["https://elsewhere.example/pixel.png"]);
  const handlers =
    await page.evaluate(`[...document.querySelectorAll(".markdown *")].flatMap((node) => node.getAttributeNames())
    .filter((name) => name.startsWith("on") || name === "style" || name === "src")`);
  assert.deepEqual(handlers, []);
  const shown = await answer(page);
  for (const part of [
    "<script>window.hacked = 1",
    "onerror=",
    "<iframe",
    "javascript:window.hacked=4",
    "window.hacked = 10",
  ]) {
    assert.ok(shown.includes(part), part);
  }
});

pageTest("hostile questions, titles and stored data stay text", {}, async (page) => {
  await ask(page, `<img src=x onerror="window.hacked=1"> **not bold**`);
  assert.equal(await count(page, "#conversations img, .bubble *, #title *"), 0);
  await page.evaluate(`localStorage["minke.conversation.aaaaaaaaaa"] = JSON.stringify({ id: "aaaaaaaaaa", title: "<b>x</b>", system: "<i>s",
    messages: [{ role: "user", content: { a: 1 } }, { role: "assistant", content: "<script>window.hacked=2</script>", error: 7, toolCalls: [null, 3],
    stats: "no" }, null, { role: "__proto__" }], updated: 1e15 });
    localStorage["minke.conversation.bbbbbbbbbb"] = "{broken"; localStorage["minke.settings"] = '{"temperature":"<b>","topP":1e999}';
    localStorage["minke.last"] = "aaaaaaaaaa"`);
  await page.send("Page.reload");
  await page.until(`document.querySelector("#title")?.textContent === "<b>x</b>"`);
  assert.equal(await page.evaluate("window.hacked"), undefined);
  assert.equal(await count(page, "#conversations li"), 2);
  assert.equal(await count(page, ".message"), 2);
});

// ---- Conversations

pageTest("conversations are kept, renamed, chosen, deleted and brought back", {}, async (page) => {
  await ask(page, "first");
  await page.press("n", ALT);
  await page.until(`document.querySelector(".welcome") !== null`);
  await ask(page, "second");
  assert.equal(await count(page, "#conversations li"), 2);
  await page.click("#conversations li:nth-child(2) .choose");
  await page.until(`${LAST_ANSWER} === "You said: first"`);
  await page.moveTo("#conversations li:nth-child(2)");
  await page.click("#conversations li:nth-child(2) [aria-label^=Rename]");
  await page.type("A better name");
  await page.press("Enter");
  assert.equal(await text(page, "#title"), "A better name");
  await page.send("Page.reload");
  await page.until(`document.querySelector("#title")?.textContent === "A better name"`);
  assert.equal(await answer(page), "You said: first");
  await page.moveTo("#conversations li:nth-child(2)");
  await page.click("#conversations li:nth-child(2) [aria-label^=Delete]");
  await page.until(`document.querySelectorAll("#conversations li").length === 1`);
  assert.equal((await stored(page)).length, 1);
  assert.equal(await answer(page), "You said: second");
  await page.click("#toast button");
  await page.until(`document.querySelector("#title").textContent === "A better name"`);
  assert.equal((await stored(page)).length, 2);
});

pageTest("an answer goes on while another conversation is shown", {}, async (page, mock) => {
  await ask(page, "slow one", false);
  await page.until(`${LAST_ANSWER}.length > 10`);
  await page.click("#new-conversation");
  await ask(page, "quick");
  assert.equal(await answer(page), "You said: quick");
  assert.equal(await count(page, "#conversations .busy"), 1);
  assert.equal(mock.running, 1);
  await page.click("#conversations li:nth-child(2) .choose");
  await page.until(`document.querySelector(".growing") !== null`);
  const before = (await answer(page)).length;
  await page.until(`${LAST_ANSWER}.length > ${before}`);
  await page.press("Escape");
  await answered(page);
});

pageTest("export and import", {}, async (page) => {
  await ask(page, "think once");
  await page.evaluate(`(() => { const create = URL.createObjectURL; window.exported = [];
    URL.createObjectURL = (blob) => (window.exported.push(blob.text()), create(blob)); })()`);
  await page.send("Browser.setDownloadBehavior", { behavior: "deny" }).catch(() => {});
  await page.click("#export-all");
  const exported = await page.evaluate("window.exported[0]");
  const parsed = JSON.parse(exported);
  assert.equal(parsed.format, "minke-conversations");
  assert.equal(parsed.conversations[0].messages[1].reasoning, "First I *think*.\n\nThen more.");
  const give = (source) =>
    page.evaluate(`(() => { const data = new DataTransfer(); data.items.add(new File([${JSON.stringify(source)}], "x.json"));
    const input = document.querySelector("#import-file"); input.files = data.files; input.dispatchEvent(new Event("change")); })()`);
  await give(exported);
  await page.until(`document.querySelectorAll("#conversations li").length === 2`);
  assert.equal(await answer(page), "Done thinking.");
  await give("{");
  await page.until(`document.querySelector("#toast").textContent.startsWith("Not a JSON file")`);
  await give("[]");
  await page.until(`document.querySelector("#toast").textContent.startsWith("Not a file of exported")`);
});

pageTest("two tabs see each other's conversations", {}, async (page, mock) => {
  const other = await page.openTab();
  await other.open(mock.url);
  await ask(page, "from the first");
  await other.until(
    `[...document.querySelectorAll("#conversations li")].some((item) => item.textContent === "from the first")`,
  );
  await other.click("#conversations li:last-child .choose");
  if ((await text(other, "#title")) !== "from the first") await other.click("#conversations li:first-child .choose");
  await ask(other, "from the second");
  await page.until(`${LAST_ANSWER} === "You said: from the second"`);
  assert.equal((await stored(page)).length, 1);
  assert.deepEqual(other.troubles, []);
});

pageTest("a full storage is reported, and the answer goes on", {}, async (page) => {
  await page.evaluate(`Storage.prototype.setItem = () => { throw new DOMException("full", "QuotaExceededError"); }`);
  await ask(page, "hello");
  assert.equal(await answer(page), "You said: hello");
  assert.match(await text(page, "#toast"), /storage is full/);
});

const NO_STORAGE = `for (const name of ["localStorage", "sessionStorage"]) {
  Object.defineProperty(window, name, { get() { throw new DOMException("forbidden", "SecurityError"); } }); }`;

pageTest("without any storage the page still works", { script: NO_STORAGE }, async (page) => {
  await ask(page, "hello");
  await page.click("#new-conversation");
  await page.click("#conversations li:last-child .choose");
  await page.until(`${LAST_ANSWER} === "You said: hello"`);
  await page.click("#theme");
});

// ---- Settings and panel

pageTest("settings are sent when set, and only then", { chatStyle: "v3_1" }, async (page, mock) => {
  await page.click("#tab-settings");
  assert.equal(await page.evaluate(`document.querySelector("#setting-topP").placeholder`), "0.95");
  const fill = async (id, value) => {
    await page.click(`#setting-${id}`);
    await page.evaluate(`document.querySelector("#setting-${id}").select()`);
    await page.type(value);
  };
  await fill("temperature", "9");
  assert.equal(
    await page.evaluate(`document.querySelector("#setting-temperature").getAttribute("aria-invalid")`),
    "true",
  );
  await fill("temperature", "0");
  await fill("topK", "40");
  await fill("maxTokens", "77");
  await fill("seed", "5");
  await fill("stop-sequences", "END");
  await fill("system-prompt", "Be brief.");
  await page.click("[name=thinking][value=true]");
  await ask(page, "hello");
  const { messages, stream, stream_options: options, model, ...sent } = mock.requests[0];
  assert.deepEqual(sent, {
    temperature: 0,
    top_k: 40,
    max_tokens: 77,
    seed: 5,
    stop: ["END"],
    chat_template_kwargs: { thinking: true },
  });
  assert.deepEqual(messages[0], { role: "system", content: "Be brief." });
  await page.send("Page.reload");
  await page.until(`document.querySelector("#setting-topK")?.value === "40"`);
  await page.click("#tab-settings");
  await page.click("#settings > button");
  await ask(page, "hello");
  assert.equal(mock.requests[1].top_k, undefined);
  assert.equal(mock.requests[1].chat_template_kwargs, undefined);
  await page.click("[name=thinking][value=false]");
  await ask(page, "hello");
  assert.deepEqual(mock.requests[2].chat_template_kwargs, { thinking: false });
});

pageTest("the panel shows the engine, and the heat map names its cells", {}, async (page) => {
  await ask(page, "slow one", false);
  await page.until(`Number(document.querySelector("#answer-speed").textContent) > 0`);
  assert.equal(await text(page, "#running"), "1");
  assert.equal(await text(page, "#cache-used"), "11,204 of 32,768");
  assert.equal(await text(page, "#cache-hits"), "77 % of 18.2K");
  assert.deepEqual(await page.evaluate(`[...document.querySelectorAll(".draft b")].map((node) => node.textContent)`), [
    "86 %",
    "69 %",
  ]);
  assert.match(
    await text(page, ".readout"),
    /^Busiest: MoE layer \d+, expert \d+, [23]\.\d+x even\. Idle: \d+ of 1,664$/,
  );
  await page.click("#heatmap-open");
  await page.moveTo("#heatmap canvas", 0.005, 0.02);
  await page.until(`/^MoE layer 1, expert 0: [0-9,]+ tokens, /.test(document.querySelector(".readout").textContent)`);
  await page.moveTo("#heatmap canvas", 0.995, 0.98);
  await page.until(`/^MoE layer 26, expert 63: /.test(document.querySelector(".readout").textContent)`);
  await page.moveTo("#heatmap-dialog-title");
  await page.evaluate(`document.querySelector("#heatmap canvas").focus()`);
  for (const key of ["ArrowRight", "ArrowRight", "ArrowDown"]) await page.press(key);
  assert.match(await text(page, ".readout"), /^MoE layer 2, expert 1: /);
  await page.click("#heatmap-close");
  await page.until(`document.querySelector("#heatmap-home #heatmap") !== null`);
  await page.click(".segmented label:nth-child(2)");
  await page.until(`document.querySelector(".readout").textContent !== ""`);
  const colors = await page.evaluate(`(() => { const canvas = document.querySelector("#heatmap canvas");
    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    return new Set(Array.from({ length: data.length / 4 }, (_, i) => data.slice(4 * i, 4 * i + 3).join())).size; })()`);
  assert.ok(colors > 3, `${colors} colours`);
  await page.press("Escape");
  await page.evaluate(`document.activeElement.blur()`);
  await page.press("Escape");
  await answered(page);
});

pageTest("an engine without drafts, experts or chat history is shown as such", {}, async (page, mock) => {
  mock.silent = true;
  await page.until(`document.querySelector("#mtp").textContent === "No drafts yet."`);
  await page.until(`document.querySelector(".readout").textContent.startsWith("This model has no experts")`);
});

pageTest("themes: the system's, then the reader's own, kept", {}, async (page) => {
  const scheme = `document.documentElement.dataset.scheme`;
  await page.scheme("dark");
  await page.until(`${scheme} === "dark"`);
  await page.click("#theme");
  assert.equal(await page.evaluate(scheme), "light");
  await page.click("#theme");
  assert.equal(await page.evaluate(scheme), "dark");
  await page.scheme("light");
  await page.send("Page.reload");
  await page.until(`document.querySelector("#theme")?.title === "Theme: dark"`);
  assert.equal(await page.evaluate(scheme), "dark");
});

// ---- Access

// WCAG contrast of every text on the page against what is painted behind it.
const CONTRAST = `(() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => { const [r, g, b] = color.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (node) => { for (; node; node = node.parentElement) { const c = parse(getComputedStyle(node).backgroundColor);
    if (c.length === 3 || c[3] > 0.9) return c.slice(0, 3); } return [255, 255, 255]; };
  const bad = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const node = text.parentElement;
    if (text.data.trim() === "" || !node.checkVisibility({ visibilityProperty: true, opacityProperty: true }) || node.closest(".offscreen, .skip, button:disabled")) continue;
    const a = light(parse(getComputedStyle(node).color).slice(0, 3)), b = light(behind(node));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.push(text.data.trim().slice(0, 30) + " " + ratio.toFixed(2));
  }
  return bad;
})()`;

const UNLABELLED = `[...document.querySelectorAll("button, input, textarea, canvas, [role=meter], dialog, nav, aside")]
  .filter((node) => !node.hidden && node.type !== "file" && node.getAttribute("aria-hidden") !== "true")
  .filter((node) => !(node.getAttribute("aria-label") || node.getAttribute("aria-labelledby") || node.labels?.length || node.textContent.trim()))
  .map((node) => node.outerHTML.slice(0, 80))`;

for (const scheme of ["light", "dark"]) {
  pageTest(`labels and contrast, ${scheme}`, { chatStyle: "v3_1" }, async (page) => {
    await page.scheme(scheme);
    await ask(page, "showcase");
    await ask(page, "error");
    await page.click(".reasoning summary");
    for (const tab of ["engine", "settings"]) {
      await page.click(`#tab-${tab}`);
      await new Promise((resolve) => setTimeout(resolve, 200));
      assert.deepEqual(await page.evaluate(CONTRAST), []);
      assert.deepEqual(await page.evaluate(UNLABELLED), []);
    }
  });
}

pageTest("the keyboard reaches everything, and shows where it is", {}, async (page) => {
  await ask(page, "hello");
  const seen = new Set();
  for (let i = 0; i < 60; i++) {
    await page.press("Tab");
    seen.add(
      await page.evaluate(
        `(document.activeElement.id || document.activeElement.getAttribute("aria-label")) ?? document.activeElement.className`,
      ),
    );
  }
  for (const id of [
    "new-conversation",
    "theme",
    "message",
    "tab-engine",
    "heatmap-open",
    "panel-toggle",
    "Copy answer",
    "Answer again",
  ]) {
    assert.ok(seen.has(id), `${id} of ${[...seen].join(", ")}`);
  }
});

pageTest(
  "on a phone nothing is wider than the screen, and the drawers open and close",
  { width: 360, height: 700 },
  async (page) => {
    await ask(page, "showcase");
    assert.ok(await page.evaluate(`document.scrollingElement.scrollWidth <= 360`));
    assert.ok(
      await page.evaluate(
        `document.querySelector("#scroller").scrollWidth <= document.querySelector("#scroller").clientWidth`,
      ),
    );
    await page.click("#sidebar-open");
    await page.until(`document.querySelector("#sidebar").getBoundingClientRect().x === 0`);
    await page.press("Escape");
    await page.until(`document.querySelector("#sidebar").getBoundingClientRect().right <= 0`);
    await page.click("#panel-toggle");
    await page.until(`document.querySelector("#panel").getBoundingClientRect().right === 360`);
    await page.click("#panel-close");
    await page.until(`document.querySelector("#panel").getBoundingClientRect().x >= 360`);
    assert.ok(await page.evaluate(`document.querySelector("#composer").getBoundingClientRect().bottom <= 700`));
  },
);

// ---- Long answers

pageTest("long answers stay smooth, and follow only while the reader is at the end", {}, async (page) => {
  // How much is built anew per frame is counted, since seconds depend on the machine's other work.
  await page.evaluate(`(() => { window.longest = window.created = window.frames = 0;
    const create = document.createElement; document.createElement = function (tag) { window.created++; return create.call(this, tag); };
    const frame = () => { window.frames++; requestAnimationFrame(frame); }; frame();
    new PerformanceObserver((list) => list.getEntries().forEach((entry) => {
      window.longest = Math.max(window.longest, entry.duration); })).observe({ entryTypes: ["longtask"] }); })()`);
  await ask(page, "long", false);
  await page.until(`document.querySelectorAll(".answer .markdown > p").length > 20`);
  await page.evaluate(`document.querySelector(".answer .markdown > p").dataset.kept = "yes"`);
  await answered(page);
  const [created, frames] = await page.evaluate("[window.created, window.frames]");
  assert.ok(created < 2000 + 60 * frames, `${created} nodes in ${frames} frames`);
  assert.equal(await count(page, ".answer .markdown > p"), 120);
  assert.equal(await page.evaluate(`document.querySelector(".answer .markdown > p").dataset.kept`), "yes");
  const distance = `(() => { const s = document.querySelector("#scroller"); return s.scrollHeight - s.clientHeight - s.scrollTop; })()`;
  assert.ok((await page.evaluate(distance)) < 2);
  await ask(page, "code", false);
  await page.until(`document.querySelector(".answer pre")?.textContent.length > 5000`);
  await page.evaluate(`document.querySelector("#scroller").scrollTop = 0`);
  await page.until(`!document.querySelector("#jump").hidden`);
  await answered(page);
  assert.equal(await page.evaluate(`document.querySelector("#scroller").scrollTop`), 0);
  assert.equal(await page.evaluate(`document.querySelector(".answer pre").textContent.length`), 3000 * 33 - 1);
  await page.click("#jump");
  await page.until(`${distance} < 2`);
  await ask(page, "list");
  assert.equal(await count(page, ".answer li"), 1000);
  await ask(page, "babble");
  const longest = await page.evaluate("window.longest");
  console.log(`   longest task ${Math.round(longest)} ms`);
  assert.ok(longest < 2000, `a task of ${longest} ms`);
});

pageTest("the growing rendering equals that of the whole text", {}, async (page) => {
  for (const name of ["showcase", "hostile", "long"]) {
    await ask(page, name);
    const grown = await page.evaluate(`[...document.querySelectorAll(".answer .markdown")].at(-1).innerHTML`);
    await page.send("Page.reload");
    await page.until(`document.querySelector(".answer") !== null`);
    assert.equal(await page.evaluate(`[...document.querySelectorAll(".answer .markdown")].at(-1).innerHTML`), grown);
  }
});

pageTest("code is copied", {}, async (page) => {
  await page
    .send("Browser.grantPermissions", { permissions: ["clipboardReadWrite", "clipboardSanitizedWrite"] })
    .catch(() => {});
  await ask(page, "showcase");
  await page.evaluate(`navigator.clipboard.writeText = (text) => (window.copied = text, Promise.resolve())`);
  await page.click(".copy");
  await page.until(`document.querySelector(".copy").textContent === "Copied"`);
  assert.match(await page.evaluate("window.copied"), /^\/\/ scores of one head.*\n\}$/s);
});

// ---- The picture of the documentation

if (PICTURE) {
  pageTest(
    "a picture of the page",
    { chatStyle: "v3_1", width: 1360, height: 850, scale: 1.25 },
    async (page, mock) => {
      for (const title of ["A limerick about whales", "Explain YaRN in one paragraph"]) {
        await ask(page, title);
        await page.click("#new-conversation");
      }
      // Another reader's request, so that there is something to see in the panel.
      const others = new AbortController();
      const body = JSON.stringify({ messages: [{ role: "user", content: "slow" }], stream: true });
      fetch(`${mock.url}v1/chat/completions`, { method: "POST", body, signal: others.signal }).catch(() => {});
      await ask(page, "showcase", false);
      await page.evaluate(
        `document.querySelector(".bubble").textContent = "Why is the cache of latent attention so small?"`,
      );
      await page.until(`Number(document.querySelector("#answer-speed").textContent) > 0`);
      await answered(page);
      const title = await page.evaluate(
        `(document.querySelector("#title").textContent = "The cache of latent attention")`,
      );
      await page.evaluate(`document.querySelector(".current .choose").textContent = ${JSON.stringify(title)}`);
      await page.moveTo("#title");
      await new Promise((resolve) => setTimeout(resolve, 9000));
      assert.ok(mock.requests.length === 4);
      const size = await page.screenshot(PICTURE);
      others.abort();
      assert.ok(size < 300000, `${size} bytes`);
    },
  );
}

try {
  await finish();
} finally {
  await browser.close();
}
