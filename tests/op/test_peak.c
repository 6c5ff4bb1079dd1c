// The peak loops: operations grow with the rounds, and every byte is read.
#include "support/test.h"

#include <stdint.h>

#include "base/memory.h"
#include "op/cpu/kernels.h"
#include "support/op_fixture.h"

static void test_multiply_adds(void **state) {
    (void)state;
    for (int isa = ISA_SCALAR; isa < ISA_BEST; isa++) {
        if (!isa_available((enum isa)isa)) {
            continue;
        }
        const struct peak_kernels *peak = &cpu_kernels_get((enum isa)isa)->peak;
        double each = peak->multiply_add(1);
        assert_true(each > 0.0 && peak->multiply_add(0) == 0.0 && peak->multiply_add(33) == 33.0 * each);
        assert_int_equal(peak->multiply_add_pairs != NULL, isa >= ISA_AVX512);
        if (peak->multiply_add_pairs != NULL) {
            double pairs = isa == ISA_AMX ? 4.0 * 2.0 * 16 * 16 * 32 : 2.0 * each;
            assert_true(peak->multiply_add_pairs(33) == 33.0 * pairs);
        }
    }
}

static void test_read(void **state) {
    (void)state;
    enum { BYTES = 3 * 1024 };
    unsigned char *bytes = array_new(BYTES, 1);
    for (int isa = ISA_SCALAR; isa < ISA_BEST; isa++) {
        if (!isa_available((enum isa)isa)) {
            continue;
        }
        const struct peak_kernels *peak = &cpu_kernels_get((enum isa)isa)->peak;
        assert_true(peak->read(bytes, BYTES) == 0);
        for (int i = 0; i < BYTES; i++) {
            bytes[i] = 1;
            assert_true(peak->read(bytes, BYTES) != 0);
            bytes[i] = 0;
        }
    }
    memory_free(bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_multiply_adds),
        cmocka_unit_test(test_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
