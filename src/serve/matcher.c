// Sets of places, their steps, and the walk over the tokens (see matcher.h).
#include "serve/matcher.h"

#include <string.h>

#include "serve/json_string.h"

// ---- sets of places ----

struct expansion {
    struct matcher *matcher;
    struct place_set *set;
    int32_t first_frame;   // frames from here on were made in this step: equal ones are shared
};

static void set_add(struct expansion *it, struct place place) {
    struct place_set *set = it->set;
    for (int32_t i = 0; i < set->count; i++) {
        const struct place *known = &set->places[i];
        if (known->row == place.row && known->stack == place.stack && known->min == place.min &&
            known->max == place.max) {
            return;
        }
    }
    if (set->count < set->capacity) {
        set->places[set->count++] = place;
    }
}

// The frame (row, below), -2 = no room.
static int32_t frame_push(struct expansion *it, int32_t row, int32_t below) {
    struct matcher *matcher = it->matcher;
    for (int32_t i = it->first_frame; i < matcher->frame_count; i++) {
        if (matcher->frames[i].row == row && matcher->frames[i].below == below) {
            return i;
        }
    }
    if (matcher->frame_count == MATCHER_FRAMES) {
        return -2;
    }
    int32_t depth = below < 0 ? 1 : matcher->frames[below].depth + 1;
    matcher->frames[matcher->frame_count] = (struct frame){row, below, depth};
    return matcher->frame_count++;
}

static bool ends_only(const struct automaton_row *row) {
    return row->accept && row->edge_count == 0 && row->call_count == 0;
}

// Adds a place and all places that it leads to without a byte: into the rules that it calls, and back out of a rule
// that may end here. Rules begin with a byte or with a call of such a rule, so that this ends.
static void expand(struct expansion *it, struct place place) {
    const struct automaton *automaton = it->matcher->automaton;
    const struct automaton_row *row = &automaton->rows[place.row];
    int32_t depth = place.stack < 0 ? 0 : it->matcher->frames[place.stack].depth;
    if (depth + row->need > MATCHER_DEPTH) {
        return;
    }
    if (row->edge_count > 0) {
        set_add(it, place);
    }
    for (int32_t i = 0; i < row->call_count; i++) {
        const struct automaton_call *call = &automaton->calls[row->calls + i];
        struct place inner = {automaton->rules[call->rule], place.stack, call->min, call->max};
        const struct automaton_row *back = &automaton->rows[call->to];
        if (depth + back->need > MATCHER_DEPTH || depth + 1 + automaton->rows[inner.row].need > MATCHER_DEPTH) {
            continue;
        }
        if (!ends_only(back) && (inner.stack = frame_push(it, call->to, place.stack)) == -2) {
            continue;
        }
        expand(it, inner);
    }
    if (row->accept && place.stack < 0) {
        it->set->complete = true;
    } else if (row->accept) {
        struct frame frame = it->matcher->frames[place.stack];
        expand(it, (struct place){frame.row, frame.below, 0, NO_MAXIMUM});
    }
}

// Where a place stands behind a byte; false = it cannot come.
static bool place_next(struct place *next, const struct automaton *automaton, const struct place *place, uint8_t byte) {
    *next = *place;
    next->row = automaton_next(automaton, place->row, byte);
    if (next->row < 0) {
        return false;
    }
    if (place->row == STRING_BODY) {
        if (next->row == STRING_END) {
            return place->min == 0;
        }
        if (place->max == 0) {
            return false;
        }
        next->max -= place->max == NO_MAXIMUM ? 0 : 1;
        next->min -= place->min > 0 ? 1 : 0;
    }
    return true;
}

static void set_step(struct expansion *it, const struct place *places, int32_t count, uint8_t byte) {
    struct place next;
    for (int32_t i = 0; i < count; i++) {
        if (place_next(&next, it->matcher->automaton, &places[i], byte)) {
            expand(it, next);
        }
    }
}

// ---- where the answer stands ----

void matcher_start(struct matcher *matcher, const struct automaton *automaton,
                   const struct token_vocabulary *vocabulary, const struct wide_rows *wide, int32_t rule) {
    matcher->automaton = automaton;
    matcher->wide = wide;
    matcher->vocabulary = vocabulary;
    matcher->frame_count = 0;
    struct place_set set = {matcher->places, 0, MATCHER_PLACES, false};
    struct expansion it = {matcher, &set, 0};
    expand(&it, (struct place){automaton->rules[rule], -1, 0, NO_MAXIMUM});
    matcher->place_count = set.count;
    matcher->complete = set.complete;
}

// Keeps the frames that the places use. A frame is made after those below it.
static void frames_compact(struct matcher *matcher) {
    memset(matcher->remap, 0, (size_t)matcher->frame_count * sizeof matcher->remap[0]);
    for (int32_t i = 0; i < matcher->place_count; i++) {
        for (int32_t at = matcher->places[i].stack; at >= 0 && matcher->remap[at] == 0;
             at = matcher->frames[at].below) {
            matcher->remap[at] = 1;
        }
    }
    int32_t kept = 0;
    for (int32_t i = 0; i < matcher->frame_count; i++) {
        if (matcher->remap[i] != 0) {
            struct frame frame = matcher->frames[i];
            frame.below = frame.below < 0 ? -1 : matcher->remap[frame.below];
            matcher->remap[i] = kept;
            matcher->frames[kept++] = frame;
        }
    }
    matcher->frame_count = kept;
    for (int32_t i = 0; i < matcher->place_count; i++) {
        int32_t stack = matcher->places[i].stack;
        matcher->places[i].stack = stack < 0 ? -1 : matcher->remap[stack];
    }
}

bool matcher_accept_byte(struct matcher *matcher, uint8_t byte) {
    struct place_set set = {matcher->walk, 0, MATCHER_PLACES, false};
    struct expansion it = {matcher, &set, matcher->frame_count};
    set_step(&it, matcher->places, matcher->place_count, byte);
    memcpy(matcher->places, set.places, (size_t)set.count * sizeof set.places[0]);
    matcher->place_count = set.count;
    matcher->complete = set.complete;
    frames_compact(matcher);
    return matcher_is_alive(matcher);
}

bool matcher_is_alive(const struct matcher *matcher) {
    return matcher->place_count > 0 || matcher->complete;
}

// ---- tokens ----

// The places behind each byte of the token that the walk is at: those of depth d are walk[begin[d] .. begin[d + 1]).
struct walk {
    struct matcher *matcher;
    uint64_t *allowed;
    int64_t work;
    int32_t begin[TRIE_DEPTH + 2], frames[TRIE_DEPTH + 2];
};

static void allow_tokens(struct walk *walk, int32_t node) {
    const struct token_vocabulary *vocabulary = walk->matcher->vocabulary;
    for (int32_t i = vocabulary->first[node]; i < vocabulary->first[node + 1]; i++) {
        token_set_add(walk->allowed, vocabulary->tokens[i]);
    }
}

// The most frequent step: one place, in the middle of a rule. false = it is not as simple as that.
static bool step_simply(struct place_set *set, const struct automaton *automaton, const struct place *place,
                        uint8_t byte) {
    if (place->row == STRING_BODY) {
        return false;
    }
    struct place next = *place;
    next.row = automaton_next(automaton, place->row, byte);
    if (next.row >= 0) {
        const struct automaton_row *row = &automaton->rows[next.row];
        if (row->accept || row->call_count > 0 || row->need > 0) {
            return false;
        }
        set->places[set->count++] = next;
    }
    return true;
}

// Below `root`, whose places are those of its depth.
static void walk_below(struct walk *walk, int32_t root) {
    struct matcher *matcher = walk->matcher;
    const struct token_vocabulary *vocabulary = matcher->vocabulary;
    for (int32_t node = root + 1; node < vocabulary->skip[root];) {
        int32_t depth = vocabulary->depth[node], begin = walk->begin[depth - 1], end = walk->begin[depth];
        int32_t count = walk->work < MATCHER_WORK ? end - begin : end > begin ? 1 : 0, room = MATCHER_WALK - end;
        struct place_set set = {matcher->walk + end, 0, room < MATCHER_PLACES ? room : MATCHER_PLACES, false};
        walk->work += count - 1;
        matcher->frame_count = walk->frames[depth];
        if (count != 1 || room == 0 ||
            !step_simply(&set, matcher->automaton, matcher->walk + begin, vocabulary->byte[node])) {
            struct expansion it = {matcher, &set, matcher->frame_count};
            set_step(&it, matcher->walk + begin, count, vocabulary->byte[node]);
        }
        if (set.count > 0 || set.complete) {
            allow_tokens(walk, node);
        }
        if (set.count == 0) {
            node = vocabulary->skip[node];
            continue;
        }
        walk->begin[depth + 1] = end + set.count;
        walk->frames[depth + 1] = matcher->frame_count;
        node++;
    }
}

// Tokens that stay in a string, if at most `max` characters may come.
static void allow_inside(struct walk *walk, int32_t max) {
    const struct token_vocabulary *vocabulary = walk->matcher->vocabulary;
    if (max < TRIE_DEPTH) {
        for (int32_t i = 0; i < vocabulary->inside_first[max + 1]; i++) {
            token_set_add(walk->allowed, vocabulary->inside[i]);
        }
        return;
    }
    for (int64_t i = 0; i < vocabulary->words; i++) {
        walk->allowed[i] |= vocabulary->inside_set[i];
    }
}

// The places behind a quote that closes strings `characters` later, at the depth of the node; false = none.
static bool leave_strings(struct walk *walk, const struct place *bodies, int32_t count, int32_t depth,
                          int32_t characters) {
    struct matcher *matcher = walk->matcher;
    struct place_set set = {matcher->walk, 0, MATCHER_PLACES, false};
    struct expansion it = {matcher, &set, walk->frames[0]};
    matcher->frame_count = walk->frames[0];
    for (int32_t i = 0; i < count; i++) {
        if (bodies[i].min <= characters && characters <= bodies[i].max) {
            expand(&it, (struct place){STRING_END, bodies[i].stack, 0, NO_MAXIMUM});
        }
    }
    walk->begin[depth] = 0;
    walk->begin[depth + 1] = set.count;
    walk->frames[depth + 1] = matcher->frame_count;
    return set.count > 0 || set.complete;
}

// A place at a wide row: what stays in its rule is known; behind its end the callers go on.
static void allow_at_wide_row(struct walk *walk, const struct wide_row *wide, int32_t stack) {
    struct matcher *matcher = walk->matcher;
    for (int64_t i = 0; i < matcher->vocabulary->words; i++) {
        walk->allowed[i] |= wide->inside[i];
    }
    for (int32_t i = 0; i < wide->exit_count && stack >= 0; i++) {
        int32_t depth = matcher->vocabulary->depth[wide->exits[i]];
        struct place_set set = {matcher->walk, 0, MATCHER_PLACES, false};
        struct expansion it = {matcher, &set, walk->frames[0]};
        matcher->frame_count = walk->frames[0];
        expand(&it, (struct place){matcher->frames[stack].row, matcher->frames[stack].below, 0, NO_MAXIMUM});
        walk->begin[depth] = 0;
        walk->begin[depth + 1] = set.count;
        walk->frames[depth + 1] = matcher->frame_count;
        walk_below(walk, wide->exits[i]);
    }
}

static const struct wide_row *find_wide_row(const struct matcher *matcher, int32_t row) {
    for (int32_t i = 0; i < matcher->wide->count; i++) {
        if (matcher->wide->rows[i].row == row) {
            return &matcher->wide->rows[i];
        }
    }
    return NULL;
}

// Places in the body of a string, where most tokens may come: the vocabulary knows which stay in it and which leave it,
// so that only the parts behind the closing quote are walked.
static void allow_in_strings(struct walk *walk, const struct place *bodies, int32_t count) {
    const struct token_vocabulary *vocabulary = walk->matcher->vocabulary;
    int32_t longest = 0;
    for (int32_t i = 0; i < count; i++) {
        longest = bodies[i].max > longest ? bodies[i].max : longest;
    }
    allow_inside(walk, longest);
    for (int32_t i = 0; i < vocabulary->exit_count; i++) {
        int32_t node = vocabulary->exits[i].node, depth = vocabulary->depth[node];
        if (leave_strings(walk, bodies, count, depth, vocabulary->exits[i].characters)) {
            allow_tokens(walk, node);
            walk_below(walk, node);
        }
    }
}

void matcher_allow(struct matcher *matcher, uint64_t *allowed) {
    struct place bodies[MATCHER_PLACES];
    int32_t body_count = 0, other_count = 0;
    struct walk walk = {.matcher = matcher, .allowed = allowed};
    walk.frames[0] = matcher->frame_count;
    for (int32_t i = 0; i < matcher->place_count; i++) {
        if (matcher->places[i].row == STRING_BODY) {
            bodies[body_count++] = matcher->places[i];
        } else if (find_wide_row(matcher, matcher->places[i].row) == NULL) {
            matcher->walk[other_count++] = matcher->places[i];
        }
    }
    if (other_count > 0) {
        walk.begin[1] = other_count;
        walk.frames[1] = walk.frames[0];
        walk_below(&walk, 0);
    }
    if (body_count > 0) {
        allow_in_strings(&walk, bodies, body_count);
    }
    for (int32_t i = 0; i < matcher->place_count; i++) {
        const struct wide_row *wide = find_wide_row(matcher, matcher->places[i].row);
        if (wide != NULL) {
            allow_at_wide_row(&walk, wide, matcher->places[i].stack);
        }
    }
    matcher->frame_count = walk.frames[0];
}
