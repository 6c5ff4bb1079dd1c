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

struct minke_message {
    const char *role; /* "system", "user", "assistant" */
    const char *content;
};
enum minke_chat_flags {
    MINKE_CHAT_GENERATION_PROMPT = 1, /* end with what makes the assistant speak */
    MINKE_CHAT_THINKING = 2           /* V3.1: thinking mode */
};
/* Renders a conversation with the model's own template (V3, V3-0324, R1, V3.1; chosen from the directory) straight into
 * ids. Markup inside message contents stays text. */
MINKE_API int minke_encode_chat(int32_t **ids, int64_t *count, const struct minke_tokenizer *tokenizer,
                                const struct minke_message *messages, int64_t message_count, unsigned flags,
                                struct minke_error *error);

/* ---- Model --------------------------------------------------------------------------------------------------------
 */

struct minke_model;

struct minke_model_options {
    int threads;         /* 0 = one per available CPU */
    const char *isa;     /* NULL or "auto" = best, "scalar", "avx2", "avx512"; results are bit-identical */
    const char *compute; /* activations: NULL or "bf16" as the model was trained, "f32" */
};
MINKE_API int minke_model_open(struct minke_model **model, const char *directory,
                               const struct minke_model_options *options, struct minke_error *error);
MINKE_API void minke_model_close(struct minke_model *model);
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
/* Memory in use by the process is dominated by the mapped weights and by the caches of sessions (bytes per token of
 * context). */
struct minke_session_options {
    int64_t context; /* tokens the cache can hold; 0 = min(model context, 4096) */
    int64_t chunk;   /* prompt tokens processed at a time, 0 = 256; does not change results */
    enum minke_attention attention;
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

struct minke_sampling {
    float temperature; /* 0 = greedy (ties to the lowest id) */
    float top_p;       /* 1 = off */
    uint64_t seed;
};
/* What the model's authors recommend (generation_config.json); greedy if the file is absent or says do_sample false. */
MINKE_API struct minke_sampling minke_model_sampling(const struct minke_model *model);
/* The token that `sampling` chooses to follow the last appended one. Noise depends on (seed, position) alone. -1 on an
 * empty session. */
MINKE_API int32_t minke_session_sample(struct minke_session *session, const struct minke_sampling *sampling);

#ifdef __cplusplus
}
#endif
#endif
