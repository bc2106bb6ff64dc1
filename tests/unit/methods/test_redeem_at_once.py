"""However many come at once, no limit is passed, and what is revoked lets nobody in."""

import asyncio
from random import Random
from typing import Any

import pytest

from indexer.stream.events import VerifiedCommit
from tests.support.guests import HASH, guest, may_see, members, redeem, used
from tests.support.redeeming import DAVE, REFUSED, revoke, sentence, world
from tests.support.xrpc_world import ALICE, BOB, CAROL, World
from xrpc.methods import redeeming
from xrpc.tokens import hash_of, new_token

__all__ = ["world"]  # fixtures

# --- bounds ---


async def test_a_space_holds_so_many_and_then_is_full(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redeeming, "MAX_MEMBERS", 2)
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    for caller in (BOB, CAROL):
        assert await redeem(world, caller) == (200, space)
    assert await sentence(world, DAVE) == "the space is full"
    assert await redeem(world, BOB) == (200, space)
    await world.call(BOB, "rsvp.atmo.space.leaveSpace", {"spaceUri": space})
    assert await redeem(world, DAVE) == (200, space)


async def test_nobody_is_in_more_spaces_than_the_limit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redeeming, "MAX_JOINED", 1)
    spaces = [await world.space(ALICE, key) for key in ("one", "two")]
    for number, space in enumerate(spaces):
        await world.invite(space, hash_of(str(number)), f"to-{number}")
    assert await redeem(world, BOB, "0") == (200, spaces[0])
    assert "too many spaces" in await sentence(world, BOB, "1")
    await world.erase(spaces[0])  # what is over does not count
    assert await redeem(world, BOB, "1") == (200, spaces[1])


# --- many at once ---


async def test_fifty_at_once_on_one_use_let_exactly_one_in(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH, maxUses=1)
    guests = [guest(number) for number in range(50)]
    for caller in guests:
        world.name(caller, "https://pds.test")

    answers = await asyncio.gather(*(redeem(world, caller) for caller in guests))

    assert sorted(answers) == [(200, space)] + [REFUSED] * 49
    assert await members(world, space) == [guests[answers.index((200, space))]]
    assert await used(world, space) == 1


async def test_one_caller_many_times_at_once_uses_up_one(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH, maxUses=2)
    answers = await asyncio.gather(*(redeem(world, BOB) for _ in range(20)))
    assert answers == [(200, space)] * 20
    assert await used(world, space) == 1


async def test_many_at_once_never_overfill_a_space(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redeeming, "MAX_MEMBERS", 3)
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    guests = [guest(number) for number in range(20)]
    for caller in guests:
        world.name(caller, "https://pds.test")
    answers = await asyncio.gather(*(redeem(world, caller) for caller in guests))
    assert answers.count((200, space)) == 3
    assert len(await members(world, space)) == 3


async def test_revoke_and_redeem_have_one_order_and_the_loser_sees_it(world: World) -> None:
    space = await world.space(ALICE)
    rng = Random(4)
    callers = (BOB, CAROL, DAVE)
    won = 0
    for turn in range(30):
        token = f"token {turn}"
        await world.invite(space, hash_of(token), f"invite-{turn}")
        before = set(await members(world, space))
        started: dict[str, float] = {}
        ended: dict[str, float] = {}
        loop = asyncio.get_running_loop()

        first = asyncio.Event()

        async def timed(name: str, call: Any) -> Any:
            if name == "revoke" and turn % 2:  # noqa: B023
                await first.wait()  # noqa: B023
            else:
                await asyncio.sleep(rng.random() * 0.03)
            started[name] = loop.time()  # noqa: B023
            answer = await call
            ended[name] = loop.time()  # noqa: B023
            first.set()  # noqa: B023
            return answer

        status, *answers = await asyncio.gather(
            timed("revoke", revoke(world, space, token)),
            *(timed(caller, redeem(world, caller, token)) for caller in callers),
        )

        assert status == 200
        joined = {c for c, answer in zip(callers, answers, strict=True) if answer == (200, space)}
        assert all(answer in {(200, space), REFUSED} for answer in answers)
        assert set(await members(world, space)) == before | joined
        for caller in callers:
            if started[caller] > ended["revoke"]:
                assert caller not in joined
            if ended[caller] < started["revoke"]:
                assert caller in joined
        [row] = await world.db.all(
            "select coalesce(sum(used_count), 0) as used from invite_tokens where token_hash = :h",
            {"h": hash_of(token)},
        )
        assert row["used"] == len(joined)
        assert await redeem(world, BOB, token) == REFUSED
        won += len(joined)
        for caller in joined:
            await world.call(caller, "rsvp.atmo.space.leaveSpace", {"spaceUri": space})
    assert 0 < won < 30 * len(callers)  # else there was no race


async def test_a_token_stops_reading_at_once(world: World) -> None:
    space = await world.space(ALICE)
    for turn in range(10):
        token = new_token(space)
        await world.invite(space, hash_of(token), f"invite-{turn}", kind="read")
        assert await may_see(world, space, None, token)
        assert await revoke(world, space, token) == 200
        assert not await may_see(world, space, None, token)


# --- what replay may do ---


async def test_the_owner_s_stream_played_again_changes_no_membership(world: World) -> None:
    told: list[VerifiedCommit] = []
    apply = world.projection.apply

    async def listen(tx: Any, changes: Any, now: int) -> Any:
        told.extend(changes)
        return await apply(tx, changes, now)

    world.projection.apply = listen  # type: ignore[method-assign]
    space = await world.space(ALICE)
    await world.invite(space, HASH, maxUses=2)
    await redeem(world, CAROL)
    await world.erase(space)
    await world.space(ALICE)
    await world.invite(space, HASH, "two", maxUses=3)
    await redeem(world, BOB)

    async def state() -> list[object]:
        return [
            [tuple(row) for row in await world.db.all(f"select * from {table}")]
            for table in ("members", "invite_tokens", "spaces", "invites", "tombstones", "repos")
        ]

    before = await state()
    for again in (told, told[1:3], told[2:], told[:4]):
        async with world.db.transaction() as tx:
            await apply(tx, list(again), world.now)
        assert await state() == before
    assert await members(world, space) == [BOB]
