// One tensor from one storage format to another, over a thread pool. The result does not depend on the number of
// threads.
#ifndef MINKE_WEIGHTS_CAST_H
#define MINKE_WEIGHTS_CAST_H

#include <stdbool.h>

#include "base/error.h"
#include "base/pool.h"
#include "tensor/tensor.h"

// out (packed, memory given) takes the values of source (packed, same shape); F32, BF16 and E4M3_BLOCK in any pair but
// one format of FP8 scales to the other. Same format: copied bit by bit, scales too. E4M3 -> F32, BF16: element * scale
// in F32, then rounded once (the official cast). F32, BF16 -> E4M3: quantize_e4m3_blocks, with power-of-two scales if
// asked.
void tensor_cast(struct tensor *out, const struct tensor *source, bool power_of_two, struct pool *pool);

// Memory for the cast of one tensor after another.
struct cast_buffer {
    uint8_t *memory;
    int64_t capacity;
};
// *out is `source` itself if it is packed and in `format` already, otherwise a cast of it in the buffer, valid until
// the next call.
int tensor_cast_buffered(struct tensor *out, struct cast_buffer *buffer, enum format format,
                         const struct tensor *source, bool power_of_two, struct pool *pool, struct error *error);
void cast_buffer_free(struct cast_buffer *buffer);

#endif
