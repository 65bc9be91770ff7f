#!/usr/bin/env bash
# Builds tests/bench/tessera, which measures Tessera's POSIX driver as `make bench` measures our log, and prints the path of
# the binary. It comes through Go's module proxy, pinned by its go.sum. It lives in tessera-VERSION-DIGEST/, where DIGEST is
# that of the sources.
source "$(dirname "${BASH_SOURCE[0]}")/install.bash"

readonly version=1.0.4
readonly sources="${peers%/*}/bench/tessera"
grep -q "^	github.com/transparency-dev/tessera v${version}\$" "${sources}/go.mod" || fail "tests/bench/tessera/go.mod has not Tessera ${version}: change one of the two"
home="${cache}/tessera-${version}-$(cd "$sources" && digest_of go.mod go.sum ./*.go)"
readonly home
readonly binary="${home}/tessera"

installed() {
    [ -x "$binary" ]
}

prepare() {
    need_go Tessera
}

make_it() {
    say "building Tessera ${version}, once"
    CGO_ENABLED=0 go_build "$sources" "Tessera ${version}" -ldflags "-s -w" -o "$work/home/tessera" .
    "$work/home/tessera" -h >/dev/null 2>&1 || fail "what was built does not start here"
}

install_once
echo "$binary"
