#!/bin/sh
# Builds the filter and the benchmark's empty filter for Envoy:
#   target/wasm32-unknown-unknown/release/knhk_filter.wasm
#   target/wasm32-unknown-unknown/release/knhk_empty_filter.wasm
#
# Two toolchains can do it. rustup's wasm32 target is used where it is installed or can be added; otherwise Debian's
# packages rustc-web and rust-web-src, from which the standard library is built too (about 20 s, once).
# What is up to date is not built again.
set -eu
cd "$(dirname "$0")/.."

readonly TARGET=wasm32-unknown-unknown
readonly DEBIAN_PACKAGES='rustc-web rust-web-src lld-19'
readonly DEBIAN_RUSTC=/usr/bin/rustc
readonly DEBIAN_LINKER=wasm-ld-19
# How long `rustup target add` may take before Debian's toolchain is tried instead.
readonly RUSTUP_SECONDS=60

fail() {
    echo "build-wasm.sh: $1" >&2
    exit 1
}

has_rustup_target() {
    command -v rustup >/dev/null 2>&1 && rustup target list --installed 2>/dev/null | grep -qx "$TARGET"
}

add_rustup_target() {
    command -v rustup >/dev/null 2>&1 || return 1
    timeout "$RUSTUP_SECONDS" rustup target add "$TARGET" >/dev/null 2>&1
}

has_debian_toolchain() {
    [ -x "$DEBIAN_RUSTC" ] && command -v "$DEBIAN_LINKER" >/dev/null 2>&1 &&
        [ -e "$("$DEBIAN_RUSTC" --print sysroot)/lib/rustlib/src/rust/library/std/Cargo.toml" ]
}

install_debian_toolchain() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || return 1
    echo "build-wasm.sh: installing $DEBIAN_PACKAGES" >&2
    # shellcheck disable=SC2086 # a list of packages
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $DEBIAN_PACKAGES >/dev/null 2>&1 && return 0
    apt-get update >/dev/null 2>&1 || return 1
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $DEBIAN_PACKAGES >/dev/null 2>&1
}

build_std=
if has_rustup_target; then
    :
elif has_debian_toolchain; then
    build_std=yes
elif add_rustup_target; then
    :
elif install_debian_toolchain && has_debian_toolchain; then
    build_std=yes
else
    fail "no Rust toolchain for $TARGET: run 'rustup target add $TARGET', or as root 'apt-get install $DEBIAN_PACKAGES'"
fi

if [ -n "$build_std" ]; then
    # Debian's compiler is a stable release; RUSTC_BOOTSTRAP lets cargo build the standard library with it.
    export RUSTC="$DEBIAN_RUSTC" RUSTC_BOOTSTRAP=1 RUSTFLAGS="-C linker=$DEBIAN_LINKER"
fi

# The filter must not panic (its lints see to that), so nothing is unwound and overflow is not checked.
# Function names stay: Envoy prints them when a VM traps.
export CARGO_PROFILE_RELEASE_OPT_LEVEL=3 CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 \
    CARGO_PROFILE_RELEASE_PANIC=abort CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_STRIP=debuginfo \
    CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=false CARGO_TARGET_DIR=target

# One package at a time, or cargo unifies the features of both; `cargo rustc --crate-type`, because a library that is
# also an rlib gets no link-time optimisation.
for package in knhk-filter knhk-empty-filter; do
    # shellcheck disable=SC2086 # no argument where it is empty
    cargo rustc --quiet --release --package "$package" --lib --crate-type cdylib --target "$TARGET" \
        ${build_std:+-Zbuild-std=std,panic_abort} || fail "cargo could not build $package; the lines above say why"
done
