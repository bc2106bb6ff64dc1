"""A procedure's token is good for one call."""

import asyncio

from tests.support.account_keys import Key
from tests.support.callers import ALICE, BOB, P256, US, World, token, world
from xrpc.auth import refusals
from xrpc.auth.callers import Caller

__all__ = ["world"]  # fixtures


async def test_a_token_is_good_for_one_call(world: World) -> None:
    good = token()
    await world.call(good)
    for _ in range(2):
        assert await world.refusal(f"Bearer {good}") == ("JwtReplayed", "replayed")


async def test_a_jti_is_used_for_its_issuer_alone(world: World) -> None:
    await world.call(token(jti="same"))
    await world.call(token(P256, iss=BOB, jti="same"))
    error, _ = await world.refusal(f"Bearer {token(jti='same', aud=f'{US}#rescind')}")
    assert error == "JwtReplayed"


async def test_of_many_uses_at_once_one_passes(world: World) -> None:
    good = token()
    world.plc.open.clear()
    calls = [asyncio.create_task(world.call(good)) for _ in range(20)]
    await asyncio.sleep(0.05)
    world.plc.open.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results.count(Caller(ALICE)) == 1
    assert world.auth.failures == {"replayed": 19}


async def test_a_token_that_ends_while_its_issuer_is_resolved_is_refused(world: World) -> None:
    good = token()
    world.plc.open.clear()
    calls = [asyncio.create_task(world.call(good)) for _ in range(2)]
    await asyncio.sleep(0.05)
    world.clock.now += 60 + 60
    world.plc.open.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [getattr(result, "error", None) for result in results] == ["JwtExpired"] * 2


async def test_a_token_of_a_stranger_takes_no_room(world: World) -> None:
    for _ in range(5):
        await world.refusal(f"Bearer {token(Key.k256())}")
    assert len(world.auth._used) == 0


def test_every_reason_has_an_answer() -> None:
    assert set(refusals.NAMES) == set(refusals.Reason.__args__)
