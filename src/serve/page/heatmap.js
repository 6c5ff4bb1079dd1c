// Expert load: layers x experts on a canvas. A cell's colour is its load relative to an even spread over the layer: 1,
// as much as every expert would get, is the colour of the ground, so that only what is idle (amber) or busy (blue, to
// the strongest at `TOP` and more) stands out. Hover, touch or the arrow keys name a cell.
import { element, formatCount, formatFigure } from "./dom.js";
import { prepareCanvas, themeColor } from "./sparkline.js";

const TOP = 3;
const STEPS = 64;
const WINDOW_SECONDS = 60;
const SNAPSHOT_SECONDS = 5;

export function createHeatmap(root) {
  const canvas = element("canvas", { tabindex: "0", role: "img", "aria-label": "Expert load" });
  const readout = element("p.readout", { "aria-live": "polite" });
  const legend = element("canvas.legend", { "aria-hidden": "true" });
  const scale = element("div.legend-row", {}, element("span", {}, "idle"), legend, element("span", {}, `${TOP}x even`));
  const modes = createModes(() => draw());
  root.append(element("div.heatmap-frame", {}, canvas), readout, scale, modes.node);
  const history = createHistory();
  let load = [];
  let marked = null;

  function update(total) {
    history.add(total);
    draw();
  }

  function draw() {
    load = modes.recent() ? history.recent() : history.total();
    const present = load.length > 0;
    for (const node of [canvas, scale, modes.node]) node.hidden = !present;
    if (!present) {
      readout.textContent = "This model has no experts, or none were reported.";
      return;
    }
    drawCells(canvas, load, marked);
    drawLegend(legend);
    describe();
  }

  function describe() {
    const text =
      marked && marked.layer < load.length && marked.expert < load[0].length
        ? cellText(load, marked)
        : summaryText(load);
    if (readout.textContent !== text) readout.textContent = text;
    canvas.setAttribute("aria-label", `Expert load, ${load.length} layers of ${load[0].length} experts. ${text}`);
  }

  function mark(cell) {
    marked = cell;
    draw();
  }

  canvas.addEventListener("pointermove", (event) => mark(cellAt(canvas, load, event)));
  canvas.addEventListener("pointerleave", () => mark(null));
  canvas.addEventListener("blur", () => mark(null));
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!move || load.length === 0) return;
    event.preventDefault();
    const from = marked ?? { layer: 0, expert: 0 };
    const clamp = (value, size) => Math.min(Math.max(value, 0), size - 1);
    mark({
      layer: clamp(from.layer + (marked ? move[0] : 0), load.length),
      expert: clamp(from.expert + (marked ? move[1] : 0), load[0].length),
    });
  });
  new ResizeObserver(() => draw()).observe(root);
  return { update, draw };
}

// "Since the start" or "last minute".
function createModes(onchange) {
  const radio = (value, label, checked) => {
    const input = element("input", { type: "radio", name: "load-period", value, checked, onchange });
    return element("label", {}, input, element("span", {}, label));
  };
  const node = element(
    "div.segmented",
    { role: "radiogroup", "aria-label": "Period of the expert load" },
    radio("all", "Since the start", true),
    radio("recent", "Last minute", false),
  );
  return { node, recent: () => node.querySelector("input:checked").value === "recent" };
}

// Snapshots of the running totals; the last minute is the difference to the oldest one kept.
function createHistory() {
  let snapshots = [];

  function add(total) {
    const now = performance.now() / 1000;
    const last = snapshots[snapshots.length - 1];
    // A server that was started anew counts from zero: earlier snapshots mean nothing.
    if (last && (!sameShape(last.load, total) || sum(total) < sum(last.load))) snapshots = [];
    const young = snapshots.length > 1 && now - snapshots[snapshots.length - 2].time < SNAPSHOT_SECONDS;
    if (young) snapshots.pop();
    snapshots.push({ time: now, load: total });
    while (snapshots.length > 2 && now - snapshots[1].time >= WINDOW_SECONDS) snapshots.shift();
  }

  const total = () => snapshots[snapshots.length - 1]?.load ?? [];
  const recent = () => {
    const base = snapshots[0]?.load;
    return total().map((row, layer) => row.map((value, expert) => Math.max(0, value - base[layer][expert])));
  };
  return { add, total, recent };
}

function sameShape(a, b) {
  return a.length === b.length && (a.length === 0 || a[0].length === b[0].length);
}

function sum(load) {
  return load.reduce((all, row) => row.reduce((part, value) => part + value, all), 0);
}

// ---- Colours

function parseColor(text) {
  const value = parseInt(text.replace("#", ""), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

// STEPS colours from idle over even to TOP: the variables stand for 0, 1, 2 and 3 = TOP times even.
function createRamp() {
  const stops = ["--heat-0", "--heat-1", "--heat-2", "--heat-3"].map((name) => parseColor(themeColor(name)));
  return Array.from({ length: STEPS }, (_, step) => {
    const place = (step / (STEPS - 1)) * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2);
    const mixed = stops[low].map((value, i) => Math.round(value + (stops[low + 1][i] - value) * (place - low)));
    return `rgb(${mixed.join(",")})`;
  });
}

const rampStep = (relative) => Math.min(STEPS - 1, Math.round((relative / TOP) * (STEPS - 1)));

function relativeRow(row) {
  const all = row.reduce((part, value) => part + value, 0);
  return row.map((value) => (all > 0 ? (value * row.length) / all : 0));
}

// ---- Drawing

// Cells share the width; rows are as high as cells are wide, within reason.
function drawCells(canvas, load, marked) {
  const width = canvas.parentElement.clientWidth;
  if (width === 0) return;
  const columns = load[0].length;
  const cell = width / columns;
  const room = Math.max(120, window.innerHeight * 0.6);
  const rowHeight = Math.max(2, Math.min(Math.max(cell, 4), 16, room / load.length));
  const height = Math.ceil(rowHeight * load.length);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = prepareCanvas(canvas, width, height);
  const ramp = createRamp();
  const gap = cell >= 5 && rowHeight >= 5 ? 1 : 0;
  load.forEach((row, layer) => {
    relativeRow(row).forEach((relative, expert) => {
      context.fillStyle = ramp[rampStep(relative)];
      // Without a gap, a hair more than the cell hides the seams of fractional widths.
      context.fillRect(
        expert * cell,
        layer * rowHeight,
        cell - gap + (gap ? 0 : 0.5),
        rowHeight - gap + (gap ? 0 : 0.5),
      );
    });
  });
  if (marked) markCell(context, marked, cell, rowHeight);
}

function markCell(context, { layer, expert }, width, height) {
  context.strokeStyle = themeColor("--ink");
  context.lineWidth = 1.5;
  context.strokeRect(expert * width - 0.75, layer * height - 0.75, Math.max(width, 3) + 0.5, Math.max(height, 3) + 0.5);
}

function drawLegend(legend) {
  const width = legend.clientWidth;
  if (width === 0) return;
  const context = prepareCanvas(legend, width, 8);
  createRamp().forEach((color, step) => {
    context.fillStyle = color;
    context.fillRect((step * width) / STEPS, 0, width / STEPS + 0.5, 8);
  });
  context.fillStyle = themeColor("--ink");
  context.fillRect(width / TOP - 0.5, 0, 1, 8);
}

function cellAt(canvas, load, event) {
  if (load.length === 0) return null;
  const box = canvas.getBoundingClientRect();
  const layer = Math.floor(((event.clientY - box.top) / box.height) * load.length);
  const expert = Math.floor(((event.clientX - box.left) / box.width) * load[0].length);
  const inside = layer >= 0 && layer < load.length && expert >= 0 && expert < load[0].length;
  return inside ? { layer, expert } : null;
}

// ---- Words

function cellText(load, { layer, expert }) {
  const relative = relativeRow(load[layer])[expert];
  const tokens = formatCount(load[layer][expert]);
  return `MoE layer ${layer + 1}, expert ${expert}: ${tokens} tokens, ${formatFigure(relative)}x even`;
}

function summaryText(load) {
  let most = { relative: 0, layer: 0, expert: 0 };
  let idle = 0;
  load.forEach((row, layer) =>
    relativeRow(row).forEach((relative, expert) => {
      if (relative > most.relative) most = { relative, layer, expert };
      if (relative === 0) idle++;
    }),
  );
  if (most.relative === 0) return "No tokens yet.";
  const busiest = `Busiest: MoE layer ${most.layer + 1}, expert ${most.expert}, ${formatFigure(most.relative)}x even`;
  return `${busiest}. Idle: ${formatCount(idle)} of ${formatCount(load.length * load[0].length)}`;
}
