#!/usr/bin/env bash
# Starts a service with TLS and runs examples/python, examples/go and examples/typescript against it. Each
# must accept an active key and refuse a revoked one. All files are in a temporary directory and in ignored
# directories of the examples.
#
# KEYWARD_EXAMPLES_BINARY: the program (default target/debug/keyward).
set -euo pipefail
cd "$(dirname "$0")/.."

keyward=${KEYWARD_EXAMPLES_BINARY:-$PWD/target/debug/keyward}
python=${KEYWARD_TEST_PYTHON:-$PWD/target/venv/bin/python}
# The service refuses unknown variables.
unset KEYWARD_EXAMPLES_BINARY KEYWARD_TEST_PYTHON

missing=()
command -v go >/dev/null || missing+=("go (1.26 or later)")
command -v node >/dev/null || missing+=("node (20 or later)")
command -v npm >/dev/null || missing+=("npm")
command -v buf >/dev/null || missing+=("buf (make check-tools installs it)")
command -v openssl >/dev/null || missing+=("openssl")
"$python" -c 'import grpc_tools' 2>/dev/null || missing+=("a Python with grpcio-tools (make test-tools)")
if ((${#missing[@]} > 0)); then
    printf 'error: the examples require %s; install it\n' "${missing[@]}" >&2
    exit 1
fi

work=$(mktemp -d)
service=
stop() {
    trap - EXIT
    if [[ -n $service ]]; then
        kill -TERM "$service" 2>/dev/null || true
        wait "$service" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap stop EXIT

echo "building the examples"
(cd examples/go && buf generate ../../proto && go build -o "$work/verify-go" .)
(cd examples/typescript && npm ci --silent --no-audit --no-fund && npm run --silent build)

deploy/secrets.sh "$work/tls" 2>/dev/null
"$keyward" serve --data-dir "$work/data" --listen 127.0.0.1:0 --rest-listen none --http-listen none \
    --tls-cert "$work/tls/secrets/keyward.crt" --tls-key "$work/tls/secrets/keyward.key" \
    2>"$work/log" &
service=$!
for ((n = 0; n < 300; n++)); do
    address=$(sed -n 's/^keyward is ready: gRPC on \([^,]*\),.*/\1/p' "$work/log")
    [[ -z $address ]] || break
    kill -0 "$service" 2>/dev/null || break
    sleep 0.1
done
if [[ -z $address ]]; then
    cat "$work/log" >&2
    exit 1
fi
export KEYWARD_ENDPOINT=https://localhost:${address##*:}
export KEYWARD_CA_FILE=$work/tls/secrets/ca.pem
export KEYWARD_TOKEN_FILE=$work/data/admin.token

# run NAME: runs the example.
run() {
    case $1 in
        python) "$python" examples/python/verify.py ;;
        go) "$work/verify-go" ;;
        typescript) node examples/typescript/verify.js ;;
    esac
}

# expect STATUS TEXT: runs every example with $key and checks its exit status and its output.
expect() {
    local name output status
    for name in python go typescript; do
        status=0
        output=$(run "$name" <<<"$key") || status=$?
        if [[ $status != "$1" || $output != "$2" ]]; then
            echo "error: $name exited with $status and printed '$output'; expected $1 and '$2'" >&2
            exit 1
        fi
        echo "$name: $output"
    done
}

key=$("$keyward" issue --account 42 | tail -n 1)
expect 0 "VERDICT_VALID 42"
"$keyward" revoke --key - <<<"$key" >/dev/null
expect 2 "VERDICT_REVOKED "
