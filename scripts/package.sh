#!/usr/bin/env bash
# package.sh FROM VERSION ARCHITECTURE TO: packs the programs in the directory FROM into
# TO/keyward-VERSION-linux-ARCHITECTURE.tar.gz, with the manual, the completions, deploy/ and the licence. The
# same programs give the same bytes. FROM/keyward must run on this machine.
set -euo pipefail
cd "$(dirname "$0")/.."

from=$1
version=$2
name=keyward-$version-linux-$3
to=$4

# A release is what its tag says.
if [[ $("$from/keyward" --version) != "keyward $version" ]]; then
    echo "error: $("$from/keyward" --version) is not version $version: set it in Cargo.toml, or correct the tag" >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/$name

install -D --mode=755 --target-directory="$root/bin" "$from/keyward" "$from/keyward-bot"
"$from/keyward" man "$root/share/man/man1"
install --directory "$root/share/bash-completion/completions" "$root/share/zsh/site-functions" \
    "$root/share/fish/vendor_completions.d"
"$from/keyward" completions bash >"$root/share/bash-completion/completions/keyward"
"$from/keyward" completions zsh >"$root/share/zsh/site-functions/_keyward"
"$from/keyward" completions fish >"$root/share/fish/vendor_completions.d/keyward.fish"
install --mode=644 --target-directory="$root" LICENSE README.md CHANGELOG.md
# No secrets of this machine.
git ls-files -z deploy | xargs --null cp --parents --target-directory="$root"

mkdir -p "$to"
tar --directory="$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$(git log -1 --format=%ct)" \
    --create "$name" | gzip --no-name --best >"$to/$name.tar.gz"
echo "$to/$name.tar.gz"
