// Documents -> counted pieces -> merges -> files (see bpe_train.h).
#include "text/bpe_train.h"

#include <string.h>

#include "base/memory.h"
#include "text/buffer.h"
#include "text/pair_merger.h"
#include "text/piece_counter.h"
#include "text/pretokenize.h"
#include "text/tokenizer_write.h"
#include "text/unicode.h"

#define BATCH_BYTES ((int64_t)8 << 20)   // text counted in one round of the pool
#define SPAN_BYTES ((int64_t)64 << 10)   // text of one task, about

struct span {
    int64_t begin, end;
};

struct counting {   // of one worker
    struct piece_counter pieces;
    int64_t occurrences;
    int code;
    struct error error;
};

struct bpe_trainer {
    struct pool *pool;
    int workers;
    struct counting *counting;   // [workers]
    struct byte_buffer batch;
    struct span *spans;
    int64_t span_count, span_capacity;
    int64_t bytes;
};

int bpe_trainer_create(struct bpe_trainer **out, struct pool *pool, struct error *error) {
    *out = NULL;
    struct bpe_trainer *trainer = memory_allocate(1, sizeof(*trainer), "tokenizer training", error);
    if (trainer == NULL) {
        return ERROR_MEMORY;
    }
    trainer->pool = pool;
    trainer->workers = pool == NULL ? 1 : pool_threads(pool);
    trainer->counting = memory_allocate((size_t)trainer->workers, sizeof(*trainer->counting), "tokenizer training",
                                        error);
    if (trainer->counting == NULL) {
        bpe_trainer_free(trainer);
        return ERROR_MEMORY;
    }
    *out = trainer;
    return 0;
}

void bpe_trainer_free(struct bpe_trainer *trainer) {
    if (trainer != NULL) {
        for (int i = 0; i < trainer->workers && trainer->counting != NULL; i++) {
            piece_counter_destroy(&trainer->counting[i].pieces);
        }
        memory_free(trainer->counting);
        memory_free(trainer->spans);
        byte_buffer_destroy(&trainer->batch);
        memory_free(trainer);
    }
}

static void span_count_pieces(void *argument, int64_t task, int worker) {
    struct bpe_trainer *trainer = argument;
    struct counting *counting = &trainer->counting[worker];
    const uint8_t *classes = unicode_classes(),
                  *text = (const uint8_t *)trainer->batch.data + trainer->spans[task].begin;
    size_t size = (size_t)(trainer->spans[task].end - trainer->spans[task].begin);
    for (size_t begin = 0; begin < size && counting->code == 0;) {
        size_t end = pretokenize_deepseek_next(classes, text, size, begin);
        counting->code = piece_counter_add(&counting->pieces, text + begin, (int64_t)(end - begin), 1,
                                           &counting->error);
        counting->occurrences++;
        begin = end;
    }
}

static int batch_count(struct bpe_trainer *trainer, struct error *error) {
    pool_run(trainer->pool, trainer->span_count, span_count_pieces, trainer);
    trainer->batch.size = trainer->span_count = 0;
    for (int i = 0; i < trainer->workers; i++) {
        if (trainer->counting[i].code != 0) {
            return error_set(error, trainer->counting[i].code, "%s", trainer->counting[i].error.text);
        }
    }
    return 0;
}

// First place at or after `from` where text can be cut without changing its pieces, or `size`: behind a line feed,
// before a visible ASCII character. A piece that contains a line feed ends with its last one unless white space
// follows, and what a piece is does not depend on what stands before it.
static int64_t safe_cut(const char *text, int64_t size, int64_t from) {
    while (from < size) {
        const char *newline = memchr(text + from, '\n', (size_t)(size - from));
        if (newline == NULL) {
            break;
        }
        from = newline - text + 1;
        if (from < size && text[from] > ' ' && text[from] < 0x7F) {
            return from;
        }
    }
    return size;
}

int bpe_trainer_add(struct bpe_trainer *trainer, const char *text, int64_t size, struct error *error) {
    int code = 0;
    trainer->bytes += size;
    for (int64_t begin = 0; begin < size && code == 0;) {
        int64_t end = size - begin <= SPAN_BYTES ? size : safe_cut(text, size, begin + SPAN_BYTES);
        if (trainer->span_count == trainer->span_capacity) {
            int64_t capacity = trainer->span_capacity == 0 ? 256 : trainer->span_capacity * 2;
            struct span *spans = memory_resize(trainer->spans, (size_t)capacity, sizeof(*spans), "tokenizer training",
                                               error);
            if (spans == NULL) {
                return ERROR_MEMORY;
            }
            trainer->spans = spans;
            trainer->span_capacity = capacity;
        }
        int64_t start = trainer->batch.size;
        if ((code = byte_buffer_append(&trainer->batch, text + begin, end - begin, error)) == 0) {
            trainer->spans[trainer->span_count++] = (struct span){start, trainer->batch.size};
            if (trainer->batch.size >= BATCH_BYTES) {
                code = batch_count(trainer, error);
            }
        }
        begin = end;
    }
    return code;
}

int bpe_trainer_finish(struct bpe_train_result *result, struct bpe_trainer *trainer, int64_t vocabulary_size,
                       const char *directory, struct progress *progress, struct error *error) {
    *result = (struct bpe_train_result){.bytes = trainer->bytes};
    if (vocabulary_size < BPE_TRAIN_VOCABULARY_MINIMUM || vocabulary_size > BPE_TRAIN_VOCABULARY_MAXIMUM) {
        return error_set(error, ERROR_ARGUMENT,
                         "vocabulary size: found %lld, expected %d (bytes and special tokens) to %d",
                         (long long)vocabulary_size, BPE_TRAIN_VOCABULARY_MINIMUM, BPE_TRAIN_VOCABULARY_MAXIMUM);
    }
    int code = batch_count(trainer, error);
    struct piece_counter *all = &trainer->counting[0].pieces;
    for (int i = 0; i < trainer->workers && code == 0; i++) {
        result->pieces += trainer->counting[i].occurrences;
        if (i > 0) {
            code = piece_counter_merge(all, &trainer->counting[i].pieces, error);
            piece_counter_destroy(&trainer->counting[i].pieces);
        }
    }
    if (code == 0 && all->count == 0) {
        code = error_set(error, ERROR_ARGUMENT, "there is no text to train a tokenizer on");
    }
    struct merge_list merges = {0};
    int64_t wanted = vocabulary_size - BPE_TRAIN_VOCABULARY_MINIMUM;
    if (code == 0 && (code = pair_merger_run(&merges, all, wanted, progress, error)) == 0) {
        result->distinct = all->count;
        result->merges = merges.count;
        result->placeholders = wanted - merges.count;
        code = tokenizer_write(directory, &merges, result->placeholders, error);
    }
    merge_list_destroy(&merges);
    return code;
}
