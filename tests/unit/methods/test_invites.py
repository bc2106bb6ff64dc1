"""An invite that its space's owner revoked lets nobody in, and tells strangers nothing."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from indexer.stream.events import Account
from tests.support.fake_pds import APPLY, DELETE, drop, hang, says
from tests.support.guests import LIST_INVITES, may_see, said
from tests.support.xrpc_world import (
    ALICE,
    BOB,
    INVITE,
    OPERATOR,
    REVOKE_INVITE,
    SPACE,
    STRANGER,
    World,
    eventually,
    make_world,
)
from xrpc.methods import creating
from xrpc.methods.table import METHODS, Method
from xrpc.publishing import publisher
from xrpc.tokens import hash_of

CREATE_INVITE = "rsvp.atmo.space.invite.create"
REDEEM = "rsvp.atmo.space.invite.redeem"
HASH = hashlib.sha256(b"a token").hexdigest()
OTHER_HASH = hashlib.sha256(b"another token").hexdigest()
NOWHERE = f"at://{ALICE}/{SPACE}/nowhere"


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(publisher, "POLL", 0.02)
    monkeypatch.setattr(creating, "SEEN_WITHIN", 0.1)  # nothing is shown but by the test
    async with make_world(tmp_path) as made, made.serving():
        await made.account(ALICE)
        await made.account(BOB)
        yield made


async def revoke(
    world: World, space: str, token_hash: str = HASH, caller: str = ALICE, **more: Any
) -> tuple[int, str]:
    """Revoke; return the status, and the error's name or "ok"."""
    body = {"spaceUri": space, "tokenHash": token_hash, **more}
    answer = await world.call(caller, REVOKE_INVITE, body)
    found = answer.json()
    assert found == {"ok": True} or answer.status_code != 200
    return answer.status_code, found.get("error", "ok")


async def live(world: World) -> int:
    """Count the invites that let somebody in."""
    [row] = await world.db.all("select count(*) as count from invites where revoked = 0")
    return int(row["count"])


async def everything(world: World) -> list[object]:
    """Return all that a revocation may change."""
    return [
        [tuple(row) for row in await world.db.all(f"select * from {table} order by 1, 2")]
        for table in ("invites", "tombstones", "outbox", "audit", "repos")
    ]


async def is_gone(world: World, *uris: str) -> bool:
    repo = world.pds.repos[ALICE]
    return all(uri.removeprefix(f"at://{ALICE}/") not in repo for uri in uris)


# --- what it does ---


async def test_a_revoked_invite_is_dead_at_once_and_gone_from_the_repo_soon(world: World) -> None:
    space = await world.space(ALICE)
    uri = await world.invite(space, HASH)
    world.pds.fail(DELETE, says(503))  # the answer does not wait for the PDS

    assert await revoke(world, space) == (200, "ok")

    assert await live(world) == 0
    [stone] = await world.stones(uri)
    assert (stone.cause, stone.actor, stone.reason) == ("revoked", ALICE, None)
    assert (stone.space_uri, stone.token_hash, stone.created_at) == (space, HASH, world.now)
    assert await world.audit() == [(ALICE, "invite.revoke", uri, None)]
    await eventually(lambda: has_failed(world, uri))
    world.clock.now += 10
    await eventually(lambda: is_gone(world, uri))


async def has_failed(world: World, uri: str) -> bool:
    return (await world.row(uri)).error is not None


async def test_the_answer_does_not_wait_for_the_pds(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    world.pds.always["*"] = hang
    async with asyncio.timeout(2):
        assert await revoke(world, space) == (200, "ok")


async def test_it_works_without_a_session_and_says_to_the_operator_what_is_missing(
    world: World,
) -> None:
    space = await world.space(ALICE)
    uri = await world.invite(space, HASH)
    await world.sessions.log_out(ALICE)

    assert await revoke(world, space) == (200, "ok")

    assert await live(world) == 0
    await eventually(lambda: is_in(world, uri, "blocked"))


async def is_in(world: World, uri: str, state: str) -> bool:
    return (await world.row(uri)).state == state


async def test_a_second_revocation_is_ok_and_changes_nothing(world: World) -> None:
    space = await world.space(ALICE)
    uri = await world.invite(space, HASH)
    await revoke(world, space)
    await eventually(lambda: is_gone(world, uri))
    await world.show_deletions()
    before = await everything(world)

    world.clock.now += 1000
    assert await revoke(world, space) == (200, "ok")

    assert await everything(world) == before


async def test_two_revocations_at_once_are_one(world: World) -> None:
    space = await world.space(ALICE)
    uri = await world.invite(space, HASH)
    world.pds.always[DELETE] = says(503)
    answers = await asyncio.gather(*(revoke(world, space) for _ in range(8)))
    assert answers == [(200, "ok")] * 8
    assert await world.audit() == [(ALICE, "invite.revoke", uri, None)]
    assert len(await world.stones(uri)) == 1


@pytest.mark.parametrize("more", [{"expiresAt": "2020-01-01T00:00:00Z"}, {"maxUses": 1}])
async def test_an_invite_that_is_over_can_be_revoked(world: World, more: dict[str, Any]) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH, **more)
    assert await revoke(world, space) == (200, "ok")
    assert await live(world) == 0


async def test_two_records_with_the_same_hash_both_go(world: World) -> None:
    space = await world.space(ALICE)
    uris = [await world.invite(space, HASH, key) for key in ("one", "two")]
    other = await world.invite(space, OTHER_HASH, "three")

    await revoke(world, space)

    await eventually(lambda: is_gone(world, *uris))
    assert [stone.cause for stone in await world.stones(*uris)] == ["revoked"] * 2
    assert await live(world) == 1
    assert not await is_gone(world, other)


async def test_a_record_that_brings_a_revoked_token_later_is_born_dead_and_deleted(
    world: World,
) -> None:
    space = await world.space(ALICE)
    uri = await world.invite(space, HASH)
    await revoke(world, space)
    await eventually(lambda: is_gone(world, uri))
    await world.show_deletions()

    for rkey, uses in (("one", 1), ("two", 1), ("one", 2)):
        again = await world.invite(space, HASH, rkey, maxUses=uses)
        assert await live(world) == 0
        world.publisher.nudge(ALICE)
        await eventually(lambda uri=again: is_gone(world, uri))  # type: ignore[misc]
        await world.show_deletions()


async def test_the_same_hash_in_another_space_is_another_invite(world: World) -> None:
    space, other = await world.space(ALICE), await world.space(ALICE, "other")
    await world.invite(space, HASH)

    assert await revoke(world, other) == (404, "NotFound")
    assert await live(world) == 1

    await world.invite(other, HASH, "two")
    assert await revoke(world, space) == (200, "ok")
    assert await live(world) == 1


async def test_a_space_that_is_deleted_still_knows_its_owner(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    async with world.db.transaction() as tx:
        await tx.execute(
            """
            insert into tombstones (uri, cid, kind, did, rev, cause, created_at)
            select uri, cid, 'space', did, rev, 'deleted', 0 from spaces
            """
        )
        await tx.execute("delete from spaces")

    assert await revoke(world, space, caller=BOB) == (403, "Forbidden")
    assert await revoke(world, space) == (200, "ok")
    assert await live(world) == 0


async def test_the_space_of_a_deleted_account_still_knows_its_owner(world: World) -> None:
    space = await world.space(ALICE)
    uri = await world.invite(space, HASH)
    async with world.db.transaction() as tx:
        gone = Account(10**9, None, ALICE, active=False, status="deleted")
        await world.projection.apply(tx, [gone], world.now)

    assert await revoke(world, space) == (200, "ok")
    [stone] = await world.stones(uri)
    assert (stone.cause, stone.actor) == ("revoked", ALICE)


async def test_an_invite_that_its_repo_has_deleted_can_be_revoked_for_good(world: World) -> None:
    space = await world.space(ALICE)
    uri = await world.invite(space, HASH)
    world.pds.commits.clear()
    rev = world.pds._commit(ALICE, (uri.removeprefix(f"at://{ALICE}/"),))
    del world.pds.repos[ALICE][uri.removeprefix(f"at://{ALICE}/")]
    await world.show_deletions()
    assert await live(world) == 0

    assert await revoke(world, space) == (200, "ok")

    [stone] = await world.stones(uri)
    assert (stone.cause, stone.actor, stone.rev) == ("revoked", ALICE, rev)
    assert await world.states() == {}  # there is nothing to delete
    again = await world.invite(space, HASH, "two")
    assert await live(world) == 0
    world.publisher.nudge(ALICE)
    await eventually(lambda: is_gone(world, again))


async def test_an_invite_by_a_stranger_is_not_one_of_this_space(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH, owner=BOB)
    assert await revoke(world, space) == (404, "NotFound")
    assert await revoke(world, space, caller=BOB) == (403, "Forbidden")


# --- an invite that was created here, and that the firehose has not shown ---


async def create(world: World, space: str, caller: str = ALICE) -> tuple[str, str]:
    """Create an invite; return its token, and the URI of its record."""
    status, body = said(await world.call(caller, CREATE_INVITE, {"spaceUri": space}))
    assert status == 200
    [path] = [path for path in world.pds.repos[caller] if path.startswith(f"{INVITE}/")]
    return body["token"], f"at://{caller}/{path}"


async def refusal(world: World, token: str) -> str:
    """Return why a token lets nobody in."""
    answer = await world.call(BOB, REDEEM, {"token": token})
    assert (answer.status_code, answer.json()["error"]) == (400, "InvalidInvite")
    return str(answer.json()["message"])


async def test_a_new_invite_that_the_firehose_has_not_shown_is_dead_once_it_is_revoked(
    world: World,
) -> None:
    space = await world.space(ALICE)
    world.pds.always[DELETE] = says(503)
    token, uri = await create(world, space)

    assert await revoke(world, space, hash_of(token)) == (200, "ok")

    [stone] = await world.stones(uri)
    assert (stone.cause, stone.actor, stone.cid, stone.rev) == ("revoked", ALICE, "", "")
    assert (stone.space_uri, stone.token_hash) == (space, hash_of(token))
    assert await world.audit() == [(ALICE, "invite.revoke", uri, None)]
    assert await refusal(world, token) == "this invite was revoked"
    at = world.now
    world.clock.now += 1

    await world.show_commits(world.pds.commits)

    assert await live(world) == 0
    assert await refusal(world, token) == "this invite was revoked"
    assert not await may_see(world, space, BOB, token)
    params = {"spaceUri": space, "includeRevoked": True}
    [view] = (await world.ask(ALICE, LIST_INVITES, **params)).json()["invites"]
    assert (view["tokenHash"], view["revokedAt"]) == (hash_of(token), at)
    world.pds.always.clear()
    world.clock.now += 1000
    await eventually(lambda: is_gone(world, uri))
    await eventually(lambda: is_in(world, uri, "sent"))
    await world.show_deletions()
    assert await is_in(world, uri, "confirmed")
    before = await everything(world)
    await world.show_commits(world.pds.commits)
    assert await revoke(world, space, hash_of(token)) == (200, "ok")
    assert await everything(world) == before


async def test_a_new_invite_is_deleted_though_the_firehose_shows_nothing(world: World) -> None:
    space = await world.space(ALICE)
    token, uri = await create(world, space)

    await revoke(world, space, hash_of(token))

    await eventually(lambda: is_in(world, uri, "sent"))
    assert await is_gone(world, uri)
    await world.show_commits(world.pds.commits)
    assert await live(world) == 0
    assert await is_in(world, uri, "confirmed")
    assert await refusal(world, token) == "this invite was revoked"


async def test_a_second_revocation_of_what_was_not_seen_changes_nothing(world: World) -> None:
    space = await world.space(ALICE)
    token, uri = await create(world, space)
    await revoke(world, space, hash_of(token))
    await eventually(lambda: is_in(world, uri, "sent"))
    before = await everything(world)
    world.clock.now += 1
    assert await revoke(world, space, hash_of(token)) == (200, "ok")
    assert await everything(world) == before


async def test_an_invite_whose_creation_was_not_answered_can_be_revoked(world: World) -> None:
    space = await world.space(ALICE)
    world.pds.fail(APPLY, drop)
    assert said(await world.call(ALICE, CREATE_INVITE, {"spaceUri": space}))[0] == 502
    [(path, _, record)] = world.pds.commits[-1].created
    uri = f"at://{ALICE}/{path}"

    assert await revoke(world, space, record["tokenHash"]) == (200, "ok")

    await eventually(lambda: is_gone(world, uri))
    await world.show_commits(world.pds.commits)
    assert await live(world) == 0


async def test_one_that_was_never_written_can_be_revoked_too_and_comes_dead_if_it_does_come(
    world: World,
) -> None:
    space = await world.space(ALICE)
    world.pds.fail(APPLY, says(503))
    assert said(await world.call(ALICE, CREATE_INVITE, {"spaceUri": space}))[0] == 502
    [row] = await world.db.all("select token_hash, uri from invite_tokens")
    token_hash, uri = row

    assert await revoke(world, space, token_hash) == (200, "ok")

    await eventually(lambda: is_in(world, uri, "confirmed"))  # so says the PDS
    rkey = uri.rpartition("/")[2]
    assert await world.invite(space, token_hash, rkey) == uri  # it was only slow
    assert await live(world) == 0
    world.publisher.nudge(ALICE)
    await eventually(lambda: is_gone(world, uri))


async def test_an_invite_that_took_the_place_of_a_revoked_one_stays(world: World) -> None:
    space = await world.space(ALICE)
    token, uri = await create(world, space)
    await world.show_commits(world.pds.commits)
    await world.invite(space, OTHER_HASH, uri.rpartition("/")[2])

    assert await revoke(world, space, hash_of(token)) == (200, "ok")

    assert await live(world) == 1
    assert await world.states() == {}
    assert await refusal(world, token) == "this invite was revoked"
    assert await revoke(world, space, OTHER_HASH) == (200, "ok")
    assert await live(world) == 0


async def test_only_the_owner_revokes_what_was_not_seen_and_only_where_it_was_made(
    world: World,
) -> None:
    space, other = await world.space(ALICE), await world.space(ALICE, "other")
    bobs = await world.space(BOB)
    token, uri = await create(world, space)
    before = await everything(world)
    for caller in (BOB, OPERATOR, STRANGER):
        assert await revoke(world, space, hash_of(token), caller) == (403, "Forbidden")
    assert await revoke(world, other, hash_of(token)) == (404, "NotFound")
    assert await revoke(world, bobs, hash_of(token), BOB) == (404, "NotFound")
    assert await revoke(world, space, OTHER_HASH) == (404, "NotFound")
    assert await everything(world) == before
    assert not await is_gone(world, uri)


async def test_a_token_that_was_only_seen_and_that_no_record_carries_now_is_not_found(
    world: World,
) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    await world.invite(space, OTHER_HASH)  # in its place
    assert await revoke(world, space) == (404, "NotFound")
    assert await live(world) == 1


# --- who may, and what others learn ---


@pytest.mark.parametrize("caller", [BOB, OPERATOR, STRANGER])
async def test_nobody_but_the_owner_may_and_nobody_can_probe(world: World, caller: str) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    before = await everything(world)

    answers = []
    for token_hash in (HASH, OTHER_HASH):
        body = {"spaceUri": space, "tokenHash": token_hash}
        answer = await world.call(caller, REVOKE_INVITE, body)
        answers.append((answer.status_code, answer.content))

    assert answers[0] == answers[1]
    assert answers[0][0] == 403
    assert await everything(world) == before
    await revoke(world, space)
    body = {"spaceUri": space, "tokenHash": HASH}
    assert (await world.call(caller, REVOKE_INVITE, body)).content == answers[0][1]


@pytest.mark.parametrize("caller", [ALICE, BOB])
async def test_an_unknown_space_is_not_found_whoever_asks(world: World, caller: str) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    for uri in (
        NOWHERE,
        f"at://{ALICE}",
        f"at://{ALICE}/{SPACE}",
        f"at://{ALICE}/{INVITE}/one",
        f"at://{STRANGER}/{SPACE}/party",
        "at://nobody.test/rsvp.atmo.space/party",
        "at://nobody.invalid/rsvp.atmo.space/party",
    ):
        assert await revoke(world, uri, caller=caller) == (404, "NotFound")


async def test_an_unknown_hash_is_not_found_by_the_owner(world: World) -> None:
    space = await world.space(ALICE)
    assert await revoke(world, space) == (404, "NotFound")
    assert await world.states() == {}
    assert await world.audit() == []


async def test_the_space_may_be_named_by_its_owner_s_handle(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    world.name(ALICE, world.pds.url, "alice.test")

    for handle in ("alice.test", "Alice.Test"):
        assert await revoke(world, space.replace(ALICE, handle)) == (200, "ok")
    assert await live(world) == 0


async def test_a_handle_that_its_account_does_not_claim_names_no_space(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    world.name(ALICE, world.pds.url, "alice.test")
    world.plc.documents["xrpc/com.atproto.identity.resolveHandle?handle=fake.test"] = {"did": ALICE}

    assert await revoke(world, space.replace(ALICE, "fake.test")) == (404, "NotFound")


# --- hashes and tokens ---


async def test_a_hash_may_be_in_upper_case(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    assert await revoke(world, space, HASH.upper()) == (200, "ok")
    assert await revoke(world, space, HASH) == (200, "ok")


@pytest.mark.parametrize(
    "token",
    [
        "",
        HASH[:-1],
        HASH + "0",
        HASH + "\n",
        " " + HASH,
        "0x" + HASH[2:],
        "g" * 64,
        "\uff11" * 64,
        "dG9wLXNlY3JldC10b2tlbg",
        "x" * 100_000,
    ],
)
async def test_what_is_not_64_hex_digits_is_refused_and_never_repeated(
    world: World, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    space = await world.space(ALICE)
    with capture_logs() as entries, caplog.at_level(logging.DEBUG):
        for caller in (ALICE, STRANGER):
            body = {"spaceUri": space, "tokenHash": token}
            answer = await world.call(caller, REVOKE_INVITE, body)
            assert (answer.status_code, answer.json()["error"]) == (400, "InvalidRequest")
            assert len(token) < 10 or token not in answer.text
        assert entries == []
    assert len(token) < 10 or token not in caplog.text


async def test_a_raw_token_in_the_wrong_field_is_not_repeated(world: World) -> None:
    with capture_logs() as entries:
        for body in (
            {"spaceUri": "dG9wLXNlY3JldC10b2tlbg", "tokenHash": HASH},
            {"spaceUri": NOWHERE, "tokenHash": ["dG9wLXNlY3JldC10b2tlbg"]},
            {"spaceUri": NOWHERE, "token": "dG9wLXNlY3JldC10b2tlbg"},
        ):
            answer = await world.call(ALICE, REVOKE_INVITE, body)
            assert answer.status_code == 400
            assert "dG9wLXNlY3JldC10b2tlbg" not in answer.text
    assert entries == []


async def test_a_bug_does_not_put_the_body_into_the_log(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> dict[str, Any]:
        raise RuntimeError("no")

    monkeypatch.setitem(METHODS, REVOKE_INVITE, Method(fail))
    token = "dG9wLXNlY3JldC10b2tlbg"
    with capture_logs() as entries:
        answer = await world.call(ALICE, REVOKE_INVITE, {"spaceUri": NOWHERE, "tokenHash": token})
    assert answer.status_code == 500
    assert token not in repr(entries)


async def test_the_log_of_a_revocation_names_who_and_what(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    with capture_logs() as entries:
        await revoke(world, space)
        await revoke(world, space)
    [entry] = [entry for entry in entries if entry["event"] == "invite.revoked"]
    assert (entry["space"], entry["token_hash"], entry["actor"]) == (space, HASH, ALICE)
