// The conversation on screen: a node per message, the growing one, and scrolling that follows it until the reader
// scrolls away.
import { announce, byId, copyText, element, formatCount, formatFigure, iconButton } from "./dom.js";
import { createGrowingText } from "./render.js";

const PINNED_DISTANCE = 48; // pixels from the end within which the view follows a growing answer

// `actions`: edit(index, text), regenerate(index). The transcript only shows; it never changes a conversation.
export function createTranscript(actions) {
  const root = byId("transcript");
  const scroller = byId("scroller");
  const jump = byId("jump");
  const top = element("div.top");
  const views = []; // one per message
  let pinned = true;

  const distance = () => scroller.scrollHeight - scroller.clientHeight - scroller.scrollTop;
  const follow = () => {
    if (pinned) scroller.scrollTop = scroller.scrollHeight;
    jump.hidden = pinned || distance() < PINNED_DISTANCE;
  };
  const toEnd = () => {
    pinned = true;
    follow();
  };
  // Wheel, keys and touch unpin; our own scrolling ends at the bottom and keeps the pin.
  scroller.addEventListener(
    "scroll",
    () => {
      pinned = distance() < PINNED_DISTANCE;
      jump.hidden = pinned;
    },
    { passive: true },
  );
  new ResizeObserver(follow).observe(scroller);
  jump.addEventListener("click", toEnd);
  root.addEventListener("click", copyCode);
  root.append(top);

  // Messages that are on screen already stay as they are: with their selection, and with what was folded open.
  function show(conversation, growing, engine) {
    const { messages } = conversation;
    let kept = 0;
    while (kept < views.length && kept < messages.length && views[kept].message === messages[kept]) kept++;
    for (const view of views.splice(kept)) view.node.remove();
    top.replaceChildren();
    if (conversation.system.trim() !== "") top.append(systemNote(conversation.system));
    if (messages.length === 0) top.append(welcome(engine));
    for (const [index, message] of messages.entries()) {
      if (index >= kept) {
        const view = message.role === "user" ? userView(message, index, actions) : answerView(message, index, actions);
        views.push({ ...view, message });
        root.append(view.node);
      }
      views[index].update(message === growing);
    }
    toEnd();
  }

  // The last message has grown, or has ended (growing false).
  function update(growing) {
    views[views.length - 1]?.update(growing);
    follow();
  }

  return { show, update, toEnd };
}

async function copyCode(event) {
  const button = event.target.closest("[data-action=copy-code]");
  if (!button) return;
  const copied = await copyText(button.closest("figure").querySelector("code").textContent);
  showCopied(button.lastChild, copied);
}

function showCopied(textNode, copied) {
  const before = textNode.textContent;
  textNode.textContent = copied ? "Copied" : "Not copied";
  announce(textNode.textContent);
  setTimeout(() => (textNode.textContent = before), 1500);
}

// `engine`: null until the server has answered for the first time.
function welcome(engine) {
  const about = [
    engine?.context > 0 ? `${formatCount(engine.context)} tokens of context.` : "",
    "Conversations stay in this browser.",
    engine && engine.chatStyle === null ? "This model has no chat template: it continues your text." : "",
  ];
  return element(
    "div.welcome",
    {},
    element("img", { src: "page/icon.svg", alt: "", width: 56, height: 56 }),
    element("h2", {}, engine?.model ? `Talk to ${engine.model}` : "Talk to the model"),
    element("p", {}, about.filter((line) => line !== "").join(" ")),
  );
}

function systemNote(system) {
  return element("details.system-note", {}, element("summary", {}, "System prompt"), element("p", {}, system));
}

// ---- The reader's messages

function userView(message, index, actions) {
  const text = element("div.bubble", {}, message.content);
  const tools = element(
    "footer",
    {},
    element("span.spring"),
    iconButton("copy", "Copy message", () => copyMessage(message.content)),
    iconButton("edit", "Edit and ask again", () => startEdit(node, text, tools, message, index, actions)),
  );
  const node = element("article.message.user", { "aria-label": "You" }, text, tools);
  return { node, update: () => {} };
}

function startEdit(node, text, tools, message, index, actions) {
  const area = element("textarea", { "aria-label": "Edit message", rows: "1" });
  area.value = message.content;
  const cancel = () => {
    form.replaceWith(text);
    tools.hidden = false;
    tools.lastChild.focus();
  };
  const save = () => {
    if (area.value.trim() !== "") actions.edit(index, area.value);
  };
  area.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Escape") {
      event.stopPropagation();
      cancel();
    } else if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      save();
    }
  });
  const form = element(
    "form.edit",
    { onsubmit: (event) => (event.preventDefault(), save()) },
    area,
    element(
      "div.edit-buttons",
      {},
      element("button.quiet", { type: "button", onclick: cancel }, "Cancel"),
      element("button.primary", { type: "submit" }, "Ask again"),
    ),
  );
  text.replaceWith(form);
  tools.hidden = true;
  area.focus();
}

async function copyMessage(text) {
  announce((await copyText(text)) ? "Copied" : "Not copied");
}

// ---- Answers

function answerView(message, index, actions) {
  const body = element("div.markdown");
  const calls = element("div.tool-calls");
  const failure = element("p.failure", { role: "alert", hidden: true });
  const stats = element("span.stats");
  const wait = element("span.wait", { "aria-hidden": "true" });
  const tools = [
    iconButton("copy", "Copy answer", () => copyMessage(message.content)),
    iconButton("redo", "Answer again", () => actions.regenerate(index)),
  ];
  const foot = element("footer", {}, stats, element("span.spring"), ...tools);
  const node = element("article.message.answer", { "aria-label": "Answer" }, body, wait, calls, failure, foot);
  const growText = createGrowingText(body);
  const reasoning = createReasoning(node);
  let shown = null;

  function update(growing) {
    reasoning.update(message, growing);
    if (shown !== message.content) growText(message.content);
    shown = message.content;
    node.classList.toggle("growing", growing);
    wait.hidden = !growing || message.content !== "";
    if (message.toolCalls.length > 0) calls.replaceChildren(...message.toolCalls.map(renderCall));
    failure.textContent = message.error;
    failure.hidden = message.error === "";
    stats.replaceChildren(...statsLine(message, growing));
    for (const tool of tools) tool.disabled = growing;
  }

  return { node, update };
}

// The block of reasoning: open while it is written, folded once the answer begins, then as the reader wants it.
function createReasoning(parent) {
  const label = element("summary", {}, "Thinking");
  const text = element("div.markdown");
  const block = element("details.reasoning", {}, label, text);
  const grow = createGrowingText(text);
  let touched = false;
  let shown = "";
  label.addEventListener("click", () => (touched = true));

  function update(message, growing) {
    if (message.reasoning === "") return;
    if (!block.isConnected) parent.prepend(block);
    const thinking = growing && message.content === "" && message.toolCalls.length === 0;
    if (!touched) block.open = thinking;
    block.classList.toggle("active", thinking);
    const seconds = message.stats.thought;
    const long = seconds === null ? "" : ` for ${formatFigure(seconds)} s`;
    label.textContent = thinking ? "Thinking" : `Thought${long}`;
    if (shown !== message.reasoning) grow(message.reasoning);
    shown = message.reasoning;
  }

  return { update };
}

function renderCall(call) {
  let shown = call.arguments;
  try {
    shown = JSON.stringify(JSON.parse(call.arguments), null, 2);
  } catch {
    // Still being written, or not JSON: as it is.
  }
  return element(
    "figure.code.call",
    {},
    element("figcaption", {}, element("span", {}, `Calls ${call.name}`)),
    element("pre", { tabindex: "0" }, element("code", {}, shown)),
  );
}

const FINISHES = {
  length: "ended at the token limit",
  stopped: "stopped",
  content_filter: "ended by a filter",
  tool_calls: "asks for a tool",
};

function statsLine(message, growing) {
  const { tokens, exact, firstToken, seconds, cachedTokens, promptTokens } = message.stats;
  const parts = [];
  if (tokens !== null) parts.push(`${exact ? "" : "~"}${formatCount(tokens)} ${tokens === 1 ? "token" : "tokens"}`);
  if (tokens > 1 && seconds > 0) parts.push(`${formatFigure((tokens - 1) / seconds)} tokens/s`);
  if (firstToken !== null) parts.push(`first after ${formatFigure(firstToken)} s`);
  if (promptTokens !== null) {
    parts.push(`${formatCount(cachedTokens ?? 0)} of ${formatCount(promptTokens)} prompt tokens cached`);
  }
  if (!growing && FINISHES[message.finish]) parts.push(FINISHES[message.finish]);
  // The blanks do not show, but separate the parts when they are read out or copied.
  return parts.flatMap((part) => [element("span", {}, part), " "]);
}
