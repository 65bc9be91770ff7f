#!/usr/bin/env python3
"""Verifies a KNHK receipt, or audits a KNHK log over HTTP, without KNHK: Python's standard library and the openssl program.

    knhk_verify.py receipt FILE KEY.pem
    knhk_verify.py audit http://HOST:PORT/v1/log/REGION KEY.pem

KEY.pem holds the public keys that are trusted, one or more PEM blocks. For an audit: the key that the log began with; later
keys are followed from it. The formats are in docs/receipts.md and docs/audit.md. Exit code 0: everything holds.
"""
import base64
import hashlib
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

DOMAIN = b"knhk.dev/receipts/commitment/v1\0"
PROOF = b"knhk-key/v1\0"

# The deepest CBOR that is read. Nothing of ours is deeper than a dozen.
MAX_DEPTH = 32


class Wrong(Exception):
    """What does not hold."""


def require(holds, what):
    if not holds:
        raise Wrong(what)


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


# --- CBOR (RFC 8949), as much of it as receipts use -------------------------------------------------------------------


def cbor(data, at=0, depth=0):
    """One item: its value, and where the next one begins."""
    require(depth <= MAX_DEPTH, f"CBOR that is deeper than {MAX_DEPTH}")
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    if info < 24:
        number = info
    else:
        require(info <= 27, "CBOR of indefinite length")
        size = 1 << (info - 24)
        number, at = int.from_bytes(data[at : at + size], "big"), at + size
    if major in (0, 1):
        return (number if major == 0 else -1 - number), at
    if major in (2, 3):
        value = data[at : at + number]
        require(len(value) == number, "CBOR that is cut off")
        return (value if major == 2 else value.decode()), at + number
    if major == 4:
        items = []
        for _ in range(number):
            item, at = cbor(data, at, depth + 1)
            items.append(item)
        return items, at
    if major == 5:
        pairs = {}
        for _ in range(number):
            key, at = cbor(data, at, depth + 1)
            pairs[key], at = cbor(data, at, depth + 1)
        return pairs, at
    if major == 6:
        item, at = cbor(data, at, depth + 1)
        return (number, item), at
    return {20: False, 21: True, 22: None}[number], at


def whole(data):
    value, end = cbor(data)
    require(end == len(data), "bytes behind the end")
    return value


def cbor_bytes(value):
    require(len(value) < 256, "not used here")
    return (bytes([0x40 + len(value)]) if len(value) < 24 else bytes([0x58, len(value)])) + value


# --- ECDSA over P-256, by OpenSSL -------------------------------------------------------------------------------------


def openssl(message, signature_der, spki_der):
    with tempfile.TemporaryDirectory() as directory:
        for name, content in ("m", message), ("s", signature_der), ("k", spki_der):
            with open(f"{directory}/{name}", "wb") as file:
                file.write(content)
        command = ["openssl", "dgst", "-sha256", "-keyform", "DER", "-verify", "k", "-signature", "s", "m"]
        return subprocess.run(command, cwd=directory, capture_output=True).returncode == 0


def der(raw):
    """r || s as ASN.1 DER, which OpenSSL takes."""
    numbers = b""
    for half in raw[:32], raw[32:]:
        half = half.lstrip(b"\0") or b"\0"
        half = b"\0" + half if half[0] & 0x80 else half
        numbers += bytes([2, len(half)]) + half
    return bytes([0x30, len(numbers)]) + numbers


def pem_keys(path):
    text = open(path).read()
    blocks = re.findall("-----BEGIN PUBLIC KEY-----(.*?)-----END PUBLIC KEY-----", text, re.DOTALL)
    require(blocks, f"{path}: no public key in PEM")
    return [base64.b64decode("".join(block.split())) for block in blocks]


# --- Checkpoints (c2sp.org/tlog-checkpoint, c2sp.org/signed-note) -----------------------------------------------------


class Checkpoint:
    def __init__(self, note):
        text, _, signatures = note.partition(b"\n\n")
        self.text = text + b"\n"
        self.origin, size, root = text.decode().split("\n")[:3]
        self.size, self.root = int(size), base64.b64decode(root, validate=True)
        line = f"\u2014 {self.origin} ".encode()
        lines = [it for it in signatures.split(b"\n") if it.startswith(line)]
        self.signatures = [base64.b64decode(it[len(line) :], validate=True) for it in lines]

    def signer(self, keys):
        """Which of the keys signed it."""
        for key in keys:
            for signature in self.signatures:
                if signature[:4] == sha256(key)[:4] and openssl(self.text, signature[4:], key):
                    return key
        raise Wrong(f"the checkpoint of {self.size} entries is signed by none of the {len(keys)} keys")


# --- The tree (RFC 6962) ----------------------------------------------------------------------------------------------


def leaf(entry):
    return sha256(b"\0", entry)


def node(left, right):
    return sha256(b"\1", left, right)


def root_by_path(index, size, hash_, path):
    """Climbs from a leaf to the root (RFC 9162, 2.1.3.2)."""
    require(index < size, "an index behind the tree's end")
    last, path = size - 1, list(path)
    while last > 0:
        if index % 2 == 1 or index < last:
            require(path, "a path that is too short")
            hash_ = node(path.pop(0), hash_) if index % 2 == 1 else node(hash_, path.pop(0))
        index, last = index // 2, last // 2
    require(not path, "a path that is too long")
    return hash_


class Tree:
    """Whole subtrees, the largest first: all that is needed to add leaves and to tell the root."""

    def __init__(self):
        self.size, self.subtrees = 0, []

    def add(self, hash_):
        self.size += 1
        size = self.size
        while size % 2 == 0:
            hash_, size = node(self.subtrees.pop(), hash_), size // 2
        self.subtrees.append(hash_)

    def root(self):
        hash_ = self.subtrees[-1]
        for left in reversed(self.subtrees[:-1]):
            hash_ = node(left, hash_)
        return hash_


# --- A receipt --------------------------------------------------------------------------------------------------------


def receipt(path, keys):
    file = whole(open(path, "rb").read())
    payload, salt, index, entry, proof = (file[key] for key in range(1, 6))
    require(file[0] == 1, "a format of another version")
    require(sha256(DOMAIN, salt, payload) == entry, "the entry is not the commitment to payload and salt")
    print("ok  commitment:", entry.hex())

    checkpoint = Checkpoint(file[6])
    require(root_by_path(index, checkpoint.size, leaf(entry), proof) == checkpoint.root, "the proof leads elsewhere")
    print(f"ok  inclusion: entry {index} of {checkpoint.size}")

    key = checkpoint.signer(keys)
    print("ok  signature: key sha256:" + sha256(key).hex())

    tag, (protected, unprotected, detached, signature) = whole(file[7])
    require((tag, whole(protected)) == (18, {1: -7, 4: sha256(key), 395: 1}), "another COSE header")
    require(detached is None, "the COSE receipt has a payload")
    size, place, hashes = whole(unprotected[396][-1][0])
    root = root_by_path(place, size, leaf(entry), hashes)
    signed = b"\x84\x6aSignature1" + cbor_bytes(protected) + cbor_bytes(b"") + cbor_bytes(root)
    require(openssl(signed, der(signature), key), "the COSE signature is wrong")
    print("ok  cose: kid", sha256(key).hex())

    region = whole(payload)[2]
    require(checkpoint.origin.rsplit("/", 1)[-1] == region, "payload and checkpoint are of different regions")
    print(f"verified: {region}/{index}")


# --- A log ------------------------------------------------------------------------------------------------------------


def fetch(url):
    try:
        return urllib.request.urlopen(url, timeout=30).read()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


def number(n):
    """A number as paths of c2sp.org/tlog-tiles have it: 1234067 is x001/x234/067."""
    groups = [f"{n % 1000:03}"]
    while n := n // 1000:
        groups.insert(0, f"x{n % 1000:03}")
    return "/".join(groups)


def kept(url):
    """Every checkpoint that the log kept, each behind a line with its length."""
    for n in range(1 << 32):
        data = fetch(f"{url}/checkpoints/{n}")
        if data is None:
            return
        while data:
            length, _, rest = data.partition(b"\n")
            yield Checkpoint(rest[: int(length)])
            data = rest[int(length) :]


def audit(url, pinned):
    newest = Checkpoint(fetch(f"{url}/checkpoint"))
    points = [it for it in kept(url) if it.size < newest.size] + [newest]
    # Keys that may sign next; and those whose entry no checkpoint covers yet, each with the ID of the key before it.
    tree, trusted, announced, pending, checked = Tree(), [], [], [], 0

    def pass_by(point):
        """The tree has the size of a checkpoint."""
        nonlocal trusted
        require(point.root == tree.root(), f"the checkpoint of {point.size} entries has another root than they have")
        key = point.signer([trusted[-1], *announced])
        if key != trusted[-1]:
            trusted, _ = [*trusted, key], announced.clear()
        # Signed by the key before it: from here on the new one may sign.
        announced.extend(new for new, previous in pending if previous == sha256(key))
        pending.clear()

    for bundle in range((newest.size + 255) // 256):
        width = min(256, newest.size - 256 * bundle)
        name = number(bundle) + ("" if width == 256 else f".p/{width}")
        payloads, entries, hashes = (fetch(f"{url}/{kind}/{name}") for kind in ("payloads", "tile/entries", "tile/0"))
        at = 0
        for place in range(width):
            index = 256 * bundle + place
            (salt, payload), at = cbor(payloads, at)
            entry = sha256(DOMAIN, salt, payload)
            require(entries[34 * place : 34 * place + 34] == b"\0\x20" + entry, f"entry {index} is another one in {name}")
            require(hashes[32 * place : 32 * place + 32] == leaf(entry), f"hash {index} is another one in {name}")
            tree.add(leaf(entry))
            content = whole(payload)
            if index == 0:
                require(content[1] == 0 and content[4] == newest.origin, "entry 0 is not the genesis of this log")
                require(content[5] in pinned, "the log does not begin with a given key")
                trusted = [content[5]]
            elif content[1] == 4:
                new, previous, proof = content[4], content[7], content[9]
                require(openssl(PROOF + newest.origin.encode() + b"\0" + new, proof, new), f"entry {index} proves no key")
                pending.append((new, previous))
            while checked < len(points) and points[checked].size == tree.size:
                pass_by(points[checked])
                checked += 1
        require(at == len(payloads), f"bytes behind the last entry of {name}")
    require(checked == len(points), "a checkpoint is not larger than the one before it")
    print(f"ok  {newest.size} entries, {checked} checkpoints, {len(trusted)} keys in a chain")
    print("audited:", newest.origin, newest.root.hex())


def main(arguments):
    if len(arguments) != 3 or arguments[0] not in ("receipt", "audit"):
        print(__doc__, file=sys.stderr)
        return 2
    verb, what, key_file = arguments
    try:
        {"receipt": receipt, "audit": audit}[verb](what.rstrip("/"), pem_keys(key_file))
    except (Wrong, LookupError, AttributeError, TypeError, ValueError, OSError) as error:
        print(f"NOT VERIFIED: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
