# shellcheck shell=bash
# Functions that the other scripts share. They are run from the root of the repository.

# What a command is run by to be run as root.
as_root=()
if ((EUID != 0)); then
    as_root=(sudo)
    # Without a terminal sudo must not ask for a password.
    [[ -t 0 ]] || as_root=(sudo -n)
fi

# install_packages PACKAGE...: Debian packages, as root or through sudo.
install_packages() {
    (($# > 0)) || return 0
    echo "installing: $*"
    if ! command -v apt-get >/dev/null \
        || ! "${as_root[@]}" apt-get update -qq </dev/null \
        || ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "$@" </dev/null; then
        echo "error: could not install packages; install these and try again: $*" >&2
        return 1
    fi
}

# is_installed PACKAGE: whether this Debian package is.
is_installed() {
    [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

# has_postgres DIRECTORY: whether all that is run of Postgres is there.
has_postgres() {
    [[ -x $1/initdb && -x $1/postgres && -x $1/pg_ctl ]]
}

# postgres_directory: prints where Postgres' programs are, as the tests find them.
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

# redis_server: prints a program that is a Redis server, as the tests find it. Debian's redis-tools has
# it as redis-check-rdb, which the tests start under the server's name.
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

# python_packages: the Debian packages without which no Python venv can be made.
python_packages() {
    python3 -c 'import venv, ensurepip' 2>/dev/null || echo python3 python3-venv
}

# make_venv DIRECTORY REQUIREMENTS: a Python venv with exactly these packages, made once.
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
