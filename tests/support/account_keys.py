"""Keys of accounts, and service-auth tokens signed with them, right or wrong in one thing."""

import base64
import json
from dataclasses import dataclass
from typing import Any

import libipld
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

# alg, multicodec prefix of a public key, order of the curve
K256 = (
    "ES256K",
    b"\xe7\x01",
    0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
)
P256 = (
    "ES256",
    b"\x80\x24",
    0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
)


@dataclass(frozen=True)
class Key:
    private: ec.EllipticCurvePrivateKey
    alg: str
    prefix: bytes
    order: int

    @classmethod
    def k256(cls) -> "Key":
        return cls(ec.generate_private_key(ec.SECP256K1()), *K256)

    @classmethod
    def p256(cls) -> "Key":
        return cls(ec.generate_private_key(ec.SECP256R1()), *P256)

    def public(self, form: serialization.PublicFormat) -> bytes:
        return self.private.public_key().public_bytes(serialization.Encoding.X962, form)

    @property
    def multikey(self) -> str:
        point = self.public(serialization.PublicFormat.CompressedPoint)
        return libipld.encode_multibase("z", self.prefix + point)

    @property
    def did_key(self) -> str:
        return f"did:key:{self.multikey}"

    def sign(self, data: bytes, *, high_s: bool = False) -> bytes:
        r, s = decode_dss_signature(self.private.sign(data, ec.ECDSA(hashes.SHA256())))
        if (s > self.order // 2) != high_s:
            s = self.order - s
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def verify(self, data: bytes, signature: bytes) -> None:
        """Raise unless this key made the signature; by `cryptography` alone."""
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        public = self.private.public_key()
        public.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwt(key: Key, header: dict[str, Any] | bytes, claims: dict[str, Any] | bytes) -> str:
    """Return a signed token; a header or claims given as bytes are taken as they are."""
    parts = [
        b64(part if isinstance(part, bytes) else json.dumps(part).encode())
        for part in (header, claims)
    ]
    signed = ".".join(parts)
    return f"{signed}.{b64(key.sign(signed.encode()))}"


def document(did: str, key: Key | None, **changes: Any) -> dict[str, Any]:
    """Return a DID document as PLC serves it."""
    methods = [] if key is None else [method(did, key)]
    return {
        "@context": ["https://www.w3.org/ns/did/v1"],
        "id": did,
        "alsoKnownAs": ["at://alice.test"],
        "verificationMethod": methods,
        "service": [service("https://pds.example")],
        **changes,
    }


def method(did: str, key: Key, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"{did}#atproto",
        "type": "Multikey",
        "controller": did,
        "publicKeyMultibase": key.multikey,
        **changes,
    }


def service(endpoint: Any, **changes: Any) -> dict[str, Any]:
    return {
        "id": "#atproto_pds",
        "type": "AtprotoPersonalDataServer",
        "serviceEndpoint": endpoint,
        **changes,
    }
