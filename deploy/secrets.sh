#!/usr/bin/env bash
# Makes what deploy/compose.yaml takes as files, beside it: secrets/ with an authority, certificates,
# passwords and the settings that hold a password; state/ for the keyring and tokens; and .env, which
# says that the containers run as you, so that nobody else need be able to read the files.
#
#   deploy/secrets.sh [DIRECTORY]     DIRECTORY in place of deploy/
#
# The bot's token, as BotFather gives it, is read from TELEGRAM_TOKEN, or put it into
# secrets/telegram.token later. What is there is kept. To renew the certificates, which are good for a
# year, remove secrets/*.crt, call this again, and restart the services.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
directory=${1:-$here}
mkdir -p "$directory"
cd "$directory"
umask 077
mkdir -p secrets state/keyward state/operator state/bot

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
        names+=,DNS:$name
    done
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc \
        -subj "/CN=$1" -keyout "$file.key.new" 2>/dev/null \
        | openssl x509 -req -days 365 -CA secrets/ca.pem -CAkey secrets/ca.key -extfile \
            <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\n' "$names") \
            -out "$file.crt.new" 2>/dev/null
    mv "$file.key.new" "$file.key"
    mv "$file.crt.new" "$file.crt"
}

if [[ ! -s secrets/ca.pem ]]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 3650 \
        -subj '/CN=Keyward deployment' -keyout secrets/ca.key -out secrets/ca.pem 2>/dev/null
fi
certificate keyward keyward-a keyward-b keyward-c balancer
certificate postgres postgres
certificate redis redis

password postgres >/dev/null
database='postgres/keyward?sslmode=verify-full&sslrootcert=/run/secrets/ca.pem'
cat >secrets/owner.toml <<TOML
store = "postgres://keyward_owner:$(password owner)@$database"
TOML
cat >secrets/instance.toml <<TOML
store = "postgres://keyward_service:$(password service)@$database"
redis = "rediss://keyward:$(password redis)@redis:6379?ca=/run/secrets/ca.pem"
TOML
sed "s/>CHANGE-ME/>$(password redis)/" "$here/redis.acl" | grep -v '^#' >secrets/redis.acl

if [[ -n ${TELEGRAM_TOKEN:-} ]]; then
    printf '%s\n' "$TELEGRAM_TOKEN" >secrets/telegram.token
elif [[ ! -e secrets/telegram.token ]]; then
    : >secrets/telegram.token
    echo "note: put the bot's token into $directory/secrets/telegram.token" >&2
fi
echo "KEYWARD_USER=$(id -u):$(id -g)" >.env
