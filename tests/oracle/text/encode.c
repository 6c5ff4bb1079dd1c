// Driver for compare.py: encode TOKENIZER DOCUMENTS IDS ROUNDS. DOCUMENTS is a file of records (uint32 size, bytes);
// IDS gets records (uint32 count, int32 ids). Prints the seconds of the fastest round of encoding everything on one
// thread, and whether decoding gave every document back.
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/log.h"
#include "text/tokenizer.h"

static int fail(const struct error *error) {
    fprintf(stderr, "%s\n", error->text);
    return 1;
}

int main(int argc, char **argv) {
    struct error error = {0};
    struct mapped_file file;
    struct tokenizer *tokenizer;
    struct encoder *encoder;
    if (argc != 5) {
        return 2;
    }
    double begin = clock_seconds();
    if (tokenizer_load(&tokenizer, argv[1], &error) != 0) {
        return fail(&error);
    }
    double load = clock_seconds() - begin, best = 1e9;
    if (file_map(&file, argv[2], &error) != 0) {
        return fail(&error);
    }
    struct token_buffer all = {0}, ids = {0};
    struct byte_buffer text = {0};
    int round_trip = 1;
    for (int round = 0; round < atoi(argv[4]); round++) {
        if (encoder_create(&encoder, tokenizer, &error) != 0) {
            return fail(&error);
        }
        all.count = 0;
        double seconds = 0;
        for (int64_t at = 0; at + 4 <= file.size;) {
            uint32_t size;
            memcpy(&size, file.data + at, 4);
            const char *document = (const char *)file.data + at + 4;
            ids.count = 0;
            begin = clock_seconds();
            if (encoder_encode(&ids, encoder, document, size, ENCODE_ADDED_TOKENS, &error) != 0) {
                return fail(&error);
            }
            seconds += clock_seconds() - begin;
            if (round == 0) {
                text.size = 0;
                if (tokenizer_decode(&text, tokenizer, ids.ids, ids.count, 0, &error) != 0) {
                    return fail(&error);
                }
                round_trip &= text.size == size && (size == 0 || memcmp(text.data, document, size) == 0);
            }
            if (token_buffer_append(&all, (int32_t)ids.count, &error) != 0 ||
                token_buffer_reserve(&all, ids.count, &error) != 0) {
                return fail(&error);
            }
            memcpy(all.ids + all.count, ids.ids, (size_t)ids.count * 4);
            all.count += ids.count;
            at += 4 + (int64_t)size;
        }
        best = seconds < best ? seconds : best;
        encoder_free(encoder);
    }
    FILE *out = fopen(argv[3], "wb");
    if (out == NULL || fwrite(all.ids, 4, (size_t)all.count, out) != (size_t)all.count || fclose(out) != 0) {
        perror(argv[3]);
        return 1;
    }
    printf("%.6f %.6f %d\n", load, best, round_trip);
    return 0;
}
