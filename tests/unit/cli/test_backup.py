"""A copy, and the way back from one: nothing acknowledged is lost, and a test writes nothing."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from indexer.journal.writer import Journal
from indexer.store import invites, pause, sessions, tombstones
from indexer.store.db import Database
from tests.support.command import KEY, last_line, rescind
from tests.support.fake_pds import APPLY, DELETE, REFRESH
from tests.support.frames import hash_of
from tests.support.running_daemon import running
from tests.support.xrpc_world import (
    ALICE,
    BOB,
    REVOKE_INVITE,
    World,
    eventually,
    make_world,
)

OTHER_KEY = "ab" * 32


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with (
        make_world(tmp_path) as made,
        Journal.open(made.settings.journal_file, 90, made.clock) as journal,
    ):
        made.services = replace(made.services, journal=journal)
        await made.account(ALICE)
        yield made


async def restored(world: World, copy: Path, *more: str, **given: str) -> tuple[int, str, str]:
    """Restore a copy, beside whatever index there is; the world's own file is moved away by it."""
    return await rescind(world, "restore", str(copy), *more, **given)


async def test_a_copy_is_whole_while_others_write_and_is_for_its_owner_alone(
    world: World, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.db"
    writing = True

    async def write() -> None:
        number = 0
        while writing:
            number += 1
            await world.verification(ALICE, f"r{number}")

    task = asyncio.create_task(write())
    await asyncio.sleep(0)
    status, out, _ = await rescind(world, "backup", str(copy))
    writing = False
    await task
    assert (status, f"to {copy}" in out) == (0, True)
    assert copy.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(copy)) as found:
        assert found.execute("pragma integrity_check").fetchall() == [("ok",)]
    assert {file.name for file in tmp_path.glob("copy.db*")} == {"copy.db"}
    status, _, err = await rescind(world, "backup", str(copy))
    assert (status, "is there already" in err) == (1, True)


async def test_the_key_is_copied_only_if_it_is_asked_for(world: World, tmp_path: Path) -> None:
    for name, more in (("a.db", ()), ("b.db", ("--with-key",))):
        assert (await rescind(world, "backup", str(tmp_path / name), *more))[0] == 0
    assert not (tmp_path / "a.db.key").exists()
    key = tmp_path / "b.db.key"
    assert (key.read_text().strip(), key.stat().st_mode & 0o777) == (KEY, 0o600)


async def test_what_was_acknowledged_since_the_copy_is_revoked_again(
    world: World, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.db"
    space = await world.space(ALICE)
    await world.invite(space, hash_of("token"))
    uri = await world.verification(ALICE)
    assert (await rescind(world, "backup", str(copy)))[0] == 0
    body = {"spaceUri": space, "tokenHash": hash_of("token")}
    async with world.serving():
        assert (await world.call(ALICE, REVOKE_INVITE, body)).status_code == 200
        await world.revoke(ALICE, uri, reason="an impostor")
    await world.db.close()
    status, out, _ = await restored(world, copy)
    assert status == 0
    assert "The journal has 2 revocations; 2 of them were not in the copy" in out
    assert f"{world.settings.db}.before-restore" in out
    async with await Database.open(world.settings.db) as db:
        [stone] = await tombstones.load(db, [uri])
        assert (stone.actor, stone.reason, stone.created_at) == (ALICE, "an impostor", world.now)
        assert all(row.revoked for row in await invites.with_token(db, space, hash_of("token")))
        assert await tombstones.is_token_revoked(db, space, hash_of("token"))
        assert await pause.load(db) is not None
        assert await sessions.listing(db) == []
        rows = await db.all("select sync, whole_rev from repos")
        assert all((row["sync"], row["whole_rev"]) != ("synchronized", None) for row in rows)
    async with await Database.open(Path(f"{world.settings.db}.before-restore")) as before:
        assert len(await sessions.listing(before)) == 1


async def test_without_a_journal_it_says_what_is_not_known(world: World, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    assert (await rescind(world, "backup", str(copy)))[0] == 0
    await world.db.close()
    for given, text in (({"JOURNAL": "off"}, "is off"), ({"JOURNAL": "none"}, "there is none at")):
        status, _, err = await restored(world, copy, **given)
        assert (status, "No journal was played" in err, text in err) == (0, True, True)


async def test_it_refuses_beside_a_daemon_and_changes_nothing(world: World, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    assert (await rescind(world, "backup", str(copy)))[0] == 0
    async with running(world):
        status, _, err = await restored(world, copy)
    assert (status, "another daemon is running" in err) == (1, True)
    assert not list(tmp_path.glob("*restor*"))


async def test_a_stale_wal_is_not_mixed_with_the_copy(world: World, tmp_path: Path) -> None:
    """As after a kill -9: today a copy that is put there by hand is malformed with it."""
    copy, db = tmp_path / "copy.db", world.settings.db
    await world.verification(ALICE, "before")
    assert (await rescind(world, "backup", str(copy)))[0] == 0
    for number in range(300):
        await world.verification(ALICE, f"r{number}")
    killed = {suffix: Path(f"{db}{suffix}").read_bytes() for suffix in ("", "-wal")}
    await world.db.close()
    for suffix, content in killed.items():
        Path(f"{db}{suffix}").write_bytes(content)
    assert (await restored(world, copy))[0] == 0
    assert {file.name for file in tmp_path.glob("rescind.db*")} >= {"rescind.db"}
    assert not Path(f"{db}-wal").exists()
    with closing(sqlite3.connect(db)) as found:
        assert found.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert found.execute("select count(*) from verifications").fetchone() == (1,)
    with closing(sqlite3.connect(f"{db}.before-restore")) as kept:
        assert kept.execute("select count(*) from verifications").fetchone() == (301,)


@pytest.mark.parametrize("damage", ["torn", "bent", "text", "strange"])
async def test_a_copy_that_is_damaged_or_none_is_refused_and_nothing_is_changed(
    world: World, tmp_path: Path, damage: str
) -> None:
    copy, db = tmp_path / "copy.db", world.settings.db
    for number in range(50):
        await world.verification(ALICE, f"r{number}")
    assert (await rescind(world, "backup", str(copy)))[0] == 0
    content = copy.read_bytes()
    match damage:
        case "torn":
            copy.write_bytes(content[: len(content) // 2 // 4096 * 4096])
        case "bent":
            copy.write_bytes(content[:40_000] + b"\xff" * 40_000 + content[80_000:])
        case "text":
            copy.write_text("not a database" * 1000)
        case "strange":
            copy.unlink()
            with closing(sqlite3.connect(copy)) as other:
                other.execute("create table t (a)")
    await world.db.close()
    before = db.read_bytes()
    status, _, err = await restored(world, copy)
    assert (status, str(copy) in last_line(err)) == (1, True)
    assert db.read_bytes() == before
    assert not list(tmp_path.glob("*restor*"))


async def test_a_damaged_journal_is_refused_unless_it_is_accepted(
    world: World, tmp_path: Path
) -> None:
    copy, journal = tmp_path / "copy.db", world.settings.journal_file
    assert journal is not None
    assert (await rescind(world, "backup", str(copy)))[0] == 0
    uris = [await world.verification(ALICE, name) for name in ("one", "two", "three")]
    async with world.serving():
        for uri in uris:
            await world.revoke(ALICE, uri)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(
        b"".join([lines[0], lines[1].replace(b"three", b"two"), b"bent\n", lines[2]])
    )
    await world.db.close()
    status, _, err = await restored(world, copy)
    assert (status, f"{journal} is damaged in line" in last_line(err)) == (1, True)
    status, out, _ = await restored(world, copy, "--accept-damage")
    assert (status, "3 revocations" in out) == (0, True)


async def test_sessions_are_kept_if_wanted_but_not_with_another_key(
    world: World, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.db"
    assert (await rescind(world, "backup", str(copy)))[0] == 0
    sealed = (await sessions.listing(world.db))[0].sealed
    await world.db.close()
    status, _, err = await restored(world, copy, "--with-sessions", SECRET_KEY=OTHER_KEY)
    assert (status, "1 of 1 stored sessions" in err) == (1, True)
    assert (await restored(world, copy, "--with-sessions"))[0] == 0
    async with await Database.open(world.settings.db) as db:
        assert [session.did for session in await sessions.listing(db)] == [ALICE]
    assert (await restored(world, copy))[0] == 0
    assert sealed not in world.settings.db.read_bytes()  # nor in what is free there


async def test_a_restored_copy_writes_nothing_until_it_is_told_to(
    world: World, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.db"
    await world.account(BOB)
    uri = await world.verification(ALICE)
    assert (await rescind(world, "backup", str(copy)))[0] == 0
    await world.db.close()
    assert (await restored(world, copy, "--with-sessions"))[0] == 0
    async with running(world) as daemon:
        answer = (await daemon.call(uri)).json()
        assert answer["revokedVerifications"] == []
        assert "publishing is paused" in answer["failedRevocations"][0]["error"]
        found = json.loads((await rescind(world, "status", "--json"))[1])
        assert found["outbox"]["pending"] == 1
        assert "restored from a copy" in found["publishing_paused"]
        assert "rescind outbox resume" in (await rescind(world, "status"))[1]
        calls = [call.nsid for call in world.pds.calls]
        assert not {APPLY, DELETE, REFRESH} & set(calls)
        status, out, _ = await rescind(world, "outbox", "resume")
        assert (status, out) == (0, "Publishing goes on: 1 deletions wait.\n")

        async def is_gone() -> bool:
            return len(world.pds.of(DELETE)) == 1

        await eventually(is_gone, 15)
    status, _, err = await rescind(world, "outbox", "resume")
    assert (status, "was not paused" in err) == (1, True)


async def test_a_pause_holds_up_what_an_operator_wants_held_up(world: World) -> None:
    assert (await rescind(world, "outbox", "pause", "--reason", "moving house"))[0] == 0
    found = json.loads((await rescind(world, "status", "--json"))[1])
    assert found["publishing_paused"] == "moving house"
