"""Keys that change are found by one question, and nobody makes us ask more."""

import asyncio

import pytest

from indexer.prover import Prover
from tests.support.account_keys import Key, document
from tests.support.callers import ALICE, K256, World, token, world
from tests.support.http_host import http
from tests.support.plc_directory import many_dids
from tests.support.waiting import ready, until
from xrpc.auth.callers import Caller

__all__ = ["world"]  # fixtures

# --- keys that change, hosts that fail ---


async def test_a_new_key_is_found_by_one_refresh(world: World) -> None:
    await world.call(token())
    new = Key.p256()
    world.plc.documents[ALICE] = document(ALICE, new)
    assert await world.call(token(new)) == Caller(ALICE)
    assert len(world.host.paths) == 2
    assert (await world.refusal(f"Bearer {token()}"))[0] == "BadJwtSignature"


async def test_bad_signatures_do_not_make_us_ask_again_and_again(world: World) -> None:
    for _ in range(5):
        assert (await world.refusal(f"Bearer {token(Key.k256())}"))[0] == "BadJwtSignature"
    assert len(world.host.paths) == 2


@pytest.mark.parametrize("answer", [http(b"", "503 Away"), http(b"{"), b"\0\r\n\r\n"])
async def test_an_issuer_that_cannot_be_resolved_is_a_401(world: World, answer: bytes) -> None:
    world.plc.documents[ALICE] = answer
    assert await world.refusal(f"Bearer {token()}") == ("BadJwtIss", "unresolved")


async def test_a_call_that_is_cancelled_uses_nothing_up(world: World) -> None:
    good = token()
    world.plc.open.clear()
    task = asyncio.create_task(world.call(good))
    while not world.host.paths:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    world.plc.open.set()
    assert await world.call(good) == Caller(ALICE)


# --- who else asks the directory ---


async def test_a_token_does_not_wait_behind_the_many_that_the_indexer_asks_for(
    world: World,
) -> None:
    dids = many_dids(1_000)
    for did in dids:
        world.plc.documents[did] = document(did, K256)
    world.plc.pause = 0.2
    learning = asyncio.create_task(Prover(world.resolver, lambda _: True).learn(dids))
    fetching = [asyncio.create_task(share.resolve(did))
                for share in [world.resolver.share(8)] for did in dids]  # fmt: skip
    paths = world.host.paths
    try:
        await until(lambda: ready(len(paths) >= 100))
        assert await world.call(token()) == Caller(ALICE)
        # Also if the indexer is about to ask for this one, the last in its line.
        late = next(did for did in reversed(dids) if f"/{did}" not in paths)
        assert await world.call(token(iss=late)) == Caller(late)
        assert sum(f"/{did}" not in paths for did in dids) > 100  # of those before it
        assert not learning.done()
    finally:
        learning.cancel()
        for task in fetching:
            task.cancel()
        await asyncio.gather(learning, *fetching, return_exceptions=True)
