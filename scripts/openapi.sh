#!/usr/bin/env bash
# Generates crates/proto/src/gen/openapi.json from the proto files and scripts/openapi/base.yaml.
#
# --check: fails if the committed file differs, and writes nothing.
#
# The generator is a tool of scripts/openapi/go.mod. Go builds it once, which takes some minutes, and keeps
# it in its build cache.
set -euo pipefail
cd "$(dirname "$0")/.."

document=crates/proto/src/gen/openapi.json

for program in buf go jq; do
    if ! command -v "$program" >/dev/null; then
        echo "error: $program is missing; install it with: make check-tools" >&2
        exit 1
    fi
done
generator=$(go tool -C scripts/openapi -n protoc-gen-connect-openapi)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

buf build --output "$work/image.json"
buf generate --path proto/keyward --template "
version: v2
plugins:
  - local: $generator
    out: $work
    strategy: all
    opt:
      - path=openapi.json
      - format=json
      - features=google.api.http
      - trim-unused-types
      - short-operation-ids
      - short-service-tags
      - base=scripts/openapi/base.yaml
      - override=scripts/openapi/base.yaml
"
version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' Cargo.toml)
jq --from-file scripts/openapi/correct.jq --arg version "$version" --slurpfile image "$work/image.json" \
    "$work/openapi.json" >"$work/corrected.json"

if [[ ${1:-} != --check ]]; then
    cp "$work/corrected.json" "$document"
elif ! diff --unified "$document" "$work/corrected.json" >&2; then
    echo "error: $document is not what the proto files say; run: make openapi" >&2
    exit 1
fi
