// See latent_block.h.
#include "op/cpu/latent_block.h"

#include <string.h>

#include "op/cpu/cpu_ops.h"
#include "op/cpu/kernels.h"

#define LINE 64

void kernels_scalar_latent(struct cpu_kernels *kernels) {
    kernels->latent = (struct latent_kernels){NULL};
}

// Whether scale is a power of two that widen_tile takes.
static bool is_power(int *exponent, float scale) {
    uint32_t bits;
    memcpy(&bits, &scale, sizeof bits);
    *exponent = (int)(bits >> 23) - 127;   // a negative scale: more than 127
    return (bits & 0x7fffff) == 0 && *exponent >= -60 && *exponent <= 60;
}

// ---- A block of keys ------------------------------------------------------------------------------------------------

// Whole lines, and an odd number of them, so that the rows of a block do not throw each other out of the first cache
// level (lines are counted in BF16; F32 has an even number, whose rows lie two lines further apart each time).
int64_t latent_block_stride(int64_t width) {
    const int64_t line = LINE / 2;
    return ((width + line - 1) / line | 1) * line;
}

static void widen_row(const struct latent_kernels *kernels, struct row y, const struct tensor *cache, int64_t row) {
    const uint8_t *codes = (const uint8_t *)cache->data + row * cache->stride[0];
    const float *scale = cache->scale + row * cache->scale_stride;
    const int64_t width = cache->shape[cache->rank - 1];
    for (int64_t column = 0; column < width; column += BLOCK_SIZE, scale++) {
        int64_t count = width - column < BLOCK_SIZE ? width - column : BLOCK_SIZE;
        int exponent;
        if (kernels->widen_tile != NULL && y.format == FORMAT_BF16 && is_power(&exponent, *scale)) {
            kernels->widen_tile((uint16_t *)y.data + column, codes + column, exponent, count);
            continue;
        }
        for (int64_t i = column; i < column + count; i++) {
            row_store(y, i, e4m3_widen(codes[i]) * *scale);
        }
    }
}

void latent_block_widen(const struct latent_kernels *kernels, struct row out, int64_t stride,
                        const struct tensor *cache, int64_t first, int64_t rows) {
    for (int64_t i = 0; i < rows; i++) {
        widen_row(kernels, row_advance(out, i * stride), cache, first + i);
    }
}

void latent_block_touch(const struct tensor *cache, int64_t first, int64_t rows, int64_t part, int64_t parts) {
    const int64_t begin = rows * part / parts, end = rows * (part + 1) / parts;
    const int64_t row_bytes = cache->stride[0], width = cache->shape[cache->rank - 1];
    if (begin < end) {
        memory_touch((const char *)cache->data + (first + begin) * row_bytes, (end - 1 - begin) * row_bytes + width);
    }
}

// ---- Rows -----------------------------------------------------------------------------------------------------------

struct widen_job {
    const struct latent_kernels *kernels;
    struct row_split split;
    const struct tensor *y, *x;
    const int32_t *rows;
};

static void gather_task(void *argument, int64_t task, int worker) {
    (void)worker;
    const struct widen_job *job = argument;
    for (int64_t i = row_split_begin(&job->split, task); i < row_split_end(&job->split, task); i++) {
        int32_t row = job->rows[i];
        CHECK(row >= 0 && row < job->x->shape[0], "row %d of %lld", row, (long long)job->x->shape[0]);
        widen_row(job->kernels, tensor_row(job->y, i), job->x, row);
    }
}

void cpu_gather_widened(struct op_context *op, struct tensor *y, const struct tensor *x, const int32_t *rows) {
    struct widen_job job = {.kernels = &op->kernels->latent,
                            .split = row_split_make(y->shape[0], y->shape[1]),
                            .y = y,
                            .x = x,
                            .rows = rows};
    pool_run(op->pool, job.split.tasks, gather_task, &job);
}
