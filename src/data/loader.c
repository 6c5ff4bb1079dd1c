// The stream of training sequences: mapped documents in -> ids[length + extra] out (loader.h).
//
// Nothing is materialised. A document of the stream is a list of up to eight segments, each a range of the mapped
// document or one FIM marker; walking them yields token after token, a combined token as its pieces when it is split.
// The walk is a function of (seed, epoch, document), so a position is (epoch, index in the epoch's order, tokens
// already taken of that document).
//
//   plain   [whole document]
//   FIM     [BOS] FIM_BEGIN [prefix] FIM_HOLE [suffix] FIM_END [middle] [EOS]   (the text is prefix middle suffix)
//
// Two positions matter: `cursor` is the first token of the next sequence, `walk` is `extra` tokens further, because a
// sequence looks ahead. The tokens between the two are kept in `ahead`, the places where they stand in `places`.
#include "data/loader.h"

#include <stdlib.h>

#include "base/memory.h"
#include "base/rng.h"

enum { SEGMENTS = 8 };

// Counters of a document's own random stream.
enum { DRAW_FIM = 0, DRAW_FIRST_CUT = 1, DRAW_SECOND_CUT = 2, DRAW_SPLIT = 16 };   // token i splits by DRAW_SPLIT + i

struct segment {
    int64_t begin, end;   // range of the document; begin < 0: the single marker `end`
};

// Where a token stands: enough to start a walk there.
struct place {
    int64_t epoch, document, offset;
};

struct loader {
    const struct dataset *dataset;
    struct loader_options options;
    uint64_t order_stream, document_stream;
    int64_t documents;

    struct place place;         // of the token that the walk yields next
    bool ended;                 // the one pass of a loader without shuffling is over
    struct dataset_view view;   // the document of `place`
    uint64_t draws;             // its random stream
    struct segment segments[SEGMENTS];
    int segment_count, segment;
    int64_t at;                 // in the segment: index in the document
    int32_t piece, piece_end;   // pieces of the split token at `at` still to come

    struct loader_cursor cursor;
    int32_t *ahead;         // [extra] tokens read but not yet consumed
    struct place *places;   // [extra]
    int64_t ahead_count;
};

// ---- one document ---------------------------------------------------------------------------------------------------

static void add_range(struct loader *loader, int64_t begin, int64_t end) {
    if (begin < end) {
        loader->segments[loader->segment_count++] = (struct segment){begin, end};
    }
}

static void add_marker(struct loader *loader, int32_t id) {
    loader->segments[loader->segment_count++] = (struct segment){-1, id};
}

// Prefix-suffix-middle over the text tokens, when this document is drawn for it.
static void plan_document(struct loader *loader) {
    const struct loader_options *options = &loader->options;
    const struct dataset_view *view = &loader->view;
    int64_t length = view->length;
    loader->segment_count = 0;
    int64_t begin = length > 0 && dataset_view_id(view, 0) == dataset_bos(loader->dataset) ? 1 : 0;
    int64_t end = length > begin && dataset_view_id(view, length - 1) == dataset_eos(loader->dataset) ? length - 1
                                                                                                      : length;
    int64_t tokens = end - begin;
    if (tokens < 1 || rng_uniform_double(options->seed, loader->draws, DRAW_FIM) >= options->fim_rate) {
        add_range(loader, 0, length);
        return;
    }
    // Two different ones of the tokens + 1 boundaries: the middle is never empty, prefix and suffix may be.
    int64_t first = (int64_t)rng_below(options->seed, loader->draws, DRAW_FIRST_CUT, (uint64_t)tokens + 1);
    int64_t second = (int64_t)rng_below(options->seed, loader->draws, DRAW_SECOND_CUT, (uint64_t)tokens);
    second += second >= first;
    int64_t low = begin + (first < second ? first : second), high = begin + (first < second ? second : first);
    add_range(loader, 0, begin);
    add_marker(loader, options->fim_begin);
    add_range(loader, begin, low);
    add_marker(loader, options->fim_hole);
    add_range(loader, high, end);
    add_marker(loader, options->fim_end);
    add_range(loader, low, high);
    add_range(loader, end, length);
}

static void enter_segment(struct loader *loader, int segment) {
    loader->segment = segment;
    loader->at = segment < loader->segment_count && loader->segments[segment].begin >= 0
                     ? loader->segments[segment].begin
                     : 0;
    loader->piece = loader->piece_end = 0;
}

// Starts the document of loader->place at its first token.
static void enter_document(struct loader *loader) {
    uint64_t epoch = (uint64_t)loader->place.epoch, index = (uint64_t)loader->place.document;
    uint64_t document = index;
    if (loader->options.shuffle) {
        document = rng_permute(loader->options.seed, loader->order_stream + epoch, index, (uint64_t)loader->documents);
    }
    loader->view = dataset_document_view(loader->dataset, (int64_t)document);
    loader->draws = rng_u64(loader->options.seed, loader->document_stream + epoch, document);
    plan_document(loader);
    enter_segment(loader, 0);
}

// The next token of the document into *id; false at its end.
static bool document_next(int32_t *id, struct loader *loader) {
    const struct loader_options *options = &loader->options;
    if (loader->piece < loader->piece_end) {
        *id = options->split_pieces[loader->piece++];
        return true;
    }
    if (loader->segment == loader->segment_count) {
        return false;
    }
    const struct segment *segment = &loader->segments[loader->segment];
    if (segment->begin < 0) {
        *id = (int32_t)segment->end;
        enter_segment(loader, loader->segment + 1);
        return true;
    }
    int64_t index = loader->at++;
    *id = dataset_view_id(&loader->view, index);
    if (loader->at == segment->end) {
        enter_segment(loader, loader->segment + 1);
    }
    if (options->split_offsets != NULL) {
        int32_t begin = options->split_offsets[*id], end = options->split_offsets[*id + 1];
        if (begin < end &&
            rng_uniform_double(options->seed, loader->draws, DRAW_SPLIT + (uint64_t)index) < options->split_rate) {
            *id = options->split_pieces[begin];
            loader->piece = begin + 1;
            loader->piece_end = end;
        }
    }
    return true;
}

// ---- the stream -----------------------------------------------------------------------------------------------------

static void next_document(struct loader *loader) {
    loader->place.offset = 0;
    loader->place.document++;
    if (loader->place.document == loader->documents) {
        if (!loader->options.shuffle) {
            loader->ended = true;
            return;
        }
        loader->place.document = 0;
        loader->place.epoch++;
    }
    enter_document(loader);
}

// Where the token that comes next stands. Documents without tokens are passed over.
static bool stream_next(int32_t *id, struct place *place, struct loader *loader) {
    while (!loader->ended) {
        *place = loader->place;
        if (document_next(id, loader)) {
            loader->place.offset++;
            return true;
        }
        next_document(loader);
    }
    *place = loader->place;
    return false;
}

int loader_next(int32_t *ids, int64_t *count, struct loader *loader) {
    const int64_t length = loader->options.length, total = length + loader->options.extra;
    // What the last sequence saw ahead comes first; with extra > length some of it lies ahead again.
    int64_t filled = loader->ahead_count, kept = filled > length ? filled - length : 0;
    memcpy(ids, loader->ahead, (size_t)filled * sizeof *ids);
    memmove(loader->places, loader->places + (filled - kept), (size_t)kept * sizeof *loader->places);
    struct place place;
    for (; filled < total && stream_next(&ids[filled], &place, loader); filled++) {
        if (filled >= length) {
            loader->places[filled - length] = place;
        }
    }
    bool over = filled < total;
    loader->ahead_count = over ? 0 : filled - length;
    memcpy(loader->ahead, ids + length, (size_t)loader->ahead_count * sizeof *ids);
    memset(ids + filled, 0, (size_t)(total - filled) * sizeof *ids);
    place = loader->ahead_count > 0 ? loader->places[0] : loader->place;
    loader->cursor.epoch = place.epoch;
    loader->cursor.document = place.document;
    loader->cursor.offset = place.offset;
    loader->cursor.sequences += filled > 0;
    loader->cursor.tokens += over ? filled : length;
    *count = filled;
    return over ? 1 : 0;
}

struct loader_cursor loader_cursor(const struct loader *loader) {
    return loader->cursor;
}

int loader_seek(struct loader *loader, const struct loader_cursor *cursor, struct error *error) {
    bool end = !loader->options.shuffle && cursor->document == loader->documents && cursor->offset == 0;
    if (cursor->epoch < 0 || (!loader->options.shuffle && cursor->epoch > 0) || cursor->document < 0 ||
        cursor->offset < 0 || cursor->sequences < 0 || cursor->tokens < 0 ||
        (cursor->document >= loader->documents && !end)) {
        return error_set(error, ERROR_ARGUMENT,
                         "data cursor: found epoch %lld, document %lld, offset %lld; the dataset has %lld documents",
                         (long long)cursor->epoch, (long long)cursor->document, (long long)cursor->offset,
                         (long long)loader->documents);
    }
    const struct loader before = *loader;   // a refused cursor changes nothing
    loader->place = (struct place){cursor->epoch, cursor->document, 0};
    loader->ended = end;
    if (!end) {
        enter_document(loader);
    }
    for (int32_t id; loader->place.offset < cursor->offset; loader->place.offset++) {
        if (!document_next(&id, loader)) {
            int64_t length = loader->place.offset;
            *loader = before;
            return error_set(error, ERROR_ARGUMENT,
                             "data cursor: found offset %lld in document %lld of epoch %lld, which has %lld tokens",
                             (long long)cursor->offset, (long long)cursor->document, (long long)cursor->epoch,
                             (long long)length);
        }
    }
    loader->ahead_count = 0;
    loader->cursor = *cursor;
    return 0;
}

// ---- life -----------------------------------------------------------------------------------------------------------

static int check_options(const struct dataset *dataset, const struct loader_options *options, struct error *error) {
    int64_t vocab_size = dataset_vocab_size(dataset);
    if (options->length < 1 || options->extra < 0 || options->length > INT32_MAX || options->extra > INT32_MAX) {
        return error_set(
            error, ERROR_ARGUMENT,
            "data loader: found sequence length %lld with %lld tokens look-ahead, expected 1 or more and 0 or more",
            (long long)options->length, (long long)options->extra);
    }
    if (!(options->fim_rate >= 0 && options->fim_rate <= 1) ||
        !(options->split_rate >= 0 && options->split_rate <= 1)) {
        return error_set(error, ERROR_ARGUMENT, "data loader: found FIM rate %g and split rate %g, expected 0 to 1",
                         options->fim_rate, options->split_rate);
    }
    const int32_t markers[] = {options->fim_begin, options->fim_hole, options->fim_end};
    for (int i = 0; i < 3 && options->fim_rate > 0; i++) {
        if (markers[i] < 0 || markers[i] >= vocab_size) {
            return error_set(
                error, ERROR_ARGUMENT,
                "data loader: FIM rate %g needs three FIM tokens below %lld, found id %d (the tokenizer has none?)",
                options->fim_rate, (long long)vocab_size, markers[i]);
        }
    }
    if (dataset_tokens(dataset) == 0) {
        return error_set(error, ERROR_ARGUMENT, "data loader: the dataset has no tokens in this split");
    }
    return 0;
}

int loader_create(struct loader **out, const struct dataset *dataset, const struct loader_options *options,
                  struct error *error) {
    *out = NULL;
    int code = check_options(dataset, options, error);
    if (code != 0) {
        return code;
    }
    struct loader *loader = memory_allocate(1, sizeof *loader, "data loader", error);
    if (loader == NULL) {
        return ERROR_MEMORY;
    }
    loader->ahead = memory_allocate((size_t)options->extra + 1, sizeof *loader->ahead, "data loader", error);
    loader->places = memory_allocate((size_t)options->extra + 1, sizeof *loader->places, "data loader", error);
    if (loader->ahead == NULL || loader->places == NULL) {
        loader_destroy(loader);
        return ERROR_MEMORY;
    }
    loader->dataset = dataset;
    loader->options = *options;
    if (options->split_rate <= 0 || options->split_pieces == NULL) {
        loader->options.split_offsets = NULL;
    }
    loader->documents = dataset_documents(dataset);
    loader->order_stream = rng_hash_string("loader.order");
    loader->document_stream = rng_hash_string("loader.document");
    enter_document(loader);
    *out = loader;
    return 0;
}

void loader_destroy(struct loader *loader) {
    if (loader == NULL) {
        return;
    }
    memory_free(loader->ahead);
    memory_free(loader->places);
    memory_free(loader);
}
