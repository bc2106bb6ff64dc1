"""Descriptors, room on the disk, a reader without end: each is said, and none ends the daemon."""

import asyncio
import contextlib
import logging
import resource
import socket
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from indexer.cli import machine
from indexer.cli.machine import LEAST, RESERVE, Quietly, within_limit
from indexer.config.settings import ConfigError, Settings
from indexer.repos.resync import Resyncer
from indexer.store import audit, resyncs, wal
from indexer.store.db import Database
from tests.support.command import free_address, last_line, rescind_run
from tests.support.metrics_text import read
from tests.support.running_daemon import running
from tests.support.xrpc_world import ALICE, World, eventually, make_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made:
        await made.account(ALICE)
        yield made


def test_the_soft_limit_is_raised_to_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_024, 20_000))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: taken.append(limits))
    settings = Settings.load({})
    assert within_limit(settings) is settings
    assert taken == [(20_000, 20_000)]


@pytest.mark.parametrize("hard", [RESERVE + LEAST, RESERVE + 499])
def test_connections_that_do_not_fit_are_cut_loudly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], hard: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (hard, hard))
    assert within_limit(Settings.load({})).max_connections == hard - RESERVE
    assert "connections.cut" in capsys.readouterr().out


def test_a_limit_that_leaves_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    with pytest.raises(ConfigError, match="limit on open files is 256: at least 272 are needed"):
        within_limit(Settings.load({}))


async def test_clients_that_take_all_descriptors_neither_end_it_nor_flood_its_log(
    world: World,
) -> None:
    """As many connections as its limit allows, and many more that wait."""
    async with running(world) as daemon:
        number = len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir()))
        limit = number + 20  # fewer than it was started with: as if something else had taken them
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
        host, port = daemon.address.split(":")
        with contextlib.ExitStack() as taken:
            for _ in range(200):
                client = taken.enter_context(socket.socket())
                client.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    client.connect((host, int(port)))

            async def is_full() -> bool:
                print(
                    limit,
                    sorted(int(f.name) for f in Path(f"/proc/{daemon.process.pid}/fd").iterdir()),
                )
                return len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir())) >= limit

            await eventually(is_full, 10)
            await asyncio.sleep(2.5)  # asyncio tries again each second
            assert daemon.process.returncode is None

        async def answers() -> bool:
            async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
                try:
                    answer = await client.get(f"{daemon.url}/.well-known/did.json")
                except httpx.TransportError:
                    return False
            return answer.status_code == 200

        await eventually(answers, 15)
        assert await daemon.end(15) == 0
    told = [entry for entry in daemon.logged() if entry["event"] == "connections.not_taken"]
    assert len(told) == 1
    assert len(daemon.err) < 20_000


def test_another_error_of_the_loop_is_told_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    try:
        with caplog.at_level(logging.ERROR, "asyncio"):
            Quietly()(loop, {"message": "a bug", "exception": ValueError("x")})
    finally:
        loop.close()
    assert "a bug" in caplog.text


async def test_a_repo_for_which_there_is_no_descriptor_is_put_off(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(**_: Any) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", none_left)
    async with world.db.transaction() as tx:
        await resyncs.ask(tx, ALICE, world.now)
    resyncer = Resyncer(
        world.db, world.services.scope, world.resolver, world.client,
        relay_url="ws://127.0.0.1:1", relay="relay.test",
    )  # fmt: skip
    await resyncer.resync(ALICE)
    state = await resyncs.load(world.db, ALICE)
    assert state is not None
    assert state.error is not None
    assert "Too many open files" in state.error


# --- the disk ---


async def test_little_room_is_said_once_and_again_after_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = 0
    monkeypatch.setattr(machine, "free_bytes", lambda _: 5_000_000)

    async def look(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks > machine.SAY_AGAIN:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", look)
    with pytest.raises(asyncio.CancelledError):
        await machine.watch_disk([tmp_path / "rescind.db"])
    assert capsys.readouterr().out.count("disk.low") == 2


async def test_the_room_that_is_left_is_a_metric(world: World) -> None:
    async with running(world) as daemon, httpx.AsyncClient(trust_env=False) as client:
        found = read((await client.get(f"{daemon.url}/metrics")).text)
    free = found["rescind_disk_free_bytes"]
    assert {key[0] for key in free} == {"rescind.db", "rescind.db.journal"}
    assert all(value > 0 for value in free.values())
    assert found["rescind_wal_held_pages"] == {(): 0}


async def test_a_disk_that_takes_nothing_is_one_clear_line_at_the_start(world: World) -> None:
    """A file-size limit stands for it: every write beyond fails."""
    await world.db.close()
    size = world.settings.db.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (min(size, 4_096), before[1]))
    try:
        status, _, err = await rescind_run(world, BIND=free_address())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 1
    assert str(world.settings.db) in last_line(err)
    assert "can't be" in last_line(err)


async def test_a_reader_that_keeps_the_wal_from_being_folded_in_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wal, "FOLD_EVERY", 0.01)
    monkeypatch.setattr(wal, "HELD_PAGES", 10)
    async with await Database.open(tmp_path / "test.db") as db:
        folding = asyncio.create_task(db.keep_folding())
        with contextlib.closing(sqlite3.connect(db.path, isolation_level=None)) as reader:
            reader.execute("begin")
            reader.execute("select count(*) from audit").fetchall()
            for n in range(30):
                await db.write(lambda tx, n=n: audit.write(tx, "x", "y", ["z" * 3_000], None, n))

            async def is_held() -> bool:
                return db.unfolded >= 10

            await eventually(is_held)

        async def is_folded() -> bool:
            return db.unfolded == 0

        await eventually(is_folded)
        folding.cancel()
        await asyncio.gather(folding, return_exceptions=True)
    assert "wal.held" in capsys.readouterr().out
