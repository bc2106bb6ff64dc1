"""What is small is done on the event loop, the rest by a thread: the result is the same."""

import asyncio
import contextlib
import sqlite3
import sys
import threading
import time
from pathlib import Path

import pytest

from indexer.store import audit, connections, near
from indexer.store.db import Database, DatabaseError, Transaction
from tests.support.store_file import db

__all__ = ["db"]  # fixtures

COUNT = """
    with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < :last)
    select sum(n) as total from numbers
"""
MANY = near.MAX_STEPS  # rows: each takes some steps


async def note(tx: Transaction, *subjects: str) -> None:
    await audit.write(tx, "operator", "test", subjects, None, 1)


async def count(db: Database, subject: str = "a") -> int:
    return len(await audit.of_subject(db, subject))


async def turns(done: asyncio.Future[object]) -> int:
    """Return how often others had the event loop until this was done."""
    number = 0
    while not done.done():
        await asyncio.sleep(0)
        number += 1
    return number


async def test_a_query_of_many_steps_is_answered_whole_each_time(db: Database) -> None:
    for last in (10, MANY, 10, MANY):
        row = await db.one(COUNT, {"last": last})
        assert row is not None
        assert row["total"] == last * (last + 1) // 2


async def test_a_query_of_many_steps_does_not_hold_the_loop(db: Database) -> None:
    asking = asyncio.ensure_future(db.one(COUNT, {"last": 50 * MANY}))
    assert await turns(asking) > 100
    assert await asking is not None


async def test_a_query_that_is_wrong_fails_as_such(db: Database) -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        await db.all("select 1 from no_table")
    assert await count(db) == 0


async def test_a_query_of_a_slow_disk_does_not_hold_the_loop(db: Database) -> None:
    """It reads at each row, for a millisecond; its steps are few."""
    last = 300
    assert last * 20 < near.MAX_STEPS

    def read(row: int) -> int:
        time.sleep(0.001)
        return row

    db._near_reader._connection.create_function("read_slowly", 1, read)
    await db._reader.create_function("read_slowly", 1, read)
    asking = asyncio.ensure_future(
        db.one(COUNT.replace("sum(n)", "sum(read_slowly(n))"), {"last": last})
    )
    assert await turns(asking) > 100
    row = await asking
    assert row is not None
    assert row["total"] == last * (last + 1) // 2


async def test_what_asks_for_much_in_small_parts_lets_others_have_their_turn(
    db: Database,
) -> None:
    async def ask() -> None:
        for _ in range(10):
            assert await db.one(COUNT, {"last": near.MAX_STEPS // 40})

    assert await turns(asyncio.ensure_future(ask())) > 10


async def test_what_was_given_up_is_not_compiled_time_and_again(db: Database) -> None:
    compiled = 0

    def note_select(action: int, *_: object) -> int:
        nonlocal compiled
        compiled += action == sqlite3.SQLITE_RECURSIVE
        return sqlite3.SQLITE_OK

    db._near_reader._connection.set_authorizer(note_select)
    rows = COUNT.replace("sum(n) as total", "n")
    for last in (MANY, MANY, 10, 10, 10, 10):
        assert len(await db.all(rows, {"last": last})) == last
    assert compiled == 3


async def test_it_is_the_file_that_was_opened_that_is_read_to_the_end(db: Database) -> None:
    await db.write(lambda tx: note(tx, "a"))
    for suffix in ("", "-wal", "-shm"):
        moved = Path(f"{db.path}{suffix}")
        moved.rename(moved.with_name(f"moved.db{suffix}"))
    await db.one(COUNT, {"last": MANY})
    assert await count(db) == 1
    assert not db.path.exists()


async def test_what_is_written_is_there_for_all(db: Database) -> None:
    assert await db.write(lambda tx: tx.execute("delete from audit")) == 0
    await db.write(lambda tx: note(tx, "a"))
    assert await count(db) == 1
    async with db.transaction() as tx:
        assert len(await audit.of_subject(tx, "a")) == 1
    async with await Database.open(db.path) as other:
        assert await count(other) == 1


async def test_a_large_write_is_done_once_though_it_is_begun_twice(db: Database) -> None:
    begun = 0

    async def work(tx: Transaction) -> str:
        nonlocal begun
        begun += 1
        await note(tx, *(["a"] * MANY))
        return "done"

    assert await db.write(work) == "done"
    assert (begun, await count(db)) == (2, MANY)
    await db.write(lambda tx: note(tx, "b"))
    assert await count(db, "b") == 1


async def test_a_write_that_fails_leaves_nothing(db: Database) -> None:
    async def work(tx: Transaction) -> None:
        await note(tx, "a")
        raise LookupError

    async def wrong(tx: Transaction) -> None:
        await note(tx, "a")
        await tx.execute("insert into audit (id) values (1)")

    async def without_code(tx: Transaction) -> None:
        await note(tx, "a")
        await tx.one("select cast(x'ff' as text)")  # CPython itself refuses this one

    with pytest.raises(LookupError):
        await db.write(work)
    with pytest.raises(sqlite3.IntegrityError):
        await db.write(wrong)
    with pytest.raises(sqlite3.OperationalError, match="UTF-8"):
        await db.write(without_code)
    async with asyncio.timeout(5), db.transaction() as tx:  # nobody has the lock
        await note(tx, "b")
    assert await count(db) == 0
    await db.write(lambda tx: note(tx, "a"))
    assert await count(db) == 1


async def test_writes_come_one_after_the_other(db: Database) -> None:
    """Each reads and writes, so that two that ran at once would lose one."""

    async def add(tx: Transaction) -> None:
        row = await tx.one("select max(at) as at from audit")
        assert row is not None
        await audit.write(tx, "operator", "test", ["a"], None, (row["at"] or 0) + 1)

    async def add_by_thread() -> None:
        async with db.transaction() as tx:
            await add(tx)

    await asyncio.gather(*(work for _ in range(20) for work in (db.write(add), add_by_thread())))
    assert [row["at"] for row in await audit.of_subject(db, "a")] == [*range(1, 41)]


async def test_a_write_waits_for_another_process_and_keeps_nobody_else_waiting(
    db: Database,
) -> None:
    with contextlib.closing(sqlite3.connect(db.path, isolation_level=None)) as other:
        other.execute("begin immediate")
        writing = asyncio.ensure_future(db.write(lambda tx: note(tx, "a")))
        asyncio.get_running_loop().call_later(0.3, other.commit)
        assert await turns(writing) > 100
    assert await count(db) == 1


# What a process does that builds the index of the WAL anew, as after a crash: it holds the locks
# of the writer and of recovery, and the index is not valid. See sqlite.org/walformat.html.
RECOVER = """
import fcntl, mmap, sys, time
with open(sys.argv[1] + "-shm", "r+b") as file, mmap.mmap(file.fileno(), 32_768) as index:
    for lock in (120, 122):
        fcntl.lockf(file, fcntl.LOCK_EX, 1, lock)
    valid, index[8:12] = index[8:12], b"UUUU"
    print("begun", flush=True)
    time.sleep(0.3)
    index[8:12] = valid
"""


@pytest.mark.parametrize("writes", [False, True])
async def test_who_asks_waits_for_another_process_that_recovers_the_file(
    db: Database, writes: bool
) -> None:
    await db.write(lambda tx: note(tx, "a"))
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RECOVER, str(db.path), stdout=asyncio.subprocess.PIPE
    )
    assert other.stdout
    try:
        assert await other.stdout.readline() == b"begun\n"
        work = db.write(lambda tx: note(tx, "a")) if writes else count(db)
        working: asyncio.Future[int | None] = asyncio.ensure_future(work)
        assert await turns(working) > 100
        assert await working == (None if writes else 1)
    finally:
        assert await other.wait() == 0  # it ends by itself
    assert await count(db) == 1 + writes


async def test_a_write_does_not_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BUSY_TIMEOUT", 0.1)
    async with await Database.open(tmp_path / "test.db") as db:
        with contextlib.closing(sqlite3.connect(db.path, isolation_level=None)) as other:
            other.execute("begin immediate")
            with pytest.raises(DatabaseError, match="can't be written now"):
                await db.write(lambda tx: note(tx, "a"))
        await db.write(lambda tx: note(tx, "a"))


async def test_a_write_that_is_cancelled_is_whole_or_not_there(db: Database) -> None:
    """The cancellation comes at each turn of the loop, also while the disk is waited for."""
    written = set()
    for turns in range(30):
        writing = asyncio.ensure_future(db.write(lambda tx, t=turns: note(tx, f"{t}", f"{t}")))
        for _ in range(turns):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait([writing])
        found = await count(db, str(turns))
        assert found == 2 or (found == 0 and writing.cancelled())
        written.add(found)
        await db.write(lambda tx: note(tx, "next"))
    assert await count(db, "next") == 30
    assert written == {0, 2}


async def test_who_cancels_a_write_while_the_disk_is_slow_holds_up_nobody_but_writers(
    db: Database,
) -> None:
    is_slow = threading.Event()
    db._near_writer._disk.submit(is_slow.wait, 10)  # the commit comes behind it
    writing = asyncio.ensure_future(db.write(lambda tx: note(tx, "a")))
    next_one = asyncio.ensure_future(db.write(lambda tx: note(tx, "b")))
    for _ in range(50):
        await asyncio.sleep(0.001)
        writing.cancel()
        assert await count(db) == 0
    assert not writing.done()
    assert not next_one.done()
    is_slow.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await next_one
    assert (await count(db), await count(db, "b")) == (1, 1)
