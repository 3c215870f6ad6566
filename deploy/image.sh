#!/usr/bin/env bash
# image.sh FROM TO: creates the root file systems of the two images, TO/keyward and TO/keyward-bot, from
# the programs in FROM. Each contains the program, its linked libraries, the certificate authorities of
# this system, and an unprivileged user. FROM must contain both programs.
set -euo pipefail

from=$1
to=$2
for program in keyward keyward-bot; do
    root=$to/$program
    install -D --mode=755 "$from/$program" "$root/usr/local/bin/$program"
    while read -r library; do
        install -D --mode=755 "$library" "$root$library"
    done < <(ldd "$from/$program" | grep --only-matching '/[^ ]*\.so[^ ]*' | sort --unique)
    install -D --mode=644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    install -D --mode=644 /dev/stdin "$root/etc/passwd" <<<'keyward:x:10001:10001::/:/none'
    install -D --mode=644 /dev/stdin "$root/etc/group" <<<'keyward:x:10001:'
    install --directory --mode=1777 "$root/tmp"
done
