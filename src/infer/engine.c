// See engine.h and engine_private.h: life of engines and requests, and the order of a step.
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "infer/engine_private.h"

// ---- Creation -------------------------------------------------------------------------------------------------------

static int check_options(const struct engine_options *options, const struct model *model, struct error *error) {
    int64_t positions = model->rope_table.shape[0];
    if (options->context < 1 || options->context > positions) {
        return error_set(error, ERROR_ARGUMENT, "engine context: expected 1..%lld tokens, found %lld",
                         (long long)positions, (long long)options->context);
    }
    if (model->fp8 && options->form != SESSION_EXPANDED) {
        return error_set(error, ERROR_ARGUMENT,
                         "engine attention: a model in FP8 training runs in the expanded form alone (its kv_b_proj "
                         "changes and has no transposed copy)");
    }
    if (options->cache_tokens < options->context) {
        return error_set(error, ERROR_ARGUMENT,
                         "engine cache: expected at least the context of %lld tokens, found %lld",
                         (long long)options->context, (long long)options->cache_tokens);
    }
    if (options->batch < 1 || options->batch > 65536 || options->chunk < 1 || options->chunk > 1 << 20) {
        return error_set(
            error, ERROR_ARGUMENT,
            "engine: expected a batch of 1..65536 requests and chunks of 1..1048576 tokens, found %lld and "
            "%lld",
            (long long)options->batch, (long long)options->chunk);
    }
    return 0;
}

static int64_t moe_layers(const struct engine *engine) {
    int64_t layers = 0, total = engine->model->config.num_hidden_layers + engine->depths;
    for (int64_t layer = 0; layer < total; layer++) {
        layers += model_layer_is_moe(&engine->model->config, layer);
    }
    return layers;
}

static int allocate_rows(struct tensor *rows, const struct engine *engine, struct error *error) {
    int64_t width = engine->model->config.hidden_size;
    enum format format = engine->model->compute;
    void *data = memory_allocate((size_t)(engine->max_rows * width), format == FORMAT_BF16 ? 2 : 4,
                                 "engine hidden states", error);
    *rows = tensor_2d(format, data, engine->max_rows, width);
    return data == NULL ? ERROR_MEMORY : 0;
}

static int allocate_tables(struct engine *engine, struct error *error) {
    struct engine_pass *pass = &engine->pass;
    const struct model_config *config = &engine->model->config;
    size_t rows = (size_t)engine->max_rows, batch = (size_t)engine->options.batch;
    const char *what = "engine tables";
    engine->stats.moe_layers = moe_layers(engine);
    engine->stats.experts = config->n_routed_experts;
    size_t loads = (size_t)(engine->stats.moe_layers * engine->stats.experts);
    size_t ends = (size_t)engine->options.end_token_count;
    engine->end_tokens = memory_allocate(ends + 1, sizeof *engine->end_tokens, what, error);
    engine->running = memory_allocate(batch, sizeof(struct engine_request *), what, error);
    engine->works = memory_allocate(batch, sizeof *engine->works, what, error);
    engine->expert_load = memory_allocate(loads + 1, sizeof *engine->expert_load, what, error);
    engine->outcomes = memory_allocate(ENGINE_LOGIT_ROWS, sizeof *engine->outcomes, what, error);
    engine->logits = memory_allocate((size_t)(ENGINE_LOGIT_ROWS * config->vocab_size), sizeof(float), "engine logits",
                                     error);
    pass->ids = memory_allocate(rows, sizeof *pass->ids, what, error);
    pass->positions = memory_allocate(rows, sizeof *pass->positions, what, error);
    pass->cache_rows = memory_allocate(rows, sizeof *pass->cache_rows, what, error);
    pass->rows = memory_allocate(rows, sizeof *pass->rows, what, error);
    pass->spans = memory_allocate(2 * batch, sizeof *pass->spans, what, error);
    if (engine->end_tokens == NULL || engine->running == NULL || engine->works == NULL || engine->expert_load == NULL ||
        engine->outcomes == NULL || engine->logits == NULL || pass->ids == NULL || pass->positions == NULL ||
        pass->cache_rows == NULL || pass->rows == NULL || pass->spans == NULL ||
        allocate_rows(&engine->hidden, engine, error) != 0 || allocate_rows(&engine->chosen, engine, error) != 0 ||
        allocate_rows(&engine->draft_hidden, engine, error) != 0) {
        return ERROR_MEMORY;
    }
    if (ends > 0) {
        memcpy(engine->end_tokens, engine->options.end_tokens, ends * sizeof *engine->end_tokens);
    }
    return 0;
}

static int create_samplers(struct engine *engine, struct error *error) {
    int64_t workers = pool_threads(engine->op->pool);
    engine->samplers = memory_allocate((size_t)workers, sizeof *engine->samplers, "samplers", error);
    if (engine->samplers == NULL) {
        return ERROR_MEMORY;
    }
    for (; engine->sampler_count < workers; engine->sampler_count++) {
        if (sampler_create(&engine->samplers[engine->sampler_count], engine->model->config.vocab_size, error) != 0) {
            return ERROR_MEMORY;
        }
    }
    return 0;
}

static int open_files(struct engine *engine, struct error *error) {
    const struct engine_options *options = &engine->options;
    if (options->cache_directory == NULL || !options->prefix_cache) {
        return 0;
    }
    struct page_files_options wanted = {.directory = options->cache_directory,
                                        .weights_name = options->weights_name,
                                        .bytes = options->cache_directory_bytes};
    return page_files_open(&engine->files, &engine->pages, &wanted, error);
}

int engine_create(struct engine **out, struct model *model, struct op_context *op, const struct engine_options *options,
                  struct error *error) {
    *out = NULL;
    int code = check_options(options, model, error);
    if (code != 0) {
        return code;
    }
    struct engine *engine = memory_allocate(1, sizeof *engine, "engine", error);
    if (engine == NULL) {
        return ERROR_MEMORY;
    }
    if (options->form != SESSION_EXPANDED) {
        model_prepare_absorbed(model, op);
    }
    engine->model = model;
    engine->op = op;
    engine->options = *options;
    engine->depths = options->drafts == DRAFTS_NEVER ? 0 : model->config.num_nextn_predict_layers;
    engine->max_rows = options->batch * (1 + engine->depths) + ENGINE_LARGE_CHUNK * options->chunk;
    engine->stats.cache_tokens_total = (options->cache_tokens + ATTENTION_BLOCK - 1) / ATTENTION_BLOCK *
                                       ATTENTION_BLOCK;
    pthread_mutex_init(&engine->lock, NULL);
    enum attention_form stored = options->form == SESSION_EXPANDED ? ATTENTION_EXPANDED : ATTENTION_ABSORBED;
    struct cache_layout layout;
    if ((code = cache_layout_make(&layout, &model->config, model->compute, stored, options->cache, error)) != 0 ||
        (code = page_pool_create(&engine->pages, &layout, model->config.num_hidden_layers + engine->depths,
                                 engine->stats.cache_tokens_total / ATTENTION_BLOCK, error)) != 0 ||
        (code = create_samplers(engine, error)) != 0 || (code = allocate_tables(engine, error)) != 0 ||
        (code = open_files(engine, error)) != 0) {
        engine_destroy(engine);
        return code;
    }
    engine->options.end_tokens = NULL;   // the caller's, copied or used up
    engine->options.cache_directory = engine->options.weights_name = NULL;
    engine->stats.expert_load = engine->expert_load;
    engine->published = engine->stats;
    *out = engine;
    return 0;
}

// ---- Requests -------------------------------------------------------------------------------------------------------

static void request_destroy(struct engine_request *request) {
    if (request != NULL) {
        memory_free(request->ids);
        memory_free(request->pages);
        memory_free(request->page_rows);
        memory_free(request->logit_bias);
        memory_free(request);
    }
}

static int check_request(const struct engine *engine, const struct minke_request *request, struct error *error) {
    int64_t vocab_size = engine->model->config.vocab_size;
    int64_t needed = request->count + (request->max_tokens > 0);
    if (request->count < 1 || request->max_tokens < 0 || request->log_probabilities < 0 ||
        request->log_probabilities > ENGINE_MAX_TOP || request->callback == NULL) {
        return error_set(error, ERROR_ARGUMENT,
                         "request: expected at least one prompt token, max_tokens >= 0, log_probabilities 0..%d and a "
                         "callback, found %lld, %lld, %lld%s",
                         ENGINE_MAX_TOP, (long long)request->count, (long long)request->max_tokens,
                         (long long)request->log_probabilities, request->callback == NULL ? ", none" : "");
    }
    if (request->count > engine->options.context || needed > engine->options.context) {
        return error_set(error, ERROR_LIMIT, "request: a prompt of %lld tokens%s does not fit into the context of %lld",
                         (long long)request->count, needed > request->count ? " and an answer" : "",
                         (long long)engine->options.context);
    }
    for (int64_t i = 0; i < request->count; i++) {
        if (request->ids[i] < 0 || request->ids[i] >= vocab_size) {
            return error_set(error, ERROR_ARGUMENT, "request: token %lld: expected an id in 0..%lld, found %d",
                             (long long)i, (long long)vocab_size - 1, request->ids[i]);
        }
    }
    if (request->sampling.logit_bias_count < 0 || !isfinite(request->sampling.temperature) ||
        !isfinite(request->sampling.frequency_penalty) || !isfinite(request->sampling.presence_penalty) ||
        !isfinite(request->sampling.repetition_penalty) || request->sampling.repetition_penalty < 0) {
        return error_set(error, ERROR_ARGUMENT, "request: temperature and penalties must be finite numbers");
    }
    for (int64_t i = 0; i < request->sampling.logit_bias_count; i++) {
        int32_t id = request->sampling.logit_bias[i].id;
        if (id < 0 || id >= vocab_size) {
            return error_set(error, ERROR_ARGUMENT, "request: logit_bias: expected an id in 0..%lld, found %d",
                             (long long)vocab_size - 1, id);
        }
    }
    return 0;
}

static int copy_request(struct engine_request *copy, const struct engine *engine, const struct minke_request *request,
                        struct error *error) {
    int64_t room = engine->options.context - request->count;
    int64_t bias = request->sampling.logit_bias_count;
    copy->wanted = *request;
    copy->prompt_count = copy->count = request->count;
    copy->limit = request->count + (request->max_tokens < room ? request->max_tokens : room);
    copy->chain = page_chain_root();
    size_t pages = (size_t)(copy->limit + MINKE_MAX_DRAFTS) / ATTENTION_BLOCK + 1;
    copy->ids = memory_allocate((size_t)(copy->limit + MINKE_MAX_DRAFTS), sizeof *copy->ids, "request", error);
    copy->pages = memory_allocate(pages, sizeof *copy->pages, "request", error);
    copy->page_rows = memory_allocate(pages, sizeof *copy->page_rows, "request", error);
    copy->logit_bias = memory_allocate((size_t)bias + 1, sizeof *copy->logit_bias, "request", error);
    if (copy->ids == NULL || copy->pages == NULL || copy->page_rows == NULL || copy->logit_bias == NULL) {
        return ERROR_MEMORY;
    }
    memcpy(copy->ids, request->ids, (size_t)request->count * sizeof *copy->ids);
    copy->wanted.ids = copy->ids;
    if (bias > 0) {
        memcpy(copy->logit_bias, request->sampling.logit_bias, (size_t)bias * sizeof *copy->logit_bias);
    }
    copy->wanted.sampling.logit_bias = copy->logit_bias;
    if (request->filter != NULL) {
        copy->filter = *request->filter;
        copy->wanted.filter = &copy->filter;
    }
    return 0;
}

int engine_submit(int64_t *number, struct engine *engine, const struct minke_request *request, struct error *error) {
    int code = check_request(engine, request, error);
    if (code != 0) {
        return code;
    }
    struct engine_request *copy = memory_allocate(1, sizeof *copy, "request", error);
    if (copy == NULL || copy_request(copy, engine, request, error) != 0) {
        request_destroy(copy);
        return ERROR_MEMORY;
    }
    pthread_mutex_lock(&engine->lock);
    copy->number = *number = ++engine->next_number;
    copy->next_live = engine->live;
    if (engine->live != NULL) {
        engine->live->previous_live = copy;
    }
    engine->live = copy;
    engine->live_count++;
    *(engine->inbox == NULL ? &engine->inbox : &engine->inbox_last->next) = copy;
    engine->inbox_last = copy;
    engine->published.waiting++;
    pthread_mutex_unlock(&engine->lock);
    return 0;
}

void engine_cancel(struct engine *engine, int64_t number) {
    pthread_mutex_lock(&engine->lock);
    for (struct engine_request *request = engine->live; request != NULL; request = request->next_live) {
        if (request->number == number) {
            atomic_store(&request->cancelled, true);
        }
    }
    pthread_mutex_unlock(&engine->lock);
}

void engine_weights_changed(struct engine *engine) {
    atomic_store(&engine->weights_changed, true);
}

void engine_statistics(struct minke_engine_stats *stats, struct engine *engine) {
    pthread_mutex_lock(&engine->lock);
    *stats = engine->published;
    pthread_mutex_unlock(&engine->lock);
}

bool engine_is_end(const struct engine *engine, int32_t id) {
    for (int64_t i = 0; i < engine->options.end_token_count; i++) {
        if (engine->end_tokens[i] == id) {
            return true;
        }
    }
    return false;
}

void engine_finish(struct engine_request *request, enum minke_finish finish, const char *trouble) {
    if (!request->finished) {
        request->finished = true;
        request->finish = finish;
        request->trouble = trouble;
    }
}

// The last event, and the end of the request; it is in no list but `live` any more.
static void retire(struct engine *engine, struct engine_request *request) {
    engine->stats.requests++;
    answer_finished(engine, request);
    pthread_mutex_lock(&engine->lock);
    *(request->previous_live == NULL ? &engine->live : &request->previous_live->next_live) = request->next_live;
    if (request->next_live != NULL) {
        request->next_live->previous_live = request->previous_live;
    }
    engine->live_count--;
    pthread_mutex_unlock(&engine->lock);
    request_destroy(request);
}

void engine_destroy(struct engine *engine) {
    if (engine == NULL) {
        return;
    }
    while (engine->live != NULL) {
        engine_finish(engine->live, MINKE_FINISH_CANCELLED, NULL);
        retire(engine, engine->live);
    }
    page_files_close(engine->files);
    page_pool_destroy(&engine->pages);
    for (int64_t i = 0; i < engine->sampler_count; i++) {
        sampler_destroy(&engine->samplers[i]);
    }
    memory_free(engine->samplers);
    memory_free(engine->end_tokens);
    memory_free(engine->running);
    memory_free(engine->works);
    memory_free(engine->expert_load);
    memory_free(engine->outcomes);
    memory_free(engine->logits);
    memory_free(engine->pass.ids);
    memory_free(engine->pass.positions);
    memory_free(engine->pass.cache_rows);
    memory_free(engine->pass.rows);
    memory_free(engine->pass.spans);
    memory_free(engine->hidden.data);
    memory_free(engine->chosen.data);
    memory_free(engine->draft_hidden.data);
    pthread_mutex_destroy(&engine->lock);
    memory_free(engine);
}

// ---- A forward pass -------------------------------------------------------------------------------------------------

void engine_pass_begin(struct engine *engine) {
    engine->pass.batch = (struct token_batch){.ids = engine->pass.ids,
                                              .positions = engine->pass.positions,
                                              .cache_row = engine->pass.cache_rows,
                                              .spans = engine->pass.spans,
                                              .form = ATTENTION_EXPANDED,
                                              .expert_load = engine->expert_load};
}

void engine_pass_add(struct engine *engine, const struct engine_work *work, int64_t begin, int64_t end, int64_t shift,
                     int64_t window, bool absorbed) {
    const struct engine_request *request = work->request;
    struct engine_pass *pass = &engine->pass;
    struct token_batch *batch = &pass->batch;
    if (absorbed) {
        begin = begin > work->split ? begin : work->split;
    } else {
        end = end < work->split ? end : work->split;
    }
    if (begin >= end) {
        return;
    }
    int64_t first_page = window / ATTENTION_BLOCK;
    pass->spans[batch->span_count++] = (struct attention_span){.query_row = batch->tokens,
                                                               .count = end - begin,
                                                               .position = begin - first_page * ATTENTION_BLOCK,
                                                               .pages = request->page_rows + first_page};
    batch->absorbed_spans += absorbed;
    for (int64_t p = begin; p < end; p++, batch->tokens++) {
        pass->ids[batch->tokens] = request->ids[p + shift];
        pass->positions[batch->tokens] = (int32_t)p;
        pass->cache_rows[batch->tokens] = request->page_rows[p / ATTENTION_BLOCK] * ATTENTION_BLOCK +
                                          (int32_t)(p % ATTENTION_BLOCK);
    }
}

static void forward(struct engine *engine) {
    engine_pass_begin(engine);
    for (int absorbed = 1; absorbed >= 0; absorbed--) {
        for (int64_t i = 0; i < engine->work_count; i++) {
            struct engine_work *work = &engine->works[i];
            *(absorbed ? &work->absorbed_row : &work->expanded_row) = engine->pass.batch.tokens;
            engine_pass_add(engine, work, work->begin, work_end(work), 0, 0, absorbed);
        }
    }
    struct tensor hidden = tensor_slice(&engine->hidden, 0, 0, engine->pass.batch.tokens);
    model_infer(engine->op, &hidden, engine->model, &engine->pass.batch, engine->pages.layers);
}

// ---- A step ---------------------------------------------------------------------------------------------------------

static void collect(struct engine *engine) {
    pthread_mutex_lock(&engine->lock);
    struct engine_request *request = engine->inbox;
    engine->inbox = engine->inbox_last = NULL;
    pthread_mutex_unlock(&engine->lock);
    while (request != NULL) {
        struct engine_request *next = request->next;
        scheduler_wait(engine, request);
        request = next;
    }
    if (atomic_exchange(&engine->weights_changed, false)) {
        while (engine->running_count > 0) {
            scheduler_requeue(engine, engine->running[engine->running_count - 1]);
        }
        page_pool_forget(&engine->pages);
        page_files_close(engine->files);   // its pages belong to other weights now
        engine->files = NULL;
    }
}

// Takes cancelled and finished requests out.
static void sweep(struct engine *engine) {
    for (struct engine_request **link = &engine->waiting; *link != NULL;) {
        struct engine_request *request = *link;
        if (atomic_load(&request->cancelled)) {
            *link = request->next;
            engine->waiting_count--;
            engine_finish(request, MINKE_FINISH_CANCELLED, NULL);
            retire(engine, request);
        } else {
            link = &request->next;
        }
    }
    for (int64_t i = 0; i < engine->running_count;) {
        struct engine_request *request = engine->running[i];
        request->work = NULL;
        if (atomic_load(&request->cancelled)) {
            engine_finish(request, MINKE_FINISH_CANCELLED, NULL);
        }
        if (request->finished) {
            scheduler_drop(engine, request);
            retire(engine, request);
        } else {
            i++;
        }
    }
}

static int64_t publish(struct engine *engine) {
    engine->stats.cache_tokens_used = (engine->pages.page_count - page_pool_available(&engine->pages)) *
                                      ATTENTION_BLOCK;
    pthread_mutex_lock(&engine->lock);
    int64_t left = engine->live_count;
    engine->published = engine->stats;
    engine->published.running = engine->running_count;
    engine->published.waiting = left - engine->running_count;
    pthread_mutex_unlock(&engine->lock);
    return left;
}

static int64_t accepted_drafts(const struct engine *engine) {
    int64_t accepted = 0;
    for (int64_t depth = 0; depth < engine->depths; depth++) {
        accepted += engine->stats.accepted[depth];
    }
    return accepted;
}

// After a pass: if something in it could not be had (an expert that could not be read), the requests it was for end.
static bool pass_failed(struct engine *engine) {
    struct error error = {0};
    if (op_context_error(engine->op, &error) == 0) {
        return false;
    }
    engine->failure = error;
    for (int64_t i = 0; i < engine->work_count; i++) {
        engine_finish(engine->works[i].request, MINKE_FINISH_ERROR, engine->failure.text);
    }
    return true;
}

// The model, the answers, the next drafts. False: a pass failed, and what it left in the cache is void.
static bool compute(struct engine *engine) {
    int64_t accepted = accepted_drafts(engine);
    double start = clock_seconds();
    forward(engine);
    if (pass_failed(engine)) {
        return false;
    }
    answer_prompts(engine);
    answer_tokens(engine);
    double answered = clock_seconds();
    if (engine->drafting) {
        speculate(engine);
    }
    speculate_learn(engine, answered - start, clock_seconds() - answered, accepted_drafts(engine) - accepted);
    return !pass_failed(engine);
}

int64_t engine_step(struct engine *engine, struct error *error) {
    (void)error;   // requests' own troubles end those requests; nothing else can go wrong
    double start = clock_seconds();
    collect(engine);
    sweep(engine);
    scheduler_admit(engine);
    answer_prompts(engine);   // of prompts of one token there is nothing to compute
    sweep(engine);
    speculate_choose(engine);
    scheduler_plan(engine);
    if (engine->work_count > 0) {
        bool sound = compute(engine);
        for (int64_t i = 0; sound && i < engine->work_count; i++) {
            scheduler_register(engine, engine->works[i].request);
        }
        engine->stats.steps++;
    }
    if (engine->files != NULL) {
        page_files_save_some(engine->files);
    }
    sweep(engine);
    engine->stats.step_seconds += clock_seconds() - start;
    return publish(engine);
}
