// The table of endpoints.
#include <stdio.h>
#include <string.h>

#include "serve/api.h"

static const struct route routes[] = {
    {"POST", "/v1/chat/completions", api_chat, .generates = true},
    {"POST", "/v1/completions", api_completions, .generates = true},
    {"GET", "/v1/models", api_models, .open = false},
    {"GET", "/v1/models/*", api_model, .open = false},
    // The same without the version, as DeepSeek's API has them, and the path of its beta features.
    {"POST", "/chat/completions", api_chat, .generates = true},
    {"POST", "/completions", api_completions, .generates = true},
    {"POST", "/beta/chat/completions", api_chat, .generates = true},
    {"POST", "/beta/completions", api_completions, .generates = true},
    {"POST", "/beta/v1/completions", api_completions, .generates = true},
    {"GET", "/models", api_models, .open = false},
    {"POST", "/tokenize", api_tokenize, .open = false},
    {"POST", "/detokenize", api_detokenize, .open = false},
    {"GET", "/tokenizer_info", api_tokenizer_info, .open = false},
    {"GET", "/engine", api_engine, .open = false},
    {"GET", "/metrics", api_metrics, .open = false},
    {"GET", "/health", api_health, .open = true},
    {"GET", "/", api_page, .open = true},
    {"GET", "/page/*", api_page, .open = true},
};

static bool path_matches(const char *pattern, const char *path) {
    size_t length = strlen(pattern);
    return pattern[length - 1] == '*' ? strncmp(pattern, path, length - 1) == 0 : strcmp(pattern, path) == 0;
}

const struct route *route_find(const char *method, const char *path, char allowed[64], struct failure *failure) {
    // HEAD is a GET whose body libmicrohttpd leaves out.
    const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method;
    allowed[0] = '\0';
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        if (path_matches(routes[i].path, path)) {
            if (strcmp(routes[i].method, wanted) == 0) {
                return &routes[i];
            }
            snprintf(allowed, 64, "%s", routes[i].method);
        }
    }
    if (allowed[0] != '\0') {
        failure_set(failure, 405, NULL, NULL, "%s: expected the method %s, found %.20s", path, allowed, method);
    } else {
        failure_set(failure, 404, NULL, NULL, "there is no %.200s here", path);
    }
    return NULL;
}
