"""A PDS that fails is asked later and later, and holds up nobody else."""

import asyncio
import contextlib
import sqlite3

import pytest

from indexer.store import outbox
from tests.support.fake_pds import APPLY, DELETE, GET, Fault, hang, raw, says
from tests.support.publishing import granted, is_state, state, world
from tests.support.xrpc_world import ALICE, BOB, VERIFICATION, World, did, eventually
from xrpc.publishing import pds as pds_module

__all__ = ["world"]  # fixtures


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
