#!/usr/bin/env bash
# Creates the files that deploy/compose.yaml requires, in its directory:
#   secrets/  a certificate authority, certificates, passwords, and the settings that contain a password
#   state/    for the keyring and the tokens
#   .env      the user of the containers
#
#   deploy/secrets.sh [DIRECTORY]     uses DIRECTORY instead of deploy/
#
# The containers run as your user, so that no other user must be able to read the files. If you are root,
# they run as the user who called sudo, or as 10001, and that user owns the files. Container engines that
# map users (rootless, userns-remap) cannot read the files.
#
# TELEGRAM_TOKEN: the bot's token from BotFather. You can also write it to secrets/telegram.token later.
# KEYWARD_NAMES: the host names and IPv4 addresses of this machine for callers on other machines, such as
#   "keys.example.org 10.0.0.5". It is stored in .env.
#
# Existing files are kept, including your changes. The certificates are valid for a year. To renew them or
# to change their names, remove secrets/*.crt, run this script again, and restart the services.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
directory=${1:-$here}
mkdir -p "$directory"
cd "$directory"
umask 077
mkdir -p secrets state/keyward state/operator state/bot
touch .env

# setting NAME: prints the value of NAME in .env.
setting() {
    sed -n "s/^$1=//p" .env
}

# remember NAME VALUE: sets NAME in .env and keeps the other lines.
remember() {
    { grep -v "^$1=" .env || true; } >.env.new
    printf '%s=%s\n' "$1" "$2" >>.env.new
    mv .env.new .env
}

# quietly COMMAND...: runs the command and prints its stderr only if it fails.
quietly() {
    local errors
    errors=$(mktemp)
    "$@" 2>"$errors" || {
        cat "$errors" >&2
        rm -f "$errors"
        return 1
    }
    rm -f "$errors"
}

# password NAME: prints the password of that name. The first call creates it.
password() {
    [[ -s secrets/$1.password ]] || openssl rand -hex 24 >"secrets/$1.password"
    cat "secrets/$1.password"
}

# certificate FILE NAME...: creates a certificate for these names and for localhost, signed by the
# authority.
certificate() {
    local file=secrets/$1 name names=DNS:localhost,IP:127.0.0.1
    shift
    [[ ! -s $file.crt || ! -s $file.key ]] || return 0
    for name in "$@"; do
        [[ $name =~ ^[A-Za-z0-9.-]+$ ]] || {
            echo "error: KEYWARD_NAMES: '$name' is not a host name or an IPv4 address; correct it" >&2
            return 1
        }
        [[ $name =~ ^[0-9.]+$ ]] && names+=,IP:$name || names+=,DNS:$name
    done
    printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\n' "$names" >"$file.names"
    quietly openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc \
        -subj "/CN=$1" -keyout "$file.key.new" -out "$file.csr"
    quietly openssl x509 -req -days 365 -CA secrets/ca.pem -CAkey secrets/ca.key -CAcreateserial \
        -in "$file.csr" -extfile "$file.names" -out "$file.crt.new"
    rm -f "$file.names" "$file.csr"
    mv "$file.key.new" "$file.key"
    mv "$file.crt.new" "$file.crt"
}

[[ $(openssl version) == "OpenSSL 3"* ]] || {
    echo "error: OpenSSL 3 is required; this is $(openssl version)" >&2
    exit 1
}
if [[ ! -s secrets/ca.pem ]]; then
    quietly openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 3650 \
        -subj '/CN=Keyward deployment' -keyout secrets/ca.key -out secrets/ca.pem
fi
[[ -z ${KEYWARD_NAMES:-} ]] || remember KEYWARD_NAMES "$KEYWARD_NAMES"
read -ra reached_by <<<"$(setting KEYWARD_NAMES)"
certificate keyward keyward-a keyward-b keyward-c balancer ${reached_by[@]+"${reached_by[@]}"}
certificate postgres postgres
certificate redis redis

password postgres >/dev/null
database='postgres/keyward?sslmode=verify-full&sslrootcert=/run/secrets/ca.pem'
[[ -s secrets/owner.toml ]] || cat >secrets/owner.toml <<TOML
store = "postgres://keyward_owner:$(password owner)@$database"
TOML
[[ -s secrets/instance.toml ]] || cat >secrets/instance.toml <<TOML
store = "postgres://keyward_service:$(password service)@$database"
redis = "rediss://keyward:$(password redis)@redis:6379?ca=/run/secrets/ca.pem"
TOML
[[ -s secrets/redis.acl ]] \
    || while IFS= read -r line; do
        [[ $line == '#'* ]] || printf '%s\n' "${line/>CHANGE-ME/>$(password redis)}"
    done <"$here/redis.acl" >secrets/redis.acl

if [[ -n ${TELEGRAM_TOKEN:-} ]]; then
    printf '%s\n' "$TELEGRAM_TOKEN" >secrets/telegram.token
elif [[ ! -e secrets/telegram.token ]]; then
    : >secrets/telegram.token
    echo "note: write the bot's token to $directory/secrets/telegram.token" >&2
fi
user=$(id -u):$(id -g)
if [[ $user == 0:* ]]; then
    user=${SUDO_UID:-0}:${SUDO_GID:-0}
    [[ $user != 0:* ]] || user=10001:10001
fi
remember KEYWARD_USER "$user"
[[ $(id -u) != 0 ]] || chown -R "$user" secrets state .env
