"""The published family: its names and words, and its ways to write a space where they belong."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.guests import (
    GET_SPACE,
    HASH,
    LEAVE_SPACE,
    LIST_INVITES,
    LIST_MEMBERS,
    LIST_SPACES,
    REDEEM,
    TOKEN,
    WHOAMI,
    guest,
    join,
    may_see,
    members,
    redeem,
    said,
    set_account,
)
from tests.support.xrpc_world import ALICE, BOB, CAROL, SPACE, World, make_world
from xrpc.methods import members as member_methods
from xrpc.methods import redeeming
from xrpc.methods.table import METHODS
from xrpc.publishing import publisher
from xrpc.tokens import hash_of

CREATE_INVITE = "rsvp.atmo.space.invite.create"
ADD = ["rsvp.atmo.space.addMember", "rsvp.atmo.space.admin.addMember"]
CREATE_SPACE = ["rsvp.atmo.space.createSpace", "rsvp.atmo.space.admin.createSpace"]
REMOVE = ["rsvp.atmo.space.removeMember", "rsvp.atmo.space.admin.removeMember"]
OK = (200, {"ok": True})
OLD = f"at://{ALICE}/{SPACE}/party"
LATER = [OLD, f"ats://{ALICE}/{SPACE}/party", f"at://{ALICE}/space/{SPACE}/party"]


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(publisher, "POLL", 0.02)
    async with make_world(tmp_path) as made, made.serving(), made.streaming():
        for account in (ALICE, BOB):
            await made.account(account)
        made.name(CAROL, "https://pds.test", "carol.test")
        made.name(ALICE, made.pds.url, "alice.test")
        yield made


async def create(world: World, **given: Any) -> tuple[int, Any]:
    return said(await world.call(ALICE, CREATE_INVITE, {"spaceUri": OLD, **given}))


async def add(
    world: World, did: str, caller: str = ALICE, nsid: str = ADD[0], **given: Any
) -> tuple[int, Any]:
    body = {"spaceUri": OLD, "did": did, **given}
    return said(await world.call(caller, nsid, body))


async def sentence(world: World, caller: str, nsid: str, body: dict[str, Any]) -> str:
    answer = await world.call(caller, nsid, body)
    assert said(answer) == (400, "InvalidRequest")
    return str(answer.json()["message"])


async def perms(world: World) -> dict[str, str]:
    """Return what each may do, as the owner is told."""
    answer = await world.ask(ALICE, LIST_MEMBERS, spaceUri=OLD)
    return {member["did"]: member["perms"] for member in answer.json()["members"]}


# --- perms and kind ---


@pytest.mark.parametrize(
    ("given", "kind", "gives"),
    [
        ({}, "join", "write"),
        ({"perms": "write"}, "join", "write"),
        ({"perms": "read"}, "read", "read"),
        ({"kind": "join"}, "join", "write"),
        ({"kind": "read"}, "read", "read"),
        ({"kind": "read-join"}, "read-join", "write"),
        ({"kind": "read-join", "perms": "write"}, "read-join", "write"),
        ({"kind": "read", "perms": "read"}, "read", "read"),
    ],
)
async def test_perms_and_kind_say_the_same_and_the_record_has_the_kind_alone(
    world: World, given: dict[str, str], kind: str, gives: str
) -> None:
    await world.space(ALICE)
    status, made = await create(world, **given)
    assert status == 200
    [view] = (await world.ask(ALICE, LIST_INVITES, spaceUri=OLD)).json()["invites"]
    for shown in (made["invite"], view):
        assert (shown["kind"], shown["perms"]) == (kind, gives)
    [(_, _, record)] = world.pds.commits[-1].created
    assert record["kind"] == kind
    assert "perms" not in record


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "read", "perms": "write"},
        {"kind": "join", "perms": "read"},
        {"kind": "read-join", "perms": "read"},
    ],
)
async def test_a_contradiction_is_told_and_nothing_is_made(
    world: World, given: dict[str, str]
) -> None:
    await world.space(ALICE)
    text = await sentence(world, ALICE, CREATE_INVITE, {"spaceUri": OLD, **given})
    assert "contradicts" in text
    assert given["kind"] in text
    assert world.pds.commits == []


@pytest.mark.parametrize("given", [{"perms": "admin"}, {"perms": ""}, {"perms": "Read"}])
async def test_other_perms_are_none(world: World, given: dict[str, str]) -> None:
    await world.space(ALICE)
    text = await sentence(world, ALICE, CREATE_INVITE, {"spaceUri": OLD, **given})
    assert text.startswith("perms must be")
    text = await sentence(world, ALICE, ADD[0], {"spaceUri": OLD, "did": BOB, **given})
    assert text.startswith("perms must be")


async def test_who_comes_in_is_told_what_for(world: World) -> None:
    await world.space(ALICE)
    for name in ("rsvp.atmo.invite.redeem", REDEEM):
        for kind in ("join", "read-join"):
            token = f"{name} {kind}"
            await world.invite(OLD, hash_of(token), hash_of(token)[:8], kind=kind)
            answer = said(await world.call(BOB, name, {"token": token}))
            assert answer == (200, {"spaceUri": OLD, "perms": "write", "kind": kind})
    assert await perms(world) == {ALICE: "write", BOB: "write"}


@pytest.mark.parametrize("nsid", ["rsvp.atmo.invite.redeem", REDEEM])
async def test_an_invite_for_reading_is_not_redeemed_under_any_name(
    world: World, nsid: str
) -> None:
    await world.space(ALICE)
    _, made = await create(world, perms="read")
    assert said(await world.call(BOB, nsid, {"token": made["token"]})) == (400, "InvalidInvite")
    assert await may_see(world, OLD, None, made["token"])


# --- members that an owner adds ---


@pytest.mark.parametrize("nsid", ADD)
async def test_who_is_added_belongs_to_the_space_and_may_leave(world: World, nsid: str) -> None:
    await world.space(ALICE)
    assert await add(world, BOB, nsid=nsid) == OK
    assert await members(world, OLD) == [BOB]
    assert await may_see(world, OLD, BOB)
    [view] = [
        member
        for member in (await world.ask(BOB, LIST_MEMBERS, spaceUri=OLD)).json()["members"]
        if member["did"] == BOB
    ]
    assert view == {"did": BOB, "perms": "write", "addedAt": world.now, "addedBy": ALICE}
    listed = (await world.ask(BOB, LIST_SPACES)).json()["spaces"]
    assert [space["uri"] for space in listed] == [OLD]
    assert await world.audit() == [(ALICE, "member.add", OLD, BOB)]

    assert said(await world.call(BOB, LEAVE_SPACE, {"spaceUri": OLD})) == OK

    assert await members(world, OLD) == []


@pytest.mark.parametrize("nsid", REMOVE)
async def test_who_was_added_can_be_removed_under_either_name(world: World, nsid: str) -> None:
    await world.space(ALICE)
    await add(world, BOB)
    assert said(await world.call(ALICE, nsid, {"spaceUri": OLD, "did": BOB})) == OK
    assert await members(world, OLD) == []


@pytest.mark.parametrize("nsid", ADD)
async def test_only_the_owner_adds_members_and_only_to_what_is_there(
    world: World, nsid: str
) -> None:
    assert await add(world, BOB, nsid=nsid) == (404, "NotFound")
    await world.space(ALICE)
    assert await add(world, BOB, BOB, nsid) == (403, "Forbidden")
    assert await add(world, ALICE, nsid=nsid) == (400, "InvalidRequest")
    await set_account(world, ALICE, "deactivated")
    assert await add(world, BOB, nsid=nsid) == (404, "NotFound")
    assert await world.db.all("select 1 from members") == []


async def test_to_add_again_changes_what_a_member_may_do_and_nothing_else(world: World) -> None:
    await world.space(ALICE)
    await add(world, BOB)
    before = await world.db.all("select added_at, added_by from members")
    world.clock.now += 60
    for given, wanted in (({"perms": "read"}, "read"), ({"perms": "read"}, "read"), ({}, "write")):
        assert await add(world, BOB, **given) == OK
        assert await perms(world) == {ALICE: "write", BOB: wanted}
    after = await world.db.all("select added_at, added_by from members")
    assert [tuple(row) for row in after] == [tuple(row) for row in before]
    assert len(await world.audit()) == 3  # not of the one that changed nothing


async def test_an_invite_gives_who_was_added_to_read_what_it_is_for(world: World) -> None:
    await world.space(ALICE)
    await add(world, BOB, perms="read")
    await world.invite(OLD, HASH, maxUses=1)
    assert await redeem(world, BOB) == (200, OLD)
    assert await perms(world) == {ALICE: "write", BOB: "write"}
    assert await redeem(world, BOB) == (200, OLD)  # and then it is used up by him
    assert await redeem(world, CAROL) == (400, "InvalidInvite")


async def test_who_is_added_by_others_can_still_join_as_many_spaces_as_all(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redeeming, "MAX_JOINED", 1)
    await world.space(ALICE)
    await add(world, BOB)
    for key in ("two", "three"):
        await world.space(ALICE, key)
        body = {"spaceUri": f"at://{ALICE}/{SPACE}/{key}", "did": BOB}
        assert said(await world.call(ALICE, ADD[0], body)) == OK
    await join(world, await world.space(ALICE, "four"), BOB)  # the one that he may


async def test_one_owner_adds_so_many_and_no_more_in_all_of_his_spaces(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member_methods, "MAX_ADDED", 3)
    one, two = await world.space(ALICE), await world.space(ALICE, "two")
    await join(world, one, BOB)  # by an invite: that counts for nobody but him
    for number, space in enumerate((one, one, two)):
        body = {"spaceUri": space, "did": guest(number)}
        assert said(await world.call(ALICE, ADD[0], body)) == OK
    body = {"spaceUri": two, "did": guest(4)}
    assert "you have added 3" in await sentence(world, ALICE, ADD[0], body)
    assert await add(world, guest(0)) == OK  # who is in, is in
    made = await world.space(BOB)  # another owner's
    assert said(await world.call(BOB, ADD[0], {"spaceUri": made, "did": CAROL})) == OK
    await world.call(ALICE, REMOVE[0], {"spaceUri": one, "did": guest(0)})
    assert said(await world.call(ALICE, ADD[0], body)) == OK


async def test_a_full_space_takes_nobody_who_is_added_either(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member_methods, "MAX_MEMBERS", 1)
    await world.space(ALICE)
    await add(world, BOB)
    text = await sentence(world, ALICE, ADD[0], {"spaceUri": OLD, "did": CAROL})
    assert text == "the space is full"


async def test_who_was_added_ends_with_the_space_as_all_members_do(world: World) -> None:
    await world.space(ALICE)
    await add(world, BOB)
    await world.erase(OLD)
    await world.space(ALICE)
    assert await members(world, OLD) == []


# --- names, and how a space is written under them ---


def test_each_name_of_the_family_is_answered() -> None:
    family = """
        rsvp.atmo.space.invite.create rsvp.atmo.space.invite.list rsvp.atmo.space.invite.redeem
        rsvp.atmo.space.invite.revoke rsvp.atmo.space.listMembers rsvp.atmo.space.getSpace
        rsvp.atmo.space.listSpaces rsvp.atmo.space.admin.createSpace
        rsvp.atmo.space.admin.addMember rsvp.atmo.space.admin.removeMember
        rsvp.atmo.space.createSpace rsvp.atmo.space.addMember rsvp.atmo.space.removeMember
        rsvp.atmo.space.leaveSpace rsvp.atmo.space.whoami rsvp.atmo.invite.create
        rsvp.atmo.invite.list rsvp.atmo.invite.redeem rsvp.atmo.invite.revoke
        rsvp.atmo.spaceExt.whoami
    """
    assert set(family.split()) == {nsid for nsid in METHODS if nsid.startswith("rsvp.")}


@pytest.mark.parametrize("written", [*LATER, f"ats://alice.test/{SPACE}/party"])
async def test_under_the_later_names_a_space_may_be_written_in_three_ways(
    world: World, written: str
) -> None:
    await world.space(ALICE)
    status, made = said(
        await world.call(ALICE, "rsvp.atmo.invite.create", {"spaceUri": written, "kind": "join"})
    )
    assert status == 200
    assert made["invite"]["spaceUri"] == OLD
    assert await redeem(world, BOB, made["token"]) == (200, OLD)
    listed = await world.ask(ALICE, "rsvp.atmo.invite.list", spaceUri=written)
    assert [view["tokenHash"] for view in listed.json()["invites"]] == [hash_of(made["token"])]
    told = await world.ask(BOB, "rsvp.atmo.spaceExt.whoami", spaceUri=written)
    assert said(told) == (200, {"isOwner": False, "isMember": True})
    body = {"spaceUri": written, "tokenHash": hash_of(made["token"])}
    assert said(await world.call(ALICE, "rsvp.atmo.invite.revoke", body)) == OK
    assert await redeem(world, CAROL, made["token"]) == (400, "InvalidInvite")


@pytest.mark.parametrize("written", LATER[1:])
async def test_under_the_older_names_a_space_is_an_at_uri_and_nothing_else(
    world: World, written: str
) -> None:
    await world.space(ALICE)
    for nsid in (CREATE_INVITE, *ADD, *REMOVE, LEAVE_SPACE, "rsvp.atmo.space.invite.revoke"):
        body = {"spaceUri": written, "did": BOB, "tokenHash": HASH}
        assert said(await world.call(ALICE, nsid, body)) == (400, "InvalidRequest")
    for nsid in (LIST_INVITES, LIST_MEMBERS, WHOAMI):
        assert said(await world.ask(ALICE, nsid, spaceUri=written)) == (400, "InvalidRequest")
    assert said(await world.ask(ALICE, GET_SPACE, uri=written)) == (400, "InvalidRequest")


@pytest.mark.parametrize(
    "written",
    [
        "", "x", "ats://", f"ats://{ALICE}", f"ats://{ALICE}/{SPACE}", f"ats://{ALICE}/{SPACE}/",
        f"ats://{ALICE}/{SPACE}/a/b", f"ats://{ALICE}/not a type/b", f"at://{ALICE}/space/{SPACE}",
        f"at://{ALICE}/spaces/{SPACE}/party", f"ATS://{ALICE}/{SPACE}/party", OLD + "\n",
        f"ats://{ALICE}/{SPACE}/party?x", f"at://{ALICE}/space/{SPACE}/party#x", f"ats:/{OLD}",
        "ats://" + "a" * 9_000, f"ats://{ALICE}/{SPACE}/" + "k" * 513,
    ],
)  # fmt: skip
async def test_what_names_no_space_is_told_to_be_none(world: World, written: str) -> None:
    await world.space(ALICE)
    body = {"spaceUri": written, "tokenHash": HASH}
    for nsid in ("rsvp.atmo.invite.create", "rsvp.atmo.invite.revoke"):
        status, name = said(await world.call(ALICE, nsid, body))
        assert (status, name) in {(400, "InvalidRequest"), (404, "NotFound")}
    assert world.pds.commits == []


async def test_the_later_revoke_finds_the_space_by_the_hash_and_only_the_callers(
    world: World,
) -> None:
    nsid = "rsvp.atmo.invite.revoke"
    one, two = await world.space(ALICE), await world.space(ALICE, "two")
    other = await world.space(BOB)
    await world.invite(one, HASH, "one")
    await world.invite(two, HASH, "two")
    await world.invite(other, HASH, "copy")
    for caller in (CAROL, BOB, ALICE):
        answer = await world.call(caller, nsid, {"tokenHash": "0" * 64})
        assert said(answer) == (404, "NotFound")
    assert said(await world.call(CAROL, nsid, {"tokenHash": HASH})) == (404, "NotFound")
    assert said(await world.call(BOB, nsid, {"tokenHash": HASH})) == OK
    assert await redeem(world, CAROL) == (200, one)

    assert said(await world.call(ALICE, nsid, {"tokenHash": HASH.upper()})) == OK

    assert await redeem(world, CAROL) == (400, "InvalidInvite")
    rows = await world.db.all("select space_uri, actor from tombstones where cause = 'revoked'")
    assert {(row["space_uri"], row["actor"]) for row in rows} == {
        (one, ALICE), (two, ALICE), (other, BOB),
    }  # fmt: skip
    assert said(await world.call(ALICE, nsid, {"tokenHash": HASH})) == OK  # again
    text = await sentence(world, ALICE, nsid, {"tokenHash": TOKEN})
    assert TOKEN not in text


async def test_a_token_is_for_the_name_that_was_called(world: World) -> None:
    await world.space(ALICE)
    body = {"spaceUri": OLD, "did": BOB}
    for called, meant in ((ADD[0], ADD[1]), (ADD[1], ADD[0])):
        headers = {"authorization": f"Bearer {world.token(ALICE, meant)}"}
        answer = await world.request("POST", f"/xrpc/{called}", json=body, headers=headers)
        assert said(answer) == (401, "BadJwtLexiconMethod")
    assert await members(world, OLD) == []


@pytest.mark.parametrize("nsid", CREATE_SPACE)
@pytest.mark.parametrize(
    "given",
    [
        {"memberListRef": f"at://{ALICE}/app.bsky.graph.list/3k"},
        {"appPolicyRef": f"at://{ALICE}/com.example.policy/self"},
        {"appPolicy": {"mode": "allow", "apps": ["https://app.example/client.json"]}},
    ],
)
async def test_what_these_spaces_can_not_have_is_refused_and_not_ignored(
    world: World, nsid: str, given: dict[str, Any]
) -> None:
    text = await sentence(world, ALICE, nsid, {"key": "party", **given})
    [name] = given
    assert text.startswith(f"{name} is not for spaces of this service: ")
    assert world.pds.commits == []


@pytest.mark.parametrize("nsid", CREATE_SPACE)
async def test_a_space_is_made_under_either_name(world: World, nsid: str) -> None:
    status, made = said(await world.call(ALICE, nsid, {"key": "party", "type": SPACE}))
    assert (status, made["space"]["uri"]) == (200, OLD)
    assert said(await world.call(ALICE, nsid, {"key": "party"})) == (400, "AlreadyExists")
