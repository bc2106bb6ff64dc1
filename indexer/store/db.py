"""The SQLite file: opened, migrated, and the only way to write to it."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol, Self, TypeVar

import aiosqlite

from indexer.store.connections import Connection, Params, Row, Threaded, Values, connect
from indexer.store.migrations import DatabaseError, migrate
from indexer.store.near import Near

__all__ = ["Aside", "Database", "DatabaseError", "Params", "Reader", "Row", "Transaction"]

FOLD_EVERY = 1.0  # seconds between checkpoints of a daemon, beside what it reads and writes

# Steps of SQLite's machine, some 0.5 ms, after which others get their turn: many a caller asks
# for one page after the other.
MAX_RUN = 5_000

T = TypeVar("T")


class Reader(Protocol):
    """Whatever can be asked: a `Database`, or a `Transaction` that sees its own writes."""

    async def all(self, sql: str, params: Params = ...) -> list[Row]: ...

    async def one(self, sql: str, params: Params = ...) -> Row | None: ...


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


class Database:
    """One SQLite file in WAL mode: readers beside one writer, every commit on the disk."""

    def __init__(
        self,
        path: Path,
        *,
        writer: aiosqlite.Connection,
        reader: aiosqlite.Connection,
        near_writer: Near,
        near_reader: Near,
        opened: AsyncExitStack,
    ) -> None:
        self.path = path
        self._writer = writer
        self._reader = reader
        self._near_writer = near_writer
        self._near_reader = near_reader
        self._opened = opened
        self._turn = asyncio.Lock()

    @classmethod
    async def open(cls, path: Path, *, create: bool = True) -> Self:
        """Open the file and bring it to this version's schema.

        Raises `DatabaseError` if it can't be opened, is no database, or another program's, was
        made by a newer version, or does not exist although `create` is false.
        """
        if not create and not path.exists():
            raise DatabaseError(f"There is no database at {path}: start `rescind run` first.")
        try:
            async with AsyncExitStack() as opened:
                writer = await connect(path)
                opened.push_async_callback(writer.close)
                await migrate(writer, path)
                reader = await connect(path)
                opened.push_async_callback(reader.close)
                near_writer = Near(path)
                opened.callback(near_writer.close)
                near_reader = Near(path)
                opened.callback(near_reader.close)
                return cls(
                    path,
                    writer=writer,
                    reader=reader,
                    near_writer=near_writer,
                    near_reader=near_reader,
                    opened=opened.pop_all(),
                )
        except sqlite3.Error as error:
            raise DatabaseError(f"The database {path} can't be opened: {error}.") from error

    async def close(self) -> None:
        await self._opened.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def all(self, sql: str, params: Params = {}) -> list[Row]:  # noqa: B006
        """Return all rows of a query over what is committed."""
        near = self._near_reader
        near.start()
        try:
            rows = await near.fetch(sql, params)
        except sqlite3.Error as error:
            if not near.gives_up(error):
                raise
            return await Threaded(self._reader).fetch(sql, params)
        if near.steps > MAX_RUN:
            await asyncio.sleep(0)
        return rows

    async def one(self, sql: str, params: Params = {}) -> Row | None:  # noqa: B006
        """Return the first row of a query over what is committed."""
        return next(iter(await self.all(sql, params)), None)

    @asynccontextmanager
    async def aside(self) -> AsyncIterator[Aside]:
        """Read over a connection of its own, so that nobody waits for the end of a long query."""
        connection = await connect(self.path)
        try:
            yield Aside(Threaded(connection))
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

    async def write(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Do something small in a transaction; return once it is on the disk.

        `work` asks and writes, and does nothing else: if it proves not to be small, or another
        process is writing, it is undone, and done again by a thread, as in `transaction`.
        """
        near = self._near_writer
        async with self._turn:
            try:
                near.begin()
                result = await work(Transaction(near))
                await near.commit()
            except BaseException as error:
                if not near.gives_up(error):
                    raise
            else:
                return result
        async with self.transaction() as tx:
            return await work(tx)

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
                yield Transaction(Threaded(self._writer))
                await self._writer.commit()
            except BaseException:
                await self._writer.rollback()
                raise


def json_list(values: Iterable[str]) -> str:
    """Make a list into one parameter, each value once.

    To look each up, `json_each(:list) cross join` a table: that takes half as long as `where in`,
    which makes an index of the list first.
    """
    return json.dumps(list(dict.fromkeys(values)))
