"""Serves moto's KMS on a free port of 127.0.0.1 and prints its address as the first line.

Where moto 5.2.5 differs from AWS KMS in what KNHK relies on, it is corrected here:
- Sign with MessageType=DIGEST signs the digest as it is, and refuses one of the wrong length. (moto hashes it again.)
- Sign and GetPublicKey refuse a key that is disabled or to be deleted.
- GetPublicKey names the key by its ARN, and says KeySpec, whose old name moto uses.
- ListKeys pages by Limit and Marker.
Reference: the API pages of these operations, and "Key states of AWS KMS keys", in the AWS KMS documentation.
"""

import base64
import json
import sys

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from moto.core.exceptions import JsonRESTError
from moto.kms.exceptions import ValidationException
from moto.kms.models import Key
from moto.kms.responses import KmsResponse
from moto.kms.utils import ECDSAPrivateKey
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

DIGESTS = {
    "ECDSA_SHA_256": hashes.SHA256(),
    "ECDSA_SHA_384": hashes.SHA384(),
    "ECDSA_SHA_512": hashes.SHA512(),
}
KEYS_A_PAGE = 3  # AWS may return fewer keys than Limit says: whoever reads the list has to follow its pages


def refuse_unless_enabled(key: Key) -> None:
    if key.key_state == "PendingDeletion":
        raise JsonRESTError("KMSInvalidStateException", f"{key.arn} is pending deletion.")
    if not key.enabled:
        raise JsonRESTError("DisabledException", f"{key.arn} is disabled.")


def sign_digest(key: Key, digest: bytes, algorithm: str) -> bytes:
    if algorithm not in (key.signing_algorithms or []):
        raise JsonRESTError(
            "InvalidKeyUsageException", f"Algorithm {algorithm} and key spec {key.key_spec} do not go together."
        )
    if not isinstance(key.private_key, ECDSAPrivateKey):
        raise JsonRESTError("UnsupportedOperationException", "of the digests, only ECDSA's are signed here")
    hashed = DIGESTS[algorithm]
    if len(digest) != hashed.digest_size:
        raise ValidationException(f"Digest is invalid length for algorithm {algorithm}.")
    return key.private_key.private_key.sign(digest, ec.ECDSA(utils.Prehashed(hashed)))


moto_sign = KmsResponse.sign
moto_public_key = KmsResponse.get_public_key


def sign(self: KmsResponse) -> str:
    key_id = self._get_param("KeyId")
    self._validate_key_id(key_id)
    key = self.kms_backend.describe_key(key_id)
    if key.key_usage != "SIGN_VERIFY":
        raise JsonRESTError("InvalidKeyUsageException", f"{key.arn} key usage is {key.key_usage} which is not valid for Sign.")
    refuse_unless_enabled(key)
    if self._get_param("MessageType") != "DIGEST":
        return moto_sign(self)
    algorithm = self._get_param("SigningAlgorithm")
    signature = sign_digest(key, self._get_param("Message"), algorithm)
    return json.dumps(
        {
            "KeyId": key.arn,
            "Signature": base64.b64encode(signature).decode(),
            "SigningAlgorithm": algorithm,
        }
    )


def get_public_key(self: KmsResponse) -> str:
    key_id = self._get_param("KeyId")
    self._validate_key_id(key_id)
    key = self.kms_backend.describe_key(key_id)
    if key.key_spec == "SYMMETRIC_DEFAULT":
        raise JsonRESTError("UnsupportedOperationException", "symmetric keys have no public key")
    refuse_unless_enabled(key)
    return json.dumps({**json.loads(moto_public_key(self)), "KeyId": key.arn, "KeySpec": key.key_spec})


def list_keys(self: KmsResponse) -> str:
    keys = sorted(self.kms_backend.list_keys(), key=lambda key: key.id)
    after = self._get_param("Marker") or ""
    limit = min(int(self._get_param("Limit") or 100), KEYS_A_PAGE)
    rest = [key for key in keys if key.id > after]
    page = rest[:limit]
    truncated = len(rest) > limit
    return json.dumps(
        {
            "Keys": [{"KeyArn": key.arn, "KeyId": key.id} for key in page],
            "NextMarker": page[-1].id if truncated else None,
            "Truncated": truncated,
        }
    )


KmsResponse.sign = sign
KmsResponse.get_public_key = get_public_key
KmsResponse.list_keys = list_keys


class KeepAlive(WSGIRequestHandler):
    """HTTP/1.1, as AWS speaks it."""

    protocol_version = "HTTP/1.1"


def main() -> None:
    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=KeepAlive)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdout.close()
    server.serve_forever()


if __name__ == "__main__":
    main()
