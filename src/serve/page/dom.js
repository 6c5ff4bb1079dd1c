// Small helpers around the document. Text always goes in as text nodes; nothing in the page assigns innerHTML.

// element("button.quiet", {type: "button", onclick: f}, "Send"): tag with classes, properties or attributes, children.
export function element(selector, attributes = {}, ...children) {
  const [tag, ...classes] = selector.split(".");
  const node = document.createElement(tag);
  if (classes.length > 0) node.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function byId(id) {
  return document.getElementById(id);
}

// A picture of the sprite in index.html. Pictures are decoration: what they mean stands in a label.
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

export function iconButton(name, label, onclick, selector = "button.icon-button") {
  return element(selector, { type: "button", "aria-label": label, title: label, onclick }, icon(name));
}

// Tells screen readers, without moving the focus.
export function announce(text) {
  byId("announcer").textContent = text;
}

let toastTimer = 0;

// A line at the bottom edge for a few seconds, with an optional action ("Undo").
export function toast(text, action, onclick) {
  const box = byId("toast");
  const hide = () => box.classList.remove("shown");
  const button = action && element("button.link", { type: "button", onclick: () => (hide(), onclick()) }, action);
  box.replaceChildren(element("span", {}, text), button ?? "");
  box.classList.add("shown");
  clearTimeout(toastTimer);
  toastTimer = setTimeout(hide, action ? 8000 : 4000);
}

// The clipboard interface exists on https and localhost only; elsewhere the old command still works.
export async function copyText(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Refused by the browser: try the other way.
    }
  }
  const area = element("textarea.offscreen", { readonly: true });
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  return copied;
}

export function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

// 1234567 -> "1,234,567" in the reader's own manner; "1.2 M" where room is short.
const whole = new Intl.NumberFormat();
const short = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
export const formatCount = (value) => whole.format(value);
export const formatShort = (value) => short.format(value);

// Rates and seconds: three figures are enough.
export function formatFigure(value) {
  if (value === 0 || value >= 100) return Math.round(value).toString();
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}
