"""A service-auth JWT as it is written: its parts, and the types of what they say. Pure.

Sources: atproto.com/specs/xrpc, "Inter-Service Authentication"; proposal 0014; RFC 7515.
"""

import base64
import re
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from indexer.lexicon.strict_json import parse_json
from indexer.lexicon.syntax import is_did
from indexer.proof import keys

MAX_HEADER = 8_192  # characters
MAX_JTI = 128  # characters

Reason = Literal[
    "missing",
    "malformed",  # not a JWT, or a claim of the wrong type
    "type",  # a token of another class
    "header",  # a header that would have us trust something else than the DID document
    "expired",
    "time",  # too far ahead, or not valid yet
    "audience",
    "method",
    "issuer",  # not the bare DID of an account
    "unresolved",
    "signature",
    "replayed",
    "crowded",  # no room to remember the token, so it cannot be taken
]

_BEARER = re.compile(r"bearer +([\w-]+)\.([\w-]+)\.([\w-]+)", re.ASCII | re.IGNORECASE)
# Keys by value or by address (never used, but their sender expects them to be), and extensions
# that would have to be understood. Other unknown fields are ignored, as JWS says.
_FOREIGN = {"crit", "jwk", "jku", "x5c", "x5u", "x5t", "x5t#S256", "b64", "enc", "zip"}


class Refused(Exception):
    """A token does not let its sender in."""

    def __init__(self, reason: Reason) -> None:
        self.reason: Reason = reason


class ServiceJwt(NamedTuple):
    """A token that is well formed, with all its types checked; nothing of it is proven yet."""

    alg: str
    iss: str
    aud: str
    lxm: str
    jti: str
    exp: int  # Unix seconds, as iat and nbf
    iat: int | None
    nbf: int | None
    signed: bytes
    signature: bytes


def parse_bearer(authorization: str | None) -> ServiceJwt:
    """Return what an `Authorization` header bears, or raise `Refused`, whatever it is."""
    if not authorization or authorization[:7].lower() != "bearer ":
        raise Refused("missing")
    match = _BEARER.fullmatch(authorization) if len(authorization) <= MAX_HEADER else None
    if match is None:
        raise Refused("malformed")
    alg, claims, signature = _header(match[1]), _object(match[2]), _decode(match[3])
    if len(signature) != keys.SIGNATURE_LENGTH:
        raise Refused("signature")
    token = ServiceJwt(
        alg=alg,
        iss=_text(claims, "iss"),
        aud=_text(claims, "aud"),
        lxm=_text(claims, "lxm", "method"),
        jti=_text(claims, "jti"),
        exp=_seconds(claims, "exp"),
        iat=_seconds(claims, "iat") if "iat" in claims else None,
        nbf=_seconds(claims, "nbf") if "nbf" in claims else None,
        signed=f"{match[1]}.{match[2]}".encode(),
        signature=signature,
    )
    if not is_did(token.iss) or not token.iss.startswith(("did:plc:", "did:web:")):
        raise Refused("issuer")
    if not 1 <= len(token.jti) <= MAX_JTI:
        raise Refused("malformed")
    return token


@lru_cache(32)  # a PDS writes the same header each time
def _header(part: str) -> str:
    """Return the `alg` of a header that service auth may have."""
    header = _object(part)
    # Access tokens, refresh tokens and DPoP proofs are JWTs too: `typ` tells them apart.
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() != "jwt":
        raise Refused("type")
    alg = header.get("alg")
    if not isinstance(alg, str) or alg not in keys.ALGORITHMS:
        raise Refused("header")
    if header.get("kid", "#atproto") != "#atproto" or _FOREIGN & header.keys():
        raise Refused("header")
    return alg


def _decode(part: str) -> bytes:
    """Return the bytes of a base64url part, which must be the only way to write them."""
    try:
        data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise Refused("malformed") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=") != part.encode():
        raise Refused("malformed")
    return data


def _object(part: str) -> dict[str, Any]:
    try:
        value = parse_json(_decode(part))
    except ValueError:
        raise Refused("malformed") from None
    if not isinstance(value, dict):
        raise Refused("malformed")
    return value


def _text(claims: dict[str, Any], name: str, reason: Reason = "malformed") -> str:
    value = claims.get(name)
    if not isinstance(value, str):
        raise Refused(reason)
    return value


def _seconds(claims: dict[str, Any], name: str) -> int:
    value = claims.get(name)
    if type(value) is not int:  # True is an int to isinstance
        raise Refused("malformed")
    return value
