// What the formats' files share with the table in formats.c; not for the rest of the program.
#ifndef MINKE_TENSOR_FORMAT_FORMAT_H
#define MINKE_TENSOR_FORMAT_FORMAT_H

#include "tensor/tensor.h"

// Address of an element; `row` counts rows of the last axis in row-major order of all axes before it.
char *format_element(const struct tensor *tensor, int64_t row, int64_t column);

// widen and narrow of struct format_info.
void f32_widen_row(float *out, const struct tensor *source, int64_t row, int64_t column, int64_t count);
void f32_narrow_row(struct tensor *out, const float *source, int64_t row, int64_t column, int64_t count);
void bf16_widen_row(float *out, const struct tensor *source, int64_t row, int64_t column, int64_t count);
void bf16_narrow_row(struct tensor *out, const float *source, int64_t row, int64_t column, int64_t count);
void e4m3_widen_row(float *out, const struct tensor *source, int64_t row, int64_t column, int64_t count);
void e4m3_narrow_row(struct tensor *out, const float *source, int64_t row, int64_t column, int64_t count);
void int_widen_row(float *out, const struct tensor *source, int64_t row, int64_t column, int64_t count);
void panels_widen_row(float *out, const struct tensor *source, int64_t row, int64_t column, int64_t count);
void e5m6_widen_row(float *out, const struct tensor *source, int64_t row, int64_t column, int64_t count);
void e5m6_narrow_row(struct tensor *out, const float *source, int64_t row, int64_t column, int64_t count);

#endif
