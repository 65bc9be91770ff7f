#!/usr/bin/env bash
# Installs moto, which speaks AWS KMS on the wire with real keys, and prints the interpreter that runs moto/serve.py.
#   "$(tests/peers/moto.sh)" tests/peers/moto/serve.py        prints the address it serves on
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
exec "${here}/python.sh" moto "${here}/moto/requirements.txt"
