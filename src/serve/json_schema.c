// The compiler of JSON schemas: rules and their queue, keywords, types, alternatives (see json_schema.h).
#include "serve/json_schema.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "serve/json_string.h"

#define BREAKS_LIMIT 2    // line breaks of a white space
#define INDENT_LIMIT 64   // blanks and tabs behind them
#define SPACES_LIMIT 8    // blanks and tabs without line breaks
#define PLACE_LIMIT 256

// ---- errors ----

static size_t place_write(char *text, size_t capacity, const struct schema_place *place) {
    if (place == NULL) {
        return 0;
    }
    size_t used = place_write(text, capacity, place->above);
    int more = place->key != NULL ? snprintf(text + used, capacity - used, "/%s", place->key)
                                  : snprintf(text + used, capacity - used, "/%zu", place->index);
    used += more < 0 ? 0 : (size_t)more;
    return used < capacity ? used : capacity - 1;
}

int schema_fail(struct schema_scope *scope, const struct schema_place *place, const char *format, ...) {
    char pointer[PLACE_LIMIT] = "", message[256];
    va_list arguments;
    if (scope->compiler->out_of_memory) {
        return error_set(scope->compiler->error, ERROR_MEMORY, "schema: out of memory");
    }
    place_write(pointer, sizeof pointer, place);
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return error_set(scope->compiler->error, ERROR_ARGUMENT, "%s%s: %s", scope->task->place, pointer, message);
}

// ---- rules ----

int schema_named_rule(int32_t *rule, bool *is_new, struct schema_compiler *compiler, const char *key) {
    const json_t *known = json_object_get(compiler->rules, key);
    *is_new = known == NULL;
    if (known != NULL) {
        *rule = (int32_t)json_integer_value(known);
        return 0;
    }
    int code = automaton_add_rule(rule, compiler->automaton, compiler->error);
    if (code == 0 && json_object_set_new(compiler->rules, key, json_integer(*rule)) != 0) {
        code = error_set(compiler->error, ERROR_MEMORY, "schema: out of memory");
    }
    return code;
}

static int task_add(struct schema_compiler *compiler, struct schema_task task) {
    if (compiler->task_count == compiler->task_capacity) {
        int32_t capacity = compiler->task_capacity * 2 + 32;
        struct schema_task *tasks = memory_resize(compiler->tasks, (size_t)capacity, sizeof *tasks, "schema",
                                                  compiler->error);
        if (tasks == NULL) {
            return ERROR_MEMORY;
        }
        compiler->tasks = tasks;
        compiler->task_capacity = capacity;
    }
    task.place = memory_copy_string(task.place, compiler->error);
    if (task.place == NULL) {
        return ERROR_MEMORY;
    }
    compiler->tasks[compiler->task_count++] = task;
    return 0;
}

static int rule_of(int32_t *rule, struct schema_compiler *compiler, const json_t *schema, const json_t *root,
                   char *place) {
    char key[40];
    bool is_new;
    snprintf(key, sizeof key, "schema %p", (const void *)schema);
    int code = schema_named_rule(rule, &is_new, compiler, key);
    if (code == 0 && is_new) {
        code = task_add(compiler, (struct schema_task){*rule, schema, root, place});
    }
    return code;
}

static int check_size(struct schema_compiler *compiler, const json_t *value, int depth, int64_t *nodes) {
    const char *key;
    const json_t *item;
    size_t index;
    if (depth > SCHEMA_DEPTH || ++*nodes > SCHEMA_NODES) {
        return error_set(compiler->error, ERROR_LIMIT, "#: the schema is too large: at most %d values, nested %d deep",
                         SCHEMA_NODES, SCHEMA_DEPTH);
    }
    int code = 0;
    json_object_foreach((json_t *)(uintptr_t)value, key, item) {
        code = code == 0 ? check_size(compiler, item, depth + 1, nodes) : code;
    }
    json_array_foreach(value, index, item) {
        code = code == 0 ? check_size(compiler, item, depth + 1, nodes) : code;
    }
    return code;
}

int schema_rule(int32_t *rule, struct schema_compiler *compiler, const json_t *schema) {
    static char root[] = "#";
    int64_t nodes = 0;
    int code = check_size(compiler, schema, 0, &nodes);
    return code == 0 ? rule_of(rule, compiler, schema, schema, root) : code;
}

// Rows of JSON strings, numbered as enum string_state.
static int string_rows(struct schema_compiler *compiler) {
    int code = 0;
    for (int state = 0; state < STRING_STATES && code == 0; state++) {
        int32_t row;
        code = automaton_add_row(&row, compiler->automaton, state == STRING_END, compiler->error);
        for (int low = 0, high; low < 256 && code == 0; low = high) {
            int next = string_next(state, (uint8_t)low);
            for (high = low + 1; high < 256 && string_next(state, (uint8_t)high) == next; high++) {
            }
            if (next >= 0) {
                code = automaton_add_edge(compiler->automaton, (uint8_t)low, (uint8_t)(high - 1), next,
                                          compiler->error);
            }
        }
    }
    return code;
}

// From `from`, one to `limit` blanks or tabs.
static void add_blanks(struct nfa *nfa, int32_t from, int limit) {
    for (int i = 0; i < limit; i++) {
        int32_t next = nfa_state(nfa);
        nfa_bytes(nfa, from, next, ' ', ' ');
        nfa_bytes(nfa, from, next, '\t', '\t');
        nfa_empty(nfa, next, 1);
        from = next;
    }
}

// White space that is not empty: some blanks, or line breaks and an indentation.
static int blank_row(int32_t *row, struct schema_compiler *compiler) {
    struct nfa nfa;
    nfa_init(&nfa, compiler->error);
    add_blanks(&nfa, 0, SPACES_LIMIT);
    for (int32_t i = 0, from = 0; i < BREAKS_LIMIT; i++) {
        int32_t next = nfa_state(&nfa), first = nfa_state(&nfa);
        nfa_bytes(&nfa, from, next, '\n', '\n');
        nfa_empty(&nfa, next, 1);
        nfa_empty(&nfa, next, first);
        add_blanks(&nfa, first, INDENT_LIMIT);
        from = next;
    }
    int code = automaton_from_nfa(row, compiler->automaton, &nfa);
    nfa_destroy(&nfa);
    return code;
}

int schema_compiler_init(struct schema_compiler *compiler, struct automaton *automaton, struct error *error) {
    *compiler = (struct schema_compiler){.automaton = automaton, .error = error};
    compiler->rules = json_object();
    compiler->made = json_array();
    json_t *any = json_true();
    bool is_new;
    int32_t row;
    int code = compiler->rules == NULL || compiler->made == NULL
                   ? error_set(error, ERROR_MEMORY, "schema: out of memory")
                   : 0;
    if (code == 0 && (code = string_rows(compiler)) == 0 &&
        (code = schema_named_rule(&compiler->string_rule, &is_new, compiler, "string")) == 0) {
        automaton->rules[compiler->string_rule] = STRING_START;
        code = schema_named_rule(&compiler->blank_rule, &is_new, compiler, "blank");
    }
    if (code == 0 && (code = blank_row(&row, compiler)) == 0) {
        automaton->rules[compiler->blank_rule] = row;
        code = schema_rule(&compiler->any_rule, compiler, any);
    }
    return code;
}

void schema_compiler_destroy(struct schema_compiler *compiler) {
    for (int32_t i = 0; i < compiler->task_count; i++) {
        memory_free(compiler->tasks[i].place);
    }
    memory_free(compiler->tasks);
    json_decref(compiler->rules);
    json_decref(compiler->made);
    *compiler = (struct schema_compiler){0};
}

int schema_keep(struct schema_compiler *compiler, json_t *made) {
    if (made == NULL || json_array_append_new(compiler->made, made) != 0) {
        return error_set(compiler->error, ERROR_MEMORY, "schema: out of memory");
    }
    return 0;
}

json_t *schema_new(struct schema_compiler *compiler, json_t *made) {
    compiler->out_of_memory = compiler->out_of_memory || made == NULL;
    return made;
}

void schema_set(struct schema_compiler *compiler, json_t *object, const char *key, json_t *made) {
    bool failed = made == NULL || json_object_set_new(object, key, made) != 0;
    compiler->out_of_memory = compiler->out_of_memory || failed;
}

int schema_compile(struct schema_compiler *compiler) {
    int code = 0;
    while (code == 0 && compiler->task_done < compiler->task_count) {
        struct schema_task task = compiler->tasks[compiler->task_done++];
        struct nfa nfa;
        struct schema_scope scope = {compiler, &task, &nfa};
        int32_t row;
        nfa_init(&nfa, compiler->error);
        code = schema_add(&scope, 0, 1, task.schema, NULL, task.rule == compiler->any_rule ? -1 : 0);
        if (code == 0 && compiler->out_of_memory) {
            code = error_set(compiler->error, ERROR_MEMORY, "schema: out of memory");
        }
        if (code == 0 && (code = automaton_from_nfa(&row, compiler->automaton, &nfa)) == 0) {
            compiler->automaton->rules[task.rule] = row;
        }
        if (code == ERROR_LIMIT) {
            error_prefix(compiler->error, "%s", task.place);
        }
        nfa_destroy(&nfa);
    }
    return code;
}

// ---- keywords ----

static const struct {
    const char *name;
    unsigned types;   // 0: of all types
    bool annotation;
} keywords[] = {
    {"type", 0, false},
    {"properties", SCHEMA_OBJECT, false},
    {"required", SCHEMA_OBJECT, false},
    {"additionalProperties", SCHEMA_OBJECT, false},
    {"minProperties", SCHEMA_OBJECT, false},
    {"items", SCHEMA_ARRAY, false},
    {"prefixItems", SCHEMA_ARRAY, false},
    {"minItems", SCHEMA_ARRAY, false},
    {"maxItems", SCHEMA_ARRAY, false},
    {"uniqueItems", SCHEMA_ARRAY, false},
    {"minLength", SCHEMA_STRING, false},
    {"maxLength", SCHEMA_STRING, false},
    {"pattern", SCHEMA_STRING, false},
    {"format", SCHEMA_STRING, false},
    {"minimum", SCHEMA_NUMBER, false},
    {"maximum", SCHEMA_NUMBER, false},
    {"exclusiveMinimum", SCHEMA_NUMBER, false},
    {"exclusiveMaximum", SCHEMA_NUMBER, false},
    {"multipleOf", SCHEMA_NUMBER, false},
    {"enum", 0, false},
    {"const", 0, false},
    {"anyOf", 0, false},
    {"oneOf", 0, false},
    {"allOf", 0, false},
    {"$ref", 0, false},
    {"nullable", 0, false},
    {"title", 0, true},
    {"description", 0, true},
    {"default", 0, true},
    {"examples", 0, true},
    {"example", 0, true},
    {"deprecated", 0, true},
    {"readOnly", 0, true},
    {"writeOnly", 0, true},
    {"$schema", 0, true},
    {"$id", 0, true},
    {"$comment", 0, true},
    {"$defs", 0, true},
    {"definitions", 0, true},
};
#define KEYWORDS (sizeof keywords / sizeof keywords[0])

static size_t keyword_find(const char *name) {
    size_t i = 0;
    while (i < KEYWORDS && strcmp(keywords[i].name, name) != 0) {
        i++;
    }
    return i;
}

bool schema_is_annotation(const char *keyword) {
    size_t i = keyword_find(keyword);
    return i < KEYWORDS && keywords[i].annotation;
}

static unsigned type_from_name(const json_t *name) {
    static const char *const names[] = {"null", "boolean", "object", "array", "string", "number", "integer"};
    for (unsigned i = 0; i < 7 && json_is_string(name); i++) {
        if (strcmp(json_string_value(name), names[i]) == 0) {
            return 1u << i;
        }
    }
    return 0;
}

static int read_types(unsigned *types, struct schema_scope *scope, const json_t *value,
                      const struct schema_place *place) {
    size_t index;
    const json_t *item;
    *types = type_from_name(value);
    bool valid = *types != 0;
    if (json_is_array(value)) {
        valid = json_array_size(value) > 0;
        json_array_foreach(value, index, item) {
            unsigned type = type_from_name(item);
            valid = valid && type != 0;
            *types |= type;
        }
    }
    return valid ? 0
                 : schema_fail(scope, place,
                               "keyword \"type\": expected null, boolean, object, array, string, number, "
                               "integer or a list of these");
}

int schema_check_keywords(unsigned *types, struct schema_scope *scope, const json_t *schema,
                          const struct schema_place *place) {
    const char *key;
    const json_t *value;
    unsigned implied = 0;
    bool typed = false;
    *types = SCHEMA_ALL;
    json_object_foreach((json_t *)(uintptr_t)schema, key, value) {
        size_t i = keyword_find(key);
        if (i == KEYWORDS) {
            return schema_fail(scope, place, "keyword \"%.60s\" is not supported", key);
        }
        if ((strcmp(key, "uniqueItems") == 0 && !json_is_false(value)) ||
            (strcmp(key, "minProperties") == 0 && !(json_is_integer(value) && json_integer_value(value) == 0))) {
            return schema_fail(scope, place, "keyword \"%s\" is not supported", key);
        }
        if (strcmp(key, "nullable") == 0 && !json_is_boolean(value)) {
            return schema_fail(scope, place, "keyword \"nullable\": expected true or false");
        }
        implied |= keywords[i].types;
        if (strcmp(key, "type") == 0) {
            int code = read_types(types, scope, value, place);
            if (code != 0) {
                return code;
            }
            typed = true;
        }
    }
    if (!typed && implied != 0) {
        *types = implied;   // {"properties": ...} without a type means objects
    }
    return 0;
}

int schema_count(int64_t *count, int64_t fallback, struct schema_scope *scope, const json_t *schema,
                 const char *keyword, const struct schema_place *place) {
    const json_t *value = json_object_get(schema, keyword);
    *count = fallback;
    if (value == NULL) {
        return 0;
    }
    double number = json_number_value(value);
    if (!json_is_number(value) || number < 0 || number != (double)(int64_t)number) {
        return schema_fail(scope, place, "keyword \"%s\": expected a non-negative integer", keyword);
    }
    *count = number < 1e9 ? (int64_t)number : 1000000000;
    return 0;
}

// ---- values ----

void schema_add_blank(struct schema_scope *scope, int32_t from, int32_t to) {
    nfa_empty(scope->nfa, from, to);
    nfa_call(scope->nfa, from, to, scope->compiler->blank_rule, 0, NO_MAXIMUM);
}

static unsigned type_of_value(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return SCHEMA_OBJECT;
    case JSON_ARRAY:
        return SCHEMA_ARRAY;
    case JSON_STRING:
        return SCHEMA_STRING;
    case JSON_INTEGER:
        return SCHEMA_INTEGER | SCHEMA_NUMBER;
    case JSON_REAL:
        return SCHEMA_NUMBER;
    case JSON_NULL:
        return SCHEMA_NULL;
    default:
        return SCHEMA_BOOLEAN;
    }
}

// enum and const: the values of a type that is allowed.
static int add_listed(struct schema_scope *scope, int32_t from, int32_t to, const json_t *schema, unsigned types,
                      const struct schema_place *place) {
    static const char *const beside[] = {"enum", "const", "type", "nullable"};
    const json_t *list = json_object_get(schema, "enum"), *constant = json_object_get(schema, "const"), *value;
    const char *key;
    size_t index;
    json_object_foreach((json_t *)(uintptr_t)schema, key, value) {
        bool known = schema_is_annotation(key);
        for (size_t i = 0; i < 4 && !known; i++) {
            known = strcmp(key, beside[i]) == 0;
        }
        if (!known) {
            return schema_fail(scope, place, "keyword \"%s\" beside \"enum\" or \"const\" is not supported", key);
        }
    }
    if (list != NULL && !json_is_array(list)) {
        return schema_fail(scope, place, "keyword \"enum\": expected an array");
    }
    if (list == NULL) {
        schema_add_constant(scope, from, to, constant);
    }
    json_array_foreach(list, index, value) {
        if ((type_of_value(value) & types) != 0 && (constant == NULL || json_equal(constant, value))) {
            schema_add_constant(scope, from, to, value);
        }
    }
    return scope->nfa->code;
}

static int add_types(struct schema_scope *scope, int32_t from, int32_t to, const json_t *schema, unsigned types,
                     const struct schema_place *place) {
    int code = 0;
    if (types & SCHEMA_NULL) {
        nfa_text(scope->nfa, from, to, "null", 4);
    }
    if (types & SCHEMA_BOOLEAN) {
        nfa_text(scope->nfa, from, to, "true", 4);
        nfa_text(scope->nfa, from, to, "false", 5);
    }
    if (types & (SCHEMA_NUMBER | SCHEMA_INTEGER)) {
        code = schema_add_number(scope, from, to, schema, (types & SCHEMA_NUMBER) == 0, place);
    }
    if (code == 0 && types & SCHEMA_STRING) {
        code = schema_add_string(scope, from, to, schema, place);
    }
    if (code == 0 && types & SCHEMA_ARRAY) {
        code = schema_add_array(scope, from, to, schema, place);
    }
    if (code == 0 && types & SCHEMA_OBJECT) {
        code = schema_add_object(scope, from, to, schema, place);
    }
    return code == 0 ? scope->nfa->code : code;
}

// anyOf and oneOf: each alternative, together with what stands beside them.
static int add_alternatives(struct schema_scope *scope, int32_t from, int32_t to, const json_t *schema,
                            const char *keyword, const struct schema_place *place, int depth) {
    const json_t *list = json_object_get(schema, keyword), *alternative, *value;
    json_t *beside = json_object();
    const char *key;
    size_t index, count = 0;
    int code = schema_keep(scope->compiler, beside);
    if (code != 0) {
        return code;
    }
    if (!json_is_array(list) || json_array_size(list) == 0) {
        return schema_fail(scope, place, "keyword \"%s\": expected an array of schemas", keyword);
    }
    json_object_foreach((json_t *)(uintptr_t)schema, key, value) {
        if (strcmp(key, keyword) != 0 && strcmp(key, "nullable") != 0 && !schema_is_annotation(key)) {
            schema_set(scope->compiler, beside, key, json_incref((json_t *)(uintptr_t)value));
            count++;
        }
    }
    json_array_foreach(list, index, alternative) {
        struct schema_place above = {place, keyword, 0}, here = {&above, NULL, index};
        const json_t *both = alternative;
        if (count > 0 && (code = schema_flatten(&both, scope, alternative, &here, depth + 1)) == 0) {
            code = schema_merge(&both, scope, beside, both, &here);
        }
        if (code == 0) {
            code = schema_add(scope, from, to, both, &here, depth + 1);
        }
        if (code != 0) {
            return code;
        }
    }
    return 0;
}

int schema_add(struct schema_scope *scope, int32_t from, int32_t to, const json_t *schema,
               const struct schema_place *place, int depth) {
    unsigned types;
    if (++scope->compiler->work > SCHEMA_WORK || depth > SCHEMA_INLINE_DEPTH) {
        return schema_fail(scope, NULL, "the schema refers to itself without a value in between, or is too complex");
    }
    if (json_is_false(schema)) {
        return 0;
    }
    if (depth < 0) {   // the rule of any value itself
        return add_types(scope, from, to, NULL, SCHEMA_ALL, place);
    }
    if (json_is_true(schema)) {
        nfa_call(scope->nfa, from, to, scope->compiler->any_rule, 0, NO_MAXIMUM);
        return scope->nfa->code;
    }
    if (!json_is_object(schema)) {
        return schema_fail(scope, place, "expected a schema: an object, true or false");
    }
    int code = schema_check_keywords(&types, scope, schema, place);
    if (code == 0 && (json_object_get(schema, "$ref") != NULL || json_object_get(schema, "allOf") != NULL)) {
        const json_t *merged;
        code = schema_flatten(&merged, scope, schema, place, depth + 1);
        return code == 0 ? schema_add(scope, from, to, merged, place, depth + 1) : code;
    }
    if (code != 0) {
        return code;
    }
    if (json_is_true(json_object_get(schema, "nullable"))) {
        nfa_text(scope->nfa, from, to, "null", 4);
    }
    if (json_object_get(schema, "anyOf") != NULL || json_object_get(schema, "oneOf") != NULL) {
        const char *keyword = json_object_get(schema, "anyOf") != NULL ? "anyOf" : "oneOf";
        return add_alternatives(scope, from, to, schema, keyword, place, depth);
    }
    if (json_object_get(schema, "enum") != NULL || json_object_get(schema, "const") != NULL) {
        return add_listed(scope, from, to, schema, types, place);
    }
    return add_types(scope, from, to, schema, types, place);
}

// Null, boolean, number, string and lists of values are built where they stand.
static bool is_simple(const json_t *schema) {
    static const char *const complex[] = {"$ref", "anyOf", "oneOf", "allOf", "properties", "items", "prefixItems"};
    if (!json_is_object(schema)) {
        return true;
    }
    for (size_t i = 0; i < sizeof complex / sizeof complex[0]; i++) {
        if (json_object_get(schema, complex[i]) != NULL) {
            return false;
        }
    }
    unsigned type = type_from_name(json_object_get(schema, "type"));
    return json_object_get(schema, "enum") != NULL || json_object_get(schema, "const") != NULL ||
           (type != 0 && (type & (SCHEMA_OBJECT | SCHEMA_ARRAY)) == 0);
}

int schema_add_value(struct schema_scope *scope, int32_t from, int32_t to, const json_t *schema,
                     const struct schema_place *place) {
    if (schema == NULL) {
        nfa_call(scope->nfa, from, to, scope->compiler->any_rule, 0, NO_MAXIMUM);
        return scope->nfa->code;
    }
    if (is_simple(schema)) {
        return schema_add(scope, from, to, schema, place, 0);
    }
    char text[PLACE_LIMIT];
    int32_t rule;
    size_t used = (size_t)snprintf(text, sizeof text, "%s", scope->task->place);
    used = used < sizeof text ? used : sizeof text - 1;
    place_write(text + used, sizeof text - used, place);
    int code = rule_of(&rule, scope->compiler, schema, scope->task->root, text);
    if (code == 0) {
        nfa_call(scope->nfa, from, to, rule, 0, NO_MAXIMUM);
        code = scope->nfa->code;
    }
    return code;
}
