// $ref, and schemas that hold at the same time (allOf, what stands beside $ref and anyOf): merged keyword by keyword.
// What cannot be merged is an error.
#include <stdlib.h>
#include <string.h>

#include "serve/json_schema.h"

// ---- $ref ----

static int hex_digit(char digit) {
    char lower = (char)(digit | 0x20);
    return digit >= '0' && digit <= '9' ? digit - '0' : lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// The next part of a JSON pointer in a URI: up to '/', with %XX, ~0 and ~1 undone. false = too long or malformed.
static bool pointer_part(char *part, size_t capacity, const char **at) {
    size_t size = 0;
    for (; **at != 0 && **at != '/'; (*at)++) {
        char byte = **at;
        if (byte == '%') {
            int high = hex_digit((*at)[1]), low = high < 0 ? -1 : hex_digit((*at)[2]);
            if (low < 0) {
                return false;
            }
            byte = (char)(high * 16 + low);
            *at += 2;
        } else if (byte == '~') {
            byte = (*at)[1] == '0' ? '~' : '/';
            if ((*at)[1] != '0' && (*at)[1] != '1') {
                return false;
            }
            (*at)++;
        }
        if (size + 1 >= capacity) {
            return false;
        }
        part[size++] = byte;
    }
    part[size] = 0;
    return true;
}

int schema_resolve(const json_t **target, struct schema_scope *scope, const char *reference,
                   const struct schema_place *place) {
    char part[256];
    const char *at = reference + 1;
    const json_t *value = scope->task->root;
    if (reference[0] != '#' || (reference[1] != 0 && reference[1] != '/')) {
        return schema_fail(scope, place, "keyword \"$ref\": found \"%.100s\", expected \"#\" or \"#/...\"", reference);
    }
    while (value != NULL && *at == '/') {
        at++;
        if (!pointer_part(part, sizeof part, &at)) {
            value = NULL;
        } else if (json_is_array(value)) {
            char *end;
            unsigned long index = strtoul(part, &end, 10);
            value = *part == 0 || *end != 0 ? NULL : json_array_get(value, index);
        } else {
            value = json_object_get(value, part);
        }
    }
    *target = value;
    return value != NULL ? 0 : schema_fail(scope, place, "keyword \"$ref\": nothing is at \"%.100s\"", reference);
}

int schema_flatten(const json_t **merged, struct schema_scope *scope, const json_t *schema,
                   const struct schema_place *place, int depth) {
    const json_t *reference = json_object_get(schema, "$ref"), *all = json_object_get(schema, "allOf"), *part;
    size_t index;
    unsigned types;
    *merged = schema;
    if (++scope->compiler->work > SCHEMA_WORK || depth > SCHEMA_INLINE_DEPTH) {
        return schema_fail(scope, NULL, "the schema refers to itself without a value in between, or is too complex");
    }
    if (!json_is_object(schema)) {
        return json_is_boolean(schema) ? 0 : schema_fail(scope, place, "expected a schema: an object, true or false");
    }
    int code = schema_check_keywords(&types, scope, schema, place);
    if (code != 0 || (reference == NULL && all == NULL)) {
        return code;
    }
    json_t *rest = json_copy((json_t *)(uintptr_t)schema);
    if ((code = schema_keep(scope->compiler, rest)) != 0) {
        return code;
    }
    json_object_del(rest, "$ref");
    json_object_del(rest, "allOf");
    *merged = rest;
    if (reference != NULL) {
        struct schema_place here = {place, "$ref", 0};
        const json_t *target;
        if (!json_is_string(reference)) {
            return schema_fail(scope, place, "keyword \"$ref\": expected a string");
        }
        if ((code = schema_resolve(&target, scope, json_string_value(reference), place)) != 0 ||
            (code = schema_flatten(&target, scope, target, &here, depth + 1)) != 0 ||
            (code = schema_merge(merged, scope, target, *merged, &here)) != 0) {
            return code;
        }
    }
    if (all != NULL && (!json_is_array(all) || json_array_size(all) == 0)) {
        return schema_fail(scope, place, "keyword \"allOf\": expected an array of schemas");
    }
    json_array_foreach(all, index, part) {
        struct schema_place above = {place, "allOf", 0}, here = {&above, NULL, index};
        const json_t *flat;
        if ((code = schema_flatten(&flat, scope, part, &here, depth + 1)) != 0 ||
            (code = schema_merge(merged, scope, *merged, flat, &here)) != 0) {
            return code;
        }
    }
    return 0;
}

// ---- merging ----

static json_t *borrow(const json_t *value) {
    return json_incref((json_t *)(uintptr_t)value);
}

static json_t *both_schemas(struct schema_compiler *compiler, const json_t *a, const json_t *b) {
    if (json_equal(a, b) || json_is_true(b) || json_is_false(a)) {
        return borrow(a);
    }
    if (json_is_true(a) || json_is_false(b)) {
        return borrow(b);
    }
    return schema_new(compiler, json_pack("{s:[O,O]}", "allOf", a, b));
}

static json_t *merge_properties(struct schema_compiler *compiler, const json_t *a, const json_t *b) {
    json_t *result = schema_new(compiler, json_copy((json_t *)(uintptr_t)a));
    const char *name;
    const json_t *value;
    json_object_foreach((json_t *)(uintptr_t)b, name, value) {
        const json_t *known = json_object_get(result, name);
        schema_set(compiler, result, name, known != NULL ? both_schemas(compiler, known, value) : borrow(value));
    }
    return result;
}

static void append(struct schema_compiler *compiler, json_t *array, json_t *made) {
    bool failed = json_array_append_new(array, made) != 0;
    compiler->out_of_memory = compiler->out_of_memory || failed;
}

static bool list_has(const json_t *list, const json_t *value) {
    size_t index;
    const json_t *item;
    if (!json_is_array(list)) {
        return json_equal(list, value);
    }
    json_array_foreach(list, index, item) {
        if (json_equal(item, value)) {
            return true;
        }
    }
    return false;
}

static json_t *merge_required(struct schema_compiler *compiler, const json_t *a, const json_t *b) {
    json_t *result = schema_new(compiler, json_copy((json_t *)(uintptr_t)a));
    size_t index;
    const json_t *item;
    json_array_foreach(b, index, item) {
        if (!list_has(a, item)) {
            append(compiler, result, borrow(item));
        }
    }
    return result;
}

static json_t *as_list(const json_t *value) {
    return json_is_array(value) ? json_copy((json_t *)(uintptr_t)value) : json_pack("[O]", value);
}

// What both lists have: values of enum; types, where integers are numbers.
static json_t *merge_lists(struct schema_compiler *compiler, const json_t *a, const json_t *b, bool types) {
    json_t *left = schema_new(compiler, as_list(a)), *right = schema_new(compiler, as_list(b)), *item;
    json_t *integer = schema_new(compiler, json_string("integer"));
    json_t *number = schema_new(compiler, json_string("number")), *result = schema_new(compiler, json_array());
    size_t index;
    json_array_foreach(left, index, item) {
        if (list_has(right, item) || (types && json_equal(item, integer) && list_has(right, number))) {
            append(compiler, result, borrow(item));
        } else if (types && json_equal(item, number) && list_has(right, integer)) {
            append(compiler, result, borrow(integer));
        }
    }
    json_decref(integer);
    json_decref(number);
    json_decref(left);
    json_decref(right);
    return result;
}

static json_t *merge_bounds(const json_t *a, const json_t *b, bool larger) {
    if (!json_is_number(a) || !json_is_number(b)) {
        return NULL;
    }
    return borrow((json_number_value(a) > json_number_value(b)) == larger ? a : b);
}

// One keyword that both schemas have with different values; NULL = cannot be merged.
static json_t *merge_keyword(struct schema_compiler *compiler, const char *keyword, const json_t *a, const json_t *b) {
    static const char *const lower[] = {"minimum", "exclusiveMinimum", "minLength", "minItems"};
    static const char *const upper[] = {"maximum", "exclusiveMaximum", "maxLength", "maxItems"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(keyword, lower[i]) == 0 || strcmp(keyword, upper[i]) == 0) {
            return merge_bounds(a, b, strcmp(keyword, lower[i]) == 0);
        }
    }
    if (strcmp(keyword, "properties") == 0) {
        return json_is_object(a) && json_is_object(b) ? merge_properties(compiler, a, b) : NULL;
    }
    if (strcmp(keyword, "required") == 0) {
        return json_is_array(a) && json_is_array(b) ? merge_required(compiler, a, b) : NULL;
    }
    if (strcmp(keyword, "enum") == 0) {
        return json_is_array(a) && json_is_array(b) ? merge_lists(compiler, a, b, false) : NULL;
    }
    if (strcmp(keyword, "nullable") == 0) {
        return json_boolean(json_is_true(a) && json_is_true(b));
    }
    if (strcmp(keyword, "items") == 0 || strcmp(keyword, "additionalProperties") == 0) {
        return both_schemas(compiler, a, b);
    }
    return NULL;
}

// Properties that one schema names and the other restricts as additional ones would need a merge of their own.
static bool additional_clash(const json_t *a, const json_t *b) {
    const json_t *additional = json_object_get(a, "additionalProperties"), *value;
    const char *name;
    if (additional == NULL || json_is_true(additional)) {
        return false;
    }
    json_object_foreach(json_object_get(b, "properties"), name, value) {
        if (json_object_get(json_object_get(a, "properties"), name) == NULL) {
            return true;
        }
    }
    return false;
}

static bool is_empty_list(const json_t *value) {
    return json_is_array(value) && json_array_size(value) == 0;
}

int schema_merge(const json_t **merged, struct schema_scope *scope, const json_t *a, const json_t *b,
                 const struct schema_place *place) {
    const char *key;
    const json_t *value;
    if (json_is_boolean(a) || json_is_boolean(b)) {
        *merged = json_is_false(a) || json_is_true(b) ? a : b;
        return 0;
    }
    if (additional_clash(a, b) || additional_clash(b, a)) {
        return schema_fail(scope, place,
                           "keyword \"additionalProperties\": cannot be combined with other properties "
                           "than its own");
    }
    json_t *result = json_copy((json_t *)(uintptr_t)a);
    int code = schema_keep(scope->compiler, result);
    size_t properties = json_object_size(json_object_get(a, "properties")) +
                        json_object_size(json_object_get(b, "properties"));
    scope->compiler->work += (int64_t)(properties / 16);   // copied below
    json_object_foreach((json_t *)(uintptr_t)b, key, value) {
        const json_t *known = json_object_get(a, key);
        if (code != 0) {
            break;
        }
        if (known == NULL) {
            schema_set(scope->compiler, result, key, borrow(value));
        } else if (!schema_is_annotation(key) && !json_equal(known, value)) {
            bool types = strcmp(key, "type") == 0;
            json_t *both = types ? merge_lists(scope->compiler, known, value, true)
                                 : merge_keyword(scope->compiler, key, known, value);
            if (both == NULL) {
                return schema_fail(scope, place, "keyword \"%s\" cannot be combined with another one", key);
            }
            if (types && is_empty_list(both)) {
                json_decref(both);
                *merged = json_false();
                return 0;
            }
            schema_set(scope->compiler, result, key, both);
        }
    }
    *merged = result;
    return code;
}
