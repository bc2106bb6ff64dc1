"""Hosts are asked for identities sparingly, however many want to know."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from indexer.identity import cache as identity_cache
from indexer.identity import resolver as identity_resolver
from indexer.identity.cache import FAILURE, REFRESH_PAUSE
from indexer.identity.resolver import FRESH, STALE, IdentityResolver
from tests.support.account_keys import Key, document
from tests.support.http_host import constant, hosting, http
from tests.support.plc_directory import DID, KEY, OTHER, Network, failure, network

__all__ = ["network"]  # a fixture


async def test_fifty_who_wait_make_one_request(network: Network) -> None:
    network.plc.documents[DID] = document(DID, KEY)
    network.plc.open.clear()
    tasks = [asyncio.create_task(network.resolver.resolve(DID)) for _ in range(50)]
    await settled(network)
    network.plc.open.set()
    assert len(set(await asyncio.gather(*tasks))) == 1
    assert network.asked == 1


async def test_who_leaves_does_not_take_the_answer_from_those_who_stay(network: Network) -> None:
    network.plc.documents[DID] = document(DID, KEY)
    network.plc.open.clear()
    first, second = (asyncio.create_task(network.resolver.resolve(DID)) for _ in range(2))
    await settled(network)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    network.plc.open.set()
    assert (await second).did == DID
    assert network.asked == 1


async def settled(network: Network, asked: int = 1) -> None:
    async with asyncio.timeout(5):
        while network.asked < asked:
            await asyncio.sleep(0.005)


async def test_a_document_is_asked_again_when_it_is_old(network: Network) -> None:
    network.plc.documents[DID] = document(DID, KEY)
    await network.resolver.resolve(DID)
    network.plc.documents[DID] = document(DID, new := Key.p256())
    network.clock.now += FRESH - 1
    assert (await network.resolver.resolve(DID)).signing_key == KEY.did_key
    network.clock.now += 1
    assert (await network.resolver.resolve(DID)).signing_key == new.did_key


async def test_a_failure_is_remembered_for_a_short_time(network: Network) -> None:
    for _ in range(3):
        assert await failure(network.resolver.resolve(DID)) == "not_found"
    assert network.asked == 1
    network.plc.documents[DID] = document(DID, KEY)
    network.clock.now += FAILURE
    assert (await network.resolver.resolve(DID)).did == DID


async def test_an_old_document_serves_on_for_a_day_while_its_host_is_away(network: Network) -> None:
    network.plc.documents[DID] = document(DID, KEY)
    await network.resolver.resolve(DID)
    network.plc.documents[DID] = http(b"", "503 Away")
    network.clock.now += FRESH
    for _ in range(3):
        assert (await network.resolver.resolve(DID)).signing_key == KEY.did_key
    assert network.asked == 2  # not at each call
    network.clock.now += STALE
    assert await failure(network.resolver.resolve(DID)) == "unreachable"


@pytest.mark.parametrize("answer", [http(b"", "404 No"), http(b"", "410 Gone"), http(b"[]")])
async def test_an_old_document_ends_when_its_host_says_so(network: Network, answer: bytes) -> None:
    network.plc.documents[DID] = document(DID, KEY)
    await network.resolver.resolve(DID)
    network.plc.documents[DID] = answer
    network.clock.now += FRESH
    assert await failure(network.resolver.resolve(DID)) in {"not_found", "bad_document"}


async def test_a_forced_refresh_asks_once_in_a_while(network: Network) -> None:
    network.plc.documents[DID] = document(DID, KEY)
    await network.resolver.resolve(DID)
    network.plc.documents[DID] = document(DID, new := Key.k256())
    assert (await network.resolver.resolve(DID, refresh=True)).signing_key == new.did_key
    for _ in range(5):
        assert (await network.resolver.resolve(DID, refresh=True)).signing_key == new.did_key
    assert network.asked == 2
    network.clock.now += REFRESH_PAUSE
    await network.resolver.resolve(DID, refresh=True)
    assert network.asked == 3


async def test_a_forced_refresh_of_a_host_that_is_away_gives_the_old_document(
    network: Network,
) -> None:
    network.plc.documents[DID] = document(DID, KEY)
    await network.resolver.resolve(DID)
    network.plc.documents[DID] = http(b"", "503 Away")
    for _ in range(3):
        assert (await network.resolver.resolve(DID, refresh=True)).signing_key == KEY.did_key
    assert network.asked == 2


async def test_what_is_forgotten_is_asked_again(network: Network) -> None:
    network.plc.documents[DID] = document(DID, KEY)
    await network.resolver.resolve(DID)
    network.resolver.forget(DID)
    network.resolver.forget(OTHER)
    await network.resolver.resolve(DID)
    assert network.asked == 2


async def test_an_answer_from_before_it_was_forgotten_is_not_remembered(network: Network) -> None:
    network.plc.documents[DID] = document(DID, KEY)
    network.plc.open.clear()
    before = asyncio.create_task(network.resolver.resolve(DID))
    await settled(network)
    network.resolver.forget(DID)
    network.plc.documents[DID] = document(DID, new := Key.k256())
    after = asyncio.create_task(network.resolver.resolve(DID))
    await settled(network, 2)
    network.plc.open.set()
    assert (await before).signing_key == KEY.did_key
    assert (await after).signing_key == new.did_key
    assert (await network.resolver.resolve(DID)).signing_key == new.did_key


def dids(count: int) -> Iterable[str]:
    return ("did:plc:" + "a" * 21 + f"{n:03}".translate(str.maketrans("0189", "wxyz"))
            for n in range(count))  # fmt: skip


async def test_the_cache_is_bounded_and_keeps_what_is_used(network: Network) -> None:
    resolver = network.make(size=3)
    network.plc.documents = {did: document(did, KEY) for did in dids(6)}
    first, *rest = dids(6)
    for did in rest:
        await resolver.resolve(first)
        await resolver.resolve(did)
    assert network.host.paths.count(f"/{first}") == 1
    assert network.asked == 6
    assert len(resolver._identities._entries) == 3
    await resolver.resolve(rest[0])
    assert network.asked == 7


async def test_the_questions_at_once_are_bounded(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity_cache, "MAX_ASKING", 2)
    network.plc.open.clear()
    for did in dids(2):
        task = asyncio.create_task(network.resolver.resolve(did))
        await asyncio.sleep(0)
        task.cancel()  # the question stays
    async with asyncio.timeout(1):
        assert await failure(network.resolver.resolve(DID)) == "unreachable"
    network.plc.open.set()


async def test_closing_ends_what_is_under_way(network: Network) -> None:
    network.plc.open.clear()
    task = asyncio.create_task(network.resolver.resolve(DID))
    await settled(network)
    await network.resolver.aclose()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not network.resolver._identities._tasks


# --- who finds no free slot ---


@asynccontextmanager
async def one_slot_taken(
    network: Network, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> AsyncIterator[IdentityResolver]:
    """A resolver that knows DID as it was a long time ago, and whose only slot is taken."""
    monkeypatch.setattr(identity_resolver, "SLOTS", 1)
    monkeypatch.setattr(identity_resolver, "TURN", 0.1)
    resolver = network.make(**options)
    network.plc.documents[DID] = document(DID, KEY)
    await resolver.resolve(DID)
    network.clock.now += FRESH
    network.plc.open.clear()
    taking = asyncio.create_task(resolver.resolve("did:plc:" + "z" * 24))
    await settled(network, 2)
    yield resolver
    network.plc.open.set()
    await asyncio.gather(taking, return_exceptions=True)
    await resolver.aclose()


async def test_what_was_never_asked_is_not_remembered_as_a_failure(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    network.plc.documents[OTHER] = document(OTHER, KEY)
    async with one_slot_taken(network, monkeypatch) as resolver:
        async with asyncio.timeout(2):
            assert await failure(resolver.resolve(OTHER)) == "unreachable"
        network.plc.open.set()
        assert (await resolver.resolve(OTHER)).did == OTHER


async def test_who_finds_no_free_slot_is_served_the_old_document(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = Key.p256()
    async with one_slot_taken(network, monkeypatch) as resolver:
        async with asyncio.timeout(2):
            assert (await resolver.resolve(DID)).signing_key == KEY.did_key
            assert (await resolver.resolve(DID, refresh=True)).signing_key == KEY.did_key
        network.plc.documents[DID] = document(DID, new)
        network.plc.open.set()
        # The refresh that nobody made is not the one that there is in a while.
        assert (await resolver.resolve(DID, refresh=True)).signing_key == new.did_key


async def test_a_handle_whose_did_was_never_asked_for_is_not_remembered_as_a_failure(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    network.plc.documents[OTHER] = document(OTHER, KEY, alsoKnownAs=["at://bob.test"])
    answer = http(json.dumps({"did": OTHER}).encode())
    async with (
        hosting(constant(answer)) as pds,
        one_slot_taken(network, monkeypatch, handle_resolver=pds.url) as resolver,
    ):
        assert await failure(resolver.resolve_handle("bob.test")) == "unreachable"
        network.plc.open.set()
        assert await resolver.resolve_handle("bob.test") == OTHER
