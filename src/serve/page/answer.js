// One answer: the request that asks for it, and the message that grows while it streams.
import { ApiError, streamAnswer } from "./api.js";

const TEXT_TOKENS = 512; // a model without a chat template seldom ends by itself

// What the server gets: {path, body}. Models without a chat template continue the text of the conversation.
export function answerRequest(conversation, settings, engine) {
  const body = { model: engine?.model ?? "", ...samplingFields(settings) };
  if (engine !== null && engine.chatStyle === null) {
    const prompt = conversation.system + conversation.messages.map((message) => message.content).join("");
    return { path: "v1/completions", body: { max_tokens: TEXT_TOKENS, ...body, prompt } };
  }
  // Models that cannot choose refuse the question.
  if (engine?.thinking && settings.thinking !== null) body.chat_template_kwargs = { thinking: settings.thinking };
  return { path: "v1/chat/completions", body: { ...body, messages: chatMessages(conversation) } };
}

// Reasoning is not sent back (the models were trained so), nor are answers that failed at once.
function chatMessages(conversation) {
  const messages = [];
  if (conversation.system.trim() !== "") messages.push({ role: "system", content: conversation.system });
  for (const { role, content } of conversation.messages) {
    if (role === "user" || content !== "") messages.push({ role, content });
  }
  return messages;
}

function samplingFields(settings) {
  const fields = {
    temperature: settings.temperature,
    top_p: settings.topP,
    top_k: settings.topK,
    min_p: settings.minP,
    max_tokens: settings.maxTokens,
    seed: settings.seed,
  };
  const stop = settings.stop.split("\n").filter((line) => line !== "");
  if (stop.length > 0) fields.stop = stop;
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== null));
}

export function emptyAnswer() {
  const stats = {
    tokens: null,
    exact: false,
    promptTokens: null,
    cachedTokens: null,
    firstToken: null,
    seconds: null,
    thought: null,
  };
  return { role: "assistant", content: "", reasoning: "", toolCalls: [], finish: "", error: "", stats };
}

// Fills `message` until the answer ends; onChange after every piece. Never throws, except for a missing API key
// (ApiError with status 401), when nothing was written yet.
export async function receiveAnswer(message, request, signal, onChange) {
  const clock = createClock(message.stats);
  try {
    for await (const piece of streamAnswer(request.path, request.body, signal)) {
      applyPiece(message, piece, clock);
      onChange();
    }
    message.finish ||= "stop";
  } catch (error) {
    if (signal.aborted || error.name === "AbortError") message.finish = "stopped";
    else if (error instanceof ApiError && error.status === 401) throw error;
    else message.error = error instanceof ApiError ? error.message : "The connection was lost.";
  }
}

// Times of the first and the last token, and of the end of the reasoning.
function createClock(stats) {
  const begin = performance.now();
  let first = 0;
  return {
    token(reasoning) {
      const now = performance.now();
      if (stats.firstToken === null) {
        first = now;
        stats.firstToken = (now - begin) / 1000;
      }
      stats.seconds = (now - first) / 1000;
      if (reasoning) stats.thought = (now - first) / 1000;
      // Pieces stand for tokens until the server sends the exact number.
      if (!stats.exact) stats.tokens = (stats.tokens ?? 0) + 1;
    },
  };
}

function applyPiece(message, piece, clock) {
  const { content, reasoning, toolCalls, finish, usage } = piece;
  if (reasoning) message.reasoning += reasoning;
  if (content) message.content += content;
  if (toolCalls) toolCalls.forEach((delta) => applyToolCall(message.toolCalls, delta));
  if (content || reasoning || toolCalls) clock.token(Boolean(reasoning));
  if (finish) message.finish = finish;
  if (usage) applyUsage(message.stats, usage);
}

function applyToolCall(calls, delta) {
  const index = Number.isInteger(delta.index) && delta.index >= 0 && delta.index < 128 ? delta.index : 0;
  while (calls.length <= index) calls.push({ id: "", name: "", arguments: "" });
  const call = calls[index];
  if (delta.id) call.id = String(delta.id);
  if (delta.function?.name) call.name += delta.function.name;
  if (delta.function?.arguments) call.arguments += delta.function.arguments;
}

function applyUsage(stats, usage) {
  if (Number.isFinite(usage.completion_tokens)) {
    stats.tokens = usage.completion_tokens;
    stats.exact = true;
  }
  if (Number.isFinite(usage.prompt_tokens)) stats.promptTokens = usage.prompt_tokens;
  const cached = usage.prompt_tokens_details?.cached_tokens ?? usage.prompt_cache_hit_tokens;
  if (Number.isFinite(cached)) stats.cachedTokens = cached;
}
