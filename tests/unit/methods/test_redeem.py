"""A token lets in whom its owner meant, as often as he meant, and nobody once he revoked it."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from structlog.testing import capture_logs

from indexer.store import invite_tokens
from indexer.stream.events import VerifiedCommit, Write
from tests.support.fake_pds import cid_of
from tests.support.frames import block
from tests.support.guests import (
    GET_SPACE,
    HASH,
    LIST_INVITES,
    REDEEM,
    TOKEN,
    guest,
    join,
    may_see,
    members,
    redeem,
    set_account,
    used,
)
from tests.support.xrpc_world import (
    ALICE,
    BOB,
    CAROL,
    CREATED_AT,
    INVITE,
    REVOKE_INVITE,
    SPACE,
    World,
    did,
    make_world,
)
from xrpc.methods import redeeming
from xrpc.publishing import publisher
from xrpc.tokens import hash_of, new_token

REFUSED = (400, "InvalidInvite")
DAVE = did("dave")


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(publisher, "POLL", 0.02)
    async with make_world(tmp_path) as made, made.serving():
        await made.account(ALICE)
        await made.account(BOB)
        for caller in (CAROL, DAVE):
            made.name(caller, "https://pds.test")
        yield made


async def mint(world: World, token: str, space: str) -> None:
    """Note what `invite.create` does of a token that it makes."""
    async with world.db.transaction() as tx:
        uri = f"at://{space.split('/')[2]}/{INVITE}/one"
        await invite_tokens.note_created(tx, space, hash_of(token), uri)


async def revoke(world: World, space: str, token: str = TOKEN) -> int:
    body = {"spaceUri": space, "tokenHash": hash_of(token)}
    return (await world.call(space.split("/")[2], REVOKE_INVITE, body)).status_code


async def sentence(world: World, caller: str, token: str = TOKEN) -> str:
    answer = await world.call(caller, REDEEM, {"token": token})
    assert (answer.status_code, answer.json()["error"]) == REFUSED
    return str(answer.json()["message"])


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


# --- one hash in several places ---


async def test_of_two_records_with_one_token_the_newer_counts(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH, "one", kind="read")
    await world.invite(space, HASH, "two", maxUses=1)
    assert await redeem(world, BOB) == (200, space)
    assert await redeem(world, CAROL) == REFUSED
    await world.invite(space, HASH, "one", maxUses=2)
    assert await redeem(world, CAROL) == (200, space)
    assert await used(world, space) == 2


async def test_a_copied_hash_leads_nobody_into_the_copier_s_space(world: World) -> None:
    space = await world.space(ALICE)
    trap = await world.space(BOB)
    await world.invite(space, HASH, maxUses=1)
    await world.invite(trap, HASH)

    assert await redeem(world, CAROL) == (200, space)
    # Nor by waiting until it is used up.
    assert await redeem(world, DAVE) == REFUSED
    assert await members(world, trap) == []


async def test_a_token_made_here_leads_to_where_it_was_made_for(world: World) -> None:
    space = await world.space(ALICE)
    trap = await world.space(BOB)
    await mint(world, TOKEN, space)
    await world.invite(trap, HASH)  # by whom its record reached before us
    await world.invite(space, HASH)

    assert await redeem(world, CAROL) == (200, space)
    # And nowhere else, when that is over.
    await revoke(world, space)
    assert await redeem(world, DAVE) == REFUSED
    assert await members(world, trap) == []


@pytest.mark.parametrize("copies", [1, 1_100])
async def test_a_stranger_gets_nobody_by_what_he_says_of_his_clock_or_by_many_copies(
    world: World, copies: int
) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH)  # by another service: nothing was minted here
    trapper = did("aaa")  # before all others in every index
    trap = f"at://{trapper}/{SPACE}/trap"
    records = {f"{SPACE}/trap": {}} | {
        f"{INVITE}/{n}": {"space": trap, "tokenHash": HASH} for n in range(copies)
    }
    writes = [
        Write("create", *path.split("/"), cid_of(path), None, block({
            "$type": path.split("/")[0], "createdAt": CREATED_AT, **record,
        }))
        for path, record in records.items()
    ]  # fmt: skip
    await world.show(trapper, "2222222222222", None, *writes)  # the first rev that there can be

    assert await redeem(world, CAROL) == (200, space)
    # Nor when the owner has revoked it, or is away for a while.
    await set_account(world, ALICE, "deactivated")
    assert await redeem(world, DAVE) == REFUSED
    await set_account(world, ALICE, None)
    await revoke(world, space)
    assert await redeem(world, DAVE) == REFUSED
    assert await world.db.all("select * from members where space_uri = :trap", {"trap": trap}) == []


async def test_nobody_is_told_of_a_revocation_that_a_stranger_made_up(world: World) -> None:
    space, trap = await world.space(ALICE), await world.space(BOB)
    await world.invite(space, HASH)
    await world.invite(trap, HASH)
    await revoke(world, trap)
    await world.erase(f"at://{ALICE}/{INVITE}/one")
    assert await sentence(world, CAROL) == "there is no such invite"


async def test_the_same_hash_in_another_space_counts_its_own_uses(world: World) -> None:
    one, two = await world.space(ALICE), await world.space(ALICE, "two")
    await world.invite(one, HASH, "one", maxUses=1)
    await world.invite(two, HASH, "two", maxUses=1)
    assert await redeem(world, BOB) == (200, one)
    await revoke(world, one)
    assert await redeem(world, BOB) == (200, two)
    assert (await members(world, one), await members(world, two)) == ([BOB], [BOB])


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
        token = new_token()
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
