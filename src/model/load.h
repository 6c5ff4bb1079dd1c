// Model directories: config, weights, in and out. Weights are used as mapped where the format allows.
#ifndef MINKE_MODEL_LOAD_H
#define MINKE_MODEL_LOAD_H

#include "model/params.h"
#include "weights/checkpoint.h"

// Checks every parameter's presence and shape, and points params at the mapped tensors (E4M3 with scales, BF16, F32 as
// stored). A stored MTP copy of embedding and head is ignored. MTP layers announced in config.json but missing in the
// files: *config is changed to num_nextn_predict_layers 0 with a warning. A checkpoint of an inner `model.` prefix or
// other names: clear error with the first missing name.
int model_map(struct model_params *params, struct model_config *config, struct checkpoint *checkpoint,
              struct arena *arena, struct error *error);

struct model_save_options {
    enum format
        format;   // F32, BF16 or E4M3_BLOCK (then only PARAM_LINEAR is FP8, the rest BF16; router bias always F32)
    bool power_of_two;     // FP8 scales
    int64_t shard_bytes;   // 0 = 5 GB
    // For models larger than memory: gives a tensor of params that has shape and format but no memory its values, valid
    // until the next call. NULL when all have memory.
    int (*fill)(void *argument, struct tensor *filled, const struct tensor *tensor, struct error *error);
    void *argument;
};
// Writes config.json, generation_config.json, weights (with the MTP layer's copies of embedding and head, as DeepSeek
// does) into an existing directory. Values are narrowed from params (F32 masters or any format).
int model_save(const char *directory, struct model_params *params, const struct model_config *config,
               const struct model_save_options *options, struct op_context *op, struct error *error);
// Copies tokenizer.json, tokenizer_config.json, ... (everything but weights and index) from one directory to another.
int model_copy_companions(const char *to, const char *from, struct error *error);

#endif
