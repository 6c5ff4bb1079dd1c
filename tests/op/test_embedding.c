// Embedding: lookup and gradient against plain loops, all table formats, repeated ids, views.
#include <string.h>

#include "base/memory.h"
#include "support/op_fixture.h"
#include "support/test.h"
#include "tensor/formats.h"

enum { TOKENS = 45, VOCABULARY = 17, WIDTH = 203 };

static void ids_fill(int32_t ids[TOKENS]) {
    for (int i = 0; i < TOKENS; i++) {
        ids[i] = (i * 7 + i / 5) % VOCABULARY;
    }
    ids[TOKENS - 1] = VOCABULARY - 1;
}

struct lookup {
    struct tensor table, dy;
    int32_t ids[TOKENS];
};

static void run_forward(struct op_context *op, struct tensor *outputs, void *argument) {
    struct lookup *lookup = argument;
    op_embedding(op, &outputs[0], lookup->ids, &lookup->table);
}

static void run_backward(struct op_context *op, struct tensor *outputs, void *argument) {
    struct lookup *lookup = argument;
    op_embedding_backward(op, &outputs[0], &lookup->dy, lookup->ids);
}

static void test_lookup(void **state) {
    (void)state;
    for (enum format format = FORMAT_F32; format <= FORMAT_BF16; format++) {
        struct lookup lookup = {.table = tensor_new_2d(format, VOCABULARY, WIDTH)};
        struct tensor y = tensor_new_2d(FORMAT_F32, TOKENS, WIDTH);
        ids_fill(lookup.ids);
        fill_edges(&lookup.table, 1.0f, 1, 9);
        assert_same_everywhere(run_forward, &y, 1, &lookup);
        for (int64_t i = 0; i < TOKENS * WIDTH; i++) {
            float found = element_get(&y, i),
                  expected = element_get(&lookup.table, lookup.ids[i / WIDTH] * WIDTH + i % WIDTH);
            assert_memory_equal(&found, &expected, sizeof found);
        }
        tensor_free(&y);
        tensor_free(&lookup.table);
    }
}

static void test_lookup_blocks(void **state) {
    (void)state;
    struct tensor source = tensor_new_2d(FORMAT_F32, VOCABULARY, WIDTH);
    struct tensor table = tensor_new_2d(FORMAT_E4M3_BLOCK, VOCABULARY, WIDTH),
                  y = tensor_new_2d(FORMAT_F32, TOKENS, WIDTH);
    float scale[(WIDTH + BLOCK_SIZE - 1) / BLOCK_SIZE];
    table.scale = scale;
    table.scale_stride = sizeof scale / sizeof *scale;
    fill_uniform(&source, 3.0f, 2);
    quantize_e4m3_blocks(&table, &source, 0);
    struct lookup lookup = {.table = table};
    ids_fill(lookup.ids);
    assert_same_everywhere(run_forward, &y, 1, &lookup);
    for (int64_t i = 0; i < TOKENS * WIDTH; i++) {
        int64_t column = i % WIDTH;
        float byte = e4m3_widen(((const uint8_t *)table.data)[lookup.ids[i / WIDTH] * WIDTH + column]);
        assert_true(element_get(&y, i) == byte * scale[column / BLOCK_SIZE]);
    }
    tensor_free(&source);
    tensor_free(&table);
    tensor_free(&y);
}

static void test_gradient(void **state) {
    (void)state;
    struct lookup lookup = {.dy = tensor_new_2d(FORMAT_F32, TOKENS, WIDTH)};
    struct tensor dtable = tensor_new_2d(FORMAT_F32, VOCABULARY, WIDTH), expected;
    ids_fill(lookup.ids);
    fill_uniform(&lookup.dy, 1.0f, 3);
    fill_uniform(&dtable, 1.0f, 4);
    expected = tensor_clone(&dtable);
    for (int64_t i = 0; i < TOKENS * WIDTH; i++) {
        int64_t to = lookup.ids[i / WIDTH] * WIDTH + i % WIDTH;
        element_set(&expected, to, element_get(&expected, to) + element_get(&lookup.dy, i));
    }
    assert_same_everywhere(run_backward, &dtable, 1, &lookup);
    assert_true(same_bits(&dtable, &expected));
    tensor_free(&lookup.dy);
    tensor_free(&dtable);
    tensor_free(&expected);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lookup),
        cmocka_unit_test(test_lookup_blocks),
        cmocka_unit_test(test_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
