// Blocks of markdown.js -> nodes, and an answer that grows: only its end is built again.
import { parseDocument, resumeOffset } from "./markdown.js";
import { element, icon } from "./dom.js";

// Keeps `container` equal to the rendering of a text that only grows: update(text) with the whole text so far.
export function createGrowingText(container) {
  let shown = [];
  let start = 0;

  return function update(text) {
    const fresh = parseDocument(text, start);
    const kept = shown.filter((entry) => entry.block.start < start);
    const stale = shown.slice(kept.length);
    shown = [...kept, ...fresh.map((block, i) => replaceBlock(container, stale[i], block))];
    for (const entry of stale.slice(fresh.length)) entry.node.remove();
    start = resumeOffset(
      text,
      shown.map((entry) => entry.block),
    );
  };
}

// Puts a block at the place of a stale one. What may be long grows in place, and a block that did not change stays, so
// that a selection in it survives.
function replaceBlock(container, stale, block) {
  if (stale && (growCode(stale, block) || growList(stale, block) || isSame(stale.block, block))) {
    return { block, node: stale.node };
  }
  const node = renderBlock(block);
  if (stale) stale.node.replaceWith(node);
  else container.append(node);
  return { block, node };
}

function isSame(a, b) {
  return JSON.stringify(a) === JSON.stringify(b);
}

// Appends what is new of a listing; false if it is not the same listing.
function growCode({ block: old, node }, block) {
  if (
    old.kind !== "code" ||
    block.kind !== "code" ||
    old.language !== block.language ||
    !block.text.startsWith(old.text)
  ) {
    return false;
  }
  const more = block.text.slice(old.text.length);
  if (more !== "") node.querySelector("code").append(more);
  return true;
}

// Builds the items that changed; false if it is not the same list.
function growList({ block: old, node }, block) {
  const same =
    old.kind === "list" && block.kind === "list" && old.ordered === block.ordered && old.first === block.first;
  if (!same || old.loose !== block.loose || block.items.length < old.items.length) return false;
  block.items.forEach((item, i) => {
    if (i >= old.items.length) node.append(renderItem(item, block.loose));
    else if (!isSame(old.items[i], item)) node.children[i].replaceWith(renderItem(item, block.loose));
  });
  return true;
}

export function renderBlock(block) {
  switch (block.kind) {
    case "heading":
      // The page's own heading is h1, so answers begin at h2.
      return element(`h${Math.min(block.level + 1, 6)}`, {}, ...renderInline(block.content));
    case "code":
      return renderCode(block);
    case "math":
      return element("div.math", {}, block.text);
    case "quote":
      return element("blockquote", {}, ...block.blocks.map(renderBlock));
    case "list":
      return renderList(block);
    case "table":
      return renderTable(block);
    case "rule":
      return element("hr");
    default:
      return element("p", {}, ...renderInline(block.content));
  }
}

function renderCode(block) {
  const copy = element("button.copy", { type: "button", "data-action": "copy-code" }, icon("copy"), "Copy");
  const head = element("figcaption", {}, element("span", {}, block.language || "text"), copy);
  const code = element("code", {}, block.text);
  return element("figure.code", {}, head, element("pre", { tabindex: "0" }, code));
}

function renderList(list) {
  const start = list.ordered && list.first !== 1 ? { start: list.first } : {};
  return element(list.ordered ? "ol" : "ul", start, ...list.items.map((item) => renderItem(item, list.loose)));
}

function renderItem(item, loose) {
  const parts = item.blocks.flatMap((block) => {
    // In a tight list a paragraph is just its text.
    return !loose && block.kind === "paragraph" ? renderInline(block.content) : [renderBlock(block)];
  });
  if (item.task === null) return element("li", {}, ...parts);
  const box = element("input", { type: "checkbox", disabled: true, checked: item.task });
  return element("li.task", {}, box, " ", ...parts);
}

function renderTable(table) {
  const row = (cells, tag) => {
    const nodes = cells.map((cell, i) => {
      return element(table.align[i] ? `${tag}.${table.align[i]}` : tag, {}, ...renderInline(cell));
    });
    return element("tr", {}, ...nodes);
  };
  const head = element("thead", {}, row(table.head, "th"));
  const body = element("tbody", {}, ...table.rows.map((cells) => row(cells, "td")));
  // A wide table scrolls by itself instead of widening the page.
  return element(
    "div.table",
    { tabindex: "0", role: "group", "aria-label": "Table" },
    element("table", {}, head, body),
  );
}

const INLINE_TAGS = { strong: "strong", emphasis: "em", strike: "del" };

function renderInline(nodes) {
  return nodes.map((node) => {
    switch (node.kind) {
      case "text":
        return document.createTextNode(node.text);
      case "break":
        return element("br");
      case "code":
        return element("code", {}, node.text);
      case "math":
        return element("span.math", {}, node.text);
      case "link":
        // The address has passed safeAddress; the other site learns nothing of this one.
        return element(
          "a",
          { href: node.href, target: "_blank", rel: "noopener noreferrer" },
          ...renderInline(node.content),
        );
      default:
        return element(INLINE_TAGS[node.kind], {}, ...renderInline(node.content));
    }
  });
}
