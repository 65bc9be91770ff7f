#!/usr/bin/env bash
# Sees to it that programs are here: tests/peers/tools.sh PROGRAM...
# One that is missing is installed from the distribution where that can be, else a line says how to get it.
source "$(dirname "${BASH_SOURCE[0]}")/install.bash"
label=tools

# The packages of Debian and Ubuntu that bring a program.
packages_of() {
    case "$1" in
    cc) echo gcc libc6-dev ;;
    python3) echo python3 python3-pip ;;
    openssl) echo openssl ;;
    flock) echo util-linux ;;
    make) echo make ;;
    *) fail "no package is known that brings $1" ;;
    esac
}

missing=0
for program in "$@"; do
    brought_by="$(packages_of "$program")"
    read -ra packages <<<"$brought_by"
    command -v "$program" >/dev/null || apt_install "${packages[@]}" || {
        say "${program} is missing: apt-get install ${packages[*]}"
        missing=1
    }
done
exit "$missing"
