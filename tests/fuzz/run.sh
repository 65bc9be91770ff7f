#!/usr/bin/env bash
# Fuzzes each parser that meets the network for so many seconds (60 unless given): tests/fuzz/run.sh [SECONDS]
# cargo-fuzz comes from PATH or is built once into ${XDG_CACHE_HOME:-~/.cache}/knhk/.
set -euo pipefail

readonly version=0.13.2
readonly seconds="${1:-60}"
readonly cache="${XDG_CACHE_HOME:-${HOME:?set HOME or XDG_CACHE_HOME}/.cache}/knhk"
readonly root="${cache}/cargo-fuzz-${version}"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

fail() {
    echo "fuzz: $*" >&2
    exit 1
}

command -v c++ >/dev/null || fail "a C++ compiler is missing: apt-get install g++"
if ! command -v cargo-fuzz >/dev/null && [ ! -x "${root}/bin/cargo-fuzz" ]; then
    echo "fuzz: building cargo-fuzz ${version}, once" >&2
    cargo install cargo-fuzz --quiet --locked --version "$version" --root "$root" ||
        fail "cargo could not build cargo-fuzz ${version}; the lines above say why"
fi
export PATH="${root}/bin:${PATH}"
# The sanitizer's flags are unstable; this lets the installed stable compiler take them.
export RUSTC_BOOTSTRAP=1

cd "$here"
for target in policy_document flag_file rollout_spec receipt_file published_log header_pairs gate_messages forwarded_peer region_messages; do
    echo "fuzz: ${target}, ${seconds} s"
    log="$(mktemp)"
    # Built first, so that the seconds are the fuzzer's alone; its chatter is shown only when it found something.
    cargo fuzz build --fuzz-dir . "$target"
    cargo fuzz run --fuzz-dir . "$target" -- -max_total_time="$seconds" -max_len=65536 >"$log" 2>&1 || {
        tail -n 60 "$log" >&2
        fail "${target} found an input that breaks it; it is in ${here}/artifacts/${target}"
    }
    grep -E '^Done ' "$log"
    rm -f "$log"
done
echo "fuzz: no input found that breaks a parser"
