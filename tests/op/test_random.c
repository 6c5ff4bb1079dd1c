// op_random_normal has the bits of rng_normal on every instruction set: any seed, stream, first counter and count.
#include "support/test.h"

#include <string.h>

#include "base/rng.h"
#include "op/cpu/kernels.h"

#define MOST 4099
#ifdef LONG_TESTS
#define DRAWS ((int64_t)1 << 28)
#else
#define DRAWS ((int64_t)1 << 19)
#endif

static void assert_same(enum isa isa, uint64_t seed, uint64_t stream, uint64_t first, int64_t count) {
    static float out[MOST + 1];
    out[count] = 77.0F;
    cpu_kernels_get(isa)->random.normal(out, seed, stream, first, count);
    for (int64_t i = 0; i < count; i++) {
        float expected = rng_normal(seed, stream, first + (uint64_t)i);
        if (memcmp(&out[i], &expected, sizeof expected) != 0) {
            fail_msg("%s: seed %llu, stream %llu, counter %llu: found %a, expected %a", isa_name(isa),
                     (unsigned long long)seed, (unsigned long long)stream, (unsigned long long)(first + (uint64_t)i),
                     (double)out[i], (double)expected);
        }
    }
    assert_true(out[count] == 77.0F);   // nothing behind the end is written
}

static void test_bits(void **state) {
    (void)state;
    static const uint64_t edges[] = {0, 1, 0x7fffffff, 0xfffffffc, 0xffffffff, 0x100000000, 0xfffffffffffffffcu};
    for (int isa = ISA_SCALAR; isa <= (int)cpu_isa_best(); isa++) {
        for (size_t e = 0; e < sizeof edges / sizeof edges[0]; e++) {
            for (int64_t count = 0; count < 20; count++) {
                assert_same((enum isa)isa, edges[e], edges[(e + 3) % 7], edges[(e + 5) % 7], count);
            }
        }
        for (int64_t done = 0; done < DRAWS; done += MOST) {
            uint64_t number = (uint64_t)done;
            assert_same((enum isa)isa, rng_u64(1, 0, number), rng_u64(1, 1, number), rng_u64(1, 2, number), MOST);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
