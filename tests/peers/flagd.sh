#!/usr/bin/env bash
# Installs flagd's own evaluator for Python, and prints the interpreter that runs flagd/evaluate.py.
#   "$(tests/peers/flagd.sh)" tests/peers/flagd/evaluate.py      reads evaluations from standard input, a line each
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
exec "${here}/python.sh" flagd "${here}/flagd/requirements.txt"
