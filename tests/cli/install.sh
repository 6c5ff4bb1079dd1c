#!/usr/bin/env bash
# `make install` into a folder of its own: every file arrives, the program runs from there, a C program finds header and
# library through pkg-config, and `make uninstall` takes everything away again.
set -u
. tests/cli/check.sh

build=$(dirname "$MINKE")
root=$(mktemp -d) || exit 1
trap 'rm -rf "$root"' EXIT
prefix=$root/usr

make --no-print-directory BUILD="$build" PREFIX="$prefix" install >"$root/log" 2>&1 || cat "$root/log"
missing=0
for file in bin/minke include/minke.h lib/libminke.a lib/libminke.so lib/pkgconfig/minke.pc share/man/man1/minke.1 \
    share/bash-completion/completions/minke; do
    [ -s "$prefix/$file" ] || { echo "missing: $file"; missing=1; }
done
check "every file is installed" $missing
[ "$("$prefix/bin/minke" --version)" = "$("$MINKE" --version)" ]
check "the installed program runs" $?

cat >"$root/user.c" <<'END'
#include <minke.h>
#include <string.h>
int main(void) {
    struct minke_error error = {0};
    struct minke_model *model = NULL;
    int code = minke_model_open(&model, "/nonexistent", NULL, &error);
    return strcmp(minke_version(), MINKE_VERSION) == 0 && code < 0 && error.text[0] != 0 ? 0 : 1;
}
END
# A library with a sanitizer needs a program with the same one.
if ! nm -D "$prefix/lib/libminke.so" | grep -q -E '__(asan|tsan|ubsan)_'; then
    flags=$(PKG_CONFIG_PATH=$prefix/lib/pkgconfig pkg-config --cflags --libs minke)
    check "pkg-config knows minke" $?
    # shellcheck disable=SC2086
    ${CC:-cc} -o "$root/shared" "$root/user.c" $flags -Wl,-rpath,"$prefix/lib" && "$root/shared"
    check "a C program uses the shared library" $?
    # The libraries behind it are shared ones: `pkg-config --static` would ask for everything below them as well.
    packages=$(sed -n 's/^Requires.private: //p' "$prefix/lib/pkgconfig/minke.pc")
    # shellcheck disable=SC2046,SC2086
    ${CC:-cc} -o "$root/static" "$root/user.c" -I"$prefix/include" "$prefix/lib/libminke.a" \
        $(pkg-config --libs $packages) -lm -pthread && "$root/static"
    check "a C program uses the static library" $?
fi

make --no-print-directory BUILD="$build" PREFIX="$prefix" uninstall >/dev/null 2>&1
[ -z "$(find "$prefix" -type f -o -type l)" ]
check "uninstall leaves no file" $?
exit $failed
