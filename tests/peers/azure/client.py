"""Microsoft's own client of Key Vault against the tests' stand-in: creates, reads, signs, verifies, rotates, lists, disables.

Fails with a traceback where the stand-in is not what the client expects. Otherwise prints one JSON object: what it signed.
It takes VAULT_URL, AUTHORITY, CA_FILE, AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET from the environment.
"""

import base64
import hashlib
import json
import os

from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.core.rest import HttpRequest
from azure.identity import ClientSecretCredential
from azure.keyvault.keys import KeyClient
from azure.keyvault.keys.crypto import CryptographyClient, SignatureAlgorithm

NAME = "from-python"
DIGEST = hashlib.sha256(b"signed by Microsoft's client").digest()
ca_file = os.environ["CA_FILE"]


def credential(secret: str) -> ClientSecretCredential:
    return ClientSecretCredential(
        os.environ["AZURE_TENANT_ID"],
        os.environ["AZURE_CLIENT_ID"],
        secret,
        authority=os.environ["AUTHORITY"],
        # The public cloud's list of authorities does not have this one.
        disable_instance_discovery=True,
        connection_verify=ca_file,
    )


def client(secret: str) -> KeyClient:
    return KeyClient(
        os.environ["VAULT_URL"],
        credential(secret),
        # An address of this machine is in no domain of a vault.
        verify_challenge_resource=False,
        connection_verify=ca_file,
        retry_total=0,
    )


def signer(keys: KeyClient, key) -> CryptographyClient:
    return keys.get_cryptography_client(
        key.name, key_version=key.properties.version, verify_challenge_resource=False, connection_verify=ca_file
    )


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def refused(action, error) -> HttpResponseError:
    try:
        action()
    except error as refusal:
        return refusal
    raise AssertionError("it was not refused")


keys = client(os.environ["AZURE_CLIENT_SECRET"])

created = keys.create_ec_key(NAME, tags={"team": "mesh"})
assert created.key_type == "EC" and created.key.crv == "P-256", created.key
assert created.properties.enabled and created.properties.created_on, created.properties
assert created.properties.tags == {"team": "mesh"}, created.properties.tags
read = keys.get_key(NAME, created.properties.version)
assert (read.id, read.key.x, read.key.y) == (created.id, created.key.x, created.key.y)

signed = signer(keys, created).sign(SignatureAlgorithm.es256, DIGEST)
assert signed.key_id == created.id and len(signed.signature) == 64, signed.key_id
# With the public key that it fetched, on this machine.
assert signer(keys, created).verify(SignatureAlgorithm.es256, DIGEST, signed.signature).is_valid


def verify(version: str, signature: bytes) -> bool:
    body = {"alg": "ES256", "digest": b64(DIGEST), "value": b64(signature)}
    request = HttpRequest("POST", f"/keys/{NAME}/{version}/verify", params={"api-version": "7.6"}, json=body)
    answer = keys.send_request(request)
    answer.raise_for_status()
    return answer.json()["value"]


# By the server.
assert verify(created.properties.version, signed.signature)
assert not verify(created.properties.version, bytes([1]) * 64)

rotated = keys.rotate_key(NAME)
assert rotated.properties.version != created.properties.version
assert keys.get_key(NAME).id == rotated.id
assert rotated.properties.tags == {"team": "mesh"}, rotated.properties.tags
assert not verify(rotated.properties.version, signed.signature)
assert verify(created.properties.version, signed.signature), "the version of before still verifies"
for _ in range(30):
    keys.rotate_key(NAME)
listed = {version.version for version in keys.list_properties_of_key_versions(NAME)}
assert len(listed) == 32 and {created.properties.version, rotated.properties.version} <= listed, listed

keys.update_key_properties(NAME, created.properties.version, enabled=False)
disabled = refused(lambda: signer(keys, created).sign(SignatureAlgorithm.es256, DIGEST), HttpResponseError)
assert disabled.status_code == 403 and disabled.error.code == "Forbidden", disabled.error
keys.update_key_properties(NAME, created.properties.version, enabled=True)

missing = refused(lambda: keys.get_key("no-such-key"), ResourceNotFoundError)
assert missing.error.code == "KeyNotFound", missing.error
refused(lambda: client("wrong secret").get_key(NAME), ClientAuthenticationError)

print(
    json.dumps(
        {
            "name": NAME,
            "version": created.properties.version,
            "digest": DIGEST.hex(),
            "signature": signed.signature.hex(),
            "versions": len(listed),
        }
    )
)
