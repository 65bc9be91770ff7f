#!/usr/bin/env bash
# Makes a Python environment from a list of pinned packages, once a user, and prints the path of its interpreter:
#   tests/peers/python.sh NAME REQUIREMENTS
# No container; root only to install a missing pip. Packages come through pip, so a configured mirror or proxy is used.
#
# It lives in ${XDG_CACHE_HOME:-~/.cache}/knhk/NAME-PYTHON-DIGEST/, where DIGEST is that of the list: another list makes
# another environment. Safe to run many times and in parallel.
set -euo pipefail

readonly name="${1:?the name of the environment}"
readonly requirements="${2:?the list of its packages}"
readonly cache="${XDG_CACHE_HOME:-${HOME:?set HOME or XDG_CACHE_HOME}/.cache}/knhk"

fail() {
    echo "${name}: $*" >&2
    exit 1
}

command -v python3 >/dev/null || fail "python3 is missing: apt-get install python3 python3-pip"
[ -r "$requirements" ] || fail "${requirements} cannot be read"
python="$(python3 -c 'import sys; print("py%d.%d" % sys.version_info[:2])')"
digest="$(sha256sum "$requirements" | cut -c 1-12)"
readonly home="${cache}/${name}-${python}-${digest}"
readonly interpreter="${home}/bin/python"

if [ -e "${home}/complete" ]; then
    echo "$interpreter"
    exit 0
fi

has_pip() {
    python3 -m pip --version >/dev/null 2>&1
}

install_pip() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    echo "${name}: installing python3-pip" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y --no-install-recommends python3-pip >/dev/null 2>&1 && return 0
    apt-get update >/dev/null 2>&1 && apt-get install -y --no-install-recommends python3-pip >/dev/null 2>&1
}

has_pip || { install_pip && has_pip; } || fail "python3 has no pip: apt-get install python3-pip"
command -v flock >/dev/null || fail "flock is missing: apt-get install util-linux"
mkdir -p "$cache" || fail "cannot make ${cache}: set XDG_CACHE_HOME to a directory that can be written"

# One installer at a time; the others wait here and then find it made.
exec 9>"${home}.lock"
flock 9
if [ -e "${home}/complete" ]; then
    echo "$interpreter"
    exit 0
fi

echo "${name}: installing the packages of ${requirements##*/}, once" >&2
rm -rf "$home"
log="$(mktemp "${cache}/${name}.XXXXXX")"
trap 'rm -rf "$log"' EXIT
# Without pip inside: the one outside installs into it, so the distribution's python3-venv is not needed.
python3 -m venv --without-pip "$home" || fail "python3 cannot make an environment in ${home}"
site="$("$interpreter" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
# Exactly the list: every dependency stands in it with its version.
python3 -m pip install --quiet --no-deps --only-binary :all: --target "$site" -r "$requirements" >"$log" 2>&1 ||
    fail "pip could not install ${requirements##*/} ($(grep '^ERROR' "$log" | tail -n 1 | grep . || echo "it gave no reason")): check the network, or pip's index-url"
touch "${home}/complete"
echo "$interpreter"
