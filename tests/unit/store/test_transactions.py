"""What is written is written whole or not at all, and by one at a time."""

import asyncio
import os
import sqlite3
import sys
from pathlib import Path

import pytest

from indexer.store import connections, cursors
from indexer.store.cursors import Cursor
from indexer.store.db import Database, DatabaseError
from tests.support.store_file import RELAY, db

__all__ = ["db"]  # fixtures


async def _cursor(db: Database, relay: str = RELAY) -> int | None:
    cursor = await cursors.load(db, relay)
    return cursor.seq if cursor else None


async def test_an_error_rolls_back_and_the_next_transaction_works(db: Database) -> None:
    async def write(seq: int) -> None:
        async with db.transaction() as tx:
            await cursors.save(tx, RELAY, Cursor(1, None))
            await cursors.save(tx, RELAY, Cursor(seq, None))
            raise ZeroDivisionError

    for seq, error in ((2, ZeroDivisionError), (-1, sqlite3.IntegrityError)):
        with pytest.raises(error):
            await write(seq)
    assert await _cursor(db) is None
    async with db.transaction() as tx:
        await cursors.save(tx, RELAY, Cursor(2, None))
        assert await _cursor(db) is None  # readers see what is committed
        assert await cursors.load(tx, RELAY) == Cursor(2, None)
    assert await _cursor(db) == 2


async def _write_twice(db: Database, seq: int) -> None:
    async with db.transaction() as tx:
        await cursors.save(tx, "one", Cursor(seq, None))
        await cursors.save(tx, "two", Cursor(seq, None))


@pytest.mark.parametrize("again", [False, True])
async def test_a_cancellation_at_any_await_writes_all_or_nothing(db: Database, again: bool) -> None:
    """With `again` the rollback is cancelled too."""
    await _write_twice(db, 0)
    outcomes = set()
    for steps in range(100):
        task = asyncio.create_task(_write_twice(db, steps + 1))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        if again:
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        outcomes.add(task.cancelled())
        async with db.transaction() as tx:  # at once: it has to wait for the rollback
            rows = await tx.all("select distinct seq from cursors")
        assert len(rows) == 1
    assert True in outcomes
    await _write_twice(db, 1_000)
    assert await _cursor(db, "one") == 1_000


async def test_transactions_of_one_process_take_turns(db: Database) -> None:
    async def increment() -> None:
        async with db.transaction() as tx:
            cursor = await cursors.load(tx, RELAY)
            await asyncio.sleep(0)
            await cursors.save(tx, RELAY, Cursor(cursor.seq + 1 if cursor else 1, None))

    await asyncio.gather(*(increment() for _ in range(20)))
    assert await _cursor(db) == 20


WRITER = """
import asyncio, sys
from pathlib import Path
from typing import Any
from indexer.store import cursors
from indexer.store.db import Database

async def main():
    async with await Database.open(Path(sys.argv[1])) as db:
        for _ in range(50):
            async with db.transaction() as tx:
                cursor = await cursors.load(tx, "relay.test")
                await cursors.save(tx, "relay.test", cursors.Cursor(cursor.seq + 1, None))

asyncio.run(main())
"""


async def test_two_processes_write_at_once_and_lose_nothing(db: Database) -> None:
    async with db.transaction() as tx:
        await cursors.save(tx, RELAY, Cursor(0, None))
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, str(db.path), env={**os.environ, "PYTHONPATH": _root()}
        )
        for _ in range(2)
    ]
    assert [await process.wait() for process in processes] == [0, 0]
    assert await _cursor(db) == 100


def _root() -> str:
    return str(Path(__file__).parents[3])


async def test_who_waits_too_long_for_another_process_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BUSY_TIMEOUT", 0.05)
    path = tmp_path / "test.db"
    async with await Database.open(path) as one, await Database.open(path) as two:
        async with one.transaction():
            with pytest.raises(DatabaseError, match="can't be written now: database is locked"):
                await _write_twice(two, 1)
            assert await _cursor(two) is None  # reading goes on
        await _write_twice(two, 2)
        assert await _cursor(one, "one") == 2
