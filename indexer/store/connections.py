"""What a database is asked through, and how a file is opened for it."""

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import aiosqlite

from indexer.store.migrations import version_of

BUSY_TIMEOUT = 10.0  # seconds; `rescind replay` and `login` write to the same file
CACHE_KIB = 16_384  # of each connection; a daemon has four, and some for a while
CHECKPOINT_PAGES = 16_000  # a commit that finds a WAL of about 64 MB folds it in itself
PRAGMAS = (
    "synchronous = full",  # an acknowledged revocation survives a power cut
    "foreign_keys = on",
    f"cache_size = -{CACHE_KIB}",
    f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
)

Params: TypeAlias = Mapping[str, Any]
Values: TypeAlias = Params | tuple[Any, ...]  # of a row: by name, or in the order of its columns
Row: TypeAlias = sqlite3.Row


class Connection(Protocol):
    """What readers and transactions ask."""

    async def fetch(self, sql: str, params: Params) -> list[Row]:
        """Return all rows of a query."""
        ...

    async def run(self, sql: str, params: Params) -> int:
        """Run one statement; return the number of rows that it changed."""
        ...

    async def run_many(self, sql: str, rows: Sequence[Values]) -> None:
        """Run one statement for each row."""
        ...


class Threaded:
    """A connection whose statements are run by a thread."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    async def fetch(self, sql: str, params: Params) -> list[Row]:
        return list(await self._connection.execute_fetchall(sql, params))

    async def run(self, sql: str, params: Params) -> int:
        async with self._connection.execute(sql, params) as cursor:
            return cursor.rowcount

    async def run_many(self, sql: str, rows: Sequence[Values]) -> None:
        await self._connection.executemany(sql, rows)


async def connect(path: Path) -> aiosqlite.Connection:
    """Open a file, with a thread for it; `DatabaseError` if it is not ours."""
    # Tried without a thread first: aiosqlite does not wait for the one of a connection that fails,
    # and it would speak to an event loop that may be closed by then.
    sqlite3.connect(path).close()
    connection = await aiosqlite.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT)
    try:
        connection.row_factory = sqlite3.Row
        await version_of(connection, path)  # before anything that would change a file not ours
        await _use_wal(connection)
        for pragma in PRAGMAS:
            await connection.execute(f"pragma {pragma}")
    except BaseException:
        await connection.close()
        raise
    return connection


async def _use_wal(connection: aiosqlite.Connection) -> None:
    # Unlike other statements the change of mode does not wait for a lock: two processes that
    # open a new file at once are in each other's way for a moment.
    deadline = asyncio.get_running_loop().time() + BUSY_TIMEOUT
    while True:
        try:
            await connection.execute("pragma journal_mode = wal")
        except sqlite3.OperationalError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.02)
        else:
            return
