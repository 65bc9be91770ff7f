#!/usr/bin/env bash
# Installs scitt-cose, which verifies COSE receipts (RFC 9942), and prints the interpreter that runs scitt/verify.py.
#   "$(tests/peers/scitt.sh)" tests/peers/scitt/verify.py        reads receipts from standard input, a line each
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
exec "${here}/python.sh" scitt "${here}/scitt/requirements.txt"
