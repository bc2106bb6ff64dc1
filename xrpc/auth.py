"""Who is calling: a service-auth JWT to a DID.

The caller's PDS signs a short-lived token with the repo's key: for us (`aud`), for one method
(`lxm`), for one use (`jti`). The SDK checks little of that, so all of it is checked here.
Sources: atproto.com/specs/xrpc, "Inter-Service Authentication"; proposal 0014.
"""

import base64
import hashlib
import heapq
import math
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from indexer import keys
from indexer.identity import IdentityError
from indexer.identity_resolver import IdentityResolver
from indexer.strict_json import parse_json
from indexer.syntax import is_did
from xrpc.errors import AuthRequiredError

MAX_HEADER = 8_192  # characters
MAX_JTI = 128  # characters
MAX_LIFE = 3_600  # seconds; a PDS signs nothing for longer (com.atproto.server.getServiceAuth)
LEEWAY = 5  # seconds that the clock of a PDS may be ahead of ours
MAX_USED = 100_000  # tokens that are remembered, of everybody; some 35 MB
MAX_USED_BY_ISSUER = 1_000  # of one issuer
# Token-seconds of one issuer: 50 tokens of an hour. A PDS that proxies gives them a minute; with
# as many long ones as short ones, a hundred issuers would fill all the room for that hour.
MAX_HELD_BY_ISSUER = 180_000

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

# Names are those of the reference implementation where it has one. The sentences say what a
# developer needs, and nothing of what was compared with what.
_REFUSALS: dict[Reason, tuple[str, str]] = {
    "missing": ("AuthMissing", "send a service-auth token as `Authorization: Bearer`"),
    "malformed": ("BadJwt", "the token is not a service-auth JWT"),
    "type": ("BadJwtType", "the token is of another class"),
    "header": ("BadJwt", "the token's header is not one of service auth"),
    "expired": ("JwtExpired", "the token has expired"),
    "time": ("BadJwt", "the token's times are out of range"),
    "audience": ("BadJwtAudience", "the token is for another service"),
    "method": ("BadJwtLexiconMethod", "the token is for another method"),
    "issuer": ("BadJwtIss", "the token's issuer is not an account's DID"),
    "unresolved": ("BadJwtIss", "the token's issuer could not be resolved"),
    "signature": ("BadJwtSignature", "the token's signature does not match its issuer"),
    "replayed": ("JwtReplayed", "the token has been used; ask for a new one"),
    "crowded": ("TooManyTokens", "too many tokens are in use; try again later"),
}

_BEARER = re.compile(r"bearer +([\w-]+)\.([\w-]+)\.([\w-]+)", re.ASCII | re.IGNORECASE)
# Keys by value or by address (never used, but their sender expects them to be), and extensions
# that would have to be understood. Other unknown fields are ignored, as JWS says.
_FOREIGN = {"crit", "jwk", "jku", "x5c", "x5u", "x5t", "x5t#S256", "b64", "enc", "zip"}


@dataclass(frozen=True, slots=True)
class Caller:
    """An account that is proven to be calling. That it is active is not asked."""

    did: str


# Who calls an open method without a token. No account has this DID, so it owns nothing.
NOBODY = Caller("")


class ServiceAuth:
    """Turns the `Authorization` header of a call into its `Caller`.

    `audiences` are all the ways to name this service; one must be met exactly. `clock` gives Unix
    seconds. `failures` counts refusals by `Reason`, since the start.

    Used tokens are remembered in memory, so a restart takes a token a second time while it lives.
    """

    def __init__(
        self,
        resolver: IdentityResolver,
        audiences: frozenset[str],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._resolver = resolver
        self._audiences = audiences
        self._clock = clock
        self._used = UsedTokens()
        self.failures: Counter[Reason] = Counter()

    async def authenticate(
        self,
        authorization: str | None,
        method_nsid: str,
        admit: Callable[[str], None] = lambda did: None,
    ) -> Caller:
        """Return the caller of this method, or raise AuthRequiredError: never anything else.

        A token that is returned for is used up: the next call with it is refused. `admit` is
        asked with the DID that the token claims before its key is looked up; what it raises, is
        raised here.
        """
        try:
            token = _parse(authorization)
            self._check(token, method_nsid)
            admit(token.iss)
            await self._prove(token)
            # Only now: a token that proves nothing must not take room. No await between the look
            # and the entry, so of two uses at once one is refused.
            self._used.add(token.iss, token.jti, token.exp, self._clock())
        except _Refused as refused:
            self.failures[refused.reason] += 1
            name, message = _REFUSALS[refused.reason]
            raise AuthRequiredError(message, name) from None
        return Caller(token.iss)

    def _check(self, token: "_Token", method_nsid: str) -> None:
        now = self._clock()
        if token.exp <= now:
            raise _Refused("expired")
        if token.exp > now + MAX_LIFE + LEEWAY:
            raise _Refused("time")
        if any(start is not None and start > now + LEEWAY for start in (token.iat, token.nbf)):
            raise _Refused("time")
        if token.aud not in self._audiences:
            raise _Refused("audience")
        if token.lxm != method_nsid:
            raise _Refused("method")

    async def _prove(self, token: "_Token") -> None:
        try:
            identity = await self._resolver.resolve(token.iss)
            if _is_signed(token, identity.signing_key):
                return
            # The account may have got a new key after we last looked.
            fresh = await self._resolver.resolve(token.iss, refresh=True)
        except IdentityError:
            raise _Refused("unresolved") from None
        if fresh.signing_key == identity.signing_key or not _is_signed(token, fresh.signing_key):
            raise _Refused("signature")


class UsedTokens:
    """The tokens that were taken and still live; bounded, and none is forgotten early."""

    def __init__(
        self,
        size: int = MAX_USED,
        size_by_issuer: int = MAX_USED_BY_ISSUER,
        held_by_issuer: int = MAX_HELD_BY_ISSUER,
    ) -> None:
        self._size = size
        self._size_by_issuer = size_by_issuer
        self._held_by_issuer = held_by_issuer
        self._ends: list[tuple[int, bytes, str, int]] = []  # a heap: exp, token, issuer, seconds
        self._tokens: set[bytes] = set()
        self._by_issuer: Counter[str] = Counter()
        self._held: Counter[str] = Counter()  # seconds, by issuer

    def __len__(self) -> int:
        return len(self._tokens)

    def add(self, issuer: str, jti: str, exp: int, now: float) -> None:
        """Remember until `exp` that this token was used, or refuse it. Unix seconds."""
        if exp <= now:  # while its issuer was resolved; it could not be remembered any more
            raise _Refused("expired")
        while self._ends and self._ends[0][0] <= now:
            _, ended, its_issuer, its_seconds = heapq.heappop(self._ends)
            self._tokens.discard(ended)
            self._by_issuer[its_issuer] -= 1
            self._held[its_issuer] -= its_seconds
            if not self._by_issuer[its_issuer]:
                del self._by_issuer[its_issuer], self._held[its_issuer]
        # A digest, so that each takes the same room; a DID has no blank.
        token = hashlib.sha256(f"{issuer} {jti}".encode()).digest()
        if token in self._tokens:
            raise _Refused("replayed")
        seconds = math.ceil(exp - now)
        if (
            len(self._tokens) >= self._size
            or self._by_issuer[issuer] >= self._size_by_issuer
            or self._held[issuer] + seconds > self._held_by_issuer
        ):
            raise _Refused("crowded")
        self._tokens.add(token)
        self._by_issuer[issuer] += 1
        self._held[issuer] += seconds
        heapq.heappush(self._ends, (exp, token, issuer, seconds))


class _Refused(Exception):
    def __init__(self, reason: Reason) -> None:
        self.reason: Reason = reason


class _Token(NamedTuple):
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


def _parse(authorization: str | None) -> _Token:
    if not authorization or authorization[:7].lower() != "bearer ":
        raise _Refused("missing")
    match = _BEARER.fullmatch(authorization) if len(authorization) <= MAX_HEADER else None
    if match is None:
        raise _Refused("malformed")
    alg, claims, signature = _header(match[1]), _object(match[2]), _decode(match[3])
    if len(signature) != 64:
        raise _Refused("signature")
    token = _Token(
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
        raise _Refused("issuer")
    if not 1 <= len(token.jti) <= MAX_JTI:
        raise _Refused("malformed")
    return token


@lru_cache(32)  # a PDS writes the same header each time
def _header(part: str) -> str:
    """Return the `alg` of a header that service auth may have."""
    header = _object(part)
    # Access tokens, refresh tokens and DPoP proofs are JWTs too: `typ` tells them apart.
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() != "jwt":
        raise _Refused("type")
    alg = header.get("alg")
    if not isinstance(alg, str) or alg not in keys.ALGORITHMS:
        raise _Refused("header")
    if header.get("kid", "#atproto") != "#atproto" or _FOREIGN & header.keys():
        raise _Refused("header")
    return alg


def _decode(part: str) -> bytes:
    """Return the bytes of a base64url part, which must be the only way to write them."""
    try:
        data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise _Refused("malformed") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=") != part.encode():
        raise _Refused("malformed")
    return data


def _object(part: str) -> dict[str, Any]:
    try:
        value = parse_json(_decode(part))
    except ValueError:
        raise _Refused("malformed") from None
    if not isinstance(value, dict):
        raise _Refused("malformed")
    return value


def _text(claims: dict[str, Any], name: str, reason: Reason = "malformed") -> str:
    value = claims.get(name)
    if not isinstance(value, str):
        raise _Refused(reason)
    return value


def _seconds(claims: dict[str, Any], name: str) -> int:
    value = claims.get(name)
    if type(value) is not int:  # True is an int to isinstance
        raise _Refused("malformed")
    return value


def _is_signed(token: _Token, key: str | None) -> bool:
    """Tell whether this did:key made the signature, low-S, with the algorithm of the header."""
    return (
        key is not None
        and keys.algorithm(key) == token.alg
        and keys.is_signed(key, token.signature, token.signed)
    )
