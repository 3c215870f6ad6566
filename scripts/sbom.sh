#!/usr/bin/env bash
# sbom.sh VERSION TO: writes the bills of materials of both programs, TO/keyward-VERSION.cdx.json and
# TO/keyward-bot-VERSION.cdx.json, in the format of CycloneDX: each crate with its version, licence and checksum.
# Builds the generator the first time.
set -euo pipefail
cd "$(dirname "$0")/.."

cyclonedx_version=0.5.9
version=$1
to=$2
PATH="$PWD/target/tools/bin:$PATH"

if [[ $(cargo cyclonedx --version 2>/dev/null) != *" $cyclonedx_version" ]]; then
    env -u CARGO_TARGET_DIR cargo install --quiet --locked --force \
        --version "=$cyclonedx_version" --root target/tools cargo-cyclonedx
fi
mkdir -p "$to"
# The generator writes beside each manifest of the workspace.
written=$(mktemp)
trap 'xargs --arg-file="$written" rm -f; rm -f "$written"' EXIT
cargo metadata --no-deps --format-version 1 --locked \
    | jq --raw-output '.packages[].manifest_path | sub("Cargo.toml$"; "sbom.json")' >"$written"
cargo cyclonedx --quiet --format json --no-build-deps --target x86_64-unknown-linux-gnu --override-filename sbom
cp sbom.json "$to/keyward-$version.cdx.json"
cp crates/bot/sbom.json "$to/keyward-bot-$version.cdx.json"
