// GET /engine, read with care: a snapshot whose every field is there, whatever the server left out.

const count = (value) => (Number.isFinite(value) && value > 0 ? value : 0);
const counts = (values) => (Array.isArray(values) ? values.map(count) : []);
const numberOrNull = (value) => (Number.isFinite(value) ? value : null);

export function readEngine(raw) {
  const sampling = raw?.sampling ?? {};
  const load = Array.isArray(raw?.expert_load) ? raw.expert_load.map(counts) : [];
  return {
    model: typeof raw?.model === "string" ? raw.model : "",
    version: typeof raw?.version === "string" ? raw.version : "",
    context: count(raw?.context),
    chatStyle: typeof raw?.chat_style === "string" ? raw.chat_style : null,
    // V3.1 alone can be asked to think or not.
    thinking: raw?.chat_style === "v3_1",
    sampling: {
      temperature: numberOrNull(sampling.temperature),
      topP: numberOrNull(sampling.top_p),
      topK: numberOrNull(sampling.top_k),
      minP: numberOrNull(sampling.min_p),
    },
    waiting: count(raw?.waiting),
    running: count(raw?.running),
    cacheUsed: count(raw?.cache_tokens_used),
    cacheTotal: count(raw?.cache_tokens_total),
    answerSpeed: count(raw?.tokens_per_second),
    promptSpeed: count(raw?.prompt_tokens_per_second),
    promptTokens: count(raw?.prompt_tokens),
    cachedTokens: count(raw?.cached_tokens),
    answerTokens: count(raw?.answer_tokens),
    drafted: counts(raw?.drafted),
    accepted: counts(raw?.accepted),
    // Rows of one length, or there is nothing to draw.
    expertLoad: load.length > 0 && load[0].length > 0 && load.every((row) => row.length === load[0].length) ? load : [],
  };
}
