#!/usr/bin/env bash
# Checks the files in deploy/ without a container engine: the Dockerfile with hadolint, the workflows with
# actionlint and their schema, compose.yaml with the schema of the Compose specification, the objects of Kubernetes with its schema, the load balancer's
# configuration with haproxy, the proxies' configurations with each proxy, the alerts with Prometheus, and
# the systemd units with systemd, including their exposure.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/target/servers/bin:$PATH:/usr/sbin"

# The maximum exposure of a unit that `systemd-analyze security` may report, of 100.
exposure=15

hadolint deploy/Dockerfile
actionlint -shellcheck "$(command -v shellcheck)" .github/workflows/*.yml
check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
for file in deploy/kubernetes/*.yaml; do
    # The operators of Prometheus and kustomize have schemas of their own.
    case $file in */monitor.yaml | */kustomization.yaml) continue ;; esac
    kubernetes-validate --strict --quiet "$file"
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# quietly COMMAND...: shows the output of a command only if it fails.
quietly() {
    "$@" >"$work/output" 2>&1 || {
        cat "$work/output" >&2
        exit 1
    }
}

# haproxy warns that it cannot resolve the names of the containers here. Only errors fail the check.
deploy/secrets.sh "$work" 2>/dev/null
sed "s#/run/secrets#$work/secrets#g" deploy/haproxy.cfg >"$work/haproxy.cfg"
quietly haproxy -c -q -f "$work/haproxy.cfg"

# The proxies in front of an API, with a token.
mkdir "$work/proxies"
for file in deploy/proxies/*; do
    sed "s#/etc/nginx#$work#; s#/etc/haproxy#$work/proxies#" "$file" >"$work/proxies/${file##*/}"
done
echo token >"$work/proxies/keyward-token"
echo 'proxy_set_header x-keyward-token "token";' >"$work/keyward-token.conf"
cp tests/e2e/proxies/nginx.conf "$work"
quietly nginx -t -q -e stderr -p "$work" -c nginx.conf
quietly haproxy -c -q -f "$work/proxies/haproxy.cfg"
quietly caddy validate --adapter caddyfile --config "$work/proxies/Caddyfile"
quietly envoy --mode validate --log-level error -c "$work/proxies/envoy.yaml"

quietly promtool test rules deploy/prometheus/keyward.test.yml

# Install the units, and placeholders for their programs, in a temporary root.
root=$work/root
mkdir -p "$root/etc/systemd/system" "$root/usr/local/bin" "$root/usr/lib"
cp deploy/systemd/*.service "$root/etc/systemd/system"
cp -r /usr/lib/systemd "$root/usr/lib"
ln -s usr/lib "$root/lib"
for program in keyward keyward-bot; do
    install -m 755 /bin/true "$root/usr/local/bin/$program"
done
for unit in keyward.service keyward-agent.service keyward-bot.service; do
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
