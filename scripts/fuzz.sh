#!/usr/bin/env bash
# Runs the fuzz targets named as arguments, or all, each for FUZZ_SECONDS (60). New inputs go to
# target/fuzz/corpus, an input that fails to fuzz/artifacts. The first build takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

fuzz_version=0.13.2

PATH="$PWD/target/tools/bin:$PATH"
if [[ $(cargo-fuzz --version 2>/dev/null) != "cargo-fuzz $fuzz_version" ]]; then
    cargo install --quiet --locked --version "=$fuzz_version" --root target/tools cargo-fuzz
fi

# The fuzzer tests the versions that Keyward is built from.
cp Cargo.lock fuzz/Cargo.lock

# Stores and keyrings belong in memory, where a commit costs nothing.
TMPDIR=$(mktemp -d -p "$([[ -d /dev/shm ]] && echo /dev/shm || echo /tmp)")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

if (($# == 0)); then
    mapfile -t targets < <(cargo fuzz list)
    set -- "${targets[@]}"
fi
for target; do
    found="target/fuzz/corpus/$target"
    mkdir -p "$found"
    # Keyward's code is safe Rust, so no sanitizer is needed, and no nightly toolchain.
    cargo fuzz run --sanitizer none --target-dir target/fuzz "$target" "$found" "fuzz/corpus/$target" \
        -- -max_total_time="${FUZZ_SECONDS:-60}" -rss_limit_mb=4096
done
