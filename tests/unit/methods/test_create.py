"""What an owner makes stands in the owner's repo, or he is told why not; nothing is overwritten."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from indexer.lexicon.syntax import format_datetime, is_tid, tid_time
from indexer.stream.events import Account
from tests.support.account_keys import document
from tests.support.fake_pds import APPLY, GET, REFRESH, drop, hang, raw, says
from tests.support.xrpc_world import (
    ALICE,
    BOB,
    INVITE,
    KEY,
    NOW,
    SPACE,
    STRANGER,
    World,
    make_world,
)
from xrpc.methods import creating
from xrpc.publishing import publisher, sessions
from xrpc.publishing.tids import TidClock

CREATE_SPACE = "rsvp.atmo.space.createSpace"
CREATE_INVITE = "rsvp.atmo.space.invite.create"
LIST_INVITES = "rsvp.atmo.space.invite.list"
REDEEM = "rsvp.atmo.space.invite.redeem"
OTHER_TYPE = "com.example.club"
NOW_MS = int(NOW * 1000)
IN_AN_HOUR = NOW_MS + 3_600_000


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(publisher, "POLL", 0.02)
    async with make_world(tmp_path, space_collections=f"{OTHER_TYPE},{SPACE}") as made:
        await made.account(ALICE)
        await made.account(BOB, session=False)
        async with made.serving(), made.streaming():
            yield made


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the time that a call may take."""
    monkeypatch.setattr(creating, "ANSWER_WITHIN", 0.8)
    monkeypatch.setattr(creating, "SEEN_WITHIN", 0.3)


async def create_space(world: World, caller: str = ALICE, **given: Any) -> httpx.Response:
    return await world.call(caller, CREATE_SPACE, given)


async def create_invite(
    world: World, space: str, caller: str = ALICE, **given: Any
) -> httpx.Response:
    return await world.call(caller, CREATE_INVITE, {"spaceUri": space, **given})


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


# --- spaces ---


async def test_a_new_space_is_in_the_callers_repo_and_in_the_index(world: World) -> None:
    answer = await create_space(world, key="party")

    uri = f"at://{ALICE}/{SPACE}/party"
    assert answer.json() == {
        "space": {
            "uri": uri,
            "ownerDid": ALICE,
            "type": SPACE,
            "key": "party",
            "serviceDid": world.settings.service_did,
            "createdAt": NOW_MS,
        }
    }
    [commit] = world.pds.commits
    assert [(path, record) for path, _, record in commit.created] == [
        (f"{SPACE}/party", {"$type": SPACE, "createdAt": format_datetime(NOW_MS)})
    ]
    [row] = await world.db.all("select uri, revoked, created_at from spaces")
    assert tuple(row) == (uri, 0, NOW_MS)


async def test_without_a_key_every_space_gets_a_tid_that_comes_after_those_before(
    world: World,
) -> None:
    answers = [await create_space(world) for _ in range(3)]
    keys = [answer.json()["space"]["key"] for answer in answers]
    assert all(map(is_tid, keys))
    assert keys == sorted(set(keys))


async def test_a_space_is_of_the_preferred_type_or_of_the_one_asked_for(world: World) -> None:
    assert (await create_space(world)).json()["space"]["type"] == SPACE
    assert (await create_space(world, type=OTHER_TYPE)).json()["space"]["type"] == OTHER_TYPE


async def test_without_the_preferred_type_the_first_by_name_is_meant(tmp_path: Path) -> None:
    types = "com.example.club,com.example.bar"
    async with make_world(tmp_path, space_collections=types) as world, world.serving():
        await world.account(ALICE)
        async with world.streaming():
            answer = await create_space(world)
    assert answer.json()["space"]["type"] == "com.example.bar"


async def test_of_another_type_it_is_said_which_are_known_here(world: World) -> None:
    answer = await create_space(world, type="com.example.unknown")
    assert refusal(answer) == (400, "InvalidRequest")
    assert f"{OTHER_TYPE}, {SPACE}" in answer.json()["message"]
    assert world.pds.of(APPLY) == []


@pytest.mark.parametrize("key", ["", ".", "..", "a/b", "a b", "ä", "a" * 513, "a\n"])
async def test_a_key_that_is_no_record_key_is_refused(world: World, key: str) -> None:
    assert refusal(await create_space(world, key=key)) == (400, "InvalidRequest")
    assert world.pds.of(APPLY) == []


@pytest.mark.parametrize("key", ["a", "self", "a" * 512, "a.b_c~d:e-F9"])
async def test_any_record_key_will_do(world: World, key: str) -> None:
    assert (await create_space(world, key=key)).json()["space"]["key"] == key


async def test_a_space_that_is_in_the_index_already_exists(world: World) -> None:
    await world.space(ALICE, "party")
    assert refusal(await create_space(world, key="party")) == (400, "AlreadyExists")
    assert world.pds.of(APPLY) == []


async def test_a_space_that_only_the_repo_has_already_exists_and_stays_as_it_is(
    world: World,
) -> None:
    await world.write(ALICE, SPACE, "party", {"name": "Mine"}, indexed=False)
    before = dict(world.pds.repos[ALICE])
    assert refusal(await create_space(world, key="party")) == (400, "AlreadyExists")
    assert world.pds.repos[ALICE] == before


async def test_of_many_who_create_one_space_at_once_one_does(world: World) -> None:
    answers = await asyncio.gather(*(create_space(world, key="party") for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 7
    assert {a.json()["error"] for a in answers if a.status_code == 400} == {"AlreadyExists"}
    assert len(world.pds.commits) == 1


async def test_a_space_can_be_made_where_one_was_deleted(world: World) -> None:
    await create_space(world, key="party")
    path = f"{SPACE}/party"
    del world.pds.repos[ALICE][path]
    world.pds._commit(ALICE, (path,))
    async with asyncio.timeout(5):
        while await world.db.all("select 1 from spaces"):
            await asyncio.sleep(0.01)
    world.clock.now += 1
    assert (await create_space(world, key="party")).status_code == 200
    assert [tuple(r) for r in await world.db.all("select revoked from spaces")] == [(0,)]


def test_tids_go_up_whatever_the_clock_does_and_tell_the_time() -> None:
    clock = TidClock()
    given = [clock.next(NOW_MS - back) for back in (0, 0, 5_000, -1, 0) for _ in range(3)]
    assert all(map(is_tid, given))
    assert given == sorted(set(given))
    assert tid_time(given[0]) == NOW_MS * 1000
    assert tid_time(given[9]) == (NOW_MS + 1) * 1000


# --- invites ---


async def test_a_new_invite_is_returned_with_its_token_once_and_written_without_it(
    world: World,
) -> None:
    space = await world.space(ALICE)
    with capture_logs() as entries:
        answer = await create_invite(
            world, space, kind="read-join", maxUses=3, expiresAt=IN_AN_HOUR, note="for Bob"
        )
    token = answer.json()["token"]
    token_hash = hashlib.sha256(token.encode()).hexdigest()
    assert len(token) == 85
    assert answer.json()["invite"] == {
        "tokenHash": token_hash,
        "spaceUri": space,
        "kind": "read-join",
        "perms": "write",
        "usedCount": 0,
        "createdBy": ALICE,
        "createdAt": NOW_MS,
        "expiresAt": IN_AN_HOUR,
        "maxUses": 3,
        "note": "for Bob",
    }
    [commit] = world.pds.commits
    [(path, _, record)] = commit.created
    assert is_tid(path.removeprefix(f"{INVITE}/"))
    assert record == {
        "$type": INVITE,
        "space": space,
        "tokenHash": token_hash,
        "kind": "read-join",
        "maxUses": 3,
        "expiresAt": format_datetime(IN_AN_HOUR),
        "note": "for Bob",
        "createdAt": format_datetime(NOW_MS),
    }
    [row] = await world.db.all("select token_hash, space_uri, used_count from invite_tokens")
    assert tuple(row) == (token_hash, space, 0)
    assert token not in json.dumps([*entries, record])
    assert token not in "\n".join(line for line in await dump(world))


async def dump(world: World) -> list[str]:
    tables = await world.db.all("select name from sqlite_schema where type = 'table'")
    return [
        str([tuple(row) for row in await world.db.all(f"select * from {table['name']}")])
        for table in tables
    ]


async def test_an_invite_can_be_used_as_soon_as_it_is_returned(world: World) -> None:
    space = await world.space(ALICE)
    token = (await create_invite(world, space)).json()["token"]
    assert (await world.call(BOB, REDEEM, {"token": token})).json() == {
        "spaceUri": space,
        "perms": "write",
        "kind": "join",
    }
    [view] = (await world.ask(ALICE, LIST_INVITES, spaceUri=space)).json()["invites"]
    assert (view["usedCount"], view["kind"]) == (1, "join")


async def test_only_the_owner_may_invite_and_only_to_what_is_there(world: World) -> None:
    space = await world.space(ALICE)
    nowhere = f"at://{ALICE}/{SPACE}/nowhere"
    assert refusal(await create_invite(world, space, BOB)) == (403, "Forbidden")
    assert refusal(await create_invite(world, nowhere)) == (404, "NotFound")
    assert refusal(await create_invite(world, nowhere, BOB)) == (404, "NotFound")
    async with world.db.transaction() as tx:
        gone = Account(10**9, None, ALICE, active=False, status="deactivated")
        await world.projection.apply(tx, [gone], world.now)
    assert refusal(await create_invite(world, space)) == (404, "NotFound")
    assert world.pds.of(APPLY) == []


@pytest.mark.parametrize(
    ("given", "about"),
    [
        ({"expiresAt": NOW_MS}, "expiresAt"),
        ({"expiresAt": -1}, "expiresAt"),
        ({"expiresAt": 253_402_300_800_000}, "expiresAt"),
        ({"maxUses": 2**53}, "maxUses"),
        ({"kind": "write"}, "kind"),
        ({"kind": ""}, "kind"),
    ],
)
async def test_an_invite_that_can_not_be_is_refused_and_nothing_is_left_of_it(
    world: World, given: dict[str, Any], about: str
) -> None:
    answer = await create_invite(world, await world.space(ALICE), **given)
    assert refusal(answer) == (400, "InvalidRequest")
    assert about in answer.json()["message"]
    assert world.pds.of(APPLY) == []


async def test_the_latest_time_and_the_most_uses_that_can_be(world: World) -> None:
    last = 253_402_300_799_999
    space = await world.space(ALICE)
    answer = await create_invite(world, space, expiresAt=last, maxUses=2**53 - 1)
    assert answer.json()["invite"]["expiresAt"] == last
    [row] = await world.db.all("select expires_at, max_uses from invites")
    assert tuple(row) == (last, 2**53 - 1)


# --- sessions, and a PDS that does not do it ---


async def test_without_a_session_it_is_said_what_to_do_and_nothing_is_written(
    world: World,
) -> None:
    space = await world.space(BOB)
    for answer in (await create_space(world, BOB), await create_invite(world, space, BOB)):
        assert refusal(answer) == (400, "SessionRequired")
        assert f"`rescind login {BOB}`" in answer.json()["message"]
        assert "operator" in answer.json()["message"]
    assert await world.db.all("select 1 from invite_tokens") == []
    assert world.pds.of(APPLY) == []


async def test_a_token_that_ran_out_is_refreshed(world: World) -> None:
    world.pds.expire()
    assert (await create_space(world)).status_code == 200
    assert len(world.pds.of(REFRESH)) == 1


async def test_calls_at_once_refresh_a_session_once(world: World) -> None:
    world.pds.expire()
    answers = await asyncio.gather(*(create_space(world) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(world.pds.of(REFRESH)) == 1


async def test_a_withdrawn_app_password_is_told_as_a_missing_session_is(world: World) -> None:
    world.pds.expire()
    world.pds.fail(REFRESH, says(400, "ExpiredToken", "Token has been revoked"))
    for _ in range(2):
        answer = await create_space(world)
        assert refusal(answer) == (400, "SessionRequired")
        assert "rescind login" in answer.json()["message"]


async def test_an_account_that_moved_is_followed(world: World) -> None:
    new = await world.add_pds()
    new.add(ALICE)
    access = (await world.sessions.get(ALICE)).access
    await world.resolver.resolve(ALICE)
    # Nothing told us yet: what we know of the account still names the host that it has left.
    plain = world.plc.documents[ALICE]
    world.plc.documents[ALICE] = document(
        ALICE, KEY, service=[{**plain["service"][0], "serviceEndpoint": new.url}]
    )
    new.access[access] = ALICE  # the same session, as an account's move keeps nobody's
    world.pds.always[APPLY] = says(400, "AccountDeactivated", "Account is deactivated")

    assert (await create_space(world, key="party")).status_code == 200

    assert f"{SPACE}/party" in new.repos[ALICE]


@pytest.mark.parametrize(
    "fault",
    [
        says(503, "NotEnoughResources"),
        says(500, "InternalServerError"),
        says(400, "InvalidRequest", "no"),
        says(429, "RateLimitExceeded", "", "Retry-After: 60"),
        raw(200, b"{}"),
        raw(200, b'{"commit": {"cid": "x", "rev": "3l7777777777w"}, "results": [{}]}'),
        raw(502, b"<html>"),
    ],
)
async def test_a_pds_that_does_not_do_it_is_named_as_the_cause(world: World, fault: Any) -> None:
    world.pds.always[APPLY] = fault
    answer = await create_space(world, key="party")
    assert refusal(answer) == (502, "UpstreamFailure")
    assert "PDS" in answer.json()["message"]
    world.pds.always.clear()
    assert (await create_space(world, key="party")).status_code == 200


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("slow", [APPLY, REFRESH, GET])
async def test_a_pds_that_hangs_is_not_waited_for(
    world: World, slow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "FINISH_WITHIN", 3.0)
    if slow == REFRESH:
        world.pds.expire()
    if slow == GET:
        world.pds.always[APPLY] = says(500, "InternalServerError")
    world.pds.always[slow] = hang
    began = time.monotonic()
    answer = await create_space(world)
    assert refusal(answer) == (502, "UpstreamFailure")
    assert 0.7 < time.monotonic() - began < 1.6


async def test_a_lost_answer_is_told_and_a_second_try_finds_the_space(world: World) -> None:
    world.pds.fail(APPLY, drop)
    assert refusal(await create_space(world, key="party")) == (502, "UpstreamFailure")
    assert refusal(await create_space(world, key="party")) == (400, "AlreadyExists")


async def test_an_invite_whose_answer_was_lost_can_be_seen_and_lets_nobody_in(
    world: World,
) -> None:
    space = await world.space(ALICE)
    world.pds.fail(APPLY, drop)
    answer = await create_invite(world, space)
    assert refusal(answer) == (502, "UpstreamFailure")
    assert answer.json().keys() == {"error", "message"}
    async with asyncio.timeout(5):
        while not (found := (await world.ask(ALICE, LIST_INVITES, spaceUri=space)).json()):
            await asyncio.sleep(0.01)
    assert len(found["invites"]) <= 1


@pytest.mark.usefixtures("hurried")
async def test_it_is_answered_in_any_case_when_the_firehose_is_late(
    tmp_path: Path,
) -> None:
    async with make_world(tmp_path) as world, world.serving():
        await world.account(ALICE)
        began = time.monotonic()
        answer = await create_space(world, key="party")
        assert answer.status_code == 200
        assert time.monotonic() - began > 0.3
        # Known by then or not: the repo knows.
        assert refusal(await create_space(world, key="party")) == (400, "AlreadyExists")


async def test_an_account_without_a_pds_or_an_answer_of_its_directory(world: World) -> None:
    world.plc.documents[ALICE] = document(ALICE, KEY, service=[])
    world.resolver.forget(ALICE)
    assert refusal(await create_space(world)) == (400, "InvalidRequest")
    assert refusal(await create_space(world, STRANGER)) == (400, "SessionRequired")
