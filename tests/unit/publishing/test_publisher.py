"""What is revoked here is deleted from its repo, whatever its PDS does, and nothing else is."""

import asyncio
import contextlib
import functools
import itertools
import socket
import sqlite3
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from indexer.store import outbox
from tests.support.fake_pds import (
    APPLY,
    DELETE,
    GET,
    REFRESH,
    Call,
    FakePds,
    Fault,
    drop,
    hang,
    raw,
    says,
    waiting,
)
from tests.support.stopping import stopped_at
from tests.support.xrpc_world import ALICE, BOB, VERIFICATION, World, did, eventually, make_world
from xrpc.publishing import pds as pds_module
from xrpc.publishing import publisher as module
from xrpc.publishing.publisher import CONFIRM_WITHIN, LEASE
from xrpc.publishing.sessions import KEEP_ALIVE, Session

YEAR = 365 * 86_400  # seconds


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(module, "POLL", 0.02)
    async with make_world(tmp_path) as made:
        yield made


async def granted(world: World, issuer: str, count: int = 1) -> list[str]:
    """Return verifications that stand in the repo, whose deletion is asked for."""
    uris = [await world.verification(issuer, f"key{number}") for number in range(count)]
    await world.enqueue(*uris)
    return uris


async def state(world: World, uri: str) -> str:
    return (await world.row(uri)).state


# --- one commit, or one by one ---


async def test_many_rows_of_one_repo_are_deleted_in_one_commit(world: World) -> None:
    await world.account(ALICE)
    uris = await granted(world, ALICE, 30)

    await world.publisher.publish_repo(ALICE)

    assert len(world.pds.of(APPLY)) == 1
    assert world.pds.of(DELETE) == []
    [commit] = world.pds.commits
    assert len(commit.deleted) == 30
    rows = [await world.row(uri) for uri in uris]
    assert {(row.state, row.commit_rev) for row in rows} == {("sent", commit.rev)}


async def test_no_commit_has_more_than_200_deletions(world: World) -> None:
    await world.account(ALICE)
    await granted(world, ALICE, 205)

    await world.publisher.publish_repo(ALICE)

    assert sorted(len(commit.deleted) for commit in world.pds.commits) == [5, 200]
    assert await world.states() == {"sent": 205}


async def test_one_row_is_deleted_by_the_call_that_a_missing_record_does_not_fail(
    world: World,
) -> None:
    await world.account(ALICE)
    await granted(world, ALICE)

    await world.publisher.publish_repo(ALICE)

    assert [call.nsid for call in world.pds.calls if call.token] == [DELETE]


async def test_a_missing_record_does_not_keep_the_others_in_the_repo(world: World) -> None:
    await world.account(ALICE)
    uris = await granted(world, ALICE, 4)
    del world.pds.repos[ALICE][f"{VERIFICATION}/key2"]

    await world.publisher.publish_repo(ALICE)

    assert [await state(world, uri) for uri in uris] == ["sent", "sent", "confirmed", "sent"]
    assert world.pds.repos[ALICE] == {}


async def test_a_refused_batch_is_tried_one_by_one(world: World) -> None:
    await world.account(ALICE)
    uris = await granted(world, ALICE, 3)
    world.pds.fail(APPLY, says(400, "InvalidRequest", "no such thing here"))

    await world.publisher.publish_repo(ALICE)

    assert [await state(world, uri) for uri in uris] == ["sent"] * 3


async def test_a_record_that_is_refused_for_good_does_not_hold_up_those_behind_it(
    world: World,
) -> None:
    await world.account(ALICE)
    uris = await granted(world, ALICE, 3)
    world.pds.always[APPLY] = says(400, "InvalidRequest")
    world.pds.fail(DELETE, says(400, "InvalidRequest", "not this one"))

    await world.publisher.publish_repo(ALICE)

    assert [await state(world, uri) for uri in uris] == ["pending", "sent", "sent"]
    refused = await world.row(uris[0])
    assert refused.error == "InvalidRequest: not this one"
    assert refused.due_at > world.now
    assert (await world.row(uris[1])).error is None


async def test_what_a_stopped_batch_had_done_is_not_marked_as_failed(world: World) -> None:
    await world.account(ALICE)
    uris = await granted(world, ALICE, 3)
    world.pds.fail(APPLY, says(500))
    world.pds.always[DELETE] = says(503)
    world.pds.fail(DELETE, waiting(_opened()))

    await world.publisher.publish_repo(ALICE)

    done, *rest = [await world.row(uri) for uri in uris]
    assert (done.state, done.error) == ("sent", None)
    assert done.due_at == world.now + CONFIRM_WITHIN * 1000
    assert [row.state for row in rest] == ["pending", "pending"]
    assert all("503" in (row.error or "") for row in rest)


def _opened() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


async def test_a_record_that_the_pds_keeps_in_spite_of_its_answer_is_not_called_gone(
    world: World,
) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    world.pds.always[DELETE] = raw(200, b"{}")  # it says yes and does nothing
    await revoke_in_index(world, uri)

    await world.publisher.publish_repo(ALICE)

    row = await world.row(uri)
    assert row.state == "pending"
    assert "still" in (row.error or "")


async def test_a_new_grant_that_stands_there_by_now_is_left_alone(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    await revoke_in_index(world, uri)
    del world.pds.repos[ALICE][f"{VERIFICATION}/key0"]
    world.pds.fail(DELETE, raw(200, b"{}"))  # missing at that moment
    await world.verification(ALICE, "key0", indexed=False, name="Carol again")

    await world.publisher.publish_repo(ALICE)

    assert await state(world, uri) == "confirmed"
    assert f"{VERIFICATION}/key0" in world.pds.repos[ALICE]


async def revoke_in_index(world: World, uri: str) -> None:
    """Lay the tombstone of what stands in the index at this URI."""
    async with world.db.transaction() as tx:
        await tx.execute(
            """
            insert into tombstones (uri, cid, kind, did, rev, cause, actor, created_at)
            select uri, cid, 'verification', did, rev, 'revoked', did, 0 from verifications
            where uri = :uri
            """,
            {"uri": uri},
        )


# --- back-off ---


async def test_a_pds_that_fails_is_asked_again_later_and_later(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    world.pds.always[DELETE] = says(503)
    pauses = []
    for _ in range(6):
        await world.publisher.publish_repo(ALICE)
        row = await world.row(uri)
        pauses.append(row.due_at / 1000 - world.clock.now)
        world.clock.now = row.due_at / 1000 + 0.001

    assert len(world.pds.of(DELETE)) == 6
    for attempt, pause in enumerate(pauses):
        assert 2**attempt <= round(pause, 2) <= 2 ** (attempt + 1)  # half of it is jitter


async def test_where_nothing_is_due_nothing_is_written(world: World) -> None:
    """Callers nudge it as often as they like, also while the host is not well."""
    await world.account(ALICE)
    await granted(world, ALICE)
    world.pds.always[DELETE] = says(503)
    await world.publisher.publish_repo(ALICE)
    calls = len(world.pds.calls)
    with contextlib.closing(sqlite3.connect(world.db.path, isolation_level=None)) as other:
        other.execute("begin immediate")  # a write would wait for the end of this
        async with asyncio.timeout(2):
            for _ in range(10):
                await world.publisher.publish_repo(ALICE)
    assert len(world.pds.calls) == calls


async def test_a_pds_is_not_asked_before_the_time_that_it_named(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    world.pds.fail(DELETE, says(429, "RateLimitExceeded", "", "Retry-After: 300"))
    await world.publisher.publish_repo(ALICE)
    row = await world.row(uri)
    assert row.due_at >= world.now + 300_000

    await world.account(BOB)
    await granted(world, BOB)
    await world.publisher.publish_repo(BOB)
    assert len(world.pds.of(DELETE)) == 1  # it speaks for the whole host

    world.clock.now += 301
    await world.publisher.publish_repo(ALICE)
    assert await state(world, uri) == "sent"


async def test_the_reset_of_a_rate_limit_is_a_time_that_was_named(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    date = "Fri, 15 Jan 2027 08:00:00 GMT"  # 1_800_000_000
    reset = "RateLimit-Reset: 1800000090"
    world.pds.fail(DELETE, says(429, "RateLimitExceeded", "", reset, f"Date: {date}"))

    await world.publisher.publish_repo(ALICE)

    assert round((await world.row(uri)).due_at / 1000 - world.clock.now) == 90


async def test_a_host_that_asks_for_a_year_is_asked_again_in_an_hour(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    world.pds.fail(DELETE, says(503, "", "", "Retry-After: 31536000"))

    await world.publisher.publish_repo(ALICE)

    assert (await world.row(uri)).due_at <= world.now + 3_600_000


async def test_an_answer_that_is_no_xrpc_is_one_of_a_proxy_and_is_tried_again(
    world: World,
) -> None:
    await world.account(ALICE)
    uris = await granted(world, ALICE, 2)
    world.pds.fail(APPLY, raw(403, b"<html>Just a moment...</html>"))

    await world.publisher.publish_repo(ALICE)

    assert world.pds.of(DELETE) == []
    assert [await state(world, uri) for uri in uris] == ["pending"] * 2
    assert "403" in ((await world.row(uris[0])).error or "")


@pytest.mark.parametrize(
    "answer",
    [
        raw(200, b"<html>"),
        raw(200, b"[1]"),
        raw(200, b'{"commit":{"rev":"../../x"}}'),
        raw(200, b"[" * 5000),
        raw(204, b""),
        raw(302, b"", "Location: http://127.0.0.1:1/xrpc/elsewhere"),
        raw(500, b"\xff\xfe"),
        raw(418, b"{}"),
    ],
)
async def test_an_answer_without_sense_leaves_the_batch_to_be_tried_again(
    world: World, answer: Fault
) -> None:
    await world.account(ALICE)
    uris = await granted(world, ALICE, 2)
    world.pds.always |= {APPLY: answer, DELETE: answer, GET: answer}

    await world.publisher.publish_repo(ALICE)

    states = {await state(world, uri) for uri in uris}
    assert states <= {"pending"}, states


async def test_a_dead_pds_with_30_repos_does_not_hold_up_another_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pds_module, "CALL_DEADLINE", 0.5)
    slow, good = await world.add_pds(), world.pds
    slow.always["*"] = hang
    for number in range(30):
        repo = did(f"x{'abcdefghijklmnopqrstuvwxyz234567'[number]}")
        await world.account(repo, slow, session=False)
        await log_in_behind_its_back(world, repo)
        await world.enqueue(f"at://{repo}/{VERIFICATION}/one")
    await world.account(ALICE, good)
    [uri] = await granted(world, ALICE)

    async with world.publishing():
        started = asyncio.get_running_loop().time()
        await eventually(lambda: is_state(world, uri, "sent"), 2.0)
        assert asyncio.get_running_loop().time() - started < 0.45  # not one time-out of the other
        assert slow.busy.total() <= 2
        await eventually(lambda: all_have_errors(world, 30), 8.0)
    # Two were asked. The others learnt from them.
    assert 2 <= len(slow.calls) <= 6


async def is_state(world: World, uri: str, wanted: str) -> bool:
    return await state(world, uri) == wanted


async def all_have_errors(world: World, count: int) -> bool:
    rows = await outbox.listing(world.db, ("pending",), 100)
    return len([row for row in rows if row.error]) == count


async def log_in_behind_its_back(world: World, repo: str) -> None:
    """Store a session without a call to the PDS, which does not answer."""
    sealed = world.sessions._vault.seal(pds_module.Tokens(repo, None, "a", "r"))
    async with world.db.transaction() as tx:
        await tx.execute(
            """
            insert into sessions (did, pds, sealed, created_at, refreshed_at)
            values (:did, 'https://pds.test', :sealed, :now, :now)
            """,
            {"did": repo, "sealed": sealed, "now": world.now},
        )


async def test_a_person_who_asks_again_is_not_put_off_by_our_own_back_off(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    world.pds.fail(DELETE, says(503), says(503))
    async with world.publishing():
        await eventually(lambda: has_error(world, uri))
        async with world.db.transaction() as tx:
            await outbox.retry(tx, [uri], world.now)

        await world.publisher.publish([ALICE], 2.0)
        assert len(world.pds.of(DELETE)) == 2
        async with world.db.transaction() as tx:
            await outbox.retry(tx, [uri], world.now)
        await world.publisher.publish([ALICE], 2.0)

        assert await state(world, uri) == "sent"


async def test_a_person_who_asks_again_is_put_off_until_the_time_that_the_pds_named(
    world: World,
) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    world.pds.fail(DELETE, says(429, "RateLimitExceeded", "", "Retry-After: 300"))
    async with world.publishing():
        await eventually(lambda: has_error(world, uri))
        async with world.db.transaction() as tx:
            await outbox.retry(tx, [uri], world.now)
        await world.publisher.publish([ALICE], 2.0)

    assert len(world.pds.of(DELETE)) == 1
    assert await state(world, uri) == "pending"


async def has_error(world: World, uri: str) -> bool:
    return (await world.row(uri)).error is not None


# --- sessions ---


async def test_a_token_that_has_run_out_is_renewed_once_for_all(world: World) -> None:
    await world.account(ALICE)
    uris = await granted(world, ALICE, 3)
    world.pds.expire()

    await asyncio.gather(*(world.publisher.publish_repo(ALICE) for _ in range(5)))

    assert len(world.pds.of(REFRESH)) == 1
    assert {await state(world, uri) for uri in uris} == {"sent"}


@pytest.mark.parametrize(
    "refusal", [(400, "ExpiredToken"), (400, "InvalidToken"), (401, "AuthMissing")]
)
async def test_a_token_that_is_refused_is_renewed_and_the_new_one_stored(
    world: World, refusal: tuple[int, str]
) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    world.pds.fail(DELETE, says(*refusal))

    await world.publisher.publish_repo(ALICE)

    assert await state(world, uri) == "sent"
    # Each refresh token is used once, so the stored one must be the one that is still good.
    assert (await world.sessions.get(ALICE)).refresh in world.pds.refresh


async def test_a_session_that_is_refused_blocks_the_rows_and_a_login_takes_them_up(
    world: World,
) -> None:
    await world.account(ALICE)
    uris = await granted(world, ALICE, 2)
    world.pds.expire()
    world.pds.refresh.clear()  # the app password was withdrawn

    await world.publisher.publish_repo(ALICE)

    rows = [await world.row(uri) for uri in uris]
    assert {row.state for row in rows} == {"blocked"}
    assert f"rescind login {ALICE}" in (rows[0].error or "")
    assert "app password withdrawn?" in (rows[0].error or "")
    async with world.publishing():
        await world.log_in(ALICE, world.pds)
        await eventually(lambda: is_state(world, uris[0], "sent"))
    assert world.pds.repos[ALICE] == {}


async def test_a_login_while_the_session_is_being_refused_is_not_missed(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    gate = asyncio.Event()
    world.pds.expire()
    world.pds.refresh.clear()  # the app password was withdrawn
    world.pds.fail(REFRESH, waiting(gate))
    task = asyncio.create_task(world.publisher.publish_repo(ALICE))
    async with asyncio.timeout(5):
        while not world.pds.of(REFRESH):
            await asyncio.sleep(0.01)
    await world.log_in(ALICE, world.pds)
    gate.set()
    await task

    assert await state(world, uri) == "sent"
    assert world.pds.repos[ALICE] == {}


async def test_a_login_after_no_session_was_found_is_not_missed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.account(ALICE, session=False)
    [uri] = await granted(world, ALICE)
    get = world.sessions.get

    async def get_and_log_in(did: str) -> Session:
        monkeypatch.setattr(world.sessions, "get", get)
        try:
            return await get(did)
        finally:
            await world.log_in(ALICE, world.pds)

    monkeypatch.setattr(world.sessions, "get", get_and_log_in)
    await world.publisher.publish_repo(ALICE)
    assert await state(world, uri) == "sent"


async def test_without_a_session_the_rows_are_blocked_and_the_pds_is_left_alone(
    world: World,
) -> None:
    await world.account(ALICE, session=False)
    [uri] = await granted(world, ALICE)

    await world.publisher.publish_repo(ALICE)

    row = await world.row(uri)
    assert (row.state, row.error) == (
        "blocked",
        f"no session for {ALICE}: run `rescind login {ALICE}`",
    )
    assert world.pds.calls == []


async def test_a_refresh_that_fails_for_now_does_not_block(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    world.pds.expire()
    world.pds.fail(REFRESH, says(503))

    await world.publisher.publish_repo(ALICE)
    assert await state(world, uri) == "pending"

    world.clock.now += 10
    await world.publisher.publish_repo(ALICE)
    assert await state(world, uri) == "sent"


async def test_what_was_put_off_is_published_although_the_clock_is_set_back_by_a_year(
    world: World,
) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    world.clock.now += YEAR
    world.pds.fail(DELETE, says(503))
    async with world.publishing():
        await eventually(lambda: has_failed(world, uri))
        world.clock.now -= YEAR
        await eventually(lambda: is_sent(world, uri))


async def has_failed(world: World, uri: str) -> bool:
    return (await world.row(uri)).error is not None


async def is_sent(world: World, uri: str) -> bool:
    return await state(world, uri) == "sent"


async def test_a_session_that_is_seldom_used_is_refreshed_before_it_ends(world: World) -> None:
    await world.account(ALICE)
    before = await world.sessions.get(ALICE)
    world.clock.now += KEEP_ALIVE + 1

    async with world.publishing():
        await eventually(lambda: has_other_tokens(world, before.refresh))

    assert len(world.pds.of(REFRESH)) == 1


async def has_other_tokens(world: World, refresh: str) -> bool:
    return (await world.sessions.get(ALICE)).refresh != refresh


# --- accounts that move ---


async def move(world: World, *, tokens_too: bool = False) -> tuple[str, str]:
    """Move Alice's repo to another PDS; return her row's URI and the new PDS's URL."""
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    old, new = world.pds, await world.add_pds()
    new.add(ALICE, "the-new-one")
    new.repos[ALICE], new.revs[ALICE] = old.repos.pop(ALICE), old.revs[ALICE]
    if tokens_too:
        new.access, new.refresh = old.access, old.refresh
    await world.resolver.resolve(ALICE)  # the old document, still fresh for minutes
    handle = world.plc.documents
    handle[ALICE] = {
        **handle[ALICE],
        "service": [{**handle[ALICE]["service"][0], "serviceEndpoint": new.url}],
    }
    world.pds = new
    return uri, old.url


async def test_a_moved_account_is_followed_and_its_session_is_asked_for(world: World) -> None:
    uri, _ = await move(world)
    new = world.pds

    await world.publisher.publish_repo(ALICE)

    row = await world.row(uri)
    assert row.state == "blocked"
    assert row.error == (
        f"{ALICE} has moved to {new.url}, where its session is not taken; "
        f"run `rescind login {ALICE}`"
    )
    async with world.publishing():
        await world.log_in(ALICE, new)
        await eventually(lambda: is_state(world, uri, "sent"))
    assert new.repos[ALICE] == {}
    assert new.commits[0].deleted == (f"{VERIFICATION}/key0",)


async def test_a_session_that_the_new_pds_takes_goes_on_there(world: World) -> None:
    uri, _ = await move(world, tokens_too=True)

    await world.publisher.publish_repo(ALICE)

    assert await state(world, uri) == "sent"
    assert world.pds.repos[ALICE] == {}


async def test_an_account_that_left_a_dead_pds_is_followed(world: World) -> None:
    uri, _ = await move(world, tokens_too=True)
    old = (await world.resolver.resolve(ALICE)).pds
    assert old is not None
    # What answers there now is nothing at all.
    with socket.create_server(("127.0.0.1", 0)) as free:
        dead = f"http://127.0.0.1:{free.getsockname()[1]}"
    document = world.plc.documents[ALICE]
    world.plc.documents[ALICE] = {
        **document,
        "service": [{**document["service"][0], "serviceEndpoint": dead}],
    }
    world.resolver.forget(ALICE)
    await world.resolver.resolve(ALICE)
    world.plc.documents[ALICE] = document

    await world.publisher.publish_repo(ALICE)

    assert await state(world, uri) == "sent"


async def test_a_did_that_is_not_resolved_is_tried_again(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    kept = world.plc.documents.pop(ALICE)
    world.resolver.forget(ALICE)

    await world.publisher.publish_repo(ALICE)
    row = await world.row(uri)
    assert row.state == "pending"
    assert "can't be resolved" in (row.error or "")

    world.plc.documents[ALICE] = kept
    world.resolver.forget(ALICE)
    world.clock.now = row.due_at / 1000 + 1
    await world.publisher.publish_repo(ALICE)
    assert await state(world, uri) == "sent"


# --- confirmed ---


async def test_what_the_firehose_shows_is_confirmed(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    await world.publisher.publish_repo(ALICE)

    await world.show_deletions()

    assert await state(world, uri) == "confirmed"
    assert world.pds.of(GET) == []


async def test_a_deletion_that_the_firehose_never_shows_is_checked_at_the_pds(
    world: World,
) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    await world.publisher.publish_repo(ALICE)
    async with world.publishing():
        await asyncio.sleep(0.1)
        assert (await state(world, uri), len(world.pds.of(GET))) == ("sent", 0)

        world.clock.now += CONFIRM_WITHIN
        await eventually(lambda: is_state(world, uri, "confirmed"))

    assert len(world.pds.of(GET)) == 1
    assert len(world.pds.of(DELETE)) == 1


async def test_a_deletion_that_the_check_finds_undone_is_done_again(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    await revoke_in_index(world, uri)
    await world.publisher.publish_repo(ALICE)
    await world.verification(ALICE, "key0", indexed=False)  # a restored backup

    world.clock.now += CONFIRM_WITHIN
    await world.publisher.publish_repo(ALICE)

    assert await state(world, uri) == "sent"
    assert world.pds.repos[ALICE] == {}


@pytest.mark.parametrize("by", ["deletion", "check"])
async def test_what_is_put_back_while_the_pds_says_that_it_is_gone_is_deleted_again(
    world: World, by: str
) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    await revoke_in_index(world, uri)

    async def put_back(pds: FakePds, call: Call, writer: asyncio.StreamWriter) -> None:
        status, body = pds.answer(call)
        await world.verification(ALICE, "key0")  # a restored backup, and the stream shows it
        pds.send(writer, status, body)
        await writer.drain()

    if by == "deletion":
        world.pds.fail(DELETE, drop)  # done, but the acknowledgement is lost
    await world.publisher.publish_repo(ALICE)
    assert world.pds.repos[ALICE] == {}
    world.pds.fail(GET, put_back)
    world.clock.now += CONFIRM_WITHIN

    await world.publisher.publish_repo(ALICE)

    assert world.pds.repos[ALICE] == {}
    assert await state(world, uri) == "sent"


async def test_a_new_version_at_that_uri_is_not_deleted_by_the_check(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    await revoke_in_index(world, uri)
    await world.publisher.publish_repo(ALICE)
    await world.verification(ALICE, "key0", indexed=False, name="Carol again")

    world.clock.now += CONFIRM_WITHIN
    await world.publisher.publish_repo(ALICE)

    assert await state(world, uri) == "confirmed"
    assert f"{VERIFICATION}/key0" in world.pds.repos[ALICE]


async def test_a_check_that_gets_no_answer_is_made_again(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    await world.publisher.publish_repo(ALICE)
    world.pds.fail(GET, says(503))
    world.clock.now += CONFIRM_WITHIN
    await world.publisher.publish_repo(ALICE)
    assert await state(world, uri) == "sent"

    world.clock.now += 10
    await world.publisher.publish_repo(ALICE)
    assert await state(world, uri) == "confirmed"


# --- nothing is lost ---


async def test_who_waits_may_leave_and_the_deletion_goes_on(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    gate = asyncio.Event()
    world.pds.fail(DELETE, waiting(gate))
    async with world.publishing():
        waiter = asyncio.create_task(world.publisher.publish([ALICE], 5.0))
        await eventually(lambda: is_busy(world))
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        gate.set()
        await eventually(lambda: is_state(world, uri, "sent"))
    assert len(world.pds.of(DELETE)) == 1


async def is_busy(world: World) -> bool:
    return world.pds.busy[DELETE] > 0


async def test_who_waits_too_long_is_told_so_and_the_deletion_goes_on(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    gate = asyncio.Event()
    world.pds.fail(DELETE, waiting(gate))
    async with world.publishing():
        await eventually(lambda: is_busy(world))
        await world.publisher.publish([ALICE], 0.05)
        assert await state(world, uri) == "pending"
        gate.set()
        await eventually(lambda: is_state(world, uri, "sent"))


async def test_a_call_that_comes_while_the_publisher_starts_is_published(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    # Another process writes, so the start takes a while.
    async with world.db.transaction(), world.publishing():
        await asyncio.sleep(0)
        await world.publisher.publish([ALICE], 0.05)
    assert await state(world, uri) == "pending"


async def test_an_acknowledgement_that_is_lost_does_no_harm(world: World) -> None:
    await world.account(ALICE)
    uris = await granted(world, ALICE, 3)
    world.pds.fail(APPLY, drop)

    await world.publisher.publish_repo(ALICE)
    assert {await state(world, uri) for uri in uris} == {"pending"}

    world.clock.now += 10
    await world.publisher.publish_repo(ALICE)
    assert {await state(world, uri) for uri in uris} == {"confirmed"}
    assert len(world.pds.commits) == 1


async def test_a_claim_falls_due_again_when_nobody_finishes_it(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    world.pds.fail(DELETE, hang)
    task = asyncio.create_task(world.publisher.publish_repo(ALICE))
    await eventually(lambda: is_busy(world))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await world.row(uri)).due_at == world.now + LEASE * 1000

    world.clock.now += LEASE
    await world.publisher.publish_repo(ALICE)
    assert await state(world, uri) == "sent"


def by_threads(world: World) -> None:
    """Have next to all statements given up, so that a thread is waited for at each."""
    for near in (world.db._near_reader, world.db._near_writer):
        near._connection.set_progress_handler(lambda: True, 10)


@pytest.mark.parametrize("trouble", ["", "expired", "missing", "check"])
@pytest.mark.parametrize("is_near", [True, False])
async def test_a_publisher_that_is_stopped_at_any_await_loses_nothing(
    world: World, trouble: str, is_near: bool
) -> None:
    """Also in the middle of what is written: where it is small, it has no await there."""
    if not is_near:
        by_threads(world)
    await world.account(ALICE)
    await world.account(BOB)
    for steps in itertools.count():
        for repo in (ALICE, BOB):
            world.pds.repos[repo].clear()
        keys = [f"run{steps}-{number}" for number in range(3)]
        uris = [await world.verification(ALICE, key) for key in keys]
        kept = await world.verification(BOB, "kept")
        await world.enqueue(*uris)
        if trouble == "expired":
            world.pds.expire()
        if trouble == "missing":
            del world.pds.repos[ALICE][f"{VERIFICATION}/{keys[1]}"]
        if trouble == "check":
            await world.publisher.publish_repo(ALICE)
            world.clock.now += CONFIRM_WITHIN
        task = asyncio.create_task(_async(stopped_at(steps, world.publisher.publish_repo(ALICE))))
        was_done = await task
        if trouble == "expired":  # the session is still good, whenever the stop came
            assert (await world.sessions.get(ALICE)).refresh in world.pds.refresh

        world.publisher = world.new_publisher()  # the daemon starts anew
        async with world.publishing():
            await eventually(functools.partial(all_done, world, uris))

        assert world.pds.repos[ALICE] == {}
        assert kept.removeprefix(f"at://{BOB}/") in world.pds.repos[BOB]
        if was_done:
            break
    assert steps > (5 if is_near else 20), steps


async def _async(work: Awaitable[bool]) -> bool:
    return await work


async def all_done(world: World, uris: list[str]) -> bool:
    rows = await outbox.load(world.db, uris)
    return all(rows[uri].state in ("sent", "confirmed") for uri in uris)


async def test_our_own_fault_ends_the_publisher(world: World) -> None:
    await world.account(ALICE)
    await granted(world, ALICE)
    async with world.db.transaction() as tx:
        await tx.execute("drop table tombstones")

    async with asyncio.timeout(5), world.publishing() as task:
        with pytest.raises(ExceptionGroup, match="unhandled errors"):
            await task


async def test_what_a_pds_says_can_not_steer_the_terminal(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    world.pds.fail(DELETE, says(400, "Bad\x1b[31m", "a\nb\x9bc" + "x" * 500))

    with capture_logs() as entries:
        await world.publisher.publish_repo(ALICE)

    error = (await world.row(uri)).error or ""
    assert error.isprintable()
    assert len(error) <= 300
    assert [entry["error"] for entry in entries if entry["event"] == "publish.failed"] == [error]
