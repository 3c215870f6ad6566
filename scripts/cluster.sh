#!/usr/bin/env bash
# Starts Postgres and three instances of Keyward from local binaries, for a developer, and stops
# them all at Ctrl-C (or SIGTERM). All that it makes is in a temporary directory, which goes at the end.
#
# KEYWARD_CLUSTER_INSTANCES sets how many (3), KEYWARD_CLUSTER_PORT the first port (50051; the
# instances take it and those after it, their side ports 9464 and on, Postgres 55432),
# KEYWARD_CLUSTER_BINARY another binary than target/release/keyward.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

instances=${KEYWARD_CLUSTER_INSTANCES:-3}
first=${KEYWARD_CLUSTER_PORT:-50051}
keyward=${KEYWARD_CLUSTER_BINARY:-$PWD/target/release/keyward}
# The service refuses variables that it does not know.
unset KEYWARD_CLUSTER_INSTANCES KEYWARD_CLUSTER_PORT KEYWARD_CLUSTER_BINARY
database_port=55432

postgres=$(postgres_directory) || {
    echo "error: there is no Postgres server: run scripts/install-test-tools.sh" >&2
    exit 1
}
work=$(mktemp -d "${TMPDIR:-/tmp}/keyward-cluster-XXXXXX")
pids=()

# as_server COMMAND...: as a user that Postgres runs as, which root is not.
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
# A Ctrl-C in the terminal is for this script, which stops the server last.
as_server "$postgres/postgres" --single -D "$work/data" postgres >/dev/null <<'SQL'
CREATE ROLE keyward_owner LOGIN
CREATE ROLE keyward_service LOGIN
CREATE DATABASE keyward OWNER keyward_owner
SQL
# A Ctrl-C in the terminal is for this script, which stops the server last.
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
        2> >(sed -u "s/^/[$n] /" >&2) &
    pids+=($!)
done
echo
echo "export KEYWARD_TOKEN_FILE=$work/instances/admin.token"
echo "keyward --help tells the rest; Ctrl-C stops it all"
wait "${pids[@]}"
