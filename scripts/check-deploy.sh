#!/usr/bin/env bash
# Checks the files in deploy/ without a container engine: the Dockerfile with hadolint, compose.yaml with
# the schema of the Compose specification, the load balancer's configuration with haproxy, and the systemd
# units with systemd, including their exposure.
set -euo pipefail
cd "$(dirname "$0")/.."

# The maximum exposure of a unit that `systemd-analyze security` may report, of 100.
exposure=15

hadolint deploy/Dockerfile
check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# haproxy warns that it cannot resolve the names of the containers here. Only errors fail the check.
deploy/secrets.sh "$work" 2>/dev/null
sed "s#/run/secrets#$work/secrets#g" deploy/haproxy.cfg >"$work/haproxy.cfg"
haproxy -c -q -f "$work/haproxy.cfg" 2>"$work/output" || {
    cat "$work/output" >&2
    exit 1
}

# Install the units, and placeholders for their programs, in a temporary root.
root=$work/root
mkdir -p "$root/etc/systemd/system" "$root/usr/local/bin" "$root/usr/lib"
cp deploy/systemd/*.service "$root/etc/systemd/system"
cp -r /usr/lib/systemd "$root/usr/lib"
ln -s usr/lib "$root/lib"
for program in keyward keyward-bot; do
    install -m 755 /bin/true "$root/usr/local/bin/$program"
done
for unit in keyward.service keyward-bot.service; do
    # An unknown directive is only a warning, so any output fails the check.
    output=$(systemd-analyze verify --man=no --recursive-errors=one --root="$root" "$unit" 2>&1) \
        && [[ -z $output ]] || {
        printf '%s\n' "$output" >&2
        exit 1
    }
    systemd-analyze security --no-pager --offline=yes --threshold="$exposure" "deploy/systemd/$unit" \
        >"$work/output" || {
        cat "$work/output" >&2
        exit 1
    }
    tail -n 1 "$work/output"
done
