// tokenizer.json + tokenizer_config.json -> struct tokenizer. Everything is checked here, so that encoding cannot fail
// but for lack of memory (see tokenizer.h for what is supported).
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "text/tokenizer_private.h"

#define FILE_LIMIT ((int64_t)1 << 30)

static const char *const large_parts[] = {"vocab", "merges"};

// ---- kinds that change nothing, or that we refuse ----

static int check_normalizer(const json_t *normalizer, const char *name, struct error *error) {
    if (normalizer == NULL || json_is_null(normalizer)) {
        return 0;
    }
    const char *type;
    int code = json_get_string(&type, normalizer, "type", name, error);
    if (code != 0) {
        return code;
    }
    const json_t *list = json_object_get(normalizer, "normalizers");
    if (strcmp(type, "Sequence") == 0 && json_is_array(list)) {
        for (size_t i = 0; code == 0 && i < json_array_size(list); i++) {
            const json_t *item = json_array_get(list, i);
            const char *item_type;
            if ((code = json_get_string(&item_type, item, "type", name, error)) == 0) {
                code = error_set(error, ERROR_FORMAT, "%s: normalizer \"%s\" is not supported (supported: none)", name,
                                 item_type);
            }
        }
        return code;
    }
    return error_set(error, ERROR_FORMAT, "%s: normalizer \"%s\" is not supported (supported: none)", name, type);
}

static int check_decoder(const json_t *decoder, const char *name, struct error *error) {
    const char *type;
    int code = json_get_string(&type, decoder, "type", name, error);
    if (code != 0) {
        return error_prefix(error, "decoder");
    }
    const json_t *list = json_object_get(decoder, "decoders");
    if (strcmp(type, "Sequence") == 0 && json_array_size(list) == 1) {
        return check_decoder(json_array_get(list, 0), name, error);
    }
    if (strcmp(type, "ByteLevel") != 0) {
        return error_set(error, ERROR_FORMAT, "%s: decoder \"%s\" is not supported (supported: ByteLevel)", name, type);
    }
    return 0;
}

// *bos = the text that a TemplateProcessing puts in front, borrowed; NULL = none.
static int read_post_processor(const char **bos, const json_t *processor, const char *name, struct error *error) {
    const char *type;
    if (processor == NULL || json_is_null(processor)) {
        return 0;
    }
    int code = json_get_string(&type, processor, "type", name, error);
    if (code != 0) {
        return error_prefix(error, "post_processor");
    }
    const json_t *list = json_object_get(processor, "processors");
    if (strcmp(type, "Sequence") == 0 && json_is_array(list)) {
        for (size_t i = 0; code == 0 && i < json_array_size(list); i++) {
            if (strcmp(json_type_text(json_array_get(list, i)), json_type_text(processor)) != 0 ||
                json_object_get(json_array_get(list, i), "processors") != NULL) {
                return error_set(error, ERROR_FORMAT, "%s: post_processor: expected a flat list of objects", name);
            }
            code = read_post_processor(bos, json_array_get(list, i), name, error);
        }
        return code;
    }
    if (strcmp(type, "TemplateProcessing") == 0) {
        const json_t *first = json_array_get(json_object_get(processor, "single"), 0);
        const char *id = json_string_value(json_object_get(json_object_get(first, "SpecialToken"), "id"));
        *bos = id != NULL ? id : *bos;
        return 0;
    }
    if (strcmp(type, "ByteLevel") != 0) {
        return error_set(error, ERROR_FORMAT,
                         "%s: post_processor \"%s\" is not supported (supported: ByteLevel, "
                         "TemplateProcessing)",
                         name, type);
    }
    return 0;
}

static int check_model(struct tokenizer *tokenizer, const json_t *model, struct error *error) {
    const char *name = tokenizer->name, *type, *text;
    bool byte_fallback;
    int code;
    if (!json_is_object(model)) {
        return error_set(error, ERROR_FORMAT, "%s: key \"model\": expected an object, found %s", name,
                         json_type_text(model));
    }
    if ((code = json_get_string(&type, model, "type", name, error)) != 0) {
        return code;
    }
    if (strcmp(type, "BPE") != 0) {
        return error_set(error, ERROR_FORMAT, "%s: model \"%s\" is not supported (supported: BPE)", name, type);
    }
    static const char *const must_be_empty[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 2; i++) {
        if ((code = json_get_string_or(&text, "", model, must_be_empty[i], name, error)) != 0) {
            return code;
        }
        if (text[0] != '\0') {
            return error_set(error, ERROR_FORMAT, "%s: key \"%s\": found \"%.40s\", supported is none", name,
                             must_be_empty[i], text);
        }
    }
    double dropout = 0;
    if ((code = json_get_boolean_or(&byte_fallback, false, model, "byte_fallback", name, error)) != 0 ||
        (code = json_get_boolean_or(&tokenizer->ignore_merges, false, model, "ignore_merges", name, error)) != 0 ||
        (code = json_get_number_or(&dropout, 0, model, "dropout", name, error)) != 0) {
        return code;
    }
    if (byte_fallback || dropout != 0) {
        return error_set(error, ERROR_FORMAT, "%s: key \"%s\" is set, which is not supported", name,
                         byte_fallback ? "byte_fallback" : "dropout");
    }
    return 0;
}

// ---- added tokens ----

static int added_token_read(struct tokenizer *tokenizer, const json_t *item, struct error *error) {
    const char *name = tokenizer->name, *content;
    bool special, single_word, strip_left, strip_right, normalized;
    int code;
    if ((code = json_get_string(&content, item, "content", name, error)) != 0 ||
        (code = json_get_boolean_or(&special, false, item, "special", name, error)) != 0 ||
        (code = json_get_boolean_or(&single_word, false, item, "single_word", name, error)) != 0 ||
        (code = json_get_boolean_or(&strip_left, false, item, "lstrip", name, error)) != 0 ||
        (code = json_get_boolean_or(&strip_right, false, item, "rstrip", name, error)) != 0 ||
        (code = json_get_boolean_or(&normalized, !special, item, "normalized", name, error)) != 0) {
        return code;
    }
    if (single_word) {
        return error_set(error, ERROR_FORMAT,
                         "%s: added token \"%.80s\": key \"single_word\": found true, supported is false", name,
                         content);
    }
    int64_t given;
    int32_t known;
    if ((code = json_get_integer(&given, item, "id", name, error)) != 0 ||
        (code = vocabulary_take_id(tokenizer, given, content, strlen(content), error)) != 0 ||
        (code = vocabulary_find(&known, tokenizer, content, error)) != 0) {
        return code;
    }
    int32_t id = (int32_t)given;
    struct token *token = &tokenizer->tokens[id];
    if (known >= 0 && known != id) {
        return error_set(error, ERROR_FORMAT, "%s: added token \"%.80s\": found id %d, expected %d as in \"vocab\"",
                         name, content, id, known);
    }
    if (token->kind == TOKEN_ADDED || token->kind == TOKEN_SPECIAL || (token->kind != TOKEN_NONE && known < 0)) {
        return error_set(error, ERROR_FORMAT, "%s: added token \"%.80s\": id %d belongs to another token", name,
                         content, id);
    }
    int64_t size = (int64_t)strlen(content);
    if ((code = trie_add(normalized ? &tokenizer->normalized : &tokenizer->raw, content, size, id, strip_left,
                         strip_right, name, error)) != 0) {
        return code;
    }
    // A token that is also made by merges stays findable by its bytes: its kind changes, its entry in by_bytes does
    // not.
    if (token->kind != TOKEN_BYTES || size != token->size) {
        token->offset = tokenizer->bytes.size;
        token->size = (int32_t)size;
        if ((code = byte_buffer_append(&tokenizer->bytes, content, size, error)) != 0) {
            return code;
        }
    }
    token->kind = special ? TOKEN_SPECIAL : TOKEN_ADDED;
    return 0;
}

// parts: "vocab" and "merges".
static int model_read(struct tokenizer *tokenizer, const json_t *root, struct json_cursor parts[2],
                      struct error *error) {
    const json_t *added = json_object_get(root, "added_tokens");
    int code = check_model(tokenizer, json_object_get(root, "model"), error);
    if (code != 0) {
        return code;
    }
    for (int i = 0; i < 2; i++) {
        if (parts[i].text == NULL) {
            return error_set(error, ERROR_FORMAT, "%s: key \"model\": no key \"%s\"", tokenizer->name, large_parts[i]);
        }
    }
    if (added != NULL && !json_is_null(added) && !json_is_array(added)) {
        return error_set(error, ERROR_FORMAT, "%s: key \"added_tokens\": expected an array, found %s", tokenizer->name,
                         json_type_text(added));
    }
    if ((code = vocabulary_read(tokenizer, &parts[0], error)) != 0 ||
        (code = merges_read(tokenizer, &parts[1], error)) != 0 || (code = trie_create(&tokenizer->raw, error)) != 0 ||
        (code = trie_create(&tokenizer->normalized, error)) != 0) {
        return code;
    }
    for (size_t i = 0; code == 0 && i < json_array_size(added); i++) {
        code = added_token_read(tokenizer, json_array_get(added, i), error);
        if (code != 0) {
            error_prefix(error, "added_tokens[%zu]", i);
        }
    }
    return code;
}

// ---- tokenizer_config.json ----

static int role_read(int32_t *id, const struct tokenizer *tokenizer, const json_t *config, const char *key,
                     const char *name, struct error *error) {
    const json_t *value = json_object_get(config, key);
    const json_t *content = json_is_object(value) ? json_object_get(value, "content") : value;
    if (value == NULL || json_is_null(value)) {
        *id = -1;
        return 0;
    }
    if (!json_is_string(content)) {
        return error_set(error, ERROR_FORMAT,
                         "%s: key \"%s\": expected a string or an object with \"content\", found %s", name, key,
                         json_type_text(value));
    }
    *id = tokenizer_find_string(tokenizer, json_string_value(content));
    if (*id < 0) {
        return error_set(error, ERROR_FORMAT, "%s: key \"%s\": \"%.80s\" is not a token of tokenizer.json", name, key,
                         json_string_value(content));
    }
    return 0;
}

static int template_read(struct tokenizer *tokenizer, const json_t *config, const char *name, struct error *error) {
    const json_t *value = json_object_get(config, "chat_template");
    if (json_is_array(value)) {
        const json_t *list = value;
        value = json_object_get(json_array_get(list, 0), "template");
        for (size_t i = 0; i < json_array_size(list); i++) {
            const char *kind = json_string_value(json_object_get(json_array_get(list, i), "name"));
            if (kind != NULL && strcmp(kind, "default") == 0) {
                value = json_object_get(json_array_get(list, i), "template");
            }
        }
    }
    if (value == NULL || json_is_null(value) || tokenizer->chat_template != NULL) {
        return 0;
    }
    if (!json_is_string(value)) {
        return error_set(error, ERROR_FORMAT, "%s: key \"chat_template\": expected a string, found %s", name,
                         json_type_text(value));
    }
    tokenizer->chat_template = memory_copy_string(json_string_value(value), error);
    return tokenizer->chat_template == NULL ? ERROR_MEMORY : 0;
}

static int config_read(struct tokenizer *tokenizer, const char *directory, const char *template_bos,
                       struct error *error) {
    json_t *config = NULL;
    char *path = file_join(directory, "tokenizer_config.json", error);
    char *jinja = file_join(directory, "chat_template.jinja", error);
    struct tokenizer_roles *roles = &tokenizer->roles;
    int code = path == NULL || jinja == NULL ? ERROR_MEMORY : 0;
    if (code == 0 && file_exists(jinja)) {
        int64_t size;
        code = file_read(&tokenizer->chat_template, &size, jinja, FILE_LIMIT, error);
    }
    if (code == 0 && file_exists(path)) {
        if ((code = json_read(&config, path, FILE_LIMIT, error)) == 0 && !json_is_object(config)) {
            code = error_set(error, ERROR_FORMAT, "%s: expected an object, found %s", path, json_type_text(config));
        }
        if (code != 0 || (code = role_read(&roles->bos, tokenizer, config, "bos_token", path, error)) != 0 ||
            (code = role_read(&roles->eos, tokenizer, config, "eos_token", path, error)) != 0 ||
            (code = role_read(&roles->pad, tokenizer, config, "pad_token", path, error)) != 0 ||
            (code = json_get_boolean_or(&roles->add_bos, template_bos != NULL, config, "add_bos_token", path, error)) !=
                0 ||
            (code = template_read(tokenizer, config, path, error)) != 0) {
            goto out;
        }
    } else if (code == 0) {
        roles->bos = tokenizer_find_string(tokenizer, "<｜begin▁of▁sentence｜>");
        roles->eos = tokenizer_find_string(tokenizer, "<｜end▁of▁sentence｜>");
        roles->pad = tokenizer_find_string(tokenizer, "<｜▁pad▁｜>");
        roles->add_bos = roles->bos >= 0;
    }
    if (template_bos != NULL && roles->bos < 0) {
        roles->bos = tokenizer_find_string(tokenizer, template_bos);
    }
    roles->add_bos = roles->add_bos && roles->bos >= 0;
out:
    json_decref(config);
    memory_free(path);
    memory_free(jinja);
    return code;
}

// ---- whole ----

static int file_paths(char **file, char **directory, const char *path, struct error *error) {
    *file = *directory = NULL;
    if (file_is_directory(path)) {
        *file = file_join(path, "tokenizer.json", error);
        *directory = memory_copy_string(path, error);
    } else {
        const char *slash = strrchr(path, '/');
        *file = memory_copy_string(path, error);
        *directory = slash == NULL ? memory_copy_string(".", error)
                                   : memory_format(error, "%.*s", (int)(slash - path + 1), path);
    }
    return *file == NULL || *directory == NULL ? ERROR_MEMORY : 0;
}

// What is not vocab and merges as a tree, those two as cursors into *text (which the caller frees).
static int file_parse(json_t **root, struct json_cursor parts[2], char **text, const char *path, struct error *error) {
    struct byte_buffer rest = {0};
    int64_t size;
    int code = file_read(text, &size, path, FILE_LIMIT, error);
    if (code == 0) {
        code = json_cursor_cut(&rest, parts, "model", large_parts, *text, (size_t)size, path, error);
    }
    if (code == 0) {
        code = json_parse(root, rest.data, (size_t)rest.size, path, error);
    }
    if (code == 0 && !json_is_object(*root)) {
        code = error_set(error, ERROR_FORMAT, "%s: expected an object, found %s", path, json_type_text(*root));
    }
    byte_buffer_destroy(&rest);
    return code;
}

int tokenizer_load(struct tokenizer **out, const char *path, struct error *error) {
    *out = NULL;
    json_t *root = NULL;
    struct json_cursor parts[2];
    char *directory = NULL, *text = NULL;
    const char *template_bos = NULL;
    struct tokenizer *tokenizer = memory_allocate(1, sizeof(*tokenizer), "tokenizer", error);
    int code = tokenizer == NULL ? ERROR_MEMORY : file_paths(&tokenizer->name, &directory, path, error);
    if (code != 0 || (code = file_parse(&root, parts, &text, tokenizer->name, error)) != 0) {
        goto out;
    }
    const char *name = tokenizer->name;
    if ((code = check_normalizer(json_object_get(root, "normalizer"), name, error)) != 0 ||
        (code = check_decoder(json_object_get(root, "decoder"), name, error)) != 0 ||
        (code = read_post_processor(&template_bos, json_object_get(root, "post_processor"), name, error)) != 0 ||
        (code = pretokenizer_create(&tokenizer->pretokenizer, json_object_get(root, "pre_tokenizer"), name, error)) !=
            0 ||
        (code = model_read(tokenizer, root, parts, error)) != 0 ||
        (code = config_read(tokenizer, directory, template_bos, error)) != 0) {
        goto out;
    }
    tokenizer->deepseek_scanner = pretokenizer_is_deepseek(tokenizer->pretokenizer);
    *out = tokenizer;
    tokenizer = NULL;
out:
    json_decref(root);
    tokenizer_free(tokenizer);
    memory_free(text);
    memory_free(directory);
    return code;
}

void tokenizer_free(struct tokenizer *tokenizer) {
    if (tokenizer != NULL) {
        memory_free(tokenizer->name);
        memory_free(tokenizer->tokens);
        byte_buffer_destroy(&tokenizer->bytes);
        memory_free(tokenizer->by_bytes);
        bpe_destroy(&tokenizer->bpe);
        pretokenizer_free(tokenizer->pretokenizer);
        trie_destroy(&tokenizer->raw);
        trie_destroy(&tokenizer->normalized);
        memory_free(tokenizer->chat_template);
        memory_free(tokenizer);
    }
}
