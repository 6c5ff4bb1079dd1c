// What the browser keeps: conversations (one key of localStorage each), settings; and, for this tab only, the API key.
// Whatever is read back is checked field by field: storage and imported files are outside our control.

const CONVERSATION = "minke.conversation.";
const SETTINGS = "minke.settings";
const LAST = "minke.last";
const API_KEY = "minke.api-key";

// A browser may forbid storage altogether: then everything lasts as long as the page.
function openStorage(name) {
  try {
    const storage = window[name];
    storage.getItem("");
    return storage;
  } catch {
    const kept = new Map();
    return {
      get length() {
        return kept.size;
      },
      key: (i) => [...kept.keys()][i] ?? null,
      getItem: (key) => kept.get(key) ?? null,
      setItem: (key, value) => kept.set(key, value),
      removeItem: (key) => kept.delete(key),
    };
  }
}
const local = openStorage("localStorage");
const session = openStorage("sessionStorage");

// null = the server's default. `stop` has one sequence per line.
export const DEFAULT_SETTINGS = Object.freeze({
  temperature: null,
  topP: null,
  topK: null,
  minP: null,
  maxTokens: null,
  seed: null,
  stop: "",
  thinking: null,
});

const text = (value) => (typeof value === "string" ? value : "");
const number = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);

function newId() {
  // randomUUID exists on https and localhost only.
  return Array.from(crypto.getRandomValues(new Uint8Array(9)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function createConversation(system = "") {
  const now = Date.now();
  return { id: newId(), title: "", created: now, updated: now, system, messages: [] };
}

function cleanMessage(raw) {
  if (raw === null || typeof raw !== "object" || !["user", "assistant"].includes(raw.role)) return null;
  if (raw.role === "user") return { role: "user", content: text(raw.content) };
  const calls = Array.isArray(raw.toolCalls) ? raw.toolCalls : [];
  const stats = raw.stats !== null && typeof raw.stats === "object" ? raw.stats : {};
  return {
    role: "assistant",
    content: text(raw.content),
    reasoning: text(raw.reasoning),
    toolCalls: calls.map((call) => ({ id: text(call?.id), name: text(call?.name), arguments: text(call?.arguments) })),
    finish: text(raw.finish),
    error: text(raw.error),
    stats: {
      tokens: number(stats.tokens),
      exact: stats.exact === true,
      promptTokens: number(stats.promptTokens),
      cachedTokens: number(stats.cachedTokens),
      firstToken: number(stats.firstToken),
      seconds: number(stats.seconds),
      thought: number(stats.thought),
    },
  };
}

// A well-formed conversation, or null.
export function cleanConversation(raw) {
  if (raw === null || typeof raw !== "object" || !Array.isArray(raw.messages)) return null;
  const id = /^[0-9a-z]{6,40}$/.test(raw.id) ? raw.id : newId();
  const messages = raw.messages.map(cleanMessage).filter((message) => message !== null);
  const created = number(raw.created) ?? Date.now();
  const updated = number(raw.updated) ?? created;
  return { id, title: text(raw.title).slice(0, 200), created, updated, system: text(raw.system), messages };
}

function readJson(storage, key) {
  try {
    return JSON.parse(storage.getItem(key) ?? "null");
  } catch {
    return null;
  }
}

// False if the browser refuses (full, or storage is switched off).
function write(storage, key, value) {
  try {
    storage.setItem(key, value);
    return true;
  } catch {
    return false;
  }
}

// All conversations, the latest first.
export function loadConversations() {
  const found = [];
  for (let i = 0; i < local.length; i++) {
    const key = local.key(i);
    const conversation = key.startsWith(CONVERSATION) ? cleanConversation(readJson(local, key)) : null;
    if (conversation && key === CONVERSATION + conversation.id) found.push(conversation);
  }
  return found.sort((a, b) => b.updated - a.updated);
}

export function saveConversation(conversation) {
  return write(local, CONVERSATION + conversation.id, JSON.stringify(conversation));
}

export function removeConversation(id) {
  local.removeItem(CONVERSATION + id);
}

export const isConversationKey = (key) => key === null || key.startsWith(CONVERSATION);
export const loadLastId = () => text(local.getItem(LAST));
export const saveLastId = (id) => write(local, LAST, id);

// What "Export" writes: a format of its own, named, so that an import can say what it does not understand.
export function exportText(conversations) {
  return JSON.stringify({ format: "minke-conversations", version: 1, conversations }, null, 2) + "\n";
}

// The conversations of an exported file; throws with a line for the reader. Ids are made anew: nothing is replaced.
export function importText(source) {
  let raw;
  try {
    raw = JSON.parse(source);
  } catch (error) {
    throw new Error(`Not a JSON file: ${error.message}`);
  }
  if (raw?.format !== "minke-conversations" || !Array.isArray(raw.conversations)) {
    throw new Error("Not a file of exported conversations");
  }
  return raw.conversations
    .map((entry) => {
      const conversation = cleanConversation(entry);
      return conversation && { ...conversation, id: newId() };
    })
    .filter((conversation) => conversation !== null);
}

export function loadSettings() {
  const raw = readJson(local, SETTINGS) ?? {};
  return {
    temperature: number(raw.temperature),
    topP: number(raw.topP),
    topK: number(raw.topK),
    minP: number(raw.minP),
    maxTokens: number(raw.maxTokens),
    seed: number(raw.seed),
    stop: text(raw.stop),
    thinking: typeof raw.thinking === "boolean" ? raw.thinking : null,
  };
}

export const saveSettings = (settings) => write(local, SETTINGS, JSON.stringify(settings));

export const loadApiKey = () => session.getItem(API_KEY) ?? "";
export const saveApiKey = (key) => write(session, API_KEY, key);
