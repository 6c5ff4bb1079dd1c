// text/unicode: UTF-8 reading against its definition for all inputs that matter, and the table of classes.
#include "text/unicode.h"
#include "text_support.h"

// All code points go out and come back; a cut or damaged sequence is ill-formed.
static void test_round_trip(void **state) {
    (void)state;
    for (uint32_t code = 0; code < 0x110000; code++) {
        uint8_t bytes[4];
        uint32_t found;
        unsigned length = unicode_encode(bytes, code);
        if (code >= 0xD800 && code < 0xE000) {
            assert_int_equal(unicode_decode(&found, bytes, length), 1);
            assert_int_equal(found, UNICODE_ILL_FORMED);
            continue;
        }
        if (unicode_decode(&found, bytes, length) != length || found != code) {
            fail_msg("U+%04X", (unsigned)code);
        }
        for (unsigned cut = 1; cut < length; cut++) {
            if (unicode_decode(&found, bytes, cut) != 1 || found != UNICODE_ILL_FORMED) {
                fail_msg("U+%04X cut to %u bytes", (unsigned)code, cut);
            }
        }
    }
}

// Every pair of bytes, and every lead with boundary continuation bytes: well-formed exactly when encoding gives it
// back.
static void test_ill_formed(void **state) {
    (void)state;
    static const uint8_t edges[] = {0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF};
    for (unsigned first = 0; first < 256; first++) {
        for (unsigned mix = 0; mix < 1000; mix++) {
            uint8_t text[4] = {(uint8_t)first, edges[mix % 10], edges[mix / 10 % 10], edges[mix / 100]}, again[4];
            uint32_t code;
            unsigned length = unicode_decode(&code, text, 4);
            if (code == UNICODE_ILL_FORMED) {
                assert_int_equal(length, 1);
                assert_true(first >= 0x80);
            } else {
                assert_false(code >= 0xD800 && code < 0xE000);
                assert_int_equal(unicode_encode(again, code), length);
                assert_memory_equal(again, text, length);
            }
        }
    }
}

static void test_classes(void **state) {
    (void)state;
    const uint8_t *classes = unicode_classes();
    static const struct {
        uint32_t code;
        uint8_t class;
    } known[] = {
        {0x00, CHARACTER_OTHER},
        {'\n', CHARACTER_NEWLINE},
        {'\r', CHARACTER_NEWLINE},
        {'\t', CHARACTER_SPACE},
        {' ', CHARACTER_SPACE},
        {0x1C, CHARACTER_OTHER},
        {0x85, CHARACTER_SPACE},
        {0xA0, CHARACTER_SPACE},
        {0x180E, CHARACTER_OTHER},
        {0x200B, CHARACTER_OTHER},
        {0x3000, CHARACTER_SPACE},
        {'a', CHARACTER_LETTER},
        {'7', CHARACTER_NUMBER},
        {0xB2, CHARACTER_NUMBER},
        {0x2167, CHARACTER_NUMBER},
        {'_', CHARACTER_PUNCTUATION},
        {'$', CHARACTER_SYMBOL},
        {'`', CHARACTER_SYMBOL},
        {0x301, CHARACTER_MARK},
        {0x378, CHARACTER_OTHER},
        {0xE000, CHARACTER_OTHER},
        {0x1F600, CHARACTER_SYMBOL},
        {0x1C89, CHARACTER_LETTER},
        {0x10FFFF, CHARACTER_OTHER},
        {0x4E00, CHARACTER_LETTER | CHARACTER_HAN_KANA},
        {0x9FA6, CHARACTER_LETTER},
        {0x30FB, CHARACTER_PUNCTUATION | CHARACTER_HAN_KANA},
        {0x3040, CHARACTER_OTHER | CHARACTER_HAN_KANA},
        {0x3100, CHARACTER_OTHER},
        {UNICODE_ILL_FORMED, CHARACTER_OTHER},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (classes[known[i].code] != known[i].class) {
            fail_msg("U+%04X: %u", (unsigned)known[i].code, classes[known[i].code]);
        }
    }
    // Totals of Unicode 16.0: letters, marks, numbers, punctuation, symbols.
    int64_t counts[8] = {0};
    for (uint32_t code = 0; code < 0x110000; code++) {
        counts[classes[code] & CHARACTER_CLASS_MASK]++;
    }
    assert_int_equal(counts[CHARACTER_LETTER], 141028);
    assert_int_equal(counts[CHARACTER_MARK], 2501);
    assert_int_equal(counts[CHARACTER_NUMBER], 1911);
    assert_int_equal(counts[CHARACTER_PUNCTUATION], 855);
    assert_int_equal(counts[CHARACTER_SYMBOL], 8514);
    assert_int_equal(counts[CHARACTER_SPACE], 23);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_ill_formed),
                                       cmocka_unit_test(test_classes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
