"""Who is calling: a service-auth JWT to a DID.

The caller's PDS signs a short-lived token with the repo's key: for us (`aud`), for one method
(`lxm`), for one use (`jti`). The SDK checks little of that, so all of it is checked here.
Sources: atproto.com/specs/xrpc, "Inter-Service Authentication"; proposal 0014.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from indexer.identity.model import IdentityError
from indexer.identity.resolver import IdentityResolver
from indexer.proof import keys
from xrpc.auth.service_jwt import Reason, Refused, ServiceJwt, parse_bearer
from xrpc.auth.used_tokens import UsedTokens
from xrpc.errors import AuthRequiredError

MAX_LIFE = 3_600  # seconds; a PDS signs nothing for longer (com.atproto.server.getServiceAuth)
LEEWAY = 5  # seconds that the clock of a PDS may be ahead of ours


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
            token = parse_bearer(authorization)
            self._check(token, method_nsid)
            admit(token.iss)
            await self._prove(token)
            # Only now: a token that proves nothing must not take room. No await between the look
            # and the entry, so of two uses at once one is refused.
            self._used.add(token.iss, token.jti, token.exp, self._clock())
        except Refused as refused:
            self.failures[refused.reason] += 1
            name, message = _REFUSALS[refused.reason]
            raise AuthRequiredError(message, name) from None
        return Caller(token.iss)

    def _check(self, token: ServiceJwt, method_nsid: str) -> None:
        now = self._clock()
        if token.exp <= now:
            raise Refused("expired")
        if token.exp > now + MAX_LIFE + LEEWAY:
            raise Refused("time")
        if any(start is not None and start > now + LEEWAY for start in (token.iat, token.nbf)):
            raise Refused("time")
        if token.aud not in self._audiences:
            raise Refused("audience")
        if token.lxm != method_nsid:
            raise Refused("method")

    async def _prove(self, token: ServiceJwt) -> None:
        try:
            identity = await self._resolver.resolve(token.iss)
            if _is_signed(token, identity.signing_key):
                return
            # The account may have got a new key after we last looked.
            fresh = await self._resolver.resolve(token.iss, refresh=True)
        except IdentityError:
            raise Refused("unresolved") from None
        if fresh.signing_key == identity.signing_key or not _is_signed(token, fresh.signing_key):
            raise Refused("signature")


def _is_signed(token: ServiceJwt, key: str | None) -> bool:
    """Tell whether this did:key made the signature, with the algorithm of the header."""
    return (
        key is not None
        and keys.algorithm(key) == token.alg
        and keys.is_signed(key, token.signature, token.signed, high_s=True)
    )
