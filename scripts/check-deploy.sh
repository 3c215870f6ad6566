#!/usr/bin/env bash
# Looks at what is in deploy/ without a container engine: the Dockerfile by hadolint, compose.yaml by the
# schema of the compose specification, the balancer's configuration by the balancer, the systemd units by
# systemd, and how much of the machine they leave to the service.
set -euo pipefail
cd "$(dirname "$0")/.."

# The highest exposure that `systemd-analyze security` may give a unit, of 100.
exposure=15

hadolint deploy/Dockerfile
check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Names that only containers have cannot be resolved here, which is a warning.
deploy/secrets.sh "$work" 2>/dev/null
sed "s#/run/secrets#$work/secrets#g" deploy/haproxy.cfg >"$work/haproxy.cfg"
haproxy -c -q -f "$work/haproxy.cfg" 2>"$work/said" || {
    cat "$work/said" >&2
    exit 1
}

# The units in a system of their own, where there are the programs that they start.
root=$work/root
mkdir -p "$root/etc/systemd/system" "$root/usr/local/bin" "$root/usr/lib"
cp deploy/systemd/*.service "$root/etc/systemd/system"
cp -r /usr/lib/systemd "$root/usr/lib"
ln -s usr/lib "$root/lib"
for program in keyward keyward-bot; do
    install -m 755 /bin/true "$root/usr/local/bin/$program"
done
for unit in keyward.service keyward-bot.service; do
    # It only warns of a directive that it does not know.
    said=$(systemd-analyze verify --man=no --recursive-errors=one --root="$root" "$unit" 2>&1) \
        && [[ -z $said ]] || {
        printf '%s\n' "$said" >&2
        exit 1
    }
    systemd-analyze security --no-pager --offline=yes --threshold="$exposure" "deploy/systemd/$unit" \
        >"$work/said" || {
        cat "$work/said" >&2
        exit 1
    }
    tail -n 1 "$work/said"
done
