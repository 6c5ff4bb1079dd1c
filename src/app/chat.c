// `minke chat`: a conversation with a model in the terminal. Lines in (with editing on a terminal), streamed answers
// out.
//
// Each turn renders the whole conversation with the model's template; the engine's prefix cache holds what was computed
// before, so that a follow-up costs little more than its own tokens. Ctrl-C stops an answer (what was written stays in
// the conversation); at the prompt it leaves.
#include <editline/readline.h>
#include <inttypes.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/app.h"
#include "app/model_files.h"
#include "app/options.h"
#include "base/log.h"
#include "base/memory.h"

#define MAX_MESSAGES 4096

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number) {
    (void)number;
    interrupted = 1;
}

struct chat {
    struct minke_model *model;
    struct minke_tokenizer *tokenizer;
    struct minke_engine *engine;
    struct minke_sampling sampling;
    int64_t tokens;   // of one answer at most
    bool thinking, terminal;
    struct minke_message messages[MAX_MESSAGES];   // contents owned; roles are literals
    int64_t message_count;
    int64_t context, used;   // tokens: that a conversation can have, and that it has
};

// ---- Conversation ---------------------------------------------------------------------------------------------------

static int add_message(struct chat *chat, const char *role, const char *content) {
    struct error error = {0};
    if (chat->message_count == MAX_MESSAGES) {
        log_error("chat: a conversation holds at most %d messages; /reset starts a new one", MAX_MESSAGES);
        return 1;
    }
    char *copy = memory_copy_string(content, &error);
    if (copy == NULL) {
        log_error("%s", error.text);
        return 1;
    }
    chat->messages[chat->message_count++] = (struct minke_message){.role = role, .content = copy};
    return 0;
}

static void drop_last_message(struct chat *chat) {
    memory_free((char *)(uintptr_t)chat->messages[--chat->message_count].content);
}

static void drop_messages(struct chat *chat) {
    while (chat->message_count > 0) {
        drop_last_message(chat);
    }
}

// An answer being written: the text so far.
struct answer {
    const struct chat *chat;
    char *text;
    size_t size;
    struct minke_decoder decoder;
    struct minke_event last;   // FINISHED
    bool failed;
};

// Appends the text of one token (-1: the end) and shows it.
static int show_token(struct answer *answer, const struct minke_tokenizer *tokenizer, int32_t id) {
    struct minke_error error = {0};
    struct error inner = {0};
    char *text = NULL;
    size_t size = 0;
    if (minke_decode_next(&text, &size, &answer->decoder, tokenizer, id, &error) != 0) {
        log_error("%s", error.text);
        return 1;
    }
    char *grown = memory_resize(answer->text, answer->size + size + 1, 1, "answer", &inner);
    if (grown == NULL) {
        log_error("%s", inner.text);
        minke_free(text);
        return 1;
    }
    memcpy(grown + answer->size, text, size);
    answer->text = grown;
    answer->size += size;
    grown[answer->size] = '\0';
    fwrite(text, 1, size, stdout);
    fflush(stdout);
    minke_free(text);
    return 0;
}

static int on_event(void *argument, const struct minke_event *event) {
    struct answer *answer = argument;
    if (event->kind == MINKE_EVENT_FINISHED) {
        answer->last = *event;
    } else if (!minke_model_is_end(answer->chat->model, event->id)) {
        answer->failed = show_token(answer, answer->chat->tokenizer, event->id) != 0;
    }
    return answer->failed || interrupted;
}

// Runs the engine until the answer is finished or interrupted.
static int run_engine(struct chat *chat, const struct minke_request *request) {
    struct minke_error error = {0};
    int64_t number, left = 1;
    if (minke_engine_submit(&number, chat->engine, request, &error) != 0) {
        log_error("%s", error.text);
        return 1;
    }
    while (left > 0) {
        left = minke_engine_step(chat->engine, &error);
        if (interrupted) {
            minke_engine_cancel(chat->engine, number);
        }
    }
    if (left < 0) {
        log_error("%s", error.text);
    }
    return left < 0;
}

static int write_answer(struct chat *chat, struct answer *answer, const int32_t *ids, int64_t count) {
    if (count >= chat->context) {
        log_error("chat: the conversation has %" PRId64 " tokens and the context holds %" PRId64
                  "; /reset or a larger --context",
                  count, chat->context);
        return 1;
    }
    struct minke_request request = {.ids = ids,
                                    .count = count,
                                    .max_tokens = chat->tokens,
                                    .sampling = chat->sampling,
                                    .callback = on_event,
                                    .argument = answer};
    double start = clock_seconds();
    int status = run_engine(chat, &request);
    if (status == 0 && answer->last.finish == MINKE_FINISH_ERROR) {
        log_error("%s", answer->last.error);
        status = 1;
    }
    status = status != 0 || answer->failed || show_token(answer, chat->tokenizer, -1) != 0;
    putchar('\n');
    chat->used = count + answer->last.answer_tokens;
    if (chat->used >= chat->context) {
        log_warning("the context of %" PRId64 " tokens is full; /reset starts anew", chat->context);
    }
    log_debug("%" PRId64 " tokens, %.1f tokens/s, %" PRId64 " of %" PRId64 " prompt tokens cached",
              answer->last.answer_tokens, (double)answer->last.answer_tokens / (clock_seconds() - start),
              answer->last.cached_tokens, count);
    return status;
}

// Lets the assistant speak; its message is appended.
static int answer_turn(struct chat *chat) {
    struct minke_error error = {0};
    int32_t *ids = NULL;
    int64_t count = 0;
    unsigned flags = MINKE_CHAT_GENERATION_PROMPT | (chat->thinking ? MINKE_CHAT_THINKING : 0);
    if (minke_encode_chat(&ids, &count, chat->tokenizer, chat->messages, chat->message_count, NULL, flags, &error) !=
        0) {
        log_error("%s", error.text);
        return 1;
    }
    interrupted = 0;
    void (*before)(int) = signal(SIGINT, on_interrupt);
    struct answer answer = {.chat = chat};
    int status = write_answer(chat, &answer, ids, count);
    signal(SIGINT, before);
    if (status == 0) {
        status = add_message(chat, "assistant", answer.text);
    }
    memory_free(answer.text);
    minke_free(ids);
    return status;
}

// ---- Commands -------------------------------------------------------------------------------------------------------

static void print_commands(void) {
    puts("/reset           forget the conversation (the system message stays)\n"
         "/system TEXT     set the system message and start anew (empty: none)\n"
         "/regenerate      answer the last message again, with another seed\n"
         "/undo            take the last question and its answer back\n"
         "/thinking on|off thinking mode of V3.1 templates\n"
         "/temp T, /top-p P, /seed S   sampling\n"
         "/stats           tokens in the context\n"
         "/quit            leave (also ctrl-D)\n"
         "A line that ends with \\ goes on in the next one.");
}

static void reset(struct chat *chat, const char *system) {
    drop_messages(chat);
    if (system != NULL && system[0] != '\0') {
        add_message(chat, "system", system);
    }
}

static void reset_keeping_system(struct chat *chat) {
    int64_t keep = chat->message_count > 0 && strcmp(chat->messages[0].role, "system") == 0;
    while (chat->message_count > keep) {
        drop_last_message(chat);
    }
}

static bool last_is(const struct chat *chat, const char *role) {
    return chat->message_count > 0 && strcmp(chat->messages[chat->message_count - 1].role, role) == 0;
}

static void undo(struct chat *chat) {
    if (last_is(chat, "assistant")) {
        drop_last_message(chat);
    }
    if (last_is(chat, "user")) {
        drop_last_message(chat);
    }
}

static void regenerate(struct chat *chat) {
    if (last_is(chat, "assistant")) {
        drop_last_message(chat);
    }
    if (last_is(chat, "user")) {
        chat->sampling.seed++;
        answer_turn(chat);
    } else {
        puts("nothing to answer yet");
    }
}

static void set_number(float *value, const char *text, double least, double most) {
    char *end;
    double number = strtod(text, &end);
    if (end == text || *end != '\0' || !(number >= least && number <= most)) {
        printf("expected a number in %g..%g, found \"%s\"\n", least, most, text);
    } else {
        *value = (float)number;
    }
}

// If line starts with `name` followed by a blank or the end, returns its argument.
static const char *command_argument(const char *line, const char *name) {
    size_t length = strlen(name);
    if (strncmp(line, name, length) != 0 || (line[length] != ' ' && line[length] != '\0')) {
        return NULL;
    }
    return line + length + strspn(line + length, " ");
}

// Returns true when the conversation is over.
static bool run_command(struct chat *chat, const char *line) {
    const char *argument;
    if (command_argument(line, "/quit") != NULL || command_argument(line, "/exit") != NULL) {
        return true;
    }
    if (command_argument(line, "/reset") != NULL) {
        reset_keeping_system(chat);
    } else if ((argument = command_argument(line, "/system")) != NULL) {
        reset(chat, argument);
    } else if (command_argument(line, "/regenerate") != NULL) {
        regenerate(chat);
    } else if (command_argument(line, "/undo") != NULL) {
        undo(chat);
    } else if ((argument = command_argument(line, "/thinking")) != NULL) {
        chat->thinking = strcmp(argument, "on") == 0;
    } else if ((argument = command_argument(line, "/temp")) != NULL) {
        set_number(&chat->sampling.temperature, argument, 0, 100);
    } else if ((argument = command_argument(line, "/top-p")) != NULL) {
        set_number(&chat->sampling.top_p, argument, 0, 1);
    } else if ((argument = command_argument(line, "/seed")) != NULL) {
        chat->sampling.seed = strtoull(argument, NULL, 10);
    } else if (command_argument(line, "/stats") != NULL) {
        printf("%" PRId64 " of %" PRId64 " tokens, %" PRId64 " messages\n", chat->used, chat->context,
               chat->message_count);
    } else {
        print_commands();
    }
    return false;
}

// ---- Lines ----------------------------------------------------------------------------------------------------------

// One physical line without its end, or NULL at the end of input; memory_free_foreign frees it.
static char *read_line(const struct chat *chat, bool first) {
    if (chat->terminal) {
        return readline(first ? "> " : "  ");
    }
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length = getline(&line, &capacity, stdin);
    if (length < 0) {
        memory_free_foreign(line);
        return NULL;
    }
    if (length > 0 && line[length - 1] == '\n') {
        line[length - 1] = '\0';
    }
    return line;
}

// A message: lines joined while they end with a backslash. Owned by the caller (memory_free); NULL at the end of input.
static char *read_message(const struct chat *chat) {
    struct error error = {0};
    char *message = NULL;
    for (bool more = true, first = true; more; first = false) {
        char *line = read_line(chat, first);
        if (line == NULL) {
            break;
        }
        size_t length = strlen(line);
        more = length > 0 && line[length - 1] == '\\';
        if (more) {
            line[length - 1] = '\n';
        }
        char *joined = memory_format(&error, "%s%s", message != NULL ? message : "", line);
        memory_free_foreign(line);
        memory_free(message);
        message = joined;
        if (message == NULL) {
            log_error("%s", error.text);
            break;
        }
    }
    return message;
}

static int converse(struct chat *chat) {
    int status = 0;
    char *message;
    while ((message = read_message(chat)) != NULL) {
        bool leave = false;
        if (message[0] == '/') {
            leave = run_command(chat, message);
        } else if (message[0] != '\0') {
            if (chat->terminal) {
                add_history(message);
            }
            if (add_message(chat, "user", message) != 0 || answer_turn(chat) != 0) {
                status = 1;
                if (last_is(chat, "user")) {
                    drop_last_message(chat);
                }
                leave = !chat->terminal;   // a person can react, a script cannot
            }
        }
        memory_free(message);
        if (leave) {
            break;
        }
    }
    return status;
}

static int run(struct chat *chat, const char *directory, const struct model_arguments *arguments, const char *system,
               const char *cache, const struct common_options *common, const struct sampling_arguments *sampling) {
    struct minke_error error = {0};
    int status = 1;
    if (app_open_model(&chat->model, directory, common, arguments) != 0) {
        return 1;
    }
    chat->sampling = app_sampling(sampling, chat->model);
    int64_t limit = minke_model_context(chat->model);
    chat->context = chat->context != 0 ? chat->context : limit < 8192 ? limit : 8192;
    struct minke_engine_options options = {
        .context = chat->context, .cache_tokens = chat->context, .batch = 1, .cache = app_cache(cache)};
    if (minke_tokenizer_open(&chat->tokenizer, directory, &error) != 0 ||
        minke_engine_create(&chat->engine, chat->model, &options, &error) != 0) {
        log_error("%s", error.text);
        goto out;
    }
    reset(chat, system);
    if (chat->terminal) {
        puts("Type a message, /help for commands, ctrl-D to leave.");
    }
    status = converse(chat);
    app_report_memory(chat->model);
out:
    drop_messages(chat);
    minke_engine_close(chat->engine);
    minke_tokenizer_close(chat->tokenizer);
    minke_model_close(chat->model);
    return status;
}

int command_chat(int argc, char **argv) {
    const char *directory = NULL, *system = NULL, *cache = NULL;
    struct model_arguments arguments = {0};
    struct sampling_arguments sampling = {0};
    int64_t tokens = INT32_MAX, context = 0;
    bool thinking = false;
    const struct command_option options[] = {
        {.name = "system", .argument = "TEXT", .help = "system message", .text = &system},
        {.name = "tokens",
         .letter = 'n',
         .argument = "N",
         .help = "tokens of one answer at most",
         .integer = &tokens,
         .minimum = 1,
         .maximum = INT32_MAX},
        SAMPLING_OPTIONS(sampling),
        {.name = "context",
         .argument = "N",
         .help = "tokens a conversation can hold (default: the model's context, at most 8192)",
         .integer = &context,
         .minimum = 16,
         .maximum = INT32_MAX},
        {.name = "thinking", .help = "start in thinking mode (V3.1)", .flag = &thinking},
        MODEL_OPTIONS(arguments),
        CACHE_OPTION(cache),
        {0},
    };
    const struct command_positional positionals[] = {
        {.name = "MODEL_DIR", .help = "a Hugging Face model directory with a tokenizer", .text = &directory},
        {0},
    };
    struct common_options common = {0};
    const struct command_syntax syntax = {
        .name = "chat",
        .summary = "talk with a model",
        .description = "Uses the chat template that belongs to the model directory. Ctrl-C stops an answer.",
        .examples =
            "minke chat MODEL_DIR\nminke chat MODEL_DIR --system \"Answer in one sentence.\" --temp 0.6 --top-p 0.95",
        .options = options,
        .positionals = positionals,
        .common = &common,
    };
    int status;
    if (!options_parse(&syntax, argc, argv, &status)) {
        return status;
    }
    static struct chat chat;   // large
    setlocale(LC_CTYPE, "");
    chat = (struct chat){
        .tokens = tokens, .thinking = thinking, .context = context, .terminal = isatty(0) && isatty(1)};
    return run(&chat, directory, &arguments, system, cache, &common, &sampling);
}
