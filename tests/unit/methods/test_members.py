"""Memberships: who sees them, who ends them, and what they end with."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from indexer.stream.events import Write
from tests.support.fake_pds import Clock, cid_of, tid
from tests.support.guests import (
    HASH,
    LEAVE_SPACE,
    LIST_MEMBERS,
    REMOVE_MEMBER,
    WHOAMI,
    guest,
    join,
    may_see,
    members,
    redeem,
    said,
    set_account,
)
from tests.support.xrpc_world import ALICE, BOB, CAROL, INVITE, SPACE, World, did, make_world

DAVE = did("dave")
OK = (200, {"ok": True})
NOWHERE = f"at://{ALICE}/{SPACE}/nowhere"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made, made.serving():
        await made.account(ALICE)
        await made.account(BOB)
        for caller in (CAROL, DAVE):
            made.name(caller, "https://pds.test")
        yield made


async def remove(world: World, space: str, who: str, caller: str = ALICE) -> tuple[int, Any]:
    return said(await world.call(caller, REMOVE_MEMBER, {"spaceUri": space, "did": who}))


async def leave(world: World, space: str, caller: str) -> tuple[int, Any]:
    return said(await world.call(caller, LEAVE_SPACE, {"spaceUri": space}))


# --- listMembers ---


async def test_the_owner_comes_first_and_the_others_as_they_came(world: World) -> None:
    space = await world.space(ALICE)
    await join(world, space, CAROL)
    world.clock.now += 60
    await join(world, space, BOB)
    for caller in (ALICE, BOB, CAROL):
        assert said(await world.ask(caller, LIST_MEMBERS, spaceUri=space)) == (
            200,
            {
                "members": [
                    {"did": ALICE, "perms": "write", "addedAt": 1_767_225_600_000},
                    {
                        "did": CAROL,
                        "perms": "write",
                        "addedAt": world.now - 60_000,
                        "addedBy": ALICE,
                    },
                    {"did": BOB, "perms": "write", "addedAt": world.now, "addedBy": ALICE},
                ]
            },
        )


async def test_who_does_not_belong_to_a_space_does_not_see_who_does(world: World) -> None:
    space = await world.space(ALICE)
    await join(world, space, BOB)
    answer = await world.ask(CAROL, LIST_MEMBERS, spaceUri=space)
    assert said(answer) == (403, "Forbidden")
    assert BOB not in answer.text


async def test_members_of_one_space_are_not_those_of_another(world: World) -> None:
    one, two = await world.space(ALICE), await world.space(ALICE, "party2")
    await join(world, one, BOB)
    await join(world, two, CAROL)
    assert await members(world, one) == [BOB]
    assert await members(world, two) == [CAROL]


# --- removeMember ---


async def test_the_owner_removes_a_member_who_is_out_at_once(world: World) -> None:
    space = await world.space(ALICE)
    await join(world, space, BOB, CAROL)

    assert await remove(world, space, BOB) == OK

    assert await members(world, space) == [CAROL]
    assert not await may_see(world, space, BOB)
    assert said(await world.ask(BOB, LIST_MEMBERS, spaceUri=space)) == (403, "Forbidden")
    assert (ALICE, "member.remove", space, BOB) in await world.audit()


async def test_to_remove_who_is_no_member_is_no_error_and_leaves_no_trace(world: World) -> None:
    space = await world.space(ALICE)
    for who in (BOB, did("unheard")):
        assert await remove(world, space, who) == OK
    assert await world.audit() == []


async def test_members_and_strangers_remove_nobody(world: World) -> None:
    space = await world.space(ALICE)
    await join(world, space, BOB, CAROL)
    for caller in (BOB, DAVE):
        for who in (CAROL, caller, ALICE, DAVE):
            assert await remove(world, space, who, caller) == (403, "Forbidden")
    assert await members(world, space) == [BOB, CAROL]


async def test_the_owner_cannot_be_removed(world: World) -> None:
    space = await world.space(ALICE)
    assert await remove(world, space, ALICE) == (400, "InvalidRequest")


async def test_who_was_removed_comes_back_only_by_an_invite_that_still_stands(
    world: World,
) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH, maxUses=2)
    assert await redeem(world, BOB) == (200, space)
    assert await remove(world, space, BOB) == OK
    assert await redeem(world, BOB) == (200, space)
    assert await remove(world, space, BOB) == OK
    assert await redeem(world, BOB) == (400, "InvalidInvite")


# --- leaveSpace ---


async def test_a_member_may_leave_and_is_out_at_once(world: World) -> None:
    space = await world.space(ALICE)
    await join(world, space, BOB, CAROL)
    assert await leave(world, space, BOB) == OK
    assert await members(world, space) == [CAROL]
    assert not await may_see(world, space, BOB)
    assert await leave(world, space, BOB) == OK  # and there is nothing to do again


async def test_the_owner_cannot_leave(world: World) -> None:
    space = await world.space(ALICE)
    assert await leave(world, space, ALICE) == (400, "InvalidRequest")
    answer = await world.ask(ALICE, WHOAMI, spaceUri=space)
    assert said(answer) == (200, {"isOwner": True, "isMember": True})


@pytest.mark.parametrize("caller", [ALICE, BOB])
async def test_from_no_space_nobody_can_be_taken(world: World, caller: str) -> None:
    gone = await world.space(ALICE)
    await world.erase(gone)
    for uri in (NOWHERE, gone, f"at://{ALICE}", f"at://{ALICE}/{INVITE}/party"):
        assert await remove(world, uri, BOB, caller) == (404, "NotFound")
        assert await leave(world, uri, caller) == (404, "NotFound")


async def test_people_coming_and_going_at_once_are_each_counted_once(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    guests = [guest(number) for number in range(12)]
    for caller in guests:
        world.name(caller, "https://pds.test")

    async def visit(caller: str) -> None:
        for _ in range(3):
            assert await redeem(world, caller) == (200, space)
            assert await leave(world, space, caller) == OK
        assert await redeem(world, caller) == (200, space)

    await asyncio.gather(*map(visit, guests))

    assert await members(world, space) == sorted(guests)
    [row] = await world.db.all("select used_count from invite_tokens")
    assert row["used_count"] == 12 * 4


# --- what memberships end with ---


async def rows(world: World) -> list[tuple[str, str]]:
    found = await world.db.all("select space_uri, did from members order by 1, 2")
    return [tuple(row) for row in found]


async def test_with_a_space_its_memberships_are_gone_from_the_file(world: World) -> None:
    one, two = await world.space(ALICE), await world.space(ALICE, "party2")
    for space in (one, two):
        await join(world, space, BOB)
    await world.erase(one)
    assert await rows(world) == [(two, BOB)]


async def test_a_record_that_is_no_space_any_more_ends_its_memberships(world: World) -> None:
    space = await world.space(ALICE)
    await join(world, space, BOB)
    await world.write(ALICE, SPACE, "party", {"name": 3})
    await world.space(ALICE)
    assert await members(world, space) == []


async def test_a_deletion_that_is_learned_late_ends_what_was_before_it(world: World) -> None:
    """The stream had a gap: the space was deleted in it, and made again."""
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    await redeem(world, BOB)
    since = world.pds.revs[ALICE]
    Clock.number += 1
    missed = tid(Clock.number)
    world.pds.revs[ALICE] = missed
    await world.space(ALICE)
    await world.invite(space, "0" * 64, "two")
    assert await members(world, space) == [BOB]  # what nobody told, nobody knows

    await world.show(
        ALICE, missed, since, Write("delete", SPACE, "party", None, cid_of("old"), None)
    )

    assert await members(world, space) == []
    assert await redeem(world, CAROL) == (400, "InvalidInvite")


async def test_who_came_in_after_a_gap_stays_when_the_gap_is_filled(world: World) -> None:
    space = await world.space(ALICE)
    since = world.pds.revs[ALICE]
    Clock.number += 1
    missed = tid(Clock.number)
    world.pds.revs[ALICE] = missed
    await world.space(ALICE)
    await join(world, space, BOB)
    await world.show(ALICE, missed, since, Write("delete", SPACE, "party", None, None, None))
    assert await members(world, space) == [BOB]


async def test_an_owner_who_deletes_the_account_ends_the_memberships(world: World) -> None:
    space, other = await world.space(ALICE), await world.space(BOB)
    await join(world, space, BOB)
    await join(world, other, CAROL)
    await set_account(world, ALICE, "deleted")
    assert await rows(world) == [(other, CAROL)]
    # Also if the account comes back and brings its space along.
    await set_account(world, ALICE, None)
    await world.space(ALICE)
    assert await members(world, space) == []


async def test_a_deleted_account_is_a_member_of_nothing(world: World) -> None:
    space = await world.space(ALICE)
    await world.space(BOB)  # so that his repo is followed
    await join(world, space, BOB, CAROL)
    await set_account(world, BOB, "deactivated")
    assert await members(world, space) == [BOB, CAROL]
    await set_account(world, BOB, "deleted")
    assert await members(world, space) == [CAROL]


async def test_an_owner_whose_did_begins_like_another_s_keeps_his_members(world: World) -> None:
    names = ("did:web:example.com", "did:web:example.com0")
    one, two = [await world.space(await world.account(name, session=False)) for name in names]
    await join(world, one, BOB)
    await join(world, two, BOB)
    await set_account(world, "did:web:example.com", "deleted")
    assert await rows(world) == [(two, BOB)]
