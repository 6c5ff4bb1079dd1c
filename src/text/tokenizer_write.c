// Writes the two files of a trained tokenizer (see tokenizer_write.h). tokenizer.json is streamed: the large parts
// would make a large tree.
#include "text/tokenizer_write.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "text/bpe.h"
#include "text/bpe_train.h"
#include "text/chat_template.h"
#include "text/pretokenize.h"
#include "text/unicode.h"

struct added_token {
    const char *content;
    bool special;   // special ones are not "normalized", as in DeepSeek-V3's file, but for <|EOT|>
    bool normalized;
};

static const struct added_token first_tokens[BPE_TRAIN_FIRST_TOKENS] = {
    {"<｜begin▁of▁sentence｜>", true, false},
    {"<｜end▁of▁sentence｜>", true, false},
    {"<｜▁pad▁｜>", true, false},
};

static const struct added_token last_tokens[BPE_TRAIN_ADDED_TOKENS] = {
    {"<｜fim▁hole｜>", false, true},
    {"<｜fim▁begin｜>", false, true},
    {"<｜fim▁end｜>", false, true},
    {"<｜User｜>", false, true},
    {"<｜Assistant｜>", false, true},
    {"<|EOT|>", true, true},
    {"<｜tool▁calls▁begin｜>", false, true},
    {"<｜tool▁calls▁end｜>", false, true},
    {"<｜tool▁call▁begin｜>", false, true},
    {"<｜tool▁call▁end｜>", false, true},
    {"<｜tool▁outputs▁begin｜>", false, true},
    {"<｜tool▁outputs▁end｜>", false, true},
    {"<｜tool▁output▁begin｜>", false, true},
    {"<｜tool▁output▁end｜>", false, true},
    {"<｜tool▁sep｜>", false, true},
    {"<think>", false, true},
    {"</think>", false, true},
};

struct output {
    struct file_writer writer;
    struct error *error;
    int code;   // the first failure; later calls do nothing
};

static void put(struct output *output, const void *data, size_t size) {
    if (output->code == 0) {
        output->code = file_writer_append(&output->writer, data, size, output->error);
    }
}

static void put_text(struct output *output, const char *text) {
    put(output, text, strlen(text));
}

// A JSON string without its quotes.
static void put_escaped(struct output *output, const char *text, size_t size) {
    for (size_t i = 0; i < size; i++) {
        char hexadecimal[8];
        if (text[i] == '"' || text[i] == '\\') {
            put(output, "\\", 1);
            put(output, &text[i], 1);
        } else if ((unsigned char)text[i] < 0x20) {
            snprintf(hexadecimal, sizeof(hexadecimal), "\\u%04x", (unsigned)(unsigned char)text[i]);
            put_text(output, hexadecimal);
        } else {
            put(output, &text[i], 1);
        }
    }
}

static void put_string(struct output *output, const char *text) {
    put_text(output, "\"");
    put_escaped(output, text, strlen(text));
    put_text(output, "\"");
}

// The text of a symbol in the byte alphabet, escaped.
static void put_symbol(struct output *output, const struct merge_list *merges, int64_t symbol) {
    for (int64_t i = merges->offsets[symbol]; i < merges->offsets[symbol + 1]; i++) {
        uint8_t bytes[4];
        unsigned length = unicode_encode(bytes, bpe_byte_character((uint8_t)merges->bytes.data[i]));
        put_escaped(output, (const char *)bytes, length);
    }
}

static void put_added(struct output *output, int64_t id, const char *content, bool special, bool normalized) {
    char number[64];
    snprintf(number, sizeof(number), "%s\n    {\"id\": %lld, \"content\": ", id == 0 ? "" : ",", (long long)id);
    put_text(output, number);
    put_string(output, content);
    put_text(output, ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": ");
    put_text(output, normalized ? "true, \"special\": " : "false, \"special\": ");
    put_text(output, special ? "true}" : "false}");
}

static void put_added_tokens(struct output *output, const struct merge_list *merges, int64_t placeholders) {
    int64_t id = BPE_TRAIN_FIRST_TOKENS + 256 + merges->count;
    put_text(output, "  \"added_tokens\": [");
    for (int i = 0; i < BPE_TRAIN_FIRST_TOKENS; i++) {
        put_added(output, i, first_tokens[i].content, first_tokens[i].special, first_tokens[i].normalized);
    }
    for (int64_t n = 0; n < placeholders; n++, id++) {
        char content[64];
        snprintf(content, sizeof(content), "<｜place▁holder▁no▁%lld｜>", (long long)n);
        put_added(output, id, content, true, false);
    }
    for (int i = 0; i < BPE_TRAIN_ADDED_TOKENS; i++, id++) {
        put_added(output, id, last_tokens[i].content, last_tokens[i].special, last_tokens[i].normalized);
    }
    put_text(output, "\n  ],\n");
}

static void put_pretokenizer(struct output *output) {
    put_text(output, "  \"pre_tokenizer\": {\n    \"type\": \"Sequence\",\n    \"pretokenizers\": [\n");
    for (int i = 0; i < 3; i++) {
        put_text(output, "      {\"type\": \"Split\", \"pattern\": {\"Regex\": ");
        put_string(output, pretokenize_deepseek_patterns[i]);
        put_text(output, "}, \"behavior\": \"Isolated\", \"invert\": false},\n");
    }
    put_text(
        output,
        "      {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": false}\n"
        "    ]\n  },\n");
}

static void put_model(struct output *output, const struct merge_list *merges) {
    char number[32];
    put_text(output,
             "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
             "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": false,\n"
             "    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n    \"vocab\": {");
    for (int i = 0; i < BPE_TRAIN_FIRST_TOKENS; i++) {
        put_text(output, i == 0 ? "\n      " : ",\n      ");
        put_string(output, first_tokens[i].content);
        snprintf(number, sizeof(number), ": %d", i);
        put_text(output, number);
    }
    for (int64_t symbol = 0; symbol < 256 + merges->count; symbol++) {
        put_text(output, ",\n      \"");
        put_symbol(output, merges, symbol);
        snprintf(number, sizeof(number), "\": %lld", (long long)(BPE_TRAIN_FIRST_TOKENS + symbol));
        put_text(output, number);
    }
    put_text(output, "\n    },\n    \"merges\": [");
    for (int64_t i = 0; i < merges->count; i++) {
        put_text(output, i == 0 ? "\n      \"" : ",\n      \"");
        put_symbol(output, merges, merges->pairs[i][0]);
        put_text(output, " ");
        put_symbol(output, merges, merges->pairs[i][1]);
        put_text(output, "\"");
    }
    put_text(output, "\n    ]\n  }\n}\n");
}

static int tokenizer_json_write(const char *path, const struct merge_list *merges, int64_t placeholders,
                                struct error *error) {
    static const char byte_level[] = "{\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": ";
    struct output output = {.error = error};
    int code = file_writer_open(&output.writer, path, error);
    if (code != 0) {
        return code;
    }
    put_text(&output, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n");
    put_added_tokens(&output, merges, placeholders);
    put_text(&output, "  \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": []},\n");
    put_pretokenizer(&output);
    put_text(&output, "  \"post_processor\": ");
    put_text(&output, byte_level);
    put_text(&output, "false, \"use_regex\": true},\n  \"decoder\": ");
    put_text(&output, byte_level);
    put_text(&output, "true, \"use_regex\": true},\n");
    put_model(&output, merges);
    if (output.code != 0) {
        file_writer_abort(&output.writer);
        return output.code;
    }
    return file_writer_commit(&output.writer, error);
}

static int tokenizer_config_write(const char *path, struct error *error) {
    json_t *config = json_pack("{s:b, s:b, s:s, s:b, s:s, s:i, s:s, s:n, s:s, s:s}", "add_bos_token", 1,
                               "add_eos_token", 0, "bos_token", first_tokens[0].content, "clean_up_tokenization_spaces",
                               0, "eos_token", first_tokens[1].content, "model_max_length", 131072, "pad_token",
                               first_tokens[2].content, "unk_token", "tokenizer_class", "PreTrainedTokenizerFast",
                               "chat_template", chat_template_jinja_v3_0324);
    if (config == NULL) {
        return error_set(error, ERROR_MEMORY, "%s: out of memory", path);
    }
    int code = json_write(config, path, error);
    json_decref(config);
    return code;
}

int tokenizer_write(const char *directory, const struct merge_list *merges, int64_t placeholders, struct error *error) {
    int code = file_make_directory(directory, error);
    char *tokenizer = code == 0 ? file_join(directory, "tokenizer.json", error) : NULL;
    char *config = tokenizer != NULL ? file_join(directory, "tokenizer_config.json", error) : NULL;
    if (code == 0 && config == NULL) {
        code = ERROR_MEMORY;
    }
    if (code == 0 && (code = tokenizer_json_write(tokenizer, merges, placeholders, error)) == 0) {
        code = tokenizer_config_write(config, error);
    }
    memory_free(tokenizer);
    memory_free(config);
    return code;
}
