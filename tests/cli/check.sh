# Sourced by the tests of this folder: check DESCRIPTION STATUS prints one line and remembers a failure in $failed, the
# exit status of the test.
failed=0
check() {
    if [ "$2" -eq 0 ]; then
        echo "ok $1"
    else
        echo "not ok $1"
        failed=1
    fi
}
