#!/usr/bin/env bash
# Makes a Python environment from a list of pinned packages, and prints the path of its interpreter:
#   tests/peers/python.sh NAME REQUIREMENTS
# It lives in NAME-PYTHON-DIGEST/, where DIGEST is that of the list: another list makes another environment.
source "$(dirname "${BASH_SOURCE[0]}")/install.bash"

readonly name="${1:?the name of the environment}"
readonly requirements="${2:?the list of its packages}"
label="$name"
[ -r "$requirements" ] || fail "${requirements} cannot be read"
need_python "$name"
home="${cache}/${name}-$(python3 -c 'import sys; print("py%d.%d" % sys.version_info[:2])')-$(digest_of "$requirements")"
readonly home
readonly interpreter="${home}/bin/python"

installed() {
    [ -e "${home}/complete" ]
}

prepare() {
    need_pip "$name"
}

make_it() {
    local site
    say "installing the packages of ${requirements##*/}, once"
    # Without pip inside: the one outside installs into it, so the distribution's python3-venv is not needed.
    python3 -m venv --without-pip "$work/home" >"$work/venv.log" 2>&1 || fail "python3 cannot make an environment in ${work}/home"
    site="$("$work/home/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    # Exactly the list: every dependency stands in it with its version.
    python3 -m pip install --quiet --no-deps --only-binary :all: --target "$site" -r "$requirements" >"$work/pip.log" 2>&1 ||
        fail "pip could not install ${requirements##*/} $(pip_reason)"
    touch "$work/home/complete"
}

install_once
echo "$interpreter"
