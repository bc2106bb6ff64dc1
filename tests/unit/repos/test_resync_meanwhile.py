"""What happens while a repo is fetched is not lost, nor is anything by a kill."""

import asyncio
from contextlib import suppress

import pytest

from indexer.repos import resync
from indexer.rules.projection import Desynchronize
from indexer.store import resyncs
from indexer.stream.events import Account, Rejected
from tests.support.alices_records import CHECK, GARDEN, GARDEN_URI, ONE
from tests.support.frames import ALICE, NOW, TIME, invite, space
from tests.support.repo_host import GET_REPO, Net, files_beside, once_open, refused
from tests.support.resyncing import alice_in, is_indexed, net
from tests.support.waiting import until

__all__ = ["net"]  # fixtures

YEAR = 365 * 86_400  # seconds


async def fetching(net: Net) -> tuple[asyncio.Task[None], asyncio.Event]:
    """Return a resync whose host has answered, but whose answer is still on its way."""
    gate = asyncio.Event()
    net.pds.faults[GET_REPO].append(once_open(gate))
    before = net.pds.calls[GET_REPO]
    task = asyncio.create_task(net.resyncer.resync(ALICE))
    async with asyncio.timeout(5):
        while net.pds.calls[GET_REPO] == before:
            await asyncio.sleep(0.01)
    return task, gate


async def test_events_that_come_during_the_fetch_are_kept_and_the_repo_is_whole_after_it(
    net: Net,
) -> None:
    owner = await alice_in(net)
    task, gate = await fetching(net)
    assert len(files_beside(net.index)) == 1  # where there is room
    await net.index.apply(owner.wrote({CHECK: None}))
    await net.index.apply(owner.wrote({ONE: invite(GARDEN_URI, "new")}))
    gate.set()
    await task
    assert await net.sync_of(ALICE) == "synchronized"
    assert await net.index.rows("verifications") == []
    assert (await net.repo(ALICE))["whole_rev"] == owner.rev


@pytest.mark.parametrize("blind", ["rejected", "missed"])
async def test_what_is_missed_during_the_fetch_is_not_taken_for_seen(net: Net, blind: str) -> None:
    owner = await alice_in(net)
    task, gate = await fetching(net)
    lost = owner.wrote({CHECK: None})
    if blind == "rejected":
        await net.index.apply(Rejected(50, TIME, "bad_block", ALICE, lost.rev))
    else:
        await net.index.apply(Desynchronize())
    gate.set()
    await task

    assert await resyncs.due(net.index.db, NOW, 10) == [ALICE]
    await net.resyncer.resync(ALICE)
    assert await net.sync_of(ALICE) == "synchronized"
    assert await net.index.rows("verifications") == []


async def test_a_copy_that_comes_after_the_accounts_deletion_brings_nothing_back(
    net: Net,
) -> None:
    await alice_in(net)
    task, gate = await fetching(net)
    await net.index.apply(Account(9, TIME, ALICE, active=False, status="deleted"))
    gate.set()
    await task
    assert (await net.repo(ALICE))["hosting"] == "deleted"
    assert await net.index.rows("spaces") == []


async def test_killed_at_any_moment_it_begins_anew_and_loses_nothing(net: Net) -> None:
    owner = await alice_in(net)
    await net.index.apply(owner.wrote({GARDEN: space(name="Yard")}))
    for turns in [*range(60), *range(60, 600, 20)]:
        net.restart()
        task = asyncio.create_task(net.resyncer.resync(ALICE))
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.done():
            break
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await until(lambda: _no_files(net))
        if await is_indexed(net):
            break
        assert await net.sync_of(ALICE) != "synchronized"
        assert len(await net.index.rows("spaces")) == 1

    net.restart()
    running = asyncio.create_task(net.resyncer.run())
    await until(lambda: is_indexed(net))
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert (await net.repo(ALICE))["rev"] == owner.rev


async def _no_files(net: Net) -> bool:
    return files_beside(net.index) == []


async def test_what_a_killed_daemon_had_taken_up_is_fetched_at_once(net: Net) -> None:
    await alice_in(net)
    async with net.index.db.transaction() as tx:
        await resyncs.claim(tx, [ALICE], NOW + 1_800_000)
    running = asyncio.create_task(net.resyncer.run())
    await until(lambda: is_indexed(net))
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_what_was_put_off_is_fetched_although_the_clock_is_set_back_by_a_year(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resync, "POLL", 0.02)
    await alice_in(net)
    net.clock.now += YEAR
    net.pds.always[GET_REPO] = refused(503)
    running = asyncio.create_task(net.resyncer.run())
    try:
        await until(lambda: _has_failed(net))
        net.pds.always.clear()
        net.clock.now -= YEAR
        await until(lambda: is_indexed(net))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _has_failed(net: Net) -> bool:
    return (await net.repo(ALICE))["resync_error"] is not None


async def test_what_a_killed_daemon_left_on_the_disk_is_removed(net: Net) -> None:
    beside = net.index.db.path.parent
    left, other = beside / f"{net.index.db.path.name}-resync-abc", beside / "other-resync-abc"
    left.write_bytes(b"x")
    other.write_bytes(b"x")
    running = asyncio.create_task(net.resyncer.run())
    await asyncio.sleep(0.1)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert files_beside(net.index) == [other]
