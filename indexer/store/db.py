"""The SQLite file: opened, migrated, and the only way to write to it."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, Self

import aiosqlite

from indexer.store.migrations import MIGRATIONS, SCHEMA_VERSION, schema

BUSY_TIMEOUT = 10.0  # seconds; `rescind replay` and `login` write to the same file
CACHE_KIB = 32_768
FOLD_EVERY = 1.0  # seconds between checkpoints of a daemon, beside what it reads and writes
CHECKPOINT_PAGES = 16_000  # a commit that finds a WAL of about 64 MB folds it in itself

Params = Mapping[str, Any]
Row = sqlite3.Row


class DatabaseError(Exception):
    """The file can't be used, in a sentence for the operator."""


class Reader(Protocol):
    """Whatever can be asked: a `Database`, or a `Transaction` that sees its own writes."""

    async def all(self, sql: str, params: Params = ...) -> list[Row]: ...

    async def one(self, sql: str, params: Params = ...) -> Row | None: ...


class Aside:
    """A reader with a connection of its own."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    async def all(self, sql: str, params: Params = {}) -> list[Row]:  # noqa: B006
        return list(await self._connection.execute_fetchall(sql, params))

    async def one(self, sql: str, params: Params = {}) -> Row | None:  # noqa: B006
        return next(iter(await self.all(sql, params)), None)


class Transaction(Aside):
    """An open write transaction. To hold one is the proof that a write is inside it."""

    async def execute(self, sql: str, params: Params = {}) -> int:  # noqa: B006
        """Run one statement; return the number of rows that it changed."""
        async with self._connection.execute(sql, params) as cursor:
            return cursor.rowcount

    async def execute_many(self, sql: str, rows: Sequence[Params]) -> None:
        """Run one statement for each row: three times as fast as one by one."""
        if rows:
            await self._connection.executemany(sql, rows)


class Database:
    """One SQLite file in WAL mode: readers beside one writer, every commit on the disk."""

    def __init__(self, path: Path, writer: aiosqlite.Connection, reader: aiosqlite.Connection):
        self.path = path
        self._writer = writer
        self._reader = reader
        self._turn = asyncio.Lock()

    @classmethod
    async def open(cls, path: Path, *, create: bool = True) -> Self:
        """Open the file and bring it to this version's schema.

        Raises `DatabaseError` if it can't be opened, is no database, or another program's, was
        made by a newer version, or does not exist although `create` is false.
        """
        if not create and not path.exists():
            raise DatabaseError(f"There is no database at {path}: start `rescind run` first.")
        connections: list[aiosqlite.Connection] = []
        try:
            for _ in range(2):
                connections.append(await _connect(path))
                if len(connections) == 1:
                    await _migrate(connections[0], path)
        except BaseException as error:
            for connection in connections:
                await connection.close()
            if isinstance(error, sqlite3.Error):
                raise DatabaseError(f"The database {path} can't be opened: {error}.") from error
            raise
        return cls(path, *connections)

    async def close(self) -> None:
        await self._reader.close()
        await self._writer.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def all(self, sql: str, params: Params = {}) -> list[Row]:  # noqa: B006
        """Return all rows of a query over what is committed."""
        return list(await self._reader.execute_fetchall(sql, params))

    async def one(self, sql: str, params: Params = {}) -> Row | None:  # noqa: B006
        """Return the first row of a query over what is committed."""
        return next(iter(await self.all(sql, params)), None)

    @asynccontextmanager
    async def aside(self) -> AsyncIterator[Aside]:
        """Read over a connection of its own, so that nobody waits for the end of a long query."""
        connection = await _connect(self.path)
        try:
            yield Aside(connection)
        finally:
            await connection.close()

    async def keep_folding(self) -> None:
        """Fold the WAL into the file time and again, so that hardly any commit has to do it.

        A commit would wait for pages all over a large file to be on the disk.
        """
        async with self.aside() as connection:
            while True:
                await asyncio.sleep(FOLD_EVERY)
                await connection.all("pragma wal_checkpoint(passive)")  # waits for nobody

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Write all or nothing. Never await the network inside: other writers wait for it."""
        async with self._turn:
            # The connection's thread works in order. So a cancellation here leaves a statement
            # running at worst, and the rollback comes behind it, even if nobody waits for that.
            try:
                try:
                    await self._writer.execute("begin immediate")
                except sqlite3.OperationalError as error:
                    raise DatabaseError(f"{self.path} can't be written now: {error}.") from error
                yield Transaction(self._writer)
                await self._writer.commit()
            except BaseException:
                await self._writer.rollback()
                raise


def json_list(values: Iterable[str]) -> str:
    """Make a list into one parameter, for `in (select value from json_each(:list))`."""
    return json.dumps(list(values))


async def _connect(path: Path) -> aiosqlite.Connection:
    # Tried without a thread first: aiosqlite does not wait for the one of a connection that fails,
    # and it would speak to an event loop that may be closed by then.
    sqlite3.connect(path).close()
    connection = await aiosqlite.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT)
    try:
        connection.row_factory = sqlite3.Row
        await _version(connection, path)  # before anything that would change a file not ours
        await _use_wal(connection)
        for pragma in (
            "synchronous = full",  # an acknowledged revocation survives a power cut
            "foreign_keys = on",
            f"cache_size = -{CACHE_KIB}",
            f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
        ):
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


async def _migrate(connection: aiosqlite.Connection, path: Path) -> None:
    if await _version(connection, path) == SCHEMA_VERSION:
        return
    try:
        await connection.execute("begin immediate")
        # Asked again under the lock: another process may have been first.
        version = await _version(connection, path)
        if version == 0:
            await _run_script(connection, schema())
        else:
            for number in range(version, SCHEMA_VERSION):
                await _run_script(connection, MIGRATIONS[number])
        await connection.execute(f"pragma user_version = {SCHEMA_VERSION}")
        await connection.commit()
    except BaseException:
        await connection.rollback()
        raise


async def _version(connection: aiosqlite.Connection, path: Path) -> int:
    """Return the version of the file's schema, 0 if it is empty; refuse what is not for us."""
    (row,) = await connection.execute_fetchall("pragma user_version")
    version = int(row[0])
    tables = await connection.execute_fetchall("select name from sqlite_schema")
    names = {name for (name,) in tables}
    if names and "tombstones" not in names:
        raise DatabaseError(f"{path} is a database, but not one of Rescind.")
    if version > SCHEMA_VERSION:
        raise DatabaseError(
            f"The database {path} was made by a newer version of Rescind "
            f"(its schema is {version}, this one knows up to {SCHEMA_VERSION}): "
            "upgrade Rescind, or name another file with --db."
        )
    return version


async def _run_script(connection: aiosqlite.Connection, script: str) -> None:
    # Not `executescript`: that would commit the transaction around it.
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            await connection.execute(statement)
            statement = ""
    if statement.strip():
        await connection.execute(statement)  # the last one may lack its semicolon
