#!/usr/bin/env bash
# Installs what the tests need beside Rust: Debian packages that are missing, and a Python venv
# under target/ with the packages of tests/python/requirements.txt. Does nothing the second time.
#
# KEYWARD_TEST_PYTHON names another interpreter for the tests; then no venv is made.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v sqlite3 >/dev/null || missing+=(sqlite3)
if [[ -z ${KEYWARD_TEST_PYTHON:-} ]]; then
    read -ra python < <(python_packages) || true
    missing+=("${python[@]}")
fi
install_packages "${missing[@]}"

if [[ -z ${KEYWARD_TEST_PYTHON:-} ]]; then
    make_venv target/venv tests/python/requirements.txt
elif ! "$KEYWARD_TEST_PYTHON" -c 'import google.protobuf, grpc, grpc_reflection'; then
    echo "error: KEYWARD_TEST_PYTHON=$KEYWARD_TEST_PYTHON lacks packages of" \
        "tests/python/requirements.txt; install them there, or unset it" >&2
    exit 1
fi
