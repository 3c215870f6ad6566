#!/usr/bin/env bash
# Makes what deploy/compose.yaml takes as files, beside it: secrets/ with an authority, certificates,
# passwords and the settings that hold a password; state/ for the keyring and tokens; and .env, which
# says that the containers run as you, so that nobody else need be able to read the files. For root they
# run as who called sudo, or as 10001, to whom the files are given. An engine that gives containers other
# users than the machine has (rootless, userns-remap) cannot read them.
#
#   deploy/secrets.sh [DIRECTORY]     DIRECTORY in place of deploy/
#
# The bot's token, as BotFather gives it, is read from TELEGRAM_TOKEN, or put it into
# secrets/telegram.token later. KEYWARD_NAMES holds the names and IPv4 addresses by which callers on other
# machines reach this one, such as "keys.example.org 10.0.0.5"; it is kept in .env. What is there is kept,
# what you wrote into it too. To renew the certificates, which are good for a year, or to give them other
# names, remove secrets/*.crt, call this again, and restart the services.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
directory=${1:-$here}
mkdir -p "$directory"
cd "$directory"
umask 077
mkdir -p secrets state/keyward state/operator state/bot
touch .env

# setting NAME: prints what .env says of it.
setting() {
    sed -n "s/^$1=//p" .env
}

# remember NAME VALUE: puts it into .env, where other lines stay as they are.
remember() {
    { grep -v "^$1=" .env || true; } >.env.new
    printf '%s=%s\n' "$1" "$2" >>.env.new
    mv .env.new .env
}

# quietly COMMAND...: runs it; what it says on stderr is only shown if it fails.
quietly() {
    local said
    said=$(mktemp)
    "$@" 2>"$said" || {
        cat "$said" >&2
        rm -f "$said"
        return 1
    }
    rm -f "$said"
}

# password NAME: prints the password of that name, which is made at the first time.
password() {
    [[ -s secrets/$1.password ]] || openssl rand -hex 24 >"secrets/$1.password"
    cat "secrets/$1.password"
}

# certificate FILE NAME...: a certificate for these names and this machine, signed by the authority.
certificate() {
    local file=secrets/$1 name names=DNS:localhost,IP:127.0.0.1
    shift
    [[ ! -s $file.crt || ! -s $file.key ]] || return 0
    for name in "$@"; do
        [[ $name =~ ^[A-Za-z0-9.-]+$ ]] || {
            echo "error: KEYWARD_NAMES: '$name' is no host name and no IPv4 address" >&2
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
    echo "error: this takes OpenSSL 3, not $(openssl version)" >&2
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
    || sed "s/>CHANGE-ME/>$(password redis)/" "$here/redis.acl" | grep -v '^#' >secrets/redis.acl

if [[ -n ${TELEGRAM_TOKEN:-} ]]; then
    printf '%s\n' "$TELEGRAM_TOKEN" >secrets/telegram.token
elif [[ ! -e secrets/telegram.token ]]; then
    : >secrets/telegram.token
    echo "note: put the bot's token into $directory/secrets/telegram.token" >&2
fi
user=$(id -u):$(id -g)
if [[ $user == 0:* ]]; then
    user=${SUDO_UID:-0}:${SUDO_GID:-0}
    [[ $user != 0:* ]] || user=10001:10001
fi
remember KEYWARD_USER "$user"
[[ $(id -u) != 0 ]] || chown -R "$user" secrets state .env
