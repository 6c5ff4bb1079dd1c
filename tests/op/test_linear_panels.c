// Products with weights in panels (tensor/panels.h): the bits of scalar products with the same weights in rows, for
// every number of rows, ragged columns and depths, grouped, in pairs, added to, with both sets of instructions; and the
// layout itself, filled by kernels and by the plain way.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "op/cpu/kernels.h"
#include "support/op_fixture.h"
#include "support/test.h"
#include "tensor/formats.h"
#include "tensor/panels.h"

#define GROUPS 3

static uint64_t draws;

static int64_t draw(int64_t bound) {
    return (int64_t)rng_below(43, 3, draws++, (uint64_t)bound);
}

static int64_t draw_size(int64_t limit) {
    static const int64_t edges[] = {1,  2,  3,  15, 16, 17,  31,  32,  33,  34,  63, 64,
                                    65, 66, 95, 96, 97, 127, 128, 129, 130, 256, 289};
    int64_t size = edges[draw((int64_t)(sizeof edges / sizeof edges[0]))];
    return size <= limit ? size : 1 + draw(limit);
}

static struct tensor draw_weight(enum format format, int64_t rows, int64_t columns, bool special) {
    struct tensor weight = tensor_2d(format, NULL, rows, columns);
    int64_t blocks = (rows + BLOCK_SIZE - 1) / BLOCK_SIZE * weight.scale_stride;
    weight.data = array_new(rows * columns, format_info(format)->bytes);
    if (format == FORMAT_BF16 && special) {
        fill_edges(&weight, 1.0f, draws++, 300);
    } else if (format == FORMAT_BF16) {
        fill_uniform(&weight, 1.0f, draws++);
    } else {
        weight.scale = array_new(blocks, sizeof(float));
        static const int64_t choices[] = {1, 500, 1 << 30};
        const int64_t any = choices[draw(3)];   // one code of so many is of any kind, the others are not marked
        for (int64_t i = 0; i < rows * columns; i++) {
            uint8_t code = (uint8_t)draw(256);
            if (draw(any) != 0 && ((code & 0x78) == 0 || (code & 0x7f) == 0x7f)) {
                code = (uint8_t)(8 + draw(119));
            }
            ((uint8_t *)weight.data)[i] = !special && (code & 127) == 127 ? 1 : code;
        }
        for (int64_t i = 0; i < blocks; i++) {
            weight.scale[i] = ldexpf(1.0f + (float)draw(100) / 128.0f, (int)draw(7) - 6);
        }
    }
    return weight;
}

static struct tensor panels_new(const struct tensor *source) {
    struct tensor panels = *source;
    panels.format = (uint8_t)panels_format(source->format);
    panels.data = array_new(panels_bytes(&panels), 1);
    return panels;
}

static void weight_free(struct tensor *weight, struct tensor *panels) {
    memory_free(weight->data);
    memory_free(weight->scale);
    memory_free(panels->data);
}

// ---- Layout ---------------------------------------------------------------------------------------------------------

static void test_layout(void **state) {
    (void)state;
    struct op_fixture fixture;
    op_fixture_open(&fixture, ISA_BEST, 3);
    for (int round = 0; round < 60; round++) {
        enum format format = round % 2 == 0 ? FORMAT_BF16 : FORMAT_E4M3_BLOCK;
        struct tensor weight = draw_weight(format, draw_size(300), draw_size(300), round % 3 == 0);
        struct tensor panels = panels_new(&weight);
        const int64_t rows = weight.shape[0], columns = weight.shape[1];
        float *expected = array_new(columns, sizeof *expected), *found = array_new(columns, sizeof *found);
        for (int64_t panel = 0; panel < panel_count(&panels); panel++) {
            panel_fill(&panels, &weight, panel);
        }
        for (int64_t row = 0; row < rows; row++) {
            int64_t first = draw(columns);
            format_info(format)->widen(expected, &weight, row, first, columns - first);
            format_info(panels.format)->widen(found, &panels, row, first, columns - first);
            assert_true(same_floats(found, expected, columns - first));
        }
        assert_int_equal(tensor_bytes(&panels) - panels_bytes(&panels),
                         tensor_bytes(&weight) - rows * columns * format_info(format)->bytes);
        if (op_interleaves(&fixture.op)) {
            struct tensor filled = panels_new(&weight);
            memset(filled.data, 0x55, (size_t)panels_bytes(&filled));
            op_interleave(&fixture.op, &filled, &weight);
            assert_memory_equal(filled.data, panels.data, (size_t)panels_bytes(&panels));
            memory_free(filled.data);
        }
        memory_free(expected);
        memory_free(found);
        weight_free(&weight, &panels);
    }
    op_fixture_close(&fixture);
}

// ---- Products -------------------------------------------------------------------------------------------------------

struct product_case {
    struct tensor c, second, start, x, rows[2 * GROUPS], panels[2 * GROUPS];
    int32_t offsets[GROUPS + 1];
    enum op_mode mode;
    bool grouped, pair;
};

static void run_product(struct op_context *op, struct product_case *test, const struct tensor *w) {
    memcpy(test->c.data, test->start.data, (size_t)tensor_bytes(&test->c));
    if (test->grouped && test->pair) {
        op_linear_grouped_pair(op, &test->c, &test->second, &test->x, w, w + GROUPS, test->offsets, GROUPS);
    } else if (test->grouped) {
        op_linear_grouped(op, &test->c, &test->x, w, test->offsets, GROUPS);
    } else if (test->pair) {
        op_linear_pair(op, &test->c, &test->second, &test->x, w, w + GROUPS);
    } else {
        op_linear(op, &test->c, &test->x, w, test->mode);
    }
}

static void compare(const struct product_case *test, const struct tensor *first, const struct tensor *second,
                    const char *name) {
    if (!same_bits(&test->c, first) || (test->pair && !same_bits(&test->second, second))) {
        fail_msg("%s: %lld x %lld x %lld, %s, %s%s: not the bits of the scalar product with rows", name,
                 (long long)test->c.shape[0], (long long)test->c.shape[1], (long long)test->x.shape[1],
                 format_info(test->panels[0].format)->name, test->grouped ? "grouped" : "one group",
                 test->pair ? ", a pair" : "");
    }
}

static void run_everywhere(struct product_case *test) {
    static const int threads[] = {1, 3};
    struct tensor first, second;
    for (enum isa isa = ISA_SCALAR; isa <= ISA_AVX512; isa++) {
        for (size_t t = 0; t < 2 && isa_available(isa); t++) {
            struct op_fixture fixture;
            op_fixture_open(&fixture, isa, threads[t]);
            if (isa == ISA_SCALAR && t == 0) {
                run_product(&fixture.op, test, test->rows);
                first = tensor_clone(&test->c);
                second = tensor_clone(&test->second);
            }
            if (op_interleaves(&fixture.op)) {
                struct cpu_kernels other;
                run_product(&fixture.op, test, test->panels);
                compare(test, &first, &second, isa_name(isa));
                assert_true(op_other_pairs(&fixture.op, &other));
                run_product(&fixture.op, test, test->panels);
                compare(test, &first, &second, "the other instructions");
            }
            assert_int_equal(fixture.arena.used, 0);
            op_fixture_close(&fixture);
        }
    }
    tensor_free(&first);
    tensor_free(&second);
}

// Within the order of sums of AMX.
static void run_amx(struct product_case *test) {
    static const int threads[] = {1, 3};
    for (size_t t = 0; t < 2 && isa_available(ISA_AMX); t++) {
        struct op_fixture fixture;
        op_fixture_open(&fixture, ISA_AMX, threads[t]);
        run_product(&fixture.op, test, test->rows);
        struct tensor first = tensor_clone(&test->c), second = tensor_clone(&test->second);
        assert_true(op_interleaves(&fixture.op));
        run_product(&fixture.op, test, test->panels);
        compare(test, &first, &second, isa_name(ISA_AMX));
        assert_int_equal(fixture.arena.used, 0);
        tensor_free(&first);
        tensor_free(&second);
        op_fixture_close(&fixture);
    }
}

static void check_product(enum format format, int64_t rows, int64_t columns, int64_t depth, bool grouped, bool pair,
                          bool special) {
    struct product_case test = {.grouped = grouped, .pair = pair};
    test.mode = !grouped && !pair && draw(3) == 0 ? OP_ADD : OP_SET;
    enum format c = test.mode == OP_ADD || draw(2) == 0 ? FORMAT_F32 : FORMAT_BF16;
    struct tensor whole = tensor_new_2d(FORMAT_BF16, rows, depth + draw(2) * 5);
    test.c = tensor_new_2d(c, rows, columns);
    test.second = tensor_new_2d(c, rows, columns);
    if (special) {
        fill_edges(&whole, 1.0f, draws++, 400);
    } else {
        fill_uniform(&whole, 1.0f, draws++);
    }
    fill_uniform(&test.c, 1.0f, draws++);
    test.start = tensor_clone(&test.c);
    test.x = tensor_slice(&whole, 1, 0, depth);
    for (int64_t g = 0; g < 2 * GROUPS; g++) {
        test.rows[g] = draw_weight(format, columns, depth, special);
        test.panels[g] = panels_new(&test.rows[g]);
        for (int64_t panel = 0; panel < panel_count(&test.panels[g]); panel++) {
            panel_fill(&test.panels[g], &test.rows[g], panel);
        }
    }
    test.offsets[1] = (int32_t)draw(rows + 1);
    test.offsets[2] = test.offsets[1] + (int32_t)draw(rows - test.offsets[1] + 1);
    test.offsets[3] = (int32_t)rows;
    run_everywhere(&test);
    run_amx(&test);
    for (int64_t g = 0; g < 2 * GROUPS; g++) {
        weight_free(&test.rows[g], &test.panels[g]);
    }
    tensor_free(&whole);
    tensor_free(&test.c);
    tensor_free(&test.second);
    tensor_free(&test.start);
}

static void test_rows(void **state) {
    (void)state;
    for (int64_t rows = 1; rows <= 40; rows++) {
        for (int f = 0; f < 2; f++) {
            enum format format = f == 0 ? FORMAT_BF16 : FORMAT_E4M3_BLOCK;
            check_product(format, rows, draw_size(130), draw_size(300), false, false, false);
            check_product(format, rows, draw_size(130), draw_size(300), rows % 2 == 0, rows % 3 != 0, false);
            check_product(format, rows, draw_size(80), draw_size(300), rows % 2 == 0, false, true);
            if (rows <= 2) {   // most columns at a time
                check_product(format, rows, 128 + draw(200), draw_size(300), false, false, false);
                check_product(format, rows, 128 + draw(200), draw_size(300), false, false, true);
                check_product(format, rows, 256, 256, true, true, false);
            }
        }
    }
}

// Deeper than a block of k of the driver, and taller than a piece of rows.
static void test_deep_and_tall(void **state) {
    (void)state;
    for (int f = 0; f < 2; f++) {
        enum format format = f == 0 ? FORMAT_BF16 : FORMAT_E4M3_BLOCK;
        check_product(format, 1, 33, 4133, false, true, false);
        check_product(format, 21, 70, 4133, false, false, false);
        check_product(format, 50, 97, 2049, true, false, false);
        check_product(format, 530, 260, 70, false, false, false);
        check_product(format, 530, 33, 70, true, true, false);
    }
}

// A chain that underflows to -0 stays -0 where only zeros of the same sign follow, and c shows it when it was -0.
static void test_negative_zero(void **state) {
    (void)state;
    enum { COLUMNS = 130, DEPTH = 8 };
    for (int64_t rows = 1; rows <= 9; rows++) {
        struct product_case test = {.mode = OP_ADD};
        test.x = tensor_new_2d(FORMAT_BF16, rows, DEPTH);
        test.c = tensor_new_2d(FORMAT_F32, rows, COLUMNS);
        test.second = tensor_new_2d(FORMAT_F32, rows, COLUMNS);
        for (int64_t i = 0; i < rows * DEPTH; i++) {
            ((uint16_t *)test.x.data)[i] = i % DEPTH == 0 ? 0x0380 : 0x3f80;   // 2^-120, then 1
        }
        for (int64_t i = 0; i < rows * COLUMNS; i++) {
            ((float *)test.c.data)[i] = -0.0f;
        }
        test.start = tensor_clone(&test.c);
        for (int64_t g = 0; g < 2 * GROUPS; g++) {
            test.rows[g] = draw_weight(FORMAT_E4M3_BLOCK, COLUMNS, DEPTH, false);
            for (int64_t i = 0; i < COLUMNS * DEPTH; i++) {
                ((uint8_t *)test.rows[g].data)[i] = i % DEPTH == 0 ? 0x81 : 0x80;   // -2^-9, then -0
            }
            test.panels[g] = panels_new(&test.rows[g]);
            for (int64_t panel = 0; panel < panel_count(&test.panels[g]); panel++) {
                panel_fill(&test.panels[g], &test.rows[g], panel);
            }
        }
        run_everywhere(&test);
        assert_true(signbit(((float *)test.c.data)[0]));
        for (int64_t g = 0; g < 2 * GROUPS; g++) {
            weight_free(&test.rows[g], &test.panels[g]);
        }
        tensor_free(&test.x);
        tensor_free(&test.c);
        tensor_free(&test.second);
        tensor_free(&test.start);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_deep_and_tall),
        cmocka_unit_test(test_negative_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
