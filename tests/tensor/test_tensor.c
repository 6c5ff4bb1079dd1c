// Views: shapes, strides and addresses after slicing, transposing, reshaping and splitting columns.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

#include "tensor/tensor.h"

static float data[2 * 300 * 300];
static float scales[64];

static void test_make(void **state) {
    (void)state;
    struct tensor t = tensor_3d(FORMAT_F32, data, 2, 3, 5);
    assert_int_equal(t.rank, 3);
    assert_int_equal(t.stride[0], 15);
    assert_int_equal(t.stride[1], 5);
    assert_int_equal(t.stride[2], 1);
    assert_int_equal(t.shape[3], 1);
    assert_int_equal(tensor_elements(&t), 30);
    assert_int_equal(tensor_bytes(&t), 120);
    assert_true(tensor_packed(&t));
    struct tensor scalar = tensor_make(FORMAT_BF16, data, 0, NULL);
    assert_int_equal(tensor_elements(&scalar), 1);
    struct tensor empty = tensor_2d(FORMAT_BF16, data, 0, 7);
    assert_int_equal(tensor_elements(&empty), 0);
    assert_int_equal(tensor_bytes(&empty), 0);
    assert_true(tensor_packed(&empty));
    struct tensor absent = {0};
    assert_false(tensor_present(&absent));
    assert_int_equal(tensor_elements(&absent), 0);
    char text[96];
    assert_string_equal(tensor_shape_text(text, &t), "[2, 3, 5]");
    assert_string_equal(tensor_shape_text(text, &scalar), "[]");
    struct tensor huge = {.rank = 4, .shape = {INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX}, .format = FORMAT_F32};
    assert_string_equal(tensor_shape_text(text, &huge),
                        "[9223372036854775807, 9223372036854775807, 9223372036854775807, 9223372036854775807]");
}

static void test_views(void **state) {
    (void)state;
    struct tensor t = tensor_2d(FORMAT_F32, data, 6, 10);
    struct tensor rows = tensor_slice(&t, 0, 2, 3), columns = tensor_slice(&t, 1, 4, 6);
    assert_ptr_equal(rows.data, data + 20);
    assert_int_equal(rows.shape[0], 3);
    assert_true(tensor_packed(&rows));
    assert_ptr_equal(columns.data, data + 4);
    assert_int_equal(columns.stride[0], 10);
    assert_false(tensor_packed(&columns));
    struct tensor flipped = tensor_transpose(&t, 0, 1);
    assert_int_equal(flipped.shape[0], 10);
    assert_int_equal(flipped.stride[1], 10);
    assert_false(tensor_packed(&flipped));
    struct tensor heads = tensor_split_columns(&columns, 3);
    assert_int_equal(heads.rank, 3);
    assert_int_equal(heads.shape[1], 3);
    assert_int_equal(heads.shape[2], 2);
    assert_int_equal(heads.stride[0], 10);
    assert_int_equal(heads.stride[1], 2);
    assert_int_equal(heads.stride[2], 1);
    struct tensor shaped = tensor_reshape(&t, 3, (int64_t[]){3, 2, 10});
    assert_ptr_equal(shaped.data, data);
    assert_int_equal(shaped.stride[0], 20);
    assert_false(tensor_same_shape(&shaped, &t));
    assert_true(tensor_same_shape(&t, &t));
    struct tensor row = tensor_slice(&columns, 0, 5, 1);
    assert_true(tensor_packed(&row));   // strides of axes of size 1 do not matter
    struct tensor none = tensor_slice(&t, 0, 6, 0);
    assert_int_equal(tensor_elements(&none), 0);
}

static void test_block_views(void **state) {
    (void)state;
    struct tensor t = tensor_2d(FORMAT_E4M3_BLOCK, data, 300, 257);
    t.scale = scales;
    assert_int_equal(t.scale_stride, 3);
    assert_int_equal(tensor_bytes(&t), 300 * 257 + 9 * 4);
    struct tensor rows = tensor_slice(&t, 0, 128, 172), columns = tensor_slice(&t, 1, 256, 1);
    assert_ptr_equal(rows.data, (char *)data + 128 * 257);
    assert_ptr_equal(rows.scale, scales + 3);
    assert_ptr_equal(columns.data, (char *)data + 256);
    assert_ptr_equal(columns.scale, scales + 2);
    assert_int_equal(columns.scale_stride, 3);
    struct tensor both = tensor_slice(&rows, 1, 128, 128);
    assert_ptr_equal(both.scale, scales + 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_make), cmocka_unit_test(test_views),
                                       cmocka_unit_test(test_block_views)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
