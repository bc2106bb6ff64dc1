"""Writes that come at once share one wait for the disk, and nothing else."""

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from indexer.lock import ReplacedError, daemon_lock, is_running
from indexer.store import audit
from indexer.store.db import Database, DatabaseError, Transaction
from indexer.store.near import MAX_STEPS, Near


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with await Database.open(tmp_path / "test.db") as opened:
        yield opened


async def note(tx: Transaction, subject: str, times: int = 1) -> str:
    await audit.write(tx, "operator", "test", [subject] * times, None, 1)
    return subject


async def count(db: Database, subject: str) -> int:
    return len(await audit.of_subject(db, subject))


async def test_a_hundred_callers_share_a_few_waits_for_the_disk(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = 0
    commit = Near.commit

    async def counted(near: Near) -> None:
        nonlocal commits
        commits += 1
        await commit(near)

    monkeypatch.setattr(Near, "commit", counted)
    answers = await asyncio.gather(
        *(db.write(lambda tx, n=n: note(tx, str(n))) for n in range(100))
    )
    assert answers == [str(n) for n in range(100)]
    assert [await count(db, str(n)) for n in range(100)] == [1] * 100
    assert commits <= 3


async def test_one_that_fails_fails_alone(db: Database) -> None:
    async def refused(tx: Transaction) -> None:
        await note(tx, "refused")
        raise LookupError("no such invite")

    async def wrong(tx: Transaction) -> None:
        await note(tx, "wrong")
        await tx.execute("insert into audit (id) values (1)")

    async def large(tx: Transaction) -> str:
        return await note(tx, "large", MAX_STEPS)

    found = await asyncio.gather(
        db.write(lambda tx: note(tx, "a")),
        db.write(refused),
        db.write(lambda tx: note(tx, "b")),
        db.write(large),
        db.write(wrong),
        db.write(lambda tx: note(tx, "c")),
        return_exceptions=True,
    )
    assert [found[0], found[2], found[3], found[5]] == ["a", "b", "large", "c"]
    assert isinstance(found[1], LookupError)
    assert isinstance(found[4], sqlite3.IntegrityError)
    counts = {subject: await count(db, subject) for subject in ("a", "b", "c", "refused", "wrong")}
    assert counts == {"a": 1, "b": 1, "c": 1, "refused": 0, "wrong": 0}
    assert await count(db, "large") == MAX_STEPS


async def test_those_of_a_group_that_are_cancelled_do_not_take_the_others_with_them(
    db: Database,
) -> None:
    writing = [asyncio.ensure_future(db.write(lambda tx, n=n: note(tx, str(n)))) for n in range(20)]
    for turn in range(10):
        await asyncio.sleep(0)
        writing[turn * 2].cancel()
    found = await asyncio.gather(*writing, return_exceptions=True)
    assert found[1::2] == [str(n) for n in range(1, 20, 2)]
    assert [await count(db, str(n)) for n in range(1, 20, 2)] == [1] * 10
    assert await db.write(lambda tx: note(tx, "after")) == "after"


# --- the file under a database that is open ---


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("replaced", [True, False])
async def test_no_write_is_acknowledged_once_a_file_is_not_the_one_that_was_opened(
    db: Database, suffix: str, replaced: bool
) -> None:
    file = Path(f"{db.path}{suffix}")
    watching = asyncio.ensure_future(db.keep_watch())
    await db.write(lambda tx: note(tx, "before"))
    assert not watching.done()
    file.rename(file.with_name("moved"))
    if replaced:
        file.write_bytes(file.with_name("moved").read_bytes())
    with pytest.raises(ReplacedError, match=f"test.db{suffix} was re"):
        await db.write(lambda tx: note(tx, "small"))
    with pytest.raises(ReplacedError):
        async with db.transaction() as tx:
            await note(tx, "large")
    with pytest.raises(ReplacedError):  # at once: the write has told it
        async with asyncio.timeout(0.5):
            await watching


async def test_a_full_disk_is_said_in_words(db: Database) -> None:
    row = await db.one("pragma page_count")
    assert row is not None
    for connection in (db._writer, db._near_writer._connection):
        limited = connection.execute(f"pragma max_page_count = {row[0] + 1}")
        if asyncio.iscoroutine(limited) or hasattr(limited, "__await__"):
            await limited
    text = "x" * 100_000

    async def by_thread() -> None:
        async with db.transaction() as tx:
            await note(tx, text)

    for write in (lambda: db.write(lambda tx: note(tx, text)), by_thread):
        with pytest.raises(DatabaseError, match=r"test.db can't be written: .*full"):
            await write()
    assert await count(db, text) == 0


async def test_who_looks_for_a_daemon_keeps_the_locks_that_sqlite_has(db: Database) -> None:
    """A closed descriptor of the file would drop them, and let another process take the WAL."""
    for _ in range(3):
        assert not is_running(db.path)
    with daemon_lock(db.path):
        assert is_running(db.path)
    await db.write(lambda tx: note(tx, "a"))
    script = f"""
import sqlite3
db = sqlite3.connect({str(db.path)!r}, timeout=0, isolation_level=None)
db.execute("pragma locking_mode = exclusive")
db.execute("begin exclusive")
"""
    found = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "database is locked" in found.stderr
    await db.write(lambda tx: note(tx, "b"))


async def test_all_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    async with await Database.open(tmp_path / "new.db") as db:
        await db.write(lambda tx: note(tx, "a"))
        modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.glob("new.db*")}
    assert modes == dict.fromkeys(("new.db", "new.db-wal", "new.db-shm"), 0o600)


# --- a file that can only be read ---


async def test_an_index_that_nobody_has_open_is_read_where_nothing_can_be_written(
    tmp_path: Path,
) -> None:
    path = tmp_path / "test.db"
    async with await Database.open(path) as db:
        await db.write(lambda tx: note(tx, "a"))
    # So that SQLite can make no index of the WAL beside it.
    (tmp_path / "test.db-shm").symlink_to(tmp_path / "nowhere" / "at all")
    with pytest.raises(DatabaseError, match="can't be opened"):
        await Database.open(path)
    async with Database.look(path) as seen:
        assert len(await audit.of_subject(seen, "a")) == 1


async def test_beside_a_daemon_what_it_has_written_last_is_read_too(db: Database) -> None:
    await db.write(lambda tx: note(tx, "a"))
    async with Database.look(db.path) as seen:
        assert len(await audit.of_subject(seen, "a")) == 1
        with contextlib.closing(sqlite3.connect(db.path)):
            pass
