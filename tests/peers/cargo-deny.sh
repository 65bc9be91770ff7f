#!/usr/bin/env bash
# Runs cargo-deny with the arguments given: the one on PATH, else the one in ${XDG_CACHE_HOME:-~/.cache}/knhk/, which is
# built there from its crate on first use (about a minute on two cores). Safe to run many times and in parallel.
set -euo pipefail

readonly version=0.20.2
readonly cache="${XDG_CACHE_HOME:-${HOME:?set HOME or XDG_CACHE_HOME}/.cache}/knhk"
readonly root="${cache}/cargo-deny-${version}"

fail() {
    echo "cargo-deny.sh: $*" >&2
    exit 1
}

if command -v cargo-deny >/dev/null; then
    exec cargo deny "$@"
fi

if [ ! -x "${root}/bin/cargo-deny" ]; then
    command -v flock >/dev/null || fail "flock is missing: apt-get install util-linux"
    mkdir -p "$cache" || fail "cannot make ${cache}: set XDG_CACHE_HOME to a directory that can be written"
    # One builder at a time; the others wait here and then find it built. cargo puts the binary there whole or not at all.
    exec 9>"${root}.lock"
    flock 9
    if [ ! -x "${root}/bin/cargo-deny" ]; then
        echo "cargo-deny.sh: building cargo-deny ${version}, once" >&2
        # Unoptimised: that builds in a fraction of the time, and the checks take seconds either way.
        work="$(mktemp -d "${cache}/cargo-deny.XXXXXX")"
        trap 'rm -rf "$work"' EXIT
        CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 CARGO_TARGET_DIR="$work" \
            cargo install cargo-deny --quiet --locked --debug --version "$version" --root "$root" ||
            fail "cargo could not build cargo-deny ${version}; the lines above say why"
        rm -rf "$work"
        trap - EXIT
    fi
    exec 9>&-
fi

PATH="${root}/bin:${PATH}" exec cargo deny "$@"
