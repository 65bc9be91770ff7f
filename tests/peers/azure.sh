#!/usr/bin/env bash
# Installs Microsoft's own Python client of Azure Key Vault, and prints the interpreter that runs azure/client.py.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
exec "${here}/python.sh" azure "${here}/azure/requirements.txt"
