#!/usr/bin/env bash
# Builds transit/, which serves Vault's own Transit engine as Vault does, once a user, and prints the path of the binary:
#   "$(tests/peers/transit.sh)" -listen 127.0.0.1:8200
# For tests only: the engine is under the Business Source License, and nothing that is shipped contains it.
#
# It comes through Go's module proxy, pinned by transit/go.sum. It lives in ${XDG_CACHE_HOME:-~/.cache}/knhk/transit-VERSION-DIGEST/,
# where DIGEST is that of the sources. Safe to run many times and in parallel.
set -euo pipefail

readonly version=1.21.4
readonly cache="${XDG_CACHE_HOME:-${HOME:?set HOME or XDG_CACHE_HOME}/.cache}/knhk"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
readonly here

fail() {
    echo "transit.sh: $*" >&2
    exit 1
}

grep -q "^	github.com/hashicorp/vault v${version}\$" "${here}/transit/go.mod" || fail "transit/go.mod has not Vault ${version}: change one of the two"
digest="$(cd "${here}/transit" && cat go.mod go.sum ./*.go | sha256sum | cut -c 1-12)"
readonly home="${cache}/transit-${version}-${digest}"
readonly binary="${home}/transit"

if [ -x "$binary" ]; then
    echo "$binary"
    exit 0
fi

command -v flock >/dev/null || fail "flock is missing: apt-get install util-linux"
go="$("${here}/go.sh")" || fail "there is no Go to build Vault's Transit engine with; the line above says why"
mkdir -p "$cache" || fail "cannot make ${cache}: set XDG_CACHE_HOME to a directory that can be written"

# One builder at a time; the others wait here and then find it built.
exec 9>"${home}.lock"
flock 9
if [ -x "$binary" ]; then
    echo "$binary"
    exit 0
fi

echo "transit.sh: building Vault's Transit engine ${version}, once; that takes a minute or two" >&2
work="$(mktemp -d "${home}.XXXXXX")"
trap 'rm -rf "$work"' EXIT
mkdir "$work/home"
# `-mod=readonly`: what go.sum does not pin is not built.
(cd "${here}/transit" && GOWORK=off GOFLAGS= CGO_ENABLED=0 nice "$go" build -mod=readonly -trimpath -buildvcs=false \
    -ldflags "-s -w" -o "$work/home/transit" .) >"$work/build.log" 2>&1 ||
    fail "Go could not build it ($(grep -v '^go: downloading' "$work/build.log" | tail -n 1 | grep . || echo "it gave no reason")): check the network, or GOPROXY"
"$work/home/transit" -h >/dev/null 2>&1 || fail "what was built does not start here"

# The rename makes it appear whole or not at all. What stands there without a binary is a broken build.
rm -rf "$home"
mv "$work/home" "$home"
echo "$binary"
