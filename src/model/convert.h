// A Hugging Face model directory -> another with weights in another format. Tensor by tensor: memory holds one
// converted tensor, whatever the size of the model.
#ifndef MINKE_MODEL_CONVERT_H
#define MINKE_MODEL_CONVERT_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/pool.h"
#include "tensor/tensor.h"

struct convert_options {
    enum format format;        // F32, BF16 or E4M3_BLOCK
    bool power_of_two;         // FP8 scales
    bool scale_format_given;   // power_of_two was asked for by name: an FP8 source with the other kind of scales is
                               // refused
    int64_t shard_bytes;       // 0 = 5 GB
    struct pool *pool;         // NULL = the calling thread alone
    void (*progress)(void *argument, int64_t bytes_done, int64_t bytes_total);   // NULL = none
    void *argument;
    const volatile sig_atomic_t
        *stop;   // NULL, or set to non-zero (by a signal) to give up: ERROR_STATE, nothing remains
};
struct convert_result {
    int64_t tensors, bytes;   // written; scales count in bytes only
};

// What changes: F32 and BF16 take all tensors except e_score_correction_bias, which is always F32; FP8 tensors become
// element * scale, rounded once (the official cast). E4M3 quantises what the official checkpoints store so
// (checkpoint_name_is_fp8), in 128 x 128 blocks, and keeps the bytes of what is FP8 already; everything else becomes
// BF16. config.json gains or loses quantization_config and keeps every key we do not know; all other files but weights
// are copied. `to` must be absent or an empty directory; on failure it is left as it was found.
int model_convert(struct convert_result *result, const char *to, const char *from,
                  const struct convert_options *options, struct error *error);

#endif
