"""Who belongs to a space, or was given a token to, sees it; nobody else does."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.support.guests import (
    GET_SPACE,
    LIST_SPACES,
    WHOAMI,
    join,
    may_see,
    redeem,
    said,
    set_account,
)
from tests.support.xrpc_world import (
    ALICE,
    BOB,
    CAROL,
    CREATED_AT,
    INVITE,
    SPACE,
    STRANGER,
    World,
    make_world,
)
from xrpc.tokens import hash_of

OTHER = "community.example.room"
NOWHERE = f"at://{ALICE}/{SPACE}/nowhere"
CREATED_MS = 1_767_225_600_000


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    settings = {"space_collections": f"{SPACE},{OTHER}"}
    async with make_world(tmp_path, **settings) as made, made.serving():
        await made.account(ALICE)
        await made.account(BOB)
        made.name(CAROL, "https://pds.test")
        yield made


async def listed(world: World, caller: str, **params: Any) -> list[str]:
    """Return the URIs that `listSpaces` has on all its pages."""
    uris: list[str] = []
    for _ in range(50):
        status, body = said(await world.ask(caller, LIST_SPACES, **params))
        assert status == 200, body
        assert "limit" not in params or len(body["spaces"]) <= params["limit"]
        uris += [space["uri"] for space in body["spaces"]]
        if "cursor" not in body:
            return uris
        assert body["spaces"], "a page before the last one has something"
        params["cursor"] = body["cursor"]
    raise AssertionError("the list has no end")


# --- getSpace ---


async def test_a_space_is_shown_as_its_record_says(world: World) -> None:
    space = await world.space(ALICE)
    status, body = said(await world.ask(ALICE, GET_SPACE, uri=space))
    assert (status, body) == (
        200,
        {
            "space": {
                "uri": space,
                "ownerDid": ALICE,
                "type": SPACE,
                "key": "party",
                "serviceDid": world.settings.service_did,
                "createdAt": CREATED_MS,
            }
        },
    )


async def test_the_owner_and_the_members_see_a_space_and_others_do_not(world: World) -> None:
    space = await world.space(ALICE)
    await join(world, space, BOB)
    assert await may_see(world, space, ALICE)
    assert await may_see(world, space, BOB)
    assert not await may_see(world, space, CAROL)


async def test_without_any_token_there_is_no_answer_but_who_are_you(world: World) -> None:
    space = await world.space(ALICE)
    for uri in (space, NOWHERE):
        answer = await world.ask(None, GET_SPACE, uri=uri)
        assert (answer.status_code, answer.json()["error"]) == (401, "AuthMissing")


@pytest.mark.parametrize("caller", [None, CAROL])
@pytest.mark.parametrize(("kind", "reads"), [("read", True), ("read-join", True), ("join", False)])
async def test_a_token_reads_if_its_kind_says_so(
    world: World, caller: str | None, kind: str, *, reads: bool
) -> None:
    space = await world.space(ALICE)
    await world.invite(space, hash_of("reader"), kind=kind)
    assert await may_see(world, space, caller, "reader") is reads


async def test_to_read_uses_up_nothing_and_makes_no_member(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, hash_of("reader"), kind="read", maxUses=1)
    for _ in range(3):
        assert await may_see(world, space, CAROL, "reader")
    assert not await may_see(world, space, CAROL)


async def test_a_used_up_or_expired_token_reads_no_more(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, hash_of("both"), "both", kind="read-join", maxUses=1)
    await world.invite(space, hash_of("old"), "old", kind="read", expiresAt=CREATED_AT)
    assert await may_see(world, space, None, "both")
    assert await redeem(world, BOB, "both") == (200, space)
    assert not await may_see(world, space, None, "both")
    assert not await may_see(world, space, None, "old")
    assert await may_see(world, space, BOB, "both")  # a member needs no token


async def test_a_token_reads_its_own_space_only(world: World) -> None:
    space, other = await world.space(ALICE), await world.space(ALICE, "other")
    await world.invite(space, hash_of("reader"), kind="read")
    assert await may_see(world, space, None, "reader")
    assert not await may_see(world, other, None, "reader")
    assert not await may_see(world, space, None, "READER")
    assert not await may_see(world, space, None, "")


async def test_a_bad_caller_is_refused_whatever_invite_token_comes_with_it(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, hash_of("reader"), kind="read")
    answer = await world.request(
        "GET", f"/xrpc/{GET_SPACE}", params={"uri": space, "inviteToken": "reader"},
        headers={"authorization": "Bearer nobody"},
    )  # fmt: skip
    assert answer.status_code == 401


async def test_no_other_method_of_spaces_is_open(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, hash_of("reader"), kind="read")
    params = {"spaceUri": space, "uri": space, "inviteToken": "reader"}
    for name in ("listSpaces", "listMembers", "whoami", "invite.list"):
        assert (await world.ask(None, f"{SPACE}.{name}", **params)).status_code == 401
    for name in ("removeMember", "leaveSpace", "invite.redeem", "invite.revoke"):
        answer = await world.request("POST", f"/xrpc/{SPACE}.{name}", json=params)
        assert answer.status_code == 401


async def test_nobody_is_the_owner_of_nothing(world: World) -> None:
    # The caller of an open method has no DID: it must not match what is empty.
    assert await redeem(world, STRANGER, "") == (400, "InvalidInvite")
    space = await world.space(ALICE)
    assert not await may_see(world, space, None, "")


@pytest.mark.parametrize("name", ["getSpace", "whoami", "listMembers", "invite.list"])
async def test_what_is_no_live_space_is_not_found(world: World, name: str) -> None:
    space = await world.space(ALICE)
    gone = await world.space(ALICE, "gone")
    await world.erase(gone)
    invite = await world.invite(space, hash_of("reader"), kind="read")
    for uri in (
        NOWHERE,
        gone,
        invite,
        f"at://{ALICE}",
        f"at://{ALICE}/{SPACE}",
        f"at://{STRANGER}/{SPACE}/party",
        space.upper().replace("AT://", "at://").replace("DID:PLC", "did:plc"),
        f"at://nobody.invalid/{SPACE}/party",
    ):
        answer = await world.ask(ALICE, f"{SPACE}.{name}", spaceUri=uri, uri=uri)
        assert said(answer) == (404, "NotFound"), uri


async def test_a_space_may_be_named_by_its_owner_s_handle(world: World) -> None:
    space = await world.space(ALICE)
    world.name(ALICE, world.pds.url, "alice.test")
    by_handle = space.replace(ALICE, "alice.test")
    status, body = said(await world.ask(ALICE, GET_SPACE, uri=by_handle))
    assert (status, body["space"]["uri"]) == (200, space)


async def test_while_the_owner_s_account_is_away_its_spaces_are_too(world: World) -> None:
    space = await world.space(ALICE)
    await join(world, space, BOB)
    await set_account(world, ALICE, "deactivated")
    assert said(await world.ask(BOB, GET_SPACE, uri=space)) == (404, "NotFound")
    assert await listed(world, BOB) == await listed(world, ALICE) == []
    await set_account(world, ALICE, None)
    assert await may_see(world, space, BOB)
    assert await listed(world, BOB) == await listed(world, ALICE) == [space]


# --- whoami ---


async def test_everybody_is_told_what_they_are(world: World) -> None:
    space = await world.space(ALICE)
    await join(world, space, BOB)
    for caller, is_owner, is_member in (
        (ALICE, True, True), (BOB, False, True), (CAROL, False, False),
    ):  # fmt: skip
        answer = await world.ask(caller, WHOAMI, spaceUri=space)
        assert said(answer) == (200, {"isOwner": is_owner, "isMember": is_member})


# --- listSpaces ---


@pytest.fixture
async def many(world: World) -> list[str]:
    """Spaces of Alice and of Bob, of two types; Bob is in all of Alice's but one."""
    uris = []
    for owner in (ALICE, BOB):
        for collection in (SPACE, OTHER):
            for key in ("one", "two", "three"):
                uris.append(await world.write(owner, collection, key, {}))
    for uri in uris[:5]:
        await join(world, uri, BOB)
    return sorted(uris)


async def test_the_member_s_list_has_the_joined_and_the_own_and_is_the_default(
    world: World, many: list[str]
) -> None:
    not_joined = f"at://{ALICE}/{OTHER}/three"
    expected = [uri for uri in many if uri != not_joined]
    assert await listed(world, BOB) == expected
    assert await listed(world, BOB, scope="member") == expected
    assert await listed(world, CAROL) == []


async def test_the_owner_s_list_has_the_own_only(world: World, many: list[str]) -> None:
    for owner in (ALICE, BOB):
        mine = [uri for uri in many if owner in uri]
        assert await listed(world, owner, scope="owner") == mine
    assert await listed(world, CAROL, scope="owner") == []


@pytest.mark.parametrize("scope", ["member", "owner"])
async def test_a_list_can_be_narrowed_to_a_type_and_an_owner(
    world: World, many: list[str], scope: str
) -> None:
    everything = await listed(world, BOB, scope=scope)
    for type_ in (SPACE, OTHER, INVITE):
        of_type = [uri for uri in everything if uri.split("/")[3] == type_]
        assert await listed(world, BOB, scope=scope, type=type_) == of_type
        for owner in (ALICE, BOB, CAROL):
            both = [uri for uri in of_type if owner in uri]
            assert await listed(world, BOB, scope=scope, type=type_, owner=owner) == both
            of_owner = [uri for uri in everything if owner in uri]
            assert await listed(world, BOB, scope=scope, owner=owner) == of_owner


async def test_the_type_is_the_whole_collection_and_not_how_one_begins(
    world: World, many: list[str]
) -> None:
    for type_ in ("rsvp.atmo.spac", "rsvp.atmo.space.more", "community.example.rooms"):
        assert await listed(world, BOB, type=type_) == []


@pytest.mark.parametrize("limit", [1, 2, 3, 10, 11, 12, 200])
async def test_pages_have_everything_once_and_in_order(
    world: World, many: list[str], limit: int
) -> None:
    whole = await listed(world, BOB)
    assert len(whole) == 11
    assert await listed(world, BOB, limit=limit) == whole


async def test_a_full_last_page_has_no_cursor(world: World, many: list[str]) -> None:
    status, body = said(await world.ask(BOB, LIST_SPACES, limit=11))
    assert status == 200
    assert "cursor" not in body


async def test_what_comes_and_goes_between_pages_moves_nothing_else(world: World) -> None:
    rng = Random(7)
    kept = [await world.space(ALICE, f"kept-{number}") for number in range(9)]
    fleeting: list[str] = []
    uris: list[str] = []
    params: dict[str, Any] = {"limit": 2}
    while True:
        _, body = said(await world.ask(ALICE, LIST_SPACES, **params))
        uris += [space["uri"] for space in body["spaces"]]
        if "cursor" not in body:
            break
        params["cursor"] = body["cursor"]
        for gone in fleeting:
            await world.erase(gone)
        fleeting = [await world.space(ALICE, f"kept-{rng.randrange(9)}-{len(uris)}")]
    assert [uri for uri in uris if uri in kept] == kept
    assert len(set(uris)) == len(uris)


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "!",
        "\u00e9",
        "=",
        NOWHERE,
        base64.b64encode(NOWHERE.encode()).decode() + "====",
        base64.urlsafe_b64encode(b"\xff\xfe").decode().rstrip("="),
        base64.urlsafe_b64encode(b"not a URI").decode().rstrip("="),
        base64.urlsafe_b64encode(NOWHERE.encode()[:-1]).decode() + "\n",
        "A" * 10_000,
    ],
)
async def test_a_cursor_that_no_page_gave_is_refused(world: World, cursor: str) -> None:
    answer = await world.ask(ALICE, LIST_SPACES, cursor=cursor)
    assert said(answer) == (400, "InvalidRequest")


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 0}, {"limit": 201}, {"limit": "many"}, {"scope": "mine"}, {"scope": ""},
        {"type": "no nsid"}, {"owner": "alice.test"},
    ],
)  # fmt: skip
async def test_a_parameter_that_does_not_fit_is_refused(
    world: World, params: dict[str, Any]
) -> None:
    assert said(await world.ask(ALICE, LIST_SPACES, **params)) == (400, "InvalidRequest")
