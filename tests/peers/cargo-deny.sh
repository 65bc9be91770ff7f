#!/usr/bin/env bash
# Runs cargo-deny with the arguments given: the one on PATH, else one that is built from its crate on first use (about a
# minute on two cores).
source "$(dirname "${BASH_SOURCE[0]}")/install.bash"

readonly version=0.20.2
readonly home="${cache}/cargo-deny-${version}"

installed() {
    [ -x "${home}/bin/cargo-deny" ]
}

# Cargo is what runs this, and all that it takes.
prepare() {
    :
}

make_it() {
    say "building cargo-deny ${version}, once"
    # Unoptimised: that builds in a fraction of the time, and the checks take seconds either way.
    CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 CARGO_TARGET_DIR="$work/target" \
        cargo install cargo-deny --quiet --locked --debug --version "$version" --root "$work/home" ||
        fail "cargo could not build cargo-deny ${version}; the lines above say why"
}

if command -v cargo-deny >/dev/null; then
    exec cargo deny "$@"
fi
install_once
PATH="${home}/bin:${PATH}" exec cargo deny "$@"
