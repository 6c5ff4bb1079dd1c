#!/bin/sh
# For a machine that has not even make: installs the packages, then calls make. scripts/bootstrap.sh [TARGET...]
set -eu
cd "$(dirname "$0")/.."
scripts/deps.sh build
exec make "$@"
