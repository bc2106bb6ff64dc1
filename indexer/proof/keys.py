"""The keys that repos are signed with: a `did:key` to something that checks signatures. Pure.

Source: atproto.com/specs/cryptography. A signature is 64 bytes, r and s, over the SHA-256 of the
message. Of the two values of s that would do only the lower counts in a repo.
"""

from collections.abc import Callable
from functools import lru_cache

from atproto_crypto.did import parse_did_key
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

MAX_KEYS = 50_000  # kept parsed: to parse one takes as long as to check a signature with it
SIGNATURE_LENGTH = 64  # bytes

_CURVES: dict[str, tuple[ec.EllipticCurve, int]] = {
    "ES256K": (
        ec.SECP256K1(),
        0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
    ),
    "ES256": (
        ec.SECP256R1(),
        0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    ),
}
ALGORITHMS = frozenset(_CURVES)  # by the names that JWTs have for them
_SHA256 = ec.ECDSA(SHA256())

Check = Callable[[bytes, bytes], bool]  # a DER signature and a message

_libsecp256k1: Callable[[bytes], Check] | None
try:
    from coincurve import PublicKey
except ImportError:  # no wheel for this Python yet: cryptography does the same, ten times as slow
    _libsecp256k1 = None
else:

    def _libsecp256k1(point: bytes) -> Check:
        return PublicKey(point).verify


def is_signed(did_key: str, signature: bytes, message: bytes, *, high_s: bool = False) -> bool:
    """Whether the owner of this key signed the message. Never raises, whatever the signature.

    `did_key` is one that `did_document` gave out: known to be a point of its curve. With `high_s`
    the higher value of s counts too: half of what general JOSE libraries sign has that.
    """
    if len(signature) != SIGNATURE_LENGTH:
        return False
    _, order, check = _key(did_key)
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    if high_s and order >> 1 < s < order:
        s = order - s  # libsecp256k1 itself takes the lower one only
    return 0 < r < order and 0 < s <= order >> 1 and check(encode_dss_signature(r, s), message)


def algorithm(did_key: str) -> str:
    """Return which of the `ALGORITHMS` this key, of the same kind, signs with."""
    return _key(did_key)[0]


@lru_cache(MAX_KEYS)
def _key(did_key: str) -> tuple[str, int, Check]:
    """Return the key's algorithm, the order of its curve, and what checks its signatures."""
    parsed = parse_did_key(did_key)
    curve, order = _CURVES[parsed.jwt_alg]
    if parsed.jwt_alg == "ES256K" and _libsecp256k1 is not None:
        return parsed.jwt_alg, order, _libsecp256k1(parsed.key_bytes)
    key = ec.EllipticCurvePublicKey.from_encoded_point(curve, parsed.key_bytes)

    def check(der: bytes, message: bytes) -> bool:
        try:
            key.verify(der, message, _SHA256)
        except InvalidSignature:
            return False
        return True

    return parsed.jwt_alg, order, check
