"""One daemon a file, by whatever name; and none that goes on when its file is gone."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.command import free_address, last_line, rescind_run
from tests.support.running_daemon import running
from tests.support.xrpc_world import ALICE, World, eventually, make_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made:
        await made.account(ALICE)
        yield made


async def test_a_second_daemon_is_refused_by_whatever_name_it_comes(
    world: World, tmp_path: Path
) -> None:
    db = world.settings.db
    async with running(world):
        (tmp_path / "rescind.db.lock").unlink(missing_ok=True)
        (tmp_path / "link.db").symlink_to(db)
        (tmp_path / "hard.db").hardlink_to(db)
        (tmp_path / "other").symlink_to(tmp_path)
        for path in (db, tmp_path / "link.db", tmp_path / "hard.db", tmp_path / "other/rescind.db"):
            status, _, err = await rescind_run(world, "--db", str(path), BIND=free_address())
            assert status == 1
            assert f"another daemon is running on {path}" in last_line(err)


@pytest.mark.parametrize("replaced", [True, False])
async def test_nothing_is_acknowledged_once_the_file_is_gone_and_the_daemon_ends_loudly(
    world: World, replaced: bool
) -> None:
    uri = await world.verification(ALICE)
    db = world.settings.db
    async with running(world) as daemon:
        db.rename(db.with_name("moved.db"))
        if replaced:
            db.write_bytes(db.with_name("moved.db").read_bytes())
        answer = await daemon.call(uri)
        assert answer.status_code == 500
        assert await daemon.end() == 1
    what = "replaced by another file" if replaced else "removed"
    assert f"{db} was {what} while it was in use" in last_line(daemon.err.decode())


async def test_without_a_call_it_ends_all_the_same(world: World) -> None:
    async with running(world) as daemon:
        world.settings.db.rename(world.settings.db.with_name("moved.db"))
        assert await daemon.end(within=5) == 1


async def test_what_others_could_read_is_taken_from_them_and_said(world: World) -> None:
    db = world.settings.db
    db.chmod(0o644)
    async with running(world) as daemon:

        async def is_closed() -> bool:
            return db.stat().st_mode & 0o777 == 0o600

        await eventually(is_closed)
        assert await daemon.end(15) == 0
    assert "file.mode_changed" in {json.loads(line)["event"] for line in daemon.err.splitlines()}
