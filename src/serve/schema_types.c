// Objects, arrays, strings, numbers and constants of JSON schemas (see json_schema.h).
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "serve/json_schema.h"
#include "serve/json_string.h"
#include "serve/number_rule.h"
#include "serve/pattern.h"

#define ITEMS_LIMIT 10000     // minItems, maxItems
#define LENGTH_LIMIT 100000   // minLength, maxLength
#define PATTERN_LIMIT 4096    // bytes

// ---- constants ----

static void add_number_text(struct nfa *nfa, int32_t from, int32_t to, const json_t *value) {
    char text[40];
    if (json_is_integer(value)) {
        snprintf(text, sizeof text, "%lld", (long long)json_integer_value(value));
    } else {
        number_shortest_text(text, json_real_value(value));
    }
    nfa_text(nfa, from, to, text, strlen(text));
}

static void add_quoted(struct nfa *nfa, int32_t from, int32_t to, const char *text, size_t size) {
    int32_t begin = nfa_state(nfa), end = nfa_state(nfa);
    nfa_bytes(nfa, from, begin, '"', '"');
    nfa_string(nfa, begin, end, text, size);
    nfa_bytes(nfa, end, to, '"', '"');
}

static void add_separator(struct schema_scope *scope, int32_t from, int32_t to, char byte) {
    int32_t behind = nfa_state(scope->nfa);
    nfa_bytes(scope->nfa, from, behind, (uint8_t)byte, (uint8_t)byte);
    schema_add_blank(scope, behind, to);
}

// White space, then the closing bracket.
static void add_close(struct schema_scope *scope, int32_t from, int32_t to, char byte) {
    int32_t before = nfa_state(scope->nfa);
    schema_add_blank(scope, from, before);
    nfa_bytes(scope->nfa, before, to, (uint8_t)byte, (uint8_t)byte);
}

static void add_constant_members(struct schema_scope *scope, int32_t from, int32_t to, const json_t *value) {
    struct nfa *nfa = scope->nfa;
    bool object = json_is_object(value), first = true;
    const char *key;
    const json_t *item;
    size_t index;
    int32_t at = nfa_state(nfa);
    add_separator(scope, from, at, object ? '{' : '[');
    json_object_foreach((json_t *)(uintptr_t)value, key, item) {
        int32_t name = nfa_state(nfa), colon = nfa_state(nfa), content = nfa_state(nfa), next = nfa_state(nfa);
        if (first) {
            nfa_empty(nfa, at, name);
        } else {
            add_separator(scope, at, name, ',');
        }
        add_quoted(nfa, name, colon, key, strlen(key));
        add_separator(scope, colon, content, ':');
        schema_add_constant(scope, content, next, item);
        at = next, first = false;
    }
    json_array_foreach(value, index, item) {
        int32_t content = nfa_state(nfa), next = nfa_state(nfa);
        if (first) {
            nfa_empty(nfa, at, content);
        } else {
            add_separator(scope, at, content, ',');
        }
        schema_add_constant(scope, content, next, item);
        at = next, first = false;
    }
    add_close(scope, at, to, object ? '}' : ']');
}

void schema_add_constant(struct schema_scope *scope, int32_t from, int32_t to, const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_STRING:
        add_quoted(scope->nfa, from, to, json_string_value(value), json_string_length(value));
        break;
    case JSON_INTEGER:
    case JSON_REAL:
        add_number_text(scope->nfa, from, to, value);
        break;
    case JSON_OBJECT:
    case JSON_ARRAY:
        add_constant_members(scope, from, to, value);
        break;
    default: {
        const char *text = json_is_null(value) ? "null" : json_is_true(value) ? "true" : "false";
        nfa_text(scope->nfa, from, to, text, strlen(text));
        break;
    }
    }
}

// ---- objects ----

// Names that have a place of their own are no additional ones. A key follows the names byte by byte; where it departs
// from all of them, it goes on as any string does. On the way it has no escapes, which could spell a name in disguise.
struct name_node {
    int state;   // enum string_state behind the bytes so far
    bool is_name;
};

// Adds edges for a key that is none of the names: a trie of the names in which every departure goes to `other`.
static int names_row(struct schema_compiler *compiler, int32_t base, const int32_t children[256],
                     const struct name_node *node) {
    int32_t row;
    int code = automaton_add_row(&row, compiler->automaton, false, compiler->error);
    int32_t pending = -1, low = 0;
    for (int32_t byte = 0; byte <= 256 && code == 0; byte++) {
        int32_t to = -1;
        if (byte < 256 && children[byte] >= 0) {
            to = base + children[byte];
        } else if (byte < 256 && node->state < STRING_ESCAPE && !(node->state == STRING_BODY && byte == '\\') &&
                   !(node->is_name && byte == '"')) {
            to = string_next(node->state, (uint8_t)byte);
        }
        if (byte > 0 && to != pending && pending >= 0) {
            code = automaton_add_edge(compiler->automaton, (uint8_t)low, (uint8_t)(byte - 1), pending, compiler->error);
        }
        low = to != pending ? byte : low;
        pending = to;
    }
    return code;
}

// Builds the trie of quoted names from an automaton of exactly these: its rows are the nodes.
static int names_rows(int32_t *row, struct schema_compiler *compiler, const struct automaton *names, int32_t first) {
    size_t count = (size_t)names->row_count;
    struct name_node *nodes = memory_allocate(count, sizeof *nodes, "schema", compiler->error);
    if (nodes == NULL) {
        return ERROR_MEMORY;
    }
    int code = 0;
    int32_t start, base = compiler->automaton->row_count;
    // Rows are numbered in the order of discovery: a row's state is known before it is reached.
    nodes[first].state = STRING_BODY;
    for (int32_t at = first; at < names->row_count && code == 0; at++) {
        int32_t children[256];
        nodes[at].is_name = names->rows[at].accept;
        for (int byte = 0; byte < 256; byte++) {
            int32_t next = automaton_next(names, at, (uint8_t)byte);
            children[byte] = next < 0 ? -1 : next - first;
            if (next >= 0) {
                nodes[next].state = string_next(nodes[at].state, (uint8_t)byte);
            }
        }
        code = names_row(compiler, base, children, &nodes[at]);
    }
    if (code == 0 && (code = automaton_add_row(&start, compiler->automaton, false, compiler->error)) == 0) {
        code = automaton_add_edge(compiler->automaton, '"', '"', base, compiler->error);
        *row = start;
    }
    memory_free(nodes);
    return code;
}

static int other_key_rule(int32_t *rule, struct schema_scope *scope, const json_t *names) {
    struct schema_compiler *compiler = scope->compiler;
    if (json_object_size(names) == 0) {
        *rule = compiler->string_rule;
        return 0;
    }
    struct automaton list = {0};
    struct nfa nfa;
    const char *name;
    const json_t *value;
    int32_t first, row;
    nfa_init(&nfa, compiler->error);
    json_object_foreach((json_t *)(uintptr_t)names, name, value) {
        nfa_string(&nfa, 0, 1, name, strlen(name));
    }
    int code = automaton_from_nfa(&first, &list, &nfa);
    nfa_destroy(&nfa);
    if (code == 0 && (code = names_rows(&row, compiler, &list, first)) == 0 &&
        (code = automaton_add_rule(rule, compiler->automaton, compiler->error)) == 0) {
        compiler->automaton->rules[*rule] = row;
    }
    automaton_destroy(&list);
    return code;
}

// All names in their order, a copy of `properties` with required ones that have no schema behind them.
static int collect_properties(json_t **properties, json_t **required, struct schema_scope *scope, const json_t *schema,
                              const struct schema_place *place) {
    const json_t *declared = json_object_get(schema, "properties"), *list = json_object_get(schema, "required");
    const json_t *additional = json_object_get(schema, "additionalProperties"), *name;
    size_t index;
    if ((declared != NULL && !json_is_object(declared)) || (list != NULL && !json_is_array(list))) {
        return schema_fail(scope, place, "keyword \"%s\": expected %s",
                           declared != NULL && !json_is_object(declared) ? "properties" : "required",
                           declared != NULL && !json_is_object(declared) ? "an object" : "an array of names");
    }
    *properties = declared != NULL ? json_copy((json_t *)(uintptr_t)declared) : json_object();
    *required = json_object();
    int code = schema_keep(scope->compiler, *properties);
    code = code == 0 ? schema_keep(scope->compiler, *required) : code;
    json_array_foreach(list, index, name) {
        if (code == 0 && !json_is_string(name)) {
            code = schema_fail(scope, place, "keyword \"required\": expected an array of names");
        }
        if (code != 0) {
            break;
        }
        schema_set(scope->compiler, *required, json_string_value(name), json_true());
        if (json_object_get(*properties, json_string_value(name)) == NULL) {
            schema_set(scope->compiler, *properties, json_string_value(name),
                       additional != NULL ? json_incref((json_t *)(uintptr_t)additional) : json_true());
        }
    }
    return code;
}

struct object_build {
    struct schema_scope *scope;
    const json_t *properties, *required, *additional;
    const struct schema_place *place;
    int32_t close;   // the white space before }
};

// From `key`, where a name must come, to the one behind it: past the property, or past its place if it is optional.
static int add_properties(struct object_build *it, int32_t open) {
    struct nfa *nfa = it->scope->nfa;
    const char *name;
    const json_t *schema;
    size_t left = json_object_size(it->required);   // required ones that are still to come
    int32_t key = nfa_state(nfa);
    int code = 0;
    schema_add_blank(it->scope, open, key);
    if (left == 0) {
        nfa_empty(nfa, open, it->close);
    }
    json_object_foreach((json_t *)(uintptr_t)it->properties, name, schema) {
        struct schema_place above = {it->place, "properties", 0}, here = {&above, name, 0};
        bool required = json_object_get(it->required, name) != NULL;
        int32_t colon = nfa_state(nfa), value = nfa_state(nfa), behind = nfa_state(nfa), next = nfa_state(nfa);
        add_quoted(nfa, key, colon, name, strlen(name));
        add_separator(it->scope, colon, value, ':');
        code = schema_add_value(it->scope, value, behind, schema, &here);
        if (code != 0) {
            return code;
        }
        left -= required ? 1 : 0;
        add_separator(it->scope, behind, next, ',');
        if (left == 0) {
            nfa_empty(nfa, behind, it->close);
        }
        if (!required) {
            nfa_empty(nfa, key, next);
        }
        key = next;
    }
    if (!json_is_false(it->additional)) {
        struct schema_place here = {it->place, "additionalProperties", 0};
        int32_t rule, colon = nfa_state(nfa), value = nfa_state(nfa), behind = nfa_state(nfa);
        code = other_key_rule(&rule, it->scope, it->properties);
        if (code == 0) {
            nfa_call(nfa, key, colon, rule, 0, NO_MAXIMUM);
            add_separator(it->scope, colon, value, ':');
            code = schema_add_value(it->scope, value, behind, it->additional, &here);
            add_separator(it->scope, behind, key, ',');
            nfa_empty(nfa, behind, it->close);
        }
    }
    return code == 0 ? nfa->code : code;
}

int schema_add_object(struct schema_scope *scope, int32_t from, int32_t to, const json_t *schema,
                      const struct schema_place *place) {
    json_t *properties = NULL, *required = NULL;
    int code = collect_properties(&properties, &required, scope, schema, place);
    if (code != 0) {
        return code;
    }
    struct nfa *nfa = scope->nfa;
    int32_t open = nfa_state(nfa), close = nfa_state(nfa);
    struct object_build it = {scope, properties, required, json_object_get(schema, "additionalProperties"),
                              place, close};
    nfa_bytes(nfa, from, open, '{', '{');
    add_close(scope, close, to, '}');
    return add_properties(&it, open);
}

// ---- arrays ----

int schema_add_array(struct schema_scope *scope, int32_t from, int32_t to, const json_t *schema,
                     const struct schema_place *place) {
    const json_t *prefix = json_object_get(schema, "prefixItems"), *items = json_object_get(schema, "items");
    struct nfa *nfa = scope->nfa;
    int64_t min, max, fixed = (int64_t)json_array_size(prefix);
    int code = schema_count(&min, 0, scope, schema, "minItems", place);
    code = code == 0 ? schema_count(&max, -1, scope, schema, "maxItems", place) : code;
    if (code == 0 && ((prefix != NULL && !json_is_array(prefix)) || json_is_array(items))) {
        code = schema_fail(scope, place, "keyword \"%s\": expected %s", json_is_array(items) ? "items" : "prefixItems",
                           json_is_array(items) ? "a schema (a list of schemas is prefixItems)" : "an array");
    }
    if (code == 0 && (min > ITEMS_LIMIT || max > ITEMS_LIMIT)) {
        code = schema_fail(scope, place, "minItems and maxItems can be at most %d", ITEMS_LIMIT);
    }
    if (code != 0) {
        return code;
    }
    int64_t least = min > fixed ? min : fixed;   // items with a state of their own
    int64_t count = max >= 0 ? max : least + 1;
    int32_t open = nfa_state(nfa), close = nfa_state(nfa), item = nfa_state(nfa);
    nfa_bytes(nfa, from, open, '[', '[');
    add_close(scope, close, to, ']');
    schema_add_blank(scope, open, item);
    if (min == 0) {
        nfa_empty(nfa, open, close);
    }
    for (int64_t i = 0; i < count && code == 0; i++) {
        struct schema_place prefixed = {place, "prefixItems", 0}, listed = {&prefixed, NULL, (size_t)i};
        struct schema_place same = {place, "items", 0};
        int32_t behind = nfa_state(nfa), next = nfa_state(nfa);
        bool in_prefix = i < fixed;
        code = schema_add_value(scope, item, behind, in_prefix ? json_array_get(prefix, (size_t)i) : items,
                                in_prefix ? &listed : &same);
        if (i + 1 >= min) {
            nfa_empty(nfa, behind, close);
        }
        add_separator(scope, behind, max < 0 && i + 1 == count ? item : next, ',');
        item = next;
    }
    return code == 0 ? nfa->code : code;
}

// ---- strings ----

#define DAY_29 "(0[1-9]|1\\d|2[0-8])"
#define YEAR "[12]\\d{3}"
#define LEAP_YEAR "([12]\\d(0[48]|[2468][048]|[13579][26])|(1[26]|2[048])00)"
#define DATE                                                                                                       \
    "(" YEAR "-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02-" DAY_29 ")|" LEAP_YEAR \
    "-02-29)"
#define TIME "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,9})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)"
#define LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define HOST LABEL "(\\." LABEL "){0,5}"
#define BYTE_NUMBER "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define IPV4 BYTE_NUMBER "(\\." BYTE_NUMBER "){3}"
#define WORD "[0-9A-Fa-f]{1,4}"
#define HEX(n) "[0-9a-fA-F]{" #n "}"

static const struct {
    const char *name, *pattern;
} formats[] = {
    {"date", "^" DATE "$"},
    {"time", "^" TIME "$"},
    {"date-time", "^" DATE "T" TIME "$"},
    {"duration", "^P(\\d{1,4}W|(\\d{1,4}D|\\d{1,4}M(\\d{1,4}D)?|\\d{1,4}Y(\\d{1,4}M(\\d{1,4}D)?)?)"
                 "(T(\\d{1,4}S|\\d{1,4}M(\\d{1,4}S)?|\\d{1,4}H(\\d{1,4}M(\\d{1,4}S)?)?))?"
                 "|T(\\d{1,4}S|\\d{1,4}M(\\d{1,4}S)?|\\d{1,4}H(\\d{1,4}M(\\d{1,4}S)?)?))$"},
    {"email", "^[A-Za-z0-9_+-]{1,32}(\\.[A-Za-z0-9_+-]{1,32}){0,2}@" HOST "$"},
    {"hostname", "^" HOST "$"},
    {"ipv4", "^" IPV4 "$"},
    {"ipv6", "^((" WORD ":){7}" WORD "|(" WORD ":){1,7}:|(" WORD ":){1,6}:" WORD "|(" WORD ":){1,5}(:" WORD
             "){1,2}|(" WORD ":){1,4}(:" WORD "){1,3}|(" WORD ":){1,3}(:" WORD "){1,4}|(" WORD ":){1,2}(:" WORD
             "){1,5}|" WORD ":(:" WORD "){1,6}|:(:" WORD "){1,7}|::)$"},
    {"uuid", "^" HEX(8) "-" HEX(4) "-" HEX(4) "-" HEX(4) "-" HEX(12) "$"},
    {"uri", "^[a-zA-Z][a-zA-Z0-9+.-]{0,31}://" HOST "(:\\d{1,5})?(/[A-Za-z0-9._~!$&'()*+,;=:@-]*)*"
            "(\\?[A-Za-z0-9._~!$&'()*+,;=:@/?-]*)?(#[A-Za-z0-9._~!$&'()*+,;=:@/?-]*)?$"},
};

static const char *format_pattern(const char *name) {
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        if (strcmp(formats[i].name, name) == 0) {
            return formats[i].pattern;
        }
    }
    return NULL;
}

// Narrows the strings of `*at` (-1 = all) to those that match.
static int narrow(int32_t *at, struct automaton *parts, const char *pattern, struct error *error) {
    struct nfa nfa;
    int32_t row;
    nfa_init(&nfa, error);
    pattern_add(&nfa, 0, 1, pattern, true);
    int code = automaton_from_nfa(&row, parts, &nfa);
    nfa_destroy(&nfa);
    if (code == 0 && *at >= 0) {
        code = automaton_intersect(&row, parts, parts, *at, parts, row, error);
    }
    *at = row;
    return code;
}

static int pattern_rule(int32_t *rule, struct schema_compiler *compiler, const char *pattern, const char *format,
                        int64_t min, int64_t max) {
    struct automaton parts = {.work = compiler->automaton->work};
    char length[60];
    int32_t at = -1, row;
    int code = 0;
    if (pattern != NULL) {
        code = narrow(&at, &parts, pattern, compiler->error);
    }
    if (code == 0 && format != NULL) {
        code = narrow(&at, &parts, format, compiler->error);
    }
    if (code == 0 && (min > 0 || max >= 0)) {
        snprintf(length, sizeof length, max < 0 ? "^[^]{%lld,}$" : "^[^]{%lld,%lld}$", (long long)min, (long long)max);
        code = narrow(&at, &parts, length, compiler->error);
    }
    if (code == 0 &&
        (code = automaton_intersect(&row, compiler->automaton, &parts, at, &parts, at, compiler->error)) == 0) {
        compiler->automaton->rules[*rule] = row;
    }
    compiler->automaton->work = parts.work;
    automaton_destroy(&parts);
    return code;
}

static int read_string(const char **text, struct schema_scope *scope, const json_t *schema, const char *keyword,
                       const struct schema_place *place) {
    const json_t *value = json_object_get(schema, keyword);
    *text = json_string_value(value);
    return value == NULL || *text != NULL ? 0 : schema_fail(scope, place, "keyword \"%s\": expected a string", keyword);
}

int schema_add_string(struct schema_scope *scope, int32_t from, int32_t to, const json_t *schema,
                      const struct schema_place *place) {
    const char *pattern, *format;
    int64_t min, max;
    int code = schema_count(&min, 0, scope, schema, "minLength", place);
    code = code == 0 ? schema_count(&max, -1, scope, schema, "maxLength", place) : code;
    code = code == 0 ? read_string(&pattern, scope, schema, "pattern", place) : code;
    code = code == 0 ? read_string(&format, scope, schema, "format", place) : code;
    if (code != 0) {
        return code;
    }
    if (format != NULL && format_pattern(format) == NULL) {
        return schema_fail(scope, place, "keyword \"format\": \"%.60s\" is not supported", format);
    }
    if (min > LENGTH_LIMIT || max > LENGTH_LIMIT || (pattern != NULL && strlen(pattern) > PATTERN_LIMIT)) {
        return schema_fail(scope, place, "minLength and maxLength can be at most %d, a pattern %d bytes long",
                           LENGTH_LIMIT, PATTERN_LIMIT);
    }
    if (max >= 0 && min > max) {
        return 0;   // no string
    }
    struct schema_compiler *compiler = scope->compiler;
    if (pattern == NULL && format == NULL) {
        nfa_call(scope->nfa, from, to, compiler->string_rule, (int32_t)min, max < 0 ? NO_MAXIMUM : (int32_t)max);
        return scope->nfa->code;
    }
    bool is_new;
    int32_t rule;
    char *key = memory_format(compiler->error, "pattern %lld %lld %s %s", (long long)min, (long long)max,
                              format != NULL ? format : "-", pattern != NULL ? pattern : "");
    if (key == NULL) {
        return ERROR_MEMORY;
    }
    code = schema_named_rule(&rule, &is_new, compiler, key);
    memory_free(key);
    if (code == 0 && is_new &&
        (code = pattern_rule(&rule, compiler, pattern, format != NULL ? format_pattern(format) : NULL, min, max)) ==
            ERROR_ARGUMENT) {
        struct error inner = *compiler->error;
        error_clear(compiler->error);
        return schema_fail(scope, place, "keyword \"pattern\": %.300s",
                           strncmp(inner.text, "pattern: ", 9) == 0 ? inner.text + 9 : inner.text);
    }
    if (code == 0) {
        nfa_call(scope->nfa, from, to, rule, 0, NO_MAXIMUM);
        code = scope->nfa->code;
    }
    return code;
}

// ---- numbers ----

int schema_add_number(struct schema_scope *scope, int32_t from, int32_t to, const json_t *schema, bool integer,
                      const struct schema_place *place) {
    static const char *const names[] = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"};
    struct schema_compiler *compiler = scope->compiler;
    const json_t *values[5];
    char key[300], text[40];
    size_t used = (size_t)snprintf(key, sizeof key, integer ? "integer" : "number");
    for (int i = 0; i < 5; i++) {
        values[i] = json_object_get(schema, names[i]);
        if (values[i] != NULL && !json_is_number(values[i])) {
            return schema_fail(scope, place, "keyword \"%s\": expected a number", names[i]);
        }
        if (json_is_integer(values[i])) {
            snprintf(text, sizeof text, "%lld", (long long)json_integer_value(values[i]));
        } else if (values[i] != NULL) {
            number_shortest_text(text, json_real_value(values[i]));
        }
        used += (size_t)snprintf(key + used, sizeof key - used, " %s", values[i] != NULL ? text : "-");
    }
    struct number_limits limits = {values[0], values[1], values[2], values[3], values[4]};
    int32_t rule, row;
    bool is_new;
    int code = schema_named_rule(&rule, &is_new, compiler, key);
    if (code == 0 && is_new) {
        code = number_rule(&row, compiler->automaton, integer, &limits, compiler->error);
        if (code == ERROR_ARGUMENT) {
            struct error inner = *compiler->error;
            error_clear(compiler->error);
            return schema_fail(scope, place, "%.200s", inner.text);
        }
        if (code == 0) {
            compiler->automaton->rules[rule] = row;
        }
    }
    if (code == 0) {
        nfa_call(scope->nfa, from, to, rule, 0, NO_MAXIMUM);
        code = scope->nfa->code;
    }
    return code;
}
