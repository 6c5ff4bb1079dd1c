// Drafts by the model's own MTP modules; see speculate() below.
//
// After the answers of a step are known, MTP module k runs over the rows whose hidden states and following tokens are
// known: position p takes hidden_p of the module before (the main model for k = 0) and token p + k + 1. The last row of
// a request predicts its next token but k; that is the draft, chosen by the request's own sampling with the noise of
// its position, so that it agrees with the model as often as their distributions do. Where a token p + k + 1 is not
// known yet, the draft stands in for it; such a row of a deeper module's cache may thus hold a token that was rejected
// later. This, and rows missing in a page that other requests share, has an influence on drafts, never on answers.
//
// Rows of a module's cache are complete from draft_start, the beginning of a page, to draft_next; its attention sees
// that window, with the positions that the tokens really have.
//
// Verifying a draft costs more than a plain step: on a CPU two tokens read nearly twice the experts, and the modules
// cost a layer and a head. Drafting therefore keeps a balance for each order of magnitude of the number of requests:
// a few plain steps in between tell what a step costs without drafts, and where drafting loses it pauses, for longer
// each time, and is tried again. While it pauses the modules do not run; a request takes part again from its next page
// on.
#include "infer/engine_private.h"

#define BALANCE_WEIGHT 0.125   // of a new value in a moving average
#define WARM_UP 4              // steps that are not judged: caches and page tables are cold
#define TRIAL_STEPS 24         // every other one plain
#define PLAIN_EVERY 48         // afterwards
#define PAUSE_FIRST 256
#define PAUSE_LONGEST 16384

struct draft_job {
    struct engine *engine;
    struct engine_request *requests[ENGINE_LOGIT_ROWS];
    int64_t count, depth;
};

static void draft_task(void *argument, int64_t task, int worker) {
    const struct draft_job *job = argument;
    struct engine *engine = job->engine;
    struct engine_request *request = job->requests[task];
    const float *logits = engine->logits + task * engine->model->config.vocab_size;
    int64_t position = request->count + job->depth;
    struct sampler_text text = {request->ids, request->prompt_count, position};
    int32_t id = sampler_choose(&engine->samplers[worker], engine->op, logits, &request->wanted.sampling, &text, NULL);
    request->ids[position] = id > 0 ? id : 0;
    request->drafts = job->depth + 1;
}

static void draft_some(struct draft_job *job) {
    struct engine *engine = job->engine;
    struct tensor chosen = tensor_slice(&engine->chosen, 0, 0, job->count);
    struct tensor logits = tensor_2d(FORMAT_F32, engine->logits, job->count, engine->model->config.vocab_size);
    op_gather_rows(engine->op, &chosen, &engine->draft_hidden, engine->pass.rows);
    model_mtp_logits(engine->op, &logits, engine->model, job->depth, &chosen);
    pool_run(engine->op->pool, job->count, draft_task, job);
    job->count = 0;
}

// Whether the request goes on and can use a draft that many tokens ahead.
static bool wants_draft(const struct engine_request *request, int64_t depth) {
    return !request->finished && request->computed == request->count - 1 && request->drafts == depth &&
           request->count + depth + 1 < request->limit;
}

// The rows of a request that the modules take in this step; begin == end: none.
struct draft_rows {
    int64_t begin, end;
};

static struct draft_rows rows_of(const struct engine_work *work) {
    const struct engine_request *request = work->request;
    int64_t end = work_end(work) < request->computed ? work_end(work) : request->computed;
    int64_t begin = request->draft_next;
    if (begin < work->begin) {   // rows are missing: begin anew with a page
        begin = (work->begin + ATTENTION_BLOCK - 1) / ATTENTION_BLOCK * ATTENTION_BLOCK;
    }
    if (request->finished || begin >= end) {
        return (struct draft_rows){0};
    }
    return (struct draft_rows){begin, end};
}

// The pass of one module, and in pass.rows where its input comes from; also marks the rows as done.
static void plan_module(struct engine *engine, int64_t depth) {
    engine_pass_begin(engine);
    int64_t main_layers = engine->stats.moe_layers - engine->depths;
    engine->pass.batch.expert_load += (main_layers + depth) * engine->stats.experts;
    for (int absorbed = 1; absorbed >= 0; absorbed--) {
        for (int64_t i = 0; i < engine->work_count; i++) {
            struct engine_work *work = &engine->works[i];
            struct draft_rows rows = rows_of(work);
            int64_t first = engine->pass.batch.tokens;
            work->draft_row = absorbed ? -1 : work->draft_row;
            int64_t window = work->request->draft_next < work->begin ? rows.begin : work->request->draft_start;
            engine_pass_add(engine, work, rows.begin, rows.end, depth + 1, window, absorbed);
            if (engine->pass.batch.tokens > first && work->draft_row < 0) {
                work->draft_row = engine->pass.batch.tokens - 1;   // absorbed positions come after expanded ones
            }
            for (int64_t row = first; row < engine->pass.batch.tokens; row++) {
                // Deeper modules take the rows of the module before, which are in the same order.
                engine->pass.rows[row] = depth == 0 ? (int32_t)work_row(work, engine->pass.positions[row])
                                                    : (int32_t)row;
            }
        }
    }
}

static void run_module(struct engine *engine, int64_t depth) {
    int64_t tokens = engine->pass.batch.tokens;
    struct tensor in = tensor_slice(&engine->chosen, 0, 0, tokens);
    struct tensor out = tensor_slice(&engine->draft_hidden, 0, 0, tokens);
    op_gather_rows(engine->op, &in, depth == 0 ? &engine->hidden : &engine->draft_hidden, engine->pass.rows);
    int64_t layer = engine->model->config.num_hidden_layers + depth;
    model_mtp_infer(engine->op, &out, engine->model, depth, &in, &engine->pass.batch, &engine->pages.layers[layer]);
}

static void draft(struct engine *engine, int64_t depth) {
    struct draft_job job = {.engine = engine, .depth = depth};
    for (int64_t i = 0; i < engine->work_count; i++) {
        struct engine_request *request = engine->works[i].request;
        if (engine->works[i].draft_row >= 0 && wants_draft(request, depth)) {
            engine->pass.rows[job.count] = (int32_t)engine->works[i].draft_row;
            job.requests[job.count++] = request;
        }
        if (job.count == ENGINE_LOGIT_ROWS) {
            draft_some(&job);
        }
    }
    if (job.count > 0) {
        draft_some(&job);
    }
}

static void mark_rows(struct engine *engine) {
    for (int64_t i = 0; i < engine->work_count; i++) {
        struct engine_work *work = &engine->works[i];
        struct draft_rows rows = rows_of(work);
        if (rows.begin < rows.end) {
            work->request->draft_start = work->request->draft_next < work->begin ? rows.begin
                                                                                 : work->request->draft_start;
            work->request->draft_next = rows.end;
        }
    }
}

void speculate(struct engine *engine) {
    for (int64_t depth = 0; depth < engine->depths; depth++) {
        plan_module(engine, depth);
        if (engine->pass.batch.tokens == 0) {
            return;
        }
        run_module(engine, depth);
        draft(engine, depth);
    }
    mark_rows(engine);
}

// ---- Whether drafts are worth it ------------------------------------------------------------------------------------

static struct draft_balance *balance_of(struct engine *engine) {
    int level = 0;
    while (level < DRAFT_BALANCES - 1 && (2 << level) <= engine->running_count) {
        level++;
    }
    return &engine->balances[level];
}

// Medians: a neighbour on the machine must not decide.
static double median(const struct draft_times *times) {
    double sorted[DRAFT_SAMPLES] = {0};
    for (int i = 0; i < DRAFT_SAMPLES; i++) {
        int at = i;
        for (; at > 0 && sorted[at - 1] > times->seconds[i]; at--) {
            sorted[at] = sorted[at - 1];
        }
        sorted[at] = times->seconds[i];
    }
    return sorted[DRAFT_SAMPLES / 2];
}

static void add_time(struct draft_times *times, double seconds) {
    times->seconds[times->count++ % DRAFT_SAMPLES] = seconds;
}

static bool loses(const struct draft_balance *balance) {
    return balance->plain.count >= DRAFT_SAMPLES && balance->drafted.count >= DRAFT_SAMPLES &&
           balance->tokens * median(&balance->plain) < median(&balance->drafted);
}

static bool is_plain_step(const struct draft_balance *balance) {
    return balance->steps % (balance->steps < TRIAL_STEPS ? 2 : PLAIN_EVERY) == 0;
}

void speculate_choose(struct engine *engine) {
    engine->drafting = engine->depths > 0;
    if (engine->options.drafts != DRAFTS_ADAPTIVE || !engine->drafting) {
        return;
    }
    struct draft_balance *balance = balance_of(engine);
    if (balance->pause == 0 && loses(balance)) {
        int64_t pause = balance->next_pause > 0 ? balance->next_pause : PAUSE_FIRST;
        *balance = (struct draft_balance){.pause = pause,
                                          .next_pause = pause < PAUSE_LONGEST ? 2 * pause : PAUSE_LONGEST};
    }
    engine->drafting = balance->pause == 0;
    bool plain = !engine->drafting || is_plain_step(balance);
    balance->pause -= balance->pause > 0;
    balance->steps += engine->drafting;
    for (int64_t i = 0; i < engine->running_count && plain; i++) {
        engine->running[i]->drafts = 0;
    }
}

void speculate_learn(struct engine *engine, double seconds, double module_seconds, int64_t accepted) {
    struct draft_balance *balance = balance_of(engine);
    int64_t drafted = 0;
    for (int64_t i = 0; i < engine->work_count; i++) {
        const struct engine_work *work = &engine->works[i];
        if (work->count != 1 + work->verified) {
            return;   // it read a prompt
        }
        drafted += work->verified > 0;
    }
    if (balance->steps <= WARM_UP) {
        return;
    }
    if (drafted == 0) {
        add_time(&balance->plain, seconds);
    } else if (2 * drafted >= engine->work_count) {
        double tokens = 1.0 + (double)accepted / (double)engine->work_count;
        balance->tokens += (balance->drafted.count < 8 ? 1.0 / (double)(balance->drafted.count + 1) : BALANCE_WEIGHT) *
                           (tokens - balance->tokens);
        add_time(&balance->drafted, seconds + module_seconds);
    }
}
