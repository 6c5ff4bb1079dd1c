// What a client did wrong, or what went wrong here, in OpenAI's form: an HTTP status and
//
//     {"error": {"message": "...", "type": "invalid_request_error", "param": "messages[0].role", "code": null}}
#ifndef MINKE_SERVE_FAILURE_H
#define MINKE_SERVE_FAILURE_H

#include "serve/text.h"

struct failure {
    int status;         // HTTP status; 0 = nothing failed
    const char *code;   // a literal, NULL = null
    char param[128];    // the key that is to blame, empty = null
    char message[640];
};

// Fills *failure and returns its status. The first failure wins.
int failure_set(struct failure *failure, int status, const char *code, const char *param, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
// {"error": {...}}, without a line break.
void failure_write(struct text *out, const struct failure *failure);

#endif
