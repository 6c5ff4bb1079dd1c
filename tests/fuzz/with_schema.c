// See with_schema.h. One function a group of keywords.
#include "fuzz/with_schema.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "serve/text.h"

#define DEPTH_LIMIT 200

static bool is_equal(const json_t *a, const json_t *b) {
    if (json_is_number(a) && json_is_number(b)) {
        return json_is_integer(a) && json_is_integer(b) ? json_integer_value(a) == json_integer_value(b)
                                                        : json_number_value(a) == json_number_value(b);
    }
    if (json_typeof(a) != json_typeof(b)) {
        return false;
    }
    const char *key;
    json_t *member;
    bool equal = true;
    if (json_is_array(a)) {
        equal = json_array_size(a) == json_array_size(b);
        for (size_t i = 0; equal && i < json_array_size(a); i++) {
            equal = is_equal(json_array_get(a, i), json_array_get(b, i));
        }
        return equal;
    }
    if (!json_is_object(a)) {
        return json_equal(a, b);
    }
    equal = json_object_size(a) == json_object_size(b);
    json_object_foreach((json_t *)(uintptr_t)a, key, member) {
        const json_t *other = json_object_get(b, key);
        equal = equal && other != NULL && is_equal(member, other);
    }
    return equal;
}

static bool has_type(const char *type, const json_t *value) {
    if (strcmp(type, "number") == 0) {
        return json_is_number(value);
    }
    if (strcmp(type, "integer") == 0) {
        return json_is_integer(value) ||
               (json_is_real(value) && floor(json_real_value(value)) == json_real_value(value));
    }
    return (strcmp(type, "null") == 0 && json_is_null(value)) ||
           (strcmp(type, "boolean") == 0 && json_is_boolean(value)) ||
           (strcmp(type, "object") == 0 && json_is_object(value)) ||
           (strcmp(type, "array") == 0 && json_is_array(value)) ||
           (strcmp(type, "string") == 0 && json_is_string(value));
}

static bool check_type(const json_t *schema, const json_t *value) {
    const json_t *type = json_object_get(schema, "type");
    if (json_is_string(type)) {
        return has_type(json_string_value(type), value);
    }
    bool any = !json_is_array(type);
    for (size_t i = 0; i < json_array_size(type); i++) {
        const char *name = json_string_value(json_array_get(type, i));
        any = any || name == NULL || has_type(name, value);
    }
    return any;
}

static bool check_constants(const json_t *schema, const json_t *value) {
    const json_t *constant = json_object_get(schema, "const"), *list = json_object_get(schema, "enum");
    bool any = !json_is_array(list);
    for (size_t i = 0; i < json_array_size(list); i++) {
        any = any || is_equal(json_array_get(list, i), value);
    }
    return any && (constant == NULL || is_equal(constant, value));
}

// The keyword's number compared with the value: -1, 0, 1; `missing` if there is no such keyword.
static int compare(const json_t *schema, const char *keyword, const json_t *value, int missing) {
    const json_t *bound = json_object_get(schema, keyword);
    if (!json_is_number(bound)) {
        return missing;
    }
    if (json_is_integer(bound) && json_is_integer(value)) {
        json_int_t a = json_integer_value(value), b = json_integer_value(bound);
        return (a > b) - (a < b);
    }
    double a = json_number_value(value), b = json_number_value(bound);
    return (a > b) - (a < b);
}

static bool check_number(const json_t *schema, const json_t *value) {
    const json_t *step = json_object_get(schema, "multipleOf");
    if (!json_is_number(value)) {
        return true;
    }
    bool multiple = true;
    if (json_is_integer(step) && json_is_integer(value) && json_integer_value(step) != 0) {
        multiple = json_integer_value(value) % json_integer_value(step) == 0;
    } else if (json_is_number(step) && json_number_value(step) > 0) {
        double quotient = json_number_value(value) / json_number_value(step);
        multiple = fabs(quotient - nearbyint(quotient)) <= 1e-9 * fabs(quotient) + 1e-9;
    }
    return multiple && compare(schema, "minimum", value, 1) >= 0 && compare(schema, "maximum", value, -1) <= 0 &&
           compare(schema, "exclusiveMinimum", value, 1) > 0 && compare(schema, "exclusiveMaximum", value, -1) < 0;
}

// A count between two keywords.
static bool is_within(const json_t *schema, const char *least, const char *most, size_t count) {
    const json_t *low = json_object_get(schema, least), *high = json_object_get(schema, most);
    return (!json_is_integer(low) || (json_int_t)count >= json_integer_value(low)) &&
           (!json_is_integer(high) || (json_int_t)count <= json_integer_value(high));
}

static bool check_object(const json_t *schema, const json_t *root, const json_t *value, int depth) {
    const json_t *properties = json_object_get(schema, "properties"), *required = json_object_get(schema, "required");
    const json_t *others = json_object_get(schema, "additionalProperties");
    const char *key;
    json_t *member;
    if (!json_is_object(value)) {
        return true;
    }
    for (size_t i = 0; i < json_array_size(required); i++) {
        const char *name = json_string_value(json_array_get(required, i));
        if (name != NULL && json_object_get(value, name) == NULL) {
            return false;
        }
    }
    json_object_foreach((json_t *)(uintptr_t)value, key, member) {
        const json_t *wanted = json_object_get(properties, key);
        wanted = wanted != NULL ? wanted : others;
        if (wanted != NULL && !schema_accepts(wanted, root, member, depth)) {
            return false;
        }
    }
    return true;
}

static bool check_array(const json_t *schema, const json_t *root, const json_t *value, int depth) {
    const json_t *first = json_object_get(schema, "prefixItems"), *others = json_object_get(schema, "items");
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *wanted = i < json_array_size(first) ? json_array_get(first, i) : others;
        if (wanted != NULL && !schema_accepts(wanted, root, json_array_get(value, i), depth)) {
            return false;
        }
    }
    return !json_is_array(value) || is_within(schema, "minItems", "maxItems", json_array_size(value));
}

static bool check_alternatives(const json_t *schema, const json_t *root, const json_t *value, int depth) {
    static const char *const keywords[] = {"anyOf", "oneOf"};
    const json_t *all = json_object_get(schema, "allOf");
    for (int k = 0; k < 2; k++) {
        const json_t *list = json_object_get(schema, keywords[k]);
        bool any = !json_is_array(list);
        for (size_t i = 0; i < json_array_size(list) && !any; i++) {
            any = schema_accepts(json_array_get(list, i), root, value, depth);
        }
        if (!any) {
            return false;
        }
    }
    for (size_t i = 0; i < json_array_size(all); i++) {
        if (!schema_accepts(json_array_get(all, i), root, value, depth)) {
            return false;
        }
    }
    return true;
}

// What "#/a/b~1c" names; NULL = nothing, or a form that is not read here.
static const json_t *resolve(const json_t *root, const char *reference) {
    const json_t *at = root;
    if (*reference++ != '#' || strchr(reference, '%') != NULL) {
        return NULL;
    }
    while (at != NULL && *reference == '/') {
        char name[256];
        size_t size = 0;
        for (reference++; *reference != '\0' && *reference != '/' && size + 1 < sizeof name; reference++) {
            bool escaped = *reference == '~' && (reference[1] == '0' || reference[1] == '1');
            name[size++] = escaped ? "~/"[reference[1] - '0'] : *reference;
            reference += escaped;
        }
        name[size] = '\0';
        char *end;
        unsigned long index = strtoul(name, &end, 10);
        at = json_is_array(at) ? (end != name ? json_array_get(at, index) : NULL) : json_object_get(at, name);
    }
    return *reference == '\0' ? at : NULL;
}

bool schema_accepts(const json_t *schema, const json_t *root, const json_t *value, int depth) {
    if (depth > DEPTH_LIMIT || !json_is_object(schema)) {
        return !json_is_false(schema);
    }
    if (json_is_true(json_object_get(schema, "nullable")) && json_is_null(value)) {
        return true;
    }
    const char *reference = json_string_value(json_object_get(schema, "$ref"));
    const json_t *target = reference != NULL ? resolve(root, reference) : NULL;
    if (target != NULL && !schema_accepts(target, root, value, depth + 1)) {
        return false;
    }
    size_t characters = json_is_string(value) ? utf8_count(json_string_value(value), json_string_length(value)) : 0;
    return check_type(schema, value) && check_constants(schema, value) && check_number(schema, value) &&
           (!json_is_string(value) || is_within(schema, "minLength", "maxLength", characters)) &&
           check_object(schema, root, value, depth + 1) && check_array(schema, root, value, depth + 1) &&
           check_alternatives(schema, root, value, depth + 1);
}
