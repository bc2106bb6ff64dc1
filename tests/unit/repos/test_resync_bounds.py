"""Many repos, dead hosts and large copies take a bounded part of time and memory."""

import asyncio
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from indexer.proof import repo as repo_module
from indexer.repos import resync
from indexer.repos.reader import WHOLE_AT_ONCE
from tests.support.alices_records import CHECK
from tests.support.frames import ALICE, SPACE, verification
from tests.support.http_host import http
from tests.support.repo_host import GET_REPO, LATEST, Net, hanging
from tests.support.resyncing import RECORDS, alice_in, hasty, is_indexed, net
from tests.support.streamed_repo import Owner
from tests.support.waiting import until

__all__ = ["hasty", "net"]  # fixtures

# --- many ---


def did_of(number: int) -> str:
    return "did:plc:" + "".join("abcdefghijklmnop"[number >> 4 * n & 15] for n in range(24))


async def settle(net: Net, condition: Callable[[], Any], within: float = 15.0) -> None:
    running = asyncio.create_task(net.resyncer.run())
    try:
        await until(condition, within)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_a_dead_host_with_fifty_repos_does_not_hold_up_another(
    hasty: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resync, "POLL", 0.05)
    dead = await hasty.add_host()
    dead.always[GET_REPO] = dead.always[LATEST] = hanging
    for number in range(50):
        hasty.house(Owner(did_of(number)), dead)
    await hasty.track(*map(did_of, range(50)))
    owner = await alice_in(hasty)
    assert owner.rev

    started = time.monotonic()
    await settle(hasty, lambda: is_indexed(hasty))

    assert time.monotonic() - started < 3
    assert dead.calls[GET_REPO] <= 4


async def test_few_repos_are_fetched_at_once_and_fewer_of_one_host(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resync, "POLL", 0.05)
    hosts = [net.pds, *[await net.add_host() for _ in range(4)]]
    busiest = 0

    async def slow(host: Any, did: str, writer: asyncio.StreamWriter) -> None:
        nonlocal busiest
        busiest = max(busiest, sum(each.busy for each in hosts))
        await asyncio.sleep(0.02)
        writer.write(http(host.owners[did].car()))

    dids = [did_of(number) for number in range(40)]
    for number, did in enumerate(dids):
        net.house(Owner(did), hosts[number % 5]).wrote({CHECK: verification()})
        hosts[number % 5].always[GET_REPO] = slow
    await net.track(*dids)

    async def are_whole() -> bool:
        return len(await net.index.rows("repos", sync="synchronized")) == len(dids)

    await settle(net, are_whole)

    assert busiest == WHOLE_AT_ONCE
    assert max(host.busiest for host in hosts) <= 2


async def test_however_many_are_due_few_are_taken_up(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resync, "POLL", 0.01)
    monkeypatch.setattr(resync, "MAX_TAKEN", 20)
    net.pds.always[GET_REPO] = hanging
    dids = [did_of(number) for number in range(300)]
    for did in dids:
        net.house(Owner(did))
    await net.track(*dids)
    tasks = len(asyncio.all_tasks())
    running = asyncio.create_task(net.resyncer.run())
    await asyncio.sleep(0.5)
    assert len(asyncio.all_tasks()) - tasks < 40
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    claimed = await net.index.db.all("select 1 from repos where resync_due_at > 0")
    assert len(claimed) <= 20


# --- memory ---


def large_car(owner: Owner, megabytes: int) -> bytes:
    """Return the CAR of a repo with three records of ours among large posts."""
    posts = {
        f"app.bsky.feed.post/{n:05}": {"x": "x" * 500, "n": n} for n in range(megabytes * 1500)
    }
    owner.fill(posts | RECORDS)
    return owner.car()


async def test_a_large_repo_takes_little_memory(net: Net) -> None:
    owner = net.house(Owner())
    answer = http(large_car(owner, 20))
    assert len(answer) > 18_000_000

    async def serve(_host: object, _did: str, writer: asyncio.StreamWriter) -> None:
        for first in range(0, len(answer), 65_536):  # lest the buffers are counted as ours
            writer.write(answer[first : first + 65_536])
            await writer.drain()

    net.pds.always[GET_REPO] = serve
    await net.track(ALICE)
    await net.resolver.resolve(ALICE)
    tracemalloc.start()
    try:
        await net.resyncer.resync(ALICE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert await is_indexed(net)
    assert peak < 5_000_000


async def test_what_a_repo_has_of_ours_is_limited_in_number_and_size(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = await alice_in(net)
    for name, limit in (("MAX_RECORDS", 2), ("MAX_HELD", 300)):
        with monkeypatch.context() as patch:
            patch.setattr(repo_module, name, limit)
            await net.resyncer.resync(ALICE)
            assert "more than" in (await net.repo(ALICE))["resync_error"]
    with monkeypatch.context() as patch:
        patch.setattr(repo_module, "MAX_BLOCKS", len(owner.records))
        await net.resyncer.resync(ALICE)
        assert "more than" in (await net.repo(ALICE))["resync_error"]
    await net.resyncer.resync(ALICE)
    assert await is_indexed(net)


async def test_a_record_that_is_too_large_to_be_read_is_not_held(net: Net) -> None:
    owner = net.house(Owner())
    owner.fill({f"{SPACE}/{n}": {"x": "x" * 1_030_000, "n": n} for n in range(10)} | RECORDS)
    await net.track(ALICE)
    data = http(owner.car())

    async def serve(_host: object, _did: str, writer: asyncio.StreamWriter) -> None:
        for first in range(0, len(data), 65_536):
            writer.write(data[first : first + 65_536])
            await writer.drain()

    net.pds.always[GET_REPO] = serve
    tracemalloc.start()
    try:
        await net.resyncer.resync(ALICE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert await is_indexed(net)
    assert peak < 5_000_000
