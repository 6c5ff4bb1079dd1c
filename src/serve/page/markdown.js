// Markdown -> a tree of blocks. Pure text work without a document, so that it can be tested anywhere; render.js builds
// the nodes. What models write is covered: headings, paragraphs, lists (nested, tasks), quotes, fenced code, tables,
// rules and TeX between \[ \], \( \) or $$; HTML has no meaning and stays text.
//
// Blocks at the top level do not depend on what precedes them: an answer that grows is parsed again from the start of
// its last block only (resumeOffset, parseDocument's `from`).
import { parseInline } from "./inline.js";

// Deeper nesting stays text: hostile input must not exhaust the stack.
const MAX_DEPTH = 10;

const FENCE = /^[ \t]*(`{3,}|~{3,})[ \t]*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?=[ \t]|$)/;
const RULE = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^([ \t]*)([-*+]|\d{1,9}[.)])(?:([ \t]+)(?=\S)|[ \t]*$)/;
const TASK = /^\[([ xX])\][ \t]+/;
const TABLE_RULE = /^\|?[ \t]*:?-+:?(?:[ \t]*\|[ \t]*:?-+:?)*[ \t]*\|?$/;
const MATH = /^[ \t]*(\$\$|\\\[)/;

// Blocks of text from offset `from`; each has `start`, its offset in the text.
export function parseDocument(text, from = 0) {
  const lines = [];
  const offsets = [];
  for (let at = from; at < text.length;) {
    const end = text.indexOf("\n", at);
    const stop = end < 0 ? text.length : end;
    lines.push(text.slice(at, text[stop - 1] === "\r" && stop > at ? stop - 1 : stop));
    offsets.push(at);
    at = stop + 1;
  }
  const blocks = parseLines(lines, 0);
  for (const block of blocks) {
    block.start = offsets[block.line];
    delete block.line;
  }
  return blocks;
}

// Where to parse again once the text has grown: at its last block, or at the one before if the last block is no more
// than a line that is still being written ("2" may become "2. next item" of the list before it).
export function resumeOffset(text, blocks) {
  const last = blocks[blocks.length - 1];
  const unfinished = last && last.start > text.lastIndexOf("\n");
  return (unfinished ? (blocks[blocks.length - 2] ?? last) : last)?.start ?? 0;
}

function parseLines(lines, depth) {
  const blocks = [];
  for (let at = 0; at < lines.length;) {
    if (isBlank(lines[at])) {
      at++;
      continue;
    }
    const { block, next } = parseBlock(lines, at, depth);
    block.line = at;
    blocks.push(block);
    at = next;
  }
  return blocks;
}

function parseBlock(lines, at, depth) {
  const line = lines[at];
  if (FENCE.test(line)) return parseFence(lines, at);
  if (HEADING.test(line)) return { block: parseHeading(line), next: at + 1 };
  if (RULE.test(line)) return { block: { kind: "rule" }, next: at + 1 };
  if (MATH.test(line)) return parseMath(lines, at);
  if (depth < MAX_DEPTH && QUOTE.test(line)) return parseQuote(lines, at, depth);
  if (depth < MAX_DEPTH && ITEM.test(line)) return parseList(lines, at, depth);
  if (isTable(lines, at)) return parseTable(lines, at);
  return parseParagraph(lines, at, depth);
}

// Whether a line ends the paragraph before it.
function interrupts(lines, at, depth) {
  const line = lines[at];
  if (isBlank(line) || FENCE.test(line) || HEADING.test(line) || RULE.test(line) || MATH.test(line)) return true;
  if (depth < MAX_DEPTH && QUOTE.test(line)) return true;
  const item = depth < MAX_DEPTH ? ITEM.exec(line) : null;
  // "1986. A fine year" and a lone "-" inside a paragraph are not lists.
  if (item && item[3] !== undefined && (/^[-*+]$/.test(item[2]) || /^1[.)]$/.test(item[2]))) return true;
  return isTable(lines, at);
}

function parseParagraph(lines, at, depth) {
  let next = at + 1;
  while (next < lines.length && !interrupts(lines, next, depth)) next++;
  const text = lines
    .slice(at, next)
    .map((line) => line.trimStart())
    .join("\n")
    .trimEnd();
  return { block: { kind: "paragraph", content: parseInline(text) }, next };
}

function parseHeading(line) {
  const level = HEADING.exec(line)[1].length;
  const text = line
    .trim()
    .slice(level)
    .trim()
    .replace(/(^|[ \t])#+$/, "")
    .trimEnd();
  return { kind: "heading", level, content: parseInline(text) };
}

// An unclosed fence holds the rest of the text: that is what it looks like while the answer is being written.
function parseFence(lines, at) {
  const [, fence, info] = FENCE.exec(lines[at]);
  const indent = indentOf(lines[at]);
  const close = new RegExp(`^[ \\t]*${fence[0]}{${fence.length},}[ \\t]*$`);
  let next = at + 1;
  while (next < lines.length && !close.test(lines[next])) next++;
  const text = lines
    .slice(at + 1, next)
    .map((line) => dedent(line, indent))
    .join("\n");
  const language = info.trim().split(/\s+/)[0];
  return { block: { kind: "code", language, text }, next: next + 1 };
}

// TeX on lines of its own; it ends at its closing mark or, if that never comes, at an empty line.
function parseMath(lines, at) {
  const close = MATH.exec(lines[at])[1] === "$$" ? "$$" : "\\]";
  const first = lines[at].trim();
  let next = at + 1;
  if (!(first.length > 3 && first.endsWith(close))) {
    while (next < lines.length && !isBlank(lines[next]) && !lines[next].trimEnd().endsWith(close)) next++;
    if (next < lines.length && !isBlank(lines[next])) next++;
  }
  return { block: { kind: "math", text: lines.slice(at, next).join("\n").trim() }, next };
}

function parseQuote(lines, at, depth) {
  let next = at;
  while (next < lines.length && QUOTE.test(lines[next])) next++;
  const inner = lines.slice(at, next).map((line) => line.replace(QUOTE, ""));
  return { block: { kind: "quote", blocks: parseLines(inner, depth + 1) }, next };
}

// ---- Lists

function parseList(lines, at, depth) {
  const ordered = isOrdered(lines[at]);
  const indent = indentOf(lines[at]);
  const list = { kind: "list", ordered, first: ordered ? parseInt(ITEM.exec(lines[at])[2], 10) : 1, loose: false };
  list.items = [];
  let next = at;
  while (next < lines.length && startsItem(lines[next], ordered, indent)) {
    const item = takeItem(lines, next, indent, depth);
    list.items.push(item.block);
    // An empty line between two items, or inside one, sets the items apart.
    if (item.gap || (item.trailing && item.next < lines.length && startsItem(lines[item.next], ordered, indent))) {
      list.loose = true;
    }
    next = item.next;
  }
  return { block: list, next };
}

function isOrdered(line) {
  return /\d/.test(ITEM.exec(line)[2]);
}

function startsItem(line, ordered, indent) {
  return ITEM.test(line) && !RULE.test(line) && isOrdered(line) === ordered && indentOf(line) < indent + 2;
}

// One item: its first line without the marker, then every line that is indented under it, then lines that merely
// continue its paragraph.
function takeItem(lines, at, indent, depth) {
  const [whole, , marker, space] = ITEM.exec(lines[at]);
  const content = indent + marker.length + Math.min(space?.length ?? 1, 4);
  const inner = [lines[at].slice(whole.length)];
  let next = at + 1;
  let trailing = false;
  let gap = false;
  let fence = openFence(null, inner[0]);
  for (; next < lines.length; next++) {
    const line = lines[next];
    if (isBlank(line)) {
      trailing = true;
      inner.push("");
      continue;
    }
    const nested = indentOf(line) >= indent + 2;
    if (!nested && (trailing || fence || ITEM.test(line) || interrupts(lines, next, depth))) break;
    gap = gap || (trailing && !fence);
    trailing = false;
    const text = nested ? dedent(line, content) : line.trimStart();
    fence = openFence(fence, text);
    inner.push(text);
  }
  const task = TASK.exec(inner[0]);
  if (task) inner[0] = inner[0].slice(task[0].length);
  const block = { blocks: parseLines(inner, depth + 1), task: task ? task[1] !== " " : null };
  return { block, next, trailing, gap };
}

// The fence that is open after `line`, given the one open before it (null = none).
function openFence(fence, line) {
  const match = FENCE.exec(line);
  if (!match) return fence;
  if (fence === null) return match[1];
  return match[1][0] === fence[0] && match[1].length >= fence.length && match[2].trim() === "" ? null : fence;
}

// ---- Tables

function isTable(lines, at) {
  return (
    at + 1 < lines.length &&
    lines[at].includes("|") &&
    lines[at + 1].includes("-") &&
    TABLE_RULE.test(lines[at + 1].trim()) &&
    splitRow(lines[at]).length === splitRow(lines[at + 1]).length
  );
}

function parseTable(lines, at) {
  const align = splitRow(lines[at + 1]).map(alignmentOf);
  let next = at + 2;
  while (next < lines.length && !isBlank(lines[next]) && lines[next].includes("|")) next++;
  const head = splitRow(lines[at]).map(parseInline);
  const rows = lines.slice(at + 2, next).map((line) => {
    const cells = splitRow(line).slice(0, align.length).map(parseInline);
    while (cells.length < align.length) cells.push([]);
    return cells;
  });
  return { block: { kind: "table", align, head, rows }, next };
}

function alignmentOf(cell) {
  const left = cell.startsWith(":");
  const right = cell.endsWith(":");
  return left && right ? "center" : right ? "right" : left ? "left" : null;
}

// Cells of "| a | b |"; bars that are escaped or inside code do not separate.
function splitRow(line) {
  const text = line.trim();
  const cells = [];
  let cell = "";
  let code = false;
  for (let i = text[0] === "|" ? 1 : 0; i < text.length; i++) {
    if (text[i] === "\\" && text[i + 1] === "|") {
      cell += "|";
      i++;
    } else if (text[i] === "|" && !code) {
      cells.push(cell.trim());
      cell = "";
    } else {
      if (text[i] === "`") code = !code && text.includes("`", i + 1);
      cell += text[i];
    }
  }
  if (cell.trim() !== "" || !text.endsWith("|")) cells.push(cell.trim());
  return cells;
}

// ---- Columns: a tab goes to the next multiple of four

function isBlank(line) {
  return line.trim() === "";
}

function columnsOf(text) {
  let columns = 0;
  for (const character of text) columns = character === "\t" ? columns + 4 - (columns % 4) : columns + 1;
  return columns;
}

function indentOf(line) {
  return columnsOf(line.slice(0, line.length - line.trimStart().length));
}

// Takes up to `columns` columns of white space from the front of a line.
function dedent(line, columns) {
  let seen = 0;
  let at = 0;
  while (seen < columns && (line[at] === " " || line[at] === "\t")) {
    seen = line[at] === "\t" ? seen + 4 - (seen % 4) : seen + 1;
    at++;
  }
  return " ".repeat(Math.max(0, seen - columns)) + line.slice(at);
}
