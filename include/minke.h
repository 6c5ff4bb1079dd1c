/* libminke: models of the DeepSeek-V3 architecture on CPUs, from C.
 *
 * A program opens a model directory (official Hugging Face layout, used as it is), creates a session (one conversation
 * or document with its attention cache), appends token ids and reads logits or sampled tokens. A tokenizer turns text
 * into ids and chat messages into prompts.
 *
 *     struct minke_error error = {0};
 *     struct minke_model *model;
 *     if (minke_model_open(&model, "DeepSeek-V3", NULL, &error) != 0) { puts(error.text); return 1; }
 *
 * Every function that can fail returns 0 or a negative code and fills *error with one line that names file, key, found
 * and expected. Objects are opaque, made by *_open or *_create and released by *_close, which accept NULL. A model may
 * be shared by sessions; calls that use one model must not run at the same time (one inference thread; it uses all
 * cores by itself). A tokenizer may be used by several threads at once. Strings are UTF-8, sizes are in bytes, times in
 * seconds.
 */
#ifndef MINKE_H
#define MINKE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MINKE_VERSION "0.1.0"
#define MINKE_API __attribute__((visibility("default")))

struct minke_error {
    int code; /* 0 or negative: -1 system, -2 memory, -3 format, -4 argument, -5 limit, -6 state, -7 numeric */
    char text[512];
};

MINKE_API const char *minke_version(void);

/* ---- Tokenizer -------------------------------------------------------------------------------------------------- */

struct minke_tokenizer;

/* `path`: a model directory or a tokenizer.json. */
MINKE_API int minke_tokenizer_open(struct minke_tokenizer **tokenizer, const char *path, struct minke_error *error);
MINKE_API void minke_tokenizer_close(struct minke_tokenizer *tokenizer);
MINKE_API int64_t minke_tokenizer_vocab_size(const struct minke_tokenizer *tokenizer);
/* Ids of special tokens, -1 if there is none. */
MINKE_API int32_t minke_tokenizer_bos(const struct minke_tokenizer *tokenizer);
MINKE_API int32_t minke_tokenizer_eos(const struct minke_tokenizer *tokenizer);

enum minke_encode_flags {
    MINKE_ENCODE_BOS = 1,  /* put the begin-of-sentence token in front */
    MINKE_ENCODE_PLAIN = 2 /* text only: markup such as <｜User｜> in it is not recognised as a token */
};
/* Allocates *ids (free with minke_free). Any byte string is accepted; decoding gives it back exactly. */
MINKE_API int minke_encode(int32_t **ids, int64_t *count, const struct minke_tokenizer *tokenizer, const char *text,
                           size_t size, unsigned flags, struct minke_error *error);
/* Allocates *text, zero-terminated (the zero is not counted; the text may hold zeros). */
MINKE_API int minke_decode(char **text, size_t *size, const struct minke_tokenizer *tokenizer, const int32_t *ids,
                           int64_t count, struct minke_error *error);
/* The same token by token, for streaming: *text is well-formed UTF-8 (possibly empty); bytes of an unfinished character
 * are held back in *decoder, which starts as all zero. id -1 ends the stream (what is still held becomes U+FFFD). */
struct minke_decoder {
    unsigned char held[4];
    int held_count;
};
MINKE_API int minke_decode_next(char **text, size_t *size, struct minke_decoder *decoder,
                                const struct minke_tokenizer *tokenizer, int32_t id, struct minke_error *error);
MINKE_API void minke_free(void *pointer);
/* The bytes of a token, valid as long as the tokenizer; NULL for an id without one. *markup: 1 if it is an added token
 * such as <｜User｜>, which is no piece of a text. */
MINKE_API const char *minke_token_bytes(size_t *size, int *markup, const struct minke_tokenizer *tokenizer, int32_t id);

struct minke_tool_call {
    const char *name;
    const char *arguments; /* JSON, given to the template as it is */
};
struct minke_message {
    const char *role;                         /* "system", "user", "assistant", "tool" (the result of a call) */
    const char *content;                      /* may be NULL in a message with tool_calls */
    const struct minke_tool_call *tool_calls; /* assistant only; NULL = none */
    int64_t tool_call_count;
};
enum minke_chat_flags {
    MINKE_CHAT_GENERATION_PROMPT = 1, /* end with what makes the assistant speak */
    MINKE_CHAT_THINKING = 2           /* V3.1: thinking mode */
};
/* How the model writes: which template its directory has. */
enum minke_chat_style {
    MINKE_CHAT_V3,
    MINKE_CHAT_V3_0324,
    MINKE_CHAT_R1,
    MINKE_CHAT_R1_THINK, /* R1 as revised: the prompt itself opens <think> */
    MINKE_CHAT_R1_0528,
    MINKE_CHAT_V3_1
};
/* -1 if the tokenizer has no chat template that Minke knows. */
MINKE_API int minke_tokenizer_chat_style(const struct minke_tokenizer *tokenizer);
/* Renders a conversation with the model's own template (chosen from the directory) straight into ids. `tools`: a JSON
 * array in OpenAI's form, [{"type": "function", "function": {...}}], or NULL. Markup inside message contents stays
 * text. */
MINKE_API int minke_encode_chat(int32_t **ids, int64_t *count, const struct minke_tokenizer *tokenizer,
                                const struct minke_message *messages, int64_t message_count, const char *tools,
                                unsigned flags, struct minke_error *error);
/* Fill-in-the-middle: the prompt after which the model writes what stands between prefix and suffix. */
MINKE_API int minke_encode_fim(int32_t **ids, int64_t *count, const struct minke_tokenizer *tokenizer,
                               const char *prefix, size_t prefix_size, const char *suffix, size_t suffix_size,
                               struct minke_error *error);

/* ---- Model --------------------------------------------------------------------------------------------------------
 */

struct minke_model;

struct minke_model_options {
    int threads;         /* 0 = one per available CPU */
    const char *isa;     /* NULL or "auto" = best, "scalar", "avx2", "avx512": bit-identical; or "amx": another order */
    const char *compute; /* activations: NULL or "bf16" as the model was trained, "f32" */
    const char *weights; /* NULL or "stored" = as the files have them, copied in an order that products read faster
                            where this CPU gains from it and memory is left; "mapped" = where the files are mapped, the
                            same bits; "int8", "int4" = quantised while opening */
    int64_t ram_bytes;   /* > 0: use at most so much memory, weights, caches and workspace together, and read experts
                            from the files when they are needed; 0 = map the files and let the system decide */
};
MINKE_API int minke_model_open(struct minke_model **model, const char *directory,
                               const struct minke_model_options *options, struct minke_error *error);
MINKE_API void minke_model_close(struct minke_model *model);

struct minke_memory_stats {              /* of a model with ram_bytes; all 0 without. Counts are since it was opened */
    int64_t limit_bytes, resident_bytes; /* ram_bytes; weights that always stay in memory */
    int64_t expert_bytes, experts;       /* of one routed expert; how many there are */
    int64_t slots, slots_used;           /* experts that fit into the limit at present; that memory is held for */
    int64_t hits, late, misses;          /* experts asked for: in memory, being read ahead, read only now */
    int64_t bytes_read;                  /* of experts */
    int64_t guesses, right_guesses;      /* experts named by read-ahead; asked for thereafter */
    double stall_seconds;                /* spent waiting for reads */
};
MINKE_API void minke_model_memory(struct minke_memory_stats *stats, const struct minke_model *model);
MINKE_API int64_t minke_model_vocab_size(const struct minke_model *model);
MINKE_API int64_t minke_model_context(const struct minke_model *model);   /* max_position_embeddings */
MINKE_API int64_t minke_model_mtp_depth(const struct minke_model *model); /* MTP modules present in the files */
/* Whether a token ends an answer (eos_token_id of generation_config.json, which may be a list, or of config.json). */
MINKE_API int minke_model_is_end(const struct minke_model *model, int32_t id);

/* ---- Session ------------------------------------------------------------------------------------------------------
 */

struct minke_session;

enum minke_attention { /* the form of MLA a session uses; results agree up to rounding, not bit for bit */
                       MINKE_ATTENTION_AUTO,     /* prompt tokens expanded, sampled tokens absorbed */
                       MINKE_ATTENTION_EXPANDED, /* bit-equal to training; caches keys and values */
                       MINKE_ATTENTION_ABSORBED  /* caches latents (576 values per token and layer in V3) */
};
/* How a cache of latents keeps them. Attention always reads what the cache holds, so that no result depends on chunks,
 * batches or cache hits; but an FP8 cache gives other results than a plain one (docs/numerics.md). */
enum minke_cache {
    MINKE_CACHE_PLAIN, /* like the activations: BF16, or F32 */
    MINKE_CACHE_FP8    /* E4M3, one scale per 128 values: 656 bytes instead of 1152 per token and layer in V3; not with
                          MINKE_ATTENTION_EXPANDED */
};
/* Memory in use by the process is dominated by the mapped weights and by the caches of sessions (bytes per token of
 * context). */
struct minke_session_options {
    int64_t context; /* tokens the cache can hold; 0 = min(model context, 4096) */
    int64_t chunk;   /* prompt tokens processed at a time, 0 = 256; does not change results */
    enum minke_attention attention;
    enum minke_cache cache;
};
MINKE_API int minke_session_create(struct minke_session **session, struct minke_model *model,
                                   const struct minke_session_options *options, struct minke_error *error);
MINKE_API void minke_session_close(struct minke_session *session);
MINKE_API int64_t minke_session_length(const struct minke_session *session); /* tokens in the cache */
/* Forgets all tokens from `length` on (0 = everything). */
MINKE_API int minke_session_truncate(struct minke_session *session, int64_t length, struct minke_error *error);

enum minke_token_kind { MINKE_PROMPT, MINKE_SAMPLED }; /* matters to MINKE_ATTENTION_AUTO alone */
/* Runs tokens through the model; afterwards minke_session_logits are those of the last one. */
MINKE_API int minke_session_append(struct minke_session *session, const int32_t *ids, int64_t count,
                                   enum minke_token_kind kind, struct minke_error *error);
/* float[vocab_size] after the last appended token; valid until the next call on the session; NULL before the first. */
MINKE_API const float *minke_session_logits(const struct minke_session *session);

/* Calls back with the logits of every appended token in order (mtp_depth 0), or of MTP module mtp_depth (row i from the
 * hidden state of token i and the embedding of token i + mtp_depth; count - mtp_depth rows). The session must be empty;
 * a non-zero return of the callback stops and is returned. */
typedef int (*minke_logits_callback)(void *argument, int64_t row, const float *logits);
MINKE_API int minke_session_evaluate(struct minke_session *session, const int32_t *ids, int64_t count,
                                     int64_t mtp_depth, minke_logits_callback callback, void *argument,
                                     struct minke_error *error);

/* log_probability[i] = log p(ids[i + 1] | ids[0..i]), i = 0..count-2. The session must be empty. */
MINKE_API int minke_session_score(struct minke_session *session, float *log_probability, const int32_t *ids,
                                  int64_t count, struct minke_error *error);

/* ---- Sampling -----------------------------------------------------------------------------------------------------
 */

struct minke_logit_bias {
    int32_t id;
    float bias; /* added to the logit */
};
/* All zero but top_p 1 = greedy. Order: logit_bias, penalties, filter of the request, temperature, top_k, top_p, min_p.
 */
struct minke_sampling {
    float temperature; /* 0 = greedy (ties to the lowest id) */
    float top_p;       /* 1 = off */
    uint64_t seed;
    int64_t choice;                            /* distinguishes answers to one prompt under one seed */
    int64_t top_k;                             /* 0 = off */
    float min_p;                               /* drop tokens less likely than min_p times the likeliest; 0 = off */
    float frequency_penalty, presence_penalty; /* of tokens generated so far, OpenAI's definition; 0 = off */
    float repetition_penalty;                  /* of prompt and generated tokens; 0 or 1 = off */
    const struct minke_logit_bias *logit_bias; /* must live as long as it is used */
    int64_t logit_bias_count;
};
/* What the model's authors recommend (generation_config.json); greedy if the file is absent or says do_sample false. */
MINKE_API struct minke_sampling minke_model_sampling(const struct minke_model *model);
/* The token that `sampling` chooses to follow the last appended one. Noise depends on (seed, position) alone. -1 on an
 * empty session. */
MINKE_API int32_t minke_session_sample(struct minke_session *session, const struct minke_sampling *sampling);

/* ---- Engine -------------------------------------------------------------------------------------------------------
 *
 * Many requests over one model: continuous batching, a paged cache whose prompt prefixes are shared, preemption when
 * the cache is full, and speculative decoding with the model's own MTP modules. What a request answers, and with which
 * log-probabilities, does not depend on the other requests, on the cache, on drafts or on threads (docs/numerics.md).
 *
 * minke_engine_submit and minke_engine_cancel may be called from any thread; minke_engine_step from one at a time, and
 * from no other user of the model at the same time. Callbacks run inside minke_engine_step. */

struct minke_engine;

struct minke_engine_options { /* all zero = the defaults named here */
    int64_t context;          /* longest request, prompt and answer, in tokens; 0 = the model's context */
    int64_t cache_tokens;     /* tokens of all requests the cache holds; 0 = max(context, 32768) */
    int64_t batch;            /* requests computed at the same time; 0 = 64 */
    int64_t chunk;            /* prompt tokens computed per step; 0 = 512 */
    enum minke_attention attention;
    enum minke_cache cache;
    int no_prefix_cache;
    const char *cache_directory; /* keeps the prefix cache over restarts; NULL = memory only */
    int no_drafts;               /* 1: no speculation; 0: draft with the MTP modules while it pays */
};
MINKE_API int minke_engine_create(struct minke_engine **engine, struct minke_model *model,
                                  const struct minke_engine_options *options, struct minke_error *error);
MINKE_API void minke_engine_close(struct minke_engine *engine); /* cancels what runs */

enum minke_event_kind {
    MINKE_EVENT_PROMPT,  /* a prompt token was scored; only with prompt_log_probabilities */
    MINKE_EVENT_TOKEN,   /* the answer grew by a token */
    MINKE_EVENT_FINISHED /* the last event of a request */
};
enum minke_finish {
    MINKE_FINISH_STOP,   /* an end token (reported as the last TOKEN), the callback, or the filter allowed nothing */
    MINKE_FINISH_LENGTH, /* max_tokens or the context */
    MINKE_FINISH_CANCELLED,
    MINKE_FINISH_ERROR /* `error` says why */
};
struct minke_token_probability {
    int32_t id;
    float log_probability;
};
struct minke_event {
    int64_t request;
    enum minke_event_kind kind;
    int64_t index; /* PROMPT: of the token in the prompt (the first has no probability: 0); TOKEN: in the answer */
    int32_t id;
    float log_probability;                     /* of id, under the model itself (before temperature, filter, ...) */
    const struct minke_token_probability *top; /* the likeliest `log_probabilities` tokens, likeliest first */
    int64_t top_count;
    enum minke_finish finish;             /* FINISHED, and also below */
    int64_t prompt_tokens, cached_tokens; /* of the prompt: all, and those found in the prefix cache */
    int64_t answer_tokens, drafted_tokens, accepted_tokens;
    const char *error;
};
/* Non-zero ends the request (MINKE_FINISH_STOP). The event's pointers are valid during the call. */
typedef int (*minke_event_callback)(void *argument, const struct minke_event *event);

/* Restricts what may come next, e.g. to a grammar. Called inside minke_engine_step, in the order of the answer. */
struct minke_token_filter {
    void *argument;
    /* Clears in `allowed` (bit id % 64 of word id / 64; all set before) the tokens that may not come next. */
    void (*restrict_tokens)(void *argument, uint64_t *allowed, int64_t vocab_size);
    void (*accept_token)(void *argument, int32_t id);
};

struct minke_request {
    const int32_t *ids; /* the prompt, at least one token; copied */
    int64_t count;
    int64_t max_tokens;                      /* of the answer; 0 = only score the prompt */
    struct minke_sampling sampling;          /* logit_bias is copied */
    int64_t log_probabilities;               /* how many likeliest tokens each event reports, 0..20 */
    int prompt_log_probabilities;            /* PROMPT events for all prompt tokens */
    int ignore_end;                          /* end tokens do not end the answer */
    const struct minke_token_filter *filter; /* NULL = none; the struct is copied, its argument is borrowed */
    minke_event_callback callback;
    void *argument;
};
/* Checks and queues a request; *number identifies it in events and for cancel. */
MINKE_API int minke_engine_submit(int64_t *number, struct minke_engine *engine, const struct minke_request *request,
                                  struct minke_error *error);
MINKE_API void minke_engine_cancel(struct minke_engine *engine, int64_t number); /* FINISHED comes with the next step */
/* One forward pass over what is to be done: returns the number of requests that are not finished, or a negative code
 * (the engine itself can no longer work; requests' own troubles end those requests). 0 = nothing to do. */
MINKE_API int64_t minke_engine_step(struct minke_engine *engine, struct minke_error *error);
/* After weights changed in place (training): forgets everything computed with the old ones; running requests are
 * computed anew with what they have written so far. */
MINKE_API void minke_engine_weights_changed(struct minke_engine *engine);

#define MINKE_MAX_DRAFTS 8
struct minke_engine_stats { /* since creation, or now */
    int64_t waiting, running, cache_tokens_used, cache_tokens_total;
    int64_t requests, prompt_tokens, cached_tokens, answer_tokens, preemptions, steps;
    int64_t drafted[MINKE_MAX_DRAFTS], accepted[MINKE_MAX_DRAFTS]; /* by position of the draft */
    double step_seconds;                                           /* time spent in steps */
    int64_t moe_layers, experts;
    const int64_t *expert_load; /* [moe_layers, experts] tokens routed; read it only between steps */
};
MINKE_API void minke_engine_statistics(struct minke_engine_stats *stats, struct minke_engine *engine);

#ifdef __cplusplus
}
#endif
#endif
