// The settings tab: sampling, limits, thinking, and the system prompt of the conversation. An empty field means the
// server's default, which stands in it as a placeholder.
import { byId, element } from "./dom.js";
import { DEFAULT_SETTINGS } from "./store.js";

const FIELDS = [
  {
    key: "temperature",
    label: "Temperature",
    help: "0 always takes the likeliest token",
    min: 0,
    max: 2,
    step: 0.05,
    slider: true,
  },
  {
    key: "topP",
    label: "Top-p",
    help: "Keep the likeliest tokens up to this probability",
    min: 0,
    max: 1,
    step: 0.01,
    slider: true,
  },
  { key: "topK", label: "Top-k", help: "Keep this many tokens, 0 keeps all", min: 0, max: 1000000, step: 1 },
  {
    key: "minP",
    label: "Min-p",
    help: "Drop tokens less likely than this share of the likeliest",
    min: 0,
    max: 1,
    step: 0.01,
    slider: true,
  },
  {
    key: "maxTokens",
    label: "Longest answer",
    help: "In tokens",
    min: 1,
    max: 10000000,
    step: 1,
    fallback: "no limit",
  },
  {
    key: "seed",
    label: "Seed",
    help: "The same seed gives the same answer",
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
    step: 1,
    fallback: "random",
  },
];

// onChange(settings) and onSystem(text) after every change. `settings` is changed in place.
export function createSettings(settings, onChange, onSystem) {
  const form = byId("settings");
  const rows = FIELDS.map((field) => createRow(field, settings, onChange));
  const thinking = createThinking(settings, onChange);
  const stop = createArea("Stop sequences", "One per line", 2, (text) => {
    settings.stop = text;
    onChange(settings);
  });
  const system = createArea("System prompt", "Of this conversation; empty = none", 4, onSystem);
  const reset = element("button.quiet", { type: "button", onclick: resetAll }, "Back to the server's defaults");
  form.append(system.node, thinking.node, ...rows.map((row) => row.node), stop.node, reset);
  form.addEventListener("submit", (event) => event.preventDefault());

  function resetAll() {
    Object.assign(settings, DEFAULT_SETTINGS);
    show();
    onChange(settings);
  }

  function show() {
    for (const row of rows) row.show();
    thinking.show();
    stop.set(settings.stop);
  }

  function showEngine(engine) {
    for (const row of rows) row.showDefault(engine.sampling[row.key] ?? null);
    thinking.node.hidden = !engine.thinking;
  }

  show();
  return { showEngine, setSystem: system.set };
}

// A number field, with a slider beside it where the range is small.
function createRow(field, settings, onChange) {
  const { key, label, help, min, max, step, slider, fallback = "" } = field;
  const id = `setting-${key}`;
  const input = element("input", {
    id,
    type: "number",
    min,
    max,
    step: slider ? "any" : step,
    inputmode: "decimal",
    placeholder: fallback,
    "aria-describedby": `${id}-help`,
  });
  const range = slider ? element("input", { type: "range", min, max, step, "aria-label": `${label}, slider` }) : null;
  let usual = null;

  function accept(text) {
    const value = text.trim() === "" ? null : Number(text);
    const valid =
      value === null
        ? !input.validity.badInput
        : Number.isFinite(value) && value >= min && value <= max && (slider || Number.isInteger(value));
    input.setAttribute("aria-invalid", String(!valid));
    if (!valid) return;
    settings[key] = value;
    showRange();
    onChange(settings);
  }
  function showRange() {
    if (!range) return;
    range.value = settings[key] ?? usual ?? min;
    range.classList.toggle("unset", settings[key] === null);
  }
  function show() {
    input.value = settings[key] ?? "";
    input.setAttribute("aria-invalid", "false");
    showRange();
  }
  function showDefault(value) {
    usual = value;
    // float32 defaults arrive as 0.949999988: three digits are meant.
    input.placeholder = value === null ? fallback : String(Number(value.toFixed(3)));
    showRange();
  }

  input.addEventListener("input", () => accept(input.value));
  range?.addEventListener("input", () => {
    input.value = range.value;
    accept(range.value);
  });
  const head = element("div.setting-head", {}, element("label", { for: id }, label), input);
  const node = element("div.setting", {}, head, range, element("p.help", { id: `${id}-help` }, help));
  return { key, node, show, showDefault };
}

// Thinking is on, off, or what the server was started with.
function createThinking(settings, onChange) {
  const choices = [
    ["null", "Server's choice"],
    ["true", "On"],
    ["false", "Off"],
  ].map(([value, label]) => {
    const input = element("input", { type: "radio", name: "thinking", value });
    input.addEventListener("change", () => {
      settings.thinking = JSON.parse(value);
      onChange(settings);
    });
    return { input, node: element("label", {}, input, element("span", {}, label)) };
  });
  const group = element(
    "div.segmented",
    { role: "radiogroup", "aria-labelledby": "setting-thinking" },
    ...choices.map((choice) => choice.node),
  );
  const node = element(
    "div.setting",
    { hidden: true },
    element("p.setting-label", { id: "setting-thinking" }, "Thinking"),
    group,
    element("p.help", {}, "Whether the model reasons before it answers"),
  );
  const show = () => choices.forEach(({ input }) => (input.checked = input.value === String(settings.thinking)));
  return { node, show };
}

function createArea(label, help, lines, onText) {
  const id = `setting-${label.toLowerCase().replace(" ", "-")}`;
  const area = element("textarea", { id, rows: lines, "aria-describedby": `${id}-help` });
  area.addEventListener("input", () => onText(area.value));
  const node = element(
    "div.setting",
    {},
    element("label", { for: id }, label),
    area,
    element("p.help", { id: `${id}-help` }, help),
  );
  return { node, set: (text) => (area.value = text) };
}
