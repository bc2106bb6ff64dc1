"""A PLC directory on loopback, and a resolver that asks it by a clock of its own."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import dns.asyncresolver
import httpx
import pytest

from indexer.identity.model import IdentityError
from indexer.identity.resolver import IdentityResolver
from indexer.net.guard import guarded_client
from tests.support.account_keys import Key, document
from tests.support.http_host import Host, hosting, http

DID = "did:plc:" + "a" * 24
OTHER = "did:plc:" + "b" * 24
KEY = Key.k256()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Directory:
    """A PLC directory on loopback: DID to document, or to a raw HTTP answer."""

    def __init__(self) -> None:
        self.documents: dict[str, Any] = {}
        self.pause = 0.0  # seconds before each answer
        self.open = asyncio.Event()  # cleared: questions wait
        self.open.set()

    def register(self, dids: Iterable[str], key: Key) -> None:
        """Say of each DID that it signs with this key."""
        for did in dids:
            self.documents[did] = document(did, key)

    async def reply(self, path: str, writer: asyncio.StreamWriter) -> None:
        found = self.documents.get(path.removeprefix("/"))
        await self.open.wait()
        await asyncio.sleep(self.pause)
        if found is None:
            writer.write(http(b'{"message":"not registered"}', "404 Not Found"))
        elif isinstance(found, bytes):
            writer.write(found)
        else:
            writer.write(http(json.dumps(found).encode()))


class Network:
    """A directory, a client and a resolver for them."""

    def __init__(self, plc: Directory, host: Host, client: httpx.AsyncClient) -> None:
        self.plc = plc
        self.host = host
        self.client = client
        self.clock = Clock()
        self.resolver = self.make()

    def make(self, **changes: Any) -> IdentityResolver:
        options: dict[str, Any] = {
            "allow_private": True,
            "clock": self.clock,
            "names": resolver_at(1),
            **changes,
        }
        return IdentityResolver(self.host.url + "/", self.client, **options)

    @property
    def asked(self) -> int:
        return len(self.host.paths)


@pytest.fixture
async def network() -> AsyncIterator[Network]:
    plc = Directory()
    async with hosting(plc.reply) as host, guarded_client(allow_private=True) as client:
        made = Network(plc, host, client)
        yield made
        await made.resolver.aclose()


def resolver_at(port: int) -> dns.asyncresolver.Resolver:
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = port
    return resolver


def many_dids(count: int) -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz234567"
    return [f"did:plc:{'e' * 22}{letters[n // 32]}{letters[n % 32]}" for n in range(count)]


async def failure(awaitable: Any) -> str:
    with pytest.raises(IdentityError) as caught:
        await awaitable
    return caught.value.reason
