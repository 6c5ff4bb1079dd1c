// Drives a headless Chromium over its debugging pipe (file descriptors 3 and 4, JSON messages that end with a zero byte):
// no package is needed. A page object collects what went wrong in it (exceptions, console errors, refused loads).
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const CALL_MILLISECONDS = 20000;
const WAIT_MILLISECONDS = 15000;

export async function openBrowser(program = "chromium") {
  const profile = mkdtempSync(join(tmpdir(), "minke-page-"));
  const flags = [
    "--headless=new",
    "--remote-debugging-pipe",
    `--user-data-dir=${profile}`,
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--lang=en-US",
    "--font-render-hinting=none",
  ];
  // Chromium refuses to sandbox root, as whom containers run tests.
  if (process.getuid?.() === 0) flags.push("--no-sandbox");
  const child = spawn(program, [...flags, "about:blank"], { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
  const ended = new Promise((resolve) => child.on("exit", resolve));
  const connection = connect(child);

  return {
    newPage: (options) => newPage(connection, options),
    async close() {
      await Promise.race([connection.call("Browser.close").catch(() => {}), ended]);
      const killer = setTimeout(() => child.kill("SIGKILL"), 5000);
      await ended;
      clearTimeout(killer);
      rmSync(profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
    },
  };
}

// Calls are answered by id; events go to the listeners of their session.
function connect(child) {
  const waiting = new Map();
  const listeners = [];
  let nextId = 1;
  let rest = [];

  function receive(message) {
    if (message.id === undefined) {
      for (const listener of listeners) listener(message);
      return;
    }
    const { resolve, reject, method } = waiting.get(message.id);
    waiting.delete(message.id);
    if (message.error) reject(new Error(`${method}: ${message.error.message}`));
    else resolve(message.result);
  }
  child.stdio[4].on("data", (chunk) => {
    for (let end = chunk.indexOf(0); end >= 0; end = chunk.indexOf(0)) {
      receive(JSON.parse(Buffer.concat([...rest, chunk.subarray(0, end)]).toString()));
      rest = [];
      chunk = chunk.subarray(end + 1);
    }
    rest.push(chunk);
  });
  const fail = (error) => {
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  };
  child.on("error", fail);
  child.on("exit", (status) => fail(new Error(`chromium ended with status ${status}`)));

  function call(method, params = {}, sessionId = undefined) {
    return new Promise((resolve, reject) => {
      const id = nextId++;
      const timer = setTimeout(() => reject(new Error(`${method}: no answer`)), CALL_MILLISECONDS);
      const done = (settle) => (value) => (clearTimeout(timer), settle(value));
      waiting.set(id, { resolve: done(resolve), reject: done(reject), method });
      child.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    });
  }
  return { call, listen: (listener) => listeners.push(listener) };
}

// A page in a context of its own: it shares no storage with others, except with the tabs opened from it.
async function newPage(connection, options) {
  const { browserContextId } = await connection.call("Target.createBrowserContext");
  const page = await newTab(connection, browserContextId, options ?? {});
  page.openTab = () => newTab(connection, browserContextId, options ?? {});
  page.close = () => connection.call("Target.disposeBrowserContext", { browserContextId });
  return page;
}

async function newTab(connection, browserContextId, { width = 1280, height = 800, scale = 1 }) {
  const { targetId } = await connection.call("Target.createTarget", { url: "about:blank", browserContextId });
  const { sessionId } = await connection.call("Target.attachToTarget", { targetId, flatten: true });
  const send = (method, params) => connection.call(method, params, sessionId);
  const page = { troubles: [], addresses: [], send, ...actions(send) };
  connection.listen((event) => event.sessionId === sessionId && notice(page, event));
  for (const domain of ["Page", "Runtime", "Log", "Network"]) await send(`${domain}.enable`);
  await send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: scale, mobile: width < 600 });
  await send("Emulation.setFocusEmulationEnabled", { enabled: true });
  return page;
}

// Keeps what a reader of the console would see.
function notice(page, { method, params }) {
  if (method === "Runtime.exceptionThrown") {
    const { exception, text } = params.exceptionDetails;
    page.troubles.push(exception?.description ?? text);
  } else if (method === "Log.entryAdded" && params.entry.level === "error") {
    page.troubles.push(`${params.entry.text} ${params.entry.url ?? ""}`);
  } else if (method === "Runtime.consoleAPICalled" && ["error", "warning", "assert"].includes(params.type)) {
    page.troubles.push(params.args.map((value) => value.value ?? value.description).join(" "));
  } else if (method === "Page.javascriptDialogOpening") {
    page.troubles.push(`a dialog opened: ${params.message}`);
    page.send("Page.handleJavaScriptDialog", { accept: true }).catch(() => {});
  } else if (method === "Network.requestWillBeSent") {
    page.addresses.push(params.request.url);
  }
}

const KEYS = {
  Enter: { key: "Enter", code: "Enter", windowsVirtualKeyCode: 13, text: "\r" },
  Escape: { key: "Escape", code: "Escape", windowsVirtualKeyCode: 27 },
  Tab: { key: "Tab", code: "Tab", windowsVirtualKeyCode: 9 },
  ArrowRight: { key: "ArrowRight", code: "ArrowRight", windowsVirtualKeyCode: 39 },
  ArrowDown: { key: "ArrowDown", code: "ArrowDown", windowsVirtualKeyCode: 40 },
  n: { key: "n", code: "KeyN", windowsVirtualKeyCode: 78 },
};
export const ALT = 1;
export const SHIFT = 8;

function actions(send) {
  async function evaluate(expression) {
    const answer = await send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (answer.exceptionDetails) {
      throw new Error(
        `${expression}: ${answer.exceptionDetails.exception?.description ?? answer.exceptionDetails.text}`,
      );
    }
    return answer.result.value;
  }

  // Until the expression is true.
  async function until(expression, milliseconds = WAIT_MILLISECONDS) {
    const end = Date.now() + milliseconds;
    for (;;) {
      const value = await evaluate(expression);
      if (value) return value;
      if (Date.now() > end) throw new Error(`waited in vain for ${expression}`);
      await new Promise((resolve) => setTimeout(resolve, 30));
    }
  }

  // With the mouse, in the middle of the element: what is covered cannot be clicked.
  async function click(selector, clickCount = 1) {
    const place = `(() => {
      const node = document.querySelector(${JSON.stringify(selector)});
      if (!node) return null;
      node.scrollIntoView({ block: "nearest" });
      const box = node.getBoundingClientRect();
      const x = box.x + box.width / 2, y = box.y + box.height / 2;
      const hit = document.elementFromPoint(x, y);
      return hit && (node === hit || node.contains(hit) || hit.contains(node)) && box.width > 0 ? { x, y } : null;
    })()`;
    await moveTo(selector);
    const { x, y } = await until(place);
    for (const type of ["mousePressed", "mouseReleased"]) {
      await send("Input.dispatchMouseEvent", { type, x, y, button: "left", clickCount });
    }
  }

  async function moveTo(selector, fractionX = 0.5, fractionY = 0.5) {
    const box =
      await until(`(() => { const b = document.querySelector(${JSON.stringify(selector)})?.getBoundingClientRect();
      return b && b.toJSON(); })()`);
    const x = box.x + box.width * fractionX;
    const y = box.y + box.height * fractionY;
    await send("Input.dispatchMouseEvent", { type: "mouseMoved", x, y });
  }

  async function press(name, modifiers = 0) {
    const { text, ...key } = KEYS[name];
    const down = text && modifiers !== ALT ? { text } : {};
    await send("Input.dispatchKeyEvent", { type: "keyDown", modifiers, ...key, ...down });
    await send("Input.dispatchKeyEvent", { type: "keyUp", modifiers, ...key });
  }

  async function open(url) {
    await send("Page.navigate", { url });
    await until(`document.readyState === "complete"`);
  }

  async function screenshot(file) {
    const { data } = await send("Page.captureScreenshot", { format: "png" });
    const bytes = Buffer.from(data, "base64");
    writeFileSync(file, bytes);
    return bytes.length;
  }

  const type = (text) => send("Input.insertText", { text });
  const scheme = (value) => send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value }] });
  return { evaluate, until, click, moveTo, press, type, open, screenshot, scheme };
}
