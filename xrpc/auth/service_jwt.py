"""A service-auth JWT as it is written: its parts, and the types of what they say. Pure.

Sources: atproto.com/specs/xrpc, "Inter-Service Authentication"; proposal 0014; RFC 7515.
"""

import base64
import hashlib
import re
from functools import lru_cache
from typing import Any, NamedTuple

from indexer.lexicon.strict_json import parse_json
from indexer.lexicon.syntax import is_did
from indexer.proof import keys
from xrpc.auth.refusals import Reason, Refused

MAX_HEADER = 8_192  # characters
MAX_JTI = 128  # characters
MAX_SECONDS = 2**53  # what is further from 1970 is as far as that, and can be reckoned with

_BEARER = re.compile(r"bearer +([\w-]+)\.([\w-]+)\.([\w-]+)", re.ASCII | re.IGNORECASE)
# Keys by value or by address (never used, but their sender expects them to be), and extensions
# that would have to be understood. Other unknown fields are ignored, as JWS says.
_FOREIGN = {"crit", "jwk", "jku", "x5c", "x5u", "x5t", "x5t#S256", "b64", "enc", "zip"}
_OF_SESSIONS = {"at+jwt": "an access token", "refresh+jwt": "a refresh token"}


class ServiceJwt(NamedTuple):
    """A token that is well formed, with all its types checked; nothing of it is proven yet."""

    alg: str
    iss: str
    aud: str
    lxm: str
    jti: str | None  # some PDSes send none
    exp: float  # Unix seconds, as iat and nbf
    iat: float | None
    nbf: float | None
    signed: bytes
    signature: bytes

    @property
    def key(self) -> bytes:
        """What tells a token from all others, in 32 bytes. It does not depend on the signature.

        Whoever has a token can write its signature in a second way, by the other value of s.
        """
        own = b"signed " + self.signed if self.jti is None else b"jti " + self.jti.encode()
        return hashlib.sha256(self.iss.encode() + b" " + own).digest()  # a DID has no blank


def parse_bearer(authorization: str | None) -> ServiceJwt:
    """Return what an `Authorization` header bears, or raise `Refused`, whatever it is.

    Several headers of that name come joined by commas, and are refused.
    """
    if not authorization or authorization[:7].lower() != "bearer ":
        raise Refused("missing", "send a service-auth token as `Authorization: Bearer`")
    if "," in authorization:
        raise Refused("malformed", "Authorization: send one header with one token")
    match = _BEARER.fullmatch(authorization) if len(authorization) <= MAX_HEADER else None
    if match is None:
        raise Refused("malformed", "the token is not a JWT: three parts in base64url, with a dot")
    claims = _object(match[2], "the claims")
    # An OAuth session's token, and what PDSes have for one, say what they are good for at the PDS.
    scope = claims.get("scope")
    if isinstance(scope, str) and "lxm" not in claims:
        raise _of_session("a refresh token" if "refresh" in scope else "an access token")
    alg, kid = _header(match[1])
    signature = _decode(match[3], "the signature")
    if len(signature) != keys.SIGNATURE_LENGTH:
        raise Refused("signature", f"signature: it must be {keys.SIGNATURE_LENGTH} bytes, r and s")
    token = ServiceJwt(
        alg=alg,
        iss=_text(claims, "iss"),
        aud=_text(claims, "aud"),
        lxm=_text(claims, "lxm", "method"),
        jti=_jti(claims.get("jti")),
        exp=_seconds(claims, "exp"),
        iat=_seconds(claims, "iat") if "iat" in claims else None,
        nbf=_seconds(claims, "nbf") if "nbf" in claims else None,
        signed=f"{match[1]}.{match[2]}".encode(),
        signature=signature,
    )
    if not is_did(token.iss) or not token.iss.startswith(("did:plc:", "did:web:")):
        raise Refused("issuer", "iss: it must be the bare DID of an account, of PLC or of the web")
    if kid not in {"#atproto", f"{token.iss}#atproto"}:
        raise Refused("header", "kid: it must be #atproto, of the DID document of iss, or left out")
    return token


@lru_cache(32)  # a PDS writes the same header each time
def _header(part: str) -> tuple[str, str]:
    """Return the `alg` and `kid` of a header that service auth may have."""
    header = _object(part, "the header")
    # Access tokens, refresh tokens and DPoP proofs are JWTs too: `typ` tells them apart.
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() != "jwt":
        if isinstance(kind, str) and kind.lower() in _OF_SESSIONS:
            raise _of_session(_OF_SESSIONS[kind.lower()])
        raise Refused("type", "typ: the token is of another class; it must be JWT, or left out")
    alg = header.get("alg")
    if not isinstance(alg, str) or alg not in keys.ALGORITHMS:
        raise Refused("header", "alg: it must be ES256K or ES256, as the key of the account")
    if _FOREIGN & header.keys():
        raise Refused("header", "the header must bring neither keys nor extensions of JWS")
    kid = header.get("kid", "#atproto")
    return alg, kid if isinstance(kid, str) else ""


def _of_session(what: str) -> Refused:
    return Refused("type", f"this is {what} of a session: it is for your PDS alone, send it there")


def _decode(part: str, what: str) -> bytes:
    """Return the bytes of a base64url part, which must be the only way to write them."""
    try:
        data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        data = b""
    if base64.urlsafe_b64encode(data).rstrip(b"=") != part.encode():
        raise Refused("malformed", f"the token is not a JWT: {what} can't be read as base64url")
    return data


def _object(part: str, what: str) -> dict[str, Any]:
    try:
        value = parse_json(_decode(part, what))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Refused("malformed", f"the token is not a JWT: {what} must be a strict JSON object")
    return value


def _text(claims: dict[str, Any], name: str, reason: Reason = "malformed") -> str:
    value = claims.get(name)
    if not isinstance(value, str):
        raise Refused(reason, f"{name}: the token has none, or one that is no text")
    return value


def _jti(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > MAX_JTI:
        raise Refused("malformed", f"jti: it must be a text of at most {MAX_JTI} characters")
    return value


def _seconds(claims: dict[str, Any], name: str) -> float:
    value = claims.get(name)
    # True is an int to isinstance. A date may have a fraction (RFC 7519, section 2).
    if type(value) is not int and type(value) is not float:
        raise Refused("malformed", f"{name}: it must be a number of Unix seconds")
    return max(-MAX_SECONDS, min(value, MAX_SECONDS))
