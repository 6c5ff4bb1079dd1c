// minke tokenize: lines of stdin -> one JSON array of token ids each; with --decode, arrays -> text.
//
// A line is encoded without its line feed and without BOS; added tokens are recognised. Any bytes and any length are
// fine. Answers are written as soon as the lines of one read are done, so that a program can converse over pipes.
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "app/app.h"
#include "app/options.h"
#include "base/log.h"
#include "text/json_cursor.h"
#include "text/tokenizer.h"

#define READ_BYTES (1 << 18)

struct tokenize {
    const struct tokenizer *tokenizer;
    struct encoder *encoder;
    bool decode;
    int64_t line;   // number of the current one, for messages
    struct token_buffer ids;
    struct byte_buffer output;
};

static int ids_write(struct tokenize *tokenize, struct error *error) {
    // An id has at most 10 digits, a comma and a space.
    if (byte_buffer_reserve(&tokenize->output, tokenize->ids.count * 12 + 4, error) != 0) {
        return ERROR_MEMORY;
    }
    char *out = tokenize->output.data + tokenize->output.size;
    *out++ = '[';
    for (int64_t i = 0; i < tokenize->ids.count; i++) {
        char digits[12];
        int count = 0;
        for (uint32_t rest = (uint32_t)tokenize->ids.ids[i]; count == 0 || rest > 0; rest /= 10) {
            digits[count++] = (char)('0' + rest % 10);
        }
        if (i > 0) {
            *out++ = ',';
            *out++ = ' ';
        }
        while (count > 0) {
            *out++ = digits[--count];
        }
    }
    *out++ = ']';
    *out++ = '\n';
    tokenize->output.size = out - tokenize->output.data;
    return 0;
}

static int ids_read(struct tokenize *tokenize, const char *text, int64_t size, struct error *error) {
    struct json_cursor cursor = {
        .text = text, .size = (size_t)size, .first_line = tokenize->line, .name = "standard input"};
    int64_t id;
    int code = json_cursor_expect(&cursor, '[', error);
    bool more = code == 0 && !json_cursor_accept(&cursor, ']');
    while (more && code == 0) {
        if ((code = json_cursor_integer(&id, &cursor, error)) == 0) {
            // Out of 32 bits is out of the vocabulary as well: -1 lets tokenizer_decode say so.
            code = token_buffer_append(&tokenize->ids, id < 0 || id > INT32_MAX ? -1 : (int32_t)id, error);
        }
        more = code == 0 && json_cursor_accept(&cursor, ',');
        if (code == 0 && !more) {
            code = json_cursor_expect(&cursor, ']', error);
        }
    }
    if (code == 0 && json_cursor_peek(&cursor) != 0) {
        code = json_cursor_fail(&cursor, "expected the end of the line behind the array", error);
    }
    return code;
}

static int line_convert(struct tokenize *tokenize, const char *text, int64_t size, struct error *error) {
    tokenize->line++;
    tokenize->ids.count = 0;
    if (!tokenize->decode) {
        int code = encoder_encode(&tokenize->ids, tokenize->encoder, text, size, ENCODE_ADDED_TOKENS, error);
        return code != 0 ? code : ids_write(tokenize, error);
    }
    int code = ids_read(tokenize, text, size, error);
    if (code != 0) {
        return code;
    }
    int64_t before = tokenize->output.size;
    if ((code = tokenizer_decode(&tokenize->output, tokenize->tokenizer, tokenize->ids.ids, tokenize->ids.count, 0,
                                 error)) != 0) {
        tokenize->output.size = before;
        return error_prefix(error, "standard input: line %lld", (long long)tokenize->line);
    }
    return byte_buffer_append(&tokenize->output, "\n", 1, error);
}

static int output_flush(struct tokenize *tokenize, struct error *error) {
    size_t size = (size_t)tokenize->output.size;
    if (size > 0 && (fwrite(tokenize->output.data, 1, size, stdout) != size || fflush(stdout) != 0)) {
        return error_set_errno(error, "standard output: cannot write");
    }
    tokenize->output.size = 0;
    return 0;
}

// Converts the whole lines in `input`, then drops them; at the end of the input also what stands behind the last line
// feed.
static int lines_convert(struct tokenize *tokenize, struct byte_buffer *input, int64_t searched, bool end,
                         struct error *error) {
    int64_t begin = 0;
    int code = 0;
    while (code == 0 && input->size > 0) {
        int64_t from = begin > searched ? begin : searched;
        const char *newline = memchr(input->data + from, '\n', (size_t)(input->size - from));
        if (newline == NULL) {
            break;
        }
        code = line_convert(tokenize, input->data + begin, newline - (input->data + begin), error);
        begin = newline - input->data + 1;
    }
    if (code == 0 && end && begin < input->size) {
        code = line_convert(tokenize, input->data + begin, input->size - begin, error);
        begin = input->size;
    }
    if (begin > 0) {
        memmove(input->data, input->data + begin, (size_t)(input->size - begin));
        input->size -= begin;
    }
    int flushed = output_flush(tokenize, code == 0 ? error : NULL);
    return code != 0 ? code : flushed;
}

static int tokenize_stream(struct tokenize *tokenize, struct error *error) {
    struct byte_buffer input = {0};
    int code = 0;
    bool end = false;
    while (code == 0 && !end) {
        if ((code = byte_buffer_reserve(&input, READ_BYTES, error)) != 0) {
            break;
        }
        ssize_t count = read(STDIN_FILENO, input.data + input.size, (size_t)(input.capacity - input.size));
        if (count < 0) {
            code = errno == EINTR ? 0 : error_set_errno(error, "standard input: cannot read");
            continue;
        }
        int64_t searched = input.size;
        input.size += count;
        end = count == 0;
        code = lines_convert(tokenize, &input, searched, end, error);
    }
    byte_buffer_destroy(&input);
    return code;
}

int command_tokenize(int argc, char **argv) {
    struct tokenize tokenize = {0};
    struct tokenizer *tokenizer = NULL;
    struct error error = {0};
    const char *path = NULL;
    int status;
    const struct command_option options[] = {
        {.name = "decode", .help = "read arrays of ids, write text", .flag = &tokenize.decode},
        {0},
    };
    const struct command_positional positionals[] = {
        {.name = "MODEL_DIR|tokenizer.json", .help = "a tokenizer.json or a directory with one", .text = &path},
        {0},
    };
    const struct command_syntax syntax = {
        .name = "tokenize",
        .summary = "turn lines of text into token ids, or back",
        .description =
            "Each line of standard input, without its line feed and without BOS, becomes one JSON array of ids.\n"
            "With --decode each array becomes its text and a line feed (line feeds in the text stay as they are).",
        .examples = "  echo 'Hello, whale!' | minke tokenize model",
        .options = options,
        .positionals = positionals,
    };
    if (!options_parse(&syntax, argc, argv, &status)) {
        return status;
    }
    int code = tokenizer_load(&tokenizer, path, &error);
    if (code == 0 && (code = encoder_create(&tokenize.encoder, tokenizer, &error)) == 0) {
        tokenize.tokenizer = tokenizer;
        code = tokenize_stream(&tokenize, &error);
    }
    if (code != 0) {
        log_error("%s", error.text);
    }
    encoder_free(tokenize.encoder);
    tokenizer_free(tokenizer);
    token_buffer_destroy(&tokenize.ids);
    byte_buffer_destroy(&tokenize.output);
    return code == 0 ? 0 : 1;
}
