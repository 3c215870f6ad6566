#!/usr/bin/env bash
# Starts Postgres and three instances of Keyward for a developer. Ctrl-C or SIGTERM stops them. All files
# are in a temporary directory, which is removed at the end.
#
# KEYWARD_CLUSTER_INSTANCES: the number of instances (default 3).
# KEYWARD_CLUSTER_PORT: the first gRPC port (default 50051); the following instances use the next ports.
#   The side ports start at 9464. Postgres uses 55432.
# KEYWARD_CLUSTER_BINARY: the program (default target/release/keyward).
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

instances=${KEYWARD_CLUSTER_INSTANCES:-3}
first=${KEYWARD_CLUSTER_PORT:-50051}
keyward=${KEYWARD_CLUSTER_BINARY:-$PWD/target/release/keyward}
# The service refuses unknown variables.
unset KEYWARD_CLUSTER_INSTANCES KEYWARD_CLUSTER_PORT KEYWARD_CLUSTER_BINARY
database_port=55432

postgres=$(postgres_directory) || {
    echo "error: no Postgres server found; run scripts/install-test-tools.sh" >&2
    exit 1
}
work=$(mktemp -d "${TMPDIR:-/tmp}/keyward-cluster-XXXXXX")
pids=()

# as_server COMMAND...: runs the command as a user other than root, because Postgres refuses root.
as_server() {
    if ((EUID == 0)); then
        setpriv --reuid=postgres --regid=postgres --clear-groups "$@"
    else
        "$@"
    fi
}

stop() {
    trap - EXIT INT TERM
    echo "stopping"
    for pid in "${pids[@]}"; do
        kill -TERM "$pid" 2>/dev/null || true
    done
    for pid in "${pids[@]}"; do
        wait "$pid" 2>/dev/null || true
    done
    if [[ -e $work/data/postmaster.pid ]]; then
        as_server "$postgres/pg_ctl" -D "$work/data" -m fast -w stop >/dev/null || true
    fi
    rm -rf "$work"
}
trap stop EXIT
trap 'exit 0' INT TERM

((EUID != 0)) || chown postgres "$work"
chmod 755 "$work"
echo "postgres: on 127.0.0.1:$database_port"
as_server "$postgres/initdb" --no-sync --locale=C --encoding=UTF8 --auth=trust --username=postgres \
    -D "$work/data" >/dev/null
as_server "$postgres/postgres" --single -D "$work/data" postgres >/dev/null <<'SQL'
CREATE ROLE keyward_owner LOGIN
CREATE ROLE keyward_service LOGIN
CREATE DATABASE keyward OWNER keyward_owner
SQL
# setsid: Ctrl-C must reach only this script, which stops the server last.
as_server setsid "$postgres/pg_ctl" -D "$work/data" -l "$work/data/log" -w start \
    -o "-p $database_port -c listen_addresses=127.0.0.1 -c unix_socket_directories=''" >/dev/null

export KEYWARD_KEYRING=$work/keyring
mkdir "$work/instances"
KEYWARD_STORE=postgres://keyward_owner@127.0.0.1:$database_port/keyward \
    "$keyward" init --service-role keyward_service --data-dir "$work/instances"

for ((n = 0; n < instances; n++)); do
    KEYWARD_STORE=postgres://keyward_service@127.0.0.1:$database_port/keyward \
        setsid "$keyward" serve --data-dir "$work/instances" \
        --listen "127.0.0.1:$((first + n))" --http-listen "127.0.0.1:$((9464 + n))" \
        --rest-listen "127.0.0.1:$((50080 + n))" \
        2> >(sed -u "s/^/[$n] /" >&2) &
    pids+=($!)
done
echo
echo "export KEYWARD_TOKEN_FILE=$work/instances/admin.token"
echo "Run this export in another terminal, then keyward --help. Ctrl-C stops the cluster."
wait "${pids[@]}"
