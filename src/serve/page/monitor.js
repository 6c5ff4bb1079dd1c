// The live panel: asks for /engine again and again while the page is visible, and shows what it says.
import { getEngine } from "./api.js";
import { byId, element, formatCount, formatFigure, formatShort } from "./dom.js";
import { readEngine } from "./engine.js";
import { createHeatmap } from "./heatmap.js";
import { createSparkline } from "./sparkline.js";

const BUSY_SECONDS = 1;
const IDLE_SECONDS = 3;

// onEngine(engine) with every snapshot, onFailure(error) when none came. `isBusy` asks for the short interval.
export function createMonitor(onEngine, onFailure, isBusy) {
  const sparkline = createSparkline(byId("sparkline"));
  const heatmap = createHeatmap(byId("heatmap"));
  let timer = 0;
  let busy = false;
  let asking = false;

  async function ask() {
    clearTimeout(timer);
    if (document.hidden || asking) return;
    asking = true;
    try {
      const engine = readEngine(await getEngine());
      busy = engine.running > 0 || engine.waiting > 0;
      show(engine);
      onEngine(engine);
    } catch (error) {
      busy = false;
      byId("engine-state").textContent = error.message;
      byId("engine-state").hidden = false;
      onFailure(error);
    } finally {
      asking = false;
      timer = setTimeout(ask, 1000 * (busy || isBusy() ? BUSY_SECONDS : IDLE_SECONDS));
    }
  }

  function show(engine) {
    byId("engine-state").hidden = true;
    showSpeed(engine);
    sparkline.push(engine.answerSpeed);
    showCache(engine);
    byId("mtp").replaceChildren(...draftRows(engine));
    heatmap.update(engine.expertLoad);
    const facts = [
      engine.model,
      engine.context > 0 ? `${formatCount(engine.context)} tokens of context` : "",
      engine.version ? `Minke ${engine.version}` : "",
    ];
    byId("engine-facts").textContent = facts.filter((fact) => fact !== "").join(", ");
  }

  function redraw() {
    sparkline.draw();
    heatmap.draw();
  }

  document.addEventListener("visibilitychange", ask);
  addEventListener("themechange", redraw);
  return { ask, redraw };
}

function setText(id, text) {
  byId(id).textContent = text;
}

function showSpeed(engine) {
  setText("answer-speed", formatFigure(engine.answerSpeed));
  setText("prompt-speed", formatFigure(engine.promptSpeed));
  setText("running", formatCount(engine.running));
  setText("waiting", formatCount(engine.waiting));
  setText("answer-tokens", formatCount(engine.answerTokens));
}

function showCache(engine) {
  const { cacheUsed: used, cacheTotal: total } = engine;
  const bar = byId("cache-bar");
  bar.firstElementChild.style.width = `${total > 0 ? Math.min(100, (100 * used) / total) : 0}%`;
  bar.setAttribute("aria-valuemax", total);
  bar.setAttribute("aria-valuenow", used);
  bar.setAttribute("aria-valuetext", `${used} of ${total} tokens`);
  setText("cache-used", `${formatCount(used)} of ${formatCount(total)}`);
  const { cachedTokens, promptTokens } = engine;
  setText(
    "cache-hits",
    promptTokens > 0 ? `${percent(cachedTokens, promptTokens)} of ${formatShort(promptTokens)}` : "none yet",
  );
}

function percent(part, all) {
  return `${Math.round((100 * part) / all)} %`;
}

// One row per position of the draft that has been tried.
function draftRows(engine) {
  const tried = engine.drafted
    .map((drafted, i) => ({ drafted, accepted: engine.accepted[i] ?? 0, position: i + 1 }))
    .filter((row) => row.drafted > 0);
  if (tried.length === 0) return [element("p.note", {}, "No drafts yet.")];
  return tried.map(({ drafted, accepted, position }) => {
    const bar = element(
      "div.bar",
      {
        role: "meter",
        "aria-label": `Draft token ${position}`,
        "aria-valuemin": "0",
        "aria-valuemax": String(drafted),
        "aria-valuenow": String(accepted),
      },
      element("i"),
    );
    bar.firstChild.style.width = `${Math.min(100, (100 * accepted) / drafted)}%`;
    return element(
      "div.draft",
      {},
      element("span", {}, `Token ${position}`),
      bar,
      element("b", { title: `${formatCount(accepted)} of ${formatCount(drafted)}` }, percent(accepted, drafted)),
    );
  });
}
