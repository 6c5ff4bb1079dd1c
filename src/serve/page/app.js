// The page put together: which conversation is shown, which answers are under way, and what every button does.
import { answerRequest, emptyAnswer, receiveAnswer } from "./answer.js";
import { createComposer } from "./composer.js";
import { announce, byId, download, icon, toast } from "./dom.js";
import { createMonitor } from "./monitor.js";
import { createSettings } from "./settings.js";
import { createSidebar, titleOf } from "./sidebar.js";
import * as store from "./store.js";
import { createTranscript } from "./transcript.js";

const SAVE_MILLISECONDS = 2000;
const TITLE_LENGTH = 60;

const state = {
  conversations: store.loadConversations(),
  current: null,
  settings: store.loadSettings(),
  engine: null,
  answers: new Map(), // conversation id -> {message, controller}
};

const transcript = createTranscript({ edit: editMessage, regenerate });
const sidebar = createSidebar({ choose, rename, save: exportOne, remove });
const composer = createComposer({ send: sendMessage, stop: stopAnswer });
const settings = createSettings(state.settings, store.saveSettings, setSystem);
const monitor = createMonitor(showEngine, engineFailed, () => state.answers.size > 0);

// ---- Showing

function showSidebar() {
  sidebar.show(state.conversations, state.current.id, new Set(state.answers.keys()));
}

function showConversation() {
  const { current } = state;
  const answer = state.answers.get(current.id);
  byId("title").textContent = titleOf(current);
  document.title = `${titleOf(current)} - Minke`;
  transcript.show(current, answer?.message, state.engine);
  composer.setBusy(answer !== undefined);
  settings.setSystem(current.system);
  showSidebar();
}

function showEngine(engine) {
  const first = state.engine === null || state.engine.model !== engine.model;
  state.engine = engine;
  settings.showEngine(engine);
  byId("model").textContent = engine.model;
  byId("model").hidden = engine.model === "";
  if (first && state.current.messages.length === 0) showConversation();
}

function engineFailed(error) {
  if (error.status === 401) askForKey();
}

// ---- Conversations

function save(conversation) {
  if (!store.saveConversation(conversation)) toast("This browser's storage is full: the conversation was not saved.");
}

function choose(id) {
  const chosen = state.conversations.find((conversation) => conversation.id === id);
  if (!chosen) return;
  state.current = chosen;
  store.saveLastId(id);
  closeDrawers();
  showConversation();
  composer.focus();
}

// One empty conversation at most: asking for a new one twice gives the same.
function startConversation() {
  const empty = state.conversations.find(
    (conversation) => conversation.messages.length === 0 && conversation.title === "",
  );
  const fresh = empty ?? store.createConversation(state.current?.system ?? "");
  if (!empty) state.conversations.unshift(fresh);
  choose(fresh.id);
}

function rename(id, title) {
  const conversation = state.conversations.find((one) => one.id === id);
  conversation.title = title;
  save(conversation);
  if (conversation === state.current) byId("title").textContent = titleOf(conversation);
  showSidebar();
}

function remove(id) {
  const place = state.conversations.findIndex((one) => one.id === id);
  const [removed] = state.conversations.splice(place, 1);
  stopAnswer(id);
  store.removeConversation(id);
  if (removed === state.current) {
    if (state.conversations.length > 0) choose(state.conversations[Math.min(place, state.conversations.length - 1)].id);
    else startConversation();
  }
  showSidebar();
  toast(`Deleted "${titleOf(removed)}".`, "Undo", () => {
    state.conversations.splice(place, 0, removed);
    save(removed);
    choose(id);
  });
}

function exportOne(id) {
  const conversation = state.conversations.find((one) => one.id === id);
  const name =
    titleOf(conversation)
      .replace(/[^\p{L}\p{N}]+/gu, "-")
      .replace(/^-|-$/g, "")
      .slice(0, 60) || "conversation";
  download(`${name}.json`, store.exportText([conversation]));
}

function exportAll() {
  const kept = state.conversations.filter((conversation) => conversation.messages.length > 0);
  download("minke-conversations.json", store.exportText(kept));
}

async function importFile(event) {
  const [file] = event.target.files;
  event.target.value = "";
  if (!file) return;
  try {
    const imported = store.importText(await file.text());
    imported.forEach(save);
    state.conversations = [...imported, ...state.conversations];
    if (imported.length > 0) choose(imported[0].id);
    toast(imported.length === 1 ? "Imported one conversation." : `Imported ${imported.length} conversations.`);
  } catch (error) {
    toast(error.message);
  }
}

function setSystem(text) {
  state.current.system = text;
  if (state.current.messages.length > 0) save(state.current);
}

// ---- Asking and answering

function sendMessage(text) {
  const { current } = state;
  current.messages.push({ role: "user", content: text });
  if (current.title === "") current.title = firstLine(text);
  answer(current);
}

function firstLine(text) {
  const line = text.trim().split("\n")[0].trim();
  return line.length > TITLE_LENGTH ? `${line.slice(0, TITLE_LENGTH - 1).trimEnd()}…` : line;
}

// What followed the message is dropped: it answered another question.
function editMessage(index, text) {
  const { current } = state;
  stopAnswer(current.id);
  current.messages.length = index;
  current.messages.push({ role: "user", content: text });
  answer(current);
}

function regenerate(index) {
  const { current } = state;
  if (state.answers.has(current.id)) return;
  current.messages.length = index;
  answer(current);
}

// Whatever is stopped keeps what was written so far.
function stopAnswer(id = state.current.id) {
  state.answers.get(id)?.controller.abort();
  state.answers.delete(id);
}

async function answer(conversation) {
  const request = answerRequest(conversation, state.settings, state.engine);
  const job = { message: emptyAnswer(), controller: new AbortController() };
  conversation.messages.push(job.message);
  conversation.updated = Date.now();
  state.conversations = [conversation, ...state.conversations.filter((one) => one !== conversation)];
  state.answers.set(conversation.id, job);
  save(conversation);
  if (conversation === state.current) showConversation();
  announce("Answering");
  monitor.ask();
  const show = createPainter(conversation, job);
  try {
    await receiveAnswer(job.message, request, job.controller.signal, show.soon);
  } catch {
    job.message.error = "The server asks for an API key.";
    askForKey(() => retry(conversation, job.message));
  }
  show.end();
}

// Paints at most once a frame and saves every now and then, however fast pieces come.
function createPainter(conversation, job) {
  let frame = 0;
  let saved = performance.now();
  const isShown = () => conversation === state.current && conversation.messages.at(-1) === job.message;

  function paint() {
    frame = 0;
    if (isShown()) transcript.update(true);
    if (performance.now() - saved > SAVE_MILLISECONDS) {
      saved = performance.now();
      save(conversation);
    }
  }

  function soon() {
    frame ||= requestAnimationFrame(paint);
  }

  function end() {
    cancelAnimationFrame(frame);
    if (state.answers.get(conversation.id) === job) state.answers.delete(conversation.id);
    if (isShown()) {
      transcript.update(false);
      composer.setBusy(false);
      announce(job.message.error || "The answer is complete");
    }
    // A conversation deleted meanwhile stays deleted.
    if (state.conversations.includes(conversation)) save(conversation);
    showSidebar();
  }

  return { soon, end };
}

function retry(conversation, failed) {
  if (conversation.messages.at(-1) !== failed) return;
  conversation.messages.pop();
  answer(conversation);
}

// ---- The API key

function askForKey(whenGiven) {
  const dialog = byId("key-dialog");
  if (whenGiven) dialog.addEventListener("close", () => dialog.returnValue === "use" && whenGiven(), { once: true });
  if (dialog.open || (!whenGiven && dialog.dataset.refused === "true")) return;
  byId("key-text").textContent =
    store.loadApiKey() === ""
      ? "It is kept in this tab until you close it."
      : "The server did not accept the last one.";
  byId("key").value = "";
  dialog.returnValue = "cancel";
  dialog.showModal();
}

function keyDialogClosed() {
  const dialog = byId("key-dialog");
  const given = dialog.returnValue === "use" && byId("key").value !== "";
  // Who cancels is not asked again by the panel, only when sending.
  dialog.dataset.refused = String(!given);
  if (given) {
    store.saveApiKey(byId("key").value.trim());
    monitor.ask();
  }
  byId("key").value = "";
}

// ---- Panels

// On a narrow screen the list and the panel lie over the conversation; on a wide one the panel can be folded away.
const narrow = matchMedia("(max-width: 60rem)");

function openDrawer(name) {
  document.body.dataset.drawer = name;
  byId(name).querySelector("button").focus();
  monitor.redraw();
}

function closeDrawers() {
  const { drawer } = document.body.dataset;
  if (!drawer) return;
  delete document.body.dataset.drawer;
  if (byId(drawer).contains(document.activeElement)) byId(drawer === "panel" ? "panel-toggle" : "sidebar-open").focus();
}

function togglePanel() {
  if (narrow.matches) openDrawer("panel");
  else document.body.classList.toggle("no-panel");
  monitor.redraw();
}

function selectTab(name) {
  for (const one of ["engine", "settings"]) {
    const tab = byId(`tab-${one}`);
    tab.setAttribute("aria-selected", String(one === name));
    tab.tabIndex = one === name ? 0 : -1;
    byId(one).hidden = one !== name;
  }
  monitor.redraw();
}

function tabKey(event) {
  if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
  const other = event.target.id === "tab-engine" ? "settings" : "engine";
  selectTab(other);
  byId(`tab-${other}`).focus();
}

// There is one heat map; enlarging moves it into the dialog and back.
function openHeatmap() {
  byId("heatmap-large").append(byId("heatmap"));
  byId("heatmap-dialog").showModal();
  monitor.redraw();
}

function closeHeatmap() {
  byId("heatmap-home").append(byId("heatmap"));
  monitor.redraw();
}

function showTheme() {
  const theme = window.minkeTheme.current();
  const label = { auto: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" }[theme];
  byId("theme").replaceChildren(icon(theme));
  byId("theme").setAttribute("aria-label", label);
  byId("theme").title = label;
}

function pageKey(event) {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
    if (document.body.dataset.drawer) closeDrawers();
    else stopAnswer();
  } else if (event.altKey && !event.ctrlKey && !event.metaKey && event.code === "KeyN") {
    event.preventDefault();
    startConversation();
  }
}

// Another tab changed a conversation: read all again, but keep what is being answered here.
function storageChanged(event) {
  if (!store.isConversationKey(event.key)) return;
  const own = state.conversations.filter((one) => state.answers.has(one.id) || one.messages.length === 0);
  const others = store.loadConversations().filter((one) => !own.some((mine) => mine.id === one.id));
  state.conversations = [...own, ...others].sort((a, b) => b.updated - a.updated);
  const same = state.conversations.find((one) => one.id === state.current.id);
  if (!same) state.conversations.unshift(state.current);
  else if (same !== state.current) {
    state.current = same;
    showConversation();
  }
  showSidebar();
}

function connect() {
  const clicks = {
    "new-conversation": startConversation,
    "export-all": exportAll,
    import: () => byId("import-file").click(),
    "sidebar-open": () => openDrawer("sidebar"),
    "sidebar-close": closeDrawers,
    "panel-close": closeDrawers,
    "panel-toggle": togglePanel,
    veil: closeDrawers,
    "tab-engine": () => selectTab("engine"),
    "tab-settings": () => selectTab("settings"),
    "heatmap-open": openHeatmap,
    "heatmap-close": () => byId("heatmap-dialog").close(),
    "key-cancel": () => byId("key-dialog").close("cancel"),
    theme: () => window.minkeTheme.next(),
  };
  for (const [id, onclick] of Object.entries(clicks)) byId(id).addEventListener("click", onclick);
  byId("tab-engine").addEventListener("keydown", tabKey);
  byId("tab-settings").addEventListener("keydown", tabKey);
  byId("import-file").addEventListener("change", importFile);
  byId("key-dialog").addEventListener("close", keyDialogClosed);
  byId("heatmap-dialog").addEventListener("close", closeHeatmap);
  addEventListener("keydown", pageKey);
  addEventListener("storage", storageChanged);
  addEventListener("themechange", showTheme);
  // A closed tab ends its requests: keep what has come.
  addEventListener("pagehide", () => {
    for (const conversation of state.conversations) if (state.answers.has(conversation.id)) save(conversation);
  });
}

connect();
showTheme();
state.current = state.conversations.find((one) => one.id === store.loadLastId()) ?? null;
if (state.current) showConversation();
else startConversation();
composer.focus();
monitor.ask();
