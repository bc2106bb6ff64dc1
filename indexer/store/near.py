"""A connection that works on the event loop's own thread, for what is small.

A statement that finds a row or two takes 10 to 20 us. To have it done by a thread takes 100 more,
and while the loop is busy, a thread waits for the interpreter's lock, for 5 ms at worst, after each
row. So what is small is done at once. What proves to be larger is given up, and done by a thread.
"""

import asyncio
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from time import perf_counter

from indexer.store.connections import BUSY_TIMEOUT, PRAGMAS, Params, Row, Values

# What a query, or a transaction, may take before it is given up.
MAX_STEPS = 40_000  # of SQLite's machine: 2 to 5 ms
MAX_SECONDS = 0.005  # for a disk that is slow to read
LOOK_EVERY = 100  # steps, to see whether it was too much

_NOT_HERE = frozenset((sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_BUSY))


class Near:
    """One connection; it waits for no lock, and keeps the loop for the disk only to read."""

    def __init__(self, path: Path) -> None:
        """Open a file that has our schema. Raises `sqlite3.Error`."""
        self._texts: dict[str, str] = {}  # what is asked instead of a text that failed
        self._number = count()
        self._connection = _open(path)
        self.start()
        self._connection.set_progress_handler(self._is_beyond, LOOK_EVERY)
        # Of its own: the loop's may be full of look-ups of slow names.
        self._disk = ThreadPoolExecutor(1, "commit")

    async def fetch(self, sql: str, params: Params) -> list[Row]:
        try:
            return self._connection.execute(self._texts.get(sql, sql), params).fetchall()
        except sqlite3.OperationalError:
            # CPython 3.11 takes what failed between two rows for in use, for good, and compiles
            # that text at each call from then on: 50 us. Another text it compiles once.
            self._texts[sql] = f"{sql} -- {next(self._number)}"
            raise

    async def run(self, sql: str, params: Params) -> int:
        return self._connection.execute(sql, params).rowcount

    async def run_many(self, sql: str, rows: Sequence[Values]) -> None:
        self._connection.executemany(sql, rows)

    def start(self) -> None:
        """Count the steps and the time from here on."""
        self.steps = 0
        self._until = perf_counter() + MAX_SECONDS

    def begin(self) -> None:
        """Begin to write."""
        self.start()
        self._connection.execute("begin immediate")

    def mark(self) -> None:
        """Begin a part of what is written that can be undone by itself."""
        self._connection.execute("savepoint part")

    def undo(self) -> bool:
        """Undo what was written since the mark; False if SQLite has undone all of it already."""
        if not self._connection.in_transaction:
            return False
        self._connection.execute("rollback to part")
        return True

    def rollback(self) -> None:
        self._connection.rollback()

    async def commit(self) -> None:
        """Wait, but not on the loop, until what was written is on the disk."""
        done = asyncio.wrap_future(self._disk.submit(self._connection.commit))
        try:
            await asyncio.shield(done)
        finally:
            while not done.done():  # it was cancelled: until then nobody may use the connection
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([done])

    def gives_up(self, error: BaseException) -> bool:
        """Undo what was written, if anything, and tell whether a thread is to do it instead."""
        self._connection.rollback()
        return self.is_too_much(error)

    @staticmethod
    def is_too_much(error: BaseException) -> bool:
        """Whether a thread may succeed where this failed."""
        # Not all have a code: those that CPython itself raises have none.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
        return code & 0xFF in _NOT_HERE  # whatever the reason that an extended code adds

    def close(self) -> None:
        self._disk.shutdown()
        self._connection.close()

    def _is_beyond(self) -> bool:
        self.steps += LOOK_EVERY
        return self.steps > MAX_STEPS or perf_counter() > self._until


def _open(path: Path) -> sqlite3.Connection:
    # The thread that commits uses it too, though never at the same time.
    connection = sqlite3.connect(
        path, isolation_level=None, timeout=BUSY_TIMEOUT, check_same_thread=False
    )
    try:
        connection.row_factory = sqlite3.Row
        for pragma in (*PRAGMAS, "busy_timeout = 0"):
            connection.execute(f"pragma {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection
