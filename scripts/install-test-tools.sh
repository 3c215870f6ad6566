#!/usr/bin/env bash
# Installs what the tests need beside Rust: Debian packages that are missing (a C compiler, sqlite3,
# Postgres, Redis, haproxy, openssl), and a Python venv under target/ with the packages of
# tests/python/requirements.txt. Does nothing the second time.
#
# KEYWARD_TEST_PYTHON names another interpreter for the tests; then no venv is made.
# KEYWARD_TEST_POSTGRES names the directory of another Postgres, with initdb, postgres and pg_ctl;
# then none is installed. KEYWARD_TEST_REDIS names the directory of another redis-server or
# valkey-server; then none is installed. The tests start servers of their own and leave the system's
# alone.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

# prevent_cluster: lets Debian's package make and start no server at its installation. A system that
# has the package or a setting for it keeps what it has.
prevent_cluster() {
    local file=/etc/postgresql-common/createcluster.conf
    if [[ -e $file ]] || is_installed postgresql-common; then return 0; fi
    "${as_root[@]}" mkdir -p "${file%/*}"
    echo 'create_main_cluster = false' | "${as_root[@]}" tee "$file" >/dev/null
}

missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v sqlite3 >/dev/null || missing+=(sqlite3)
command -v haproxy >/dev/null || missing+=(haproxy)
command -v openssl >/dev/null || missing+=(openssl)
if ! postgres_directory >/dev/null; then
    if [[ -n ${KEYWARD_TEST_POSTGRES:-} ]]; then
        echo "error: KEYWARD_TEST_POSTGRES=$KEYWARD_TEST_POSTGRES lacks initdb, postgres or pg_ctl;" \
            "name their directory, or unset it" >&2
        exit 1
    fi
    prevent_cluster
    missing+=(postgresql)
fi
if ! redis_server >/dev/null; then
    if [[ -n ${KEYWARD_TEST_REDIS:-} ]]; then
        echo "error: KEYWARD_TEST_REDIS=$KEYWARD_TEST_REDIS lacks redis-server and valkey-server;" \
            "name the directory of one, or unset it" >&2
        exit 1
    fi
    # The server's program without the service that redis-server would start.
    missing+=(redis-tools)
fi
if [[ -z ${KEYWARD_TEST_PYTHON:-} ]]; then
    read -ra python < <(python_packages) || true
    missing+=("${python[@]}")
fi
install_packages "${missing[@]}"

if [[ -z ${KEYWARD_TEST_PYTHON:-} ]]; then
    make_venv target/venv tests/python/requirements.txt
elif ! "$KEYWARD_TEST_PYTHON" -c 'import google.protobuf, grpc, grpc_reflection, grpc_tools'; then
    echo "error: KEYWARD_TEST_PYTHON=$KEYWARD_TEST_PYTHON lacks packages of" \
        "tests/python/requirements.txt; install them there, or unset it" >&2
    exit 1
fi
