// From hidden states to events: log-probabilities of prompts, the next tokens of answers, verification of drafts.
//
// Rows of logits are computed for as many requests at a time as fit; tasks of the pool then do what belongs to one
// request alone. Events are told afterwards, in the order of requests. A request with a filter is sampled by the
// stepping thread, because a filter is the caller's code.
#include <math.h>
#include <string.h>

#include "infer/engine_private.h"

static void report(struct engine *engine, const struct engine_request *request, struct minke_event *event) {
    (void)engine;
    event->request = request->number;
    event->finish = request->finish;
    event->prompt_tokens = request->prompt_count;
    event->cached_tokens = request->cached_tokens;
    event->answer_tokens = request->count - request->prompt_count;
    event->drafted_tokens = request->drafted_tokens;
    event->accepted_tokens = request->accepted_tokens;
}

static int tell(struct engine *engine, struct engine_request *request, enum minke_event_kind kind, int64_t index,
                const struct token_outcome *outcome) {
    struct minke_event event = {.kind = kind,
                                .index = index,
                                .id = outcome->id,
                                .log_probability = outcome->log_probability,
                                .top = outcome->top,
                                .top_count = outcome->top_count};
    report(engine, request, &event);
    return request->wanted.callback(request->wanted.argument, &event);
}

void answer_finished(struct engine *engine, struct engine_request *request) {
    struct minke_event event = {.kind = MINKE_EVENT_FINISHED, .id = -1, .error = request->trouble};
    report(engine, request, &event);
    request->wanted.callback(request->wanted.argument, &event);
}

// Logits of the hidden states listed in pass.rows.
static void logits_of(struct engine *engine, int64_t rows) {
    struct tensor chosen = tensor_slice(&engine->chosen, 0, 0, rows);
    struct tensor logits = tensor_2d(FORMAT_F32, engine->logits, rows, engine->model->config.vocab_size);
    op_gather_rows(engine->op, &chosen, &engine->hidden, engine->pass.rows);
    model_logits(engine->op, &logits, engine->model, &chosen);
}

static const float *logits_row(const struct engine *engine, int64_t row) {
    return engine->logits + row * engine->model->config.vocab_size;
}

static void fill_outcome(const struct engine *engine, struct token_outcome *outcome, const float *logits,
                         const struct row_probabilities *row, int64_t top) {
    outcome->log_probability = row_log_probability(row, logits, outcome->id);
    outcome->top_count = row_likeliest(outcome->top, top, row, logits, engine->model->config.vocab_size);
}

// Whether the model said anything at all.
static bool is_sound(const struct row_probabilities *row) {
    return isfinite(row->maximum) && isfinite(row->log_sum);
}

static const char unsound[] = "the model's logits are not finite: damaged weights or overflow";

// ---- Prompts --------------------------------------------------------------------------------------------------------

struct prompt_job {
    struct engine *engine;
    int64_t top;
};

static void prompt_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct prompt_job *job = argument;
    struct token_outcome *outcome = &job->engine->outcomes[task];
    const float *logits = logits_row(job->engine, task);
    struct row_probabilities row = row_probabilities(job->engine->op, logits, job->engine->model->config.vocab_size);
    outcome->finite = is_sound(&row);
    if (outcome->finite) {
        fill_outcome(job->engine, outcome, logits, &row, job->top);
    }
}

// Tells of `rows` prompt tokens whose logits' rows are 0 .. rows - 1.
static void tell_prompt(struct engine *engine, struct engine_request *request, int64_t rows) {
    for (int64_t i = 0; i < rows && !request->finished; i++) {
        if (!engine->outcomes[i].finite) {
            engine_finish(request, MINKE_FINISH_ERROR, unsound);
        } else if (tell(engine, request, MINKE_EVENT_PROMPT, request->scored++, &engine->outcomes[i]) != 0) {
            engine_finish(request, MINKE_FINISH_STOP, NULL);
        }
    }
}

static void score_prompt(struct engine *engine, struct engine_request *request) {
    if (request->scored == 0) {   // nothing predicts the first token
        struct token_outcome first = {.id = request->ids[0]};
        request->scored = 1;
        if (tell(engine, request, MINKE_EVENT_PROMPT, 0, &first) != 0) {
            engine_finish(request, MINKE_FINISH_STOP, NULL);
        }
    }
    const struct engine_work *work = request->work;
    while (work != NULL && !request->finished && request->scored < request->prompt_count &&
           request->scored - 1 < work_end(work)) {
        int64_t rows = 0;
        for (int64_t p = request->scored - 1;
             p < work_end(work) && p + 1 < request->prompt_count && rows < ENGINE_LOGIT_ROWS; p++, rows++) {
            engine->pass.rows[rows] = (int32_t)work_row(work, p);
            engine->outcomes[rows].id = request->ids[p + 1];
        }
        logits_of(engine, rows);
        struct prompt_job job = {engine, request->wanted.log_probabilities};
        pool_run(engine->op->pool, rows, prompt_task, &job);
        tell_prompt(engine, request, rows);
    }
}

void answer_prompts(struct engine *engine) {
    for (int64_t i = 0; i < engine->running_count; i++) {
        struct engine_request *request = engine->running[i];
        if (request->wanted.prompt_log_probabilities && request->scored < request->prompt_count) {
            score_prompt(engine, request);
        }
        int64_t computed = request->work != NULL ? work_end(request->work) : request->computed;
        if (request->wanted.max_tokens == 0 && computed >= request->prompt_count - 1) {
            engine_finish(request, MINKE_FINISH_LENGTH, NULL);
        }
    }
}

// ---- Answers --------------------------------------------------------------------------------------------------------

struct answer {   // of one request in one step
    struct engine_request *request;
    int64_t row, rows;   // of its logits: after the last known token and after each draft
    int64_t outcomes;    // in engine->outcomes from `row` on
};

struct answer_job {
    struct engine *engine;
    struct answer answers[ENGINE_LOGIT_ROWS];
    int64_t count;
};

// Samples what follows the last known token, and goes on as long as that is what was drafted.
static void choose(struct engine *engine, struct answer *answer, struct sampler *sampler) {
    struct engine_request *request = answer->request;
    const struct minke_request *wanted = &request->wanted;
    for (int64_t i = 0; i < answer->rows; i++) {
        struct token_outcome *outcome = &engine->outcomes[answer->row + i];
        const float *logits = logits_row(engine, answer->row + i);
        struct row_probabilities row = row_probabilities(engine->op, logits, sampler->vocab_size);
        struct sampler_text text = {request->ids, request->prompt_count, request->count + i};
        answer->outcomes = i + 1;
        outcome->finite = is_sound(&row);
        outcome->id = outcome->finite
                          ? sampler_choose(sampler, engine->op, logits, &wanted->sampling, &text, wanted->filter)
                          : -1;
        if (outcome->id < 0) {
            return;
        }
        fill_outcome(engine, outcome, logits, &row, wanted->log_probabilities);
        if (wanted->filter != NULL) {
            wanted->filter->accept_token(wanted->filter->argument, outcome->id);
        }
        bool drafted = i < request->drafts && request->ids[request->count + i] == outcome->id;
        if (!drafted || (!wanted->ignore_end && engine_is_end(engine, outcome->id))) {
            return;
        }
    }
}

static void choose_task(void *argument, int64_t task, int worker) {
    struct answer_job *job = argument;
    struct answer *answer = &job->answers[task];
    if (answer->request->wanted.filter == NULL) {
        choose(job->engine, answer, &job->engine->samplers[worker]);
    }
}

static void count_drafts(struct engine *engine, struct engine_request *request, const struct answer *answer) {
    for (int64_t i = 0; i < request->drafts; i++) {
        bool accepted = i < answer->outcomes &&
                        engine->outcomes[answer->row + i].id == request->ids[request->count + i];
        engine->stats.drafted[i]++;
        engine->stats.accepted[i] += accepted;
        request->drafted_tokens++;
        request->accepted_tokens += accepted;
    }
}

// The answer grows; what follows an accepted draft was computed in this step as well.
static void tell_answer(struct engine *engine, const struct answer *answer) {
    struct engine_request *request = answer->request;
    count_drafts(engine, request, answer);
    request->drafts = 0;
    for (int64_t i = 0; i < answer->outcomes && !request->finished; i++) {
        const struct token_outcome *outcome = &engine->outcomes[answer->row + i];
        if (outcome->id < 0) {
            engine_finish(request, outcome->finite ? MINKE_FINISH_STOP : MINKE_FINISH_ERROR,
                          outcome->finite ? NULL : unsound);
            return;
        }
        request->ids[request->count++] = outcome->id;
        request->computed = request->count - 1;
        engine->stats.answer_tokens++;
        int stop = tell(engine, request, MINKE_EVENT_TOKEN, request->count - 1 - request->prompt_count, outcome);
        if (stop != 0 || (!request->wanted.ignore_end && engine_is_end(engine, outcome->id))) {
            engine_finish(request, MINKE_FINISH_STOP, NULL);
        } else if (request->count == request->limit) {
            engine_finish(request, MINKE_FINISH_LENGTH, NULL);
        }
    }
}

static void answer_some(struct engine *engine, struct answer_job *job) {
    int64_t rows = job->count > 0 ? job->answers[job->count - 1].row + job->answers[job->count - 1].rows : 0;
    logits_of(engine, rows);
    pool_run(engine->op->pool, job->count, choose_task, job);
    for (int64_t i = 0; i < job->count; i++) {
        if (job->answers[i].request->wanted.filter != NULL) {
            choose(engine, &job->answers[i], &engine->samplers[0]);
        }
        tell_answer(engine, &job->answers[i]);
    }
    job->count = 0;
}

void answer_tokens(struct engine *engine) {
    struct answer_job job = {.engine = engine};
    int64_t rows = 0;
    for (int64_t i = 0; i < engine->work_count; i++) {
        struct engine_work *work = &engine->works[i];
        struct engine_request *request = work->request;
        bool answers = work_end(work) >= request->count && !request->finished && request->wanted.max_tokens > 0;
        if (!answers) {
            request->computed = work_end(work) < request->count ? work_end(work) : request->count;
            continue;
        }
        struct answer answer = {.request = request, .rows = 1 + request->drafts};
        if (rows + answer.rows > ENGINE_LOGIT_ROWS) {
            answer_some(engine, &job);
            rows = 0;
        }
        answer.row = rows;
        for (int64_t r = 0; r < answer.rows; r++) {
            engine->pass.rows[rows++] = (int32_t)work_row(work, request->count - 1 + r);
        }
        job.answers[job.count++] = answer;
    }
    if (job.count > 0) {
        answer_some(engine, &job);
    }
}
