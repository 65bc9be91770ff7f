#!/usr/bin/env bash
# Builds a real SPIRE, once a user, and prints the directory that holds its spire-server and spire-agent. No container, no root.
#
# SPIRE comes through Go's module proxy, pinned by spire/go.mod and spire/go.sum, and is compiled here: 6 minutes on two
# cores. It lives in ${XDG_CACHE_HOME:-~/.cache}/knhk/spire-VERSION/. Safe to run many times and in parallel.
set -euo pipefail

readonly version=1.13.3
readonly cache="${XDG_CACHE_HOME:-${HOME:?set HOME or XDG_CACHE_HOME}/.cache}/knhk"
readonly home="${cache}/spire-${version}"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
readonly here

fail() {
    echo "spire.sh: $*" >&2
    exit 1
}

has_spire() {
    [ -x "${home}/spire-server" ] && [ -x "${home}/spire-agent" ]
}

if has_spire; then
    echo "$home"
    exit 0
fi

command -v flock >/dev/null || fail "flock is missing: apt-get install util-linux"
command -v cc >/dev/null || fail "a C compiler is missing, and SPIRE's SQLite needs it: apt-get install gcc libc6-dev"
go="$("${here}/go.sh")" || fail "there is no Go to build SPIRE with; the lines above say why"
mkdir -p "$cache" || fail "cannot make ${cache}: set XDG_CACHE_HOME to a directory that can be written"

# One builder at a time; the others wait here and then find it built.
exec 9>"${home}.lock"
flock 9
if has_spire; then
    echo "$home"
    exit 0
fi

echo "spire.sh: building SPIRE ${version}, once; that takes minutes" >&2
work="$(mktemp -d "${home}.XXXXXX")"
trap 'rm -rf "$work"' EXIT
mkdir "$work/home"
# The version is stamped as SPIRE's own Makefile does it. `-mod=readonly`: what go.sum does not pin is not built.
(cd "${here}/spire" && GOWORK=off GOFLAGS= CGO_ENABLED=1 nice "$go" build -mod=readonly -trimpath -buildvcs=false \
    -ldflags "-s -w -X github.com/spiffe/spire/pkg/common/version.gittag=${version}" -o "$work/home/" \
    github.com/spiffe/spire/cmd/spire-server github.com/spiffe/spire/cmd/spire-agent) >"$work/build.log" 2>&1 ||
    fail "Go could not build SPIRE ${version} ($(grep -v '^go: downloading' "$work/build.log" | tail -n 1 | grep . || echo "it gave no reason")): check the network, or GOPROXY"
for binary in spire-server spire-agent; do
    "$work/home/${binary}" --version >/dev/null 2>&1 || fail "the ${binary} that was built does not start here"
done

# The rename makes it appear whole or not at all. What stands there without a binary is a broken install.
rm -rf "$home"
mv "$work/home" "$home"
echo "$home"
