"""The SQLite file: opened, migrated, and the only way to write to it."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Protocol, Self, TypeVar, cast

import aiosqlite

from indexer.store import files
from indexer.store.connections import (
    Aside,
    Params,
    Row,
    Threaded,
    Transaction,
    connect,
    connect_to_look,
)
from indexer.store.files import Files
from indexer.store.groups import TOO_MUCH, Groups
from indexer.store.migrations import DatabaseError, migrate
from indexer.store.near import Near
from indexer.store.wal import keep_folding

__all__ = ["Aside", "Database", "DatabaseError", "Located", "Params", "Reader", "Row"]
__all__ += ["Transaction"]

# Steps of SQLite's machine, some 0.5 ms, after which others get their turn: many a caller asks
# for one page after the other.
MAX_RUN = 5_000

T = TypeVar("T")

_OF_THE_DISK = frozenset(
    (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
)


class Reader(Protocol):
    """Whatever can be asked: a `Database`, or a `Transaction` that sees its own writes."""

    async def all(self, sql: str, params: Params = ...) -> list[Row]: ...

    async def one(self, sql: str, params: Params = ...) -> Row | None: ...


class Located(Reader, Protocol):
    """A reader of a file that has a name."""

    @property
    def path(self) -> Path: ...


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
        self._path = path
        self._writer = writer
        self._reader = reader
        self._near_writer = near_writer
        self._near_reader = near_reader
        self._opened = opened
        self._turn = asyncio.Lock()
        self._files = Files(path)
        self._groups = Groups(near_writer, self._turn, self._files.check)
        self.unfolded = 0  # pages in the WAL that a reader keeps from being folded in

    @property
    def path(self) -> Path:
        return self._path

    @classmethod
    async def open(cls, path: Path, *, create: bool = True) -> Self:
        """Open the file and bring it to this version's schema.

        Raises `DatabaseError` if it can't be opened, is no database, or another program's, was
        made by a newer version, or does not exist although `create` is false.
        """
        if not create and not path.exists():
            raise DatabaseError(f"There is no database at {path}: start `rescind run` first.")
        try:
            files.make(path)
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
        except OSError as error:
            raise DatabaseError(
                f"The database {path} can't be opened: {error.strerror}."
            ) from error
        except sqlite3.Error as error:
            raise DatabaseError(f"The database {path} can't be opened: {error}.") from error

    @classmethod
    @asynccontextmanager
    async def look(cls, path: Path) -> AsyncIterator["Look"]:
        """Open a file only to read it, where nothing can be written. Raises `DatabaseError`."""
        try:
            connection = await connect_to_look(path)
        except sqlite3.Error as error:
            raise DatabaseError(f"The database {path} can't be read: {error}.") from error
        try:
            yield Look(path, Threaded(connection))
        finally:
            await connection.close()

    async def close(self) -> None:
        await self._groups.end()
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
        """Fold the WAL into the file time and again, and say who keeps it from that."""
        async with self.aside() as connection:
            async for self.unfolded in keep_folding(connection):
                pass

    async def keep_watch(self) -> None:
        """Raise `ReplacedError` soon after one of the files was removed or replaced."""
        await self._files.watch()

    async def write(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Do something small in a transaction; return once it is on the disk.

        Those that come at once share a transaction, and the wait for the disk. `work` asks and
        writes, and does nothing else: if it proves not to be small, or another process is writing,
        or one that shares its transaction failed, it is undone, and done again.

        Raises `DatabaseError` if the disk does not take it, `ReplacedError` if the file is gone.
        """
        with self._told():
            result = await self._groups.write(work)
        if result is not TOO_MUCH:
            return cast("T", result)
        async with self.transaction() as tx:
            return await work(tx)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Write all or nothing. Never await the network inside: other writers wait for it.

        Raises `DatabaseError` if the disk does not take it, `ReplacedError` if the file is gone.
        """
        async with self._turn:
            # The connection's thread works in order. So a cancellation here leaves a statement
            # running at worst, and the rollback comes behind it, even if nobody waits for that.
            try:
                try:
                    await self._writer.execute("begin immediate")
                except sqlite3.OperationalError as error:
                    raise DatabaseError(f"{self.path} can't be written now: {error}.") from error
                with self._told():
                    yield Transaction(Threaded(self._writer))
                    await self._writer.commit()
            except BaseException:
                await self._writer.rollback()
                raise
        self._files.check()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Name the file whose disk is full, broken or not to be written."""
        try:
            yield
        except sqlite3.OperationalError as error:
            # Not all have a code: those that CPython itself raises have none.
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF in _OF_THE_DISK:
                raise DatabaseError(f"{self.path} can't be written: {error}.") from error
            raise


class Look(Aside):
    """A file that is only read."""

    def __init__(self, path: Path, connection: Threaded) -> None:
        super().__init__(connection)
        self.path = path


def json_list(values: Iterable[str]) -> str:
    """Make a list into one parameter, each value once.

    To look each up, `json_each(:list) cross join` a table: that takes half as long as `where in`,
    which makes an index of the list first.
    """
    return json.dumps(list(dict.fromkeys(values)))
