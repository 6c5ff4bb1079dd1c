// tokenizer.json + tokenizer_config.json -> struct tokenizer. Everything is checked here, so that encoding cannot fail but
// for lack of memory (see tokenizer.h for what is supported).
#include <string.h>
#include <xxhash.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "text/tokenizer_private.h"
#include "text/unicode.h"

#define FILE_LIMIT ((int64_t)1 << 30)

uint64_t tokenizer_hash(const uint8_t *bytes, int64_t size) {
    return XXH3_64bits(bytes, (size_t)size);
}

int32_t tokenizer_find_bytes(const struct tokenizer *tokenizer, const uint8_t *bytes, int64_t size) {
    uint32_t mask = ((uint32_t)1 << tokenizer->by_bytes_bits) - 1;
    for (uint32_t at = (uint32_t)tokenizer_hash(bytes, size) & mask;; at = (at + 1) & mask) {
        int32_t id = tokenizer->by_bytes[at];
        if (id < 0) {
            return -1;
        }
        const struct token *token = &tokenizer->tokens[id];
        if (token->size == size && memcmp(tokenizer->bytes.data + token->offset, bytes, (size_t)size) == 0) {
            return id;
        }
    }
}

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
                code = error_set(error, ERROR_FORMAT, "%s: normalizer \"%s\" is not supported (supported: none)", name, item_type);
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
        return error_set(error, ERROR_FORMAT, "%s: post_processor \"%s\" is not supported (supported: ByteLevel, "
                         "TemplateProcessing)", name, type);
    }
    return 0;
}

static int check_model(struct tokenizer *tokenizer, const json_t *model, struct error *error) {
    const char *name = tokenizer->name, *type, *text;
    bool byte_fallback;
    int code;
    if (!json_is_object(model)) {
        return error_set(error, ERROR_FORMAT, "%s: key \"model\": expected an object, found %s", name, json_type_text(model));
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
            return error_set(error, ERROR_FORMAT, "%s: key \"%s\": found \"%.40s\", supported is none", name, must_be_empty[i],
                             text);
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

// ---- vocabulary ----

// Text in the byte alphabet -> bytes at out (no longer than the text). -1 = some character is not in the alphabet.
static int64_t alphabet_decode(uint8_t *out, const char *text, size_t size) {
    int64_t count = 0;
    for (size_t at = 0; at < size;) {
        uint32_t character;
        at += unicode_decode(&character, (const uint8_t *)text + at, size - at);
        int byte = bpe_character_byte(character);
        if (byte < 0) {
            return -1;
        }
        out[count++] = (uint8_t)byte;
    }
    return count;
}

static int read_id(int64_t *id, const json_t *value, const char *content, const char *name, struct error *error) {
    if (!json_is_integer(value)) {
        return error_set(error, ERROR_FORMAT, "%s: id of token \"%.80s\": expected an integer, found %s", name, content,
                         json_type_text(value));
    }
    *id = json_integer_value(value);
    if (*id < 0 || *id >= TOKENIZER_ID_LIMIT) {
        return error_set(error, ERROR_FORMAT, "%s: id of token \"%.80s\": expected 0 to %d, found %lld", name, content,
                         TOKENIZER_ID_LIMIT - 1, (long long)*id);
    }
    return 0;
}

static int measure_ids(int64_t *end, const json_t *vocabulary, const json_t *added, const char *name, struct error *error) {
    const char *content;
    json_t *value;
    int64_t id;
    *end = 0;
    json_object_foreach((json_t *)vocabulary, content, value) {
        if (read_id(&id, value, content, name, error) != 0) {
            return ERROR_FORMAT;
        }
        *end = id >= *end ? id + 1 : *end;
    }
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *item = json_array_get(added, i);
        int code = json_get_string(&content, item, "content", name, error);
        if (code != 0) {
            return error_prefix(error, "added_tokens[%zu]", i);
        }
        if (read_id(&id, json_object_get(item, "id"), content, name, error) != 0) {
            return ERROR_FORMAT;
        }
        *end = id >= *end ? id + 1 : *end;
    }
    return 0;
}

static int vocabulary_read(struct tokenizer *tokenizer, const json_t *vocabulary, struct error *error) {
    const char *content;
    size_t length;
    json_t *value;
    int64_t count = (int64_t)json_object_size(vocabulary);
    tokenizer->by_bytes_bits = 4;
    while (((int64_t)1 << tokenizer->by_bytes_bits) < count * 2) {
        tokenizer->by_bytes_bits++;
    }
    size_t slots = (size_t)1 << tokenizer->by_bytes_bits;
    tokenizer->by_bytes = memory_allocate(slots, sizeof(int32_t), "vocabulary", error);
    if (tokenizer->by_bytes == NULL) {
        return ERROR_MEMORY;
    }
    memset(tokenizer->by_bytes, 0xFF, slots * sizeof(int32_t));
    json_object_keylen_foreach((json_t *)vocabulary, content, length, value) {
        int32_t id = (int32_t)json_integer_value(value);
        struct token *token = &tokenizer->tokens[id];
        if (token->kind != TOKEN_NONE) {
            return error_set(error, ERROR_FORMAT, "%s: key \"vocab\": id %d is given to two tokens, one is \"%.80s\"",
                             tokenizer->name, id, content);
        }
        if (length == 0 || length > INT32_MAX) {
            return error_set(error, ERROR_FORMAT, "%s: key \"vocab\": token %d is empty", tokenizer->name, id);
        }
        if (byte_buffer_reserve(&tokenizer->bytes, (int64_t)length, error) != 0) {
            return ERROR_MEMORY;
        }
        char *bytes = tokenizer->bytes.data + tokenizer->bytes.size;
        int64_t size = alphabet_decode((uint8_t *)bytes, content, length);
        token->kind = size < 0 ? TOKEN_OUTSIDE : TOKEN_BYTES;
        if (size < 0) {
            size = (int64_t)length;
            memcpy(bytes, content, length);
        }
        token->offset = tokenizer->bytes.size;
        token->size = (int32_t)size;
        tokenizer->bytes.size += size;
        if (token->kind == TOKEN_BYTES) {
            size_t at = tokenizer_hash((const uint8_t *)bytes, size) & (slots - 1);
            while (tokenizer->by_bytes[at] >= 0) {
                at = (at + 1) & (slots - 1);
            }
            tokenizer->by_bytes[at] = id;
        }
    }
    for (int byte = 0; byte < 256; byte++) {
        uint8_t one = (uint8_t)byte;
        tokenizer->bpe.byte_ids[byte] = tokenizer_find_bytes(tokenizer, &one, 1);
        if (tokenizer->bpe.byte_ids[byte] < 0) {
            return error_set(error, ERROR_FORMAT, "%s: key \"vocab\": no token for byte 0x%02X (U+%04X in the byte alphabet)",
                             tokenizer->name, (unsigned)byte, (unsigned)bpe_byte_character(one));
        }
    }
    return 0;
}

// ---- merges ----

// The two sides of one entry, "left right" or ["left", "right"]; false = neither.
static bool merge_sides(const char *sides[2], size_t lengths[2], const json_t *entry) {
    if (json_is_string(entry)) {
        sides[0] = json_string_value(entry);
        size_t length = json_string_length(entry);
        const char *space = memchr(sides[0], ' ', length);
        if (space == NULL) {
            return false;
        }
        sides[1] = space + 1;
        lengths[0] = (size_t)(space - sides[0]);
        lengths[1] = length - lengths[0] - 1;
        return memchr(sides[1], ' ', lengths[1]) == NULL;
    }
    for (size_t i = 0; i < 2; i++) {
        const json_t *side = json_array_get(entry, i);
        sides[i] = json_string_value(side);
        lengths[i] = json_string_length(side);
    }
    return json_array_size(entry) == 2 && sides[0] != NULL && sides[1] != NULL;
}

static int merges_read(struct tokenizer *tokenizer, const json_t *merges, struct error *error) {
    struct byte_buffer buffer = {0};
    size_t count = json_array_size(merges);
    int code = 0;
    if (!json_is_array(merges) || count >= INT32_MAX) {
        return error_set(error, ERROR_FORMAT, "%s: key \"merges\": expected an array, found %s", tokenizer->name,
                         json_type_text(merges));
    }
    int32_t byte_ids[256];
    memcpy(byte_ids, tokenizer->bpe.byte_ids, sizeof(byte_ids));
    if ((code = bpe_create(&tokenizer->bpe, (int64_t)count, error)) != 0) {
        return code;
    }
    memcpy(tokenizer->bpe.byte_ids, byte_ids, sizeof(byte_ids));
    for (size_t i = 0; i < count; i++) {
        const char *sides[2];
        size_t lengths[2];
        if (!merge_sides(sides, lengths, json_array_get(merges, i))) {
            code = error_set(error, ERROR_FORMAT, "%s: merges[%zu]: expected \"left right\" or [\"left\", \"right\"]",
                             tokenizer->name, i);
            break;
        }
        buffer.size = 0;
        if ((code = byte_buffer_reserve(&buffer, (int64_t)(lengths[0] + lengths[1]), error)) != 0) {
            break;
        }
        uint8_t *bytes = (uint8_t *)buffer.data;
        int64_t left = alphabet_decode(bytes, sides[0], lengths[0]);
        int64_t right = left < 0 ? -1 : alphabet_decode(bytes + left, sides[1], lengths[1]);
        int32_t ids[3] = {-1, -1, -1};
        if (right >= 0) {
            ids[0] = tokenizer_find_bytes(tokenizer, bytes, left);
            ids[1] = tokenizer_find_bytes(tokenizer, bytes + left, right);
            ids[2] = tokenizer_find_bytes(tokenizer, bytes, left + right);
        }
        if (ids[0] < 0 || ids[1] < 0 || ids[2] < 0) {
            code = error_set(error, ERROR_FORMAT, "%s: merges[%zu] (\"%.40s\" + \"%.40s\"): %s not in the vocabulary",
                             tokenizer->name, i, sides[0], sides[1],
                             ids[0] < 0 ? "the left side is" : ids[1] < 0 ? "the right side is" : "the result is");
            break;
        }
        bpe_add(&tokenizer->bpe, ids[0], ids[1], (int32_t)i, ids[2]);
    }
    byte_buffer_destroy(&buffer);
    return code;
}

// ---- added tokens ----

static int added_token_read(struct tokenizer *tokenizer, const json_t *item, const json_t *vocabulary, struct error *error) {
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
        return error_set(error, ERROR_FORMAT, "%s: added token \"%.80s\": key \"single_word\": found true, supported is false",
                         name, content);
    }
    int32_t id = (int32_t)json_integer_value(json_object_get(item, "id"));
    struct token *token = &tokenizer->tokens[id];
    const json_t *known = json_object_get(vocabulary, content);
    if (known != NULL && json_integer_value(known) != id) {
        return error_set(error, ERROR_FORMAT, "%s: added token \"%.80s\": found id %d, expected %lld as in \"vocab\"", name,
                         content, id, (long long)json_integer_value(known));
    }
    if (token->kind == TOKEN_ADDED || token->kind == TOKEN_SPECIAL || (token->kind != TOKEN_NONE && known == NULL)) {
        return error_set(error, ERROR_FORMAT, "%s: added token \"%.80s\": id %d belongs to another token", name, content, id);
    }
    int64_t size = (int64_t)strlen(content);
    if ((code = trie_add(normalized ? &tokenizer->normalized : &tokenizer->raw, content, size, id, strip_left, strip_right,
                         name, error)) != 0) {
        return code;
    }
    // A token that is also made by merges stays findable by its bytes: its kind changes, its entry in by_bytes does not.
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

static int model_read(struct tokenizer *tokenizer, const json_t *root, struct error *error) {
    const json_t *model = json_object_get(root, "model"), *added = json_object_get(root, "added_tokens");
    const json_t *vocabulary = json_object_get(model, "vocab");
    int64_t end;
    int code = check_model(tokenizer, model, error);
    if (code != 0) {
        return code;
    }
    if (!json_is_object(vocabulary)) {
        return error_set(error, ERROR_FORMAT, "%s: key \"vocab\": expected an object, found %s", tokenizer->name,
                         json_type_text(vocabulary));
    }
    if (added != NULL && !json_is_null(added) && !json_is_array(added)) {
        return error_set(error, ERROR_FORMAT, "%s: key \"added_tokens\": expected an array, found %s", tokenizer->name,
                         json_type_text(added));
    }
    if ((code = measure_ids(&end, vocabulary, added, tokenizer->name, error)) != 0) {
        return code;
    }
    tokenizer->size = (int32_t)end;
    tokenizer->tokens = memory_allocate((size_t)end, sizeof(*tokenizer->tokens), "vocabulary", error);
    if (tokenizer->tokens == NULL) {
        return ERROR_MEMORY;
    }
    if ((code = vocabulary_read(tokenizer, vocabulary, error)) != 0 ||
        (code = merges_read(tokenizer, json_object_get(model, "merges"), error)) != 0 ||
        (code = trie_create(&tokenizer->raw, error)) != 0 || (code = trie_create(&tokenizer->normalized, error)) != 0) {
        return code;
    }
    for (size_t i = 0; code == 0 && i < json_array_size(added); i++) {
        code = added_token_read(tokenizer, json_array_get(added, i), vocabulary, error);
    }
    return code;
}

// ---- tokenizer_config.json ----

static int role_read(int32_t *id, const struct tokenizer *tokenizer, const json_t *config, const char *key, const char *name,
                     struct error *error) {
    const json_t *value = json_object_get(config, key);
    const json_t *content = json_is_object(value) ? json_object_get(value, "content") : value;
    if (value == NULL || json_is_null(value)) {
        *id = -1;
        return 0;
    }
    if (!json_is_string(content)) {
        return error_set(error, ERROR_FORMAT, "%s: key \"%s\": expected a string or an object with \"content\", found %s", name,
                         key, json_type_text(value));
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

static int config_read(struct tokenizer *tokenizer, const char *directory, const char *template_bos, struct error *error) {
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
            (code = json_get_boolean_or(&roles->add_bos, template_bos != NULL, config, "add_bos_token", path, error)) != 0 ||
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

int tokenizer_load(struct tokenizer **out, const char *path, struct error *error) {
    *out = NULL;
    json_t *root = NULL;
    char *file = NULL, *directory = NULL;
    const char *template_bos = NULL;
    struct tokenizer *tokenizer = memory_allocate(1, sizeof(*tokenizer), "tokenizer", error);
    int code = tokenizer == NULL ? ERROR_MEMORY : file_paths(&file, &directory, path, error);
    if (code != 0 || (code = json_read(&root, file, FILE_LIMIT, error)) != 0) {
        goto out;
    }
    tokenizer->name = file;
    file = NULL;
    const char *name = tokenizer->name;
    if (!json_is_object(root)) {
        code = error_set(error, ERROR_FORMAT, "%s: expected an object, found %s", name, json_type_text(root));
        goto out;
    }
    if ((code = check_normalizer(json_object_get(root, "normalizer"), name, error)) != 0 ||
        (code = check_decoder(json_object_get(root, "decoder"), name, error)) != 0 ||
        (code = read_post_processor(&template_bos, json_object_get(root, "post_processor"), name, error)) != 0 ||
        (code = pretokenizer_create(&tokenizer->pretokenizer, json_object_get(root, "pre_tokenizer"), name, error)) != 0 ||
        (code = model_read(tokenizer, root, error)) != 0 ||
        (code = config_read(tokenizer, directory, template_bos, error)) != 0) {
        goto out;
    }
    tokenizer->deepseek_scanner = pretokenizer_is_deepseek(tokenizer->pretokenizer);
    *out = tokenizer;
    tokenizer = NULL;
out:
    json_decref(root);
    tokenizer_free(tokenizer);
    memory_free(file);
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
