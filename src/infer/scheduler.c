// Who computes what in a step: admission in the order of arrival, prefix pages, memory, preemption.
//
// Requests hold pages for the tokens they have computed and take more as they grow. When none is left, the youngest
// request that has nothing to do in this step gives up its pages and is computed anew later; the oldest never yields,
// so that something always moves on.
#include <string.h>

#include "infer/engine_private.h"

#define PAGE ATTENTION_BLOCK

static int64_t pages_for(int64_t tokens) {
    return (tokens + PAGE - 1) / PAGE;
}

static int64_t minimum(int64_t a, int64_t b) {
    return a < b ? a : b;
}

int64_t scheduler_split(const struct engine *engine, const struct engine_request *request) {
    switch (engine->options.form) {
    case SESSION_EXPANDED:
        return INT64_MAX;
    case SESSION_ABSORBED:
        return 0;
    default:
        return request->prompt_count;
    }
}

// Rows of page `index` that are expanded.
static int64_t expanded_rows(const struct engine *engine, const struct engine_request *request, int64_t index) {
    int64_t split = scheduler_split(engine, request), first = index * PAGE;
    return split <= first ? 0 : minimum(split - first, PAGE);
}

// ---- Moving requests ------------------------------------------------------------------------------------------------

void scheduler_wait(struct engine *engine, struct engine_request *request) {
    struct engine_request **link = &engine->waiting;
    while (*link != NULL && (*link)->number < request->number) {
        link = &(*link)->next;
    }
    request->next = *link;
    *link = request;
    engine->waiting_count++;
}

static void release_pages(struct engine *engine, struct engine_request *request) {
    // The end of a prefix is worth less than its beginning: it is released first, so that it is forgotten first.
    while (request->page_count > 0) {
        page_pool_release(&engine->pages, request->pages[--request->page_count]);
    }
    request->computed = request->drafts = request->chained = 0;
    request->draft_start = request->draft_next = 0;
    request->chain = page_chain_root();
}

void scheduler_drop(struct engine *engine, struct engine_request *request) {
    int64_t at = 0;
    while (engine->running[at] != request) {
        at++;
    }
    memmove(&engine->running[at], &engine->running[at + 1],
            (size_t)(engine->running_count - at - 1) * sizeof *engine->running);
    engine->running_count--;
    release_pages(engine, request);
}

void scheduler_requeue(struct engine *engine, struct engine_request *request) {
    scheduler_drop(engine, request);
    scheduler_wait(engine, request);
}

// ---- Prefixes -------------------------------------------------------------------------------------------------------

static void add_page(struct engine *engine, struct engine_request *request, int32_t page) {
    request->pages[request->page_count] = page;
    request->page_rows[request->page_count++] = page_pool_row(&engine->pages, page);
}

// Prompt log-probabilities need the hidden states of all prompt tokens, which no cache holds.
static bool reads_cache(const struct engine *engine, const struct engine_request *request) {
    bool scores = request->wanted.prompt_log_probabilities && request->scored < request->prompt_count;
    return engine->options.prefix_cache && !scores;
}

// Takes over the pages that hold the beginning of the request; the last known token is always computed.
static void take_prefix(struct engine *engine, struct engine_request *request) {
    int64_t most = reads_cache(engine, request) ? (request->count - 1) / PAGE : 0;
    for (int64_t i = 0; i < most; i++) {
        struct page_want want = {
            .ids = request->ids + i * PAGE,
            .expanded = expanded_rows(engine, request, i),
            .any_form = (i + 1) * PAGE <= request->prompt_count,   // an answer that is now part of a prompt
        };
        int32_t page = page_pool_find(&engine->pages, &request->chain, &want);
        if (page < 0 && engine->files != NULL) {
            page = page_files_load(engine->files, &request->chain, &want);
        }
        if (page < 0) {
            break;
        }
        add_page(engine, request, page);
        request->chain = engine->pages.pages[page].chain;
        request->chained++;
        if (!engine->pages.pages[page].drafts) {
            request->draft_start = request->chained * PAGE;
        }
    }
    request->computed = request->draft_next = request->chained * PAGE;
}

void scheduler_register(struct engine *engine, struct engine_request *request) {
    if (!engine->options.prefix_cache) {
        return;
    }
    for (; (request->chained + 1) * PAGE <= request->computed; request->chained++) {
        int64_t i = request->chained, end = (i + 1) * PAGE;
        bool drafts = request->draft_start <= i * PAGE && request->draft_next >= end;
        request->chain = page_pool_register(&engine->pages, request->pages[i], &request->chain, request->ids + i * PAGE,
                                            expanded_rows(engine, request, i), drafts);
    }
}

static int64_t common_pages(const struct engine_request *a, const struct engine_request *b) {
    int64_t most = minimum(a->count - 1, minimum(a->prompt_count, b->prompt_count)) / PAGE, same = 0;
    while (same < most && memcmp(a->ids + same * PAGE, b->ids + same * PAGE, PAGE * sizeof *a->ids) == 0) {
        same++;
    }
    return same;
}

// Whether a request that runs is about to compute pages that this one could share.
static bool awaits_prefix(const struct engine *engine, const struct engine_request *request) {
    for (int64_t i = 0; i < engine->running_count; i++) {
        const struct engine_request *other = engine->running[i];
        if (other->computed < other->prompt_count) {
            int64_t shared = common_pages(request, other) * PAGE;
            if (shared > request->computed && shared > other->computed) {
                return true;
            }
        }
    }
    return false;
}

// ---- Admission ------------------------------------------------------------------------------------------------------

// Room for what is known of the request, beside what is known of those that run and a page of growth for each.
static bool has_room(const struct engine *engine, const struct engine_request *request) {
    int64_t needed = pages_for(request->count) - request->page_count;
    for (int64_t i = 0; i < engine->running_count; i++) {
        const struct engine_request *other = engine->running[i];
        int64_t missing = pages_for(other->count) - other->page_count;
        needed += 1 + (missing > 0 ? missing : 0);
    }
    return page_pool_available(&engine->pages) >= needed;
}

static void run(struct engine *engine, struct engine_request *request) {
    int64_t at = engine->running_count++;
    for (; at > 0 && engine->running[at - 1]->number > request->number; at--) {
        engine->running[at] = engine->running[at - 1];
    }
    engine->running[at] = request;
    if (!request->admitted_before) {
        request->admitted_before = true;
        request->cached_tokens = minimum(request->computed, request->prompt_count);
        engine->stats.cached_tokens += request->cached_tokens;
        engine->stats.prompt_tokens += request->prompt_count;
    }
}

void scheduler_admit(struct engine *engine) {
    struct engine_request **link = &engine->waiting;
    while (*link != NULL && engine->running_count < engine->options.batch) {
        struct engine_request *request = *link;
        take_prefix(engine, request);
        if (reads_cache(engine, request) && awaits_prefix(engine, request)) {
            release_pages(engine, request);
            link = &request->next;
            continue;
        }
        if (!has_room(engine, request)) {
            release_pages(engine, request);
            break;   // nobody overtakes the one that waits for memory
        }
        *link = request->next;
        engine->waiting_count--;
        run(engine, request);
    }
}

// ---- Planning -------------------------------------------------------------------------------------------------------

// The youngest request that is younger than `request` and has no work yet.
static struct engine_request *victim_of(const struct engine *engine, const struct engine_request *request) {
    for (int64_t i = engine->running_count - 1; i >= 0 && engine->running[i] != request; i--) {
        if (engine->running[i]->work == NULL && engine->running[i]->page_count > 0) {
            return engine->running[i];
        }
    }
    return NULL;
}

// Gives the request pages for `tokens` tokens; returns for how many it has some now.
static int64_t take_pages(struct engine *engine, struct engine_request *request, int64_t tokens) {
    while (request->page_count < pages_for(tokens)) {
        int32_t page = page_pool_take(&engine->pages);
        if (page >= 0) {
            add_page(engine, request, page);
            continue;
        }
        struct engine_request *victim = victim_of(engine, request);
        if (victim == NULL) {
            break;
        }
        engine->stats.preemptions++;
        scheduler_requeue(engine, victim);
    }
    return minimum(tokens, request->page_count * PAGE);
}

static void plan(struct engine *engine, struct engine_request *request, int64_t count) {
    int64_t end = take_pages(engine, request, request->computed + count);
    if (end <= request->computed) {
        return;   // no memory now: its turn comes when others are done
    }
    struct engine_work *work = &engine->works[engine->work_count++];
    *work = (struct engine_work){.request = request,
                                 .begin = request->computed,
                                 .count = end - request->computed,
                                 .split = scheduler_split(engine, request)};
    request->drafts = end < request->count ? 0 : minimum(request->drafts, end - request->count);
    work->verified = request->drafts;
    request->work = work;
}

static bool only_last_token_left(const struct engine_request *request) {
    return request->count - request->computed == 1;
}

// Prompt rows of this step. Expanded rows expand the keys and values of all that is before them, so that few large
// chunks are cheaper deep in a prompt; that is done while nobody waits for the next token of an answer.
static int64_t prompt_budget(const struct engine *engine) {
    int64_t chunk = engine->options.chunk, deepest = 0;
    for (int64_t i = 0; i < engine->running_count; i++) {
        deepest = engine->running[i]->computed > deepest ? engine->running[i]->computed : deepest;
    }
    int64_t large = minimum(deepest / 2, ENGINE_LARGE_CHUNK * chunk);
    return engine->work_count == 0 && large > chunk ? large : chunk;
}

void scheduler_plan(struct engine *engine) {
    engine->work_count = 0;
    for (int64_t i = 0; i < engine->running_count; i++) {
        struct engine_request *request = engine->running[i];
        if (only_last_token_left(request)) {
            request->drafts = minimum(request->drafts, request->limit - request->count - 1);
            request->drafts = request->drafts > 0 ? request->drafts : 0;
            plan(engine, request, 1 + request->drafts);
        }
    }
    int64_t budget = prompt_budget(engine);
    for (int64_t i = 0; i < engine->running_count && budget > 0; i++) {
        struct engine_request *request = engine->running[i];
        if (!only_last_token_left(request)) {
            // A request without an answer needs nothing that follows its last token.
            int64_t wanted = request->count - (request->wanted.max_tokens == 0);
            plan(engine, request, minimum(wanted - request->computed, budget));
            budget -= request->work != NULL ? request->work->count : 0;
        }
    }
}
