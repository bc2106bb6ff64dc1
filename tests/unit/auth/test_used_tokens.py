"""A token is good for one call, and what is kept of it is bounded."""

import asyncio
from typing import Any

from tests.support.account_keys import Key
from tests.support.callers import ALICE, BOB, P256, US, World, token, world
from xrpc.auth import callers as module
from xrpc.auth import service_jwt
from xrpc.auth.callers import Caller
from xrpc.auth.used_tokens import UsedTokens

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
    world.clock.now += 60
    world.plc.open.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [getattr(result, "error", None) for result in results] == ["JwtExpired"] * 2


async def test_a_token_of_a_stranger_takes_no_room(world: World) -> None:
    for _ in range(5):
        await world.refusal(f"Bearer {token(Key.k256())}")
    assert len(world.auth._used) == 0


def take(used: UsedTokens, *args: Any) -> str:
    try:
        used.add(*args)
    except service_jwt.Refused as refused:
        return refused.reason
    return "taken"


def test_used_tokens_are_kept_until_they_end_and_no_longer() -> None:
    used = UsedTokens()
    assert take(used, "a", "1", 100, 0.0) == "taken"
    assert take(used, "a", "2", 50, 0.0) == "taken"
    assert take(used, "a", "1", 100, 99.9) == "replayed"
    assert len(used) == 1
    assert take(used, "b", "1", 300, 100.0) == "taken"
    assert len(used) == 1
    assert set(used._by_issuer) == set(used._held) == {"b"}
    assert take(used, "b", "2", 100, 100.0) == "expired"


def test_a_full_store_refuses_and_forgets_nothing() -> None:
    used = UsedTokens(size=3, size_by_issuer=2)
    assert [take(used, "a", str(n), 100, 0.0) for n in range(3)] == ["taken", "taken", "crowded"]
    assert [take(used, "b", str(n), 100, 0.0) for n in range(2)] == ["taken", "crowded"]
    assert [take(used, "a", str(n), 100, 0.0) for n in range(2)] == ["replayed", "replayed"]
    assert take(used, "a", "new", 300, 100.0) == "taken"


def test_an_issuer_may_use_few_tokens_that_live_long() -> None:
    used = UsedTokens(held_by_issuer=7_200)
    assert [take(used, "a", str(n), 3_600, 0.0) for n in range(3)] == ["taken", "taken", "crowded"]
    assert [take(used, "b", str(n), 60, 0.0) for n in range(120)] == ["taken"] * 120
    assert take(used, "b", "more", 60, 0.0) == "crowded"
    assert take(used, "b", "more", 120, 60.0) == "taken"


async def test_a_crowd_of_tokens_is_a_401(world: World) -> None:
    world.auth._used = UsedTokens(size=1)
    await world.call(token())
    assert await world.refusal(f"Bearer {token()}") == ("TooManyTokens", "crowded")


def test_every_reason_has_an_answer() -> None:
    assert set(module._REFUSALS) == set(service_jwt.Reason.__args__)
