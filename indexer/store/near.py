"""A connection that works on the event loop's own thread, for what is small.

A statement that finds a row or two takes 10 to 20 us. To have it done by a thread takes 100 more,
and while the loop is busy, a thread waits for the interpreter's lock, for 5 ms at worst, after each
row. So what is small is done at once. What proves to be larger is given up, and done by a thread.
"""

import asyncio
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from indexer.store.connections import PRAGMAS, Params, Row

# A query, or a transaction, may take so many steps of SQLite's machine, which are some 2 ms.
MAX_STEPS = 40_000
LOOK_EVERY = 1_000  # steps, to see whether there were too many

_NOT_HERE = frozenset((sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_BUSY))


class Near:
    """One connection; it waits for no lock, and keeps the loop for the disk only to read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._steps = 0
        self._connection = self._open()
        # Of its own: the loop's may be full of look-ups of slow names.
        self._disk = ThreadPoolExecutor(1, "commit")

    async def fetch(self, sql: str, params: Params) -> list[Row]:
        return self._connection.execute(sql, params).fetchall()

    async def run(self, sql: str, params: Params) -> int:
        return self._connection.execute(sql, params).rowcount

    async def run_many(self, sql: str, rows: Sequence[Params]) -> None:
        self._connection.executemany(sql, rows)

    def start(self) -> None:
        """Count the steps from here on."""
        self._steps = 0

    def begin(self) -> None:
        """Begin to write."""
        self.start()
        self._connection.execute("begin immediate")

    async def commit(self) -> None:
        """Wait, but not on the loop, until what was written is on the disk."""
        done = self._disk.submit(self._connection.commit)
        try:
            await asyncio.wrap_future(done)
        finally:
            wait([done])  # also when cancelled: until then nobody may use the connection

    def gives_up(self, error: BaseException) -> bool:
        """Undo what was written, if anything, and tell whether a thread is to do it instead."""
        is_for_thread = (
            isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode in _NOT_HERE
        )
        self._connection.rollback()
        if is_for_thread:
            # A new one, as CPython 3.11 never again takes from its cache a statement that failed.
            self._connection.close()
            self._connection = self._open()
        return is_for_thread

    def close(self) -> None:
        self._disk.shutdown()
        self._connection.close()

    def _open(self) -> sqlite3.Connection:
        # The thread that commits uses it too, though never at the same time.
        connection = sqlite3.connect(
            self._path, isolation_level=None, timeout=0, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        for pragma in PRAGMAS:
            connection.execute(f"pragma {pragma}")
        connection.set_progress_handler(self._is_too_much, LOOK_EVERY)
        return connection

    def _is_too_much(self) -> bool:
        self._steps += LOOK_EVERY
        return self._steps > MAX_STEPS
