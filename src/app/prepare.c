// `minke prepare`: text files, JSON lines, folders or standard input -> a dataset of token shards (data/prepare.h).
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "app/app.h"
#include "app/options.h"
#include "base/log.h"
#include "base/memory.h"
#include "data/dataset.h"
#include "data/prepare.h"

static volatile sig_atomic_t stop_requested;

static void on_signal(int number) {
    (void)number;
    stop_requested = 1;
}

// The first ctrl-C ends the work at the next batch and leaves nothing behind, the second one ends the program at once.
static void catch_signals(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

// \n \r \t \f \0 \\ and \xHH as in C; returns the size, or -1 when something else follows a backslash. `out` has room
// for strlen(text) bytes.
static int64_t unescape(char *out, const char *text) {
    static const char names[] = "nrtf0\\", values[] = "\n\r\t\f\0\\";
    int64_t size = 0;
    while (*text != '\0') {
        if (*text != '\\') {
            out[size++] = *text++;
            continue;
        }
        const char *name = text[1] != '\0' ? strchr(names, text[1]) : NULL;
        if (name != NULL) {
            out[size++] = values[name - names];
            text += 2;
        } else if (text[1] == 'x' && hex_digit(text[2]) >= 0 && hex_digit(text[3]) >= 0) {
            out[size++] = (char)(16 * hex_digit(text[2]) + hex_digit(text[3]));
            text += 4;
        } else {
            return -1;
        }
    }
    return size;
}

static void print_side(const char *name, const struct prepare_side *side) {
    char tokens[32], bytes[32];
    printf("  %-11s %8" PRId64 " documents %10s tokens %12s of text", name, side->documents,
           text_count(tokens, (double)side->tokens), text_bytes(bytes, side->bytes));
    if (side->tokens > 0) {
        printf(" %8.2f bytes a token", (double)side->bytes / (double)side->tokens);
    }
    printf("\n");
}

static void print_result(const struct prepare_result *result, const char *output) {
    printf("%s: %" PRId64 " file%s, vocabulary of %" PRId64 "\n", output, result->files, result->files == 1 ? "" : "s",
           result->vocab_size);
    print_side("training", &result->train);
    print_side("validation", &result->validation);
    if (result->empty + result->duplicates + result->binary_files > 0) {
        printf("  left out    %8" PRId64 " duplicates, %" PRId64 " empty documents, %" PRId64 " binary files\n",
               result->duplicates, result->empty, result->binary_files);
    }
    if (result->replaced > 0) {
        log_warning("%" PRId64 " ill-formed UTF-8 sequences became U+FFFD", result->replaced);
    }
    if (result->validation.documents == 0) {
        log_warning("nothing is held out for validation");
    }
}

static int run(const struct prepare_options *options, const struct common_options *common) {
    struct error error = {0};
    struct pool *pool = NULL;
    struct prepare_result result;
    catch_signals();
    int code = pool_create(&pool, (int)common->threads, &error);
    if (code == 0) {
        code = prepare_run(&result, options, pool, &error);
    }
    pool_destroy(pool);
    if (code != 0) {
        log_error("%s", error.text);
        return stop_requested ? 130 : 1;
    }
    print_result(&result, options->output);
    return 0;
}

static int verify(const char *directory) {
    struct error error = {0};
    static const char *const names[] = {"training", "validation"};
    for (int split = DATA_TRAIN; split <= DATA_VALIDATION; split++) {
        struct dataset *dataset;
        if (dataset_open(&dataset, directory, (enum data_split)split, &error) != 0) {
            log_error("%s", error.text);
            return 1;
        }
        struct prepare_side side = {dataset_documents(dataset), dataset_tokens(dataset), dataset_bytes(dataset)};
        print_side(names[split], &side);
        dataset_close(dataset);
    }
    if (dataset_verify(directory, &error) != 0) {
        log_error("%s", error.text);
        return 1;
    }
    printf("%s: every checksum agrees\n", directory);
    return 0;
}

static const char description[] =
    "FILES are text, JSON lines (.jsonl, .ndjson), folders of them, or \"-\" for standard input. OUT becomes a\n"
    "folder with token shards, dataset.json and the tokenizer; it appears when it is complete, or not at all.\n"
    "\n"
    "Documents. Each line of JSON lines is one. A text file is cut at --split-on; without it, into documents of\n"
    "about --document-bytes at blank lines (0: every file is one document). Documents of blanks are dropped, and\n"
    "all but the first of documents with the same text. Text is taken as it is, byte for byte, but for a byte order\n"
    "mark at the start of a file, ill-formed UTF-8 (--ill-formed) and, with --line-feeds, CR LF and CR. Zero bytes\n"
    "are text; a file with zero bytes near its beginning is passed over when it is found in a folder. Text that\n"
    "looks like a special token stays text.\n"
    "\n"
    "Validation. Whole documents are held out: those of --validation-files, or chosen by the hash of their text, so\n"
    "that the choice depends neither on order nor on threads. A tokenizer that is trained here does not see them.";

static const char examples[] = "  minke prepare data --train-tokenizer 8192 books/\n"
                               "  minke prepare data --tokenizer model/ --validation 0.01 corpus.jsonl\n"
                               "  zcat pages.txt.gz | minke prepare data --tokenizer model/ --split-on '\\f' -";

struct arguments {
    struct prepare_options options;
    struct common_options common;
    const char *format, *ill_formed, *separator, *held_out;
    char **inputs;
    int input_count;
    bool verify, rate_given;
};

static bool parse(struct arguments *arguments, int argc, char **argv, int *status) {
    struct prepare_options *options = &arguments->options;
    const struct command_option rows[] = {
        {.name = "tokenizer", .argument = "PATH", .help = "tokenizer.json or its folder", .text = &options->tokenizer},
        {.name = "train-tokenizer",
         .argument = "N",
         .help = "train one of N tokens on the training documents (also written to --tokenizer)",
         .integer = &options->train_vocabulary,
         .minimum = 1,
         .maximum = INT32_MAX},
        {.name = "format",
         .argument = "F",
         .help = "of all files (auto: by name)",
         .text = &arguments->format,
         .choices = "auto|text|jsonl"},
        {.name = "text-key", .argument = "KEY", .help = "of JSON lines (text)", .text = &options->corpus.text_key},
        {.name = "split-on",
         .argument = "SEP",
         .help = "documents of a text file end at SEP; \\n \\t \\f \\xHH are understood",
         .text = &arguments->separator},
        {.name = "document-bytes",
         .argument = "N",
         .help = "about so many bytes a document (32768); 0 = whole files",
         .integer = &options->corpus.document_bytes,
         .maximum = CORPUS_DOCUMENT_LIMIT},
        {.name = "validation",
         .argument = "RATE",
         .help = "share of the documents to hold out (0.02)",
         .number = &options->validation_rate,
         .most = 0.999,
         .given = &arguments->rate_given},
        {.name = "validation-bytes",
         .argument = "N",
         .help = "hold out documents until their text has N bytes",
         .integer = &options->validation_bytes,
         .minimum = 1,
         .maximum = INT64_MAX},
        {.name = "validation-files",
         .argument = "P",
         .help = "hold out this file or folder",
         .text = &arguments->held_out},
        {.name = "validation-text",
         .help = "also write the held-out text to OUT/validation.txt",
         .flag = &options->validation_text},
        {.name = "keep-duplicates", .help = "keep documents with the same text", .flag = &options->keep_duplicates},
        {.name = "ill-formed",
         .argument = "HOW",
         .help = "UTF-8: replace by U+FFFD, keep the bytes, or refuse",
         .text = &arguments->ill_formed,
         .choices = "replace|keep|refuse"},
        {.name = "line-feeds", .help = "turn CR LF and CR into LF", .flag = &options->corpus.line_feeds},
        {.name = "shard-bytes",
         .argument = "N",
         .help = "size of a shard (134217728)",
         .integer = &options->shard_bytes,
         .minimum = 1,
         .maximum = INT64_MAX / 4},
        {.name = "overwrite", .help = "replace the dataset OUT", .flag = &options->overwrite},
        {.name = "verify", .help = "check the dataset OUT with all its checksums", .flag = &arguments->verify},
        {0},
    };
    const struct command_positional positionals[] = {
        {.name = "OUT", .help = "folder to write", .text = &options->output},
        {.name = "FILES",
         .help = "text, JSON lines, folders, -",
         .list = &arguments->inputs,
         .count = &arguments->input_count},
        {0},
    };
    const struct command_syntax syntax = {.name = "prepare",
                                          .summary = "turn text into a dataset of token shards",
                                          .description = description,
                                          .examples = examples,
                                          .options = rows,
                                          .positionals = positionals,
                                          .common = &arguments->common};
    return options_parse(&syntax, argc, argv, status);
}

// What the options cannot say by themselves. `separator` has room for the argument of --split-on.
static bool complete(struct arguments *arguments, char *separator) {
    struct prepare_options *options = &arguments->options;
    if (arguments->input_count == 0) {
        log_error("prepare: no FILES; expected text files, folders or \"-\"");
        return false;
    }
    if (arguments->rate_given + (options->validation_bytes > 0) + (arguments->held_out != NULL) > 1) {
        log_error("prepare: --validation, --validation-bytes and --validation-files exclude each other");
        return false;
    }
    if (arguments->separator != NULL) {
        options->corpus.separator = separator;
        options->corpus.separator_size = unescape(separator, arguments->separator);
        if (options->corpus.separator_size < 1) {
            log_error("prepare: --split-on: found \"%s\", expected text with \\n \\r \\t \\f \\0 \\\\ or \\xHH in it",
                      arguments->separator);
            return false;
        }
    }
    options->corpus.format = strcmp(arguments->format, "text") == 0    ? CORPUS_TEXT
                             : strcmp(arguments->format, "jsonl") == 0 ? CORPUS_JSONL
                                                                       : CORPUS_BY_NAME;
    options->corpus.ill_formed = strcmp(arguments->ill_formed, "keep") == 0     ? CORPUS_KEEP
                                 : strcmp(arguments->ill_formed, "refuse") == 0 ? CORPUS_REFUSE
                                                                                : CORPUS_REPLACE;
    options->inputs = arguments->inputs;
    options->input_count = arguments->input_count;
    options->corpus.stop = &stop_requested;
    return true;
}

int command_prepare(int argc, char **argv) {
    struct arguments arguments = {.options = prepare_options_default(), .format = "auto", .ill_formed = "replace"};
    int status;
    if (!parse(&arguments, argc, argv, &status)) {
        return status;
    }
    if (arguments.verify) {
        return verify(arguments.options.output);
    }
    char *held_out_list[] = {(char *)(uintptr_t)arguments.held_out};
    char *separator = memory_copy_string(arguments.separator != NULL ? arguments.separator : "", NULL);
    arguments.options.held_out_inputs = held_out_list;
    arguments.options.held_out_count = arguments.held_out != NULL;
    if (separator == NULL) {
        log_error("prepare: out of memory");
        status = 1;
    } else {
        status = complete(&arguments, separator) ? run(&arguments.options, &arguments.common) : 2;
    }
    memory_free(separator);
    return status;
}
