// Markdown inside a paragraph -> nodes: {kind: text, code, math, break, strong, emphasis, strike, link}.
// Every step is linear in the length of the text, whatever the text is.

const MARKS = /[\\`*_~[\]!<\n$h]/;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const BARE_URL = /https?:\/\/[^\s<>"`]+/y;
const ANGLE_URL = /<((?:https?:\/\/|mailto:)[^\s<>]+)>/y;
// Deeper nesting stays text: hostile input must not exhaust the stack.
const MAX_DEPTH = 16;

export function parseInline(text, insideLink = false) {
  const pieces = [];
  const closers = { code: codeClosers(text), bracket: bracketClosers(text) };
  let plain = "";
  const flush = () => {
    if (plain !== "") pieces.push({ kind: "text", text: plain });
    plain = "";
  };
  for (let at = 0; at < text.length;) {
    const special = MARKS.test(text[at]) ? parseSpecial(text, at, closers, insideLink) : null;
    if (special === null) {
      plain += text[at++];
    } else if (special.text !== undefined) {
      plain += special.text;
      at = special.next;
    } else {
      flush();
      pieces.push(special.node);
      at = special.next;
    }
  }
  flush();
  return joinText(resolveEmphasis(pieces));
}

// What begins at a mark: {node, next}, or {text, next} for plain text, or null if the mark means nothing here.
function parseSpecial(text, at, closers, insideLink) {
  switch (text[at]) {
    case "\\":
      return parseEscape(text, at);
    case "\n":
      return { node: { kind: "break" }, next: at + 1 };
    case "`":
      return parseCode(text, at, closers.code);
    case "$":
      return parseDollars(text, at);
    case "*":
    case "_":
    case "~":
      return parseRun(text, at);
    case "!":
      // Pictures are not fetched (the page loads nothing from elsewhere): they become links.
      return text[at + 1] === "[" ? parseLink(text, at + 1, closers.bracket, insideLink) : null;
    case "[":
      return parseLink(text, at, closers.bracket, insideLink);
    case "<":
      return parseAngle(text, at, insideLink);
    case "h":
      return parseBare(text, at, insideLink);
    default:
      return null;
  }
}

function parseEscape(text, at) {
  const next = text[at + 1];
  if (next === "(" || next === "[") {
    const close = next === "(" ? "\\)" : "\\]";
    // A formula is short: looking no further keeps a text of many "\(" linear.
    const end = text.slice(at + 2, at + 1000).indexOf(close);
    if (end > 0) {
      const stop = at + 2 + end + 2;
      return { node: { kind: "math", text: text.slice(at, stop) }, next: stop };
    }
  }
  if (next === "\n") return { node: { kind: "break" }, next: at + 2 };
  if (next !== undefined && ESCAPABLE.test(next)) return { text: next, next: at + 2 };
  return null;
}

function parseDollars(text, at) {
  if (text[at + 1] !== "$") return null;
  const end = text.slice(at + 2, at + 1000).indexOf("$$");
  if (end <= 0) return { text: "$$", next: at + 2 };
  const stop = at + 2 + end + 2;
  return { node: { kind: "math", text: text.slice(at, stop) }, next: stop };
}

// ---- Code

// For each run of backticks: where the next run of the same length begins.
function codeClosers(text) {
  const closers = new Map();
  const later = new Map();
  for (let at = text.lastIndexOf("`"); at >= 0;) {
    let start = at;
    while (start > 0 && text[start - 1] === "`") start--;
    const length = at - start + 1;
    if (later.has(length)) closers.set(start, later.get(length));
    later.set(length, start);
    at = start > 0 ? text.lastIndexOf("`", start - 1) : -1;
  }
  return closers;
}

function parseCode(text, at, closers) {
  let length = 1;
  while (text[at + length] === "`") length++;
  const close = closers.get(at);
  if (close === undefined) return { text: "`".repeat(length), next: at + length };
  let code = text.slice(at + length, close).replaceAll("\n", " ");
  if (code.startsWith(" ") && code.endsWith(" ") && code.trim() !== "") code = code.slice(1, -1);
  return { node: { kind: "code", text: code }, next: close + length };
}

// ---- Links

// For each "[": where its "]" is. Escaped brackets do not count.
function bracketClosers(text) {
  const closers = new Map();
  const open = [];
  for (let at = 0; at < text.length; at++) {
    if (text[at] === "\\") at++;
    else if (text[at] === "[") open.push(at);
    else if (text[at] === "]" && open.length > 0) closers.set(open.pop(), at);
  }
  return closers;
}

// The address if it is absolute and its scheme is harmless, else null. The scheme is looked at as it is written, so
// that no blank or control character in it can disguise another one, and again as the browser reads it.
export function safeAddress(address) {
  if (!/^(https?:\/\/|mailto:)/i.test(address)) return null;
  try {
    const url = new URL(address);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

const DESTINATION =
  /^\([ \t]*(?:<([^<>\n]*)>|([^\s()]*(?:\([^\s()]*\)[^\s()]*)*))(?:[ \t\n]+(?:"[^"]*"|'[^']*'))?[ \t]*\)/;

function parseLink(text, at, closers, insideLink) {
  const close = closers.get(at);
  if (close === undefined || insideLink || text[close + 1] !== "(") return null;
  // Addresses are short; without a limit, many "](" before a far ")" would take quadratic time.
  const match = DESTINATION.exec(text.slice(close + 1, close + 4096));
  if (!match) return null;
  const href = safeAddress(match[1] ?? match[2]);
  if (href === null) return null;
  const content = parseInline(text.slice(at + 1, close), true);
  const node = { kind: "link", href, content: content.length > 0 ? content : [{ kind: "text", text: href }] };
  return { node, next: close + 1 + match[0].length };
}

function parseAngle(text, at, insideLink) {
  if (insideLink) return null;
  ANGLE_URL.lastIndex = at;
  const match = ANGLE_URL.exec(text);
  const href = match && safeAddress(match[1]);
  if (!href) return null;
  return { node: { kind: "link", href, content: [{ kind: "text", text: match[1] }] }, next: at + match[0].length };
}

function parseBare(text, at, insideLink) {
  if (insideLink || (at > 0 && /[\p{L}\p{N}]/u.test(text[at - 1]))) return null;
  BARE_URL.lastIndex = at;
  const match = BARE_URL.exec(text);
  if (!match) return null;
  const shown = trimAddress(match[0]);
  const href = safeAddress(shown);
  if (href === null) return null;
  return { node: { kind: "link", href, content: [{ kind: "text", text: shown }] }, next: at + shown.length };
}

// Punctuation at the end belongs to the sentence; a ")" only if it has no "(" in the address.
function trimAddress(address) {
  let end = address.length;
  let surplus = 0;
  for (const character of address) surplus += character === ")" ? 1 : character === "(" ? -1 : 0;
  for (; end > 0; end--) {
    const last = address[end - 1];
    if (last === ")" && surplus > 0) surplus--;
    else if (!/[.,;:!?'*_~\]|\\]/.test(last)) break;
  }
  return address.slice(0, end);
}

// ---- Emphasis: the delimiter algorithm of CommonMark

function isSpace(character) {
  return character === undefined || /\s/.test(character);
}
function isPunctuation(character) {
  return character !== undefined && /[\p{P}\p{S}]/u.test(character);
}

function parseRun(text, at) {
  const mark = text[at];
  let length = 1;
  while (text[at + length] === mark) length++;
  const before = at > 0 ? text[at - 1] : undefined;
  const after = text[at + length];
  const left = !isSpace(after) && (!isPunctuation(after) || isSpace(before) || isPunctuation(before));
  const right = !isSpace(before) && (!isPunctuation(before) || isSpace(after) || isPunctuation(after));
  // An underscore inside a word (snake_case) is a letter.
  const opens = mark === "_" ? left && (!right || isPunctuation(before)) : left;
  const closes = mark === "_" ? right && (!left || isPunctuation(after)) : right;
  if ((!opens && !closes) || (mark === "~" && length !== 2)) {
    return { text: mark.repeat(length), next: at + length };
  }
  return { node: { kind: "run", mark, length, original: length, opens, closes }, next: at + length };
}

function canPair(opener, closer) {
  if (opener.mark !== closer.mark || !opener.opens || opener.length === 0) return false;
  if (opener.mark === "~") return opener.length === 2 && closer.length === 2;
  const both = opener.closes || closer.opens;
  const third = (opener.original + closer.original) % 3 === 0;
  return !both || !third || (opener.original % 3 === 0 && closer.original % 3 === 0);
}

// Turns pairs of runs into nodes. `stack` holds the pieces so far; openers are looked for from its end. `bottom`
// remembers, per kind of closer, below which place no opener can be: without it, a long text of marks is quadratic.
function resolveEmphasis(pieces) {
  const stack = [];
  const openers = [];
  const bottom = new Map();
  for (const piece of pieces) {
    if (piece.kind !== "run") {
      stack.push(piece);
      continue;
    }
    if (piece.closes) closeRun(piece, stack, openers, bottom);
    if (piece.length > 0) {
      stack.push(piece);
      if (piece.opens) openers.push(stack.length - 1);
    }
  }
  return stack.map(runToText);
}

function closeRun(closer, stack, openers, bottom) {
  const key = closer.mark + (closer.opens ? "o" : "c") + (closer.original % 3);
  while (closer.length > 0) {
    let found = openers.length - 1;
    const low = bottom.get(key) ?? -1;
    while (found >= 0 && openers[found] > low && !canPair(stack[openers[found]], closer)) found--;
    if (found < 0 || openers[found] <= low) {
      bottom.set(key, stack.length - 1);
      return;
    }
    if (!wrap(stack, openers[found], closer)) {
      openers.length = 0;
      return;
    }
    openers.length = stack[openers[found]]?.kind === "run" ? found + 1 : found;
    for (const [name, place] of bottom) if (place >= stack.length) bottom.set(name, stack.length - 1);
  }
}

// Replaces everything behind the opener by one node that holds it; false if that would nest too deep.
function wrap(stack, at, closer) {
  const opener = stack[at];
  const depth = 1 + stack.slice(at + 1).reduce((deepest, piece) => Math.max(deepest, piece.depth ?? 0), 0);
  if (depth > MAX_DEPTH) return false;
  const width = opener.mark === "~" || (opener.length >= 2 && closer.length >= 2) ? 2 : 1;
  const kind = opener.mark === "~" ? "strike" : width === 2 ? "strong" : "emphasis";
  const content = stack.splice(at + 1).map(runToText);
  opener.length -= width;
  closer.length -= width;
  if (opener.length === 0) stack.pop();
  stack.push({ kind, depth, content: joinText(content) });
  return true;
}

function runToText(piece) {
  return piece.kind === "run" ? { kind: "text", text: piece.mark.repeat(piece.length) } : piece;
}

function joinText(nodes) {
  const joined = [];
  for (const node of nodes) {
    const last = joined[joined.length - 1];
    if (node.kind === "text" && last?.kind === "text") last.text += node.text;
    else joined.push(node);
  }
  return joined;
}
