"""Accounts with keys, their tokens, and a service that has to tell who calls."""

import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from indexer.identity.resolver import IdentityResolver
from indexer.net.guard import guarded_client
from tests.support.account_keys import Key, document, jwt
from tests.support.http_host import Host, hosting
from tests.support.plc_directory import Directory
from xrpc.auth.callers import Caller, ServiceAuth
from xrpc.auth.used_tokens import UsedTokens
from xrpc.errors import AuthRequiredError

NOW = 1_800_000_000.5  # Unix seconds
METHOD = "rsvp.atmo.space.invite.revoke"
US = "did:web:rescind.example"
AUDIENCES = frozenset({US, f"{US}#rescind"})
ALICE = "did:plc:" + "a" * 24  # signs with k256
BOB = "did:plc:" + "b" * 24  # signs with p256
KEYLESS = "did:plc:" + "c" * 24
NOBODY = "did:plc:" + "d" * 24
K256, P256 = Key.k256(), Key.p256()
_serial = itertools.count()


def claims(**changes: Any) -> dict[str, Any]:
    """Return the claims as a PDS sends them; a change to ... leaves the claim out."""
    made = {
        "iat": int(NOW),
        "iss": ALICE,
        "aud": US,
        "exp": int(NOW) + 60,
        "lxm": METHOD,
        "jti": f"{next(_serial):032x}",
        **changes,
    }
    return {name: value for name, value in made.items() if value is not ...}


def header(**changes: Any) -> dict[str, Any]:
    made = {"typ": "JWT", "alg": "ES256K", **changes}
    return {name: value for name, value in made.items() if value is not ...}


def token(key: Key = K256, **changes: Any) -> str:
    return jwt(key, header(alg=key.alg), claims(**changes))


def headed(key: Key = K256, **changes: Any) -> str:
    return jwt(key, header(**changes), claims())


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class World:
    """A directory with accounts, and a service that trusts it."""

    def __init__(self, plc: Directory, host: Host, resolver: IdentityResolver) -> None:
        self.plc = plc
        self.host = host
        self.resolver = resolver
        self.clock = Clock()
        self.auth = ServiceAuth(resolver, AUDIENCES, UsedTokens(1_000), clock=self.clock)

    async def call(self, token: str) -> Caller:
        return await self.auth.authenticate(f"Bearer {token}", METHOD)

    async def refusal(self, header: str | None, method: str = METHOD) -> tuple[str, str]:
        """Return the name of the error, and the reason that was counted."""
        before = self.auth.failures.copy()
        with pytest.raises(AuthRequiredError) as caught:
            await self.auth.authenticate(header, method)
        assert caught.value.status == 401
        [reason] = (self.auth.failures - before).elements()
        return caught.value.error, reason


@pytest.fixture
async def world() -> AsyncIterator[World]:
    plc = Directory()
    plc.documents = {
        ALICE: document(ALICE, K256),
        BOB: document(BOB, P256),
        KEYLESS: document(KEYLESS, None),
    }
    async with hosting(plc.reply) as host, guarded_client(allow_private=True) as client:
        resolver = IdentityResolver(host.url, client, allow_private=True)
        yield World(plc, host, resolver)
        await resolver.aclose()
