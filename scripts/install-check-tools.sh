#!/usr/bin/env bash
# Installs the tools of `make check`, besides Rust: cargo-deny and the packages of
# scripts/requirements.txt under target/, and missing Debian packages. haproxy and systemd only check
# deploy/. A cargo-deny of the right version on PATH is used; otherwise building it takes some minutes.
# Idempotent.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

deny_version=0.20.2

read -ra missing < <(python_packages) || true
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v haproxy >/dev/null || missing+=(haproxy)
command -v systemd-analyze >/dev/null || missing+=(systemd)
command -v openssl >/dev/null || missing+=(openssl)
install_packages "${missing[@]}"

make_venv target/venv-tools scripts/requirements.txt

PATH="$PWD/target/tools/bin:$PATH"
if [[ $(cargo-deny --version 2>/dev/null) != "cargo-deny $deny_version" ]]; then
    echo "building cargo-deny $deny_version"
    env -u CARGO_TARGET_DIR cargo install --quiet --locked --force \
        --version "=$deny_version" --root target/tools cargo-deny
fi
