// The page's text modules without a browser: markdown, inline markup, safe links, server-sent events.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { parseDocument, resumeOffset } from "../../src/serve/page/markdown.js";
import { parseInline, safeAddress } from "../../src/serve/page/inline.js";
import { createEventParser, readEvents } from "../../src/serve/page/sse.js";
import { test, finish } from "./report.mjs";

// ---- A short notation for trees, so that expectations can be read

function showInline(nodes) {
  return nodes
    .map((node) => {
      if (node.kind === "text") return node.text;
      if (node.kind === "break") return "\\";
      if (node.kind === "code") return `code(${node.text})`;
      if (node.kind === "math") return `math(${node.text})`;
      const href = node.kind === "link" ? `${node.href}: ` : "";
      return `${node.kind}(${href}${showInline(node.content)})`;
    })
    .join("");
}

function showBlock(block) {
  switch (block.kind) {
    case "paragraph":
      return `p(${showInline(block.content)})`;
    case "heading":
      return `h${block.level}(${showInline(block.content)})`;
    case "code":
      return `code[${block.language}](${block.text})`;
    case "math":
      return `math(${block.text})`;
    case "quote":
      return `quote(${showBlocks(block.blocks)})`;
    case "list":
      return showList(block);
    case "table":
      return `table[${block.align.map((a) => a?.[0] ?? "-").join("")}](${[block.head, ...block.rows]
        .map((row) => row.map(showInline).join("|"))
        .join("/")})`;
    default:
      return block.kind;
  }
}

function showList(list) {
  const items = list.items.map((item) => {
    const box = item.task === null ? "" : item.task ? "[x]" : "[ ]";
    return box + showBlocks(item.blocks);
  });
  return `${list.ordered ? `ol${list.first}` : "ul"}${list.loose ? "~" : ""}(${items.join("; ")})`;
}

const showBlocks = (blocks) => blocks.map(showBlock).join(" ");
const document = (text) => showBlocks(parseDocument(text));
const inline = (text) => showInline(parseInline(text));

function check(name, show, cases) {
  test(name, () => {
    for (const [text, expected] of cases) assert.equal(show(text), expected, JSON.stringify(text));
  });
}

// ---- Inline

check("inline: emphasis", inline, [
  ["a *b* c", "a emphasis(b) c"],
  ["**b**", "strong(b)"],
  ["***b***", "emphasis(strong(b))"],
  ["**a *b* c**", "strong(a emphasis(b) c)"],
  ["*a **b** c*", "emphasis(a strong(b) c)"],
  ["__b__ and _c_", "strong(b) and emphasis(c)"],
  ["snake_case_name and 2*3*4", "snake_case_name and 2emphasis(3)4"],
  ["2 * 3 * 4", "2 * 3 * 4"],
  ["**open", "**open"],
  ["*a **b*", "*a *emphasis(b)"],
  ["~~old~~ ~new~", "strike(old) ~new~"],
  ["**Müller:** x", "strong(Müller:) x"],
  ["**中文**。", "strong(中文)。"],
  ["\\*no\\*", "*no*"],
  ["a*b*c_d_", "aemphasis(b)c_d_"],
]);

check("inline: code and formulas", inline, [
  ["`a*b*`", "code(a*b*)"],
  ["``a`b``", "code(a`b)"],
  ["`` ` ``", "code(`)"],
  ["`open", "`open"],
  ["`a``b`", "code(a``b)"],
  ["\\(a_1 * b_1 * c\\)", "math(\\(a_1 * b_1 * c\\))"],
  ["cost $5 and $6", "cost $5 and $6"],
  ["$$x_1_2$$", "math($$x_1_2$$)"],
]);

check("inline: links", inline, [
  ["[a](https://e.org/x)", "link(https://e.org/x: a)"],
  ['[*a*](https://e.org/ "t")', "link(https://e.org/: emphasis(a))"],
  ["[a](https://e.org/x_(y))", "link(https://e.org/x_(y): a)"],
  ["![picture](https://e.org/p.png)", "!link(https://e.org/p.png: picture)".slice(1)],
  ["see https://e.org/a_b_c.", "see link(https://e.org/a_b_c: https://e.org/a_b_c)."],
  ["(https://e.org/x)", "(link(https://e.org/x: https://e.org/x))"],
  ["<https://e.org>", "link(https://e.org/: https://e.org)"],
  ["[a] (b) [c]", "[a] (b) [c]"],
  ["[a](b", "[a](b"],
  ["[a [b](https://e.org)](https://f.org)", "link(https://f.org/: a [b](https://e.org))"],
]);

test("inline: only harmless schemes become links", () => {
  const bad = [
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "java\nscript:alert(1)",
    " javascript:alert(1)",
    "\u0001javascript:alert(1)",
    "java\tscript:alert(1)",
    "data:text/html,<script>1</script>",
    "vbscript:x",
    "file:///etc/passwd",
    "//e.org",
    "/path",
    "blob:null/1",
    "intent://x",
    "javascript&colon;alert(1)",
  ];
  for (const address of bad) {
    assert.equal(safeAddress(address), null, address);
    for (const text of [`[a](${address})`, `[a](<${address}>)`, `<${address}>`, `![a](${address})`]) {
      assert.ok(!JSON.stringify(parseInline(text)).includes('"link"'), text);
    }
  }
  assert.equal(safeAddress("https://e.org/a b"), "https://e.org/a%20b");
  assert.equal(safeAddress("mailto:a@e.org"), "mailto:a@e.org");
});

// ---- Blocks

check("blocks: headings, rules, paragraphs", document, [
  ["# A\ntext\n## B ##", "h1(A) p(text) h2(B)"],
  ["#hashtag", "p(#hashtag)"],
  ["#", "h1()"],
  ["a\nb\n\nc", "p(a\\b) p(c)"],
  ["a\n\n---\n\nb", "p(a) rule p(b)"],
  ["* * *", "rule"],
  ["a\r\n\r\nb\r\n", "p(a) p(b)"],
  ["<script>alert(1)</script>", "p(<script>alert(1)</script>)"],
]);

check("blocks: code", document, [
  ["```c\nint a;\n\n  b\n```\nend", "code[c](int a;\n\n  b) p(end)"],
  ["```\nopen *x*", "code[](open *x*)"],
  ["~~~py\n```\n~~~", "code[py](```)"],
  ["````\n```\n````", "code[](```)"],
  ["text\n```\na\n```", "p(text) code[](a)"],
  ["```c++ title=x\n#\n```", "code[c++](#)"],
  ["```\n\ttab\n```", "code[](\ttab)"],
]);

check("blocks: lists", document, [
  ["- a\n- b", "ul(p(a); p(b))"],
  ["- a\n\n- b", "ul~(p(a); p(b))"],
  ["1. a\n2. b\n\ntext", "ol1(p(a); p(b)) p(text)"],
  ["3) a", "ol3(p(a))"],
  ["- a\n  - b\n    - c\n- d", "ul(p(a) ul(p(b) ul(p(c))); p(d))"],
  ["1. a\n  - b\n2. c", "ol1(p(a) ul(p(b)); p(c))"],
  ["1. a\n\n   more\n\n2. b", "ol1~(p(a) p(more); p(b))"],
  ["- a\nlazy", "ul(p(a\\lazy))"],
  ["- ```\n  x\n\n  y\n  ```\n- b", "ul(code[](x\n\ny); p(b))"],
  ["- [ ] a\n- [x] b", "ul([ ]p(a); [x]p(b))"],
  ["- a\n1. b", "ul(p(a)) ol1(p(b))"],
  ["In\n1986. A year", "p(In\\1986. A year)"],
  ["text\n- a", "p(text) ul(p(a))"],
  ["* a\n* b\n\n\n# c", "ul(p(a); p(b)) h1(c)"],
  ["-", "ul()"],
  ["\t- a", "ul(p(a))"],
]);

check("blocks: quotes, tables, formulas", document, [
  ["> a\n> - b\n\nc", "quote(p(a) ul(p(b))) p(c)"],
  ["> > a", "quote(quote(p(a)))"],
  ["|a|b|\n|:-|-:|\n|1|2|\n|3|", "table[lr](a|b/1|2/3|)"],
  ["a | b\n--- | :-:\n`x|y` | z\\|w", "table[-c](a|b/code(x|y)|z|w)"],
  ["a | b\nno", "p(a | b\\no)"],
  ["text\n| a |\n|---|", "p(text) table[-](a)"],
  ["\\[\nx_1\n\\]\nafter", "math(\\[\nx_1\n\\]) p(after)"],
  ["$$ a_b $$", "math($$ a_b $$)"],
  ["$$\nopen\n\nnext", "math($$\nopen) p(next)"],
]);

// ---- Growing text

const SAMPLE = [
  "# Title",
  "",
  "First *paragraph*",
  "second line",
  "",
  "- one",
  "  - two",
  "",
  "  more",
  "- three",
  "",
  "| a | b |",
  "|---|---|",
  "| 1 | 2 |",
  "",
  "```js",
  "const a = 1;",
  "",
  "b();",
  "```",
  "> quote",
  "",
  "\\[",
  "x^2",
  "\\]",
  "",
  "1. a",
  "",
  "2. b",
  "",
  "end **bold** 🐋",
  "",
].join("\n");

// What the page does: parse the end anew, keep what precedes it.
function growBlocks(text, steps) {
  let kept = [];
  let start = 0;
  for (const length of steps) {
    const fresh = parseDocument(text.slice(0, length), start);
    if (fresh.length === 0) continue;
    kept = [...kept.filter((block) => block.start < start), ...fresh];
    start = resumeOffset(text.slice(0, length), kept);
  }
  return showBlocks(kept);
}

test("a growing answer ends like the whole one, at every cut", () => {
  const whole = document(SAMPLE);
  const all = Array.from({ length: SAMPLE.length }, (_, i) => i + 1);
  assert.equal(growBlocks(SAMPLE, all), whole);
  for (let seed = 1; seed <= 300; seed++) {
    const steps = all.filter((i) => (i * 2654435761 * seed) % 97 < 9);
    assert.equal(growBlocks(SAMPLE, [...steps, SAMPLE.length]), whole);
  }
});

test("random markup never throws and grows consistently", () => {
  const parts = [
    "*",
    "**",
    "_",
    "`",
    "```",
    "\n",
    "\n\n",
    "- ",
    "  ",
    "1. ",
    "> ",
    "|",
    "---",
    "# ",
    "[",
    "](",
    ")",
    "a",
    " b ",
    "~~",
    "\\",
    "$$",
    "\\[",
    "\\]",
    "https://e.org",
    "<",
    "🐋",
    "\t",
    "![",
  ];
  let state = 12345;
  const random = (n) => (state = (state * 1103515245 + 12345) & 0x7fffffff) % n;
  for (let round = 0; round < 3000; round++) {
    let text = "";
    for (let i = random(40); i >= 0; i--) text += parts[random(parts.length)];
    const all = Array.from({ length: text.length }, (_, i) => i + 1);
    assert.equal(growBlocks(text, all), document(text), JSON.stringify(text));
  }
});

test("hostile lengths stay fast and shallow", () => {
  const n = 20000;
  const texts = [
    "*".repeat(n),
    "*a ".repeat(n),
    "a* ".repeat(n),
    "*a ".repeat(n) + "a* ".repeat(n),
    "**a_".repeat(n),
    "[".repeat(n),
    "[a](".repeat(n),
    "![".repeat(n) + "](x)".repeat(n),
    "`a``b```".repeat(n),
    "> ".repeat(n),
    "- ".repeat(n),
    "\\(".repeat(n),
    "$$".repeat(n),
    "| a ".repeat(n) + "\n" + "|---".repeat(n),
    " ".repeat(n) + "-",
    "#".repeat(n),
    "# " + " #".repeat(n) + "x",
    "~~a".repeat(n),
    "<https://".repeat(n),
    "\n".repeat(n),
    "```\n".repeat(n),
    "- a\n".repeat(n),
    "(".repeat(n) + ")".repeat(n),
    "https://e.org/" + "(".repeat(n),
    "https://e.org/" + ".".repeat(n),
    "*_".repeat(n),
    "|\n".repeat(n),
    "> - ".repeat(n),
    " - - ".repeat(n) + "x",
    "\t".repeat(n) + "1. x",
  ];
  for (const text of texts) {
    const start = process.cpuUsage();
    const tree = JSON.stringify(parseDocument(text));
    const { user } = process.cpuUsage(start);
    assert.ok(user < 1000000, `${text.slice(0, 12)}: ${user / 1000} ms`);
    assert.ok(tree.length > 0);
  }
});

// ---- Server-sent events

const STREAM =
  ': keep-alive\n\ndata: {"a":"🐋é"}\r\n\r\ndata: one\ndata: two\n\nevent: x\nid: 1\ndata:three\n\n: bye\n\ndata: [DONE]\n\n';
const EVENTS = ['{"a":"🐋é"}', "one\ntwo", "three", "[DONE]"];

test("events: any cut of the text gives the same events", () => {
  for (let first = 0; first <= STREAM.length; first++) {
    for (let second = first; second <= STREAM.length; second += 3) {
      const events = [];
      const push = createEventParser((data) => events.push(data));
      push(STREAM.slice(0, first));
      push(STREAM.slice(first, second));
      push(STREAM.slice(second));
      assert.deepEqual(events, EVENTS);
    }
  }
});

test("events: one byte at a time keeps characters whole", async () => {
  const bytes = new TextEncoder().encode(STREAM);
  const stream = new ReadableStream({
    start(controller) {
      for (const byte of bytes) controller.enqueue(Uint8Array.of(byte));
      controller.close();
    },
  });
  const events = [];
  for await (const data of readEvents(stream)) events.push(data);
  assert.deepEqual(events, EVENTS);
});

test("events: leaving early cancels the stream", async () => {
  let cancelled = false;
  const stream = new ReadableStream({
    pull: (controller) => controller.enqueue(new TextEncoder().encode("data: x\n\n")),
    cancel: () => (cancelled = true),
  });
  for await (const data of readEvents(stream)) {
    assert.equal(data, "x");
    break;
  }
  assert.ok(cancelled);
});

// ---- The sources

const PAGE = new URL("../../src/serve/page/", import.meta.url);
const sources = readdirSync(PAGE).map((name) => ({ name, source: readFileSync(new URL(name, PAGE), "utf8") }));

test("every script parses", () => {
  for (const { name, source } of sources.filter(({ name }) => name.endsWith(".js"))) {
    const run = spawnSync(process.execPath, ["--check", "--input-type=module"], { input: source, encoding: "utf8" });
    assert.equal(run.status, 0, `${name}: ${run.stderr}`);
  }
});

test("no script makes markup or code out of text, and nothing points elsewhere", () => {
  const banned =
    /\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|new Function|setAttribute\("style|srcdoc)\b/;
  for (const { name, source } of sources) {
    const code = source.replace(/\/\/ .*$/gm, "");
    assert.ok(!banned.test(code), `${name}: ${banned.exec(code)}`);
    const addresses = [...source.matchAll(/https?:\/\/[a-z][^\s"'`)]*/g)].map(([address]) => address);
    assert.deepEqual(
      addresses.filter((address) => !address.startsWith("http://www.w3.org/")),
      [],
      name,
    );
  }
});

await finish();
