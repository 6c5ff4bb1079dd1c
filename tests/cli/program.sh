#!/usr/bin/env bash
# The program around its subcommands: help, version, unknown commands, an output that cannot be written.
set -u
. tests/cli/check.sh

overview=$("$MINKE" --help)
check "--help exits with 0" $?
[ "$("$MINKE" help)" = "$overview" ] && [ "$("$MINKE" -h)" = "$overview" ]
check "help and -h print the same" $?
"$MINKE" --version | grep -q -E '^minke [0-9]+\.[0-9]+\.[0-9]+$'
check "--version prints the version" $?
"$MINKE" >/dev/null
[ $? -eq 2 ]
check "no command exits with 2" $?
message=$("$MINKE" versoin 2>&1)
[ $? -eq 2 ] && [ "$message" = 'minke: error: unknown command "versoin"; did you mean "version"?' ]
check "a misspelt command is suggested" $?
message=$("$MINKE" elephant 2>&1)
[ $? -eq 2 ] && [ "$(printf '%s\n' "$message" | wc -l)" -eq 1 ]
check "an unknown command gives one line" $?
if [ -w /dev/full ]; then
    "$MINKE" --help >/dev/full 2>/dev/null
    [ $? -ne 0 ]
    check "a full output device is a failure" $?
fi

# Every command of the overview explains itself, and refuses an option that does not exist with one line.
for command in $(printf '%s\n' "$overview" | sed -n 's/^  \([a-z][a-z-]*\) .*/\1/p'); do
    "$MINKE" "$command" --help | grep -q '^usage: minke\|^minke '
    check "$command --help" $?
    [ "$command" = help ] || [ "$command" = version ] && continue
    message=$("$MINKE" "$command" --no-such-option 2>&1 >/dev/null)
    [ $? -ne 0 ] && [ "$(printf '%s\n' "$message" | wc -l)" -eq 1 ]
    check "$command refuses an unknown option with one line" $?
done
exit $failed
