// See failure.h.
#include "serve/failure.h"

#include <stdarg.h>
#include <stdio.h>

int failure_set(struct failure *failure, int status, const char *code, const char *param, const char *format, ...) {
    if (failure->status != 0) {
        return failure->status;
    }
    failure->status = status;
    failure->code = code;
    snprintf(failure->param, sizeof failure->param, "%s", param != NULL ? param : "");
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(failure->message, sizeof failure->message, format, arguments);
    va_end(arguments);
    return status;
}

static const char *failure_type(int status) {
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 429:
        return "rate_limit_error";
    case 503:
        return "overloaded_error";
    default:
        return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

void failure_write(struct text *out, const struct failure *failure) {
    text_string(out, "{\"error\":{\"message\":");
    text_json_string(out, failure->message);
    text_format(out, ",\"type\":\"%s\",\"param\":", failure_type(failure->status));
    if (failure->param[0] != '\0') {
        text_json_string(out, failure->param);
    } else {
        text_string(out, "null");
    }
    text_string(out, ",\"code\":");
    if (failure->code != NULL) {
        text_json_string(out, failure->code);
    } else {
        text_string(out, "null");
    }
    text_string(out, "}}");
}
