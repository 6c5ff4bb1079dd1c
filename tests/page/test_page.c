// serve/page.c: every file of the page is found, whole, typed and hashed, and none of them points outside.
#include "serve/page.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "support/test.h"

// The path that the page has for a file of src/serve/page.
static void page_path(char *path, size_t size, const char *name) {
    if (strcmp(name, "index.html") == 0) {
        snprintf(path, size, "/");
    } else {
        snprintf(path, size, "/page/%s", name);
    }
}

static void test_every_file_is_embedded(void **state) {
    (void)state;
    DIR *directory = opendir("src/serve/page");
    assert_non_null(directory);
    int count = 0;
    for (struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory)) {
        if (entry->d_name[0] == '.') {
            continue;
        }
        char path[300], name[300];
        static unsigned char bytes[1 << 20];
        page_path(path, sizeof path, entry->d_name);
        snprintf(name, sizeof name, "src/serve/page/%s", entry->d_name);
        struct page_file file;
        assert_true(page_find(&file, path));
        FILE *handle = fopen(name, "rb");
        assert_non_null(handle);
        size_t size = fread(bytes, 1, sizeof bytes, handle);
        fclose(handle);
        assert_true(size > 0);
        assert_int_equal(file.size, size);
        assert_memory_equal(file.bytes, bytes, size);
        count++;
    }
    closedir(directory);
    assert_true(count >= 4);
}

static void test_fields(void **state) {
    (void)state;
    struct page_file page, style, again;
    assert_true(page_find(&page, "/"));
    assert_true(page_find(&style, "/page/style.css"));
    assert_true(page_find(&again, "/"));
    assert_string_equal(page.content_type, "text/html; charset=utf-8");
    assert_string_equal(style.content_type, "text/css; charset=utf-8");
    assert_string_equal(page.etag, again.etag);
    assert_string_not_equal(page.etag, style.etag);
    assert_int_equal(strlen(page.etag), 18);
    assert_true(page.etag[0] == '"' && page.etag[17] == '"');
}

static void test_other_paths_are_not_found(void **state) {
    (void)state;
    static const char *const paths[] = {
        "",          "/page",           "/page/",     "/page/style.css/", "/page/../page/style.css",
        "style.css", "/PAGE/style.css", "/index.html"};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        struct page_file file;
        assert_false(page_find(&file, paths[i]));
    }
}

static void test_headers(void **state) {
    (void)state;
    bool policy = false;
    for (int i = 0; i < PAGE_HEADERS; i++) {
        assert_non_null(page_headers[i].name);
        assert_null(strpbrk(page_headers[i].value, "\r\n"));
        if (strcmp(page_headers[i].name, "Content-Security-Policy") == 0) {
            policy = true;
            assert_null(strstr(page_headers[i].value, "unsafe"));
            assert_non_null(strstr(page_headers[i].value, "default-src 'none'"));
        }
    }
    assert_true(policy);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_file_is_embedded),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_other_paths_are_not_found),
        cmocka_unit_test(test_headers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
