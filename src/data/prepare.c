// From text to a dataset, in three passes over the corpus (prepare.h).
#include "data/prepare.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "data/dataset_format.h"
#include "data/dataset_writer.h"
#include "text/bpe_train.h"
#include "text/tokenizer.h"

#define BATCH_BYTES ((int64_t)8 << 20)
#define BATCH_DOCUMENTS 4096
#define SLOT_BYTES_KEPT ((int64_t)1 << 20)   // a slot's buffers above this are given back after a batch
#define SPOOL_FILE "standard-input"
#define VALIDATION_TEXT_FILE "validation.txt"

enum fate { FATE_TRAIN, FATE_VALIDATION, FATE_EMPTY, FATE_DUPLICATE };

struct document {
    uint64_t hash;
    int64_t bytes;
    uint32_t fate;
    bool held_out;   // of a held-out input
};

enum pass { PASS_SCAN, PASS_TRAIN, PASS_ENCODE };

// One document of the batch in work.
struct slot {
    struct corpus_record record;
    struct byte_buffer text;
    struct token_buffer tokens;
    int64_t replaced;
    uint64_t hash;
    struct error error;
};

struct prepare {
    const struct prepare_options *options;
    struct prepare_result *result;
    struct pool *pool;
    struct corpus *corpus;
    char *work;   // the folder being written
    struct document *documents;
    int64_t document_count, document_capacity;

    struct tokenizer *tokenizer;
    struct encoder **encoders;   // one per worker
    struct bpe_trainer *trainer;
    struct dataset_writer *writer;
    struct file_writer validation_text;
    bool validation_text_open;

    enum pass pass;
    struct byte_buffer raw;      // records of the batch
    struct slot *slots;          // [BATCH_DOCUMENTS]
    int64_t slot_count, first;   // number of the first slot's document
};

struct prepare_options prepare_options_default(void) {
    return (struct prepare_options){
        .validation_rate = PREPARE_VALIDATION_RATE,
        .shard_bytes = PREPARE_SHARD_BYTES,
        .corpus = {.text_key = "text", .document_bytes = PREPARE_DOCUMENT_BYTES},
    };
}

// ---- one batch ------------------------------------------------------------------------------------------------------

static bool text_is_blank(const struct byte_buffer *text) {
    for (int64_t i = 0; i < text->size; i++) {
        char c = text->data[i];
        if (c != ' ' && (c < '\t' || c > '\r')) {
            return false;
        }
    }
    return true;
}

static enum fate slot_fate(const struct prepare *prepare, int64_t slot) {
    return (enum fate)prepare->documents[prepare->first + slot].fate;
}

// The parallel part: cleans the document of one slot, hashes it (scan) or encodes it.
static void slot_work(void *argument, int64_t task, int worker) {
    struct prepare *prepare = argument;
    struct slot *slot = &prepare->slots[task];
    slot->text.size = slot->tokens.count = slot->replaced = 0;
    slot->error = (struct error){0};
    if (prepare->pass != PASS_SCAN) {
        enum fate fate = slot_fate(prepare, task);
        if (fate != FATE_TRAIN && !(fate == FATE_VALIDATION && prepare->pass == PASS_ENCODE)) {
            return;
        }
    }
    if (corpus_clean(&slot->text, &slot->replaced, prepare->corpus, &slot->record,
                     prepare->raw.data + slot->record.begin, &slot->error) != 0) {
        return;
    }
    slot->hash = XXH3_64bits(slot->text.data, (size_t)slot->text.size);
    if (prepare->pass != PASS_SCAN && slot->hash != prepare->documents[prepare->first + task].hash) {
        error_set(&slot->error, ERROR_STATE, "%s: the file has changed while it was read",
                  corpus_source_name(prepare->corpus, slot->record.source));
    } else if (prepare->pass == PASS_ENCODE) {
        encoder_encode(&slot->tokens, prepare->encoders[worker], slot->text.data, slot->text.size, 0, &slot->error);
    }
}

static int scan_take(struct prepare *prepare, struct slot *slot, struct error *error) {
    if (prepare->document_count == prepare->document_capacity) {
        int64_t capacity = 2 * prepare->document_capacity + 1024;
        struct document *grown = memory_resize(prepare->documents, (size_t)capacity, sizeof *grown, "list of documents",
                                               error);
        if (grown == NULL) {
            return ERROR_MEMORY;
        }
        prepare->documents = grown;
        prepare->document_capacity = capacity;
    }
    prepare->documents[prepare->document_count++] = (struct document){.hash = slot->hash,
                                                                      .bytes = slot->text.size,
                                                                      .fate = text_is_blank(&slot->text) ? FATE_EMPTY
                                                                                                         : FATE_TRAIN,
                                                                      .held_out = slot->record.held_out};
    prepare->result->replaced += slot->replaced;
    return 0;
}

static int encode_take(struct prepare *prepare, int64_t index, struct error *error) {
    struct slot *slot = &prepare->slots[index];
    enum fate fate = slot_fate(prepare, index);
    if (fate != FATE_TRAIN && fate != FATE_VALIDATION) {
        return 0;
    }
    int code = 0;
    if (fate == FATE_VALIDATION && prepare->validation_text_open) {
        code = file_writer_append(&prepare->validation_text, slot->text.data, (size_t)slot->text.size, error);
    }
    if (code == 0) {
        code = dataset_writer_append(prepare->writer, fate == FATE_TRAIN ? DATA_TRAIN : DATA_VALIDATION,
                                     slot->tokens.ids, slot->tokens.count, slot->text.size, error);
    }
    return code;
}

// The sequential part: takes the slots' results in document order.
static int batch_take(struct prepare *prepare, struct error *error) {
    int code = 0;
    for (int64_t i = 0; i < prepare->slot_count && code == 0; i++) {
        struct slot *slot = &prepare->slots[i];
        if (slot->error.code != 0) {
            return error_set(error, slot->error.code, "%s", slot->error.text);
        }
        switch (prepare->pass) {
        case PASS_SCAN:
            code = scan_take(prepare, slot, error);
            break;
        case PASS_TRAIN:
            if (slot_fate(prepare, i) == FATE_TRAIN) {
                code = bpe_trainer_add(prepare->trainer, slot->text.data, slot->text.size, error);
            }
            break;
        case PASS_ENCODE:
            code = encode_take(prepare, i, error);
            break;
        }
        if (slot->text.capacity > SLOT_BYTES_KEPT) {
            byte_buffer_destroy(&slot->text);
        }
        if (slot->tokens.capacity * (int64_t)sizeof(int32_t) > SLOT_BYTES_KEPT) {
            token_buffer_destroy(&slot->tokens);
        }
    }
    return code;
}

// Fills the slots. 1 = there may be more, 0 = the corpus is over.
static int batch_read(struct prepare *prepare, struct error *error) {
    prepare->first += prepare->slot_count;
    prepare->slot_count = prepare->raw.size = 0;
    int found = 1;
    while (found == 1 && prepare->slot_count < BATCH_DOCUMENTS && prepare->raw.size < BATCH_BYTES) {
        found = corpus_next(&prepare->slots[prepare->slot_count].record, &prepare->raw, prepare->corpus, error);
        prepare->slot_count += found == 1;
        if (prepare->pass != PASS_SCAN && prepare->first + prepare->slot_count > prepare->document_count) {
            return error_set(
                error, ERROR_STATE, "%s: the file has changed while it was read",
                corpus_source_name(prepare->corpus, prepare->slots[prepare->slot_count - 1].record.source));
        }
    }
    return found;
}

static int check_stop(const struct prepare *prepare, struct error *error) {
    const volatile sig_atomic_t *stop = prepare->options->corpus.stop;
    return stop != NULL && *stop != 0 ? error_set(error, ERROR_STATE, "interrupted; nothing was written") : 0;
}

static int run_pass(struct prepare *prepare, enum pass pass, const char *title, struct error *error) {
    struct progress progress;
    prepare->pass = pass;
    prepare->first = prepare->slot_count = 0;
    corpus_rewind(prepare->corpus);
    progress_begin(&progress, title, "bytes", corpus_bytes(prepare->corpus));
    int found = 1, code = 0;
    while (found == 1 && code == 0) {
        found = batch_read(prepare, error);
        code = found < 0 ? found : 0;
        if (code == 0) {
            pool_run(prepare->pool, prepare->slot_count, slot_work, prepare);
            code = batch_take(prepare, error);
        }
        if (code == 0) {
            progress_update(&progress, corpus_position(prepare->corpus));
            code = check_stop(prepare, error);
        }
    }
    if (code == 0 && prepare->first + prepare->slot_count != prepare->document_count) {
        code = error_set(error, ERROR_STATE,
                         "the corpus has changed while it was read: found %lld documents, then %lld",
                         (long long)prepare->document_count, (long long)(prepare->first + prepare->slot_count));
    }
    progress_end(&progress);
    return code;
}

// ---- the fate of each document --------------------------------------------------------------------------------------

struct entry {
    uint64_t hash;
    int64_t index;
};

static int compare_entries(const void *left, const void *right) {
    const struct entry *a = left, *b = right;
    if (a->hash != b->hash) {
        return a->hash < b->hash ? -1 : 1;
    }
    return a->index < b->index ? -1 : a->index > b->index;
}

// Entries by (hash, index): of equal documents the first in the corpus comes first; held-out inputs are read first of
// all.
static int64_t drop_duplicates(struct prepare *prepare, struct entry *entries, int64_t count) {
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++) {
        const struct document *document = &prepare->documents[entries[i].index];
        const struct document *before = kept > 0 ? &prepare->documents[entries[kept - 1].index] : NULL;
        bool same = before != NULL && before->hash == document->hash;
        // Held-out text never stays in training, whatever the user wants.
        if (same && (!prepare->options->keep_duplicates || (before->held_out && !document->held_out))) {
            prepare->documents[entries[i].index].fate = FATE_DUPLICATE;
            prepare->result->duplicates++;
            continue;
        }
        entries[kept++] = entries[i];
    }
    return kept;
}

static void hold_out(struct prepare *prepare, const struct entry *entries, int64_t count) {
    const struct prepare_options *options = prepare->options;
    int64_t bytes = 0;
    for (int64_t i = 0; i < count; i++) {
        struct document *document = &prepare->documents[entries[i].index];
        const struct document *before = i > 0 ? &prepare->documents[entries[i - 1].index] : NULL;
        bool take;
        if (options->held_out_count > 0) {
            take = document->held_out;
        } else if (before != NULL && before->hash == document->hash) {
            take = before->fate == FATE_VALIDATION;
        } else if (options->validation_bytes > 0) {
            take = bytes < options->validation_bytes;
        } else {
            take = count > 1 && options->validation_rate > 0 &&
                   (i == 0 || (double)(document->hash >> 11) * 0x1p-53 < options->validation_rate);
        }
        if (take) {
            document->fate = FATE_VALIDATION;
            bytes += document->bytes;
        }
    }
}

static int decide_fates(struct prepare *prepare, struct error *error) {
    struct entry *entries = memory_allocate((size_t)prepare->document_count + 1, sizeof *entries, "list of documents",
                                            error);
    if (entries == NULL) {
        return ERROR_MEMORY;
    }
    int64_t count = 0, train = 0;
    for (int64_t i = 0; i < prepare->document_count; i++) {
        if (prepare->documents[i].fate == FATE_EMPTY) {
            prepare->result->empty++;
        } else {
            entries[count++] = (struct entry){prepare->documents[i].hash, i};
        }
    }
    if (count > 1) {
        qsort(entries, (size_t)count, sizeof *entries, compare_entries);
    }
    int64_t kept = drop_duplicates(prepare, entries, count);
    hold_out(prepare, entries, kept);
    memory_free(entries);
    for (int64_t i = 0; i < prepare->document_count; i++) {
        train += prepare->documents[i].fate == FATE_TRAIN;
    }
    if (count == 0) {
        return error_set(error, ERROR_ARGUMENT, "the corpus is empty: found %lld files with %lld bytes, but no text",
                         (long long)corpus_files(prepare->corpus), (long long)corpus_bytes(prepare->corpus));
    }
    if (train == 0) {
        return error_set(error, ERROR_ARGUMENT,
                         "all of the %lld documents are held out for validation: nothing is left to train on",
                         (long long)kept);
    }
    return 0;
}

// ---- the tokenizer --------------------------------------------------------------------------------------------------

static int copy_file(const char *from, const char *to, struct error *error) {
    struct file_writer writer;
    char *text;
    int64_t size;
    int code = file_read(&text, &size, from, (int64_t)1 << 30, error);
    if (code != 0) {
        return code;
    }
    code = file_writer_open(&writer, to, error);
    if (code == 0) {
        code = file_writer_append(&writer, text, (size_t)size, error);
    }
    if (code == 0) {
        code = file_writer_commit(&writer, error);
    }
    memory_free(text);
    return code;
}

// Copies the files of a tokenizer (a folder, or its tokenizer.json, whatever that file is called).
static int copy_tokenizer(const char *from, const char *to, struct error *error) {
    static const char *const names[] = {DATASET_TOKENIZER, "tokenizer_config.json", "chat_template.jinja"};
    bool directory = file_is_directory(from);
    const char *slash = directory ? NULL : strrchr(from, '/');
    int code = 0;
    for (int i = 0; i < 3 && code == 0; i++) {
        char *source, *target = file_join(to, names[i], error);
        if (directory) {
            source = file_join(from, names[i], error);
        } else if (i == 0 || slash == NULL) {
            source = memory_copy_string(i == 0 ? from : names[i], error);
        } else {
            source = memory_format(error, "%.*s/%s", (int)(slash - from), from, names[i]);
        }
        if (source == NULL || target == NULL) {
            code = ERROR_MEMORY;
        } else if (i == 0 || file_exists(source)) {
            code = copy_file(source, target, error);
        }
        memory_free(source);
        memory_free(target);
    }
    return code;
}

static int train_tokenizer(struct prepare *prepare, struct error *error) {
    struct progress progress;
    struct bpe_train_result trained;
    int64_t vocabulary = prepare->options->train_vocabulary;
    int code = bpe_trainer_create(&prepare->trainer, prepare->pool, error);
    if (code == 0) {
        code = run_pass(prepare, PASS_TRAIN, "counting pieces", error);
    }
    if (code != 0) {
        return code;
    }
    progress_begin(&progress, "training tokenizer", "merges", vocabulary - BPE_TRAIN_VOCABULARY_MINIMUM);
    code = bpe_trainer_finish(&trained, prepare->trainer, vocabulary, prepare->work, &progress, error);
    progress_end(&progress);
    bpe_trainer_free(prepare->trainer);
    prepare->trainer = NULL;
    if (code == 0 && trained.placeholders > 0) {
        log_warning("the text has only %lld merges for a vocabulary of %lld: %lld tokens are placeholders",
                    (long long)trained.merges, (long long)vocabulary, (long long)trained.placeholders);
    }
    return code;
}

static int open_tokenizer(struct prepare *prepare, struct error *error) {
    int code = prepare->options->train_vocabulary > 0
                   ? train_tokenizer(prepare, error)
                   : copy_tokenizer(prepare->options->tokenizer, prepare->work, error);
    if (code == 0) {
        code = check_stop(prepare, error);
    }
    // The copy is what is used: what it lacks would be missed later.
    if (code == 0) {
        code = tokenizer_load(&prepare->tokenizer, prepare->work, error);
    }
    int workers = prepare->pool == NULL ? 1 : pool_threads(prepare->pool);
    if (code == 0) {
        prepare->encoders = memory_allocate((size_t)workers, sizeof(struct encoder *), "encoders", error);
        code = prepare->encoders == NULL ? ERROR_MEMORY : 0;
    }
    for (int i = 0; i < workers && code == 0; i++) {
        code = encoder_create(&prepare->encoders[i], prepare->tokenizer, error);
    }
    if (code != 0) {
        return code;
    }
    struct tokenizer_roles roles = tokenizer_roles(prepare->tokenizer);
    prepare->result->vocab_size = tokenizer_vocabulary_size(prepare->tokenizer);
    if (roles.eos < 0) {
        log_warning("the tokenizer names no end-of-sentence token: nothing will mark the ends of documents");
    }
    struct dataset_writer_options writer = {.directory = prepare->work,
                                            .vocab_size = prepare->result->vocab_size,
                                            .bos = roles.bos,
                                            .eos = roles.eos,
                                            .shard_bytes = prepare->options->shard_bytes};
    return dataset_writer_create(&prepare->writer, &writer, error);
}

// ---- the folder -----------------------------------------------------------------------------------------------------

static json_t *describe_options(const struct prepare_options *options) {
    static const char *const ill_formed[] = {"replace", "keep", "refuse"};
    const struct corpus_options *corpus = &options->corpus;
    json_t *separator = corpus->separator == NULL ? json_null()
                                                  : json_stringn(corpus->separator, (size_t)corpus->separator_size);
    return json_pack("{s:b, s:b, s:f, s:I, s:b, s:I, s:s, s:o, s:I, s:s, s:b}", "trained_tokenizer",
                     options->train_vocabulary > 0, "held_out_files", options->held_out_count > 0, "validation_rate",
                     options->validation_rate, "validation_bytes", (json_int_t)options->validation_bytes,
                     "keep_duplicates", options->keep_duplicates, "shard_bytes", (json_int_t)options->shard_bytes,
                     "text_key", corpus->text_key, "separator", separator, "document_bytes",
                     (json_int_t)corpus->document_bytes, "ill_formed", ill_formed[corpus->ill_formed], "line_feeds",
                     corpus->line_feeds);
}

static int write_description(struct prepare *prepare, struct error *error) {
    const struct prepare_result *result = prepare->result;
    uint64_t checksum;
    char text[24];
    char *path = file_join(prepare->work, DATASET_TOKENIZER, error);
    int code = path == NULL ? ERROR_MEMORY : file_checksum(path, &checksum, error);
    memory_free(path);
    if (code != 0) {
        return code;
    }
    snprintf(text, sizeof text, "%016llx", (unsigned long long)checksum);
    json_t *properties = json_pack("{s:{s:s, s:s}, s:{s:I, s:I, s:I, s:I}, s:o}", "tokenizer", "file",
                                   DATASET_TOKENIZER, "checksum", text, "corpus", "files", (json_int_t)result->files,
                                   "empty", (json_int_t)result->empty, "duplicates", (json_int_t)result->duplicates,
                                   "ill_formed", (json_int_t)result->replaced, "options",
                                   describe_options(prepare->options));
    code = properties == NULL ? error_set(error, ERROR_MEMORY, "%s: out of memory", DATASET_FILE)
                              : dataset_writer_finish(prepare->writer, properties, error);
    json_decref(properties);
    return code;
}

static int encode_corpus(struct prepare *prepare, struct error *error) {
    int code = 0;
    if (prepare->options->validation_text) {
        char *path = file_join(prepare->work, VALIDATION_TEXT_FILE, error);
        code = path == NULL ? ERROR_MEMORY : file_writer_open(&prepare->validation_text, path, error);
        prepare->validation_text_open = code == 0;
        memory_free(path);
    }
    if (code == 0) {
        code = run_pass(prepare, PASS_ENCODE, "encoding", error);
    }
    if (code == 0 && prepare->validation_text_open) {
        prepare->validation_text_open = false;
        code = file_writer_commit(&prepare->validation_text, error);
    }
    return code == 0 ? write_description(prepare, error) : code;
}

// What stands at the output's place must be nothing, an empty folder, or a dataset that may be replaced.
static int check_output(const struct prepare_options *options, struct error *error) {
    if (!file_exists(options->output)) {
        return 0;
    }
    if (!file_is_directory(options->output)) {
        return error_set(error, ERROR_ARGUMENT, "%s: found a file, expected a folder to make", options->output);
    }
    char **names, *description = file_join(options->output, DATASET_FILE, error);
    int64_t count;
    int code = description == NULL ? ERROR_MEMORY : file_list(&names, &count, options->output, error);
    if (code == 0) {
        file_list_free(names, count);
        if (count > 0 && !(options->overwrite && file_exists(description))) {
            code = error_set(error, ERROR_ARGUMENT, "%s: the folder exists and is not empty%s", options->output,
                             file_exists(description) ? " (--overwrite replaces a dataset)" : "");
        }
    }
    memory_free(description);
    return code;
}

// Renames the finished folder to the output's name; an old dataset goes only when the new one stands.
static int publish(struct prepare *prepare, struct error *error) {
    const char *output = prepare->options->output;
    int code = file_sync_directory(prepare->work, error);
    if (code != 0 || !file_exists(output)) {
        return code == 0 ? file_rename(prepare->work, output, error) : code;
    }
    char *old = memory_format(error, "%s.old-%ld", output, (long)getpid());
    code = old == NULL ? ERROR_MEMORY : file_rename(output, old, error);
    if (code == 0) {
        code = file_rename(prepare->work, output, error);
        if (code == 0) {
            code = file_remove_tree(old, error);
        } else {
            file_rename(old, output, NULL);
        }
    }
    memory_free(old);
    return code;
}

// ---- the whole ------------------------------------------------------------------------------------------------------

static int check_options(const struct prepare_options *options, struct error *error) {
    if (options->tokenizer == NULL && options->train_vocabulary == 0) {
        return error_set(error, ERROR_ARGUMENT, "no tokenizer: expected one to use or the size of one to train");
    }
    if (options->train_vocabulary != 0 && (options->train_vocabulary < BPE_TRAIN_VOCABULARY_MINIMUM ||
                                           options->train_vocabulary > BPE_TRAIN_VOCABULARY_MAXIMUM)) {
        return error_set(error, ERROR_ARGUMENT, "vocabulary to train: found %lld, expected %d to %d",
                         (long long)options->train_vocabulary, BPE_TRAIN_VOCABULARY_MINIMUM,
                         BPE_TRAIN_VOCABULARY_MAXIMUM);
    }
    if (!(options->validation_rate >= 0 && options->validation_rate < 1) || options->validation_bytes < 0) {
        return error_set(error, ERROR_ARGUMENT, "validation: found rate %g and %lld bytes, expected a rate below 1",
                         options->validation_rate, (long long)options->validation_bytes);
    }
    if (options->shard_bytes < 1 || options->corpus.document_bytes < 0 ||
        (options->corpus.separator != NULL && options->corpus.separator_size < 1)) {
        return error_set(error, ERROR_ARGUMENT, "shard size, document size and separator: expected more than nothing");
    }
    // The separator goes into dataset.json.
    if (options->corpus.separator != NULL &&
        !corpus_is_well_formed(options->corpus.separator, options->corpus.separator_size)) {
        return error_set(error, ERROR_ARGUMENT, "separator: expected UTF-8");
    }
    return check_output(options, error);
}

static int add_inputs(struct prepare *prepare, char *const *inputs, int64_t count, bool held_out, struct error *error) {
    char *spool = file_join(prepare->work, SPOOL_FILE, error);
    int code = spool == NULL ? ERROR_MEMORY : 0;
    for (int64_t i = 0; i < count && code == 0; i++) {
        if (strcmp(inputs[i], "-") == 0 && file_exists(spool)) {
            code = error_set(error, ERROR_ARGUMENT, "standard input (\"-\") is named twice");
        } else {
            code = corpus_add(prepare->corpus, inputs[i], held_out, spool, error);
        }
    }
    memory_free(spool);
    return code;
}

static int remove_spool(const struct prepare *prepare, struct error *error) {
    char *spool = file_join(prepare->work, SPOOL_FILE, error);
    int code = spool == NULL ? ERROR_MEMORY : file_exists(spool) ? file_remove_tree(spool, error) : 0;
    memory_free(spool);
    return code;
}

static int run(struct prepare *prepare, struct error *error) {
    const struct prepare_options *options = prepare->options;
    int code;
    if ((code = file_make_directory(prepare->work, error)) != 0 ||
        (code = corpus_create(&prepare->corpus, &options->corpus, error)) != 0 ||
        (code = add_inputs(prepare, options->held_out_inputs, options->held_out_count, true, error)) != 0 ||
        (code = add_inputs(prepare, options->inputs, options->input_count, false, error)) != 0) {
        return code;
    }
    prepare->result->files = corpus_files(prepare->corpus);
    prepare->slots = memory_allocate(BATCH_DOCUMENTS, sizeof *prepare->slots, "batch of documents", error);
    if (prepare->slots == NULL) {
        return ERROR_MEMORY;
    }
    if ((code = run_pass(prepare, PASS_SCAN, "scanning", error)) != 0 || (code = decide_fates(prepare, error)) != 0 ||
        (code = open_tokenizer(prepare, error)) != 0 || (code = encode_corpus(prepare, error)) != 0 ||
        (code = remove_spool(prepare, error)) != 0 || (code = publish(prepare, error)) != 0) {
        return code;
    }
    if (options->train_vocabulary > 0 && options->tokenizer != NULL &&
        (code = file_make_directory(options->tokenizer, error)) == 0) {
        code = copy_tokenizer(options->output, options->tokenizer, error);
    }
    return code;
}

static void prepare_free(struct prepare *prepare) {
    if (prepare->validation_text_open) {
        file_writer_abort(&prepare->validation_text);
    }
    for (int64_t i = 0; prepare->slots != NULL && i < BATCH_DOCUMENTS; i++) {
        byte_buffer_destroy(&prepare->slots[i].text);
        token_buffer_destroy(&prepare->slots[i].tokens);
    }
    int workers = prepare->pool == NULL ? 1 : pool_threads(prepare->pool);
    for (int i = 0; prepare->encoders != NULL && i < workers; i++) {
        encoder_free(prepare->encoders[i]);
    }
    memory_free(prepare->encoders);
    memory_free(prepare->slots);
    byte_buffer_destroy(&prepare->raw);
    dataset_writer_free(prepare->writer);
    bpe_trainer_free(prepare->trainer);
    tokenizer_free(prepare->tokenizer);
    corpus_free(prepare->corpus);
    memory_free(prepare->documents);
    memory_free(prepare->work);
}

static struct prepare_side side_of(const struct prepare *prepare, enum data_split split) {
    struct dataset_counts counts = dataset_writer_counts(prepare->writer, split);
    return (struct prepare_side){.documents = counts.documents, .tokens = counts.tokens, .bytes = counts.bytes};
}

int prepare_run(struct prepare_result *result, const struct prepare_options *options, struct pool *pool,
                struct error *error) {
    *result = (struct prepare_result){0};
    int code = check_options(options, error);
    if (code != 0) {
        return code;
    }
    size_t length = strlen(options->output);
    while (length > 1 && options->output[length - 1] == '/') {
        length--;
    }
    struct prepare prepare = {.options = options, .result = result, .pool = pool};
    prepare.work = memory_format(error, "%.*s.tmp-%ld", (int)length, options->output, (long)getpid());
    code = prepare.work == NULL ? ERROR_MEMORY : run(&prepare, error);
    if (code == 0) {
        result->train = side_of(&prepare, DATA_TRAIN);
        result->validation = side_of(&prepare, DATA_VALIDATION);
        result->binary_files = corpus_binary_files(prepare.corpus);
    } else if (prepare.work != NULL && file_is_directory(prepare.work)) {
        file_remove_tree(prepare.work, NULL);
    }
    prepare_free(&prepare);
    return code;
}
