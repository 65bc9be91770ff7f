"""Verifies COSE receipts with scitt-cose: none of our code takes part.

Each line of standard input is `RECEIPT LEAF PEM`: the receipt and the log's entry in hexadecimal, and the path of the key.
Each line of standard output is `verified`, or `refused` and the step that failed.
"""

import sys

from scitt_cose import verify_receipt

for line in sys.stdin:
    receipt, leaf, path = line.split(maxsplit=2)
    with open(path.strip(), "rb") as key:
        pem = key.read()
    result = verify_receipt(bytes.fromhex(receipt), leaf_entry_hex=leaf, log_public_key_pem=pem)
    print("verified" if result.ok else f"refused {result.failed_at}")
