// Levenshtein's distance by rows of the usual table.
#include "base/spelling.h"

#include <string.h>

int spelling_distance(const char *left, const char *right) {
    enum { LONGEST = 63 };
    size_t rows = strlen(left), columns = strlen(right);
    if (rows > LONGEST || columns > LONGEST) {
        return LONGEST;
    }
    int previous[LONGEST + 1], current[LONGEST + 1];
    for (size_t j = 0; j <= columns; j++) {
        previous[j] = (int)j;
    }
    for (size_t i = 1; i <= rows; i++) {
        current[0] = (int)i;
        for (size_t j = 1; j <= columns; j++) {
            int replace = previous[j - 1] + (left[i - 1] != right[j - 1]);
            int insert = current[j - 1] + 1, delete = previous[j] + 1;
            int best = replace < insert ? replace : insert;
            current[j] = best < delete ? best : delete;
        }
        memcpy(previous, current, sizeof previous);
    }
    return previous[columns];
}
