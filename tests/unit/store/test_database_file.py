"""The file is made once, opened whole, and refused if it is none of ours."""

import asyncio
import os
import resource
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

from indexer.store import cursors, migrations, wal
from indexer.store.cursors import Cursor
from indexer.store.db import Database, DatabaseError, Transaction
from tests.support.store_file import NOW, RELAY, db, version_of

__all__ = ["db"]  # fixtures


async def test_a_file_is_made_once_and_keeps_what_is_in_it(tmp_path: Path) -> None:
    for seq in (None, 7):
        async with await Database.open(tmp_path / "test.db") as db:
            cursor = await cursors.load(db, RELAY)
            assert cursor == (Cursor(seq, None, NOW) if seq else None)
            async with db.transaction() as tx:
                await cursors.save(tx, RELAY, Cursor(7, None, NOW))


async def test_one_file_can_be_open_twice(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    async with await Database.open(path) as one, await Database.open(path) as two:
        async with one.transaction() as tx:
            await cursors.save(tx, RELAY, Cursor(7, None))
        assert await cursors.load(two, RELAY) == Cursor(7, None)


async def test_two_that_open_a_new_file_at_once_make_one_schema(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    opened = await asyncio.gather(*(Database.open(path) for _ in range(4)))
    for one in opened:
        assert await cursors.load(one, RELAY) is None
        await one.close()


async def is_safe(tx: Transaction) -> None:
    for pragma, value in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
        row = await tx.one(f"pragma {pragma}")
        assert row is not None
        assert row[0] == value


async def test_every_commit_is_on_the_disk_and_references_hold(db: Database) -> None:
    async with db.transaction() as tx:
        await is_safe(tx)
    await db.write(is_safe)
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        async with db.transaction() as tx:
            await tx.execute(
                "insert into spaces (uri, did, cid, rev, created_at) values ('u', 'd', 'c', 'r', 0)"
            )


async def test_a_file_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    await (await Database.open(path)).close()
    with sqlite3.connect(path) as raw:
        raw.execute(f"pragma user_version = {migrations.SCHEMA_VERSION + 1}")
    raw.close()
    with pytest.raises(DatabaseError, match="made by a newer version of Rescind"):
        await Database.open(path)
    assert version_of(path) == migrations.SCHEMA_VERSION + 1


@pytest.mark.parametrize("version", [0, 1, 7])
async def test_a_file_of_another_program_is_refused_and_left_alone(
    tmp_path: Path, version: int
) -> None:
    path = tmp_path / "photos.db"
    raw = sqlite3.connect(path)
    raw.execute("create table photos (id integer)")
    raw.execute(f"pragma user_version = {version}")
    raw.commit()
    raw.close()
    before = path.read_bytes()
    with pytest.raises(DatabaseError, match="not one of Rescind"):
        await Database.open(path)
    assert path.read_bytes() == before


async def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary, " * 1_000)
    with pytest.raises(DatabaseError, match="can't be opened: file is not a database"):
        await Database.open(path)
    assert path.read_text().startswith("dear diary")


async def test_a_directory_that_is_missing_or_a_directory_is_told_plainly(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere" / "test.db", tmp_path):
        with pytest.raises(DatabaseError, match="can't be opened"):
            await Database.open(path)


async def test_one_that_can_not_be_opened_whole_is_closed_whole(tmp_path: Path) -> None:
    """The system may have no more descriptors at any of the files and connections."""
    path = tmp_path / "test.db"
    await (await Database.open(path)).close()
    threads = set(threading.enumerate())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first = os.dup(0)  # the lowest that is free
    os.close(first)
    failed = 0
    while True:
        resource.setrlimit(resource.RLIMIT_NOFILE, (first + failed, hard))
        try:
            opened = await Database.open(path)
        except DatabaseError as error:
            assert "can't be opened" in str(error)  # noqa: PT017 (the last attempt succeeds)
            failed += 1
        else:
            break
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for thread in set(threading.enumerate()) - threads:
            thread.join(5)
        assert set(threading.enumerate()) <= threads
        again = os.dup(0)
        os.close(again)
        assert again == first
    await opened.close()
    assert failed > 6


async def test_a_file_is_not_made_where_one_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    with pytest.raises(DatabaseError, match="There is no database"):
        await Database.open(path, create=False)
    assert not path.exists()
    await (await Database.open(path)).close()
    await (await Database.open(path, create=False)).close()


async def test_what_is_written_is_folded_into_the_file_beside_readers_and_a_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "FOLD_EVERY", 0.01)
    path, copy = tmp_path / "test.db", tmp_path / "copy.db"

    async def folded() -> int | None:
        """Return what is in the file alone, without its WAL."""
        shutil.copy(path, copy)
        async with await Database.open(copy) as alone:
            cursor = await cursors.load(alone, RELAY)
        return cursor.seq if cursor else None

    async with await Database.open(path) as db:
        folding = asyncio.create_task(db.keep_folding())
        for seq in (7, 8):
            async with db.transaction() as tx:
                await cursors.save(tx, RELAY, Cursor(seq, None))
            async with db.transaction() as tx:
                await cursors.save(tx, RELAY, Cursor(9, None))
                async with asyncio.timeout(10):
                    while await folded() != seq:
                        assert not folding.done()
                        await asyncio.sleep(0.01)
                await cursors.save(tx, RELAY, Cursor(seq, None))
        folding.cancel()
        await asyncio.gather(folding, return_exceptions=True)
