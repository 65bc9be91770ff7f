#!/usr/bin/env bash
# Builds transit/, which serves Vault's own Transit engine as Vault does, and prints the path of the binary:
#   "$(tests/peers/transit.sh)" -listen 127.0.0.1:8200
# For tests only: the engine is under the Business Source License, and nothing that is shipped contains it.
#
# It comes through Go's module proxy, pinned by transit/go.sum. It lives in transit-VERSION-DIGEST/, where DIGEST is that of
# the sources.
source "$(dirname "${BASH_SOURCE[0]}")/install.bash"

readonly version=1.21.4
grep -q "^	github.com/hashicorp/vault v${version}\$" "${peers}/transit/go.mod" || fail "transit/go.mod has not Vault ${version}: change one of the two"
home="${cache}/transit-${version}-$(cd "${peers}/transit" && digest_of go.mod go.sum ./*.go)"
readonly home
readonly binary="${home}/transit"

installed() {
    [ -x "$binary" ]
}

prepare() {
    need_go "Vault's Transit engine"
}

make_it() {
    say "building Vault's Transit engine ${version}, once; that takes a minute or two"
    CGO_ENABLED=0 go_build "${peers}/transit" "Vault's Transit engine" -ldflags "-s -w" -o "$work/home/transit" .
    "$work/home/transit" -h >/dev/null 2>&1 || fail "what was built does not start here"
}

install_once
echo "$binary"
