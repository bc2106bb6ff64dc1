"""What a database is asked through, and how a file is opened for it."""

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import aiosqlite

from indexer.store.files import beside
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


class Aside:
    """A reader with a connection of its own."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def all(self, sql: str, params: Params = {}) -> list[Row]:  # noqa: B006
        return await self._connection.fetch(sql, params)

    async def one(self, sql: str, params: Params = {}) -> Row | None:  # noqa: B006
        return next(iter(await self.all(sql, params)), None)


class Transaction(Aside):
    """An open write transaction. To hold one is the proof that a write is inside it."""

    async def execute(self, sql: str, params: Params = {}) -> int:  # noqa: B006
        """Run one statement; return the number of rows that it changed."""
        return await self._connection.run(sql, params)

    async def execute_many(self, sql: str, rows: Sequence[Values]) -> None:
        """Run one statement for each row: three times as fast as one by one.

        A row of nine values takes 1.2 us in the order of its columns, and 2.2 us by name.
        """
        if rows:
            await self._connection.run_many(sql, rows)


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


async def connect_to_look(path: Path) -> aiosqlite.Connection:
    """Open a file only to read it, where nothing can be written beside it either."""
    for extra in ("mode=ro", "immutable=1"):
        uri = f"{path.resolve().as_uri()}?{extra}"
        connection = await aiosqlite.connect(uri, uri=True, isolation_level=None)
        connection.row_factory = sqlite3.Row
        try:
            await version_of(connection, path)
        except sqlite3.OperationalError:
            await connection.close()
            wal, _ = beside(path)
            # A file that nobody has open, and whose WAL is folded in, is all there is: SQLite need
            # not make an index of the WAL beside it.
            if extra == "immutable=1" or (wal.exists() and wal.stat().st_size):
                raise
        except BaseException:
            await connection.close()
            raise
        else:
            return connection
    raise AssertionError("unreachable")
