"""A caller who leaves, a stop at any await, a lost answer: no deletion is lost."""

import asyncio
import functools
import itertools
from collections.abc import Awaitable

import pytest
from structlog.testing import capture_logs

from indexer.store import outbox
from tests.support.fake_pds import APPLY, DELETE, drop, hang, says, waiting
from tests.support.publishing import granted, is_busy, is_state, state, world
from tests.support.stopping import stopped_at
from tests.support.xrpc_world import ALICE, BOB, VERIFICATION, World, eventually
from xrpc.publishing.publisher import CONFIRM_WITHIN, LEASE

__all__ = ["world"]  # fixtures


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
