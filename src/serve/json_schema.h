// JSON schema -> rules of an automaton: the texts that are values of the schema.
//
// A rule is made for every value that is not simple (objects, arrays, alternatives, what $ref names), from a queue, so
// that recursive schemas end and C's stack stays small. What a keyword means, and what is an error:
// docs/constrained-decoding.md.
#ifndef MINKE_SERVE_JSON_SCHEMA_H
#define MINKE_SERVE_JSON_SCHEMA_H

#include <jansson.h>

#include "serve/automaton.h"

#define SCHEMA_DEPTH 64          // nesting of the schema's text
#define SCHEMA_NODES 20000       // values in it
#define SCHEMA_WORK 50000        // schemas looked at, references followed
#define SCHEMA_INLINE_DEPTH 32   // references and alternatives inside one another without a value in between

struct schema_task {   // a rule that is still to be made
    int32_t rule;
    const json_t *schema, *root;   // root: what "#" of a $ref means
    char *place;                   // JSON pointer of the schema
};

struct schema_compiler {
    struct automaton *automaton;
    struct error *error;
    int32_t string_rule, blank_rule, any_rule;
    json_t *rules;   // key of a rule -> its number
    json_t *made;    // schemas that merging made; they live until the end
    struct schema_task *tasks;
    int32_t task_count, task_capacity, task_done;
    int64_t work;
    bool out_of_memory;   // a JSON value could not be made: whatever follows is an error
};

// The rows of strings, white space and values of any kind come first: row STRING_START is row 0.
int schema_compiler_init(struct schema_compiler *compiler, struct automaton *automaton, struct error *error);
void schema_compiler_destroy(struct schema_compiler *compiler);
// The rule of a schema, which must live until schema_compile has run.
int schema_rule(int32_t *rule, struct schema_compiler *compiler, const json_t *schema);
int schema_compile(struct schema_compiler *compiler);

// ---- between the files of the compiler ----

struct schema_place {   // where in the schema: a list from the inside out
    const struct schema_place *above;
    const char *key;   // NULL: index
    size_t index;
};

struct schema_scope {   // of one rule
    struct schema_compiler *compiler;
    const struct schema_task *task;
    struct nfa *nfa;
};

enum schema_type {
    SCHEMA_NULL = 1,
    SCHEMA_BOOLEAN = 2,
    SCHEMA_OBJECT = 4,
    SCHEMA_ARRAY = 8,
    SCHEMA_STRING = 16,
    SCHEMA_NUMBER = 32,
    SCHEMA_INTEGER = 64,
    SCHEMA_ALL = 63
};

// Sets an error of the form "#/properties/a: <message>"; returns its code.
int schema_fail(struct schema_scope *scope, const struct schema_place *place, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
// Checks the keywords of an object; *types: those that it allows.
int schema_check_keywords(unsigned *types, struct schema_scope *scope, const json_t *schema,
                          const struct schema_place *place);
bool schema_is_annotation(const char *keyword);
// The schema without $ref and allOf: what they name is merged into it. *merged is borrowed (from `made`).
int schema_flatten(const json_t **merged, struct schema_scope *scope, const json_t *schema,
                   const struct schema_place *place, int depth);
int schema_resolve(const json_t **target, struct schema_scope *scope, const char *reference,
                   const struct schema_place *place);
// Both schemas hold. *merged is borrowed.
int schema_merge(const json_t **merged, struct schema_scope *scope, const json_t *a, const json_t *b,
                 const struct schema_place *place);
// Keeps a new reference; NULL = out of memory.
int schema_keep(struct schema_compiler *compiler, json_t *made);
// A new JSON value, NULL = out of memory, which is noted; sets a key to a new value, noting the same.
json_t *schema_new(struct schema_compiler *compiler, json_t *made);
void schema_set(struct schema_compiler *compiler, json_t *object, const char *key, json_t *made);

// Edges for every value of the schema. Values that are not simple are calls in schema_add_value.
int schema_add(struct schema_scope *scope, int32_t from, int32_t to, const json_t *schema,
               const struct schema_place *place, int depth);
int schema_add_value(struct schema_scope *scope, int32_t from, int32_t to, const json_t *schema,
                     const struct schema_place *place);
int schema_add_object(struct schema_scope *scope, int32_t from, int32_t to, const json_t *schema,
                      const struct schema_place *place);
int schema_add_array(struct schema_scope *scope, int32_t from, int32_t to, const json_t *schema,
                     const struct schema_place *place);
int schema_add_string(struct schema_scope *scope, int32_t from, int32_t to, const json_t *schema,
                      const struct schema_place *place);
int schema_add_number(struct schema_scope *scope, int32_t from, int32_t to, const json_t *schema, bool integer,
                      const struct schema_place *place);
void schema_add_constant(struct schema_scope *scope, int32_t from, int32_t to, const json_t *value);
void schema_add_blank(struct schema_scope *scope, int32_t from, int32_t to);   // white space, or nothing
// The rule of a key, made if it is new.
int schema_named_rule(int32_t *rule, bool *is_new, struct schema_compiler *compiler, const char *key);
// Reads a bound such as minItems: a non-negative integer.
int schema_count(int64_t *count, int64_t fallback, struct schema_scope *scope, const json_t *schema,
                 const char *keyword, const struct schema_place *place);

#endif
