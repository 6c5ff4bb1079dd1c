// Validation: see validation.h.
#include "train/validation.h"

#include <math.h>
#include <string.h>

#include "base/math.h"
#include "base/memory.h"

int validation_create(struct validation *validation, const char *data_path, int64_t length, int64_t depths,
                      int64_t micro_batch, struct error *error) {
    *validation = (struct validation){.length = length, .depths = depths, .micro_batch = micro_batch};
    struct loader_options options = {
        .length = length, .extra = 1 + depths, .fim_begin = -1, .fim_hole = -1, .fim_end = -1};
    int code = dataset_open(&validation->dataset, data_path, DATA_VALIDATION, error);
    if (code == 0) {
        code = loader_create(&validation->loader, validation->dataset, &options, error);
    }
    if (code == 0) {
        validation->ids = memory_allocate((size_t)(micro_batch * (length + 1 + depths)), sizeof(int32_t),
                                          "validation ids", error);
        code = validation->ids == NULL ? ERROR_MEMORY : 0;
    }
    if (code != 0) {
        validation_destroy(validation);
    }
    return code;
}

void validation_destroy(struct validation *validation) {
    loader_destroy(validation->loader);
    dataset_close(validation->dataset);
    memory_free(validation->ids);
    *validation = (struct validation){0};
}

struct totals {
    double main, mtp[MODEL_MAX_DEPTH];
    int64_t targets, mtp_targets;
};

static void evaluate(struct validation *validation, struct totals *totals, struct op_context *op, struct model *model,
                     struct model_slot *slot, int64_t sequences, int64_t length, bool whole) {
    struct micro_batch micro = {.sequences = sequences, .length = length, .ids = validation->ids};
    struct loss_weights weights = {0};
    struct micro_batch_result result;
    model_forward(op, &result, slot, model, NULL, &micro, &weights, NULL);
    totals->main += result.main_loss;
    totals->targets += sequences * length;
    for (int64_t k = 0; whole && k < validation->depths; k++) {
        totals->mtp[k] += result.mtp_loss[k];
    }
    totals->mtp_targets += whole ? sequences * length : 0;
}

int validation_run(struct validation *validation, struct validation_result *result, struct op_context *op,
                   struct model *model, struct model_slot *slot, int64_t sequences, struct error *error) {
    int64_t stride = validation->length + 1 + validation->depths, waiting = 0, count = 0;
    struct loader_cursor start = {0};
    struct totals totals = {0};
    bool over = false;
    int code = loader_seek(validation->loader, &start, error);
    if (code != 0) {
        return code;
    }
    // A part is taken evenly from the whole split: its beginning would be one author, one language, one corpus.
    int64_t windows = dataset_tokens(validation->dataset) / validation->length;
    int64_t every = sequences > 0 && windows > sequences ? windows / sequences : 1;
    for (int64_t window = 0; !over && (sequences == 0 || window < sequences * every); window++) {
        over = loader_next(validation->ids + waiting * stride, &count, validation->loader) != 0;
        waiting += !over && window % every == 0;
        if (waiting == validation->micro_batch) {
            evaluate(validation, &totals, op, model, slot, waiting, validation->length, true);
            waiting = 0;
        }
    }
    int32_t *rest = validation->ids + waiting * stride;   // the window that the split did not fill
    if (waiting > 0) {
        evaluate(validation, &totals, op, model, slot, waiting, validation->length, true);
    }
    if (over && count > 1) {
        // Its main targets are all there; those that only the MTP modules would see are filled up and not counted.
        memmove(validation->ids, rest, (size_t)count * sizeof *rest);
        for (int64_t i = count; i < stride; i++) {
            validation->ids[i] = validation->ids[count - 1];
        }
        evaluate(validation, &totals, op, model, slot, 1,
                 count - 1 < validation->length ? count - 1 : validation->length, false);
    }
    if (totals.targets == 0) {
        return error_set(error, ERROR_ARGUMENT, "validation split: found %lld tokens, expected at least 2",
                         (long long)dataset_tokens(validation->dataset));
    }
    double nats = totals.main / (double)totals.targets * (double)(dataset_tokens(validation->dataset) - 1);
    nats += math_log_double((double)model->config.vocab_size);   // the first token, which nothing predicts
    result->loss = totals.main / (double)totals.targets;
    for (int64_t k = 0; k < validation->depths; k++) {
        result->mtp_loss[k] = totals.mtp_targets > 0 ? totals.mtp[k] / (double)totals.mtp_targets : NAN;
    }
    result->bits_per_byte = nats / M_LN2 / (double)dataset_bytes(validation->dataset);
    return 0;
}
