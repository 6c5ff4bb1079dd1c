// The field in which a message is written, its button (send or stop), and the count of its tokens.
import { countTokens } from "./api.js";
import { byId, formatCount } from "./dom.js";

const COUNT_DELAY = 400;

export function createComposer({ send, stop }) {
  const form = byId("composer");
  const field = byId("message");
  const button = byId("send");
  let busy = false;

  function show() {
    const label = busy ? "Stop" : "Send";
    button.setAttribute("aria-label", label);
    button.title = busy ? "Stop (Esc)" : "Send (Enter)";
    button.querySelector("use").setAttribute("href", busy ? "#icon-stop" : "#icon-send");
    button.disabled = !busy && field.value.trim() === "";
  }

  function fit() {
    field.style.height = "auto";
    field.style.height = `${Math.min(field.scrollHeight, window.innerHeight * 0.4)}px`;
  }

  function submit() {
    if (busy || field.value.trim() === "") return;
    const text = field.value;
    field.value = "";
    changed();
    send(text);
  }

  function changed() {
    fit();
    show();
    count(field.value);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (busy) stop();
    else submit();
  });
  field.addEventListener("input", changed);
  field.addEventListener("keydown", (event) => {
    // Enter that ends a composition (Chinese, Japanese, ...) is not ours.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  });
  const count = createCounter(byId("token-count"));
  show();

  return {
    focus: () => field.focus(),
    setBusy(value) {
      busy = value;
      show();
    },
    // Gives a message back that could not be sent.
    restore(text) {
      if (field.value === "") field.value = text;
      changed();
    },
  };
}

// Counts a while after the last key; an answer for an older text is dropped.
function createCounter(output) {
  let timer = 0;
  let controller = null;

  return function count(text) {
    clearTimeout(timer);
    controller?.abort();
    if (text.trim() === "") {
      output.textContent = "";
      return;
    }
    timer = setTimeout(async () => {
      controller = new AbortController();
      try {
        const tokens = await countTokens(text, controller.signal);
        if (Number.isFinite(tokens)) output.textContent = `${formatCount(tokens)} ${tokens === 1 ? "token" : "tokens"}`;
      } catch {
        output.textContent = ""; // A count is a courtesy.
      }
    }, COUNT_DELAY);
  };
}
