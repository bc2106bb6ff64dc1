"""Who is calling: a service-auth JWT to a DID.

The caller's PDS signs a short-lived token with the repo's key: for us (`aud`), for one method
(`lxm`), and of a procedure for one use (`jti`). The SDK checks little of that, so all of it is
checked here. Sources: atproto.com/specs/xrpc, "Inter-Service Authentication"; proposal 0014.
"""

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from indexer.config.settings import Settings
from indexer.identity.model import IdentityError
from indexer.identity.resolver import IdentityResolver
from indexer.proof import keys
from indexer.store import used_tokens
from indexer.store.db import Reader
from xrpc.auth.refusals import Reason, Refused, answer
from xrpc.auth.service_jwt import ServiceJwt, parse_bearer
from xrpc.auth.used_tokens import HOUR, LEEWAY, UsedToken, UsedTokens


@dataclass(frozen=True, slots=True)
class Caller:
    """An account that is proven to be calling. That it is active is not asked.

    `token` is what proved it, if that is used up by the call: a procedure's, over the network.
    """

    did: str
    token: UsedToken | None = field(default=None, compare=False)


# Who calls an open method without a token. No account has this DID, so it owns nothing.
NOBODY = Caller("")


class ServiceAuth:
    """Turns the `Authorization` header of a call into its `Caller`.

    `audiences` are all the ways to name this service; one must be met exactly. `clock` gives Unix
    seconds. `failures` counts refusals by `Reason`, since the start.

    That a token is used is remembered here, which is quick, and written with what it was used for
    (see `Services.transaction`), which lasts.
    """

    def __init__(
        self,
        resolver: IdentityResolver,
        audiences: frozenset[str],
        used: UsedTokens,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._resolver = resolver
        self._audiences = audiences
        # What every PDS can be asked for: some take no fragment.
        self._audience = min(audiences, key=len)
        self._clock = clock
        self._used = used
        self.failures: Counter[Reason] = Counter()

    @classmethod
    async def open(
        cls,
        settings: Settings,
        resolver: IdentityResolver,
        db: Reader,
        *,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Return one that knows which tokens were used before it came to be."""
        used = UsedTokens.at_rate(settings.rate_limit, settings.rate_window)
        now = clock()
        for row in await used_tokens.living(db, int(now * 1000)):
            used.restore(row["issuer"], row["key"], row["ends_at"], now)
        return cls(resolver, settings.audiences, used, clock=clock)

    async def authenticate(
        self,
        authorization: str | None,
        method_nsid: str,
        admit: Callable[[str], object] = lambda did: None,
        charge: Callable[[str], object] = lambda did: None,
        *,
        is_procedure: bool = True,
    ) -> Caller:
        """Return the caller of this method; raise AuthRequiredError for who is not proven.

        A procedure's token is used up when this returns: the next call with it is refused. A query
        takes one as often as it is shown: real clients keep one for minutes, and to read again
        does no harm.

        `admit` is asked with the DID that the token claims before its key is looked up, `charge`
        with the one that it has proven before it is used up: what they raise, is raised here.
        RateLimitExceededError is raised for who uses more tokens than can be remembered.
        """
        try:
            token = parse_bearer(authorization)
            self._check(token, method_nsid)
            admit(token.iss)
            await self._prove(token)
            charge(token.iss)
            # Only now: a token that proves nothing must not take room. No await between the look
            # and the entry, so of two uses at once one is refused.
            used = self._used.add(token, self._clock()) if is_procedure else None
        except Refused as refused:
            self.failures[refused.reason] += 1
            raise answer(refused, self._audience, method_nsid) from None
        return Caller(token.iss, used)

    def _check(self, token: ServiceJwt, method_nsid: str) -> None:
        now = self._clock()
        if (late := now - token.exp) > LEEWAY:
            raise Refused("expired", f"exp: the token ended {math.ceil(late)} s ago{_apart()}")
        if (ahead := token.exp - now - HOUR) > LEEWAY:
            raise Refused(
                "time", f"exp: it is {math.ceil(ahead)} s further in the future than the {HOUR} s "
                f"that a token may live{_apart()}",
            )  # fmt: skip
        for name, start in (("iat", token.iat), ("nbf", token.nbf)):
            if start is not None and (ahead := start - now) > LEEWAY:
                raise Refused("time", f"{name}: it is {math.ceil(ahead)} s in the future{_apart()}")
        if token.aud not in self._audiences:
            raise Refused("audience", "aud: the token is for another service")
        if token.lxm != method_nsid:
            raise Refused("method", "lxm: the token is for another method")

    async def _prove(self, token: ServiceJwt) -> None:
        try:
            identity = await self._resolver.resolve(token.iss)
            if _is_signed(token, identity.signing_key):
                return
            # The account may have got a new key after we last looked.
            fresh = await self._resolver.resolve(token.iss, refresh=True)
        except IdentityError:
            raise Refused("unresolved", "iss: its DID document could not be had") from None
        if fresh.signing_key == identity.signing_key or not _is_signed(token, fresh.signing_key):
            raise Refused(
                "signature", "signature: it is not, with this alg, of the key #atproto in the DID "
                "document of iss",
            )  # fmt: skip


def _apart() -> str:
    return f" by the clock here; the clock of your PDS may be {LEEWAY} s ahead or behind"


def _is_signed(token: ServiceJwt, key: str | None) -> bool:
    """Tell whether this did:key made the signature, with the algorithm of the header."""
    return (
        key is not None
        and keys.algorithm(key) == token.alg
        and keys.is_signed(key, token.signature, token.signed, high_s=True)
    )
