// The server's interface: requests with the API key, and answers as a stream of pieces. Addresses are relative, so that
// the page also works behind a proxy that serves it in a folder.
import { readEvents } from "./sse.js";
import { loadApiKey } from "./store.js";

export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

async function request(path, body, signal) {
  const headers = {};
  const key = loadApiKey();
  if (key !== "") headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const options = { method: body === undefined ? "GET" : "POST", headers, signal, cache: "no-store" };
  if (body !== undefined) options.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached.");
  }
  if (!response.ok) throw new ApiError(await errorText(response), response.status);
  return response;
}

async function errorText(response) {
  try {
    const message = messageOf((await response.json()).error);
    if (message !== "") return message;
  } catch {
    // Not JSON: the status has to do.
  }
  return `The server answered ${response.status} ${response.statusText}`.trim();
}

function messageOf(error) {
  if (typeof error === "string") return error;
  return typeof error?.message === "string" ? error.message : "";
}

export async function getEngine(signal) {
  return (await request("engine", undefined, signal)).json();
}

export async function countTokens(text, signal) {
  const answer = await (await request("tokenize", { prompt: text, add_special_tokens: false }, signal)).json();
  return answer.count;
}

// Streams an answer of v1/chat/completions or v1/completions. Yields {content, reasoning, toolCalls, finish, usage},
// each undefined where a chunk has none; throws ApiError for what the server reports, also in mid-stream.
export async function* streamAnswer(path, body, signal) {
  const streaming = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await request(path, streaming, signal);
  let finished = false;
  for await (const data of readEvents(response.body)) {
    if (data === "[DONE]") return;
    const chunk = parseChunk(data);
    if (chunk.error !== undefined && chunk.error !== null) {
      throw new ApiError(messageOf(chunk.error) || "The server reported an error.");
    }
    const choice = chunk.choices?.[0];
    finished = finished || Boolean(choice?.finish_reason);
    yield {
      content: choice?.delta?.content ?? choice?.text ?? undefined,
      reasoning: choice?.delta?.reasoning_content ?? undefined,
      toolCalls: choice?.delta?.tool_calls ?? undefined,
      finish: choice?.finish_reason ?? undefined,
      usage: chunk.usage ?? undefined,
    };
  }
  if (!finished) throw new ApiError("The connection ended before the answer did.");
}

function parseChunk(data) {
  try {
    return JSON.parse(data) ?? {};
  } catch {
    throw new ApiError("The server sent something that is not JSON.");
  }
}
