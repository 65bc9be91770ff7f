#!/usr/bin/env bash
# Builds a real SPIRE, and prints the directory that holds its spire-server and spire-agent. It comes through Go's module
# proxy, pinned by spire/go.mod and spire/go.sum, and is compiled here: 6 minutes on two cores.
source "$(dirname "${BASH_SOURCE[0]}")/install.bash"

readonly version=1.13.3
readonly home="${cache}/spire-${version}"

installed() {
    [ -x "${home}/spire-server" ] && [ -x "${home}/spire-agent" ]
}

prepare() {
    command -v cc >/dev/null || apt_install gcc libc6-dev ||
        fail "a C compiler is missing, and SPIRE's SQLite needs it: apt-get install gcc libc6-dev"
    need_go SPIRE
}

make_it() {
    local program
    say "building SPIRE ${version}, once; that takes minutes"
    # The version is stamped as SPIRE's own Makefile does it.
    CGO_ENABLED=1 go_build "${peers}/spire" "SPIRE ${version}" -o "$work/home/" \
        -ldflags "-s -w -X github.com/spiffe/spire/pkg/common/version.gittag=${version}" \
        github.com/spiffe/spire/cmd/spire-server github.com/spiffe/spire/cmd/spire-agent
    for program in spire-server spire-agent; do
        "$work/home/${program}" --version >/dev/null 2>&1 || fail "the ${program} that was built does not start here"
    done
}

install_once
echo "$home"
