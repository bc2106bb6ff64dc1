"""A token lets in whom its owner meant, as often as he meant, and nobody once he revoked it."""

import logging

import pytest
from structlog.testing import capture_logs

from tests.support.guests import (
    GET_SPACE,
    HASH,
    LIST_INVITES,
    REDEEM,
    TOKEN,
    join,
    may_see,
    members,
    redeem,
    set_account,
    used,
)
from tests.support.redeeming import DAVE, REFUSED, revoke, sentence, world
from tests.support.xrpc_world import ALICE, BOB, CAROL, CREATED_AT, World
from xrpc.tokens import hash_of

__all__ = ["world"]  # fixtures

# --- coming in ---


@pytest.mark.parametrize("kind", ["join", "read-join"])
async def test_who_redeems_a_token_is_a_member(world: World, kind: str) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH, kind=kind)

    assert await redeem(world, BOB) == (200, space)

    assert await members(world, space) == [BOB]
    assert await used(world, space) == 1


async def test_an_invite_without_a_kind_is_for_joining(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    assert await redeem(world, BOB) == (200, space)


async def test_a_member_who_redeems_again_uses_up_nothing(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH, maxUses=1)

    for _ in range(3):
        assert await redeem(world, BOB) == (200, space)

    assert await used(world, space) == 1
    assert await members(world, space) == [BOB]


async def test_the_owner_may_redeem_and_uses_up_nothing(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH, maxUses=1)

    assert await redeem(world, ALICE) == (200, space)

    assert await used(world, space) == 0
    assert await members(world, space) == []


async def test_a_member_is_one_by_whichever_invite(world: World) -> None:
    space = await world.space(ALICE)
    await join(world, space, BOB)
    await world.invite(space, HASH, maxUses=1)
    assert await redeem(world, BOB) == (200, space)
    assert await used(world, space) == 0


async def test_who_left_needs_another_use(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH, maxUses=2)
    for use in (1, 2):
        assert await redeem(world, BOB) == (200, space)
        assert await used(world, space) == use
        await world.call(BOB, "rsvp.atmo.space.leaveSpace", {"spaceUri": space})
    assert await redeem(world, BOB) == REFUSED


# --- tokens that let nobody in ---


@pytest.mark.parametrize(
    "token", ["", "x", TOKEN[:-1], TOKEN + " ", TOKEN.lower(), HASH, "\u00e9", "x" * 10_000]
)
async def test_what_is_no_token_here_lets_nobody_in(world: World, token: str) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    assert await redeem(world, BOB, token) == REFUSED
    assert await members(world, space) == []


async def test_each_refusal_says_why(world: World) -> None:
    space = await world.space(ALICE)
    assert await sentence(world, BOB) == "there is no such invite"
    for name, more, said in (
        ("reading", {"kind": "read"}, "this invite is for reading only"),
        ("expired", {"expiresAt": CREATED_AT}, "this invite has expired"),
        ("used", {"maxUses": 1}, "this invite is used up"),
        ("revoked", {}, "this invite was revoked"),
    ):
        await world.invite(space, hash_of(name), name, **more)
        if name == "used":
            assert await redeem(world, CAROL, name) == (200, space)
        if name == "revoked":
            await revoke(world, space, name)
        assert await sentence(world, BOB, name) == said


async def test_an_invite_ends_at_its_time_and_not_before(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH, expiresAt="2027-01-15T08:00:01.000Z")  # a second from NOW
    world.clock.now += 0.999
    assert await redeem(world, BOB) == (200, space)
    world.clock.now += 0.001
    assert await redeem(world, CAROL) == REFUSED
    assert await redeem(world, BOB) == (200, space)  # who is in, is in
    assert await members(world, space) == [BOB]


async def test_as_many_come_in_as_it_says_and_not_one_more(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH, maxUses=2)
    assert await redeem(world, BOB) == (200, space)
    assert await redeem(world, CAROL) == (200, space)
    assert await redeem(world, DAVE) == REFUSED
    assert await members(world, space) == [BOB, CAROL]
    assert await used(world, space) == 2


@pytest.mark.parametrize("caller", [BOB, ALICE])
async def test_a_reading_token_lets_nobody_in_not_even_the_owner(world: World, caller: str) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH, kind="read")
    assert await redeem(world, caller) == REFUSED


async def test_a_revoked_token_lets_nobody_in_and_members_stay(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    await redeem(world, BOB)

    assert await revoke(world, space) == 200

    for caller in (CAROL, BOB):
        assert await redeem(world, caller) == REFUSED
    assert await members(world, space) == [BOB]


async def test_an_invite_that_its_owner_deleted_lets_nobody_in(world: World) -> None:
    space = await world.space(ALICE)
    await world.erase(await world.invite(space, HASH))
    assert await redeem(world, BOB) == REFUSED


async def test_an_invite_to_a_space_that_never_was_lets_nobody_in(world: World) -> None:
    await world.invite(f"at://{ALICE}/rsvp.atmo.space/nowhere", HASH)
    assert await redeem(world, BOB) == REFUSED


async def test_a_stranger_s_invite_to_a_space_lets_nobody_in(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH, owner=BOB)
    assert await redeem(world, CAROL) == REFUSED


@pytest.mark.parametrize("status", ["deactivated", "takendown", None])
async def test_while_the_owner_s_account_is_away_nobody_comes_in(
    world: World, status: str | None
) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    await set_account(world, ALICE, status)
    assert await redeem(world, BOB) == ((200, space) if status is None else REFUSED)
    await set_account(world, ALICE, None)
    assert await redeem(world, CAROL) == (200, space)


async def test_a_refused_token_leaves_no_trace(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH, maxUses=1)
    await redeem(world, BOB)
    before = [tuple(row) for row in await world.db.all("select * from invite_tokens")]
    for _ in range(3):
        await redeem(world, CAROL)
        await redeem(world, CAROL, "another token")
    assert [tuple(row) for row in await world.db.all("select * from invite_tokens")] == before


# --- spaces that end ---


async def test_a_space_made_again_has_neither_its_old_invites_nor_its_old_members(
    world: World,
) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    await world.invite(space, hash_of("reader"), "two", kind="read")
    await redeem(world, BOB)

    await world.erase(space)
    assert await redeem(world, CAROL) == REFUSED
    assert await world.space(ALICE) == space

    assert await members(world, space) == []
    assert await redeem(world, CAROL) == REFUSED
    assert not await may_see(world, space, BOB)
    assert not await may_see(world, space, None, "reader")
    listed = await world.ask(ALICE, LIST_INVITES, spaceUri=space, includeRevoked="true")
    assert listed.json() == {"invites": []}
    # An invite that was written since is one to the space that is there now.
    await world.invite(space, HASH, "three")
    assert await redeem(world, BOB) == (200, space)
    assert await members(world, space) == [BOB]


async def test_a_hash_stays_revoked_when_its_space_is_made_again(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    await revoke(world, space)
    await world.erase(space)
    await world.space(ALICE)
    await world.invite(space, HASH, "two")
    assert await redeem(world, BOB) == REFUSED


async def test_the_change_of_a_space_s_name_ends_nothing(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    await redeem(world, BOB)
    await world.write(ALICE, "rsvp.atmo.space", "party", {"name": "A better party"})
    assert await members(world, space) == [BOB]
    assert await redeem(world, CAROL) == (200, space)


# --- secrets ---


async def test_no_token_is_logged_or_kept_or_repeated(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH, kind="read-join", maxUses=1)
    texts = []
    with capture_logs() as entries, caplog.at_level(logging.DEBUG):
        for caller in (BOB, CAROL):
            texts.append((await world.call(caller, REDEEM, {"token": TOKEN})).text)
        texts.append((await world.call(BOB, REDEEM, {"token": [TOKEN]})).text)
        texts.append((await world.call(BOB, REDEEM, {"tokens": TOKEN})).text)
        for uri in (space, TOKEN, f"{space}x"):
            answer = await world.ask(None, GET_SPACE, uri=uri, inviteToken=TOKEN)
            texts.append(answer.text)
    # The test's own client logs what it asks for; and only pytest listens to uvicorn's access log.
    assert not logging.getLogger("uvicorn.access").propagate
    records = [
        record.getMessage()
        for record in caplog.records
        if record.name not in {"httpx", "uvicorn.access"}
    ]
    assert TOKEN not in repr((entries, records, texts))
    await world.db.all("pragma wal_checkpoint(truncate)")
    assert TOKEN.encode() not in world.db.path.read_bytes()
